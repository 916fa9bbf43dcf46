//! Against metadata servers on loopback and real time, but for waits that are worth skipping.

use std::{collections::HashMap, net::SocketAddr};

use tonic::Code;
use tonic_types::{ErrorDetails, StatusExt as _};
use xdpfs_proto::meta::v1 as proto;

use super::*;
use crate::{
    Client, ObjectClient as _, Precondition,
    fake::{Answer, BUCKET, FakeCluster, FakeMeta, refuse},
};

/// Metadata servers of one cluster on loopback.
struct Servers {
    addresses: Vec<SocketAddr>,
    metas: Vec<FakeMeta>,
}

impl Servers {
    async fn start(count: usize) -> Self {
        let cluster = FakeCluster::start(3);
        cluster.with(|state| state.overwrite("key", b"bytes"));
        let mut servers = Self { addresses: vec![], metas: vec![] };
        for _ in 0..count {
            let (address, meta) = cluster.serve_tcp().await;
            servers.addresses.push(address);
            servers.metas.push(meta);
        }
        servers
    }

    /// Requests that each server got.
    fn counts(&self) -> Vec<usize> {
        self.metas.iter().map(|meta| meta.requests().len()).collect()
    }

    fn control(&self) -> Control {
        control(&self.addresses, |_| {})
    }
}

fn control(addresses: &[SocketAddr], tune: impl FnOnce(&mut ClientConfig)) -> Control {
    let list: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    let mut config = ClientConfig::new(list.join(",").parse().unwrap());
    config.deadline = Duration::from_secs(20);
    tune(&mut config);
    let dialer = Dialer::network(config.tls.clone());
    Control::new(&config, dialer)
}

/// A port that refuses connections.
fn dead_address() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

fn not_leader(leader: Option<SocketAddr>) -> Answer {
    let metadata: HashMap<_, _> =
        leader.map(|leader| ("leaderEndpoint".to_owned(), leader.to_string())).into_iter().collect();
    let details = ErrorDetails::with_error_info("NOT_LEADER", "xdpfs", metadata);
    Answer::Fail(Status::with_error_details(Code::Unavailable, "not the leader", details))
}

async fn head(control: &Control) -> Result<proto::HeadObjectResponse, Refusal> {
    let name = format!("buckets/{BUCKET}/objects/key");
    let request = proto::HeadObjectRequest { name, ..proto::HeadObjectRequest::default() };
    let send = |mut meta: Meta, request| async move { meta.head_object(request).await };
    control.call(Operation::HeadObject, request, send).await
}

async fn create(control: &Control) -> Result<proto::CreateBucketResponse, Refusal> {
    let request = proto::CreateBucketRequest {
        request_id: crate::client::request_id(),
        name: "buckets/new".into(),
        ..Default::default()
    };
    let send = |mut meta: Meta, request| async move { meta.create_bucket(request).await };
    control.call(Operation::CreateBucket, request, send).await
}

fn error(refusal: Refusal) -> Error {
    refusal.about(Operation::HeadObject, BUCKET, "key")
}

#[tokio::test]
async fn a_redirect_is_followed_and_remembered() {
    let servers = Servers::start(3).await;
    servers.metas[0].answer([not_leader(Some(servers.addresses[2]))]);
    let control = servers.control();
    head(&control).await.unwrap();
    head(&control).await.unwrap();
    assert_eq!(servers.counts(), [1, 0, 2]);
}

#[tokio::test]
async fn a_leader_outside_the_list_is_found() {
    let servers = Servers::start(2).await;
    servers.metas[0].answer([not_leader(Some(servers.addresses[1]))]);
    let control = control(&servers.addresses[..1], |_| {});
    head(&control).await.unwrap();
    assert_eq!(servers.counts(), [1, 1]);
}

#[tokio::test]
async fn without_a_hint_the_servers_are_asked_in_turn() {
    let servers = Servers::start(3).await;
    servers.metas[0].answer([not_leader(None)]);
    servers.metas[1].answer([Answer::Fail(refuse(Code::Unavailable, "NO_LEADER"))]);
    head(&servers.control()).await.unwrap();
    assert_eq!(servers.counts(), [1, 1, 1]);
}

#[tokio::test]
async fn every_attempt_is_the_same_request() {
    let servers = Servers::start(2).await;
    let unknown = || Answer::Lose(refuse(Code::Unavailable, "OUTCOME_UNKNOWN"));
    servers.metas[0].answer([unknown(), unknown()]);
    servers.metas[1].answer([unknown(), Answer::Fail(Status::unavailable("going down"))]);
    create(&servers.control()).await.unwrap();
    let mut requests: Vec<_> =
        servers.metas.iter().flat_map(FakeMeta::requests).map(|(_, request)| request).collect();
    assert_eq!(requests.len(), 5);
    assert!(requests[0].contains("request_id"), "{requests:?}");
    requests.dedup();
    assert_eq!(requests.len(), 1, "{requests:?}");
}

#[tokio::test]
async fn doubt_is_reported_only_where_others_may_see_the_effect() {
    let servers = Servers::start(1).await;
    servers.metas[0].answer_always(Some(Answer::Fail(refuse(Code::Unavailable, "OUTCOME_UNKNOWN"))));
    let control = control(&servers.addresses, |config| config.deadline = Duration::from_millis(600));
    let doubt = error(create(&control).await.unwrap_err());
    assert!(matches!(doubt, Error::OutcomeUnknown { operation: "CreateBucket", .. }), "{doubt:?}");
    let failure = error(head(&control).await.unwrap_err());
    assert!(
        matches!(failure, Error::Unavailable { operation: "HeadObject", attempts: 2.., .. }),
        "{failure:?}"
    );
}

#[tokio::test]
async fn doubt_stays_when_the_last_answer_has_none() {
    let servers = Servers::start(1).await;
    servers.metas[0].answer([Answer::Lose(Status::unavailable("the connection broke"))]);
    servers.metas[0].answer_always(Some(Answer::Fail(refuse(Code::ResourceExhausted, "OVERLOADED"))));
    let control = control(&servers.addresses, |config| config.deadline = Duration::from_millis(600));
    let doubt = error(create(&control).await.unwrap_err());
    assert!(matches!(doubt, Error::OutcomeUnknown { .. }), "{doubt:?}");
}

#[tokio::test]
async fn a_commit_whose_answer_was_forgotten_leaves_a_doubt() {
    let servers = Servers::start(1).await;
    let control = servers.control();
    let commit = async || {
        let request =
            proto::CommitPutRequest { request_id: crate::client::request_id(), ..Default::default() };
        let send = |mut meta: Meta, request| async move { meta.commit_put(request).await };
        error(control.call(Operation::CommitPut, request, send).await.unwrap_err())
    };
    let ended = || Answer::Fail(refuse(Code::NotFound, "UPLOAD_NOT_FOUND"));
    servers.metas[0].answer([Answer::Fail(refuse(Code::Unavailable, "OUTCOME_UNKNOWN")), ended()]);
    let doubt = commit().await;
    assert!(matches!(doubt, Error::OutcomeUnknown { operation: "CommitPut", .. }), "{doubt:?}");
    servers.metas[0].answer([ended()]);
    let failure = commit().await;
    assert!(matches!(failure, Error::UploadExpired), "the first answer is the truth: {failure:?}");
}

#[tokio::test(start_paused = true)]
async fn a_change_in_doubt_is_not_repeated_for_longer_than_its_answer_is_kept() {
    let cluster = FakeCluster::start(3);
    cluster.meta.answer([Answer::Fail(refuse(Code::Unavailable, "OUTCOME_UNKNOWN"))]);
    cluster.meta.answer_always(Some(Answer::Fail(refuse(Code::ResourceExhausted, "OVERLOADED"))));
    let client = cluster.client_with(|config| config.deadline = Duration::from_secs(3600));
    let started = Instant::now();
    let doubt = client.delete(BUCKET, "key", None).await.unwrap_err();
    assert!(matches!(doubt, Error::OutcomeUnknown { .. }), "{doubt:?}");
    assert!((40..43).contains(&started.elapsed().as_secs()), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_request_that_was_only_ever_refused_leaves_no_doubt() {
    let servers = Servers::start(1).await;
    servers.metas[0].answer_always(Some(Answer::Fail(refuse(Code::ResourceExhausted, "OVERLOADED"))));
    let overloaded = control(&servers.addresses, |config| config.deadline = Duration::from_millis(600));
    let failure = error(create(&overloaded).await.unwrap_err());
    assert!(matches!(failure, Error::Unavailable { .. }), "{failure:?}");

    let dead = control(&[dead_address()], |config| config.first_contact = Duration::from_millis(200));
    let failure = error(create(&dead).await.unwrap_err());
    assert!(matches!(failure, Error::Unavailable { .. }), "{failure:?}");
}

#[tokio::test]
async fn a_dead_endpoint_is_passed() {
    let servers = Servers::start(1).await;
    let control = control(&[dead_address(), servers.addresses[0]], |_| {});
    head(&control).await.unwrap();
    assert_eq!(servers.counts(), [1]);
}

#[tokio::test]
async fn a_wrong_endpoint_is_noticed_long_before_the_deadline() {
    let control = control(&[dead_address()], |config| config.first_contact = Duration::from_millis(600));
    let started = Instant::now();
    let failure = error(head(&control).await.unwrap_err());
    let Error::Unavailable { why, attempts: 2.., .. } = &failure else { panic!("{failure:?}") };
    assert!(why.to_lowercase().contains("refused"), "{why}");
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_cluster_that_has_answered_before_is_waited_for() {
    let servers = Servers::start(1).await;
    let short = |config: &mut ClientConfig| {
        config.first_contact = Duration::from_millis(10);
        config.deadline = Duration::from_millis(300);
    };
    let control = control(&servers.addresses, short);
    head(&control).await.unwrap();
    servers.metas[0].answer_always(Some(Answer::Fail(Status::unavailable("the connection broke"))));
    let started = Instant::now();
    error(head(&control).await.unwrap_err());
    assert!(started.elapsed() >= Duration::from_millis(300), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_server_that_hangs_costs_one_attempt() {
    let servers = Servers::start(2).await;
    servers.metas[0].answer_always(Some(Answer::Hang));
    let control = control(&servers.addresses, |config| config.attempt_timeout = Duration::from_millis(500));
    head(&control).await.unwrap();
    assert_eq!(servers.counts(), [1, 1]);
}

#[tokio::test]
async fn hints_that_lead_in_a_circle_end_at_the_deadline() {
    let servers = Servers::start(2).await;
    servers.metas[0].answer_always(Some(not_leader(Some(servers.addresses[1]))));
    servers.metas[1].answer_always(Some(not_leader(Some(servers.addresses[0]))));
    let control = control(&servers.addresses, |config| config.deadline = Duration::from_millis(300));
    let failure = error(head(&control).await.unwrap_err());
    assert!(matches!(failure, Error::Unavailable { .. }), "{failure:?}");
    let asked: usize = servers.counts().iter().sum();
    assert!(asked < 60, "{asked} requests in 300 ms");
}

#[tokio::test]
async fn a_hint_to_a_server_that_just_failed_is_not_followed_at_once() {
    let servers = Servers::start(2).await;
    let dead = dead_address();
    // The second server still takes the dead one for the leader, and then leads itself.
    servers.metas[0].answer([not_leader(Some(dead))]);
    let control = control(&[dead, servers.addresses[0], servers.addresses[1]], |_| {});
    head(&control).await.unwrap();
    assert_eq!(servers.counts(), [1, 1]);
}

/// A server that speaks TLS, as far as one that does not can tell.
fn tls_server() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            use std::io::{Read as _, Write as _};
            let mut stream = stream.unwrap();
            // It may have gone away.
            let _heard = stream.read(&mut [0; 24]);
            let _told = stream.write_all(&[0x15, 3, 3, 0, 2, 2, 10]);
        }
    });
    address
}

#[tokio::test]
async fn servers_that_speak_tls_to_a_client_without_are_named_at_once() {
    let servers = [tls_server(), tls_server()];
    let control = control(&servers, |_| {});
    let started = Instant::now();
    let failure = error(create(&control).await.unwrap_err());
    let Error::Mismatch { mismatch: Mismatch::SpeaksTls, endpoint } = &failure else { panic!("{failure:?}") };
    assert!(servers.iter().any(|server| server.to_string() == *endpoint), "{endpoint}");
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_server_that_speaks_tls_is_passed_if_another_does_not() {
    let servers = Servers::start(1).await;
    let control = control(&[tls_server(), servers.addresses[0]], |_| {});
    create(&control).await.unwrap();
    assert_eq!(servers.counts(), [1]);
    // A hint leads to one, too.
    servers.metas[0].answer([not_leader(Some(tls_server()))]);
    create(&control).await.unwrap();
}

#[tokio::test]
async fn a_mismatch_is_told_before_servers_that_are_down() {
    let addresses = [tls_server(), dead_address()];
    let control = control(&addresses, |config| config.first_contact = Duration::from_millis(300));
    let failure = error(create(&control).await.unwrap_err());
    assert!(matches!(failure, Error::Mismatch { .. }), "{failure:?}");
}

#[tokio::test]
async fn a_client_with_a_ca_does_not_speak_plaintext() {
    let servers = Servers::start(1).await;
    let directory = tempfile::tempdir().unwrap();
    let ca = directory.path().join("ca.pem");
    std::fs::write(&ca, xdpfs_trust::Authority::make("red").unwrap().certificates_pem()).unwrap();
    let tls = TlsTrust::from_ca_file(&ca).unwrap();
    let secured = control(&servers.addresses, |config| config.tls = Some(tls.clone()));
    let failure = error(create(&secured).await.unwrap_err());
    // The fake server does not say so as ours do.
    assert!(matches!(failure, Error::Mismatch { .. }), "{failure:?}");
    assert_eq!(servers.counts(), [0]);
    let mut config = ClientConfig::new(format!("http://{}", servers.addresses[0]).parse().unwrap());
    config.tls = Some(tls);
    let failure = Client::connect(config).unwrap_err();
    assert!(matches!(failure, Error::InvalidArgument { .. }), "{failure:?}");
}

#[tokio::test]
async fn a_server_that_does_not_know_the_call_is_passed_and_all_of_them_are_believed() {
    let servers = Servers::start(3).await;
    let unknown = || Answer::Fail(Status::unimplemented(""));
    servers.metas[0].answer([unknown()]);
    let control = servers.control();
    head(&control).await.unwrap();
    assert_eq!(servers.counts(), [1, 1, 0]);
    servers.metas.iter().for_each(|meta| meta.answer([unknown()]));
    let refusal = head(&control).await.unwrap_err();
    assert!(refusal.is(&Reason::Unsupported), "{refusal:?}");
    assert_eq!(servers.counts(), [2, 2, 1], "each is asked once");
}

#[tokio::test]
async fn an_answer_is_not_asked_for_again() {
    let servers = Servers::start(2).await;
    servers.metas[0].answer([Answer::Fail(refuse(Code::NotFound, "OBJECT_NOT_FOUND"))]);
    let refusal = head(&servers.control()).await.unwrap_err();
    assert!(matches!(error(refusal), Error::ObjectNotFound { .. }));
    assert_eq!(servers.counts(), [1, 0]);
}

#[tokio::test(start_paused = true)]
async fn an_overloaded_server_is_given_the_time_that_it_asks_for() {
    let cluster = FakeCluster::start(3);
    cluster.with(|state| state.overwrite("key", b"bytes"));
    let mut details = ErrorDetails::with_error_info("OVERLOADED", "xdpfs", HashMap::new());
    details.set_retry_info(Some(Duration::from_millis(1500)));
    let status = Status::with_error_details(Code::ResourceExhausted, "later", details);
    cluster.meta.answer(vec![Answer::Fail(status); 3]);
    let client: Client = cluster.client();
    let started = Instant::now();
    client.stat(BUCKET, "key", None).await.unwrap();
    assert!((4500..8000).contains(&started.elapsed().as_millis()), "{:?}", started.elapsed());
    assert_eq!(cluster.meta.count(Operation::HeadObject), 4);
}

#[tokio::test(start_paused = true)]
async fn an_overloaded_cluster_is_asked_ever_more_rarely_until_the_deadline() {
    let cluster = FakeCluster::start(3);
    cluster.meta.answer_always(Some(Answer::Fail(refuse(Code::ResourceExhausted, "OVERLOADED"))));
    let started = Instant::now();
    let failure = cluster.client().stat(BUCKET, "key", None).await.unwrap_err();
    assert!(matches!(failure, Error::Unavailable { .. }), "{failure:?}");
    assert!((30..33).contains(&started.elapsed().as_secs()), "{:?}", started.elapsed());
    let asked = cluster.meta.count(Operation::HeadObject);
    assert!((30..80).contains(&asked), "{asked}");
}

#[tokio::test(start_paused = true)]
async fn too_few_data_nodes_are_waited_for_and_then_named() {
    let cluster = FakeCluster::start(3);
    let refused = refuse(Code::Unavailable, "NOT_ENOUGH_NODES");
    cluster.meta.answer_always(Some(Answer::Fail(refused)));
    let started = Instant::now();
    let failure =
        cluster.client().put_bytes(BUCKET, "key", "x".into(), Default::default()).await.unwrap_err();
    assert!(matches!(failure, Error::NotEnoughNodes { .. }), "{failure:?}");
    assert!(started.elapsed() >= Duration::from_secs(30), "nodes may come back: {:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn preconditions_reach_the_server() {
    let cluster = FakeCluster::start(3);
    cluster.with(|state| state.overwrite("key", b"bytes"));
    let client = cluster.client();
    let object = client.stat(BUCKET, "key", None).await.unwrap();
    let same = Some(Precondition::IfMatch(object.etag.clone()));
    assert_eq!(client.stat(BUCKET, "key", same).await.unwrap(), object);
    let other = client.stat(BUCKET, "key", Some(Precondition::IfNoneMatch(object.etag))).await.unwrap_err();
    assert!(matches!(other, Error::PreconditionFailed { .. }), "{other:?}");
}

#[tokio::test]
async fn status_comes_from_a_server_that_knows_of_a_leader() {
    let servers = Servers::start(3).await;
    let list: Vec<_> = servers.addresses.iter().map(ToString::to_string).collect();
    let client = Client::connect(ClientConfig::new(list.join(",").parse().unwrap())).unwrap();
    assert_eq!(client.cluster_status().await.unwrap().leader_id, None, "nobody knows of one");
    servers.metas[2].follow(3);
    assert_eq!(client.cluster_status().await.unwrap().leader_id, Some(3));
}

#[tokio::test]
async fn the_access_key_is_shown_with_every_request() {
    let servers = Servers::start(2).await;
    let key: AccessKey = "XKABC.SECRET".parse().unwrap();
    servers.metas.iter().for_each(|meta| meta.require(key.clone()));
    let without = error(head(&servers.control()).await.unwrap_err());
    assert!(matches!(without, Error::Unauthenticated { .. }), "{without:?}");
    let other = control(&servers.addresses, |config| config.access_key = "XKABC.OTHER".parse().ok());
    let wrong = error(head(&other).await.unwrap_err());
    assert!(matches!(wrong, Error::Unauthenticated { .. }), "{wrong:?}");
    assert_eq!(servers.counts(), [2, 0], "asking again, or elsewhere, gives the same");

    let with = control(&servers.addresses, |config| config.access_key = Some(key));
    servers.metas[0].answer([not_leader(Some(servers.addresses[1]))]);
    head(&with).await.unwrap();
    assert_eq!(servers.counts(), [3, 1]);
    let shown = format!("{with:?}");
    assert!(!shown.contains("SECRET"), "{shown}");
}

#[tokio::test]
async fn the_access_key_does_not_leave_this_machine_in_plain_text() {
    let servers = Servers::start(1).await;
    // Discard-only addresses (RFC 5737): nobody answers there.
    let far = "192.0.2.1:7001";
    let with_key = |config: &mut ClientConfig| config.access_key = "XKABC.SECRET".parse().ok();
    let mut config = ClientConfig::new(far.parse().unwrap());
    with_key(&mut config);
    let refused = error(head(&Control::new(&config, Dialer::network(None))).await.unwrap_err());
    let Error::KeyInPlainText { endpoint } = &refused else { panic!("{refused:?}") };
    assert_eq!(endpoint, far);

    // A server on this machine may name a leader that is elsewhere.
    let metadata = HashMap::from([("leaderEndpoint".to_owned(), far.to_owned())]);
    let details = ErrorDetails::with_error_info("NOT_LEADER", "xdpfs", metadata);
    let hint = Status::with_error_details(Code::Unavailable, "not the leader", details);
    servers.metas[0].answer([Answer::Fail(hint)]);
    let refused = error(head(&control(&servers.addresses, with_key)).await.unwrap_err());
    assert!(matches!(refused, Error::KeyInPlainText { .. }), "{refused:?}");
    assert!(!format!("{refused:?} {refused}").contains("SECRET"));

    let trusting = ClientConfig { insecure_key: true, first_contact: Duration::from_millis(100), ..config };
    let tried = error(head(&Control::new(&trusting, Dialer::network(None))).await.unwrap_err());
    assert!(matches!(tried, Error::Unavailable { .. }), "{tried:?}");
}

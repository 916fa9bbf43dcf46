//! Who is let in where, asked of a server with certificates.

use std::{fs, net::TcpListener, os::unix::fs::PermissionsExt as _, path::Path};

use tempfile::TempDir;
use tonic::{Code, transport::Channel, transport::Endpoint};
use xdpfs_meta_server::{
    Config, ConfigError, Credential, Join, Listeners, Member, RootKey, Server, ServerError,
    state_machine::FeatureLevel,
};
use xdpfs_proto::{
    meta::v1::{GetClusterStatusRequest, ListBucketsRequest, meta_service_client::MetaServiceClient},
    node::v1::{RouteRequest, node_service_client::NodeServiceClient},
    raft::v1::{SendMessagesRequest, raft_service_client::RaftServiceClient},
};
use xdpfs_trust::{Authority, DialError, Dialer, Mismatch, Request, Role, TlsTrust, Trust};

use crate::harness::{assert_refused, eventually};

/// What a server that can take part says with each batch.
fn of_this_release() -> SendMessagesRequest {
    SendMessagesRequest { feature_level: FeatureLevel::SUPPORTED.0, ..SendMessagesRequest::default() }
}

struct Secured {
    authority: Authority,
    directory: TempDir,
    client: String,
    peer: String,
    _server: Server,
}

impl Secured {
    /// A cluster of one.
    async fn start() -> Self {
        let (authority, directory) = (Authority::make("red").unwrap(), tempfile::tempdir().unwrap());
        let free = || TcpListener::bind("127.0.0.1:0").unwrap();
        let listeners = Listeners { client: free(), peer: free() };
        let [client, peer] =
            [&listeners.client, &listeners.peer].map(|listener| listener.local_addr().unwrap().to_string());
        let member = Member { id: 1, peer_address: peer.clone(), client_address: client.clone() };
        let tls = directory.path().join("meta-1");
        write(&authority, "xdpfs://red/meta/1", &tls);
        let config = Config {
            bootstrap: true,
            tls: Some(tls),
            ..Config::new(1, vec![member], directory.path().join("data"))
        };
        let server = Server::start_on(config, listeners).await.unwrap();
        server.ready().await;
        Self { authority, directory, client, peer, _server: server }
    }

    fn as_member(&self, principal: &str) -> TlsTrust {
        let directory = self.directory.path().join(principal.replace(['/', ':'], "-"));
        write(&self.authority, principal, &directory);
        Trust::open(&directory, Role::ALL).unwrap().dialing()
    }

    fn as_client(&self) -> TlsTrust {
        TlsTrust::from_ca_file(&self.directory.path().join("meta-1/ca.pem")).unwrap()
    }
}

fn write(authority: &Authority, principal: &str, directory: &Path) {
    fs::create_dir_all(directory).unwrap();
    let issued = authority.issue(&Request::new(principal.parse().unwrap(), ["127.0.0.1"])).unwrap();
    fs::write(directory.join("ca.pem"), authority.certificates_pem()).unwrap();
    fs::write(directory.join("server.pem"), issued.certificate_pem).unwrap();
    fs::write(directory.join("server.key"), issued.key_pem).unwrap();
    fs::set_permissions(directory.join("server.key"), fs::Permissions::from_mode(0o600)).unwrap();
}

fn channel(address: &str, tls: Option<TlsTrust>) -> Channel {
    let dialer = Dialer::new(tls, std::time::Duration::from_secs(10));
    Endpoint::from_shared(dialer.uri(address)).unwrap().connect_with_connector_lazy(dialer)
}

#[tokio::test]
async fn clients_speak_to_the_metadata_service_and_members_to_the_rest() {
    let secured = Secured::start().await;
    let anonymous = channel(&secured.client, Some(secured.as_client()));
    let mut meta = MetaServiceClient::new(anonymous.clone());
    eventually("a leader that serves", async || {
        meta.clone().list_buckets(ListBucketsRequest::default()).await.ok()
    })
    .await;
    meta.get_cluster_status(GetClusterStatusRequest {}).await.unwrap();

    let route = || RouteRequest { address: "127.0.0.1:1".into(), ..RouteRequest::default() };
    let refused = NodeServiceClient::new(anonymous).route(route()).await;
    assert_refused(refused, Code::Unauthenticated, "CERTIFICATE_REQUIRED");
    for member in ["xdpfs://red/node", "xdpfs://red/edge/a", "xdpfs://red/meta/2"] {
        let channel = channel(&secured.client, Some(secured.as_member(member)));
        let told = NodeServiceClient::new(channel).route(route()).await.unwrap().into_inner();
        assert!(!told.key_epochs.is_empty(), "{member}");
    }
}

#[tokio::test]
async fn only_metadata_servers_speak_to_metadata_servers_as_such() {
    let secured = Secured::start().await;
    let send = async |tls: Option<TlsTrust>| {
        let mut raft = RaftServiceClient::new(channel(&secured.peer, tls));
        let answer = raft.send_messages(tokio_stream::iter([of_this_release()])).await;
        answer.map_err(|status| {
            DialError::mismatch_in(&status).cloned().unwrap_or_else(|| panic!("{status:?}"))
        })
    };
    send(Some(secured.as_member("xdpfs://red/meta/2"))).await.unwrap();
    assert_eq!(send(None).await.unwrap_err(), Mismatch::SpeaksTls);
    for tls in
        [secured.as_client(), secured.as_member("xdpfs://red/node"), secured.as_member("xdpfs://red/edge")]
    {
        let refusal = send(Some(tls)).await.unwrap_err();
        assert!(matches!(refusal, Mismatch::RefusesUs(_)), "{refusal:?}");
    }
}

#[tokio::test]
async fn server_speaks_for_itself_only() {
    use xdpfs_proto::raft::v1 as pb;
    let secured = Secured::start().await;
    let heartbeat = |from| SendMessagesRequest {
        messages: vec![pb::Message { msg_type: 8, from, to: 1, term: 1, ..pb::Message::default() }],
        ..of_this_release()
    };
    let mut raft =
        RaftServiceClient::new(channel(&secured.peer, Some(secured.as_member("xdpfs://red/meta/2"))));
    raft.send_messages(tokio_stream::iter([heartbeat(2)])).await.unwrap();
    let refused = raft.send_messages(tokio_stream::iter([heartbeat(1)])).await;
    assert_refused(refused, Code::Unauthenticated, "CERTIFICATE_REQUIRED");
}

/// A server with an empty directory, which asks `secured` to let it in.
fn joining(secured: &Secured, tls: Option<&str>, key: Option<Credential>) -> (Config, Listeners) {
    let free = || TcpListener::bind("127.0.0.1:0").unwrap();
    let listeners = Listeners { client: free(), peer: free() };
    let [client_address, peer_address] =
        [&listeners.client, &listeners.peer].map(|listener| listener.local_addr().unwrap().to_string());
    let own = Member { id: 0, peer_address, client_address };
    let directory = secured.directory.path();
    let join = Some(Join { endpoints: vec![secured.client.clone()], learner: false, key });
    let tls = tls.map(|principal| {
        let path = directory.join(principal.replace(['/', ':'], "-"));
        write(&secured.authority, principal, &path);
        path
    });
    let config = Config { tls, join, ..Config::new(0, vec![own], directory.join("joined")) };
    (config, listeners)
}

#[tokio::test]
async fn server_joins_by_its_certificate_and_speaks_with_no_other() {
    let secured = Secured::start().await;
    let (config, listeners) = joining(&secured, Some("xdpfs://red/meta/host-b"), None);
    let joined = Server::start_on(config, listeners).await.unwrap();
    assert_eq!(joined.id(), 2);
    joined.ready().await;
    let mut meta = MetaServiceClient::new(channel(&secured.client, Some(secured.as_client())));
    eventually("a second server that votes", async || {
        let status = meta.get_cluster_status(GetClusterStatusRequest {}).await.ok()?.into_inner();
        let second = status.meta_servers.into_iter().find(|server| server.id == 2)?;
        (!second.learner).then_some(())
    })
    .await;

    use xdpfs_proto::raft::v1 as pb;
    let send = async |principal: &str| {
        let message = pb::Message { msg_type: 9, from: 2, to: 1, term: 1, ..pb::Message::default() };
        let batch = SendMessagesRequest { messages: vec![message], ..of_this_release() };
        let mut raft = RaftServiceClient::new(channel(&secured.peer, Some(secured.as_member(principal))));
        raft.send_messages(tokio_stream::iter([batch])).await
    };
    send("xdpfs://red/meta/host-b").await.unwrap();
    for other in ["xdpfs://red/meta/2", "xdpfs://red/meta/host-c"] {
        assert_refused(send(other).await, Code::Unauthenticated, "CERTIFICATE_REQUIRED");
    }
    joined.shutdown().await;
}

#[tokio::test]
async fn server_without_a_certificate_of_its_role_needs_the_right_key() {
    let root = Credential::generate().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let free = || TcpListener::bind("127.0.0.1:0").unwrap();
    let listeners = Listeners { client: free(), peer: free() };
    let [client_address, peer_address] =
        [&listeners.client, &listeners.peer].map(|listener| listener.local_addr().unwrap().to_string());
    let member = Member { id: 1, peer_address, client_address: client_address.clone() };
    let root_key = Some(RootKey::from(&root));
    let config =
        Config { bootstrap: true, root_key, ..Config::new(1, vec![member], directory.path().join("data")) };
    let first = Server::start_on(config, listeners).await.unwrap();
    first.ready().await;
    let join = async |key: Option<Credential>, name: &str| {
        let listeners = Listeners { client: free(), peer: free() };
        let [client, peer] =
            [&listeners.client, &listeners.peer].map(|listener| listener.local_addr().unwrap().to_string());
        let own = Member { id: 0, peer_address: peer, client_address: client };
        let join = Some(Join { endpoints: vec![client_address.clone()], learner: true, key });
        let config = Config { join, ..Config::new(0, vec![own], directory.path().join(name)) };
        Server::start_on(config, listeners).await
    };
    for key in [None, Some(Credential::generate().unwrap())] {
        let error = join(key, "refused").await.unwrap_err();
        assert!(matches!(error, ServerError::Join(_)), "{error:?}");
    }
    let joined = join(Some(root), "joined").await.unwrap();
    joined.ready().await;
}

#[tokio::test]
async fn plaintext_is_for_loopback_unless_somebody_says_otherwise() {
    let directory = tempfile::tempdir().unwrap();
    let everywhere = || TcpListener::bind("0.0.0.0:0").unwrap();
    let here = || TcpListener::bind("127.0.0.1:0").unwrap();
    let member = Member { id: 1, peer_address: "127.0.0.1:1".into(), client_address: "127.0.0.1:2".into() };
    let config =
        Config { bootstrap: true, open: true, ..Config::new(1, vec![member], directory.path().join("data")) };
    for listeners in
        [Listeners { client: everywhere(), peer: here() }, Listeners { client: here(), peer: everywhere() }]
    {
        let error = Server::start_on(config.clone(), listeners).await.unwrap_err();
        assert!(matches!(error, ServerError::Config(ConfigError::Insecure(_))), "{error:?}");
        let words = error.to_string();
        assert!(words.contains("--tls") && words.contains("--insecure"), "{words}");
    }
    let insecure = Config { insecure: true, ..config };
    Server::start_on(insecure, Listeners { client: everywhere(), peer: here() }).await.unwrap();
}

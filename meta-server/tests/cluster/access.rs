use std::{collections::BTreeMap, net::TcpListener};

use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;
use xdpfs_meta_server::{Config, ConfigError, Credential, Listeners, RootKey, Server, ServerError};
use xdpfs_proto::{
    access::v1::{
        AccessKey, CreateAccessKeyRequest, CreateAccessKeyResponse, Grant, ListAccessKeysRequest,
        RevokeAccessKeyRequest, RevokeAccessKeyResponse, Right, RotateKeyEpochRequest,
    },
    meta::v1::*,
};

use crate::harness::{
    Access, Cluster, FakeNode, Meta, Writer, assert_refused, eventually, reason, register_nodes, request_id,
    show,
};

const RIGHTS: [Right; 4] = [Right::Read, Right::Write, Right::List, Right::Admin];

/// A key as it is shown, and its resource name.
struct Key {
    text: String,
    name: String,
}

fn grant(buckets: &str, rights: &[Right]) -> Grant {
    Grant { buckets: buckets.into(), rights: rights.iter().map(|right| (*right).into()).collect() }
}

fn create_request(grants: &[Grant]) -> CreateAccessKeyRequest {
    CreateAccessKeyRequest { request_id: request_id(), grants: grants.to_vec(), label: "label".into() }
}

async fn create(
    cluster: &Cluster,
    request: CreateAccessKeyRequest,
) -> Result<CreateAccessKeyResponse, Status> {
    cluster
        .access_call(request, async |mut access: Access, request| access.create_access_key(request).await)
        .await
}

async fn key(cluster: &Cluster, grants: &[Grant]) -> Key {
    let made = create(cluster, create_request(grants)).await.unwrap();
    let name = made.access_key.unwrap().name;
    let text = format!("{}.{}", name.strip_prefix("accessKeys/").unwrap(), made.secret);
    Key { text, name }
}

async fn revoke(cluster: &Cluster, name: &str, force: bool) -> Result<RevokeAccessKeyResponse, Status> {
    let request = RevokeAccessKeyRequest {
        request_id: request_id(),
        name: name.into(),
        end_capabilities: false,
        force,
    };
    cluster
        .access_call(request, async |mut access: Access, request| access.revoke_access_key(request).await)
        .await
}

async fn list(cluster: &Cluster) -> Vec<AccessKey> {
    let (mut keys, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = ListAccessKeysRequest { page_size: 2, page_token };
        let send = async |mut access: Access, request| access.list_access_keys(request).await;
        let page = cluster.access_call(request, send).await.unwrap();
        assert!(page.access_keys.len() <= 2);
        keys.extend(page.access_keys);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return keys;
        }
    }
}

/// A closed cluster with the bucket `photos`, which shows its admin key.
async fn closed() -> (Cluster, Vec<FakeNode>) {
    closed_with(|_| {}).await
}

async fn closed_with(configure: fn(&mut Config)) -> (Cluster, Vec<FakeNode>) {
    let mut cluster = Cluster::start_with(configure).await;
    let nodes = register_nodes(&cluster, 3).await;
    let writer = Writer { cluster: &cluster, nodes: &nodes, bucket: "photos" };
    writer.create_bucket().await;
    writer.put("cat", 10, None).await.unwrap();
    let admin = key(&cluster, &[grant("*", &[Right::Admin])]).await;
    cluster.show_key(&admin.text);
    (cluster, nodes)
}

/// What the leader says to somebody who shows this.
async fn status(cluster: &Cluster, shown: Option<&[u8]>) -> Result<(), Status> {
    let send = async |mut meta: Meta, mut request: Request<GetObjectRequest>| {
        request.metadata_mut().remove("authorization");
        if let Some(shown) = shown {
            let value = tonic::metadata::MetadataValue::try_from(shown).unwrap();
            request.metadata_mut().insert("authorization", value);
        }
        meta.get_object(request).await
    };
    let request = GetObjectRequest { name: "buckets/photos/objects/cat".into(), ..Default::default() };
    cluster.call(request, send).await.map(drop)
}

#[tokio::test]
async fn nobody_is_served_without_a_good_key() {
    let (cluster, _nodes) = closed().await;
    let reader = key(&cluster, &[grant("photos", &[Right::Read])]).await;
    let bearer = |text: &str| format!("Bearer {text}").into_bytes();
    status(&cluster, Some(&bearer(&reader.text))).await.unwrap();
    assert_refused(status(&cluster, None).await, Code::Unauthenticated, "ACCESS_KEY_MISSING");

    let (id, _) = reader.text.split_once('.').unwrap();
    let wrong_secret = format!("{id}.{}", "A".repeat(52));
    let unknown = Credential::generate().unwrap().to_text();
    let words = |status: Result<(), Status>| {
        let status = status.unwrap_err();
        (status.code(), reason(&status), status.message().to_owned())
    };
    let wrong = words(status(&cluster, Some(&bearer(&wrong_secret))).await);
    assert_eq!((wrong.0, wrong.1.as_str()), (Code::Unauthenticated, "ACCESS_KEY_INVALID"));
    assert_eq!(
        words(status(&cluster, Some(&bearer(&unknown))).await),
        wrong,
        "it does not tell which keys there are"
    );

    revoke(&cluster, &reader.name, false).await.unwrap();
    assert_eq!(words(status(&cluster, Some(&bearer(&reader.text))).await), wrong);
}

#[tokio::test]
async fn malformed_authorization_harms_nobody() {
    let (cluster, _nodes) = closed().await;
    let reader = key(&cluster, &[grant("photos", &[Right::Read])]).await;
    let good = format!("Bearer {}", reader.text);
    let mut bad = vec![
        vec![],
        b"Bearer".to_vec(),
        b"Bearer ".to_vec(),
        b"Bearer .".to_vec(),
        b"Basic dXNlcjpwYXNzd29yZA==".to_vec(),
        vec![0xff; 100],
        good.replace('.', " ").into_bytes(),
        good.to_lowercase().into_bytes(),
        good.replace("Bearer", "Bearer ").into_bytes(),
        format!("{good}x").into_bytes(),
        [good.as_bytes(), &vec![b'A'; 4000]].concat(),
    ];
    bad.extend((0..good.len()).map(|at| [&good.as_bytes()[..at], b"!", &good.as_bytes()[at + 1..]].concat()));
    for shown in &bad {
        assert_refused(status(&cluster, Some(shown)).await, Code::Unauthenticated, "ACCESS_KEY_INVALID");
    }
    // More than a server takes in headers: it may end the stream in any way, but it must go on.
    let leader = cluster.leader().await;
    let mut request = Request::new(GetObjectRequest::default());
    request.metadata_mut().insert("authorization", "A".repeat(1 << 20).parse().unwrap());
    assert!(cluster.meta(leader).get_object(request).await.is_err());
    status(&cluster, Some(good.as_bytes())).await.unwrap();
}

/// Every method of a client, and how it ends for somebody who shows this key: the reason, or nothing.
async fn all_methods(cluster: &Cluster, upload_id: u64, text: &str) -> BTreeMap<&'static str, String> {
    let leader = cluster.leader().await;
    let meta = || cluster.meta(leader);
    let access = || Access::new(cluster.channel(leader));
    let object = || "buckets/photos/objects/cat".to_owned();
    let mut ends = BTreeMap::new();
    macro_rules! ask {
        ($client:expr, $method:ident, $message:expr) => {{
            let mut request = Request::new($message);
            show(&mut request, text);
            let answer = $client.$method(request).await;
            ends.insert(stringify!($method), answer.err().map(|status| reason(&status)).unwrap_or_default());
        }};
    }
    ask!(meta(), get_cluster_status, GetClusterStatusRequest {});
    ask!(meta(), list_buckets, ListBucketsRequest::default());
    ask!(meta(), get_bucket, GetBucketRequest { name: "buckets/photos".into() });
    ask!(meta(), head_object, HeadObjectRequest { name: object(), ..Default::default() });
    ask!(meta(), get_object, GetObjectRequest { name: object(), ..Default::default() });
    ask!(meta(), list_objects, ListObjectsRequest { parent: "buckets/photos".into(), ..Default::default() });
    let versions = ListObjectVersionsRequest { parent: "buckets/photos".into(), ..Default::default() };
    ask!(meta(), list_object_versions, versions);
    let begin = BeginPutRequest { request_id: request_id(), name: object(), ..Default::default() };
    ask!(meta(), begin_put, begin);
    ask!(meta(), extend_put, ExtendPutRequest { request_id: request_id(), upload_id, ..Default::default() });
    // Nothing to abort, commit or delete: what is asked here is only who may.
    ask!(meta(), abort_put, AbortPutRequest { request_id: request_id(), upload_id: 999 });
    ask!(
        meta(),
        commit_put,
        CommitPutRequest { request_id: request_id(), upload_id: 999, ..Default::default() }
    );
    let delete = DeleteObjectRequest {
        request_id: request_id(),
        name: "buckets/photos/objects/none".into(),
        ..Default::default()
    };
    ask!(meta(), delete_object, delete);
    let copy = CopyObjectRequest {
        request_id: request_id(),
        source: "buckets/photos/objects/none".into(),
        destination: object(),
        ..Default::default()
    };
    ask!(meta(), copy_object, copy);
    let begin = BeginCopyRequest {
        request_id: request_id(),
        source: object(),
        destination: "buckets/backup/objects/cat".into(),
        ..Default::default()
    };
    ask!(meta(), begin_copy, begin);
    let source = Some(CopySource { name: object(), etag: "none".into() });
    let go_on =
        ContinueCopyRequest { request_id: request_id(), upload_id: 999, source, ..Default::default() };
    ask!(meta(), continue_copy, go_on);
    let delete = batch_operation::Kind::Delete(BatchDelete { key: "none".into(), ..BatchDelete::default() });
    let batch = CommitBatchRequest {
        request_id: request_id(),
        parent: "buckets/photos".into(),
        operations: vec![BatchOperation { kind: Some(delete) }],
    };
    ask!(meta(), commit_batch, batch);
    let create =
        CreateBucketRequest { request_id: request_id(), name: "buckets/photos".into(), ..Default::default() };
    ask!(meta(), create_bucket, create);
    let update =
        UpdateBucketRequest { request_id: request_id(), name: "buckets/photos".into(), ..Default::default() };
    ask!(meta(), update_bucket, update);
    ask!(
        meta(),
        delete_bucket,
        DeleteBucketRequest { request_id: request_id(), name: "buckets/photos".into() }
    );
    let explain = ExplainPlacementRequest { name: object(), ..Default::default() };
    ask!(meta(), explain_placement, explain);
    ask!(meta(), plan_drain, PlanDrainRequest::default());
    let label = LabelNodeRequest { request_id: request_id(), name: "nodes/99".into(), ..Default::default() };
    ask!(meta(), label_node, LabelNodeRequest { remove: vec!["zone".into()], ..label });
    let scrub = ScrubNodeRequest {
        request_id: request_id(),
        name: "nodes/99".into(),
        action: ScrubAction::Pause.into(),
    };
    ask!(meta(), scrub_node, scrub);
    ask!(access(), create_access_key, create_request(&[]));
    ask!(access(), list_access_keys, ListAccessKeysRequest::default());
    let revoke = RevokeAccessKeyRequest { request_id: request_id(), ..Default::default() };
    ask!(access(), revoke_access_key, revoke);
    ask!(access(), rotate_key_epoch, RotateKeyEpochRequest { request_id: request_id() });
    ends
}

#[tokio::test]
async fn each_right_alone_opens_exactly_its_methods() {
    let (cluster, nodes) = closed().await;
    let writer = key(&cluster, &[grant("photos", &[Right::Write])]).await;
    let begin = Writer { cluster: &cluster, nodes: &nodes, bucket: "photos" }.begin_request("dog", 1);
    let send = async |mut meta: Meta, mut request| {
        show(&mut request, &writer.text);
        meta.begin_put(request).await
    };
    let upload_id = cluster.call(begin, send).await.unwrap().upload_id;

    // Everything that is not here is denied.
    let anybody = [("get_bucket", ""), ("get_cluster_status", ""), ("list_buckets", "")];
    let opened = |right: Right| match right {
        Right::Read => vec![("explain_placement", ""), ("get_object", ""), ("head_object", "")],
        Right::Write => vec![
            ("abort_put", "UPLOAD_NOT_FOUND"),
            ("begin_put", ""),
            ("commit_batch", "OBJECT_NOT_FOUND"),
            ("commit_put", "UPLOAD_NOT_FOUND"),
            ("delete_object", "OBJECT_NOT_FOUND"),
            ("extend_put", ""),
        ],
        Right::List => vec![("list_objects", ""), ("list_object_versions", "")],
        Right::Admin => vec![
            ("create_bucket", "BUCKET_EXISTS"),
            ("delete_bucket", "BUCKET_NOT_EMPTY"),
            ("update_bucket", ""),
        ],
        Right::Unspecified => vec![],
    };
    for right in RIGHTS {
        let holder = key(&cluster, &[grant("photos", &[right])]).await;
        let ends = all_methods(&cluster, upload_id, &holder.text).await;
        assert_eq!(ends.len(), 27);
        let mut expect: BTreeMap<_, _> = ends.keys().map(|method| (*method, "ACCESS_DENIED")).collect();
        expect.extend(anybody.into_iter().chain(opened(right)));
        let ends: BTreeMap<_, _> = ends.iter().map(|(method, end)| (*method, end.as_str())).collect();
        assert_eq!(ends, expect, "{right:?}");
    }
    // A copy reads and writes; whether the two rights come from one grant does not matter.
    let both = [grant("photos", &[Right::Read]), grant("photo*", &[Right::Write])];
    let ends = all_methods(&cluster, upload_id, &key(&cluster, &both).await.text).await;
    assert_eq!(
        (ends["copy_object"].as_str(), ends["commit_batch"].as_str()),
        ("OBJECT_NOT_FOUND", "OBJECT_NOT_FOUND")
    );
    // From bucket to bucket it reads the one and writes the other.
    for (read, written, begun, gone_on) in [
        ("photos", "backup", "BUCKET_NOT_FOUND", "UPLOAD_NOT_FOUND"),
        ("photos", "photos", "ACCESS_DENIED", "UPLOAD_NOT_FOUND"),
        ("backup", "backup", "ACCESS_DENIED", "ACCESS_DENIED"),
        ("photos", "", "ACCESS_DENIED", "ACCESS_DENIED"),
    ] {
        let mut grants = vec![grant(read, &[Right::Read])];
        grants.extend((!written.is_empty()).then(|| grant(written, &[Right::Write])));
        let ends = all_methods(&cluster, upload_id, &key(&cluster, &grants).await.text).await;
        let ends = (ends["begin_copy"].as_str(), ends["continue_copy"].as_str());
        assert_eq!(ends, (begun, gone_on), "read {read:?}, write {written:?}");
    }
    // Admin of all buckets makes keys as well, and still reads nothing.
    let admin = key(&cluster, &[grant("*", &[Right::Admin])]).await;
    let ends = all_methods(&cluster, upload_id, &admin.text).await;
    assert_eq!(ends["create_access_key"], "INVALID_ARGUMENT");
    assert_eq!(ends["revoke_access_key"], "INVALID_NAME");
    assert_eq!(
        (ends["label_node"].as_str(), ends["plan_drain"].as_str()),
        ("NODE_UNKNOWN", "INVALID_ARGUMENT")
    );
    assert_eq!(ends["scrub_node"], "NODE_UNKNOWN");
    assert_eq!((ends["list_access_keys"].as_str(), ends["rotate_key_epoch"].as_str()), ("", ""));
    for method in ["get_object", "head_object", "list_objects", "begin_put", "delete_object", "abort_put"] {
        assert_eq!(ends[method], "ACCESS_DENIED", "{method}");
    }
    // All rights on another bucket are none here, and do not tell which uploads there are.
    let other = key(&cluster, &[grant("other", &RIGHTS), grant("photos-*", &RIGHTS)]).await;
    let ends = all_methods(&cluster, upload_id, &other.text).await;
    assert_eq!(ends["extend_put"], "UPLOAD_NOT_FOUND");
    for method in ["get_bucket", "get_object", "list_objects", "begin_put", "delete_object", "delete_bucket"]
    {
        assert_eq!(ends[method], "ACCESS_DENIED", "{method}");
    }
}

#[tokio::test]
async fn refusal_names_what_is_lacking() {
    let (cluster, _nodes) = closed().await;
    let lister = key(&cluster, &[grant("photos", &[Right::List])]).await;
    let refusal = status(&cluster, Some(format!("Bearer {}", lister.text).as_bytes())).await.unwrap_err();
    let info = refusal.get_details_error_info().unwrap();
    assert_eq!(info.metadata.get("right").map(String::as_str), Some("read"));
    assert_eq!(info.metadata.get("buckets").map(String::as_str), Some("photos"));
    assert!(refusal.message().contains("read") && refusal.message().contains("photos"), "{refusal:?}");
    let (_, secret) = lister.text.split_once('.').unwrap();
    assert!(!format!("{refusal:?}").contains(secret));
}

#[tokio::test]
async fn buckets_are_shown_to_those_who_may_list_them() {
    let (cluster, _nodes) = closed().await;
    for name in ["logs-1", "logs-2", "logs-3", "music"] {
        let request = CreateBucketRequest {
            request_id: request_id(),
            name: format!("buckets/{name}"),
            ..Default::default()
        };
        cluster
            .call(request, async |mut meta: Meta, request| meta.create_bucket(request).await)
            .await
            .unwrap();
    }
    let seen = async |key: &Key| {
        let (mut names, mut page_token) = (Vec::new(), String::new());
        loop {
            let send = async |mut meta: Meta, mut request| {
                show(&mut request, &key.text);
                meta.list_buckets(request).await
            };
            let page = cluster.call(ListBucketsRequest { page_size: 2, page_token }, send).await.unwrap();
            names.extend(page.buckets.into_iter().map(|bucket| bucket.name.replace("buckets/", "")));
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return names;
            }
        }
    };
    let logs = key(&cluster, &[grant("logs-*", &[Right::List]), grant("music", &[Right::Read])]).await;
    assert_eq!(seen(&logs).await, ["logs-1", "logs-2", "logs-3"]);
    let all = key(&cluster, &[grant("*", &[Right::List])]).await;
    assert_eq!(seen(&all).await, ["logs-1", "logs-2", "logs-3", "music", "photos"]);
    let none = key(&cluster, &[grant("*", &[Right::Read, Right::Write, Right::Admin])]).await;
    assert!(seen(&none).await.is_empty());
}

#[tokio::test]
async fn capabilities_carry_the_right_that_was_used() {
    let (cluster, nodes) = closed().await;
    let all = key(&cluster, &[grant("photos", &RIGHTS)]).await;
    let get = async |mut meta: Meta, mut request| {
        show(&mut request, &all.text);
        meta.get_object(request).await
    };
    let request = GetObjectRequest { name: "buckets/photos/objects/cat".into(), ..Default::default() };
    let got = cluster.call(request, get).await.unwrap();
    assert_eq!(got.capability.unwrap().rights, 1, "read, and nothing else");
    let begin = async |mut meta: Meta, mut request| {
        show(&mut request, &all.text);
        meta.begin_put(request).await
    };
    let writer = Writer { cluster: &cluster, nodes: &nodes, bucket: "photos" };
    let begun = cluster.call(writer.begin_request("dog", 1), begin).await.unwrap();
    assert_eq!(begun.capability.unwrap().rights, 2, "write, and nothing else");
}

#[tokio::test]
async fn last_admin_key_stays_and_force_needs_a_root_key_afterwards() {
    let (cluster, _nodes) = closed().await;
    key(&cluster, &[grant("*", &[Right::Read])]).await;
    let admin =
        list(&cluster).await.into_iter().find(|key| key.grants[0].rights == [i32::from(Right::Admin)]);
    let admin = admin.unwrap().name;
    assert_refused(revoke(&cluster, &admin, false).await, Code::FailedPrecondition, "LAST_ADMIN_KEY");
    assert_eq!(list(&cluster).await.len(), 2);
    revoke(&cluster, &admin, true).await.unwrap();
    let send = async |mut access: Access, request| access.list_access_keys(request).await;
    let nobody = cluster.access_call(ListAccessKeysRequest::default(), send).await;
    assert_refused(nobody, Code::Unauthenticated, "ACCESS_KEY_INVALID");
}

#[tokio::test]
async fn first_key_must_be_able_to_make_others() {
    let cluster = Cluster::start().await;
    let reader = create(&cluster, create_request(&[grant("*", &[Right::Read])])).await;
    assert_refused(reader, Code::InvalidArgument, "INVALID_ARGUMENT");
    // It is still open.
    Writer { cluster: &cluster, nodes: &[], bucket: "photos" }.create_bucket().await;
    for bad in
        [&[][..], &[grant("a*b", &[Right::Admin])], &[grant("*", &[])], &[grant("*", &[Right::Unspecified])]]
    {
        assert_refused(
            create(&cluster, create_request(bad)).await,
            Code::InvalidArgument,
            "INVALID_ARGUMENT",
        );
    }
}

#[tokio::test]
async fn repeated_request_for_a_key_does_not_make_up_another_secret() {
    let (cluster, _nodes) = closed().await;
    let request = create_request(&[grant("photos", &[Right::Read])]);
    let made = create(&cluster, request.clone()).await.unwrap();
    let again = create(&cluster, request).await.unwrap_err();
    assert_eq!((again.code(), reason(&again).as_str()), (Code::Aborted, "SECRET_LOST"));
    let name = made.access_key.unwrap().name;
    assert!(again.message().contains(name.strip_prefix("accessKeys/").unwrap()), "{again:?}");
    assert_eq!(list(&cluster).await.len(), 2, "there is one key of it");
}

#[tokio::test]
async fn keys_outlive_snapshots_and_restarts() {
    let (mut cluster, _nodes) = closed_with(|config| {
        config.consensus.snapshot_entries = 10;
        config.consensus.log_entries_kept = 2;
    })
    .await;
    let reader = key(&cluster, &[grant("photos", &[Right::Read])]).await;
    let gone = key(&cluster, &[grant("photos", &[Right::Read])]).await;
    revoke(&cluster, &gone.name, false).await.unwrap();
    for number in 0..30 {
        let name = format!("buckets/bucket-{number}");
        let request = CreateBucketRequest { request_id: request_id(), name, ..Default::default() };
        cluster
            .call(request, async |mut meta: Meta, request| meta.create_bucket(request).await)
            .await
            .unwrap();
    }
    let before = list(&cluster).await;
    assert_eq!(before.len(), 3);
    for id in cluster.ids() {
        cluster.kill(id);
    }
    for id in cluster.ids() {
        cluster.restart(id).await;
    }
    cluster.ready().await;
    assert_eq!(list(&cluster).await, before);
    assert_refused(status(&cluster, None).await, Code::Unauthenticated, "ACCESS_KEY_MISSING");
    status(&cluster, Some(format!("Bearer {}", reader.text).as_bytes())).await.unwrap();
    let refused = status(&cluster, Some(format!("Bearer {}", gone.text).as_bytes())).await;
    assert_refused(refused, Code::Unauthenticated, "ACCESS_KEY_INVALID");
}

#[tokio::test]
async fn follower_sends_a_key_that_it_does_not_know_to_the_leader() {
    let (cluster, _nodes) = closed().await;
    let reader = key(&cluster, &[grant("photos", &[Right::Read])]).await;
    let unknown = Credential::generate().unwrap().to_text();
    let (leader, follower) = (cluster.leader().await, cluster.follower().await);
    let get = async |server: u64, text: &str| {
        let mut request = Request::new(GetObjectRequest {
            name: "buckets/photos/objects/cat".into(),
            ..Default::default()
        });
        show(&mut request, text);
        cluster.meta(server).get_object(request).await
    };
    get(leader, &reader.text).await.unwrap();
    for text in [&reader.text, &unknown] {
        assert_refused(get(follower, text).await, Code::Unavailable, "NOT_LEADER");
    }
    // Once it has heard of the key, a follower says what it knows.
    let ask = async |text: &str| {
        let mut request = Request::new(GetClusterStatusRequest {});
        show(&mut request, text);
        cluster.meta(follower).get_cluster_status(request).await
    };
    eventually("a follower that has heard of the key", async || ask(&reader.text).await.ok()).await;
    assert_refused(ask(&unknown).await, Code::Unavailable, "NOT_LEADER");
    let nobody = cluster.meta(follower).get_cluster_status(GetClusterStatusRequest {}).await;
    assert_refused(nobody, Code::Unauthenticated, "ACCESS_KEY_MISSING");
}

#[tokio::test]
async fn rotation_gives_nodes_the_new_epoch_alone() {
    let (cluster, nodes) = closed().await;
    let before = nodes[0].send_heartbeat(&cluster, nodes[0].heartbeat()).await.key_epochs;
    let request = RotateKeyEpochRequest { request_id: request_id() };
    let send = async |mut access: Access, request| access.rotate_key_epoch(request).await;
    let rotated = cluster.access_call(request.clone(), send).await.unwrap();
    let again = cluster.access_call(request, send).await.unwrap();
    assert_eq!(rotated, again, "a repeated request rotates once");
    assert!(rotated.obeyed_within_ms > 0);
    let after = nodes[0].send_heartbeat(&cluster, nodes[0].heartbeat()).await.key_epochs;
    assert_eq!(after.len(), 1);
    assert_eq!(after[0].key_epoch, rotated.key_epoch);
    assert!(
        before.iter().all(|epoch| epoch.key_epoch < after[0].key_epoch && epoch.secret != after[0].secret)
    );
    // New capabilities are of the new epoch at once, as no other is left.
    let reader = key(&cluster, &[grant("photos", &[Right::Read])]).await;
    let get = async |mut meta: Meta, mut request| {
        show(&mut request, &reader.text);
        meta.get_object(request).await
    };
    let request = GetObjectRequest { name: "buckets/photos/objects/cat".into(), ..Default::default() };
    let got = cluster.call(request, get).await.unwrap();
    assert_eq!(got.capability.unwrap().key_epoch, rotated.key_epoch);
}

#[tokio::test]
async fn root_key_closes_the_cluster_for_servers_without_it_too() {
    // As text, since the configuration is a function of nothing.
    const ROOT: &str = "XKAAAAAAAAAAAAAAAA.BBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBB";
    let mut cluster = Cluster::start_with(|config| {
        let credential: Credential = ROOT.parse().unwrap();
        config.root_key = (config.id != 1).then(|| RootKey::from(&credential));
    })
    .await;
    cluster.show_key(ROOT);
    // Server 1 knows no root key: as long as it leads alone, it serves everybody. Once another one has led, nobody.
    if cluster.leader().await == 1 {
        cluster.kill(1);
        cluster.leader().await;
        cluster.restart(1).await;
        cluster.ready().await;
    }
    let nobody = async |id: u64| {
        let answer = cluster.meta(id).list_buckets(ListBucketsRequest::default()).await;
        answer.err().map(|status| reason(&status))
    };
    eventually("a server that has heard that the cluster is closed", async || {
        (nobody(1).await.as_deref() == Some("ACCESS_KEY_MISSING")).then_some(())
    })
    .await;
    let made = key(&cluster, &[grant("*", &[Right::Read])]).await;
    assert!(made.name.starts_with("accessKeys/XK"), "with a root key, the first key may be any");
}

#[tokio::test]
async fn address_that_others_can_reach_needs_a_root_key_or_a_word() {
    let mut cluster = Cluster::start().await;
    // Its directories and addresses are not needed, and nobody is to take this one for its server.
    for id in cluster.ids() {
        cluster.kill(id);
    }
    let bind = |address: &str| TcpListener::bind((address, 0)).unwrap();
    let start = async |open: bool| {
        let directory = cluster.data_dir(9).join(if open { "open" } else { "closed" });
        let config =
            Config { bootstrap: true, insecure: true, open, data_dir: directory, ..cluster.config(1) };
        Server::start_on(config, Listeners { client: bind("0.0.0.0"), peer: bind("127.0.0.1") }).await
    };
    let error = start(false).await.expect_err("a refusal");
    assert!(matches!(error, ServerError::Open { .. }), "{error}");
    let words = error.to_string();
    assert!(words.contains("--root-key-file") && words.contains("--open"), "{words}");
    start(true).await.unwrap().shutdown().await;

    // The status page is one more way in.
    let directory = cluster.data_dir(9).join("shown");
    let listen_console = Some("0.0.0.0:0".parse().unwrap());
    let config = Config { bootstrap: true, data_dir: directory, listen_console, ..cluster.config(1) };
    let listeners = || Listeners { client: bind("127.0.0.1"), peer: bind("127.0.0.1") };
    let error = Server::start_on(Config { insecure: true, ..config.clone() }, listeners()).await;
    assert!(matches!(error, Err(ServerError::Open { .. })), "{error:?}");
    let error = Server::start_on(config, listeners()).await;
    assert!(matches!(error, Err(ServerError::Config(ConfigError::Insecure(_)))), "{error:?}");
}

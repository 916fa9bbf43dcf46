use std::{collections::BTreeMap, time::Duration};

use tonic::{Code, Status};
use tonic_types::StatusExt as _;
use xdpfs_meta_server::storage::crc32c;
use xdpfs_proto::meta::v1::{
    AbortPutRequest, BeginPutRequest, CommitPutRequest, ExtendPutRequest, ExtendPutResponse,
    GetObjectRequest, HeadObjectRequest, Object, WrittenChunk,
};

use crate::harness::{
    Cluster, FakeNode, Meta, Writer, assert_refused, eventually, register_nodes, request_id,
};

const CHUNK: u64 = 64 << 10;

async fn head(writer: &Writer<'_>, key: &str) -> Result<Object, Status> {
    let request = HeadObjectRequest { name: writer.name(key), ..Default::default() };
    let send = async |mut meta: Meta, request| meta.head_object(request).await;
    writer.cluster.call(request, send).await.map(|response| response.object.unwrap())
}

async fn extend(writer: &Writer<'_>, upload_id: u64, chunks: u32) -> Result<ExtendPutResponse, Status> {
    let request =
        ExtendPutRequest { request_id: request_id(), upload_id, chunks, avoid_node_ids: Vec::new() };
    writer.cluster.call(request, async |mut meta: Meta, request| meta.extend_put(request).await).await
}

async fn abort(writer: &Writer<'_>, upload_id: u64) -> Result<(), Status> {
    let request = AbortPutRequest { request_id: request_id(), upload_id };
    writer
        .cluster
        .call(request, async |mut meta: Meta, request| meta.abort_put(request).await)
        .await
        .map(drop)
}

#[tokio::test]
async fn object_appears_in_one_step_at_its_commit() {
    let cluster = Cluster::start().await;
    let nodes = register_nodes(&cluster, 4).await;
    let writer = writer_of(&cluster, &nodes);
    writer.create_bucket().await;
    let size = 2 * CHUNK + 5;
    let begun = writer.begin(writer.begin_request("a/cat", 3)).await.unwrap();
    assert_eq!((u64::from(begun.chunk_size), begun.replicas, begun.min_replicas), (CHUNK, 3, 2));
    assert!(begun.expires_in_ms > 55_000 && begun.expires_in_ms <= 60_000, "{}", begun.expires_in_ms);
    assert!(begun.grants.iter().all(|grant| grant.node_ids.len() == 3));
    let addresses: BTreeMap<_, _> =
        begun.nodes.iter().map(|node| (node.node_id, node.address.as_str())).collect();
    for grant in &begun.grants {
        assert!(grant.node_ids.iter().all(|id| addresses.contains_key(id)));
    }
    let capability = begun.capability.clone().unwrap();
    assert_eq!((capability.rights, capability.key.len()), (2, 16));
    assert!(capability.valid_for_ms > 100_000);
    assert_refused(head(&writer, "a/cat").await, Code::NotFound, "OBJECT_NOT_FOUND");

    let chunks = writer.written(&begun.grants, size);
    let whole: Vec<u8> = (0..3).flat_map(|at| vec![at as u8; chunks[at].length as usize]).collect();
    let commit = CommitPutRequest {
        content_type: "image/cat".into(),
        user_metadata: BTreeMap::from([("mood".into(), "sleepy".into())]),
        ..writer.commit_request(begun.upload_id, chunks)
    };
    let committed = writer.commit(commit).await.unwrap();
    let object = committed.object.unwrap();
    assert_eq!((committed.chunks_in_debt, object.durable_replicas), (0, 3));
    assert_eq!((object.size, object.crc32c), (size, crc32c(&whole)));
    assert_eq!(
        (object.content_type.as_str(), object.user_metadata["mood"].as_str()),
        ("image/cat", "sleepy")
    );
    assert_eq!(head(&writer, "a/cat").await.unwrap(), object);
    assert_refused(extend(&writer, begun.upload_id, 1).await, Code::NotFound, "UPLOAD_NOT_FOUND");
}

#[tokio::test]
async fn manifest_says_where_the_bytes_are_and_how_to_read_them() {
    let cluster = Cluster::start().await;
    let nodes = register_nodes(&cluster, 3).await;
    let writer = writer_of(&cluster, &nodes);
    writer.create_bucket().await;
    writer.put("cat", 3 * CHUNK + 7, None).await.unwrap();
    let get = async |range_start, range_end| {
        let request =
            GetObjectRequest { name: writer.name("cat"), range_start, range_end, ..Default::default() };
        cluster.call(request, async |mut meta: Meta, request| meta.get_object(request).await).await
    };
    let all = get(0, 0).await.unwrap();
    assert_eq!(all.chunks_offset, 0);
    assert_eq!(
        all.chunks.iter().map(|chunk| u64::from(chunk.length)).collect::<Vec<_>>(),
        [CHUNK, CHUNK, CHUNK, 7]
    );
    assert_eq!(all.nodes.len(), 3);
    assert!(all.chunks.iter().all(|chunk| chunk.node_ids.len() == 3));
    let capability = all.capability.unwrap();
    assert_eq!((capability.rights, capability.client_id >> 31), (1, 1));

    let part = get(CHUNK + 1, 2 * CHUNK).await.unwrap();
    assert_eq!((part.chunks_offset, part.chunks), (CHUNK, all.chunks[1..2].to_vec()));
    let none = get(10 * CHUNK, 0).await.unwrap();
    assert!(none.chunks.is_empty());
    assert_refused(get(5, 5).await, Code::InvalidArgument, "INVALID_ARGUMENT");
}

#[tokio::test]
async fn empty_object_has_no_chunks() {
    let cluster = Cluster::start().await;
    let writer = writer_of(&cluster, &[]);
    writer.create_bucket().await;
    let object = writer.put("nothing", 0, None).await.unwrap().object.unwrap();
    assert_eq!((object.size, object.crc32c, object.durable_replicas), (0, 0, 3));
    assert_eq!(head(&writer, "nothing").await.unwrap(), object);
}

#[tokio::test]
async fn put_of_unknown_length_grows() {
    let cluster = Cluster::start().await;
    let mut nodes = register_nodes(&cluster, 3).await;
    let writer = writer_of(&cluster, &nodes);
    writer.create_bucket().await;
    let begun = writer.begin(writer.begin_request("cat", 2)).await.unwrap();
    let more = extend(&writer, begun.upload_id, 1).await.unwrap();
    assert_eq!(more.capability.unwrap().client_id, begun.capability.unwrap().client_id);
    assert!(begun.grants.iter().all(|grant| grant.chunk_id != more.grants[0].chunk_id));

    nodes[0].register_again(&cluster).await;
    let writer = writer_of(&cluster, &nodes);
    let renewed = extend(&writer, begun.upload_id, 0).await.unwrap();
    assert!(renewed.grants.is_empty());
    let epochs: BTreeMap<_, _> = renewed.nodes.iter().map(|node| (node.node_id, node.node_epoch)).collect();
    assert_eq!(epochs, BTreeMap::from([(nodes[0].id(), 2), (nodes[1].id(), 1), (nodes[2].id(), 1)]));

    let grants = [begun.grants, more.grants].concat();
    let chunks = writer.written(&grants, 2 * CHUNK + 1);
    let committed = writer.commit(writer.commit_request(begun.upload_id, chunks)).await.unwrap();
    assert_eq!(committed.object.unwrap().size, 2 * CHUNK + 1);
}

#[tokio::test]
async fn put_that_was_given_up_cannot_be_committed() {
    let cluster = Cluster::start().await;
    let nodes = register_nodes(&cluster, 3).await;
    let writer = writer_of(&cluster, &nodes);
    writer.create_bucket().await;
    let begun = writer.begin(writer.begin_request("cat", 1)).await.unwrap();
    abort(&writer, begun.upload_id).await.unwrap();
    assert_refused(abort(&writer, begun.upload_id).await, Code::NotFound, "UPLOAD_NOT_FOUND");
    let commit = writer.commit_request(begun.upload_id, writer.written(&begun.grants, 1));
    assert_refused(writer.commit(commit).await, Code::NotFound, "UPLOAD_NOT_FOUND");
    assert_refused(head(&writer, "cat").await, Code::NotFound, "OBJECT_NOT_FOUND");
    let leader = cluster.leader().await;
    assert_eq!(cluster.status_of(leader).await.pending_deletes, 3, "what was written is collected");
}

#[tokio::test]
async fn put_that_nobody_goes_on_with_ends_by_itself() {
    let cluster = Cluster::start_with(|config| config.times.upload_lease = Duration::from_millis(200)).await;
    let nodes = register_nodes(&cluster, 3).await;
    let writer = writer_of(&cluster, &nodes);
    writer.create_bucket().await;
    let begun = writer.begin(writer.begin_request("cat", 1)).await.unwrap();
    let leader = cluster.leader().await;
    eventually("the end of the upload", async || {
        (cluster.status_of(leader).await.open_uploads == 0).then_some(())
    })
    .await;
    let commit = writer.commit_request(begun.upload_id, writer.written(&begun.grants, 1));
    assert_refused(writer.commit(commit).await, Code::NotFound, "UPLOAD_NOT_FOUND");
}

#[tokio::test]
async fn only_receipts_of_granted_nodes_in_their_present_registration_count() {
    let cluster = Cluster::start().await;
    let mut nodes = register_nodes(&cluster, 3).await;
    let writer = writer_of(&cluster, &nodes);
    writer.create_bucket().await;
    let begun = writer.begin(writer.begin_request("cat", 1)).await.unwrap();
    let good = writer.written(&begun.grants, 9);
    let check = async |change: fn(&mut WrittenChunk), code, reason| {
        let mut chunks = good.clone();
        change(&mut chunks[0]);
        assert_refused(writer.commit(writer.commit_request(begun.upload_id, chunks)).await, code, reason);
    };
    check(
        |chunk| chunk.receipts[1..].iter_mut().for_each(|receipt| receipt.mac ^= 1),
        Code::Aborted,
        "STALE_RECEIPTS",
    )
    .await;
    check(|chunk| chunk.crc32c ^= 1, Code::Aborted, "STALE_RECEIPTS").await;
    check(|chunk| chunk.receipts.truncate(1), Code::Aborted, "STALE_RECEIPTS").await;
    let twice = |chunk: &mut WrittenChunk| chunk.receipts = vec![chunk.receipts[0]; 3];
    check(twice, Code::Aborted, "STALE_RECEIPTS").await;
    check(|chunk| chunk.chunk_id[15] ^= 1, Code::InvalidArgument, "INVALID_ARGUMENT").await;
    check(|chunk| chunk.length = 0, Code::InvalidArgument, "INVALID_ARGUMENT").await;
    assert_refused(head(&writer, "cat").await, Code::NotFound, "OBJECT_NOT_FOUND");

    nodes[0].register_again(&cluster).await;
    nodes[1].register_again(&cluster).await;
    let commit = writer_of(&cluster, &nodes).commit_request(begun.upload_id, good);
    let writer = writer_of(&cluster, &nodes);
    assert_refused(writer.commit(commit.clone()).await, Code::Aborted, "STALE_RECEIPTS");
    // The same request may succeed later: this refusal is not kept.
    let renewed = CommitPutRequest { chunks: writer.written(&begun.grants, 9), ..commit };
    assert_eq!(writer.commit(renewed).await.unwrap().object.unwrap().durable_replicas, 3);
}

const fn writer_of<'a>(cluster: &'a Cluster, nodes: &'a [FakeNode]) -> Writer<'a> {
    Writer { cluster, nodes, bucket: "photos" }
}

#[tokio::test]
async fn missing_replica_is_recorded_as_debt() {
    let cluster = Cluster::start().await;
    let nodes = register_nodes(&cluster, 3).await;
    let writer = writer_of(&cluster, &nodes);
    writer.create_bucket().await;
    let begun = writer.begin(writer.begin_request("cat", 2)).await.unwrap();
    let mut chunks = writer.written(&begun.grants, CHUNK + 1);
    chunks[1].receipts.truncate(2);
    let committed = writer.commit(writer.commit_request(begun.upload_id, chunks)).await.unwrap();
    assert_eq!((committed.chunks_in_debt, committed.object.unwrap().durable_replicas), (1, 2));
    let leader = cluster.leader().await;
    assert_eq!(cluster.status_of(leader).await.replica_debt, 1);
}

#[tokio::test]
async fn too_few_nodes_are_named_and_worth_waiting_for() {
    let cluster = Cluster::start().await;
    let nodes = register_nodes(&cluster, 1).await;
    let writer = writer_of(&cluster, &nodes);
    writer.create_bucket().await;
    let status = writer.begin(writer.begin_request("cat", 1)).await.unwrap_err();
    assert!(status.get_details_retry_info().unwrap().retry_delay.is_some());
    assert_refused::<()>(Err(status), Code::Unavailable, "NOT_ENOUGH_NODES");
    assert!(writer.begin(writer.begin_request("empty", 0)).await.is_ok(), "an empty object needs no nodes");
}

#[tokio::test]
async fn nodes_are_avoided_while_others_will_do() {
    let cluster = Cluster::start().await;
    let nodes = register_nodes(&cluster, 4).await;
    let writer = writer_of(&cluster, &nodes);
    writer.create_bucket().await;
    let placed = async |avoid_node_ids: Vec<u32>| {
        let begin = BeginPutRequest { avoid_node_ids, ..writer.begin_request("cat", 16) };
        let begun = writer.begin(begin).await.unwrap();
        begun.grants.into_iter().map(|grant| grant.node_ids).collect::<Vec<_>>()
    };
    let avoided = nodes[1].id();
    let chosen = placed(vec![avoided]).await;
    assert!(chosen.iter().all(|ids| ids.len() == 3 && !ids.contains(&avoided)), "{chosen:?}");
    let chosen = placed(nodes.iter().map(FakeNode::id).collect()).await;
    assert!(chosen.iter().all(|ids| ids.len() == 2), "as few as will do: {chosen:?}");
}

#[tokio::test]
async fn requests_that_make_no_sense_are_refused() {
    let cluster = Cluster::start().await;
    let nodes = register_nodes(&cluster, 3).await;
    let writer = writer_of(&cluster, &nodes);
    writer.create_bucket().await;
    let begin = async |key: &str, chunks| writer.begin(writer.begin_request(key, chunks)).await;
    assert_refused(begin("", 1).await, Code::InvalidArgument, "INVALID_NAME");
    assert_refused(begin("a\nb", 1).await, Code::InvalidArgument, "INVALID_NAME");
    assert_refused(begin(&"k".repeat(1025), 1).await, Code::InvalidArgument, "INVALID_NAME");
    assert_refused(begin("cat", 65).await, Code::InvalidArgument, "INVALID_ARGUMENT");
    let elsewhere = Writer { bucket: "nowhere", ..writer_of(&cluster, &nodes) };
    let begun = elsewhere.begin(elsewhere.begin_request("cat", 1)).await;
    assert_refused(begun, Code::NotFound, "BUCKET_NOT_FOUND");

    let begun = begin("cat", 1).await.unwrap();
    let commit = writer.commit_request(begun.upload_id, writer.written(&begun.grants, 1));
    let wordy = BTreeMap::from([("key".into(), "v".repeat(3000))]);
    let wordy = CommitPutRequest { user_metadata: wordy, ..commit.clone() };
    assert_refused(writer.commit(wordy).await, Code::InvalidArgument, "INVALID_ARGUMENT");
    let odd = CommitPutRequest { content_type: "x".repeat(257), ..commit.clone() };
    assert_refused(writer.commit(odd).await, Code::InvalidArgument, "INVALID_ARGUMENT");
    writer.commit(commit).await.unwrap();
}

#[tokio::test]
async fn object_may_have_as_many_chunks_as_there_can_be() {
    const CHUNKS: u32 = 32_768;
    let cluster = Cluster::start().await;
    let nodes = register_nodes(&cluster, 3).await;
    let writer = writer_of(&cluster, &nodes);
    writer.create_bucket().await;
    let begun = writer.begin(writer.begin_request("huge", 64)).await.unwrap();
    let mut grants = begun.grants;
    while (grants.len() as u32) < CHUNKS {
        grants.extend(extend(&writer, begun.upload_id, 64).await.unwrap().grants);
    }
    assert_refused(extend(&writer, begun.upload_id, 1).await, Code::InvalidArgument, "OBJECT_TOO_LARGE");
    let size = u64::from(CHUNKS) * CHUNK;
    let chunks = writer.written(&grants, size);
    let object = writer.commit(writer.commit_request(begun.upload_id, chunks)).await.unwrap().object.unwrap();
    assert_eq!((object.size, object.durable_replicas), (size, 3));

    let (mut range_start, mut read) = (0, Vec::new());
    while range_start < size {
        let request = GetObjectRequest { name: writer.name("huge"), range_start, ..Default::default() };
        let send = async |mut meta: Meta, request| meta.get_object(request).await;
        let part = cluster.call(request, send).await.unwrap();
        assert_eq!((part.chunks_offset, part.chunks.len()), (range_start, 4096));
        range_start += part.chunks.iter().map(|chunk| u64::from(chunk.length)).sum::<u64>();
        read.extend(part.chunks.into_iter().map(|chunk| chunk.chunk_id));
    }
    assert_eq!(read, grants.into_iter().map(|grant| grant.chunk_id).collect::<Vec<_>>());
}

//! Copies from bucket to bucket, which data nodes are told to make.

use std::time::Duration;

use tonic::{Code, Status};
use xdpfs_meta_server::storage::crc32c;
use xdpfs_proto::{
    meta::v1::*,
    node::v1::{ExchangeFetchesRequest, ExchangeFetchesResponse, Fetch, FetchEnd, FetchedChunk, fetch_end},
};

use crate::harness::{
    CHUNK_SIZE, Cluster, FakeNode, Meta, Writer, assert_refused, eventually, register_nodes, request_id,
};

const CHUNK: u64 = CHUNK_SIZE as u64;
const SIZE: u64 = 2 * CHUNK + 5;

/// Chunks of nodes that are all word: what the writer of the source would have written.
fn bytes_of(fetch: &Fetch, source: &[Chunk]) -> Vec<u8> {
    let of_part = |part: &xdpfs_proto::node::v1::FetchPart| {
        let number = source.iter().position(|chunk| chunk.chunk_id == part.chunk_id).unwrap();
        vec![number as u8; part.length as usize]
    };
    fetch.parts.iter().flat_map(of_part).collect()
}

impl FakeNode {
    async fn exchange(&self, cluster: &Cluster, ended: Vec<FetchEnd>) -> ExchangeFetchesResponse {
        let request = ExchangeFetchesRequest {
            node_id: self.id(),
            node_epoch: self.registered.node_epoch,
            cluster_id: self.registered.cluster_id.clone(),
            ended,
            known_chunk_ids: vec![],
        };
        let send = async |mut node: crate::harness::Node, request| node.exchange_fetches(request).await;
        cluster.node_call(request, send).await.unwrap()
    }

    /// Says that everything is there that it is told to fetch.
    async fn fetch_all(&self, cluster: &Cluster, source: &[Chunk]) -> ExchangeFetchesResponse {
        let told = self.exchange(cluster, vec![]).await;
        let end = |fetch: &Fetch| {
            let crc = crc32c(&bytes_of(fetch, source));
            assert!(fetch.crc32c.is_none_or(|expected| expected == crc));
            let receipt = self.receipt(&fetch.chunk_id, fetch.length, crc);
            let fetched = FetchedChunk { length: fetch.length, crc32c: crc, mac: receipt.mac, held: false };
            FetchEnd { chunk_id: fetch.chunk_id.clone(), end: Some(fetch_end::End::Fetched(fetched)) }
        };
        let ended: Vec<FetchEnd> = told.fetches.iter().map(end).collect();
        if !ended.is_empty() {
            self.exchange(cluster, ended).await;
        }
        told
    }
}

/// A cluster with an object `cat` in the bucket `photos`, and the bucket `backup` to copy it to.
struct Scene {
    cluster: Cluster,
    nodes: Vec<FakeNode>,
    /// What `cat` is made of.
    chunks: Vec<Chunk>,
}

impl Scene {
    async fn start() -> Self {
        Self::start_with(0).await
    }

    /// The bucket to copy to has chunks of this size; zero: the same as the source.
    async fn start_with(chunk_size: u32) -> Self {
        let cluster = Cluster::start().await;
        let nodes = register_nodes(&cluster, 3).await;
        let mut scene = Self { cluster, nodes, chunks: vec![] };
        scene.writer().create_bucket().await;
        let request = CreateBucketRequest {
            request_id: request_id(),
            name: "buckets/backup".into(),
            chunk_size: if chunk_size == 0 { CHUNK_SIZE } else { chunk_size },
            ..Default::default()
        };
        let send = async |mut meta: Meta, request| meta.create_bucket(request).await;
        scene.cluster.call(request, send).await.unwrap();
        scene.writer().put("cat", SIZE, None).await.unwrap();
        scene.chunks = scene.get("buckets/photos/objects/cat").await.unwrap().chunks;
        scene
    }

    fn writer(&self) -> Writer<'_> {
        Writer { cluster: &self.cluster, nodes: &self.nodes, bucket: "photos" }
    }

    async fn get(&self, name: &str) -> Result<GetObjectResponse, Status> {
        let request = GetObjectRequest { name: name.into(), ..Default::default() };
        self.cluster.call(request, async |mut meta: Meta, request| meta.get_object(request).await).await
    }

    async fn begin(&self, request: BeginCopyRequest) -> Result<BeginCopyResponse, Status> {
        self.cluster.call(request, async |mut meta: Meta, request| meta.begin_copy(request).await).await
    }

    async fn go_on(&self, request: &ContinueCopyRequest) -> Result<ContinueCopyResponse, Status> {
        let send = async |mut meta: Meta, request| meta.continue_copy(request).await;
        self.cluster.call(request.clone(), send).await
    }

    /// Goes on, with nodes that do what they are told, until the copy is there.
    async fn finish(&self, request: &ContinueCopyRequest) -> Result<ContinueCopyResponse, Status> {
        eventually("the copy", async || {
            let (cluster, chunks) = (&self.cluster, &self.chunks);
            let [a, b, c] = self.nodes.as_slice() else { panic!("there are three nodes") };
            let (went_on, ..) = tokio::join!(
                self.go_on(request),
                a.fetch_all(cluster, chunks),
                b.fetch_all(cluster, chunks),
                c.fetch_all(cluster, chunks)
            );
            match went_on {
                Ok(answer) if answer.object.is_none() => None,
                ended => Some(ended),
            }
        })
        .await
    }
}

fn begin_request() -> BeginCopyRequest {
    BeginCopyRequest {
        request_id: request_id(),
        source: "buckets/photos/objects/cat".into(),
        destination: "buckets/backup/objects/cat".into(),
        ..Default::default()
    }
}

fn continue_request(begun: &BeginCopyResponse) -> ContinueCopyRequest {
    ContinueCopyRequest {
        request_id: request_id(),
        upload_id: begun.upload_id,
        source: begun.source.clone(),
        ..Default::default()
    }
}

#[tokio::test]
async fn object_appears_once_nodes_have_its_chunks() {
    let scene = Scene::start().await;
    let begun = scene.begin(begin_request()).await.unwrap();
    assert_eq!(begun.size, SIZE);
    let request = continue_request(&begun);
    let under_way = scene.go_on(&request).await.unwrap();
    assert_eq!((under_way.object, under_way.copied_bytes), (None, 0));
    assert_refused(scene.get("buckets/backup/objects/cat").await, Code::NotFound, "OBJECT_NOT_FOUND");

    let source = scene.get("buckets/photos/objects/cat").await.unwrap();
    let bucket_id = source.capability.unwrap().bucket_id;
    let told = scene.nodes[0].fetch_all(&scene.cluster, &scene.chunks).await;
    assert_eq!(told.fetches.len(), 3);
    assert!(told.fetches.iter().zip(&scene.chunks).all(|(fetch, chunk)| {
        let [part] = fetch.parts.as_slice() else { return false };
        (&part.chunk_id, part.length, part.node_ids.first())
            == (&chunk.chunk_id, chunk.length, Some(&scene.nodes[0].id()))
    }));
    assert_eq!(told.capabilities.iter().map(|told| told.bucket_id).collect::<Vec<_>>(), [bucket_id]);
    let addresses: Vec<_> = told.sources.iter().flat_map(|source| source.addresses.clone()).collect();
    assert_eq!(addresses, ["node-0:9000", "node-1:9000", "node-2:9000"]);

    let copied = scene.finish(&request).await.unwrap();
    let (object, original) = (copied.object.unwrap(), source.object.unwrap());
    assert_eq!((object.size, object.crc32c, object.durable_replicas), (SIZE, original.crc32c, 3));
    let held = scene.get("buckets/backup/objects/cat").await.unwrap();
    assert_eq!(held.object.as_ref(), Some(&object));
    assert!(held.chunks.iter().all(|chunk| chunk.chunk_id[..4] != scene.chunks[0].chunk_id[..4]));
    assert_eq!(scene.go_on(&request).await.unwrap().object, Some(object), "the answer is given again");
    assert!(scene.nodes[0].exchange(&scene.cluster, vec![]).await.fetches.is_empty());
}

#[tokio::test]
async fn chunks_are_cut_anew_for_a_bucket_that_cuts_otherwise() {
    for chunk_size in [2 * CHUNK_SIZE, 4 * CHUNK_SIZE] {
        let scene = Scene::start_with(chunk_size).await;
        let begun = scene.begin(begin_request()).await.unwrap();
        let object = scene.finish(&continue_request(&begun)).await.unwrap().object.unwrap();
        let source = scene.get("buckets/photos/objects/cat").await.unwrap().object.unwrap();
        assert_eq!((object.size, object.crc32c), (SIZE, source.crc32c));
        let held = scene.get("buckets/backup/objects/cat").await.unwrap();
        assert_eq!(held.chunks.len() as u64, SIZE.div_ceil(chunk_size.into()));
    }
}

#[tokio::test]
async fn words_about_the_source_are_kept_or_replaced() {
    let scene = Scene::start().await;
    let begun = scene.begin(begin_request()).await.unwrap();
    let metadata = ObjectMetadata { content_type: "image/copy".into(), ..Default::default() };
    let request = ContinueCopyRequest { metadata: Some(metadata), ..continue_request(&begun) };
    assert_eq!(scene.finish(&request).await.unwrap().object.unwrap().content_type, "image/copy");
}

#[tokio::test]
async fn version_that_was_there_at_the_beginning_is_copied() {
    let scene = Scene::start().await;
    let etag = scene.get("buckets/photos/objects/cat").await.unwrap().object.unwrap().etag;
    let begun = scene.begin(begin_request()).await.unwrap();
    assert_eq!(begun.source.as_ref().unwrap().etag, etag);
    scene.writer().put("cat", 1, None).await.unwrap();
    let object = scene.finish(&continue_request(&begun)).await.unwrap().object.unwrap();
    assert_eq!(object.size, SIZE);
}

#[tokio::test]
async fn next_leader_goes_on_with_a_copy() {
    let mut scene = Scene::start().await;
    let begun = scene.begin(begin_request()).await.unwrap();
    let request = continue_request(&begun);
    scene.go_on(&request).await.unwrap();
    scene.nodes[1].fetch_all(&scene.cluster, &scene.chunks).await;
    let leader = scene.cluster.leader().await;
    scene.cluster.kill(leader);
    scene.cluster.leader().await;
    let object = scene.finish(&request).await.unwrap().object.unwrap();
    assert_eq!((object.size, object.durable_replicas), (SIZE, 3));
}

#[tokio::test]
async fn copy_of_a_source_that_nobody_remembers_fails() {
    let mut scene = Scene::start().await;
    let request = continue_request(&scene.begin(begin_request()).await.unwrap());
    scene.go_on(&request).await.unwrap();
    scene.writer().put("cat", 1, None).await.unwrap();
    let leader = scene.cluster.leader().await;
    scene.cluster.kill(leader);
    scene.cluster.leader().await;
    assert_refused(scene.finish(&request).await, Code::Aborted, "SOURCE_CHANGED");
}

#[tokio::test]
async fn copy_that_is_given_up_leaves_nothing() {
    let scene = Scene::start().await;
    let begun = scene.begin(begin_request()).await.unwrap();
    scene.go_on(&continue_request(&begun)).await.unwrap();
    scene.nodes[0].fetch_all(&scene.cluster, &scene.chunks).await;
    let abort = AbortPutRequest { request_id: request_id(), upload_id: begun.upload_id };
    let send = async |mut meta: Meta, request| meta.abort_put(request).await;
    scene.cluster.call(abort, send).await.unwrap();
    assert!(scene.nodes[1].exchange(&scene.cluster, vec![]).await.fetches.is_empty());
    let leader = scene.cluster.leader().await;
    let status = scene.cluster.status_of(leader).await;
    assert_eq!((status.open_uploads, status.pending_deletes), (0, 9), "whatever was fetched is collected");
    let late = scene.go_on(&continue_request(&begun)).await;
    assert_refused(late, Code::NotFound, "UPLOAD_NOT_FOUND");
}

#[tokio::test]
async fn conditions_on_both_ends_are_judged() {
    let scene = Scene::start().await;
    let none = |kind| Some(Precondition { kind: Some(kind) });
    let free = || none(precondition::Kind::IfNoneMatchAny(true));
    let other = BeginCopyRequest {
        source_precondition: none(precondition::Kind::IfMatch("other".into())),
        ..begin_request()
    };
    assert_refused(scene.begin(other).await, Code::FailedPrecondition, "PRECONDITION_FAILED");
    let begun = scene.begin(BeginCopyRequest { precondition: free(), ..begin_request() }).await.unwrap();
    let first = scene.begin(begin_request()).await.unwrap();
    scene.finish(&continue_request(&first)).await.unwrap();
    let late = ContinueCopyRequest { precondition: free(), ..continue_request(&begun) };
    assert_refused(scene.finish(&late).await, Code::FailedPrecondition, "PRECONDITION_FAILED");
    let taken = BeginCopyRequest { precondition: free(), ..begin_request() };
    assert_refused(scene.begin(taken).await, Code::FailedPrecondition, "PRECONDITION_FAILED");
}

#[tokio::test]
async fn requests_that_make_no_sense_are_refused() {
    let scene = Scene::start().await;
    let check = async |change: fn(&mut BeginCopyRequest), code, reason| {
        let mut request = begin_request();
        change(&mut request);
        assert_refused(scene.begin(request).await, code, reason);
    };
    let within = |request: &mut BeginCopyRequest| request.destination = "buckets/photos/objects/x".into();
    check(within, Code::InvalidArgument, "INVALID_ARGUMENT").await;
    check(|request| request.source = "photos/cat".into(), Code::InvalidArgument, "INVALID_NAME").await;
    let missing = |request: &mut BeginCopyRequest| request.source.push('x');
    check(missing, Code::NotFound, "OBJECT_NOT_FOUND").await;
    let nowhere = |request: &mut BeginCopyRequest| request.destination = "buckets/nowhere/objects/x".into();
    check(nowhere, Code::NotFound, "BUCKET_NOT_FOUND").await;
    let quota = UpdateBucketRequest {
        request_id: request_id(),
        name: "buckets/backup".into(),
        quota_bytes: Some(SIZE - 1),
        ..Default::default()
    };
    let send = async |mut meta: Meta, request| meta.update_bucket(request).await;
    scene.cluster.call(quota, send).await.unwrap();
    check(|_| {}, Code::FailedPrecondition, "QUOTA_EXCEEDED").await;
}

#[tokio::test]
async fn nodes_of_an_older_release_are_not_asked() {
    let scene = Scene::start().await;
    // Its heartbeat does not say that it fetches.
    for node in &scene.nodes[..2] {
        node.send_heartbeat(&scene.cluster, node.heartbeat()).await;
    }
    let refused = scene.begin(begin_request()).await;
    assert_refused(refused, Code::FailedPrecondition, "COPY_UNSUPPORTED");
    let newer = xdpfs_proto::node::v1::HeartbeatRequest { takes_fetches: true, ..scene.nodes[0].heartbeat() };
    scene.nodes[0].send_heartbeat(&scene.cluster, newer.clone()).await;
    let begun = scene.begin(begin_request()).await.unwrap();
    let object = scene.finish(&continue_request(&begun)).await.unwrap().object.unwrap();
    assert_eq!(object.durable_replicas, 2);
    let asked = scene.nodes[0].send_heartbeat(&scene.cluster, newer).await.exchange_fetches;
    assert!(asked, "it goes on asking for a while");
    assert!(scene.nodes[1].exchange(&scene.cluster, vec![]).await.fetches.is_empty());
}

#[tokio::test]
async fn node_that_is_silent_costs_a_replica() {
    let scene = Scene::start().await;
    let request = continue_request(&scene.begin(begin_request()).await.unwrap());
    let written = eventually("the copy", async || {
        let (cluster, chunks) = (&scene.cluster, &scene.chunks);
        let (went_on, ..) = tokio::join!(
            scene.go_on(&request),
            scene.nodes[0].fetch_all(cluster, chunks),
            scene.nodes[1].fetch_all(cluster, chunks),
        );
        went_on.unwrap().object.is_some().then_some(())
    });
    tokio::time::timeout(Duration::from_secs(15), written).await.unwrap();
    let object = scene.get("buckets/backup/objects/cat").await.unwrap().object.unwrap();
    assert_eq!(object.durable_replicas, 2);
}

//! Repair, as nodes and operators see it: orders to fetch, manifests that change, registrations that end.

use std::time::Duration;

use tonic::{Code, Status};
use xdpfs_proto::{
    meta::v1::*,
    node::v1::{
        ExchangeFetchesRequest, ExchangeFetchesResponse, Fetch, FetchEnd, FetchedChunk, ReportChunksRequest,
        fetch_end,
    },
};

use crate::harness::{
    CHUNK_SIZE, Cluster, FakeNode, Meta, Writer, assert_refused, eventually, register_nodes, request_id,
};

const SIZE: u64 = 2 * CHUNK_SIZE as u64;

/// A cluster with an object `cat` of two chunks on the first three of its nodes.
struct Scene {
    cluster: Cluster,
    nodes: Vec<FakeNode>,
}

impl Scene {
    async fn start(configure: fn(&mut xdpfs_meta_server::Config)) -> Self {
        let cluster = Cluster::start_with(configure).await;
        let nodes = register_nodes(&cluster, 3).await;
        let mut scene = Self { cluster, nodes };
        scene.writer().create_bucket().await;
        scene.writer().put("cat", SIZE, None).await.unwrap();
        scene.nodes.push(FakeNode::register(&scene.cluster, "node-3:9000").await);
        scene.speak(&[0, 1, 2, 3]).await;
        scene
    }

    fn writer(&self) -> Writer<'_> {
        Writer { cluster: &self.cluster, nodes: &self.nodes, bucket: "photos" }
    }

    /// Some nodes say that they are alive, and that they can fetch.
    async fn speak(&self, who: &[usize]) {
        for at in who {
            let mut heartbeat = self.nodes[*at].heartbeat();
            heartbeat.takes_fetches = true;
            self.nodes[*at].send_heartbeat(&self.cluster, heartbeat).await;
        }
    }

    async fn exchange(&self, at: usize, ended: Vec<FetchEnd>) -> ExchangeFetchesResponse {
        let node = &self.nodes[at];
        let request = ExchangeFetchesRequest {
            node_id: node.id(),
            node_epoch: node.registered.node_epoch,
            cluster_id: node.registered.cluster_id.clone(),
            ended,
            known_chunk_ids: vec![],
        };
        let send = async |mut node: crate::harness::Node, request| node.exchange_fetches(request).await;
        self.cluster.node_call(request, send).await.unwrap()
    }

    /// The node does all that it is told. Gives what that was.
    async fn obey(&self, at: usize) -> Vec<Fetch> {
        let told = self.exchange(at, vec![]).await.fetches;
        let end = |fetch: &Fetch| {
            let crc = fetch.crc32c.unwrap();
            let mac = self.nodes[at].receipt(&fetch.chunk_id, fetch.length, crc).mac;
            let fetched = FetchedChunk { length: fetch.length, crc32c: crc, mac, held: false };
            FetchEnd { chunk_id: fetch.chunk_id.clone(), end: Some(fetch_end::End::Fetched(fetched)) }
        };
        let ended: Vec<_> = told.iter().map(end).collect();
        if !ended.is_empty() {
            self.exchange(at, ended).await;
        }
        told
    }

    async fn holders(&self) -> Vec<Vec<u32>> {
        let request = GetObjectRequest { name: "buckets/photos/objects/cat".into(), ..Default::default() };
        let send = async |mut meta: Meta, request| meta.get_object(request).await;
        let chunks = self.cluster.call(request, send).await.unwrap().chunks;
        chunks.into_iter().map(|chunk| chunk.node_ids).collect()
    }

    async fn drain(&self, at: usize, draining: bool) {
        let name = format!("nodes/{}", self.nodes[at].id());
        let request = DrainNodeRequest { request_id: request_id(), name, draining };
        let send = async |mut meta: Meta, request| meta.drain_node(request).await;
        self.cluster.call(request, send).await.unwrap();
    }

    async fn remove(&self, at: usize, lost: bool) -> Result<RemoveNodeResponse, Status> {
        let name = format!("nodes/{}", self.nodes[at].id());
        let request = RemoveNodeRequest { request_id: request_id(), name, lost, with_its_objects: false };
        self.cluster.call(request, async |mut meta: Meta, request| meta.remove_node(request).await).await
    }

    async fn repair(&self) -> RepairStatus {
        let send = async |mut meta: Meta, request| meta.get_repair_status(request).await;
        let status = eventually("repair to say how it is", async || {
            self.cluster.call(GetRepairStatusRequest {}, send).await.ok()?.repair
        });
        status.await
    }
}

#[tokio::test]
async fn drained_node_is_freed_and_can_be_removed_then() {
    let scene = Scene::start(|_| ()).await;
    let [first, .., last] = &scene.nodes[..] else { panic!() };
    assert!(scene.holders().await.iter().all(|nodes| nodes.contains(&first.id())));
    assert_refused(scene.remove(0, false).await, Code::FailedPrecondition, "NODE_IN_USE");
    assert_refused(scene.remove(0, true).await, Code::FailedPrecondition, "NODE_IN_USE");
    scene.drain(0, true).await;
    eventually("the chunks to have moved", async || {
        for fetch in scene.obey(3).await {
            assert!(fetch.parts.len() == 1 && fetch.parts[0].chunk_id == fetch.chunk_id && !fetch.verify);
        }
        let holders = scene.holders().await;
        holders.iter().all(|nodes| !nodes.contains(&first.id()) && nodes.contains(&last.id())).then_some(())
    })
    .await;
    let status = eventually("all to be looked at", async || {
        let status = scene.repair().await;
        (status.complete && status.classes.is_empty()).then_some(status)
    })
    .await;
    assert_eq!((status.chunks_repaired, status.bytes_repaired), (2, SIZE));
    let leaving: Vec<_> = status.nodes.iter().map(|node| (node.node_id, node.replicas)).collect();
    assert_eq!(leaving, [(first.id(), 0)]);
    assert_eq!(scene.cluster.status_of(scene.cluster.leader().await).await.pending_deletes, 2);
    // Nothing new goes there.
    scene.writer().put("dog", 1, None).await.unwrap();
    assert_eq!(scene.remove(0, false).await.unwrap().replicas, 0);
    let again = first.registration();
    let send = async |mut node: crate::harness::Node, request| node.register_node(request).await;
    assert_refused(scene.cluster.node_call(again, send).await, Code::FailedPrecondition, "NODE_REMOVED");
}

#[tokio::test]
async fn undrained_node_keeps_what_is_left() {
    let scene = Scene::start(|_| ()).await;
    scene.drain(0, true).await;
    eventually("an order", async || (!scene.exchange(3, vec![]).await.fetches.is_empty()).then_some(()))
        .await;
    scene.drain(0, false).await;
    eventually("nothing to be left to do", async || {
        let status = scene.repair().await;
        (status.complete && status.nodes.is_empty()).then_some(())
    })
    .await;
}

#[tokio::test]
async fn chunk_that_a_report_lacks_is_ordered_where_it_was() {
    let scene = Scene::start(|_| ()).await;
    let node = &scene.nodes[1];
    let report = ReportChunksRequest {
        node_id: node.id(),
        node_epoch: node.registered.node_epoch,
        first: vec![0; 16],
        last: vec![0xff; 16],
        chunk_ids: vec![],
        cluster_id: node.registered.cluster_id.clone(),
    };
    let send = async |mut node: crate::harness::Node, request| node.report_chunks(request).await;
    assert_eq!(scene.cluster.node_call(report, send).await.unwrap().missing, 2);
    let mut ordered = 0;
    eventually("both to be fetched", async || {
        for fetch in scene.obey(1).await {
            let sources = &fetch.parts[0].node_ids;
            assert!(!sources.contains(&node.id()) && sources.len() == 2, "{sources:?}");
            ordered += 1;
        }
        (ordered >= 2).then_some(())
    })
    .await;
    assert!(scene.holders().await.iter().all(|nodes| nodes.contains(&node.id())), "no manifest has changed");
    assert_eq!(
        eventually("it to be counted", async || {
            let status = scene.repair().await;
            (status.chunks_repaired >= 2).then_some(status.replicas_cleared)
        })
        .await,
        0
    );
}

#[tokio::test]
async fn what_a_reader_complains_of_is_looked_at_and_not_believed() {
    let scene = Scene::start(|_| ()).await;
    let name = "buckets/photos/objects/cat".to_owned();
    let get = GetObjectRequest { name, ..Default::default() };
    let send = async |mut meta: Meta, request| meta.get_object(request).await;
    let chunk_id = scene.cluster.call(get, send).await.unwrap().chunks[0].chunk_id.clone();
    let node_id = scene.nodes[2].id();
    let report = |parent: &str, node_id| ReportReplicasRequest {
        parent: parent.into(),
        replicas: vec![DoubtfulReplica { chunk_id: chunk_id.clone(), node_id }],
    };
    let send = async |mut meta: Meta, request| meta.report_replicas(request).await;
    // A node that does not hold it by any manifest is asked nothing.
    scene.cluster.call(report("buckets/photos", scene.nodes[3].id()), send).await.unwrap();
    scene.cluster.call(report("buckets/photos", node_id), send).await.unwrap();
    assert_refused(
        scene.cluster.call(report("buckets/none", node_id), send).await,
        Code::NotFound,
        "BUCKET_NOT_FOUND",
    );
    let told = eventually("the node to be asked", async || {
        let told = scene.exchange(2, vec![]).await.fetches;
        (!told.is_empty()).then_some(told)
    })
    .await;
    assert!(told[0].verify && told[0].chunk_id == chunk_id);
    let crc = told[0].crc32c.unwrap();
    let mac = scene.nodes[2].receipt(&chunk_id, told[0].length, crc).mac;
    let fetched = FetchedChunk { length: told[0].length, crc32c: crc, mac, held: true };
    scene.exchange(2, vec![FetchEnd { chunk_id, end: Some(fetch_end::End::Fetched(fetched)) }]).await;
    eventually("it to be cleared", async || (scene.repair().await.replicas_cleared == 1).then_some(())).await;
    assert!(scene.exchange(3, vec![]).await.fetches.is_empty());
}

#[tokio::test]
async fn registration_of_a_silent_node_ends_and_its_chunks_are_made_anew() {
    let mut scene = Scene::start(|config| {
        config.times.heartbeat_interval = Duration::from_millis(50);
        config.times.node_silent_after = Duration::from_secs(2);
        config.times.node_lease = Duration::from_secs(3);
        config.times.repair_after = Duration::from_secs(3);
    })
    .await;
    let silent = scene.nodes[0].clone();
    eventually("the chunks to be made anew", async || {
        scene.speak(&[1, 2, 3]).await;
        scene.obey(3).await;
        scene.holders().await.iter().all(|nodes| !nodes.contains(&silent.id())).then_some(())
    })
    .await;
    let status = scene.cluster.status_of(scene.cluster.leader().await).await;
    assert!(status.data_nodes[0].node_epoch > silent.registered.node_epoch, "its registration is over");
    let answer = silent.send_heartbeat(&scene.cluster, silent.heartbeat()).await;
    assert!(answer.register_again);
    scene.nodes[0].register_again(&scene.cluster).await;
    let answer = scene.nodes[0].send_heartbeat(&scene.cluster, scene.nodes[0].heartbeat()).await;
    assert!(!answer.register_again);
    assert_eq!(answer.lease_ms, 3000);
}

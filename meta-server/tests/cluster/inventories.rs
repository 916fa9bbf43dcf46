//! Inventories, as nodes and operators see them: what is asked for, what is believed, and what is collected.

use std::{collections::BTreeMap, time::Duration};

use xdpfs_meta_server::Config;
use xdpfs_proto::{
    meta::v1::*,
    node::v1::{HeartbeatRequest, TellInventoryRequest, TellInventoryResponse},
};

use crate::harness::{
    CHUNK_SIZE, Cluster, FakeNode, Meta, Node, Writer, eventually, register_nodes, request_id,
};

/// A chunk with its length and its checksum.
type Held = BTreeMap<Vec<u8>, (u32, u32)>;

/// A grace that a test can wait for.
fn with_short_grace(config: &mut Config) {
    let times = &mut config.times;
    times.upload_lease = Duration::from_secs(1);
    times.write_capability = Duration::from_secs(1);
    times.read_capability = Duration::from_secs(1);
    times.deletion_grace = Duration::from_secs(2);
}

/// A cluster with an object `cat` of two chunks on the first three of its four nodes, and what these hold.
struct Scene {
    cluster: Cluster,
    nodes: Vec<FakeNode>,
    held: Vec<Held>,
}

impl Scene {
    async fn start(configure: fn(&mut Config)) -> Self {
        let cluster = Cluster::start_with(configure).await;
        let mut nodes = register_nodes(&cluster, 3).await;
        let writer = Writer { cluster: &cluster, nodes: &nodes, bucket: "photos" };
        writer.create_bucket().await;
        let mut held = vec![Held::new(); 4];
        for key in ["cat", "gone"] {
            writer.put(key, 2 * u64::from(CHUNK_SIZE), None).await.unwrap();
            let request = GetObjectRequest { name: writer.name(key), ..Default::default() };
            let send = async |mut meta: Meta, request| meta.get_object(request).await;
            for chunk in cluster.call(request, send).await.unwrap().chunks {
                // Of what is deleted, only the last node has a replica: one that was made too late.
                let holders = if key == "cat" { 0..3 } else { 3..4 };
                for holder in holders {
                    held[holder].insert(chunk.chunk_id.clone(), (chunk.length, chunk.crc32c));
                }
            }
        }
        let name = writer.name("gone");
        let delete = DeleteObjectRequest { request_id: request_id(), name, ..Default::default() };
        let send = async |mut meta: Meta, request| meta.delete_object(request).await;
        cluster.call(delete, send).await.unwrap();
        nodes.push(FakeNode::register(&cluster, "node-3:9000").await);
        Self { cluster, nodes, held }
    }

    async fn take(&self, number: u64, collect: bool) -> TakeInventoryResponse {
        let request = TakeInventoryRequest { number, collect, request_id: request_id() };
        let send = async |mut meta: Meta, request| meta.take_inventory(request).await;
        self.cluster.call(request, send).await.unwrap()
    }

    fn heartbeat(&self, at: usize) -> HeartbeatRequest {
        HeartbeatRequest { tells_inventory: true, ..self.nodes[at].heartbeat() }
    }

    /// The node tells all that it holds from an id on.
    async fn tell(&self, at: usize, number: u64, first: Vec<u8>) -> TellInventoryResponse {
        let node = &self.nodes[at];
        let held: Vec<_> = self.held[at].range(first.clone()..).collect();
        let request = TellInventoryRequest {
            node_id: node.id(),
            node_epoch: node.registered.node_epoch,
            cluster_id: node.registered.cluster_id.clone(),
            number,
            first,
            last: vec![0xff; 16],
            chunk_ids: held.iter().map(|(chunk, _)| (*chunk).clone()).collect(),
            lengths: held.iter().map(|(_, (length, _))| *length).collect(),
            crc32cs: held.iter().map(|(_, (_, crc))| *crc).collect(),
        };
        let send = async |mut node: Node, request| node.tell_inventory(request).await;
        self.cluster.node_call(request, send).await.unwrap()
    }

    async fn speak(&self) {
        for at in 0..self.nodes.len() {
            self.nodes[at].send_heartbeat(&self.cluster, self.heartbeat(at)).await;
        }
    }

    /// All nodes do what they are told until everything was looked at.
    async fn complete(&self, collect: bool) -> TakeInventoryResponse {
        let number = self.take(0, collect).await.number;
        for at in 0..self.nodes.len() {
            let wanted = self.nodes[at].send_heartbeat(&self.cluster, self.heartbeat(at)).await.inventory;
            assert_eq!(wanted, number, "node {at} is asked");
            let mut step = self.tell(at, number, vec![0; 16]).await;
            while !step.done {
                tokio::time::sleep(Duration::from_millis(step.wait_ms.into())).await;
                self.speak().await;
                step = self.tell(at, number, step.next).await;
            }
        }
        eventually("all to be looked at", async || {
            self.speak().await;
            let taken = self.take(number, collect).await;
            assert_eq!(taken.number, number);
            taken.complete.then_some(taken)
        })
        .await
    }
}

fn counts(taken: &TakeInventoryResponse) -> BTreeMap<InventoryKind, u64> {
    taken.counts.iter().map(|of_kind| (of_kind.kind(), of_kind.count)).collect()
}

#[tokio::test]
async fn what_is_wrong_twice_is_found_and_what_nothing_refers_to_is_collected() {
    let mut scene = Scene::start(with_short_grace).await;
    let [first, second]: [Vec<u8>; 2] = scene.held[0].keys().cloned().collect::<Vec<_>>().try_into().unwrap();
    scene.held[1].remove(&first);
    scene.held[2].insert(second.clone(), (CHUNK_SIZE, 1));
    let taken = scene.complete(false).await;
    let expect =
        [(InventoryKind::Missing, 1), (InventoryKind::Different, 1), (InventoryKind::Unreferenced, 2)];
    assert_eq!(counts(&taken), expect.into());
    assert_eq!((taken.objects, taken.chunks, taken.nodes.len()), (1, 2, 4));
    let of_kind = |kind| taken.findings.iter().filter(move |finding| finding.kind() == kind);
    let missing = of_kind(InventoryKind::Missing).next().unwrap();
    assert_eq!((&missing.chunk_id, missing.node_id), (&first, scene.nodes[1].id()));
    assert_eq!((missing.object.as_str(), missing.others), ("buckets/photos/objects/cat", 2));
    let different = of_kind(InventoryKind::Different).next().unwrap();
    assert_eq!((&different.chunk_id, different.node_id), (&second, scene.nodes[2].id()));
    assert!(of_kind(InventoryKind::Unreferenced).all(|found| found.object.is_empty()));
    let ordered = scene.nodes[3].send_heartbeat(&scene.cluster, scene.heartbeat(3)).await.delete_chunk_ids;
    assert!(ordered.is_empty(), "looking removes nothing");

    let taken = scene.complete(true).await;
    let of_last = taken.nodes.iter().find(|node| node.node_id == scene.nodes[3].id()).unwrap();
    assert_eq!(
        (of_last.standing(), of_last.chunks, of_last.collected),
        (inventory_node::Standing::Told, 2, 2)
    );
    let orphans: Vec<Vec<u8>> = scene.held[3].keys().cloned().collect();
    eventually("the grace to be over", async || {
        let answer = scene.nodes[3].send_heartbeat(&scene.cluster, scene.heartbeat(3)).await;
        (answer.delete_chunk_ids == orphans).then_some(())
    })
    .await;
    let taken = scene.complete(false).await;
    assert_eq!(counts(&taken).get(&InventoryKind::Unreferenced), None, "they are pending deletes");
}

#[tokio::test]
async fn what_is_mended_before_the_second_look_is_not_claimed() {
    let mut scene = Scene::start(with_short_grace).await;
    let number = scene.take(0, false).await.number;
    let lacking = scene.held[0].pop_first().unwrap();
    let step = scene.tell(0, number, vec![0; 16]).await;
    assert!(!step.done && step.next == [0; 16], "{step:?}");
    let at_once = scene.tell(0, number, step.next.clone()).await;
    assert_eq!((at_once.done, &at_once.next), (false, &step.next), "it is given time");
    tokio::time::sleep(Duration::from_millis(at_once.wait_ms.into())).await;
    scene.held[0].insert(lacking.0, lacking.1);
    assert!(scene.tell(0, number, at_once.next).await.done);
    assert!(scene.tell(0, number, vec![0; 16]).await.done, "nobody waits for it any more");
    assert_eq!(counts(&scene.take(number, false).await), BTreeMap::new());
}

#[tokio::test]
async fn nodes_that_cannot_be_asked_are_named() {
    let scene = Scene::start(|config| config.times.node_silent_after = Duration::from_secs(2)).await;
    let number = scene.take(0, false).await.number;
    scene.nodes[0].send_heartbeat(&scene.cluster, scene.nodes[0].heartbeat()).await;
    for at in [1, 2] {
        scene.nodes[at].send_heartbeat(&scene.cluster, scene.heartbeat(at)).await;
        assert!(scene.tell(at, number, vec![0; 16]).await.done);
    }
    let taken = eventually("the last one to be silent", async || {
        for at in [1, 2] {
            scene.nodes[at].send_heartbeat(&scene.cluster, scene.heartbeat(at)).await;
        }
        let taken = scene.take(number, false).await;
        taken.complete.then_some(taken)
    })
    .await;
    use inventory_node::Standing;
    let standings: Vec<_> = taken.nodes.iter().map(InventoryNode::standing).collect();
    assert_eq!(standings, [Standing::Unable, Standing::Told, Standing::Told, Standing::Silent]);
}

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tonic::{Code, Status};
use xdpfs_proto::meta::v1::*;

use crate::harness::{
    Cluster, FakeNode, Meta, Writer, assert_refused, eventually, register_nodes, request_id,
};

fn labels(labels: &[(&str, &str)]) -> BTreeMap<String, String> {
    labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

async fn label(cluster: &Cluster, request: LabelNodeRequest) -> Result<LabelNodeResponse, Status> {
    cluster.call(request, async |mut meta: Meta, request| meta.label_node(request).await).await
}

/// A request that sets one label.
fn set(node: &FakeNode, key: &str, value: &str) -> LabelNodeRequest {
    let set = labels(&[(key, value)]);
    LabelNodeRequest {
        request_id: request_id(),
        name: format!("nodes/{}", node.id()),
        set,
        ..Default::default()
    }
}

async fn explain(cluster: &Cluster, name: String, as_new: bool) -> Result<ExplainPlacementResponse, Status> {
    let request = ExplainPlacementRequest { name, as_new, ..Default::default() };
    cluster.call(request, async |mut meta: Meta, request| meta.explain_placement(request).await).await
}

async fn plan(cluster: &Cluster, node_ids: &[u32]) -> Result<PlanDrainResponse, Status> {
    let request = PlanDrainRequest { node_ids: node_ids.to_vec(), ..Default::default() };
    cluster.call(request, async |mut meta: Meta, request| meta.plan_drain(request).await).await
}

/// Two nodes in each of three zones, which say so themselves; numbered a, a, b, b, c, c.
async fn three_zones(cluster: &Cluster) -> Vec<FakeNode> {
    let mut nodes = register_nodes(cluster, 6).await;
    for (at, node) in nodes.iter_mut().enumerate() {
        node.labels = labels(&[("zone", ["a", "b", "c"][at / 2])]);
        node.register_again(cluster).await;
    }
    nodes
}

fn zones_of(nodes: &[PlacedNode], ids: &[u32]) -> BTreeSet<String> {
    nodes.iter().filter(|node| ids.contains(&node.node_id)).map(|node| node.zone.clone()).collect()
}

#[tokio::test]
async fn operators_labels_win_and_last_on_every_server() {
    let cluster = Cluster::start().await;
    let mut nodes = register_nodes(&cluster, 2).await;
    nodes[0].labels = labels(&[("zone", "a"), ("disk", "sda")]);
    nodes[0].register_again(&cluster).await;
    let held = PreconditionCheck("PRECONDITION_FAILED");
    held.assert(label(&cluster, set(&nodes[0], "zone", "b")).await);
    let request = LabelNodeRequest { overwrite: true, ..set(&nodes[0], "zone", "b") };
    let answer = label(&cluster, request.clone()).await.unwrap();
    assert_eq!(label(&cluster, request).await.unwrap(), answer, "a repeated request has its first answer");
    let said: Vec<_> =
        answer.labels.iter().map(|label| (&*label.key, &*label.value, label.by_operator)).collect();
    assert_eq!(said, [("disk", "sda", false), ("zone", "b", true)]);

    nodes[0].labels = labels(&[("zone", "c")]);
    nodes[0].register_again(&cluster).await;
    eventually("every server to know", async || {
        for id in 1..=3 {
            let node = cluster.status_of(id).await.data_nodes.into_iter().find(|node| node.node_id == 1)?;
            let known: Vec<_> = node.labels.iter().map(|label| (&*label.key, &*label.value)).collect();
            (known == [("zone", "b")] && node.register_time_ms > 1_600_000_000_000).then_some(())?;
        }
        Some(())
    })
    .await;

    let remove = |key: &str| LabelNodeRequest {
        request_id: request_id(),
        name: "nodes/1".into(),
        remove: vec![key.into()],
        ..Default::default()
    };
    let back = label(&cluster, remove("zone")).await.unwrap();
    assert_eq!((&*back.labels[0].value, back.labels[0].by_operator), ("c", false));
    held.assert(label(&cluster, remove("zone")).await);
    let nobody = LabelNodeRequest { name: "nodes/99".into(), ..set(&nodes[0], "zone", "b") };
    assert_refused(label(&cluster, nobody).await, Code::FailedPrecondition, "NODE_UNKNOWN");
    let bad = set(&nodes[0], "Zone", "b");
    assert_refused(label(&cluster, bad).await, Code::InvalidArgument, "INVALID_ARGUMENT");
}

struct PreconditionCheck(&'static str);

impl PreconditionCheck {
    fn assert(&self, answer: Result<LabelNodeResponse, Status>) {
        assert_refused(answer, Code::FailedPrecondition, self.0);
    }
}

#[tokio::test]
async fn chunks_are_granted_in_distinct_zones_and_the_explanation_agrees() {
    let cluster = Cluster::start().await;
    let nodes = three_zones(&cluster).await;
    let writer = Writer { cluster: &cluster, nodes: &nodes, bucket: "photos" };
    writer.create_bucket().await;
    let begun = writer.begin(writer.begin_request("many", 64)).await.unwrap();
    for grant in &begun.grants {
        let zones: BTreeSet<u32> = grant.node_ids.iter().map(|node| (node - 1) / 2).collect();
        assert_eq!((grant.node_ids.len(), zones.len()), (3, 3), "{grant:?}");
    }

    writer.put("cat", 5 * 65_536 + 1, None).await.unwrap();
    let said = explain(&cluster, writer.name("cat"), false).await.unwrap();
    assert_eq!((said.chunk_count, said.chunks.len(), said.chunks_in_debt), (6, 6, 0));
    assert_eq!(said.spreads, [SpreadCount { spread: Spread::Zones.into(), chunks: 6 }]);
    let get = GetObjectRequest { name: writer.name("cat"), ..Default::default() };
    let manifest =
        cluster.call(get, async |mut meta: Meta, request| meta.get_object(request).await).await.unwrap();
    for (at, (said_chunk, chunk)) in said.chunks.iter().zip(&manifest.chunks).enumerate() {
        assert_eq!((&said_chunk.chunk_id, &said_chunk.node_ids), (&chunk.chunk_id, &chunk.node_ids));
        assert_eq!((said_chunk.length, said_chunk.offset), (chunk.length, at as u64 * 65_536));
        assert_eq!(zones_of(&said.nodes, &said_chunk.node_ids).len(), 3);
    }
    let counted: u64 = said.nodes.iter().map(|node| node.chunks).sum();
    assert_eq!(counted, 18);

    let new = explain(&cluster, writer.name("none"), false).await.unwrap();
    assert!(new.object.is_none() && new.obstacle.is_empty() && new.nodes.len() == 6);
    let chosen: Vec<u32> = new
        .nodes
        .iter()
        .filter(|node| node.verdict() == PlacementVerdict::Chosen)
        .map(|node| node.node_id)
        .collect();
    assert_eq!((chosen.len(), zones_of(&new.nodes, &chosen).len()), (3, 3));
    assert_eq!(new.nodes.iter().map(|node| node.chosen_of_thousand).sum::<u32>(), 3000);
    assert_eq!(explain(&cluster, writer.name("cat"), true).await.unwrap().object, None);
    let lost = explain(&cluster, "buckets/nowhere/objects/x".into(), false).await;
    assert_refused(lost, Code::NotFound, "BUCKET_NOT_FOUND");
}

#[tokio::test]
async fn explanation_names_silent_nodes_and_what_is_out_of_reach() {
    let cluster = Cluster::start_with(|config| {
        // Long enough for a put on a slow machine.
        config.times.node_silent_after = Duration::from_secs(4);
    })
    .await;
    let nodes = three_zones(&cluster).await;
    let writer = Writer { cluster: &cluster, nodes: &nodes, bucket: "photos" };
    writer.create_bucket().await;
    writer.put("cat", 1, None).await.unwrap();
    let said = eventually("silence of all nodes", async || {
        let said = explain(&cluster, writer.name("cat"), false).await.ok()?;
        (said.chunks_out_of_reach == 1).then_some(said)
    })
    .await;
    assert_eq!((said.chunks_weakened, said.chunks_in_debt), (1, 0));
    assert!(said.nodes.iter().all(|node| !node.alive));
    // Nodes that hold nothing may have registered a little later.
    let new = eventually("silence of all others", async || {
        let new = explain(&cluster, writer.name("none"), false).await.ok()?;
        new.nodes.iter().all(|node| node.verdict() == PlacementVerdict::Silent).then_some(new)
    })
    .await;
    assert!(new.obstacle.contains("failure domains"), "{}", new.obstacle);
}

#[tokio::test]
async fn drain_plan_counts_what_lies_on_the_nodes_and_finds_places_for_it() {
    let cluster = Cluster::start().await;
    let nodes = three_zones(&cluster).await;
    let writer = Writer { cluster: &cluster, nodes: &nodes, bucket: "photos" };
    writer.create_bucket().await;
    for number in 0..40 {
        writer.put(&format!("cat-{number}"), 2 * 65_536 + 7, None).await.unwrap();
    }
    writer.begin(writer.begin_request("open", 64)).await.unwrap();
    let (mut on_first, mut bytes) = (0, 0);
    for number in 0..40 {
        let said = explain(&cluster, writer.name(&format!("cat-{number}")), false).await.unwrap();
        let held = said.chunks.iter().filter(|chunk| chunk.node_ids.contains(&1));
        (on_first, bytes) = held
            .fold((on_first, bytes), |(chunks, bytes), chunk| (chunks + 1, bytes + u64::from(chunk.length)));
    }
    let one = plan(&cluster, &[1]).await.unwrap();
    assert!(one.complete && on_first > 0);
    assert_eq!((one.objects_looked_at, one.chunks_looked_at), (40, 120));
    assert_eq!((one.replicas, one.bytes, one.replicas_unplaced), (on_first, bytes, 0));
    // Its zone has one other node, and the others have their replica already.
    let targets: Vec<_> =
        one.targets.iter().map(|target| (target.node_id, target.replicas, target.bytes)).collect();
    assert_eq!(targets, [(2, on_first, bytes)]);
    assert_eq!((one.objects_short, one.chunks_crowded, one.open_uploads), (0, 0, 1));

    let whole_zone = plan(&cluster, &[1, 2]).await.unwrap();
    assert_eq!((whole_zone.replicas, whole_zone.replicas_unplaced), (120, 0), "one replica of each chunk");
    assert!(whole_zone.targets.iter().all(|target| target.node_id > 2));

    let too_many = plan(&cluster, &[1, 2, 3, 4]).await.unwrap();
    assert_eq!((too_many.replicas, too_many.replicas_unplaced), (240, 120), "one other node for each chunk");
    assert_eq!((too_many.objects_short, too_many.objects_short_sample.len()), (40, 20));
    assert!(too_many.objects_short_sample.contains(&writer.name("cat-0")));

    // What earlier parts have given away is gone, and what they have looked at is not looked at again.
    let behind = PlanDrainRequest {
        node_ids: vec![1],
        after_bucket_id: 1,
        after_key: "cat-8".into(),
        given: vec![DrainTarget { node_id: 2, bytes: u64::MAX, ..Default::default() }],
    };
    let send = async |mut meta: Meta, request| meta.plan_drain(request).await;
    let rest = cluster.call(behind, send).await.unwrap();
    assert_eq!((rest.complete, rest.objects_looked_at), (true, 1), "cat-9 is the last one");
    assert_eq!(rest.replicas_unplaced, 0);
    assert!(rest.targets.iter().all(|target| target.node_id != 2), "it has no room left");

    assert_refused(plan(&cluster, &[1, 99]).await, Code::FailedPrecondition, "NODE_UNKNOWN");
    assert_refused(plan(&cluster, &[]).await, Code::InvalidArgument, "INVALID_ARGUMENT");
}

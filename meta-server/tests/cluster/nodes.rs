use std::time::Duration;

use tonic::{Code, Status};
use xdpfs_proto::{
    meta::v1::{DeleteObjectRequest, data_node_status::State},
    node::v1::{HeartbeatRequest, RegisterNodeRequest, ReportChunksRequest, ReportChunksResponse},
};

use crate::harness::{
    Cluster, FakeNode, Meta, Node, Writer, assert_refused, eventually, register_nodes, request_id,
};

async fn register(cluster: &Cluster, request: RegisterNodeRequest) -> Result<(), Status> {
    cluster
        .node_call(request, async |mut node: Node, request| node.register_node(request).await)
        .await
        .map(drop)
}

async fn report(cluster: &Cluster, request: ReportChunksRequest) -> Result<ReportChunksResponse, Status> {
    cluster.node_call(request, async |mut node: Node, request| node.report_chunks(request).await).await
}

async fn delete(writer: &Writer<'_>, key: &str) {
    let request =
        DeleteObjectRequest { request_id: request_id(), name: writer.name(key), ..Default::default() };
    writer
        .cluster
        .call(request, async |mut meta: Meta, request| meta.delete_object(request).await)
        .await
        .unwrap();
}

#[tokio::test]
async fn node_learns_what_it_needs_to_serve() {
    let cluster = Cluster::start().await;
    let node = FakeNode::register(&cluster, "node-1:9000").await;
    let registered = &node.registered;
    assert_eq!((registered.node_id, registered.node_epoch), (1, 1));
    assert_eq!(registered.receipt_key.len(), 16);
    assert_eq!((registered.key_epochs.len(), registered.key_epochs[0].secret.len()), (1, 16));
    assert_eq!(registered.heartbeat_interval_ms, 1000);
    assert!(registered.leader_time_ms > 1_600_000_000_000);
    let leader = cluster.leader().await;
    assert_eq!(registered.cluster_id, cluster.status_of(leader).await.cluster_id);

    let beaten = node.send_heartbeat(&cluster, node.heartbeat()).await;
    assert!(!beaten.register_again);
    assert_eq!(beaten.key_epochs, registered.key_epochs);
    assert!(beaten.leader_time_ms >= registered.leader_time_ms);
}

#[tokio::test]
async fn registration_that_makes_no_sense_is_refused() {
    let cluster = Cluster::start().await;
    let good = FakeNode::register(&cluster, "node-1:9000").await.registration();
    let invalid = |answer| assert_refused(answer, Code::InvalidArgument, "INVALID_ARGUMENT");
    invalid(register(&cluster, RegisterNodeRequest { node_uuid: "x".into(), ..good.clone() }).await);
    invalid(register(&cluster, RegisterNodeRequest { address: "node-1".into(), ..good.clone() }).await);
    invalid(register(&cluster, RegisterNodeRequest { request_id: String::new(), ..good.clone() }).await);
    let foreign = RegisterNodeRequest { cluster_id: request_id(), ..good };
    assert_refused(register(&cluster, foreign).await, Code::FailedPrecondition, "WRONG_CLUSTER");
}

#[tokio::test]
async fn node_out_of_date_is_told_to_register_again() {
    let cluster = Cluster::start().await;
    let mut node = FakeNode::register(&cluster, "node-1:9000").await;
    let old = node.heartbeat();
    node.register_again(&cluster).await;
    assert!(node.send_heartbeat(&cluster, old).await.register_again);
    assert!(!node.send_heartbeat(&cluster, node.heartbeat()).await.register_again);
    let nobody = HeartbeatRequest { node_id: 99, ..node.heartbeat() };
    assert!(node.send_heartbeat(&cluster, nobody).await.register_again);
}

#[tokio::test]
async fn chunks_nobody_refers_to_are_removed_after_their_grace() {
    let cluster = Cluster::start_with(|config| {
        config.times.upload_lease = Duration::from_millis(400);
        config.times.write_capability = Duration::from_millis(400);
        config.times.read_capability = Duration::from_millis(400);
        config.times.deletion_grace = Duration::from_millis(500);
    })
    .await;
    let nodes = register_nodes(&cluster, 3).await;
    let writer = Writer { cluster: &cluster, nodes: &nodes, bucket: "photos" };
    writer.create_bucket().await;
    writer.put("cat", 100_000, None).await.unwrap();
    let node = &nodes[0];
    delete(&writer, "cat").await;
    let first = node.send_heartbeat(&cluster, node.heartbeat()).await;
    assert_eq!(first.delete_chunk_ids.len(), 0, "readers may still hold the manifest");

    let due = eventually("the end of the grace", async || {
        let due = node.send_heartbeat(&cluster, node.heartbeat()).await.delete_chunk_ids;
        (!due.is_empty()).then_some(due)
    })
    .await;
    assert_eq!(due.len(), 2);
    let again = node.send_heartbeat(&cluster, node.heartbeat()).await.delete_chunk_ids;
    assert_eq!(again, due, "it is told until it has said that they are gone");

    let leader = cluster.leader().await;
    assert_eq!(cluster.status_of(leader).await.pending_deletes, 6);
    let done = HeartbeatRequest { deleted_chunk_ids: due, ..node.heartbeat() };
    assert!(node.send_heartbeat(&cluster, done).await.delete_chunk_ids.is_empty());
    assert_eq!(cluster.status_of(leader).await.pending_deletes, 4);
}

#[tokio::test]
async fn node_of_another_cluster_is_given_no_orders() {
    let cluster = Cluster::start().await;
    let node = FakeNode::register(&cluster, "node-1:9000").await;
    let leader = cluster.leader().await;
    // Ids and epochs of all clusters begin at one, so everything else about the stranger is right.
    for cluster_id in [request_id(), String::new()] {
        let foreign = HeartbeatRequest { cluster_id, free_bytes: 7, ..node.heartbeat() };
        let send = async |mut node: Node, request| node.heartbeat(request).await;
        let answer = cluster.node_call(foreign, send).await;
        assert_refused(answer, Code::FailedPrecondition, "WRONG_CLUSTER");
    }
    let seen = cluster.status_of(leader).await.data_nodes;
    assert_ne!(seen[0].free_bytes, 7, "the member is not taken for the stranger");
}

#[tokio::test]
async fn silent_node_gets_no_new_chunks_until_it_speaks() {
    let cluster = Cluster::start_with(|config| {
        config.times.heartbeat_interval = Duration::from_millis(50);
        config.times.node_silent_after = Duration::from_millis(400);
    })
    .await;
    let nodes = register_nodes(&cluster, 3).await;
    let writer = Writer { cluster: &cluster, nodes: &nodes, bucket: "photos" };
    writer.create_bucket().await;
    let leader = cluster.leader().await;
    let speak = async |speakers: &[FakeNode]| {
        for node in speakers {
            node.send_heartbeat(&cluster, node.heartbeat()).await;
        }
    };
    let silent = nodes[2].id();
    eventually("the third node to be silent", async || {
        speak(&nodes[..2]).await;
        let status = cluster.status_of(leader).await;
        let third = status.data_nodes.iter().find(|node| node.node_id == silent).unwrap();
        (third.state() == State::Silent).then_some(())
    })
    .await;
    let begun = writer.begin(writer.begin_request("cat", 4)).await.unwrap();
    assert!(begun.grants.iter().all(|grant| !grant.node_ids.contains(&silent)), "{:?}", begun.grants);
    speak(&nodes).await;
    let begun = writer.begin(writer.begin_request("cat", 4)).await.unwrap();
    assert!(begun.grants.iter().all(|grant| grant.node_ids.contains(&silent)), "{:?}", begun.grants);
}

#[tokio::test]
async fn full_node_gets_no_new_chunks() {
    let cluster = Cluster::start().await;
    let nodes = register_nodes(&cluster, 3).await;
    let writer = Writer { cluster: &cluster, nodes: &nodes, bucket: "photos" };
    writer.create_bucket().await;
    let full = HeartbeatRequest { free_bytes: 1000, used_bytes: 5, chunks: 7, ..nodes[0].heartbeat() };
    nodes[0].send_heartbeat(&cluster, full).await;
    let begun = writer.begin(writer.begin_request("cat", 4)).await.unwrap();
    assert!(
        begun.grants.iter().all(|grant| grant.node_ids == [nodes[1].id(), nodes[2].id()]),
        "{:?}",
        begun.grants
    );
    let leader = cluster.leader().await;
    let status = cluster.status_of(leader).await;
    let seen = status.data_nodes.iter().find(|node| node.node_id == nodes[0].id()).unwrap();
    assert_eq!((seen.free_bytes, seen.used_bytes, seen.chunks, seen.state()), (1000, 5, 7, State::Alive));
}

#[tokio::test]
async fn report_counts_what_is_missing_and_what_is_unknown() {
    let cluster = Cluster::start().await;
    let nodes = register_nodes(&cluster, 3).await;
    let writer = Writer { cluster: &cluster, nodes: &nodes, bucket: "photos" };
    writer.create_bucket().await;
    let begun = writer.begin(writer.begin_request("cat", 2)).await.unwrap();
    writer
        .commit(writer.commit_request(begun.upload_id, writer.written(&begun.grants, 65_537)))
        .await
        .unwrap();
    let open = writer.begin(writer.begin_request("dog", 1)).await.unwrap();
    let held = [&begun.grants[0], &begun.grants[1], &open.grants[0]].map(|grant| grant.chunk_id.clone());
    let page = |chunk_ids: Vec<Vec<u8>>| ReportChunksRequest {
        node_id: nodes[0].id(),
        node_epoch: 1,
        first: vec![0; 16],
        last: vec![255; 16],
        chunk_ids,
        cluster_id: nodes[0].registered.cluster_id.clone(),
    };
    let counted = async |chunk_ids| {
        let ReportChunksResponse { unknown, missing, .. } = report(&cluster, page(chunk_ids)).await.unwrap();
        (unknown, missing)
    };
    assert_eq!(counted(held.to_vec()).await, (0, 0));
    assert_eq!(counted(held[1..].to_vec()).await, (0, 1));
    assert_eq!(counted([&held[..], &[vec![200; 16]]].concat()).await, (1, 0));

    delete(&writer, "cat").await;
    assert_eq!(counted(held.to_vec()).await, (0, 0), "what waits to be removed is known");
    let leader = cluster.leader().await;
    assert_eq!(cluster.status_of(leader).await.pending_deletes, 6, "a report removes nothing");

    let foreign = ReportChunksRequest { cluster_id: request_id(), ..page(Vec::new()) };
    assert_refused(report(&cluster, foreign).await, Code::FailedPrecondition, "WRONG_CLUSTER");
    let old = ReportChunksRequest { node_epoch: 7, ..page(Vec::new()) };
    assert_refused(report(&cluster, old).await, Code::FailedPrecondition, "NODE_UNKNOWN");
    let unordered = page(vec![held[1].clone(), held[0].clone()]);
    assert_refused(report(&cluster, unordered).await, Code::InvalidArgument, "INVALID_ARGUMENT");
}

use std::time::Duration;

use tonic::{Code, Status};
use xdpfs_proto::node::v1::{RouteRequest, RouteResponse, RoutedNode};

use crate::harness::{Cluster, FakeNode, Node, assert_refused, eventually, request_id};

const EDGE: &str = "edge-1:7400";

fn question() -> RouteRequest {
    RouteRequest {
        address: EDGE.into(),
        xdp_mode: "off".into(),
        replies: "relay".into(),
        ..Default::default()
    }
}

async fn route(cluster: &Cluster, request: RouteRequest) -> Result<RouteResponse, Status> {
    cluster.node_call(request, async |mut node: Node, request| node.route(request).await).await
}

/// Registered again, behind an edge.
async fn move_behind(cluster: &Cluster, node: &mut FakeNode, edge: &str, direct: &str) {
    (node.address, node.direct_address) = (edge.into(), direct.into());
    node.register_again(cluster).await;
}

#[tokio::test]
async fn edge_is_told_of_the_nodes_with_its_address_only() {
    let cluster = Cluster::start().await;
    let mut nodes = Vec::new();
    for number in 0..4 {
        nodes.push(FakeNode::register(&cluster, &format!("node-{number}:9000")).await);
    }
    assert_eq!(route(&cluster, question()).await.unwrap().nodes, []);
    move_behind(&cluster, &mut nodes[1], EDGE, "10.0.0.1:9000").await;
    move_behind(&cluster, &mut nodes[2], "edge-2:7400", "10.0.0.2:9000").await;
    move_behind(&cluster, &mut nodes[3], EDGE, "").await;
    let answer = route(&cluster, question()).await.unwrap();
    let routed = |node: &FakeNode, direct_address: &str| RoutedNode {
        node_id: node.id(),
        node_epoch: 2,
        direct_address: direct_address.into(),
    };
    assert_eq!(answer.nodes, [routed(&nodes[1], "10.0.0.1:9000"), routed(&nodes[3], EDGE)]);
    assert_eq!(answer.cluster_id, nodes[0].registered.cluster_id);
    assert_eq!(answer.key_epochs, nodes[0].registered.key_epochs);
    assert_eq!(answer.poll_interval_ms, 250);
    assert!(answer.leader_time_ms >= nodes[0].registered.leader_time_ms);

    move_behind(&cluster, &mut nodes[1], "node-1:9000", "").await;
    let left = route(&cluster, question()).await.unwrap().nodes;
    assert_eq!(left, [routed(&nodes[3], EDGE)], "a node that has moved away is behind it no more");
}

#[tokio::test]
async fn question_that_makes_no_sense_is_refused() {
    let cluster = Cluster::start().await;
    let known = route(&cluster, question()).await.unwrap().cluster_id;
    route(&cluster, RouteRequest { cluster_id: known, ..question() }).await.unwrap();
    let foreign = RouteRequest { cluster_id: request_id(), ..question() };
    assert_refused(route(&cluster, foreign).await, Code::FailedPrecondition, "WRONG_CLUSTER");
    let long = format!("{}:1", "e".repeat(300));
    for address in ["", "edge", "edge:0", "a b:1", "fd00::1:1", &long] {
        let answer = route(&cluster, RouteRequest { address: address.into(), ..question() }).await;
        assert_refused(answer, Code::InvalidArgument, "INVALID_ARGUMENT");
    }
    let leader = cluster.leader().await;
    let listed = cluster.status_of(leader).await.edges;
    assert_eq!(listed.iter().map(|edge| edge.address.as_str()).collect::<Vec<_>>(), [EDGE]);
}

#[tokio::test]
async fn status_shows_what_an_edge_says_until_it_is_forgotten() {
    let cluster = Cluster::start_with(|config| {
        config.times.edge_forgotten_after = Duration::from_millis(500);
    })
    .await;
    let mut node = FakeNode::register(&cluster, "node-1:9000").await;
    move_behind(&cluster, &mut node, EDGE, "10.0.0.1:9000").await;
    let word = RouteRequest {
        xdp_reason: "not asked for".into(),
        packets: [("relayed".to_owned(), 7)].into(),
        rejects: [("bad_tag".to_owned(), 3)].into(),
        ..question()
    };
    let leader = cluster.leader().await;
    let shown = eventually("an edge that is shown", async || {
        route(&cluster, word.clone()).await.unwrap();
        cluster.status_of(leader).await.edges.pop()
    })
    .await;
    assert_eq!((shown.address.as_str(), shown.node_ids.as_slice()), (EDGE, &[node.id()][..]));
    assert_eq!((shown.xdp_mode.as_str(), shown.replies.as_str()), ("off", "relay"));
    assert_eq!((shown.packets["relayed"], shown.rejects["bad_tag"]), (7, 3));
    assert!(shown.last_heard_age_ms < 500);
    let followers_list = cluster.status_of(cluster.follower().await).await.edges;
    assert!(followers_list.is_empty(), "only the leader hears of edges");
    assert_eq!(cluster.status_of(leader).await.data_nodes[0].direct_address, "10.0.0.1:9000");
    eventually("the edge to be forgotten", async || {
        cluster.status_of(leader).await.edges.is_empty().then_some(())
    })
    .await;
}

#[tokio::test]
async fn next_leader_knows_where_nodes_are_and_hears_of_edges_anew() {
    let mut cluster = Cluster::start().await;
    let mut node = FakeNode::register(&cluster, "node-1:9000").await;
    move_behind(&cluster, &mut node, EDGE, "10.0.0.1:9000").await;
    let before = route(&cluster, question()).await.unwrap();
    let first = cluster.leader().await;
    cluster.kill(first);
    let second = cluster.leader().await;
    assert_eq!(cluster.status_of(second).await.edges, []);
    let after = route(&cluster, RouteRequest { cluster_id: before.cluster_id, ..question() }).await.unwrap();
    assert_eq!(after.nodes, before.nodes);
    let leader = cluster.leader().await;
    assert_eq!(cluster.status_of(leader).await.edges.len(), 1);
}

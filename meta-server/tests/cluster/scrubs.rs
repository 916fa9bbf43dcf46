//! What operators want of scrubs, on its way to nodes, and what nodes say of theirs, on its way to operators.

use tonic::{Code, Status};
use xdpfs_proto::{
    meta::v1::{
        DataNodeStatus, ScrubAction, ScrubNodeRequest, ScrubNodeResponse, ScrubStatus, scrub_status::State,
    },
    node::v1::HeartbeatRequest,
};

use crate::harness::{Cluster, FakeNode, Meta, assert_refused, request_id};

async fn steer(cluster: &Cluster, node: u32, action: ScrubAction) -> Result<ScrubNodeResponse, Status> {
    let name = format!("nodes/{node}");
    let request = ScrubNodeRequest { request_id: request_id(), name, action: action.into() };
    cluster.call(request, async |mut meta: Meta, request| meta.scrub_node(request).await).await
}

fn word(node: &FakeNode, state: State, done: u64) -> HeartbeatRequest {
    let scrub = Some(ScrubStatus { state: state.into(), percent: 42, ..ScrubStatus::default() });
    HeartbeatRequest { scrub, scrub_order_done: done, ..node.heartbeat() }
}

async fn seen(cluster: &Cluster, node: &FakeNode) -> DataNodeStatus {
    let leader = cluster.leader().await;
    let status = cluster.status_of(leader).await;
    status.data_nodes.into_iter().find(|seen| seen.node_id == node.id()).unwrap()
}

#[tokio::test]
async fn wish_is_told_with_each_heartbeat_until_the_node_has_done_it() {
    let cluster = Cluster::start().await;
    let node = FakeNode::register(&cluster, "node-1:9000").await;
    let answer = steer(&cluster, node.id(), ScrubAction::Start).await.unwrap();
    assert_eq!((answer.scrub, answer.alive), (None, false), "the node has yet to say how it is");
    let told = node.send_heartbeat(&cluster, word(&node, State::Waiting, 0)).await.scrub_order.unwrap();
    assert_eq!(told.action(), ScrubAction::Start);
    let again = node.send_heartbeat(&cluster, word(&node, State::Waiting, 0)).await.scrub_order;
    assert_eq!(again.as_ref(), Some(&told));
    assert!(seen(&cluster, &node).await.scrub_ordered);
    let beaten = node.send_heartbeat(&cluster, word(&node, State::Running, told.number)).await;
    assert_eq!(beaten.scrub_order, None);
    let status = seen(&cluster, &node).await;
    let scrub = status.scrub.unwrap();
    assert_eq!((scrub.state(), scrub.percent, status.scrub_ordered), (State::Running, 42, false));

    let answer = steer(&cluster, node.id(), ScrubAction::Pause).await.unwrap();
    assert_eq!((answer.scrub.map(|scrub| scrub.state()), answer.alive), (Some(State::Running), true));
    let told = node.send_heartbeat(&cluster, word(&node, State::Running, told.number)).await.scrub_order;
    assert_eq!(told.map(|told| told.action()), Some(ScrubAction::Pause));
}

#[tokio::test]
async fn node_that_can_not_is_said_to() {
    let cluster = Cluster::start().await;
    let node = FakeNode::register(&cluster, "node-1:9000").await;
    let unknown = steer(&cluster, 99, ScrubAction::Start).await;
    assert_refused(unknown, Code::FailedPrecondition, "NODE_UNKNOWN");
    node.send_heartbeat(&cluster, node.heartbeat()).await;
    let older = steer(&cluster, node.id(), ScrubAction::Start).await;
    assert_refused(older, Code::FailedPrecondition, "SCRUB_UNSUPPORTED");
    node.send_heartbeat(&cluster, word(&node, State::Off, 0)).await;
    let without = steer(&cluster, node.id(), ScrubAction::Start).await;
    assert_refused(without, Code::FailedPrecondition, "SCRUB_UNSUPPORTED");
    assert_eq!(node.send_heartbeat(&cluster, word(&node, State::Off, 0)).await.scrub_order, None);
}

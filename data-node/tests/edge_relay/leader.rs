//! The edge and the leader: what it asks, what it takes over, and what it does without.

use xdpfs_data_node::{EdgeConfig, EdgeFailure, PreparedEdge, XdpMode};
use xdpfs_wire::{Opcode, Status};

use crate::{
    client::{Client, read, request, sealed},
    config,
    fake_meta::{EDGE, FakeMeta},
    fake_node::FakeNode,
    in_time, start,
};

#[tokio::test(flavor = "multi_thread")]
async fn edge_says_where_it_is_and_how_it_works() {
    let meta = FakeMeta::start().await;
    let edge = start(&meta).await;
    assert_eq!((edge.address(), edge.xdp_mode(), edge.replies().as_str()), (EDGE, XdpMode::Off, "relay"));
    meta.told().await;
    let heard = meta.heard();
    let (first, last) = (heard.questions.first().unwrap(), heard.questions.last().unwrap());
    assert_eq!((first.cluster_id.as_str(), last.cluster_id.as_str()), ("", "red"));
    assert_eq!((last.address.as_str(), last.xdp_mode.as_str()), (EDGE, "off"));
    assert_eq!((last.replies.as_str(), last.xdp_reason.as_str()), ("relay", "not asked for"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_leader_tells_is_in_force_without_a_restart() {
    let (meta, node, moved) = (FakeMeta::start().await, FakeNode::start(7).await, FakeNode::start(7).await);
    let edge = start(&meta).await;
    let client = Client::of(&edge).await;
    client.say(&read(7)).await;
    assert_eq!(client.refusal().await.status, Status::WrongNode);
    meta.know(&node, 9);
    meta.told().await;
    client.say(&read(7)).await;
    node.hear().await;
    meta.know(&moved, 10);
    meta.told().await;
    client.say(&sealed(request(Opcode::PutWhole, 7, 9))).await;
    assert_eq!(client.refusal().await.status, Status::StaleNode);
    client.say(&read(7)).await;
    let (flow, _) = moved.hear().await;
    node.say(flow, b"from where it was").await;
    meta.counted("relay_stranger", 1).await;
    meta.heard().nodes.clear();
    meta.told().await;
    client.say(&read(7)).await;
    assert_eq!(client.refusal().await.status, Status::WrongNode);
}

#[tokio::test(flavor = "multi_thread")]
async fn edge_goes_on_without_a_leader() {
    let (meta, node) = (FakeMeta::start().await, FakeNode::start(7).await);
    meta.know(&node, 9);
    let edge = start(&meta).await;
    let client = Client::of(&edge).await;
    meta.heard().leaderless = true;
    client.say(&read(7)).await;
    node.hear().await;
    // The node has registered again meanwhile, and the client knows.
    let newer = sealed(request(Opcode::PutWhole, 7, 10));
    client.say(&newer).await;
    assert!(node.hear().await.1 == newer);
    meta.know(&node, 10);
    meta.heard().leaderless = false;
    meta.told().await;
    client.say(&sealed(request(Opcode::PutWhole, 7, 9))).await;
    assert_eq!(client.refusal().await.status, Status::StaleNode);
}

#[tokio::test(flavor = "multi_thread")]
async fn edge_that_is_stopped_before_a_leader_answers_never_starts() {
    let meta = FakeMeta::start().await;
    meta.heard().leaderless = true;
    let started = PreparedEdge::new(config(&meta)).unwrap().start(async {}).await;
    assert!(matches!(started, Ok(None)), "{started:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_cluster_ends_the_edge() {
    let meta = FakeMeta::start().await;
    let edge = start(&meta).await;
    meta.heard().cluster_id = "blue".to_owned();
    let failure = in_time("a failure", edge.failed()).await;
    assert!(matches!(failure, EdgeFailure::WrongCluster), "{failure}");
    edge.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn address_that_is_taken_is_named() {
    let meta = FakeMeta::start().await;
    let edge = start(&meta).await;
    let taken = PreparedEdge::new(EdgeConfig { listen: edge.bound(), ..config(&meta) });
    let error = taken.err().map(|error| error.to_string()).unwrap_or_default();
    assert!(error.contains(&edge.bound().to_string()), "{error}");
}

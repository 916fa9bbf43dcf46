//! Clients as nodes see them: one socket each, so many, for so long.

use std::time::Duration;

use xdpfs_data_node::{Edge, EdgeConfig};
use xdpfs_testbed::ports::{free_ports, unused_loopback_address};

use crate::{
    client::{Client, read},
    config,
    fake_meta::FakeMeta,
    fake_node::FakeNode,
    in_time, start, start_with,
};

/// The port of the flow that carries the client's datagrams.
async fn flow_of(client: &Client, node: &FakeNode) -> u16 {
    client.say(&read(node.id)).await;
    let (flow, _) = node.hear().await;
    node.say(flow, b"heard").await;
    assert_eq!(client.hear().await, b"heard");
    flow.port()
}

async fn until_flows(edge: &Edge, flows: u64) {
    in_time("the number of flows", async {
        while edge.flows() != flows {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_client_has_one_flow_to_all_nodes() {
    let (meta, first, second) = (FakeMeta::start().await, FakeNode::start(7).await, FakeNode::start(8).await);
    meta.know(&first, 1);
    meta.know(&second, 1);
    let edge = start(&meta).await;
    let (one, other) = (Client::of(&edge).await, Client::of(&edge).await);
    let flow = flow_of(&one, &first).await;
    assert_eq!(flow_of(&one, &first).await, flow);
    assert_eq!(flow_of(&one, &second).await, flow);
    assert_ne!(flow_of(&other, &first).await, flow);
    assert_eq!(edge.flows(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_too_many_clients_the_one_heard_of_longest_ago_is_forgotten() {
    let (meta, node) = (FakeMeta::start().await, FakeNode::start(7).await);
    meta.know(&node, 1);
    let edge = start_with(EdgeConfig { flows_max: 2, ..config(&meta) }).await;
    let clients = [Client::of(&edge).await, Client::of(&edge).await, Client::of(&edge).await];
    let mut flows = Vec::new();
    for client in &clients {
        flows.push(flow_of(client, &node).await);
    }
    assert_eq!(edge.flows(), 2);
    assert_eq!(flow_of(&clients[2], &node).await, flows[2]);
    assert_eq!(flow_of(&clients[1], &node).await, flows[1]);
    // The first one is served again all the same, at the cost of the third.
    flow_of(&clients[0], &node).await;
    assert_eq!(flow_of(&clients[1], &node).await, flows[1]);
    assert_eq!(edge.flows(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_clients_are_forgotten_and_may_come_back() {
    let (meta, node) = (FakeMeta::start().await, FakeNode::start(7).await);
    meta.know(&node, 1);
    let edge = start_with(EdgeConfig { flow_idle_max: Duration::from_millis(50), ..config(&meta) }).await;
    let client = Client::of(&edge).await;
    for _ in 0..2 {
        flow_of(&client, &node).await;
        until_flows(&edge, 0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn address_is_free_as_soon_as_the_edge_has_stopped() {
    let (meta, node) = (FakeMeta::start().await, FakeNode::start(7).await);
    meta.know(&node, 1);
    let listen = free_ports(unused_loopback_address().unwrap(), 1).unwrap()[0];
    for _ in 0..50 {
        let edge = start_with(EdgeConfig { listen, ..config(&meta) }).await;
        for _ in 0..8 {
            // The flow is still at work on its way back when the edge is told to stop.
            flow_of(&Client::of(&edge).await, &node).await;
        }
        edge.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_do_not_notice_that_the_edge_was_started_again() {
    let (meta, node) = (FakeMeta::start().await, FakeNode::start(7).await);
    meta.know(&node, 1);
    // One that nobody takes while no edge has it.
    let listen = free_ports(unused_loopback_address().unwrap(), 1).unwrap()[0];
    let edge = start_with(EdgeConfig { listen, ..config(&meta) }).await;
    let client = Client::of(&edge).await;
    flow_of(&client, &node).await;
    edge.shutdown().await;
    let again = start_with(EdgeConfig { listen, ..config(&meta) }).await;
    flow_of(&client, &node).await;
    assert_eq!(again.flows(), 1);
}

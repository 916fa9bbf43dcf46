//! What crosses the edge, and how.

use std::net::{SocketAddr, UdpSocket as StdUdpSocket};

use bytes::Bytes;
use tempfile::TempDir;
use xdpfs_data_node::{Config, DataNode, EdgeConfig, OwnAddress};
use xdpfs_transport::{
    ChunkClient, ChunkClientConfig, Peer, Target, Transmit, crc32c,
    shell::{ReceiveBuffers, Socket},
};
use xdpfs_wire::{ChunkId, NodeEpoch, NodeId, Opcode};

use crate::{
    client::{BUCKET, Client, read, request, sealed, session},
    config,
    fake_meta::{EDGE, FakeMeta},
    fake_node::FakeNode,
    in_time, start, start_with,
};

#[tokio::test(flavor = "multi_thread")]
async fn chunks_cross_the_edge_to_and_from_each_node_behind_it() {
    let meta = FakeMeta::start().await;
    let homes = [(); 2].map(|()| TempDir::new().unwrap());
    let mut nodes = Vec::new();
    for home in &homes {
        let behind = Config {
            advertise: Some(OwnAddress::At(EDGE.to_owned())),
            ..Config::new(home.path().join("data"), vec![meta.endpoint()])
        };
        nodes.push(DataNode::start(behind).await.unwrap());
    }
    assert_eq!(meta.heard().registrations[0].direct_address, nodes[0].address().to_string());
    let edge = start(&meta).await;
    let client = ChunkClient::bind(ChunkClientConfig::default()).unwrap();
    for (number, node) in nodes.iter().enumerate() {
        let target = Target { address: edge.bound(), node: node.node_id(), node_epoch: NodeEpoch(1) };
        let chunk = ChunkId::new(BUCKET, number as u64);
        let data: Bytes = (0..3_000_000_u32).map(|at| (at * 7 + number as u32) as u8).collect();
        let written = client.write(target, session(), chunk, data.clone(), crc32c(&data)).await.unwrap();
        assert_eq!(written.node, NodeId(number as u16 + 1));
        let back = client.read(target, session(), chunk, 0..data.len() as u32).await.unwrap();
        assert!(back == data, "node {number}");
    }
    assert!(edge.flows() > 0);
    edge.shutdown().await;
    for node in nodes {
        node.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_pass_in_any_epoch_and_writes_in_the_present_and_in_newer_ones() {
    let (meta, node) = (FakeMeta::start().await, FakeNode::start(7).await);
    meta.know(&node, 9);
    let edge = start(&meta).await;
    let client = Client::of(&edge).await;
    for (opcode, epoch) in [
        (Opcode::GetPiece, 9),
        (Opcode::GetPiece, 8),
        (Opcode::GetPiece, 10),
        (Opcode::PutWhole, 9),
        (Opcode::PutWhole, 10),
        (Opcode::PutWhole, 9 + 0x7fff),
    ] {
        let datagram = sealed(request(opcode, 7, epoch));
        client.say(&datagram).await;
        let (flow, heard) = node.hear().await;
        assert!(heard == datagram, "{opcode:?} in epoch {epoch}");
        node.say(flow, b"an answer").await;
        assert_eq!(client.hear().await, b"an answer");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_received_at_once_is_sent_at_once() {
    let meta = FakeMeta::start().await;
    let loopback = || Socket::new(StdUdpSocket::bind("127.0.0.1:0").unwrap()).unwrap();
    let (client, node) = (loopback(), loopback());
    meta.know_at(7, 1, &node.local_addr().unwrap().to_string());
    let edge = start(&meta).await;
    let datagram = read(7);
    let to_edge = Transmit::to(Peer::from(edge.bound()), Some(datagram.len()));
    client.send(to_edge, &datagram.repeat(5)).await.unwrap();
    let (flow, batches) = receive(&node, 5).await;
    assert_eq!(batches, [datagram.repeat(5)], "one system call brought it, and one took it on");

    let back = Transmit::to(Peer::from(flow), Some(1000));
    node.send(back, &[8; 4500]).await.unwrap();
    let (from, batches) = receive(&client, 5).await;
    assert_eq!((from, batches), (edge.bound(), vec![vec![8; 4500]]), "and back");
}

/// So many datagrams, as the kernel had merged them, and who sent the last one.
async fn receive(socket: &Socket, datagrams: usize) -> (SocketAddr, Vec<Vec<u8>>) {
    let mut buffers = ReceiveBuffers::default();
    let (mut count, mut batches, mut from) = (0, Vec::new(), None);
    while count < datagrams {
        in_time("a batch", socket.receive(&mut buffers)).await.unwrap();
        count += buffers.datagrams().count();
        for batch in buffers.batches() {
            from = Some(batch.from.address);
            batches.push(batch.bytes.to_vec());
        }
    }
    (from.unwrap(), batches)
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_come_from_the_address_that_was_asked() {
    let (meta, node) = (FakeMeta::start().await, FakeNode::start(7).await);
    meta.know(&node, 1);
    let everywhere = EdgeConfig { listen: "0.0.0.0:0".parse().unwrap(), ..config(&meta) };
    let edge = start_with(everywhere).await;
    for address in ["127.0.0.1", "127.0.0.2", "127.4.3.2"] {
        let client = Client::at(SocketAddr::new(address.parse().unwrap(), edge.bound().port())).await;
        client.say(&read(7)).await;
        let (flow, _) = node.hear().await;
        node.say(flow, b"an answer").await;
        assert_eq!(client.hear().await, b"an answer", "{address}");
        client.say(&read(8)).await;
        client.refusal().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_nodes_behind_the_edge_are_carried_back() {
    let (meta, node, stranger) =
        (FakeMeta::start().await, FakeNode::start(7).await, FakeNode::start(8).await);
    meta.know(&node, 1);
    let edge = start(&meta).await;
    let client = Client::of(&edge).await;
    client.say(&read(7)).await;
    let (flow, _) = node.hear().await;
    stranger.say(flow, b"not for you").await;
    meta.counted("relay_stranger", 1).await;
    node.say(flow, b"for you").await;
    assert_eq!(client.hear().await, b"for you");
}

#[tokio::test(flavor = "multi_thread")]
async fn datagram_that_would_go_round_for_ever_goes_round_once() {
    let meta = FakeMeta::start().await;
    let everywhere = EdgeConfig { listen: "0.0.0.0:0".parse().unwrap(), ..config(&meta) };
    let edge = start_with(everywhere).await;
    let round = SocketAddr::new("127.0.0.9".parse().unwrap(), edge.bound().port());
    meta.know_at(7, 1, &round.to_string());
    meta.told().await;
    let client = Client::at(SocketAddr::new("127.0.0.1".parse().unwrap(), edge.bound().port())).await;
    client.say(&read(7)).await;
    meta.counted("relay_circular", 1).await;
    assert_eq!(edge.flows(), 1);
}

//! What does not cross the edge, and who is told.

use xdpfs_data_node::{EdgeConfig, SourceConfig};
use xdpfs_wire::{BucketId, ChunkId, HEADER_LEN, Header, KeyEpoch, NodeEpoch, Opcode, Rights, Status};

use crate::{
    client::{BUCKET, Client, read, request, sealed},
    config,
    fake_meta::{FakeMeta, expiry_in},
    fake_node::FakeNode,
    start, start_with,
};

/// A node that nobody knows: whoever asks for it is told so.
const NOBODY: u16 = 99;

#[tokio::test(flavor = "multi_thread")]
async fn client_hears_at_once_of_a_node_that_is_not_here_and_of_a_stale_epoch() {
    let (meta, node) = (FakeMeta::start().await, FakeNode::start(7).await);
    meta.know(&node, 9);
    let edge = start(&meta).await;
    let client = Client::of(&edge).await;
    client.say(&read(NOBODY)).await;
    assert_eq!(client.refusal().await.status, Status::WrongNode);
    for epoch in [8, 0, 9_u16.wrapping_sub(0x7fff)] {
        for opcode in [Opcode::PutWhole, Opcode::PutOpen, Opcode::PutData, Opcode::PutCommit] {
            client.say(&sealed(request(opcode, 7, epoch))).await;
            let refusal = client.refusal().await;
            let expect = (Status::StaleNode, NodeEpoch(epoch));
            assert_eq!((refusal.status, refusal.node_epoch), expect, "{opcode:?} in epoch {epoch}");
        }
    }
    meta.counted("stale_node", 12).await;
    assert_eq!(edge.flows(), 0, "a refusal takes no flow");
}

#[tokio::test(flavor = "multi_thread")]
async fn holders_of_a_capability_are_told_what_it_does_not_reach() {
    let (meta, node) = (FakeMeta::start().await, FakeNode::start(7).await);
    meta.know(&node, 9);
    let edge = start(&meta).await;
    let client = Client::of(&edge).await;
    let good = request(Opcode::PutWhole, 7, 9);
    let check = async |header: Header, expect| {
        client.say(&sealed(header)).await;
        assert_eq!(client.refusal().await.status, expect, "{header:?}");
    };
    check(Header { expiry: expiry_in(-5), ..good }, Status::Expired).await;
    check(Header { rights: Rights::READ, ..good }, Status::Denied).await;
    check(Header { chunk: ChunkId::new(BucketId(BUCKET.0 + 1), 1), ..good }, Status::Denied).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_get_no_answer() {
    let (meta, node) = (FakeMeta::start().await, FakeNode::start(7).await);
    meta.know(&node, 9);
    let edge = start(&meta).await;
    let client = Client::of(&edge).await;
    let good = sealed(request(Opcode::PutWhole, 7, 9));
    let spoilt = |at: usize, bits: u8| {
        let mut datagram = good.clone();
        datagram[at] ^= bits;
        datagram
    };
    let unknown_epoch = sealed(Header { key_epoch: KeyEpoch(200), ..request(Opcode::PutWhole, 7, 9) });
    let refused = [
        ("bad_tag", spoilt(HEADER_LEN - 1, 1)),
        ("bad_tag", spoilt(24, 1)),
        ("bad_magic", spoilt(0, 1)),
        ("bad_version", spoilt(2, 0x10)),
        ("bad_opcode", sealed(request(Opcode::Data, 7, 9))),
        ("reserved_bits", spoilt(6, 0x80)),
        ("bad_length", good[..HEADER_LEN].to_vec()),
        ("unknown_key_epoch", unknown_epoch),
        ("too_short", good[..HEADER_LEN - 1].to_vec()),
        ("too_short", vec![0]),
    ];
    for (_, datagram) in &refused {
        client.say(datagram).await;
    }
    // Datagrams are judged one after the other, so what is answered first was the first to be answered.
    client.say(&read(NOBODY)).await;
    assert_eq!(client.refusal().await.status, Status::WrongNode);
    for (reason, _) in &refused {
        let times = refused.iter().filter(|(other, _)| other == reason).count();
        meta.counted(reason, times as u64).await;
    }
    client.say(&good).await;
    assert!(node.hear().await.1 == good, "nothing of that has reached the node");
    assert_eq!(edge.flows(), 1, "and strangers make no flows");
}

#[tokio::test(flavor = "multi_thread")]
async fn sources_that_may_not_send_are_not_heard() {
    let (meta, node) = (FakeMeta::start().await, FakeNode::start(7).await);
    meta.know(&node, 9);
    let sources =
        SourceConfig { allow: vec!["127.0.0.1".parse().unwrap()], rate: Some(20), ..SourceConfig::default() };
    let edge = start_with(EdgeConfig { sources: sources.clone(), ..config(&meta) }).await;
    let client = Client::of(&edge).await;
    client.say(&read(7)).await;
    node.hear().await;
    for _ in 0..20 {
        client.say(&read(7)).await;
    }
    meta.counted("source_too_fast", 1).await;
    edge.shutdown().await;

    let denied = SourceConfig { deny: sources.allow, ..SourceConfig::default() };
    let edge = start_with(EdgeConfig { sources: denied, ..config(&meta) }).await;
    let client = Client::of(&edge).await;
    client.say(&read(NOBODY)).await;
    meta.counted("source_denied", 1).await;
}

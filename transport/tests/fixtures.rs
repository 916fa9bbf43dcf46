//! The data node's validator against the datagrams that every validator is judged by.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::{net::SocketAddr, time::Instant};

use xdpfs_transport::node::{Action, ChunkInfo, Node};
use xdpfs_transport::{NodeConfig, NodeEndpoint, Peer};
use xdpfs_wire::{
    ChunkId, CookieSecret, EpochSecret, Expiry, HEADER_LEN, KeyEpoch, NodeEpoch, NodeId, ReceiptKey, Reject,
    SipKey, TargetNode,
};

const REQUESTS: &str = include_str!("../../wire/fixtures/requests.txt");

/// The node that the head of the file describes, with nothing on its disk.
struct EmptyNode;

impl Node for EmptyNode {
    fn target(&self) -> TargetNode {
        TargetNode { node: NodeId(3), epoch: NodeEpoch(9) }
    }

    fn secret(&self, epoch: KeyEpoch) -> Option<EpochSecret> {
        let byte = match epoch {
            KeyEpoch(7) => 0x11,
            KeyEpoch(8) => 0x22,
            _ => return None,
        };
        Some(EpochSecret(SipKey::from_bytes([byte; 16])))
    }

    fn now(&self) -> Expiry {
        Expiry(1_000_000)
    }

    fn receipt_key(&self) -> ReceiptKey {
        ReceiptKey(SipKey::from_bytes([5; 16]))
    }

    fn chunk(&self, _: ChunkId) -> Option<ChunkInfo> {
        None
    }
}

struct Request {
    name: String,
    verdict: String,
    datagram: Vec<u8>,
}

fn requests() -> impl Iterator<Item = Request> {
    REQUESTS.lines().filter(|line| !line.starts_with('#')).map(|line| {
        let [name, verdict, hex, payload_len] = line.split(' ').collect::<Vec<_>>().try_into().unwrap();
        let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
        let mut datagram: Vec<u8> =
            if hex == "-" { Vec::new() } else { (0..hex.len()).step_by(2).map(byte).collect() };
        let payload_len: usize = payload_len.parse().unwrap();
        datagram.resize(datagram.len() + payload_len, 0);
        Request { name: name.into(), verdict: verdict.into(), datagram }
    })
}

#[test]
fn every_refusal_is_counted_under_its_reason_and_nothing_else_is() {
    for Request { name, verdict, datagram } in requests() {
        let mut endpoint = NodeEndpoint::new(NodeConfig::default(), CookieSecret(SipKey { k0: 1, k1: 2 }));
        let mut reply = Vec::new();
        let from = Peer::from("192.0.2.7:4000".parse::<SocketAddr>().unwrap());
        let action = endpoint.handle_datagram(Instant::now(), from, &datagram, &EmptyNode, &mut reply);
        let counters = endpoint.counters();
        for reject in Reject::ALL {
            let expect = u64::from(verdict == reject.label());
            assert_eq!(counters.rejects[*reject as usize], expect, "{name}: {}", reject.label());
        }
        assert_eq!(counters.accepted, u64::from(verdict == "accept"), "{name}");
        assert_eq!(counters.corrupt, 0, "{name}");
        assert!(
            reply.len() <= datagram.len().max(HEADER_LEN),
            "{name}: a refusal is no longer than its request"
        );
        let told = Reject::ALL.iter().any(|reject| reject.label() == verdict && reject.reply().is_some());
        if verdict != "accept" {
            assert_eq!(matches!(action, Action::Reply), told, "{name}");
        }
    }
}

//! What is said in these clusters: gRPC and the chunk protocol in a few words.

use std::sync::Arc;

use xdpfs_proto::state::v1 as pb;
use xdpfs_wire::{ChunkId, NodeEpoch, NodeId, ReceiptKey};

use crate::{
    fetches::{End, Order},
    state_machine::{Reason, Replicas},
};

/// Who asks the leader.
#[derive(Clone, Copy, Debug)]
pub(super) enum Caller {
    Client { client: usize, operation: u64 },
    Node { node: usize, start: u64, call: u64 },
}

/// What is asked of the leader.
#[derive(Clone, Debug)]
pub(super) enum Ask {
    Beat {
        node: NodeId,
        epoch: u32,
        deleted: Vec<ChunkId>,
        free_bytes: u64,
    },
    Begin {
        key: String,
        chunks: usize,
        request_id: [u8; 16],
    },
    /// A commit, an abort or a delete.
    Command {
        kind: pb::command::Kind,
        request_id: [u8; 16],
    },
    Doubt {
        chunk: ChunkId,
        node: NodeId,
    },
    Exchange {
        node: NodeId,
        epoch: u32,
        ended: Vec<(ChunkId, End)>,
    },
    Manifest {
        key: String,
    },
    Register {
        uuid: String,
        request_id: [u8; 16],
        receipt_key: u128,
    },
    Report {
        node: NodeId,
        epoch: u32,
        chunks: Vec<ChunkId>,
    },
}

/// What a node is answered.
#[derive(Clone, Debug)]
pub(super) enum Answer {
    Beat { delete: Vec<ChunkId>, is_wanted: bool },
    Orders(Vec<Order>),
    Refused,
    RegisterAgain,
    Registered { node: NodeId, epoch: u32, key: ReceiptKey },
}

/// What happens to a node.
#[derive(Clone, Debug)]
pub(super) enum ForNode {
    Answer { call: u64, answer: Answer },
    Ask,
    Beat,
    Bytes { chunk: ChunkId, is_good: bool },
    Delete { chunks: Vec<ChunkId> },
    Fetch { by: usize, start: u64, chunk: ChunkId },
    Fetched { chunk: ChunkId },
    Read { client: usize, operation: u64, chunk: ChunkId },
    Report,
    SourceIsLate { chunk: ChunkId, tried: usize },
    Store { client: usize, operation: u64, chunk: ChunkId },
    Write { client: usize, operation: u64, chunk: ChunkId, epoch: NodeEpoch, until_ms: u64 },
}

/// What happens to a client.
#[derive(Clone, Debug)]
pub(super) enum ForClient {
    Begun { upload: u64, until_ms: u64, grants: Vec<Grant> },
    Bytes { chunk: ChunkId, is_good: bool },
    Done { version: Option<u64> },
    Manifest { chunks: Vec<(ChunkId, Replicas)> },
    Receipt { chunk: ChunkId, node: NodeId, epoch: u32, mac: u64 },
    Refused,
    Rejected { reason: Option<Reason> },
    Timer,
}

/// A chunk to be written, and where.
#[derive(Clone, Debug)]
pub(super) struct Grant {
    pub(super) chunk: ChunkId,
    pub(super) nodes: Arc<[(NodeId, NodeEpoch)]>,
}

/// The bytes don't matter; that they are these does.
pub(super) fn crc_of(chunk: ChunkId) -> u32 {
    chunk.0 as u32
}

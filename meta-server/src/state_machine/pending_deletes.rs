//! Replicas that nobody refers to and that their nodes have yet to remove.

use std::collections::BTreeMap;

use xdpfs_proto::state::v1::{self as pb, outcome};
use xdpfs_wire::{ChunkId, NodeId};

use super::{State, chunk_id_bytes, parse_chunk_id};

/// By node, then by chunk: when the replica may go.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PendingDeletes {
    by_node: BTreeMap<NodeId, BTreeMap<ChunkId, u64>>,
    count: u64,
}

impl PendingDeletes {
    pub(super) fn add(&mut self, node: NodeId, chunk: ChunkId, not_before_ms: u64) {
        if self.by_node.entry(node).or_default().insert(chunk, not_before_ms).is_none() {
            self.count += 1;
        }
    }

    fn remove(&mut self, node: NodeId, chunk: ChunkId) {
        let Some(chunks) = self.by_node.get_mut(&node) else { return };
        if chunks.remove(&chunk).is_some() {
            self.count -= 1;
        }
        if chunks.is_empty() {
            self.by_node.remove(&node);
        }
    }

    /// Replicas in all.
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// Whether `node` has yet to remove `chunk`.
    #[must_use]
    pub fn contains(&self, node: NodeId, chunk: ChunkId) -> bool {
        self.by_node.get(&node).is_some_and(|chunks| chunks.contains_key(&chunk))
    }

    /// What `node` may remove at `now_ms`, at most `count_max` chunks.
    ///
    /// Looks at no more than a bounded number of chunks, so that a long queue of young ones costs little.
    pub fn due(&self, node: NodeId, now_ms: u64, count_max: usize) -> impl Iterator<Item = ChunkId> + '_ {
        const LOOKED_AT_MAX: usize = 100_000;
        let chunks = self.by_node.get(&node).into_iter().flatten().take(LOOKED_AT_MAX);
        chunks
            .filter(move |(_, not_before_ms)| **not_before_ms <= now_ms)
            .map(|(chunk, _)| *chunk)
            .take(count_max)
    }

    pub(super) fn records(&self) -> impl Iterator<Item = pb::PendingDelete> + '_ {
        self.by_node.iter().flat_map(|(node, chunks)| {
            chunks.iter().map(|(chunk, not_before_ms)| pb::PendingDelete {
                node_id: node.0.into(),
                chunk_id: chunk_id_bytes(*chunk),
                not_before_ms: *not_before_ms,
            })
        })
    }
}

impl State {
    pub(super) fn forget_chunks(&mut self, forget: &pb::ForgetChunks) -> outcome::Kind {
        if let Ok(node) = u16::try_from(forget.node_id) {
            for chunk in forget.chunk_ids.iter().filter_map(|id| parse_chunk_id(id)) {
                self.pending_deletes.remove(NodeId(node), chunk);
            }
        }
        outcome::Kind::Done(pb::Done {})
    }
}

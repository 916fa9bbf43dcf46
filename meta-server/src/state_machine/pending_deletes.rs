//! Replicas that nobody refers to and that their nodes have yet to remove.

use xdpfs_proto::state::v1::{self as pb, outcome};
use xdpfs_wire::{ChunkId, NodeId};

use super::{State, chunk_id_bytes, parse_chunk_id, pictured::PicturedMap};

/// A chunk on a node.
type Replica = (NodeId, ChunkId);

/// By node, then by chunk: when the replica may go.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PendingDeletes {
    replicas: PicturedMap<Replica, u64>,
}

impl PendingDeletes {
    pub(super) fn add(&mut self, node: NodeId, chunk: ChunkId, not_before_ms: u64) {
        self.replicas.insert((node, chunk), not_before_ms);
    }

    fn remove(&mut self, node: NodeId, chunk: ChunkId) {
        self.replicas.remove(&(node, chunk));
    }

    /// The node never removes anything again.
    pub(super) fn forget_node(&mut self, node: NodeId) {
        let chunks = self.of(node).map(|(replica, _)| *replica).collect::<Vec<_>>();
        for replica in chunks {
            self.replicas.remove(&replica);
        }
    }

    /// Replicas in all.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.replicas.len() as u64
    }

    /// Whether `node` has yet to remove `chunk`.
    #[must_use]
    pub fn contains(&self, node: NodeId, chunk: ChunkId) -> bool {
        self.replicas.contains_key(&(node, chunk))
    }

    /// What `node` may remove at `now_ms`, at most `count_max` chunks.
    ///
    /// Looks at no more than a bounded number of chunks, so that a long queue of young ones costs little.
    pub fn due(&self, node: NodeId, now_ms: u64, count_max: usize) -> impl Iterator<Item = ChunkId> + '_ {
        const LOOKED_AT_MAX: usize = 100_000;
        self.of(node)
            .take(LOOKED_AT_MAX)
            .filter(move |(_, not_before_ms)| **not_before_ms <= now_ms)
            .map(|((_, chunk), _)| *chunk)
            .take(count_max)
    }

    fn of(&self, node: NodeId) -> impl Iterator<Item = (&Replica, &u64)> {
        self.replicas.range((node, ChunkId(0))..=(node, ChunkId(u128::MAX)))
    }

    pub(super) fn records(&self) -> impl Iterator<Item = pb::PendingDelete> + '_ {
        self.replicas.iter().map(|(replica, not_before_ms)| record(replica, *not_before_ms))
    }

    pub(super) const fn replicas(&mut self) -> &mut PicturedMap<Replica, u64> {
        &mut self.replicas
    }

    /// Visits replicas of a picture, by node and chunk.
    pub(super) fn slice(
        &self,
        after: Option<&Replica>,
        cost_max: usize,
        visit: impl FnMut(&Replica, &u64) -> usize,
    ) -> Option<Replica> {
        self.replicas.slice(after, cost_max, visit)
    }
}

pub(super) fn record((node, chunk): &Replica, not_before_ms: u64) -> pb::PendingDelete {
    pb::PendingDelete { node_id: node.0.into(), chunk_id: chunk_id_bytes(*chunk), not_before_ms }
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

//! Replicas of committed chunks that change their nodes, and nodes that come to an end.
//!
//! Invariant: a manifest names a node for a chunk only by its word in its present registration, and never while the node is to
//! remove that chunk. All versions that share a chunk name the same nodes for it.

use bytes::Bytes;
use xdpfs_proto::state::v1::{self as pb, outcome};
use xdpfs_wire::{ChunkId, NodeEpoch, NodeId, Receipt};

use super::{
    Chunk, Context, Owner, Replicas, State,
    backup::NO_RECEIPTS,
    parse_chunk_id,
    reject::{NODE_REGISTERED, NODE_REMOVED, NODE_UNKNOWN, Reject},
};
use crate::mistake::{Mistake, is_planted};

/// Changes in one entry.
pub const REPLICA_CHANGES_MAX: usize = 256;

/// Why a change of a replica does nothing.
enum Misfit {
    /// The manifest is another one than it was made for, and what was written for it is of no use.
    Manifest,
    /// The node's word is worth nothing, or it can't be taken now.
    Word,
}

impl State {
    /// Each change by itself.
    pub(super) fn replace_replicas(
        &mut self,
        context: Context,
        replace: &pb::ReplaceReplicas,
    ) -> outcome::Kind {
        let applied = replace.changes.iter().map(|change| self.replace_replica(context, change).is_some());
        outcome::Kind::ReplicasReplaced(pb::ReplicasReplaced { applied: applied.collect() })
    }

    fn replace_replica(&mut self, context: Context, change: &pb::ReplicaChange) -> Option<()> {
        let id = parse_chunk_id(&change.chunk_id)?;
        let from = match change.from {
            0 => None,
            from => Some(NodeId(u16::try_from(from).ok()?)),
        };
        let receipt = change.to.as_ref()?;
        let to = NodeId(u16::try_from(receipt.node_id).ok()?);
        match self.judge_change(id, from, to, receipt) {
            Ok(replicas) => {
                self.set_replicas(id, replicas);
                if let Some(from) = from {
                    self.remove_later(context, from, id);
                } else {
                    self.replica_debt = self.replica_debt.saturating_sub(1);
                }
                Some(())
            }
            Err(Misfit::Manifest) => {
                self.collect(context, to, id);
                None
            }
            Err(Misfit::Word) => None,
        }
    }

    fn judge_change(
        &self,
        id: ChunkId,
        from: Option<NodeId>,
        to: NodeId,
        receipt: &pb::Receipt,
    ) -> Result<Replicas, Misfit> {
        let node = self.nodes.get(&to).filter(|node| !node.removed).ok_or(Misfit::Word)?;
        let node_epoch = NodeEpoch(u16::try_from(receipt.node_epoch).map_err(|_| Misfit::Word)?);
        let chunk = self.chunk(id).ok_or(Misfit::Manifest)?;
        let word = Receipt {
            chunk: id,
            length: chunk.length,
            crc: chunk.crc32c,
            node: to,
            node_epoch,
            mac: receipt.mac,
        };
        // It may have removed the chunk since it gave its word.
        if !node.vouches_for(&word) || self.pending_deletes.contains(to, id) {
            return Err(Misfit::Word);
        }
        let lacks = self.bucket_by_id(id.bucket()).is_some_and(|bucket| chunk.debt(bucket) > 0);
        let fits = !chunk.replicas.contains(to)
            && from.map_or(lacks && chunk.replicas.len() < super::REPLICAS_MAX, |from| {
                chunk.replicas.contains(from)
            });
        if !fits {
            return Err(Misfit::Manifest);
        }
        Ok(Replicas::new(chunk.replicas.iter().filter(|node| Some(*node) != from).chain([to])))
    }

    /// Whoever has the chunk names these nodes for it.
    fn set_replicas(&mut self, id: ChunkId, replicas: Replicas) {
        let Some(owner) = self.owners.of(id).cloned() else { return };
        for name in owner.versions() {
            if let Some(chunk) = self.version_mut(id.bucket(), &name).and_then(|object| object.chunk_mut(id))
            {
                chunk.replicas = replicas;
            }
        }
    }

    /// The node removes the chunk once nobody can read it there any more. One that never comes back need not be told.
    pub(super) fn remove_later(&mut self, context: Context, node: NodeId, chunk: ChunkId) {
        if self.nodes.get(&node).is_none_or(|node| !node.removed) {
            let removable_ms =
                if is_planted(Mistake::RemovesWithoutGrace) { 0 } else { context.removable_ms };
            self.pending_deletes.add(node, chunk, removable_ms);
        }
    }

    /// The node removes the chunk, unless somebody counts on it, or it is about to do so.
    fn collect(&mut self, context: Context, node: NodeId, chunk: ChunkId) {
        let is_written = matches!(self.owners.of(chunk), Some(Owner::Upload(_)));
        let is_named = self.chunk(chunk).is_some_and(|chunk| chunk.replicas.contains(node));
        let is_known = self.nodes.contains_key(&node);
        if is_known
            && self.is_granted(chunk)
            && !is_written
            && !is_named
            && !self.pending_deletes.contains(node, chunk)
        {
            self.remove_later(context, node, chunk);
        }
    }

    pub(super) fn collect_replicas(
        &mut self,
        context: Context,
        collect: &pb::CollectReplicas,
    ) -> outcome::Kind {
        if let Ok(node) = u16::try_from(collect.node_id) {
            for chunk in collect.chunk_ids.iter().filter_map(|id| parse_chunk_id(id)) {
                self.collect(context, NodeId(node), chunk);
            }
        }
        outcome::Kind::Done(pb::Done {})
    }

    /// The chunk as the manifests that have it say. None: it is an open upload's, or nobody's.
    #[must_use]
    pub fn chunk(&self, id: ChunkId) -> Option<&Chunk> {
        let first = self.owners.of(id)?.first()?;
        self.version(id.bucket(), &first.key, first.version)?.chunk(id)
    }

    /// How many versions share the chunk.
    #[must_use]
    pub fn sharers(&self, id: ChunkId) -> usize {
        self.owners.of(id).map_or(0, Owner::count)
    }

    pub(super) fn fence_node(&mut self, fence: &pb::FenceNode) -> outcome::Kind {
        let node = u16::try_from(fence.node_id).ok().and_then(|id| self.nodes.get_mut(&NodeId(id)));
        let is_due =
            |node: &&mut super::Node| node.epoch == fence.epoch && !is_planted(Mistake::FencesEndNothing);
        if let Some(node) = node.filter(is_due) {
            node.end_registration();
        }
        outcome::Kind::Done(pb::Done {})
    }

    pub(super) fn drain_node(&mut self, drain: &pb::DrainNode) -> Result<outcome::Kind, Reject> {
        let node = u16::try_from(drain.node_id).ok().and_then(|id| self.nodes.get_mut(&NodeId(id)));
        let node = node.ok_or(NODE_UNKNOWN)?;
        if node.removed {
            return Err(NODE_REMOVED);
        }
        node.draining = drain.draining;
        Ok(outcome::Kind::Done(pb::Done {}))
    }

    /// Whether anything is lost by it was for the leader to find out: here a manifest says no more than before.
    pub(super) fn remove_node(&mut self, remove: &pb::RemoveNode) -> Result<outcome::Kind, Reject> {
        let id = u16::try_from(remove.node_id).map(NodeId).map_err(|_| NODE_UNKNOWN)?;
        let node = self.nodes.get_mut(&id).ok_or(NODE_UNKNOWN)?;
        if !node.removed {
            // Who can vouch for chunks could have been named for some since the leader looked.
            if !node.is_fenced() || node.epoch != remove.epoch {
                return Err(NODE_REGISTERED);
            }
            node.removed = true;
            node.draining = false;
            self.pending_deletes.forget_node(id);
        }
        Ok(outcome::Kind::Done(pb::Done {}))
    }
}

impl super::Node {
    /// Its receipts are worth nothing from here on, and what it says is heard only once it has registered anew.
    fn end_registration(&mut self) {
        self.epoch += 1;
        self.receipt_key = NO_RECEIPTS;
        // A registration that was asked for before and arrives late must not bring the old one back.
        self.request_id = Bytes::new();
    }

    /// Whether it has a registration that it can vouch in.
    #[must_use]
    pub fn is_fenced(&self) -> bool {
        self.receipt_key == NO_RECEIPTS
    }
}

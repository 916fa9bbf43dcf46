//! A walk through all manifests, for what they say of nodes that are not there, and of nodes too few.
//!
//! Invariant: the state is looked at for a bounded number of chunks at a time. What changes meanwhile may be seen as it was or
//! as it is.

use std::collections::BTreeSet;

use xdpfs_wire::{ChunkId, NodeId};

use super::{Findings, Kind};
use crate::state_machine::{Chunk, Object, ObjectName, Owner, State};

/// Objects and chunks that are looked at under one lock; the last key may go beyond it.
const LOOKED_AT_MAX: usize = 4096;

/// How far it is.
#[derive(Clone, Debug, Default)]
pub(super) struct Walk {
    /// The last object that was looked at.
    after: Option<ObjectName>,
    pub(super) is_complete: bool,
    /// Objects and older versions.
    pub(super) objects: u64,
    /// Their chunks; those that several share once.
    pub(super) chunks: u64,
    pub(super) findings: Findings,
}

impl Walk {
    /// Looks at some more. `heard` are the nodes that can be read from.
    pub(super) fn look_on(&mut self, state: &State, heard: &BTreeSet<NodeId>) {
        let after = self.after.take();
        let mut looked_at = 0;
        let mut last: Option<ObjectName> = None;
        for (name, object) in state.objects_after(after.as_ref()) {
            // A part ends behind all versions of a key.
            if looked_at >= LOOKED_AT_MAX && last.as_ref() != Some(&name) {
                self.after = last;
                return;
            }
            looked_at += 1 + object.chunks.len();
            self.objects += 1;
            let wanted = state.bucket_by_id(name.0).map_or(0, |bucket| bucket.replicas as usize);
            for chunk in object.chunks.iter().filter(|chunk| is_first(state, &name, object, chunk.id)) {
                self.chunks += 1;
                self.look_at(state, heard, chunk, wanted);
            }
            last = Some(name);
        }
        self.is_complete = true;
    }

    fn look_at(&mut self, state: &State, heard: &BTreeSet<NodeId>, chunk: &Chunk, wanted: usize) {
        for node in chunk.replicas.iter() {
            if state.node(node).is_none_or(|node| node.removed) {
                self.findings.note(Kind::NodeGone, chunk.id, Some(node));
            }
        }
        if !chunk.replicas.iter().any(|node| heard.contains(&node)) {
            self.findings.note(Kind::OutOfReach, chunk.id, None);
        }
        if chunk.replicas.len() < wanted {
            self.findings.note(Kind::TooFew, chunk.id, None);
        }
    }
}

/// Chunks that several versions share are looked at once.
fn is_first(state: &State, (_, key): &ObjectName, object: &Object, chunk: ChunkId) -> bool {
    let first = state.chunk_owner(chunk).and_then(Owner::first);
    first.is_some_and(|first| first.version == object.version && first.key == *key)
}

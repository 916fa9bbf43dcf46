//! What a part of a node's list shows, held against the manifests.
//!
//! Invariant: pure, and about one moment of the state; the list is of an earlier one, so nothing is claimed by one look alone.

use std::{cmp::Ordering, collections::BTreeSet};

use xdpfs_wire::{ChunkId, NodeId};

use super::Kind;
use crate::state_machine::{Chunk, State};

/// A chunk, as the node's store has it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Listed {
    /// Its id.
    pub chunk: ChunkId,
    /// Bytes.
    pub length: u32,
    /// Over all of them.
    pub crc32c: u32,
}

/// What a look has shown.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Sight {
    /// What seems to be wrong.
    pub wrong: BTreeSet<(Kind, ChunkId)>,
    /// Chunks that the node has told up to `last`.
    pub chunks: u64,
    /// It was looked up to here.
    pub last: ChunkId,
}

impl Sight {
    /// What the two show that lie behind one another.
    #[must_use]
    pub fn join(mut self, next: Self) -> Self {
        self.wrong.extend(next.wrong);
        Self { wrong: self.wrong, chunks: self.chunks + next.chunks, last: next.last }
    }
}

/// Looks at all chunks from `first` up to and with `last` that the node has told or that something refers to; at no more than so
/// many.
#[must_use]
pub fn look(
    state: &State,
    node: NodeId,
    list: &[Listed],
    (first, last): (ChunkId, ChunkId),
    looked_at_max: usize,
) -> Sight {
    let from = list.partition_point(|listed| listed.chunk < first);
    let mut told = list[from..].iter().take_while(|listed| listed.chunk <= last).peekable();
    let mut believed = state.chunks_between(first, last).peekable();
    let mut sight = Sight { wrong: BTreeSet::new(), chunks: 0, last };
    for looked_at in 0.. {
        let (id, listed, known) = match (told.peek(), believed.peek()) {
            (None, None) => break,
            (Some(listed), None) => (listed.chunk, true, false),
            (None, Some((chunk, _))) => (*chunk, false, true),
            (Some(listed), Some((chunk, _))) => match listed.chunk.cmp(chunk) {
                Ordering::Less => (listed.chunk, true, false),
                Ordering::Equal => (*chunk, true, true),
                Ordering::Greater => (*chunk, false, true),
            },
        };
        if looked_at == looked_at_max {
            // Whatever lies in between is nobody's.
            sight.last = ChunkId(id.0 - 1);
            break;
        }
        let listed = if listed { told.next() } else { None };
        let known = if known { believed.next() } else { None };
        sight.chunks += u64::from(listed.is_some());
        if let Some(kind) = judge(state, node, id, listed, known.map(|(_, chunk)| chunk)) {
            sight.wrong.insert((kind, id));
        }
    }
    sight
}

/// What is wrong with a chunk, if anything is. `known` is what something refers to it as, if something does.
fn judge(
    state: &State,
    node: NodeId,
    id: ChunkId,
    listed: Option<&Listed>,
    known: Option<Option<&Chunk>>,
) -> Option<Kind> {
    match (listed, known) {
        (None, Some(Some(chunk))) => chunk.replicas.contains(node).then_some(Kind::Missing),
        (Some(listed), Some(Some(chunk))) if chunk.replicas.contains(node) => {
            let is_it = (listed.length, listed.crc32c) == (chunk.length, chunk.crc32c);
            (!is_it).then_some(Kind::Different)
        }
        // Open uploads say nothing of who holds what.
        (_, Some(None)) | (None, None) => None,
        // The node is to remove it.
        (Some(_), _) if state.pending_deletes().contains(node, id) => None,
        (Some(_), Some(Some(_))) => Some(Kind::Surplus),
        (Some(_), None) if state.is_granted(id) => Some(Kind::Unreferenced),
        (Some(_), None) => Some(Kind::Foreign),
    }
}

//! Which chunks move, and where to.
//!
//! Invariant: each move takes from a node that holds more than its share and gives to one that holds less, neither of which it
//! turns into the other: so no byte moves twice, what is moved is what has to be, and it ends. No replica comes to lie closer to the others of
//! its chunk than the one whose place it takes. Memory is bounded by the number of nodes.

use std::{cmp::Reverse, collections::BTreeMap};

use xdpfs_wire::{ChunkId, NodeId, SipKey, siphash_2_4};

use super::{Count, Seats};
use crate::{
    manifests::{ManifestWalk, Seen, is_first},
    placement::{Candidate, Closeness, Held},
    state_machine::{Chunk, Replicas, State},
};

/// Chunks for which a place is looked for under one lock.
const TRIES_MAX: usize = 64;

/// No secret: it only picks.
const PICK: SipKey = SipKey { k0: 0x7265_6261_6c61_6e63, k1: 0x6520_7069_636b_2e2e };

/// A replica that is to lie elsewhere.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Move {
    /// Of this chunk.
    pub chunk: ChunkId,
    /// Its bytes.
    pub length: u32,
    /// Where it lies.
    pub from: NodeId,
    /// Where it is to lie.
    pub to: NodeId,
}

/// Looks for moves among all chunks: once as if by chance, so that what is put together stays together no more than it
/// has to, and once for what is left.
#[derive(Debug)]
pub(super) struct Plan {
    walk: ManifestWalk,
    is_last_walk: bool,
    candidates: BTreeMap<NodeId, Candidate>,
    rooms: BTreeMap<NodeId, f64>,
    /// What nodes still hold too much, and too little.
    surplus: BTreeMap<NodeId, u64>,
    deficit: BTreeMap<NodeId, u64>,
    /// What those with too much hold of chunks that this walk has yet to come to.
    ahead: BTreeMap<NodeId, u64>,
}

impl Plan {
    pub(super) fn new(count: &Count, seats: &Seats) -> Self {
        let over = |node: &NodeId| Some((*node, count.surplus(*node))).filter(|(_, bytes)| *bytes > 0);
        let surplus: BTreeMap<NodeId, u64> = seats.keys().filter_map(over).collect();
        let under = |(node, seat): (&NodeId, &super::Seat)| {
            let bytes = count.deficit(*node).min(seat.free_bytes);
            (bytes > 0).then_some((*node, bytes))
        };
        let candidate = |seat: &super::Seat| Candidate {
            node: seat.node,
            position: seat.position,
            free_bytes: seat.free_bytes,
            barred: None,
            avoid: false,
        };
        Self {
            walk: ManifestWalk::default(),
            is_last_walk: false,
            candidates: seats.iter().map(|(node, seat)| (*node, candidate(seat))).collect(),
            rooms: seats.iter().map(|(node, seat)| (*node, seat.room_bytes.max(1) as f64)).collect(),
            ahead: surplus.keys().map(|node| (*node, count.held(*node))).collect(),
            surplus,
            deficit: seats.iter().filter_map(under).collect(),
        }
    }

    /// Whether all was looked at that there is to look at.
    pub(super) fn is_complete(&self) -> bool {
        self.walk.is_complete() && self.is_last_walk
    }

    /// Whether it looks among all chunks again, which is to see what the moves of the first walk have led to.
    pub(super) const fn is_between_walks(&self) -> bool {
        self.walk.is_complete() && !self.is_last_walk
    }

    /// Bytes for which it still looks for moves.
    pub(super) fn bytes_left(&self) -> u64 {
        let sum = |of: &BTreeMap<NodeId, u64>| of.values().sum::<u64>();
        if self.is_complete() { 0 } else { sum(&self.surplus).min(sum(&self.deficit)) }
    }

    /// Looks at some more manifests.
    pub(super) fn look_on(&mut self, state: &State, found: &mut impl Extend<Move>) {
        if self.bytes_left() == 0 {
            (self.walk, self.is_last_walk) = (ManifestWalk::ended(), true);
            return;
        }
        if self.walk.is_complete() {
            (self.walk, self.is_last_walk) = (ManifestWalk::default(), true);
        }
        let mut walk = std::mem::take(&mut self.walk);
        let mut tries = 0;
        walk.look_on(state, |name, object| {
            let Some(wanted) = state.bucket_by_id(name.0).map(|bucket| bucket.replicas as usize) else {
                return Seen::More;
            };
            for chunk in object.chunks.iter().filter(|chunk| is_first(state, name, object, chunk)) {
                let is_whole = chunk.replicas.len() == wanted
                    && chunk.replicas.iter().all(|node| self.candidates.contains_key(&node));
                // What lacks something is for repair.
                if is_whole && self.is_picked(chunk) {
                    tries += 1;
                    found.extend(self.moves_of(state, chunk));
                }
                self.pass(chunk);
            }
            if tries >= TRIES_MAX { Seen::Enough } else { Seen::More }
        });
        self.walk = walk;
    }

    /// Whether it is the chunk's turn to move, so that as much of what is ahead of the walk is picked as there is too much.
    fn is_picked(&self, chunk: &Chunk) -> bool {
        let is_picked = |node: NodeId| {
            let Some(surplus) = self.surplus.get(&node).filter(|surplus| **surplus > 0) else { return false };
            let ahead = self.ahead.get(&node).copied().unwrap_or_default().max(1);
            let words = [(chunk.id.0 >> 64) as u64, chunk.id.0 as u64, u64::from(node.0)];
            // The 53 bits that a float holds exactly.
            let chance = (siphash_2_4(PICK, &words) >> 11) as f64 / (1_u64 << 53) as f64;
            self.is_last_walk || chance < *surplus as f64 / ahead as f64
        };
        chunk.replicas.iter().any(is_picked)
    }

    fn pass(&mut self, chunk: &Chunk) {
        for node in chunk.replicas.iter() {
            if let Some(ahead) = self.ahead.get_mut(&node) {
                *ahead = ahead.saturating_sub(chunk.length.into());
            }
        }
    }

    /// Where replicas of the chunk go, one after the other.
    fn moves_of(&mut self, state: &State, chunk: &Chunk) -> Vec<Move> {
        let place = |node: NodeId| Some((node, self.candidates.get(&node)?.position));
        let mut held: Vec<Held> = chunk.replicas.iter().filter_map(place).collect();
        let mut moves = Vec::new();
        while let Some((from, to)) = self.best(state, chunk, &held) {
            moves.push(Move { chunk: chunk.id, length: chunk.length, from, to });
            let take = |of: &mut BTreeMap<NodeId, u64>, node| {
                if let Some(bytes) = of.get_mut(&node) {
                    *bytes = bytes.saturating_sub(chunk.length.into());
                }
            };
            take(&mut self.surplus, from);
            take(&mut self.deficit, to);
            let position = self.candidates.get(&to).map(|candidate| (to, candidate.position));
            held.retain(|(node, _)| *node != from);
            held.extend(position);
        }
        moves
    }

    /// The move after which replicas lie least close together; among such, from where there is most too much to where there is
    /// most too little, each for its room.
    fn best(&self, state: &State, chunk: &Chunk, held: &[Held]) -> Option<(NodeId, NodeId)> {
        let part = |bytes: u64, node: NodeId| {
            // Positive floats are in the order of their bits.
            (bytes as f64 / self.rooms.get(&node).copied().unwrap_or(1.0)).to_bits()
        };
        // At the end no node is further from its share than half a chunk, if it can be.
        let fits = |bytes: u64| bytes.saturating_mul(2) >= u64::from(chunk.length) && bytes > 0;
        let before = Closeness::of(held.iter().map(|(_, position)| *position));
        let from = held.iter().filter_map(|(node, _)| {
            let surplus = *self.surplus.get(node).filter(|surplus| fits(**surplus))?;
            Some((*node, surplus))
        });
        let to = || {
            self.deficit.iter().filter_map(|(node, deficit)| {
                let candidate = self.candidates.get(node)?;
                let may = fits(*deficit)
                    && candidate.free_bytes >= chunk.length.into()
                    && !chunk.replicas.contains(*node)
                    && held.iter().all(|(other, _)| other != node)
                    && !state.pending_deletes().contains(*node, chunk.id);
                may.then_some((candidate, *deficit))
            })
        };
        let moves = from.flat_map(|(from, surplus)| {
            to().filter_map(move |(candidate, deficit)| {
                let after = Closeness::after(held, from, candidate).filter(|after| *after <= before)?;
                let order = (after, Reverse(part(surplus, from)), Reverse(part(deficit, candidate.node)));
                Some((order, from, candidate.node))
            })
        });
        moves.min().map(|(_, from, to)| (from, to))
    }
}

/// Whether the move still makes sense by what the manifest says now, and by what nodes are like now.
pub(crate) fn still_fits<'a>(
    planned: &Move,
    replicas: &Replicas,
    candidate: impl Fn(NodeId) -> Option<&'a Candidate>,
) -> bool {
    let place = |node| candidate(node).map(|candidate| (node, candidate.position));
    let held: Option<Vec<Held>> = replicas.iter().map(place).collect();
    let (Some(held), Some(to)) = (held, candidate(planned.to)) else { return false };
    let before = Closeness::of(held.iter().map(|(_, position)| *position));
    replicas.contains(planned.from)
        && !replicas.contains(planned.to)
        && to.barred.is_none()
        && to.free_bytes >= planned.length.into()
        && Closeness::after(&held, planned.from, to).is_some_and(|after| after <= before)
}

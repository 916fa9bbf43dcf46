//! What it would take to free nodes of their chunks: every replica there is placed anew, beside the others of its chunk.
//!
//! Invariant: pure, and it moves nothing. Memory is bounded by the number of nodes, however many chunks there are. Room
//! that is given away is gone for the chunks that follow.

use std::collections::BTreeMap;

use xdpfs_wire::{ChunkId, NodeId};

use super::{Bar, Candidate, Choice, Held, Wanted, domains};

/// What goes to one node.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Destination {
    /// Replicas.
    pub replicas: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// The sums of a plan so far.
#[derive(Clone, Debug)]
pub struct DrainTally {
    candidates: Vec<Candidate>,
    /// Where each node stands among the candidates.
    index: BTreeMap<NodeId, usize>,
    /// What goes where.
    pub destinations: BTreeMap<NodeId, Destination>,
    /// Replicas that would have to move.
    pub replicas: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Replicas for which there is no place.
    pub replicas_unplaced: u64,
    /// Their bytes.
    pub bytes_unplaced: u64,
    /// Chunks that would lie in fewer failure domains than now.
    pub chunks_crowded: u64,
    /// Chunks of which no replica is on a node that is alive.
    pub chunks_out_of_reach: u64,
}

impl DrainTally {
    /// Nothing yet. Those to be freed are barred as [`Bar::Draining`].
    #[must_use]
    pub fn new(candidates: Vec<Candidate>) -> Self {
        let index = candidates.iter().enumerate().map(|(at, candidate)| (candidate.node, at)).collect();
        Self {
            candidates,
            index,
            destinations: BTreeMap::new(),
            replicas: 0,
            bytes: 0,
            replicas_unplaced: 0,
            bytes_unplaced: 0,
            chunks_crowded: 0,
            chunks_out_of_reach: 0,
        }
    }

    /// Places the replicas of a chunk anew that lie on nodes to be freed, given where all of them lie and which nodes are
    /// silent. Whether there is a
    /// place for each.
    pub fn add(&mut self, chunk: ChunkId, length: u32, holders: &[NodeId], silent: &[NodeId]) -> bool {
        let known = holders.iter().filter_map(|node| self.index.get(node));
        let all: Vec<&Candidate> = known.map(|at| &self.candidates[*at]).collect();
        let is_drained = |candidate: &&&Candidate| candidate.barred == Some(Bar::Draining);
        let lost = all.iter().filter(is_drained).count() as u32;
        if lost == 0 {
            return true;
        }
        let is_alive = |candidate: &&Candidate| {
            candidate.barred != Some(Bar::Silent) && !silent.contains(&candidate.node)
        };
        self.chunks_out_of_reach += u64::from(!all.iter().any(is_alive));
        let before: Vec<_> = all.iter().map(|candidate| candidate.position).collect();
        let held: Vec<Held> = all
            .iter()
            .filter(|candidate| !is_drained(candidate))
            .map(|candidate| (candidate.node, candidate.position))
            .collect();
        // Low bits: chunks of one bucket differ in them.
        let mut choice = Choice::new(chunk.0 as u64, &self.candidates, &held, length.into());
        let wanted = Wanted { replicas: lost, min_replicas: 0, free_bytes_min: length.into() };
        // It asks for no minimum.
        let _always = choice.run(wanted);
        let after: Vec<_> = choice.taken.iter().map(|(_, position)| *position).collect();
        let chosen = std::mem::take(&mut choice.chosen);
        let found = chosen.len() as u32;
        self.chunks_crowded += u64::from(found == lost && domains(&after) < domains(&before));
        for at in chosen {
            let candidate = &mut self.candidates[at];
            candidate.free_bytes = candidate.free_bytes.saturating_sub(length.into());
            let destination = self.destinations.entry(candidate.node).or_default();
            destination.replicas += 1;
            destination.bytes += u64::from(length);
        }
        let unplaced = u64::from(lost - found);
        self.replicas += u64::from(lost);
        self.bytes += u64::from(lost) * u64::from(length);
        self.replicas_unplaced += unplaced;
        self.bytes_unplaced += unplaced * u64::from(length);
        unplaced == 0
    }
}

//! The nodes, as repair sees them at one moment.

use std::collections::{BTreeMap, BTreeSet};

use xdpfs_proto::meta::v1::leaving_node;
use xdpfs_wire::NodeId;

use crate::{
    placement::{Candidate, Held},
    state_machine::Replicas,
};

/// Why manifests are to name a node no more.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Why {
    /// It has been silent for longer than repair waits.
    Dead,
    /// Operators want it freed.
    Draining,
    /// Operators have removed it.
    Removed,
}

impl Why {
    pub(super) const fn to_proto(self) -> leaving_node::Why {
        match self {
            Self::Dead => leaving_node::Why::Dead,
            Self::Draining => leaving_node::Why::Draining,
            Self::Removed => leaving_node::Why::Removed,
        }
    }

    pub(super) const fn words(self, nodes: usize) -> &'static str {
        match (self, nodes) {
            (Self::Dead, 1) => "no word from data node",
            (Self::Dead, _) => "no word from data nodes",
            (Self::Draining, 1) => "draining data node",
            (Self::Draining, _) => "draining data nodes",
            (Self::Removed, 1) => "removed data node",
            (Self::Removed, _) => "removed data nodes",
        }
    }
}

/// The nodes at one moment.
#[derive(Clone, Debug, Default)]
pub struct Nodes {
    /// All, those that get nothing barred.
    candidates: Vec<Candidate>,
    /// Where each node stands among them.
    index: BTreeMap<NodeId, usize>,
    leaving: BTreeMap<NodeId, Why>,
    /// Those that can't be read from at present.
    unheard: BTreeSet<NodeId>,
    /// Those that fetch nothing.
    cannot_fetch: BTreeSet<NodeId>,
}

impl Nodes {
    /// Candidates that get nothing are barred already.
    #[must_use]
    pub fn new(
        candidates: Vec<Candidate>,
        leaving: BTreeMap<NodeId, Why>,
        unheard: BTreeSet<NodeId>,
    ) -> Self {
        let index = candidates.iter().enumerate().map(|(at, candidate)| (candidate.node, at)).collect();
        Self { candidates, index, leaving, unheard, cannot_fetch: BTreeSet::new() }
    }

    /// The same, but these fetch nothing.
    #[must_use]
    pub fn without_fetches_of(self, cannot_fetch: BTreeSet<NodeId>) -> Self {
        Self { cannot_fetch, ..self }
    }

    pub(super) fn candidates(&self) -> &[Candidate] {
        &self.candidates
    }

    pub(super) fn candidate(&self, node: NodeId) -> Option<&Candidate> {
        self.index.get(&node).and_then(|at| self.candidates.get(*at))
    }

    /// Nodes that manifests are to name no more.
    #[must_use]
    pub const fn leaving(&self) -> &BTreeMap<NodeId, Why> {
        &self.leaving
    }

    pub(super) fn is_leaving(&self, node: NodeId) -> bool {
        self.leaving.contains_key(&node)
    }

    pub(super) fn is_heard(&self, node: NodeId) -> bool {
        self.index.contains_key(&node) && !self.unheard.contains(&node)
    }

    /// Whether it gets what it is ordered to fetch: one of an earlier release does not.
    pub(super) fn takes_fetches(&self, node: NodeId) -> bool {
        !self.cannot_fetch.contains(&node)
    }

    /// Whether what it holds counts: it is heard of, and nobody wants it gone.
    #[must_use]
    pub fn stays(&self, node: NodeId) -> bool {
        self.is_heard(node) && !self.is_leaving(node)
    }

    /// The one to be replaced first: what is lost goes before what only leaves.
    pub(super) fn first_leaving(&self, replicas: &Replicas) -> Option<NodeId> {
        replicas.iter().filter(|node| self.is_leaving(*node)).min_by_key(|node| self.is_heard(*node))
    }

    /// Replicas that can be read.
    pub(super) fn sources(&self, replicas: &Replicas, to: NodeId) -> Replicas {
        Replicas::new(replicas.iter().filter(|node| *node != to && self.is_heard(*node)))
    }

    /// Where the replicas lie that stay.
    pub(super) fn positions(&self, replicas: &Replicas, from: Option<NodeId>) -> Vec<Held> {
        let stays = |node: &NodeId| Some(*node) != from && !self.is_leaving(*node);
        let known = replicas.iter().filter(stays).filter_map(|node| self.index.get(&node));
        known.map(|at| &self.candidates[*at]).map(|candidate| (candidate.node, candidate.position)).collect()
    }

    /// A node has less room than before.
    pub(super) fn take_room(&mut self, node: NodeId, bytes: u64) {
        if let Some(candidate) = self.index.get(&node).and_then(|at| self.candidates.get_mut(*at)) {
            candidate.free_bytes = candidate.free_bytes.saturating_sub(bytes);
        }
    }

    /// By number, for whoever looks at millions of replicas.
    pub(super) fn marks(&self) -> Marks {
        let mut marks = Marks { leaving: Bits::default(), lost: Bits::default() };
        self.leaving.keys().for_each(|node| marks.leaving.set(*node));
        self.unheard.iter().for_each(|node| marks.lost.set(*node));
        let removed = self.leaving.iter().filter(|(_, why)| **why == Why::Removed);
        removed.for_each(|(node, _)| marks.lost.set(*node));
        marks
    }
}

/// Sets of nodes that take a moment to ask.
#[derive(Clone, Debug)]
pub(super) struct Marks {
    /// Manifests are to name them no more.
    pub(super) leaving: Bits,
    /// What they hold can't be read.
    pub(super) lost: Bits,
}

/// A set of nodes.
#[derive(Clone, Debug)]
pub(super) struct Bits(Box<[u64]>);

impl Default for Bits {
    fn default() -> Self {
        Self(vec![0; (1 << 16) / 64].into())
    }
}

impl Bits {
    fn set(&mut self, node: NodeId) {
        self.0[usize::from(node.0) / 64] |= 1 << (node.0 % 64);
    }

    pub(super) fn has(&self, node: NodeId) -> bool {
        self.0[usize::from(node.0) / 64] >> (node.0 % 64) & 1 == 1
    }
}

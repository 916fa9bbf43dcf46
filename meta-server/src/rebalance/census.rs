//! What nodes hold, by the manifests that name them.

use std::collections::BTreeMap;

use xdpfs_wire::NodeId;

use super::Seats;
use crate::{
    manifests::{ManifestWalk, Seen, is_first},
    placement::{Demand, shares},
    state_machine::State,
};

/// A census under way.
#[derive(Debug, Default)]
pub(super) struct Census {
    walk: ManifestWalk,
    count: Count,
}

/// What a census has found. Only replicas on nodes with a seat count.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Count {
    /// Bytes on each node.
    pub bytes: BTreeMap<NodeId, u64>,
    /// What each is to hold.
    pub shares: BTreeMap<NodeId, u64>,
    /// Of the longest chunk.
    pub longest: u32,
    demand: Demand,
}

impl Census {
    pub(super) const fn is_complete(&self) -> bool {
        self.walk.is_complete()
    }

    /// Looks at some more manifests.
    pub(super) fn look_on(&mut self, state: &State, seats: &Seats) {
        let count = &mut self.count;
        self.walk.look_on(state, |name, object| {
            for chunk in object.chunks.iter().filter(|chunk| is_first(state, name, object, chunk)) {
                let mut replicas = 0;
                for node in chunk.replicas.iter().filter(|node| seats.contains_key(node)) {
                    *count.bytes.entry(node).or_default() += u64::from(chunk.length);
                    replicas += 1;
                }
                *count.demand.entry(replicas).or_default() += u64::from(chunk.length);
                count.longest = count.longest.max(chunk.length);
            }
            Seen::More
        });
    }

    /// What it has found, once it is complete.
    pub(super) fn finish(self, seats: &Seats) -> Count {
        let all: Vec<_> = seats.values().copied().collect();
        let shares = shares(&all, &self.count.demand);
        let held = |node: &NodeId| (*node, self.count.bytes.get(node).copied().unwrap_or_default());
        Count { bytes: seats.keys().map(held).collect(), shares, ..self.count }
    }
}

impl Count {
    /// What a node holds beyond its share.
    pub(super) fn surplus(&self, node: NodeId) -> u64 {
        self.held(node).saturating_sub(self.share(node))
    }

    /// What it lacks of its share.
    pub(super) fn deficit(&self, node: NodeId) -> u64 {
        self.share(node).saturating_sub(self.held(node))
    }

    /// What has to be moved at least: each byte that is too much somewhere.
    #[must_use]
    pub fn least_bytes(&self) -> u64 {
        self.bytes.keys().map(|node| self.surplus(*node)).sum()
    }

    pub(super) fn held(&self, node: NodeId) -> u64 {
        self.bytes.get(&node).copied().unwrap_or_default()
    }

    pub(super) fn share(&self, node: NodeId) -> u64 {
        self.shares.get(&node).copied().unwrap_or_default()
    }
}

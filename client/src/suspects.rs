//! Nodes that failed of late: passed over while others will do.
//!
//! Invariant: a suspicion ends by itself, so a wrong one costs little.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;
use xdpfs_wire::NodeId;

/// The most nodes under suspicion at once; more are trusted.
const SUSPECTS_MAX: usize = 256;

/// Shared by all operations of a client.
#[derive(Debug)]
pub(crate) struct Suspects {
    until: Mutex<BTreeMap<NodeId, Instant>>,
    lasting: Duration,
}

impl Suspects {
    pub(crate) const fn new(lasting: Duration) -> Self {
        Self { until: Mutex::new(BTreeMap::new()), lasting }
    }

    /// The node failed.
    pub(crate) fn suspect(&self, node: NodeId) {
        let now = Instant::now();
        self.with(|until| {
            until.retain(|_, end| *end > now);
            if until.len() < SUSPECTS_MAX {
                until.insert(node, now + self.lasting);
            }
        });
    }

    /// The node did what it was asked.
    pub(crate) fn clear(&self, node: NodeId) {
        self.with(|until| {
            until.remove(&node);
        });
    }

    pub(crate) fn contains(&self, node: NodeId) -> bool {
        let now = Instant::now();
        self.with(|until| until.get(&node).is_some_and(|end| *end > now))
    }

    /// The ids of all suspects.
    pub(crate) fn ids(&self) -> Vec<u32> {
        let now = Instant::now();
        self.with(|until| {
            until.iter().filter(|(_, end)| **end > now).map(|(node, _)| node.0.into()).collect()
        })
    }

    fn with<T>(&self, act: impl FnOnce(&mut BTreeMap<NodeId, Instant>) -> T) -> T {
        act(&mut self.until.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_suspicion_ends_by_itself_or_by_a_success() {
        let suspects = Suspects::new(Duration::from_secs(10));
        suspects.suspect(NodeId(1));
        suspects.suspect(NodeId(2));
        suspects.clear(NodeId(2));
        assert!(suspects.contains(NodeId(1)) && !suspects.contains(NodeId(2)));
        assert_eq!(suspects.ids(), [1]);
        tokio::time::advance(Duration::from_secs(11)).await;
        assert!(!suspects.contains(NodeId(1)));
        assert!(suspects.ids().is_empty());
    }
}

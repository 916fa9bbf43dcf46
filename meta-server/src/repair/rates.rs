//! How much each node may get and give, so that repair leaves room for others.

use std::{collections::BTreeMap, time::Instant};

use xdpfs_wire::NodeId;

use crate::state_machine::Replicas;

/// What is allowed to gather, in seconds' worth.
const BURST_S: f64 = 1.0;

/// Bytes that nodes may still move; below zero once a chunk was larger than that.
#[derive(Debug)]
pub(super) struct Rates {
    bytes_per_s: f64,
    nodes: BTreeMap<NodeId, (f64, Instant)>,
}

impl Rates {
    pub(super) fn new(bytes_per_s: u64) -> Self {
        Self { bytes_per_s: bytes_per_s.max(1) as f64, nodes: BTreeMap::new() }
    }

    /// Whether the node may get so many bytes from these now; if so, it does. Each of the sources gives a part of them.
    pub(super) fn take(&mut self, now: Instant, to: NodeId, sources: &Replicas, bytes: u32) -> bool {
        let has_room = [to].into_iter().chain(sources.iter()).all(|node| self.left(now, node) > 0.0);
        if has_room {
            self.charge(to, bytes.into());
            let part = f64::from(bytes) / sources.len().max(1) as f64;
            sources.iter().for_each(|node| self.charge(node, part));
        }
        has_room
    }

    /// It turned out that the node moved nothing.
    pub(super) fn give_back(&mut self, node: NodeId, bytes: u32) {
        self.charge(node, -f64::from(bytes));
    }

    fn left(&mut self, now: Instant, node: NodeId) -> f64 {
        let burst = self.bytes_per_s * BURST_S;
        let (left, at) = self.nodes.entry(node).or_insert((burst, now));
        *left = (*left + now.saturating_duration_since(*at).as_secs_f64() * self.bytes_per_s).min(burst);
        *at = now;
        *left
    }

    fn charge(&mut self, node: NodeId, bytes: f64) {
        if let Some((left, _)) = self.nodes.get_mut(&node) {
            *left -= bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn nodes_move_no_more_than_the_rate() {
        let (start, mut rates) = (Instant::now(), Rates::new(1000));
        let sources = Replicas::new([NodeId(2), NodeId(3)]);
        let mut moved = 0;
        for tenth in 0..100 {
            while rates.take(start + Duration::from_millis(100 * tenth), NodeId(1), &sources, 300) {
                moved += 300;
            }
        }
        // Ten seconds' worth, what had gathered, and one chunk more.
        assert!((10_000..=11_300).contains(&moved), "{moved}");
    }

    #[test]
    fn chunk_that_is_larger_than_the_burst_gets_its_turn() {
        let (start, mut rates) = (Instant::now(), Rates::new(1000));
        let sources = Replicas::new([NodeId(2)]);
        assert!(rates.take(start, NodeId(1), &sources, 5000));
        assert!(!rates.take(start + Duration::from_secs(3), NodeId(1), &sources, 5000));
        assert!(
            !rates.take(start + Duration::from_secs(3), NodeId(4), &sources, 1),
            "its source has no room"
        );
        assert!(rates.take(start + Duration::from_secs(5), NodeId(1), &sources, 5000));
    }
}

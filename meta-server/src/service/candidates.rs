//! The nodes that placement chooses among, as the leader sees them.

use std::time::Instant;

use xdpfs_wire::NodeId;

use super::Gateway;
use crate::{
    liveness::Sight,
    placement::{Bar, Candidate, Location, Topology, Wanted},
    state_machine::{Bucket, DISK, HOST, Node, RACK, State, ZONE},
};

/// What a put to the bucket wants for each of its chunks.
pub(super) fn wanted(bucket: &Bucket) -> Wanted {
    Wanted {
        replicas: bucket.replicas,
        min_replicas: bucket.min_replicas,
        free_bytes_min: bucket.chunk_size.into(),
    }
}

/// Where a node is.
pub(super) fn location(node: &Node) -> Location<'_> {
    let label = |key| node.label(key).unwrap_or_default();
    Location {
        zone: label(ZONE),
        rack: label(RACK),
        host: label(HOST),
        disk: label(DISK),
        named_domain: node.named_domain(),
    }
}

/// All nodes, with the free space that they last spoke of.
pub(crate) fn candidates(state: &State, sight: impl Fn(NodeId) -> Sight, avoided: &[u32]) -> Vec<Candidate> {
    let mut topology = Topology::default();
    let candidates = state.nodes().map(|node| {
        let sight = sight(node.id);
        Candidate {
            node: node.id,
            position: topology.position(node.id, location(node)),
            free_bytes: sight.usage.map_or(node.capacity_bytes, |usage| usage.free_bytes),
            barred: match (node.draining || node.removed, sight.alive && !node.is_fenced()) {
                (true, _) => Some(Bar::Draining),
                (false, false) => Some(Bar::Silent),
                (false, true) => None,
            },
            avoid: avoided.contains(&node.id.0.into()),
        }
    });
    candidates.collect()
}

impl Gateway {
    /// The same, as the leader of `term` sees them now.
    pub(super) fn candidates(&self, state: &State, term: u64, avoided: &[u32]) -> Vec<Candidate> {
        let now = Instant::now();
        candidates(state, |node| self.liveness().sight(term, node, now), avoided)
    }
}

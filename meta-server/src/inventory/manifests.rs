//! What manifests say of nodes that are not there, and of nodes too few.

use std::collections::BTreeSet;

use xdpfs_wire::NodeId;

use super::{Findings, Kind};
use crate::{
    manifests::{ManifestWalk, Seen, is_first},
    state_machine::{Chunk, State},
};

/// How far all manifests have been looked at, and what was found.
#[derive(Clone, Debug, Default)]
pub(super) struct Walk {
    manifests: ManifestWalk,
    /// Objects and older versions.
    pub(super) objects: u64,
    /// Their chunks; those that several share once.
    pub(super) chunks: u64,
    pub(super) findings: Findings,
}

impl Walk {
    pub(super) const fn is_complete(&self) -> bool {
        self.manifests.is_complete()
    }

    /// Looks at some more. `heard` are the nodes that can be read from.
    pub(super) fn look_on(&mut self, state: &State, heard: &BTreeSet<NodeId>) {
        let Self { manifests, objects, chunks, findings } = self;
        manifests.look_on(state, |name, object| {
            *objects += 1;
            let wanted = state.bucket_by_id(name.0).map_or(0, |bucket| bucket.replicas as usize);
            for chunk in object.chunks.iter().filter(|chunk| is_first(state, name, object, chunk)) {
                *chunks += 1;
                look_at(findings, state, heard, chunk, wanted);
            }
            Seen::More
        });
    }
}

fn look_at(findings: &mut Findings, state: &State, heard: &BTreeSet<NodeId>, chunk: &Chunk, wanted: usize) {
    for node in chunk.replicas.iter() {
        if state.node(node).is_none_or(|node| node.removed) {
            findings.note(Kind::NodeGone, chunk.id, Some(node));
        }
    }
    if !chunk.replicas.iter().any(|node| heard.contains(&node)) {
        findings.note(Kind::OutOfReach, chunk.id, None);
    }
    if chunk.replicas.len() < wanted {
        findings.note(Kind::TooFew, chunk.id, None);
    }
}

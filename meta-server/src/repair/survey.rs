//! A look at all manifests, for chunks that lack replicas.

use std::{collections::BTreeMap, time::Instant};

use xdpfs_wire::NodeId;

use super::{Nodes, Queue, Risk, SAMPLE_MAX, Task, nodes::Marks};
use crate::{
    manifests::{ManifestWalk, Seen, is_first},
    state_machine::{Chunk, Object, ObjectName, State},
};

/// A survey under way.
#[derive(Debug)]
pub struct Survey {
    began: Instant,
    nodes: Nodes,
    marks: Marks,
    walk: ManifestWalk,
    totals: SurveyTotals,
}

/// What a survey has found.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct SurveyTotals {
    /// Objects and older versions.
    pub objects: u64,
    /// Their chunks; those that several share each time.
    pub chunks: u64,
    /// Chunks that need something, by how many replicas can be read.
    pub classes: BTreeMap<u8, u64>,
    /// Replicas that are to be made.
    pub replicas: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Replicas that puts did not get.
    pub lacking: u64,
    /// Replicas on nodes that leave.
    pub leaving: BTreeMap<NodeId, u64>,
    /// Chunks of which no replica can be read.
    pub out_of_reach: u64,
    /// The first objects that have some of these.
    pub out_of_reach_sample: Vec<ObjectName>,
}

impl SurveyTotals {
    /// A replica was made, of a chunk with so many that could be read, in the place of that node's.
    pub(super) fn settle(&mut self, live: u8, from: Option<NodeId>, length: u32) {
        self.bytes = self.bytes.saturating_sub(length.into());
        self.replicas = self.replicas.saturating_sub(1);
        let class = self.classes.entry(live).or_default();
        *class = class.saturating_sub(1);
        let of_node = match from {
            Some(from) => self.leaving.entry(from).or_default(),
            None => &mut self.lacking,
        };
        *of_node = of_node.saturating_sub(1);
    }
}

impl Survey {
    /// One that begins.
    #[must_use]
    pub fn new(now: Instant, nodes: Nodes) -> Self {
        let marks = nodes.marks();
        Self { began: now, nodes, marks, walk: ManifestWalk::default(), totals: SurveyTotals::default() }
    }

    /// When it began.
    #[must_use]
    pub const fn began(&self) -> Instant {
        self.began
    }

    /// By which it looks.
    #[must_use]
    pub const fn nodes(&self) -> &Nodes {
        &self.nodes
    }

    /// Whether all was looked at.
    #[must_use]
    pub const fn is_complete(&self) -> bool {
        self.walk.is_complete()
    }

    /// What it has found so far.
    #[must_use]
    pub const fn totals(&self) -> &SurveyTotals {
        &self.totals
    }

    /// What it has found.
    #[must_use]
    pub fn into_totals(self) -> SurveyTotals {
        self.totals
    }

    /// Looks at some more.
    pub fn look_on(&mut self, state: &State, queue: &mut Queue) {
        let mut walk = std::mem::take(&mut self.walk);
        walk.look_on(state, |name, object| {
            self.look_at(state, name, object, queue);
            Seen::More
        });
        self.walk = walk;
    }

    fn look_at(&mut self, state: &State, name: &ObjectName, object: &Object, queue: &mut Queue) {
        self.totals.objects += 1;
        self.totals.chunks += object.chunks.len() as u64;
        let Some(wanted) = state.bucket_by_id(name.0).map(|bucket| bucket.replicas as usize) else { return };
        for chunk in &object.chunks {
            let replicas = &chunk.replicas;
            let is_whole = replicas.len() >= wanted
                && !replicas.iter().any(|node| self.marks.leaving.has(node) || self.marks.lost.has(node));
            if !is_whole && is_first(state, name, object, chunk) {
                self.note(name, chunk, wanted, queue);
            }
        }
    }

    fn note(&mut self, name: &ObjectName, chunk: &Chunk, wanted: usize, queue: &mut Queue) {
        let (mut live, mut leaving, mut is_leisure) = (0_u8, 0_u64, true);
        for node in chunk.replicas.iter() {
            let is_lost = self.marks.lost.has(node);
            live += u8::from(!is_lost);
            if self.marks.leaving.has(node) {
                is_leisure &= !is_lost;
                leaving += 1;
                *self.totals.leaving.entry(node).or_default() += 1;
            }
        }
        if live == 0 {
            self.totals.out_of_reach += 1;
            if self.totals.out_of_reach_sample.len() < SAMPLE_MAX
                && self.totals.out_of_reach_sample.last() != Some(name)
            {
                self.totals.out_of_reach_sample.push(name.clone());
            }
        }
        let lacking = wanted.saturating_sub(chunk.replicas.len()) as u64;
        if leaving + lacking == 0 {
            // Somebody is silent, and may be back before it matters.
            return;
        }
        self.totals.lacking += lacking;
        self.totals.replicas += leaving + lacking;
        self.totals.bytes += (leaving + lacking) * u64::from(chunk.length);
        *self.totals.classes.entry(live).or_default() += 1;
        let risk = Risk { live, is_leisure: is_leisure && lacking == 0 };
        queue.insert(risk, Task { chunk: chunk.id, doubted: None, verify: false });
    }
}

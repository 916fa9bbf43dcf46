//! Which nodes get the replicas of a chunk ([design 0013](../../docs/design/0013-placement-over-failure-domains.md)).
//!
//! Invariant: pure; the same seed and the same nodes give the same choice. No node, no disk and no failure domain that a
//! node named holds two replicas of one chunk. Replicas lie in as many failure domains as there are, and among these as
//! far apart as can be: in distinct zones first, then racks, then hosts. Nodes that are as good are chosen in proportion
//! to their free space.

mod closeness;
mod drain;
mod explain;
mod shares;
mod topology;

use xdpfs_wire::{NodeId, SipKey, siphash_2_4};

pub use self::{
    closeness::Closeness,
    drain::{Destination, DrainTally},
    explain::{Verdict, chosen_of_thousand, explain},
    shares::{Demand, Seat, shares},
    topology::{Location, Position, Spread, Topology, domains},
};

/// A node that could get a replica.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// The node.
    pub node: NodeId,
    /// Where it is.
    pub position: Position,
    /// What is left on its disk.
    pub free_bytes: u64,
    /// Why it gets nothing at all.
    pub barred: Option<Bar>,
    /// The client says that it cannot reach it.
    pub avoid: bool,
}

/// Why a node gets nothing.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Bar {
    /// It is to be freed of its chunks.
    Draining,
    /// It has not been heard of lately.
    Silent,
}

/// How many replicas are wanted, and how many will do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Wanted {
    /// As many as this if there are so many places for them.
    pub replicas: u32,
    /// No fewer than this, each in a failure domain of its own.
    pub min_replicas: u32,
    /// A node with less free space than this is left out.
    pub free_bytes_min: u64,
}

/// Too few failure domains have a node that could take the chunk.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("only {found} of at least {needed} failure domains have a usable node")]
pub struct NotEnoughNodes {
    /// Domains that have one.
    pub found: u32,
    /// Domains that are needed.
    pub needed: u32,
}

/// Chooses the nodes of one chunk.
///
/// Nodes to be avoided are used only if the others would give fewer than `min_replicas`: a replica less now, which is
/// recorded as debt, is better than waiting for a node that does not answer.
///
/// # Errors
///
/// Fewer than `min_replicas` domains have a node.
pub fn place(seed: u64, candidates: &[Candidate], wanted: Wanted) -> Result<Vec<NodeId>, NotEnoughNodes> {
    let mut choice = Choice::new(seed, candidates, &[], wanted.free_bytes_min);
    choice.run(wanted)?;
    Ok(choice.chosen.iter().map(|at| candidates[*at].node).collect())
}

/// Chooses the node of one more replica of a chunk, beside those that it has, by the choice that puts are placed by. None: no
/// node would do. Whoever holds a replica already, or is `barred`, is left out.
#[must_use]
pub fn place_beside(
    seed: u64,
    candidates: &[Candidate],
    held: &[Held],
    free_bytes_min: u64,
    barred: impl Fn(NodeId) -> bool,
) -> Option<NodeId> {
    let mut choice = Choice::new(seed, candidates, held, free_bytes_min);
    for (score, candidate) in choice.scores.iter_mut().zip(candidates) {
        if barred(candidate.node) {
            *score = None;
        }
    }
    let wanted = Wanted { replicas: 1, min_replicas: 0, free_bytes_min };
    // It asks for no minimum.
    let _always = choice.run(wanted);
    choice.chosen.first().map(|at| candidates[*at].node)
}

/// Where a replica lies already.
pub type Held = (NodeId, Position);

/// A choice under way.
#[derive(Debug)]
struct Choice<'a> {
    candidates: &'a [Candidate],
    /// Of each candidate, the least first; none if it can't be chosen.
    scores: Vec<Option<f64>>,
    /// Replicas that lie somewhere already, and those that were chosen.
    taken: Vec<Held>,
    /// Which candidates were chosen, in order.
    chosen: Vec<usize>,
}

/// What speaks against a candidate beside what is taken; less is better, the first difference decides.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Crowding {
    /// Its failure domain has a replica.
    domain_is_used: bool,
    zone: usize,
    rack: usize,
    host: usize,
}

impl<'a> Choice<'a> {
    fn new(seed: u64, candidates: &'a [Candidate], held: &[Held], free_bytes_min: u64) -> Self {
        let usable =
            |candidate: &Candidate| candidate.barred.is_none() && candidate.free_bytes >= free_bytes_min;
        let score = |candidate: &Candidate| usable(candidate).then(|| score(seed, candidate));
        let scores = candidates.iter().map(score).collect();
        Self { candidates, scores, taken: held.to_vec(), chosen: Vec::new() }
    }

    fn run(&mut self, wanted: Wanted) -> Result<(), NotEnoughNodes> {
        let Wanted { replicas, min_replicas, .. } = wanted;
        // Failure domains come first: they are what a put cannot do without, and debt counts.
        self.take(replicas, |candidate, crowding| !candidate.avoid && !crowding.domain_is_used);
        self.take(min_replicas, |_, crowding| !crowding.domain_is_used);
        let found = self.chosen.len() as u32;
        if found < min_replicas {
            return Err(NotEnoughNodes { found, needed: min_replicas });
        }
        // Another disk of the same host bears one failure more than no replica at all.
        self.take(replicas, |candidate, _| !candidate.avoid);
        Ok(())
    }

    /// Chooses the best of those that may be taken until `count` are chosen or there is none left.
    fn take(&mut self, count: u32, may: impl Fn(&Candidate, &Crowding) -> bool) {
        while (self.chosen.len() as u32) < count {
            let open = self.open().filter(|(at, crowding, _)| may(&self.candidates[*at], crowding));
            let Some((best, ..)) = open.min_by(|a, b| self.compare(*a, *b)) else { return };
            self.chosen.push(best);
            self.taken.push((self.candidates[best].node, self.candidates[best].position));
        }
    }

    /// Candidates that can still be chosen, with what speaks against them.
    fn open(&self) -> impl Iterator<Item = (usize, Crowding, f64)> + '_ {
        self.candidates.iter().enumerate().filter_map(|(at, candidate)| {
            let score = self.scores[at]?;
            Some((at, crowding(candidate, &self.taken).ok()?, score))
        })
    }

    fn compare(&self, a: (usize, Crowding, f64), b: (usize, Crowding, f64)) -> std::cmp::Ordering {
        let node = |at: usize| self.candidates[at].node;
        a.1.cmp(&b.1).then(a.2.total_cmp(&b.2)).then_with(|| node(a.0).cmp(&node(b.0)))
    }
}

/// What speaks against a candidate; or the place, already taken, that rules it out.
fn crowding(candidate: &Candidate, taken: &[Held]) -> Result<Crowding, NodeId> {
    let own = &candidate.position;
    let (mut crowding, mut is_used) = (Crowding { domain_is_used: false, zone: 0, rack: 0, host: 0 }, false);
    for (node, other) in taken {
        let shares_domain = own.domain == other.domain;
        // One disk adds nothing to itself. But who named domains for its nodes knows better.
        let is_one_disk = shares_domain && own.disk == other.disk;
        if *node == candidate.node || is_one_disk || shares_domain && own.is_named {
            return Err(*node);
        }
        is_used |= shares_domain;
        crowding.zone += usize::from(own.zone == other.zone);
        crowding.rack += usize::from(own.rack == other.rack);
        crowding.host += usize::from(own.host == other.host);
    }
    crowding.domain_is_used = is_used;
    Ok(crowding)
}

/// Weighted rendezvous hashing: an exponential variate with the free space as its rate; the least ones win.
fn score(seed: u64, candidate: &Candidate) -> f64 {
    let hash = siphash_2_4(SipKey { k0: seed, k1: 0 }, &[u64::from(candidate.node.0)]);
    // The 53 bits that a float holds exactly, moved into (0, 1).
    let uniform = ((hash >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    -uniform.ln() / candidate.free_bytes.max(1) as f64
}

#[cfg(test)]
mod tests;

//! Why a chunk would go where it would go.
//!
//! Invariant: it is asked of the same choice that placement makes, so it cannot say anything else.

use xdpfs_wire::NodeId;

use super::{Bar, Candidate, Choice, Crowding, Held, Position, Wanted, crowding, place};

/// Chunks that are placed to see how often a node is chosen.
const SAMPLES: u32 = 250;

/// What became of a candidate.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// The client says that it cannot reach it.
    Avoided,
    /// It was chosen, as the first, second and so on.
    Chosen(u32),
    /// A replica lies on its disk.
    DiskUsed(NodeId),
    /// A replica lies in its failure domain.
    DomainUsed(NodeId),
    /// It is to be freed of its chunks.
    Draining,
    /// It has less room than a chunk needs.
    Full,
    /// More replicas lie in its host than in another one's that was chosen.
    HostUsed(NodeId),
    /// It is as good a place as one that was chosen, but chance, weighted by free space, fell on that.
    Outweighed,
    /// More replicas lie in its rack than in another one's that was chosen.
    RackUsed(NodeId),
    /// It has not been heard of lately.
    Silent,
    /// More replicas lie in its zone than in another one's that was chosen.
    ZoneUsed(NodeId),
}

/// What becomes of each candidate, in their order, and whether that is enough for a put.
#[must_use]
pub fn explain(seed: u64, candidates: &[Candidate], wanted: Wanted) -> Vec<Verdict> {
    let mut choice = Choice::new(seed, candidates, &[], wanted.free_bytes_min);
    // Too few are explained like enough.
    let _enough = choice.run(wanted);
    let is_complete = choice.chosen.len() as u32 == wanted.replicas;
    // Of a choice that is complete, what speaks is what was taken before the last one; else nothing more could be had.
    let (last, before) = match choice.taken.split_last() {
        Some((last, before)) if is_complete => (Some(last.0), before),
        _ => (None, &choice.taken[..]),
    };
    let verdict = |(at, candidate): (usize, &Candidate)| {
        if let Some(order) = choice.chosen.iter().position(|chosen| *chosen == at) {
            return Verdict::Chosen(order as u32 + 1);
        }
        match candidate.barred {
            Some(Bar::Draining) => Verdict::Draining,
            Some(Bar::Silent) => Verdict::Silent,
            None if candidate.free_bytes < wanted.free_bytes_min => Verdict::Full,
            None if candidate.avoid => Verdict::Avoided,
            None => {
                passed_over(candidate, before, last.and_then(|last| crowding_of(last, candidates, before)))
            }
        }
    };
    candidates.iter().enumerate().map(verdict).collect()
}

fn crowding_of(node: NodeId, candidates: &[Candidate], taken: &[Held]) -> Option<Crowding> {
    let candidate = candidates.iter().find(|candidate| candidate.node == node)?;
    crowding(candidate, taken).ok()
}

/// What spoke against a candidate beside what was taken before the last one, and for that one.
fn passed_over(candidate: &Candidate, taken: &[Held], last: Option<Crowding>) -> Verdict {
    let own = &candidate.position;
    let with = |place: fn(&Position) -> u32| {
        taken.iter().find(|(_, other)| place(other) == place(own)).map_or(candidate.node, |(node, _)| *node)
    };
    match (crowding(candidate, taken), last) {
        (Err(node), _) if !own.is_named => Verdict::DiskUsed(node),
        (Err(node), _) => Verdict::DomainUsed(node),
        (Ok(own), _) if own.domain_is_used => Verdict::DomainUsed(with(|place| place.domain)),
        (Ok(own), Some(last)) if own.zone > last.zone => Verdict::ZoneUsed(with(|place| place.zone)),
        (Ok(own), Some(last)) if own.rack > last.rack => Verdict::RackUsed(with(|place| place.rack)),
        (Ok(own), Some(last)) if own.host > last.host => Verdict::HostUsed(with(|place| place.host)),
        (Ok(_), _) => Verdict::Outweighed,
    }
}

/// How many of a thousand chunks would have a replica on each candidate, in their order; estimated.
#[must_use]
pub fn chosen_of_thousand(seed: u64, candidates: &[Candidate], wanted: Wanted) -> Vec<u32> {
    let mut counts = vec![0; candidates.len()];
    for sample in 0..SAMPLES {
        let Ok(chosen) = place(seed.wrapping_add(sample.into()), candidates, wanted) else { break };
        for (count, candidate) in counts.iter_mut().zip(candidates) {
            *count += u32::from(chosen.contains(&candidate.node));
        }
    }
    counts.into_iter().map(|count| count * 1000 / SAMPLES).collect()
}

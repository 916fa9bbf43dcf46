//! Which nodes get the replicas of a new chunk.
//!
//! Invariant: pure. Replicas of one chunk lie in distinct failure domains; nodes are chosen in proportion to their free
//! space; the same seed and the same nodes give the same choice.

use xdpfs_wire::{NodeId, SipKey, siphash_2_4};

/// A node that could get a replica.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// The node.
    pub node: NodeId,
    /// Its failure domain.
    pub domain: String,
    /// What is left on its disk.
    pub free_bytes: u64,
    /// The client says that it cannot reach it.
    pub avoid: bool,
}

/// How many replicas are wanted, and how many will do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Wanted {
    /// As many as this if there are so many domains.
    pub replicas: u32,
    /// No fewer than this.
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
    let mut ranked: Vec<(f64, &Candidate)> = candidates
        .iter()
        .filter(|candidate| candidate.free_bytes >= wanted.free_bytes_min)
        .map(|candidate| (score(seed, candidate), candidate))
        .collect();
    ranked.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.node.cmp(&b.1.node)));
    let mut chosen: Vec<&Candidate> = Vec::new();
    choose(&mut chosen, &ranked, wanted.replicas, |candidate| !candidate.avoid);
    choose(&mut chosen, &ranked, wanted.min_replicas, |_| true);
    let found = chosen.len() as u32;
    if found < wanted.min_replicas {
        return Err(NotEnoughNodes { found, needed: wanted.min_replicas });
    }
    Ok(chosen.iter().map(|candidate| candidate.node).collect())
}

fn choose<'a>(
    chosen: &mut Vec<&'a Candidate>,
    ranked: &[(f64, &'a Candidate)],
    count: u32,
    usable: impl Fn(&Candidate) -> bool,
) {
    for (_, candidate) in ranked.iter().filter(|(_, candidate)| usable(candidate)) {
        if chosen.len() as u32 >= count {
            return;
        }
        if chosen.iter().all(|other| other.domain != candidate.domain) {
            chosen.push(candidate);
        }
    }
}

/// Weighted rendezvous hashing: an exponential variate with the free space as its rate; the least ones win.
fn score(seed: u64, candidate: &Candidate) -> f64 {
    let hash = siphash_2_4(SipKey { k0: seed, k1: 0 }, &[u64::from(candidate.node.0)]);
    // The 53 bits that a float holds exactly, moved into (0, 1).
    let uniform = ((hash >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    -uniform.ln() / candidate.free_bytes.max(1) as f64
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const WANTED: Wanted = Wanted { replicas: 3, min_replicas: 2, free_bytes_min: 1 };

    fn candidate(node: u16, domain: &str, free_bytes: u64) -> Candidate {
        Candidate { node: NodeId(node), domain: domain.into(), free_bytes, avoid: false }
    }

    #[test]
    fn fewer_domains_than_replicas_will_do_down_to_the_minimum() {
        let nodes = [candidate(1, "a", 5), candidate(2, "a", 5), candidate(3, "b", 5)];
        assert_eq!(place(1, &nodes, WANTED).unwrap().len(), 2);
        assert_eq!(place(1, &nodes[..2], WANTED), Err(NotEnoughNodes { found: 1, needed: 2 }));
        assert_eq!(place(1, &[], WANTED), Err(NotEnoughNodes { found: 0, needed: 2 }));
    }

    #[test]
    fn avoided_and_full_nodes_are_left_out_while_others_will_do() {
        let mut nodes: Vec<_> = (1..=4).map(|n| candidate(n, &n.to_string(), 10)).collect();
        nodes[0].avoid = true;
        nodes[1].free_bytes = 0;
        for seed in 0..50 {
            let mut chosen = place(seed, &nodes, WANTED).unwrap();
            chosen.sort();
            assert_eq!(chosen, [NodeId(3), NodeId(4)]);
        }
        nodes[2].free_bytes = 0;
        assert!(place(1, &nodes, WANTED).unwrap().contains(&NodeId(1)), "there is no other");
    }

    #[test]
    fn nodes_are_chosen_in_proportion_to_their_free_space() {
        let nodes = [candidate(1, "a", 300), candidate(2, "b", 100)];
        let wanted = Wanted { replicas: 1, min_replicas: 1, ..WANTED };
        let mut counts = BTreeMap::new();
        for seed in 0..4000 {
            *counts.entry(place(seed, &nodes, wanted).unwrap()[0]).or_insert(0) += 1;
        }
        let share = f64::from(counts[&NodeId(1)]) / 4000.0;
        assert!((0.70..0.80).contains(&share), "{share}");
    }

    proptest! {
        #[test]
        fn replicas_lie_in_distinct_domains(
            seed: u64,
            nodes in prop::collection::vec((0u16..20, 0u8..6, 0u64..100, any::<bool>()), 0..20),
        ) {
            let nodes: Vec<_> = nodes
                .into_iter()
                .map(|(node, domain, free, avoid)| Candidate { avoid, ..candidate(node, &domain.to_string(), free) })
                .collect();
            if let Ok(chosen) = place(seed, &nodes, WANTED) {
                prop_assert!((2..=3).contains(&chosen.len()));
                prop_assert_eq!(&chosen, &place(seed, &nodes, WANTED).unwrap());
            }
        }
    }
}

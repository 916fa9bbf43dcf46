//! How close to each other the replicas of a chunk lie, and whether one could lie elsewhere instead.
//!
//! Invariant: what is less close by this is what the choice of a put would take first.

use xdpfs_wire::NodeId;

use super::{Candidate, Held, Position, crowding};

/// How many pairs of replicas share a place. Less is better, the first difference decides.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub struct Closeness {
    domain: usize,
    zone: usize,
    rack: usize,
    host: usize,
}

impl Closeness {
    /// Of replicas at these places.
    pub fn of(held: impl Iterator<Item = Position> + Clone) -> Self {
        let mut closeness = Self::default();
        let mut rest = held;
        while let Some(one) = rest.next() {
            for other in rest.clone() {
                closeness.domain += usize::from(one.domain == other.domain);
                closeness.zone += usize::from(one.zone == other.zone);
                closeness.rack += usize::from(one.rack == other.rack);
                closeness.host += usize::from(one.host == other.host);
            }
        }
        closeness
    }

    /// Of these replicas, if the one of `from` lay on `to` instead. None: there it can't lie beside the others.
    #[must_use]
    pub fn after(held: &[Held], from: NodeId, to: &Candidate) -> Option<Self> {
        let stay: Vec<Held> = held.iter().filter(|(node, _)| *node != from).copied().collect();
        crowding(to, &stay).ok()?;
        Some(Self::of(stay.iter().map(|(_, position)| *position).chain([to.position])))
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Location, Topology},
        *,
    };

    /// By zone, host, disk and the domain that it named.
    type Place = (&'static str, &'static str, &'static str, Option<&'static str>);

    fn check(held: &[Place], from: usize, to: Place, expect: Option<std::cmp::Ordering>) {
        let mut topology = Topology::default();
        let mut candidate = |number: usize, (zone, host, disk, named_domain): Place| Candidate {
            node: NodeId(number as u16),
            position: topology
                .position(NodeId(number as u16), Location { zone, rack: "", host, disk, named_domain }),
            free_bytes: 1,
            barred: None,
            avoid: false,
        };
        let all: Vec<Held> = held
            .iter()
            .enumerate()
            .map(|(at, place)| candidate(at, *place))
            .map(|candidate| (candidate.node, candidate.position))
            .collect();
        let before = Closeness::of(all.iter().map(|(_, position)| *position));
        let after = Closeness::after(&all, NodeId(from as u16), &candidate(held.len(), to));
        assert_eq!(after.map(|after| after.cmp(&before)), expect, "{held:?} {from} {to:?}");
    }

    #[test]
    fn replica_may_go_where_it_lies_no_closer_to_the_others() {
        use std::cmp::Ordering::{Equal, Greater, Less};
        let zone = |zone| (zone, "", "", None);
        check(&[zone("a"), zone("b")], 0, zone("a"), Some(Equal));
        check(&[zone("a"), zone("b")], 0, zone("b"), Some(Greater));
        check(&[zone("a"), zone("a")], 0, zone("b"), Some(Less));
        let disk = |host, disk| ("a", host, disk, None);
        check(&[disk("h", "1"), disk("i", "1")], 0, disk("i", "2"), Some(Greater));
        check(&[disk("h", "1"), disk("i", "1")], 0, disk("i", "1"), None);
        check(&[disk("h", "1"), disk("i", "1")], 0, disk("h", "1"), Some(Equal));
        let named = |domain| ("a", "", "", Some(domain));
        check(&[named("x"), named("y")], 0, named("y"), None);
        check(&[named("x"), named("y")], 0, named("x"), Some(Equal));
    }
}

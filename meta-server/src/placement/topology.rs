//! Where nodes are: zones, racks in them, hosts in these, and disks in these.
//!
//! Invariant: names mean something only inside of what surrounds them: a rack `1` of one zone is not the rack `1` of
//! another. What no label names is one nameless zone, and one nameless rack of each zone; but a host of its own.

use std::collections::BTreeMap;

use xdpfs_wire::NodeId;

/// Where a node is, by the names that its labels give; empty: by none.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Location<'a> {
    /// Its zone.
    pub zone: &'a str,
    /// Its rack in the zone.
    pub rack: &'a str,
    /// Its host in the rack.
    pub host: &'a str,
    /// Its disk in the host. Without a host it means nothing.
    pub disk: &'a str,
    /// The failure domain that the node named at its start: never holds two replicas of a chunk.
    pub named_domain: Option<&'a str>,
}

/// Where a node is, by numbers that are cheap to compare. They mean something within one [`Topology`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Position {
    pub(super) zone: u32,
    pub(super) rack: u32,
    pub(super) host: u32,
    pub(super) disk: u32,
    pub(super) domain: u32,
    /// The domain was named, so it never holds two replicas.
    pub(super) is_named: bool,
}

/// What has been numbered so far.
#[derive(Debug, Default)]
pub struct Topology<'a> {
    numbers: BTreeMap<Place<'a>, u32>,
}

/// A place, told from others by its name and what it is in.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Place<'a> {
    Zone(&'a str),
    Rack(u32, &'a str),
    Host(u32, &'a str),
    /// The host of a node that names none.
    OwnHost(u32, NodeId),
    Disk(u32, &'a str),
    OwnDisk(u32, NodeId),
    Domain(&'a str),
    /// The failure domain of nodes that name none: their host.
    HostDomain(u32),
}

impl<'a> Topology<'a> {
    /// Where this node is among those that were asked about before.
    pub fn position(&mut self, node: NodeId, location: Location<'a>) -> Position {
        let zone = self.number(Place::Zone(location.zone));
        let rack = self.number(Place::Rack(zone, location.rack));
        let host = self.number(match location.host {
            "" => Place::OwnHost(rack, node),
            host => Place::Host(rack, host),
        });
        let disk = self.number(match (location.host, location.disk) {
            ("", _) | (_, "") => Place::OwnDisk(host, node),
            (_, disk) => Place::Disk(host, disk),
        });
        let domain = self.number(location.named_domain.map_or(Place::HostDomain(host), Place::Domain));
        Position { zone, rack, host, disk, domain, is_named: location.named_domain.is_some() }
    }

    fn number(&mut self, place: Place<'a>) -> u32 {
        let next = self.numbers.len() as u32;
        *self.numbers.entry(place).or_insert(next)
    }
}

/// How far apart replicas lie, the best last.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Spread {
    /// There is one at most.
    Alone,
    /// Some share a failure domain that a node named.
    OneDomain,
    /// Some share a host.
    Disks,
    /// Some share a rack.
    Hosts,
    /// Some share a zone.
    Racks,
    /// None share a zone.
    Zones,
}

impl Spread {
    /// How far apart replicas at these positions lie.
    #[must_use]
    pub fn of(positions: &[Position]) -> Self {
        let differ = |place: fn(&Position) -> u32| {
            positions
                .iter()
                .enumerate()
                .all(|(at, one)| positions[..at].iter().all(|other| place(one) != place(other)))
        };
        let shares_named = |(at, one): (usize, &Position)| {
            positions[..at].iter().any(|other| other.domain == one.domain && (other.is_named || one.is_named))
        };
        match positions {
            [] | [_] => Self::Alone,
            _ if positions.iter().enumerate().any(shares_named) => Self::OneDomain,
            _ if differ(|one| one.zone) => Self::Zones,
            _ if differ(|one| one.rack) => Self::Racks,
            _ if differ(|one| one.host) => Self::Hosts,
            _ => Self::Disks,
        }
    }
}

/// Distinct failure domains among these positions.
#[must_use]
pub fn domains(positions: &[Position]) -> usize {
    let is_first = |at: usize| positions[..at].iter().all(|other| other.domain != positions[at].domain);
    (0..positions.len()).filter(|at| is_first(*at)).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn positions(places: &[(&'static str, &'static str, &'static str, &'static str)]) -> Vec<Position> {
        let mut topology = Topology::default();
        let positions = places.iter().enumerate().map(|(at, (zone, rack, host, disk))| {
            topology.position(NodeId(at as u16), Location { zone, rack, host, disk, named_domain: None })
        });
        positions.collect()
    }

    #[test]
    fn disks_of_one_host_are_no_named_domain_beside_one_that_is() {
        let mut topology = Topology::default();
        let place = |named_domain| Location { zone: "c", rack: "", host: "i", disk: "", named_domain };
        let positions: Vec<_> = [None, None, Some("x"), Some("x")]
            .into_iter()
            .enumerate()
            .map(|(at, named)| topology.position(NodeId(at as u16), place(named)))
            .collect();
        assert_eq!(Spread::of(&positions[..3]), Spread::Disks);
        assert_eq!(Spread::of(&positions[2..]), Spread::OneDomain);
    }

    #[test]
    fn names_mean_something_only_inside_of_what_surrounds_them() {
        let check = |places: &[_], expect: (Spread, usize)| {
            let positions = positions(places);
            assert_eq!((Spread::of(&positions), domains(&positions)), expect, "{places:?}");
        };
        check(&[], (Spread::Alone, 0));
        check(&[("a", "", "", "")], (Spread::Alone, 1));
        check(&[("a", "1", "h", "d"), ("b", "1", "h", "d")], (Spread::Zones, 2));
        check(&[("a", "1", "h", "d"), ("a", "2", "h", "d")], (Spread::Racks, 2));
        check(&[("a", "1", "h", "d"), ("a", "1", "i", "d")], (Spread::Hosts, 2));
        check(&[("a", "1", "h", "d"), ("a", "1", "h", "e")], (Spread::Disks, 1));
        check(&[("", "", "", ""), ("", "", "", "")], (Spread::Hosts, 2));
        check(&[("", "", "", "d"), ("", "", "", "d")], (Spread::Hosts, 2));
        check(&[("a", "", "", ""), ("", "", "", "")], (Spread::Zones, 2));
        check(&[("a", "", "", ""), ("b", "", "", ""), ("a", "", "", "")], (Spread::Hosts, 3));
    }

    #[test]
    fn domain_that_was_named_is_one_wherever_its_nodes_are() {
        let mut topology = Topology::default();
        let location = |zone| Location { zone, named_domain: Some("power-1"), ..Location::default() };
        let pair =
            [1, 2].map(|node| topology.position(NodeId(node), location(["a", "b"][node as usize - 1])));
        assert_eq!((Spread::of(&pair), domains(&pair)), (Spread::OneDomain, 1));
    }
}

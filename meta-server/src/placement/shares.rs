//! What each node is to hold so that all are as full as each other, as far as placement lets them.
//!
//! Invariant: pure; the shares are what replicas that lie as the choice of a put would lay them can come to. A zone gets what
//! its nodes have room for, but no more replicas of a chunk, and no fewer, than the choice gives it; so do racks in it, and what
//! else fails together.

use std::collections::BTreeMap;

use xdpfs_wire::NodeId;

use super::Position;

/// A node that holds a share.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Seat {
    /// The node.
    pub node: NodeId,
    /// Where it is.
    pub position: Position,
    /// Bytes that it holds, and that it could take besides.
    pub room_bytes: u64,
    /// Bytes that it could take besides.
    pub free_bytes: u64,
}

/// Bytes of chunks, each counted once, by how many replicas they have.
pub type Demand = BTreeMap<usize, u64>;

/// Chunks with as many replicas, as seen from one place.
#[derive(Clone, Copy, Debug)]
struct Class {
    /// Bytes, each chunk counted once.
    bytes: f64,
    /// The fewest and the most replicas of one chunk that lie in the place.
    fewest: usize,
    most: usize,
    /// There are more replicas than failure domains, so that disks of one host have to do.
    takes_disks: bool,
}

/// What is divided among what at each level.
type Level = fn(&Seat) -> u32;

const LEVELS: [Level; 5] = [
    |seat| seat.position.zone,
    |seat| seat.position.rack,
    |seat| seat.position.domain,
    |seat| seat.position.disk,
    |seat| seat.node.0 as u32,
];

/// What each node is to hold, in bytes. Less in all than there is, if there are more replicas than places for them.
#[must_use]
pub fn shares(seats: &[Seat], demand: &Demand) -> BTreeMap<NodeId, u64> {
    let all: Vec<&Seat> = seats.iter().collect();
    let domains = slots(&all, false);
    let class = |(replicas, bytes): (&usize, &u64)| Class {
        bytes: *bytes as f64,
        fewest: *replicas,
        most: *replicas,
        takes_disks: *replicas > domains,
    };
    let classes: Vec<Class> = demand.iter().map(class).collect();
    let total = classes.iter().map(|class| class.bytes * class.most as f64).sum();
    let mut shares = BTreeMap::new();
    divide(&all, &LEVELS, &classes, total, &mut shares);
    shares
}

fn divide(
    seats: &[&Seat],
    levels: &[Level],
    classes: &[Class],
    total: f64,
    shares: &mut BTreeMap<NodeId, u64>,
) {
    let Some((level, below)) = levels.split_first() else {
        shares.extend(seats.iter().map(|seat| (seat.node, total.round() as u64)));
        return;
    };
    let mut places: BTreeMap<u32, Vec<&Seat>> = BTreeMap::new();
    for seat in seats {
        places.entry(level(seat)).or_default().push(seat);
    }
    let mut parts: Vec<Vec<Class>> = vec![Vec::new(); places.len()];
    for class in classes {
        let slots: Vec<usize> = places.values().map(|seats| slots(seats, class.takes_disks)).collect();
        let (fewest, most) = (levels_of(class.fewest, &slots).0, levels_of(class.most, &slots).1);
        for (part, slots) in parts.iter_mut().zip(slots) {
            part.push(Class { fewest: fewest.min(slots), most: most.min(slots), ..*class });
        }
    }
    let sum = |part: &[Class], count: fn(&Class) -> usize| {
        part.iter().map(|class| class.bytes * count(class) as f64).sum::<f64>()
    };
    let basins: Vec<Basin> = places
        .values()
        .zip(&parts)
        .map(|(seats, part)| Basin {
            room: seats.iter().map(|seat| seat.room_bytes.max(1) as f64).sum(),
            least: sum(part, |class| class.fewest),
            most: sum(part, |class| class.most),
        })
        .collect();
    for ((seats, part), held) in places.values().zip(&parts).zip(pour(total, &basins)) {
        divide(seats, below, part, held, shares);
    }
}

/// How many replicas of one chunk can lie there: one in each failure domain, or on each disk of hosts that nobody has named
/// one domain.
fn slots(seats: &[&Seat], takes_disks: bool) -> usize {
    let mut places: Vec<u32> = seats
        .iter()
        .map(|seat| match takes_disks && !seat.position.is_named {
            true => seat.position.disk,
            false => seat.position.domain,
        })
        .collect();
    places.sort_unstable();
    places.dedup();
    places.len()
}

/// If so many replicas go where fewest lie, one after the other: how many each place gets at least, and at most, unless it has
/// fewer slots.
fn levels_of(replicas: usize, slots: &[usize]) -> (usize, usize) {
    let laid = |level: usize| slots.iter().map(|slots| level.min(*slots)).sum::<usize>();
    let least = (0..=replicas).rev().find(|level| laid(*level) <= replicas).unwrap_or(0);
    (least, if laid(least) == replicas { least } else { least + 1 })
}

/// Something that can be filled.
#[derive(Clone, Copy, Debug)]
struct Basin {
    room: f64,
    least: f64,
    most: f64,
}

/// Fills all to the same part of their room, but none with less than its least or more than its most.
fn pour(total: f64, basins: &[Basin]) -> Vec<f64> {
    let held = |rise: f64| {
        basins.iter().map(move |basin| (basin.room * rise).clamp(basin.least, basin.most.max(basin.least)))
    };
    let (mut low, mut high) = (0.0, 1.0);
    // Rooms are whole bytes, so this rises above all that there can be.
    for _ in 0..128 {
        if held(high).sum::<f64>() >= total {
            break;
        }
        high *= 2.0;
    }
    for _ in 0..128 {
        let middle = f64::midpoint(low, high);
        if held(middle).sum::<f64>() < total {
            low = middle;
        } else {
            high = middle;
        }
    }
    held(high).collect()
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Location, Topology},
        *,
    };

    /// Nodes by zone, host and room.
    fn seats(nodes: &[(&'static str, &'static str, u64)]) -> Vec<Seat> {
        let mut topology = Topology::default();
        let seat = |(at, (zone, host, room_bytes)): (usize, &(&'static str, &'static str, u64))| {
            let node = NodeId(at as u16 + 1);
            let location = Location { zone, host, ..Location::default() };
            let position = topology.position(node, location);
            Seat { node, position, room_bytes: *room_bytes, free_bytes: *room_bytes }
        };
        nodes.iter().enumerate().map(seat).collect()
    }

    fn check(nodes: &[(&'static str, &'static str, u64)], demand: &[(usize, u64)], expect: &[u64]) {
        let shares = shares(&seats(nodes), &demand.iter().copied().collect());
        let found: Vec<u64> = shares.values().copied().collect();
        assert_eq!(found, expect, "{nodes:?} {demand:?}");
    }

    #[test]
    fn equal_nodes_hold_the_same_and_larger_ones_more() {
        check(&[("", "", 10); 4], &[(3, 400)], &[300; 4]);
        check(&[("", "", 1), ("", "", 2), ("", "", 3), ("", "", 4)], &[(1, 100)], &[10, 20, 30, 40]);
    }

    #[test]
    fn node_holds_no_more_than_each_chunk_once() {
        check(&[("", "", 1), ("", "", 1), ("", "", 100)], &[(2, 100)], &[50, 50, 100]);
        check(&[("", "", 1), ("", "", 1), ("", "", 100)], &[(3, 100)], &[100, 100, 100]);
        check(&[("", "", 1), ("", "", 9)], &[(1, 50), (2, 100)], &[100, 150]);
    }

    #[test]
    fn zones_hold_what_the_choice_lays_there_whatever_their_room() {
        // As many zones as replicas: each has each chunk.
        check(&[("a", "", 1), ("b", "", 9), ("b", "", 1), ("c", "", 5)], &[(3, 100)], &[100, 90, 10, 100]);
        // Two zones, three replicas: one or two in each.
        check(&[("a", "", 1), ("a", "", 1), ("b", "", 50), ("b", "", 50)], &[(3, 100)], &[50, 50, 100, 100]);
        // A zone of one node can't hold more.
        check(&[("a", "", 5), ("b", "", 5), ("b", "", 5), ("b", "", 5)], &[(3, 90)], &[90, 60, 60, 60]);
    }

    #[test]
    fn disks_of_one_host_share_what_it_holds() {
        check(&[("", "h", 5), ("", "h", 15), ("", "i", 20), ("", "j", 20)], &[(1, 60)], &[5, 15, 20, 20]);
        check(&[("", "h", 5), ("", "h", 15), ("", "i", 20), ("", "j", 20)], &[(3, 60)], &[15, 45, 60, 60]);
        // Only two hosts for three replicas: a second disk has to do.
        check(&[("", "h", 5), ("", "h", 5), ("", "i", 5)], &[(3, 60)], &[60, 60, 60]);
    }

    #[test]
    fn more_replicas_than_places_are_nobodys_share() {
        check(&[("", "", 5), ("", "", 5)], &[(3, 60)], &[60, 60]);
        check(&[], &[(3, 60)], &[]);
    }
}

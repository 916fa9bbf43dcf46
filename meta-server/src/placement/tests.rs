use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use xdpfs_wire::ChunkId;

use super::*;

const WANTED: Wanted = Wanted { replicas: 3, min_replicas: 2, free_bytes_min: 1 };

/// A node as a test describes it: its zone, rack, host and disk, the domain it named, and its free space.
#[derive(Clone, Copy, Debug, Default)]
struct Spec {
    place: [&'static str; 4],
    named: &'static str,
    free_bytes: u64,
}

/// Nodes by these descriptions, numbered from one.
fn cluster(specs: &[Spec]) -> Vec<Candidate> {
    let mut topology = Topology::default();
    let candidate = |(at, spec): (usize, &Spec)| {
        let node = NodeId(at as u16 + 1);
        let [zone, rack, host, disk] = spec.place;
        let named_domain = Some(spec.named).filter(|named| !named.is_empty());
        let position = topology.position(node, Location { zone, rack, host, disk, named_domain });
        Candidate { node, position, free_bytes: spec.free_bytes, barred: None, avoid: false }
    };
    specs.iter().enumerate().map(candidate).collect()
}

fn named(domains: &[(&'static str, u64)]) -> Vec<Candidate> {
    let spec = |(named, free_bytes): &(&'static str, u64)| Spec {
        named,
        free_bytes: *free_bytes,
        ..Spec::default()
    };
    cluster(&domains.iter().map(spec).collect::<Vec<_>>())
}

fn at(places: &[[&'static str; 4]]) -> Vec<Candidate> {
    cluster(
        &places
            .iter()
            .map(|place| Spec { place: *place, free_bytes: 1000, ..Spec::default() })
            .collect::<Vec<_>>(),
    )
}

fn positions(nodes: &[Candidate], chosen: &[NodeId]) -> Vec<Position> {
    let position = |id: &NodeId| nodes.iter().find(|node| node.node == *id).map(|node| node.position);
    chosen.iter().filter_map(position).collect()
}

#[test]
fn fewer_domains_than_replicas_will_do_down_to_the_minimum() {
    let nodes = named(&[("a", 5), ("a", 5), ("b", 5)]);
    assert_eq!(place(1, &nodes, WANTED).unwrap().len(), 2);
    assert_eq!(place(1, &nodes[..2], WANTED), Err(NotEnoughNodes { found: 1, needed: 2 }));
    assert_eq!(place(1, &[], WANTED), Err(NotEnoughNodes { found: 0, needed: 2 }));
}

#[test]
fn avoided_full_and_barred_nodes_are_left_out_while_others_will_do() {
    let mut nodes = named(&[("1", 10), ("2", 10), ("3", 10), ("4", 10), ("5", 10)]);
    nodes[0].avoid = true;
    nodes[1].free_bytes = 0;
    nodes[4].barred = Some(Bar::Silent);
    for seed in 0..50 {
        let mut chosen = place(seed, &nodes, WANTED).unwrap();
        chosen.sort();
        assert_eq!(chosen, [NodeId(3), NodeId(4)]);
    }
    nodes[2].free_bytes = 0;
    assert!(place(1, &nodes, WANTED).unwrap().contains(&NodeId(1)), "there is no other");
}

#[test]
fn avoided_node_is_used_for_a_domain_but_not_for_one_more_replica() {
    let mut nodes = at(&[["a", "", "h", "1"], ["a", "", "h", "2"], ["a", "", "i", "1"]]);
    nodes[2].avoid = true;
    for seed in 0..50 {
        let chosen = place(seed, &nodes, WANTED).unwrap();
        assert_eq!(chosen.len(), 3, "two disks of one host, and the other host, which had to be used");
        assert_eq!(domains(&positions(&nodes, &chosen)), 2);
    }
    nodes[1].avoid = true;
    assert_eq!(place(1, &nodes, WANTED).unwrap().len(), 2);
}

#[test]
fn replicas_lie_as_far_apart_as_nodes_allow() {
    let check = |places: &[[&'static str; 4]], expect: (usize, Spread)| {
        let nodes = at(places);
        for seed in 0..100 {
            let chosen = place(seed, &nodes, WANTED).unwrap();
            let spread = Spread::of(&positions(&nodes, &chosen));
            assert_eq!((chosen.len(), spread), expect, "{places:?}");
        }
    };
    check(&[["a", "", "", ""], ["b", "", "", ""], ["c", "", "", ""], ["c", "", "", ""]], (3, Spread::Zones));
    check(
        &[["a", "1", "", ""], ["a", "2", "", ""], ["a", "3", "", ""], ["a", "3", "", ""]],
        (3, Spread::Racks),
    );
    check(
        &[["a", "1", "h", "1"], ["a", "1", "i", "1"], ["a", "1", "i", "2"], ["a", "1", "j", "1"]],
        (3, Spread::Hosts),
    );
    check(&[["a", "1", "h", "1"], ["a", "1", "i", "1"], ["a", "1", "i", "2"]], (3, Spread::Disks));
    check(&[["a", "1", "h", "1"], ["a", "1", "i", "1"], ["a", "1", "i", "1"]], (2, Spread::Hosts));
    check(&[["", "", "", ""], ["", "", "", ""], ["", "", "", ""]], (3, Spread::Hosts));
}

#[test]
fn zone_with_few_nodes_keeps_no_chunk_from_being_placed() {
    let mut nodes = at(&[
        ["a", "", "", ""],
        ["b", "", "", ""],
        ["b", "", "", ""],
        ["b", "", "", ""],
        ["b", "", "", ""],
        ["b", "", "", ""],
    ]);
    for seed in 0..200 {
        let chosen = place(seed, &nodes, WANTED).unwrap();
        assert!(chosen.len() == 3 && chosen.contains(&NodeId(1)), "{chosen:?}");
    }
    nodes[0].free_bytes = 0;
    for seed in 0..200 {
        assert_eq!(place(seed, &nodes, WANTED).unwrap().len(), 3);
    }
}

#[test]
fn nodes_are_chosen_in_proportion_to_their_free_space() {
    let nodes = named(&[("a", 300), ("b", 100)]);
    let wanted = Wanted { replicas: 1, min_replicas: 1, ..WANTED };
    let first = (0..4000).filter(|seed| place(*seed, &nodes, wanted).unwrap() == [NodeId(1)]).count();
    let share = first as f64 / 4000.0;
    assert!((0.70..0.80).contains(&share), "{share}");
}

/// Three zones of two racks of three hosts. Every chunk lies in three zones, and inside of a zone each node gets bytes in
/// proportion to its free space, within five per cent of that: the numbers of design 0013.
#[test]
fn bytes_are_spread_over_zones_evenly_and_inside_of_them_by_free_space() {
    const HOSTS: [&str; 3] = ["1", "2", "3"];
    const CHUNKS: u64 = 60_000;
    let mut specs = Vec::new();
    for zone in ["a", "b", "c"] {
        for rack in ["1", "2"] {
            for (at, host) in HOSTS.into_iter().enumerate() {
                let free_bytes = (at as u64 + 2) * 1_000_000;
                specs.push(Spec { place: [zone, rack, host, ""], free_bytes, ..Spec::default() });
            }
        }
    }
    let nodes = cluster(&specs);
    let mut counts: BTreeMap<NodeId, u64> = BTreeMap::new();
    for seed in 0..CHUNKS {
        let chosen = place(seed, &nodes, WANTED).unwrap();
        assert_eq!((chosen.len(), Spread::of(&positions(&nodes, &chosen))), (3, Spread::Zones));
        chosen.into_iter().for_each(|node| *counts.entry(node).or_default() += 1);
    }
    let zone_bytes: u64 = specs[..6].iter().map(|spec| spec.free_bytes).sum();
    for (node, spec) in nodes.iter().zip(&specs) {
        let expect = CHUNKS as f64 * spec.free_bytes as f64 / zone_bytes as f64;
        let deviation = (counts[&node.node] as f64 - expect).abs() / expect;
        assert!(deviation < 0.05, "{:?} is {deviation} away from its share", spec.place);
    }
}

#[test]
fn explanation_names_what_speaks_against_each_node() {
    let mut nodes = at(&[
        ["a", "1", "h", "1"],
        ["a", "1", "h", "2"],
        ["a", "1", "h", "1"],
        ["b", "1", "h", "1"],
        ["b", "1", "i", "1"],
        ["c", "1", "h", "1"],
        ["d", "1", "h", "1"],
        ["e", "1", "h", "1"],
        ["f", "1", "h", "1"],
    ]);
    nodes[5].barred = Some(Bar::Silent);
    nodes[6].free_bytes = 0;
    nodes[7].avoid = true;
    nodes[8].barred = Some(Bar::Draining);
    let wanted = Wanted { replicas: 2, ..WANTED };
    for seed in 0..100 {
        let verdicts = explain(seed, &nodes, wanted);
        let chosen = place(seed, &nodes, wanted).unwrap();
        for (order, node) in chosen.iter().enumerate() {
            assert_eq!(verdicts[usize::from(node.0) - 1], Verdict::Chosen(order as u32 + 1));
        }
        assert_eq!(verdicts[5..], [Verdict::Silent, Verdict::Full, Verdict::Avoided, Verdict::Draining]);
        // One of zone a and one of zone b: what is left is in the zone of one of them, or as good as the last one.
        for verdict in verdicts[..5].iter().filter(|verdict| !matches!(verdict, Verdict::Chosen(_))) {
            let is_explained = match verdict {
                Verdict::ZoneUsed(node) | Verdict::DomainUsed(node) | Verdict::DiskUsed(node) => {
                    chosen.contains(node)
                }
                Verdict::Outweighed => true,
                _ => false,
            };
            assert!(is_explained, "{verdict:?}");
        }
    }
    let thousand = chosen_of_thousand(1, &nodes, wanted);
    assert_eq!(thousand.iter().sum::<u32>(), 2000);
    assert_eq!(thousand[5..], [0; 4]);
}

#[test]
fn explanation_of_too_few_nodes_says_whose_domain_is_used() {
    let nodes = named(&[("a", 5), ("a", 5)]);
    let verdicts = explain(1, &nodes, WANTED);
    let (chosen, other): (Vec<_>, Vec<_>) =
        verdicts.iter().partition(|verdict| matches!(verdict, Verdict::Chosen(1)));
    assert_eq!((chosen.len(), other.len()), (1, 1));
    assert!(matches!(other[0], Verdict::DomainUsed(_)), "{other:?}");
    assert_eq!(chosen_of_thousand(1, &nodes, WANTED), [0, 0]);
}

/// A tally of one that drains the nodes of these numbers.
fn drain(mut nodes: Vec<Candidate>, drained: &[u16]) -> DrainTally {
    for node in &mut nodes {
        node.barred = Some(Bar::Draining).filter(|_| drained.contains(&node.node.0)).or(node.barred);
    }
    DrainTally::new(nodes)
}

#[test]
fn drained_replicas_go_beside_the_others_of_their_chunk() {
    let nodes =
        at(&[["a", "", "", ""], ["a", "", "", ""], ["b", "", "", ""], ["b", "", "", ""], ["c", "", "", ""]]);
    let mut tally = drain(nodes, &[1]);
    for number in 0..50 {
        assert!(tally.add(ChunkId(number), 10, &[NodeId(1), NodeId(3), NodeId(5)], &[]));
        assert!(tally.add(ChunkId(1000 + number), 10, &[NodeId(2), NodeId(3)], &[]), "not concerned");
    }
    let to: Vec<_> = tally.destinations.keys().copied().collect();
    assert_eq!(to, [NodeId(2)], "the only other node of the zone that loses its replica");
    assert_eq!((tally.replicas, tally.bytes, tally.chunks_crowded), (50, 500, 0));
    assert_eq!(tally.destinations[&NodeId(2)], Destination { replicas: 50, bytes: 500 });
}

#[test]
fn room_that_a_plan_has_given_away_is_gone() {
    let mut nodes = at(&[["a", "", "", ""], ["b", "", "", ""], ["c", "", "", ""]]);
    nodes[2].free_bytes = 25;
    let mut tally = drain(nodes, &[1]);
    let placed: Vec<bool> =
        (0..4).map(|number| tally.add(ChunkId(number), 10, &[NodeId(1), NodeId(2)], &[])).collect();
    assert_eq!(placed, [true, true, false, false]);
    assert_eq!((tally.replicas, tally.replicas_unplaced, tally.bytes_unplaced), (4, 2, 20));
}

#[test]
fn plan_tells_of_chunks_that_are_crowded_or_out_of_reach() {
    let mut nodes = at(&[["a", "", "h", "1"], ["b", "", "h", "1"], ["b", "", "h", "2"]]);
    let mut tally = drain(nodes.clone(), &[1]);
    assert!(tally.add(ChunkId(1), 10, &[NodeId(1), NodeId(2)], &[]), "there is another disk");
    assert_eq!((tally.chunks_crowded, tally.chunks_out_of_reach), (1, 0));
    nodes[1].barred = Some(Bar::Silent);
    let mut tally = drain(nodes, &[1]);
    tally.add(ChunkId(1), 10, &[NodeId(1), NodeId(2)], &[NodeId(1), NodeId(2)]);
    assert_eq!(tally.chunks_out_of_reach, 1);
}

fn any_spec() -> impl Strategy<Value = (Spec, bool, bool)> {
    let name = |names: &'static [&'static str]| prop::sample::select(names);
    let place =
        (name(&["", "a", "b", "c"]), name(&["", "1", "2"]), name(&["", "h", "i"]), name(&["", "1", "2"]));
    (place, name(&["", "", "", "x", "y"]), 0u64..100, any::<bool>(), prop::bool::weighted(0.2)).prop_map(
        |((zone, rack, host, disk), named, free_bytes, avoid, silent)| {
            (Spec { place: [zone, rack, host, disk], named, free_bytes }, avoid, silent)
        },
    )
}

proptest! {
    #[test]
    fn any_choice_keeps_to_the_rules(seed: u64, specs in prop::collection::vec(any_spec(), 0..20), replicas in 1u32..6) {
        let mut nodes = cluster(&specs.iter().map(|(spec, ..)| *spec).collect::<Vec<_>>());
        for (node, (_, avoid, silent)) in nodes.iter_mut().zip(&specs) {
            (node.avoid, node.barred) = (*avoid, silent.then_some(Bar::Silent));
        }
        let wanted = Wanted { replicas, min_replicas: replicas.div_ceil(2), free_bytes_min: 10 };
        let usable = |node: &&Candidate| node.barred.is_none() && node.free_bytes >= 10;
        let of = |nodes: &mut dyn Iterator<Item = &Candidate>| {
            domains(&nodes.map(|node| node.position).collect::<Vec<_>>()) as u32
        };
        let all = of(&mut nodes.iter().filter(usable));
        let welcome = of(&mut nodes.iter().filter(usable).filter(|node| !node.avoid));
        let verdicts = explain(seed, &nodes, wanted);
        prop_assert_eq!(verdicts.len(), nodes.len());
        match place(seed, &nodes, wanted) {
            Err(error) => prop_assert_eq!(error, NotEnoughNodes { found: all, needed: wanted.min_replicas }),
            Ok(chosen) => {
                let held = positions(&nodes, &chosen);
                prop_assert!(chosen.len() as u32 <= replicas);
                prop_assert_eq!(chosen.iter().collect::<BTreeSet<_>>().len(), chosen.len());
                let disks: BTreeSet<_> = held.iter().map(|position| (position.domain, position.disk)).collect();
                prop_assert_eq!(disks.len(), chosen.len(), "no disk holds two");
                prop_assert!(Spread::of(&held) != Spread::OneDomain);
                // As many domains as there are, and those of nodes to be avoided only up to the minimum.
                let expect = welcome.min(replicas).max(wanted.min_replicas);
                prop_assert!(domains(&held) as u32 >= expect, "{} of {expect} domains", domains(&held));
                prop_assert!(nodes.iter().filter(|node| chosen.contains(&node.node)).all(|node| usable(&node)));
                prop_assert_eq!(&chosen, &place(seed, &nodes, wanted).unwrap());
            }
        }
    }

    /// With one replica for each zone at most, no zone goes without while another has two.
    #[test]
    fn zones_are_used_before_any_is_used_twice(seed: u64, zones in prop::collection::vec(0usize..4, 3..20)) {
        const NAMES: [&str; 4] = ["a", "b", "c", "d"];
        let nodes = at(&zones.iter().map(|zone| [NAMES[*zone], "", "", ""]).collect::<Vec<_>>());
        let count = zones.iter().collect::<BTreeSet<_>>().len();
        let chosen = place(seed, &nodes, WANTED).unwrap();
        let used: BTreeSet<u32> = positions(&nodes, &chosen).iter().map(|position| position.zone).collect();
        prop_assert_eq!((chosen.len(), used.len()), (3, count.min(3)));
    }
}

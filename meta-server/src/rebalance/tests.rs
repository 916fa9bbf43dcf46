//! Plans for a state that is real, whose moves are done as repair does them, or not.

use proptest::prelude::*;
use xdpfs_proto::state::v1 as pb;
use xdpfs_wire::{BucketId, ChunkId};

use super::*;
use crate::{
    placement::{Candidate, Closeness, Held, Location, Topology, Wanted, domains, place},
    state_machine::{Replicas, chunk_id_bytes},
};

const BUCKET: u32 = 1;
const LENGTH: u32 = 1000;
const THRESHOLD: Threshold = Threshold { percent: 10, settled_for: Duration::from_secs(60) };

/// A node by its zone, its host and its room.
#[derive(Clone, Debug)]
struct Spec {
    zone: u8,
    host: u8,
    room_bytes: u64,
}

/// Chunks on nodes, as manifests would say.
#[derive(Clone, Debug)]
struct World {
    specs: Vec<Spec>,
    replicas: u32,
    chunks: BTreeMap<ChunkId, (u32, Replicas)>,
}

impl World {
    /// Chunks are placed by the choice of puts, on the first `used` of the nodes.
    fn new(specs: Vec<Spec>, used: usize, replicas: u32, lengths: &[u32]) -> Self {
        let mut world = Self { specs, replicas, chunks: BTreeMap::new() };
        let mut candidates = world.candidates();
        candidates.truncate(used);
        for (number, length) in (1..).zip(lengths) {
            let wanted = Wanted { replicas, min_replicas: 1, free_bytes_min: 0 };
            let nodes = place(number, &candidates, wanted).expect("there is a node");
            let chunk = ChunkId::new(BucketId(BUCKET), number);
            world.chunks.insert(chunk, (*length, Replicas::new(nodes)));
        }
        world
    }

    fn candidates(&self) -> Vec<Candidate> {
        let names: Vec<(String, String)> = self
            .specs
            .iter()
            .map(|spec| {
                let host = if spec.host == 0 { String::new() } else { format!("h{}", spec.host) };
                (format!("z{}", spec.zone), host)
            })
            .collect();
        let mut topology = Topology::default();
        let mut candidates = Vec::new();
        for (number, (spec, (zone, host))) in (1..).zip(self.specs.iter().zip(&names)) {
            let node = NodeId(number);
            let location = Location { zone, host, ..Location::default() };
            let position = topology.position(node, location);
            let free_bytes = spec.room_bytes;
            candidates.push(Candidate { node, position, free_bytes, barred: None, avoid: false });
        }
        candidates
    }

    fn seats(&self) -> Seats {
        let held = self.held();
        let seat = |candidate: &Candidate| {
            let room_bytes = candidate.free_bytes;
            let used = held.get(&candidate.node).copied().unwrap_or_default();
            let free_bytes = room_bytes.saturating_sub(used);
            Seat { node: candidate.node, position: candidate.position, room_bytes, free_bytes }
        };
        self.candidates().iter().map(|candidate| (candidate.node, seat(candidate))).collect()
    }

    fn held(&self) -> BTreeMap<NodeId, u64> {
        let mut held = BTreeMap::new();
        for (length, replicas) in self.chunks.values() {
            for node in replicas.iter() {
                *held.entry(node).or_default() += u64::from(*length);
            }
        }
        held
    }

    /// Ten chunks to an object.
    fn state(&self) -> State {
        let header = pb::SnapshotHeader { format: 1, next_bucket_id: BUCKET + 1, ..Default::default() };
        let chunks: Vec<pb::Chunk> = self
            .chunks
            .iter()
            .map(|(id, (length, replicas))| pb::Chunk {
                chunk_id: chunk_id_bytes(*id),
                length: *length,
                crc32c: 0,
                node_ids: replicas.numbers(),
            })
            .collect();
        let size = |chunks: &[pb::Chunk]| chunks.iter().map(|chunk| u64::from(chunk.length)).sum();
        let bucket = pb::Bucket {
            id: BUCKET,
            name: "abc".into(),
            chunk_size: LENGTH,
            replicas: self.replicas,
            min_replicas: 1,
            objects: chunks.chunks(10).count() as u64,
            bytes: size(&chunks),
            ..Default::default()
        };
        let lacking: usize =
            self.chunks.values().map(|(_, nodes)| (self.replicas as usize).saturating_sub(nodes.len())).sum();
        let header = pb::SnapshotHeader { replica_debt: lacking as u64, ..header };
        let object = |(number, chunks): (usize, &[pb::Chunk])| pb::Object {
            bucket_id: BUCKET,
            key: format!("key {number:06}"),
            version: number as u64 + 1,
            size: size(chunks),
            chunks: chunks.to_vec(),
            ..Default::default()
        };
        let records = [pb::snapshot_record::Kind::Header(header), pb::snapshot_record::Kind::Bucket(bucket)];
        let objects = chunks.chunks(10).enumerate().map(object).map(pb::snapshot_record::Kind::Object);
        let mut bytes = Vec::new();
        for kind in records.into_iter().chain(objects) {
            let record = pb::SnapshotRecord { kind: Some(kind) };
            prost::Message::encode_length_delimited(&record, &mut bytes).expect("a vector grows");
        }
        State::decode(&bytes[..]).expect("a state")
    }

    fn place_of(&self) -> impl Fn(NodeId) -> Held + use<> {
        let positions: BTreeMap<NodeId, Position> =
            self.candidates().into_iter().map(|candidate| (candidate.node, candidate.position)).collect();
        move |node| (node, positions[&node])
    }

    /// Does what was found, and checks that each move leaves the chunk as well off. Gives the bytes that moved.
    fn obey(&mut self, moves: &[Move]) -> u64 {
        let place_of = self.place_of();
        for planned in moves {
            let (length, replicas) = self.chunks.get_mut(&planned.chunk).expect("it is there");
            assert_eq!(*length, planned.length);
            assert!(replicas.contains(planned.from) && !replicas.contains(planned.to), "{planned:?}");
            let positions = |replicas: &Replicas| -> Vec<Position> {
                replicas.iter().map(|node| place_of(node).1).collect()
            };
            let before = positions(replicas);
            let count = replicas.len();
            *replicas =
                Replicas::new(replicas.iter().filter(|node| *node != planned.from).chain([planned.to]));
            let after = positions(replicas);
            assert_eq!(replicas.len(), count, "no replica is lost");
            assert!(domains(&after) >= domains(&before), "{planned:?}: {before:?} {after:?}");
            let closeness = |positions: &[Position]| Closeness::of(positions.iter().copied());
            assert!(closeness(&after) <= closeness(&before), "{planned:?}");
        }
        moves.iter().map(|planned| u64::from(planned.length)).sum()
    }

    fn count(&self, state: &State) -> Count {
        let seats = self.seats();
        let mut census = Census::default();
        while !census.is_complete() {
            census.look_on(state, &seats);
        }
        census.finish(&seats)
    }

    /// Rebalances as a leader would, until it rests. Gives the bytes that moved, and how it ended.
    fn rebalance(&mut self) -> (u64, rebalance_status::State) {
        let mut now = Instant::now();
        let mut rebalance = Rebalance::new(now, THRESHOLD);
        let mut progress = Progress::default();
        rebalance.note(now, Some(self.seats()), None);
        now += THRESHOLD.settled_for;
        let mut state = self.state();
        for _ in 0..100_000 {
            now += Duration::from_millis(20);
            while rebalance.look_on(now, &state, progress) {}
            let moves: Vec<Move> = rebalance.waiting().drain(..).collect();
            if !moves.is_empty() {
                progress.chunks_moved += moves.len() as u64;
                progress.bytes_moved += self.obey(&moves);
                state = self.state();
                rebalance.note(now, Some(self.seats()), None);
            }
            let status = rebalance.status(now, progress).state();
            if matches!(status, rebalance_status::State::Even | rebalance_status::State::Stuck) {
                return (progress.bytes_moved, status);
            }
        }
        panic!("it does not come to an end: {:?}", rebalance.status(now, progress));
    }
}

fn alike(nodes: usize) -> Vec<Spec> {
    vec![Spec { zone: 0, host: 0, room_bytes: 1 << 40 }; nodes]
}

#[test]
fn node_that_joins_gets_its_share_and_no_byte_moves_twice() {
    for (used, nodes, replicas) in [(3, 4, 3), (4, 5, 3), (5, 8, 3), (3, 6, 2), (1, 2, 1), (10, 11, 3)] {
        let mut world = World::new(alike(nodes), used, replicas, &[LENGTH; 2000]);
        let least = world.count(&world.state()).least_bytes();
        let (moved, end) = world.rebalance();
        assert_eq!(end, rebalance_status::State::Even);
        let ratio = moved as f64 / least as f64;
        println!("{used} to {nodes} nodes, {replicas} replicas: {moved} of at least {least}: {ratio:.4}");
        assert!(ratio <= 1.01, "{moved} of at least {least}");
        let count = world.count(&world.state());
        for (node, held) in &count.bytes {
            let share = count.shares[node];
            assert!(held.abs_diff(share) <= share / 50, "{node}: {held} of {share}");
        }
    }
}

#[test]
fn what_is_even_enough_stays() {
    let mut world = World::new(alike(5), 5, 3, &[LENGTH; 5000]);
    assert_eq!(world.rebalance(), (0, rebalance_status::State::Even));
    // One node lacks less than the tenth part of its share.
    let held = world.held()[&NodeId(1)];
    let mut moved = 0;
    for (length, replicas) in world.chunks.values_mut() {
        let to = (1..=5).map(NodeId).find(|node| !replicas.contains(*node)).expect("two have none");
        if replicas.contains(NodeId(1)) && to != NodeId(1) && moved + u64::from(*length) < held / 20 {
            *replicas = Replicas::new(replicas.iter().filter(|node| *node != NodeId(1)).chain([to]));
            moved += u64::from(*length);
        }
    }
    assert!(moved > 0);
    assert_eq!(world.rebalance(), (0, rebalance_status::State::Even));
}

#[test]
fn chunks_that_move_are_of_all_objects() {
    let mut world = World::new(alike(4), 3, 3, &[LENGTH; 4000]);
    world.rebalance();
    for quarter in 0..4 {
        let of_quarter = world.chunks.iter().filter(|(chunk, _)| (chunk.0 as u64 - 1) / 1000 == quarter);
        let there = of_quarter.filter(|(_, (_, replicas))| replicas.contains(NodeId(4))).count();
        assert!((600..=900).contains(&there), "{there} of the {quarter}. thousand chunks");
    }
}

#[test]
fn zone_that_can_take_nothing_more_is_left_as_it_is() {
    // Three replicas in three zones: the large zone can't help the small ones, whatever its room.
    let zone = |zone, room_bytes| Spec { zone, host: 0, room_bytes };
    let specs =
        vec![zone(1, 1 << 30), zone(2, 1 << 30), zone(3, 1 << 40), zone(3, 1 << 40), zone(3, 1 << 40)];
    let mut world = World::new(specs, 5, 3, &[LENGTH; 1000]);
    assert_eq!(world.rebalance(), (0, rebalance_status::State::Even));
}

#[test]
fn full_nodes_give_to_those_with_room() {
    let mut specs = alike(6);
    specs[0].room_bytes = 1 << 39;
    specs[1].room_bytes = 1 << 39;
    let mut world = World::new(alike(6), 6, 2, &[LENGTH; 3000]);
    world.specs = specs;
    let least = world.count(&world.state()).least_bytes();
    let (moved, end) = world.rebalance();
    assert_eq!(end, rebalance_status::State::Even);
    assert!(moved > 0 && moved as f64 <= least as f64 * 1.01, "{moved} of {least}");
    let held = world.held();
    assert!(held[&NodeId(1)] * 19 / 10 < held[&NodeId(5)], "{held:?}");
}

#[test]
fn pause_and_repair_hold_it_and_nothing_is_forgotten() {
    let world = World::new(alike(4), 3, 3, &[LENGTH; 1000]);
    let (state, mut now) = (world.state(), Instant::now());
    let mut rebalance = Rebalance::new(now, THRESHOLD);
    let progress = Progress::default();
    rebalance.note(now, Some(world.seats()), None);
    assert!(!rebalance.look_on(now, &state, progress), "nodes have only just come");
    now += THRESHOLD.settled_for;
    while rebalance.look_on(now, &state, progress) {}
    assert!(rebalance.may_move() && !rebalance.waiting().is_empty());
    let waiting = rebalance.waiting().len();
    rebalance.note(now, None, Some(Hold::Repair));
    assert!(!rebalance.may_move() && rebalance.waiting().len() == waiting, "it goes on where it was");
    assert_eq!(rebalance.status(now, progress).state(), rebalance_status::State::Waiting);
    rebalance.note(now, None, Some(Hold::Paused));
    assert!(!rebalance.may_move() && rebalance.waiting().is_empty());
    assert_eq!(rebalance.status(now, progress).state(), rebalance_status::State::Paused);
    rebalance.note(now, None, None);
    while rebalance.look_on(now, &state, progress) {}
    assert!(rebalance.may_move() && !rebalance.waiting().is_empty());
    // A node more: all is counted anew, once it has stayed for a while.
    let more = World { specs: alike(5), ..world };
    rebalance.note(now, Some(more.seats()), None);
    assert!(!rebalance.look_on(now, &state, progress) && rebalance.waiting().is_empty());
}

#[test]
fn plan_that_takes_too_long_is_made_anew_and_gone_on_with() {
    let mut world = World::new(alike(4), 3, 3, &[LENGTH; 4000]);
    let least = world.count(&world.state()).least_bytes();
    let mut now = Instant::now();
    let mut rebalance = Rebalance::new(now, THRESHOLD);
    let mut progress = Progress::default();
    rebalance.note(now, Some(world.seats()), None);
    now += THRESHOLD.settled_for;
    let mut has_waited = false;
    while rebalance.status(now, progress).state() != rebalance_status::State::Even {
        now += Duration::from_millis(20);
        let state = world.state();
        while rebalance.look_on(now, &state, progress) {}
        let count = rebalance.waiting().len().min(100);
        let moves: Vec<Move> = rebalance.waiting().drain(..count).collect();
        progress.chunks_moved += moves.len() as u64;
        progress.bytes_moved += world.obey(&moves);
        // Too little is left for anybody to begin.
        if !has_waited && progress.bytes_moved * 100 >= least * 95 {
            has_waited = true;
            now += PLAN_MAX;
        }
    }
    assert!(has_waited);
    assert!(progress.bytes_moved.abs_diff(least) <= least / 100, "{progress:?} of {least}");
}

#[test]
fn dry_run_says_what_comes_of_it() {
    let mut world = World::new(alike(5), 4, 3, &[LENGTH; 2000]);
    let state = world.state();
    let mut dry_run = DryRun::new(world.seats(), THRESHOLD);
    while dry_run.look_on(&state) {}
    let plan = dry_run.finish(10_000);
    let (moved, _) = world.rebalance();
    assert!(plan.uneven);
    assert!(moved.abs_diff(plan.bytes) <= moved / 20, "{moved} instead of {}", plan.bytes);
    assert_eq!(plan.chunks, plan.bytes / u64::from(LENGTH));
    assert_eq!(plan.seconds, plan.bytes.div_ceil(10_000), "all of it goes to one node");
    assert_eq!(plan.nodes.iter().map(|node| node.bytes_out).sum::<u64>(), plan.bytes);
}

fn specs() -> impl Strategy<Value = Vec<Spec>> {
    let spec = (0..3_u8, 0..4_u8, 1..5_u64).prop_map(|(zone, host, room)| Spec {
        zone,
        host,
        room_bytes: room << 30,
    });
    prop::collection::vec(spec, 2..10)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever the nodes are like: replicas never lie closer together than before (which `obey` looks at with every move),
    /// little more moves than has to, it ends, and once it has ended it does not begin again.
    #[test]
    fn rebalancing_moves_little_and_ends(
        specs in specs(),
        used in 1..10_usize,
        replicas in 1..4_u32,
        lengths in prop::collection::vec(1..LENGTH, 1..400),
    ) {
        let used = used.min(specs.len());
        let mut world = World::new(specs, used, replicas, &lengths);
        let least = world.count(&world.state()).least_bytes();
        let (moved, end) = world.rebalance();
        // A node may end half a chunk from its share.
        let slack = world.specs.len() as u64 * u64::from(LENGTH);
        prop_assert!(moved <= least + least / 10 + slack, "{moved} of at least {least}");
        let again = world.rebalance();
        prop_assert!(again.0 == 0, "{again:?} after {end:?}");
    }
}

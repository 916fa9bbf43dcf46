//! Repair against a state that is real and nodes that are not: they do what they are ordered, or fail, or die.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use xdpfs_proto::state::v1::{command, outcome};
use xdpfs_wire::{BucketId, NodeEpoch, Receipt, ReceiptKey, SipKey};

use super::*;
use crate::placement::{Bar, Candidate, Location, Topology};

const KEY: [u8; 16] = [7; 16];
const LENGTH: u32 = 8;
const LIMITS: Limits = Limits { bytes_per_s: 1 << 30, per_node: 8, moved_bytes_per_s: 1 << 30 };

/// A state, its nodes, and what they hold.
struct World {
    state: State,
    index: u64,
    now: Instant,
    repair: Repair,
    held: BTreeMap<NodeId, BTreeSet<ChunkId>>,
    leaving: BTreeMap<NodeId, Why>,
    unheard: BTreeSet<NodeId>,
    /// Nodes without room.
    full: BTreeSet<NodeId>,
    /// Orders that stand.
    orders: Vec<(NodeId, Order)>,
}

impl World {
    /// Objects of one chunk each, three replicas, over these nodes.
    fn new(nodes: u16, objects: usize) -> Self {
        let mut world = Self {
            state: State::default(),
            index: 0,
            now: Instant::now(),
            repair: Repair::new(LIMITS),
            held: BTreeMap::new(),
            leaving: BTreeMap::new(),
            unheard: BTreeSet::new(),
            full: BTreeSet::new(),
            orders: Vec::new(),
        };
        world.apply(command::Kind::CreateBucket(pb::CreateBucket {
            name: "abc".into(),
            chunk_size: LENGTH,
            replicas: 3,
            min_replicas: 2,
            ..Default::default()
        }));
        for number in 1..=nodes {
            let registered = world.apply(command::Kind::RegisterNode(pb::RegisterNode {
                node_uuid: format!("node {number}"),
                receipt_key: KEY.to_vec().into(),
                ..Default::default()
            }));
            assert!(matches!(registered, outcome::Kind::Registered(_)));
        }
        for number in 0..objects {
            let first = number as u32 % u32::from(nodes);
            let node_ids = (0..3).map(|next| (first + next) % u32::from(nodes) + 1).collect();
            world.put(&format!("key {number}"), node_ids);
        }
        world
    }

    fn apply(&mut self, kind: command::Kind) -> outcome::Kind {
        self.index += 1;
        let command =
            pb::Command { time_ms: 1, kind: Some(kind), deletion_grace_ms: 9, ..Default::default() };
        self.state.apply(self.index, &command).kind.unwrap()
    }

    fn put(&mut self, key: &str, node_ids: Vec<u32>) {
        let begin = pb::BeginPut {
            bucket: "abc".into(),
            key: key.into(),
            placements: vec![pb::Placement { node_ids: node_ids.clone() }],
            lease_ms: 1000,
            ..Default::default()
        };
        let outcome::Kind::Begun(begun) = self.apply(command::Kind::BeginPut(begin)) else { panic!() };
        let chunk_id = begun.chunks[0].chunk_id.clone();
        let chunk = crate::state_machine::parse_chunk_id(&chunk_id).unwrap();
        let receipts = node_ids
            .iter()
            .map(|node| pb::Receipt { node_id: *node, node_epoch: 1, mac: mac(chunk, NodeId(*node as u16)) })
            .collect();
        let written = pb::WrittenChunk { chunk_id, length: LENGTH, crc32c: 0, receipts };
        let commit =
            pb::CommitPut { upload_id: begun.upload_id, chunks: vec![written], ..Default::default() };
        assert!(matches!(self.apply(command::Kind::CommitPut(commit)), outcome::Kind::Committed(_)));
        for node in node_ids {
            self.held.entry(NodeId(node as u16)).or_default().insert(chunk);
        }
    }

    fn nodes(&self) -> Nodes {
        let mut topology = Topology::default();
        let candidates = self.state.nodes().map(|node| Candidate {
            node: node.id,
            position: topology.position(node.id, Location::default()),
            free_bytes: if self.full.contains(&node.id) { 0 } else { 1 << 30 },
            barred: match self.leaving.get(&node.id) {
                Some(Why::Draining | Why::Removed) => Some(Bar::Draining),
                _ if self.unheard.contains(&node.id) => Some(Bar::Silent),
                _ => None,
            },
            avoid: false,
        });
        Nodes::new(candidates.collect(), self.leaving.clone(), self.unheard.clone())
    }

    fn die(&mut self, node: u16) {
        self.unheard.insert(NodeId(node));
        self.leaving.insert(NodeId(node), Why::Dead);
    }

    /// One turn: what is due is ordered, nodes do it, and manifests change. Gives how many chunks were copied.
    fn turn(&mut self) -> usize {
        self.now += Duration::from_millis(50);
        let (now, mut nodes) = (self.now, self.nodes());
        let copied = self.obey();
        let GivenUp { withdrawn, orphaned } = self.repair.give_up(now, &self.state, &nodes);
        for (node, chunk) in withdrawn {
            self.orders.retain(|(own, order)| *own != node || order.chunk != chunk);
        }
        for (node, chunk) in orphaned {
            let chunk_ids = vec![chunk_id_bytes(chunk)];
            let collect = pb::CollectReplicas { node_id: node.0.into(), chunk_ids };
            self.apply(command::Kind::CollectReplicas(collect));
        }
        self.repair.consider_survey(now, &nodes, self.state.replica_debt());
        while self.repair.is_surveying() {
            self.repair.survey(now, &self.state);
        }
        let orders = self.repair.begin(now, &self.state, &mut nodes);
        self.orders.extend(orders);
        let (chunks, changes): (Vec<_>, Vec<_>) = self.repair.changes(now, &self.state).into_iter().unzip();
        if !chunks.is_empty() {
            let replace = command::Kind::ReplaceReplicas(pb::ReplaceReplicas { changes });
            let outcome::Kind::ReplicasReplaced(replaced) = self.apply(replace) else { panic!() };
            for (chunk, applied) in chunks.into_iter().zip(replaced.applied) {
                self.repair.note_change(now, chunk, applied);
            }
        }
        self.state.assert_is_sound();
        copied
    }

    /// Somebody says that the node may not have the chunk.
    fn doubt(&mut self, chunk: ChunkId, node: u16) {
        let nodes = self.nodes();
        self.repair.doubt(Doubt { chunk, node: NodeId(node), verify: false }, &self.state, &nodes);
    }

    /// Nodes that are alive do what they are ordered.
    fn obey(&mut self) -> usize {
        let mut copied = 0;
        let (doing, waiting): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.orders).into_iter().partition(|(node, _)| !self.unheard.contains(node));
        self.orders = waiting;
        for (node, order) in doing {
            let chunk = order.chunk;
            let was_held = self.held.get(&node).is_some_and(|held| held.contains(&chunk));
            let has = |holder: NodeId| self.held.get(&holder).is_some_and(|held| held.contains(&chunk));
            let is_there = order.parts[0].holders.iter().any(|holder| holder != node && has(holder));
            let end = if was_held || is_there {
                copied += usize::from(!was_held);
                self.held.entry(node).or_default().insert(chunk);
                Ok(Fetched { node_epoch: 1, length: LENGTH, crc32c: 0, mac: mac(chunk, node), was_held })
            } else {
                Err(FetchFailure::Gone)
            };
            self.repair.note_ends(self.now, vec![(node, chunk, end)]);
        }
        copied
    }

    /// Turns until nothing is left to do. Gives how many chunks were copied.
    fn settle(&mut self) -> usize {
        let mut copied = 0;
        for _ in 0..10_000 {
            copied += self.turn();
            if !self.repair.is_busy() && self.orders.is_empty() {
                return copied;
            }
        }
        panic!("repair does not come to an end: {:?}", self.status());
    }

    fn status(&mut self) -> proto::RepairStatus {
        let nodes = self.nodes();
        self.repair.status(self.now, &nodes, |(_, key)| Some(key.to_string()))
    }

    /// Every chunk has three replicas, on distinct nodes that hold it and don't leave.
    fn assert_whole(&self) {
        for (name, object) in self.state.objects_after(None) {
            for chunk in &object.chunks {
                assert_eq!(chunk.replicas.len(), 3, "{name:?}");
                for node in chunk.replicas.iter() {
                    assert!(!self.leaving.contains_key(&node), "{name:?} on {node}");
                    assert!(self.held[&node].contains(&chunk.id), "{name:?} is not on {node}");
                }
            }
        }
    }
}

fn mac(chunk: ChunkId, node: NodeId) -> u64 {
    let receipt = Receipt { chunk, length: LENGTH, crc: 0, node, node_epoch: NodeEpoch(1), mac: 0 };
    ReceiptKey(SipKey::from_bytes(KEY)).sign(&receipt)
}

#[test]
fn chunks_of_a_dead_node_are_made_anew_elsewhere() {
    let mut world = World::new(5, 100);
    assert_eq!(world.settle(), 0);
    assert_eq!(world.status().reason, "every chunk has its replicas");
    world.die(2);
    assert_eq!(world.settle(), 60, "those that were on it, once each");
    world.assert_whole();
    let status = world.status();
    assert_eq!((status.chunks_repaired, status.bytes_left, status.complete), (60, 0, true));
    assert_eq!(status.reason, "every chunk has its replicas");
}

#[test]
fn node_that_is_back_in_time_keeps_what_it_has() {
    let mut world = World::new(5, 100);
    world.settle();
    world.die(2);
    let mut copied = world.turn() + world.turn();
    world.leaving.clear();
    world.unheard.clear();
    copied += world.settle();
    assert!(copied < 60, "{copied}: its replicas count again");
    world.assert_whole();
}

#[test]
fn what_is_closest_to_being_lost_is_copied_first() {
    let mut world = World::new(6, 120);
    world.repair = Repair::new(Limits { bytes_per_s: 1, per_node: 1, ..LIMITS });
    for node in [1, 2] {
        world.die(node);
    }
    world.turn();
    let risks: Vec<usize> = world
        .orders
        .iter()
        .map(|(_, order)| {
            let chunk = world.state.chunk(order.chunk).unwrap();
            chunk.replicas.iter().filter(|node| !world.unheard.contains(node)).count()
        })
        .collect();
    assert!(!risks.is_empty() && risks.iter().all(|live| *live == 1), "{risks:?}");
}

#[test]
fn drained_node_is_freed_and_its_chunks_stay_readable_on_the_way() {
    let mut world = World::new(5, 60);
    world.leaving.insert(NodeId(3), Why::Draining);
    for _ in 0..200 {
        world.turn();
        for (name, object) in world.state.objects_after(None) {
            for chunk in &object.chunks {
                assert!(chunk.replicas.iter().all(|node| world.held[&node].contains(&chunk.id)), "{name:?}");
            }
        }
    }
    world.settle();
    world.assert_whole();
    assert_eq!(world.status().nodes[0].replicas, 0);
}

#[test]
fn two_nodes_may_go_at_once() {
    let mut world = World::new(6, 60);
    world.die(1);
    world.leaving.insert(NodeId(2), Why::Draining);
    world.settle();
    world.assert_whole();
}

#[test]
fn debt_of_puts_is_paid() {
    let mut world = World::new(4, 0);
    for number in 0..20 {
        world.put(&format!("short {number}"), vec![1, 2]);
    }
    assert_eq!(world.state.replica_debt(), 20);
    assert_eq!(world.settle(), 20);
    assert_eq!(world.state.replica_debt(), 0);
    world.assert_whole();
}

#[test]
fn replica_in_doubt_is_made_again_where_it_was_or_found_to_be_there() {
    let mut world = World::new(4, 10);
    world.settle();
    let chunk = *world.held[&NodeId(1)].first().unwrap();
    let before = world.state.chunk(chunk).unwrap().replicas;
    world.doubt(chunk, 1);
    assert_eq!(world.settle(), 0);
    assert_eq!(world.status().replicas_cleared, 1);
    world.held.get_mut(&NodeId(1)).unwrap().remove(&chunk);
    world.doubt(chunk, 1);
    assert_eq!(world.settle(), 1);
    assert_eq!(world.state.chunk(chunk).unwrap().replicas, before, "no manifest has changed");
    world.assert_whole();
}

#[test]
fn chunk_without_a_place_or_a_source_waits_and_is_told_of() {
    let mut world = World::new(3, 10);
    world.die(1);
    for _ in 0..10 {
        world.turn();
    }
    assert_eq!(world.status().without_place, 10);
    assert!(world.status().reason.contains("no word from data node 1"), "{}", world.status().reason);
    world.die(2);
    world.die(3);
    for _ in 0..10 {
        world.turn();
    }
    let status = world.status();
    assert_eq!((status.out_of_reach, status.out_of_reach_sample.len()), (10, 10));
    world.leaving.clear();
    world.unheard.clear();
    world.settle();
    world.assert_whole();
}

#[test]
fn job_of_a_node_that_dies_goes_elsewhere() {
    let mut world = World::new(6, 60);
    world.die(1);
    world.turn();
    let busy = world.orders[0].0;
    world.die(busy.0);
    world.settle();
    // What is put off comes again.
    for _ in 0..400 {
        world.turn();
    }
    world.settle();
    world.assert_whole();
}

#[test]
fn chunks_in_doubt_keep_none_waiting_that_is_closer_to_being_lost() {
    let mut world = World::new(8, 400);
    world.settle();
    let doubted: Vec<ChunkId> = world.held[&NodeId(1)].iter().copied().collect();
    for chunk in doubted {
        world.doubt(chunk, 1);
    }
    // Two of three replicas of what lies on these are gone.
    world.die(4);
    world.die(5);
    let nodes = world.nodes();
    world.repair.consider_survey(world.now, &nodes, 0);
    while world.repair.is_surveying() {
        world.repair.survey(world.now, &world.state);
    }
    let orders = world.repair.begin(world.now, &world.state, &mut world.nodes());
    let live = |chunk: ChunkId| {
        let replicas = world.state.chunk(chunk).unwrap().replicas;
        replicas.iter().filter(|node| ![NodeId(4), NodeId(5)].contains(node)).count()
    };
    assert_eq!(orders.first().map(|(_, order)| live(order.chunk)), Some(1));
}

#[test]
fn what_has_no_place_is_not_looked_for_again_and_again() {
    let mut world = World::new(3, 1);
    let chunk = world.state.chunk(*world.held[&NodeId(1)].first().unwrap()).copied().unwrap();
    let record = |number: u64| pb::Object {
        bucket_id: chunk.id.bucket().0,
        key: format!("many {number}"),
        version: number + 1000,
        size: u64::from(LENGTH) * 100,
        chunks: (0..100)
            .map(|at| pb::Chunk {
                chunk_id: chunk_id_bytes(ChunkId::new(BucketId(1), 1000 + number * 100 + at)),
                length: LENGTH,
                crc32c: 0,
                node_ids: vec![1, 2, 3],
            })
            .collect(),
        ..Default::default()
    };
    // More than can be put off at once.
    world.state = world.state.with_objects((0..PUT_OFF_MAX as u64 / 50).map(record));
    world.die(1);
    let mut surveys = BTreeSet::new();
    for _ in 0..400 {
        world.now += Duration::from_millis(50);
        let mut nodes = world.nodes();
        world.repair.consider_survey(world.now, &nodes, 0);
        while world.repair.is_surveying() {
            world.repair.survey(world.now, &world.state);
        }
        assert!(world.repair.begin(world.now, &world.state, &mut nodes).is_empty());
        surveys.extend(world.repair.surveyed.as_ref().map(|surveyed| surveyed.at));
    }
    // In twenty seconds.
    assert!((1..=3).contains(&surveys.len()), "{}", surveys.len());
}

#[test]
fn a_million_references_become_a_plan_without_growing() {
    let mut world = World::new(10, 1);
    // The very objects don't matter: many chunks in few objects.
    let chunk = world.state.chunk(*world.held[&NodeId(1)].first().unwrap()).copied().unwrap();
    let record = |number: u64| {
        let nodes = (0..3).map(|next| (number + next) % 10 + 1).map(|node| node as u32);
        pb::Object {
            bucket_id: chunk.id.bucket().0,
            key: format!("many {number}"),
            version: number + 1000,
            size: u64::from(LENGTH) * 100,
            chunks: (0..100)
                .map(|at| pb::Chunk {
                    chunk_id: chunk_id_bytes(ChunkId::new(BucketId(1), 1000 + number * 100 + at)),
                    length: LENGTH,
                    crc32c: 0,
                    node_ids: nodes.clone().collect(),
                })
                .collect(),
            ..Default::default()
        }
    };
    world.state = world.state.with_objects((0..10_000).map(record));
    world.die(4);
    let nodes = world.nodes();
    world.repair.consider_survey(world.now, &nodes, 0);
    let mut turns = 0;
    while world.repair.is_surveying() {
        world.repair.survey(world.now, &world.state);
        turns += 1;
    }
    assert!(turns > 200, "{turns}: the state is held for a part of it at a time");
    let status = world.status();
    assert_eq!(status.bytes_left / u64::from(LENGTH), 300_000);
    assert!(world.repair.queue.has_overflowed(), "what does not fit is looked for again");
}

#[test]
fn chunk_that_goes_while_it_is_made_leaves_nothing_behind() {
    let mut world = World::new(5, 10);
    world.settle();
    world.die(1);
    world.turn();
    let (node, order) = world.orders[0].clone();
    let name = world.state.objects_after(None).find(|(_, object)| object.chunks[0].id == order.chunk);
    let key = name.unwrap().0.1.to_string();
    let delete = pb::DeleteObject { bucket: "abc".into(), key, ..Default::default() };
    world.apply(command::Kind::DeleteObject(delete));
    // The node does it before it hears that it need not.
    world.held.entry(node).or_default().insert(order.chunk);
    world.orders.remove(0);
    world.turn();
    assert!(!world.repair.is_under_way(order.chunk));
    assert!(world.state.pending_deletes().contains(node, order.chunk));
    world.settle();
    world.assert_whole();
}

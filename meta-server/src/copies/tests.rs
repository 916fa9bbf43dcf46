//! Copies against nodes that are only told about.

use std::{cell::RefCell, collections::BTreeSet};

use xdpfs_wire::BucketId;

use super::*;

const UPLOAD: u64 = 9;

/// What is told of nodes: all are well, unless said otherwise.
#[derive(Default)]
struct Told {
    lost: RefCell<BTreeSet<u16>>,
    /// Those that have registered again.
    anew: RefCell<BTreeSet<u16>>,
    is_removed: RefCell<bool>,
}

impl View for Told {
    fn is_lost(&self, node: NodeId) -> bool {
        self.lost.borrow().contains(&node.0)
    }

    fn epoch(&self, node: NodeId) -> Option<u32> {
        Some(self.epoch_of(node))
    }

    fn is_kept(&self, _: ChunkId) -> bool {
        !*self.is_removed.borrow()
    }
}

impl Told {
    fn epoch_of(&self, node: NodeId) -> u32 {
        1 + u32::from(self.anew.borrow().contains(&node.0))
    }
}

/// An object of chunks that all say what their number is.
fn source(size: u64, chunk_size: u32) -> Arc<Object> {
    let chunk = |at: u64| Chunk {
        id: ChunkId::new(BucketId(1), at),
        length: (size - at * u64::from(chunk_size)).min(chunk_size.into()) as u32,
        crc32c: at as u32,
        replicas: Replicas::new([NodeId(1), NodeId(2)]),
    };
    Arc::new(Object {
        version: 3,
        size,
        crc32c: 0,
        create_time_ms: 0,
        content_type: String::new(),
        user_metadata: BTreeMap::new(),
        chunks: (0..size.div_ceil(chunk_size.into())).map(chunk).collect(),
        kept: false,
    })
}

fn plan(size: u64, source_chunk_size: u32, chunk_size: u32) -> Plan {
    Plan {
        upload_id: UPLOAD,
        source_bucket: "from".into(),
        source: source(size, source_chunk_size),
        chunk_size,
        min_replicas: 2,
    }
}

/// Chunks of the bucket that is copied to, each on the nodes 3, 4 and 5.
fn granted(range: std::ops::Range<u64>) -> impl Iterator<Item = (ChunkId, Replicas)> {
    range.map(|at| (ChunkId::new(BucketId(2), at), Replicas::new([3, 4, 5].map(NodeId))))
}

struct Scene {
    copy: Copy,
    told: Told,
    now: Instant,
}

impl Scene {
    /// A copy of so many chunks, all of them granted.
    fn new(chunks: u64) -> Self {
        let copy = Copy::new(plan(chunks * 10, 10, 10), granted(0..chunks));
        Self { copy, told: Told::default(), now: Instant::now() }
    }

    /// Looks at the copy, and has all orders given.
    fn advance(&mut self, ends: Vec<(NodeId, ChunkId, End)>) -> Result<Advance, Failure> {
        let advance = self.copy.advance(self.now, ends, &self.told)?;
        for (node, order) in &advance.orders {
            self.copy.asked(*node, order.chunk);
        }
        Ok(advance)
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
    }

    fn done(&self, orders: &[(NodeId, Order)]) -> Vec<(NodeId, ChunkId, End)> {
        let done = |(node, order): &(NodeId, Order)| {
            let node_epoch = self.told.epoch_of(*node);
            let crc32c = order.crc32c.unwrap_or(77);
            let fetched = Fetched { node_epoch, length: order.length, crc32c, mac: 1, was_held: false };
            (*node, order.chunk, Ok(fetched))
        };
        orders.iter().map(done).collect()
    }
}

fn failed(orders: &[(NodeId, Order)], why: FetchFailure) -> Vec<(NodeId, ChunkId, End)> {
    orders.iter().map(|(node, order)| (*node, order.chunk, Err(why))).collect()
}

fn holders(written: &[pb::WrittenChunk]) -> Vec<Vec<u32>> {
    let of_chunk = |chunk: &pb::WrittenChunk| chunk.receipts.iter().map(|receipt| receipt.node_id).collect();
    written.iter().map(of_chunk).collect()
}

#[test]
fn chunk_is_made_of_the_bytes_of_the_source_however_they_are_cut() {
    for (size, from, to) in
        [(100, 10, 10), (95, 10, 10), (95, 10, 30), (95, 30, 10), (95, 30, 100), (7, 10, 3)]
    {
        let plan = plan(size, from, to);
        let mut at = 0;
        for slice in 0..plan.chunk_count() {
            let (parts, whole) = plan.parts(slice);
            for part in &parts {
                let (_, number) = (part.chunk.bucket(), part.chunk.0 as u64);
                let begins = number * u64::from(from) + u64::from(part.offset);
                assert_eq!(begins, at, "{size} {from} {to}");
                let held = plan.source.chunks[number as usize].length;
                assert!(part.length > 0 && part.offset + part.length <= held, "{part:?}");
                at += u64::from(part.length);
            }
            assert_eq!(at, (u64::from(to) * (slice as u64 + 1)).min(size));
            assert_eq!(plan.length(slice), parts.iter().map(|part| part.length).sum::<u32>());
            assert!(!plan.keeps_chunks() || whole == Some(slice as u32), "{size} {from} {to}");
        }
        assert_eq!(at, size);
        assert_eq!(plan.keeps_chunks(), from == to || size <= u64::from(from.min(to)), "{size} {from} {to}");
    }
}

#[test]
fn copy_is_there_once_all_its_chunks_are() {
    let mut scene = Scene::new(3);
    let first = scene.advance(vec![]).unwrap();
    assert_eq!((first.orders.len(), first.grants_wanted), (9, 0));
    assert!(scene.advance(vec![]).unwrap().orders.is_empty(), "nobody is asked twice");
    assert!(scene.advance(scene.done(&first.orders[..8])).unwrap().written.is_none());
    assert_eq!(scene.copy.copied_bytes(), 30, "two of three are enough for the bytes to count");
    let written = scene.advance(scene.done(&first.orders[8..])).unwrap().written.unwrap();
    assert_eq!(holders(&written), [[3, 4, 5]; 3]);
    assert_eq!(written.iter().map(|chunk| chunk.crc32c).collect::<Vec<_>>(), [0, 1, 2]);
}

#[test]
fn object_without_bytes_needs_no_node() {
    let mut scene = Scene::new(0);
    assert_eq!(scene.advance(vec![]).unwrap().written, Some(vec![]));
}

#[test]
fn long_copy_asks_for_a_few_chunks_at_a_time() {
    let mut scene = Scene { copy: Copy::new(plan(1000, 10, 10), granted(0..20)), ..Scene::new(0) };
    let first = scene.advance(vec![]).unwrap();
    assert_eq!(first.orders.len(), 3 * WINDOW);
    let second = scene.advance(scene.done(&first.orders)).unwrap();
    assert_eq!((second.orders.len(), second.grants_wanted), (3 * 4, GRANTS_MAX), "the rest is to be granted");
    scene.copy.grant(granted(20..20 + GRANTS_MAX as u64));
    let third = scene.advance(vec![]).unwrap().orders;
    assert_eq!(third.len(), 3 * (WINDOW - 4));
    let fourth = scene.advance(scene.done(&third)).unwrap().orders;
    let (mut orders, mut number) = ([second.orders, fourth].concat(), 1000);
    let written = loop {
        let next = scene.advance(scene.done(&orders)).unwrap();
        if let Some(written) = next.written {
            break written;
        }
        let wanted = next.grants_wanted as u64;
        scene.copy.grant(granted(number..number + wanted));
        number += wanted;
        assert!(wanted > 0 || !next.orders.is_empty(), "it goes on");
        orders = next.orders;
    };
    assert_eq!(written.len(), 100);
}

#[test]
fn dead_node_costs_a_replica_and_no_more() {
    let mut scene = Scene::new(1);
    let orders = scene.advance(vec![]).unwrap().orders;
    assert!(scene.advance(scene.done(&orders[..2])).unwrap().written.is_none(), "it may be slow");
    scene.told.lost.borrow_mut().insert(5);
    let written = scene.advance(vec![]).unwrap().written.unwrap();
    assert_eq!(holders(&written), [[3, 4]]);
}

#[test]
fn slow_node_is_not_waited_for_for_ever() {
    let mut scene = Scene::new(1);
    let orders = scene.advance(vec![]).unwrap().orders;
    assert!(scene.advance(scene.done(&orders[..2])).unwrap().written.is_none());
    scene.pass(STRAGGLER_WAIT);
    assert_eq!(holders(&scene.advance(vec![]).unwrap().written.unwrap()), [[3, 4]]);
}

#[test]
fn chunk_moves_when_too_few_of_its_nodes_are_left() {
    let mut scene = Scene::new(1);
    scene.advance(vec![]).unwrap();
    scene.told.lost.borrow_mut().extend([4, 5]);
    assert_eq!(scene.advance(vec![]).unwrap().grants_wanted, 1);
    scene.copy.grant(granted(1..2));
    assert_eq!(scene.advance(vec![]).unwrap().grants_wanted, 1, "nodes that are lost are of no use");
    scene.copy.grant([(ChunkId::new(BucketId(2), 7), Replicas::new([3, 6, 8].map(NodeId)))]);
    let orders = scene.advance(vec![]).unwrap().orders;
    let written = scene.advance(scene.done(&orders)).unwrap().written.unwrap();
    assert_eq!(holders(&written), [[3, 6, 8]]);
    assert_eq!(written[0].chunk_id, chunk_id_bytes(ChunkId::new(BucketId(2), 7)));
}

#[test]
fn node_that_failed_is_asked_again_after_a_while() {
    let mut scene = Scene::new(1);
    let orders = scene.advance(vec![]).unwrap().orders;
    let ends = [scene.done(&orders[..1]), failed(&orders[1..], FetchFailure::OutOfReach)].concat();
    assert!(scene.advance(ends).unwrap().orders.is_empty());
    scene.pass(RETRY_AFTER);
    let again = scene.advance(vec![]).unwrap().orders;
    assert_eq!(again, orders[1..]);
    assert!(scene.advance(scene.done(&again)).unwrap().written.is_some());
}

#[test]
fn copy_fails_for_the_reason_that_keeps_its_chunks_from_being_made() {
    let check = |why, is_removed, expect: Failure| {
        let mut scene = Scene::new(1);
        *scene.told.is_removed.borrow_mut() = is_removed;
        let mut orders = scene.advance(vec![]).unwrap().orders;
        for number in 1..100 {
            match scene.advance(failed(&orders, why)) {
                Ok(next) => orders = next.orders,
                Err(failure) => return assert_eq!(failure, expect, "{why:?}"),
            }
            scene.pass(RETRY_AFTER);
            scene.copy.grant(granted(number..number + 1));
        }
        panic!("{why:?}: it never ends");
    };
    let words = Failure::TooFewNodes;
    check(FetchFailure::Gone, true, Failure::SourceChanged);
    check(FetchFailure::Gone, false, words("no replica of one of its chunks can be read at present"));
    check(FetchFailure::OutOfReach, false, words("no replica of one of its chunks can be read at present"));
    check(FetchFailure::Corrupt, false, words("no data node has an undamaged replica of one of its chunks"));
    check(FetchFailure::NoSpace, false, Failure::NoSpace);
    check(FetchFailure::Refused, false, words("data nodes that were to make one of its chunks have not"));
}

#[test]
fn word_of_an_earlier_registration_is_asked_for_again() {
    let mut scene = Scene::new(1);
    let orders = scene.advance(vec![]).unwrap().orders;
    let ends = scene.done(&orders);
    scene.told.anew.borrow_mut().insert(4);
    let next = scene.advance(ends).unwrap();
    assert_eq!(next.orders, orders[1..2]);
    assert!(next.written.is_none());
    let written = scene.advance(scene.done(&next.orders)).unwrap().written.unwrap();
    assert_eq!(written[0].receipts.iter().map(|receipt| receipt.node_epoch).collect::<Vec<_>>(), [1, 2, 1]);
}

#[test]
fn replica_with_other_bytes_does_not_count() {
    // Cut anew, so that nobody knows the checksum before.
    let mut scene = Scene { copy: Copy::new(plan(30, 10, 30), granted(0..1)), ..Scene::new(0) };
    let orders = scene.advance(vec![]).unwrap().orders;
    assert_eq!(orders[0].1.crc32c, None);
    let mut ends = scene.done(&orders);
    let other = Fetched { node_epoch: 1, length: 30, crc32c: 78, mac: 1, was_held: false };
    ends[2].2 = Ok(other);
    assert_eq!(holders(&scene.advance(ends).unwrap().written.unwrap()), [[3, 4]]);
}

#[test]
fn copies_of_a_leader_end_with_its_term_and_are_bounded() {
    let copies = Copies::default();
    let copy = |upload_id| Copy::new(Plan { upload_id, ..plan(0, 10, 10) }, []);
    for upload_id in 0..COPIES_MAX as u64 {
        assert!(copies.begin(1, copy(upload_id)));
    }
    assert!(!copies.has_room(1) && !copies.begin(1, copy(u64::MAX)));
    copies.retain(1, |upload_id| upload_id != 5);
    assert!(copies.has_room(1) && copies.with(1, 5, |_| ()).is_none());
    assert!(copies.with(2, 6, |_| ()).is_none() && copies.begin(2, copy(6)));
    assert!(copies.with(1, 6, |_| ()).is_none(), "whoever was deposed drives nothing");
    copies.end(2, 6);
    assert!(copies.with(2, 6, |_| ()).is_none());
}

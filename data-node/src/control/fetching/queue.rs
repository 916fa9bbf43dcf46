//! Fetches from being ordered to being reported. Pure: fetches nothing itself.
//!
//! Invariant: what the leader's newest answer does not name is given up; what has ended is told until an answer has come,
//! and again if it is ordered again. Fetches under way, and their bytes, are bounded.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use xdpfs_proto::node::v1::FetchFailure;
use xdpfs_wire::ChunkId;

use super::order::Order;
use crate::store::ChunkInfo;

/// Fetches that a node knows of; the leader orders the rest again once there is room.
pub(super) const FETCHES_MAX: usize = 256;
/// Fetches under way.
const RUNNING_MAX: usize = 4;
/// Bytes of the chunks that are under way. One is always let in, whatever its length.
const RUNNING_BYTES_MAX: u64 = 64 << 20;

/// A chunk that is durable here.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Made {
    pub(super) info: ChunkInfo,
    /// Whether it was before it was asked for.
    pub(super) was_held: bool,
}

/// How a fetch ended.
pub(super) type End = Result<Made, FetchFailure>;

/// Where fetches stand.
#[derive(Debug, Default)]
pub(super) struct Queue {
    fetches: BTreeMap<ChunkId, Stage>,
    /// Those that wait, in the order in which to begin them.
    waiting: VecDeque<Arc<Order>>,
    running: usize,
    running_bytes: u64,
}

#[derive(Debug)]
enum Stage {
    Ended(End),
    Running { length: u32 },
    Waiting,
}

impl Queue {
    /// Takes over what stands now. Gives those under way that are to be given up.
    pub(super) fn obey(&mut self, orders: &[Arc<Order>]) -> Vec<ChunkId> {
        let mut standing = BTreeMap::new();
        self.waiting.clear();
        for order in orders.iter().take(FETCHES_MAX) {
            if standing.contains_key(&order.chunk) {
                continue;
            }
            let stage = self.fetches.remove(&order.chunk).unwrap_or(Stage::Waiting);
            if matches!(stage, Stage::Waiting) {
                self.waiting.push_back(Arc::clone(order));
            }
            standing.insert(order.chunk, stage);
        }
        let left = std::mem::replace(&mut self.fetches, standing);
        let mut given_up = Vec::new();
        for (chunk, stage) in left {
            if let Stage::Running { length } = stage {
                self.end_running(length);
                given_up.push(chunk);
            }
        }
        given_up
    }

    /// A fetch to begin now.
    pub(super) fn begin(&mut self) -> Option<Arc<Order>> {
        let length = self.waiting.front()?.length;
        let has_room =
            self.running < RUNNING_MAX && self.running_bytes + u64::from(length) <= RUNNING_BYTES_MAX;
        if !has_room && self.running > 0 {
            return None;
        }
        let order = self.waiting.pop_front()?;
        self.running += 1;
        self.running_bytes += u64::from(length);
        self.fetches.insert(order.chunk, Stage::Running { length });
        Some(order)
    }

    /// A fetch that was begun has ended.
    pub(super) fn end(&mut self, chunk: ChunkId, end: End) {
        // What was given up in the meantime is of no interest to anybody.
        if let Some(stage @ Stage::Running { .. }) = self.fetches.get_mut(&chunk) {
            let Stage::Running { length } = std::mem::replace(stage, Stage::Ended(end)) else { return };
            self.end_running(length);
        }
    }

    /// An order that can't be obeyed has ended.
    pub(super) fn refuse(&mut self, chunk: ChunkId) {
        if self.fetches.len() < FETCHES_MAX {
            self.fetches.entry(chunk).or_insert(Stage::Ended(Err(FetchFailure::Refused)));
        }
    }

    fn end_running(&mut self, length: u32) {
        self.running -= 1;
        self.running_bytes -= u64::from(length);
    }

    /// What has ended and has not been told, or not been answered.
    pub(super) fn ended(&self) -> Vec<(ChunkId, End)> {
        let ended = self.fetches.iter().filter_map(|(chunk, stage)| match stage {
            Stage::Ended(end) => Some((*chunk, *end)),
            Stage::Running { .. } | Stage::Waiting => None,
        });
        ended.collect()
    }

    /// What has not ended.
    pub(super) fn known(&self) -> Vec<ChunkId> {
        let is_open = |(_, stage): &(_, &Stage)| !matches!(stage, Stage::Ended(_));
        self.fetches.iter().filter(is_open).map(|(chunk, _)| *chunk).collect()
    }

    /// A report of these was answered.
    pub(super) fn reported(&mut self, told: &[(ChunkId, End)]) {
        for (chunk, _) in told {
            if matches!(self.fetches.get(chunk), Some(Stage::Ended(_))) {
                self.fetches.remove(chunk);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(chunk: u128, length: u32) -> Arc<Order> {
        Arc::new(Order { chunk: ChunkId(chunk), length, crc: None, parts: vec![], verify: false })
    }

    fn orders(range: std::ops::Range<u128>) -> Vec<Arc<Order>> {
        range.map(|chunk| order(chunk, 10)).collect()
    }

    fn begun(queue: &mut Queue) -> Vec<u128> {
        std::iter::from_fn(|| queue.begin()).map(|order| order.chunk.0).collect()
    }

    const DONE: End = Ok(Made { info: ChunkInfo { length: 10, crc: 1 }, was_held: false });

    #[test]
    fn fetches_begin_in_their_order_and_a_few_at_a_time() {
        let mut queue = Queue::default();
        queue.obey(&orders(0..10));
        assert_eq!(begun(&mut queue), [0, 1, 2, 3]);
        queue.end(ChunkId(2), DONE);
        assert_eq!(begun(&mut queue), [4]);
        assert!(queue.obey(&orders(0..10)).is_empty());
        assert_eq!(begun(&mut queue), [0_u128; 0], "what is repeated begins nothing twice");
        assert_eq!(queue.known().len(), 9);
    }

    #[test]
    fn bytes_under_way_are_bounded_but_any_chunk_gets_its_turn() {
        let large = u32::try_from(RUNNING_BYTES_MAX).unwrap();
        let mut queue = Queue::default();
        queue.obey(&[order(0, large), order(1, 1), order(2, large)]);
        assert_eq!(begun(&mut queue), [0]);
        queue.end(ChunkId(0), DONE);
        assert_eq!(begun(&mut queue), [1]);
        queue.end(ChunkId(1), DONE);
        assert_eq!(begun(&mut queue), [2]);
    }

    #[test]
    fn what_is_no_longer_ordered_is_given_up() {
        let mut queue = Queue::default();
        queue.obey(&orders(0..3));
        begun(&mut queue);
        queue.end(ChunkId(0), DONE);
        assert_eq!(queue.obey(&orders(2..3)), [ChunkId(1)]);
        queue.end(ChunkId(1), DONE);
        assert!(queue.ended().is_empty(), "nobody wants to hear of it");
        queue.obey(&orders(10..20));
        assert_eq!(begun(&mut queue), [10, 11, 12, 13], "what is given up takes no room");
    }

    #[test]
    fn end_is_told_until_an_answer_has_come() {
        let mut queue = Queue::default();
        queue.obey(&orders(0..2));
        begun(&mut queue);
        queue.end(ChunkId(0), DONE);
        let told = queue.ended();
        assert_eq!(told, [(ChunkId(0), DONE)]);
        assert_eq!(queue.ended(), told, "a lost report is repeated");
        queue.end(ChunkId(1), Err(FetchFailure::OutOfReach));
        queue.reported(&told);
        assert_eq!(queue.ended(), [(ChunkId(1), Err(FetchFailure::OutOfReach))]);
        queue.reported(&queue.ended());
        queue.obey(&orders(1..2));
        assert_eq!(begun(&mut queue), [1], "what is ordered again is tried again");
    }

    #[test]
    fn flood_of_orders_is_taken_in_portions() {
        let mut queue = Queue::default();
        queue.obey(&orders(0..FETCHES_MAX as u128 + 5));
        assert_eq!(queue.known().len(), FETCHES_MAX);
    }
}

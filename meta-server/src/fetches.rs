//! Chunks that data nodes are to fetch from each other, and how that went. Not replicated: whoever wants a chunk somewhere
//! orders it again from the next leader, and a node that has it by then only says so.
//!
//! Invariant: an order stands until its node has told how it ended, or its owner takes it back. Bounded for each node.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::watch;
use xdpfs_proto::node::v1::FetchFailure;
use xdpfs_wire::{ChunkId, NodeId};

use crate::state_machine::Replicas;

/// Orders that one node may have.
pub const ORDERS_PER_NODE_MAX: usize = 1024;
/// A node goes on asking for this long after it has had orders.
const LINGER: Duration = Duration::from_secs(60);

/// Who wants a chunk to be fetched.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Owner {
    /// A copy into this upload.
    Upload(u64),
    /// Repair.
    Repair,
}

/// A chunk to be made of bytes that other nodes hold.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Order {
    /// Who wants it.
    pub owner: Owner,
    /// What it is stored as.
    pub chunk: ChunkId,
    /// Its bytes.
    pub length: u32,
    /// CRC32C of all of them, where that is known before.
    pub crc32c: Option<u32>,
    /// In the order of their bytes.
    pub parts: Arc<[Part]>,
    /// Whether a node that holds it already has to read it before it says so.
    pub verify: bool,
}

/// Some bytes of a chunk.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Part {
    /// Of this one.
    pub chunk: ChunkId,
    /// From this byte on.
    pub offset: u32,
    /// So many.
    pub length: u32,
    /// Who holds them.
    pub holders: Replicas,
}

/// A node's word that it holds a chunk, in one of its registrations.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Fetched {
    /// The registration's number.
    pub node_epoch: u32,
    /// Bytes of the chunk.
    pub length: u32,
    /// CRC32C of all of them.
    pub crc32c: u32,
    /// The receipt's.
    pub mac: u64,
    /// Whether it held it before it was asked.
    pub was_held: bool,
}

/// How a fetch ended.
pub type End = Result<Fetched, FetchFailure>;

/// What all nodes are to fetch.
#[derive(Debug)]
pub struct Fetches {
    table: Mutex<Table>,
    /// Told whenever orders or ends have changed.
    news: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct Table {
    term: u64,
    nodes: BTreeMap<NodeId, OfNode>,
    ends: BTreeMap<(Owner, NodeId, ChunkId), End>,
    /// Numbers orders, so that they are given in the order in which they came.
    next: u64,
}

#[derive(Debug, Default)]
struct OfNode {
    /// Whether it can fetch at all; none: it has yet to say.
    takes: Option<bool>,
    orders: BTreeMap<u64, Arc<Order>>,
    by_chunk: BTreeMap<ChunkId, u64>,
    /// When it last had orders.
    busy_at: Option<Instant>,
}

impl Default for Fetches {
    fn default() -> Self {
        Self { table: Mutex::default(), news: watch::Sender::new(()) }
    }
}

impl Fetches {
    /// Wakes whenever orders or ends may have changed.
    pub fn watch(&self) -> watch::Receiver<()> {
        self.news.subscribe()
    }

    /// Notes whether a node can fetch. Gives whether it should ask what.
    pub fn heard(&self, term: u64, node: NodeId, takes: bool, now: Instant) -> bool {
        self.at_term(term, |table| {
            let of_node = table.nodes.entry(node).or_default();
            of_node.takes = Some(takes);
            let is_recent = |at: Instant| now.saturating_duration_since(at) < LINGER;
            takes && (!of_node.orders.is_empty() || of_node.busy_at.is_some_and(is_recent))
        })
    }

    /// Whether the node can fetch; none: it has yet to say to the leader of this term.
    pub fn takes(&self, term: u64, node: NodeId) -> Option<bool> {
        self.at_term(term, |table| table.nodes.get(&node)?.takes)
    }

    /// The node is to fetch this. False: it has as many orders as it may have, try again later. One for a chunk that it is to
    /// fetch already changes nothing.
    pub fn order(&self, term: u64, node: NodeId, order: Order, now: Instant) -> bool {
        let is_taken = self.at_term(term, |table| {
            let of_node = table.nodes.entry(node).or_default();
            if of_node.by_chunk.contains_key(&order.chunk) {
                return true;
            }
            if of_node.orders.len() >= ORDERS_PER_NODE_MAX {
                return false;
            }
            of_node.busy_at = Some(now);
            of_node.by_chunk.insert(order.chunk, table.next);
            of_node.orders.insert(table.next, Arc::new(order));
            table.next += 1;
            true
        });
        self.news.send_replace(());
        is_taken
    }

    /// The first orders of a node, at most so many.
    pub fn standing(&self, term: u64, node: NodeId, count_max: usize) -> Vec<Arc<Order>> {
        self.at_term(term, |table| {
            let orders = table.nodes.get(&node).into_iter().flat_map(|of_node| of_node.orders.values());
            orders.take(count_max).cloned().collect()
        })
    }

    /// Takes a node's word for how fetches ended. What it was not told to fetch is of no interest.
    pub fn end(&self, term: u64, node: NodeId, ended: Vec<(ChunkId, End)>) {
        self.at_term(term, |table| {
            let Some(of_node) = table.nodes.get_mut(&node) else { return };
            for (chunk, end) in ended {
                let number = of_node.by_chunk.remove(&chunk);
                if let Some(order) = number.and_then(|number| of_node.orders.remove(&number)) {
                    table.ends.insert((order.owner, node, chunk), end);
                }
            }
        });
        self.news.send_replace(());
    }

    /// How fetches of this owner have ended since it last asked.
    pub fn take_ends(&self, term: u64, owner: Owner) -> Vec<(NodeId, ChunkId, End)> {
        self.at_term(term, |table| {
            let range = (owner, NodeId(0), ChunkId(0))..=(owner, NodeId(u16::MAX), ChunkId(u128::MAX));
            let keys: Vec<_> = table.ends.range(range).map(|(key, _)| *key).collect();
            let taken = keys.into_iter().filter_map(|key| Some((key.1, key.2, table.ends.remove(&key)?)));
            taken.collect()
        })
    }

    /// Forgets all that this owner has ordered.
    pub fn take_back(&self, term: u64, owner: Owner) {
        self.retain(term, |other| other != owner);
    }

    /// The node is not to fetch this chunk after all.
    pub fn withdraw(&self, term: u64, node: NodeId, chunk: ChunkId) {
        self.at_term(term, |table| {
            let Some(of_node) = table.nodes.get_mut(&node) else { return };
            if let Some(number) = of_node.by_chunk.remove(&chunk) {
                of_node.orders.remove(&number);
            }
        });
        self.news.send_replace(());
    }

    /// Forgets what owners have ordered that are no more.
    pub fn retain(&self, term: u64, is_there: impl Fn(Owner) -> bool) {
        self.at_term(term, |table| {
            for of_node in table.nodes.values_mut() {
                let by_chunk = &mut of_node.by_chunk;
                of_node.orders.retain(|_, order| {
                    let stays = is_there(order.owner);
                    if !stays {
                        by_chunk.remove(&order.chunk);
                    }
                    stays
                });
            }
            let owners: BTreeSet<Owner> = table.ends.keys().map(|(owner, ..)| *owner).collect();
            for owner in owners.into_iter().filter(|owner| !is_there(*owner)) {
                table.ends.retain(|(other, ..), _| *other != owner);
            }
        });
        self.news.send_replace(());
    }

    fn at_term<T>(&self, term: u64, work: impl FnOnce(&mut Table) -> T) -> T {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        // One that was deposed in the meantime changes nothing of what the next term has.
        if table.term > term {
            return work(&mut Table { term, ..Table::default() });
        }
        if table.term < term {
            *table = Table { term, ..Table::default() };
        }
        work(&mut table)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TERM: u64 = 1;
    const NODE: NodeId = NodeId(1);

    fn order(upload: u64, chunk: u128) -> Order {
        Order {
            owner: Owner::Upload(upload),
            chunk: ChunkId(chunk),
            length: 1,
            crc32c: None,
            parts: Arc::new([]),
            verify: false,
        }
    }

    fn standing(fetches: &Fetches, term: u64) -> Vec<u128> {
        fetches.standing(term, NODE, 10).iter().map(|order| order.chunk.0).collect()
    }

    const DONE: End = Ok(Fetched { node_epoch: 1, length: 1, crc32c: 2, mac: 3, was_held: false });

    #[test]
    fn orders_stand_until_their_end_is_told() {
        let (fetches, now) = (Fetches::default(), Instant::now());
        for chunk in [7, 3, 7, 5] {
            assert!(fetches.order(TERM, NODE, order(9, chunk), now));
        }
        assert_eq!(standing(&fetches, TERM), [7, 3, 5], "in the order in which they came, and each once");
        fetches.end(TERM, NODE, vec![(ChunkId(3), DONE), (ChunkId(77), DONE)]);
        fetches.end(TERM, NodeId(2), vec![(ChunkId(7), DONE)]);
        assert_eq!(standing(&fetches, TERM), [7, 5]);
        assert_eq!(fetches.take_ends(TERM, Owner::Upload(8)), []);
        assert_eq!(fetches.take_ends(TERM, Owner::Upload(9)), [(NODE, ChunkId(3), DONE)]);
        assert_eq!(fetches.take_ends(TERM, Owner::Upload(9)), []);
    }

    #[test]
    fn owner_takes_back_what_is_its_own() {
        let (fetches, now) = (Fetches::default(), Instant::now());
        for (upload, chunk) in [(1, 1), (2, 2), (1, 3), (2, 4)] {
            fetches.order(TERM, NODE, order(upload, chunk), now);
        }
        fetches.end(TERM, NODE, vec![(ChunkId(3), DONE), (ChunkId(4), DONE)]);
        fetches.take_back(TERM, Owner::Upload(1));
        assert_eq!(standing(&fetches, TERM), [2]);
        assert_eq!(fetches.take_ends(TERM, Owner::Upload(1)), []);
        assert_eq!(fetches.take_ends(TERM, Owner::Upload(2)).len(), 1);
    }

    #[test]
    fn orders_of_a_node_are_bounded() {
        let (fetches, now) = (Fetches::default(), Instant::now());
        for chunk in 0..ORDERS_PER_NODE_MAX as u128 {
            assert!(fetches.order(TERM, NODE, order(1, chunk), now));
        }
        assert!(!fetches.order(TERM, NODE, order(1, u128::MAX), now));
        assert!(fetches.order(TERM, NodeId(2), order(1, u128::MAX), now));
        fetches.end(TERM, NODE, vec![(ChunkId(0), DONE)]);
        assert!(fetches.order(TERM, NODE, order(1, u128::MAX), now));
    }

    #[test]
    fn nodes_ask_while_there_is_something_and_a_while_longer() {
        let (fetches, start) = (Fetches::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(fetches.takes(TERM, NODE), None);
        assert!(!fetches.heard(TERM, NODE, true, at(0)));
        fetches.order(TERM, NODE, order(1, 1), at(1));
        assert!(fetches.heard(TERM, NODE, true, at(2)));
        fetches.end(TERM, NODE, vec![(ChunkId(1), DONE)]);
        assert!(fetches.heard(TERM, NODE, true, at(60)));
        assert!(!fetches.heard(TERM, NODE, true, at(61)));
        assert!(!fetches.heard(TERM, NODE, false, at(2)), "an older node can't");
        assert_eq!(fetches.takes(TERM, NODE), Some(false));
    }

    #[test]
    fn next_leader_begins_with_nothing_and_the_last_one_changes_nothing() {
        let (fetches, now) = (Fetches::default(), Instant::now());
        fetches.order(1, NODE, order(1, 1), now);
        assert_eq!(standing(&fetches, 2), [0_u128; 0]);
        fetches.order(2, NODE, order(1, 2), now);
        fetches.order(1, NODE, order(1, 3), now);
        assert_eq!((standing(&fetches, 1), standing(&fetches, 2)), (vec![], vec![2]));
    }
}

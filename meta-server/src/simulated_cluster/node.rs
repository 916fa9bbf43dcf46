//! Data nodes: what they hold and believe, and what they do about what they hear.
//!
//! They follow `xdpfs-data-node`: one registration under one request id (`control/registration.rs`), orders that the newest
//! answer does not name are given up (`control/fetching/queue.rs`), a deletion is told once it is durable
//! (`control/deletions.rs`), half of the lease is all that they count on (`lease.rs`).

use std::collections::{BTreeMap, BTreeSet};

use xdpfs_proto::node::v1::FetchFailure;
use xdpfs_wire::{ChunkId, NodeEpoch, NodeId, Receipt, ReceiptKey};

use super::{
    cluster::{Cluster, Event},
    messages::{Answer, Ask, Caller, ForClient, ForNode, crc_of},
    options::{HEARTBEAT_MS, LEASE_MS},
};
use crate::fetches::{End, Fetched, Order};

/// Chunks that a node has room for. Plenty: a disk that is full is a fault of its own.
pub(super) const CAPACITY_CHUNKS: u64 = 1000;
/// How long an answer of the leader is waited for.
const PATIENCE_MS: u64 = 1500;
const REPORT_MS: u64 = 5000;
const ASK_MS: u64 = 200;
/// A fetch is given up if no answer has ordered it for this long.
const ORDERED_MAX_MS: u64 = 5000;
/// How long one source is waited for.
const SOURCE_MS: u64 = 2000;

/// What one direction of a node's connections carries.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Cut {
    /// Nothing to, or from, metadata servers.
    pub(super) of_servers: bool,
    /// Nothing to, or from, clients and other nodes.
    pub(super) of_others: bool,
}

#[derive(Debug)]
pub(super) struct DataNode {
    pub(super) uuid: String,
    /// Chunks on its disk, and whether they are rotten.
    pub(super) disk: BTreeMap<ChunkId, bool>,
    /// Counts its starts: what was meant for an earlier one reaches nobody.
    pub(super) start: u64,
    pub(super) is_up: bool,
    /// It takes no step before.
    pub(super) frozen_until_ms: u64,
    pub(super) slowness_ms: u64,
    pub(super) is_full: bool,
    pub(super) deaf: Cut,
    pub(super) mute: Cut,
    process: Process,
}

/// What a node has in memory.
#[derive(Debug, Default)]
struct Process {
    registration: Option<Registration>,
    /// The request that a registration is asked for under.
    registering: Option<[u8; 16]>,
    lease_until_ms: u64,
    /// The question that the node waits for an answer to: its number, when it was sent, what was told by it.
    beat: Option<(u64, u64, Vec<ChunkId>)>,
    asked: Option<(u64, u64, Vec<ChunkId>)>,
    calls: u64,
    deleting: bool,
    deleted: BTreeSet<ChunkId>,
    is_wanted: bool,
    ordered_at_ms: u64,
    fetches: BTreeMap<ChunkId, Stage>,
}

#[derive(Clone, Copy, Debug)]
struct Registration {
    node: NodeId,
    epoch: u32,
    key: ReceiptKey,
}

#[derive(Debug)]
enum Stage {
    Running { order: Order, tried: usize },
    Ended(End),
}

impl DataNode {
    pub(super) fn new(uuid: String) -> Self {
        Self {
            uuid,
            disk: BTreeMap::new(),
            start: 0,
            is_up: false,
            frozen_until_ms: 0,
            slowness_ms: 0,
            is_full: false,
            deaf: Cut::default(),
            mute: Cut::default(),
            process: Process::default(),
        }
    }

    /// Whether nothing that somebody waits for is under way here.
    pub(super) fn is_idle(&self) -> bool {
        self.process.fetches.is_empty() && !self.process.deleting && self.process.deleted.is_empty()
    }

    fn free_bytes(&self) -> u64 {
        let left = CAPACITY_CHUNKS.saturating_sub(self.disk.len() as u64);
        if self.is_full { 0 } else { left * u64::from(super::LENGTH) }
    }
}

impl Registration {
    fn sign(&self, chunk: ChunkId) -> u64 {
        let receipt = Receipt {
            chunk,
            length: super::LENGTH,
            crc: crc_of(chunk),
            node: self.node,
            node_epoch: NodeEpoch(self.epoch as u16),
            mac: 0,
        };
        self.key.sign(&receipt)
    }
}

impl Cluster {
    /// The node's process begins.
    pub(super) fn start_node(&mut self, node: usize) {
        let of_node = &mut self.nodes[node];
        of_node.start += 1;
        of_node.is_up = true;
        of_node.process =
            Process { registering: Some(self.random.u128(..).to_be_bytes()), ..Process::default() };
        for what in [ForNode::Beat, ForNode::Report, ForNode::Ask] {
            self.node_later(node, 1, what);
        }
    }

    fn node_later(&mut self, node: usize, delay_ms: u64, what: ForNode) {
        let start = self.nodes[node].start;
        self.at(self.now_ms + delay_ms, Event::Node { node, start, what });
    }

    pub(super) fn handle_node(&mut self, node: usize, what: ForNode) {
        match what {
            ForNode::Beat => self.beat(node),
            ForNode::Report => self.report(node),
            ForNode::Ask => self.ask(node),
            ForNode::Answer { call, answer } => self.hear(node, call, answer),
            ForNode::Write { client, operation, chunk, epoch, until_ms } => {
                let registration = self.nodes[node].process.registration;
                let takes = registration.is_some_and(|own| own.epoch as u16 == epoch.0)
                    && self.now_ms < self.nodes[node].process.lease_until_ms
                    && self.now_ms < until_ms
                    && !self.nodes[node].is_full;
                if takes {
                    let delay_ms = 1 + self.nodes[node].slowness_ms;
                    self.node_later(node, delay_ms, ForNode::Store { client, operation, chunk });
                } else {
                    self.send_to_client(node, client, operation, ForClient::Refused);
                }
            }
            ForNode::Store { client, operation, chunk } => {
                self.nodes[node].disk.entry(chunk).or_insert(false);
                self.has_changed = true;
                let Some(own) = self.nodes[node].process.registration else { return };
                let receipt = ForClient::Receipt {
                    chunk,
                    node: own.node,
                    epoch: own.epoch & 0xffff,
                    mac: own.sign(chunk),
                };
                self.send_to_client(node, client, operation, receipt);
            }
            ForNode::Read { client, operation, chunk } => {
                let is_good = self.nodes[node].disk.get(&chunk) == Some(&false);
                self.send_to_client(node, client, operation, ForClient::Bytes { chunk, is_good });
            }
            ForNode::Fetch { by, start, chunk } => {
                let is_good = self.nodes[node].disk.get(&chunk) == Some(&false);
                self.send_to_node(node, by, start, ForNode::Bytes { chunk, is_good });
            }
            ForNode::Bytes { chunk, is_good } => self.take_bytes(node, chunk, is_good),
            ForNode::SourceIsLate { chunk, tried } => {
                let is_same =
                    |stage: &Stage| matches!(stage, Stage::Running { tried: now, .. } if *now == tried);
                if self.nodes[node].process.fetches.get(&chunk).is_some_and(is_same) {
                    self.fetch_on(node, chunk);
                }
            }
            ForNode::Fetched { chunk } => self.keep(node, chunk),
            ForNode::Delete { chunks } => self.delete(node, chunks),
        }
    }

    /// Sends a heartbeat, or asks to be registered.
    fn beat(&mut self, node: usize) {
        let now_ms = self.now_ms;
        let process = &mut self.nodes[node].process;
        if process.beat.as_ref().is_some_and(|(_, sent_ms, _)| now_ms < sent_ms + PATIENCE_MS) {
            self.node_later(node, 100, ForNode::Beat);
            return;
        }
        process.calls += 1;
        let call = process.calls;
        let deleted: Vec<ChunkId> = process.deleted.iter().copied().collect();
        process.beat = Some((call, now_ms, deleted.clone()));
        let (registration, registering) = (process.registration, process.registering);
        let free_bytes = self.nodes[node].free_bytes();
        let ask = match (registering, registration) {
            (Some(request_id), _) => Ask::Register {
                uuid: self.nodes[node].uuid.clone(),
                request_id,
                receipt_key: self.random.u128(..),
            },
            (None, Some(own)) => Ask::Beat { node: own.node, epoch: own.epoch, deleted, free_bytes },
            (None, None) => return,
        };
        let start = self.nodes[node].start;
        self.send_to_leader(Caller::Node { node, start, call }, ask);
        self.node_later(node, HEARTBEAT_MS, ForNode::Beat);
    }

    fn report(&mut self, node: usize) {
        // The scrub has come by: what is rotten is out of service.
        if self.is_calm || self.random.u32(0..4) == 0 {
            self.nodes[node].disk.retain(|_, is_rotten| !*is_rotten);
        }
        if let Some(own) = self.nodes[node].process.registration {
            let chunks = self.nodes[node].disk.keys().copied().collect();
            let start = self.nodes[node].start;
            let ask = Ask::Report { node: own.node, epoch: own.epoch, chunks };
            self.send_to_leader(Caller::Node { node, start, call: 0 }, ask);
        }
        let delay_ms = self.random.u64(REPORT_MS / 2..REPORT_MS);
        self.node_later(node, delay_ms, ForNode::Report);
    }

    /// Asks what to fetch, and tells what was fetched.
    fn ask(&mut self, node: usize) {
        self.node_later(node, ASK_MS, ForNode::Ask);
        let now_ms = self.now_ms;
        let process = &mut self.nodes[node].process;
        if !process.is_wanted {
            process.fetches.clear();
            return;
        }
        if now_ms > process.ordered_at_ms + ORDERED_MAX_MS {
            process.fetches.retain(|_, stage| matches!(stage, Stage::Ended(_)));
        }
        let Some(own) = process.registration else { return };
        if process.asked.as_ref().is_some_and(|(_, sent_ms, _)| now_ms < sent_ms + PATIENCE_MS) {
            return;
        }
        process.calls += 1;
        let call = process.calls;
        let ended: Vec<(ChunkId, End)> = process
            .fetches
            .iter()
            .filter_map(|(chunk, stage)| match stage {
                Stage::Ended(Ok(made)) => {
                    let (node_epoch, mac) = (own.epoch & 0xffff, own.sign(*chunk));
                    Some((*chunk, Ok(Fetched { node_epoch, mac, ..*made })))
                }
                Stage::Ended(Err(why)) => Some((*chunk, Err(*why))),
                Stage::Running { .. } => None,
            })
            .collect();
        process.asked = Some((call, now_ms, ended.iter().map(|(chunk, _)| *chunk).collect()));
        let start = self.nodes[node].start;
        let ask = Ask::Exchange { node: own.node, epoch: own.epoch, ended };
        self.send_to_leader(Caller::Node { node, start, call }, ask);
    }

    fn hear(&mut self, node: usize, call: u64, answer: Answer) {
        let process = &mut self.nodes[node].process;
        if let Answer::Orders(orders) = answer {
            let Some((_, _, told)) = process.asked.take_if(|(own, ..)| *own == call) else { return };
            for chunk in told {
                if matches!(process.fetches.get(&chunk), Some(Stage::Ended(_))) {
                    process.fetches.remove(&chunk);
                }
            }
            self.obey(node, orders);
            return;
        }
        let Some((_, sent_ms, told)) = process.beat.take_if(|(own, ..)| *own == call) else { return };
        match answer {
            Answer::Registered { node: id, epoch, key } => {
                process.registration = Some(Registration { node: id, epoch, key });
                process.registering = None;
                process.lease_until_ms = sent_ms + LEASE_MS / 2;
                self.totals.registrations += 1;
                self.node_later(node, 1, ForNode::Report);
            }
            Answer::RegisterAgain => process.registering = Some(self.random.u128(..).to_be_bytes()),
            Answer::Beat { delete, is_wanted } => {
                process.lease_until_ms = sent_ms + LEASE_MS / 2;
                process.is_wanted = is_wanted;
                process.deleted.retain(|chunk| !told.contains(chunk));
                if process.deleting {
                    return;
                }
                let chunks: Vec<ChunkId> =
                    delete.into_iter().filter(|chunk| !process.deleted.contains(chunk)).collect();
                if !chunks.is_empty() {
                    process.deleting = true;
                    let delay_ms = 1 + self.nodes[node].slowness_ms;
                    self.node_later(node, delay_ms, ForNode::Delete { chunks });
                }
            }
            Answer::Orders(_) | Answer::Refused => {}
        }
    }

    fn delete(&mut self, node: usize, chunks: Vec<ChunkId>) {
        let id = self.nodes[node].process.registration.map(|own| own.node);
        for chunk in chunks {
            if let Some(id) = id {
                self.check_removal(id, chunk);
            }
            self.totals.removed += u64::from(self.nodes[node].disk.remove(&chunk).is_some());
            self.nodes[node].process.deleted.insert(chunk);
        }
        self.nodes[node].process.deleting = false;
        self.has_changed = true;
    }

    /// What the newest answer does not name is given up.
    fn obey(&mut self, node: usize, orders: Vec<Order>) {
        let now_ms = self.now_ms;
        let process = &mut self.nodes[node].process;
        process.ordered_at_ms = now_ms;
        process.fetches.retain(|chunk, _| orders.iter().any(|order| order.chunk == *chunk));
        for order in orders {
            let chunk = order.chunk;
            if self.nodes[node].process.fetches.contains_key(&chunk) {
                continue;
            }
            if order.verify && self.nodes[node].disk.get(&chunk) == Some(&true) {
                // What turns out to be damaged is out of service.
                self.nodes[node].disk.remove(&chunk);
            }
            let stage = match self.nodes[node].disk.contains_key(&chunk) {
                true => Stage::Ended(Ok(made(chunk, true))),
                false => Stage::Running { order, tried: 0 },
            };
            let is_running = matches!(stage, Stage::Running { .. });
            self.totals.cleared += u64::from(!is_running);
            self.nodes[node].process.fetches.insert(chunk, stage);
            if is_running {
                self.fetch_on(node, chunk);
            }
        }
    }

    /// Asks the next source.
    fn fetch_on(&mut self, node: usize, chunk: ChunkId) {
        let start = self.nodes[node].start;
        let own = self.nodes[node].process.registration.map(|own| own.node);
        let Some(Stage::Running { order, tried }) = self.nodes[node].process.fetches.get_mut(&chunk) else {
            return;
        };
        let source = order.parts[0].holders.iter().filter(|holder| Some(*holder) != own).nth(*tried);
        *tried += 1;
        let tried = *tried;
        let Some(source) = source else {
            let end = Stage::Ended(Err(FetchFailure::OutOfReach));
            self.nodes[node].process.fetches.insert(chunk, end);
            return;
        };
        if let Some(at) = self.whereabouts(source) {
            self.send_to_peer(node, at, ForNode::Fetch { by: node, start, chunk });
        }
        self.node_later(node, SOURCE_MS, ForNode::SourceIsLate { chunk, tried });
    }

    fn take_bytes(&mut self, node: usize, chunk: ChunkId, is_good: bool) {
        if !matches!(self.nodes[node].process.fetches.get(&chunk), Some(Stage::Running { .. })) {
            return;
        }
        if !is_good {
            self.fetch_on(node, chunk);
        } else if self.nodes[node].is_full {
            let end = Stage::Ended(Err(FetchFailure::NoSpace));
            self.nodes[node].process.fetches.insert(chunk, end);
        } else {
            let delay_ms = 1 + self.nodes[node].slowness_ms;
            self.node_later(node, delay_ms, ForNode::Fetched { chunk });
        }
    }

    /// A write that has begun is not taken back.
    fn keep(&mut self, node: usize, chunk: ChunkId) {
        self.nodes[node].disk.entry(chunk).or_insert(false);
        self.has_changed = true;
        if let Some(stage @ Stage::Running { .. }) = self.nodes[node].process.fetches.get_mut(&chunk) {
            *stage = Stage::Ended(Ok(made(chunk, false)));
            self.totals.fetched += 1;
        }
        self.found_again(node, chunk);
    }
}

/// It is signed when it is told.
fn made(chunk: ChunkId, was_held: bool) -> Fetched {
    Fetched { node_epoch: 0, length: super::LENGTH, crc32c: crc_of(chunk), mac: 0, was_held }
}

//! What the leading metadata server does: real liveness, fetches, placement and repair, in the order in which
//! `service/repairs.rs`, `service/node.rs`, `service/fetches.rs` and `duties.rs` use them.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use bytes::Bytes;
use xdpfs_proto::state::v1::{self as pb, command, outcome};
use xdpfs_wire::{ChunkId, NodeEpoch, NodeId, ReceiptKey, SipKey};

use super::{
    BUCKET, LENGTH,
    cluster::{Cluster, Event, Reader, Waiter},
    messages::{Answer, Ask, Caller, ForClient, Grant},
    node::CAPACITY_CHUNKS,
    options::{CAPABILITY_MS, LEASE_MS, REPAIR_AFTER_MS, REPLICAS, REPLICAS_MIN, SILENT_MS, UPLOAD_LEASE_MS},
};
use crate::{
    fetches::{Fetches, Order, Owner},
    liveness::{Liveness, Usage},
    placement::{Wanted, place},
    repair::{Doubt, GivenUp, Inbox, Limits, News, Nodes, Repair},
    service::{Page, candidates, is_surplus, seen_nodes},
    state_machine::{Reason, chunk_id_bytes, parse_chunk_id},
};

const TURN_MS: u64 = 25;
const IDLE_TURN_MS: u64 = 250;
const TICK_MS: u64 = 500;
const LIMITS: Limits = Limits { bytes_per_s: 400, per_node: 4, moved_bytes_per_s: 400 };
/// What one answer names, or removes.
const ANSWER_MAX: usize = 32;

/// The leader of one term.
#[derive(Debug)]
pub(super) struct Leader {
    pub(super) term: u64,
    liveness: Liveness,
    fetches: Fetches,
    inbox: Inbox,
    repair: Repair,
    surplus: BTreeSet<(NodeId, ChunkId)>,
    orphaned: BTreeSet<(NodeId, ChunkId)>,
    tick_at_ms: u64,
    is_tick: bool,
    /// Chunks whose change is in the log.
    changing: Vec<ChunkId>,
    /// What it puts in the log one after another.
    wishes: VecDeque<command::Kind>,
}

impl Leader {
    pub(super) fn new(term: u64) -> Self {
        Self {
            term,
            liveness: Liveness::new(Duration::from_millis(SILENT_MS)),
            fetches: Fetches::default(),
            inbox: Inbox::default(),
            repair: Repair::new(LIMITS),
            surplus: BTreeSet::new(),
            orphaned: BTreeSet::new(),
            tick_at_ms: 0,
            is_tick: false,
            changing: Vec::new(),
            wishes: VecDeque::new(),
        }
    }

    /// Whether it knows of nothing to do.
    pub(super) fn is_idle(&self) -> bool {
        !self.repair.is_busy()
            && self.surplus.is_empty()
            && self.orphaned.is_empty()
            && self.wishes.is_empty()
    }
}

impl Cluster {
    /// What a leader does by the clock: uploads end, and time in which it was stopped is noticed.
    pub(super) fn leader_tick(&mut self, term: u64) {
        let now = self.now();
        let Some(leader) = self.leader.as_ref().filter(|leader| leader.term == term) else { return };
        leader.liveness.look_at_clock(term, now);
        self.at(self.now_ms + TICK_MS, Event::LeaderTick { term });
        if self.state.has_expired_uploads(self.now_ms) {
            self.propose(command::Kind::ExpireUploads(pb::ExpireUploads {}), &[], Waiter::Nobody);
        }
    }

    fn nodes_seen(&self, leader: &Leader) -> Nodes {
        let (term, now) = (leader.term, self.now());
        let repair_after = Duration::from_millis(REPAIR_AFTER_MS);
        let sight = |node| leader.liveness.sight(term, node, now);
        seen_nodes(&self.state, repair_after, sight, |node| leader.fetches.takes(term, node))
    }

    /// A turn of `Driver::turn`, up to its first entry.
    pub(super) fn leader_turn(&mut self, term: u64) {
        let Some(mut leader) = self.leader.take_if(|leader| leader.term == term) else { return };
        let (now, state) = (self.now(), &self.state);
        leader.is_tick = self.now_ms >= leader.tick_at_ms;
        if leader.is_tick {
            leader.tick_at_ms = self.now_ms + TICK_MS;
        }
        let mut nodes = self.nodes_seen(&leader);
        let News { doubts, surplus } = leader.inbox.take(term);
        doubts.into_iter().for_each(|doubt| leader.repair.doubt(doubt, state, &nodes));
        leader.surplus.extend(surplus);
        leader.repair.note_ends(now, leader.fetches.take_ends(term, Owner::Repair));
        let GivenUp { withdrawn, orphaned } = leader.repair.give_up(now, state, &nodes);
        for (node, chunk) in withdrawn {
            leader.fetches.withdraw(term, node, chunk);
        }
        leader.orphaned.extend(orphaned);
        leader.repair.consider_survey(now, &nodes, state.replica_debt());
        while leader.repair.is_surveying() {
            leader.repair.survey(now, state);
        }
        for (node, order) in leader.repair.begin(now, state, &mut nodes) {
            leader.fetches.order(term, node, order, now);
        }
        let (chunks, changes): (Vec<_>, Vec<_>) = leader.repair.changes(now, state).into_iter().unzip();
        leader.changing = chunks;
        let replaces = !changes.is_empty();
        self.leader = Some(leader);
        if replaces {
            let replace = command::Kind::ReplaceReplicas(pb::ReplaceReplicas { changes });
            self.propose(replace, &[], Waiter::Leader);
        } else {
            self.tick_and_go_on();
        }
    }

    /// An entry that the leader waits for was applied.
    pub(super) fn leader_goes_on(&mut self, outcome: outcome::Kind) {
        let now = self.now();
        let Some(leader) = &mut self.leader else { return };
        let changing = std::mem::take(&mut leader.changing);
        match outcome {
            outcome::Kind::ReplicasReplaced(replaced) if !changing.is_empty() => {
                for (chunk, applied) in changing.into_iter().zip(replaced.applied) {
                    leader.repair.note_change(now, chunk, applied);
                }
                self.tick_and_go_on();
            }
            _ => self.wish(),
        }
    }

    /// The rest of the turn.
    fn tick_and_go_on(&mut self) {
        let Some(mut leader) = self.leader.take() else { return };
        if std::mem::take(&mut leader.is_tick) {
            let lease = Duration::from_millis(LEASE_MS);
            let now = self.now();
            for node in self.state.nodes().filter(|node| !node.is_fenced()) {
                if leader.liveness.sight(leader.term, node.id, now).age >= lease {
                    let fence = pb::FenceNode { node_id: node.id.0.into(), epoch: node.epoch };
                    leader.wishes.push_back(command::Kind::FenceNode(fence));
                }
            }
            let nodes = self.nodes_seen(&leader);
            let mut by_node: BTreeMap<NodeId, Vec<ChunkId>> = BTreeMap::new();
            for (node, chunk) in std::mem::take(&mut leader.orphaned) {
                by_node.entry(node).or_default().push(chunk);
            }
            for (node, chunk) in std::mem::take(&mut leader.surplus) {
                if !leader.repair.is_under_way(chunk) && is_surplus(&self.state, &nodes, node, chunk) {
                    by_node.entry(node).or_default().push(chunk);
                }
            }
            for (node, chunks) in by_node {
                let chunk_ids = chunks.into_iter().map(chunk_id_bytes).collect();
                let collect = pb::CollectReplicas { node_id: node.0.into(), chunk_ids };
                leader.wishes.push_back(command::Kind::CollectReplicas(collect));
            }
        }
        self.leader = Some(leader);
        self.wish();
    }

    fn wish(&mut self) {
        let Some(leader) = &mut self.leader else { return };
        let term = leader.term;
        if let Some(wish) = leader.wishes.pop_front() {
            self.propose(wish, &[], Waiter::Leader);
            return;
        }
        let delay_ms = if leader.repair.is_busy() { TURN_MS } else { IDLE_TURN_MS };
        self.at(self.now_ms + delay_ms, Event::LeaderTurn { term });
    }

    pub(super) fn handle_request(&mut self, from: Caller, ask: Ask) {
        // Nobody leads: whoever asks asks again.
        let Some(leader) = self.leader.take() else { return };
        let term = leader.term;
        let is_registered =
            |node: NodeId, epoch: u32| self.state.node(node).is_some_and(|own| own.epoch == epoch);
        match ask {
            Ask::Register { uuid, request_id, receipt_key } => {
                let register = pb::RegisterNode {
                    node_uuid: uuid,
                    receipt_key: Bytes::copy_from_slice(&receipt_key.to_be_bytes()),
                    capacity_bytes: CAPACITY_CHUNKS * u64::from(LENGTH),
                    ..Default::default()
                };
                self.leader = Some(leader);
                self.propose(command::Kind::RegisterNode(register), &request_id, Waiter::Caller(from));
                return;
            }
            Ask::Beat { node, epoch, .. } if !is_registered(node, epoch) => {
                self.answer_node(from, Answer::RegisterAgain);
            }
            Ask::Beat { node, deleted, free_bytes, .. } => {
                let usage = Usage { free_bytes, ..Usage::default() };
                leader.liveness.heartbeat(term, node, usage, self.now());
                let is_pending = |chunk: &ChunkId| self.state.pending_deletes().contains(node, *chunk);
                let chunk_ids: Vec<Bytes> =
                    deleted.into_iter().filter(is_pending).map(chunk_id_bytes).collect();
                let is_wanted = leader.fetches.heard(term, node, true, self.now());
                if !chunk_ids.is_empty() {
                    let forget = pb::ForgetChunks { node_id: node.0.into(), chunk_ids };
                    self.leader = Some(leader);
                    self.propose(command::Kind::ForgetChunks(forget), &[], Waiter::Caller(from));
                    return;
                }
                self.answer_beat(from, node, is_wanted);
            }
            Ask::Report { node, epoch, chunks } if is_registered(node, epoch) => {
                let page = Page { first: ChunkId(0), last: ChunkId(u128::MAX), chunks };
                let differences = page.compare(&self.state, node);
                let doubt = |chunk| Doubt { chunk, node, verify: false };
                leader.inbox.doubt(term, differences.missing.into_iter().map(doubt));
                leader.inbox.surplus(term, node, differences.surplus);
            }
            Ask::Report { .. } => {}
            Ask::Exchange { node, epoch, ended } if is_registered(node, epoch) => {
                leader.fetches.end(term, node, ended);
                let is_wanted = |order: &Order| {
                    self.state.chunk(order.chunk).is_some()
                        && !self.state.pending_deletes().contains(node, order.chunk)
                };
                let standing = leader.fetches.standing(term, node, ANSWER_MAX);
                let orders = standing.iter().map(|order| Order::clone(order)).filter(is_wanted).collect();
                self.answer_node(from, Answer::Orders(orders));
            }
            Ask::Exchange { .. } => self.answer_node(from, Answer::Refused),
            Ask::Begin { key, chunks, request_id } => {
                let sight = |node| leader.liveness.sight(term, node, self.now());
                let candidates = candidates(&self.state, sight, &[]);
                let wanted =
                    Wanted { replicas: REPLICAS, min_replicas: REPLICAS_MIN, free_bytes_min: LENGTH.into() };
                let placements: Result<Vec<_>, _> = (0..chunks)
                    .map(|_| {
                        let nodes = place(self.random.u64(..), &candidates, wanted)?;
                        let node_ids = nodes.into_iter().map(|node| node.0.into()).collect();
                        Ok::<_, crate::placement::NotEnoughNodes>(pb::Placement { node_ids })
                    })
                    .collect();
                self.leader = Some(leader);
                let Ok(placements) = placements else {
                    self.answer_client(from, ForClient::Rejected { reason: None });
                    return;
                };
                let begin = pb::BeginPut {
                    bucket: BUCKET.into(),
                    key,
                    placements,
                    lease_ms: UPLOAD_LEASE_MS,
                    ..Default::default()
                };
                self.propose(command::Kind::BeginPut(begin), &request_id, Waiter::Caller(from));
                return;
            }
            Ask::Command { kind, request_id } => {
                self.leader = Some(leader);
                self.propose(kind, &request_id, Waiter::Caller(from));
                return;
            }
            Ask::Manifest { key } => self.answer_manifest(from, &key),
            Ask::Doubt { chunk, node } => {
                leader.inbox.doubt(term, [Doubt { chunk, node, verify: true }]);
            }
        }
        self.leader = Some(leader);
    }

    fn answer_beat(&mut self, to: Caller, node: NodeId, is_wanted: bool) {
        let delete = self.state.pending_deletes().due(node, self.now_ms, ANSWER_MAX).collect();
        self.answer_node(to, Answer::Beat { delete, is_wanted });
    }

    fn answer_manifest(&mut self, to: Caller, key: &str) {
        let bucket = self.state.bucket(BUCKET).expect("it was made at first").id;
        let object = self.state.object(bucket, key);
        let chunks: Vec<_> = object
            .iter()
            .flat_map(|object| object.chunks.iter())
            .map(|chunk| (chunk.id, chunk.replicas))
            .collect();
        let until_ms = self.now_ms + CAPABILITY_MS;
        self.totals.reads += u64::from(!chunks.is_empty());
        let readers =
            chunks.iter().map(|(chunk, replicas)| Reader { chunk: *chunk, replicas: *replicas, until_ms });
        self.readers.extend(readers);
        self.answer_client(to, ForClient::Manifest { chunks });
    }

    /// What somebody asked for was applied.
    pub(super) fn handle_applied(&mut self, to: Caller, outcome: outcome::Kind) {
        match outcome {
            outcome::Kind::Registered(registered) => {
                let node = NodeId(registered.node_id as u16);
                let (term, now) = (self.term, self.now());
                if let Some(leader) = &self.leader {
                    leader.liveness.registered(term, node, now);
                }
                let key: [u8; 16] = registered.receipt_key[..].try_into().expect("it has sixteen bytes");
                // The state knows how often it has registered, the answer only the last part of the number.
                let epoch = self.state.node(node).map_or(0, |node| node.epoch);
                let key = ReceiptKey(SipKey::from_bytes(key));
                self.answer_node(to, Answer::Registered { node, epoch, key });
            }
            outcome::Kind::Begun(begun) => {
                let grants = begun.chunks.iter().filter_map(|chunk| self.grant(chunk)).collect();
                let until_ms = begun.grant_time_ms + CAPABILITY_MS;
                self.answer_client(to, ForClient::Begun { upload: begun.upload_id, until_ms, grants });
            }
            outcome::Kind::Committed(committed) => {
                let version = committed.object.map(|object| object.version);
                self.answer_client(to, ForClient::Done { version });
            }
            outcome::Kind::Deleted(_) => self.answer_client(to, ForClient::Done { version: None }),
            outcome::Kind::Rejected(rejected) => {
                let reason = Reason::ALL.iter().copied().find(|reason| reason.as_str() == rejected.reason);
                self.answer_client(to, ForClient::Rejected { reason });
                self.answer_node(to, Answer::Refused);
            }
            // Of chunks that were forgotten, or of an upload that was ended.
            _ => match to {
                Caller::Node { node, .. } => {
                    if let Some(node) = self.id_of(node) {
                        let (term, now) = (self.term, self.now());
                        let is_wanted = self
                            .leader
                            .as_ref()
                            .is_some_and(|leader| leader.fetches.heard(term, node, true, now));
                        self.answer_beat(to, node, is_wanted);
                    }
                }
                Caller::Client { .. } => self.answer_client(to, ForClient::Done { version: None }),
            },
        }
    }

    fn grant(&self, chunk: &pb::UploadChunk) -> Option<Grant> {
        let nodes = chunk.node_ids.iter().filter_map(|node| self.state.node(NodeId(*node as u16)));
        let nodes: Vec<(NodeId, NodeEpoch)> = nodes.map(|node| (node.id, node.wire_epoch())).collect();
        Some(Grant { chunk: parse_chunk_id(&chunk.chunk_id)?, nodes: nodes.into() })
    }
}

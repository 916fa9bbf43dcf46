//! A cluster: its clock, its messages, its log and all that is in it.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::{Duration, Instant},
};

use bytes::Bytes;
use fastrand::Rng;
use xdpfs_proto::state::v1::{self as pb, command, outcome};
use xdpfs_wire::{ChunkId, NodeId};

use super::{
    BUCKET, LENGTH,
    client::Client,
    leader::Leader,
    messages::{Answer, Ask, Caller, ForClient, ForNode},
    node::DataNode,
    options::{GRACE_MS, Options, REPLICAS, REPLICAS_MIN},
    totals::Totals,
};
use crate::state_machine::{FeatureLevel, Replicas, State};

/// What happens at some moment.
#[derive(Debug)]
pub(super) enum Event {
    /// The next entry of the log is applied.
    Apply,
    Client {
        client: usize,
        operation: u64,
        what: ForClient,
    },
    /// There is a leader.
    Elected,
    Fault(super::faults::Kind),
    /// A fault ends that befell a node.
    FaultEnds {
        node: usize,
        kind: super::faults::Kind,
    },
    /// What a leader does about time.
    LeaderTick {
        term: u64,
    },
    LeaderTurn {
        term: u64,
    },
    Node {
        node: usize,
        start: u64,
        what: ForNode,
    },
    Request {
        from: Caller,
        ask: Ask,
    },
}

/// Who waits for an entry.
#[derive(Clone, Copy, Debug)]
pub(super) enum Waiter {
    Caller(Caller),
    Leader,
    Nobody,
}

/// A command on its way.
#[derive(Debug)]
pub(super) struct Proposal {
    command: pb::Command,
    term: u64,
    waiter: Waiter,
}

/// Somebody who has a manifest, and a capability until then.
#[derive(Debug)]
pub(super) struct Reader {
    pub(super) chunk: ChunkId,
    pub(super) replicas: Replicas,
    pub(super) until_ms: u64,
}

#[derive(Debug)]
pub(super) struct Cluster {
    pub(super) options: Options,
    pub(super) random: Rng,
    began: Instant,
    pub(super) now_ms: u64,
    events: BTreeMap<(u64, u64), Event>,
    numbers: u64,
    pub(super) state: State,
    index: u64,
    pub(super) term: u64,
    pub(super) log: VecDeque<Proposal>,
    pub(super) leader: Option<Leader>,
    /// No metadata server takes a step before.
    pub(super) standstill_until_ms: u64,
    pub(super) nodes: Vec<DataNode>,
    pub(super) clients: Vec<Client>,
    pub(super) readers: Vec<Reader>,
    /// Replicas that were lost since their nodes vouched for them, or may have.
    pub(super) lost: BTreeSet<(NodeId, ChunkId)>,
    /// Disks or the state are not as they were when all was looked at last.
    pub(super) has_changed: bool,
    pub(super) is_calm: bool,
    pub(super) totals: Totals,
}

impl Cluster {
    pub(super) fn new(seed: u64) -> Self {
        let mut random = Rng::with_seed(seed);
        let options = Options::draw(&mut random);
        let mut cluster = Self {
            random,
            began: Instant::now(),
            now_ms: 1_000_000,
            events: BTreeMap::new(),
            numbers: 0,
            state: State::default(),
            index: 0,
            term: 0,
            log: VecDeque::new(),
            leader: None,
            standstill_until_ms: 0,
            nodes: (0..options.nodes).map(|number| DataNode::new(format!("node {number}"))).collect(),
            clients: (0..options.clients).map(|number| Client::new(number, options.keys)).collect(),
            readers: Vec::new(),
            lost: BTreeSet::new(),
            has_changed: false,
            is_calm: false,
            totals: Totals::default(),
            options,
        };
        cluster.found();
        cluster
    }

    fn found(&mut self) {
        let init = pb::InitCluster { cluster_id: "red".into(), feature_level: FeatureLevel::SUPPORTED.0 };
        self.apply_now(command::Kind::InitCluster(init));
        let create = pb::CreateBucket {
            name: BUCKET.into(),
            chunk_size: LENGTH,
            replicas: REPLICAS,
            min_replicas: REPLICAS_MIN,
            ..Default::default()
        };
        self.apply_now(command::Kind::CreateBucket(create));
        self.at(self.now_ms, Event::Elected);
        for node in 0..self.nodes.len() {
            self.start_node(node);
        }
        for client in 0..self.clients.len() {
            self.client_later(client, 0, 3000);
        }
        self.plan_faults();
    }

    fn apply_now(&mut self, kind: command::Kind) {
        self.index += 1;
        let command = pb::Command { time_ms: self.now_ms, kind: Some(kind), ..Default::default() };
        self.state.apply(self.index, &command);
    }

    /// The present on the clock that real code takes.
    pub(super) fn now(&self) -> Instant {
        self.began + Duration::from_millis(self.now_ms)
    }

    pub(super) fn at(&mut self, at_ms: u64, event: Event) {
        self.numbers += 1;
        self.events.insert((at_ms.max(self.now_ms), self.numbers), event);
    }

    /// Until then, or until something is so. Gives whether it is.
    pub(super) fn run(&mut self, until_ms: u64, is_done: impl Fn(&Self) -> bool) -> bool {
        while let Some(entry) = self.events.first_entry() {
            let at_ms = entry.key().0;
            if at_ms > until_ms {
                break;
            }
            let event = entry.remove();
            self.totals.simulated_ms += at_ms - self.now_ms;
            self.now_ms = at_ms;
            self.totals.steps += 1;
            self.handle(event);
            if std::mem::take(&mut self.has_changed) {
                self.check();
            }
            if is_done(self) {
                return true;
            }
        }
        self.now_ms = self.now_ms.max(until_ms);
        is_done(self)
    }

    fn handle(&mut self, event: Event) {
        let of_servers = matches!(
            event,
            Event::Apply
                | Event::Elected
                | Event::LeaderTick { .. }
                | Event::LeaderTurn { .. }
                | Event::Request { .. }
        );
        if of_servers && self.now_ms < self.standstill_until_ms {
            let at_ms = self.standstill_until_ms;
            self.at(at_ms, event);
            return;
        }
        match event {
            Event::Apply => self.apply(),
            Event::Client { client, operation, what } => self.handle_client(client, operation, what),
            Event::Elected => self.elect(),
            Event::Fault(kind) => self.fault(kind),
            Event::FaultEnds { node, kind } => self.end_fault(node, kind),
            Event::LeaderTick { term } => self.leader_tick(term),
            Event::LeaderTurn { term } => self.leader_turn(term),
            Event::Node { node, start, what } => {
                let of_node = &self.nodes[node];
                if !of_node.is_up || of_node.start != start {
                    return;
                }
                if self.now_ms < of_node.frozen_until_ms {
                    let at_ms = of_node.frozen_until_ms;
                    self.at(at_ms, Event::Node { node, start, what });
                } else {
                    self.handle_node(node, what);
                }
            }
            Event::Request { from, ask } => self.handle_request(from, ask),
        }
    }

    // Messages.

    /// When a message arrives. None: never.
    fn arrival(&mut self, slowness_ms: u64) -> Option<u64> {
        let faults = &self.options.faults;
        if !self.is_calm && faults.lost_one_in > 0 && self.random.u64(0..faults.lost_one_in) == 0 {
            self.totals.messages_lost += 1;
            return None;
        }
        Some(self.now_ms + 1 + self.random.u64(0..faults.delay_max_ms) + slowness_ms)
    }

    pub(super) fn send_to_leader(&mut self, from: Caller, ask: Ask) {
        let mut slowness_ms = 0;
        if let Caller::Node { node, .. } = from {
            slowness_ms = self.nodes[node].slowness_ms;
            if self.nodes[node].mute.of_servers {
                return;
            }
        }
        if let Some(at_ms) = self.arrival(slowness_ms) {
            self.at(at_ms, Event::Request { from, ask });
        }
    }

    pub(super) fn answer_node(&mut self, to: Caller, answer: Answer) {
        let Caller::Node { node, start, call } = to else { return };
        if self.nodes[node].deaf.of_servers {
            return;
        }
        if let Some(at_ms) = self.arrival(self.nodes[node].slowness_ms) {
            self.at(at_ms, Event::Node { node, start, what: ForNode::Answer { call, answer } });
        }
    }

    pub(super) fn answer_client(&mut self, to: Caller, what: ForClient) {
        let Caller::Client { client, operation } = to else { return };
        if let Some(at_ms) = self.arrival(0) {
            self.at(at_ms, Event::Client { client, operation, what });
        }
    }

    pub(super) fn send_to_client(&mut self, from: usize, client: usize, operation: u64, what: ForClient) {
        if self.nodes[from].mute.of_others {
            return;
        }
        if let Some(at_ms) = self.arrival(self.nodes[from].slowness_ms) {
            self.at(at_ms, Event::Client { client, operation, what });
        }
    }

    /// From a client to whichever process the node has.
    pub(super) fn client_to_node(&mut self, node: NodeId, what: ForNode) {
        if let Some(at) = self.whereabouts(node) {
            let start = self.nodes[at].start;
            self.deliver(at, start, what);
        }
    }

    /// From a node to whichever process another one has.
    pub(super) fn send_to_peer(&mut self, from: usize, to: usize, what: ForNode) {
        let start = self.nodes[to].start;
        self.send_to_node(from, to, start, what);
    }

    pub(super) fn send_to_node(&mut self, from: usize, to: usize, start: u64, what: ForNode) {
        if !self.nodes[from].mute.of_others {
            self.deliver(to, start, what);
        }
    }

    fn deliver(&mut self, to: usize, start: u64, what: ForNode) {
        if self.nodes[to].deaf.of_others {
            return;
        }
        if let Some(at_ms) = self.arrival(self.nodes[to].slowness_ms) {
            self.at(at_ms, Event::Node { node: to, start, what });
        }
    }

    /// Which machine the node is. None: its directory is no more.
    pub(super) fn whereabouts(&self, node: NodeId) -> Option<usize> {
        let uuid = &self.state.node(node)?.uuid;
        self.nodes.iter().position(|own| own.uuid == *uuid)
    }

    /// The node that a machine is.
    pub(super) fn id_of(&self, node: usize) -> Option<NodeId> {
        let uuid = &self.nodes[node].uuid;
        self.state.nodes().find(|known| known.uuid == *uuid).map(|known| known.id)
    }

    // The log.

    /// Puts a command in the log of the leader.
    pub(super) fn propose(&mut self, kind: command::Kind, request_id: &[u8], waiter: Waiter) {
        let command = pb::Command {
            time_ms: self.now_ms,
            request_id: Bytes::copy_from_slice(request_id),
            kind: Some(kind),
            deletion_grace_ms: GRACE_MS,
            ..Default::default()
        };
        self.log.push_back(Proposal { command, term: self.term, waiter });
        let at_ms = self.now_ms + 1 + self.random.u64(0..self.options.faults.commit_max_ms);
        self.at(at_ms, Event::Apply);
    }

    /// Applies the oldest one that waits.
    fn apply(&mut self) {
        let Some(Proposal { command, term, waiter }) = self.log.pop_front() else { return };
        self.index += 1;
        self.totals.entries += 1;
        let outcome = self.state.apply(self.index, &command).kind.expect("there always is one");
        self.has_changed = true;
        if let Some(kind) = &command.kind {
            self.note_applied(kind, &outcome);
        }
        // Whoever asked a leader that is no more hears nothing.
        if self.leader.as_ref().is_none_or(|leader| leader.term != term) {
            return;
        }
        match waiter {
            Waiter::Caller(caller) => self.handle_applied(caller, outcome),
            Waiter::Leader => self.leader_goes_on(outcome),
            Waiter::Nobody => {}
        }
    }

    fn note_applied(&mut self, kind: &command::Kind, outcome: &outcome::Kind) {
        match kind {
            command::Kind::RegisterNode(register) => {
                let node =
                    self.state.nodes().find(|node| node.uuid == register.node_uuid).map(|node| node.id);
                if let Some(node) = node {
                    self.forget_unnamed_losses(node);
                }
            }
            command::Kind::FenceNode(_) => self.totals.fences += 1,
            _ => {}
        }
        if let outcome::Kind::ReplicasReplaced(replaced) = outcome {
            let applied = replaced.applied.iter().filter(|applied| **applied).count() as u64;
            self.totals.changes += applied;
            self.totals.vain_changes += replaced.applied.len() as u64 - applied;
        }
    }

    /// The leader is gone; of what it had in hand, the log keeps the first part.
    pub(super) fn depose(&mut self) {
        let kept = self.random.usize(0..=self.log.len());
        self.totals.commands_lost += (self.log.len() - kept) as u64;
        self.log.truncate(kept);
        self.leader = None;
        let at_ms = self.now_ms + self.random.u64(500..3000);
        self.at(at_ms, Event::Elected);
    }

    fn elect(&mut self) {
        if self.leader.is_some() {
            return;
        }
        self.term += 1;
        self.totals.elections += 1;
        // It has applied all that the one before left.
        while !self.log.is_empty() {
            self.apply();
        }
        self.leader = Some(Leader::new(self.term));
        let term = self.term;
        self.at(self.now_ms, Event::LeaderTick { term });
        self.at(self.now_ms + 1, Event::LeaderTurn { term });
    }
}

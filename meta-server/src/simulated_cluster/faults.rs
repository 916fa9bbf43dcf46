//! What goes wrong, and how it ends.

use xdpfs_proto::state::v1::{self as pb, command};
use xdpfs_wire::{ChunkId, NodeId};

use super::{
    cluster::{Cluster, Event, Waiter},
    node::{Cut, DataNode},
};

/// A kind of fault.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    Crash,
    Cut,
    Drain,
    Election,
    Freeze,
    Full,
    Rot,
    Slow,
    Standstill,
    Wipe,
}

const KINDS: [Kind; 10] = [
    Kind::Crash,
    Kind::Cut,
    Kind::Drain,
    Kind::Election,
    Kind::Freeze,
    Kind::Full,
    Kind::Rot,
    Kind::Slow,
    Kind::Standstill,
    Kind::Wipe,
];

impl Cluster {
    const fn interval_ms(&self, kind: Kind) -> u64 {
        let faults = &self.options.faults;
        match kind {
            Kind::Crash => faults.crash_ms,
            Kind::Cut => faults.cut_ms,
            Kind::Drain => faults.drain_ms,
            Kind::Election => faults.election_ms,
            Kind::Freeze => faults.freeze_ms,
            Kind::Full => faults.full_ms,
            Kind::Rot => faults.rot_ms,
            Kind::Slow => faults.slow_ms,
            Kind::Standstill => faults.standstill_ms,
            Kind::Wipe => faults.wipe_ms,
        }
    }

    pub(super) fn plan_faults(&mut self) {
        KINDS.into_iter().for_each(|kind| self.plan(kind));
    }

    fn plan(&mut self, kind: Kind) {
        let interval_ms = self.interval_ms(kind);
        if interval_ms > 0 {
            let at_ms = self.now_ms + 1 + self.random.u64(0..2 * interval_ms);
            self.at(at_ms, Event::Fault(kind));
        }
    }

    pub(super) fn fault(&mut self, kind: Kind) {
        if self.is_calm {
            return;
        }
        self.plan(kind);
        let node = self.random.usize(0..self.nodes.len());
        // Mostly short, at times so long that the node is given up.
        let for_ms = if self.random.u32(0..3) > 0 {
            self.random.u64(100..9000)
        } else {
            self.random.u64(9000..60_000)
        };
        match kind {
            Kind::Crash => self.crash(node, for_ms),
            Kind::Wipe => self.wipe(node, for_ms),
            Kind::Cut => {
                self.totals.cuts += 1;
                let mut cut = || Cut { of_servers: self.random.bool(), of_others: self.random.bool() };
                (self.nodes[node].deaf, self.nodes[node].mute) = (cut(), cut());
            }
            Kind::Drain => self.drain(node, true),
            Kind::Election => {
                if self.leader.is_some() {
                    self.depose();
                }
            }
            Kind::Freeze => {
                self.totals.freezes += 1;
                self.nodes[node].frozen_until_ms = self.now_ms + for_ms;
            }
            Kind::Full => {
                self.totals.full += 1;
                self.nodes[node].is_full = true;
            }
            Kind::Rot => self.rot(node),
            Kind::Slow => {
                self.totals.slow += 1;
                self.nodes[node].slowness_ms = self.random.u64(10..1200);
            }
            Kind::Standstill => {
                self.totals.standstills += 1;
                self.standstill_until_ms = self.now_ms + for_ms.min(25_000);
            }
        }
        self.at(self.now_ms + for_ms, Event::FaultEnds { node, kind });
    }

    pub(super) fn end_fault(&mut self, node: usize, kind: Kind) {
        match kind {
            Kind::Crash | Kind::Wipe => {
                if !self.nodes[node].is_up {
                    self.start_node(node);
                }
            }
            Kind::Cut => (self.nodes[node].deaf, self.nodes[node].mute) = (Cut::default(), Cut::default()),
            Kind::Drain => self.drain(node, false),
            Kind::Full => self.nodes[node].is_full = false,
            Kind::Slow => self.nodes[node].slowness_ms = 0,
            Kind::Election | Kind::Freeze | Kind::Rot | Kind::Standstill => {}
        }
    }

    fn crash(&mut self, node: usize, _for_ms: u64) {
        self.totals.crashes += 1;
        self.nodes[node].is_up = false;
    }

    /// The promise is about fewer than all replicas of a chunk: what would take the last one is left out.
    fn wipe(&mut self, node: usize, for_ms: u64) {
        let chunks: Vec<ChunkId> = self.nodes[node].disk.keys().copied().collect();
        if chunks.iter().any(|chunk| self.is_last(node, *chunk)) {
            return;
        }
        self.totals.wipes += 1;
        self.crash(node, for_ms);
        if let Some(id) = self.id_of(node) {
            self.lose(id, chunks);
        }
        if self.random.bool() {
            // Another directory is another node.
            self.totals.newcomers += 1;
            let uuid = format!("node {}", self.random.u64(..));
            let start = self.nodes[node].start;
            self.nodes[node] = DataNode::new(uuid);
            self.nodes[node].start = start;
        }
        self.nodes[node].disk.clear();
        self.has_changed = true;
    }

    fn rot(&mut self, node: usize) {
        let chunks: Vec<ChunkId> = self.nodes[node].disk.keys().copied().collect();
        if chunks.is_empty() {
            return;
        }
        let chunk = chunks[self.random.usize(0..chunks.len())];
        if self.is_last(node, chunk) {
            return;
        }
        self.totals.rotten += 1;
        self.nodes[node].disk.insert(chunk, true);
        if let Some(id) = self.id_of(node) {
            self.lose(id, [chunk]);
        }
    }

    fn drain(&mut self, node: usize, draining: bool) {
        let Some(id) = self.id_of(node) else { return };
        self.totals.drains += u64::from(draining);
        let drain = pb::DrainNode { node_id: id.0.into(), draining };
        // An operator, who asks until he is heard.
        self.propose(command::Kind::DrainNode(drain), &[], Waiter::Nobody);
    }

    /// Nothing goes wrong any more, and nobody begins anything.
    pub(super) fn calm_down(&mut self) {
        self.is_calm = true;
        self.standstill_until_ms = 0;
        for node in 0..self.nodes.len() {
            let of_node = &mut self.nodes[node];
            (of_node.deaf, of_node.mute) = (Cut::default(), Cut::default());
            (of_node.is_full, of_node.slowness_ms) = (false, 0);
            of_node.frozen_until_ms = of_node.frozen_until_ms.min(self.now_ms);
            if !of_node.is_up {
                self.start_node(node);
            }
        }
        let draining: Vec<NodeId> =
            self.state.nodes().filter(|node| node.draining).map(|node| node.id).collect();
        for node in draining {
            let drain = pb::DrainNode { node_id: node.0.into(), draining: false };
            self.propose(command::Kind::DrainNode(drain), &[], Waiter::Nobody);
        }
    }
}

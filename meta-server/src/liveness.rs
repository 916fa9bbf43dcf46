//! What the leader has heard from data nodes. Not replicated: a new leader learns it anew from heartbeats.
//!
//! Invariant: a leader that has not led for long enough to tell holds every registered node alive.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use xdpfs_proto::meta::v1::{DiskStatus, ScrubStatus};
use xdpfs_wire::NodeId;

use crate::hearsay::{bound_counters, bound_text};

/// More than any release has.
const STORAGE_DOUBTS_MAX: usize = 8;
/// More than a host has.
const DISKS_MAX: usize = 256;

/// A leader that has not looked at its clock for this long was stopped.
const PAUSE_MIN: Duration = Duration::from_secs(2);

/// What a node last said about itself.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Usage {
    /// Bytes that it may use.
    pub capacity_bytes: u64,
    /// Bytes that it uses.
    pub used_bytes: u64,
    /// Bytes that are left.
    pub free_bytes: u64,
    /// Chunks that it holds.
    pub chunks: u64,
    /// Datagrams that it refused, by reason.
    pub rejects: BTreeMap<String, u64>,
    /// Where its kernel program runs.
    pub xdp_mode: String,
    /// Why there.
    pub xdp_reason: String,
    /// Packets that the program has seen, by how they ended.
    pub xdp_packets: BTreeMap<String, u64>,
    /// Bytes of chunks that it made durable since its start.
    pub written_bytes: u64,
    /// Bytes that were read from it since its start.
    pub read_bytes: u64,
    /// The last second, since the Unix epoch, in which its certificate holds. Zero: it has none.
    pub certificate_expiry_s: u64,
    /// The release that it runs.
    pub version: String,
    /// How its scrub is. None: its release has none.
    pub scrub: Option<ScrubStatus>,
    /// What speaks against its data directory keeping bytes without power.
    pub storage_doubts: Vec<String>,
    /// Its disks. None: its release doesn't speak of them.
    pub disks: Vec<DiskStatus>,
    /// It can tell inventories.
    pub tells_inventory: bool,
}

/// A node as the leader sees it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Sight {
    /// Gets new chunks.
    pub alive: bool,
    /// None: no heartbeat since its registration, or since this leader began.
    pub usage: Option<Usage>,
    /// Since the last heartbeat, or since this leader began.
    pub age: Duration,
}

/// The leader's view of all nodes.
#[derive(Debug)]
pub struct Liveness {
    silent_after: Duration,
    heard: Mutex<Heard>,
}

#[derive(Debug)]
struct Heard {
    term: u64,
    since: Instant,
    /// When the leader last looked at its clock.
    looked_at: Instant,
    /// When each was last heard of, and what it said, if it said anything.
    nodes: BTreeMap<NodeId, (Instant, Option<Usage>)>,
}

impl Liveness {
    /// A node is silent after this long without a heartbeat.
    #[must_use]
    pub fn new(silent_after: Duration) -> Self {
        let heard =
            Heard { term: 0, since: Instant::now(), looked_at: Instant::now(), nodes: BTreeMap::new() };
        Self { silent_after, heard: Mutex::new(heard) }
    }

    /// Notes a heartbeat that the leader of `term` got. Only registered nodes may be noted.
    pub fn heartbeat(&self, term: u64, node: NodeId, mut usage: Usage, now: Instant) {
        [&mut usage.rejects, &mut usage.xdp_packets].into_iter().for_each(bound_counters);
        [&mut usage.xdp_mode, &mut usage.xdp_reason, &mut usage.version].into_iter().for_each(bound_text);
        usage.storage_doubts.truncate(STORAGE_DOUBTS_MAX);
        usage.storage_doubts.iter_mut().for_each(bound_text);
        usage.disks.truncate(DISKS_MAX);
        usage.disks.iter_mut().flat_map(|disk| [&mut disk.disk, &mut disk.reason]).for_each(bound_text);
        self.at_term(term, now, |heard| heard.nodes.insert(node, (now, Some(usage))));
    }

    /// Notes a registration that the leader of `term` got: the node is alive, and has yet to say how it is.
    pub fn registered(&self, term: u64, node: NodeId, now: Instant) {
        self.at_term(term, now, |heard| heard.nodes.insert(node, (now, None)));
    }

    /// To be called often. A leader that was stopped for longer than that heard nothing of anybody in that time, through no
    /// fault of theirs: it counts for nothing.
    pub fn look_at_clock(&self, term: u64, now: Instant) {
        self.at_term(term, now, |heard| {
            let stopped = now.saturating_duration_since(heard.looked_at);
            heard.looked_at = now;
            if stopped < PAUSE_MIN {
                return;
            }
            let later = |at: &mut Instant| *at = (*at + stopped).min(now);
            later(&mut heard.since);
            heard.nodes.values_mut().for_each(|(at, _)| later(at));
        });
    }

    /// The node as the leader of `term` sees it.
    #[must_use]
    pub fn sight(&self, term: u64, node: NodeId, now: Instant) -> Sight {
        self.at_term(term, now, |heard| {
            let last = heard.nodes.get(&node);
            let age = now.saturating_duration_since(last.map_or(heard.since, |(at, _)| *at));
            Sight { alive: age < self.silent_after, usage: last.and_then(|(_, usage)| usage.clone()), age }
        })
    }

    fn at_term<T>(&self, term: u64, now: Instant, work: impl FnOnce(&mut Heard) -> T) -> T {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = || Heard { term, since: now, looked_at: now, nodes: BTreeMap::new() };
        // Who still asks for a term that is over is not to wipe out what the present one has heard.
        if heard.term > term {
            return work(&mut fresh());
        }
        if heard.term < term {
            *heard = fresh();
        }
        work(&mut heard)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fresh_leader_gives_every_node_time_to_speak() {
        let liveness = Liveness::new(Duration::from_secs(3));
        let start = Instant::now();
        let alive = |term, at| liveness.sight(term, NodeId(1), start + Duration::from_secs(at)).alive;
        assert!(alive(1, 0));
        assert!(alive(1, 2));
        assert!(!alive(1, 3));
        liveness.heartbeat(1, NodeId(1), Usage::default(), start + Duration::from_secs(4));
        assert!(alive(1, 6));
        assert!(!alive(1, 7));
        assert!(alive(2, 8), "the leader of the next term has yet to hear");
    }

    #[test]
    fn time_in_which_the_leader_was_stopped_is_held_against_nobody() {
        let liveness = Liveness::new(Duration::from_secs(3));
        let start = Instant::now();
        let at = |tenths: u64| start + Duration::from_millis(100 * tenths);
        let age = |tenths| liveness.sight(1, NodeId(1), at(tenths)).age;
        liveness.heartbeat(1, NodeId(1), Usage::default(), at(0));
        liveness.look_at_clock(1, at(10));
        liveness.look_at_clock(1, at(20));
        assert_eq!(age(20), Duration::from_secs(2), "it looks in time");
        liveness.look_at_clock(1, at(620));
        assert_eq!(age(620), Duration::from_secs(2));
        assert_eq!(age(640), Duration::from_secs(4));
    }

    #[test]
    fn node_is_alive_from_its_registration_on() {
        let liveness = Liveness::new(Duration::from_secs(3));
        let start = Instant::now();
        assert!(liveness.sight(1, NodeId(1), start).alive);
        let later = start + Duration::from_secs(10);
        assert!(!liveness.sight(1, NodeId(1), later).alive);
        liveness.registered(1, NodeId(1), later);
        assert_eq!(
            liveness.sight(1, NodeId(1), later),
            Sight { alive: true, usage: None, age: Duration::ZERO }
        );
    }
}

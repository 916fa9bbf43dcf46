//! The path to one node: its piece class, its round-trip time, its window, and the cookie that the node gave.
//!
//! The piece class is found by pinging in every size at once and taking the largest that comes back whole; a pong is
//! as long as its ping, so both directions are proven. After two timeouts in a row the path is probed again, which
//! also finds a class that has stopped passing.

use std::time::{Duration, Instant};

use xdpfs_wire::{ChunkId, Cookie, HeaderBytes, Opcode, PieceClass, RequestId};

use super::rtt::Rtt;
use super::window::Window;
use super::{Addressed, LinkKey, NO_COOKIE, Purpose, Requests};
use crate::datagram::{self, Transmit};

/// Timeouts in a row after which the path is probed again.
const TIMEOUTS_BEFORE_PROBE: u32 = 2;
/// How long a path keeps a class below the largest before larger ones are tried again (RFC 8899 §5.1.1 asks for at
/// least some minutes on the Internet; a cluster's paths change more often).
const RAISE_AFTER: Duration = Duration::from_secs(60);
/// How long larger pongs may trail behind the first.
const TRAIL_MIN: Duration = Duration::from_millis(2);

pub(crate) struct Link {
    pub(crate) rtt: Rtt,
    pub(crate) window: Window,
    pub(crate) cookie: Cookie,
    class: Option<PieceClass>,
    probe: Option<Probe>,
    probed_at: Instant,
    timeouts: u32,
    last_used: Instant,
}

struct Probe {
    to: Addressed,
    unsent: Vec<PieceClass>,
    requests: Vec<RequestId>,
    sent_at: Instant,
    deadline: Instant,
    attempts: u32,
    best: Option<PieceClass>,
}

impl Link {
    pub(crate) fn new(now: Instant, window_bytes_max: u64) -> Self {
        Self {
            rtt: Rtt::default(),
            window: Window::new(window_bytes_max),
            cookie: NO_COOKIE,
            class: None,
            probe: None,
            probed_at: now,
            timeouts: 0,
            last_used: now,
        }
    }

    pub(crate) fn touch(&mut self, now: Instant) {
        self.last_used = now;
    }

    pub(crate) fn last_used(&self) -> Instant {
        self.last_used
    }

    /// The class to use. While none is known, starts to find out and answers `None`.
    pub(crate) fn class(&mut self, now: Instant, to: &Addressed) -> Option<PieceClass> {
        let raise = self.class != PieceClass::ALL.last().copied() && now >= self.probed_at + RAISE_AFTER;
        if self.class.is_none() || raise {
            self.start_probe(now, to);
        }
        self.class
    }

    /// The class, if it is known already.
    pub(crate) fn known_class(&self) -> Option<PieceClass> {
        self.class
    }

    /// Chunk bytes got through.
    pub(crate) fn note_alive(&mut self) {
        self.timeouts = 0;
    }

    /// Nothing got through in time.
    pub(crate) fn note_timeout(&mut self, now: Instant, to: &Addressed) {
        self.timeouts += 1;
        if self.timeouts >= TIMEOUTS_BEFORE_PROBE && self.class.is_some() {
            self.start_probe(now, to);
        }
    }

    fn start_probe(&mut self, now: Instant, to: &Addressed) {
        if self.probe.is_some() {
            return;
        }
        let to = Addressed { chunk: ChunkId::new(to.session.capability.bucket, 0), ..*to };
        self.probe = Some(Probe {
            to,
            unsent: all_classes(),
            requests: Vec::new(),
            sent_at: now,
            deadline: now + self.rtt.timeout(0),
            attempts: 0,
            best: None,
        });
    }

    pub(crate) fn poll_probe(
        &mut self,
        now: Instant,
        key: LinkKey,
        requests: &mut Requests,
        buffer: &mut Vec<u8>,
    ) -> Option<Transmit> {
        let probe = self.probe.as_mut()?;
        let class = probe.unsent.pop()?;
        let request = requests.issue(Purpose::Probe(key, class));
        probe.requests.push(request);
        probe.sent_at = now;
        probe.deadline = now + self.rtt.timeout(probe.attempts);
        let header = probe.to.header(Opcode::Ping, class, request);
        datagram::append(buffer, probe.to.session.key, header, &[], class.piece_len() as usize);
        Some(Transmit::to(key.0.into(), None))
    }

    pub(crate) fn probe_key_verifies(&self, bytes: &HeaderBytes) -> bool {
        self.probe.as_ref().is_some_and(|probe| probe.to.session.key.verifies(bytes))
    }

    pub(crate) fn handle_pong(&mut self, now: Instant, class: PieceClass, cookie: Cookie) {
        let Some(probe) = self.probe.as_mut() else { return };
        if probe.attempts == 0 {
            self.rtt.sample(now.saturating_duration_since(probe.sent_at));
        }
        self.cookie = cookie;
        probe.best = probe.best.max(Some(class));
        probe.deadline = if probe.best == PieceClass::ALL.last().copied() {
            now
        } else {
            now + (self.rtt.smoothed() * 2).max(TRAIL_MIN)
        };
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant, requests: &mut Requests) {
        let Some(probe) = self.probe.as_mut().filter(|probe| probe.deadline <= now) else { return };
        for request in probe.requests.drain(..) {
            requests.retire(request);
        }
        if probe.best.is_some() {
            self.class = probe.best;
            self.probed_at = now;
            self.timeouts = 0;
            self.probe = None;
        } else {
            probe.attempts += 1;
            probe.unsent = all_classes();
            probe.deadline = now + self.rtt.timeout(probe.attempts);
        }
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.probe.as_ref().map(|probe| probe.deadline)
    }

    pub(crate) fn release(self, requests: &mut Requests) {
        for request in self.probe.into_iter().flat_map(|probe| probe.requests) {
            requests.retire(request);
        }
    }
}

/// In the order that they are popped in: smallest first, so that the first pong comes from a size that always fits.
fn all_classes() -> Vec<PieceClass> {
    PieceClass::ALL.into_iter().rev().collect()
}

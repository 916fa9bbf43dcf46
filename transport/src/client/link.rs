//! The path to one node: its piece class, its round-trip time, its window, and the cookie that the node gave.
//!
//! The piece class is found by pinging in every size at once and taking the largest that comes back whole; a pong is
//! as long as its ping, so both directions are proven. After two timeouts in a row the path is probed again, which
//! also finds a class that has stopped passing. It is probed from another port then: routers and cards choose a way by the ports,
//! and the way may be what is broken.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use xdpfs_wire::payload::Tail;
use xdpfs_wire::{Capability, CapabilityKey, ChunkId, Cookie, HeaderBytes, Opcode, PieceClass, RequestId};

use super::offload::Offload;
use super::rtt::Rtt;
use super::window::Window;
use super::{Addressed, LinkKey, NO_COOKIE, Purpose, Requests};
use crate::datagram::{self, LANES_MAX, Transmit};

/// Timeouts in a row after which the path is probed again.
const TIMEOUTS_BEFORE_PROBE: u32 = 2;
/// Times that a probe is sent. Its key may be the one that the node doesn't take, so that another's is tried then.
const PROBES_MAX: u32 = 6;
/// How long a path keeps a class below the largest before larger ones are tried again (RFC 8899 §5.1.1 asks for at
/// least some minutes on the Internet; a cluster's paths change more often).
const RAISE_AFTER: Duration = Duration::from_secs(60);
/// How long larger pongs may trail behind the first.
const TRAIL_MIN: Duration = Duration::from_millis(2);
/// Bounds of how long pieces may trail behind others of their burst.
const REORDER_MIN: Duration = Duration::from_millis(1);
const REORDER_MAX: Duration = Duration::from_millis(16);
/// Whole bursts after which pieces are expected sooner again.
const ORDERLY_BURSTS: u32 = 16;
/// Bursts whose pieces have all come, and whose tails may still.
const TAILS_MAX: usize = 64;

pub(crate) struct Link {
    pub(crate) rtt: Rtt,
    pub(crate) window: Window,
    pub(crate) cookie: Cookie,
    pub(crate) offload: Offload,
    class: Option<PieceClass>,
    probe: Option<Probe>,
    probed_at: Instant,
    /// In a row, of what is small and of batches.
    timeouts: [u32; 2],
    /// Which of the client's ports datagrams leave from.
    lane: u8,
    tails: VecDeque<ExpectTail>,
    /// How long pieces may trail behind others of their burst before they count as lost.
    reorder: Duration,
    /// Whole bursts since a piece came late.
    orderly: u32,
    sequence: u64,
    last_used: Instant,
    heard_at: Instant,
}

/// What got through, or did not.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Size {
    /// One datagram, which may be of any length.
    Single = 0,
    /// Several datagrams at once, full ones among them.
    Batch = 1,
}

/// A burst that is whole. Its tail tells what of its time the node took.
struct ExpectTail {
    request: RequestId,
    key: CapabilityKey,
    answer: AnswerTime,
}

/// When a burst was asked for, and how long it took until its first piece came.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AnswerTime {
    pub(crate) sent_at: Instant,
    pub(crate) took: Duration,
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
            offload: Offload::default(),
            class: None,
            probe: None,
            probed_at: now,
            timeouts: [0; 2],
            lane: 0,
            tails: VecDeque::new(),
            reorder: REORDER_MIN,
            orderly: 0,
            sequence: 0,
            last_used: now,
            heard_at: now,
        }
    }

    pub(crate) fn touch(&mut self, now: Instant) {
        self.last_used = now;
        self.offload.retry(now);
    }

    pub(crate) fn last_used(&self) -> Instant {
        self.last_used
    }

    /// A transfer has come nearer to its end here.
    pub(crate) fn note_heard(&mut self, now: Instant) {
        self.heard_at = now;
    }

    /// When a transfer came nearer to its end here.
    pub(crate) fn heard_at(&self) -> Instant {
        self.heard_at
    }

    pub(crate) fn lane(&self) -> u8 {
        self.lane
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

    /// Chunk bytes got through. That small ones do says nothing of large ones.
    pub(crate) fn note_alive(&mut self, size: Size) {
        self.timeouts[Size::Single as usize] = 0;
        if size == Size::Batch {
            self.timeouts[Size::Batch as usize] = 0;
        }
    }

    /// A part of a batch got through, as a super-packet or one datagram at a time because the same batch had come to nothing before.
    pub(crate) fn note_batch(&mut self, now: Instant, singly: bool) {
        if singly {
            self.offload.note_stall(now, self.rtt.usual());
        } else {
            self.offload.note_passed();
        }
    }

    /// Nothing got through in time.
    pub(crate) fn note_timeout(&mut self, now: Instant, to: &Addressed, size: Size) {
        let timeouts = &mut self.timeouts[size as usize];
        *timeouts += 1;
        if *timeouts >= TIMEOUTS_BEFORE_PROBE && self.class.is_some() && self.probe.is_none() {
            self.lane = (self.lane + 1) % LANES_MAX;
            self.start_probe(now, to);
        }
    }

    /// Numbers what is sent to the node.
    pub(crate) fn next_sequence(&mut self) -> u64 {
        self.sequence += 1;
        self.sequence
    }

    /// How long the rest of a burst may take after a part of it before it counts as lost. Not less than half a round trip: asked
    /// for sooner, most of it would be on its way (Homa's measurements found twenty times the retransmissions).
    pub(crate) fn trail(&self) -> Duration {
        self.reorder.max(self.rtt.smoothed() / 2)
    }

    /// Whether pieces have overtaken others of their burst here.
    pub(crate) fn reorders(&self) -> bool {
        self.reorder > REORDER_MIN
    }

    /// A piece came after it had been given up: the path reorders more than was thought (as RACK, RFC 8985 §6.2).
    pub(crate) fn note_late_piece(&mut self) {
        self.reorder = (self.reorder * 2).min(REORDER_MAX);
        self.orderly = 0;
    }

    /// All pieces of a burst have come, and its tail has not yet.
    pub(crate) fn expect_tail(
        &mut self,
        now: Instant,
        to: &Addressed,
        request: RequestId,
        answer: AnswerTime,
        requests: &mut Requests,
    ) {
        if self.tails.len() >= TAILS_MAX
            && let Some(missed) = self.tails.pop_front()
        {
            requests.retire(missed.request);
            self.offload.note_cut_short(now);
        }
        requests.pass_on(request, Purpose::Tail(to.link()));
        self.tails.push_back(ExpectTail { request, key: to.session.key, answer });
    }

    /// Whether a datagram is the tail that is expected under its request.
    pub(crate) fn tail_key_verifies(&self, request: RequestId, bytes: &HeaderBytes) -> bool {
        self.tails.iter().any(|tail| tail.request == request && tail.key.verifies(bytes))
    }

    /// The tail of a burst that was whole before.
    pub(crate) fn handle_tail(&mut self, now: Instant, request: RequestId, tail: Tail) {
        let Some(at) = self.tails.iter().position(|expected| expected.request == request) else { return };
        if let Some(expected) = self.tails.remove(at) {
            self.note_whole_burst(now, expected.answer, tail);
        }
    }

    /// A burst is whole, with its tail.
    pub(crate) fn note_whole_burst(&mut self, now: Instant, answer: AnswerTime, tail: Tail) {
        self.offload.note_whole();
        self.orderly += 1;
        if self.orderly >= ORDERLY_BURSTS {
            self.orderly = 0;
            self.reorder = (self.reorder / 2).max(REORDER_MIN);
        }
        let service = Duration::from_micros(tail.service_us.into());
        let delay = answer.took.saturating_sub(service);
        self.window.note_delay(now, self.rtt.smoothed(), answer.sent_at, delay);
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
        Some(Transmit { lane: self.lane, ..Transmit::to(key.0.into(), None) })
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

    /// The probe was refused; the capability that it was sent under. A known class stays, and is not looked into again at once.
    pub(crate) fn end_probe(&mut self, now: Instant, requests: &mut Requests) -> Option<Capability> {
        let probe = self.probe.take()?;
        for request in probe.requests {
            requests.retire(request);
        }
        self.probed_at = now;
        Some(probe.to.session.capability)
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant, requests: &mut Requests) {
        let Some(probe) = self.probe.as_mut().filter(|probe| probe.deadline <= now) else { return };
        for request in probe.requests.drain(..) {
            requests.retire(request);
        }
        if probe.best.is_some() {
            self.class = probe.best;
            self.probed_at = now;
            self.timeouts = [0; 2];
            self.probe = None;
        } else {
            probe.attempts += 1;
            if probe.attempts >= PROBES_MAX {
                self.probe = None;
                return;
            }
            probe.unsent = all_classes();
            probe.deadline = now + self.rtt.timeout(probe.attempts);
        }
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.probe.as_ref().map(|probe| probe.deadline)
    }

    pub(crate) fn release(self, requests: &mut Requests) {
        let of_tails = self.tails.into_iter().map(|tail| tail.request);
        for request in self.probe.into_iter().flat_map(|probe| probe.requests).chain(of_tails) {
            requests.retire(request);
        }
    }
}

/// In the order that they are popped in: smallest first, so that the first pong comes from a size that always fits.
fn all_classes() -> Vec<PieceClass> {
    PieceClass::ALL.into_iter().rev().collect()
}

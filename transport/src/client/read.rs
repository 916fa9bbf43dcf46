//! Reading a range of a chunk: bursts asked for within the window, holes asked for again.

use std::ops::Range;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use xdpfs_wire::payload::GetBurst;
use xdpfs_wire::{Advice, Cookie, Flags, Header, Opcode, PieceClass, RequestId, Status};

use super::link::Link;
use super::{Context, Outcome, Requests, Step, TransferError, busy_delay};
use crate::datagram;

/// How long pieces may trail behind the tail of their burst before they count as lost.
const REORDER_MIN: Duration = Duration::from_millis(1);

pub(crate) struct Read {
    range: Range<u32>,
    buffer: BytesMut,
    /// Bytes of the range that have yet to arrive.
    missing_bytes: u32,
    /// First byte that no burst has asked for.
    unasked: u32,
    /// Ranges that a burst gave up because its class stopped passing.
    holes: Vec<Range<u32>>,
    bursts: Vec<Burst>,
    not_before: Option<Instant>,
}

/// One request and the pieces that it waits for.
struct Burst {
    request: RequestId,
    range: Range<u32>,
    class: PieceClass,
    /// Bit `i`: piece `i` has yet to arrive.
    missing: u64,
    /// Bytes charged to the window and to the budget.
    charged: u64,
    sent_at: Instant,
    deadline: Instant,
    /// Times it was sent again.
    attempts: u32,
    /// Timeouts in a row.
    backoff: u32,
    to_send: bool,
    tail_seen: bool,
}

impl Read {
    pub(crate) fn new(range: Range<u32>) -> Self {
        let len = range.end - range.start;
        Self {
            unasked: range.start,
            buffer: BytesMut::zeroed(len as usize),
            missing_bytes: len,
            holes: Vec::new(),
            bursts: Vec::new(),
            not_before: None,
            range,
        }
    }

    pub(crate) fn poll_transmit(&mut self, cx: &mut Context<'_>, out: &mut Vec<u8>) -> Option<usize> {
        if self.not_before.is_some_and(|at| cx.now < at) {
            return None;
        }
        self.split_oversized(cx);
        let full = !cx.link.window.has_room() || *cx.read_outstanding >= cx.config.read_budget_bytes;
        let idle = self.bursts.iter().all(|burst| burst.to_send);
        // One burst of an otherwise idle transfer always goes, so that many transfers can't starve one another.
        if full && !idle {
            return None;
        }
        let at = match self.bursts.iter().position(|burst| burst.to_send) {
            Some(at) => at,
            None if full && !self.bursts.is_empty() => return None,
            None => self.next_burst(cx)?,
        };
        let burst = self.bursts.get_mut(at)?;
        burst.send(cx, out);
        Some(out.len())
    }

    /// Makes the next burst and says where it is.
    fn next_burst(&mut self, cx: &mut Context<'_>) -> Option<usize> {
        let range = match self.holes.pop() {
            Some(hole) => hole,
            None if self.unasked < self.range.end => self.unasked..self.range.end,
            None => return None,
        };
        let Some(class) = self.class_for(&range, cx) else {
            self.put_back(range);
            return None;
        };
        let burst_len = datagram::burst_pieces(class) * class.piece_len();
        let end = range.end.min(range.start + burst_len);
        self.put_back(end..range.end);
        if self.unasked == range.start {
            self.unasked = end;
        }
        let request = cx.issue();
        self.bursts.push(Burst::new(request, range.start..end, class, cx.now));
        Some(self.bursts.len() - 1)
    }

    fn class_for(&self, range: &Range<u32>, cx: &mut Context<'_>) -> Option<PieceClass> {
        let smallest = PieceClass::Small;
        if cx.link.known_class().is_none() && range.end - range.start <= smallest.piece_len() {
            // Always fits, and is answered without a cookie: no need to know the path first.
            return Some(smallest);
        }
        cx.link.class(cx.now, cx.to)
    }

    /// Keeps a part of the range for later, unless it is the unasked rest, which needs no entry.
    fn put_back(&mut self, range: Range<u32>) {
        let is_rest = range.end == self.range.end && range.start >= self.unasked;
        if !range.is_empty() && !is_rest {
            self.holes.push(range);
        }
    }

    /// Bursts to be sent again in a class that has stopped passing become holes.
    fn split_oversized(&mut self, cx: &mut Context<'_>) {
        let Some(class) = cx.link.known_class() else { return };
        while let Some(at) = self.bursts.iter().position(|burst| burst.to_send && burst.class > class) {
            let burst = self.bursts.swap_remove(at);
            cx.requests.retire(burst.request);
            self.holes.extend(burst.missing_pieces());
        }
    }

    pub(crate) fn handle_reply(&mut self, cx: &mut Context<'_>, header: &Header, payload: &[u8]) -> Step {
        let Some(at) = self.bursts.iter().position(|burst| burst.request == header.request) else {
            return Step::Idle;
        };
        match (header.opcode, header.status) {
            (Opcode::Data, Status::Ok) => self.handle_piece(cx, at, header, payload),
            (Opcode::Tail, Status::Ok) => self.handle_tail(cx, at),
            (_, status) => self.handle_refusal(cx, at, status, header, payload),
        }
    }

    fn handle_piece(&mut self, cx: &mut Context<'_>, at: usize, header: &Header, payload: &[u8]) -> Step {
        let Some(burst) = self.bursts.get_mut(at) else { return Step::Idle };
        let Some((piece, range)) = burst.piece_at(header.offset, header.length) else {
            cx.counters.corrupt += 1;
            return Step::Idle;
        };
        if burst.missing >> piece & 1 == 0 {
            cx.counters.duplicates += 1;
            return Step::Idle;
        }
        let len = range.end - range.start;
        let from = (range.start - self.range.start) as usize;
        let (Some(slot), Some(bytes)) =
            (self.buffer.get_mut(from..from + len as usize), payload.get(..len as usize))
        else {
            cx.counters.corrupt += 1;
            return Step::Idle;
        };
        slot.copy_from_slice(bytes);
        burst.missing &= !(1 << piece);
        burst.backoff = 0;
        burst.settle(u64::from(len), cx.link, cx.read_outstanding);
        cx.link.window.grow(len.into());
        cx.link.note_alive();
        self.missing_bytes -= len;
        if burst.missing == 0 {
            if burst.attempts == 0 {
                cx.link.rtt.sample(cx.now.saturating_duration_since(burst.sent_at));
            }
            let burst = self.bursts.swap_remove(at);
            burst.release(cx.link, cx.requests, cx.read_outstanding);
        }
        if self.missing_bytes == 0 {
            return Step::Finished(Ok(Outcome::Read(std::mem::take(&mut self.buffer).freeze())));
        }
        Step::Progress
    }

    fn handle_tail(&mut self, cx: &mut Context<'_>, at: usize) -> Step {
        let Some(burst) = self.bursts.get_mut(at) else { return Step::Idle };
        let nothing_came = burst.missing == all_pieces(burst.pieces()) && burst.attempts == 0;
        burst.tail_seen = true;
        burst.deadline = burst.deadline.min(cx.now + (cx.link.rtt.smoothed() / 4).max(REORDER_MIN));
        if nothing_came && burst.pieces() > 2 {
            // Small datagrams pass and large ones don't: perhaps the path's size has shrunk.
            cx.link.note_timeout(cx.now, cx.to);
        }
        Step::Idle
    }

    fn handle_refusal(
        &mut self,
        cx: &mut Context<'_>,
        at: usize,
        status: Status,
        header: &Header,
        payload: &[u8],
    ) -> Step {
        match (status, payload.first_chunk::<8>()) {
            (Status::Cookie, Some(cookie)) => cx.link.cookie = Cookie(u64::from_le_bytes(*cookie)),
            _ if status.advice() == Advice::Retry => {
                self.not_before = Some(cx.now + busy_delay(header.length));
            }
            _ => return Step::Finished(Err(TransferError::Refused(status))),
        }
        if let Some(burst) = self.bursts.get_mut(at) {
            burst.give_back(cx.link, cx.read_outstanding);
            burst.to_send = true;
        }
        Step::Progress
    }

    pub(crate) fn handle_timeout(&mut self, cx: &mut Context<'_>) -> Step {
        if self.not_before.is_some_and(|at| at <= cx.now) {
            self.not_before = None;
        }
        for burst in self.bursts.iter_mut().filter(|burst| !burst.to_send && burst.deadline <= cx.now) {
            burst.give_back(cx.link, cx.read_outstanding);
            cx.link.window.cut(cx.now, cx.link.rtt.smoothed());
            cx.counters.retransmits += u64::from(burst.missing.count_ones());
            if !burst.tail_seen {
                cx.counters.timeouts += 1;
                burst.backoff += 1;
                cx.link.note_timeout(cx.now, cx.to);
            }
            burst.attempts += 1;
            burst.to_send = true;
        }
        Step::Idle
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let waiting = self.bursts.iter().filter(|burst| !burst.to_send).map(|burst| burst.deadline);
        waiting.chain(self.not_before).min()
    }

    pub(crate) fn release(self, link: &mut Link, requests: &mut Requests, outstanding: &mut u64) {
        for burst in self.bursts {
            burst.release(link, requests, outstanding);
        }
    }
}

impl Burst {
    fn new(request: RequestId, range: Range<u32>, class: PieceClass, now: Instant) -> Self {
        let pieces = (range.end - range.start).div_ceil(class.piece_len());
        Self {
            request,
            range,
            class,
            missing: all_pieces(pieces),
            charged: 0,
            sent_at: now,
            deadline: now,
            attempts: 0,
            backoff: 0,
            to_send: true,
            tail_seen: false,
        }
    }

    fn pieces(&self) -> u32 {
        (self.range.end - self.range.start).div_ceil(self.class.piece_len())
    }

    fn send(&mut self, cx: &mut Context<'_>, out: &mut Vec<u8>) {
        let length = self.range.end - self.range.start;
        let single = length <= self.class.piece_len();
        let opcode = if single { Opcode::GetPiece } else { Opcode::GetBurst };
        let mut header = cx.to.header(opcode, self.class, self.request);
        header.offset = self.range.start;
        header.length = length;
        if self.attempts > 0 {
            header.flags = Flags::RETRANSMIT;
        }
        if single {
            datagram::append(out, cx.to.session.key, header, &[], length as usize);
        } else {
            let ask = GetBurst { cookie: cx.link.cookie, wanted: self.missing };
            datagram::append(out, cx.to.session.key, header, &ask.encode(), 0);
        }
        self.charged = self.missing_pieces().map(|piece| u64::from(piece.end - piece.start)).sum();
        cx.link.window.charge(self.charged);
        *cx.read_outstanding += self.charged;
        self.to_send = false;
        self.tail_seen = false;
        self.sent_at = cx.now;
        self.deadline = cx.now + cx.link.rtt.timeout(self.backoff);
    }

    fn missing_pieces(&self) -> impl Iterator<Item = Range<u32>> + use<> {
        let (range, len, missing) = (self.range.clone(), self.class.piece_len(), self.missing);
        (0..self.pieces()).filter(move |i| missing >> i & 1 == 1).map(move |i| {
            let start = range.start + i * len;
            start..range.end.min(start + len)
        })
    }

    /// The piece that starts at `offset`, if it is one of this burst's and has the right length.
    fn piece_at(&self, offset: u32, length: u32) -> Option<(u32, Range<u32>)> {
        let distance = offset.checked_sub(self.range.start)?;
        let len = self.class.piece_len();
        let end = self.range.end.min(offset.checked_add(len)?);
        let fits = distance % len == 0 && offset < self.range.end && end - offset == length;
        fits.then_some((distance / len, offset..end))
    }

    /// `bytes` are not outstanding any more.
    fn settle(&mut self, bytes: u64, link: &mut Link, outstanding: &mut u64) {
        let bytes = bytes.min(self.charged);
        self.charged -= bytes;
        link.window.discharge(bytes);
        *outstanding = outstanding.saturating_sub(bytes);
    }

    fn give_back(&mut self, link: &mut Link, outstanding: &mut u64) {
        self.settle(self.charged, link, outstanding);
    }

    fn release(mut self, link: &mut Link, requests: &mut Requests, outstanding: &mut u64) {
        self.give_back(link, outstanding);
        requests.retire(self.request);
    }
}

fn all_pieces(pieces: u32) -> u64 {
    if pieces >= u64::BITS { u64::MAX } else { (1 << pieces) - 1 }
}

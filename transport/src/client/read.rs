//! Reading a range of a chunk: bursts asked for within the window, holes asked for again.

use std::ops::Range;
use std::time::Instant;

use xdpfs_wire::payload::{GetBurst, Tail};
use xdpfs_wire::{Advice, Cookie, Flags, Header, Opcode, PieceClass, RequestId, Status};

use super::budget::Budget;
use super::link::{AnswerTime, Link, Size};
use super::{Context, Outcome, Requests, Step, TransferError, busy_delay};
use crate::assembly::Assembly;
use crate::datagram;

/// So many later bursts are whole before an earlier one counts as lost (as RFC 9002 §6.1.1 counts packets).
const OVERTAKEN_MAX: u32 = 3;
/// The fewest pieces to ask for at once where there are more: a single one is asked for by a request as long as itself.
const PIECES_MIN: u32 = 2;

pub(crate) struct Read {
    range: Range<u32>,
    buffer: Option<Assembly>,
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
    /// The pieces that were missing when it was sent last.
    asked: u64,
    /// Bytes charged to the window and to the budget.
    charged: u64,
    sent_at: Instant,
    deadline: Instant,
    /// Times it was sent again.
    attempts: u32,
    /// Timeouts in a row.
    backoff: u32,
    /// It was sent again since nothing had come.
    is_retry: bool,
    to_send: bool,
    /// In the order of all that is sent to the node.
    sequence: u64,
    /// Bursts sent after it that are whole.
    overtaken: u32,
    /// A part of the answer has come, and the rest should be right behind.
    answered_at: Option<Instant>,
    tail: Option<Tail>,
}

impl Read {
    pub(crate) fn new(range: Range<u32>) -> Self {
        let len = range.end - range.start;
        Self {
            unasked: range.start,
            buffer: Some(Assembly::new(len)),
            missing_bytes: len,
            holes: Vec::new(),
            bursts: Vec::new(),
            not_before: None,
            range,
        }
    }

    /// Bytes that have yet to come.
    pub(crate) fn remaining(&self) -> u32 {
        self.missing_bytes
    }

    /// Whether it waits for no answer, and not because a node has put it off.
    pub(crate) fn asks_nobody(&self) -> bool {
        self.not_before.is_none() && self.bursts.iter().all(|burst| burst.to_send)
    }

    /// Whether it has yet to ask for anything.
    pub(crate) fn has_asked_nothing(&self) -> bool {
        self.bursts.is_empty() && self.unasked == self.range.start
    }

    /// Whether something that it asked for last has not come.
    pub(crate) fn was_let_down(&self) -> bool {
        self.bursts.iter().any(|burst| burst.backoff > 0)
    }

    pub(crate) fn poll_transmit(&mut self, cx: &mut Context<'_>, out: &mut Vec<u8>) -> Option<usize> {
        if self.not_before.is_some_and(|at| cx.now < at) {
            return None;
        }
        self.split_oversized(cx);
        if !cx.link.window.has_room() || !cx.budget.has_room() {
            return None;
        }
        let at = match self.bursts.iter().position(|burst| burst.to_send) {
            Some(at) => at,
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
        let fitting = (cx.link.window.burst_bytes() / u64::from(class.piece_len())) as u32;
        let pieces = fitting.max(PIECES_MIN).min(datagram::burst_pieces(class));
        let burst_len = pieces * class.piece_len();
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
            (Opcode::Tail, Status::Ok) => self.handle_tail(cx, at, payload),
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
            if burst.attempts > 0 {
                cx.link.note_late_piece();
            }
            return Step::Idle;
        }
        let len = range.end - range.start;
        let from = (range.start - self.range.start) as usize;
        let bytes = payload.get(..len as usize);
        if !bytes.zip(self.buffer.as_mut()).is_some_and(|(bytes, buffer)| buffer.place(from, bytes)) {
            cx.counters.corrupt += 1;
            return Step::Idle;
        }
        burst.missing &= !(1 << piece);
        if burst.size() == Size::Batch {
            cx.link.note_batch(cx.now, burst.is_retry);
        }
        burst.backoff = 0;
        burst.note_answered(cx);
        burst.settle(u64::from(len), cx.link, cx.budget);
        cx.link.window.grow(cx.now, cx.link.rtt.smoothed(), len.into());
        cx.budget.grow(len.into());
        if len == burst.class.piece_len() || burst.size() == Size::Single {
            cx.link.note_alive(burst.size());
        }
        self.missing_bytes -= len;
        if burst.missing == 0 {
            let whole = self.bursts.swap_remove(at);
            self.note_overtaken(cx, whole.sequence);
            whole.finish(cx);
        }
        if self.missing_bytes == 0
            && let Some(buffer) = self.buffer.take()
        {
            return Step::Finished(Ok(Outcome::Read(buffer.freeze())));
        }
        Step::Progress
    }

    /// A burst is whole. Of one that was sent before it and has brought nothing yet, request or answer may be lost.
    fn note_overtaken(&mut self, cx: &Context<'_>, sequence: u64) {
        for burst in self.bursts.iter_mut().filter(|burst| !burst.to_send && burst.sequence < sequence) {
            burst.overtaken += 1;
            // A node that reads from a disk answers out of order, so one is no sign, and once is enough.
            if burst.overtaken == OVERTAKEN_MAX && burst.attempts == 0 && burst.answered_at.is_none() {
                burst.deadline = burst.deadline.min(cx.now + cx.link.trail());
            }
        }
    }

    fn handle_tail(&mut self, cx: &mut Context<'_>, at: usize, payload: &[u8]) -> Step {
        let Some(burst) = self.bursts.get_mut(at) else { return Step::Idle };
        let is_first = burst.attempts == 0;
        burst.tail = Tail::parse(payload);
        burst.note_answered(cx);
        let nothing_came = burst.missing == burst.asked;
        if nothing_came {
            // Small datagrams pass and large ones, or many, don't: a queue was full, or the path has shrunk. Asked for at once again and
            // again, they would be lost as fast as they come.
            if burst.backoff > 0 {
                burst.deadline = cx.now + cx.link.rtt.timeout(burst.backoff);
            }
            burst.backoff += 1;
            cx.link.note_timeout(cx.now, cx.to, burst.size());
            return Step::Idle;
        }
        if !cx.link.reorders() {
            // What was sent before the tail and is not here is lost.
            burst.deadline = cx.now;
        }
        if is_first && burst.missing == 1 << (burst.pieces() - 1) {
            cx.link.offload.note_cut_short(cx.now);
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
            burst.give_back(cx.link, cx.budget);
            burst.to_send = true;
        }
        Step::Progress
    }

    pub(crate) fn handle_timeout(&mut self, cx: &mut Context<'_>) -> Step {
        if self.not_before.is_some_and(|at| at <= cx.now) {
            self.not_before = None;
        }
        for burst in self.bursts.iter_mut().filter(|burst| !burst.to_send && burst.deadline <= cx.now) {
            let rtt = cx.link.rtt.smoothed();
            cx.link.window.note_loss(cx.now, rtt, burst.charged);
            cx.budget.note_loss(cx.now, rtt, cx.to.link());
            burst.give_back(cx.link, cx.budget);
            cx.counters.retransmits += u64::from(burst.missing.count_ones());
            if burst.answered_at.is_none() {
                cx.counters.timeouts += 1;
                burst.backoff += 1;
                cx.link.rtt.note_expired(cx.now, burst.sent_at);
                cx.link.note_timeout(cx.now, cx.to, burst.size());
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

    pub(crate) fn release(self, link: &mut Link, requests: &mut Requests, budget: &mut Budget) {
        for burst in self.bursts {
            burst.release(link, requests, budget);
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
            asked: 0,
            charged: 0,
            sent_at: now,
            deadline: now,
            attempts: 0,
            backoff: 0,
            is_retry: false,
            to_send: true,
            sequence: 0,
            overtaken: 0,
            answered_at: None,
            tail: None,
        }
    }

    fn pieces(&self) -> u32 {
        (self.range.end - self.range.start).div_ceil(self.class.piece_len())
    }

    /// What was asked for last.
    fn size(&self) -> Size {
        if self.asked.count_ones() == 1 { Size::Single } else { Size::Batch }
    }

    /// A part of the answer is here. A node sends all of it at once, so what is still to come is not far.
    fn note_answered(&mut self, cx: &Context<'_>) {
        self.answered_at.get_or_insert(cx.now);
        self.deadline = cx.now + cx.link.trail();
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
        self.is_retry = self.backoff > 0;
        // What has come to nothing may have done so because it was a super-packet.
        if !single && (self.is_retry || cx.link.offload.is_off()) {
            header.flags = header.flags.union(Flags::ONE_BY_ONE);
        }
        if single {
            datagram::append(out, cx.to.session.key, header, &[], length as usize);
        } else {
            let ask = GetBurst { cookie: cx.link.cookie, wanted: self.missing };
            datagram::append(out, cx.to.session.key, header, &ask.encode(), 0);
        }
        self.charged = self.missing_pieces().map(|piece| u64::from(piece.end - piece.start)).sum();
        cx.link.window.charge(self.charged);
        cx.budget.charge(self.charged);
        self.to_send = false;
        self.asked = self.missing;
        self.sequence = cx.link.next_sequence();
        self.overtaken = 0;
        self.answered_at = None;
        self.tail = None;
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
    fn settle(&mut self, bytes: u64, link: &mut Link, budget: &mut Budget) {
        let bytes = bytes.min(self.charged);
        self.charged -= bytes;
        link.window.discharge(bytes);
        budget.discharge(bytes);
    }

    fn give_back(&mut self, link: &mut Link, budget: &mut Budget) {
        self.settle(self.charged, link, budget);
    }

    /// All pieces are here.
    fn finish(mut self, cx: &mut Context<'_>) {
        let took = cx.now.saturating_duration_since(self.sent_at);
        // Of what was asked for again it isn't known which request was answered.
        let tells_time = self.attempts == 0;
        if tells_time {
            cx.link.rtt.sample_read(took);
        }
        if tells_time && self.pieces() > 1 {
            // Until the first piece: how long the rest takes depends on how much was asked for.
            let answered_at = self.answered_at.unwrap_or(cx.now);
            let answer = AnswerTime { sent_at: self.sent_at, took: answered_at - self.sent_at };
            match self.tail {
                Some(tail) => cx.link.note_whole_burst(cx.now, answer, tail),
                None => {
                    self.give_back(cx.link, cx.budget);
                    return cx.link.expect_tail(cx.now, cx.to, self.request, answer, cx.requests);
                }
            }
        }
        self.release(cx.link, cx.requests, cx.budget);
    }

    fn release(mut self, link: &mut Link, requests: &mut Requests, budget: &mut Budget) {
        self.give_back(link, budget);
        requests.retire(self.request);
    }
}

fn all_pieces(pieces: u32) -> u64 {
    if pieces >= u64::BITS { u64::MAX } else { (1 << pieces) - 1 }
}

//! The pieces of an open upload: which were sent, which have arrived, which are lost.
//!
//! A piece is lost once a batch sent after its own was acknowledged without it, or once the timer runs out. Fewer
//! signs than that are reordering.

use std::collections::{BTreeSet, VecDeque};
use std::time::Instant;

use bytes::Bytes;
use xdpfs_wire::payload::{REQUEST_PADDING_MIN, SACK_WINDOW, Sack};
use xdpfs_wire::{Flags, HEADER_LEN, Header, Opcode, PieceClass, RequestId};

use crate::client::link::{Link, Size};
use crate::client::{Context, Requests};
use crate::datagram;

pub(crate) struct Upload {
    length: u32,
    class: PieceClass,
    arrived: Vec<bool>,
    arrived_count: u32,
    arrived_bytes: u32,
    /// First piece that was never sent.
    unsent: u32,
    lost: BTreeSet<u32>,
    /// Batches with pieces that may still arrive, oldest first.
    batches: VecDeque<Batch>,
    /// First byte that may not be sent yet.
    credit: u32,
    deadline: Option<Instant>,
    backoff: u32,
}

struct Batch {
    request: RequestId,
    pieces: Vec<u32>,
    sent_at: Instant,
    /// It was sent since another had come to nothing.
    is_retry: bool,
}

impl Upload {
    pub(crate) fn new(length: u32, class: PieceClass) -> Self {
        let pieces = length.div_ceil(class.piece_len());
        Self {
            length,
            class,
            arrived: vec![false; pieces as usize],
            arrived_count: 0,
            arrived_bytes: 0,
            unsent: 0,
            lost: BTreeSet::new(),
            batches: VecDeque::new(),
            credit: 0,
            deadline: None,
            backoff: 0,
        }
    }

    pub(crate) fn class(&self) -> PieceClass {
        self.class
    }

    /// Bytes that have yet to arrive.
    pub(crate) fn remaining(&self) -> u32 {
        self.length - self.arrived_bytes
    }

    /// Whether batches have to leave one datagram at a time, since the last came to nothing, perhaps for being super-packets.
    pub(crate) fn sends_singly(&self) -> bool {
        self.backoff > 0
    }

    /// A batch was sent, and nothing of it has come.
    pub(crate) fn note_stall(&mut self) {
        self.backoff += 1;
    }

    /// Whether every piece has been sent and none is known to be lost.
    pub(crate) fn all_sent(&self) -> bool {
        self.unsent == self.pieces() && self.lost.is_empty()
    }

    /// Whether every piece has arrived.
    pub(crate) fn is_complete(&self) -> bool {
        self.arrived_count == self.pieces()
    }

    /// Lays the next batch into `out` and answers its segment size.
    pub(crate) fn poll_transmit(
        &mut self,
        cx: &mut Context<'_>,
        data: &Bytes,
        out: &mut Vec<u8>,
    ) -> Option<usize> {
        if !cx.link.window.has_room() && !self.batches.is_empty() {
            return None;
        }
        let resent = self.lost.len();
        let pieces = self.next_pieces(cx.link.window.burst_bytes());
        let last = *pieces.last()?;
        cx.counters.retransmits += (resent - self.lost.len()) as u64;
        let request = cx.issue();
        for piece in &pieces {
            let mut header = cx.to.header(Opcode::PutData, self.class, request);
            header.offset = piece * self.class.piece_len();
            header.length = self.piece_len(*piece);
            if *piece == last {
                header.flags = Flags::ACK_WANTED;
            }
            let start = header.offset as usize;
            let bytes = data.get(start..start + header.length as usize)?;
            datagram::append(out, cx.to.session.key, header, bytes, REQUEST_PADDING_MIN);
            cx.link.window.charge(header.length.into());
        }
        self.batches.push_back(Batch { request, pieces, sent_at: cx.now, is_retry: self.backoff > 0 });
        self.deadline = Some(cx.now + cx.link.rtt.timeout(self.backoff));
        Some(HEADER_LEN + self.class.piece_len() as usize)
    }

    /// Lost pieces first, then new ones within the credit; in rising order, so that the only short piece comes last.
    fn next_pieces(&mut self, window_bytes: u64) -> Vec<u32> {
        let fitting = (window_bytes / u64::from(self.class.piece_len())) as usize;
        let room = fitting.clamp(1, datagram::burst_pieces(self.class) as usize);
        let mut pieces = Vec::with_capacity(room);
        while pieces.len() < room {
            let Some(piece) = self.lost.pop_first() else { break };
            pieces.push(piece);
        }
        while pieces.len() < room && self.unsent < self.pieces() && self.end_of(self.unsent) <= self.credit {
            pieces.push(self.unsent);
            self.unsent += 1;
        }
        pieces.sort_unstable();
        pieces
    }

    /// Notes what has arrived; answers whether anything new has.
    pub(crate) fn handle_sack(&mut self, cx: &mut Context<'_>, header: &Header, sack: &Sack) -> bool {
        let acked = self.batches.iter().find(|batch| batch.request == header.request);
        let is_retry = acked.is_some_and(|batch| batch.is_retry);
        let first_missing = header.offset.div_ceil(self.class.piece_len()).min(self.pieces());
        let more_credit = header.length > self.credit;
        self.credit = self.credit.max(header.length).min(self.length);
        let before = self.arrived_count;
        for piece in 0..first_missing {
            self.note_arrived(piece);
        }
        let window_end = self.pieces().min(first_missing.saturating_add(SACK_WINDOW));
        for piece in (first_missing..window_end).filter(|piece| sack.has_arrived(piece - first_missing)) {
            self.note_arrived(piece);
        }
        self.settle_batches(cx, header.request);
        let progress = self.arrived_count > before;
        if progress {
            if self.arrived_count > before + 1 {
                cx.link.note_batch(cx.now, is_retry);
            }
            self.backoff = 0;
            cx.link.note_alive(if self.arrived_count > before + 1 { Size::Batch } else { Size::Single });
        }
        self.deadline = (!self.batches.is_empty()).then(|| cx.now + cx.link.rtt.timeout(self.backoff));
        progress || more_credit
    }

    fn note_arrived(&mut self, piece: u32) {
        if let Some(arrived) = self.arrived.get_mut(piece as usize)
            && !*arrived
        {
            *arrived = true;
            self.arrived_count += 1;
            self.arrived_bytes += piece_len(self.length, self.class, piece);
            self.lost.remove(&piece);
        }
    }

    /// Takes arrived pieces out of the batches, and gives up those of batches before the acknowledged one.
    fn settle_batches(&mut self, cx: &mut Context<'_>, acknowledged: RequestId) {
        let position = self.batches.iter().position(|batch| batch.request == acknowledged);
        if let Some(batch) = position.and_then(|at| self.batches.get(at)) {
            cx.link.rtt.sample(cx.now.saturating_duration_since(batch.sent_at));
        }
        let mut lost_bytes = 0;
        for (at, batch) in self.batches.iter_mut().enumerate() {
            let overtaken = position.is_some_and(|acked| at < acked);
            for piece in std::mem::take(&mut batch.pieces) {
                let arrived = self.arrived.get(piece as usize).copied().unwrap_or(true);
                let len = u64::from(piece_len(self.length, self.class, piece));
                if !arrived && !overtaken {
                    batch.pieces.push(piece);
                    continue;
                }
                cx.link.window.discharge(len);
                if arrived {
                    cx.link.window.grow(cx.now, cx.link.rtt.smoothed(), len);
                } else {
                    lost_bytes += len;
                    self.lost.insert(piece);
                }
            }
        }
        let requests = &mut *cx.requests;
        self.batches.retain(|batch| {
            if batch.pieces.is_empty() {
                requests.retire(batch.request);
            }
            !batch.pieces.is_empty()
        });
        if lost_bytes > 0 {
            cx.link.window.note_loss(cx.now, cx.link.rtt.smoothed(), lost_bytes);
        }
    }

    /// Everything that has not arrived is sent again.
    pub(crate) fn resend_missing(&mut self, cx: &mut Context<'_>) {
        self.release(cx.link, cx.requests);
        let mut lost_bytes = 0;
        for piece in 0..self.unsent {
            if !self.arrived.get(piece as usize).copied().unwrap_or(true) && self.lost.insert(piece) {
                lost_bytes += u64::from(self.piece_len(piece));
            }
        }
        cx.link.window.note_loss(cx.now, cx.link.rtt.smoothed(), lost_bytes);
    }

    pub(crate) fn handle_timeout(&mut self, cx: &mut Context<'_>) {
        if self.deadline.is_some_and(|at| at <= cx.now) {
            cx.counters.timeouts += 1;
            self.backoff += 1;
            cx.link.note_timeout(cx.now, cx.to, Size::Batch);
            self.resend_missing(cx);
        }
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.deadline
    }

    /// Nothing is outstanding any more.
    pub(crate) fn release(&mut self, link: &mut Link, requests: &mut Requests) {
        for batch in self.batches.drain(..) {
            requests.retire(batch.request);
            for piece in batch.pieces {
                link.window.discharge(piece_len(self.length, self.class, piece).into());
            }
        }
        self.deadline = None;
    }

    fn pieces(&self) -> u32 {
        self.arrived.len() as u32
    }

    fn piece_len(&self, piece: u32) -> u32 {
        piece_len(self.length, self.class, piece)
    }

    fn end_of(&self, piece: u32) -> u32 {
        piece * self.class.piece_len() + self.piece_len(piece)
    }
}

fn piece_len(length: u32, class: PieceClass, piece: u32) -> u32 {
    class.piece_len().min(length.saturating_sub(piece * class.piece_len()))
}

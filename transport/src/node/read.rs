//! Answering a read: everything is in the request, nothing is kept.

use std::{ops::Range, time::Instant};

use xdpfs_wire::payload::Tail;
use xdpfs_wire::{Accepted, ChunkId, Flags, HEADER_LEN, Header, Opcode, Status, TargetNode};

use super::reply_header;
use crate::datagram::{self, Peer, Transmit};

/// The last piece of a burst is padded to a full one where that makes the burst longer by no more than one in so many.
const PADDING_SHARE: usize = 3;

/// A range of a chunk to be read and sent.
#[derive(Clone, Copy, Debug)]
pub struct ReadJob {
    /// Where the answer goes.
    pub from: Peer,
    request: Accepted,
    wanted: u64,
    received_at: Instant,
    target: TargetNode,
}

/// How the bytes of an answer are cut into datagrams.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Answer {
    /// Bytes in each datagram of the batch but its last.
    pub segment_size: usize,
    /// Bytes of the batch; what lies behind it is one more datagram.
    pub batch_len: usize,
    /// Whether the reader asks for each datagram by itself: its path takes no super-packets.
    pub one_by_one: bool,
}

impl Answer {
    /// How the bytes that were laid out go to the reader: the batch, and the datagram behind it if there is one.
    #[must_use]
    pub fn transmits(self, to: Peer, bytes: &[u8]) -> [Option<(Transmit, &[u8])>; 2] {
        let (batch, rest) = bytes.split_at(self.batch_len.min(bytes.len()));
        let segment_size = (self.segment_size < batch.len()).then_some(self.segment_size);
        let batch = (Transmit { one_by_one: self.one_by_one, ..Transmit::to(to, segment_size) }, batch);
        [Some(batch), (!rest.is_empty()).then_some((Transmit::to(to, None), rest))]
    }
}

/// Bytes of a chunk that were read.
pub trait ReadBytes {
    /// Those from `offset` of the chunk on, which are among them. If they don't lie together, they are laid into `scratch`.
    fn bytes<'a>(&'a self, offset: u32, length: usize, scratch: &'a mut Vec<u8>) -> &'a [u8];
}

impl ReadJob {
    pub(super) fn new(
        received_at: Instant,
        from: Peer,
        request: Accepted,
        wanted: u64,
        target: TargetNode,
    ) -> Self {
        Self { from, request, wanted, received_at, target }
    }

    /// The chunk to read.
    #[must_use]
    pub fn chunk(&self) -> ChunkId {
        self.request.header.chunk
    }

    /// The bytes of the chunk to read.
    ///
    /// # Errors
    /// The status to answer if nothing is asked for.
    pub fn range(&self) -> Result<Range<u32>, Status> {
        let Range { start, end } = self.pieces();
        if start >= end {
            return Err(Status::Invalid);
        }
        let (asked, piece_len) = (&self.request.header, self.piece_len());
        Ok(asked.offset + start * piece_len..asked.offset + asked.length.min(end * piece_len))
    }

    /// Lays the answer into `out`, which is emptied first: the bytes of [`Self::range`], or why they can't be had. `scratch` is
    /// for bytes that don't lie together.
    pub fn answer(
        &self,
        now: impl FnOnce() -> Instant,
        read: Result<&dyn ReadBytes, Status>,
        scratch: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> Answer {
        out.clear();
        let (range, bytes) = match self.range().and_then(|range| Ok((range, read?))) {
            Ok(both) => both,
            Err(status) => return self.refuse(status, out),
        };
        let asked = &self.request.header;
        let piece_len = self.piece_len();
        let segment_size = HEADER_LEN + piece_len as usize;
        let one_by_one = asked.opcode == Opcode::GetBurst && asked.flags.contains(Flags::ONE_BY_ONE);
        let mut sent = 0;
        for piece in self.pieces().filter(|piece| self.wanted >> piece & 1 == 1) {
            let offset = asked.offset + piece * piece_len;
            let length = piece_len.min(range.end - offset);
            self.append(out, Opcode::Data, offset, bytes.bytes(offset, length as usize, scratch));
            sent += 1;
        }
        let padding = out.len().next_multiple_of(segment_size) - out.len();
        if asked.opcode == Opcode::GetBurst && !one_by_one && padding * PADDING_SHARE <= out.len() {
            // Zeros behind the last piece cost less than a system call of its own for the tail.
            out.resize(out.len() + padding, 0);
        }
        let batch_is_even = out.len().is_multiple_of(segment_size);
        let mut batch_len = out.len();
        if asked.opcode == Opcode::GetBurst {
            let service_us = now().saturating_duration_since(self.received_at).as_micros();
            let tail = Tail { service_us: u32::try_from(service_us).unwrap_or(u32::MAX), pieces: sent };
            self.append(out, Opcode::Tail, 0, &tail.encode());
            // A short datagram may only end a segmented batch.
            if batch_is_even {
                batch_len = out.len();
            }
        }
        Answer { segment_size, batch_len, one_by_one }
    }

    /// The pieces from the first to the last that is wanted.
    fn pieces(&self) -> Range<u32> {
        let pieces = self.request.header.length.div_ceil(self.piece_len());
        let first = self.wanted.trailing_zeros().min(pieces);
        first..(u64::BITS - self.wanted.leading_zeros()).min(pieces)
    }

    fn piece_len(&self) -> u32 {
        self.request.header.class.piece_len()
    }

    fn append(&self, out: &mut Vec<u8>, opcode: Opcode, offset: u32, payload: &[u8]) {
        let length = payload.len() as u32;
        let header = self.header(opcode, Status::Ok);
        datagram::append(out, self.request.key, Header { offset, length, ..header }, payload, 0);
    }

    fn refuse(&self, status: Status, out: &mut Vec<u8>) -> Answer {
        let header = self.header(Opcode::Error, status);
        datagram::append(out, self.request.key, Header { length: 0, ..header }, &[], 0);
        Answer { segment_size: out.len(), batch_len: out.len(), one_by_one: false }
    }

    fn header(&self, opcode: Opcode, status: Status) -> Header {
        let TargetNode { node, epoch } = self.target;
        Header { node, node_epoch: epoch, ..reply_header(&self.request.header, opcode, status) }
    }
}

//! Answering a read: everything is in the request, nothing is kept.

use std::time::Instant;

use xdpfs_wire::payload::Tail;
use xdpfs_wire::{Accepted, ChunkId, HEADER_LEN, Header, Opcode, Status, TargetNode};

use super::reply_header;
use crate::datagram::{self, Peer};

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

    /// Reads what is wanted by `read(offset, bytes)` and lays the answer into `out`, which is emptied first;
    /// `scratch` holds the chunk's bytes in between.
    pub fn answer(
        &self,
        now: impl FnOnce() -> Instant,
        read: impl FnOnce(u32, &mut [u8]) -> Result<(), Status>,
        scratch: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> Answer {
        out.clear();
        let asked = &self.request.header;
        let piece_len = asked.class.piece_len();
        let segment_size = HEADER_LEN + piece_len as usize;
        let pieces = asked.length.div_ceil(piece_len);
        let first = self.wanted.trailing_zeros().min(pieces);
        let end = (u64::BITS - self.wanted.leading_zeros()).min(pieces);
        if first >= end {
            return self.refuse(Status::Invalid, out);
        }
        let start = first * piece_len;
        let stop = asked.length.min(end * piece_len);
        scratch.clear();
        scratch.resize((stop - start) as usize, 0);
        if let Err(status) = read(asked.offset + start, scratch) {
            return self.refuse(status, out);
        }
        let mut sent = 0;
        for (i, bytes) in scratch.chunks(piece_len as usize).enumerate() {
            let piece = first + i as u32;
            if self.wanted >> piece & 1 == 1 {
                self.append(out, Opcode::Data, asked.offset + piece * piece_len, bytes);
                sent += 1;
            }
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
        Answer { segment_size, batch_len }
    }

    fn append(&self, out: &mut Vec<u8>, opcode: Opcode, offset: u32, payload: &[u8]) {
        let length = payload.len() as u32;
        let header = self.header(opcode, Status::Ok);
        datagram::append(out, self.request.key, Header { offset, length, ..header }, payload, 0);
    }

    fn refuse(&self, status: Status, out: &mut Vec<u8>) -> Answer {
        let header = self.header(Opcode::Error, status);
        datagram::append(out, self.request.key, Header { length: 0, ..header }, &[], 0);
        Answer { segment_size: out.len(), batch_len: out.len() }
    }

    fn header(&self, opcode: Opcode, status: Status) -> Header {
        let TargetNode { node, epoch } = self.target;
        Header { node, node_epoch: epoch, ..reply_header(&self.request.header, opcode, status) }
    }
}

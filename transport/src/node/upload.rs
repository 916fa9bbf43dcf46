//! One unfinished upload: the bytes that have come, and which pieces they are.

use std::time::Instant;

use bytes::Bytes;
use xdpfs_wire::payload::Sack;
use xdpfs_wire::{Header, PieceClass};

use crate::assembly::Assembly;

/// What an upload was opened with; a request that disagrees belongs to another one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Geometry {
    pub(super) length: u32,
    pub(super) crc: u32,
    pub(super) class: PieceClass,
}

/// What a piece was.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Piece {
    New,
    Known,
    /// It doesn't fit the upload's geometry.
    Misplaced,
}

pub(super) struct Upload {
    geometry: Geometry,
    /// `None` once the bytes are with the store.
    buffer: Option<Assembly>,
    arrived: Vec<bool>,
    arrived_count: u32,
    first_missing: u32,
    last_heard: Instant,
}

impl Upload {
    pub(super) fn open(now: Instant, geometry: Geometry) -> Self {
        let pieces = geometry.length.div_ceil(geometry.class.piece_len());
        Self {
            geometry,
            buffer: Some(Assembly::new(geometry.length)),
            arrived: vec![false; pieces as usize],
            arrived_count: 0,
            first_missing: 0,
            last_heard: now,
        }
    }

    /// An upload whose bytes came all at once.
    pub(super) fn storing(now: Instant, geometry: Geometry) -> Self {
        Self {
            geometry,
            buffer: None,
            arrived: vec![true],
            arrived_count: 1,
            first_missing: 1,
            last_heard: now,
        }
    }

    pub(super) fn geometry(&self) -> Geometry {
        self.geometry
    }

    pub(super) fn is_storing(&self) -> bool {
        self.buffer.is_none()
    }

    pub(super) fn last_heard(&self) -> Instant {
        self.last_heard
    }

    pub(super) fn handle_piece(&mut self, now: Instant, header: &Header, payload: &[u8]) -> Piece {
        self.last_heard = now;
        let len = self.geometry.class.piece_len();
        let piece = header.offset / len;
        let end = self.geometry.length.min(header.offset.saturating_add(len));
        let fits = header.class == self.geometry.class
            && header.offset.is_multiple_of(len)
            && header.offset < self.geometry.length
            && end - header.offset == header.length;
        let arrived = self.arrived.get_mut(piece as usize);
        let (true, Some(arrived)) = (fits, arrived) else { return Piece::Misplaced };
        if *arrived {
            return Piece::Known;
        }
        let (start, end) = (header.offset as usize, end as usize);
        let bytes = payload.get(..end - start);
        if !bytes.zip(self.buffer.as_mut()).is_some_and(|(bytes, buffer)| buffer.place(start, bytes)) {
            return Piece::Misplaced;
        }
        *arrived = true;
        self.arrived_count += 1;
        while self.arrived.get(self.first_missing as usize) == Some(&true) {
            self.first_missing += 1;
        }
        Piece::New
    }

    /// The first missing byte, and what has come behind it.
    pub(super) fn sack(&self, window: u32) -> (u32, Sack) {
        let mut sack = Sack { arrived: [0; 4], pieces: self.arrived_count };
        let behind = self.arrived.iter().skip(self.first_missing as usize).take(window as usize);
        for (i, _) in behind.enumerate().filter(|(_, arrived)| **arrived) {
            sack.note_arrived(i as u32);
        }
        let first_missing = self.first_missing.saturating_mul(self.geometry.class.piece_len());
        (first_missing.min(self.geometry.length), sack)
    }

    /// All bytes, if all have come and nobody has taken them yet.
    pub(super) fn take_complete(&mut self, now: Instant) -> Option<Bytes> {
        self.last_heard = now;
        if self.arrived_count as usize != self.arrived.len() {
            return None;
        }
        self.buffer.take().map(Assembly::freeze)
    }
}

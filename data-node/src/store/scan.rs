//! Walks the records of a segment, and finds the way back to them behind a damaged one.

use std::{io, os::unix::fs::FileExt as _};

use super::{
    format::{Extent, HEADER_LEN, Header, SUPERBLOCK_LEN},
    segment::Segment,
};

/// Bytes fetched at once: many headers of small chunks, little waste between large ones.
const WINDOW_LEN: usize = 16 << 10;

/// What stands at a place of a segment.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Found {
    /// No record, but one follows later.
    Damage,
    /// A record whose header is sound; its data isn't looked at.
    Record(Header, Extent),
    /// No record from here to the end of the file.
    Tail { start: u64 },
}

/// Position in a segment.
#[derive(Debug)]
pub(super) struct Scanner<'a> {
    segment: &'a Segment,
    position: u64,
    end: u64,
    window: Vec<u8>,
    window_start: u64,
}

impl<'a> Scanner<'a> {
    /// All records of `segment`, of which the file holds `end` bytes.
    pub(super) fn new(segment: &'a Segment, end: u64) -> Self {
        Self::resume(segment, SUPERBLOCK_LEN, end)
    }

    /// The records from `position`, where an earlier scan stopped.
    pub(super) fn resume(segment: &'a Segment, position: u64, end: u64) -> Self {
        Self { segment, position, end, window: Vec::new(), window_start: 0 }
    }

    /// Where the next record is expected.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// The next thing in the segment; `None` at its end.
    pub(super) fn next(&mut self) -> io::Result<Option<Found>> {
        if self.position >= self.end {
            return Ok(None);
        }
        if let Some((header, extent)) = self.record_at(self.position)? {
            self.position = extent.end;
            return Ok(Some(Found::Record(header, extent)));
        }
        let start = self.position;
        self.position += HEADER_LEN as u64;
        while self.position < self.end {
            if self.record_at(self.position)?.is_some() {
                return Ok(Some(Found::Damage));
            }
            self.position += HEADER_LEN as u64;
        }
        Ok(Some(Found::Tail { start }))
    }

    fn record_at(&mut self, position: u64) -> io::Result<Option<(Header, Extent)>> {
        let nonce = self.segment.nonce;
        let end = self.end;
        let Some(bytes) = self.bytes_at(position)? else {
            return Ok(None);
        };
        let found = Header::parse(bytes, nonce, position).map(|header| (header, header.extent(position)));
        Ok(found.filter(|(_, extent)| extent.end <= end))
    }

    fn bytes_at(&mut self, position: u64) -> io::Result<Option<&[u8; HEADER_LEN]>> {
        if position + HEADER_LEN as u64 > self.end {
            return Ok(None);
        }
        let window_end = self.window_start + self.window.len() as u64;
        if position < self.window_start || position + HEADER_LEN as u64 > window_end {
            let length = (self.end - position).min(WINDOW_LEN as u64);
            self.window.resize(length as usize, 0);
            self.window_start = position;
            self.segment.file.read_exact_at(&mut self.window, position)?;
        }
        let at = (position - self.window_start) as usize;
        Ok(self.window[at..].first_chunk())
    }
}

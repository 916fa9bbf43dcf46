//! A walk through everything that a store serves, a step at a time: what a read would check, the whole chunk's checksum, and
//! the heads of records, which the next start rests on.
//!
//! Invariant: nothing is written, and no lock is held over a read of the disk. What is found damaged goes out of service just
//! as if a read had found it, and only as long as it is what the store serves.

use std::{
    io,
    sync::{Arc, Weak},
};

use xdpfs_wire::ChunkId;

use super::{
    ReadError, Shared,
    check::is_struck_out,
    checksum::RunningSum,
    format::{Extent, HEADER_LEN, Header, Kind, SUPERBLOCK_LEN},
    index::{Content, Location, SegmentId},
    scan::{Found, Scanner},
    segment::{ChunkExtent, Segment, SegmentError},
};

/// Bytes of chunks that one step reads, but for the end of a record.
const STEP_BYTES_MAX: usize = 1 << 20;
/// Bytes of garbage and of small records that one step passes.
const STEP_PASSED_MAX: u64 = 16 << 20;
/// Records that one step looks at.
const STEP_RECORDS_MAX: u32 = 1024;
/// Chunks looked at under one hold of the index's lock.
const PAGE_CHUNKS_MAX: usize = 4096;

/// One walk. What is written after it has begun is left to the next one; what compaction moves meanwhile, compaction checks.
/// It doesn't keep the store open.
#[derive(Debug)]
pub(crate) struct Scrub {
    shared: Weak<Shared>,
    /// The segment to go on with, or the first one behind it.
    next: SegmentId,
    /// The last one that was there when the walk began.
    last: SegmentId,
    current: Option<Current>,
    buffer: Vec<u8>,
}

/// The segment that is being looked through.
#[derive(Debug)]
struct Current {
    segment: Arc<Segment>,
    position: u64,
    end: u64,
    /// A chunk that is too long for one step.
    reading: Option<Reading>,
}

/// A chunk of which some was read.
#[derive(Debug)]
struct Reading {
    header: Header,
    extent: Extent,
    offset: u32,
    sum: RunningSum,
}

/// What one step did.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct ScrubStep {
    /// Bytes of chunks that were read and checked.
    pub(crate) bytes: u64,
    /// Chunks that were checked to their ends.
    pub(crate) chunks: u64,
    /// Bytes of segments that lie behind the walk now.
    pub(crate) passed_bytes: u64,
    /// Chunks that have gone out of service.
    pub(crate) damaged_chunks: u64,
    /// Damaged places of segments where no chunk in service was: there was garbage, a deletion, or something that was known to
    /// be damaged.
    pub(crate) damaged_places: u64,
    /// Reads that the disk refused. What they were about was not checked.
    pub(crate) read_errors: u64,
    /// The walk has come to its end, or the store is gone.
    pub(crate) is_end: bool,
}

impl Scrub {
    /// From the segment of this number on.
    pub(super) fn new(shared: &Arc<Shared>, from: u32) -> Self {
        let last = shared.index().last_segment().unwrap_or(SegmentId(0));
        let (shared, next) = (Arc::downgrade(shared), SegmentId(from));
        Self { shared, next, last, current: None, buffer: Vec::new() }
    }

    /// The segment that the walk is at. A walk from there on sees all that this one has yet to see.
    pub(crate) const fn segment(&self) -> u32 {
        self.next.0
    }

    /// Bytes of segments that are still before the walk.
    pub(crate) fn bytes_ahead(&self) -> u64 {
        let Some(shared) = self.shared.upgrade() else { return 0 };
        let behind = self.current.as_ref().map_or(0, |current| current.position);
        shared.index().length_of(self.next..=self.last).saturating_sub(behind)
    }

    /// Goes on. Blocks on the disk.
    pub(crate) fn step(&mut self) -> ScrubStep {
        let mut step = ScrubStep::default();
        let Some(shared) = self.shared.upgrade() else {
            return ScrubStep { is_end: true, ..step };
        };
        let current = self.current.take();
        let is_there = |current: &Current| shared.index().segment(current.segment.id).is_some();
        // Compaction may have emptied it meanwhile.
        let current = current.filter(is_there).or_else(|| self.enter(&shared, &mut step));
        let Some(walked) = current else {
            return ScrubStep { is_end: true, ..step };
        };
        self.current = Pass { shared: &shared, step: &mut step, buffer: &mut self.buffer }.walk(walked);
        if self.current.is_none() {
            self.next = SegmentId(self.next.0.saturating_add(1));
        }
        step
    }

    fn enter(&mut self, shared: &Shared, step: &mut ScrubStep) -> Option<Current> {
        let (segment, end) = {
            let index = shared.index();
            let space = index.segment_from(self.next).filter(|space| space.segment.id <= self.last)?;
            (Arc::clone(&space.segment), space.length)
        };
        self.next = segment.id;
        let _ = segment.forget(0..SUPERBLOCK_LEN);
        match segment.check_superblock(shared.node_uuid) {
            Ok(()) => {}
            Err(SegmentError::Io(error)) => note_read_error(&segment, &error, step),
            Err(SegmentError::Damaged | SegmentError::Foreign | SegmentError::Version(_)) => {
                // Its chunks can be read until the store is opened again: they are not what is damaged.
                tracing::error!(
                    segment = segment.id.0,
                    "the head of a segment is damaged: the next start loses it"
                );
                step.damaged_places += 1;
            }
        }
        Some(Current { segment, position: SUPERBLOCK_LEN, end, reading: None })
    }
}

/// One step's work.
struct Pass<'a> {
    shared: &'a Shared,
    step: &'a mut ScrubStep,
    buffer: &'a mut Vec<u8>,
}

impl Pass<'_> {
    /// Gives where to go on in this segment, if it isn't done.
    fn walk(&mut self, mut current: Current) -> Option<Current> {
        let began_at = current.position;
        if let Some(reading) = current.reading.take() {
            current.reading = self.read_on(&current.segment, reading);
            if let Some(reading) = &current.reading {
                let _ = current.segment.forget(reading.extent.start..reading.extent.end);
                return Some(current);
            }
        }
        let segment = Arc::clone(&current.segment);
        let mut scanner = Scanner::resume(&segment, current.position, current.end);
        for _ in 0..STEP_RECORDS_MAX {
            let before = scanner.position();
            let is_enough = self.step.bytes >= STEP_BYTES_MAX as u64 || before - began_at >= STEP_PASSED_MAX;
            if is_enough || current.reading.is_some() {
                break;
            }
            match scanner.next() {
                Ok(None) => return self.leave(&segment, began_at, current.end),
                Ok(Some(Found::Record(header, extent))) => {
                    current.reading = self.begin(&segment, header, extent);
                }
                Ok(Some(Found::Damage | Found::Tail { .. })) => {
                    self.note_damaged_place(&segment, before..scanner.position());
                }
                Err(error) => {
                    // Without the head of this record nobody knows where the next one is.
                    note_read_error(&segment, &error, self.step);
                    return self.leave(&segment, began_at, current.end);
                }
            }
        }
        current.position = scanner.position().min(current.end);
        self.step.passed_bytes += current.position - began_at;
        let _ = segment.forget(began_at..current.position);
        Some(current)
    }

    fn leave(&mut self, segment: &Segment, began_at: u64, end: u64) -> Option<Current> {
        self.step.passed_bytes += end.saturating_sub(began_at);
        let _ = segment.forget(began_at..end);
        None
    }

    /// Gives what is left to read of the record, if its chunk is served from there.
    fn begin(&mut self, segment: &Segment, header: Header, extent: Extent) -> Option<Reading> {
        if header.kind != Kind::Chunk {
            return None;
        }
        let location = self.served(segment, &header, &extent)?;
        if (location.content(), location.sequence) != (content(&header), header.sequence) {
            // A sound head that says something else than the index: what is served is not what stands there.
            self.note_damage(header.chunk, &location);
            return None;
        }
        let _ = segment.forget(extent.start..extent.end);
        self.read_on(segment, Reading { header, extent, offset: 0, sum: RunningSum::default() })
    }

    fn read_on(&mut self, segment: &Segment, mut reading: Reading) -> Option<Reading> {
        let Header { chunk, length, crc, .. } = reading.header;
        let location = self.served(segment, &reading.header, &reading.extent)?;
        let place = ChunkExtent { extent: reading.extent, length };
        let piece = (length - reading.offset).min(STEP_BYTES_MAX as u32);
        self.buffer.resize(piece as usize, 0);
        match segment.read(place, reading.offset, self.buffer) {
            Ok(()) => {}
            Err(ReadError::Failed) => {
                self.step.read_errors += 1;
                return None;
            }
            Err(ReadError::Corrupt | ReadError::NotFound | ReadError::Range) => {
                self.note_damage(chunk, &location);
                return None;
            }
        }
        reading.sum.update(self.buffer);
        reading.offset += piece;
        self.step.bytes += u64::from(piece);
        if reading.offset < length {
            return Some(reading);
        }
        if reading.sum.finish() == crc {
            self.step.chunks += 1;
        } else {
            self.note_damage(chunk, &location);
        }
        None
    }

    /// Where the chunk of the record is served from, if that is this record.
    fn served(&self, segment: &Segment, header: &Header, extent: &Extent) -> Option<Location> {
        let index = self.shared.index();
        let live = index.chunk(header.chunk).copied()?;
        let is_it = live.segment == segment.id && live.start() == extent.start && !live.damaged;
        is_it.then_some(live)
    }

    fn note_damage(&mut self, chunk: ChunkId, location: &Location) {
        if self.shared.note_damage(chunk, location) {
            tracing::warn!(%chunk, segment = location.segment.0, "chunk is damaged on the disk");
            self.step.damaged_chunks += 1;
        }
    }

    /// No record has a sound head there. Chunks whose records begin there would be lost at the next start.
    fn note_damaged_place(&mut self, segment: &Segment, place: std::ops::Range<u64>) {
        let is_struck_out = is_struck_out(segment, place.start).unwrap_or(false);
        if !is_struck_out {
            tracing::warn!(segment = segment.id.0, position = place.start, "damaged record");
        }
        let before = self.step.damaged_chunks;
        let mut from = Some(ChunkId(0));
        // Rare, so the index has no order for it.
        while let Some(first) = from.take() {
            let page: Vec<_> = self.shared.index().locations(first).take(PAGE_CHUNKS_MAX).collect();
            for (chunk, location) in &page {
                if location.segment == segment.id && place.contains(&location.start()) && !location.damaged {
                    self.note_damage(*chunk, location);
                }
            }
            if page.len() == PAGE_CHUNKS_MAX {
                from = page.last().and_then(|(chunk, _)| chunk.0.checked_add(1)).map(ChunkId);
            }
        }
        if self.step.damaged_chunks == before && !is_struck_out {
            self.step.damaged_places += 1;
        }
    }
}

const fn content(header: &Header) -> Content {
    Content { length: header.length, crc: header.crc }
}

fn note_read_error(segment: &Segment, error: &io::Error, step: &mut ScrubStep) {
    tracing::warn!(segment = segment.id.0, %error, "reading a segment failed");
    step.read_errors += 1;
}

const _: () = assert!(STEP_BYTES_MAX.is_multiple_of(super::format::PAGE_LEN));
const _: () = assert!(SUPERBLOCK_LEN.is_multiple_of(HEADER_LEN as u64));

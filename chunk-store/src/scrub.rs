//! A walk through everything that a store serves, a step at a time: what a read would check, the whole chunk's checksum, and
//! what the next start rests on.
//!
//! Invariant: nothing is written, and no lock is held over a read of the disk. What is found damaged goes out of service just
//! as if a read had found it, and only as long as it is what the store serves.

use std::{
    io,
    sync::{Arc, Weak},
};

use xdpfs_wire::ChunkId;

use crate::{
    Shared,
    chunk_map::Location,
    compaction::location_of,
    format::{Descriptor, Kind, SUPERBLOCK_LEN, SegmentId},
    reading::check_record,
    segment::{Head, Segment, read_head},
    span::Span,
};

/// Bytes of chunks that one step reads, but for the end of a record.
const STEP_BYTES_MAX: u64 = 1 << 20;
/// Records that one step looks at.
const STEP_RECORDS_MAX: usize = 1024;

/// One walk. What is written after it has begun is left to the next one; what compaction moves meanwhile, compaction checks.
/// It doesn't keep the store open.
#[derive(Debug)]
pub struct Scrub {
    shared: Weak<Shared>,
    /// The segment to go on with, or the first one behind it.
    next: SegmentId,
    /// The last one that was there when the walk began.
    last: SegmentId,
    current: Option<Current>,
    span: Span,
}

/// The segment that is being looked through.
#[derive(Debug)]
struct Current {
    segment: Weak<Segment>,
    id: SegmentId,
    descriptors: Vec<Descriptor>,
    next: usize,
    position: u64,
    end: u64,
}

/// What one step did.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct ScrubStep {
    /// Bytes of chunks that were read and checked.
    pub bytes: u64,
    /// Chunks that were checked to their ends.
    pub chunks: u64,
    /// Bytes of segments that lie behind the walk now.
    pub passed_bytes: u64,
    /// Chunks that have gone out of service.
    pub damaged_chunks: u64,
    /// Damaged places of segments that no chunk in service rests on until the next start: the head of a segment, its index, or a
    /// batch's.
    pub damaged_places: u64,
    /// Reads that the disk refused. What they were about was not checked.
    pub read_errors: u64,
    /// The walk has come to its end, or the store is gone.
    pub is_end: bool,
}

impl ScrubStep {
    /// What another step did, besides.
    pub const fn add(&mut self, step: Self) {
        self.bytes += step.bytes;
        self.chunks += step.chunks;
        self.passed_bytes += step.passed_bytes;
        self.damaged_chunks += step.damaged_chunks;
        self.damaged_places += step.damaged_places;
        self.read_errors += step.read_errors;
    }
}

impl Scrub {
    /// From the segment of this number on.
    pub(crate) fn new(shared: &Arc<Shared>, from: u32) -> Self {
        let last = shared.index().last_segment().unwrap_or(SegmentId(0));
        let (shared, next) = (Arc::downgrade(shared), SegmentId(from));
        Self { shared, next, last, current: None, span: Span::default() }
    }

    /// The segment that the walk is at. A walk from there on sees all that this one has yet to see.
    #[must_use]
    pub const fn segment(&self) -> u32 {
        self.next.0
    }

    /// Bytes of segments that are still before the walk.
    #[must_use]
    pub fn bytes_ahead(&self) -> u64 {
        let Some(shared) = self.shared.upgrade() else { return 0 };
        let behind = self.current.as_ref().map_or(0, |current| current.position);
        shared.index().length_of(self.next..=self.last).saturating_sub(behind)
    }

    /// Goes on. Blocks on the disk.
    pub fn step(&mut self) -> ScrubStep {
        let mut step = ScrubStep::default();
        let Some(shared) = self.shared.upgrade() else {
            return ScrubStep { is_end: true, ..step };
        };
        if self.current.is_none() {
            self.current = self.enter(&shared, &mut step);
            if self.current.is_none() && self.next > self.last {
                return ScrubStep { is_end: true, ..step };
            }
        }
        let Some(mut current) = self.current.take() else { return step };
        // Compaction may have emptied it meanwhile. In between nothing of it is held, so that its file can be used again.
        let segment = current.segment.upgrade();
        let is_done = segment
            .is_none_or(|segment| self.walk(&shared, &segment, &mut current, &mut step) == Walk::AtTheEnd);
        if is_done {
            step.passed_bytes += current.end.saturating_sub(current.position);
            self.next = SegmentId(current.id.0.saturating_add(1));
        } else {
            self.current = Some(current);
        }
        step
    }

    fn enter(&mut self, shared: &Shared, step: &mut ScrubStep) -> Option<Current> {
        let (segment, end) = {
            let index = shared.index();
            let space = index.segment_from(self.next).filter(|space| space.segment.id <= self.last);
            let Some(space) = space else {
                drop(index);
                self.next = SegmentId(self.last.0.saturating_add(1));
                return None;
            };
            (Arc::clone(&space.segment), space.length)
        };
        self.next = segment.id;
        self.span.forget();
        let _ = segment.file.forget_cached();
        self.check_head(&segment, step);
        match segment.contents() {
            Ok(contents) => {
                let is_whole = contents.damaged.is_empty() && contents.end >= end;
                if !is_whole {
                    tracing::warn!(
                        segment = segment.id.0,
                        places = ?contents.damaged,
                        "a segment no longer tells all that it holds: the next start loses some"
                    );
                    step.damaged_places += contents.damaged.len().max(1) as u64;
                }
                let mut descriptors = contents.descriptors;
                if !is_whole {
                    // The index still knows.
                    descriptors = served_from(shared, segment.id);
                }
                let (id, segment) = (segment.id, Arc::downgrade(&segment));
                Some(Current { segment, id, descriptors, next: 0, position: SUPERBLOCK_LEN, end })
            }
            Err(error) => {
                note_read_error(&segment, &error, step);
                step.passed_bytes += end;
                self.next = SegmentId(segment.id.0.saturating_add(1));
                None
            }
        }
    }

    fn check_head(&self, segment: &Segment, step: &mut ScrubStep) {
        match read_head(&*segment.file) {
            Ok(Head::Ours(head)) if head.segment == segment.id && head.nonce == segment.nonce => {}
            Err(error) => note_read_error(segment, &error, step),
            Ok(_) => {
                // Its chunks can be read until the store is opened again: they are not what is damaged.
                tracing::error!(
                    segment = segment.id.0,
                    "the head of a segment is damaged: the next start loses it"
                );
                step.damaged_places += 1;
            }
        }
    }

    fn walk(
        &mut self,
        shared: &Shared,
        segment: &Segment,
        current: &mut Current,
        step: &mut ScrubStep,
    ) -> Walk {
        let began_at = current.position;
        let mut looked_at = 0;
        while let Some(descriptor) = current.descriptors.get(current.next) {
            if step.bytes >= STEP_BYTES_MAX || looked_at >= STEP_RECORDS_MAX {
                break;
            }
            looked_at += 1;
            current.next += 1;
            if descriptor.kind == Kind::Chunk {
                current.position = current.position.max(location_of(segment.id, descriptor).extent().end);
                self.check(shared, segment, descriptor, step);
            }
        }
        current.position = current.position.min(current.end);
        step.passed_bytes += current.position - began_at;
        if current.next < current.descriptors.len() { Walk::Goes } else { Walk::AtTheEnd }
    }

    fn check(&mut self, shared: &Shared, segment: &Segment, descriptor: &Descriptor, step: &mut ScrubStep) {
        let chunk = descriptor.chunk;
        let place = location_of(segment.id, descriptor);
        let served =
            shared.index().chunk(chunk).copied().filter(|live| live.is_at(&place) && !live.is_damaged());
        let Some(location) = served else { return };
        let extent = location.extent();
        let end = extent.data + u64::from(location.content().length);
        match self.span.bytes(&*segment.file, extent.start, end, extent.start + STEP_BYTES_MAX) {
            Ok(bytes) => match check_record(&location, bytes) {
                Ok((_, data)) => {
                    step.bytes += data.len() as u64;
                    step.chunks += 1;
                }
                Err(_) => note_damage(shared, chunk, &location, step),
            },
            Err(error) => note_read_error(segment, &error, step),
        }
    }
}

/// Where a walk through a segment is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Walk {
    AtTheEnd,
    Goes,
}

/// What the index serves from a segment, in the order of the disk.
fn served_from(shared: &Shared, segment: SegmentId) -> Vec<Descriptor> {
    let index = shared.index();
    let here = index.locations(ChunkId(0)).filter(|(_, location)| location.segment == segment);
    let mut descriptors: Vec<_> = here
        .map(|(chunk, location)| Descriptor {
            kind: Kind::Chunk,
            chunk,
            content: location.content(),
            sequence: 0,
            start_units: location.start_units(),
        })
        .collect();
    drop(index);
    descriptors.sort_unstable_by_key(|descriptor| descriptor.start_units);
    descriptors
}

fn note_damage(shared: &Shared, chunk: ChunkId, location: &Location, step: &mut ScrubStep) {
    if shared.note_damage(chunk, location) {
        tracing::warn!(%chunk, segment = location.segment.0, "chunk is damaged on the disk");
        step.damaged_chunks += 1;
    }
}

fn note_read_error(segment: &Segment, error: &io::Error, step: &mut ScrubStep) {
    tracing::warn!(segment = segment.id.0, %error, "reading a segment failed");
    step.read_errors += 1;
}

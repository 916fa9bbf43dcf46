//! The end of the log: puts records behind the last one and makes them durable together.
//!
//! Invariant: a batch starts only after the one before it is on the disk, and a segment only after the one before it
//! is; recovery tells torn tails from rot by that.

use std::{fs::File, io, mem, sync::Arc, time::Instant};

use bytes::Bytes;
use xdpfs_wire::ChunkId;

use super::{
    Shared,
    format::{Extent, Header, Kind, SUPERBLOCK_LEN},
    index::{Content, Location, SegmentId, Tombstone},
    medium::Medium,
    segment::Segment,
};

/// Disk space is taken in steps of this, so that most batches need no change of the file system's maps.
const ALLOCATION_STEP: u64 = 16 << 20;
/// Small pieces are collected up to this length and written by one call.
const STAGE_LEN_MAX: usize = 256 << 10;

/// A record that has no place yet.
#[derive(Debug)]
pub(super) struct NewRecord {
    pub(super) kind: Kind,
    pub(super) chunk: ChunkId,
    pub(super) content: Content,
    pub(super) sequence: u64,
    pub(super) data: Bytes,
    pub(super) page_crcs: Vec<u32>,
}

/// The place that recovery found for the next record.
#[derive(Debug)]
pub(super) struct Tail {
    /// The segment to go on with, and where.
    pub(super) open: Option<(Arc<Segment>, u64)>,
    pub(super) next_segment: SegmentId,
    /// The highest number used so far.
    pub(super) sequence: u64,
    /// The highest number used so far.
    pub(super) batch: u64,
}

/// Why nothing was appended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum AppendError {
    /// The store is fenced.
    Failed,
    /// The disk is full; the log is as it was.
    NoSpace,
}

/// The segment that takes new records.
#[derive(Debug)]
struct Active {
    segment: Arc<Segment>,
    length: u64,
    /// Disk space is held up to here.
    allocated: u64,
}

/// The log's writing end.
#[derive(Debug)]
pub(super) struct Log {
    shared: Arc<Shared>,
    active: Option<Active>,
    next_segment: SegmentId,
    sequence: u64,
    batch: u64,
}

impl NewRecord {
    /// A deletion of `chunk`.
    pub(super) fn tombstone(chunk: ChunkId, sequence: u64) -> Self {
        let content = Content { length: 0, crc: 0 };
        let data = Bytes::new();
        Self { kind: Kind::Tombstone, chunk, content, sequence, data, page_crcs: Vec::new() }
    }

    fn header(&self, batch: u64) -> Header {
        let Content { length, crc } = self.content;
        Header { kind: self.kind, chunk: self.chunk, length, crc, sequence: self.sequence, batch }
    }

    fn extent(&self, start: u64) -> Extent {
        self.header(0).extent(start)
    }
}

impl Log {
    pub(super) fn new(shared: Arc<Shared>, tail: Tail) -> Self {
        let active = tail.open.map(|(segment, length)| Active { segment, length, allocated: length });
        let Tail { next_segment, sequence, batch, .. } = tail;
        Self { shared, active, next_segment, sequence, batch }
    }

    /// A number higher than any before.
    pub(super) fn next_sequence(&mut self) -> u64 {
        self.sequence += 1;
        self.sequence
    }

    /// The segment that takes new records.
    pub(super) fn active_id(&self) -> Option<SegmentId> {
        self.active.as_ref().map(|active| active.segment.id)
    }

    /// Makes `records` durable together, then visible in the index.
    pub(super) fn append(&mut self, records: &[NewRecord]) -> Result<(), AppendError> {
        if self.shared.is_fenced() {
            return Err(AppendError::Failed);
        }
        self.make_place(records)?;
        let Some(active) = &mut self.active else {
            return Err(AppendError::NoSpace);
        };
        self.batch += 1;
        let shared = &self.shared;
        let starts = match active.write(&*shared.medium, self.batch, records) {
            Ok(starts) => starts,
            Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                return Err(active.take_back(shared, &error));
            }
            Err(error) => return Err(fence(shared, &error)),
        };
        let began = Instant::now();
        shared.medium.sync(&active.segment.file).map_err(|error| fence(shared, &error))?;
        shared.activity.note_sync(began.elapsed());
        active.length = end_of(records, active.length);
        publish(shared, active, records, &starts);
        Ok(())
    }

    /// Closes the active segment and begins the next.
    pub(super) fn roll(&mut self) -> Result<(), AppendError> {
        self.trim()?;
        let shared = &self.shared;
        let created =
            Segment::create(&shared.directory, &*shared.medium, shared.node_uuid, self.next_segment);
        let segment = match created {
            Ok(segment) => Arc::new(segment),
            Err(error) if error.kind() == io::ErrorKind::StorageFull => return Err(AppendError::NoSpace),
            Err(error) => return Err(fence(shared, &error)),
        };
        shared.index_mut().add_segment(Arc::clone(&segment), SUPERBLOCK_LEN);
        self.next_segment = SegmentId(self.next_segment.0 + 1);
        self.active = Some(Active { segment, length: SUPERBLOCK_LEN, allocated: SUPERBLOCK_LEN });
        Ok(())
    }

    /// Gives back disk space that the active segment holds beyond its end.
    pub(super) fn trim(&mut self) -> Result<(), AppendError> {
        let Some(active) = self.active.as_mut().filter(|active| active.allocated > active.length) else {
            return Ok(());
        };
        active.allocated = active.length;
        // Cutting a file at its own length frees the blocks behind it.
        active.segment.file.set_len(active.length).map_err(|error| fence(&self.shared, &error))
    }

    fn make_place(&mut self, records: &[NewRecord]) -> Result<(), AppendError> {
        let limit = self.shared.limits.segment;
        let fits = self
            .active
            .as_ref()
            .is_some_and(|active| active.length == SUPERBLOCK_LEN || end_of(records, active.length) <= limit);
        if !fits {
            self.roll()?;
        }
        match &mut self.active {
            Some(active) => active.allocate(&self.shared, end_of(records, active.length)),
            None => Err(AppendError::NoSpace),
        }
    }
}

impl Active {
    /// Takes disk space up to `end`, and some more if there is plenty.
    fn allocate(&mut self, shared: &Shared, end: u64) -> Result<(), AppendError> {
        if end <= self.allocated {
            return Ok(());
        }
        let generous = end.next_multiple_of(ALLOCATION_STEP).min(shared.limits.segment).max(end);
        for end in [generous, end] {
            match shared.medium.allocate(&self.segment.file, self.allocated, end - self.allocated) {
                Ok(()) => {
                    self.allocated = end;
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::StorageFull => {}
                Err(error) => return Err(fence(shared, &error)),
            }
        }
        Err(AppendError::NoSpace)
    }

    fn write(&self, medium: &dyn Medium, batch: u64, records: &[NewRecord]) -> io::Result<Vec<u64>> {
        let mut stage = Stage::new(medium, &self.segment.file, self.length);
        let mut starts = Vec::with_capacity(records.len());
        for record in records {
            starts.push(stage.position());
            stage.push_record(record, batch, self.segment.nonce)?;
        }
        stage.flush()?;
        Ok(starts)
    }

    /// Undoes a write that ran out of space: nothing of it was promised to anybody.
    fn take_back(&mut self, shared: &Shared, full: &io::Error) -> AppendError {
        tracing::warn!(error = %full, "the disk filled up under a write");
        self.allocated = self.length;
        let cut = self.segment.file.set_len(self.length);
        // Should the next batch go to another segment, nothing else would make the cut durable.
        match cut.and_then(|()| shared.medium.sync(&self.segment.file)) {
            Ok(()) => AppendError::NoSpace,
            Err(error) => fence(shared, &error),
        }
    }
}

/// Collects small pieces, and passes large ones through without a copy.
struct Stage<'a> {
    medium: &'a dyn Medium,
    file: &'a File,
    start: u64,
    bytes: Vec<u8>,
}

impl<'a> Stage<'a> {
    fn new(medium: &'a dyn Medium, file: &'a File, start: u64) -> Self {
        Self { medium, file, start, bytes: Vec::new() }
    }

    fn position(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }

    fn push_record(&mut self, record: &NewRecord, batch: u64, nonce: u64) -> io::Result<()> {
        let start = self.position();
        let extent = record.extent(start);
        self.push(&record.header(batch).encode(nonce, start))?;
        for crc in &record.page_crcs {
            self.push(&crc.to_le_bytes())?;
        }
        self.pad_to(extent.data);
        self.push(&record.data)?;
        self.pad_to(extent.end);
        Ok(())
    }

    fn push(&mut self, piece: &[u8]) -> io::Result<()> {
        if self.bytes.len() + piece.len() <= STAGE_LEN_MAX {
            self.bytes.extend_from_slice(piece);
            return Ok(());
        }
        self.flush()?;
        if piece.len() <= STAGE_LEN_MAX {
            self.bytes.extend_from_slice(piece);
            return Ok(());
        }
        self.medium.write(self.file, piece, self.start)?;
        self.start += piece.len() as u64;
        Ok(())
    }

    fn pad_to(&mut self, position: u64) {
        let missing = (position - self.position()) as usize;
        self.bytes.resize(self.bytes.len() + missing, 0);
    }

    fn flush(&mut self) -> io::Result<()> {
        let bytes = mem::take(&mut self.bytes);
        self.medium.write(self.file, &bytes, self.start)?;
        self.start += bytes.len() as u64;
        self.bytes = bytes;
        self.bytes.clear();
        Ok(())
    }
}

fn end_of(records: &[NewRecord], start: u64) -> u64 {
    records.iter().fold(start, |start, record| record.extent(start).end)
}

fn publish(shared: &Shared, active: &Active, records: &[NewRecord], starts: &[u64]) {
    let segment = active.segment.id;
    let mut index = shared.index_mut();
    index.extend_segment(segment, active.length);
    for (record, start) in records.iter().zip(starts) {
        let NewRecord { kind, chunk, content, sequence, .. } = *record;
        match kind {
            Kind::Chunk => index.apply_chunk(chunk, Location::new(segment, *start, content, sequence)),
            Kind::Tombstone => {
                index.apply_tombstone(chunk, Tombstone { segment, sequence });
                // The chunk that it was to kill may have been refused after it was admitted.
                index.settle(chunk);
            }
        }
    }
}

fn fence(shared: &Shared, error: &io::Error) -> AppendError {
    shared.fence(error);
    AppendError::Failed
}

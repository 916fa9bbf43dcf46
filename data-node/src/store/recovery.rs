//! Rebuilds the index from the segments, and puts right what a crash has left at their end.
//!
//! A batch begins only after all earlier ones are on the disk. So only the last batch of the last segment can be torn:
//! its data is checked here, and what isn't whole at its end is cut. Anything else that is damaged has rotted; it is
//! counted and left out.

use std::{io, os::unix::fs::FileExt as _, sync::Arc};

use xdpfs_wire::ChunkId;

use super::{
    OpenError, ReadError, Recovery,
    append::Tail,
    directory::Directory,
    format::{Extent, HEADER_LEN, Header, Kind, SUPERBLOCK_LEN},
    index::{Content, Index, Location, SegmentId, Tombstone},
    scan::{Found, Scanner},
    segment::{ChunkExtent, Segment, SegmentError},
};

/// A store as it was found.
pub(super) struct Recovered {
    pub(super) index: Index,
    pub(super) tail: Tail,
    pub(super) report: Recovery,
}

struct Rebuild<'a> {
    directory: &'a Directory,
    node_uuid: [u8; 16],
    index: Index,
    report: Recovery,
    sequence: u64,
    batch: u64,
}

/// Reads all segments of `directory`.
pub(super) fn recover(directory: &Directory, node_uuid: [u8; 16]) -> Result<Recovered, OpenError> {
    let io_error = |source| OpenError::Io { directory: directory.path().to_owned(), source };
    let ids = directory.segments().map_err(io_error)?;
    let (index, report) = (Index::default(), Recovery::default());
    let mut rebuild = Rebuild { directory, node_uuid, index, report, sequence: 0, batch: 0 };
    let mut open = None;
    for (place, id) in ids.iter().enumerate() {
        let is_last = place + 1 == ids.len();
        open = rebuild.take_in(*id, is_last)?.filter(|_| is_last);
    }
    rebuild.index.settle_all();
    rebuild.report.chunks = rebuild.index.chunk_count();
    rebuild.report.segments = rebuild.index.segment_count();
    let next_segment = SegmentId(ids.last().map_or(1, |id| id.0 + 1));
    let Rebuild { index, report, sequence, batch, .. } = rebuild;
    Ok(Recovered { index, report, tail: Tail { open, next_segment, sequence, batch } })
}

impl Rebuild<'_> {
    /// Applies a segment's records. Gives the segment and its length, unless it can't be used.
    fn take_in(&mut self, id: SegmentId, is_last: bool) -> Result<Option<(Arc<Segment>, u64)>, OpenError> {
        let path = self.directory.path_of(id);
        match Segment::open(self.directory, self.node_uuid, id) {
            Ok(segment) => {
                self.read(Arc::new(segment), is_last).map(Some).map_err(|error| self.io_error(error))
            }
            Err(SegmentError::Damaged) => {
                self.skip_damaged(id, is_last).map_err(|error| self.io_error(error))?;
                Ok(None)
            }
            Err(SegmentError::Foreign) => Err(OpenError::Foreign { path }),
            Err(SegmentError::Io(error)) => Err(self.io_error(error)),
            Err(SegmentError::Version(version)) => Err(OpenError::Version { path, version }),
        }
    }

    fn read(&mut self, segment: Arc<Segment>, is_last: bool) -> io::Result<(Arc<Segment>, u64)> {
        let length = if is_last { self.mend(&segment)? } else { segment.len()? };
        self.index.add_segment(Arc::clone(&segment), length);
        let mut scanner = Scanner::new(&segment, length);
        while let Some(found) = scanner.next()? {
            match found {
                Found::Record(header, extent) => self.apply(segment.id, &header, &extent),
                Found::Damage | Found::Tail { .. } => self.quarantine(segment.id),
            }
        }
        Ok((segment, length))
    }

    fn apply(&mut self, segment: SegmentId, header: &Header, extent: &Extent) {
        let Header { kind, chunk, length, crc, sequence, batch } = *header;
        self.sequence = self.sequence.max(sequence);
        self.batch = self.batch.max(batch);
        match kind {
            Kind::Chunk => {
                let location = Location::new(segment, extent.start, Content { length, crc }, sequence);
                self.index.apply_chunk(chunk, location);
            }
            Kind::Tombstone => self.index.apply_tombstone(chunk, Tombstone { segment, sequence }),
        }
    }

    /// Makes the end of the last segment sound, and durable as it is now. Gives its length.
    fn mend(&mut self, segment: &Segment) -> io::Result<u64> {
        // What a killed process had written but not synced gets onto the disk; what a failed sync has left in the
        // cache only is shown for what it is.
        segment.file.sync_data()?;
        segment.drop_cache()?;
        let length = segment.len()?;
        let sound = self.neutralise_last_batch(segment, LastBatch::find(segment, length)?)?;
        if sound < length {
            tracing::info!(segment = segment.id.0, bytes = length - sound, "torn tail cut");
            self.report.torn_bytes += length - sound;
            segment.file.set_len(sound)?;
        }
        segment.file.sync_all()?;
        Ok(sound)
    }

    /// Gives the end of the last sound record. Unsound ones before it lose their headers, since nothing would check
    /// their data again once another batch has followed.
    fn neutralise_last_batch(&mut self, segment: &Segment, batch: LastBatch) -> io::Result<u64> {
        let mut sound_end = batch.start;
        let mut unsound = Vec::new();
        for record in &batch.records {
            match record.check(segment)? {
                true => sound_end = record.extent.end,
                false => unsound.push(record),
            }
        }
        for record in unsound.iter().filter(|record| record.extent.start < sound_end) {
            tracing::warn!(segment = segment.id.0, chunk = %record.chunk, "chunk of the last batch is damaged");
            segment.file.write_all_at(&[0; HEADER_LEN], record.extent.start)?;
        }
        Ok(sound_end)
    }

    /// A segment whose beginning is damaged. If a crash interrupted its making, it never held anything.
    fn skip_damaged(&mut self, id: SegmentId, is_last: bool) -> io::Result<()> {
        let length = self.directory.path_of(id).metadata()?.len();
        if is_last && length <= SUPERBLOCK_LEN {
            self.report.torn_bytes += length;
            return self.directory.remove(id);
        }
        tracing::error!(segment = id.0, "segment can't be read");
        self.report.unreadable_segments += 1;
        Ok(())
    }

    fn quarantine(&mut self, segment: SegmentId) {
        tracing::warn!(segment = segment.0, "damaged record");
        self.report.quarantined += 1;
    }

    fn io_error(&self, source: io::Error) -> OpenError {
        OpenError::Io { directory: self.directory.path().to_owned(), source }
    }
}

/// The records with the highest batch number of a segment.
pub(super) struct LastBatch {
    /// Where the record before them ends.
    start: u64,
    records: Vec<Unchecked>,
}

/// A record whose header is sound.
struct Unchecked {
    kind: Kind,
    chunk: ChunkId,
    length: u32,
    extent: Extent,
}

impl LastBatch {
    pub(super) fn find(segment: &Segment, length: u64) -> io::Result<Self> {
        let mut scanner = Scanner::new(segment, length);
        let mut last = Self { start: SUPERBLOCK_LEN, records: Vec::new() };
        let mut number = 0;
        let mut end = SUPERBLOCK_LEN;
        while let Some(found) = scanner.next()? {
            if let Found::Record(Header { kind, chunk, length, batch, .. }, extent) = found {
                if batch > number {
                    number = batch;
                    last = Self { start: end, records: Vec::new() };
                }
                last.records.push(Unchecked { kind, chunk, length, extent });
                end = extent.end;
            }
        }
        Ok(last)
    }

    /// Where the last sound record of it ends.
    pub(super) fn sound_end(&self, segment: &Segment) -> io::Result<u64> {
        let mut end = self.start;
        for record in &self.records {
            if record.check(segment)? {
                end = record.extent.end;
            }
        }
        Ok(end)
    }
}

impl Unchecked {
    fn check(&self, segment: &Segment) -> io::Result<bool> {
        let chunk = ChunkExtent { extent: self.extent, length: self.length };
        match self.kind {
            Kind::Tombstone => Ok(true),
            Kind::Chunk => match segment.read_whole(chunk) {
                Ok(_) => Ok(true),
                Err(ReadError::Failed) => Err(io::Error::other("the last batch can't be read")),
                Err(ReadError::Corrupt | ReadError::NotFound | ReadError::Range) => Ok(false),
            },
        }
    }
}

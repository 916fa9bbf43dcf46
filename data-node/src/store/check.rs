//! A store that is not in use, read to the last byte.
//!
//! Invariant: nothing is written, and nothing is put right. What the next start would make of the store is what is told.

use std::{
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use thiserror::Error;
use uuid::Uuid;
use xdpfs_wire::ChunkId;

use super::{
    ReadError,
    checksum::RunningSum,
    directory::Directory,
    format::{Extent, HEADER_LEN, Header, Kind, SUPERBLOCK_LEN},
    index::{Content, Index, Location, SegmentId, Tombstone},
    recovery::LastBatch,
    scan::{Found, Scanner},
    segment::{ChunkExtent, Segment, SegmentError},
};

/// Bytes that are read at once.
const PIECE_BYTES: usize = 1 << 20;
/// Findings of one kind that are told one by one.
pub const FINDINGS_MAX: usize = 1000;

/// Why a store can't be looked at.
#[derive(Debug, Error)]
pub enum CheckError {
    /// The directory isn't accessible.
    #[error("{directory} can't be read")]
    Io {
        /// The directory.
        directory: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
}

/// What a store holds, and what is wrong with it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct StoreReport {
    /// Segments that were read.
    pub segments: u64,
    /// Chunks that are there, damaged ones too.
    pub chunks: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes that segments take, garbage included.
    pub used_bytes: u64,
    /// Bytes at the end of the last segment that a crash has left half written. The next start cuts them off; no success was
    /// ever answered for them, unless it is damage that has hit the very last batch.
    pub torn_bytes: u64,
    /// How many chunks are damaged.
    pub damaged_chunks: u64,
    /// Which ones, ascending; the first [`FINDINGS_MAX`].
    pub damaged: Vec<ChunkId>,
    /// How many places have no sound record though there was one.
    pub damaged_places: u64,
    /// Which ones: the segment's number and the position in it; the first [`FINDINGS_MAX`].
    pub places: Vec<(u32, u64)>,
    /// Segments whose head makes no sense, or that are of another node or another format; their files weren't read.
    pub unreadable_segments: Vec<u32>,
    /// Reads that the disk refused.
    pub read_errors: u64,
}

impl StoreReport {
    /// Nothing is wrong with it. A torn tail isn't.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.damaged_chunks == 0
            && self.damaged_places == 0
            && self.unreadable_segments.is_empty()
            && self.read_errors == 0
    }
}

/// Reads all segments in `directory`, which nobody may use meanwhile.
///
/// # Errors
/// See [`CheckError`].
pub(crate) fn check(directory: &Path, node_uuid: Uuid) -> Result<StoreReport, CheckError> {
    let io_error = |source| CheckError::Io { directory: directory.to_owned(), source };
    let directory = Directory::open_existing(directory).map_err(io_error)?;
    let ids = directory.segments().map_err(io_error)?;
    let mut check = Check::new(*node_uuid.as_bytes());
    for (place, id) in ids.iter().enumerate() {
        check.take_in(&directory, *id, place + 1 == ids.len());
    }
    check.index.settle_all();
    check.read_all();
    Ok(check.finish())
}

struct Check {
    node_uuid: [u8; 16],
    index: Index,
    segments: Vec<(Arc<Segment>, u64)>,
    report: StoreReport,
    buffer: Vec<u8>,
}

impl Check {
    fn new(node_uuid: [u8; 16]) -> Self {
        let (index, report) = (Index::default(), StoreReport::default());
        Self { node_uuid, index, segments: Vec::new(), report, buffer: Vec::new() }
    }

    /// The heads of a segment's records.
    fn take_in(&mut self, directory: &Directory, id: SegmentId, is_last: bool) {
        let segment = match Segment::open_read_only(directory, self.node_uuid, id) {
            Ok(segment) => Arc::new(segment),
            Err(error) => return self.note_unreadable(directory, id, is_last, &error),
        };
        let walked = self.walk(&segment, is_last);
        if let Err(error) = walked {
            tracing::warn!(segment = id.0, %error, "reading a segment failed");
            self.report.read_errors += 1;
        }
    }

    fn note_unreadable(&mut self, directory: &Directory, id: SegmentId, is_last: bool, error: &SegmentError) {
        let length = directory.path_of(id).metadata().map_or(u64::MAX, |metadata| metadata.len());
        match error {
            // A crash in the middle of its making; the next start removes it.
            SegmentError::Damaged if is_last && length <= SUPERBLOCK_LEN => self.report.torn_bytes += length,
            SegmentError::Io(error) => {
                tracing::warn!(segment = id.0, %error, "reading a segment failed");
                self.report.read_errors += 1;
            }
            SegmentError::Damaged | SegmentError::Foreign | SegmentError::Version(_) => {
                self.report.unreadable_segments.push(id.0);
            }
        }
    }

    fn walk(&mut self, segment: &Arc<Segment>, is_last: bool) -> io::Result<()> {
        let length = segment.len()?;
        let sound = if is_last { self.sound_length(segment, length)? } else { length };
        self.report.torn_bytes += length - sound;
        self.report.segments += 1;
        self.report.used_bytes += sound;
        self.index.add_segment(Arc::clone(segment), sound);
        self.segments.push((Arc::clone(segment), sound));
        let mut scanner = Scanner::new(segment, sound);
        loop {
            let position = scanner.position();
            match scanner.next()? {
                None => return Ok(()),
                Some(Found::Record(header, extent)) => self.apply(segment.id, &header, &extent),
                Some(Found::Damage | Found::Tail { .. }) => self.note_place(segment, position)?,
            }
        }
    }

    /// Where the next start would cut the last segment.
    fn sound_length(&mut self, segment: &Segment, length: u64) -> io::Result<u64> {
        let batch = LastBatch::find(segment, length)?;
        batch.sound_end(segment)
    }

    fn apply(&mut self, segment: SegmentId, header: &Header, extent: &Extent) {
        let Header { kind, chunk, length, crc, sequence, .. } = *header;
        match kind {
            Kind::Chunk => {
                let location = Location::new(segment, extent.start, Content { length, crc }, sequence);
                self.index.apply_chunk(chunk, location);
            }
            Kind::Tombstone => self.index.apply_tombstone(chunk, Tombstone { segment, sequence }),
        }
    }

    fn note_place(&mut self, segment: &Segment, position: u64) -> io::Result<()> {
        if is_struck_out(segment, position)? {
            return Ok(());
        }
        self.report.damaged_places += 1;
        if self.report.places.len() < FINDINGS_MAX {
            self.report.places.push((segment.id.0, position));
        }
        Ok(())
    }

    /// The bytes of all chunks, in the order of the disk.
    fn read_all(&mut self) {
        for (segment, length) in std::mem::take(&mut self.segments) {
            let mut scanner = Scanner::new(&segment, length);
            // An error was met before.
            while let Ok(Some(found)) = scanner.next() {
                if let Found::Record(header, extent) = found
                    && self.lives(&segment, &header, &extent)
                {
                    self.read(&segment, &header, extent);
                }
            }
        }
    }

    fn lives(&self, segment: &Segment, header: &Header, extent: &Extent) -> bool {
        let live = self.index.chunk(header.chunk);
        live.is_some_and(|live| live.segment == segment.id && live.start() == extent.start)
    }

    fn read(&mut self, segment: &Segment, header: &Header, extent: Extent) {
        let Header { chunk, length, .. } = *header;
        self.report.chunks += 1;
        self.report.bytes += u64::from(length);
        match read_whole(segment, header, extent, &mut self.buffer) {
            Ok(()) => {}
            Err(ReadError::Failed) => self.report.read_errors += 1,
            Err(ReadError::Corrupt | ReadError::NotFound | ReadError::Range) => {
                self.report.damaged_chunks += 1;
                self.report.damaged.push(chunk);
            }
        }
    }

    fn finish(mut self) -> StoreReport {
        self.report.damaged.sort_unstable();
        self.report.damaged.truncate(FINDINGS_MAX);
        self.report
    }
}

fn read_whole(
    segment: &Segment,
    header: &Header,
    extent: Extent,
    buffer: &mut Vec<u8>,
) -> Result<(), ReadError> {
    let (place, mut sum) = (ChunkExtent { extent, length: header.length }, RunningSum::default());
    let mut offset = 0;
    while offset < header.length {
        let piece = (header.length - offset).min(PIECE_BYTES as u32);
        buffer.resize(piece as usize, 0);
        segment.read(place, offset, buffer)?;
        sum.update(buffer);
        offset += piece;
    }
    if sum.finish() == header.crc { Ok(()) } else { Err(ReadError::Corrupt) }
}

/// Whether an earlier start has taken the head off an unsound record of a last batch (see `recovery`): then it is zero, and what
/// is behind it isn't. Damage comes in larger pieces.
pub(super) fn is_struck_out(segment: &Segment, position: u64) -> io::Result<bool> {
    let mut bytes = [0; HEADER_LEN + 4];
    match segment.file.read_exact_at(&mut bytes, position) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
        Err(error) => return Err(error),
    }
    let (head, behind) = bytes.split_at(HEADER_LEN);
    Ok(head.iter().all(|byte| *byte == 0) && behind.iter().any(|byte| *byte != 0))
}

const _: () = assert!(PIECE_BYTES.is_multiple_of(super::format::PAGE_LEN));

//! A store that is not in use, read to the last byte.
//!
//! Invariant: nothing is written, and nothing is put right. What the next start would make of the store is what is told.

use std::{io, path::Path};

use uuid::Uuid;
use xdpfs_wire::ChunkId;

use crate::{
    OpenError, StoreConfig,
    compaction::location_of,
    format::Kind,
    format1::OldStore,
    index::{Found, Index},
    medium::{Access, DiskMedium, Medium, Slot},
    reading::check_record,
    recovery::{found, read_files},
    segment::{Contents, Segment},
    span::Span,
};

/// Findings of one kind that are told one by one.
pub const FINDINGS_MAX: usize = 1000;
/// Bytes that are read ahead at once.
const PIECE_BYTES: u64 = 1 << 20;

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
    /// Bytes at the end of what was written last that a crash has left half written. The next start cuts them off; no success
    /// was ever answered for them, unless it is damage that has hit the very last batch.
    pub torn_bytes: u64,
    /// How many chunks are damaged.
    pub damaged_chunks: u64,
    /// Which ones, ascending; the first [`FINDINGS_MAX`].
    pub damaged: Vec<ChunkId>,
    /// How many places have no sound batch though there was one.
    pub damaged_places: u64,
    /// Which ones: the segment's number and the position in it; the first [`FINDINGS_MAX`].
    pub places: Vec<(u32, u64)>,
    /// Files whose head makes no sense, by the number in their names; they weren't read.
    pub unreadable_segments: Vec<u32>,
    /// How many of the segments are of the format before this one, which the next start converts.
    pub old_segments: u64,
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
/// As for opening the store.
pub fn check(directory: &Path, node_uuid: Uuid) -> Result<StoreReport, OpenError> {
    let io_error = |source| OpenError::Io { directory: directory.to_owned(), source };
    let medium = DiskMedium::open_existing(directory).map_err(io_error)?;
    let config = StoreConfig::new(directory, node_uuid);
    check_on(&medium, &config)
}

pub(crate) fn check_on(medium: &dyn Medium, config: &StoreConfig) -> Result<StoreReport, OpenError> {
    let io_error = |source| OpenError::Io { directory: config.directory.clone(), source };
    let mut files = read_files(medium, config, Access::ReadOnly)?;
    let mut report = StoreReport {
        torn_bytes: files.unborn.iter().map(|(_, length)| length).sum(),
        unreadable_segments: files.unreadable.iter().map(|slot| slot.0).collect(),
        read_errors: files.read_errors,
        ..StoreReport::default()
    };
    if let Some(torn) = files.take_torn_batch().map_err(io_error)? {
        report.torn_bytes += torn.len;
    }
    let mut records = Vec::new();
    let mut segments = Vec::new();
    for (segment, contents) in &files.segments {
        report.note(segment, contents);
        let descriptors = contents.descriptors.iter();
        records.extend(descriptors.map(|descriptor| Found { segment: segment.id, descriptor: *descriptor }));
        segments.push(found(segment, contents));
    }
    let index = Index::rebuild(segments, records);
    for (segment, contents) in &files.segments {
        report.read(&index, segment, contents);
    }
    report.read_old(medium, &files.old).map_err(io_error)?;
    report.damaged.sort_unstable();
    report.damaged.truncate(FINDINGS_MAX);
    Ok(report)
}

impl StoreReport {
    fn note(&mut self, segment: &Segment, contents: &Contents) {
        self.segments += 1;
        self.used_bytes += contents.end;
        for position in &contents.damaged {
            self.damaged_places += 1;
            if self.places.len() < FINDINGS_MAX {
                self.places.push((segment.id.0, *position));
            }
        }
    }

    fn read_old(&mut self, medium: &dyn Medium, slots: &[Slot]) -> io::Result<()> {
        self.old_segments = slots.len() as u64;
        self.segments += self.old_segments;
        let old = OldStore::read(medium, slots)?;
        for slot in slots {
            self.used_bytes += medium.open(*slot, Access::ReadOnly)?.len()?;
            old.for_each(*slot, |chunk, found| {
                let is_torn = found.is_err() && chunk.is_last;
                self.chunks += u64::from(!is_torn);
                self.bytes += if is_torn { 0 } else { chunk.content.length.into() };
                if found.is_err() && !is_torn {
                    self.damaged_chunks += 1;
                    self.damaged.push(chunk.chunk);
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    /// The bytes of all chunks that live in a segment, in the order of the disk.
    fn read(&mut self, index: &Index, segment: &Segment, contents: &Contents) {
        let mut span = Span::default();
        for descriptor in contents.descriptors.iter().filter(|found| found.kind == Kind::Chunk) {
            let location = location_of(segment.id, descriptor);
            if !index.chunk(descriptor.chunk).is_some_and(|live| live.is_at(&location)) {
                continue;
            }
            let (extent, length) = (location.extent(), descriptor.content.length);
            self.chunks += 1;
            self.bytes += u64::from(length);
            let end = extent.data + u64::from(length);
            match span.bytes(&*segment.file, extent.start, end, extent.start + PIECE_BYTES) {
                Ok(bytes) if check_record(&location, bytes).is_ok() => {}
                Ok(_) => {
                    self.damaged_chunks += 1;
                    self.damaged.push(descriptor.chunk);
                }
                Err(error) => {
                    tracing::warn!(segment = segment.id.0, %error, "reading a segment failed");
                    self.read_errors += 1;
                }
            }
        }
    }
}

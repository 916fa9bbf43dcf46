//! Rebuilds the index from the segments, and puts right what a crash has left at their end.
//!
//! A batch is written only after all earlier ones are on the disk. So only the one with the highest number can be torn: its
//! data is checked here, and if it isn't whole, it is cut off, because no success was ever answered for it. Anything else that
//! is damaged has rotted; it is counted and left out. Sealed segments tell by their index what they hold; only open ones are
//! walked through.

use std::{io, sync::Arc};

use crate::{
    OpenError, Recovery, StoreConfig,
    compaction::location_of,
    format::{Descriptor, Kind, PAGE, SUPERBLOCK_LEN, SegmentId, Superblock, index_len},
    index::{Found, Index, SegmentFound},
    log::{OpenSegment, Tail},
    medium::{Access, Medium, SegmentFile, Slot},
    page_buffer::PageBuffer,
    reading::check_record,
    segment::{Contents, Head, LastBatch, Segment, read_head, write_head},
    slots::{FreeFile, FreeFiles},
    span::Span,
};

/// A store as it was found.
#[derive(Debug)]
pub(crate) struct Recovered {
    pub(crate) index: Index,
    pub(crate) tail: Tail,
    pub(crate) report: Recovery,
    /// Files of the format before this one.
    pub(crate) old: Vec<Slot>,
}

/// Files as they were found.
#[derive(Debug, Default)]
pub(crate) struct Files {
    pub(crate) segments: Vec<(Arc<Segment>, Contents)>,
    pub(crate) free: Vec<FreeFile>,
    pub(crate) old: Vec<Slot>,
    /// Files that a crash left when they were being made.
    pub(crate) unborn: Vec<(Slot, u64)>,
    pub(crate) unreadable: Vec<Slot>,
    pub(crate) read_errors: u64,
    last_segment: SegmentId,
}

/// Reads all segments, and mends what a crash has left.
pub(crate) fn recover(medium: &dyn Medium, config: &StoreConfig) -> Result<Recovered, OpenError> {
    let io_error = |source| OpenError::Io { directory: config.directory.clone(), source };
    let mut files = read_files(medium, config, Access::ReadWrite)?;
    let mut report = Recovery::default();
    mend(medium, &mut files, &mut report).map_err(io_error)?;
    let slots = medium.slots().map_err(io_error)?;
    let next_slot = Slot(slots.last().map_or(1, |slot| slot.0 + 1));
    let mut tail = Tail {
        open: Vec::new(),
        next_segment: SegmentId(files.last_segment.0 + 1),
        next_slot,
        free: FreeFiles::default(),
        sequence: 0,
        batch: 0,
    };
    files.free.into_iter().for_each(|file| tail.free.add(file));
    let mut records = Vec::new();
    let mut segments = Vec::new();
    for (segment, contents) in files.segments {
        let descriptors = &contents.descriptors;
        tail.batch = tail.batch.max(contents.number);
        tail.sequence = descriptors.iter().fold(tail.sequence, |highest, found| highest.max(found.sequence));
        report.quarantined += contents.damaged.len() as u64;
        records.extend(descriptors.iter().map(|found| Found { segment: segment.id, descriptor: *found }));
        segments.push(found(&segment, &contents));
        if !contents.is_sealed {
            let allocated = segment.file.len().map_err(io_error)?.max(contents.end);
            let Contents { descriptors, end, digest, .. } = contents;
            // Of several of one class the last is gone on with.
            tail.open.retain(|open: &OpenSegment| open.segment.class != segment.class);
            // It may be.
            let is_used_again = allocated > end;
            tail.open.push(OpenSegment { segment, end, digest, descriptors, allocated, is_used_again });
        }
    }
    let index = Index::rebuild(segments, records);
    report.chunks = index.chunk_count();
    report.segments = index.segment_count();
    Ok(Recovered { index, tail, report, old: files.old })
}

/// Reads what the files hold, ascending by the numbers of their segments. If they are only looked at, nothing is changed, and
/// what can't be read is no reason to stop.
pub(crate) fn read_files(
    medium: &dyn Medium,
    config: &StoreConfig,
    access: Access,
) -> Result<Files, OpenError> {
    let io_error = |source| OpenError::Io { directory: config.directory.clone(), source };
    let path = |slot: Slot| config.directory.join(format!("{:08x}.segment", slot.0));
    let mut files = Files::default();
    let is_looking = access == Access::ReadOnly;
    for slot in medium.slots().map_err(io_error)? {
        match files.read(medium, config, slot, access) {
            Ok(()) => {}
            Err(NotOurs::Foreign | NotOurs::Version(_)) if is_looking => files.unreadable.push(slot),
            Err(NotOurs::Foreign) => return Err(OpenError::Foreign { path: path(slot) }),
            Err(NotOurs::Version(version)) => return Err(OpenError::Version { path: path(slot), version }),
            Err(NotOurs::Io(error)) if is_looking => {
                tracing::warn!(slot = slot.0, %error, "reading a segment failed");
                files.read_errors += 1;
            }
            Err(NotOurs::Io(error)) => return Err(io_error(error)),
        }
    }
    files.segments.sort_unstable_by_key(|(segment, _)| segment.id);
    Ok(files)
}

/// The segment as the index takes it in.
pub(crate) fn found(segment: &Arc<Segment>, contents: &Contents) -> SegmentFound {
    let sealing = if contents.is_sealed { index_len(contents.descriptors.len()) } else { 0 };
    SegmentFound { segment: Arc::clone(segment), length: contents.end, sealing }
}

/// Why a file is none of the store's.
enum NotOurs {
    Foreign,
    Io(io::Error),
    Version(u32),
}

impl From<io::Error> for NotOurs {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl Files {
    fn read(
        &mut self,
        medium: &dyn Medium,
        config: &StoreConfig,
        slot: Slot,
        access: Access,
    ) -> Result<(), NotOurs> {
        let file = medium.open(slot, access)?;
        let length = file.len()?;
        let is_foreign = |superblock: &Superblock| superblock.node_uuid != *config.node_uuid.as_bytes();
        let mut head = read_head(&*file)?;
        if matches!(&head, Head::Ours(superblock) if is_foreign(superblock)) {
            return Err(NotOurs::Foreign);
        }
        if access == Access::ReadWrite && matches!(head, Head::Ours(_)) {
            // What a killed process had written may be in the kernel's hands only. What it failed to write may be shown by the
            // kernel though it will never be on the disk; that goes for the head as well.
            file.set_len(length)?;
            file.forget_cached()?;
            head = read_head(&*file)?;
        }
        match head {
            Head::Ours(superblock) => self.take_in(slot, &superblock, file, access)?,
            Head::Other(1) => self.old.push(slot),
            Head::Other(version) => return Err(NotOurs::Version(version)),
            Head::Damaged if length <= SUPERBLOCK_LEN => self.unborn.push((slot, length)),
            Head::Damaged => self.unreadable.push(slot),
        }
        Ok(())
    }

    fn take_in(
        &mut self,
        slot: Slot,
        superblock: &Superblock,
        file: Arc<dyn SegmentFile>,
        access: Access,
    ) -> io::Result<()> {
        self.last_segment = self.last_segment.max(superblock.segment);
        let len = file.len()?;
        if superblock.is_free {
            if access == Access::ReadWrite {
                // Should the change to it have been cut off, it must not come to light later what the file was before.
                write_head(&*file, superblock)?;
            }
            self.free.push(FreeFile { slot, file, len });
            return Ok(());
        }
        let segment = Arc::new(Segment::new(slot, superblock, file));
        let contents = segment.contents()?;
        self.segments.push((segment, contents));
        Ok(())
    }

    /// The batch with the highest number, if that is the last one of an open segment: the only one that can be torn.
    fn last_batch(&mut self) -> Option<(&Segment, &mut Contents, LastBatch)> {
        let highest = self.segments.iter().map(|(_, contents)| contents.number).max()?;
        let (segment, contents) =
            self.segments.iter_mut().find(|(_, contents)| contents.number == highest)?;
        let last = contents.last.filter(|last| last.number == highest)?;
        Some((segment, contents, last))
    }

    /// Takes the torn batch out of what was found, if there is one; gives where it lies.
    pub(crate) fn take_torn_batch(&mut self) -> io::Result<Option<Torn>> {
        let Some((segment, contents, last)) = self.last_batch() else { return Ok(None) };
        let whole_before = contents.descriptors.len() - last.descriptors;
        let (_, its) = contents.descriptors.split_at(whole_before);
        if is_whole(segment, its)? {
            return Ok(None);
        }
        let torn = Torn {
            segment: segment.id,
            file: Arc::clone(&segment.file),
            position: last.position,
            len: contents.end - last.position,
        };
        contents.descriptors.truncate(whole_before);
        contents.end = last.position;
        contents.digest = last.previous;
        contents.last = None;
        Ok(Some(torn))
    }
}

/// A batch that was never finished.
#[derive(Debug)]
pub(crate) struct Torn {
    segment: SegmentId,
    file: Arc<dyn SegmentFile>,
    position: u64,
    pub(crate) len: u64,
}

fn mend(medium: &dyn Medium, files: &mut Files, report: &mut Recovery) -> io::Result<()> {
    if let Some(torn) = files.take_torn_batch()? {
        tracing::info!(segment = torn.segment.0, bytes = torn.len, "torn batch cut");
        report.torn_bytes += torn.len;
        // Nobody will look at its data again once another batch has followed.
        torn.file.write_durably(&PageBuffer::new(1), torn.position)?;
    }
    for (slot, length) in &files.unborn {
        report.torn_bytes += length;
        medium.remove(*slot)?;
    }
    for slot in &files.unreadable {
        tracing::error!(slot = slot.0, "segment can't be read");
        report.unreadable_segments += 1;
    }
    for (segment, contents) in &files.segments {
        for position in &contents.damaged {
            tracing::warn!(segment = segment.id.0, position, "damaged batch");
        }
    }
    Ok(())
}

fn is_whole(segment: &Segment, descriptors: &[Descriptor]) -> io::Result<bool> {
    let mut span = Span::default();
    let length = segment.file.len()?;
    for descriptor in descriptors.iter().filter(|descriptor| descriptor.kind == Kind::Chunk) {
        let location = location_of(segment.id, descriptor);
        let extent = location.extent();
        let end = extent.data + u64::from(descriptor.content.length);
        if end > length.next_multiple_of(PAGE) {
            return Ok(false);
        }
        let bytes = span.bytes(&*segment.file, extent.start, end, length)?;
        if check_record(&location, bytes).is_err() {
            return Ok(false);
        }
    }
    Ok(true)
}

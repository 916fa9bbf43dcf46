//! The writing end of a store: one open segment of each class, batches behind one another.
//!
//! Invariant: a batch is submitted only after the one before it is durable, whatever segment that was in, and a segment begins
//! only after the one before it is sealed; recovery tells torn batches from rot by that.

use std::{io, sync::Arc, time::Instant};

use crate::{
    Limits, Shared,
    batch::{Assembled, NewRecord, Origin, Place, assemble, assemble_index, batch_len},
    chunk_map::Location,
    format::{Class, Descriptor, Kind, SUPERBLOCK_LEN, SegmentId, Superblock, first_digest, index_len},
    index::Tombstone,
    medium::{DurableWriter, SegmentFile, Slot, WriteBuffer},
    page_buffer::{PAGE_LEN, PageBuffer},
    segment::{Segment, write_head},
    slots::{FreeFile, FreeFiles},
};

/// Disk space is taken in steps of this, so that most batches need no change of the file system's maps.
const ALLOCATION_STEP: u64 = 64 << 20;

/// Records of a segment, mostly: those of an open one are kept in memory, for its index.
const RECORDS_MAX: usize = 1 << 16;
/// Bytes by which batches are longer than their cap, mostly.
const BATCH_EXCESS: usize = (4 << 20) + (64 << 10);

/// The place that recovery found for what comes next.
#[derive(Debug)]
pub(crate) struct Tail {
    /// The segments to go on with, at most one of each class.
    pub(crate) open: Vec<OpenSegment>,
    pub(crate) next_segment: SegmentId,
    pub(crate) next_slot: Slot,
    pub(crate) free: FreeFiles,
    /// The highest number used so far.
    pub(crate) sequence: u64,
    /// The highest number used so far.
    pub(crate) batch: u64,
}

/// A segment that takes batches.
#[derive(Debug)]
pub(crate) struct OpenSegment {
    pub(crate) segment: Arc<Segment>,
    /// Where the last durable batch ends.
    pub(crate) end: u64,
    pub(crate) digest: u32,
    /// Of all its records, for its index.
    pub(crate) descriptors: Vec<Descriptor>,
    /// Disk space is held up to here.
    pub(crate) allocated: u64,
    /// What lies beyond the end was written before.
    pub(crate) is_used_again: bool,
}

/// Why nothing was appended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum AppendError {
    /// The store is fenced.
    Failed,
    /// The disk is full; the log is as it was.
    NoSpace,
}

/// A batch that is ready to be written.
#[derive(Debug)]
pub(crate) struct Prepared {
    class: Class,
    records: Vec<NewRecord>,
    assembled: Assembled,
    buffer: WriteBuffer,
    position: u64,
    len: u64,
    number: u64,
}

impl Prepared {
    /// What it is about, if it isn't to be written after all.
    pub(crate) fn into_records(self) -> Vec<NewRecord> {
        self.records
    }
}

/// A batch on its way to the disk.
#[derive(Debug)]
struct Flight {
    class: Class,
    records: Vec<NewRecord>,
    assembled: Assembled,
    position: u64,
    len: u64,
    number: u64,
    began: Instant,
}

/// The log's writing end.
#[derive(Debug)]
pub(crate) struct Log {
    shared: Arc<Shared>,
    writer: Box<dyn DurableWriter>,
    hot: Option<OpenSegment>,
    cold: Option<OpenSegment>,
    flight: Option<Flight>,
    free: FreeFiles,
    next_segment: SegmentId,
    next_slot: Slot,
    sequence: u64,
    /// The number of the last batch that was submitted, or is the next to be.
    batch: u64,
}

impl Log {
    pub(crate) fn new(shared: Arc<Shared>, tail: Tail) -> Self {
        let writer = shared.medium.writer(buffer_pages(&shared.limits));
        let Tail { open, next_segment, next_slot, free, sequence, batch } = tail;
        let mut log = Self {
            shared,
            writer,
            hot: None,
            cold: None,
            flight: None,
            free,
            next_segment,
            next_slot,
            sequence,
            batch,
        };
        for open in open {
            let class = open.segment.class;
            *log.open_mut(class) = Some(open);
        }
        log.note_held();
        log
    }

    /// A number higher than any before.
    pub(crate) fn next_sequence(&mut self) -> u64 {
        self.sequence += 1;
        self.sequence
    }

    /// The segments that take batches.
    pub(crate) fn open_ids(&self) -> Vec<SegmentId> {
        [&self.hot, &self.cold].into_iter().flatten().map(|open| open.segment.id).collect()
    }

    /// The segment that takes batches of this class, and its length.
    pub(crate) fn open_segment(&self, class: Class) -> Option<(SegmentId, u64)> {
        self.open(class).map(|open| (open.segment.id, open.end))
    }

    /// Whether a batch is on its way.
    pub(crate) const fn is_flying(&self) -> bool {
        self.flight.is_some()
    }

    /// Whether the records can be prepared while another batch is on its way.
    pub(crate) fn has_place(&self, class: Class, records: &[NewRecord]) -> bool {
        let (_, end) = self.next_place(class);
        self.open(class).is_some_and(|open| self.fits(open, end, records))
    }

    /// Puts a batch together. Without [`Log::has_place`] none may be on its way.
    pub(crate) fn prepare(
        &mut self,
        class: Class,
        records: Vec<NewRecord>,
    ) -> Result<Prepared, (AppendError, Vec<NewRecord>)> {
        if self.shared.is_fenced() {
            return Err((AppendError::Failed, records));
        }
        if !self.has_place(class, &records)
            && let Err(error) = self.roll_for(class, Purpose::of(class, &records))
        {
            return Err((error, records));
        }
        if let Err(error) = self.hold_place(class, &records) {
            return Err((error, records));
        }
        let (previous, position) = self.next_place(class);
        let len = batch_len(&records, position);
        let number = self.flight.as_ref().map_or(self.batch, |flight| flight.number) + 1;
        let nonce = self.open(class).map_or(0, |open| open.segment.nonce);
        let mut buffer = self.writer.buffer(len as usize);
        let place = Place { nonce, position, number, previous };
        let assembled = assemble(&records, place, &mut buffer[..len as usize]);
        Ok(Prepared { class, records, assembled, buffer, position, len, number })
    }

    /// Has a batch written. None may be on its way.
    pub(crate) fn submit(&mut self, prepared: Prepared) -> Result<(), AppendError> {
        let Prepared { class, records, assembled, buffer, position, len, number } = prepared;
        let Some(open) = self.open(class).filter(|open| open.end == position && !self.shared.is_fenced())
        else {
            return Err(AppendError::Failed);
        };
        let file = Arc::clone(&open.segment.file);
        let began = Instant::now();
        self.batch = number;
        self.writer.begin(&file, buffer, len as usize, position);
        self.flight = Some(Flight { class, records, assembled, position, len, number, began });
        Ok(())
    }

    /// Waits until the batch on its way is durable, and makes it visible in the index. Gives its records, in any case.
    pub(crate) fn finish(&mut self) -> Result<Vec<NewRecord>, (AppendError, Vec<NewRecord>)> {
        let Some(flight) = self.flight.take() else { return Ok(Vec::new()) };
        let (written, buffer) = self.writer.finish();
        drop(buffer);
        match written {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                tracing::warn!(%error, "the disk filled up under a write");
                return Err((self.take_back(&flight), flight.records));
            }
            Err(error) => return Err((fence(&self.shared, &error), flight.records)),
        }
        self.shared.activity.note_sync(flight.began.elapsed(), flight.len);
        let Flight { class, records, assembled, position, len, .. } = flight;
        let shared = Arc::clone(&self.shared);
        if let Some(open) = self.open_mut(class) {
            open.end = position + len;
            open.digest = assembled.digest;
            publish(&shared, open, &records, &assembled.descriptors);
            open.descriptors.extend(assembled.descriptors);
        }
        self.note_held();
        Ok(records)
    }

    /// Cuts off a batch that found no space. Nothing of it was promised to anybody, and somebody may be told that it isn't there.
    fn take_back(&mut self, flight: &Flight) -> AppendError {
        let shared = Arc::clone(&self.shared);
        let Some(open) = self.open_mut(flight.class) else { return AppendError::NoSpace };
        match open.segment.file.set_len(flight.position) {
            Ok(()) => {
                (open.allocated, open.is_used_again) = (flight.position, false);
                self.note_held();
                AppendError::NoSpace
            }
            Err(error) => fence(&shared, &error),
        }
    }

    /// Makes records durable, then visible in the index. No batch may be on its way.
    pub(crate) fn append(&mut self, class: Class, records: Vec<NewRecord>) -> Result<(), AppendError> {
        let prepared = self.prepare(class, records).map_err(|(error, _)| error)?;
        self.submit(prepared)?;
        self.finish().map(drop).map_err(|(error, _)| error)
    }

    /// Closes the open segment of this class, and begins the next. No batch may be on its way.
    pub(crate) fn roll(&mut self, class: Class) -> Result<(), AppendError> {
        self.roll_for(class, Purpose::MakeRoom)
    }

    fn roll_for(&mut self, class: Class, purpose: Purpose) -> Result<(), AppendError> {
        if self.shared.is_fenced() {
            return Err(AppendError::Failed);
        }
        // The next one first: if there is no room for it, what is small still goes into this one.
        let FreeFile { slot, file, len: allocated } = self.take_file(purpose)?;
        let sealed = self.seal(class);
        let superblock = self.superblock(class)?;
        let shared = &self.shared;
        let written = sealed.and_then(|()| match write_head(&*file, &superblock) {
            Err(error) if error.kind() == io::ErrorKind::StorageFull => Err(AppendError::NoSpace),
            other => other.map_err(|error| fence(shared, &error)),
        });
        if let Err(error) = written {
            self.free.add(FreeFile { slot, file, len: allocated });
            return Err(error);
        }
        let segment = Arc::new(Segment::new(slot, &superblock, file));
        shared.index_mut().add_segment(Arc::clone(&segment), SUPERBLOCK_LEN);
        self.next_segment = SegmentId(self.next_segment.0 + 1);
        *self.open_mut(class) = Some(OpenSegment {
            digest: first_digest(segment.nonce),
            segment,
            end: SUPERBLOCK_LEN,
            descriptors: Vec::new(),
            allocated,
            is_used_again: allocated > 0,
        });
        self.note_held();
        Ok(())
    }

    /// The file of a segment that nothing lives in may be used again once this returns and its last reader is done.
    pub(crate) fn free(&mut self, id: SegmentId) -> Result<(), AppendError> {
        let shared = Arc::clone(&self.shared);
        if shared.is_fenced() {
            return Err(AppendError::Failed);
        }
        let Some(segment) = shared.index().segment(id).cloned() else { return Ok(()) };
        let Segment { nonce, class, .. } = *segment;
        let superblock = Superblock { node_uuid: shared.node_uuid, segment: id, nonce, class, is_free: true };
        let len = segment.file.len().map_err(|error| fence(&shared, &error))?;
        write_head(&*segment.file, &superblock).map_err(|error| fence(&shared, &error))?;
        drop(segment);
        if let Some(segment) = shared.index_mut().remove_segment(id) {
            self.free.retire(segment, len);
        }
        self.note_held();
        self.trim_free();
        Ok(())
    }

    /// Gives back disk space that open segments hold beyond their ends, once the store closes. What was written before stays: it
    /// is worth more than its space.
    pub(crate) fn trim(&mut self) -> io::Result<()> {
        if self.shared.is_fenced() {
            return Ok(());
        }
        for open in [&self.hot, &self.cold].into_iter().flatten().filter(|open| !open.is_used_again) {
            open.segment.file.set_len(open.end)?;
        }
        Ok(())
    }

    /// Where the next batch of this class refers to and stands, once the one on its way is durable.
    fn next_place(&self, class: Class) -> (u32, u64) {
        match (&self.flight, self.open(class)) {
            (Some(flight), Some(_)) if flight.class == class => {
                (flight.assembled.digest, flight.position + flight.len)
            }
            (_, Some(open)) => (open.digest, open.end),
            (_, None) => (0, 0),
        }
    }

    fn fits(&self, open: &OpenSegment, end: u64, records: &[NewRecord]) -> bool {
        let flying = self
            .flight
            .as_ref()
            .filter(|flight| flight.class == open.segment.class)
            .map_or(0, |flight| flight.records.len());
        let descriptors = open.descriptors.len() + flying + records.len();
        let is_short = end + batch_len(records, end) + index_len(descriptors) <= self.shared.limits.segment;
        end == SUPERBLOCK_LEN || is_short && descriptors <= RECORDS_MAX
    }

    /// Has disk space for the records, and for the index that their segment will need at its end. Where there is none left, files
    /// that are held already may do.
    fn hold_place(&mut self, class: Class, records: &[NewRecord]) -> Result<(), AppendError> {
        let wanted = |log: &Self| {
            let (_, position) = log.next_place(class);
            let flying = log.flight.as_ref().map_or(0, |flight| flight.records.len());
            let open = log.open(class).map_or(0, |open| open.descriptors.len());
            position + batch_len(records, position) + index_len(open + flying + records.len())
        };
        let purpose = Purpose::of(class, records);
        match self.allocate(class, wanted(self), purpose) {
            Err(AppendError::NoSpace) if !self.is_flying() && self.free.count() > purpose.files_kept() => {
                self.roll_for(class, purpose)?;
                self.allocate(class, wanted(self), purpose)
            }
            other => other,
        }
    }

    /// Takes disk space up to `end`, and some more if there is plenty.
    fn allocate(&mut self, class: Class, end: u64, purpose: Purpose) -> Result<(), AppendError> {
        let shared = Arc::clone(&self.shared);
        let Some(open) = self.open_mut(class) else { return Err(AppendError::NoSpace) };
        if end <= open.allocated {
            return Ok(());
        }
        let generous = end.next_multiple_of(ALLOCATION_STEP).min(shared.limits.segment).max(end);
        // What makes room may have the reserve, but no more of it than it needs.
        for (end, purpose) in [(generous, Purpose::TakeRoom), (end, purpose)] {
            if !leaves_reserve(&shared, end - open.allocated, purpose) {
                continue;
            }
            match hold(&*open.segment.file, open.allocated, end) {
                Ok(()) => {
                    open.allocated = end;
                    self.note_held();
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::StorageFull => {}
                Err(error) => return Err(fence(&shared, &error)),
            }
        }
        Err(AppendError::NoSpace)
    }

    fn seal(&mut self, class: Class) -> Result<(), AppendError> {
        let Some(open) = self.open(class) else { return Ok(()) };
        let (len, end) = (index_len(open.descriptors.len()), open.end);
        self.allocate(class, end + len, Purpose::MakeRoom)?;
        self.batch += 1;
        let number = self.batch;
        let shared = Arc::clone(&self.shared);
        let Some(open) = self.open_mut(class) else { return Ok(()) };
        let place = Place { nonce: open.segment.nonce, position: end, number, previous: open.digest };
        let mut index = PageBuffer::new(len as usize / PAGE_LEN);
        assemble_index(&open.descriptors, place, &mut index);
        let file = &open.segment.file;
        match file.write_durably(&index, end).and_then(|()| file.set_len(end + len)) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::StorageFull => return Err(AppendError::NoSpace),
            Err(error) => return Err(fence(&shared, &error)),
        }
        shared.index_mut().seal_segment(open.segment.id, len);
        *self.open_mut(class) = None;
        Ok(())
    }

    fn superblock(&self, class: Class) -> Result<Superblock, AppendError> {
        let mut nonce = [0; 8];
        getrandom::fill(&mut nonce).map_err(|error| fence(&self.shared, &io::Error::other(error)))?;
        Ok(Superblock {
            node_uuid: self.shared.node_uuid,
            segment: self.next_segment,
            nonce: u64::from_le_bytes(nonce),
            class,
            is_free: false,
        })
    }

    /// A free file, if there are more than are kept, or else a new one.
    fn take_file(&mut self, purpose: Purpose) -> Result<FreeFile, AppendError> {
        if self.free.count() > purpose.files_kept()
            && let Some(file) = self.free.take(self.shared.limits.segment, purpose.files_kept())
        {
            return Ok(file);
        }
        if !leaves_reserve(&self.shared, SUPERBLOCK_LEN, purpose) {
            return Err(AppendError::NoSpace);
        }
        let slot = self.next_slot;
        let medium = &self.shared.medium;
        let file = match medium.create(slot) {
            Err(error) if error.kind() == io::ErrorKind::StorageFull => return Err(AppendError::NoSpace),
            other => other.map_err(|error| fence(&self.shared, &error))?,
        };
        self.next_slot = Slot(slot.0 + 1);
        match file.allocate(0, SUPERBLOCK_LEN) {
            Ok(()) => Ok(FreeFile { slot, file, len: 0 }),
            Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                // Nothing refers to the file. If even this fails, the next start finds it empty and removes it.
                drop(file);
                let _ = medium.remove(slot);
                Err(AppendError::NoSpace)
            }
            Err(error) => Err(fence(&self.shared, &error)),
        }
    }

    /// Free files are kept for what the store may still take.
    fn trim_free(&mut self) {
        let Limits { capacity, segment, .. } = self.shared.limits;
        while self.free.bytes() > segment
            && self.shared.index().used() + self.free.bytes() > capacity + segment
        {
            let Some(FreeFile { slot, file, .. }) = self.free.take(0, 0) else { break };
            drop(file);
            if let Err(error) = self.shared.medium.remove(slot) {
                tracing::warn!(%error, "a segment that isn't needed can't be removed");
                break;
            }
        }
        self.note_held();
    }

    /// What the store holds and chunks that come in can have.
    fn note_held(&self) {
        let ahead = self.hot.as_ref().map_or(0, |open| open.allocated.saturating_sub(open.end));
        self.shared.note_held(self.free.bytes() - self.free.longest() + ahead);
    }

    const fn open(&self, class: Class) -> Option<&OpenSegment> {
        match class {
            Class::Hot => self.hot.as_ref(),
            Class::Cold => self.cold.as_ref(),
        }
    }

    const fn open_mut(&mut self, class: Class) -> &mut Option<OpenSegment> {
        match class {
            Class::Hot => &mut self.hot,
            Class::Cold => &mut self.cold,
        }
    }
}

/// What a batch is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Purpose {
    /// Deletions, and what compaction copies. They may have all that there is.
    MakeRoom,
    /// Chunks that come in. They leave something to what makes room.
    TakeRoom,
}

impl Purpose {
    fn of(class: Class, records: &[NewRecord]) -> Self {
        let makes_room = class == Class::Cold || records.iter().all(|record| record.kind == Kind::Tombstone);
        if makes_room { Self::MakeRoom } else { Self::TakeRoom }
    }

    /// Free files that stay free.
    const fn files_kept(self) -> usize {
        match self {
            Self::MakeRoom => 0,
            Self::TakeRoom => 1,
        }
    }
}

/// Whether the reserve is still there once so many bytes more are taken from the disk.
fn leaves_reserve(shared: &Shared, bytes: u64, purpose: Purpose) -> bool {
    let reserve = shared.limits.reserve;
    purpose == Purpose::MakeRoom
        || reserve == 0
        || shared.medium.room().is_ok_and(|room| room.available >= reserve.saturating_add(bytes))
}

/// Takes disk space, and makes the file so long: a write that changes no length has nothing to tell the file system.
fn hold(file: &dyn SegmentFile, from: u64, end: u64) -> io::Result<()> {
    file.allocate(from, end - from)?;
    if file.len()? < end { file.set_len(end) } else { Ok(()) }
}

/// A batch that is full, with what it may have too much by one chunk of a usual length.
const fn buffer_pages(limits: &Limits) -> usize {
    (limits.batch_bytes as usize + BATCH_EXCESS).div_ceil(PAGE_LEN)
}

fn publish(shared: &Shared, open: &OpenSegment, records: &[NewRecord], descriptors: &[Descriptor]) {
    let segment = open.segment.id;
    let mut index = shared.index_mut();
    let mut gone = Vec::new();
    index.extend_segment(segment, open.end);
    for (record, descriptor) in records.iter().zip(descriptors) {
        let Descriptor { kind, chunk, content, sequence, start_units } = *descriptor;
        let location = Location::new(segment, start_units, content);
        match (kind, record.origin) {
            (Kind::Chunk, Origin::Caller | Origin::Copy(None)) => index.apply_chunk(chunk, location),
            (Kind::Chunk, Origin::Copy(Some(old))) => index.apply_copy(chunk, old, location),
            (Kind::Tombstone, Origin::Caller) => {
                let was = index.apply_tombstone(chunk, Tombstone { segment, sequence });
                gone.extend(was.map(|location| (chunk, location)));
            }
            (Kind::Tombstone, Origin::Copy(_)) => {
                index.apply_copied_tombstone(chunk, Tombstone { segment, sequence });
            }
        }
    }
    drop(index);
    gone.iter().for_each(|(chunk, location)| shared.forget(*chunk, location));
}

fn fence(shared: &Shared, error: &io::Error) -> AppendError {
    shared.fence(error);
    AppendError::Failed
}

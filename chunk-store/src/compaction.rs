//! Gives back the space of dead records: copies what still lives out of a segment, into one of what has lived long, then frees
//! its file.
//!
//! Invariant: a segment goes only when copies of all that lives in it are durable, and its records stop counting as
//! dead only when it is durably free; until then the tombstones of its chunks are kept elsewhere.

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;

use crate::{
    Shared,
    batch::{NewRecord, Origin},
    chunk_map::Location,
    format::{Class, Descriptor, Kind, SUPERBLOCK_LEN, SegmentId},
    index::{Ratio, Tombstone},
    log::{AppendError, Log},
    reading::check_record,
    segment::Segment,
    span::Span,
};

/// Garbage that makes a segment worth copying at any time.
const GARBAGE_USUAL: Ratio = Ratio { numerator: 3, denominator: 10 };
/// Garbage that makes a segment worth copying when a chunk has been refused for want of room.
const GARBAGE_UNDER_PRESSURE: Ratio = Ratio { numerator: 1, denominator: 8 };
/// Segments' worth of room that is enough to go back to the usual pace.
const ROOM_SEGMENTS: u64 = 2;
/// A segment that is still written to is closed for its garbage from this length on, or from half of the usual length in a small
/// store: below that there is little to gain, and more of it may die yet.
const OPEN_LEN_MIN: u64 = 64 << 20;
/// Bytes copied between two batches of the store's users.
const STEP_BYTES_MAX: u64 = 4 << 20;
/// Records looked at between two batches of the store's users.
const STEP_RECORDS_MAX: usize = 8192;
/// Dead records forgotten under one hold of the index's lock, which readers wait for.
const FORGOTTEN_MAX: usize = 1024;

/// When there is work.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Due {
    /// Not earlier than this: there is a rate.
    At(Instant),
    Never,
    Now,
}

/// Chooses segments and empties them, a step at a time.
#[derive(Debug)]
pub(crate) struct Compactor {
    shared: Arc<Shared>,
    current: Option<Current>,
    /// Something may be worth copying that wasn't at the last look.
    wanted: bool,
    /// A chunk was refused for want of room.
    pressed: bool,
    /// The last copy found no space, and nothing has died since.
    starved: bool,
    /// When what was copied will have taken the time that it may.
    paid_at: Instant,
    span: Span,
}

/// The segment being emptied.
#[derive(Debug)]
struct Current {
    segment: Arc<Segment>,
    descriptors: Vec<Descriptor>,
    next: usize,
}

/// Why a segment can't be emptied.
enum StepError {
    Append(AppendError),
    /// A live record can't be read.
    Unreadable,
}

impl From<AppendError> for StepError {
    fn from(error: AppendError) -> Self {
        Self::Append(error)
    }
}

impl Compactor {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            current: None,
            wanted: true,
            pressed: false,
            starved: false,
            paid_at: Instant::now(),
            span: Span::default(),
        }
    }

    /// Something has died.
    pub(crate) const fn look_again(&mut self) {
        self.wanted = true;
        self.starved = false;
    }

    /// A chunk found no room. Says whether compaction can make some; if so, it is on its way.
    pub(crate) fn make_room(&mut self, log: &Log) -> bool {
        let possible =
            !self.starved && (self.current.is_some() || self.has_victim(log, GARBAGE_UNDER_PRESSURE));
        self.pressed |= possible;
        self.wanted |= possible;
        possible
    }

    /// When there will be something to do.
    pub(crate) fn due(&self, log: &Log) -> Due {
        let has_work = self.current.is_some() || self.wanted && self.has_victim(log, self.garbage());
        match has_work && !self.starved && !self.shared.is_fenced() {
            false => Due::Never,
            true if self.pressed || self.paid_at <= Instant::now() => Due::Now,
            true => Due::At(self.paid_at),
        }
    }

    /// Does a part of the work. No batch may be on its way.
    pub(crate) fn step(&mut self, log: &mut Log) {
        if self.current.is_none() {
            self.choose(log);
        }
        let Some(mut current) = self.current.take() else {
            return;
        };
        let id = current.segment.id;
        match self.advance(&mut current, log) {
            Ok(true) => {}
            Ok(false) => self.current = Some(current),
            Err(StepError::Append(AppendError::Failed)) => {}
            Err(StepError::Append(AppendError::NoSpace)) => {
                tracing::warn!(segment = id.0, "no space to compact into");
                self.starved = true;
                self.wanted = false;
            }
            Err(StepError::Unreadable) => {
                tracing::warn!(segment = id.0, "segment keeps a chunk that can't be read");
                self.shared.index_mut().mark_stuck(id);
            }
        }
    }

    const fn garbage(&self) -> Ratio {
        if self.pressed { GARBAGE_UNDER_PRESSURE } else { GARBAGE_USUAL }
    }

    fn choose(&mut self, log: &mut Log) {
        let garbage = self.garbage();
        if self.victim(log, garbage).is_none() {
            // The garbage may lie in a segment that is still written to.
            for class in [Class::Hot, Class::Cold] {
                if self.is_worth_closing(log, class, garbage) {
                    self.starved |= log.roll(class).is_err();
                }
            }
        }
        let Some(segment) = self.victim(log, garbage) else {
            self.wanted = false;
            self.pressed = false;
            return;
        };
        match segment.contents() {
            Ok(contents) => {
                self.span.forget();
                self.current = Some(Current { segment, descriptors: contents.descriptors, next: 0 });
            }
            Err(error) => {
                tracing::warn!(segment = segment.id.0, %error, "reading a segment failed");
                self.shared.index_mut().mark_stuck(segment.id);
            }
        }
    }

    fn has_victim(&self, log: &Log, garbage: Ratio) -> bool {
        let closing = |class| self.is_worth_closing(log, class, garbage);
        self.victim(log, garbage).is_some() || closing(Class::Hot) || closing(Class::Cold)
    }

    /// Whether an open segment should be closed early.
    fn is_worth_closing(&self, log: &Log, class: Class, garbage: Ratio) -> bool {
        let Some((id, length)) = log.open_segment(class) else { return false };
        let is_long = length >= OPEN_LEN_MIN.min(self.shared.limits.segment / 2);
        let has_some = length > SUPERBLOCK_LEN && (self.pressed || is_long);
        has_some && self.shared.index().exceeds(id, garbage)
    }

    fn victim(&self, log: &Log, garbage: Ratio) -> Option<Arc<Segment>> {
        let index = self.shared.index();
        index.victim(&log.open_ids(), garbage).map(|space| Arc::clone(&space.segment))
    }

    /// Gives whether the segment is done with.
    fn advance(&mut self, current: &mut Current, log: &mut Log) -> Result<bool, StepError> {
        let (records, bytes) = self.collect(current)?;
        if !records.is_empty() {
            let moved = records.iter().map(|record| record.data.len() as u64).sum();
            log.append(Class::Cold, records)?;
            self.shared.activity.note_moved(moved);
            self.pay(bytes);
        }
        if current.next < current.descriptors.len() {
            return Ok(false);
        }
        let id = current.segment.id;
        let emptied = self.shared.index().space(id).is_some_and(|space| space.live == 0);
        if !emptied {
            return Err(StepError::Unreadable);
        }
        self.free(current, log)?;
        Ok(true)
    }

    fn pay(&mut self, bytes: u64) {
        if let Some(rate) = self.shared.limits.compaction_rate {
            let price = Duration::from_secs_f64(bytes as f64 / rate.get() as f64);
            self.paid_at = self.paid_at.max(Instant::now()) + price;
        }
    }

    /// What lives behind `current.next`, as much as one step takes, and what reading it took.
    fn collect(&mut self, current: &mut Current) -> Result<(Vec<NewRecord>, u64), StepError> {
        let (mut records, mut bytes) = (Vec::new(), 0);
        let step_bytes = STEP_BYTES_MAX.min(self.shared.limits.segment / 4);
        let rest = current.descriptors.iter().skip(current.next).take(STEP_RECORDS_MAX);
        let mut looked_at = 0;
        for descriptor in rest {
            if bytes >= step_bytes {
                break;
            }
            looked_at += 1;
            if self.lives(current.segment.id, descriptor) {
                bytes += descriptor.len();
                records.push(copy(&self.shared, &mut self.span, &current.segment, descriptor)?);
            }
        }
        current.next += looked_at;
        Ok((records, bytes))
    }

    fn lives(&self, segment: SegmentId, descriptor: &Descriptor) -> bool {
        let index = self.shared.index();
        match descriptor.kind {
            Kind::Chunk => index
                .chunk(descriptor.chunk)
                .is_some_and(|live| live.is_at(&location_of(segment, descriptor))),
            Kind::Tombstone => {
                index.needs(descriptor.chunk, Tombstone { segment, sequence: descriptor.sequence })
            }
        }
    }

    fn free(&mut self, current: &Current, log: &mut Log) -> Result<(), StepError> {
        log.free(current.segment.id)?;
        tracing::debug!(segment = current.segment.id.0, "segment compacted");
        let is_chunk = |descriptor: &&Descriptor| descriptor.kind == Kind::Chunk;
        let dead: Vec<_> = current.descriptors.iter().filter(is_chunk).collect();
        for some in dead.chunks(FORGOTTEN_MAX) {
            let mut index = self.shared.index_mut();
            some.iter().for_each(|descriptor| index.forget_record(descriptor.chunk));
        }
        self.starved = false;
        // Who was refused has room now; the rest has time.
        self.pressed &= self.shared.usage().free_bytes < ROOM_SEGMENTS * self.shared.limits.segment;
        Ok(())
    }
}

/// Where the chunk of a descriptor lies.
pub(crate) const fn location_of(segment: SegmentId, descriptor: &Descriptor) -> Location {
    Location::new(segment, descriptor.start_units, descriptor.content)
}

fn copy(
    shared: &Shared,
    span: &mut Span,
    segment: &Segment,
    descriptor: &Descriptor,
) -> Result<NewRecord, StepError> {
    let Descriptor { kind, chunk, content, sequence, .. } = *descriptor;
    if kind == Kind::Tombstone {
        return Ok(NewRecord::tombstone(chunk, sequence, Origin::Copy(None)));
    }
    let location = location_of(segment.id, descriptor);
    let extent = location.extent();
    let end = extent.data + u64::from(content.length);
    let read = span.bytes(&*segment.file, extent.start, end, u64::MAX >> 1);
    let bytes = read.map_err(|error: io::Error| {
        tracing::warn!(segment = segment.id.0, %error, "reading a segment failed");
        StepError::Unreadable
    })?;
    let Ok((sums, data)) = check_record(&location, bytes) else {
        tracing::warn!(%chunk, segment = segment.id.0, "chunk is damaged on the disk");
        shared.note_damage(chunk, &location);
        return Err(StepError::Unreadable);
    };
    let (data, page_crcs) = (Bytes::copy_from_slice(data), sums.to_vec());
    Ok(NewRecord { kind, chunk, content, sequence, data, page_crcs, origin: Origin::Copy(Some(location)) })
}

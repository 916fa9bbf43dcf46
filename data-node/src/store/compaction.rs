//! Gives back the space of dead records: copies what still lives out of a segment, then unlinks it.
//!
//! Invariant: a segment goes only when copies of all that lives in it are durable, and its records stop counting as
//! dead only when its name is durably gone; until then the tombstones of its chunks are kept elsewhere.

use std::{io, sync::Arc};

use xdpfs_wire::ChunkId;

use super::{
    ReadError, Shared,
    append::{AppendError, Log, NewRecord},
    format::{Extent, Header, Kind},
    index::{Content, Location, Ratio, SegmentId, Tombstone},
    scan::{Found, Scanner},
    segment::{ChunkExtent, Segment},
};

/// Garbage that makes a segment worth copying at any time.
const GARBAGE_USUAL: Ratio = Ratio { numerator: 1, denominator: 2 };
/// Garbage that makes a segment worth copying when a chunk has been refused for want of room.
const GARBAGE_UNDER_PRESSURE: Ratio = Ratio { numerator: 1, denominator: 8 };
/// A segment that is still written to is closed for its garbage from this length on, or from half of the usual length
/// in a small store: below that there is little to gain.
const ACTIVE_LEN_MIN: u64 = 16 << 20;
/// Bytes copied between two batches of the store's users.
const STEP_BYTES_MAX: u64 = 4 << 20;
/// Records copied between two batches of the store's users.
const STEP_RECORDS_MAX: usize = 4096;

/// Bytes of a segment looked through between two batches of the store's users.
const STEP_SCANNED_MAX: u64 = 32 << 20;
/// Dead records forgotten under one hold of the index's lock, which readers wait for.
const FORGOTTEN_MAX: usize = 1024;

/// Chooses segments and empties them, a step at a time.
#[derive(Debug)]
pub(super) struct Compactor {
    shared: Arc<Shared>,
    current: Option<Current>,
    /// Something may be worth copying that wasn't at the last look.
    due: bool,
    /// A chunk was refused for want of room.
    pressed: bool,
    /// The last copy found no space, and nothing has died since.
    starved: bool,
}

/// The segment being emptied.
#[derive(Clone, Debug)]
struct Current {
    segment: Arc<Segment>,
    position: u64,
    end: u64,
}

/// What one step copies.
struct Step {
    records: Vec<NewRecord>,
    position: u64,
    finished: bool,
}

/// Why a segment can't be emptied.
enum StepError {
    Append(AppendError),
    /// A live record can't be read.
    Unreadable,
}

impl Compactor {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, current: None, due: true, pressed: false, starved: false }
    }

    /// Something has died.
    pub(super) fn look_again(&mut self) {
        self.due = true;
        self.starved = false;
    }

    /// A chunk found no room. Says whether compaction can make some; if so, it is on its way.
    pub(super) fn make_room(&mut self, log: &Log) -> bool {
        let possible =
            !self.starved && (self.current.is_some() || self.has_victim(log, GARBAGE_UNDER_PRESSURE));
        self.pressed |= possible;
        self.due |= possible;
        possible
    }

    /// Chooses a segment if none is chosen; whether there is work.
    pub(super) fn prepare(&mut self, log: &mut Log) -> bool {
        if self.current.is_none() && self.due && !self.shared.is_fenced() {
            self.choose(log);
        }
        self.current.is_some()
    }

    /// Copies some more out of the chosen segment, and unlinks it at its end.
    pub(super) fn step(&mut self, log: &mut Log) {
        let Some(current) = self.current.take() else {
            return;
        };
        let id = current.segment.id;
        match self.advance(current, log) {
            Ok(next) => self.current = next,
            Err(StepError::Append(AppendError::Failed)) => {}
            Err(StepError::Append(AppendError::NoSpace)) => {
                tracing::warn!(segment = id.0, "no space to compact into");
                self.starved = true;
                self.due = false;
            }
            Err(StepError::Unreadable) => {
                tracing::warn!(segment = id.0, "segment keeps a chunk that can't be read");
                self.shared.index_mut().mark_stuck(id);
            }
        }
    }

    fn choose(&mut self, log: &mut Log) {
        let garbage = if self.pressed { GARBAGE_UNDER_PRESSURE } else { GARBAGE_USUAL };
        let len_min = ACTIVE_LEN_MIN.min(self.shared.limits.segment / 2);
        let worth_it = self.pressed || self.active_len(log) >= len_min;
        if worth_it && self.victim(log, garbage).is_none() && self.active_exceeds(log, garbage) {
            // The garbage lies in the segment that is still written to.
            self.starved |= log.roll().is_err();
        }
        self.current = self.victim(log, garbage);
        if self.current.is_none() {
            self.due = false;
            self.pressed = false;
        }
    }

    fn has_victim(&self, log: &Log, garbage: Ratio) -> bool {
        self.victim(log, garbage).is_some() || self.active_exceeds(log, garbage)
    }

    fn active_exceeds(&self, log: &Log, garbage: Ratio) -> bool {
        log.active_id().is_some_and(|active| self.shared.index().exceeds(active, garbage))
    }

    fn active_len(&self, log: &Log) -> u64 {
        let index = self.shared.index();
        log.active_id().and_then(|active| index.space(active)).map_or(0, |space| space.length)
    }

    fn victim(&self, log: &Log, garbage: Ratio) -> Option<Current> {
        let index = self.shared.index();
        let space = index.victim(log.active_id(), garbage)?;
        Some(Current { segment: Arc::clone(&space.segment), position: 0, end: space.length })
    }

    fn advance(&mut self, current: Current, log: &mut Log) -> Result<Option<Current>, StepError> {
        let step = self.collect(&current).map_err(|_| StepError::Unreadable)?;
        if !step.records.is_empty() {
            log.append(&step.records).map_err(StepError::Append)?;
            self.shared.activity.note_moved(&step.records);
        }
        if !step.finished {
            return Ok(Some(Current { position: step.position, ..current }));
        }
        let emptied = self.shared.index().space(current.segment.id).is_some_and(|space| space.live == 0);
        if !emptied {
            return Err(StepError::Unreadable);
        }
        self.remove(&current)?;
        Ok(None)
    }

    /// What lives behind `current.position`, as much as one step takes.
    fn collect(&self, current: &Current) -> Result<Step, ReadError> {
        let segment = &current.segment;
        let mut scanner = match current.position {
            0 => Scanner::new(segment, current.end),
            position => Scanner::resume(segment, position, current.end),
        };
        let mut records = Vec::new();
        let mut bytes = 0;
        let start = scanner.position();
        while bytes < STEP_BYTES_MAX
            && records.len() < STEP_RECORDS_MAX
            && scanner.position() - start < STEP_SCANNED_MAX
        {
            match scanner.next().map_err(unreadable)? {
                None => return Ok(Step { records, position: scanner.position(), finished: true }),
                Some(Found::Damage | Found::Tail { .. }) => {}
                Some(Found::Record(header, extent)) if self.lives(segment.id, &header, &extent) => {
                    bytes += extent.len();
                    records.push(self.copy(segment, &header, extent)?);
                }
                Some(Found::Record(..)) => {}
            }
        }
        Ok(Step { records, position: scanner.position(), finished: false })
    }

    fn copy(&self, segment: &Segment, header: &Header, extent: Extent) -> Result<NewRecord, ReadError> {
        let copied = copy(segment, header, extent);
        if copied.as_ref().is_err_and(|error| *error == ReadError::Corrupt) {
            tracing::warn!(chunk = %header.chunk, segment = segment.id.0, "chunk is damaged on the disk");
            let Header { chunk, length, crc, sequence, .. } = *header;
            let location = Location::new(segment.id, extent.start, Content { length, crc }, sequence);
            self.shared.note_damage(chunk, &location);
        }
        copied
    }

    fn lives(&self, segment: SegmentId, header: &Header, extent: &Extent) -> bool {
        let index = self.shared.index();
        match header.kind {
            Kind::Chunk => index
                .chunk(header.chunk)
                .is_some_and(|live| live.segment == segment && live.start() == extent.start),
            Kind::Tombstone => index.needs(header.chunk, Tombstone { segment, sequence: header.sequence }),
        }
    }

    fn remove(&mut self, current: &Current) -> Result<(), StepError> {
        let id = current.segment.id;
        if let Err(error) = self.shared.directory.remove(id) {
            self.shared.fence(&error);
            return Err(StepError::Append(AppendError::Failed));
        }
        tracing::debug!(segment = id.0, bytes = current.end, "segment compacted");
        self.shared.index_mut().remove_segment(id);
        let mut scanner = Scanner::new(&current.segment, current.end);
        loop {
            let dead = some_chunks(&mut scanner);
            if dead.is_empty() {
                break;
            }
            let mut index = self.shared.index_mut();
            dead.into_iter().for_each(|chunk| index.forget_record(chunk));
        }
        self.starved = false;
        Ok(())
    }
}

fn copy(segment: &Segment, header: &Header, extent: Extent) -> Result<NewRecord, ReadError> {
    let Header { kind, chunk, length, crc, sequence, .. } = *header;
    match kind {
        Kind::Chunk => {
            let (data, page_crcs) = segment.read_whole(ChunkExtent { extent, length })?;
            Ok(NewRecord { kind, chunk, content: Content { length, crc }, sequence, data, page_crcs })
        }
        Kind::Tombstone => Ok(NewRecord::tombstone(chunk, sequence)),
    }
}

/// The chunks of the next records. Should a read fail, some tombstones are kept that nothing needs.
fn some_chunks(scanner: &mut Scanner<'_>) -> Vec<ChunkId> {
    let mut chunks = Vec::new();
    while chunks.len() < FORGOTTEN_MAX
        && let Ok(Some(found)) = scanner.next()
    {
        if let Found::Record(Header { kind: Kind::Chunk, chunk, .. }, _) = found {
            chunks.push(chunk);
        }
    }
    chunks
}

fn unreadable(error: io::Error) -> ReadError {
    tracing::warn!(%error, "reading a segment failed");
    ReadError::Failed
}

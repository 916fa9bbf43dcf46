//! Which chunk lies where, and which segments are worth keeping. Pure: reads and writes no file.
//!
//! Invariant: for every chunk that has records on the disk besides its live one, `shadows` knows how many, and a
//! tombstone counts as live as long as there are any. So whatever order segments are removed in, a deleted chunk
//! never comes back.

use std::{
    collections::{BTreeMap, HashMap},
    ops::RangeInclusive,
    sync::Arc,
};

use xdpfs_wire::ChunkId;

use super::{
    format::{Extent, HEADER_LEN, SUPERBLOCK_LEN},
    segment::{ChunkExtent, Segment},
};

/// A segment of one store, ascending by age.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(super) struct SegmentId(pub(super) u32);

const TOMBSTONE_LEN: u64 = HEADER_LEN as u64;

/// A live chunk on the disk.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Location {
    pub(super) segment: SegmentId,
    /// In units of the record alignment, to keep the index small.
    start_units: u32,
    pub(super) length: u32,
    pub(super) crc: u32,
    pub(super) sequence: u64,
    /// Its bytes have failed their checksum; it is not served, and may be written again.
    pub(super) damaged: bool,
}

/// The sums that identify a chunk's bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Content {
    pub(super) length: u32,
    pub(super) crc: u32,
}

impl Location {
    pub(super) fn new(segment: SegmentId, start: u64, content: Content, sequence: u64) -> Self {
        let start_units = (start / HEADER_LEN as u64) as u32;
        let Content { length, crc } = content;
        Self { segment, start_units, length, crc, sequence, damaged: false }
    }

    pub(super) fn start(&self) -> u64 {
        u64::from(self.start_units) * HEADER_LEN as u64
    }

    pub(super) fn content(&self) -> Content {
        Content { length: self.length, crc: self.crc }
    }

    pub(super) fn chunk_extent(&self) -> ChunkExtent {
        ChunkExtent { extent: Extent::of_chunk(self.start(), self.length), length: self.length }
    }

    fn len(&self) -> u64 {
        self.chunk_extent().extent.len()
    }
}

/// A deletion on the disk.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Tombstone {
    pub(super) segment: SegmentId,
    pub(super) sequence: u64,
}

/// What the disk holds of a chunk besides its live record.
#[derive(Clone, Copy, Debug, Default)]
struct Shadow {
    dead_records: u32,
    tombstone: Option<Tombstone>,
}

/// A segment as the index sees it.
#[derive(Debug)]
pub(super) struct Space {
    pub(super) segment: Arc<Segment>,
    /// Bytes up to the end of the last record.
    pub(super) length: u64,
    /// Bytes of live chunks and of tombstones that are still needed.
    pub(super) live: u64,
    /// A live record of it can't be copied, so it isn't tried again until something in it dies.
    pub(super) stuck: bool,
}

impl Space {
    /// Whether more than `numerator / denominator` of the segment is garbage.
    fn exceeds(&self, garbage: Ratio) -> bool {
        self.garbage() * garbage.denominator > self.length * garbage.numerator
    }

    fn garbage(&self) -> u64 {
        (self.length - SUPERBLOCK_LEN).saturating_sub(self.live)
    }
}

/// A share of a segment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ratio {
    pub(super) numerator: u64,
    pub(super) denominator: u64,
}

/// All that is known of a store's records. A `BTreeMap` holds the chunks, because chunk reports page through them
/// in ascending order while writes go on; a look-up among ten million still takes well under a microsecond, which
/// the disk read behind it hides.
#[derive(Debug, Default)]
pub(super) struct Index {
    chunks: BTreeMap<ChunkId, Location>,
    shadows: HashMap<ChunkId, Shadow>,
    spaces: BTreeMap<SegmentId, Space>,
    used: u64,
    /// How many of `chunks` are damaged.
    damaged: u64,
}

impl Index {
    pub(super) fn chunk(&self, chunk: ChunkId) -> Option<&Location> {
        self.chunks.get(&chunk)
    }

    /// Chunks that can be served, ascending from `from`.
    pub(super) fn chunk_ids(&self, from: ChunkId) -> impl Iterator<Item = ChunkId> {
        self.chunks.range(from..).filter(|(_, location)| !location.damaged).map(|(chunk, _)| *chunk)
    }

    /// All live chunks, damaged ones too, ascending from `from`.
    pub(super) fn locations(&self, from: ChunkId) -> impl Iterator<Item = (ChunkId, Location)> {
        self.chunks.range(from..).map(|(chunk, location)| (*chunk, *location))
    }

    /// How many chunks can be served.
    pub(super) fn chunk_count(&self) -> u64 {
        self.chunks.len() as u64 - self.damaged
    }

    /// Bytes of all segments.
    pub(super) fn used(&self) -> u64 {
        self.used
    }

    pub(super) fn segment(&self, id: SegmentId) -> Option<&Arc<Segment>> {
        self.spaces.get(&id).map(|space| &space.segment)
    }

    pub(super) fn space(&self, id: SegmentId) -> Option<&Space> {
        self.spaces.get(&id)
    }

    /// The first segment that is no older than this one.
    pub(super) fn segment_from(&self, id: SegmentId) -> Option<&Space> {
        self.spaces.range(id..).next().map(|(_, space)| space)
    }

    /// The youngest.
    pub(super) fn last_segment(&self) -> Option<SegmentId> {
        self.spaces.last_key_value().map(|(id, _)| *id)
    }

    /// Bytes of these segments.
    pub(super) fn length_of(&self, ids: RangeInclusive<SegmentId>) -> u64 {
        if ids.is_empty() { 0 } else { self.spaces.range(ids).map(|(_, space)| space.length).sum() }
    }

    pub(super) fn segment_count(&self) -> u64 {
        self.spaces.len() as u64
    }

    /// Takes in a segment whose records are going to be applied.
    pub(super) fn add_segment(&mut self, segment: Arc<Segment>, length: u64) {
        self.used += length;
        self.spaces.insert(segment.id, Space { segment, length, live: 0, stuck: false });
    }

    /// Notes that a segment ends at `length`.
    pub(super) fn extend_segment(&mut self, id: SegmentId, length: u64) {
        if let Some(space) = self.spaces.get_mut(&id) {
            self.used = self.used - space.length + length;
            space.length = length;
        }
    }

    /// Forgets a segment that is off the disk. Its records are the caller's to report by [`Index::forget_record`].
    pub(super) fn remove_segment(&mut self, id: SegmentId) {
        if let Some(space) = self.spaces.remove(&id) {
            self.used -= space.length;
        }
    }

    /// Takes in a chunk's record. The higher sequence wins; between copies of one record, the later applied.
    pub(super) fn apply_chunk(&mut self, chunk: ChunkId, location: Location) {
        let tombstone = self.shadows.get(&chunk).and_then(|shadow| shadow.tombstone);
        let killed = tombstone.is_some_and(|tombstone| tombstone.sequence > location.sequence);
        let outdated = self.chunks.get(&chunk).is_some_and(|live| live.sequence > location.sequence);
        if killed || outdated {
            self.shadows.entry(chunk).or_default().dead_records += 1;
            return;
        }
        self.revive(location.segment, location.len());
        if let Some(old) = self.chunks.insert(chunk, location) {
            self.bury(chunk, old);
        }
    }

    /// Takes in a tombstone. The higher sequence wins; between copies of one record, the later applied.
    pub(super) fn apply_tombstone(&mut self, chunk: ChunkId, tombstone: Tombstone) {
        let shadow = self.shadows.entry(chunk).or_default();
        let old = shadow.tombstone;
        if old.is_some_and(|old| old.sequence > tombstone.sequence) {
            return;
        }
        shadow.tombstone = Some(tombstone);
        self.revive(tombstone.segment, TOMBSTONE_LEN);
        if let Some(old) = old {
            self.kill(old.segment, TOMBSTONE_LEN);
        }
        let killed = self.chunks.get(&chunk).is_some_and(|live| live.sequence < tombstone.sequence);
        if killed && let Some(live) = self.chunks.remove(&chunk) {
            self.bury(chunk, live);
        }
    }

    /// Notes that a dead record of `chunk` is off the disk.
    pub(super) fn forget_record(&mut self, chunk: ChunkId) {
        if let Some(shadow) = self.shadows.get_mut(&chunk) {
            shadow.dead_records = shadow.dead_records.saturating_sub(1);
            self.settle(chunk);
        }
    }

    /// Lets go of tombstones that turned out to have nothing left to kill, once all segments are applied.
    pub(super) fn settle_all(&mut self) {
        let idle: Vec<_> =
            self.shadows.iter().filter(|(_, shadow)| shadow.dead_records == 0).map(|(id, _)| *id).collect();
        for chunk in idle {
            self.settle(chunk);
        }
    }

    /// Whether `tombstone` is the one that keeps records of `chunk` dead.
    pub(super) fn needs(&self, chunk: ChunkId, tombstone: Tombstone) -> bool {
        self.shadows.get(&chunk).is_some_and(|shadow| shadow.tombstone == Some(tombstone))
    }

    /// Marks a chunk whose bytes at `location` failed their checksum. Gives whether it was served until then.
    pub(super) fn mark_damaged(&mut self, chunk: ChunkId, location: &Location) -> bool {
        if let Some(live) = self.chunks.get_mut(&chunk)
            && live.segment == location.segment
            && live.start_units == location.start_units
            && !live.damaged
        {
            self.damaged += 1;
            live.damaged = true;
            return true;
        }
        false
    }

    pub(super) fn mark_stuck(&mut self, id: SegmentId) {
        if let Some(space) = self.spaces.get_mut(&id) {
            space.stuck = true;
        }
    }

    /// The sealed segment with the most to gain from compaction, if one holds more garbage than that.
    pub(super) fn victim(&self, active: Option<SegmentId>, garbage: Ratio) -> Option<&Space> {
        self.spaces
            .values()
            .filter(|space| Some(space.segment.id) != active && !space.stuck)
            .filter(|space| space.live == 0 || space.exceeds(garbage))
            .max_by_key(|space| (space.live == 0, space.garbage()))
    }

    /// Whether a segment holds more garbage than that.
    pub(super) fn exceeds(&self, id: SegmentId, garbage: Ratio) -> bool {
        self.spaces.get(&id).is_some_and(|space| space.exceeds(garbage))
    }

    /// Whether the disk holds more of the chunk than its live record.
    #[cfg(test)]
    pub(super) fn has_shadow(&self, chunk: ChunkId) -> bool {
        self.shadows.contains_key(&chunk)
    }

    fn bury(&mut self, chunk: ChunkId, record: Location) {
        self.damaged -= u64::from(record.damaged);
        self.kill(record.segment, record.len());
        self.shadows.entry(chunk).or_default().dead_records += 1;
    }

    fn revive(&mut self, id: SegmentId, bytes: u64) {
        if let Some(space) = self.spaces.get_mut(&id) {
            space.live += bytes;
        }
    }

    fn kill(&mut self, id: SegmentId, bytes: u64) {
        if let Some(space) = self.spaces.get_mut(&id) {
            space.live = space.live.saturating_sub(bytes);
            space.stuck = false;
        }
    }

    /// Lets go of the chunk's tombstone if it has nothing to kill. Not before all segments are applied.
    pub(super) fn settle(&mut self, chunk: ChunkId) {
        let Some(shadow) = self.shadows.get(&chunk).filter(|shadow| shadow.dead_records == 0) else {
            return;
        };
        if let Some(tombstone) = shadow.tombstone {
            self.kill(tombstone.segment, TOMBSTONE_LEN);
        }
        self.shadows.remove(&chunk);
    }
}

//! Which chunk lies where, and which segments are worth keeping. Pure: reads and writes no file.
//!
//! Invariant: for every chunk that has records on the disk besides its live one, `shadows` knows how many, and a
//! tombstone counts as live as long as there are any. So whatever order segments are freed in, a deleted chunk
//! never comes back.

use std::{
    collections::{BTreeMap, HashMap},
    ops::RangeInclusive,
    sync::Arc,
};

use xdpfs_wire::ChunkId;

use crate::{
    ChunkInfo,
    chunk_map::{ChunkMap, Location},
    format::{Content, DESCRIPTOR_LEN, Descriptor, Kind, SUPERBLOCK_LEN, SegmentId},
    segment::Segment,
};

const TOMBSTONE_LEN: u64 = DESCRIPTOR_LEN as u64;

/// A deletion on the disk.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Tombstone {
    pub(crate) segment: SegmentId,
    pub(crate) sequence: u64,
}

/// What the disk holds of a chunk besides its live record.
#[derive(Clone, Copy, Debug, Default)]
struct Shadow {
    dead_records: u32,
    tombstone: Option<Tombstone>,
}

/// A segment as the index sees it.
#[derive(Debug)]
pub(crate) struct Space {
    pub(crate) segment: Arc<Segment>,
    /// Bytes up to the end of the last batch, or of the file if the segment is sealed.
    pub(crate) length: u64,
    /// Bytes of the index and the footer, which every sealed segment has.
    pub(crate) sealing: u64,
    /// Bytes of live chunks and of tombstones that are still needed, with their descriptors.
    pub(crate) live: u64,
    /// A live record of it can't be copied, so it isn't tried again until something in it dies.
    pub(crate) stuck: bool,
}

impl Space {
    /// Whether more than `numerator / denominator` of the segment is garbage.
    const fn exceeds(&self, garbage: Ratio) -> bool {
        self.garbage() * garbage.denominator > self.length * garbage.numerator
    }

    const fn garbage(&self) -> u64 {
        (self.length - SUPERBLOCK_LEN).saturating_sub(self.sealing + self.live)
    }
}

/// A share of a segment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ratio {
    pub(crate) numerator: u64,
    pub(crate) denominator: u64,
}

/// A segment as it was found on the disk.
#[derive(Debug)]
pub(crate) struct SegmentFound {
    pub(crate) segment: Arc<Segment>,
    pub(crate) length: u64,
    /// Bytes of its index and footer.
    pub(crate) sealing: u64,
}

/// A record as it was found on the disk.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found {
    pub(crate) segment: SegmentId,
    pub(crate) descriptor: Descriptor,
}

/// All that is known of a store's records.
#[derive(Debug, Default)]
pub(crate) struct Index {
    chunks: ChunkMap,
    shadows: HashMap<ChunkId, Shadow>,
    spaces: BTreeMap<SegmentId, Space>,
    used: u64,
    /// How many of `chunks` are damaged.
    damaged: u64,
}

impl Index {
    /// Of everything that is on the disk, in any order. The highest sequence wins; between copies of one record, the one in the
    /// later segment.
    pub(crate) fn rebuild(segments: Vec<SegmentFound>, mut records: Vec<Found>) -> Self {
        let mut index = Self::default();
        for SegmentFound { segment, length, sealing } in segments {
            let id = segment.id;
            index.add_segment(segment, length - sealing);
            index.seal_segment(id, sealing);
        }
        records.sort_unstable_by_key(|found| {
            let Descriptor { chunk, sequence, start_units, .. } = found.descriptor;
            (chunk, sequence, found.segment, start_units)
        });
        let live: Vec<_> = records
            .chunk_by(|one, next| one.descriptor.chunk == next.descriptor.chunk)
            .filter_map(|all| index.settle_history(all))
            .collect();
        index.chunks = ChunkMap::of_ascending(live.into_iter());
        index
    }

    /// Of all records of one chunk, ascending by sequence: what lives, and what must be remembered of the rest.
    fn settle_history(&mut self, records: &[Found]) -> Option<(ChunkId, Location)> {
        let chunk = records.first()?.descriptor.chunk;
        let is = |kind| move |found: &&Found| found.descriptor.kind == kind;
        let tombstone = records.iter().rfind(is(Kind::Tombstone));
        let last = records.iter().rfind(is(Kind::Chunk));
        let killed = tombstone.map_or(0, |tombstone| tombstone.descriptor.sequence);
        let live = last.filter(|last| tombstone.is_none() || last.descriptor.sequence > killed);
        let stored = records.iter().filter(is(Kind::Chunk)).count();
        let dead_records = (stored - usize::from(live.is_some())) as u32;
        if dead_records > 0 {
            let tombstone = tombstone.map(|found| {
                self.revive(found.segment, TOMBSTONE_LEN);
                Tombstone { segment: found.segment, sequence: found.descriptor.sequence }
            });
            self.shadows.insert(chunk, Shadow { dead_records, tombstone });
        }
        let Found { segment, descriptor } = live?;
        self.revive(*segment, descriptor.len());
        Some((chunk, Location::new(*segment, descriptor.start_units, descriptor.content)))
    }

    pub(crate) fn chunk(&self, chunk: ChunkId) -> Option<&Location> {
        self.chunks.get(chunk)
    }

    /// From `chunk` on, ascending; damaged ones, too.
    pub(crate) fn locations(&self, chunk: ChunkId) -> impl Iterator<Item = (ChunkId, Location)> + '_ {
        self.chunks.range(chunk)
    }

    /// Chunks that can be read, from `from` on, ascending.
    pub(crate) fn chunk_ids(&self, from: ChunkId) -> impl Iterator<Item = ChunkId> + '_ {
        self.sound(from).map(|(chunk, _)| chunk)
    }

    /// The same, with what they are.
    pub(crate) fn chunks(&self, from: ChunkId) -> impl Iterator<Item = (ChunkId, ChunkInfo)> + '_ {
        self.sound(from).map(|(chunk, location)| {
            let Content { length, crc } = location.content();
            (chunk, ChunkInfo { length, crc })
        })
    }

    fn sound(&self, from: ChunkId) -> impl Iterator<Item = (ChunkId, Location)> + '_ {
        self.chunks.range(from).filter(|(_, location)| !location.is_damaged())
    }

    /// How many chunks can be read.
    pub(crate) fn chunk_count(&self) -> u64 {
        self.chunks.len() as u64 - self.damaged
    }

    /// Bytes of memory for where chunks lie.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.chunks.memory_bytes()
    }

    /// Bytes that all segments take.
    pub(crate) const fn used(&self) -> u64 {
        self.used
    }

    pub(crate) fn segment(&self, id: SegmentId) -> Option<&Arc<Segment>> {
        self.spaces.get(&id).map(|space| &space.segment)
    }

    pub(crate) fn space(&self, id: SegmentId) -> Option<&Space> {
        self.spaces.get(&id)
    }

    pub(crate) fn segment_from(&self, id: SegmentId) -> Option<&Space> {
        self.spaces.range(id..).next().map(|(_, space)| space)
    }

    pub(crate) fn last_segment(&self) -> Option<SegmentId> {
        self.spaces.last_key_value().map(|(id, _)| *id)
    }

    /// Bytes of the segments with these numbers.
    pub(crate) fn length_of(&self, ids: RangeInclusive<SegmentId>) -> u64 {
        if ids.is_empty() { 0 } else { self.spaces.range(ids).map(|(_, space)| space.length).sum() }
    }

    pub(crate) fn segment_count(&self) -> u64 {
        self.spaces.len() as u64
    }

    pub(crate) fn add_segment(&mut self, segment: Arc<Segment>, length: u64) {
        self.used += length;
        self.spaces.insert(segment.id, Space { segment, length, sealing: 0, live: 0, stuck: false });
    }

    /// Notes that a segment ends at `length`.
    pub(crate) fn extend_segment(&mut self, id: SegmentId, length: u64) {
        if let Some(space) = self.spaces.get_mut(&id) {
            self.used = self.used - space.length + length;
            space.length = length;
        }
    }

    /// Notes that a segment is sealed, and by how many bytes it is longer for that.
    pub(crate) fn seal_segment(&mut self, id: SegmentId, sealing: u64) {
        if let Some(space) = self.spaces.get_mut(&id) {
            self.used += sealing;
            space.length += sealing;
            space.sealing = sealing;
        }
    }

    /// Forgets a segment whose file is free. Its records are the caller's to report by [`Index::forget_record`].
    pub(crate) fn remove_segment(&mut self, id: SegmentId) -> Option<Arc<Segment>> {
        let space = self.spaces.remove(&id)?;
        self.used -= space.length;
        Some(space.segment)
    }

    /// Takes in a chunk that was just written.
    pub(crate) fn apply_chunk(&mut self, chunk: ChunkId, location: Location) {
        self.revive(location.segment, len_of(&location));
        if let Some(old) = self.chunks.insert(chunk, location) {
            self.bury(chunk, old);
        }
    }

    /// Takes in a copy of the live record at `old`.
    pub(crate) fn apply_copy(&mut self, chunk: ChunkId, old: Location, location: Location) {
        if self.chunks.get(chunk).is_some_and(|live| live.is_at(&old)) {
            self.apply_chunk(chunk, location);
        } else {
            self.shadows.entry(chunk).or_default().dead_records += 1;
        }
    }

    /// Takes in a deletion that was just written. Gives where the chunk was.
    pub(crate) fn apply_tombstone(&mut self, chunk: ChunkId, tombstone: Tombstone) -> Option<Location> {
        self.apply_copied_tombstone(chunk, tombstone);
        let live = self.chunks.remove(chunk);
        if let Some(live) = live {
            self.bury(chunk, live);
        }
        // The chunk that it was to kill may have been refused after it was admitted.
        self.settle(chunk);
        live
    }

    /// Takes in a copy of the tombstone that the chunk has. It kills nothing that isn't dead.
    pub(crate) fn apply_copied_tombstone(&mut self, chunk: ChunkId, tombstone: Tombstone) {
        let shadow = self.shadows.entry(chunk).or_default();
        let old = shadow.tombstone.replace(tombstone);
        self.revive(tombstone.segment, TOMBSTONE_LEN);
        if let Some(old) = old {
            self.kill(old.segment, TOMBSTONE_LEN);
        }
    }

    /// Notes that a dead record of `chunk` is off the disk.
    pub(crate) fn forget_record(&mut self, chunk: ChunkId) {
        if let Some(shadow) = self.shadows.get_mut(&chunk) {
            shadow.dead_records = shadow.dead_records.saturating_sub(1);
            self.settle(chunk);
        }
    }

    /// Whether `tombstone` is the one that keeps records of `chunk` dead.
    pub(crate) fn needs(&self, chunk: ChunkId, tombstone: Tombstone) -> bool {
        self.shadows.get(&chunk).is_some_and(|shadow| shadow.tombstone == Some(tombstone))
    }

    /// Marks a chunk whose bytes at `location` failed their checksum. Gives whether it was served until then.
    pub(crate) fn mark_damaged(&mut self, chunk: ChunkId, location: &Location) -> bool {
        match self.chunks.get_mut(chunk) {
            Some(live) if live.is_at(location) && !live.is_damaged() => {
                live.mark_damaged();
                self.damaged += 1;
                true
            }
            _ => false,
        }
    }

    pub(crate) fn mark_stuck(&mut self, id: SegmentId) {
        if let Some(space) = self.spaces.get_mut(&id) {
            space.stuck = true;
        }
    }

    /// The sealed segment with the most to gain from compaction, if one holds more garbage than that.
    pub(crate) fn victim(&self, open: &[SegmentId], garbage: Ratio) -> Option<&Space> {
        self.spaces
            .values()
            .filter(|space| !open.contains(&space.segment.id) && !space.stuck)
            .filter(|space| space.live == 0 || space.exceeds(garbage))
            .max_by_key(|space| (space.live == 0, space.garbage()))
    }

    /// Whether a segment holds more garbage than that.
    pub(crate) fn exceeds(&self, id: SegmentId, garbage: Ratio) -> bool {
        self.spaces.get(&id).is_some_and(|space| space.exceeds(garbage))
    }

    /// Whether the disk holds more of the chunk than its live record.
    #[cfg(test)]
    pub(crate) fn has_shadow(&self, chunk: ChunkId) -> bool {
        self.shadows.contains_key(&chunk)
    }

    fn bury(&mut self, chunk: ChunkId, record: Location) {
        self.damaged -= u64::from(record.is_damaged());
        self.kill(record.segment, len_of(&record));
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

    /// Lets go of the chunk's tombstone if it has nothing to kill.
    fn settle(&mut self, chunk: ChunkId) {
        let Some(shadow) = self.shadows.get(&chunk).filter(|shadow| shadow.dead_records == 0) else {
            return;
        };
        if let Some(tombstone) = shadow.tombstone {
            self.kill(tombstone.segment, TOMBSTONE_LEN);
        }
        self.shadows.remove(&chunk);
    }
}

/// Bytes of the chunk's record, its descriptor included.
fn len_of(location: &Location) -> u64 {
    location.extent().len() + DESCRIPTOR_LEN as u64
}

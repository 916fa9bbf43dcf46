//! Where each chunk lies, in the order of their ids, 32 bytes each and little besides.
//!
//! Invariant: blocks are disjoint and ascend, each begins at or after its key, and the first key is zero.

use std::{collections::BTreeMap, mem};

use xdpfs_wire::ChunkId;

use crate::format::{Content, Extent, SegmentId};

/// Chunks in a block: enough to make what a block costs small, few enough to be moved by an insertion.
const BLOCK_MAX: usize = 128;
/// A block with fewer joins the one before it, if there is room.
const BLOCK_MIN: usize = 32;
/// Blocks grow and shrink by so many.
const GROWTH: usize = 16;
/// In `length_and_mark`.
const DAMAGED: u32 = 1 << 31;

/// A live chunk on the disk.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Location {
    pub(crate) segment: SegmentId,
    start_units: u32,
    length_and_mark: u32,
    crc: u32,
}

impl Location {
    pub(crate) const fn new(segment: SegmentId, start_units: u32, content: Content) -> Self {
        Self { segment, start_units, length_and_mark: content.length, crc: content.crc }
    }

    pub(crate) const fn start_units(&self) -> u32 {
        self.start_units
    }

    pub(crate) const fn content(&self) -> Content {
        Content { length: self.length_and_mark & !DAMAGED, crc: self.crc }
    }

    /// Its bytes have failed their checksum; it is not served, and may be written again.
    pub(crate) const fn is_damaged(&self) -> bool {
        self.length_and_mark & DAMAGED != 0
    }

    pub(crate) const fn mark_damaged(&mut self) {
        self.length_and_mark |= DAMAGED;
    }

    /// Whether both are the same place.
    pub(crate) fn is_at(&self, other: &Self) -> bool {
        (self.segment, self.start_units) == (other.segment, other.start_units)
    }

    pub(crate) const fn extent(&self) -> Extent {
        Extent::of_chunk(self.start_units as u64 * 64, self.content().length)
    }
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    chunk: ChunkId,
    location: Location,
}

/// All chunks of a store.
#[derive(Debug)]
pub(crate) struct ChunkMap {
    blocks: BTreeMap<ChunkId, Vec<Entry>>,
    len: usize,
}

impl Default for ChunkMap {
    fn default() -> Self {
        Self { blocks: BTreeMap::from([(ChunkId(0), Vec::new())]), len: 0 }
    }
}

impl ChunkMap {
    /// Of chunks that ascend.
    pub(crate) fn of_ascending(chunks: impl Iterator<Item = (ChunkId, Location)>) -> Self {
        let mut map = Self::default();
        for (chunk, location) in chunks {
            map.insert(chunk, location);
        }
        map
    }

    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn get(&self, chunk: ChunkId) -> Option<&Location> {
        let (_, block) = self.blocks.range(..=chunk).next_back()?;
        let at = find(block, chunk).ok()?;
        block.get(at).map(|entry| &entry.location)
    }

    pub(crate) fn get_mut(&mut self, chunk: ChunkId) -> Option<&mut Location> {
        let (_, block) = self.blocks.range_mut(..=chunk).next_back()?;
        let at = find(block, chunk).ok()?;
        block.get_mut(at).map(|entry| &mut entry.location)
    }

    /// Gives what the chunk's place was before.
    pub(crate) fn insert(&mut self, chunk: ChunkId, location: Location) -> Option<Location> {
        let (_, block) = self.blocks.range_mut(..=chunk).next_back().expect("there is a block for every id");
        let entry = Entry { chunk, location };
        let at = match find(block, chunk) {
            Ok(at) => return Some(mem::replace(&mut block[at].location, location)),
            Err(at) => at,
        };
        self.len += 1;
        if block.len() < BLOCK_MAX {
            grow(block);
            block.insert(at, entry);
            return None;
        }
        // Ids of new chunks ascend, and then blocks stay full.
        let upper = if at == BLOCK_MAX { Vec::new() } else { block.split_off(BLOCK_MAX / 2) };
        shrink(block);
        let Some(first) = upper.first().map(|first| first.chunk) else {
            self.blocks.insert(chunk, vec![entry]);
            return None;
        };
        self.blocks.insert(first, upper);
        self.len -= 1;
        self.insert(chunk, location)
    }

    pub(crate) fn remove(&mut self, chunk: ChunkId) -> Option<Location> {
        let (key, block) = self.blocks.range_mut(..=chunk).next_back()?;
        let at = find(block, chunk).ok()?;
        let entry = block.remove(at);
        self.len -= 1;
        shrink(block);
        let (key, is_small) = (*key, block.len() < BLOCK_MIN);
        if is_small && key != ChunkId(0) {
            self.join(key);
        }
        Some(entry.location)
    }

    /// From `chunk` on, ascending.
    pub(crate) fn range(&self, chunk: ChunkId) -> impl Iterator<Item = (ChunkId, Location)> + '_ {
        let key = self.blocks.range(..=chunk).next_back().map_or(ChunkId(0), |(key, _)| *key);
        let entries = self.blocks.range(key..).flat_map(|(_, block)| block);
        entries.skip_while(move |entry| entry.chunk < chunk).map(|entry| (entry.chunk, entry.location))
    }

    /// Bytes of memory, without what the allocator adds.
    pub(crate) fn memory_bytes(&self) -> usize {
        let entries: usize = self.blocks.values().map(Vec::capacity).sum();
        entries * size_of::<Entry>() + self.blocks.len() * size_of::<(ChunkId, Vec<Entry>)>()
    }

    fn join(&mut self, key: ChunkId) {
        let Some(block) = self.blocks.remove(&key) else { return };
        let before = self.blocks.range_mut(..key).next_back();
        match before {
            Some((_, before)) if before.len() + block.len() <= BLOCK_MAX - BLOCK_MIN => {
                before.reserve_exact(block.len());
                before.extend(block);
            }
            _ if block.is_empty() => {}
            _ => {
                self.blocks.insert(key, block);
            }
        }
    }
}

fn find(block: &[Entry], chunk: ChunkId) -> Result<usize, usize> {
    block.binary_search_by_key(&chunk, |entry| entry.chunk)
}

fn grow(block: &mut Vec<Entry>) {
    if block.len() == block.capacity() {
        block.reserve_exact(GROWTH);
    }
}

fn shrink(block: &mut Vec<Entry>) {
    if block.capacity() > block.len() + 2 * GROWTH {
        block.shrink_to(block.len() + GROWTH);
    }
}

const _: () = assert!(size_of::<Entry>() == 32);
const _: () = assert!(xdpfs_wire::CHUNK_LEN_MAX < DAMAGED);

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn location(number: u32) -> Location {
        Location::new(SegmentId(1), number, Content { length: number + 1, crc: 7 })
    }

    fn filled(ids: impl Iterator<Item = u128>) -> ChunkMap {
        let mut map = ChunkMap::default();
        for (number, id) in (0..).zip(ids) {
            map.insert(ChunkId(id), location(number));
        }
        map
    }

    fn bytes_per_chunk(map: &ChunkMap) -> f64 {
        map.memory_bytes() as f64 / map.len() as f64
    }

    #[test]
    fn a_chunk_takes_less_than_48_bytes() {
        let scattered = |number: u64| u128::from(number.wrapping_mul(0x9e37_79b9_7f4a_7c15)) << 32;
        assert!(bytes_per_chunk(&filled((0..100_000_u32).map(u128::from))) < 34.0);
        assert!(bytes_per_chunk(&filled((0..100_000_u64).map(scattered))) < 42.0);
        let mut map = filled((0..100_000_u32).map(u128::from));
        for id in (0..100_000_u32).filter(|id| id % 5 != 0) {
            map.remove(ChunkId(id.into()));
        }
        assert!(bytes_per_chunk(&map) < 60.0, "{}", bytes_per_chunk(&map));
    }

    #[test]
    fn damage_is_marked_beside_the_length() {
        let mut map = filled([5].into_iter());
        map.get_mut(ChunkId(5)).unwrap().mark_damaged();
        let found = map.get(ChunkId(5)).unwrap();
        assert!(found.is_damaged());
        assert_eq!(found.content(), location(0).content());
    }

    proptest! {
        #[test]
        fn it_does_what_a_map_does(steps in prop::collection::vec((any::<bool>(), 0..2000_u128), 1..4000)) {
            let (mut map, mut model) = (ChunkMap::default(), BTreeMap::new());
            for (number, (inserts, id)) in (0..).zip(steps) {
                let (chunk, location) = (ChunkId(id * 3), location(number));
                let (found, expected) = match inserts {
                    true => (map.insert(chunk, location), model.insert(chunk, location)),
                    false => (map.remove(chunk), model.remove(&chunk)),
                };
                prop_assert_eq!(found, expected);
                prop_assert_eq!(map.len(), model.len());
            }
            let all: Vec<_> = map.range(ChunkId(0)).collect();
            prop_assert_eq!(all, model.iter().map(|(chunk, place)| (*chunk, *place)).collect::<Vec<_>>());
            for from in [1, 700, 3000, 6001] {
                let rest: Vec<_> = map.range(ChunkId(from)).collect();
                let expected: Vec<_> =
                    model.range(ChunkId(from)..).map(|(chunk, place)| (*chunk, *place)).collect();
                prop_assert_eq!(rest, expected);
            }
            for id in 0..6000 {
                prop_assert_eq!(map.get(ChunkId(id)), model.get(&ChunkId(id)));
            }
        }
    }
}

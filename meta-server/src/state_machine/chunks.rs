//! Chunks, who holds them and who refers to them.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    fmt,
    ops::RangeInclusive,
    sync::Arc,
};

use bytes::Bytes;
use xdpfs_wire::{ChunkId, NodeId};

use super::Bucket;

/// The most replicas that a bucket may ask for.
pub const REPLICAS_MAX: usize = 7;

/// The nodes that hold a chunk: distinct, in ascending order, without an allocation.
#[derive(Clone, Copy, Default, Eq, PartialEq)]
pub struct Replicas {
    count: u8,
    nodes: [u16; REPLICAS_MAX],
}

impl Replicas {
    /// The first [`REPLICAS_MAX`] distinct nodes of `nodes`, sorted.
    pub fn new(nodes: impl IntoIterator<Item = NodeId>) -> Self {
        let mut replicas = Self::default();
        for node in nodes {
            replicas.insert(node);
        }
        replicas
    }

    /// From the numbers of a message; numbers that no node can have are dropped.
    pub fn from_numbers(numbers: &[u32]) -> Self {
        Self::new(numbers.iter().filter_map(|number| u16::try_from(*number).ok()).map(NodeId))
    }

    fn insert(&mut self, node: NodeId) {
        let count = usize::from(self.count);
        if count == REPLICAS_MAX || self.contains(node) {
            return;
        }
        self.nodes[count] = node.0;
        self.count += 1;
        self.nodes[..=count].sort_unstable();
    }

    /// The nodes in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.nodes[..self.len()].iter().map(|node| NodeId(*node))
    }

    /// The nodes as a message carries them.
    #[must_use]
    pub fn numbers(&self) -> Vec<u32> {
        self.iter().map(|node| u32::from(node.0)).collect()
    }

    /// Whether `node` is one of them.
    #[must_use]
    pub fn contains(&self, node: NodeId) -> bool {
        self.iter().any(|own| own == node)
    }

    /// How many there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.count as usize
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }
}

impl fmt::Debug for Replicas {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter().map(|node| node.0)).finish()
    }
}

/// A committed chunk.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Chunk {
    /// Its id, for ever.
    pub id: ChunkId,
    /// Bytes.
    pub length: u32,
    /// CRC32C over all of them.
    pub crc32c: u32,
    /// Who said that they hold it.
    pub replicas: Replicas,
}

impl Chunk {
    /// Replicas that it lacks.
    pub(super) fn debt(&self, bucket: &Bucket) -> u64 {
        u64::from(bucket.replicas).saturating_sub(self.replicas.len() as u64)
    }
}

/// Who keeps a chunk from being removed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Owner {
    /// The object with this key, in the chunk's bucket.
    Object(Arc<str>),
    /// The objects with these keys, at least two, in the chunk's bucket: copies of each other.
    Objects(Box<BTreeSet<Arc<str>>>),
    /// An open upload.
    Upload(u64),
}

impl Owner {
    /// The first key of those whose objects have the chunk. None if it is an upload's.
    #[must_use]
    pub fn first_key(&self) -> Option<&Arc<str>> {
        match self {
            Self::Object(key) => Some(key),
            Self::Objects(keys) => keys.first(),
            Self::Upload(_) => None,
        }
    }
}

/// Every chunk that a manifest or an open upload refers to. Follows from the rest of the state, whatever the order in
/// which it came to be.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct ChunkOwners {
    owners: BTreeMap<ChunkId, Owner>,
}

impl ChunkOwners {
    pub(super) fn set_upload(&mut self, chunk: ChunkId, upload: u64) {
        self.owners.insert(chunk, Owner::Upload(upload));
    }

    /// The object with this key has the chunk, perhaps besides others. Gives whether it is the first one.
    pub(super) fn add_object(&mut self, chunk: ChunkId, key: &Arc<str>) -> bool {
        let mut entry = match self.owners.entry(chunk) {
            Entry::Vacant(vacant) => {
                vacant.insert(Owner::Object(Arc::clone(key)));
                return true;
            }
            Entry::Occupied(entry) => entry,
        };
        match entry.get_mut() {
            owner @ Owner::Upload(_) => {
                *owner = Owner::Object(Arc::clone(key));
                return true;
            }
            Owner::Object(other) if other == key => {}
            owner @ Owner::Object(_) => {
                let keys = owner.first_key().into_iter().chain([key]).cloned().collect();
                *owner = Owner::Objects(Box::new(keys));
            }
            Owner::Objects(keys) => {
                keys.insert(Arc::clone(key));
            }
        }
        false
    }

    /// The object with this key has the chunk no more. Gives whether it was the last one.
    pub(super) fn drop_object(&mut self, chunk: ChunkId, key: &str) -> bool {
        let Entry::Occupied(mut entry) = self.owners.entry(chunk) else { return false };
        match entry.get_mut() {
            Owner::Object(own) if &**own == key => {
                entry.remove();
                return true;
            }
            Owner::Objects(keys) => {
                keys.remove(key);
                if let (1, Some(last)) = (keys.len(), keys.first()) {
                    *entry.get_mut() = Owner::Object(Arc::clone(last));
                }
            }
            Owner::Object(_) | Owner::Upload(_) => {}
        }
        false
    }

    pub(super) fn remove(&mut self, chunk: ChunkId) {
        self.owners.remove(&chunk);
    }

    pub(super) fn of(&self, chunk: ChunkId) -> Option<&Owner> {
        self.owners.get(&chunk)
    }

    pub(super) fn range(&self, range: RangeInclusive<ChunkId>) -> impl Iterator<Item = (ChunkId, &Owner)> {
        self.owners.range(range).map(|(chunk, owner)| (*chunk, owner))
    }
}

/// A chunk id as messages carry it.
#[must_use]
pub fn chunk_id_bytes(chunk: ChunkId) -> Bytes {
    Bytes::copy_from_slice(&chunk.0.to_be_bytes())
}

/// The chunk id in sixteen bytes.
#[must_use]
pub fn parse_chunk_id(bytes: &[u8]) -> Option<ChunkId> {
    Some(ChunkId(u128::from_be_bytes(bytes.try_into().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunk_is_let_go_by_the_last_of_its_objects() {
        let chunk = ChunkId(7);
        let keys: [Arc<str>; 3] = ["c", "a", "b"].map(Arc::from);
        let mut owners = ChunkOwners::default();
        owners.set_upload(chunk, 1);
        assert!(owners.add_object(chunk, &keys[0]));
        assert!(!owners.add_object(chunk, &keys[0]), "once more changes nothing");
        assert!(!owners.add_object(chunk, &keys[1]) && !owners.add_object(chunk, &keys[2]));
        assert_eq!(owners.of(chunk).and_then(Owner::first_key), Some(&keys[1]));
        assert!(!owners.drop_object(chunk, "x"), "it was not an owner");
        assert!(!owners.drop_object(chunk, "a") && !owners.drop_object(chunk, "c"));
        assert_eq!(
            owners.of(chunk),
            Some(&Owner::Object(Arc::from("b"))),
            "alone it is kept as if there had been no other"
        );
        assert!(!owners.drop_object(chunk, "a"));
        assert!(owners.drop_object(chunk, "b"));
        assert_eq!(owners, ChunkOwners::default());
    }

    #[test]
    fn replicas_are_distinct_sorted_and_bounded() {
        let check = |numbers: &[u32], expect: &[u32]| {
            assert_eq!(Replicas::from_numbers(numbers).numbers(), expect, "{numbers:?}");
        };
        check(&[], &[]);
        check(&[3, 1, 3, 2], &[1, 2, 3]);
        check(&[70_000, 5], &[5]);
        check(&[9, 8, 7, 6, 5, 4, 3, 2, 1], &[3, 4, 5, 6, 7, 8, 9]);
    }
}

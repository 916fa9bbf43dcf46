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
use crate::mistake::{Mistake, is_planted};

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

/// A version of a key of the chunk's bucket: what it holds, or an older one.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct VersionName {
    /// The key.
    pub key: Arc<str>,
    /// The version's number.
    pub version: u64,
}

/// The number of a version in seven bytes: with it, an owner takes no more memory than with its key alone.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct VersionNumber([u8; 7]);

/// The most that a version's number can be. A restore makes numbers jump by less than the 65,536th part of it.
pub(super) const VERSION_MAX: u64 = (1 << 56) - 1;

impl VersionNumber {
    pub(super) fn new(version: u64) -> Self {
        assert!(version <= VERSION_MAX, "no log is as long");
        let [_, bytes @ ..] = version.to_be_bytes();
        Self(bytes)
    }

    /// The number.
    #[must_use]
    pub fn get(self) -> u64 {
        self.0.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
    }
}

/// Who keeps a chunk from being removed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Owner {
    /// This version of the key, in the chunk's bucket.
    Version(VersionNumber, Arc<str>),
    /// These versions, at least two, in the chunk's bucket: copies of each other.
    Versions(Box<BTreeSet<VersionName>>),
    /// An open upload.
    Upload(u64),
}

// There is one for every chunk.
const _: () = assert!(size_of::<Owner>() == 24);

impl Owner {
    fn version(name: VersionName) -> Self {
        Self::Version(VersionNumber::new(name.version), name.key)
    }

    /// The first of the versions that have the chunk. None if it is an upload's.
    #[must_use]
    pub fn first(&self) -> Option<VersionName> {
        match self {
            Self::Version(version, key) => Some(VersionName { key: Arc::clone(key), version: version.get() }),
            Self::Versions(names) => names.first().cloned(),
            Self::Upload(_) => None,
        }
    }

    /// How many versions have the chunk.
    pub(super) fn count(&self) -> usize {
        match self {
            Self::Versions(names) => names.len(),
            Self::Version(..) => 1,
            Self::Upload(_) => 0,
        }
    }

    /// All of the versions that have the chunk. None if it is an upload's.
    pub(super) fn versions(&self) -> Vec<VersionName> {
        match self {
            Self::Versions(names) => names.iter().cloned().collect(),
            Self::Version(..) | Self::Upload(_) => self.first().into_iter().collect(),
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

    /// The version has the chunk, perhaps besides others. Gives whether it is the first one.
    pub(super) fn add_version(&mut self, chunk: ChunkId, key: &Arc<str>, version: u64) -> bool {
        let name = VersionName { key: Arc::clone(key), version };
        let mut entry = match self.owners.entry(chunk) {
            Entry::Vacant(vacant) => {
                vacant.insert(Owner::version(name));
                return true;
            }
            Entry::Occupied(entry) => entry,
        };
        match entry.get_mut() {
            owner @ Owner::Upload(_) => {
                *owner = Owner::version(name);
                return true;
            }
            owner @ Owner::Version(..) => {
                let names: BTreeSet<VersionName> = owner.first().into_iter().chain([name]).collect();
                if names.len() > 1 {
                    *owner = Owner::Versions(Box::new(names));
                }
            }
            Owner::Versions(names) => {
                names.insert(name);
            }
        }
        false
    }

    /// The version has the chunk no more. Gives whether it was the last one.
    pub(super) fn drop_version(&mut self, chunk: ChunkId, key: &Arc<str>, version: u64) -> bool {
        let Entry::Occupied(mut entry) = self.owners.entry(chunk) else { return false };
        match entry.get_mut() {
            Owner::Version(own, own_key) if own.get() == version && own_key == key => {
                entry.remove();
                return true;
            }
            Owner::Versions(names) => {
                names.remove(&VersionName { key: Arc::clone(key), version });
                if is_planted(Mistake::FreesSharedChunks) {
                    return true;
                }
                if let (1, Some(last)) = (names.len(), names.first()) {
                    *entry.get_mut() = Owner::version(last.clone());
                }
            }
            Owner::Version(..) | Owner::Upload(_) => {}
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
    fn chunk_is_let_go_by_the_last_of_its_versions() {
        let chunk = ChunkId(7);
        let [a, b]: [Arc<str>; 2] = ["a", "b"].map(Arc::from);
        let mut owners = ChunkOwners::default();
        owners.set_upload(chunk, 1);
        assert!(owners.add_version(chunk, &b, 9));
        assert!(!owners.add_version(chunk, &b, 9), "once more changes nothing");
        assert!(!owners.add_version(chunk, &b, 3) && !owners.add_version(chunk, &a, VERSION_MAX));
        let first = VersionName { key: Arc::clone(&a), version: VERSION_MAX };
        assert_eq!(owners.of(chunk).and_then(Owner::first), Some(first));
        assert!(!owners.drop_version(chunk, &a, 3), "it was not an owner");
        assert!(!owners.drop_version(chunk, &a, VERSION_MAX) && !owners.drop_version(chunk, &b, 9));
        assert_eq!(
            owners.of(chunk),
            Some(&Owner::Version(VersionNumber::new(3), Arc::clone(&b))),
            "alone it is kept as if there had been no other"
        );
        assert!(!owners.drop_version(chunk, &b, 9));
        assert!(owners.drop_version(chunk, &b, 3));
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

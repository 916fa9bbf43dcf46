//! What the cache holds, by what names, and what it takes.

use std::sync::Arc;

use quick_cache::Weighter;
use xdpfs_wire::ChunkId;

use super::CacheName;

/// What goes with each entry: the headers of its memory, and its place in the cache's tables, which are up to half empty
/// and keep the names of half as many entries that have gone.
pub(super) const ENTRY_OVERHEAD: u64 = 32 + (TABLE_ENTRY * 5 / 2) as u64;

/// Key, value, and what the tables add by their documentation.
const TABLE_ENTRY: usize = size_of::<Key>() + size_of::<Held>() + 21;

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) enum Key {
    Checksums { chunk: ChunkId, crc: u32 },
    Page { chunk: ChunkId, crc: u32, page: u32 },
}

// A name costs no more for its checksum.
const _: () = assert!(size_of::<Key>() == 32);

impl Key {
    pub(super) const fn page(name: CacheName, page: u32) -> Self {
        let CacheName { chunk, crc } = name;
        Self::Page { chunk, crc, page }
    }

    pub(super) const fn checksums(name: CacheName) -> Self {
        let CacheName { chunk, crc } = name;
        Self::Checksums { chunk, crc }
    }

    pub(super) const fn name(&self) -> CacheName {
        let (Self::Checksums { chunk, crc } | Self::Page { chunk, crc, .. }) = *self;
        CacheName { chunk, crc }
    }
}

/// Under a key of the same name.
#[derive(Clone, Debug)]
pub(super) enum Held {
    Checksums(Arc<[u32]>),
    Page {
        bytes: Arc<[u8]>,
        /// Uses that still don't count.
        spared: u8,
    },
}

impl Held {
    pub(super) fn into_checksums(self) -> Option<Arc<[u32]>> {
        match self {
            Self::Checksums(checksums) => Some(checksums),
            Self::Page { .. } => None,
        }
    }

    pub(super) fn into_page(self) -> Option<Arc<[u8]>> {
        match self {
            Self::Checksums(_) => None,
            Self::Page { bytes, .. } => Some(bytes),
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Weights;

impl Weighter<Key, Held> for Weights {
    fn weight(&self, _key: &Key, held: &Held) -> u64 {
        let bytes = match held {
            Held::Checksums(checksums) => size_of_val(&**checksums),
            Held::Page { bytes, .. } => bytes.len(),
        };
        bytes as u64 + ENTRY_OVERHEAD
    }
}

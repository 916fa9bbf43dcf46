//! Pages of chunks in memory, with what large chunks' pages are checked by. Only what has passed its checksum comes in.
//!
//! Invariant: what is held never takes more than the budget. Chunks never change, so nothing here is ever stale; what is
//! forgotten is so only to give way to others.
//!
//! Whoever reads once from end to end must not push out what is read again and again. The eviction (Clock-PRO, close to
//! S3-FIFO) sees to that by what pages are used for after they came; but such a reader uses pages too: those that were read
//! ahead of it, and those that two of its requests share. Such uses are spared: they don't count.

mod entry;

use std::{fmt, sync::Arc};

use quick_cache::{DefaultHashBuilder, Lifecycle, OptionsBuilder, sync::Cache};
use xdpfs_wire::ChunkId;

use crate::{
    page_buffer::PAGE_LEN,
    sync::{
        self,
        atomic::{AtomicU64, Ordering},
    },
};
use entry::{ENTRY_OVERHEAD, Held, Key, Weights};

/// Parts that are locked on their own. Small caches have fewer.
const SHARDS: u64 = 32;
/// Of the budget, what is for pages that have been used again. New ones pass through the rest.
const HOT_SHARE: f64 = 0.97;
/// Pages that are remembered by name after they went, as a share of those that are there: one that comes again soon was
/// worth keeping.
const GHOST_SHARE: f64 = 0.5;

/// A chunk, and the checksum of its bytes: another chunk may take the name of one that was deleted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct CacheName {
    /// The chunk.
    pub chunk: ChunkId,
    /// Of all its bytes.
    pub crc: u32,
}

/// Why a page is put into the cache.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Origin {
    /// Nobody has asked for it yet.
    ReadAhead,
    /// Somebody has, and got it.
    Request,
}

impl Origin {
    /// Uses that a reader makes of a page while it goes straight on. The request that a page was read for didn't find it
    /// here; its neighbour may.
    const fn spared_uses(self) -> u8 {
        match self {
            Self::ReadAhead => 2,
            Self::Request => 1,
        }
    }
}

/// The cache; all threads may use it at once.
pub struct PageCache {
    /// `None` if there is no memory for any.
    held: Option<Cache<Key, Held, Weights, DefaultHashBuilder, CountEvicted>>,
    counters: Arc<Counters>,
}

/// What a cache has done since it was made, and what it holds.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct PageCacheStats {
    /// Bytes that it may take.
    pub capacity_bytes: u64,
    /// Bytes that it takes, by an estimate of what goes with each page.
    pub bytes: u64,
    /// Pages that were asked for and there.
    pub hits: u64,
    /// Pages that were asked for and not there.
    pub misses: u64,
    /// Pages that were put in.
    pub inserted: u64,
    /// Pages, and tables of checksums, that gave way to others.
    pub evicted: u64,
}

#[derive(Debug, Default)]
struct Counters {
    hits: AtomicU64,
    misses: AtomicU64,
    inserted: AtomicU64,
    evicted: AtomicU64,
}

impl PageCache {
    /// A cache that takes no more than this many bytes; none at all if there is no room for a page.
    #[must_use]
    pub fn new(capacity_bytes: u64) -> Self {
        let counters = Arc::new(Counters::default());
        let evicted = CountEvicted(Arc::clone(&counters));
        let items = capacity_bytes / (PAGE_LEN as u64 + ENTRY_OVERHEAD);
        let options = OptionsBuilder::new()
            .shards(SHARDS as usize)
            .hot_allocation(HOT_SHARE)
            .ghost_allocation(GHOST_SHARE)
            .estimated_items_capacity(usize::try_from(items).unwrap_or(usize::MAX))
            // Each part gets an equal share, rounded up.
            .weight_capacity(capacity_bytes / SHARDS * SHARDS)
            .build()
            .expect("all options that must be set are");
        let held = (items > 0)
            .then(|| Cache::with_options(options, Weights, DefaultHashBuilder::default(), evicted));
        Self { held, counters }
    }

    /// Whether pages that are put in are kept at all.
    #[must_use]
    pub const fn takes_pages(&self) -> bool {
        self.held.is_some()
    }

    /// A page that was put in; the last one of a chunk may be shorter than others.
    #[must_use]
    pub fn get(&self, name: CacheName, page: u32) -> Option<Arc<[u8]>> {
        let found = self.held.as_ref().and_then(|held| use_page(held, Key::page(name, page)));
        sync::pause();
        let counter = if found.is_some() { &self.counters.hits } else { &self.counters.misses };
        counter.fetch_add(1, Ordering::Relaxed);
        found
    }

    /// Whether a page is there; this counts as no use of it.
    #[must_use]
    pub fn contains(&self, name: CacheName, page: u32) -> bool {
        self.held.as_ref().is_some_and(|held| held.contains_key(&Key::page(name, page)))
    }

    /// Puts a page in that has passed its checksum.
    pub fn insert(&self, name: CacheName, page: u32, bytes: Arc<[u8]>, origin: Origin) {
        if let Some(held) = &self.held {
            self.counters.inserted.fetch_add(1, Ordering::Relaxed);
            held.insert(Key::page(name, page), Held::Page { bytes, spared: origin.spared_uses() });
        }
    }

    /// The checksums of a chunk's pages, if they were put in.
    #[must_use]
    pub fn checksums(&self, name: CacheName) -> Option<Arc<[u32]>> {
        self.held.as_ref()?.get(&Key::checksums(name))?.into_checksums()
    }

    /// Puts the checksums of a chunk's pages in.
    pub fn insert_checksums(&self, name: CacheName, checksums: Arc<[u32]>) {
        if let Some(held) = &self.held {
            held.insert(Key::checksums(name), Held::Checksums(checksums));
        }
    }

    /// Lets go of a chunk of this many pages.
    pub fn forget(&self, name: CacheName, pages: u32) {
        let Some(held) = self.held.as_ref() else { return };
        held.remove(&Key::checksums(name));
        if u64::from(pages) > held.len() as u64 {
            held.retain(|key, _| key.name() != name);
            return;
        }
        for page in 0..pages {
            held.remove(&Key::page(name, page));
        }
    }

    /// What the cache has done, and holds.
    #[must_use]
    pub fn stats(&self) -> PageCacheStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        PageCacheStats {
            capacity_bytes: self.held.as_ref().map_or(0, Cache::capacity),
            bytes: self.held.as_ref().map_or(0, Cache::weight),
            hits: read(&self.counters.hits),
            misses: read(&self.counters.misses),
            inserted: read(&self.counters.inserted),
            evicted: read(&self.counters.evicted),
        }
    }
}

/// A page, and a note that it was used, unless this use is one to be spared.
fn use_page(
    held: &Cache<Key, Held, Weights, DefaultHashBuilder, CountEvicted>,
    key: Key,
) -> Option<Arc<[u8]>> {
    match held.peek(&key)? {
        Held::Page { bytes, spared: spared @ 1.. } => {
            let rest = Held::Page { bytes: Arc::clone(&bytes), spared: spared - 1 };
            // If it has just gone, there is nothing to note.
            let _ = held.replace(key, rest, true);
            Some(bytes)
        }
        Held::Page { .. } => held.get(&key)?.into_page(),
        Held::Checksums(_) => None,
    }
}

impl fmt::Debug for PageCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PageCache").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

#[derive(Clone, Debug)]
struct CountEvicted(Arc<Counters>);

impl Lifecycle<Key, Held> for CountEvicted {
    type RequestState = ();

    fn before_evict(&self, (): &mut (), _key: &Key, _held: &mut Held) {
        self.0.evicted.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;

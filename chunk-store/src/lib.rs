//! Chunks on one disk: segments of batches, one writer thread, an index in memory that is rebuilt at open.
//!
//! Invariant: a put or a delete that has been answered with success survives kill -9 and power loss, and no byte is
//! served that fails its checksum. Knows nothing of networks, capabilities or the cluster.

mod activity;
mod batch;
mod check;
mod checksum;
mod chunk_map;
mod compaction;
mod directory_lock;
mod format;
mod format1;
mod index;
mod log;
pub mod medium;
mod old_store;
pub mod page_buffer;
pub mod page_cache;
pub mod read_ahead;
mod reader;
mod reading;
mod recovery;
mod scrub;
mod segment;
mod slots;
mod span;
mod sync;
mod writer;

use std::{
    future::Future,
    io,
    num::NonZeroU64,
    ops::Range,
    path::PathBuf,
    sync::{Arc, PoisonError},
};

use bytes::Bytes;
use thiserror::Error;
use tokio::sync::oneshot;
use uuid::Uuid;
use xdpfs_observe::{Scrape, catalogue as names};
use xdpfs_wire::{CHUNK_LEN_MAX, ChunkId};

pub use activity::Activity;
pub use check::{FINDINGS_MAX, StoreReport, check};
pub use directory_lock::{DirectoryLock, LOCK_FILE};
pub use medium::IoWanted;
pub use read_ahead::{ReadAheadLimits, ReaderId};
pub use reader::{Pages, READ_LEN_MAX, ReadRequest, Reader};
pub use scrub::{Scrub, ScrubStep};

use chunk_map::Location;
use format::{Content, pages};
use index::Index;
use medium::{DiskMedium, IoMode, Medium};
use page_buffer::{PAGE_LEN, PageBuffer};
use page_cache::{CacheName, Origin, PageCache, PageCacheStats};
use read_ahead::{ReadAhead, ReadAheadStats};
use reader::page_len;
use reading::{PageTable, Plan, plan};
use segment::Segment;
use sync::{
    Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard,
    atomic::{AtomicBool, AtomicU64, Ordering},
    mpsc::{self, SyncSender, TrySendError},
    thread::JoinHandle,
};
use writer::{Op, Writer};

/// Operations that may wait for the writer.
const QUEUE_OPS_MAX: usize = 1024;
/// Bytes of chunks that may wait for the writer. One chunk is always let in, whatever its length.
const QUEUE_BYTES_MAX: u64 = 64 << 20;
/// Segments in a store that is full, at least: compaction needs several to choose from.
const SEGMENTS_MIN: u64 = 16;
/// A segment is no shorter than this, however small the store; one batch may be longer.
const SEGMENT_LEN_MIN: u64 = 64 << 10;
/// The longest segment whose positions fit the index.
const SEGMENT_LEN_MAX: u64 = 64 << 30;
/// Batches in a segment, at least, so that little is left over at its end.
const BATCHES_MIN: u64 = 8;
/// Chunks of one object follow each other in steps of this at most: others of them lie on other nodes.
const SEQUENCE_STEP_MAX: u128 = 16;
/// Pages that one read of the disk brings.
const READ_PAGES_MAX: usize = 256;

/// Where a store lies, how large it may grow, and what it may take.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// The directory of the segments; made if it isn't there, in a parent that is.
    pub directory: PathBuf,
    /// The node that the segments belong to.
    pub node_uuid: Uuid,
    /// Bytes that segments may take in all; the size of the file system if not given. While a segment is being
    /// compacted, its live chunks may count twice for a moment.
    pub capacity_bytes: Option<u64>,
    /// Bytes of the file system that chunks leave free, so that deletions and compaction can go on. At most a
    /// sixteenth of the capacity is used for this.
    pub reserve_bytes: u64,
    /// The length at which a segment is sealed and the next begun. Lowered if the capacity is small.
    pub segment_bytes: u64,
    /// Chunks and deletions that one durable write takes at most.
    pub batch_ops: usize,
    /// No chunk is added to a durable write of so many bytes. Lowered if segments are short.
    pub batch_bytes: u64,
    /// Bytes that compaction copies in a second, unless a chunk waits for the room; as many as it can if not given.
    pub compaction_rate: Option<NonZeroU64>,
    /// Memory that keeps pages of chunks; none if zero.
    pub cache_bytes: u64,
    /// How far is read ahead of who reads straight on.
    pub read_ahead: ReadAheadLimits,
    /// Ways to the disk that may be used if they work.
    pub io: IoWanted,
}

impl StoreConfig {
    /// The usual sizes, for a store of `node_uuid` in `directory`.
    #[must_use]
    pub fn new(directory: impl Into<PathBuf>, node_uuid: Uuid) -> Self {
        Self {
            directory: directory.into(),
            node_uuid,
            capacity_bytes: None,
            reserve_bytes: 256 << 20,
            segment_bytes: 1 << 30,
            batch_ops: 256,
            batch_bytes: 8 << 20,
            compaction_rate: NonZeroU64::new(64 << 20),
            cache_bytes: 128 << 20,
            read_ahead: ReadAheadLimits::default(),
            io: IoWanted::default(),
        }
    }
}

/// Why a store can't be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// A segment was written for another node.
    #[error("segment {path} belongs to another data node")]
    Foreign {
        /// The segment.
        path: PathBuf,
    },
    /// Another process, or another store in this one, uses the directory.
    #[error("{directory} is in use by another data node")]
    Locked {
        /// The directory.
        directory: PathBuf,
    },
    /// The disk failed, or the directory isn't accessible.
    #[error("{directory} can't be used")]
    Io {
        /// The directory.
        directory: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// A segment was written by another version of this program.
    #[error("segment {path} has format version {version}, which this program doesn't know")]
    Version {
        /// The segment.
        path: PathBuf,
        /// Its format version.
        version: u32,
    },
}

/// Why a chunk was not stored.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub enum PutError {
    /// Not now: too much waits for the disk, or room is being made. The same put may work in a moment.
    #[error("the store is busy")]
    Busy,
    /// Another chunk has this id.
    #[error("the chunk exists with other bytes")]
    Conflict,
    /// The bytes don't have the checksum that came with them.
    #[error("the data doesn't match its checksum")]
    Corrupt,
    /// The disk has failed at some time since the store was opened, or the store is closed.
    #[error("the store takes no more chunks")]
    Failed,
    /// The chunk is empty or longer than any chunk may be.
    #[error("a chunk can't have this length")]
    Length,
    /// The disk is full; nothing was lost.
    #[error("no space is left")]
    NoSpace,
}

/// Why chunks were not deleted.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub enum DeleteError {
    /// Not now: too much waits for the disk.
    #[error("the store is busy")]
    Busy,
    /// The disk has failed at some time since the store was opened, or the store is closed.
    #[error("the store takes no more deletions")]
    Failed,
    /// Not even the reserve is left to note the deletion in.
    #[error("no space is left")]
    NoSpace,
}

/// Why bytes can't be read.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub enum ReadError {
    /// The bytes on the disk fail their checksum. The chunk is out of service until it is written again.
    #[error("the stored bytes are damaged")]
    Corrupt,
    /// The disk failed.
    #[error("the disk can't be read")]
    Failed,
    /// There is no such chunk.
    #[error("no such chunk")]
    NotFound,
    /// The range reaches past the end of the chunk.
    #[error("the range lies outside the chunk")]
    Range,
}

/// What a chunk's bytes are.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ChunkInfo {
    /// How many there are.
    pub length: u32,
    /// Their CRC32C.
    pub crc: u32,
}

/// How full a store is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Usage {
    /// Bytes that segments may take in all.
    pub capacity_bytes: u64,
    /// Bytes that they take, garbage included.
    pub used_bytes: u64,
    /// Bytes that can be written before compaction has to make room.
    pub free_bytes: u64,
    /// Chunks that can be read.
    pub chunks: u64,
}

/// What opening a store found.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Recovery {
    /// Chunks that are there.
    pub chunks: u64,
    /// Segments that were read.
    pub segments: u64,
    /// Bytes that a crash left half written, and that were cut off. No success was ever answered for them.
    pub torn_bytes: u64,
    /// Places where batches are damaged though later ones are whole, and chunks of the format before this one that are. What was
    /// there must be repaired from replicas.
    pub quarantined: u64,
    /// Segments that can't be read at all; their files are left alone.
    pub unreadable_segments: u64,
}

/// A chunk store. Clones are the same store; it closes when the last one goes.
#[derive(Clone, Debug)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    queue: SyncSender<Op>,
    open: Mutex<Option<Open>>,
}

/// What an open store holds on to.
#[derive(Debug)]
struct Open {
    writer: JoinHandle<()>,
    lock: Option<DirectoryLock>,
}

/// What readers and the writer have in common. Only the writer changes the index, except for marking damage.
#[derive(Debug)]
struct Shared {
    directory: PathBuf,
    medium: Arc<dyn Medium>,
    node_uuid: [u8; 16],
    index: RwLock<Index>,
    limits: Limits,
    /// Set at the first error of the disk and never cleared: what the kernel's cache holds then is unknown.
    fenced: AtomicBool,
    queued_bytes: AtomicU64,
    /// Bytes of the disk that are held for chunks to come.
    held_bytes: AtomicU64,
    activity: Activity,
    cache: PageCache,
    read_ahead: Mutex<ReadAhead>,
}

/// Sizes that hold for a store as long as it is open.
#[derive(Clone, Copy, Debug)]
struct Limits {
    capacity: u64,
    reserve: u64,
    segment: u64,
    batch_ops: usize,
    batch_bytes: u64,
    compaction_rate: Option<NonZeroU64>,
}

impl Store {
    /// Opens the store, and repairs what a crash has left. Blocks.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(config: &StoreConfig) -> Result<(Self, Recovery), OpenError> {
        let io_error = |source| OpenError::Io { directory: config.directory.clone(), source };
        let medium = DiskMedium::open(&config.directory, config.io).map_err(io_error)?;
        let lock = DirectoryLock::try_acquire(&config.directory)
            .map_err(io_error)?
            .ok_or_else(|| OpenError::Locked { directory: config.directory.clone() })?;
        Self::open_on(config, Arc::new(medium), Some(lock))
    }

    fn open_on(
        config: &StoreConfig,
        medium: Arc<dyn Medium>,
        lock: Option<DirectoryLock>,
    ) -> Result<(Self, Recovery), OpenError> {
        let io_error = |source| OpenError::Io { directory: config.directory.clone(), source };
        let total = medium.room().map_err(io_error)?.total;
        let recovered = recovery::recover(&*medium, config)?;
        let mut report = recovered.report;
        let shared = Arc::new(Shared {
            directory: config.directory.clone(),
            medium,
            node_uuid: *config.node_uuid.as_bytes(),
            index: RwLock::new(recovered.index),
            limits: Limits::of(config, total),
            fenced: AtomicBool::new(false),
            queued_bytes: AtomicU64::new(0),
            held_bytes: AtomicU64::new(0),
            activity: Activity::default(),
            cache: PageCache::new(config.cache_bytes),
            read_ahead: Mutex::new(ReadAhead::new(config.read_ahead)),
        });
        let (queue, ops) = mpsc::sync_channel(QUEUE_OPS_MAX);
        let mut writer = Writer::new(Arc::clone(&shared), recovered.tail);
        old_store::take_over(&shared, &mut writer, &recovered.old, &mut report).map_err(io_error)?;
        let writer = writer.spawn(ops).map_err(io_error)?;
        let inner = Inner { shared, queue, open: Mutex::new(Some(Open { writer, lock })) };
        Ok((Self { inner: Arc::new(inner) }, report))
    }

    /// Stores a chunk, and resolves once it is durable. The put goes on even if the future is dropped. A chunk that is
    /// already there with the same bytes is a success.
    ///
    /// # Errors
    /// See [`PutError`].
    pub fn put(
        &self,
        chunk: ChunkId,
        crc: u32,
        data: Bytes,
    ) -> impl Future<Output = Result<(), PutError>> + Send + use<> {
        let submitted = self.submit_put(chunk, crc, data);
        async move {
            match submitted? {
                Some(reply) => reply.await.unwrap_or(Err(PutError::Failed)),
                None => Ok(()),
            }
        }
    }

    /// What is known of a chunk; `None` if it can't be read here.
    #[must_use]
    pub fn stat(&self, chunk: ChunkId) -> Option<ChunkInfo> {
        let index = self.inner.shared.index();
        let location = index.chunk(chunk).filter(|location| !location.is_damaged())?;
        let Content { length, crc } = location.content();
        Some(ChunkInfo { length, crc })
    }

    /// Fills `out` with the bytes from `offset` on. Blocks on the disk; only the pages that the range touches are
    /// read and checked.
    ///
    /// # Errors
    /// See [`ReadError`]; `out` then holds nothing of worth.
    pub fn read(&self, chunk: ChunkId, offset: u32, out: &mut [u8]) -> Result<(), ReadError> {
        let shared = &self.inner.shared;
        let (location, segment) = shared.find(chunk)?;
        let result = shared.read_range(&segment, chunk, &location, offset, out);
        match result {
            Ok(()) => shared.activity.note_read(out.len()),
            Err(ReadError::Corrupt) => shared.find_damaged(chunk, &location),
            Err(_) => {}
        }
        result
    }

    /// Reads for a thread of its own, several at once.
    #[must_use]
    pub fn reader<T>(&self) -> Reader<T> {
        Reader::new(&self.inner.shared)
    }

    /// What the cache has done, and holds.
    #[must_use]
    pub fn cache_stats(&self) -> PageCacheStats {
        self.inner.shared.cache.stats()
    }

    /// What came of reading ahead.
    #[must_use]
    pub fn read_ahead_stats(&self) -> ReadAheadStats {
        self.inner.shared.read_ahead().stats()
    }

    /// How the disk is reached.
    #[must_use]
    pub fn io_mode(&self) -> IoMode {
        self.inner.shared.medium.about()
    }

    /// Bytes of memory that it takes to know where chunks lie.
    #[must_use]
    pub fn index_bytes(&self) -> usize {
        self.inner.shared.index().memory_bytes()
    }

    /// Deletes chunks, and resolves once none of them can come back. The deletion goes on even if the future is
    /// dropped. Chunks that aren't there are a success.
    ///
    /// # Errors
    /// See [`DeleteError`].
    pub fn delete(
        &self,
        chunks: Vec<ChunkId>,
    ) -> impl Future<Output = Result<(), DeleteError>> + Send + use<> {
        let submitted = self.submit_delete(chunks);
        async move { submitted?.await.unwrap_or(Err(DeleteError::Failed)) }
    }

    /// How full the store is.
    #[must_use]
    pub fn usage(&self) -> Usage {
        self.inner.shared.usage()
    }

    /// What the store has done since it was opened.
    #[must_use]
    pub fn activity(&self) -> &Activity {
        &self.inner.shared.activity
    }

    /// Whether there is a chunk of this name, damaged or not.
    #[must_use]
    pub fn knows(&self, chunk: ChunkId) -> bool {
        self.inner.shared.index().chunk(chunk).is_some()
    }

    /// Tells what the store has done since it was opened, and by what means.
    pub fn collect(&self, scrape: &mut Scrape<'_>) {
        self.activity().collect(scrape);
        let PageCacheStats { capacity_bytes, bytes, hits, misses, .. } = self.cache_stats();
        scrape.gauge(&names::STORE_CACHE_CAPACITY, capacity_bytes as f64);
        scrape.gauge(&names::STORE_CACHE_BYTES, bytes as f64);
        scrape.counter(&names::STORE_CACHE_HITS, hits);
        scrape.counter(&names::STORE_CACHE_MISSES, misses);
        let ReadAheadStats { advised_bytes, used_bytes, cancelled_bytes, .. } = self.read_ahead_stats();
        scrape.counter(&names::STORE_AHEAD_BYTES, advised_bytes);
        scrape.counter(&names::STORE_AHEAD_USED_BYTES, used_bytes);
        scrape.counter(&names::STORE_AHEAD_CANCELLED_BYTES, cancelled_bytes);
        scrape.gauge(&names::STORE_INDEX_BYTES, self.index_bytes() as f64);
        let IoMode { direct, ring, .. } = self.io_mode();
        scrape.gauge(&names::STORE_DIRECT, f64::from(u8::from(direct.is_in_use())));
        scrape.gauge(&names::STORE_IO_URING, f64::from(u8::from(ring.is_in_use())));
    }

    /// A walk through the store that checks all it serves, from the segment of this number on.
    #[must_use]
    pub fn scrub(&self, from: u32) -> Scrub {
        Scrub::new(&self.inner.shared, from)
    }

    /// At most `limit` chunks from `from` on, ascending.
    #[must_use]
    pub fn chunk_ids(&self, from: ChunkId, limit: usize) -> Vec<ChunkId> {
        self.inner.shared.index().chunk_ids(from).take(limit).collect()
    }

    /// The same, with what they are.
    #[must_use]
    pub fn chunks(&self, from: ChunkId, limit: usize) -> Vec<(ChunkId, ChunkInfo)> {
        self.inner.shared.index().chunks(from).take(limit).collect()
    }

    /// Whether the disk has failed, so that nothing more is written.
    #[must_use]
    pub fn is_fenced(&self) -> bool {
        self.inner.shared.is_fenced()
    }

    /// Finishes what was asked for so far and lets go of the directory. Later puts and deletes fail; reads go on.
    /// Blocks.
    pub fn close(&self) {
        self.inner.close();
    }

    fn submit_put(
        &self,
        chunk: ChunkId,
        crc: u32,
        data: Bytes,
    ) -> Result<Option<oneshot::Receiver<Result<(), PutError>>>, PutError> {
        let length = u32::try_from(data.len()).map_err(|_| PutError::Length)?;
        if !(1..=CHUNK_LEN_MAX).contains(&length) {
            return Err(PutError::Length);
        }
        // What the index says may not be what the next start finds: a deletion that failed may be on the disk all the same.
        if self.is_fenced() {
            return Err(PutError::Failed);
        }
        match self.stat(chunk) {
            Some(there) if (there.length, there.crc) == (length, crc) => return Ok(None),
            Some(_) => return Err(PutError::Conflict),
            None => {}
        }
        let queued = QueuedBytes::try_take(&self.inner.shared, length.into()).ok_or(PutError::Busy)?;
        let (reply, receiver) = oneshot::channel();
        let op = Op::Put { chunk, content: Content { length, crc }, data, reply, queued };
        match self.inner.submit(op) {
            Ok(()) => Ok(Some(receiver)),
            Err(NotTaken::Closed) => Err(PutError::Failed),
            Err(NotTaken::Full) => Err(PutError::Busy),
        }
    }

    fn submit_delete(
        &self,
        chunks: Vec<ChunkId>,
    ) -> Result<oneshot::Receiver<Result<(), DeleteError>>, DeleteError> {
        let (reply, receiver) = oneshot::channel();
        match self.inner.submit(Op::Delete { chunks, reply }) {
            Ok(()) => Ok(receiver),
            Err(NotTaken::Closed) => Err(DeleteError::Failed),
            Err(NotTaken::Full) => Err(DeleteError::Busy),
        }
    }
}

/// Why the writer didn't take an operation.
enum NotTaken {
    Closed,
    Full,
}

impl Inner {
    fn submit(&self, op: Op) -> Result<(), NotTaken> {
        if self.shared.is_fenced() {
            return Err(NotTaken::Closed);
        }
        self.queue.try_send(op).map_err(|error| match error {
            TrySendError::Full(_) => NotTaken::Full,
            TrySendError::Disconnected(_) => NotTaken::Closed,
        })
    }

    fn close(&self) {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Open { writer, lock }) = open {
            // An error of either call means that the writer is gone already, which is what is wanted.
            let _ = self.queue.send(Op::Close);
            let _ = writer.join();
            drop(lock);
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    fn index(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn index_mut(&self) -> RwLockWriteGuard<'_, Index> {
        self.index.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_fenced(&self) -> bool {
        self.fenced.load(Ordering::Acquire)
    }

    fn fence(&self, error: &io::Error) {
        if !self.fenced.swap(true, Ordering::AcqRel) {
            let directory = self.directory.display();
            tracing::error!(%directory, %error, "the disk failed; no chunk is taken from here on");
        }
    }

    fn find(&self, chunk: ChunkId) -> Result<(Location, Arc<Segment>), ReadError> {
        let index = self.index();
        let location = index.chunk(chunk).copied().ok_or(ReadError::NotFound)?;
        if location.is_damaged() {
            return Err(ReadError::Corrupt);
        }
        // It keeps its file from being used again until it is dropped.
        let segment = index.segment(location.segment).cloned().ok_or(ReadError::NotFound)?;
        Ok((location, segment))
    }

    /// The chunk is out of service until it is written again. Gives whether it was in service.
    fn note_damage(&self, chunk: ChunkId, location: &Location) -> bool {
        let is_news = self.index_mut().mark_damaged(chunk, location);
        if is_news {
            self.activity.note_damage();
            self.forget(chunk, location);
        }
        is_news
    }

    /// A read has found that the chunk fails its checksum.
    fn find_damaged(&self, chunk: ChunkId, location: &Location) {
        tracing::warn!(%chunk, segment = location.segment.0, "chunk is damaged on the disk");
        self.note_damage(chunk, location);
    }

    /// The pages of a chunk that is no longer served leave the cache.
    fn forget(&self, chunk: ChunkId, location: &Location) {
        self.cache.forget(cache_name(chunk, location), pages(location.content().length) as u32);
    }

    /// Pages that were read and checked go into the cache, unless their chunk has gone meanwhile: another may take its name.
    fn keep(
        &self,
        chunk: ChunkId,
        location: &Location,
        first_page: u32,
        data: &[u8],
        table: Option<PageTable>,
        origin: Origin,
    ) {
        if !self.cache.takes_pages() {
            return;
        }
        let pages: Vec<Arc<[u8]>> = data.chunks(PAGE_LEN).map(Arc::from).collect();
        let index = self.index();
        let is_there =
            index.chunk(chunk).is_some_and(|live| live.content() == location.content() && !live.is_damaged());
        if !is_there {
            return;
        }
        let name = cache_name(chunk, location);
        for (page, bytes) in (first_page..).zip(pages) {
            self.cache.insert(name, page, bytes, origin);
        }
        if let Some(table) = table {
            self.cache.insert_checksums(name, table);
        }
    }

    /// The chunk behind another of the same bucket, and its length.
    fn next_chunk(&self, chunk: ChunkId) -> Option<(ChunkId, u32)> {
        let index = self.index();
        let (next, location) = index.locations(ChunkId(chunk.0.checked_add(1)?)).next()?;
        let is_near = next.bucket() == chunk.bucket() && next.0 - chunk.0 <= SEQUENCE_STEP_MAX;
        (is_near && !location.is_damaged()).then(|| (next, location.content().length))
    }

    fn read_ahead(&self) -> MutexGuard<'_, ReadAhead> {
        self.read_ahead.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read_range(
        &self,
        segment: &Segment,
        chunk: ChunkId,
        location: &Location,
        offset: u32,
        out: &mut [u8],
    ) -> Result<(), ReadError> {
        if self.read_from_cache(chunk, location, offset, out) {
            return Ok(());
        }
        read_range(segment, location, offset, out, |first_page, data, table| {
            self.keep(chunk, location, first_page, data, table, Origin::Request);
        })
    }

    /// Whether all of it is in memory.
    fn read_from_cache(&self, chunk: ChunkId, location: &Location, offset: u32, out: &mut [u8]) -> bool {
        let length = location.content().length;
        if u64::from(offset) + out.len() as u64 > length.into() {
            return false;
        }
        let (mut page, mut skip, mut rest) = (offset / PAGE_LEN as u32, offset as usize % PAGE_LEN, out);
        while !rest.is_empty() {
            let Some(bytes) = self.cache.get(cache_name(chunk, location), page) else { return false };
            let taken = rest.len().min(page_len(length, page) - skip);
            let (now, later) = rest.split_at_mut(taken);
            let Some(there) = bytes.get(skip..skip + taken) else { return false };
            now.copy_from_slice(there);
            (page, skip, rest) = (page + 1, 0, later);
        }
        true
    }

    fn note_held(&self, bytes: u64) {
        self.held_bytes.store(bytes, Ordering::Relaxed);
    }

    fn usage(&self) -> Usage {
        let (used_bytes, chunks) = {
            let index = self.index();
            (index.used(), index.chunk_count())
        };
        let available = match self.medium.room() {
            Ok(room) => room.available.saturating_sub(self.limits.reserve),
            Err(error) => {
                tracing::warn!(%error, "the free space of the file system is unknown");
                0
            }
        };
        let available = available.saturating_add(self.held_bytes.load(Ordering::Relaxed));
        let free_bytes = self.limits.capacity.saturating_sub(used_bytes).min(available);
        Usage { capacity_bytes: self.limits.capacity, used_bytes, free_bytes, chunks }
    }
}

impl Limits {
    fn of(config: &StoreConfig, file_system_bytes: u64) -> Self {
        let capacity = config.capacity_bytes.unwrap_or(file_system_bytes);
        let segment_max = (capacity / SEGMENTS_MIN).clamp(SEGMENT_LEN_MIN, SEGMENT_LEN_MAX);
        let segment = config.segment_bytes.clamp(SEGMENT_LEN_MIN, segment_max);
        Self {
            capacity,
            reserve: config.reserve_bytes.min(capacity / SEGMENTS_MIN),
            segment,
            batch_ops: config.batch_ops.max(1),
            batch_bytes: config.batch_bytes.clamp(1, (segment / BATCHES_MIN).max(1)),
            compaction_rate: config.compaction_rate,
        }
    }
}

const fn cache_name(chunk: ChunkId, location: &Location) -> CacheName {
    CacheName { chunk, crc: location.content().crc }
}

/// Reads from the disk, and hands over whole pages to be kept, too, with what checks those of the chunk.
fn read_range(
    segment: &Segment,
    location: &Location,
    offset: u32,
    out: &mut [u8],
    keep: impl Fn(u32, &[u8], Option<PageTable>),
) -> Result<(), ReadError> {
    let end = u64::from(offset) + out.len() as u64;
    if end > location.content().length.into() {
        return Err(ReadError::Range);
    }
    let (mut page, last) = (offset / PAGE_LEN as u32, pages(end as u32) as u32);
    let mut skip = offset as usize % PAGE_LEN;
    let (mut rest, mut table) = (out, None);
    while page < last && !rest.is_empty() {
        let next = last.min(page + READ_PAGES_MAX as u32);
        let (buffer, data) = read_pages(segment, location, page..next, &mut table)?;
        let data = &buffer[data];
        let taken = rest.len().min(data.len() - skip);
        let (now, later) = rest.split_at_mut(taken);
        now.copy_from_slice(&data[skip..skip + taken]);
        keep(page, data, table.clone());
        (page, skip, rest) = (next, 0, later);
    }
    Ok(())
}

/// Reads pages of a chunk, and checks them. Gives what was read, and where they are in it.
fn read_pages(
    segment: &Segment,
    location: &Location,
    wanted: Range<u32>,
    table: &mut Option<PageTable>,
) -> Result<(PageBuffer, Range<usize>), ReadError> {
    let fetch = |fetch: &reading::Fetch| {
        let mut buffer = PageBuffer::new(fetch.pages);
        match segment.file.read(&mut buffer, fetch.position) {
            Ok(()) => Ok(buffer),
            Err(error) => {
                tracing::warn!(segment = segment.id.0, %error, "reading a segment failed");
                Err(ReadError::Failed)
            }
        }
    };
    let pages = loop {
        match plan(location, wanted.clone(), table.is_some()) {
            Plan::Pages(pages) => break pages,
            Plan::Table(plan) => {
                let fetched = fetch(&plan.fetch)?;
                *table = Some(plan.check(location, &fetched).map_err(|_| ReadError::Corrupt)?);
            }
        }
    };
    let fetched = fetch(&pages.fetch)?;
    pages.check(location, &fetched, table.as_deref()).map_err(|_| ReadError::Corrupt)?;
    if table.is_none() {
        *table = pages.table(location, &fetched);
    }
    Ok((fetched, pages.data()))
}

/// A share of the bytes that may wait for the writer, given back when dropped.
#[derive(Debug)]
struct QueuedBytes {
    shared: Arc<Shared>,
    bytes: u64,
}

impl QueuedBytes {
    fn try_take(shared: &Arc<Shared>, bytes: u64) -> Option<Self> {
        let before = shared.queued_bytes.fetch_add(bytes, Ordering::AcqRel);
        let taken = Self { shared: Arc::clone(shared), bytes };
        (before == 0 || before + bytes <= QUEUE_BYTES_MAX).then_some(taken)
    }
}

impl Drop for QueuedBytes {
    fn drop(&mut self) {
        self.shared.queued_bytes.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests;

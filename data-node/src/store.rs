//! Chunks on disk: append-only segments, one writer thread, an index in memory that is rebuilt at open.
//!
//! Invariant: a put or a delete that has been answered with success survives kill -9 and power loss, and no byte is
//! served that fails its checksum. Knows nothing of networks, capabilities or the cluster.

mod activity;
mod append;
mod check;
mod checksum;
mod compaction;
mod directory;
mod format;
mod index;
mod medium;
mod recovery;
mod scan;
mod scrub;
mod segment;
mod writer;

use std::{
    future::Future,
    io,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{SyncSender, TrySendError},
    },
    thread::JoinHandle,
};

use bytes::Bytes;
use thiserror::Error;
use tokio::sync::oneshot;
use uuid::Uuid;
use xdpfs_wire::{CHUNK_LEN_MAX, ChunkId};

pub(crate) use activity::Activity;
pub(crate) use check::check;
pub use check::{CheckError, FINDINGS_MAX, StoreReport};
pub(crate) use scrub::{Scrub, ScrubStep};

use crate::directory_lock::DirectoryLock;
use directory::Directory;
use format::SEGMENT_LEN_MAX;
use index::{Content, Index, Location};
use medium::{Disk, Medium};
use writer::{Op, Writer};

/// Operations that may wait for the writer.
const QUEUE_OPS_MAX: usize = 1024;
/// Bytes of chunks that may wait for the writer. One chunk is always let in, whatever its length.
const QUEUE_BYTES_MAX: u64 = 64 << 20;
/// Segments in a store that is full, at least: compaction needs several to choose from.
const SEGMENTS_MIN: u64 = 16;
/// A segment is no shorter than this, however small the store.
const SEGMENT_LEN_MIN: u64 = 64 << 10;

/// Where a store lies and how large it may grow.
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
    /// The length at which a segment is closed and the next begun. Lowered if the capacity is small.
    pub segment_bytes: u64,
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
            segment_bytes: 256 << 20,
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
    /// Places where records are damaged though later ones are whole. What was there must be repaired from replicas.
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
    lock: DirectoryLock,
}

/// What readers and the writer have in common. Only the writer changes the index, except for marking damage.
#[derive(Debug)]
struct Shared {
    directory: Directory,
    medium: Arc<dyn Medium>,
    node_uuid: [u8; 16],
    index: RwLock<Index>,
    limits: Limits,
    /// Set at the first error of the disk and never cleared: what the kernel's cache holds then is unknown.
    fenced: AtomicBool,
    queued_bytes: AtomicU64,
    activity: Activity,
}

/// Sizes that hold for a store as long as it is open.
#[derive(Clone, Copy, Debug)]
struct Limits {
    capacity: u64,
    reserve: u64,
    segment: u64,
}

impl Store {
    /// Opens the store, and repairs what a crash has left. Blocks.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(config: &StoreConfig) -> Result<(Self, Recovery), OpenError> {
        Self::open_on(config, Arc::new(Disk))
    }

    fn open_on(config: &StoreConfig, medium: Arc<dyn Medium>) -> Result<(Self, Recovery), OpenError> {
        let io_error = |source| OpenError::Io { directory: config.directory.clone(), source };
        let directory = Directory::open(&config.directory).map_err(io_error)?;
        let lock = DirectoryLock::try_acquire(directory.path())
            .map_err(io_error)?
            .ok_or_else(|| OpenError::Locked { directory: config.directory.clone() })?;
        let total = medium.room(directory.file()).map_err(io_error)?.total;
        let node_uuid = *config.node_uuid.as_bytes();
        let recovered = recovery::recover(&directory, node_uuid)?;
        let report = recovered.report;
        let shared = Arc::new(Shared {
            directory,
            medium,
            node_uuid,
            index: RwLock::new(recovered.index),
            limits: Limits::of(config, total),
            fenced: AtomicBool::new(false),
            queued_bytes: AtomicU64::new(0),
            activity: Activity::default(),
        });
        let (queue, ops) = std::sync::mpsc::sync_channel(QUEUE_OPS_MAX);
        let writer = Writer::new(Arc::clone(&shared), recovered.tail).spawn(ops).map_err(io_error)?;
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
        let location = index.chunk(chunk).filter(|location| !location.damaged)?;
        Some(ChunkInfo { length: location.length, crc: location.crc })
    }

    /// Fills `out` with the bytes from `offset` on. Blocks on the disk; only the pages that the range touches are
    /// read and checked.
    ///
    /// # Errors
    /// See [`ReadError`]; `out` then holds nothing of worth.
    pub fn read(&self, chunk: ChunkId, offset: u32, out: &mut [u8]) -> Result<(), ReadError> {
        let shared = &self.inner.shared;
        let found = {
            let index = shared.index();
            let location = index.chunk(chunk).copied().ok_or(ReadError::NotFound)?;
            (location, index.segment(location.segment).cloned())
        };
        let (location, Some(segment)) = found else {
            return Err(ReadError::NotFound);
        };
        if location.damaged {
            return Err(ReadError::Corrupt);
        }
        let result = segment.read(location.chunk_extent(), offset, out);
        if result == Err(ReadError::Corrupt) {
            tracing::warn!(%chunk, segment = segment.id.0, "chunk is damaged on the disk");
            shared.note_damage(chunk, &location);
        }
        if result.is_ok() {
            shared.activity.note_read(out.len());
        }
        result
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
    pub(crate) fn activity(&self) -> &Activity {
        &self.inner.shared.activity
    }

    /// A walk through the store that checks all it serves, from the segment of this number on.
    pub(crate) fn scrub(&self, from: u32) -> Scrub {
        Scrub::new(&self.inner.shared, from)
    }

    /// At most `limit` chunks from `from` on, ascending.
    #[must_use]
    pub fn chunk_ids(&self, from: ChunkId, limit: usize) -> Vec<ChunkId> {
        self.inner.shared.index().chunk_ids(from).take(limit).collect()
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
            let directory = self.directory.path().display();
            tracing::error!(%directory, %error, "the disk failed; no chunk is taken from here on");
        }
    }

    /// The chunk is out of service until it is written again. Gives whether it was in service.
    fn note_damage(&self, chunk: ChunkId, location: &Location) -> bool {
        let is_news = self.index_mut().mark_damaged(chunk, location);
        if is_news {
            self.activity.note_damage();
        }
        is_news
    }

    fn usage(&self) -> Usage {
        let (used_bytes, chunks) = {
            let index = self.index();
            (index.used(), index.chunk_count())
        };
        let available = match self.medium.room(self.directory.file()) {
            Ok(room) => room.available.saturating_sub(self.limits.reserve),
            Err(error) => {
                tracing::warn!(%error, "the free space of the file system is unknown");
                0
            }
        };
        let free_bytes = self.limits.capacity.saturating_sub(used_bytes).min(available);
        Usage { capacity_bytes: self.limits.capacity, used_bytes, free_bytes, chunks }
    }
}

impl Limits {
    fn of(config: &StoreConfig, file_system_bytes: u64) -> Self {
        let capacity = config.capacity_bytes.unwrap_or(file_system_bytes);
        let segment_max = (capacity / SEGMENTS_MIN).clamp(SEGMENT_LEN_MIN, SEGMENT_LEN_MAX / 2);
        Self {
            capacity,
            reserve: config.reserve_bytes.min(capacity / SEGMENTS_MIN),
            segment: config.segment_bytes.clamp(SEGMENT_LEN_MIN, segment_max),
        }
    }
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

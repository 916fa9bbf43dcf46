//! What a server must not forget: its identity, its vote, its log and its newest snapshot.
//!
//! Invariant: everything staged before one `sync` becomes durable together or not at all. Knows neither what entries
//! mean nor how consensus works. Any failed write is final: the caller ends the process.

mod journal;
#[cfg(test)]
pub(crate) mod memory_store;
mod record;
mod sled_store;

use bytes::Bytes;
use raft::eraftpb::{ConfState, Entry, HardState};

pub use self::sled_store::SledStore;

/// Bytes of a snapshot in one stored part. A whole sled leaf of parts stays below a quarter of a segment, so that sled
/// never moves a value into a separate file that it does not sync.
pub const PART_LEN_MAX: usize = 32 << 10;

/// Who a data directory belongs to.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Identity {
    /// The Raft id that votes and acknowledgements were given under.
    pub raft_id: u64,
    /// Empty until the cluster has agreed on one.
    pub cluster_id: String,
    /// The voters that the cluster was made of.
    pub voters: Vec<u64>,
}

/// A place in the log: an index and the term of its entry.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub struct LogPosition {
    /// The index; zero is before the first entry.
    pub index: u64,
    /// The term of the entry there.
    pub term: u64,
}

/// A snapshot that is wholly stored.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SnapshotMeta {
    /// Tells the parts of one snapshot from those of another; rises.
    pub generation: u64,
    /// The last entry that the state includes.
    pub position: LogPosition,
    /// Who took part in consensus there.
    pub conf_state: ConfState,
    /// Stored parts; all but the last one hold [`PART_LEN_MAX`] bytes.
    pub parts: u32,
    /// Bytes in all parts.
    pub total_bytes: u64,
    /// CRC32C over all of them.
    pub crc32c: u32,
}

impl SnapshotMeta {
    /// As bytes, to be decoded by this server.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        record::encode_snapshot(self)
    }

    /// The inverse of [`SnapshotMeta::encode`].
    ///
    /// # Errors
    ///
    /// The bytes are something else.
    pub fn decode(bytes: &[u8]) -> Result<Self, StoreError> {
        record::decode_snapshot(bytes)
    }
}

/// One change to the store. Changes take effect in the order in which they are staged.
#[derive(Clone, Debug)]
pub enum Change {
    /// Append, and forget entries at the same and at later indexes.
    Append(Vec<Entry>),
    /// Forget entries up to and with this one.
    Compact(LogPosition),
    /// Forget the parts of a snapshot.
    DropSnapshot {
        /// Which one.
        generation: u64,
        /// How many parts it has at most.
        parts: u32,
    },
    /// Replace term, vote and commit.
    HardState(HardState),
    /// Say who the directory belongs to.
    Identity(Identity),
    /// Make a stored snapshot of another server the newest one, and start the log behind it.
    Install(SnapshotMeta),
    /// Make a stored snapshot of this server the newest one. The log stays.
    Snapshot(SnapshotMeta),
    /// Store a part of a snapshot that has yet to become the newest one.
    SnapshotPart {
        /// Which one.
        generation: u64,
        /// Which part.
        part: u32,
        /// At most [`PART_LEN_MAX`] bytes.
        data: Bytes,
    },
}

/// Everything that a store held when it was opened.
#[derive(Clone, Debug, Default)]
pub struct Recovered {
    /// None: the directory is new.
    pub identity: Option<Identity>,
    /// Term, vote and commit.
    pub hard_state: HardState,
    /// The entry before the first one in `entries`.
    pub compacted: LogPosition,
    /// The log, without gaps.
    pub entries: Vec<Entry>,
    /// The newest snapshot.
    pub snapshot: Option<SnapshotMeta>,
}

/// Why a store cannot be opened or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The medium failed.
    #[error("the store failed")]
    Sled(#[from] sled::Error),
    /// The file system failed.
    #[error("the file system failed")]
    Io(#[from] std::io::Error),
    /// What is stored is not what was written.
    #[error("the store is damaged: {what}; restore the server from a fresh directory under a new id")]
    Damaged {
        /// What was found.
        what: String,
    },
    /// A record was written by a later release.
    #[error(
        "a record has format version {version}, and this program knows version {known}: start the later release that \
         wrote it; if there was none, the store is damaged"
    )]
    Version {
        /// The record's.
        version: u8,
        /// This program's.
        known: u8,
    },
}

/// Durable storage of one server; one thread writes it.
pub trait LogStore: Send + 'static {
    /// Where parts of stored snapshots are read from, by any thread.
    type Snapshots: SnapshotSource;

    /// Adds a change to the next [`LogStore::sync`].
    fn stage(&mut self, change: Change);

    /// Makes everything staged so far durable, in one step.
    ///
    /// # Errors
    ///
    /// After an error nothing is known about what is durable: the process must end.
    fn sync(&mut self) -> Result<(), StoreError>;

    /// A handle to read snapshots with.
    fn snapshots(&self) -> Self::Snapshots;
}

/// Reads parts of stored snapshots.
pub trait SnapshotSource: Clone + Send + Sync + 'static {
    /// One part, or `None` if the snapshot is gone.
    ///
    /// # Errors
    ///
    /// The medium failed, or the part is damaged.
    fn part(&self, generation: u64, part: u32) -> Result<Option<Bytes>, StoreError>;
}

/// CRC32C, as everywhere in xdpfs.
#[must_use]
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(bytes)
}

/// The CRC32C of all parts, one behind the other. To combine the checksums of two takes microseconds.
pub(crate) fn crc32c_of<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> u32 {
    let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
    parts.into_iter().for_each(|part| digest.update(part));
    digest.finalize() as u32
}

/// The CRC32C of two pieces of bytes behind each other.
#[must_use]
pub fn crc32c_combine(first: u32, second: u32, second_len: u64) -> u32 {
    let algorithm = crc_fast::CrcAlgorithm::Crc32Iscsi;
    crc_fast::checksum_combine(algorithm, first.into(), second.into(), second_len) as u32
}

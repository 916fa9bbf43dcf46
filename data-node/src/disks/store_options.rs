//! What the stores of a node's disks may take, and how they work.

use std::{fmt, num::NonZeroU64, path::PathBuf};

use clap::ValueEnum;
use uuid::Uuid;

use crate::store::{IoWanted, ReadAheadLimits, StoreConfig};

/// How a disk is reached.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
pub enum IoChoice {
    /// Past the kernel's cache and by io_uring, or as near to that as the system allows
    #[default]
    Auto,
    /// Past the kernel's cache if the file system allows, by plain calls
    Direct,
    /// Through the kernel's cache, by plain calls
    Buffered,
}

impl fmt::Display for IoChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Direct => "direct",
            Self::Buffered => "buffered",
        })
    }
}

/// Settings of all stores of a node.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct StoreOptions {
    /// Bytes that chunks may take on each disk; all of its file system but a reserve if not given.
    pub capacity_bytes: Option<u64>,
    /// Memory for pages of chunks, for all disks together.
    pub cache_bytes: u64,
    /// Bytes that are read ahead of a client that reads straight on, at most.
    pub read_ahead_bytes: u32,
    /// Bytes that compaction copies in a second on each disk; as many as it can if not given.
    pub compaction_rate: Option<NonZeroU64>,
    /// Chunks and deletions that one durable write takes.
    pub batch_ops: usize,
    /// Bytes at which one durable write takes no more chunks.
    pub batch_bytes: u64,
    /// How disks are reached.
    pub io: IoChoice,
}

impl Default for StoreOptions {
    fn default() -> Self {
        let usual = StoreConfig::new(PathBuf::new(), Uuid::nil());
        Self {
            capacity_bytes: usual.capacity_bytes,
            cache_bytes: usual.cache_bytes,
            read_ahead_bytes: usual.read_ahead.window_bytes_max,
            compaction_rate: usual.compaction_rate,
            batch_ops: usual.batch_ops,
            batch_bytes: usual.batch_bytes,
            io: IoChoice::default(),
        }
    }
}

impl StoreOptions {
    /// For the store in `directory`, one of so many.
    pub(super) fn of_disk(&self, directory: PathBuf, node_uuid: Uuid, disks: usize) -> StoreConfig {
        let usual = StoreConfig::new(directory, node_uuid);
        StoreConfig {
            capacity_bytes: self.capacity_bytes,
            cache_bytes: self.cache_bytes / disks.max(1) as u64,
            read_ahead: ReadAheadLimits { window_bytes_max: self.read_ahead_bytes, ..usual.read_ahead },
            compaction_rate: self.compaction_rate,
            batch_ops: self.batch_ops,
            batch_bytes: self.batch_bytes,
            io: IoWanted { direct: self.io != IoChoice::Buffered, ring: self.io == IoChoice::Auto },
            ..usual
        }
    }
}

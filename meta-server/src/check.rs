//! Whether the data directory of a server that does not run is whole.
//!
//! Invariant: everything is read that a server would read, and what no server reads before it needs it: every part of
//! the snapshot, and every entry of the log up to what is known to be agreed on, applied as a server would.

use std::{
    io,
    path::{Path, PathBuf},
};

use crate::{
    config::ConsensusConfig,
    consensus::{self, Bootstrap, StartError},
    directory_lock::DirectoryLock,
    server::STORE,
    state_machine::State,
    storage::{LogStore as _, SledStore, StoreError},
};

/// Why a store is no good, or can't be looked at.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckError {
    /// The directory can't be read.
    #[error("{} cannot be read", .directory.display())]
    Directory {
        /// Which one.
        directory: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No server was ever here.
    #[error("{} holds no store of a metadata server", .directory.display())]
    Empty {
        /// Which one.
        directory: PathBuf,
    },
    /// A server runs on it.
    #[error("{} is in use: stop the server first", .directory.display())]
    InUse {
        /// Which one.
        directory: PathBuf,
    },
    /// No server could go on from what is stored.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The store is damaged.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What a store holds.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct StoreReport {
    /// The server that it belongs to.
    pub id: u64,
    /// The cluster that it belongs to; empty before there is one.
    pub cluster_id: String,
    /// The servers that vote.
    pub voters: Vec<u64>,
    /// The latest term that it knows.
    pub term: u64,
    /// Entries up to this one are known to be agreed on.
    pub commit_index: u64,
    /// The last entry of the log.
    pub last_index: u64,
    /// The last entry that the snapshot includes; zero without a snapshot.
    pub snapshot_index: u64,
    /// Bytes of the snapshot.
    pub snapshot_bytes: u64,
    /// Buckets, at `commit_index`.
    pub buckets: u64,
    /// Objects, at `commit_index`.
    pub objects: u64,
    /// Bytes of these objects.
    pub object_bytes: u64,
    /// Older versions of objects, at `commit_index`.
    pub older_versions: u64,
    /// Equal on servers that have the same state at the same index.
    pub digest: u32,
}

/// Reads all of the store in `directory`, the data directory of a server that does not run. Blocks.
///
/// # Errors
///
/// See [`CheckError`].
pub fn check_store(directory: &Path) -> Result<StoreReport, CheckError> {
    let named = || directory.to_owned();
    if !directory.join(STORE).join("db").exists() {
        return Err(CheckError::Empty { directory: named() });
    }
    let _lock = DirectoryLock::try_acquire(directory)
        .map_err(|source| CheckError::Directory { directory: named(), source })?
        .ok_or_else(|| CheckError::InUse { directory: named() })?;
    let (store, recovered) = SledStore::open(&directory.join(STORE))?;
    let identity = recovered.identity.clone().ok_or_else(|| CheckError::Empty { directory: named() })?;
    let state = match &recovered.snapshot {
        Some(meta) => consensus::load_snapshot(&store.snapshots(), meta)?,
        None => State::default(),
    };
    let (term, snapshot) = (recovered.hard_state.term, recovered.snapshot.clone().unwrap_or_default());
    let last_index = recovered.compacted.index + recovered.entries.len() as u64;
    let config = ConsensusConfig::default();
    let bootstrap = Bootstrap { recovered, identity: identity.clone(), config };
    let (state, commit_index) = consensus::replay(bootstrap, state)?;
    let configuration = state.members().configuration();
    let voters: Vec<u64> = configuration.voters.iter().copied().collect();
    Ok(StoreReport {
        id: identity.raft_id,
        cluster_id: identity.cluster_id,
        voters: if voters.is_empty() { identity.voters } else { voters },
        term,
        commit_index,
        last_index,
        snapshot_index: snapshot.position.index,
        snapshot_bytes: snapshot.total_bytes,
        buckets: state.bucket_count() as u64,
        objects: state.object_count() as u64,
        object_bytes: state.object_bytes(),
        older_versions: state.older_version_count(),
        digest: state.digest(),
    })
}

//! Whether the data directory of a server that does not run is whole.
//!
//! Invariant: everything is read that a server would read, and what no server reads before it needs it: every part of
//! the snapshot, and every entry of the log up to what is known to be agreed on, applied as a server would.

use std::{
    io,
    path::{Path, PathBuf},
};

use bytes::BytesMut;

use crate::{
    consensus,
    directory_lock::DirectoryLock,
    server::STORE,
    state_machine::{SnapshotError, State},
    storage::{LogStore as _, Recovered, SledStore, SnapshotMeta, SnapshotSource, StoreError, crc32c},
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
    /// The snapshot is whole and means nothing.
    #[error("the snapshot makes no sense")]
    Snapshot(#[from] SnapshotError),
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
    let mut state = match &recovered.snapshot {
        Some(meta) => read_snapshot(&store.snapshots(), meta)?,
        None => State::default(),
    };
    let commit_index = replay(&mut state, &recovered);
    let snapshot = recovered.snapshot.unwrap_or_default();
    Ok(StoreReport {
        id: identity.raft_id,
        cluster_id: identity.cluster_id,
        voters: if snapshot.voters.is_empty() { identity.voters } else { snapshot.voters },
        term: recovered.hard_state.term,
        commit_index,
        last_index: recovered.compacted.index + recovered.entries.len() as u64,
        snapshot_index: snapshot.position.index,
        snapshot_bytes: snapshot.total_bytes,
        buckets: state.bucket_count() as u64,
        objects: state.object_count() as u64,
        object_bytes: state.object_bytes(),
        digest: state.digest(),
    })
}

fn read_snapshot(source: &impl SnapshotSource, meta: &SnapshotMeta) -> Result<State, CheckError> {
    let mut bytes = BytesMut::new();
    for part in 0..meta.parts {
        let damaged = || StoreError::Damaged { what: format!("part {part} of the snapshot is missing") };
        bytes.extend_from_slice(&source.part(meta.generation, part)?.ok_or_else(damaged)?);
    }
    if (bytes.len() as u64, crc32c(&bytes)) != (meta.total_bytes, meta.crc32c) {
        let what = "the snapshot's parts are not those that it was made of".to_owned();
        return Err(StoreError::Damaged { what }.into());
    }
    Ok(State::decode(bytes.freeze())?)
}

/// Applies what is agreed on, and gives the last such entry.
fn replay(state: &mut State, recovered: &Recovered) -> u64 {
    let applied = recovered.snapshot.as_ref().map_or(0, |meta| meta.position.index);
    let commit = recovered.hard_state.commit.max(applied);
    for entry in recovered.entries.iter().filter(|entry| (applied + 1..=commit).contains(&entry.index)) {
        consensus::apply(state, entry);
    }
    commit
}

//! A data directory that goes on from a backup, for each server of a new cluster.
//!
//! Invariant: the directory was empty before, and holds everything when it holds anything: the last step is one sync of
//! identity, snapshot and vote. Servers that restore the same backup hold the same state at the same place in the log.

use std::{fs, io, path::PathBuf};

use bytes::Bytes;
use raft::eraftpb::{ConfState, HardState};
use xdpfs_proto::backup::v1::BackupHeader;

use crate::{
    config::{Config, ConfigError, Member},
    directory_lock::DirectoryLock,
    server::STORE,
    state_machine::{MEMBERS_MAX, State, restored_index},
    storage::{
        Change, Identity, LogPosition, LogStore, PART_LEN_MAX, SledStore, SnapshotMeta, StoreError, crc32c,
        crc32c_combine,
    },
};

/// The term in which the log of a new cluster begins.
const FIRST_TERM: u64 = 1;
/// Parts of the state that are made durable at once.
const PARTS_PER_SYNC: u32 = 256;

/// Why a backup is not restored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// The members make no sense.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The directory can't be used.
    #[error("the data directory {} cannot be used", .directory.display())]
    Directory {
        /// Which one.
        directory: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The members can't be those of a cluster.
    #[error("a cluster has 1 to {MEMBERS_MAX} metadata servers, with addresses of at most 256 bytes")]
    Members,
    /// There is something that would be lost.
    #[error("the data directory {} is not empty: name a new one, or move away what is there", .directory.display())]
    NotEmpty {
        /// Which one.
        directory: PathBuf,
    },
    /// The store can't be written.
    #[error("the store cannot be written")]
    Store(#[from] StoreError),
}

/// Makes the data directory of `config`'s own member, as if it had been a server of a cluster with this state. Blocks.
///
/// # Errors
///
/// See [`RestoreError`]. After [`RestoreError::Store`] the directory is of no use.
pub fn restore(config: &Config, header: &BackupHeader, state: State) -> Result<(), RestoreError> {
    config.check()?;
    let directory = || config.data_dir.clone();
    let unusable = |source| RestoreError::Directory { directory: directory(), source };
    fs::create_dir_all(&config.data_dir).map_err(unusable)?;
    if fs::read_dir(&config.data_dir).map_err(unusable)?.next().is_some() {
        return Err(RestoreError::NotEmpty { directory: directory() });
    }
    // Just made, so that nobody else has it.
    let _lock = DirectoryLock::try_acquire(&config.data_dir)
        .map_err(unusable)?
        .ok_or_else(|| RestoreError::NotEmpty { directory: directory() })?;
    let members = config.members.iter().map(Member::record);
    let state = state.restored(members).ok_or(RestoreError::Members)?;
    let cluster_id = state.cluster_id().to_owned();
    let pieces = state.encode(PART_LEN_MAX);
    let position = LogPosition { index: restored_index(header.applied_index), term: FIRST_TERM };
    let (mut store, _) = SledStore::open(&config.data_dir.join(STORE))?;
    let conf_state = ConfState::from((config.voters(), Vec::new()));
    let meta = stage_snapshot(&mut store, position, conf_state, pieces)?;
    store.stage(Change::Install(meta));
    store.stage(Change::HardState(HardState {
        term: FIRST_TERM,
        commit: position.index,
        ..HardState::default()
    }));
    store.stage(Change::Identity(Identity { raft_id: config.id, cluster_id, voters: config.voters() }));
    Ok(store.sync()?)
}

/// Stores the parts; they count once the store is told so.
fn stage_snapshot(
    store: &mut SledStore,
    position: LogPosition,
    conf_state: ConfState,
    pieces: Vec<Bytes>,
) -> Result<SnapshotMeta, StoreError> {
    let mut meta = SnapshotMeta { generation: 1, position, conf_state, ..SnapshotMeta::default() };
    for data in pieces {
        meta.total_bytes += data.len() as u64;
        meta.crc32c = crc32c_combine(meta.crc32c, crc32c(&data), data.len() as u64);
        let (generation, part) = (meta.generation, meta.parts);
        store.stage(Change::SnapshotPart { generation, part, data });
        meta.parts += 1;
        if meta.parts.is_multiple_of(PARTS_PER_SYNC) {
            store.sync()?;
        }
    }
    Ok(meta)
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;
    use crate::check_store;

    fn config(directory: &TempDir) -> Config {
        let member = |id| Member {
            id,
            peer_address: format!("127.0.0.1:{id}"),
            client_address: format!("127.0.0.2:{id}"),
        };
        Config::new(2, vec![member(1), member(2), member(3)], directory.path().join("data"))
    }

    #[test]
    fn restored_directory_is_a_members() {
        let directory = TempDir::new().unwrap();
        let config = config(&directory);
        let header = BackupHeader { applied_index: 5, ..Default::default() };
        restore(&config, &header, State::default()).unwrap();
        let report = check_store(&config.data_dir).unwrap();
        assert_eq!((report.id, &report.voters[..]), (2, &[1, 2, 3][..]));
        assert_eq!(report.commit_index, restored_index(5));
        let error = restore(&config, &header, State::default()).unwrap_err();
        assert!(matches!(error, RestoreError::NotEmpty { .. }), "{error}");
    }
}

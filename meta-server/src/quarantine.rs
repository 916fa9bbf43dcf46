//! What becomes of a store that is damaged.
//!
//! Invariant: it is moved aside only if the operator has said so, nothing of it is deleted, and whoever opens the
//! directory next finds it empty: it never votes again.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use crate::{
    consensus::{StartError, load_snapshot},
    state_machine::State,
    storage::{LogStore as _, Recovered, SledStore, StoreError},
};

/// Damaged stores that one directory may hold.
const KEPT_MAX: u32 = 1000;

/// Opens a store, and moves it aside first if it is damaged and the operator has said so.
///
/// # Errors
///
/// It cannot be opened.
pub(crate) fn open(store: &Path, may_move: bool) -> Result<(SledStore, Recovered), StoreError> {
    let error = match open_whole(store, may_move) {
        Ok(opened) => return Ok(opened),
        Err(error) => error,
    };
    if !may_move || !is_damage(&error) {
        return Err(error);
    }
    let aside = move_aside(store)?;
    tracing::error!(
        error = &error as &dyn std::error::Error,
        moved_to = %aside.display(),
        "the store is damaged and was moved aside: this server joins anew, under a new id; its old id stays a member until \
         somebody removes it, see xdpfs-cli meta list"
    );
    SledStore::open(store)
}

/// Where the store is to be given up if it is damaged, all of it is looked at before anybody is asked for a new id.
fn open_whole(store: &Path, all_of_it: bool) -> Result<(SledStore, Recovered), StoreError> {
    let (opened, recovered) = SledStore::open(store)?;
    if let Some(meta) = recovered.snapshot.as_ref().filter(|_| all_of_it) {
        match load_snapshot(&opened.snapshots(), meta) {
            Ok(State { .. }) => {}
            Err(StartError::Store(error)) => return Err(error),
            Err(error) => return Err(StoreError::Damaged { what: error.to_string() }),
        }
    }
    Ok((opened, recovered))
}

/// Whether what was read is wrong. A disk that gives no answer may give it tomorrow.
fn is_damage(error: &StoreError) -> bool {
    match error {
        StoreError::Damaged { .. } => true,
        StoreError::Sled(error) => matches!(error, sled::Error::Corruption { .. }),
        // What a later release has written is in order.
        StoreError::Io(_) | StoreError::Version { .. } => false,
    }
}

fn move_aside(store: &Path) -> Result<PathBuf, StoreError> {
    let name = store.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let aside = |number: u32| store.with_file_name(format!("{name}.damaged-{number}"));
    let free = (1..=KEPT_MAX).map(aside).find(|path| !path.exists());
    let free = free.ok_or_else(|| io::Error::other("there are too many damaged stores: remove some"))?;
    fs::rename(store, &free)?;
    if let Some(parent) = store.parent() {
        File::open(parent)?.sync_all()?;
    }
    Ok(free)
}

#[cfg(test)]
mod tests {
    use raft::eraftpb::HardState;
    use tempfile::TempDir;

    use super::*;
    use crate::storage::{Change, Identity};

    /// A store that says that more was committed than it holds.
    fn damaged(directory: &TempDir) -> PathBuf {
        let path = directory.path().join("store");
        let (mut store, _) = SledStore::open(&path).unwrap();
        store.stage(Change::Identity(Identity { raft_id: 2, ..Identity::default() }));
        store.stage(Change::HardState(HardState { term: 3, commit: 7, ..HardState::default() }));
        store.sync().unwrap();
        path
    }

    #[test]
    fn damaged_store_is_moved_aside_only_if_somebody_says_so() {
        let directory = TempDir::new().unwrap();
        let path = damaged(&directory);
        assert!(matches!(open(&path, false), Err(StoreError::Damaged { .. })));
        let (store, recovered) = open(&path, true).unwrap();
        assert_eq!(recovered.identity, None, "it is not the server that it was");
        drop(store);
        assert!(directory.path().join("store.damaged-1/db").exists());
    }

    #[test]
    fn store_that_is_whole_stays_where_it_is() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("store");
        let (mut store, _) = SledStore::open(&path).unwrap();
        store.stage(Change::Identity(Identity { raft_id: 2, ..Identity::default() }));
        store.sync().unwrap();
        drop(store);
        let (_, recovered) = open(&path, true).unwrap();
        assert_eq!(recovered.identity.unwrap().raft_id, 2);
    }

    #[test]
    fn nothing_that_was_moved_aside_is_overwritten() {
        let directory = TempDir::new().unwrap();
        for count in 1..=3 {
            let path = damaged(&directory);
            drop(open(&path, true).unwrap());
            assert!(directory.path().join(format!("store.damaged-{count}")).exists());
            fs::remove_dir_all(path).unwrap();
        }
    }
}

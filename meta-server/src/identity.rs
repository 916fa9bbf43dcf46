//! Whether the store is the one that this server may vote with.
//!
//! Invariant: a server votes only under the id that its store has voted under before. An empty store is taken for a
//! new one only if the operator says so, because it may be all that is left of one that has voted.

use std::path::PathBuf;

use crate::{
    config::Config,
    storage::{Change, Identity, LogStore, StoreError},
};

/// Why a server may not use its data directory.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// It holds nothing, and nobody says that it is new.
    #[error(
        "the data directory {} is empty: if this cluster has never run, start all its servers with --bootstrap; if this \
         server has lost its store, it must not come back under its old id {id}", .directory.display()
    )]
    Empty {
        /// Where.
        directory: PathBuf,
        /// Which server is configured.
        id: u64,
    },
    /// It is another server's.
    #[error("the data directory {} belongs to server {stored}, not to server {configured}", .directory.display())]
    OtherServer {
        /// Where.
        directory: PathBuf,
        /// Whose it is.
        stored: u64,
        /// Which server is configured.
        configured: u64,
    },
    /// It was made for other members.
    #[error(
        "the data directory {} belongs to a cluster of the servers {stored:?}, and the configuration names \
         {configured:?}", .directory.display()
    )]
    OtherMembers {
        /// Where.
        directory: PathBuf,
        /// Who the members were.
        stored: Vec<u64>,
        /// Who the members are said to be.
        configured: Vec<u64>,
    },
    /// The identity of a new server could not be stored.
    #[error("the identity of a new server cannot be stored")]
    Store(#[from] StoreError),
}

/// The identity to go on with: the stored one if it fits the configuration, or a new one, made durable here before
/// anything can vote.
pub(crate) fn establish(
    config: &Config,
    store: &mut impl LogStore,
    stored: Option<Identity>,
) -> Result<Identity, IdentityError> {
    let Some(stored) = stored else {
        return begin(config, store);
    };
    let directory = config.data_dir.clone();
    if stored.raft_id != config.id {
        let (stored, configured) = (stored.raft_id, config.id);
        return Err(IdentityError::OtherServer { directory, stored, configured });
    }
    let configured = config.voters();
    let mut members = stored.voters.clone();
    members.sort_unstable();
    if members != configured {
        return Err(IdentityError::OtherMembers { directory, stored: members, configured });
    }
    Ok(stored)
}

fn begin(config: &Config, store: &mut impl LogStore) -> Result<Identity, IdentityError> {
    if !config.bootstrap {
        return Err(IdentityError::Empty { directory: config.data_dir.clone(), id: config.id });
    }
    let identity = Identity { raft_id: config.id, cluster_id: String::new(), voters: config.voters() };
    store.stage(Change::Identity(identity.clone()));
    store.sync()?;
    Ok(identity)
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;
    use crate::{config::Member, storage::SledStore};

    fn config(id: u64, members: &[u64], bootstrap: bool) -> Config {
        let member = |id: &u64| Member {
            id: *id,
            peer_address: "127.0.0.1:1".into(),
            client_address: "127.0.0.1:2".into(),
        };
        Config { bootstrap, ..Config::new(id, members.iter().map(member).collect(), "dir".into()) }
    }

    fn establish_in(directory: &TempDir, config: &Config) -> Result<Identity, IdentityError> {
        let (mut store, recovered) = SledStore::open(directory.path()).unwrap();
        establish(config, &mut store, recovered.identity)
    }

    #[test]
    fn new_server_is_made_only_on_request_and_remembered() {
        let directory = TempDir::new().unwrap();
        let refused = establish_in(&directory, &config(1, &[1, 2, 3], false)).unwrap_err();
        assert!(matches!(refused, IdentityError::Empty { .. }), "{refused}");
        let made = establish_in(&directory, &config(1, &[1, 2, 3], true)).unwrap();
        assert_eq!(made.voters, [1, 2, 3]);
        assert_eq!(establish_in(&directory, &config(1, &[3, 2, 1], false)).unwrap(), made);
    }

    #[test]
    fn store_of_another_server_or_cluster_is_refused() {
        let directory = TempDir::new().unwrap();
        establish_in(&directory, &config(1, &[1, 2, 3], true)).unwrap();
        let refused = establish_in(&directory, &config(2, &[1, 2, 3], true)).unwrap_err();
        assert!(matches!(refused, IdentityError::OtherServer { stored: 1, configured: 2, .. }), "{refused}");
        let refused = establish_in(&directory, &config(1, &[1, 2, 4], true)).unwrap_err();
        assert!(matches!(refused, IdentityError::OtherMembers { .. }), "{refused}");
    }
}

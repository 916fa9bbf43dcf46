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
         server has lost its store, it must not come back under its old id {id}, but join anew: give --join and --address \
         instead of --id and --member", .directory.display()
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
    /// It holds nothing, and there is no cluster to join.
    #[error(
        "the data directory {} is empty, and there is no cluster to join: give --join ENDPOINT with the address of one \
         of its metadata servers", .directory.display()
    )]
    Nowhere {
        /// Where.
        directory: PathBuf,
    },
    /// The identity of a new server could not be stored.
    #[error("the identity of a new server cannot be stored")]
    Store(#[from] StoreError),
}

/// The identity to go on with: the stored one if it fits the configuration, or a new one, made durable here before
/// anything can vote. `joined` is what a cluster has given to a server with an empty directory.
///
/// Which members the configuration names is no part of it: the log says who they are, and has done so since the first
/// start.
pub(crate) fn establish(
    config: &Config,
    store: &mut impl LogStore,
    stored: Option<Identity>,
    joined: Option<Identity>,
) -> Result<Identity, IdentityError> {
    let Some(stored) = stored else {
        return begin(config, store, joined);
    };
    let directory = config.data_dir.clone();
    if config.id != 0 && stored.raft_id != config.id {
        let (stored, configured) = (stored.raft_id, config.id);
        return Err(IdentityError::OtherServer { directory, stored, configured });
    }
    Ok(stored)
}

fn begin(
    config: &Config,
    store: &mut impl LogStore,
    joined: Option<Identity>,
) -> Result<Identity, IdentityError> {
    let directory = || config.data_dir.clone();
    let identity = match joined {
        Some(joined) => joined,
        None if config.bootstrap => {
            Identity { raft_id: config.id, cluster_id: String::new(), voters: config.voters() }
        }
        None if config.id == 0 => return Err(IdentityError::Nowhere { directory: directory() }),
        None => return Err(IdentityError::Empty { directory: directory(), id: config.id }),
    };
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
        establish(config, &mut store, recovered.identity, None)
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
    }

    #[test]
    fn restart_with_another_list_of_members_is_no_other_cluster() {
        let directory = TempDir::new().unwrap();
        let made = establish_in(&directory, &config(1, &[1, 2, 3], true)).unwrap();
        assert_eq!(establish_in(&directory, &config(1, &[1, 2, 4], true)).unwrap(), made);
    }

    #[test]
    fn server_that_joins_is_whom_the_cluster_has_made_it_and_stays_that() {
        let directory = TempDir::new().unwrap();
        let nameless = config(0, &[0], false);
        let refused = establish_in(&directory, &nameless).unwrap_err();
        assert!(matches!(refused, IdentityError::Nowhere { .. }), "{refused}");
        let joined = |raft_id| Identity { raft_id, cluster_id: "c".into(), voters: vec![1, 2, 3] };
        let (mut store, recovered) = SledStore::open(directory.path()).unwrap();
        let made = establish(&nameless, &mut store, recovered.identity, Some(joined(7))).unwrap();
        assert_eq!(made, joined(7));
        drop(store);
        let (mut store, recovered) = SledStore::open(directory.path()).unwrap();
        let again = establish(&nameless, &mut store, recovered.identity, Some(joined(8))).unwrap();
        assert_eq!(again, joined(7));
    }
}

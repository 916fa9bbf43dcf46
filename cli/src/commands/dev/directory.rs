//! The directory of a cluster: who uses it, and what has to be the same again at the next start.

use std::{
    fs::File,
    io::{self, Write as _},
    net::SocketAddr,
    path::{Path, PathBuf},
};

use rustix::{fs::FlockOperation, io::Errno};
use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;

use super::SERVERS;
use crate::failure::Failure;

/// The file that is locked.
const LOCK_FILE: &str = "LOCK";
/// The file that holds [`Memory`].
const MEMORY_FILE: &str = "dev.json";

/// What is remembered from one start to the next.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Memory {
    /// Whether the cluster has ever been ready: from then on, every server has something to lose.
    pub(super) has_been_ready: bool,
    /// Addresses of the metadata servers.
    pub(super) meta_servers: Vec<MetaAddresses>,
    /// Addresses of the data nodes.
    pub(super) data_nodes: Vec<SocketAddr>,
}

/// Addresses of one metadata server.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MetaAddresses {
    /// For clients and data nodes.
    pub(super) client: SocketAddr,
    /// For other metadata servers.
    pub(super) peer: SocketAddr,
}

/// A directory that this process alone uses. The kernel lets go of it even after kill -9.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    memory: Option<Memory>,
    _lock: File,
}

impl Directory {
    /// Makes the directory if it is not there, locks it, and reads what is remembered.
    pub(super) fn open(path: &Path) -> Result<Self, Failure> {
        let used = |error: &_| Failure::local(format_args!("use {}", path.display()), error);
        std::fs::create_dir_all(path).map_err(|error| used(&error))?;
        let lock = try_lock(path).map_err(|error| used(&error))?.ok_or_else(|| {
            Failure::machine(format!("{} is in use by another xdpfs-cli dev", path.display()))
                .with_hint("stop that one, or name another --data-dir")
        })?;
        let memory = read_memory(&path.join(MEMORY_FILE))?;
        Ok(Self { path: path.to_owned(), memory, _lock: lock })
    }

    /// What the last start has left, if there was one.
    pub(super) fn memory(&self) -> Option<&Memory> {
        self.memory.as_ref()
    }

    /// Where a metadata server keeps its data.
    pub(super) fn meta_server(&self, id: usize) -> PathBuf {
        self.path.join(format!("meta-{id}"))
    }

    /// Where a data node keeps its data.
    pub(super) fn data_node(&self, number: usize) -> PathBuf {
        self.path.join(format!("node-{number}"))
    }

    /// Whether the cluster is yet to begin. A directory that has lost a part is refused: a metadata server without
    /// its data must not vote again.
    pub(super) fn is_new(&self) -> Result<bool, Failure> {
        let exists = |id: &usize| self.meta_server(*id).exists();
        let has_begun = match &self.memory {
            Some(memory) => memory.has_been_ready,
            None => (1..=SERVERS).any(|id| exists(&id)),
        };
        let missing = (1..=SERVERS).find(|id| !exists(id));
        match missing {
            Some(id) if has_begun => {
                let message =
                    format!("{} is missing, which this cluster needs", self.meta_server(id).display());
                Err(Failure::machine(message).with_hint("bring it back, or start anew in another --data-dir"))
            }
            Some(_) | None => Ok(!has_begun),
        }
    }

    /// Keeps what the next start has to know. Whoever reads it finds all of it, whatever happens in between.
    pub(super) fn remember(&mut self, addresses: &Memory) -> Result<(), Failure> {
        let has_been_ready =
            addresses.has_been_ready || self.memory.as_ref().is_some_and(|was| was.has_been_ready);
        let memory = Memory { has_been_ready, ..addresses.clone() };
        if self.memory.as_ref() == Some(&memory) {
            return Ok(());
        }
        let file = self.path.join(MEMORY_FILE);
        write_memory(&self.path, &file, &memory)
            .map_err(|error| Failure::local(format_args!("write {}", file.display()), &error))?;
        self.memory = Some(memory);
        Ok(())
    }
}

fn try_lock(directory: &Path) -> io::Result<Option<File>> {
    let file = File::options().create(true).truncate(false).write(true).open(directory.join(LOCK_FILE))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn read_memory(file: &Path) -> Result<Option<Memory>, Failure> {
    let text = match std::fs::read(file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Failure::local(format_args!("read {}", file.display()), &error)),
    };
    serde_json::from_slice(&text).map(Some).map_err(|error| {
        Failure::machine(format!("{} makes no sense: {error}", file.display()))
            .with_hint("remove the file: only the addresses of the servers are forgotten with it")
    })
}

fn write_memory(directory: &Path, file: &Path, memory: &Memory) -> io::Result<()> {
    let mut draft = NamedTempFile::new_in(directory)?;
    serde_json::to_writer_pretty(&mut draft, memory)?;
    draft.write_all(b"\n")?;
    draft.as_file().sync_data()?;
    draft.persist(file)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(has_been_ready: bool) -> Memory {
        let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
        Memory {
            has_been_ready,
            meta_servers: vec![MetaAddresses { client: address(1), peer: address(2) }],
            data_nodes: vec![address(3)],
        }
    }

    fn make_servers(root: &Path, ids: impl IntoIterator<Item = usize>) {
        ids.into_iter().for_each(|id| std::fs::create_dir(root.join(format!("meta-{id}"))).unwrap());
    }

    #[test]
    fn a_directory_has_one_user_at_a_time() {
        let root = tempfile::tempdir().unwrap();
        let first = Directory::open(root.path()).unwrap();
        let failure = Directory::open(root.path()).unwrap_err();
        assert!(failure.message.contains("in use by another"), "{failure:?}");
        drop(first);
        Directory::open(root.path()).unwrap();
    }

    #[test]
    fn what_is_remembered_is_there_at_the_next_start() {
        let root = tempfile::tempdir().unwrap();
        let mut directory = Directory::open(&root.path().join("new")).unwrap();
        assert_eq!(directory.memory(), None);
        directory.remember(&memory(true)).unwrap();
        // Addresses may change; that the cluster has run does not.
        directory.remember(&memory(false)).unwrap();
        drop(directory);
        let directory = Directory::open(&root.path().join("new")).unwrap();
        assert_eq!(directory.memory(), Some(&memory(true)));
        let names: Vec<_> = std::fs::read_dir(root.path().join("new")).unwrap().collect();
        assert_eq!(names.len(), 2, "{names:?}");
    }

    #[test]
    fn nonsense_in_the_memory_is_named() {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join(MEMORY_FILE), "{").unwrap();
        let failure = Directory::open(root.path()).unwrap_err();
        assert!(failure.message.contains(MEMORY_FILE), "{failure:?}");
    }

    #[test]
    fn a_cluster_begins_once() {
        let check = |memory: Option<Memory>, servers: &[usize], expect: Option<bool>| {
            let root = tempfile::tempdir().unwrap();
            make_servers(root.path(), servers.iter().copied());
            let mut directory = Directory::open(root.path()).unwrap();
            if let Some(memory) = &memory {
                directory.remember(memory).unwrap();
            }
            assert_eq!(directory.is_new().ok(), expect, "{memory:?} {servers:?}");
        };
        check(None, &[], Some(true));
        check(None, &[1, 2, 3], Some(false));
        check(None, &[1, 3], None);
        check(Some(memory(true)), &[1, 2, 3], Some(false));
        check(Some(memory(true)), &[2, 3], None);
        check(Some(memory(true)), &[], None);
        // It was stopped before it had ever been ready: nothing can have been stored yet.
        check(Some(memory(false)), &[1, 2, 3], Some(true));
        check(Some(memory(false)), &[1], Some(true));
    }
}

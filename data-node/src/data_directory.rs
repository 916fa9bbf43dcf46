//! Who the node is: the uuid made with its data directory, and the cluster that the directory belongs to.
//!
//! Invariant: what is read here once was durable before anybody was told of it. While open, the directory is locked.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use thiserror::Error;
use uuid::Uuid;

use crate::store::DirectoryLock;

const CLUSTER_ID_FILE: &str = "cluster-id";
const NODE_UUID_FILE: &str = "node-uuid";
pub(crate) const SEGMENTS_DIRECTORY: &str = "segments";

/// Why a data directory can't be used.
#[derive(Debug, Error)]
pub enum DirectoryError {
    /// A file of it doesn't hold what it should.
    #[error("{path} is damaged")]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// There is no place for one more node below it.
    #[error("all data directories below {path} are in use, and it takes no more of them")]
    Full {
        /// The directory that holds them.
        path: PathBuf,
    },
    /// The system refuses.
    #[error("{path} can't be used")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// Another data node runs on it.
    #[error("{path} is in use by another data node")]
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// It holds chunks of another cluster.
    #[error("{path} belongs to cluster {ours}, but the metadata servers are of cluster {theirs}")]
    WrongCluster {
        /// The directory.
        path: PathBuf,
        /// The cluster that the directory belongs to.
        ours: String,
        /// The cluster that answered.
        theirs: String,
    },
}

/// A data directory in use.
#[derive(Debug)]
pub(crate) struct DataDirectory {
    path: PathBuf,
    node_uuid: Uuid,
    cluster_id: Mutex<Option<String>>,
    #[expect(dead_code, reason = "held to keep others out")]
    lock: DirectoryLock,
}

impl DataDirectory {
    /// Opens the directory, and makes it, with a new node uuid, if it isn't there. Blocks.
    ///
    /// # Errors
    /// See [`DirectoryError`].
    pub(crate) fn open(path: &Path) -> Result<Self, DirectoryError> {
        let io_error = |source| DirectoryError::Io { path: path.to_owned(), source };
        fs::create_dir_all(path).map_err(io_error)?;
        let lock = DirectoryLock::try_acquire(path)
            .map_err(io_error)?
            .ok_or_else(|| DirectoryError::Locked { path: path.to_owned() })?;
        let node_uuid = match read_text(path, NODE_UUID_FILE)? {
            Some(line) => parse_uuid(path, &line)?,
            None => make_uuid(path)?,
        };
        let cluster_id = Mutex::new(read_text(path, CLUSTER_ID_FILE)?);
        Ok(Self { path: path.to_owned(), node_uuid, cluster_id, lock })
    }

    /// Where it is.
    #[must_use]
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The node's uuid, the same for the life of the directory.
    #[must_use]
    pub(crate) fn node_uuid(&self) -> Uuid {
        self.node_uuid
    }

    /// The cluster that the directory belongs to, if it has joined one.
    #[must_use]
    pub(crate) fn cluster_id(&self) -> Option<String> {
        self.cluster_id.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Where the chunk store lies.
    #[must_use]
    pub(crate) fn segments(&self) -> PathBuf {
        self.path.join(SEGMENTS_DIRECTORY)
    }

    /// Makes the directory belong to the cluster `theirs`, for life. Blocks.
    ///
    /// # Errors
    /// [`DirectoryError::WrongCluster`] if it belongs to another.
    pub(crate) fn join_cluster(&self, theirs: &str) -> Result<(), DirectoryError> {
        let mut cluster_id = self.cluster_id.lock().unwrap_or_else(PoisonError::into_inner);
        match cluster_id.as_deref() {
            Some(ours) if ours == theirs => Ok(()),
            Some(ours) => Err(DirectoryError::WrongCluster {
                path: self.path.clone(),
                ours: ours.to_owned(),
                theirs: theirs.to_owned(),
            }),
            None => {
                write_text(&self.path, CLUSTER_ID_FILE, theirs)?;
                *cluster_id = Some(theirs.to_owned());
                Ok(())
            }
        }
    }
}

/// The uuid of a directory that is only looked at; `None` if it has none.
pub(crate) fn read_node_uuid(directory: &Path) -> Result<Option<Uuid>, DirectoryError> {
    let line = read_text(directory, NODE_UUID_FILE)?;
    line.map(|line| parse_uuid(directory, &line)).transpose()
}

fn make_uuid(directory: &Path) -> Result<Uuid, DirectoryError> {
    let node_uuid = Uuid::new_v4();
    write_text(directory, NODE_UUID_FILE, &node_uuid.to_string())?;
    Ok(node_uuid)
}

fn parse_uuid(directory: &Path, line: &str) -> Result<Uuid, DirectoryError> {
    Uuid::parse_str(line).map_err(|_| DirectoryError::Damaged { path: directory.join(NODE_UUID_FILE) })
}

/// What the file holds, without the space around it; `None` if it isn't there.
pub(crate) fn read_text(directory: &Path, name: &str) -> Result<Option<String>, DirectoryError> {
    let path = directory.join(name);
    match fs::read_to_string(&path) {
        // A file comes into being by a rename, so an empty one is not the trace of a crash.
        Ok(text) if text.trim().is_empty() => Err(DirectoryError::Damaged { path }),
        Ok(text) => Ok(Some(text.trim().to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(DirectoryError::Damaged { path }),
        Err(source) => Err(DirectoryError::Io { path, source }),
    }
}

/// Writes the file so that after a crash it is either whole or not there.
pub(crate) fn write_text(directory: &Path, name: &str, text: &str) -> Result<(), DirectoryError> {
    let path = directory.join(name);
    let draft = directory.join(format!("{name}.draft"));
    let write = || {
        let mut file = File::create(&draft)?;
        writeln!(file, "{text}")?;
        file.sync_all()?;
        fs::rename(&draft, &path)?;
        File::open(directory)?.sync_all()
    };
    write().map_err(|source| DirectoryError::Io { path: path.clone(), source })
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    #[test]
    fn node_uuid_stays_with_the_directory() {
        let home = TempDir::new().unwrap();
        let first = DataDirectory::open(home.path()).unwrap().node_uuid();
        assert_eq!(DataDirectory::open(home.path()).unwrap().node_uuid(), first);
    }

    #[test]
    fn directory_of_another_cluster_is_refused() {
        let home = TempDir::new().unwrap();
        DataDirectory::open(home.path()).unwrap().join_cluster("red").unwrap();
        let directory = DataDirectory::open(home.path()).unwrap();
        assert_eq!(directory.cluster_id().as_deref(), Some("red"));
        directory.join_cluster("red").unwrap();
        let refused = directory.join_cluster("blue");
        assert!(matches!(refused, Err(DirectoryError::WrongCluster { .. })), "{refused:?}");
    }

    #[test]
    fn second_holder_is_refused() {
        let home = TempDir::new().unwrap();
        let _first = DataDirectory::open(home.path()).unwrap();
        let second = DataDirectory::open(home.path());
        assert!(matches!(second, Err(DirectoryError::Locked { .. })), "{second:?}");
    }

    #[test]
    fn damaged_uuid_is_named() {
        let home = TempDir::new().unwrap();
        for content in ["", "not a uuid\n"] {
            fs::write(home.path().join(NODE_UUID_FILE), content).unwrap();
            let opened = DataDirectory::open(home.path());
            assert!(matches!(opened, Err(DirectoryError::Damaged { .. })), "{content:?}: {opened:?}");
        }
    }
}

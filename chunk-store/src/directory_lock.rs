//! A lock on a directory that ends with its holder, however that ends.

use std::{fs::File, io, path::Path};

use rustix::{fs::FlockOperation, io::Errno};

/// The file that is locked.
pub const LOCK_FILE: &str = "LOCK";

/// Held as long as the directory is in use. `flock` belongs to the open file, so the kernel lets go of it even after
/// kill -9, and a second holder inside the same process is refused as well.
#[derive(Debug)]
pub struct DirectoryLock(#[expect(dead_code, reason = "closing the file unlocks it")] File);

impl DirectoryLock {
    /// Locks `directory`; `None` if somebody else holds it.
    ///
    /// # Errors
    /// If the directory isn't accessible.
    pub fn try_acquire(directory: &Path) -> io::Result<Option<Self>> {
        let file =
            File::options().create(true).truncate(false).write(true).open(directory.join(LOCK_FILE))?;
        Self::try_lock(file)
    }

    /// Locks `directory` without a change of it. `None` if it has never been locked, and `Some(None)` if somebody else holds
    /// it.
    ///
    /// # Errors
    /// If the directory isn't accessible.
    pub fn try_acquire_existing(directory: &Path) -> io::Result<Option<Option<Self>>> {
        match File::open(directory.join(LOCK_FILE)) {
            Ok(file) => Self::try_lock(file).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn try_lock(file: File) -> io::Result<Option<Self>> {
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Self(file))),
            Err(Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

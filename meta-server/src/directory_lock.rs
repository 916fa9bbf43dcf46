//! A lock on a data directory that ends with its holder, however that ends.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::Path,
};

/// The file that is locked.
const LOCK_FILE: &str = "LOCK";

/// Held as long as the directory is in use. The kernel lets go of it even after kill -9, and a second holder inside
/// the same process is refused as well.
#[derive(Debug)]
pub(crate) struct DirectoryLock(#[expect(dead_code, reason = "closing the file unlocks it")] File);

impl DirectoryLock {
    /// Makes the directory if need be and locks it; `None` if somebody else holds it.
    pub(crate) fn try_acquire(directory: &Path) -> io::Result<Option<Self>> {
        fs::create_dir_all(directory)?;
        let file =
            File::options().create(true).truncate(false).write(true).open(directory.join(LOCK_FILE))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Self(file))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directory_has_one_holder_at_a_time() {
        let directory = tempfile::TempDir::new().unwrap();
        let held = DirectoryLock::try_acquire(directory.path()).unwrap();
        assert!(held.is_some());
        assert!(DirectoryLock::try_acquire(directory.path()).unwrap().is_none());
        drop(held);
        assert!(DirectoryLock::try_acquire(directory.path()).unwrap().is_some());
    }
}

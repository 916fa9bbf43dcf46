//! Data directories of several nodes below one root, such as a volume that the replicas of a service share.
//!
//! Invariant: a directory that was some node's is taken before a new one is made, so nodes that start again are the ones
//! that there were; and each is one process's alone, by the lock that every data directory has.

use std::{fs, io, path::Path};

use crate::data_directory::{DataDirectory, DirectoryError};

/// Of the directories' names; what follows is a number.
const PREFIX: &str = "node-";
/// As many as a cluster has nodes.
const DIRECTORIES_MAX: u32 = 4096;

/// Takes the first directory below `root` that nobody uses, or else makes the next one. Blocks.
///
/// # Errors
/// See [`DirectoryError`]. A directory that is damaged is an error, and not passed over: the node in it is missed.
pub(crate) fn take(root: &Path) -> Result<DataDirectory, DirectoryError> {
    let io_error = |source| DirectoryError::Io { path: root.to_owned(), source };
    fs::create_dir_all(root).map_err(io_error)?;
    let known = numbers(root).map_err(io_error)?;
    let new = (1..=DIRECTORIES_MAX).filter(|number| known.binary_search(number).is_err());
    for number in known.iter().copied().chain(new) {
        match DataDirectory::open(&root.join(format!("{PREFIX}{number}"))) {
            // Of a new one too: another process may have come first.
            Err(DirectoryError::Locked { .. }) => {}
            opened => return opened,
        }
    }
    Err(DirectoryError::Full { path: root.to_owned() })
}

/// The directories that are there, in order.
fn numbers(root: &Path) -> io::Result<Vec<u32>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(root)? {
        let entry = entry?;
        let number = entry.file_name().to_str().and_then(number_of);
        numbers.extend(number.filter(|_| entry.path().is_dir()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

fn number_of(name: &str) -> Option<u32> {
    let digits = name.strip_prefix(PREFIX)?;
    let number = digits.parse().ok().filter(|number| (1..=DIRECTORIES_MAX).contains(number))?;
    // `node-01` would be another directory than the one that the number stands for.
    (digits == number.to_string()).then_some(number)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, sync::Barrier, thread};

    use tempfile::TempDir;

    use super::*;

    #[test]
    fn nodes_that_start_again_are_the_ones_that_there_were() {
        let root = TempDir::new().unwrap();
        let first: Vec<_> = (0..3).map(|_| take(root.path()).unwrap()).collect();
        let uuids = |directories: &[DataDirectory]| -> BTreeSet<_> {
            directories.iter().map(DataDirectory::node_uuid).collect()
        };
        let were = uuids(&first);
        assert_eq!(were.len(), 3);
        drop(first);
        let again: Vec<_> = (0..4).map(|_| take(root.path()).unwrap()).collect();
        assert_eq!(uuids(&again[..3]), were);
        assert!(!were.contains(&again[3].node_uuid()), "a fourth one is new");
    }

    #[test]
    fn what_was_there_is_taken_before_something_new() {
        let root = TempDir::new().unwrap();
        for name in ["node-10", "node-9", "node-01", "node-", "node-0", "node-4097", "other"] {
            fs::create_dir(root.path().join(name)).unwrap();
        }
        fs::write(root.path().join("node-2"), "a file").unwrap();
        let names: Vec<_> = (0..3)
            .map(|_| take(root.path()).unwrap())
            .map(|directory| {
                let name = directory.path().file_name().unwrap().to_str().unwrap().to_owned();
                (directory, name)
            })
            .collect();
        let names: Vec<_> = names.iter().map(|(_, name)| name.as_str()).collect();
        assert_eq!(names, ["node-9", "node-10", "node-1"]);
    }

    #[test]
    fn processes_that_start_at_once_get_one_each() {
        let root = TempDir::new().unwrap();
        let start = Barrier::new(8);
        let taken: Vec<_> = thread::scope(|scope| {
            let take = || {
                start.wait();
                take(root.path()).unwrap()
            };
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(take)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let paths: BTreeSet<_> = taken.iter().map(|directory| directory.path().to_owned()).collect();
        assert_eq!(paths.len(), 8);
    }

    #[test]
    fn a_damaged_directory_is_not_passed_over() {
        let root = TempDir::new().unwrap();
        fs::create_dir(root.path().join("node-1")).unwrap();
        fs::write(root.path().join("node-1/node-uuid"), "not a uuid").unwrap();
        let taken = take(root.path());
        assert!(matches!(taken, Err(DirectoryError::Damaged { .. })), "{taken:?}");
    }
}

//! What makes a directory a disk of one node: the UUID that it is given when it is first used.
//!
//! Invariant: the file comes into being whole and after nothing else, so a disk without one is not there (a mount that is
//! missing), or has never been used.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use uuid::Uuid;

use crate::data_directory::{DirectoryError, read_text, write_text};

const FILE: &str = "disk-uuid";
/// What a file system has in its root from the beginning.
const LOST_AND_FOUND: &str = "lost+found";

/// Who a disk is, and whose.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Identity {
    pub(crate) disk: Uuid,
    pub(crate) node: Uuid,
}

impl Identity {
    /// The disk's in `directory`; `None` if it has none, or there is no such directory.
    pub(crate) fn read(directory: &Path) -> Result<Option<Self>, DirectoryError> {
        let Some(text) = read_text(directory, FILE)? else { return Ok(None) };
        let parsed = text.split_once('\n').and_then(|(disk, node)| {
            Some(Self { disk: Uuid::parse_str(disk.trim()).ok()?, node: Uuid::parse_str(node.trim()).ok()? })
        });
        parsed.map(Some).ok_or_else(|| DirectoryError::Damaged { path: directory.join(FILE) })
    }

    /// A new disk's. The directory is made, not its parents. Durable when this returns.
    pub(super) fn make(directory: &Path, node: Uuid) -> Result<Self, DirectoryError> {
        let identity = Self { disk: Uuid::new_v4(), node };
        make_directory(directory)
            .map_err(|source| DirectoryError::Io { path: directory.to_owned(), source })?;
        write_text(directory, FILE, &format!("{}\n{}", identity.disk, identity.node))?;
        Ok(identity)
    }
}

fn make_directory(directory: &Path) -> io::Result<()> {
    match fs::create_dir(directory) {
        Ok(()) => directory.parent().map_or(Ok(()), |parent| fs::File::open(parent)?.sync_all()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

/// Whether nobody has put anything there but a file system what it needs, and a crash an identity half made.
pub(super) fn is_blank(directory: &Path) -> io::Result<bool> {
    let draft: PathBuf = format!("{FILE}.draft").into();
    match fs::read_dir(directory) {
        Ok(entries) => {
            for entry in entries {
                let name = entry?.file_name();
                if name != LOST_AND_FOUND && name != draft {
                    return Ok(false);
                }
            }
            Ok(true)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error),
    }
}

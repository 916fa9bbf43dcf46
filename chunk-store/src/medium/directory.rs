//! The directory of segment files: their names, and making changes of names durable.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use super::Slot;

const SUFFIX: &str = "segment";

/// An open directory of segment files.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    file: File,
}

impl Directory {
    /// Opens the directory, and makes it (not its parents) if need be.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        match fs::create_dir(path) {
            Ok(()) => sync_parent(path)?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        Self::open_existing(path)
    }

    /// Opens one that is there.
    pub(super) fn open_existing(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), file: File::open(path)? })
    }

    pub(super) const fn file(&self) -> &File {
        &self.file
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn path_of(&self, slot: Slot) -> PathBuf {
        self.path.join(format!("{:08x}.{SUFFIX}", slot.0))
    }

    /// All segment files by their names, ascending.
    pub(super) fn slots(&self) -> io::Result<Vec<Slot>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            found.extend(slot_of(&entry?.path()));
        }
        found.sort_unstable();
        Ok(found)
    }

    /// Makes a file that there must not be yet; its name is durable on return.
    pub(super) fn create(&self, slot: Slot) -> io::Result<File> {
        let path = self.path_of(slot);
        let file = File::options().create_new(true).read(true).write(true).open(&path)?;
        match file.sync_all().and_then(|()| self.sync()) {
            Ok(()) => Ok(file),
            Err(error) => {
                // Nothing refers to the file. If even this fails, the next start finds it empty.
                let _ = fs::remove_file(&path);
                Err(error)
            }
        }
    }

    /// Removes a file for good: when this returns, it stays away after a power loss.
    pub(super) fn remove(&self, slot: Slot) -> io::Result<()> {
        fs::remove_file(self.path_of(slot))?;
        self.sync()
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }
}

fn slot_of(path: &Path) -> Option<Slot> {
    let named = path.extension()? == SUFFIX;
    let stem = path.file_stem()?.to_str()?;
    let is_ours = stem.len() == 8 && stem.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let slot = u32::from_str_radix(stem, 16).ok()?;
    (named && is_ours).then_some(Slot(slot))
}

fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => File::open(parent)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}

//! The directory that holds the segments: their names, and making changes of names durable.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use super::index::SegmentId;

const SUFFIX: &str = "segment";

/// An open directory of segments.
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
        Ok(Self { path: path.to_owned(), file: File::open(path)? })
    }

    /// Opens one that is there.
    pub(super) fn open_existing(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), file: File::open(path)? })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    pub(super) fn path_of(&self, segment: SegmentId) -> PathBuf {
        self.path.join(format!("{:08x}.{SUFFIX}", segment.0))
    }

    /// All segments by their names, ascending.
    pub(super) fn segments(&self) -> io::Result<Vec<SegmentId>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            found.extend(id_of(&entry?.path()));
        }
        found.sort_unstable();
        Ok(found)
    }

    /// Removes a segment for good: when this returns, it stays away after a power loss.
    pub(super) fn remove(&self, segment: SegmentId) -> io::Result<()> {
        fs::remove_file(self.path_of(segment))?;
        self.sync()
    }

    /// Makes new and removed names durable.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }
}

fn id_of(path: &Path) -> Option<SegmentId> {
    let named = path.extension()? == SUFFIX;
    let stem = path.file_stem()?.to_str()?;
    let id = u32::from_str_radix(stem, 16).ok()?;
    (named && stem.len() == 8).then_some(SegmentId(id))
}

fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => File::open(parent)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}

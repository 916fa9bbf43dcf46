//! Which disks a node has at its start: those that it is told of, held against those that it knows.
//!
//! Invariant: nothing is made here, and a disk that is known never counts as a new one, so a mount that is missing is not
//! mistaken for an empty disk.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use uuid::Uuid;

use super::{
    DiskError,
    identity::{Identity, is_blank},
    known::{self, KnownDisk},
};
use crate::{
    data_directory::{DataDirectory, DirectoryError, SEGMENTS_DIRECTORY},
    store::LOCK_FILE,
};

/// What a node is told of its disks.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Told<'a> {
    /// Where they are. None: the data directory holds the chunks.
    pub(crate) directories: &'a [PathBuf],
    /// Those that it is to miss no more.
    pub(crate) forget: &'a [Uuid],
}

/// A disk as it was found.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Mustered {
    /// Zero: it has yet to get one.
    pub(super) uuid: Uuid,
    pub(super) directory: PathBuf,
    /// As many as it had when it was last looked at.
    pub(super) chunks: u64,
    pub(super) standing: Standing,
}

/// How a disk was found.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Standing {
    /// The one of the data directory.
    DataDirectory,
    /// It can't be used.
    Failed(String),
    /// It is empty, and was never seen.
    New,
    /// It is there.
    Present,
}

impl Mustered {
    /// Whether it will hold chunks, where it is.
    pub(crate) fn is_usable(&self) -> bool {
        !matches!(self.standing, Standing::Failed(_))
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }
}

/// Finds the disks of the node. Blocks.
///
/// # Errors
/// Somebody has made a mistake: see [`DiskError`].
pub(crate) fn muster(home: &DataDirectory, told: Told<'_>) -> Result<Vec<Mustered>, DiskError> {
    let mut known = known::read(home.path())?;
    known.retain(|disk| !told.forget.contains(&disk.uuid));
    let directories =
        told.directories.iter().map(|path| absolute(path)).collect::<Result<Vec<_>, DiskError>>()?;
    let identities: Vec<_> = directories.iter().map(|directory| Identity::read(directory)).collect();
    let found: Vec<_> =
        identities.iter().filter_map(|read| Some(read.as_ref().ok()?.as_ref()?.disk)).collect();
    let mut mustered: Vec<Mustered> = Vec::new();
    if home.holds_chunks()? || (directories.is_empty() && known.is_empty()) {
        let (uuid, directory) = (home.node_uuid(), home.path().to_owned());
        mustered.push(Mustered { uuid, directory, chunks: 0, standing: Standing::DataDirectory });
    }
    for (directory, identity) in directories.into_iter().zip(identities) {
        // A disk that is somewhere else by now is not missed where it was.
        let missed = known.iter().find(|disk| disk.directory == directory && !found.contains(&disk.uuid));
        let disk = one(home.node_uuid(), directory, identity, missed)?;
        if told.forget.contains(&disk.uuid) {
            return Err(DiskError::StillThere { uuid: disk.uuid, directory: disk.directory });
        }
        if let Some(first) = mustered.iter().find(|first| first.is_same(&disk)) {
            let (first, second) = (first.directory.clone(), disk.directory);
            return Err(DiskError::Twice { first, second });
        }
        let chunks = known.iter().find(|known| known.uuid == disk.uuid).map_or(0, |known| known.chunks);
        mustered.push(Mustered { chunks, ..disk });
    }
    for KnownDisk { uuid, chunks, directory } in known {
        if !mustered.iter().any(|disk| disk.uuid == uuid) {
            let standing = Standing::Failed(
                "the node was started without it: name its directory again (--disk), or forget it (--forget-disk)"
                    .to_owned(),
            );
            mustered.push(Mustered { uuid, directory, chunks, standing });
        }
    }
    Ok(mustered)
}

impl Mustered {
    fn is_same(&self, other: &Self) -> bool {
        // New ones have no UUID yet, but may be one directory by two names.
        let is_one =
            |one: fs::Metadata, other: fs::Metadata| (one.dev(), one.ino()) == (other.dev(), other.ino());
        let metadata = self.directory.metadata().ok().zip(other.directory.metadata().ok());
        self.directory == other.directory
            || (!self.uuid.is_nil() && self.uuid == other.uuid)
            || metadata.is_some_and(|(mine, others)| is_one(mine, others))
    }
}

fn one(
    node: Uuid,
    directory: PathBuf,
    identity: Result<Option<Identity>, DirectoryError>,
    missed: Option<&KnownDisk>,
) -> Result<Mustered, DiskError> {
    let (uuid, standing) = match (identity, missed) {
        (Ok(Some(identity)), _) if identity.node != node => {
            return Err(DiskError::Foreign { directory, node: identity.node });
        }
        (Ok(Some(identity)), _) => (identity.disk, Standing::Present),
        (Ok(None), Some(missed)) => {
            let why = "its directory is there without it: is it mounted? If it is lost for good, forget it (--forget-disk)";
            (missed.uuid, Standing::Failed(why.to_owned()))
        }
        (Err(error), Some(missed)) => (missed.uuid, Standing::Failed(reason(&error))),
        (Ok(None), None) => match is_blank(&directory) {
            Ok(true) => (Uuid::nil(), Standing::New),
            Ok(false) => return Err(DiskError::Taken { directory }),
            Err(source) => return Err(DirectoryError::Io { path: directory, source }.into()),
        },
        (Err(error), None) => return Err(error.into()),
    };
    Ok(Mustered { uuid, directory, chunks: 0, standing })
}

/// Why a disk can't be used, without saying where it is.
fn reason(error: &DirectoryError) -> String {
    match error {
        DirectoryError::Io { source, .. } => format!("it can't be read: {source}"),
        _ => "its file disk-uuid is damaged".to_owned(),
    }
}

/// The directory by a name that lasts, and that fits a line.
fn absolute(directory: &Path) -> Result<PathBuf, DiskError> {
    let absolute = std::path::absolute(directory)
        .map_err(|source| DirectoryError::Io { path: directory.to_owned(), source })?;
    match absolute.to_str() {
        // Components leave out what only looks different.
        Some(text) if !text.contains(['\n', '\r']) => Ok(absolute.components().collect()),
        _ => Err(DiskError::Name { directory: directory.to_owned() }),
    }
}

impl DataDirectory {
    /// Whether there are, or were, chunks in the directory itself.
    fn holds_chunks(&self) -> Result<bool, DirectoryError> {
        let segments = self.segments();
        let io_error = |source| DirectoryError::Io { path: segments.clone(), source };
        match fs::read_dir(&segments) {
            Ok(entries) => {
                for entry in entries {
                    if entry.map_err(io_error)?.file_name() != LOCK_FILE {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(source) => Err(io_error(source)),
        }
    }
}

/// Where a disk has its chunks.
pub(super) fn segments(directory: &Path) -> PathBuf {
    directory.join(SEGMENTS_DIRECTORY)
}

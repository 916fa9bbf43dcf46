//! `xdpfs-data-node check`: data directories that are not in use, and their disks, read to the last byte.
//!
//! Invariant: not a byte of them is changed, and one that a node uses is left alone.

use std::{
    fmt::Write as _,
    fs, io,
    path::{Path, PathBuf},
};

use clap::Args;
use serde::Serialize;
use thiserror::Error;
use uuid::Uuid;

use crate::{
    data_directory::{DirectoryError, SEGMENTS_DIRECTORY, read_node_uuid},
    disks::{Identity, known},
    store::{self, DirectoryLock, OpenError, StoreReport},
};

const AFTER_HELP: &str = "Reads every segment: heads of records, checksums of pages and of whole chunks. A tail that a crash \
    has left half written is told and is no damage: the next start cuts it off. Exit codes: 0 all whole, 1 something is damaged \
    or can't be read, 2 wrong usage, or a directory that is in use or none of a data node.";

/// Read data directories that no node uses, and their disks, to the last byte, and change nothing.
#[derive(Args, Clone, Debug)]
#[command(after_help = AFTER_HELP)]
pub struct CheckArguments {
    /// Data directories, as of --data-dir.
    #[arg(value_name = "DIR", required = true)]
    directories: Vec<PathBuf>,
    /// Directories of disks of their nodes, as of the node's --disk. By default each disk is looked for where it was last.
    #[arg(long = "disk", value_name = "DIR", value_delimiter = ',')]
    disks: Vec<PathBuf>,
    /// Print one JSON object for each, and for each disk.
    #[arg(long)]
    json: bool,
}

/// How a check ended.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum CheckEnd {
    /// All is whole.
    Whole,
    /// Something is damaged, or can't be read.
    Damaged,
    /// Something could not be looked at at all.
    Usage,
}

/// Why a directory was not looked at.
#[derive(Debug, Error)]
pub enum CheckRefusal {
    /// A file of it makes no sense.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// A disk is not where it was.
    #[error("{path} is not disk {uuid}: is it mounted? Or name its directory (--disk)")]
    DiskElsewhere {
        /// Where it was.
        path: PathBuf,
        /// The disk.
        uuid: Uuid,
    },
    /// It is no disk of a node that is looked at.
    #[error("{path} is no disk of any of these data nodes")]
    DiskOfOthers {
        /// The directory.
        path: PathBuf,
    },
    /// A node runs on it.
    #[error("{path} is in use by a data node: stop it first, or use xdpfs-cli node scrub")]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// The system refuses.
    #[error("{path} can't be read")]
    Io {
        /// The directory.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// There is nothing of a data node in it.
    #[error("{path} is no data directory of a data node: it has no node-uuid")]
    NotOurs {
        /// The directory.
        path: PathBuf,
    },
    /// The store can't be looked at.
    #[error(transparent)]
    Store(#[from] OpenError),
}

impl CheckRefusal {
    const fn end(&self) -> CheckEnd {
        match self {
            Self::Directory(_) | Self::Store(_) => CheckEnd::Damaged,
            Self::DiskElsewhere { .. }
            | Self::DiskOfOthers { .. }
            | Self::InUse { .. }
            | Self::Io { .. }
            | Self::NotOurs { .. } => CheckEnd::Usage,
        }
    }
}

/// What was found on one disk.
#[derive(Debug)]
pub struct DiskCheck {
    /// The directory: the data directory itself, or that of a disk.
    pub directory: PathBuf,
    /// What is there.
    pub found: Result<StoreReport, CheckRefusal>,
}

/// Reads a data directory and the node's disks: those of these, and the others where they were last. Blocks.
///
/// # Errors
/// See [`CheckRefusal`].
pub fn check_directory(path: &Path, disks: &[PathBuf]) -> Result<Vec<DiskCheck>, CheckRefusal> {
    let io_error = |source| CheckRefusal::Io { path: path.to_owned(), source };
    fs::read_dir(path).map_err(io_error)?;
    let Some(node_uuid) = read_node_uuid(path)? else {
        return Err(CheckRefusal::NotOurs { path: path.to_owned() });
    };
    let _lock = lock(path, path)?;
    let mut checks = Vec::new();
    let check = |directory: PathBuf| DiskCheck { found: check_segments(&directory, node_uuid), directory };
    let mut known = known::read(path)?;
    for directory in disks {
        if let Some(identity) = Identity::read(directory)?.filter(|identity| identity.node == node_uuid) {
            known.retain(|disk| disk.uuid != identity.disk);
            checks.push(check(directory.clone()));
        }
    }
    for disk in known {
        let (uuid, path) = (disk.uuid, disk.directory);
        checks.push(match Identity::read(&path) {
            Ok(Some(identity)) if identity.disk == uuid => check(path),
            Ok(_) => {
                DiskCheck { directory: path.clone(), found: Err(CheckRefusal::DiskElsewhere { path, uuid }) }
            }
            Err(error) => DiskCheck { directory: path, found: Err(error.into()) },
        });
    }
    if checks.is_empty() || path.join(SEGMENTS_DIRECTORY).try_exists().map_err(io_error)? {
        checks.insert(0, check(path.to_owned()));
    }
    Ok(checks)
}

fn check_segments(path: &Path, node_uuid: Uuid) -> Result<StoreReport, CheckRefusal> {
    let segments = path.join(SEGMENTS_DIRECTORY);
    let io_error = |source| CheckRefusal::Io { path: path.to_owned(), source };
    if !segments.try_exists().map_err(io_error)? {
        // A node that ended before it had a store.
        return Ok(StoreReport::default());
    }
    let _store_lock = lock(path, &segments)?;
    Ok(store::check(&segments, node_uuid)?)
}

/// A directory that nobody has ever locked has no lock, and isn't given one.
fn lock(path: &Path, locked: &Path) -> Result<Option<DirectoryLock>, CheckRefusal> {
    let io_error = |source| CheckRefusal::Io { path: path.to_owned(), source };
    match DirectoryLock::try_acquire_existing(locked).map_err(io_error)? {
        None => Ok(None),
        Some(None) => Err(CheckRefusal::InUse { path: path.to_owned() }),
        Some(lock) => Ok(lock),
    }
}

/// Reads all that were named and says what was found.
///
/// # Errors
/// Nobody reads the output.
pub fn run(arguments: &CheckArguments, out: &mut impl io::Write) -> io::Result<CheckEnd> {
    let mut end = CheckEnd::Whole;
    let mut others = arguments.disks.clone();
    for path in &arguments.directories {
        let checks = check_directory(path, &arguments.disks)
            .unwrap_or_else(|refusal| vec![DiskCheck { directory: path.clone(), found: Err(refusal) }]);
        for check in checks {
            others.retain(|other| *other != check.directory);
            end = end.max(say(&check, arguments.json, out)?);
        }
    }
    for path in others {
        let found = Err(CheckRefusal::DiskOfOthers { path: path.clone() });
        end = end.max(say(&DiskCheck { directory: path, found }, arguments.json, out)?);
    }
    Ok(end)
}

fn say(check: &DiskCheck, json: bool, out: &mut impl io::Write) -> io::Result<CheckEnd> {
    let DiskCheck { directory: path, found } = check;
    let said = match (found, json) {
        (Ok(report), false) => text(path, report),
        (Ok(report), true) => line(&Record::new(path, report))?,
        (Err(refusal), false) => format!("{}: NOT CHECKED\n  {}\n", path.display(), words(refusal)),
        (Err(refusal), true) => {
            line(&RefusalRecord { directory: path.display().to_string(), error: words(refusal) })?
        }
    };
    out.write_all(said.as_bytes())?;
    out.flush()?;
    Ok(match found {
        Ok(report) if report.is_whole() => CheckEnd::Whole,
        Ok(_) => CheckEnd::Damaged,
        Err(refusal) => refusal.end(),
    })
}

/// An error with its causes.
fn words(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        words += &format!(": {error}");
        cause = error.source();
    }
    words
}

fn text(path: &Path, report: &StoreReport) -> String {
    let StoreReport { segments, chunks, bytes, used_bytes, torn_bytes, read_errors, .. } = report;
    let verdict = if report.is_whole() { "whole" } else { "DAMAGED" };
    let mut text = format!(
        "{}: {verdict}\n  {segments} segments of {used_bytes} bytes, {chunks} chunks of {bytes} bytes\n",
        path.display()
    );
    let old_segments = report.old_segments;
    let mut line = |words: String| {
        // Writing to a string cannot fail.
        let _infallible = writeln!(text, "  {words}");
    };
    if old_segments > 0 {
        line(format!("{old_segments} of the segments are of an older format; the next start converts them"));
    }
    if *torn_bytes > 0 {
        line(format!("{torn_bytes} bytes at the end are half written; the next start cuts them off"));
    }
    if report.damaged_chunks > 0 {
        line(format!("{} chunks are damaged:", report.damaged_chunks));
        report.damaged.iter().for_each(|chunk| line(format!("  {chunk}")));
    }
    if report.damaged_places > 0 {
        line(format!("{} places have no sound batch; what was there is unknown:", report.damaged_places));
        report
            .places
            .iter()
            .for_each(|(segment, position)| line(format!("  segment {segment:08x}, byte {position}")));
    }
    for segment in &report.unreadable_segments {
        line(format!(
            "segment {segment:08x} can't be read: its head is damaged, or it is of another node or format"
        ));
    }
    if *read_errors > 0 {
        line(format!("{read_errors} reads were refused by the disk: see what the kernel says of it (dmesg)"));
    }
    text
}

/// A directory as JSON. Field names are a promise to scripts.
#[derive(Serialize)]
struct Record<'a> {
    directory: String,
    whole: bool,
    segments: u64,
    chunks: u64,
    bytes: u64,
    used_bytes: u64,
    old_segments: u64,
    torn_bytes: u64,
    damaged_chunks: u64,
    /// The first of them.
    damaged: Vec<String>,
    damaged_places: u64,
    /// The first of them.
    places: Vec<PlaceRecord>,
    unreadable_segments: &'a [u32],
    read_errors: u64,
}

#[derive(Serialize)]
struct PlaceRecord {
    segment: u32,
    position: u64,
}

/// One that was not looked at.
#[derive(Serialize)]
struct RefusalRecord {
    directory: String,
    error: String,
}

impl<'a> Record<'a> {
    fn new(path: &Path, report: &'a StoreReport) -> Self {
        let place = |(segment, position): &(u32, u64)| PlaceRecord { segment: *segment, position: *position };
        Self {
            directory: path.display().to_string(),
            whole: report.is_whole(),
            segments: report.segments,
            chunks: report.chunks,
            bytes: report.bytes,
            used_bytes: report.used_bytes,
            old_segments: report.old_segments,
            torn_bytes: report.torn_bytes,
            damaged_chunks: report.damaged_chunks,
            damaged: report.damaged.iter().map(ToString::to_string).collect(),
            damaged_places: report.damaged_places,
            places: report.places.iter().map(place).collect(),
            unreadable_segments: &report.unreadable_segments,
            read_errors: report.read_errors,
        }
    }
}

fn line(record: &impl Serialize) -> io::Result<String> {
    Ok(serde_json::to_string(record)? + "\n")
}

#[cfg(test)]
mod tests;

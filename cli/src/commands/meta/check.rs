//! `meta check`: whether metadata on disk are whole.

use std::{
    fs::File,
    io::BufReader,
    path::{Path, PathBuf},
};

use clap::Args;
use serde::Serialize;
use xdpfs_meta_server::{CheckError, StoreReport, backup, check_store};

use super::{BackupRecord, contents};
use crate::{
    console::Console,
    failure::{Exit, Failure},
    units::human_bytes,
};

/// Read all of a backup, or of the data directory of a metadata server that does not run, and say whether it is whole.
///
/// Every checksum is looked at, the log is applied as a server would apply it, and nothing is mended.
#[derive(Debug, Args)]
pub(super) struct CheckArguments {
    /// A file that `meta backup` wrote, or a server's data directory.
    #[arg(value_name = "FILE|DIR")]
    path: PathBuf,
}

/// A store that is whole.
#[derive(Debug, Serialize)]
struct StoreRecord<'a> {
    server: u64,
    cluster_id: &'a str,
    voters: &'a [u64],
    term: u64,
    commit_index: u64,
    last_index: u64,
    snapshot_index: u64,
    snapshot_bytes: u64,
    buckets: u64,
    objects: u64,
    object_bytes: u64,
    older_versions: u64,
    digest: String,
}

/// Looks at it.
pub(super) fn run(arguments: &CheckArguments, console: &mut Console) -> Result<Exit, Failure> {
    let path = &arguments.path;
    if path.is_dir() { check_directory(path, console) } else { check_backup(path, console) }
}

fn check_backup(path: &Path, console: &mut Console) -> Result<Exit, Failure> {
    let file =
        File::open(path).map_err(|error| Failure::local(format_args!("read {}", path.display()), &error))?;
    let read = backup::read(BufReader::new(file));
    let (header, _) =
        read.map_err(|error| Failure::damaged(path, &error).with_hint("make another one: meta backup FILE"))?;
    console.answer(&BackupRecord::from(&header), || {
        let contents = contents(header.buckets, header.objects, header.object_bytes);
        format!("a whole backup of cluster {}, by version {}: {contents}", header.cluster_id, header.version)
    })?;
    Ok(Exit::Done)
}

fn check_directory(path: &Path, console: &mut Console) -> Result<Exit, Failure> {
    let report = check_store(path).map_err(|error| refusal(path, &error))?;
    console.answer(&StoreRecord::from(&report), || {
        let StoreReport { id, term, commit_index, last_index, digest, .. } = report;
        let contents = contents(report.buckets, report.objects, report.object_bytes);
        format!(
            "the whole store of server {id} of cluster {}\n  {contents}\n  log to {last_index}, agreed on to \
             {commit_index}, term {term}; snapshot of {} at {}\n  digest {digest:08x}",
            report.cluster_id,
            human_bytes(report.snapshot_bytes),
            report.snapshot_index
        )
    })?;
    Ok(Exit::Done)
}

fn refusal(path: &Path, error: &CheckError) -> Failure {
    match error {
        CheckError::Directory { source, .. } => {
            Failure::local(format_args!("read {}", path.display()), source)
        }
        CheckError::Empty { .. } => Failure::not_found(error.to_string())
            .with_hint("name the directory that the server is given by --data-dir"),
        CheckError::InUse { .. } => Failure::unavailable(error.to_string()),
        CheckError::Start(_) | CheckError::Store(_) | _ => Failure::damaged(path, error).with_hint(
            "the others have it all: let this server come back from a fresh directory under a new id",
        ),
    }
}

impl<'a> From<&'a StoreReport> for StoreRecord<'a> {
    fn from(report: &'a StoreReport) -> Self {
        Self {
            server: report.id,
            cluster_id: &report.cluster_id,
            voters: &report.voters,
            term: report.term,
            commit_index: report.commit_index,
            last_index: report.last_index,
            snapshot_index: report.snapshot_index,
            snapshot_bytes: report.snapshot_bytes,
            buckets: report.buckets,
            objects: report.objects,
            object_bytes: report.object_bytes,
            older_versions: report.older_versions,
            digest: format!("{:08x}", report.digest),
        }
    }
}

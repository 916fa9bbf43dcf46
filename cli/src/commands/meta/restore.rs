//! `meta restore`: the data directory of a server of a new cluster, from a backup.

use std::{fs::File, io::BufReader, path::PathBuf};

use clap::Args;
use serde::Serialize;
use xdpfs_meta_server::{Config, Member, RestoreError, backup, restore};

use super::contents;
use crate::{
    console::Console,
    failure::{Exit, Failure},
};

/// Make the data directory of one server of a new cluster that goes on from a backup.
///
/// Run it once for each member, with the same backup and the same members; then start all of them, without --bootstrap. Data
/// nodes belong to the restored cluster as they did to the old one, and register again by themselves. Objects that were put
/// after the backup are gone, and some that were deleted after it are listed and can't be read. The old cluster must never
/// run again: data nodes would listen to both.
#[derive(Debug, Args)]
pub(super) struct RestoreArguments {
    /// What `meta backup` wrote.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The server's data directory: made, or empty.
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
    /// The server's id: one of the members'.
    #[arg(long, value_name = "ID")]
    id: u64,
    /// Each member of the new cluster: its id, its address for other servers, its address for clients.
    #[arg(long = "member", value_name = "ID,HOST:PORT,HOST:PORT", required = true)]
    members: Vec<Member>,
}

#[derive(Debug, Serialize)]
struct RestoreRecord<'a> {
    server: u64,
    cluster_id: &'a str,
    buckets: u64,
    objects: u64,
    object_bytes: u64,
}

/// Makes it.
pub(super) fn run(arguments: &RestoreArguments, console: &mut Console) -> Result<Exit, Failure> {
    let path = &arguments.file;
    let file =
        File::open(path).map_err(|error| Failure::local(format_args!("read {}", path.display()), &error))?;
    let (header, state) =
        backup::read(BufReader::new(file)).map_err(|error| Failure::damaged(path, &error))?;
    let config = Config::new(arguments.id, arguments.members.clone(), arguments.data_dir.clone());
    restore(&config, &header, state).map_err(|error| refusal(&error))?;
    let record = RestoreRecord {
        server: arguments.id,
        cluster_id: &header.cluster_id,
        buckets: header.buckets,
        objects: header.objects,
        object_bytes: header.object_bytes,
    };
    console.confirm(&record, || {
        let contents = contents(header.buckets, header.objects, header.object_bytes);
        format!("server {} of cluster {} has {contents}", arguments.id, header.cluster_id)
    })?;
    Ok(Exit::Done)
}

fn refusal(error: &RestoreError) -> Failure {
    match error {
        RestoreError::Config(error) => Failure::usage(error.to_string()),
        RestoreError::Members => Failure::usage(error.to_string()),
        RestoreError::Directory { directory, source } => {
            Failure::local(format_args!("use {}", directory.display()), source)
        }
        RestoreError::NotEmpty { .. } => Failure::exists(error.to_string()),
        RestoreError::Store(_) | _ => Failure::caused("restore", error),
    }
}

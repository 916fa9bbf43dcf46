//! `meta`: what keeps the metadata themselves safe.

mod backup;
mod check;
mod restore;

use clap::{Args, Subcommand};
use serde::Serialize;
use xdpfs_proto::backup::v1::BackupHeader;

use crate::{
    arguments::Common,
    console::Console,
    failure::{Exit, Failure},
    units::{count, human_bytes},
};

/// Back up, restore and check the metadata.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  xdpfs-cli meta backup /backup/today.xdpfs        while the cluster runs
  xdpfs-cli meta check /backup/today.xdpfs         whether it is whole, and what is in it
  xdpfs-cli meta check /var/lib/xdpfs-meta         a server's data directory, while it does not run
  xdpfs-cli meta restore /backup/today.xdpfs --data-dir DIR --id 1 --member 1,a:7101,a:7001 ...")]
pub(crate) struct MetaArguments {
    #[command(subcommand)]
    command: MetaCommand,
}

#[derive(Debug, Subcommand)]
enum MetaCommand {
    Backup(backup::BackupArguments),
    Check(check::CheckArguments),
    Restore(restore::RestoreArguments),
}

/// Does what was asked for.
pub(crate) async fn run(
    arguments: &MetaArguments,
    common: &Common,
    console: &mut Console,
) -> Result<Exit, Failure> {
    match &arguments.command {
        MetaCommand::Backup(arguments) => backup::run(arguments, common, console).await,
        MetaCommand::Check(arguments) => check::run(arguments, console),
        MetaCommand::Restore(arguments) => restore::run(arguments, console),
    }
}

/// What a backup says of itself.
#[derive(Debug, Serialize)]
struct BackupRecord<'a> {
    cluster_id: &'a str,
    create_time_ms: u64,
    version: &'a str,
    buckets: u64,
    objects: u64,
    object_bytes: u64,
}

impl<'a> From<&'a BackupHeader> for BackupRecord<'a> {
    fn from(header: &'a BackupHeader) -> Self {
        Self {
            cluster_id: &header.cluster_id,
            create_time_ms: header.create_time_ms,
            version: &header.version,
            buckets: header.buckets,
            objects: header.objects,
            object_bytes: header.object_bytes,
        }
    }
}

/// What is in a state, in words.
fn contents(buckets: u64, objects: u64, object_bytes: u64) -> String {
    format!("{}, {} of {}", count(buckets, "bucket"), count(objects, "object"), human_bytes(object_bytes))
}

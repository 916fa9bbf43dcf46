//! `meta`: the metadata servers, and what keeps the metadata themselves safe.

mod backup;
mod check;
mod members;
mod restore;

use clap::{Args, Subcommand};
use serde::Serialize;
use xdpfs_proto::backup::v1::BackupHeader;

use crate::{
    arguments::Common,
    console::Console,
    failure::{Exit, Failure},
    units::{count, human_bytes},
    with_client,
};

/// List, add, replace and remove metadata servers; back up, restore and check the metadata.
#[derive(Debug, Args)]
#[command(after_help = "\
A new server joins by itself, with an empty data directory:
  xdpfs-meta-server --join OLD:7001 --address NEW:7000,NEW:7001 --data-dir DIR
It gets an id that nobody has had, a copy of everything, and a vote once it has caught up. With
--learner it waits for its vote until `meta add` or `meta replace`.

Examples:
  xdpfs-cli meta list
  xdpfs-cli meta replace 2 4       server 4, which has joined as a learner, takes the place of 2
  xdpfs-cli meta remove 3          for good: its id is never used again
  xdpfs-cli meta transfer 1        server 1 leads
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
    #[command(flatten)]
    Members(members::MembersCommand),
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
        MetaCommand::Members(command) => {
            with_client(common, async |client| members::run(command, client, console).await).await
        }
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

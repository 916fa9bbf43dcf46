//! `rb`: removes a bucket.

use clap::Args;
use xdpfs_client::{ObjectClient, Versioning};

use super::rm::{remove_below, remove_versions};
use crate::{
    address::Address,
    arguments::Parallel,
    batch::Batch,
    console::Console,
    failure::{Exit, Failure},
    record::RemovedBucketRecord,
};

/// Remove an empty bucket.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  xdpfs-cli rb photos
  xdpfs-cli rb --force photos      remove all its objects first, and all older versions")]
pub(crate) struct RbArguments {
    /// The bucket.
    bucket: Address,
    /// Remove all objects of the bucket first, and all older versions.
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    parallel: Parallel,
}

/// Removes the bucket, and what is in it if that was asked for.
pub(crate) async fn run<C: ObjectClient>(
    arguments: &RbArguments,
    client: &C,
    console: &mut Console,
) -> Result<Exit, Failure> {
    let address = &arguments.bucket;
    address.check_bucket()?;
    let mut batch = Batch::default();
    let objects_removed = match arguments.force {
        true => empty(address, arguments.parallel, client, &mut batch, console).await?,
        false => 0,
    };
    match batch.finish(console) {
        Exit::Done => {}
        failed => return Ok(failed),
    }
    let removed = client.delete_bucket(&address.bucket).await;
    removed.map_err(|error| Failure::from(error).about(address))?;
    let record = RemovedBucketRecord { bucket: &address.bucket, removed: true, objects_removed };
    console.confirm(&record, || format!("removed bucket {}", address.bucket))?;
    Ok(Exit::Done)
}

/// Gives how many objects and versions there were.
async fn empty<C: ObjectClient>(
    address: &Address,
    parallel: Parallel,
    client: &C,
    batch: &mut Batch,
    console: &mut Console,
) -> Result<u64, Failure> {
    let bucket = client.bucket(&address.bucket).await;
    let bucket = bucket.map_err(|error| Failure::from(error).about(address))?;
    match bucket.versioning {
        Versioning::Off => remove_below(address, parallel, client, batch, console).await,
        Versioning::On | Versioning::Suspended => {
            remove_versions(address, "", parallel, client, batch, console).await
        }
    }
}

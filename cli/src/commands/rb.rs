//! `rb`: removes a bucket.

use clap::Args;
use xdpfs_client::ObjectClient;

use super::rm::remove_below;
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
  xdpfs-cli rb --force photos      remove all its objects first")]
pub(crate) struct RbArguments {
    /// The bucket.
    bucket: Address,
    /// Remove all objects of the bucket first.
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
        true => remove_below(address, arguments.parallel, client, &mut batch, console).await?,
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

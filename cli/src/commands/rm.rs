//! `rm`: removes objects.

use clap::Args;
use futures::{StreamExt as _, stream};
use xdpfs_client::{ErrorKind, Object, ObjectClient, objects};

use crate::{
    address::Address,
    arguments::{Conditions, Parallel},
    batch::Batch,
    console::Console,
    failure::{Exit, Failure},
    record::RemovedRecord,
};

/// Remove objects.
#[derive(Debug, Args)]
#[command(after_help = "\
With -r, an address is read as a directory: rm -r photos/2026 removes photos/2026 and all below
photos/2026/, but not photos/2026b. All of a bucket is removed by rm -r BUCKET/, with the slash.

Examples:
  xdpfs-cli rm photos/cat.jpg photos/dog.jpg
  xdpfs-cli rm -r photos/2026/
  xdpfs-cli rm jobs/lock --if-match 5f-1a2b3c4d      only if it is still the same")]
pub(crate) struct RmArguments {
    /// What to remove.
    #[arg(value_name = "BUCKET/KEY", required = true)]
    addresses: Vec<Address>,
    /// Remove all objects below the addresses.
    #[arg(short, long, conflicts_with_all = ["if_match", "if_none_match"])]
    recursive: bool,
    #[command(flatten)]
    conditions: Conditions,
    #[command(flatten)]
    parallel: Parallel,
}

/// Removes everything that is asked for.
pub(crate) async fn run<C: ObjectClient>(
    arguments: &RmArguments,
    client: &C,
    console: &mut Console,
) -> Result<Exit, Failure> {
    arguments.addresses.iter().try_for_each(|address| check(address, arguments.recursive))?;
    let mut batch = Batch::default();
    if arguments.recursive {
        for address in &arguments.addresses {
            remove_tree(address, arguments.parallel, client, &mut batch, console).await?;
        }
    } else {
        let jobs = stream::iter(&arguments.addresses).map(|address| async move {
            let removed =
                client.delete(&address.bucket, &address.key, arguments.conditions.precondition()).await;
            removed.map(Some).map_err(|error| Failure::from(error).about(address))
        });
        batch.run(arguments.parallel, jobs, console, confirm).await?;
    }
    Ok(batch.finish(console))
}

/// Nothing is removed unless the whole command line makes sense.
fn check(address: &Address, recursive: bool) -> Result<(), Failure> {
    if recursive && address.is_bare_bucket() {
        let hint = format!(
            "to remove all its objects, write {address}/; to remove the bucket too: rb --force {address}"
        );
        return Err(Failure::usage(format!("{address} names a whole bucket")).with_hint(hint));
    }
    if !recursive && address.is_bucket() {
        let hint =
            format!("to remove all its objects: rm -r {0}/; to remove the bucket: rb {0}", address.bucket);
        return Err(Failure::usage(format!("{address} names a bucket, not an object")).with_hint(hint));
    }
    Ok(())
}

/// The object of this name, if there is one, and all that is below it.
async fn remove_tree<C: ObjectClient>(
    address: &Address,
    parallel: Parallel,
    client: &C,
    batch: &mut Batch,
    console: &mut Console,
) -> Result<(), Failure> {
    let failed_before = batch.failed();
    let mut removed = remove_below(address, parallel, client, batch, console).await?;
    if !address.is_directory() {
        match remove(address, client).await {
            Ok(None) => {}
            Ok(object) => {
                removed += 1;
                batch.succeed();
                confirm(console, object)?;
            }
            Err(failure) => batch.fail(console, &failure),
        }
    }
    if removed == 0 && batch.failed() == failed_before {
        let failure = Failure::not_found(format!("there is nothing to remove below {address}"));
        batch.fail(console, &failure.about(address));
    }
    Ok(())
}

/// Removes all objects below an address, and gives how many there were.
pub(super) async fn remove_below<C: ObjectClient>(
    address: &Address,
    parallel: Parallel,
    client: &C,
    batch: &mut Batch,
    console: &mut Console,
) -> Result<u64, Failure> {
    let mut removed = 0;
    let prefix = address.directory();
    let jobs = objects(client, &address.bucket, &prefix).map(|object| async move {
        let object = object.map_err(|error| Failure::from(error).about(address))?;
        remove(&address.with_key(object.key), client).await
    });
    let count = |console: &mut Console, object: Option<Object>| {
        removed += u64::from(object.is_some());
        confirm(console, object)
    };
    batch.run(parallel, jobs, console, count).await?;
    Ok(removed)
}

/// Removes an object that somebody else may have removed in the meantime.
async fn remove<C: ObjectClient>(address: &Address, client: &C) -> Result<Option<Object>, Failure> {
    match client.delete(&address.bucket, &address.key, None).await {
        Ok(object) => Ok(Some(object)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Failure::from(error).about(address)),
    }
}

fn confirm(console: &mut Console, removed: Option<Object>) -> Result<(), Failure> {
    let Some(object) = removed else { return Ok(()) };
    console.confirm(&RemovedRecord::from(&object), || format!("removed {}/{}", object.bucket, object.key))
}

//! `rm`: removes objects.

use clap::Args;
use futures::{Stream, StreamExt as _, TryStreamExt as _, stream};
use xdpfs_client::{
    DeleteOptions, Deleted, ErrorKind, ObjectClient, ObjectVersion, object_versions, objects,
};

use crate::{
    address::Address,
    arguments::{Conditions, Parallel, VersionChoice},
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

Where a bucket keeps versions, what is removed stays as one, behind a delete marker; to remove the
marker by its --version-id brings it back.

Examples:
  xdpfs-cli rm photos/cat.jpg photos/dog.jpg
  xdpfs-cli rm -r photos/2026/
  xdpfs-cli rm jobs/lock --if-match 5f-1a2b3c4d      only if it is still the same
  xdpfs-cli rm papers/a --version-id 57              this version for good
  xdpfs-cli rm -r papers/old/ --versions             all that is and was there, for good")]
pub(crate) struct RmArguments {
    /// What to remove.
    #[arg(value_name = "BUCKET/KEY", required = true)]
    addresses: Vec<Address>,
    /// Remove all objects below the addresses.
    #[arg(short, long, conflicts_with_all = ["if_match", "if_none_match"])]
    recursive: bool,
    /// Remove all versions and delete markers, for good.
    #[arg(long, conflicts_with_all = ["if_match", "if_none_match", "version_id"])]
    versions: bool,
    #[command(flatten)]
    version: VersionChoice,
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
    if arguments.recursive {
        arguments.version.check(0)?;
    }
    arguments.version.check(arguments.addresses.len())?;
    let mut batch = Batch::default();
    if arguments.versions {
        for address in &arguments.addresses {
            remove_history(address, arguments, client, &mut batch, console).await?;
        }
    } else if arguments.recursive {
        for address in &arguments.addresses {
            remove_tree(address, arguments.parallel, client, &mut batch, console).await?;
        }
    } else {
        let jobs = stream::iter(&arguments.addresses).map(|address| async move {
            let options = DeleteOptions {
                precondition: arguments.conditions.precondition(),
                version: arguments.version.version_id,
            };
            let removed = client.delete_with(&address.bucket, &address.key, options).await;
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
            Ok(deleted) => {
                removed += 1;
                batch.succeed();
                confirm(console, deleted)?;
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
    let count = |console: &mut Console, deleted: Option<Deleted>| {
        removed += u64::from(deleted.is_some());
        confirm(console, deleted)
    };
    batch.run(parallel, jobs, console, count).await?;
    Ok(removed)
}

/// Removes an object that somebody else may have removed in the meantime.
async fn remove<C: ObjectClient>(address: &Address, client: &C) -> Result<Option<Deleted>, Failure> {
    remove_with(address, DeleteOptions::default(), client).await
}

async fn remove_with<C: ObjectClient>(
    address: &Address,
    options: DeleteOptions,
    client: &C,
) -> Result<Option<Deleted>, Failure> {
    match client.delete_with(&address.bucket, &address.key, options).await {
        Ok(deleted) => Ok(Some(deleted)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Failure::from(error).about(address)),
    }
}

/// All that a key, or what is below a directory, is and was.
async fn remove_history<C: ObjectClient>(
    address: &Address,
    arguments: &RmArguments,
    client: &C,
    batch: &mut Batch,
    console: &mut Console,
) -> Result<(), Failure> {
    let (failed_before, is_tree) = (batch.failed(), arguments.recursive);
    let mut removed = match is_tree {
        true => {
            remove_versions(address, &address.directory(), arguments.parallel, client, batch, console).await?
        }
        false => 0,
    };
    if !is_tree || !address.is_directory() {
        let own = object_versions(client, &address.bucket, &address.key)
            .try_take_while(|version| std::future::ready(Ok(version.object.key == address.key)));
        let deleted = match own.try_collect::<Vec<_>>().await {
            Ok(versions) => remove_oldest_first(address, versions, client).await,
            Err(error) => Err(Failure::from(error).about(address)),
        };
        match deleted {
            Ok(deleted) => {
                removed += deleted.len() as u64;
                deleted.into_iter().try_for_each(|deleted| {
                    batch.succeed();
                    confirm(console, Some(deleted))
                })?;
            }
            Err(failure) => batch.fail(console, &failure),
        }
    }
    if removed == 0 && batch.failed() == failed_before {
        let failure = Failure::not_found(format!("there is no version of {address} to remove"));
        batch.fail(console, &failure.about(address));
    }
    Ok(())
}

/// Removes all versions of all keys that begin so, and gives how many there were.
pub(super) async fn remove_versions<C: ObjectClient>(
    address: &Address,
    prefix: &str,
    parallel: Parallel,
    client: &C,
    batch: &mut Batch,
    console: &mut Console,
) -> Result<u64, Failure> {
    let mut removed = 0;
    let jobs = by_key(object_versions(client, &address.bucket, prefix)).map(|versions| async move {
        let versions = versions.map_err(|error| Failure::from(error).about(address))?;
        let key = versions.first().map_or_else(String::new, |first| first.object.key.clone());
        remove_oldest_first(&address.with_key(key), versions, client).await
    });
    let count = |console: &mut Console, deleted: Vec<Deleted>| {
        removed += deleted.len() as u64;
        deleted.into_iter().try_for_each(|deleted| confirm(console, Some(deleted)))
    };
    batch.run(parallel, jobs, console, count).await?;
    Ok(removed)
}

/// The versions of each key together.
fn by_key(
    versions: impl Stream<Item = xdpfs_client::Result<ObjectVersion>>,
) -> impl Stream<Item = xdpfs_client::Result<Vec<ObjectVersion>>> {
    let start = (Box::pin(versions.peekable()), false);
    stream::unfold(start, |(mut versions, is_over)| async move {
        if is_over {
            return None;
        }
        let first = match versions.next().await? {
            Ok(first) => first,
            Err(error) => return Some((Err(error), (versions, true))),
        };
        let key = first.object.key.clone();
        let mut group = vec![first];
        while let Some(Ok(next)) =
            versions.as_mut().next_if(|next| next.as_ref().is_ok_and(|next| next.object.key == key)).await
        {
            group.push(next);
        }
        Some((Ok(group), (versions, false)))
    })
}

/// The oldest first, so that nothing older is visible in between. A delete marker goes with the last version beneath it.
async fn remove_oldest_first<C: ObjectClient>(
    address: &Address,
    newest_first: Vec<ObjectVersion>,
    client: &C,
) -> Result<Vec<Deleted>, Failure> {
    let mut deleted = Vec::with_capacity(newest_first.len());
    for version in newest_first.into_iter().rev() {
        let options = DeleteOptions { version: Some(version.object.version), ..DeleteOptions::default() };
        deleted.extend(remove_with(address, options, client).await?);
    }
    Ok(deleted)
}

fn confirm(console: &mut Console, deleted: Option<Deleted>) -> Result<(), Failure> {
    let Some(deleted) = deleted else { return Ok(()) };
    let object = &deleted.object;
    console.confirm(&RemovedRecord::from(&deleted), || {
        let name = format!("{}/{}", object.bucket, object.key);
        match (deleted.delete_marker, deleted.was_delete_marker) {
            (Some(marker), _) => {
                format!("removed {name} (kept as version {}, behind delete marker {marker})", object.version)
            }
            (None, true) => format!("removed delete marker {} of {name}", object.version),
            (None, false) => format!("removed {name}"),
        }
    })
}

//! `mv`: gives objects another name. Within a bucket that is one step.

use clap::Args;
use futures::StreamExt as _;
use xdpfs_client::{
    Batch as Changes, CopyOptions, CopyResult, CopyWay, Error, ErrorKind, ObjectClient, Precondition,
};

use super::copying::{Leg, Route, bytes_moved, how};
use crate::{
    arguments::{Conditions, Parallel},
    batch::Batch,
    console::Console,
    failure::{Exit, Failure},
    record::MovedRecord,
    units::human_bytes,
};

/// Move or rename objects.
#[derive(Debug, Args)]
#[command(after_help = "\
Within a bucket, the new name appears and the old one vanishes in one step, and no byte moves.
From bucket to bucket, the data nodes copy the object among themselves, or this machine does where
servers or nodes run an older release; then it is removed, if it is still the same. With -r, each
object moves by itself.

Examples:
  xdpfs-cli mv photos/cat.jpg photos/tom.jpg
  xdpfs-cli mv -r photos/new/ photos/2026/
  xdpfs-cli mv jobs/1 jobs/done/1 --if-none-match '*'    only if that name is free")]
pub(crate) struct MvArguments {
    #[command(flatten)]
    route: Route,
    #[command(flatten)]
    conditions: Conditions,
    #[command(flatten)]
    parallel: Parallel,
}

/// Moves everything that is asked for.
pub(crate) async fn run<C: ObjectClient>(
    arguments: &MvArguments,
    client: &C,
    console: &mut Console,
) -> Result<Exit, Failure> {
    let jobs = arguments.route.legs(client)?.map(|leg| async move {
        let leg = leg?;
        let moved = rename(&leg, arguments.conditions.precondition(), client).await?;
        Ok((leg, moved))
    });
    let mut batch = Batch::default();
    batch.run(arguments.parallel, jobs, console, confirm).await?;
    if batch.is_empty() {
        return Err(Failure::not_found("there is no object to move"));
    }
    Ok(batch.finish(console))
}

async fn rename<C: ObjectClient>(
    leg: &Leg,
    precondition: Option<Precondition>,
    client: &C,
) -> Result<CopyResult, Failure> {
    let Leg { source, target } = leg;
    if source == target {
        return Err(Failure::usage(format!("{source} cannot be moved to itself")));
    }
    if leg.is_within_bucket() {
        let options = CopyOptions { precondition, ..CopyOptions::default() };
        let changes =
            Changes::new(&source.bucket).copy(&source.key, &target.key, options).delete(&source.key, None);
        let results = client.commit(changes).await.map_err(|error| named(error, target))?;
        let copy = results.into_iter().next().and_then(|result| result.object);
        let moved = copy.map(|object| CopyResult { object, way: CopyWay::Shared });
        return moved.ok_or_else(|| Failure::unavailable(format!("{target}: the answer says nothing of it")));
    }
    copy_and_remove(leg, precondition, client).await
}

async fn copy_and_remove<C: ObjectClient>(
    leg: &Leg,
    precondition: Option<Precondition>,
    client: &C,
) -> Result<CopyResult, Failure> {
    let Leg { source, target } = leg;
    let held = client.stat(&source.bucket, &source.key, None).await;
    let held = held.map_err(|error| Failure::from(error).about(source))?;
    let unchanged = Some(Precondition::IfMatch(held.etag));
    let options =
        CopyOptions { source_precondition: unchanged.clone(), precondition, ..CopyOptions::default() };
    let copied = leg.copy(options, client).await;
    let copied = copied.map_err(|error| Failure::from(error).about(target))?;
    match client.delete(&source.bucket, &source.key, unchanged).await {
        Ok(_) => Ok(copied),
        Err(error) if matches!(error.kind(), ErrorKind::PreconditionFailed | ErrorKind::NotFound) => {
            let message = format!("{source} was copied to {target}, but has changed since");
            Err(Failure::from(error).with_message(message).about(source))
        }
        Err(error) => {
            let message = format!("{source} was copied to {target}, but not removed");
            Err(Failure::from(error).with_message(message).about(source))
        }
    }
}

/// Nobody has asked for a batch: the words are those of the operation that failed.
fn named(error: Error, target: &crate::address::Address) -> Failure {
    let error = match error {
        Error::BatchRefused { source, .. } => *source,
        error => error,
    };
    Failure::from(error).about(target)
}

fn confirm(console: &mut Console, (leg, moved): (Leg, CopyResult)) -> Result<(), Failure> {
    let CopyResult { object, way } = moved;
    let (source, size) = (&leg.source, human_bytes(object.size));
    console.confirm(&MovedRecord::new(&object, source, bytes_moved(way, &object), way), || {
        format!("moved {source} to {}/{} ({size}, {})", object.bucket, object.key, how(way))
    })
}

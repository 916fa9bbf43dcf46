//! `mv`: gives objects another name. Within a bucket that is one step.

use clap::Args;
use futures::StreamExt as _;
use xdpfs_client::{
    Batch as Changes, CopyOptions, Error, ErrorKind, Object, ObjectClient, Precondition, copy_bytes,
};

use super::copying::{Leg, Route};
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
From bucket to bucket, the object is copied through this machine and then removed, if it is still
the same. With -r, each object moves by itself.

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
        let object = rename(&leg, arguments.conditions.precondition(), client).await?;
        Ok((leg, object))
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
) -> Result<Object, Failure> {
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
        return copy.ok_or_else(|| Failure::unavailable(format!("{target}: the answer says nothing of it")));
    }
    copy_and_remove(leg, precondition, client).await
}

async fn copy_and_remove<C: ObjectClient>(
    leg: &Leg,
    precondition: Option<Precondition>,
    client: &C,
) -> Result<Object, Failure> {
    let Leg { source, target } = leg;
    let held = client.stat(&source.bucket, &source.key, None).await;
    let held = held.map_err(|error| Failure::from(error).about(source))?;
    let unchanged = Some(Precondition::IfMatch(held.etag));
    let from = (source.bucket.as_str(), source.key.as_str());
    let to = (target.bucket.as_str(), target.key.as_str());
    let options =
        CopyOptions { source_precondition: unchanged.clone(), precondition, ..CopyOptions::default() };
    let copied = copy_bytes(client, from, to, options).await;
    let object = copied.map_err(|error| Failure::from(error).about(target))?.object;
    match client.delete(&source.bucket, &source.key, unchanged).await {
        Ok(_) => Ok(object),
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

fn confirm(console: &mut Console, (leg, object): (Leg, Object)) -> Result<(), Failure> {
    let bytes_moved = if leg.is_within_bucket() { 0 } else { object.size };
    let how = if leg.is_within_bucket() { "no byte moved" } else { "through this machine" };
    let (source, size) = (&leg.source, human_bytes(object.size));
    console.confirm(&MovedRecord::new(&object, source, bytes_moved), || {
        format!("moved {source} to {}/{} ({size}, {how})", object.bucket, object.key)
    })
}

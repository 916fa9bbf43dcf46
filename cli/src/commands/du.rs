//! `du`: how many objects there are, and how many bytes they have.

use clap::Args;
use futures::TryStreamExt as _;
use xdpfs_client::{ObjectClient, objects};

use crate::{
    address::Address,
    batch::Batch,
    console::Console,
    failure::{Exit, Failure},
    record::UsageRecord,
    units::{self, count},
};

/// Count objects and their bytes.
#[derive(Debug, Args)]
#[command(after_help = "\
Bytes are those of the objects, not those of their replicas on disk.

Examples:
  xdpfs-cli du                       each bucket
  xdpfs-cli du --human photos photos/2026/")]
pub(crate) struct DuArguments {
    /// The buckets, and how the keys start; all buckets if none is given.
    #[arg(value_name = "BUCKET[/PREFIX]")]
    addresses: Vec<Address>,
    /// Show sizes rounded, such as 1.5 MiB.
    #[arg(long, visible_alias = "human-readable")]
    human: bool,
}

/// Objects and their bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Usage {
    objects: u64,
    bytes: u64,
}

/// Counts them all; one that fails does not keep the others back.
pub(crate) async fn run<C: ObjectClient>(
    arguments: &DuArguments,
    client: &C,
    console: &mut Console,
) -> Result<Exit, Failure> {
    if arguments.addresses.is_empty() {
        count_buckets(arguments, client, console).await?;
    }
    let mut batch = Batch::default();
    for address in &arguments.addresses {
        match usage_of(address, client).await {
            Ok(usage) => {
                batch.succeed();
                print(address, usage, arguments, console)?;
            }
            Err(failure) => batch.fail(console, &failure.about(address)),
        }
    }
    Ok(batch.finish(console))
}

async fn count_buckets<C: ObjectClient>(
    arguments: &DuArguments,
    client: &C,
    console: &mut Console,
) -> Result<(), Failure> {
    let mut page = None;
    loop {
        let buckets = client.buckets(page).await?;
        for bucket in &buckets.buckets {
            let usage = Usage { objects: bucket.objects, bytes: bucket.bytes };
            print(&Address::bucket(&bucket.name), usage, arguments, console)?;
        }
        page = match buckets.next {
            Some(next) => Some(next),
            None => return Ok(()),
        };
    }
}

/// The cluster keeps count of buckets; below a prefix the objects have to be counted.
async fn usage_of<C: ObjectClient>(address: &Address, client: &C) -> Result<Usage, Failure> {
    if address.is_bucket() {
        let bucket = client.bucket(&address.bucket).await?;
        return Ok(Usage { objects: bucket.objects, bytes: bucket.bytes });
    }
    let add = |usage: Usage, object: xdpfs_client::Object| async move {
        Ok(Usage { objects: usage.objects + 1, bytes: usage.bytes + object.size })
    };
    Ok(objects(client, &address.bucket, &address.key).try_fold(Usage::default(), add).await?)
}

fn print(
    address: &Address,
    usage: Usage,
    arguments: &DuArguments,
    console: &mut Console,
) -> Result<(), Failure> {
    let Usage { objects, bytes } = usage;
    let record = UsageRecord { bucket: &address.bucket, prefix: &address.key, objects, bytes };
    console.answer(&record, || {
        let bytes = units::bytes(bytes, arguments.human);
        format!("{bytes:>12} {:>14}  {address}", count(objects, "object"))
    })?;
    console.flush()
}

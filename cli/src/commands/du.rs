//! `du`: how many objects there are, and how many bytes they have.

use clap::Args;
use futures::TryStreamExt as _;
use xdpfs_client::{Bucket, ObjectClient, ObjectVersion, Versioning, object_versions, objects};

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
Bytes are those of the objects, not those of their replicas on disk. Older versions, where a bucket
keeps any, are counted apart; quotas count both.

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
    older_versions: u64,
    older_bytes: u64,
}

impl Usage {
    fn with(mut self, version: &ObjectVersion) -> Self {
        if version.delete_marker {
            return self;
        }
        let (count, bytes) = match version.latest {
            true => (&mut self.objects, &mut self.bytes),
            false => (&mut self.older_versions, &mut self.older_bytes),
        };
        *count += 1;
        *bytes += version.object.size;
        self
    }
}

impl From<&Bucket> for Usage {
    fn from(bucket: &Bucket) -> Self {
        Self {
            objects: bucket.objects,
            bytes: bucket.bytes,
            older_versions: bucket.older_versions,
            older_bytes: bucket.older_bytes,
        }
    }
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
            print(&Address::bucket(&bucket.name), bucket.into(), arguments, console)?;
        }
        page = match buckets.next {
            Some(next) => Some(next),
            None => return Ok(()),
        };
    }
}

/// The cluster keeps count of buckets; below a prefix the objects have to be counted.
async fn usage_of<C: ObjectClient>(address: &Address, client: &C) -> Result<Usage, Failure> {
    let bucket = client.bucket(&address.bucket).await?;
    if address.is_bucket() {
        return Ok(Usage::from(&bucket));
    }
    if bucket.versioning != Versioning::Off {
        let versions = object_versions(client, &address.bucket, &address.key);
        return Ok(versions
            .try_fold(Usage::default(), |usage, version| async move { Ok(usage.with(&version)) })
            .await?);
    }
    let add = |usage: Usage, object: xdpfs_client::Object| async move {
        Ok(Usage { objects: usage.objects + 1, bytes: usage.bytes + object.size, ..usage })
    };
    Ok(objects(client, &address.bucket, &address.key).try_fold(Usage::default(), add).await?)
}

fn print(
    address: &Address,
    usage: Usage,
    arguments: &DuArguments,
    console: &mut Console,
) -> Result<(), Failure> {
    let Usage { objects, bytes, older_versions, older_bytes } = usage;
    let record = UsageRecord {
        bucket: &address.bucket,
        prefix: &address.key,
        objects,
        bytes,
        older_versions,
        older_bytes,
    };
    console.answer(&record, || {
        let shown = |bytes| units::bytes(bytes, arguments.human);
        let line = format!("{:>12} {:>14}  {address}", shown(bytes), count(objects, "object"));
        match older_versions {
            0 => line,
            older => format!("{line}  (and {} in {})", shown(older_bytes), count(older, "older version")),
        }
    })?;
    console.flush()
}

//! `mb`: makes a bucket.

use clap::Args;
use xdpfs_client::{Bucket, BucketOptions, Error, ObjectClient, Versioning};

use crate::{
    address::Address,
    console::Console,
    failure::{Exit, Failure},
    record::BucketRecord,
    units::{parse_bytes, parse_size},
};

/// Make a bucket.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  xdpfs-cli mb photos
  xdpfs-cli mb logs --chunk-size 1MiB --replicas 2 --min-replicas 1
  xdpfs-cli mb inbox --quota 10GiB --max-objects 100000
  xdpfs-cli mb papers --versioning     keep what is overwritten and deleted
  xdpfs-cli mb photos --if-missing     or leave it as it is")]
pub(crate) struct MbArguments {
    /// The bucket: 3 to 63 of a-z, 0-9, '.' and '-'.
    bucket: Address,
    /// Bytes in every chunk but an object's last one: 64KiB to 16MiB [default: 4MiB].
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    chunk_size: Option<u32>,
    /// Copies of each chunk that a put asks for: 1 to 7 [default: 3].
    #[arg(long, value_name = "COUNT")]
    replicas: Option<u32>,
    /// Copies of each chunk without which a put fails [default: 2, or replicas if that is less].
    #[arg(long, value_name = "COUNT")]
    min_replicas: Option<u32>,
    /// The most bytes that its objects may have together [default: no bound].
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    quota: Option<u64>,
    /// The most objects that it may hold [default: no bound].
    #[arg(long, value_name = "COUNT")]
    max_objects: Option<u64>,
    /// Keep what is overwritten and deleted as older versions.
    #[arg(long)]
    versioning: bool,
    /// A bucket that is there already, with whatever settings, will do.
    #[arg(long)]
    if_missing: bool,
}

/// What was done about a bucket.
enum Made {
    New(Bucket),
    ThereAlready(Bucket),
}

/// Makes the bucket.
pub(crate) async fn run<C: ObjectClient>(
    arguments: &MbArguments,
    client: &C,
    console: &mut Console,
) -> Result<Exit, Failure> {
    arguments.bucket.check_bucket()?;
    let options = BucketOptions {
        chunk_size: arguments.chunk_size,
        replicas: arguments.replicas,
        min_replicas: arguments.min_replicas,
        quota_bytes: arguments.quota,
        quota_objects: arguments.max_objects,
        versioning: if arguments.versioning { Versioning::On } else { Versioning::Off },
    };
    let made = make(arguments, options, client).await;
    match made.map_err(|error| Failure::from(error).about(&arguments.bucket))? {
        Made::New(bucket) => {
            console.confirm(&BucketRecord::from(&bucket), || format!("made bucket {}", bucket.name))?;
        }
        Made::ThereAlready(bucket) => {
            let text = || format!("bucket {} is there already", bucket.name);
            console.confirm(&BucketRecord::from(&bucket), text)?;
        }
    }
    Ok(Exit::Done)
}

async fn make<C: ObjectClient>(
    arguments: &MbArguments,
    options: BucketOptions,
    client: &C,
) -> Result<Made, Error> {
    let name = &arguments.bucket.bucket;
    match client.create_bucket(name, options).await {
        Err(Error::BucketExists { .. }) if arguments.if_missing => {
            client.bucket(name).await.map(Made::ThereAlready)
        }
        made => made.map(Made::New),
    }
}

//! `bucket`: the settings of a bucket.

use clap::{Args, Subcommand};
use xdpfs_client::{Bucket, BucketUpdate, ObjectClient, Setting, Versioning};

use super::stat::bucket_text;
use crate::{
    address::Address,
    console::Console,
    failure::{Exit, Failure},
    record::BucketRecord,
    units::{human_bytes, parse_size},
};

/// Show or change the settings of a bucket.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  xdpfs-cli bucket show photos
  xdpfs-cli bucket update photos --quota 10GiB
  xdpfs-cli bucket update photos --quota none --max-objects 100000
  xdpfs-cli bucket update photos --versioning on          or suspended")]
pub(crate) struct BucketArguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Show its settings, how much it holds and how much it may hold.
    Show {
        /// The bucket.
        bucket: Address,
    },
    Update(UpdateArguments),
}

/// Change how much it may hold, and whether it keeps older versions; what is not named stays as it is.
///
/// Each object counts with its size: a copy in full, although it shares its chunks, an older version too, and replicas not
/// at all. A bucket that holds more already takes nothing that makes it fuller.
#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("change").required(true).multiple(true)))]
struct UpdateArguments {
    /// The bucket.
    bucket: Address,
    /// The most bytes that its objects may have together.
    #[arg(long, value_name = "SIZE|none", group = "change", value_parser = parse_quota)]
    quota: Option<Quota>,
    /// The most objects that it may hold.
    #[arg(long, value_name = "COUNT|none", group = "change", value_parser = parse_count)]
    max_objects: Option<Quota>,
    /// Keep what is overwritten and deleted as older versions; or suspend that, which leaves those that there are. It can't
    /// be off again.
    #[arg(long, value_name = "on|suspended", group = "change", value_parser = parse_versioning)]
    versioning: Option<Versioning>,
}

/// A bound, or none.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Quota(Option<u64>);

/// Shows or changes them.
pub(crate) async fn run<C: ObjectClient>(
    arguments: &BucketArguments,
    client: &C,
    console: &mut Console,
) -> Result<Exit, Failure> {
    match &arguments.action {
        Action::Show { bucket: address } => {
            address.check_bucket()?;
            let bucket = client.bucket(&address.bucket).await;
            let bucket = bucket.map_err(|error| Failure::from(error).about(address))?;
            console.answer(&BucketRecord::from(&bucket), || bucket_text(&bucket))?;
        }
        Action::Update(update) => {
            update.bucket.check_bucket()?;
            let change = BucketUpdate {
                quota_bytes: setting(update.quota),
                quota_objects: setting(update.max_objects),
                versioning: update.versioning,
            };
            let bucket = client.update_bucket(&update.bucket.bucket, change).await;
            let bucket = bucket.map_err(|error| Failure::from(error).about(&update.bucket))?;
            console.confirm(&BucketRecord::from(&bucket), || confirmation(&bucket))?;
        }
    }
    console.flush()?;
    Ok(Exit::Done)
}

fn confirmation(bucket: &Bucket) -> String {
    let bytes = bucket.quota_bytes.map_or_else(|| "any number of bytes".to_owned(), human_bytes);
    let objects = bucket.quota_objects.map_or_else(|| "any number of".to_owned(), |count| count.to_string());
    let versions = match bucket.versioning {
        Versioning::Off => "",
        Versioning::On => ", and keeps older versions",
        Versioning::Suspended => ", and keeps no more older versions than it has",
    };
    format!("bucket {} may hold {bytes} in {objects} objects{versions}", bucket.name)
}

fn setting(quota: Option<Quota>) -> Setting<u64> {
    match quota {
        None => Setting::Keep,
        Some(Quota(None)) => Setting::Remove,
        Some(Quota(Some(value))) => Setting::Set(value),
    }
}

fn parse_quota(text: &str) -> Result<Quota, String> {
    if text == "none" { Ok(Quota(None)) } else { parse_size(text).map(|bytes| Quota(Some(bytes))) }
}

fn parse_versioning(text: &str) -> Result<Versioning, String> {
    match text {
        "on" => Ok(Versioning::On),
        "suspended" => Ok(Versioning::Suspended),
        _ => Err("write on, or suspended".to_owned()),
    }
}

fn parse_count(text: &str) -> Result<Quota, String> {
    match text {
        "none" => Ok(Quota(None)),
        text => {
            let count = text.parse().map_err(|_| "write a number, or none".to_owned())?;
            Ok(Quota(Some(count)))
        }
    }
}

//! `ls`: buckets, or the keys of one.

use clap::Args;
use xdpfs_client::{Bucket, ListOptions, ListPage, Object, ObjectClient};

use crate::{
    address::Address,
    console::Console,
    failure::{Exit, Failure},
    record::{BucketRecord, GroupRecord, ObjectRecord},
    units,
};

/// List buckets, or objects of one.
#[derive(Debug, Args)]
#[command(after_help = "\
Prints the time of the put (UTC), the bytes and the key. Keys that go on behind a slash are shown
as one group, PRE name/, unless -r is given.

A listing shows the bucket as it was when it began. If so much changes meanwhile that the cluster
forgets that moment, it goes on with a later one, and a note on standard error says so.

Examples:
  xdpfs-cli ls                       all buckets
  xdpfs-cli ls photos                what is at the top of a bucket
  xdpfs-cli ls photos/2026/          what is in a directory
  xdpfs-cli ls -r photos/2026/c      all keys that start with 2026/c
  xdpfs-cli ls -r --consistent logs  as it was at one moment, or fail")]
pub(crate) struct LsArguments {
    /// The bucket, and how the keys start.
    #[arg(value_name = "BUCKET[/PREFIX]")]
    address: Option<Address>,
    /// List all keys, without groups.
    #[arg(short, long)]
    recursive: bool,
    /// Fail rather than go on with a later moment than that of the first line.
    #[arg(long)]
    consistent: bool,
    /// Show sizes rounded, such as 1.5 MiB.
    #[arg(long, visible_alias = "human-readable")]
    human: bool,
}

/// Lists.
pub(crate) async fn run<C: ObjectClient>(
    arguments: &LsArguments,
    client: &C,
    console: &mut Console,
) -> Result<Exit, Failure> {
    match &arguments.address {
        None => list_buckets(client, console).await,
        Some(address) => list_objects(address, arguments, client, console).await,
    }
}

async fn list_buckets<C: ObjectClient>(client: &C, console: &mut Console) -> Result<Exit, Failure> {
    let mut page = None;
    loop {
        let buckets = client.buckets(page).await?;
        for bucket in &buckets.buckets {
            console.answer(&BucketRecord::from(bucket), || bucket_line(bucket))?;
        }
        console.flush()?;
        page = match buckets.next {
            Some(next) => Some(next),
            None => return Ok(Exit::Done),
        };
    }
}

async fn list_objects<C: ObjectClient>(
    address: &Address,
    arguments: &LsArguments,
    client: &C,
    console: &mut Console,
) -> Result<Exit, Failure> {
    let delimiter = if arguments.recursive { "" } else { "/" };
    let mut options = ListOptions {
        prefix: address.key.clone(),
        delimiter: delimiter.into(),
        consistent: arguments.consistent,
        ..ListOptions::default()
    };
    let mut is_empty = true;
    let mut moment = None;
    loop {
        let listed = client.list(&address.bucket, options.clone()).await;
        let page = listed.map_err(|error| Failure::from(error).about(address))?;
        is_empty &= page.objects.is_empty() && page.prefixes.is_empty();
        if moment.replace(page.as_of).is_some_and(|before| before != page.as_of) {
            console.note(&format!("{address} has changed too much: what follows shows a later moment"));
        }
        print_page(&page, address, arguments, console)?;
        console.flush()?;
        match page.next {
            Some(next) => options.page = Some(next),
            None => break,
        }
    }
    if is_empty && !address.is_bucket() {
        return Err(Failure::not_found(format!("no key starts with {address}")).about(address));
    }
    Ok(Exit::Done)
}

/// Groups and objects in the order of their names.
fn print_page(
    page: &ListPage,
    address: &Address,
    arguments: &LsArguments,
    console: &mut Console,
) -> Result<(), Failure> {
    // As people know it: names below a directory without the directory, and whole keys of a whole tree.
    let shown_from =
        if arguments.recursive { 0 } else { address.key.rfind('/').map_or(0, |slash| slash + 1) };
    let mut groups = page.prefixes.iter().peekable();
    let print_group = |console: &mut Console, prefix: &str| {
        let record = GroupRecord { bucket: &address.bucket, prefix };
        console.answer(&record, || format!("{:>30} {}", "PRE", prefix.get(shown_from..).unwrap_or(prefix)))
    };
    for object in &page.objects {
        while let Some(prefix) = groups.next_if(|prefix| **prefix < object.key) {
            print_group(console, prefix)?;
        }
        let name = object.key.get(shown_from..).filter(|name| !name.is_empty()).unwrap_or(&object.key);
        console.answer(&ObjectRecord::from(object), || object_line(object, name, arguments.human))?;
    }
    groups.try_for_each(|prefix| print_group(console, prefix))
}

fn bucket_line(bucket: &Bucket) -> String {
    format!("{} {}", units::date(bucket.created), bucket.name)
}

fn object_line(object: &Object, name: &str, human: bool) -> String {
    format!("{} {:>10} {name}", units::date(object.created), units::bytes(object.size, human))
}

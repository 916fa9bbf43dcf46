//! `ls`: buckets, or the keys of one.

use clap::Args;
use xdpfs_client::{Bucket, ListOptions, ListPage, Object, ObjectClient, ObjectVersion, VersionListOptions};

use crate::{
    address::Address,
    console::Console,
    failure::{Exit, Failure},
    record::{BucketRecord, GroupRecord, ObjectRecord, VersionRecord},
    units,
};

/// List buckets, or objects of one.
#[derive(Debug, Args)]
#[command(after_help = "\
Prints the time of the put (UTC), the bytes and the key. Keys that go on behind a slash are shown
as one group, PRE name/, unless -r is given.

A listing shows the bucket as it was when it began. If so much changes meanwhile that the cluster
forgets that moment, it goes on with a later one, and a note on standard error says so.

With --versions, the version stands before the key, and behind it what there is to say: (latest),
(delete marker). get, cat, stat, cp and rm take a version by --version-id.

Examples:
  xdpfs-cli ls                       all buckets
  xdpfs-cli ls photos                what is at the top of a bucket
  xdpfs-cli ls photos/2026/          what is in a directory
  xdpfs-cli ls -r photos/2026/c      all keys that start with 2026/c
  xdpfs-cli ls -r --consistent logs  as it was at one moment, or fail
  xdpfs-cli ls --versions papers/a   what papers/a was before, too")]
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
    /// List all versions and delete markers, the newest of each key first.
    #[arg(long)]
    versions: bool,
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
        None if arguments.versions => {
            Err(Failure::usage("--versions lists those of one bucket")
                .with_hint("name it: ls --versions BUCKET"))
        }
        None => list_buckets(client, console).await,
        Some(address) if arguments.versions => list_versions(address, arguments, client, console).await,
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
        note_moment(&mut moment, page.as_of, address, console);
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

async fn list_versions<C: ObjectClient>(
    address: &Address,
    arguments: &LsArguments,
    client: &C,
    console: &mut Console,
) -> Result<Exit, Failure> {
    let mut options = VersionListOptions {
        prefix: address.key.clone(),
        delimiter: if arguments.recursive { "" } else { "/" }.into(),
        consistent: arguments.consistent,
        ..VersionListOptions::default()
    };
    let mut is_empty = true;
    let mut moment = None;
    loop {
        let listed = client.list_versions(&address.bucket, options.clone()).await;
        let page = listed.map_err(|error| Failure::from(error).about(address))?;
        is_empty &= page.versions.is_empty() && page.prefixes.is_empty();
        note_moment(&mut moment, page.as_of, address, console);
        let shown = Shown::new(address, arguments);
        let mut groups = page.prefixes.iter().peekable();
        for version in &page.versions {
            let key = &version.object.key;
            while let Some(prefix) = groups.next_if(|prefix| *prefix < key) {
                shown.print_group(prefix, console)?;
            }
            let text = || version_line(version, shown.name(key), arguments.human);
            console.answer(&VersionRecord::from(version), text)?;
        }
        groups.try_for_each(|prefix| shown.print_group(prefix, console))?;
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

fn note_moment(moment: &mut Option<u64>, as_of: u64, address: &Address, console: &mut Console) {
    if moment.replace(as_of).is_some_and(|before| before != as_of) {
        console.note(&format!("{address} has changed too much: what follows shows a later moment"));
    }
}

/// How names are shown, as people know it: names below a directory without the directory, and whole keys of a whole tree.
struct Shown<'a> {
    address: &'a Address,
    from: usize,
}

impl<'a> Shown<'a> {
    fn new(address: &'a Address, arguments: &LsArguments) -> Self {
        let directory = address.key.rfind('/').map_or(0, |slash| slash + 1);
        Self { address, from: if arguments.recursive { 0 } else { directory } }
    }

    fn name<'k>(&self, key: &'k str) -> &'k str {
        key.get(self.from..).filter(|name| !name.is_empty()).unwrap_or(key)
    }

    fn print_group(&self, prefix: &str, console: &mut Console) -> Result<(), Failure> {
        let record = GroupRecord { bucket: &self.address.bucket, prefix };
        console.answer(&record, || format!("{:>30} {}", "PRE", prefix.get(self.from..).unwrap_or(prefix)))
    }
}

/// Groups and objects in the order of their names.
fn print_page(
    page: &ListPage,
    address: &Address,
    arguments: &LsArguments,
    console: &mut Console,
) -> Result<(), Failure> {
    let shown = Shown::new(address, arguments);
    let mut groups = page.prefixes.iter().peekable();
    for object in &page.objects {
        while let Some(prefix) = groups.next_if(|prefix| **prefix < object.key) {
            shown.print_group(prefix, console)?;
        }
        let text = || object_line(object, shown.name(&object.key), arguments.human);
        console.answer(&ObjectRecord::from(object), text)?;
    }
    groups.try_for_each(|prefix| shown.print_group(prefix, console))
}

fn bucket_line(bucket: &Bucket) -> String {
    format!("{} {}", units::date(bucket.created), bucket.name)
}

fn object_line(object: &Object, name: &str, human: bool) -> String {
    format!("{} {:>10} {name}", units::date(object.created), units::bytes(object.size, human))
}

fn version_line(version: &ObjectVersion, name: &str, human: bool) -> String {
    let ObjectVersion { object, latest, delete_marker } = version;
    let size = if *delete_marker { String::new() } else { units::bytes(object.size, human) };
    let line = format!("{} {size:>10} {:>8} {name}", units::date(object.created), object.version);
    match (latest, delete_marker) {
        (true, true) => format!("{line}  (latest, delete marker)"),
        (true, false) => format!("{line}  (latest)"),
        (false, true) => format!("{line}  (delete marker)"),
        (false, false) => line,
    }
}

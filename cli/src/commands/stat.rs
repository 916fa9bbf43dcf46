//! `stat`: everything about an object, or about a bucket.

use std::fmt::Write as _;

use clap::Args;
use xdpfs_client::{Bucket, ChunkPlacement, Object, ObjectClient, StatOptions, Versioning};

use crate::{
    address::Address,
    arguments::{Conditions, VersionChoice},
    batch::Batch,
    console::Console,
    failure::{Exit, Failure},
    record::{BucketRecord, StatRecord, checksum, timestamp},
    units::{count, human_bytes},
};

/// Show all about an object or a bucket.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  xdpfs-cli stat photos/2026/cat.jpg
  xdpfs-cli stat --chunks photos/2026/cat.jpg       and on which nodes its chunks lie
  xdpfs-cli stat photos                             the settings of a bucket")]
pub(crate) struct StatArguments {
    /// The objects or buckets.
    #[arg(value_name = "BUCKET[/KEY]", required = true)]
    addresses: Vec<Address>,
    /// Show where the chunks lie.
    #[arg(long)]
    chunks: bool,
    #[command(flatten)]
    version: VersionChoice,
    #[command(flatten)]
    conditions: Conditions,
}

/// Shows them all; one that fails does not keep the others back.
pub(crate) async fn run<C: ObjectClient>(
    arguments: &StatArguments,
    client: &C,
    console: &mut Console,
) -> Result<Exit, Failure> {
    arguments.version.check(arguments.addresses.len())?;
    let mut batch = Batch::default();
    for address in &arguments.addresses {
        let shown = if address.is_bucket() {
            show_bucket(address, arguments, client, console).await
        } else {
            show_object(address, arguments, client, console).await
        };
        match shown {
            Ok(()) => batch.succeed(),
            Err(failure) if failure.exit == Exit::BrokenPipe => return Err(failure),
            Err(failure) => batch.fail(console, &failure),
        }
    }
    Ok(batch.finish(console))
}

async fn show_bucket<C: ObjectClient>(
    address: &Address,
    arguments: &StatArguments,
    client: &C,
    console: &mut Console,
) -> Result<(), Failure> {
    if arguments.version.version_id.is_some() {
        return Err(Failure::usage(format!("{address} is a bucket: only an object has versions")));
    }
    if arguments.conditions.precondition().is_some() {
        return Err(Failure::usage(format!("{address} is a bucket: only an object can meet a condition")));
    }
    let bucket = client.bucket(&address.bucket).await;
    let bucket = bucket.map_err(|error| Failure::from(error).about(address))?;
    console.answer(&BucketRecord::from(&bucket), || bucket_text(&bucket))?;
    console.flush()
}

async fn show_object<C: ObjectClient>(
    address: &Address,
    arguments: &StatArguments,
    client: &C,
    console: &mut Console,
) -> Result<(), Failure> {
    let about = |error| Failure::from(error).about(address);
    let options = StatOptions {
        precondition: arguments.conditions.precondition(),
        version: arguments.version.version_id,
    };
    let object = client.stat_with(&address.bucket, &address.key, options).await.map_err(about)?;
    let chunks = if arguments.chunks { Some(client.placement(&object).await.map_err(about)?) } else { None };
    let chunks = chunks.as_deref();
    console.answer(&StatRecord::new(&object, chunks), || object_text(&object, chunks.unwrap_or_default()))?;
    console.flush()
}

pub(super) fn bucket_text(bucket: &Bucket) -> String {
    let bound =
        |quota: Option<u64>, show: fn(u64) -> String| quota.map_or_else(|| "no bound".to_owned(), show);
    lines(
        &bucket.name,
        &[
            ("created", timestamp(bucket.created)),
            ("objects", bucket.objects.to_string()),
            ("bytes", size_text(bucket.bytes)),
            ("versioning", versioning_text(bucket)),
            ("quota", bound(bucket.quota_bytes, size_text)),
            ("max objects", bound(bucket.quota_objects, |count| count.to_string())),
            ("chunk size", size_text(bucket.chunk_size.into())),
            ("replicas", bucket.replicas.to_string()),
            ("min replicas", bucket.min_replicas.to_string()),
        ],
    )
}

/// What is kept, if anything is or was to be.
fn versioning_text(bucket: &Bucket) -> String {
    let label = bucket.versioning.label();
    if bucket.versioning == Versioning::Off {
        return label.to_owned();
    }
    let older = count(bucket.older_versions, "older version");
    let (bytes, markers) = (size_text(bucket.older_bytes), count(bucket.delete_markers, "delete marker"));
    format!("{label}: {older} of {bytes} bytes, {markers}")
}

fn object_text(object: &Object, chunks: &[ChunkPlacement]) -> String {
    let mut fields = vec![
        ("size", size_text(object.size)),
        ("etag", object.etag.clone()),
        ("version", object.version.to_string()),
        ("created", timestamp(object.created)),
        ("crc32c", checksum(object.crc32c)),
        ("replicas", format!("{} durable", object.durable_replicas)),
    ];
    if !object.content_type.is_empty() {
        fields.push(("content type", object.content_type.clone()));
    }
    fields.extend(object.user_metadata.iter().map(|(key, value)| ("metadata", format!("{key}={value}"))));
    fields.extend(chunks.iter().map(|chunk| ("chunk", chunk_text(chunk))));
    lines(&format!("{}/{}", object.bucket, object.key), &fields)
}

fn chunk_text(chunk: &ChunkPlacement) -> String {
    let nodes: Vec<_> = chunk.nodes.iter().map(ToString::to_string).collect();
    format!("{}+{} {} on {}", chunk.offset, chunk.length, chunk.chunk, nodes.join(", "))
}

fn size_text(bytes: u64) -> String {
    if bytes < 1024 { bytes.to_string() } else { format!("{bytes} ({})", human_bytes(bytes)) }
}

fn lines(title: &str, fields: &[(&str, String)]) -> String {
    let mut text = format!("{title}\n");
    for (name, value) in fields {
        // Writing to a string cannot fail.
        let _infallible = writeln!(text, "  {name:<12}  {value}");
    }
    text
}

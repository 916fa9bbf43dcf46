//! `cp`: copies objects. Within a bucket no byte moves.

use clap::Args;
use futures::StreamExt as _;
use xdpfs_client::{CopyOptions, CopyResult, ObjectClient, ObjectMetadata, Precondition};

use super::copying::{Leg, Route, bytes_moved, how};
use crate::{
    arguments::{Conditions, Parallel, VersionChoice, parse_if_match, parse_pair, user_metadata},
    batch::Batch,
    console::Console,
    failure::{Exit, Failure},
    record::CopiedRecord,
    units::human_bytes,
};

/// Copy objects.
#[derive(Debug, Args)]
#[command(after_help = "\
Within a bucket, a copy shares the chunks of its source: no byte moves, whatever the size. From
bucket to bucket, the data nodes fetch the bytes from each other; where servers or nodes run an
older release, the bytes go through this machine. The line for each copy says which it was.

Examples:
  xdpfs-cli cp photos/cat.jpg photos/2026/               photos/2026/cat.jpg
  xdpfs-cli cp photos/cat.jpg backup/cat.jpg             to another bucket
  xdpfs-cli cp -r photos/2026/ photos/best/              all below it
  xdpfs-cli cp a/x a/y --if-none-match '*'               only if a/y is not there
  xdpfs-cli cp a/x a/x --content-type text/plain         change what is said about it
  xdpfs-cli cp a/x a/x --version-id 57                   bring an older version back")]
pub(crate) struct CpArguments {
    #[command(flatten)]
    route: Route,
    /// The copies' media type. With --content-type or --metadata, nothing of what is said about the source is kept.
    #[arg(long, value_name = "TYPE")]
    content_type: Option<String>,
    /// Words about the copies instead of those about the source; may be given more than once.
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_pair)]
    metadata: Vec<(String, String)>,
    /// Only if the source is the object with this etag.
    #[arg(long, value_name = "ETAG", conflicts_with = "recursive", value_parser = parse_if_match)]
    source_if_match: Option<Precondition>,
    #[command(flatten)]
    version: VersionChoice,
    #[command(flatten)]
    conditions: Conditions,
    #[command(flatten)]
    parallel: Parallel,
}

impl CpArguments {
    fn options(&self) -> CopyOptions {
        let rewords = self.content_type.is_some() || !self.metadata.is_empty();
        let metadata = ObjectMetadata {
            content_type: self.content_type.clone().unwrap_or_default(),
            user_metadata: user_metadata(&self.metadata),
        };
        CopyOptions {
            source_precondition: self.source_if_match.clone(),
            precondition: self.conditions.precondition(),
            metadata: rewords.then_some(metadata),
            source_version: self.version.version_id,
        }
    }
}

/// Copies everything that is asked for.
pub(crate) async fn run<C: ObjectClient>(
    arguments: &CpArguments,
    client: &C,
    console: &mut Console,
) -> Result<Exit, Failure> {
    arguments.version.check(arguments.route.source_count())?;
    let jobs = arguments.route.legs(client)?.map(|leg| async move {
        let leg = leg?;
        let copied = copy(&leg, arguments.options(), client).await?;
        Ok((leg, copied))
    });
    let mut batch = Batch::default();
    batch.run(arguments.parallel, jobs, console, confirm).await?;
    if batch.is_empty() {
        return Err(Failure::not_found("there is no object to copy"));
    }
    Ok(batch.finish(console))
}

async fn copy<C: ObjectClient>(leg: &Leg, options: CopyOptions, client: &C) -> Result<CopyResult, Failure> {
    leg.copy(options, client).await.map_err(|error| Failure::from(error).about(&leg.target))
}

fn confirm(console: &mut Console, (leg, copied): (Leg, CopyResult)) -> Result<(), Failure> {
    let CopyResult { object, way } = copied;
    let (source, size) = (&leg.source, human_bytes(object.size));
    console.confirm(&CopiedRecord::new(&object, source, bytes_moved(way, &object), way), || {
        format!("copied {source} to {}/{} ({size}, {})", object.bucket, object.key, how(way))
    })
}

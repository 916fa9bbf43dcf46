//! `cat`: objects go to standard output, one behind the other.

use clap::Args;
use xdpfs_client::{ByteRange, GetOptions, ObjectClient};

use super::get::print;
use crate::{
    address::Address,
    arguments::{Conditions, VersionChoice},
    batch::Batch,
    console::Console,
    failure::{Exit, Failure},
};

/// Write objects to standard output.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  xdpfs-cli cat logs/monday logs/tuesday | sort
  xdpfs-cli cat logs/today --range -1024            the last KiB
  xdpfs-cli cat logs/today --range 0-99             the first 100 bytes
  xdpfs-cli cat logs/today --version-id 57          what it was, where versions are kept")]
pub(crate) struct CatArguments {
    /// What to write.
    #[arg(value_name = "SRC", required = true)]
    sources: Vec<Address>,
    /// Only these bytes of each: START-END (END included), START-, or -LENGTH.
    #[arg(long, value_name = "RANGE", allow_hyphen_values = true)]
    range: Option<ByteRange>,
    #[command(flatten)]
    version: VersionChoice,
    #[command(flatten)]
    conditions: Conditions,
}

/// Writes them all; one that fails does not keep the others back.
pub(crate) async fn run<C: ObjectClient>(
    arguments: &CatArguments,
    client: &C,
    console: &mut Console,
) -> Result<Exit, Failure> {
    arguments.version.check(arguments.sources.len())?;
    let progress = console.start_progress(true);
    let mut batch = Batch::default();
    for source in &arguments.sources {
        let options = GetOptions {
            range: arguments.range,
            precondition: arguments.conditions.precondition(),
            version: arguments.version.version_id,
        };
        match print(source, options, client, &progress).await {
            Ok(()) => batch.succeed(),
            Err(failure) if failure.exit == Exit::BrokenPipe => return Err(failure),
            Err(failure) => batch.fail(console, &failure),
        }
    }
    Ok(batch.finish(console))
}

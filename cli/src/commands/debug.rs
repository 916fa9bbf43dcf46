//! `debug`: what somebody who helps from afar needs to see.

mod archive;
mod bundle;
mod part;

use clap::{Args, Subcommand};

use crate::{
    arguments::Common,
    console::Console,
    failure::{Exit, Failure},
};

/// Collect what somebody needs who is to find out what is wrong.
#[derive(Debug, Args)]
pub(crate) struct DebugArguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    Bundle(bundle::BundleArguments),
}

/// Collects it.
pub(crate) async fn run(
    arguments: &DebugArguments,
    common: &Common,
    console: &mut Console,
) -> Result<Exit, Failure> {
    match &arguments.what {
        What::Bundle(arguments) => bundle::run(arguments, common, console).await,
    }
}

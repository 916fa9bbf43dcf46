//! `capabilities`: what lets clients exchange chunks with data nodes.

use clap::{Args, Subcommand};
use xdpfs_client::{AccessControl, Rotation};

use crate::{
    console::Console,
    failure::{Exit, Failure},
    record::RotationRecord,
};

/// End the capabilities that clients have.
#[derive(Debug, Args)]
pub(crate) struct CapabilitiesArguments {
    #[command(subcommand)]
    command: CapabilitiesCommand,
}

#[derive(Debug, Subcommand)]
enum CapabilitiesCommand {
    Revoke(RevokeArguments),
}

/// End all capabilities that were given out before, by a new key epoch.
///
/// Whoever has stolen one can do nothing with it once the data nodes have heard of it, which takes a second. Clients
/// that may get new ones; transfers that are under way go on after a few seconds.
#[derive(Debug, Args)]
struct RevokeArguments {}

/// Begins a new key epoch.
pub(crate) async fn run<C: AccessControl>(
    arguments: &CapabilitiesArguments,
    client: &C,
    console: &mut Console,
) -> Result<Exit, Failure> {
    let CapabilitiesCommand::Revoke(RevokeArguments {}) = &arguments.command;
    let rotation = client.rotate_key_epoch().await?;
    console.confirm(&RotationRecord::from(&rotation), || rotated(&rotation))?;
    Ok(Exit::Done)
}

/// What a rotation means.
pub(super) fn rotated(rotation: &Rotation) -> String {
    format!(
        "ended all capabilities: data nodes refuse them within {} (key epoch {})",
        humantime::format_duration(rotation.obeyed_within),
        rotation.key_epoch
    )
}

//! `node`: the data nodes of a cluster, what operators say of them, and how they go.

mod drain;
mod drain_plan;
mod label;
mod list;
mod remove;
mod scrub;

use clap::{Args, Subcommand};
use xdpfs_client::ObjectClient;

use crate::{
    console::Console,
    failure::{Exit, Failure},
};

/// List and label data nodes, free them of their chunks, and remove them.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  xdpfs-cli node list
  xdpfs-cli node show 3
  xdpfs-cli node label 3 zone=a rack=r7         put it where it is, for placement
  xdpfs-cli node label 3 zone=b --overwrite     it was moved
  xdpfs-cli node label 3 rack-                  take a label back
  xdpfs-cli node drain-plan 3 4                 what would have to move, and whether there is room
  xdpfs-cli node drain 3                        move them; node undrain 3 takes it back
  xdpfs-cli node remove 3                       it never comes back
  xdpfs-cli node scrub                          what was checked and found
  xdpfs-cli node scrub start 3                  begin it now")]
pub(crate) struct NodeArguments {
    #[command(subcommand)]
    command: NodeCommand,
}

#[derive(Debug, Subcommand)]
enum NodeCommand {
    Drain(drain::DrainArguments),
    DrainPlan(drain_plan::DrainPlanArguments),
    Label(label::LabelArguments),
    List(list::ListArguments),
    Remove(remove::RemoveArguments),
    Scrub(scrub::ScrubArguments),
    Show(list::ShowArguments),
    Undrain(drain::UndrainArguments),
}

/// Does what was asked for.
pub(crate) async fn run<C: ObjectClient>(
    arguments: &NodeArguments,
    client: &C,
    console: &mut Console,
) -> Result<Exit, Failure> {
    match &arguments.command {
        NodeCommand::Drain(arguments) => drain::run(arguments, client, console).await,
        NodeCommand::DrainPlan(arguments) => drain_plan::run(arguments, client, console).await,
        NodeCommand::Label(arguments) => label::run(arguments, client, console).await,
        NodeCommand::List(_) => list::run(client, console).await,
        NodeCommand::Remove(arguments) => remove::run(arguments, client, console).await,
        NodeCommand::Scrub(arguments) => scrub::run(arguments, client, console).await,
        NodeCommand::Show(arguments) => list::show(arguments, client, console).await,
        NodeCommand::Undrain(arguments) => drain::undo(arguments, client, console).await,
    }
}

//! One command per file: its arguments and what it prints. What they do is the client's business.

pub(crate) mod bucket;
pub(crate) mod capabilities;
pub(crate) mod cat;
pub(crate) mod certify;
pub(crate) mod completions;
pub(crate) mod copying;
pub(crate) mod cp;
pub(crate) mod debug;
pub(crate) mod dev;
pub(crate) mod doctor;
pub(crate) mod du;
pub(crate) mod fsck;
pub(crate) mod get;
pub(crate) mod health;
pub(crate) mod init;
pub(crate) mod key;
pub(crate) mod ls;
pub(crate) mod man;
pub(crate) mod mb;
pub(crate) mod meta;
pub(crate) mod mv;
pub(crate) mod node;
pub(crate) mod placement;
pub(crate) mod put;
pub(crate) mod rb;
pub(crate) mod rebalance;
pub(crate) mod repair;
pub(crate) mod rm;
pub(crate) mod stat;
pub(crate) mod status;
pub(crate) mod top;
pub(crate) mod xdp;

use xdpfs_client::{AccessControl, ObjectClient};

use crate::{
    arguments::Command,
    console::Console,
    failure::{Exit, Failure},
};

/// Runs a command that speaks to a cluster. The others need no client: they are run by the caller.
pub(crate) async fn run<C: ObjectClient + AccessControl>(
    command: &Command,
    client: &C,
    console: &mut Console,
) -> Result<Exit, Failure> {
    match command {
        Command::Bucket(arguments) => bucket::run(arguments, client, console).await,
        Command::Capabilities(arguments) => capabilities::run(arguments, client, console).await,
        Command::Cat(arguments) => cat::run(arguments, client, console).await,
        Command::Cp(arguments) => cp::run(arguments, client, console).await,
        Command::Du(arguments) => du::run(arguments, client, console).await,
        Command::Fsck(arguments) => fsck::run(arguments, client, console).await,
        Command::Get(arguments) => get::run(arguments, client, console).await,
        Command::Key(arguments) => key::run(arguments, client, console).await,
        Command::Ls(arguments) => ls::run(arguments, client, console).await,
        Command::Mb(arguments) => mb::run(arguments, client, console).await,
        Command::Mv(arguments) => mv::run(arguments, client, console).await,
        Command::Node(arguments) => node::run(arguments, client, console).await,
        Command::Placement(arguments) => placement::run(arguments, client, console).await,
        Command::Put(arguments) => put::run(arguments, client, console).await,
        Command::Rb(arguments) => rb::run(arguments, client, console).await,
        Command::Rebalance(arguments) => rebalance::run(arguments, client, console).await,
        Command::Repair(arguments) => repair::run(arguments, client, console).await,
        Command::Rm(arguments) => rm::run(arguments, client, console).await,
        Command::Stat(arguments) => stat::run(arguments, client, console).await,
        Command::Status(_) => status::run(client, console).await,
        Command::Top(arguments) => top::run(arguments, client, console).await,
        Command::Certify(_)
        | Command::Completions(_)
        | Command::Debug(_)
        | Command::Dev(_)
        | Command::Doctor(_)
        | Command::Health(_)
        | Command::Init(_)
        | Command::Man(_)
        | Command::Meta(_)
        | Command::Xdp(_) => Err(Failure::usage("this command speaks to no cluster")),
    }
}

#[cfg(test)]
mod tests;

//! `xdp`: what a data node or an edge on this host does in the kernel, asked on its unix socket.

mod connection;
mod stats;
mod status;
mod trace;

use std::path::PathBuf;

use clap::{Args, Subcommand};

use self::connection::Connection;
use crate::{
    console::Console,
    failure::{Exit, Failure},
    signals::Signals,
};

/// Ask a data node or an edge on this host about its kernel program.
#[derive(Debug, Args)]
#[command(after_help = "\
A data node with --xdp and an edge listen on a unix socket that is their user's alone, as a rule
/run/xdpfs/node-PORT.sock or /run/xdpfs/edge-PORT.sock. If there is only one, it is found.

Examples:
  sudo xdpfs-cli xdp status
  sudo xdpfs-cli xdp stats --watch 1
  sudo xdpfs-cli xdp trace --sample 100 --count 10")]
pub(crate) struct XdpArguments {
    /// The socket of the data node or edge.
    #[arg(long, global = true, value_name = "PATH", env = "XDPFS_XDP_SOCKET")]
    socket: Option<PathBuf>,
    #[command(subcommand)]
    question: Question,
}

#[derive(Debug, Subcommand)]
enum Question {
    Stats(stats::StatsArguments),
    Status(status::StatusArguments),
    Trace(trace::TraceArguments),
}

/// The sockets in the usual place on which somebody listens.
pub(crate) fn usual_sockets() -> Vec<PathBuf> {
    connection::usual_sockets()
}

/// Asks, until there is an answer or a signal comes.
pub(crate) async fn run(arguments: &XdpArguments, console: &mut Console) -> Result<Exit, Failure> {
    let mut signals = Signals::listen()?;
    let mut connection = Connection::open(arguments.socket.as_deref()).await?;
    let asked = async {
        match &arguments.question {
            Question::Stats(arguments) => stats::run(*arguments, &mut connection, console).await,
            Question::Status(arguments) => status::run(arguments, &mut connection, console).await,
            Question::Trace(arguments) => trace::run(*arguments, &mut connection, console).await,
        }
    };
    tokio::select! {
        outcome = asked => outcome,
        exit = signals.next() => Err(Failure::signal(exit)),
    }
}

#[cfg(test)]
mod tests;

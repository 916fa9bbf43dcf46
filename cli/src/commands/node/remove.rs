//! `node remove`: data nodes that never come back.

use clap::Args;
use serde::Serialize;
use xdpfs_client::{Error, ObjectClient, RemoveNodeOptions};

use crate::{
    console::Console,
    failure::{Exit, Failure},
    units::count,
};

/// Remove data nodes from the cluster, for good.
///
/// A node on which chunks lie is refused: free it first with `node drain`. One that is lost with all that it held is removed with
/// --lost, once it is silent; its chunks are then repaired from other replicas at once, and it is refused, with the names of
/// objects, if there are none. A node that was removed never takes part again; its host can, with an empty data directory.
#[derive(Debug, Args)]
pub(super) struct RemoveArguments {
    /// The numbers of the data nodes.
    #[arg(value_name = "NODE", required = true)]
    nodes: Vec<u32>,
    /// The nodes are gone with all that they held.
    #[arg(long)]
    lost: bool,
    /// Also if objects are lost with them.
    #[arg(long, requires = "lost")]
    with_its_objects: bool,
}

#[derive(Debug, Serialize)]
struct RemoveRecord {
    node: u32,
    removed: bool,
    /// Replicas that it was believed to hold.
    replicas: u64,
}

/// Removes them.
pub(super) async fn run<C: ObjectClient>(
    arguments: &RemoveArguments,
    client: &C,
    console: &mut Console,
) -> Result<Exit, Failure> {
    let RemoveArguments { lost, with_its_objects, .. } = *arguments;
    for node in &arguments.nodes {
        let replicas =
            client.remove_node(*node, RemoveNodeOptions { lost, with_its_objects }).await.map_err(failure)?;
        let record = RemoveRecord { node: *node, removed: true, replicas };
        console.confirm(&record, || match replicas {
            0 => format!("data node {node} is removed; nothing was on it"),
            replicas => {
                format!(
                    "data node {node} is removed; {} that it held are made anew",
                    count(replicas, "replica")
                )
            }
        })?;
    }
    console.flush()?;
    Ok(Exit::Done)
}

/// What a node is refused for has little to do with keys and what they hold.
fn failure(error: Error) -> Failure {
    match error {
        Error::PreconditionFailed { message } => Failure::precondition(message).with_hint(
            "free it with: xdpfs-cli node drain; what is lost is removed with --lost, once it is silent",
        ),
        error => Failure::from(error),
    }
}

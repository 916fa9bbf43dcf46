//! `node drain`, `node undrain`: what data nodes hold goes elsewhere, or no longer so.

use std::time::Duration;

use clap::Args;
use serde::Serialize;
use xdpfs_client::{LeavingWhy, ObjectClient, RepairStatus};

use super::drain_plan::{self, DrainPlanArguments, parse_rate};
use crate::{
    console::Console,
    failure::{Exit, Failure},
    units::count,
};

/// How often it is looked how far it is.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Free data nodes of their chunks.
///
/// The nodes get no new chunks, and what they hold is copied to others by the rules that puts go by, no faster than repair may
/// (--repair-rate of the metadata servers). Chunks stay readable all the while, and a node that is stopped on the way loses
/// nothing. It goes on by itself, whoever leads, until `node undrain` takes it back; a node that is free can be stopped, and
/// then removed with `node remove`.
#[derive(Debug, Args)]
pub(super) struct DrainArguments {
    /// The numbers of the data nodes.
    #[arg(value_name = "NODE", required = true)]
    nodes: Vec<u32>,
    /// Move nothing: say what would have to move, how long that takes, and whether there is room, as `node drain-plan` does.
    #[arg(long)]
    dry_run: bool,
    /// Wait until the nodes are free.
    #[arg(long, conflicts_with = "dry_run")]
    wait: bool,
    /// Also if not all replicas have a place elsewhere: those that have none stay.
    #[arg(long)]
    force: bool,
    /// Bytes per second that would be moved in all, for the estimate of the time.
    #[arg(long, value_name = "SIZE", default_value = "64MiB", value_parser = parse_rate, requires = "dry_run")]
    rate: u64,
}

/// Take back that data nodes are to be freed.
///
/// What was moved stays where it is; what was not moved yet stays, too.
#[derive(Debug, Args)]
pub(super) struct UndrainArguments {
    /// The numbers of the data nodes.
    #[arg(value_name = "NODE", required = true)]
    nodes: Vec<u32>,
}

#[derive(Debug, Serialize)]
struct DrainRecord {
    node: u32,
    draining: bool,
}

/// Frees them, or says what that would take.
pub(super) async fn run<C: ObjectClient>(
    arguments: &DrainArguments,
    client: &C,
    console: &mut Console,
) -> Result<Exit, Failure> {
    let plan_arguments = DrainPlanArguments { nodes: arguments.nodes.clone(), rate: arguments.rate };
    if arguments.dry_run {
        return drain_plan::run(&plan_arguments, client, console).await;
    }
    if !arguments.force {
        let plan = client.drain_plan(&arguments.nodes).await?;
        if plan.replicas_unplaced > 0 {
            let objects = plan.objects_short_sample.join(", ");
            let message = format!(
                "{} would have no place elsewhere, of {}: {objects}",
                count(plan.replicas_unplaced, "replica"),
                count(plan.objects_short, "object"),
            );
            let hint =
                "add data nodes with room, in other failure domains; free fewer at once; or say --force";
            return Err(Failure::precondition(message).with_hint(hint));
        }
    }
    for node in &arguments.nodes {
        client.drain_node(*node, true).await?;
        let record = DrainRecord { node: *node, draining: true };
        console.confirm(&record, || {
            format!("data node {node}: its chunks go elsewhere, and it gets no new ones")
        })?;
    }
    console.flush()?;
    if arguments.wait {
        wait(&arguments.nodes, client, console).await?;
    }
    Ok(Exit::Done)
}

/// Takes it back.
pub(super) async fn undo<C: ObjectClient>(
    arguments: &UndrainArguments,
    client: &C,
    console: &mut Console,
) -> Result<Exit, Failure> {
    for node in &arguments.nodes {
        client.drain_node(*node, false).await?;
        let record = DrainRecord { node: *node, draining: false };
        console.confirm(&record, || format!("data node {node}: its chunks stay, and it gets new ones"))?;
    }
    console.flush()?;
    Ok(Exit::Done)
}

async fn wait<C: ObjectClient>(nodes: &[u32], client: &C, console: &mut Console) -> Result<(), Failure> {
    let mut free = Vec::new();
    while free.len() < nodes.len() {
        tokio::time::sleep(LOOK_EVERY).await;
        let status = client.repair_status().await?;
        for node in nodes {
            if !free.contains(node) && is_free(*node, &status) {
                free.push(*node);
                let record = DrainRecord { node: *node, draining: false };
                console.confirm(&record, || format!("data node {node} is free"))?;
            }
        }
    }
    console.flush()?;
    Ok(())
}

/// Whether all manifests were looked at since it was to be freed, and none names it.
fn is_free(node: u32, status: &RepairStatus) -> bool {
    let is_it =
        |leaving: &&xdpfs_client::LeavingNode| leaving.node == node && leaving.why == LeavingWhy::Draining;
    status.complete && status.leaving.iter().find(is_it).is_some_and(|leaving| leaving.replicas == 0)
}

#[cfg(test)]
mod tests {
    use xdpfs_client::LeavingNode;

    use super::*;

    #[test]
    fn node_is_free_once_no_manifest_names_it() {
        let check = |complete, why, replicas, expect| {
            let leaving = vec![LeavingNode { node: 3, why, replicas }];
            let status = RepairStatus { complete, leaving, ..RepairStatus::default() };
            assert_eq!(is_free(3, &status), expect, "{status:?}");
        };
        check(true, LeavingWhy::Draining, 0, true);
        check(true, LeavingWhy::Draining, 1, false);
        check(false, LeavingWhy::Draining, 0, false);
        check(true, LeavingWhy::Dead, 0, false);
        assert!(!is_free(4, &RepairStatus { complete: true, ..RepairStatus::default() }));
    }
}

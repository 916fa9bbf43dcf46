//! `repair`: what lacks replicas, and how far its repair is.

use std::{fmt::Write as _, time::Duration};

use clap::{Args, Subcommand};
use xdpfs_client::{LeavingNode, ObjectClient, RepairStatus};

use crate::{
    console::Console,
    failure::{Exit, Failure},
    record::RepairRecord,
    units::{count, human_bytes},
};

/// Show what lacks replicas, and how far its repair is.
///
/// Nobody has to start a repair: the leader makes replicas anew that lie on data nodes that have been silent for too long
/// (--repair-after-s of the metadata servers), that are damaged or missing, that puts did not get, or that are to leave their node.
/// The chunks that are closest to being lost come first.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  xdpfs-cli repair status
  xdpfs-cli repair status --wait               until nothing is left to do
  xdpfs-cli repair status --json | jq -e .whole")]
pub(crate) struct RepairArguments {
    #[command(subcommand)]
    command: RepairCommand,
}

#[derive(Debug, Subcommand)]
enum RepairCommand {
    Status(RepairStatusArguments),
}

/// Show it.
#[derive(Debug, Args)]
struct RepairStatusArguments {
    /// Wait until every chunk has its replicas.
    #[arg(long)]
    wait: bool,
}

/// How often it is looked how far it is.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Shows it.
pub(crate) async fn run<C: ObjectClient>(
    arguments: &RepairArguments,
    client: &C,
    console: &mut Console,
) -> Result<Exit, Failure> {
    let RepairCommand::Status(RepairStatusArguments { wait }) = arguments.command;
    let mut status = client.repair_status().await?;
    while wait && !status.is_whole() {
        tokio::time::sleep(LOOK_EVERY).await;
        status = client.repair_status().await?;
    }
    console.answer(&RepairRecord::from(&status), || text(&status))?;
    console.flush()?;
    Ok(Exit::Done)
}

/// One line of it, for whoever looks at the whole cluster.
pub(crate) fn line(status: &RepairStatus) -> String {
    if status.is_whole() {
        return "repair: nothing to do".to_owned();
    }
    let mut words = format!("repair: {}", status.reason);
    let lacking = status.chunks_lacking();
    if lacking > 0 {
        // Writing to a string cannot fail.
        let _infallible =
            write!(words, "; {} left, {}", count(lacking, "chunk"), human_bytes(status.bytes_left));
    }
    if let Some(left) = status.time_left {
        let _infallible = write!(words, ", about {}", humantime::format_duration(left));
    }
    words
}

fn text(status: &RepairStatus) -> String {
    let mut text = line(status);
    let mut add = |words: String| {
        text.push_str("\n  ");
        text.push_str(&words);
    };
    if !status.complete {
        add("not all manifests have been looked at yet: there may be more".to_owned());
    }
    for (live, chunks) in &status.chunks_by_live_replicas {
        add(format!("{} with {}", count(*chunks, "chunk"), count(u64::from(*live), "good replica")));
    }
    if status.in_progress > 0 {
        let rate = human_bytes(status.bytes_per_second);
        add(format!("{} in the making, {rate} per second", count(status.in_progress, "chunk")));
    }
    if status.without_place > 0 {
        add(format!("{} for which no data node would do", count(status.without_place, "chunk")));
    }
    if status.out_of_reach > 0 {
        let objects = status.out_of_reach_sample.join(", ");
        add(format!("{} of which no replica can be read: {objects}", count(status.out_of_reach, "chunk")));
    }
    for LeavingNode { node, why, replicas } in &status.leaving {
        add(format!("data node {node} ({}): {} left", why.label(), count(*replicas, "replica")));
    }
    add(format!(
        "since this leader began: {} made ({}), {} found to be good",
        count(status.chunks_repaired, "replica"),
        human_bytes(status.bytes_repaired),
        status.replicas_cleared,
    ));
    text
}

#[cfg(test)]
mod tests {
    use xdpfs_client::LeavingWhy;

    use super::*;

    #[test]
    fn people_are_told_what_is_wrong_and_how_long_it_takes() {
        let status = RepairStatus {
            reason: "no word from data node 3".to_owned(),
            complete: true,
            chunks_by_live_replicas: [(1, 2), (2, 40)].into(),
            bytes_left: 42 << 20,
            in_progress: 8,
            chunks_repaired: 5,
            bytes_repaired: 5 << 20,
            bytes_per_second: 2 << 20,
            time_left: Some(Duration::from_secs(21)),
            out_of_reach: 1,
            out_of_reach_sample: vec!["b/k".to_owned()],
            leaving: vec![LeavingNode { node: 3, why: LeavingWhy::Dead, replicas: 42 }],
            ..RepairStatus::default()
        };
        let expect = "\
repair: no word from data node 3; 42 chunks left, 42.0 MiB, about 21s
  2 chunks with 1 good replica
  40 chunks with 2 good replicas
  8 chunks in the making, 2.0 MiB per second
  1 chunk of which no replica can be read: b/k
  data node 3 (dead): 42 replicas left
  since this leader began: 5 replicas made (5.0 MiB), 0 found to be good";
        assert_eq!(text(&status), expect);
        let whole = RepairStatus { complete: true, ..RepairStatus::default() };
        assert_eq!(line(&whole), "repair: nothing to do");
    }
}

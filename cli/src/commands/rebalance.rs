//! `rebalance`: how evenly full data nodes are, what is moved so that they are, and an end to that for the time being.

use std::{fmt::Write as _, time::Duration};

use clap::{Args, Subcommand};
use serde::Serialize;
use xdpfs_client::{NodeShare, ObjectClient, RebalancePlan, RebalanceState, RebalanceStatus};

use crate::{
    console::Console,
    failure::{Exit, Failure},
    record::{RebalancePlanRecord, RebalanceRecord},
    units::{count, human_bytes},
};

/// Show how evenly full data nodes are, and hold what is moved for that.
///
/// Nobody has to start it: when data nodes have come, gone or filled, and one is further from its share than
/// --rebalance-threshold of the metadata servers says, the leader moves as little as it takes, no faster than
/// --rebalance-rate, and only while no chunk lacks a replica. A chunk is copied before it is moved, so it has as many replicas all the while.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  xdpfs-cli rebalance status
  xdpfs-cli rebalance status --wait            until all nodes hold their share
  xdpfs-cli rebalance plan                     what would be moved, and how long that takes
  xdpfs-cli rebalance pause                    until `rebalance resume`, whoever leads")]
pub(crate) struct RebalanceArguments {
    #[command(subcommand)]
    command: RebalanceCommand,
}

#[derive(Debug, Subcommand)]
enum RebalanceCommand {
    Pause(PauseArguments),
    Plan(PlanArguments),
    Resume(ResumeArguments),
    Status(StatusArguments),
}

/// Move nothing any more, whoever leads, until it is resumed.
///
/// Chunks that are on their way arrive. Repair and drains go on.
#[derive(Debug, Args)]
struct PauseArguments {}

/// Move nothing: say what would have to move, how much that is, and how long it takes.
#[derive(Debug, Args)]
struct PlanArguments {}

/// Take back that nothing is moved.
#[derive(Debug, Args)]
struct ResumeArguments {}

/// Show it.
#[derive(Debug, Args)]
struct StatusArguments {
    /// Wait until nothing is left to be moved.
    #[arg(long)]
    wait: bool,
}

/// How often it is looked how far it is.
const LOOK_EVERY: Duration = Duration::from_millis(500);

#[derive(Debug, Serialize)]
struct PauseRecord {
    paused: bool,
}

/// Does it.
pub(crate) async fn run<C: ObjectClient>(
    arguments: &RebalanceArguments,
    client: &C,
    console: &mut Console,
) -> Result<Exit, Failure> {
    match &arguments.command {
        RebalanceCommand::Pause(_) => {
            client.pause_rebalance(true).await?;
            console.confirm(&PauseRecord { paused: true }, || {
                "nothing is moved any more only so that data nodes are evenly full".to_owned()
            })?;
        }
        RebalanceCommand::Resume(_) => {
            client.pause_rebalance(false).await?;
            console.confirm(&PauseRecord { paused: false }, || {
                "chunks are moved again so that data nodes are evenly full".to_owned()
            })?;
        }
        RebalanceCommand::Plan(_) => {
            let plan = client.rebalance_plan().await?;
            console.answer(&RebalancePlanRecord::from(&plan), || plan_text(&plan))?;
        }
        RebalanceCommand::Status(StatusArguments { wait }) => {
            let mut status = client.rebalance_status().await?;
            while *wait && !is_over(status.state) {
                tokio::time::sleep(LOOK_EVERY).await;
                status = client.rebalance_status().await?;
            }
            console.answer(&RebalanceRecord::from(&status), || text(&status))?;
        }
    }
    console.flush()?;
    Ok(Exit::Done)
}

/// Whether nothing will be moved unless something changes.
fn is_over(state: RebalanceState) -> bool {
    matches!(state, RebalanceState::Even | RebalanceState::Paused | RebalanceState::Stuck)
}

/// One line of it for whoever looks at the whole cluster, if there is something to say.
pub(crate) fn line(status: &RebalanceStatus) -> Option<String> {
    let is_news =
        matches!(status.state, RebalanceState::Moving | RebalanceState::Paused | RebalanceState::Stuck);
    is_news.then(|| format!("\n  {}", outline(status)))
}

fn outline(status: &RebalanceStatus) -> String {
    let mut words = format!("rebalance: {}, {}", status.state.label(), status.reason);
    if status.bytes_left > 0 {
        // Writing to a string cannot fail.
        let _infallible = write!(words, "; {} left", human_bytes(status.bytes_left));
    }
    if let Some(left) = status.time_left {
        let _infallible = write!(words, ", about {}", humantime::format_duration(left));
    }
    words
}

fn text(status: &RebalanceStatus) -> String {
    let mut text = outline(status);
    let mut add = |words: String| {
        text.push_str("\n  ");
        text.push_str(&words);
    };
    if status.in_progress > 0 {
        let rate = human_bytes(status.bytes_per_second);
        add(format!("{} on their way, {rate} per second", count(status.in_progress, "chunk")));
    }
    for share in &status.nodes {
        add(node_text(share));
    }
    add(format!(
        "since this leader began: {} moved ({}), {} of no avail",
        count(status.chunks_moved, "chunk"),
        human_bytes(status.bytes_moved),
        count(status.moves_failed, "move"),
    ));
    text
}

fn node_text(share: &NodeShare) -> String {
    let (held, wanted) = (human_bytes(share.bytes), human_bytes(share.share_bytes));
    format!("data node {}: {held} of its share of {wanted}", share.node)
}

fn plan_text(plan: &RebalancePlan) -> String {
    let time = humantime::format_duration(plan.time);
    let (bytes, rate) = (human_bytes(plan.bytes), human_bytes(plan.bytes_per_second));
    let mut text = format!(
        "{} to move, {bytes}, at least {time} at {rate} per second and node",
        count(plan.chunks, "chunk")
    );
    text.push_str(if plan.uneven {
        "\n  it begins by itself"
    } else {
        "\n  nodes are even enough: it does not begin by itself"
    });
    for node in &plan.nodes {
        let (gets, gives) = (human_bytes(node.bytes_in), human_bytes(node.bytes_out));
        let _infallible = write!(text, "\n  {}; gets {gets}, gives {gives}", node_text(&node.share));
    }
    text
}

#[cfg(test)]
mod tests {
    use xdpfs_client::PlannedNode;

    use super::*;

    #[test]
    fn people_are_told_what_is_moved_and_how_long_it_takes() {
        let share = NodeShare { node: 4, bytes: 1 << 20, share_bytes: 3 << 20, room_bytes: 1 << 30 };
        let status = RebalanceStatus {
            state: RebalanceState::Moving,
            reason: "some data nodes hold more than their share".to_owned(),
            bytes_left: 2 << 20,
            in_progress: 3,
            chunks_moved: 1,
            bytes_moved: 1 << 20,
            moves_failed: 0,
            bytes_per_second: 1 << 20,
            time_left: Some(Duration::from_secs(2)),
            nodes: vec![share],
        };
        let expect = "\
rebalance: moving, some data nodes hold more than their share; 2.0 MiB left, about 2s
  3 chunks on their way, 1.0 MiB per second
  data node 4: 1.0 MiB of its share of 3.0 MiB
  since this leader began: 1 chunk moved (1.0 MiB), 0 moves of no avail";
        assert_eq!(text(&status), expect);
        let plan = RebalancePlan {
            uneven: true,
            chunks: 2,
            bytes: 2 << 20,
            least_bytes: 2 << 20,
            time: Duration::from_secs(2),
            bytes_per_second: 1 << 20,
            nodes: vec![PlannedNode { share, bytes_in: 2 << 20, bytes_out: 0 }],
        };
        let expect = "\
2 chunks to move, 2.0 MiB, at least 2s at 1.0 MiB per second and node
  it begins by itself
  data node 4: 1.0 MiB of its share of 3.0 MiB; gets 2.0 MiB, gives 0 B";
        assert_eq!(plan_text(&plan), expect);
    }

    #[test]
    fn whole_cluster_is_told_only_news() {
        let line = |state| line(&RebalanceStatus { state, ..RebalanceStatus::default() }).is_some();
        assert!(line(RebalanceState::Moving) && line(RebalanceState::Paused) && line(RebalanceState::Stuck));
        assert!(!line(RebalanceState::Even) && !line(RebalanceState::Counting));
    }
}

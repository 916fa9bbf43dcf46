//! `node scrub`: the check of all that data nodes hold, in the background.

use std::time::SystemTime;

use clap::{Args, Subcommand};
use serde::Serialize;
use xdpfs_client::{ClusterStatus, DataNode, DataNodeState, Error, ObjectClient, ScrubAction, ScrubAnswer};

use crate::{
    commands::status::{lay_out, table, trimmed},
    console::Console,
    failure::{Exit, Failure},
    record::ScrubRecord,
    units::{self, human_bytes},
};

/// Show and steer the check of all that data nodes hold.
///
/// Each data node reads and checks every chunk that it holds, over and over, at a set rate (--scrub-rate), so that damage is
/// found while other replicas are whole. What is damaged is not served any more. A node hears what it is to do with its next
/// heartbeat.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct ScrubArguments {
    #[command(subcommand)]
    command: Option<ScrubCommand>,
    #[command(flatten)]
    which: Which,
}

#[derive(Debug, Subcommand)]
enum ScrubCommand {
    /// Begin now, unless it is under way; go on if it is held.
    Start(Which),
    /// Hold it, and begin no other, until it is resumed or started.
    Pause(Which),
    /// Go on as before.
    Resume(Which),
    /// Show how far it is, and what it has found. This is the default.
    Status(Which),
}

/// Some data nodes.
#[derive(Debug, Args)]
struct Which {
    /// The numbers of the data nodes.
    #[arg(value_name = "NODE", conflicts_with = "all")]
    nodes: Vec<u32>,
    /// All data nodes. What is only shown is shown of all if none is named.
    #[arg(long)]
    all: bool,
}

/// How a node's scrub is.
#[derive(Debug, Serialize)]
struct StatusRecord {
    node: u32,
    /// Null: it is not known, or the node's release has none.
    scrub: Option<ScrubRecord>,
    /// False: the node runs a release that has none, as far as is known.
    supported: bool,
    /// It has yet to hear what it is to do.
    ordered: bool,
}

/// A node is told.
#[derive(Debug, Serialize)]
struct OrderRecord {
    node: u32,
    action: &'static str,
    /// False: it is told once it is heard of.
    alive: bool,
}

/// Shows or steers it.
pub(super) async fn run<C: ObjectClient>(
    arguments: &ScrubArguments,
    client: &C,
    console: &mut Console,
) -> Result<Exit, Failure> {
    let (which, action) = match &arguments.command {
        Some(ScrubCommand::Start(which)) => (which, ScrubAction::Start),
        Some(ScrubCommand::Pause(which)) => (which, ScrubAction::Pause),
        Some(ScrubCommand::Resume(which)) => (which, ScrubAction::Resume),
        Some(ScrubCommand::Status(which)) => return show(which, client, console).await,
        None => return show(&arguments.which, client, console).await,
    };
    order(which, action, client, console).await
}

async fn show<C: ObjectClient>(which: &Which, client: &C, console: &mut Console) -> Result<Exit, Failure> {
    let status = client.cluster_status().await?;
    let nodes = which.of(&status)?;
    if console.is_json() {
        for node in nodes {
            let record = StatusRecord {
                node: node.id,
                scrub: node.scrub.map(ScrubRecord::from),
                supported: node.scrub.is_some() || !has_none(node),
                ordered: node.scrub_ordered,
            };
            console.answer(&record, String::new)?;
        }
    } else {
        console.text(&table_text(&nodes))?;
    }
    console.flush()?;
    Ok(Exit::Done)
}

/// The node has said how it is, and nothing of a scrub.
fn has_none(node: &DataNode) -> bool {
    node.scrub.is_none() && !node.version.is_empty()
}

fn table_text(nodes: &[&DataNode]) -> String {
    if nodes.is_empty() {
        return "no data nodes".to_owned();
    }
    let mut table = table(&[
        "NODE",
        "SCRUB",
        "DONE",
        "CHECKED",
        "CHUNKS",
        "DAMAGED",
        "PLACES",
        "ERRORS",
        "LAST PASS",
        "NEXT PASS",
    ]);
    let mut notes = String::new();
    for node in nodes {
        let dash = || "-".to_owned();
        let Some(scrub) = node.scrub else {
            let is_known = node.state != DataNodeState::Unknown && has_none(node);
            let mut row = vec![node.id.to_string(), if is_known { "none" } else { "unknown" }.to_owned()];
            row.resize(10, dash());
            table.add_row(row);
            if is_known {
                notes += &format!("data node {} runs a release that has no scrub: update it\n", node.id);
            }
            continue;
        };
        let latest = scrub.latest();
        let date = |time: Option<SystemTime>| time.map_or_else(dash, units::date);
        let number = |number: Option<u64>| number.map_or_else(dash, |number| number.to_string());
        let state = scrub.state.label();
        table.add_row([
            node.id.to_string(),
            if node.scrub_ordered { format!("{state} (told soon)") } else { state.to_owned() },
            scrub.pass.map_or_else(dash, |_| format!("{} %", scrub.percent)),
            latest.map_or_else(dash, |pass| human_bytes(pass.bytes)),
            number(latest.map(|pass| pass.chunks)),
            number(latest.map(|pass| pass.damaged_chunks)),
            number(latest.map(|pass| pass.damaged_places)),
            number(latest.map(|pass| pass.read_errors)),
            date(scrub.last_pass.and_then(|pass| pass.ended)),
            date(scrub.next_pass),
        ]);
    }
    lay_out(&mut table, &[2, 3, 4, 5, 6, 7]);
    let text = trimmed(&table);
    if notes.is_empty() { text } else { format!("{text}\n\n{notes}") }
}

/// Tells all that can be told, and then the first of those that can't.
async fn order<C: ObjectClient>(
    which: &Which,
    action: ScrubAction,
    client: &C,
    console: &mut Console,
) -> Result<Exit, Failure> {
    let nodes = match (which.nodes.as_slice(), which.all) {
        ([], false) => return Err(Failure::usage("name data nodes by their numbers, or say --all")),
        ([], true) => client.cluster_status().await?.data_nodes.iter().map(|node| node.id).collect(),
        (nodes, _) => nodes.to_vec(),
    };
    let mut failed = None;
    for node in nodes {
        match client.scrub_node(node, action).await {
            Ok(ScrubAnswer { alive, .. }) => {
                let record = OrderRecord { node, action: action.label(), alive };
                console.confirm(&record, || confirmation(node, action, alive))?;
            }
            Err(error) => {
                failed.get_or_insert_with(|| failure(node, error));
            }
        }
    }
    failed.map_or(Ok(Exit::Done), Err)
}

fn confirmation(node: u32, action: ScrubAction, alive: bool) -> String {
    let what = action.label();
    if alive {
        return format!("data node {node}: the scrub is to {what}, from its next heartbeat on");
    }
    format!(
        "data node {node}: the scrub is to {what} once the node is heard of; if the leader changes before, ask again"
    )
}

fn failure(node: u32, error: Error) -> Failure {
    let unsupported = match &error {
        Error::Unsupported { message, .. } => Some(message.clone()),
        _ => None,
    };
    let is_unknown = matches!(error, Error::NodeNotFound);
    let failure = Failure::from(error);
    match unsupported {
        // Servers' answer to a method that they don't know has no words.
        Some(words) if words.is_empty() => failure
            .with_message("the metadata servers run a release that knows nothing of scrubs")
            .with_hint("update them, and then the data nodes"),
        Some(words) => failure.with_message(words),
        None if is_unknown => failure.with_hint("see those that exist with: xdpfs-cli node list"),
        None => {
            let message = format!("data node {node}: {}", failure.message);
            failure.with_message(message)
        }
    }
}

impl Which {
    fn of<'a>(&self, status: &'a ClusterStatus) -> Result<Vec<&'a DataNode>, Failure> {
        if self.nodes.is_empty() {
            return Ok(status.data_nodes.iter().collect());
        }
        let named = self.nodes.iter().map(|number| {
            let node = status.data_nodes.iter().find(|node| node.id == *number);
            node.ok_or_else(|| {
                let failure = Failure::not_found(format!("there is no data node {number}"));
                failure.with_hint("see those that exist with: xdpfs-cli node list")
            })
        });
        named.collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use xdpfs_client::{NodeScrub, ScrubPass, ScrubState};

    use super::*;
    use crate::commands::status::tests::status;

    #[test]
    fn releases_without_a_scrub_are_named() {
        let refused = |message: &str| {
            let error = Error::Unsupported { operation: "ScrubNode", message: message.into() };
            failure(3, error).message
        };
        assert!(refused("").contains("the metadata servers run a release"));
        let node = refused("data node 3 runs a release that has no scrub: update it");
        assert_eq!(node, "data node 3 runs a release that has no scrub: update it");
        assert!(failure(3, Error::NodeNotFound).hint.is_some_and(|hint| hint.contains("node list")));
    }

    #[test]
    fn people_get_a_table_of_what_was_checked_and_found() {
        let at = |seconds| Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        let last = ScrubPass { ended: at(86_400), bytes: 9, chunks: 9, ..ScrubPass::default() };
        let pass = ScrubPass { bytes: 3 << 20, chunks: 7, damaged_chunks: 1, ..ScrubPass::default() };
        let scrub = NodeScrub {
            state: ScrubState::Running,
            pass: Some(pass),
            percent: 42,
            last_pass: Some(last),
            next_pass: None,
            bytes_per_second: 1,
        };
        let mut node = status(Some(2)).data_nodes.remove(0);
        let older = node.clone();
        node.scrub = Some(scrub);
        let silent = DataNode { id: 8, version: String::new(), ..older.clone() };
        let waiting = NodeScrub { state: ScrubState::Waiting, pass: None, next_pass: at(172_800), ..scrub };
        let waiting = DataNode { id: 9, scrub: Some(waiting), scrub_ordered: true, ..older.clone() };
        let expect = "\
NODE  SCRUB                DONE  CHECKED  CHUNKS  DAMAGED  PLACES  ERRORS  LAST PASS            NEXT PASS
7     running              42 %  3.0 MiB       7        1       0       0  1970-01-02 00:00:00  -
7     none                    -        -       -        -       -       -  -                    -
8     unknown                 -        -       -        -       -       -  -                    -
9     waiting (told soon)     -      9 B       9        0       0       0  1970-01-02 00:00:00  1970-01-03 00:00:00

data node 7 runs a release that has no scrub: update it
";
        assert_eq!(table_text(&[&node, &older, &silent, &waiting]), expect);
    }
}

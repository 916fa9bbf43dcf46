//! `node list` and `node show`: data nodes as the leader sees them.

use std::{fmt::Write as _, time::Duration};

use clap::Args;
use xdpfs_client::{ClusterStatus, DataNode, DataNodeState, NodeLabel, ObjectClient};

use crate::{
    commands::status::{lay_out, state, table, trimmed},
    console::Console,
    failure::{Exit, Failure},
    record::DataNodeRecord,
    units::{self, human_bytes},
};

/// List data nodes with their labels.
#[derive(Debug, Args)]
pub(super) struct ListArguments {}

/// Show all about a data node.
#[derive(Debug, Args)]
pub(super) struct ShowArguments {
    /// The number of the data node.
    #[arg(value_name = "NODE")]
    node: u32,
}

/// Lists them.
pub(super) async fn run<C: ObjectClient>(client: &C, console: &mut Console) -> Result<Exit, Failure> {
    let status = client.cluster_status().await?;
    if console.is_json() {
        for node in &status.data_nodes {
            console.answer(&DataNodeRecord::from(node), String::new)?;
        }
    } else {
        console.text(&list_text(&status))?;
    }
    console.flush()?;
    Ok(Exit::Done)
}

fn list_text(status: &ClusterStatus) -> String {
    if status.data_nodes.is_empty() {
        return "no data nodes".to_owned();
    }
    let mut table = table(&[
        "NODE", "ADDRESS", "STATE", "USED", "FREE", "FULL", "CHUNKS", "EPOCH", "SINCE", "VERSION", "LABELS",
    ]);
    for node in &status.data_nodes {
        let heard = |text: String| if node.state == DataNodeState::Unknown { "-".to_owned() } else { text };
        table.add_row([
            node.id.to_string(),
            node.address.clone(),
            state(node).to_owned(),
            heard(human_bytes(node.used_bytes)),
            heard(human_bytes(node.free_bytes)),
            heard(format!("{} %", percent_full(node))),
            heard(node.chunks.to_string()),
            node.epoch.to_string(),
            node.registered.map_or_else(|| "-".to_owned(), units::date),
            or_dash(&node.version),
            or_dash(&labels_text(&node.labels)),
        ]);
    }
    lay_out(&mut table, &[3, 4, 5, 6, 7]);
    trimmed(&table)
}

/// The share of what the node may use that it uses.
fn percent_full(node: &DataNode) -> u64 {
    let percent = u128::from(node.used_bytes) * 100 / u128::from(node.capacity_bytes.max(1));
    u64::try_from(percent).unwrap_or(u64::MAX)
}

/// `zone=a,rack=r7`; the well-known ones first, from the widest on.
pub(super) fn labels_text(labels: &[NodeLabel]) -> String {
    const FIRST: [&str; 4] = ["zone", "rack", "host", "disk"];
    let rank = |key: &str| FIRST.iter().position(|first| *first == key).unwrap_or(FIRST.len());
    let mut labels: Vec<&NodeLabel> = labels.iter().collect();
    labels.sort_by_key(|label| (rank(&label.key), label.key.as_str()));
    labels.iter().map(|label| format!("{}={}", label.key, label.value)).collect::<Vec<_>>().join(",")
}

/// Shows one of them.
pub(super) async fn show<C: ObjectClient>(
    arguments: &ShowArguments,
    client: &C,
    console: &mut Console,
) -> Result<Exit, Failure> {
    let status = client.cluster_status().await?;
    let node = status.data_nodes.iter().find(|node| node.id == arguments.node);
    let node = node.ok_or_else(|| {
        let failure = Failure::not_found(format!("there is no data node {}", arguments.node));
        failure.with_hint("see those that exist with: xdpfs-cli node list")
    })?;
    console.answer(&DataNodeRecord::from(node), || node_text(node))?;
    console.flush()?;
    Ok(Exit::Done)
}

fn node_text(node: &DataNode) -> String {
    let mut text = format!("data node {}\n", node.id);
    let mut line = |name: &str, value: &str| {
        // Writing to a string cannot fail.
        let _infallible = writeln!(text, "  {name:<14}  {value}");
    };
    let is_heard = node.state != DataNodeState::Unknown;
    let ago = humantime::format_duration(Duration::from_secs(node.last_heartbeat_age.as_secs()));
    line("address", &node.address);
    line("direct address", &node.direct_address);
    line("state", state(node));
    if is_heard {
        line("heard", &format!("{ago} ago"));
        line(
            "used",
            &format!(
                "{} of {} ({} %)",
                human_bytes(node.used_bytes),
                human_bytes(node.capacity_bytes),
                percent_full(node)
            ),
        );
        line("free", &human_bytes(node.free_bytes));
        line("chunks", &node.chunks.to_string());
    }
    line("epoch", &node.epoch.to_string());
    if let Some(registered) = node.registered {
        line("since", &units::date(registered));
    }
    line("version", &or_dash(&node.version));
    line("failure domain", &node.failure_domain);
    if let Some(expires) = node.certificate_expires {
        line("certificate", &format!("ends {}", units::date(expires)));
    }
    line("xdp", &or_dash(&node.xdp_mode));
    for label in &node.labels {
        let by = if label.by_operator { "set by an operator" } else { "as the node says" };
        line("label", &format!("{}={} ({by})", label.key, label.value));
    }
    text
}

fn or_dash(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::status::tests::status;

    #[test]
    fn people_get_a_table_with_labels_in_the_order_of_their_width() {
        let expect = "\
NODE  ADDRESS  STATE      USED     FREE  FULL  CHUNKS  EPOCH  SINCE                VERSION  LABELS
7     n7:1     silent  1.0 MiB  2.0 MiB  33 %       5      2  1970-01-02 00:00:00  1.2.3    zone=a,rack=1,tier=ssd";
        assert_eq!(list_text(&status(Some(2))), expect);
        let text = node_text(&status(Some(2)).data_nodes[0]);
        for line in
            ["label           zone=a (set by an operator)", "certificate     ends 2001-09-09 01:46:40"]
        {
            assert!(text.contains(line), "{text}");
        }
    }

    #[test]
    fn what_only_the_leader_knows_is_left_open_by_others() {
        let mut status = status(Some(1));
        status.data_nodes[0].state = DataNodeState::Unknown;
        let text = list_text(&status);
        let cells: Vec<_> = text.lines().nth(1).unwrap().split_whitespace().collect();
        assert_eq!(cells[..8], ["7", "n7:1", "unknown", "-", "-", "-", "-", "2"]);
    }
}

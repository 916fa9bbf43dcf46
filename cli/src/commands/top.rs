//! `top`: what the cluster does at the moment, again and again.
//!
//! Rates are differences between two looks at the cluster's state, so they cost the cluster one request each.

use std::{collections::BTreeMap, io::IsTerminal as _, time::Duration};

use clap::Args;
use serde::Serialize;
use tokio::time::Instant;
use xdpfs_client::{ClusterStatus, DataNode, ObjectClient, warnings};

use super::status::{lay_out, table, trimmed};
use crate::{
    console::Console,
    failure::{Exit, Failure},
    units::{count, human_bytes},
};

/// Show what the cluster does, until interrupted.
#[derive(Clone, Copy, Debug, Args)]
#[command(after_help = "\
On a terminal the screen is drawn anew each time; elsewhere, and with --json, looks follow each other.

Examples:
  xdpfs-cli top
  xdpfs-cli top --interval 1 --looks 10
  xdpfs-cli top --json | jq .written_bytes_per_second")]
pub(crate) struct TopArguments {
    /// Seconds between two looks.
    #[arg(long, value_name = "SECONDS", default_value = "2", value_parser = parse_seconds)]
    interval: Duration,
    /// End after so many looks. By default go on.
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    looks: Option<u64>,
}

/// Clears the screen from its upper left corner on (ECMA-48 CUP, ED).
const CLEAR: &str = "\x1b[H\x1b[J";
/// More often shows nothing more: nodes speak once a second.
const INTERVAL_MIN: Duration = Duration::from_millis(500);

/// What happened between two looks.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
struct Rates {
    leader_id: Option<u64>,
    objects: u64,
    bytes: u64,
    changes_per_second: u64,
    written_bytes_per_second: u64,
    read_bytes_per_second: u64,
    data_nodes: Vec<NodeRates>,
    warnings: usize,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
struct NodeRates {
    id: u32,
    state: &'static str,
    written_bytes_per_second: u64,
    read_bytes_per_second: u64,
    refused_per_second: u64,
    used_percent: u64,
    chunks: u64,
    xdp_mode: String,
    xdp_packets_per_second: u64,
}

/// Looks and shows.
pub(crate) async fn run<C: ObjectClient>(
    arguments: &TopArguments,
    client: &C,
    console: &mut Console,
) -> Result<Exit, Failure> {
    let redraw = !console.is_json() && std::io::stdout().is_terminal();
    let mut before = (Instant::now(), client.cluster_status().await?);
    let mut looks = 0;
    loop {
        tokio::time::sleep(arguments.interval).await;
        let status = client.cluster_status().await?;
        let now = Instant::now();
        let rates = Rates::between(&before.1, &status, now - before.0);
        let clear = if redraw { CLEAR } else { "" };
        console.answer(&rates, || format!("{clear}{}", text(&rates)))?;
        console.flush()?;
        before = (now, status);
        looks += 1;
        if arguments.looks.is_some_and(|wanted| looks >= wanted) {
            return Ok(Exit::Done);
        }
    }
}

impl Rates {
    fn between(before: &ClusterStatus, after: &ClusterStatus, elapsed: Duration) -> Self {
        let known: BTreeMap<u32, &DataNode> = before.data_nodes.iter().map(|node| (node.id, node)).collect();
        let nodes = after.data_nodes.iter();
        let data_nodes: Vec<_> =
            nodes.map(|node| NodeRates::between(known.get(&node.id).copied(), node, elapsed)).collect();
        Self {
            leader_id: after.leader_id,
            objects: after.objects,
            bytes: after.bytes,
            changes_per_second: rate(before.commit_index, after.commit_index, elapsed),
            written_bytes_per_second: data_nodes.iter().map(|node| node.written_bytes_per_second).sum(),
            read_bytes_per_second: data_nodes.iter().map(|node| node.read_bytes_per_second).sum(),
            data_nodes,
            warnings: warnings(after).len(),
        }
    }
}

impl NodeRates {
    /// A node that was not there before has done nothing yet.
    fn between(before: Option<&DataNode>, after: &DataNode, elapsed: Duration) -> Self {
        let before = before.unwrap_or(after);
        let of = |count: fn(&DataNode) -> u64| rate(count(before), count(after), elapsed);
        Self {
            id: after.id,
            state: after.state.label(),
            written_bytes_per_second: of(|node| node.written_bytes),
            read_bytes_per_second: of(|node| node.read_bytes),
            refused_per_second: of(|node| node.rejects.values().sum()),
            used_percent: after.used_bytes.saturating_mul(100) / after.capacity_bytes.max(1),
            chunks: after.chunks,
            xdp_mode: after.xdp_mode.clone(),
            xdp_packets_per_second: of(|node| node.xdp_packets.values().sum()),
        }
    }
}

/// Per second. Counters of a process that was started again are lower than before: then nothing is known.
fn rate(before: u64, after: u64, elapsed: Duration) -> u64 {
    let millis = elapsed.as_millis().max(1);
    let rate = u128::from(after.saturating_sub(before)) * 1000 / millis;
    u64::try_from(rate).unwrap_or(u64::MAX)
}

fn text(rates: &Rates) -> String {
    let leader = rates.leader_id.map_or_else(|| "no leader".to_owned(), |id| format!("server {id} leads"));
    let mut table = table(&[
        "DATA NODE",
        "STATE",
        "WRITTEN/S",
        "READ/S",
        "USED",
        "CHUNKS",
        "REFUSED/S",
        "XDP",
        "PACKETS/S",
    ]);
    for node in &rates.data_nodes {
        table.add_row([
            node.id.to_string(),
            node.state.to_owned(),
            human_bytes(node.written_bytes_per_second),
            human_bytes(node.read_bytes_per_second),
            format!("{} %", node.used_percent),
            node.chunks.to_string(),
            node.refused_per_second.to_string(),
            if node.xdp_mode.is_empty() { "-".to_owned() } else { node.xdp_mode.clone() },
            node.xdp_packets_per_second.to_string(),
        ]);
    }
    lay_out(&mut table, &[2, 3, 4, 5, 6, 8]);
    let warnings = match rates.warnings {
        0 => String::new(),
        warnings => format!("\n{}: `xdpfs-cli status` has them\n", count(warnings as u64, "warning")),
    };
    format!(
        "{leader}; {}, {}; {} changes/s, {}/s written, {}/s read\n\n{}\n{warnings}",
        count(rates.objects, "object"),
        human_bytes(rates.bytes),
        rates.changes_per_second,
        human_bytes(rates.written_bytes_per_second),
        human_bytes(rates.read_bytes_per_second),
        trimmed(&table),
    )
}

fn parse_seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    seconds
        .filter(|interval| *interval >= INTERVAL_MIN)
        .ok_or_else(|| "write seconds, 0.5 or more".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::status::tests::status;

    fn later() -> ClusterStatus {
        let mut status = status(Some(2));
        status.commit_index += 30;
        status.data_nodes[0].written_bytes += 6 << 20;
        status.data_nodes[0].rejects.insert("bad_tag".into(), 9);
        status
    }

    #[test]
    fn rates_are_differences_per_second() {
        let rates = Rates::between(&status(Some(2)), &later(), Duration::from_secs(3));
        assert_eq!(rates.changes_per_second, 10);
        assert_eq!((rates.written_bytes_per_second, rates.read_bytes_per_second), (2 << 20, 0));
        assert_eq!(rates.data_nodes[0].refused_per_second, 2);
        assert_eq!(rates.data_nodes[0].used_percent, 33);
    }

    #[test]
    fn node_that_is_new_or_was_started_again_has_no_rate() {
        let check = |before: &ClusterStatus, after: &ClusterStatus| {
            let rates = Rates::between(before, after, Duration::from_secs(1));
            assert_eq!(rates.written_bytes_per_second, 0);
        };
        check(&later(), &status(Some(2)));
        check(&ClusterStatus { data_nodes: Vec::new(), ..later() }, &later());
    }

    #[test]
    fn people_get_a_line_and_a_table() {
        let rates = Rates::between(&status(Some(2)), &later(), Duration::from_secs(3));
        let expect = "\
server 2 leads; 2 objects, 1.5 KiB; 10 changes/s, 2.0 MiB/s written, 0 B/s read

DATA NODE  STATE   WRITTEN/S  READ/S  USED  CHUNKS  REFUSED/S  XDP      PACKETS/S
7          silent    2.0 MiB     0 B  33 %       5          2  generic          0

4 warnings: `xdpfs-cli status` has them
";
        assert_eq!(text(&rates), expect);
    }

    #[test]
    fn intervals_are_seconds() {
        assert_eq!(parse_seconds("0.5"), Ok(Duration::from_millis(500)));
        for bad in ["0", "0.1", "-1", "soon", "inf"] {
            assert!(parse_seconds(bad).is_err(), "{bad}");
        }
    }
}

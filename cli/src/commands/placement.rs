//! `placement`: where chunks lie or would go, and why.

use std::fmt::Write as _;

use clap::{Args, Subcommand};
use serde::Serialize;
use xdpfs_client::{
    ObjectClient, PlacedChunk, PlacedNode, PlacementChoice, PlacementQuery, PlacementReport, Spread,
};

use super::status::{lay_out, table, trimmed};
use crate::{
    address::Address,
    console::Console,
    failure::{Exit, Failure},
    record::ObjectRecord,
    units::{count, human_bytes},
};

/// Show where chunks lie or would go, and why.
#[derive(Debug, Args)]
pub(crate) struct PlacementArguments {
    #[command(subcommand)]
    command: PlacementCommand,
}

#[derive(Debug, Subcommand)]
enum PlacementCommand {
    Explain(ExplainArguments),
}

/// Show where the chunks of an object lie and how well they are spread.
///
/// Of a key that holds nothing, or with --new, show where a chunk would go now: which nodes are there, with which chance,
/// and why each was chosen or left out. Every chunk is placed anew, so that is an example.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  xdpfs-cli placement explain photos/2026/cat.jpg
  xdpfs-cli placement explain photos/2026/cat.jpg --chunks 1000 --json
  xdpfs-cli placement explain photos/anything --new")]
struct ExplainArguments {
    /// The object.
    #[arg(value_name = "BUCKET/KEY")]
    address: Address,
    /// Show where a new object would go, even if the key holds one.
    #[arg(long)]
    new: bool,
    /// How many chunks to show.
    #[arg(long, value_name = "COUNT", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=4096))]
    chunks: u32,
    /// The first chunk to show, counted from zero.
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    first: u32,
}

#[derive(Debug, Serialize)]
struct ReportRecord<'a> {
    /// Null: this is about a new object.
    object: Option<ObjectRecord<'a>>,
    chunk_size: u32,
    replicas: u32,
    min_replicas: u32,
    chunk_count: u64,
    /// Chunks by how they are spread.
    spreads: std::collections::BTreeMap<&'static str, u64>,
    chunks_in_debt: u64,
    chunks_weakened: u64,
    chunks_out_of_reach: u64,
    chunks: Vec<ChunkRecord>,
    nodes: Vec<NodeRecord<'a>>,
    /// Null: a new object could be placed now, or there is one.
    obstacle: Option<&'a str>,
}

#[derive(Debug, Serialize)]
struct ChunkRecord {
    offset: u64,
    length: u32,
    chunk: String,
    nodes: Vec<u16>,
    spread: &'static str,
}

#[derive(Debug, Serialize)]
struct NodeRecord<'a> {
    id: u32,
    zone: &'a str,
    rack: &'a str,
    host: &'a str,
    disk: &'a str,
    failure_domain: &'a str,
    alive: bool,
    chunks: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    candidate: Option<CandidateRecord>,
}

#[derive(Debug, Serialize)]
struct CandidateRecord {
    weight_bytes: u64,
    chosen_of_thousand: u32,
    choice: &'static str,
    /// The node whose replica is in the way.
    by: Option<u32>,
}

impl From<&PlacedChunk> for ChunkRecord {
    fn from(chunk: &PlacedChunk) -> Self {
        Self {
            offset: chunk.offset,
            length: chunk.length,
            chunk: chunk.chunk.to_string(),
            nodes: chunk.nodes.iter().map(|node| node.0).collect(),
            spread: chunk.spread.label(),
        }
    }
}

impl<'a> From<&'a PlacedNode> for NodeRecord<'a> {
    fn from(node: &'a PlacedNode) -> Self {
        let candidate = node.choice.map(|choice| CandidateRecord {
            weight_bytes: node.weight_bytes,
            chosen_of_thousand: node.chosen_of_thousand,
            choice: choice.label(),
            by: choice.by(),
        });
        Self {
            id: node.id,
            zone: &node.zone,
            rack: &node.rack,
            host: &node.host,
            disk: &node.disk,
            failure_domain: &node.failure_domain,
            alive: node.alive,
            chunks: node.chunks,
            candidate,
        }
    }
}

impl<'a> From<&'a PlacementReport> for ReportRecord<'a> {
    fn from(report: &'a PlacementReport) -> Self {
        Self {
            object: report.object.as_ref().map(ObjectRecord::from),
            chunk_size: report.chunk_size,
            replicas: report.replicas,
            min_replicas: report.min_replicas,
            chunk_count: report.chunk_count,
            spreads: report.spreads.iter().map(|(spread, chunks)| (spread.label(), *chunks)).collect(),
            chunks_in_debt: report.chunks_in_debt,
            chunks_weakened: report.chunks_weakened,
            chunks_out_of_reach: report.chunks_out_of_reach,
            chunks: report.chunks.iter().map(ChunkRecord::from).collect(),
            nodes: report.nodes.iter().map(NodeRecord::from).collect(),
            obstacle: report.obstacle.as_deref(),
        }
    }
}

/// Explains.
pub(crate) async fn run<C: ObjectClient>(
    arguments: &PlacementArguments,
    client: &C,
    console: &mut Console,
) -> Result<Exit, Failure> {
    let PlacementCommand::Explain(arguments) = &arguments.command;
    let address = &arguments.address;
    if address.is_bucket() {
        let failure = Failure::usage(format!("{address} names no object"));
        return Err(failure.with_hint(format!(
            "name any key, such as {}/x: where a new object would go is shown",
            address.bucket
        )));
    }
    let query = PlacementQuery {
        as_new: arguments.new,
        first_chunk: arguments.first,
        chunks: Some(arguments.chunks),
    };
    let report = client.explain_placement(&address.bucket, &address.key, query).await;
    let report = report.map_err(|error| Failure::from(error).about(address))?;
    console.answer(&ReportRecord::from(&report), || report_text(&report, address))?;
    console.flush()?;
    Ok(Exit::Done)
}

fn report_text(report: &PlacementReport, address: &Address) -> String {
    match report.object {
        Some(_) => object_text(report, address),
        None => new_text(report, address),
    }
}

fn object_text(report: &PlacementReport, address: &Address) -> String {
    let spreads: Vec<_> =
        report.spreads.iter().map(|(spread, chunks)| format!("{chunks} {}", spread_words(*spread))).collect();
    let mut text = format!("{address}: {}", count(report.chunk_count, "chunk"));
    if !spreads.is_empty() {
        text += &format!(", {}", spreads.join(", "));
    }
    text.push('\n');
    for (chunks, words) in [
        (report.chunks_in_debt, "with fewer replicas than the bucket asks for"),
        (report.chunks_weakened, "with fewer of them on nodes that are alive"),
        (report.chunks_out_of_reach, "OUT OF REACH: no node that holds them is alive"),
    ] {
        if chunks > 0 {
            // Writing to a string cannot fail.
            let _infallible = writeln!(text, "  {} {words}", count(chunks, "chunk"));
        }
    }
    if !report.nodes.is_empty() {
        let mut nodes = table(&["NODE", "STATE", "CHUNKS", "ZONE", "RACK", "HOST", "DISK", "DOMAIN"]);
        for node in &report.nodes {
            let [zone, rack, host, disk] = place(node);
            nodes.add_row([
                node.id.to_string(),
                state(node).to_owned(),
                node.chunks.to_string(),
                zone,
                rack,
                host,
                disk,
                node.failure_domain.clone(),
            ]);
        }
        lay_out(&mut nodes, &[2]);
        text += &format!("\n{}\n", trimmed(&nodes));
    }
    if !report.chunks.is_empty() {
        let mut chunks = table(&["CHUNK AT", "BYTES", "NODES", "SPREAD"]);
        for chunk in &report.chunks {
            let nodes: Vec<_> = chunk.nodes.iter().map(ToString::to_string).collect();
            chunks.add_row([
                chunk.offset.to_string(),
                chunk.length.to_string(),
                nodes.join(","),
                spread_words(chunk.spread).to_owned(),
            ]);
        }
        lay_out(&mut chunks, &[0, 1]);
        text += &format!("\n{}\n", trimmed(&chunks));
        let shown = report.chunks.len() as u64;
        if shown < report.chunk_count {
            text += &format!("{shown} of {}: see --first and --chunks\n", count(report.chunk_count, "chunk"));
        }
    }
    text
}

fn new_text(report: &PlacementReport, address: &Address) -> String {
    let mut text = format!(
        "a new object {address}: chunks of {}, {}, at least {} in distinct failure domains\n",
        human_bytes(report.chunk_size.into()),
        count(report.replicas.into(), "replica"),
        report.min_replicas
    );
    if let Some(obstacle) = &report.obstacle {
        text += &format!("  NO CHUNK could be placed now: {obstacle}\n");
    }
    if report.nodes.is_empty() {
        return text + "no data nodes\n";
    }
    let mut table =
        table(&["NODE", "WEIGHT", "CHANCE", "ZONE", "RACK", "HOST", "DISK", "DOMAIN", "ONE CHUNK NOW"]);
    for node in &report.nodes {
        let [zone, rack, host, disk] = place(node);
        table.add_row([
            node.id.to_string(),
            human_bytes(node.weight_bytes),
            format!("{}.{} %", node.chosen_of_thousand / 10, node.chosen_of_thousand % 10),
            zone,
            rack,
            host,
            disk,
            node.failure_domain.clone(),
            node.choice.map(choice_words).unwrap_or_default(),
        ]);
    }
    lay_out(&mut table, &[1, 2]);
    format!("{text}\n{}\n", trimmed(&table))
}

fn place(node: &PlacedNode) -> [String; 4] {
    [&node.zone, &node.rack, &node.host, &node.disk]
        .map(|name| if name.is_empty() { "-".to_owned() } else { name.clone() })
}

const fn state(node: &PlacedNode) -> &'static str {
    if node.alive { "alive" } else { "silent" }
}

const fn spread_words(spread: Spread) -> &'static str {
    match spread {
        Spread::Unknown => "spread in a way that this client doesn't know",
        Spread::Alone => "in one place",
        Spread::OneDomain => "in one failure domain",
        Spread::Disks => "on distinct disks",
        Spread::Hosts => "on distinct hosts",
        Spread::Racks => "in distinct racks",
        Spread::Zones => "in distinct zones",
    }
}

fn choice_words(choice: PlacementChoice) -> String {
    match choice {
        PlacementChoice::Avoided => "left out: the client can't reach it".to_owned(),
        PlacementChoice::Chosen(order) => format!("chosen, as number {order}"),
        PlacementChoice::DiskUsed(node) => format!("left out: node {node} is on its disk"),
        PlacementChoice::DomainUsed(node) => format!("left out: node {node} is in its failure domain"),
        PlacementChoice::Draining => "left out: it is to be freed".to_owned(),
        PlacementChoice::Full => "left out: it has no room for a chunk".to_owned(),
        PlacementChoice::HostUsed(node) => format!("passed over: node {node} is on its host"),
        PlacementChoice::Outweighed => "passed over: chance fell on others".to_owned(),
        PlacementChoice::RackUsed(node) => format!("passed over: node {node} is in its rack"),
        PlacementChoice::Silent => "left out: it is silent".to_owned(),
        PlacementChoice::ZoneUsed(node) => format!("passed over: node {node} is in its zone"),
    }
}

#[cfg(test)]
mod tests {
    use xdpfs_client::{BucketOptions, PutOptions, mock::MockClient};

    use super::*;

    async fn report(key: &str) -> PlacementReport {
        let client = MockClient::new();
        let options = BucketOptions { chunk_size: Some(65_536), ..BucketOptions::default() };
        client.create_bucket("photos", options).await.unwrap();
        client.put_bytes("photos", "cat", vec![7; 100_000].into(), PutOptions::default()).await.unwrap();
        let query = PlacementQuery { chunks: Some(1), ..PlacementQuery::default() };
        client.explain_placement("photos", key, query).await.unwrap()
    }

    #[tokio::test]
    async fn object_is_shown_with_its_nodes_and_some_chunks() {
        let text = report_text(&report("cat").await, &Address::new("photos", "cat"));
        assert!(text.starts_with("photos/cat: 2 chunks, 2 on distinct hosts\n"), "{text}");
        assert!(text.contains("1 of 2 chunks: see --first and --chunks"), "{text}");
        assert!(!text.contains("OUT OF REACH"), "{text}");
        let mut lost = report("cat").await;
        (lost.chunks_weakened, lost.chunks_out_of_reach) = (2, 1);
        lost.nodes[0].alive = false;
        let text = report_text(&lost, &Address::new("photos", "cat"));
        assert!(text.contains("1 chunk OUT OF REACH") && text.contains("silent"), "{text}");
    }

    #[tokio::test]
    async fn new_object_is_shown_with_every_node_and_why() {
        let mut report = report("dog").await;
        report.nodes[6].choice = Some(PlacementChoice::ZoneUsed(1));
        report.obstacle = Some("too few".into());
        let text = report_text(&report, &Address::new("photos", "dog"));
        for words in
            ["a new object photos/dog", "42.8 %", "chosen, as number 1", "node 1 is in its zone", "NO CHUNK"]
        {
            assert!(text.contains(words), "{words}: {text}");
        }
    }
}

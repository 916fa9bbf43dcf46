//! `fsck`: what manifests say, held against what data nodes hold; each finding explained.

use std::time::Duration;

use clap::Args;
use serde::Serialize;
use xdpfs_client::{
    Inventory, InventoryFinding, InventoryKind, InventoryNode, InventoryStanding, ObjectClient,
};

use crate::{
    console::Console,
    failure::{Exit, Failure},
    units::count,
};

/// How often it is looked how far it is.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Check that data nodes hold what the manifests say, and nothing else.
///
/// All data nodes tell all their chunks, with lengths and checksums, while the cluster serves, and the leader holds them against its
/// manifests; what seems to be wrong is looked at again before it is told. Chunks are not read: `xdpfs-cli node scrub start` does
/// that. What is missing is repaired without being asked for; what nothing refers to stays until --collect.
///
/// The exit code is 0 if all data nodes were asked and nothing was found, and 1 if not.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  xdpfs-cli fsck
  xdpfs-cli fsck --collect                     and have removed what nothing refers to
  xdpfs-cli fsck --json | jq .counts")]
pub(crate) struct FsckArguments {
    /// Have replicas removed that nothing refers to: they become pending deletes, and go after the usual grace.
    #[arg(long)]
    collect: bool,
}

#[derive(Debug, Serialize)]
struct FsckRecord<'a> {
    /// All data nodes were asked, and nothing was found.
    sound: bool,
    objects: u64,
    chunks: u64,
    nodes: Vec<NodeRecord>,
    /// Findings of each kind.
    counts: CountsRecord,
    /// Replicas that are to be removed from here on.
    collected: u64,
    /// The first of each kind.
    findings: Vec<FindingRecord<'a>>,
}

#[derive(Debug, Serialize)]
struct NodeRecord {
    node: u32,
    standing: &'static str,
    replicas: u64,
    collected: u64,
}

#[derive(Debug, Serialize)]
struct CountsRecord {
    out_of_reach: u64,
    missing: u64,
    different: u64,
    too_few: u64,
    node_gone: u64,
    surplus: u64,
    unreferenced: u64,
    foreign: u64,
    unknown: u64,
}

#[derive(Debug, Serialize)]
struct FindingRecord<'a> {
    kind: &'static str,
    chunk: String,
    /// Null: it is about no data node in particular.
    node: Option<u32>,
    /// Null: no object has the chunk.
    object: Option<&'a str>,
    /// Other replicas that nothing was found against.
    others: u32,
    /// What follows from it, and what is to be done.
    explanation: String,
}

/// Checks.
pub(crate) async fn run<C: ObjectClient>(
    arguments: &FsckArguments,
    client: &C,
    console: &mut Console,
) -> Result<Exit, Failure> {
    let mut inventory = client.take_inventory(None, arguments.collect).await?;
    while !inventory.complete {
        tokio::time::sleep(LOOK_EVERY).await;
        // A leader that doesn't know it, because it has only just begun, begins another one.
        inventory = client.take_inventory(Some(inventory.number), arguments.collect).await?;
    }
    console.answer(&record(&inventory), || text(&inventory))?;
    console.flush()?;
    Ok(if inventory.is_sound() { Exit::Done } else { Exit::Partial })
}

/// In the order in which they are told, the gravest first.
const KINDS: [InventoryKind; 9] = [
    InventoryKind::OutOfReach,
    InventoryKind::Missing,
    InventoryKind::Different,
    InventoryKind::TooFew,
    InventoryKind::NodeGone,
    InventoryKind::Surplus,
    InventoryKind::Unreferenced,
    InventoryKind::Foreign,
    InventoryKind::Unknown,
];

fn record(inventory: &Inventory) -> FsckRecord<'_> {
    let finding = |finding| FindingRecord {
        explanation: explanation(finding, inventory.collect),
        kind: finding.kind.label(),
        chunk: finding.chunk.to_string(),
        node: finding.node,
        object: finding.object.as_deref(),
        others: finding.others,
    };
    let node = |node: &InventoryNode| NodeRecord {
        node: node.node,
        standing: node.standing.label(),
        replicas: node.chunks,
        collected: node.collected,
    };
    FsckRecord {
        sound: inventory.is_sound(),
        objects: inventory.objects,
        chunks: inventory.chunks,
        nodes: inventory.nodes.iter().map(node).collect(),
        counts: CountsRecord {
            out_of_reach: inventory.count(InventoryKind::OutOfReach),
            missing: inventory.count(InventoryKind::Missing),
            different: inventory.count(InventoryKind::Different),
            too_few: inventory.count(InventoryKind::TooFew),
            node_gone: inventory.count(InventoryKind::NodeGone),
            surplus: inventory.count(InventoryKind::Surplus),
            unreferenced: inventory.count(InventoryKind::Unreferenced),
            foreign: inventory.count(InventoryKind::Foreign),
            unknown: inventory.count(InventoryKind::Unknown),
        },
        collected: inventory.collected(),
        findings: inventory.findings.iter().map(finding).collect(),
    }
}

/// What a kind is, after the number of its findings.
const fn what(kind: InventoryKind) -> (&'static str, &'static str) {
    match kind {
        InventoryKind::OutOfReach => ("chunk", "out of reach: no data node that is to hold it is heard of"),
        InventoryKind::Missing => {
            ("replica", "missing: a manifest names the data node, and it does not hold the chunk")
        }
        InventoryKind::Different => {
            ("replica", "different: the data node holds other bytes under the chunk's id")
        }
        InventoryKind::TooFew => ("chunk", "with fewer replicas than the bucket wants"),
        InventoryKind::NodeGone => ("replica", "named on a data node that was removed, or never was"),
        InventoryKind::Surplus => ("replica", "too many: the data node holds it, and manifests name others"),
        InventoryKind::Unreferenced => ("replica", "that nothing refers to: garbage"),
        InventoryKind::Foreign => ("replica", "of an id that this cluster has never given out"),
        InventoryKind::Unknown => ("finding", "of a kind that this release doesn't know"),
    }
}

/// What follows from a finding, what happens by itself, and what is to be done.
fn explanation(finding: &InventoryFinding, collects: bool) -> String {
    let good = count(finding.others.into(), "other good replica");
    match (finding.kind, finding.others) {
        (InventoryKind::OutOfReach, _) => {
            "the object can't be read: start the silent data nodes from their directories".to_owned()
        }
        (InventoryKind::Missing | InventoryKind::Different, 0) => {
            "no other replica is known to be good: if another data node or a disk can still come back, bring it; else the chunk is \
            lost, and the object is to be put again or deleted"
                .to_owned()
        }
        (InventoryKind::Missing, _) => {
            format!("nothing is lost, there is {good}: repair fetches it again, see repair status")
        }
        (InventoryKind::Different, _) => {
            format!(
                "readers find out by the checksum, and there is {good}: repair makes it anew on another data node, see repair status"
            )
        }
        (InventoryKind::TooFew, _) => {
            format!("there is {good}: repair adds what is lacking as soon as a data node would do, see repair status")
        }
        (InventoryKind::NodeGone, _) => {
            format!("there is {good}: repair makes it anew elsewhere, see repair status")
        }
        (InventoryKind::Surplus, _) => {
            "it takes room and no more: it goes by itself once the others are all there".to_owned()
        }
        (InventoryKind::Unreferenced, _) if collects => "it is removed after the grace".to_owned(),
        (InventoryKind::Unreferenced, _) => {
            "it takes room and no more, and nothing removes it: xdpfs-cli fsck --collect".to_owned()
        }
        (InventoryKind::Foreign, _) => {
            "it is of another cluster, or of a state from which this one was not restored, and is never removed, since the id may yet \
            be given out: find out where the disk is from"
                .to_owned()
        }
        (InventoryKind::Unknown, _) => "use an xdpfs-cli of the release of the metadata servers".to_owned(),
    }
}

fn text(inventory: &Inventory) -> String {
    let told = inventory.nodes.iter().filter(|node| node.standing == InventoryStanding::Told);
    let replicas = inventory.nodes.iter().map(|node| node.chunks).sum();
    let mut text = format!(
        "{} with {}, {} on {}",
        count(inventory.objects, "object"),
        count(inventory.chunks, "chunk"),
        count(replicas, "replica"),
        count(told.count() as u64, "data node"),
    );
    let mut add = |words: String| {
        text.push('\n');
        text.push_str(&words);
    };
    for InventoryNode { node, standing, .. } in inventory.unasked() {
        let why = match standing {
            InventoryStanding::Silent => "it is silent",
            _ => "its release can't tell",
        };
        add(format!("data node {node} was not asked: {why}, and what it holds is not known"));
    }
    for kind in KINDS {
        let found = inventory.count(kind);
        if found == 0 {
            continue;
        }
        let (noun, words) = what(kind);
        add(format!("{} {words}", count(found, noun)));
        let mut shown = 0;
        for finding in inventory.findings.iter().filter(|finding| finding.kind == kind) {
            let node = finding.node.map_or_else(String::new, |node| format!(" on data node {node}"));
            let object = finding.object.as_ref().map_or_else(String::new, |object| format!(", of {object}"));
            add(format!(
                "  chunk {}{node}{object}: {}",
                finding.chunk,
                explanation(finding, inventory.collect)
            ));
            shown += 1;
        }
        if found > shown && shown > 0 {
            add(format!("  and {} more", found - shown));
        }
    }
    if inventory.collected() > 0 {
        add(format!("{} to be removed after the grace", count(inventory.collected(), "replica")));
    }
    if inventory.is_sound() {
        add("all is as the manifests say, and there is nothing else".to_owned());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(node: u32, standing: InventoryStanding) -> InventoryNode {
        InventoryNode { node, standing, chunks: 3, collected: 0 }
    }

    fn sound() -> Inventory {
        let nodes = vec![node(1, InventoryStanding::Told), node(2, InventoryStanding::Told)];
        Inventory { complete: true, objects: 2, chunks: 3, nodes, ..Inventory::default() }
    }

    fn finding(kind: InventoryKind, others: u32) -> InventoryFinding {
        let chunk = xdpfs_wire::ChunkId(7);
        InventoryFinding { kind, chunk, node: Some(2), object: Some("b/k".to_owned()), others }
    }

    #[test]
    fn soundness_is_said_in_a_line() {
        let expect = "\
2 objects with 3 chunks, 6 replicas on 2 data nodes
all is as the manifests say, and there is nothing else";
        assert_eq!(text(&sound()), expect);
        assert!(record(&sound()).sound);
    }

    #[test]
    fn finding_is_told_with_what_follows_from_it() {
        let unsound = Inventory {
            counts: [(InventoryKind::Missing, 5)].into(),
            findings: vec![finding(InventoryKind::Missing, 1)],
            nodes: vec![node(1, InventoryStanding::Told), node(2, InventoryStanding::Silent)],
            ..sound()
        };
        let chunk = xdpfs_wire::ChunkId(7);
        let expect = format!(
            "\
2 objects with 3 chunks, 6 replicas on 1 data node
data node 2 was not asked: it is silent, and what it holds is not known
5 replicas missing: a manifest names the data node, and it does not hold the chunk
  chunk {chunk} on data node 2, of b/k: nothing is lost, there is 1 other good replica: repair fetches it again, see repair status
  and 4 more"
        );
        assert_eq!(text(&unsound), expect);
        assert!(!record(&unsound).sound);
    }

    #[test]
    fn every_kind_is_explained() {
        for kind in KINDS {
            let unsound =
                Inventory { counts: [(kind, 1)].into(), findings: vec![finding(kind, 0)], ..sound() };
            let said = text(&unsound);
            assert!(said.lines().count() == 3 && said.contains(what(kind).1), "{said}");
            let record = serde_json::to_value(record(&unsound)).unwrap();
            assert_eq!(record["counts"][kind.label()], 1, "{record}");
            assert_eq!(record["findings"][0]["kind"], kind.label());
        }
        assert!(explanation(&finding(InventoryKind::Missing, 0), false).contains("lost"));
        let garbage = finding(InventoryKind::Unreferenced, 0);
        assert!(explanation(&garbage, false).contains("--collect"));
        assert!(!explanation(&garbage, true).contains("--collect"));
    }
}

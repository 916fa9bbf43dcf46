//! `status`: the cluster as its leader sees it, or as the server sees it that could be reached.

use std::{collections::BTreeMap, fmt::Display, time::Duration};

use clap::Args;
use comfy_table::{CellAlignment, Table, presets};
use xdpfs_client::{ClusterStatus, DataNode, DataNodeState, Edge, ObjectClient, Warning, warnings};

use crate::{
    commands::{rebalance, repair},
    console::Console,
    failure::{Exit, Failure},
    record::StatusRecord,
    units::{count, human_bytes},
};

/// Show the state of the cluster.
#[derive(Debug, Args)]
#[command(after_help = "\
If the metadata servers have no leader, the view of one that answers is shown, and the exit code
is 5. Warnings stand at the end, each with what to do; they don't change the exit code.

Examples:
  xdpfs-cli status
  xdpfs-cli status --json | jq .replica_debt
  xdpfs-cli status --json | jq -e '.warnings == []'    fails if there is any")]
pub(crate) struct StatusArguments {}

/// Blanks between two columns.
const COLUMN_GAP: u16 = 2;
/// What a node says of its XDP program if it has what it was told to have, or the best.
const NO_HOPES: [&str; 4] = ["", "asked for", "not asked for", "the driver can"];

/// Shows the state.
pub(crate) async fn run<C: ObjectClient>(client: &C, console: &mut Console) -> Result<Exit, Failure> {
    show(&client.cluster_status().await?, console)
}

fn show(status: &ClusterStatus, console: &mut Console) -> Result<Exit, Failure> {
    console.answer(&StatusRecord::from(status), || status_text(status))?;
    console.flush()?;
    if status.leader_id.is_some() {
        return Ok(Exit::Done);
    }
    let failure =
        Failure::unavailable("the metadata servers have no leader: nothing can be put, got or listed");
    Err(failure.with_hint("more than half of them must run and reach each other: see their logs"))
}

fn status_text(status: &ClusterStatus) -> String {
    let leader = match status.leader_id {
        Some(leader) if leader == status.server_id => format!("server {leader} leads"),
        Some(leader) => format!("server {leader} leads, as server {} sees it", status.server_id),
        None => format!("no leader, as server {} sees it", status.server_id),
    };
    let level = status.feature_level;
    let silent = status.data_nodes.iter().filter(|node| node.state == DataNodeState::Silent).count() as u64;
    let debt = match (status.replica_debt, silent) {
        (0, 0) => "all replicas are there".to_owned(),
        (0, silent) => format!("all replicas but those on {}", count(silent, "silent data node")),
        (debt, 0) => format!("{} missing", count(debt, "replica")),
        (debt, silent) => {
            format!("{} missing, and those on {}", count(debt, "replica"), count(silent, "silent data node"))
        }
    };
    let repair =
        status.repair.as_ref().map(|repair| format!("\n  {}", repair::line(repair))).unwrap_or_default();
    let rebalance = status.rebalance.as_ref().and_then(rebalance::line).unwrap_or_default();
    let id = if status.cluster_id.is_empty() { "that was never founded" } else { &status.cluster_id };
    format!(
        "cluster {id}: {leader}, feature level {level}\n  {}, {}, {}\n  {debt}; {}, {}{repair}{rebalance}\n\n{}\n\n{}{}\n{}",
        count(status.buckets, "bucket"),
        count(status.objects, "object"),
        human_bytes(status.bytes),
        count(status.open_uploads, "open upload"),
        count(status.pending_deletes, "replica") + " to remove",
        meta_servers(status),
        data_nodes(status),
        edges(&status.edges),
        warnings_text(&warnings(status)),
    )
}

fn warnings_text(warnings: &[Warning]) -> String {
    if warnings.is_empty() {
        return String::new();
    }
    let lines = warnings.iter().map(|Warning { what, action, .. }| format!("  {what}\n    -> {action}\n"));
    format!("\n{}:\n{}", count(warnings.len() as u64, "warning"), lines.collect::<String>())
}

fn meta_servers(status: &ClusterStatus) -> String {
    let mut table = table(&["META SERVER", "ENDPOINT", "ROLE", "LOG", "RELEASE", "LEVEL"]);
    for server in &status.meta_servers {
        let log = if server.matched_index == 0 { "-".to_owned() } else { server.matched_index.to_string() };
        table.add_row([
            server.id.to_string(),
            server.endpoint.clone(),
            server.role.label().to_owned(),
            log,
            or_dash(&server.version),
            server.feature_level.map_or_else(|| "-".to_owned(), |level| level.to_string()),
        ]);
    }
    lay_out(&mut table, &[3, 5]);
    trimmed(&table)
}

fn data_nodes(status: &ClusterStatus) -> String {
    if status.data_nodes.is_empty() {
        return "no data nodes".to_owned();
    }
    let mut table = table(&[
        "DATA NODE",
        "ADDRESS",
        "STATE",
        "USED",
        "FREE",
        "CHUNKS",
        "REFUSED",
        "XDP",
        "HEARD",
        "DOMAIN",
    ]);
    for node in &status.data_nodes {
        // Nodes are heard by the leader alone: another server knows which there are.
        let heard = |text: String| if node.state == DataNodeState::Unknown { "-".to_owned() } else { text };
        table.add_row([
            node.id.to_string(),
            node.address.clone(),
            state(node).to_owned(),
            heard(human_bytes(node.used_bytes)),
            heard(human_bytes(node.free_bytes)),
            heard(node.chunks.to_string()),
            heard(refused(&node.rejects)),
            or_dash(&node.xdp_mode),
            heard(format!("{} ago", rounded(node.last_heartbeat_age))),
            node.failure_domain.clone(),
        ]);
    }
    lay_out(&mut table, &[3, 4, 5]);
    let reasons = status.data_nodes.iter().map(|node| (node.id, &node.xdp_mode, &node.xdp_reason));
    trimmed(&table) + &xdp_reasons(reasons)
}

/// What operators want of a node says more than whether it is heard of, unless it is silent.
pub(crate) const fn state(node: &DataNode) -> &'static str {
    match node.state {
        _ if node.removed => "removed",
        DataNodeState::Alive if node.draining => "draining",
        state => state.label(),
    }
}

/// A table of its own below the others, if there are any edges.
fn edges(edges: &[Edge]) -> String {
    if edges.is_empty() {
        return String::new();
    }
    let mut table = table(&["EDGE", "DATA NODES", "REFUSED", "XDP", "REPLIES", "HEARD"]);
    for edge in edges {
        let nodes: Vec<_> = edge.node_ids.iter().map(u32::to_string).collect();
        table.add_row([
            edge.address.clone(),
            or_dash(&nodes.join(",")),
            refused(&edge.rejects),
            or_dash(&edge.xdp_mode),
            or_dash(&edge.replies),
            format!("{} ago", rounded(edge.last_heard_age)),
        ]);
    }
    lay_out(&mut table, &[]);
    let reasons = edges.iter().map(|edge| (&edge.address, &edge.xdp_mode, &edge.xdp_reason));
    "\n\n".to_owned() + &trimmed(&table) + &xdp_reasons(reasons)
}

/// Datagrams refused, and for which reasons.
fn refused(rejects: &BTreeMap<String, u64>) -> String {
    let reasons = rejects.iter().filter(|(_, refused)| **refused > 0);
    let reasons: Vec<_> = reasons.map(|(reason, refused)| format!("{reason}={refused}")).collect();
    if reasons.is_empty() { "0".to_owned() } else { reasons.join(" ") }
}

fn or_dash(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { text.to_owned() }
}

/// Why a kernel program has no better place, for each that hoped for one: whose it is, where it runs, and why.
fn xdp_reasons<'a>(programs: impl Iterator<Item = (impl Display, &'a String, &'a String)>) -> String {
    let hoped = programs.filter(|(_, _, why)| !NO_HOPES.contains(&why.as_str()));
    hoped.map(|(whose, mode, why)| format!("\n{whose}: XDP {}, {why}", or_dash(mode))).collect()
}

/// Whole seconds, and milliseconds below one.
fn rounded(time: Duration) -> humantime::FormattedDuration {
    let time = if time < Duration::from_secs(1) {
        Duration::from_millis(u64::from(time.subsec_millis()))
    } else {
        Duration::from_secs(time.as_secs())
    };
    humantime::format_duration(time)
}

pub(crate) fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header);
    table
}

pub(crate) fn lay_out(table: &mut Table, right_aligned: &[usize]) {
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, COLUMN_GAP));
        if right_aligned.contains(&index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
}

/// The table without the blanks at the ends of its lines.
pub(crate) fn trimmed(table: &Table) -> String {
    let lines: Vec<_> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    lines.join("\n")
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::SystemTime;

    use xdpfs_client::{DataNode, MetaRole, MetaServer, NodeLabel};

    use super::*;
    use crate::console::{Look, tests::Printed};

    pub(crate) fn status(leader_id: Option<u64>) -> ClusterStatus {
        let role = |id| match leader_id {
            Some(leader) if leader == id => MetaRole::Leader,
            Some(_) => MetaRole::Unreachable,
            None => MetaRole::Unknown,
        };
        let server = |id: u64| MetaServer {
            id,
            endpoint: format!("m{id}:1"),
            role: role(id),
            matched_index: id - 1,
            certificate_expires: None,
            version: "1.2.3".into(),
            feature_level: Some(1),
        };
        let label =
            |key: &str, value: &str| NodeLabel { key: key.into(), value: value.into(), by_operator: true };
        let node = DataNode {
            id: 7,
            epoch: 2,
            address: "n7:1".into(),
            state: DataNodeState::Silent,
            capacity_bytes: 3 << 20,
            used_bytes: 1 << 20,
            free_bytes: 2 << 20,
            chunks: 5,
            rejects: [("bad_tag".to_owned(), 3), ("expired".to_owned(), 0)].into(),
            failure_domain: "rack-1".into(),
            last_heartbeat_age: Duration::from_millis(4321),
            xdp_mode: "generic".into(),
            xdp_reason: "native: the driver can't".into(),
            xdp_packets: [("local".to_owned(), 9)].into(),
            direct_address: "10.0.0.7:1".into(),
            written_bytes: 11,
            read_bytes: 12,
            labels: vec![label("rack", "1"), label("tier", "ssd"), label("zone", "a")],
            version: "1.2.3".into(),
            registered: Some(SystemTime::UNIX_EPOCH + Duration::from_secs(86_400)),
            certificate_expires: Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000)),
            scrub: None,
            scrub_ordered: false,
            draining: false,
            removed: false,
            storage_doubts: Vec::new(),
            disks: Vec::new(),
        };
        let edge = Edge {
            address: "n7:1".into(),
            node_ids: vec![7, 8],
            xdp_mode: "native".into(),
            xdp_reason: "the driver can".into(),
            replies: "kernel".into(),
            packets: [("routed".to_owned(), 9)].into(),
            rejects: [("wrong_node".to_owned(), 2)].into(),
            last_heard_age: Duration::from_millis(123),
            certificate_expires: None,
        };
        ClusterStatus {
            cluster_id: "c".into(),
            meta_servers: vec![server(1), server(2)],
            data_nodes: vec![node],
            edges: vec![edge],
            server_id: 2,
            leader_id,
            term: 3,
            commit_index: 9,
            applied_index: 8,
            buckets: 1,
            objects: 2,
            bytes: 1536,
            open_uploads: 0,
            replica_debt: 4,
            pending_deletes: 1,
            server_time_ms: 0,
            requests: None,
            feature_level: 1,
            repair: None,
            rebalance: None,
        }
    }

    #[test]
    fn people_get_a_table() {
        let (mut console, printed) = Printed::console(Look::default());
        assert_eq!(show(&status(Some(2)), &mut console), Ok(Exit::Done));
        let expect = "\
cluster c: server 2 leads, feature level 1
  1 bucket, 2 objects, 1.5 KiB
  4 replicas missing, and those on 1 silent data node; 0 open uploads, 1 replica to remove

META SERVER  ENDPOINT  ROLE         LOG  RELEASE  LEVEL
1            m1:1      unreachable    -  1.2.3        1
2            m2:1      leader         1  1.2.3        1

DATA NODE  ADDRESS  STATE      USED     FREE  CHUNKS  REFUSED    XDP      HEARD   DOMAIN
7          n7:1     silent  1.0 MiB  2.0 MiB       5  bad_tag=3  generic  4s ago  rack-1
7: XDP generic, native: the driver can't

EDGE  DATA NODES  REFUSED       XDP     REPLIES  HEARD
n7:1  7,8         wrong_node=2  native  kernel   123ms ago

4 warnings:
  the leader does not hear of metadata server 1 (m1:1): if one more fails, nothing can be put, got or listed
    -> start it again from its data directory, or mend its network; without its directory it must not come back under its id
  data nodes are alive in 0 failure domains: buckets that want 2 replicas, as usual, take no puts
    -> start data nodes, in distinct failure domains (--failure-domain)
  data node 7 (n7:1) is silent: its replicas are out of reach, and it gets no new ones
    -> start it again from its data directory, or mend its network
  4 replicas of chunks could not be written when they were put: those chunks bear fewer failures
    -> repair makes them by itself once enough data nodes are there: bring back those that were missing, or add some
";
        assert_eq!(printed.out(), expect);
    }

    #[test]
    fn replicas_on_a_silent_node_are_not_said_to_be_there() {
        let check = |replica_debt, state, expect: &str| {
            let mut status = ClusterStatus { replica_debt, ..status(Some(2)) };
            status.data_nodes[0].state = state;
            let line = status_text(&status).lines().nth(2).map(str::to_owned).unwrap();
            assert_eq!(line.trim().split(';').next(), Some(expect));
        };
        check(0, DataNodeState::Alive, "all replicas are there");
        check(0, DataNodeState::Silent, "all replicas but those on 1 silent data node");
        check(2, DataNodeState::Alive, "2 replicas missing");
    }

    #[test]
    fn what_only_the_leader_knows_of_a_node_is_left_open_by_others() {
        let mut status = status(Some(1));
        status.data_nodes[0].state = DataNodeState::Unknown;
        let line = data_nodes(&status).lines().nth(1).map(str::to_owned).unwrap();
        let cells: Vec<_> = line.split_whitespace().collect();
        assert_eq!(cells, ["7", "n7:1", "unknown", "-", "-", "-", "-", "generic", "-", "rack-1"]);
    }

    #[test]
    fn scripts_get_one_line() {
        let (mut console, printed) = Printed::console(Look { json: true, quiet: false });
        assert_eq!(show(&status(Some(2)), &mut console), Ok(Exit::Done));
        let expect = concat!(
            r#"{"cluster_id":"c","leader_id":2,"term":3,"commit_index":9,"applied_index":8,"buckets":1,"objects":2,"#,
            r#""bytes":1536,"open_uploads":0,"replica_debt":4,"pending_deletes":1,"answered_by":2,"meta_servers":["#,
            r#"{"id":1,"endpoint":"m1:1","role":"unreachable","matched_index":0,"certificate_expires":null,"version":"1.2.3","feature_level":1},"#,
            r#"{"id":2,"endpoint":"m2:1","role":"leader","matched_index":1,"certificate_expires":null,"version":"1.2.3","feature_level":1}],"data_nodes":["#,
            r#"{"id":7,"epoch":2,"address":"n7:1","state":"silent","capacity_bytes":3145728,"used_bytes":1048576,"#,
            r#""free_bytes":2097152,"chunks":5,"rejects":{"bad_tag":3,"expired":0},"failure_domain":"rack-1","#,
            r#""last_heartbeat_age_ms":4321,"xdp_mode":"generic","xdp_reason":"native: the driver can't","#,
            r#""xdp_packets":{"local":9},"direct_address":"10.0.0.7:1","written_bytes":11,"read_bytes":12,"#,
            r#""labels":{"rack":"1","tier":"ssd","zone":"a"},"version":"1.2.3","registered":"1970-01-02T00:00:00.000Z","#,
            r#""certificate_expires":"2001-09-09T01:46:40.000Z","scrub":null,"scrub_ordered":false,"draining":false,"removed":false,"storage_doubts":[],"disks":[]}],"#,
            r#""edges":[{"address":"n7:1","node_ids":[7,8],"#,
            r#""xdp_mode":"native","xdp_reason":"the driver can","replies":"kernel","packets":{"routed":9},"#,
            r#""rejects":{"wrong_node":2},"last_heard_age_ms":123,"certificate_expires":null}],"warnings":[{"code":"meta_server_unreachable","#,
        );
        let out = printed.out();
        assert!(out.starts_with(expect), "{out}");
        assert_eq!(out.lines().count(), 1, "{out}");
    }

    #[test]
    fn clusters_without_edges_show_no_table_of_them() {
        let (mut console, printed) = Printed::console(Look::default());
        let status = ClusterStatus { edges: Vec::new(), ..status(Some(2)) };
        assert_eq!(show(&status, &mut console), Ok(Exit::Done));
        let out = printed.out();
        assert!(out.contains("7: XDP generic, native: the driver can't\n\n4 warnings"), "{out}");
        assert!(!out.contains("EDGE"), "{out}");
    }

    #[test]
    fn a_cluster_without_a_leader_is_shown_and_is_unavailable() {
        let (mut console, printed) = Printed::console(Look::default());
        let failure = show(&status(None), &mut console).unwrap_err();
        assert_eq!(failure.exit, Exit::Unavailable);
        assert!(printed.out().contains("no leader, as server 2 sees it"), "{}", printed.out());
    }
}

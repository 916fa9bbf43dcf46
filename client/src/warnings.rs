//! What somebody should look at, judged by the cluster's state alone, each with what to do.

use std::{
    collections::BTreeSet,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use crate::{ClusterStatus, DataNode, DataNodeState, MetaRole, MetaServer, ScrubPass};

/// A node is nearly full when this share of its capacity is used, in percent, or ...
const USED_PERCENT_MAX: u64 = 85;
/// ... when less than this share can still be written, in percent: the disk may hold more than chunks.
const FREE_PERCENT_MIN: u64 = 5;
/// A server that lacks so many entries can't take over soon.
const LAG_ENTRIES_MAX: u64 = 10_000;
/// Replicas in distinct failure domains without which the usual bucket takes no put.
const USUAL_MIN_REPLICAS: usize = 2;
/// A certificate that holds for less time than this should be replaced.
const CERTIFICATE_LEFT_MIN: Duration = Duration::from_secs(30 * 86_400);

/// Something that somebody should look at.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Warning {
    /// A stable name for scripts.
    pub code: &'static str,
    /// What it is, and what follows from it.
    pub what: String,
    /// What to do first.
    pub action: String,
}

/// All of them, the worst first.
#[must_use]
pub fn warnings(status: &ClusterStatus) -> Vec<Warning> {
    let mut warnings = Vec::new();
    warnings.extend(unreachable_servers(status));
    warnings.extend(too_few_domains(status));
    warnings.extend(status.data_nodes.iter().filter_map(silent_node));
    warnings.extend(status.data_nodes.iter().flat_map(failed_disks));
    warnings.extend(status.data_nodes.iter().flat_map(doubtful_storage));
    warnings.extend(status.data_nodes.iter().filter_map(full_node));
    warnings.extend(status.data_nodes.iter().filter_map(damaged_chunks));
    warnings.extend(status.meta_servers.iter().filter_map(|server| lagging_server(status, server)));
    warnings.extend(out_of_reach(status));
    warnings.extend(without_place(status));
    warnings.extend(replica_debt(status));
    warnings.extend(certificates(status));
    warnings
}

fn unreachable_servers(status: &ClusterStatus) -> Option<Warning> {
    let unreachable =
        status.meta_servers.iter().filter(|server| server.role == MetaRole::Unreachable).collect::<Vec<_>>();
    if unreachable.is_empty() {
        return None;
    }
    let servers = status.meta_servers.len();
    let spare = (servers - unreachable.len()).saturating_sub(servers / 2 + 1);
    let names = unreachable.iter().map(|server| format!("{} ({})", server.id, server.endpoint));
    let names = names.collect::<Vec<_>>().join(", ");
    let follows = if spare == 0 {
        "if one more fails, nothing can be put, got or listed".to_owned()
    } else {
        format!("{} more may fail", spare)
    };
    Some(Warning {
        code: "meta_server_unreachable",
        what: format!("the leader does not hear of metadata server {names}: {follows}"),
        action: "start it again from its data directory, or mend its network; without its directory it must not come \
            back under its id"
            .to_owned(),
    })
}

/// Only a leader hears from nodes: what others say counts for nothing here.
fn too_few_domains(status: &ClusterStatus) -> Option<Warning> {
    let is_known = status.data_nodes.iter().all(|node| node.state != DataNodeState::Unknown);
    let alive = status.data_nodes.iter().filter(|node| node.state == DataNodeState::Alive);
    let domains = alive.map(|node| &node.failure_domain).collect::<BTreeSet<_>>().len();
    (is_known && domains < USUAL_MIN_REPLICAS && status.leader_id.is_some()).then(|| Warning {
        code: "too_few_failure_domains",
        what: format!(
            "data nodes are alive in {}: buckets that want {USUAL_MIN_REPLICAS} replicas, as usual, take no puts",
            count(domains as u64, "failure domain")
        ),
        action: "start data nodes, in distinct failure domains (--failure-domain)".to_owned(),
    })
}

fn silent_node(node: &DataNode) -> Option<Warning> {
    (node.state == DataNodeState::Silent && !node.removed).then(|| Warning {
        code: "data_node_silent",
        what: format!(
            "data node {} ({}) is silent: its replicas are out of reach, and it gets no new ones",
            node.id, node.address
        ),
        action: "start it again from its data directory, or mend its network".to_owned(),
    })
}

fn out_of_reach(status: &ClusterStatus) -> Option<Warning> {
    let repair = status.repair.as_ref().filter(|repair| repair.out_of_reach > 0)?;
    let sample: Vec<_> = repair.out_of_reach_sample.iter().take(3).map(String::as_str).collect();
    let of = if sample.is_empty() { String::new() } else { format!(" (of {})", sample.join(", ")) };
    Some(Warning {
        code: "chunks_out_of_reach",
        what: format!(
            "{}{of} can't be read: no data node that is alive has a good replica",
            count(repair.out_of_reach, "chunk")
        ),
        action: "start the silent data nodes again, from their data directories; see xdpfs-cli repair status"
            .to_owned(),
    })
}

fn without_place(status: &ClusterStatus) -> Option<Warning> {
    let repair = status.repair.as_ref().filter(|repair| repair.without_place > 0)?;
    Some(Warning {
        code: "repair_has_no_place",
        what: format!(
            "{} can get no other replica: no data node with room would do",
            count(repair.without_place, "chunk")
        ),
        action: "start data nodes with room, in other failure domains".to_owned(),
    })
}

/// The others of the node go on, so nothing else tells of it.
fn failed_disks(node: &DataNode) -> impl Iterator<Item = Warning> + '_ {
    let failed = node.disks.iter().filter_map(|disk| disk.failure.as_deref().map(|failure| (disk, failure)));
    failed.map(move |(disk, failure)| {
        let action = if disk.disk == "data-dir" {
            "look at the disk of its data directory (dmesg, smartctl), and start the node again, on a new one if need be"
        } else {
            "look at it (the file `disks` in the node's data directory says where it belongs; dmesg, smartctl), and start the node \
             again once it is there; if it is lost for good, with --forget-disk and its UUID"
        };
        Warning {
            code: "disk_failed",
            what: format!(
                "disk {} of data node {} ({}) has failed: {failure}; {} on it count as missing, and nothing more is written to it",
                disk.disk,
                node.id,
                node.address,
                count(disk.chunks, "chunk")
            ),
            action: action.to_owned(),
        }
    })
}

/// A receipt promises more than the node's directory keeps.
fn doubtful_storage(node: &DataNode) -> impl Iterator<Item = Warning> + '_ {
    node.storage_doubts.iter().map(move |doubt| {
        let (why, action) = match doubt.as_str() {
            "volatile" => (
                "is in memory: what it acknowledges is gone with the next start of its host",
                "name a directory on a disk",
            ),
            "network" => (
                "is on another machine, or a program keeps it: two replicas may end on one disk, and what it acknowledges is only \
                 as durable as what stands behind it",
                "name a directory on a disk of its host",
            ),
            "overlay" => (
                "is in the layers of a container: what it acknowledges goes with the container",
                "give the container a volume",
            ),
            "fast_sync" => (
                "makes writes durable sooner than any medium could: what it acknowledges seems to wait in memory that a power loss \
                 empties",
                "use a disk with power loss protection, or turn its volatile cache off (hdparm -W0)",
            ),
            // Of a later release.
            _ => ("does not keep what receipts promise", "see its log"),
        };
        Warning {
            code: "storage_not_durable",
            what: format!("the data directory of data node {} ({}) {why}", node.id, node.address),
            action: action.to_owned(),
        }
    })
}

fn full_node(node: &DataNode) -> Option<Warning> {
    let DataNode { capacity_bytes, used_bytes, free_bytes, .. } = *node;
    let percent = |part: u64| part.saturating_mul(100) / capacity_bytes.max(1);
    let is_full = percent(used_bytes) > USED_PERCENT_MAX || percent(free_bytes) < FREE_PERCENT_MIN;
    (node.state == DataNodeState::Alive && capacity_bytes > 0 && is_full).then(|| Warning {
        code: "data_node_nearly_full",
        what: format!(
            "data node {} ({}) is nearly full: {} % used, {} % can still be written",
            node.id,
            node.address,
            percent(used_bytes),
            percent(free_bytes)
        ),
        action: "add data nodes, or delete objects: their room comes back after the deletion grace"
            .to_owned(),
    })
}

/// Until a whole pass has found nothing.
fn damaged_chunks(node: &DataNode) -> Option<Warning> {
    let scrub = node.scrub?;
    let sum = |count: fn(&ScrubPass) -> u64| {
        scrub.pass.iter().chain(&scrub.last_pass).map(count).fold(0, u64::saturating_add)
    };
    let damaged = sum(|pass| pass.damaged_chunks);
    let others = sum(|pass| pass.damaged_places.saturating_add(pass.read_errors));
    (damaged > 0 || others > 0).then(|| Warning {
        code: "chunks_damaged",
        what: format!(
            "the scrub of data node {} ({}) has found {} and {}: what is damaged is not served, and made anew from other replicas",
            node.id,
            node.address,
            count(damaged, "damaged chunk"),
            count(others, "other damaged or unreadable place")
        ),
        action: "look at its disk (dmesg, smartctl); if there is more of it every time, drain the node (xdpfs-cli node drain) and \
            replace the disk"
            .to_owned(),
    })
}

fn lagging_server(status: &ClusterStatus, server: &MetaServer) -> Option<Warning> {
    let lag = status.commit_index.saturating_sub(server.matched_index);
    // Only the leader knows what others hold.
    let is_told = status.leader_id == Some(status.server_id);
    (is_told && server.role == MetaRole::Follower && lag > LAG_ENTRIES_MAX).then(|| Warning {
        code: "meta_server_lags",
        what: format!("metadata server {} ({}) lacks {lag} entries of the log", server.id, server.endpoint),
        action: "look at its disk and its network; until it has caught up it counts for nothing".to_owned(),
    })
}

fn replica_debt(status: &ClusterStatus) -> Option<Warning> {
    (status.replica_debt > 0).then(|| Warning {
        code: "replicas_missing",
        what: format!(
            "{} of chunks could not be written when they were put: those chunks bear fewer failures",
            count(status.replica_debt, "replica")
        ),
        action: "repair makes them by itself once enough data nodes are there: bring back those that were missing, or add some"
            .to_owned(),
    })
}

/// Judged on the clock of the server that answered, which the cluster goes by.
fn certificates(status: &ClusterStatus) -> Vec<Warning> {
    let now = UNIX_EPOCH + Duration::from_millis(status.server_time_ms);
    let servers = status.meta_servers.iter().map(|server| {
        (format!("metadata server {} ({})", server.id, server.endpoint), server.certificate_expires)
    });
    let nodes = status
        .data_nodes
        .iter()
        .map(|node| (format!("data node {} ({})", node.id, node.address), node.certificate_expires));
    let edges =
        status.edges.iter().map(|edge| (format!("the edge {}", edge.address), edge.certificate_expires));
    let all = servers.chain(nodes).chain(edges).filter(|_| status.server_time_ms > 0);
    all.filter_map(|(whose, expires)| ending_certificate(&whose, expires?, now)).collect()
}

fn ending_certificate(whose: &str, expires: SystemTime, now: SystemTime) -> Option<Warning> {
    let left = expires.duration_since(now).unwrap_or_default();
    let what = if left.is_zero() {
        format!("the certificate of {whose} has ended: nobody speaks to it any more")
    } else {
        format!("the certificate of {whose} ends in {}", count(left.as_secs() / 86_400, "day"))
    };
    (left <= CERTIFICATE_LEFT_MIN).then(|| Warning {
        code: "certificate_ends",
        what,
        action: "make a new one with xdpfs-cli certify DIR NAME, and put it in its --tls directory: it is used at once"
            .to_owned(),
    })
}

/// A count with its noun, such as `1 replica` and `2 replicas`.
fn count(count: u64, noun: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{plural}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Edge, NodeDisk, NodeScrub, ScrubState};

    fn codes(status: &ClusterStatus) -> Vec<&'static str> {
        warnings(status).iter().map(|warning| warning.code).collect()
    }

    /// Nothing to complain about.
    fn healthy() -> ClusterStatus {
        let server = |id, role| MetaServer {
            id,
            endpoint: format!("m{id}:1"),
            role,
            matched_index: id,
            certificate_expires: None,
            version: "1.2.3".into(),
            feature_level: Some(1),
        };
        let node = |id: u32| DataNode {
            id,
            epoch: 1,
            address: format!("n{id}:1"),
            direct_address: format!("n{id}:1"),
            state: DataNodeState::Alive,
            capacity_bytes: 3 << 20,
            used_bytes: 1 << 20,
            free_bytes: 2 << 20,
            chunks: 5,
            rejects: Default::default(),
            failure_domain: format!("rack-{id}"),
            last_heartbeat_age: Default::default(),
            xdp_mode: "off".into(),
            xdp_reason: "not asked for".into(),
            xdp_packets: Default::default(),
            written_bytes: 0,
            read_bytes: 0,
            labels: Vec::new(),
            version: "1".into(),
            registered: None,
            certificate_expires: None,
            scrub: None,
            scrub_ordered: false,
            draining: false,
            removed: false,
            storage_doubts: Vec::new(),
            disks: Vec::new(),
        };
        ClusterStatus {
            cluster_id: "c".into(),
            meta_servers: vec![server(1, MetaRole::Follower), server(2, MetaRole::Leader)],
            data_nodes: vec![node(1), node(2)],
            server_id: 2,
            leader_id: Some(2),
            ..ClusterStatus::default()
        }
    }

    #[test]
    fn each_trouble_has_its_warning_and_health_has_none() {
        let check = |change: &dyn Fn(&mut ClusterStatus), expect: &[&str]| {
            let mut status = healthy();
            change(&mut status);
            assert_eq!(codes(&status), expect);
        };
        check(&|_| {}, &[]);
        check(&|status| status.meta_servers[0].role = MetaRole::Unreachable, &["meta_server_unreachable"]);
        check(&|status| status.replica_debt = 1, &["replicas_missing"]);
        check(
            &|status| status.data_nodes[0].state = DataNodeState::Silent,
            &["too_few_failure_domains", "data_node_silent"],
        );
        check(&|status| status.data_nodes.clear(), &["too_few_failure_domains"]);
        check(&|status| status.data_nodes[0].failure_domain = "rack-2".into(), &["too_few_failure_domains"]);
        check(&|status| status.data_nodes[0].used_bytes = 3 << 20, &["data_node_nearly_full"]);
        check(&|status| status.data_nodes[0].free_bytes = 1, &["data_node_nearly_full"]);
        check(&|status| status.commit_index = 20_000, &["meta_server_lags"]);
        let scrub = |damaged_chunks, read_errors| {
            let last_pass = Some(ScrubPass { damaged_chunks, read_errors, ..ScrubPass::default() });
            let (state, pass) = (ScrubState::Waiting, Some(ScrubPass::default()));
            Some(NodeScrub { state, pass, percent: 0, last_pass, next_pass: None, bytes_per_second: 1 })
        };
        for doubt in ["volatile", "network", "overlay", "fast_sync", "later"] {
            let doubted =
                |status: &mut ClusterStatus| status.data_nodes[0].storage_doubts = vec![doubt.into()];
            check(&doubted, &["storage_not_durable"]);
        }
        for (failure, expect) in [(None, &[][..]), (Some("it is gone".to_owned()), &["disk_failed"])] {
            let disk = NodeDisk { disk: "data-dir".into(), failure, ..NodeDisk::default() };
            check(&move |status| status.data_nodes[0].disks = vec![disk.clone()], expect);
        }
        check(&|status| status.data_nodes[0].scrub = scrub(0, 0), &[]);
        check(&|status| status.data_nodes[0].scrub = scrub(1, 0), &["chunks_damaged"]);
        check(&|status| status.data_nodes[0].scrub = scrub(0, 1), &["chunks_damaged"]);
    }

    #[test]
    fn certificate_that_ends_within_a_month_is_named() {
        let day_ms = 86_400_000;
        let check = |days: u64, expect: &[&str]| {
            let mut status = ClusterStatus { server_time_ms: 100 * day_ms, ..healthy() };
            let expires = Some(UNIX_EPOCH + Duration::from_millis((100 + days) * day_ms - 1));
            status.data_nodes.iter_mut().for_each(|node| node.certificate_expires = None);
            status.meta_servers[0].certificate_expires = expires;
            assert_eq!(codes(&status), expect, "{days}");
            status.meta_servers[0].certificate_expires = None;
            status.data_nodes[0].certificate_expires = expires;
            assert_eq!(codes(&status), expect, "{days}");
            status.data_nodes[0].certificate_expires = None;
            status.edges.push(Edge {
                address: "e:1".into(),
                node_ids: vec![1, 2],
                xdp_mode: "off".into(),
                xdp_reason: "not asked for".into(),
                replies: "relay".into(),
                packets: Default::default(),
                rejects: Default::default(),
                last_heard_age: Default::default(),
                certificate_expires: expires,
            });
            assert_eq!(codes(&status), expect, "{days}");
            let said = warnings(&status).pop().map(|warning| warning.what);
            assert!(said.is_none_or(|said| said.contains("29 days") || said.contains("has ended")));
        };
        check(31, &[]);
        check(30, &["certificate_ends"]);
        check(0, &["certificate_ends"]);
    }

    #[test]
    fn server_that_does_not_lead_complains_of_nothing_that_it_can_not_know() {
        let mut status = ClusterStatus { server_id: 1, commit_index: 20_000, ..healthy() };
        for node in &mut status.data_nodes {
            node.state = DataNodeState::Unknown;
        }
        assert_eq!(codes(&status), [""; 0]);
    }

    #[test]
    fn how_many_servers_may_still_fail_is_said() {
        let mut status = healthy();
        let server = |id| MetaServer { id, role: MetaRole::Follower, ..status.meta_servers[1].clone() };
        status.meta_servers = (1..=5).map(server).collect();
        status.meta_servers[0].role = MetaRole::Unreachable;
        assert!(warnings(&status)[0].what.ends_with("1 more may fail"));
        status.meta_servers[1].role = MetaRole::Unreachable;
        assert!(warnings(&status)[0].what.contains("if one more fails, nothing can be put"));
    }
}

//! Answers as JSON, around the records that the command line prints, too. Names are a promise to scripts.

use serde::Serialize;
use xdpfs_client::record::{BucketRecord, ObjectRecord};

use crate::history::Sample;

/// What went wrong.
#[derive(Debug, Serialize)]
pub(crate) struct ErrorRecord<'a> {
    pub(crate) error: ErrorBody<'a>,
}

#[derive(Debug, Serialize)]
pub(crate) struct ErrorBody<'a> {
    pub(crate) kind: &'a str,
    pub(crate) message: &'a str,
}

/// Some buckets.
#[derive(Debug, Serialize)]
pub(crate) struct BucketsRecord<'a> {
    pub(crate) buckets: Vec<BucketRecord<'a>>,
    /// The page that follows. Null: this was the last.
    pub(crate) next: Option<&'a str>,
}

/// Some objects, and groups of such.
#[derive(Debug, Serialize)]
pub(crate) struct ObjectsRecord<'a> {
    pub(crate) objects: Vec<ObjectRecord<'a>>,
    pub(crate) prefixes: &'a [String],
    pub(crate) next: Option<&'a str>,
}

/// What was measured.
#[derive(Debug, Serialize)]
pub(crate) struct HistoryRecord {
    /// How far it goes back at most.
    pub(crate) kept_ms: u64,
    pub(crate) samples: Vec<Sample>,
}

#[cfg(test)]
pub(crate) mod tests {
    use std::{collections::BTreeMap, time::Duration};

    use xdpfs_client::{
        ClusterStatus, DataNode, DataNodeState, Edge, MetaRole, MetaServer, record::StatusRecord,
    };

    pub(crate) fn node(id: u32) -> DataNode {
        DataNode {
            id,
            epoch: 1,
            address: format!("n{id}:1"),
            direct_address: format!("n{id}:1"),
            state: DataNodeState::Alive,
            capacity_bytes: 3 << 20,
            used_bytes: 1 << 20,
            free_bytes: 2 << 20,
            chunks: 5,
            rejects: BTreeMap::new(),
            failure_domain: format!("rack-{id}"),
            last_heartbeat_age: Duration::from_millis(4321),
            xdp_mode: "generic".into(),
            xdp_reason: "native: the driver can't".into(),
            xdp_packets: [("local".to_owned(), 9)].into(),
            written_bytes: 11,
            read_bytes: 12,
            labels: Vec::new(),
            version: "1.2.3".into(),
            registered: None,
            certificate_expires: None,
            scrub: None,
            scrub_ordered: false,
            draining: false,
            removed: false,
            storage_doubts: Vec::new(),
            disks: Vec::new(),
        }
    }

    /// A leader, a node and an edge.
    pub(crate) fn status() -> ClusterStatus {
        let edge = Edge {
            address: "n7:1".into(),
            node_ids: vec![7],
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
            meta_servers: vec![MetaServer {
                id: 1,
                endpoint: "m1:1".into(),
                role: MetaRole::Leader,
                matched_index: 9,
                certificate_expires: None,
                version: "1.2.3".into(),
                feature_level: None,
            }],
            data_nodes: vec![node(7)],
            edges: vec![edge],
            server_id: 1,
            leader_id: Some(1),
            commit_index: 9,
            ..ClusterStatus::default()
        }
    }

    #[test]
    fn status_has_the_names_of_the_command_line() {
        let text = serde_json::to_string(&StatusRecord::from(&status())).unwrap();
        for part in [
            r#""cluster_id":"c","leader_id":1"#,
            r#""answered_by":1"#,
            r#""meta_servers":[{"id":1,"endpoint":"m1:1","role":"leader","matched_index":9,"certificate_expires":null,"version":"1.2.3","feature_level":null}]"#,
            r#""last_heartbeat_age_ms":4321"#,
            r#""packets":{"routed":9},"rejects":{"wrong_node":2},"last_heard_age_ms":123,"certificate_expires":null"#,
            r#""warnings":[{"code":"too_few_failure_domains""#,
            r#""requests":null"#,
        ] {
            assert!(text.contains(part), "{part} is missing in {text}");
        }
    }
}

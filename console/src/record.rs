//! Answers as JSON. Names are those of `xdpfs-cli --json`, and a promise to scripts like them; a test of the testbed
//! holds both against each other.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use serde::Serialize;
use xdpfs_client::{
    Bucket, ClusterStatus, DataNode, Edge, MetaServer, Object, RequestCounts, Warning, warnings,
};

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

#[derive(Debug, Serialize)]
pub(crate) struct BucketRecord<'a> {
    bucket: &'a str,
    chunk_size: u32,
    replicas: u32,
    min_replicas: u32,
    created: String,
    objects: u64,
    bytes: u64,
}

/// Some objects, and groups of such.
#[derive(Debug, Serialize)]
pub(crate) struct ObjectsRecord<'a> {
    pub(crate) objects: Vec<ObjectRecord<'a>>,
    pub(crate) prefixes: &'a [String],
    pub(crate) next: Option<&'a str>,
}

#[derive(Debug, Serialize)]
pub(crate) struct ObjectRecord<'a> {
    bucket: &'a str,
    key: &'a str,
    size: u64,
    etag: &'a str,
    version: u64,
    crc32c: String,
    durable_replicas: u32,
    created: String,
    content_type: &'a str,
    metadata: &'a BTreeMap<String, String>,
}

/// What was measured.
#[derive(Debug, Serialize)]
pub(crate) struct HistoryRecord {
    /// How far it goes back at most.
    pub(crate) kept_ms: u64,
    pub(crate) samples: Vec<Sample>,
}

/// The cluster.
#[derive(Debug, Serialize)]
pub(crate) struct StatusRecord<'a> {
    cluster_id: &'a str,
    leader_id: Option<u64>,
    term: u64,
    commit_index: u64,
    applied_index: u64,
    buckets: u64,
    objects: u64,
    bytes: u64,
    open_uploads: u64,
    replica_debt: u64,
    pending_deletes: u64,
    answered_by: u64,
    meta_servers: Vec<MetaServerRecord<'a>>,
    data_nodes: Vec<DataNodeRecord<'a>>,
    edges: Vec<EdgeRecord<'a>>,
    warnings: Vec<WarningRecord>,
    /// Null: the server that answered doesn't say.
    requests: Option<RequestsRecord>,
}

#[derive(Debug, Serialize)]
struct RequestsRecord {
    ended: u64,
    failed: u64,
}

#[derive(Debug, Serialize)]
struct WarningRecord {
    code: &'static str,
    what: String,
    action: String,
}

#[derive(Debug, Serialize)]
struct MetaServerRecord<'a> {
    id: u64,
    endpoint: &'a str,
    role: &'static str,
    matched_index: u64,
}

#[derive(Debug, Serialize)]
struct DataNodeRecord<'a> {
    id: u32,
    epoch: u32,
    address: &'a str,
    state: &'static str,
    capacity_bytes: u64,
    used_bytes: u64,
    free_bytes: u64,
    chunks: u64,
    rejects: &'a BTreeMap<String, u64>,
    failure_domain: &'a str,
    last_heartbeat_age_ms: u64,
    xdp_mode: &'a str,
    xdp_reason: &'a str,
    xdp_packets: &'a BTreeMap<String, u64>,
    direct_address: &'a str,
    written_bytes: u64,
    read_bytes: u64,
}

#[derive(Debug, Serialize)]
struct EdgeRecord<'a> {
    address: &'a str,
    node_ids: &'a [u32],
    xdp_mode: &'a str,
    xdp_reason: &'a str,
    replies: &'a str,
    packets: &'a BTreeMap<String, u64>,
    rejects: &'a BTreeMap<String, u64>,
    last_heard_age_ms: u64,
}

/// RFC 3339 in UTC with milliseconds.
pub(crate) fn timestamp(time: SystemTime) -> String {
    humantime::format_rfc3339_millis(time).to_string()
}

impl<'a> From<&'a Bucket> for BucketRecord<'a> {
    fn from(bucket: &'a Bucket) -> Self {
        Self {
            bucket: &bucket.name,
            chunk_size: bucket.chunk_size,
            replicas: bucket.replicas,
            min_replicas: bucket.min_replicas,
            created: timestamp(bucket.created),
            objects: bucket.objects,
            bytes: bucket.bytes,
        }
    }
}

impl<'a> From<&'a Object> for ObjectRecord<'a> {
    fn from(object: &'a Object) -> Self {
        Self {
            bucket: &object.bucket,
            key: &object.key,
            size: object.size,
            etag: &object.etag,
            version: object.version,
            crc32c: format!("{:08x}", object.crc32c),
            durable_replicas: object.durable_replicas,
            created: timestamp(object.created),
            content_type: &object.content_type,
            metadata: &object.user_metadata,
        }
    }
}

impl<'a> From<&'a ClusterStatus> for StatusRecord<'a> {
    fn from(status: &'a ClusterStatus) -> Self {
        Self {
            cluster_id: &status.cluster_id,
            leader_id: status.leader_id,
            term: status.term,
            commit_index: status.commit_index,
            applied_index: status.applied_index,
            buckets: status.buckets,
            objects: status.objects,
            bytes: status.bytes,
            open_uploads: status.open_uploads,
            replica_debt: status.replica_debt,
            pending_deletes: status.pending_deletes,
            answered_by: status.server_id,
            meta_servers: status.meta_servers.iter().map(MetaServerRecord::from).collect(),
            data_nodes: status.data_nodes.iter().map(DataNodeRecord::from).collect(),
            edges: status.edges.iter().map(EdgeRecord::from).collect(),
            warnings: warnings(status).into_iter().map(WarningRecord::from).collect(),
            requests: status.requests.as_ref().map(RequestsRecord::from),
        }
    }
}

impl From<&RequestCounts> for RequestsRecord {
    fn from(counts: &RequestCounts) -> Self {
        let ended = counts.took.iter().fold(0, |sum: u64, count| sum.saturating_add(*count));
        Self { ended, failed: counts.failed }
    }
}

impl From<Warning> for WarningRecord {
    fn from(Warning { code, what, action }: Warning) -> Self {
        Self { code, what, action }
    }
}

impl<'a> From<&'a MetaServer> for MetaServerRecord<'a> {
    fn from(server: &'a MetaServer) -> Self {
        Self {
            id: server.id,
            endpoint: &server.endpoint,
            role: server.role.label(),
            matched_index: server.matched_index,
        }
    }
}

impl<'a> From<&'a DataNode> for DataNodeRecord<'a> {
    fn from(node: &'a DataNode) -> Self {
        Self {
            id: node.id,
            epoch: node.epoch,
            address: &node.address,
            state: node.state.label(),
            capacity_bytes: node.capacity_bytes,
            used_bytes: node.used_bytes,
            free_bytes: node.free_bytes,
            chunks: node.chunks,
            rejects: &node.rejects,
            failure_domain: &node.failure_domain,
            last_heartbeat_age_ms: milliseconds(node.last_heartbeat_age),
            xdp_mode: &node.xdp_mode,
            xdp_reason: &node.xdp_reason,
            xdp_packets: &node.xdp_packets,
            direct_address: &node.direct_address,
            written_bytes: node.written_bytes,
            read_bytes: node.read_bytes,
        }
    }
}

impl<'a> From<&'a Edge> for EdgeRecord<'a> {
    fn from(edge: &'a Edge) -> Self {
        Self {
            address: &edge.address,
            node_ids: &edge.node_ids,
            xdp_mode: &edge.xdp_mode,
            xdp_reason: &edge.xdp_reason,
            replies: &edge.replies,
            packets: &edge.packets,
            rejects: &edge.rejects,
            last_heard_age_ms: milliseconds(edge.last_heard_age),
        }
    }
}

pub(crate) fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
pub(crate) mod tests {
    use xdpfs_client::{DataNodeState, MetaRole};

    use super::*;

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
            r#""meta_servers":[{"id":1,"endpoint":"m1:1","role":"leader","matched_index":9}]"#,
            r#""last_heartbeat_age_ms":4321"#,
            r#""packets":{"routed":9},"rejects":{"wrong_node":2},"last_heard_age_ms":123"#,
            r#""warnings":[{"code":"too_few_failure_domains""#,
            r#""requests":null"#,
        ] {
            assert!(text.contains(part), "{part} is missing in {text}");
        }
    }
}

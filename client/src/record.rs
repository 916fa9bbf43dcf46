//! What the cluster says, as JSON: one struct for each kind of line, for all who print such. Field names are a promise to
//! scripts; fields are only ever added.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use serde::Serialize;

use crate::{
    Bucket, ClusterStatus, DataNode, Edge, LeavingNode, MetaServer, NodeDisk, NodeLabel, NodeScrub,
    NodeShare, Object, PlannedNode, RebalancePlan, RebalanceStatus, RepairStatus, RequestCounts, ScrubPass,
    Warning, warnings,
};

/// An object.
#[derive(Debug, Serialize)]
pub struct ObjectRecord<'a> {
    bucket: &'a str,
    key: &'a str,
    size: u64,
    etag: &'a str,
    version: u64,
    /// Eight hexadecimal digits.
    crc32c: String,
    durable_replicas: u32,
    created: String,
    content_type: &'a str,
    metadata: &'a BTreeMap<String, String>,
}

/// A bucket.
#[derive(Debug, Serialize)]
pub struct BucketRecord<'a> {
    bucket: &'a str,
    chunk_size: u32,
    replicas: u32,
    min_replicas: u32,
    created: String,
    objects: u64,
    bytes: u64,
    /// Null: no bound.
    quota_bytes: Option<u64>,
    quota_objects: Option<u64>,
    versioning: &'static str,
    older_versions: u64,
    older_bytes: u64,
    delete_markers: u64,
}

/// The cluster.
#[derive(Debug, Serialize)]
pub struct StatusRecord<'a> {
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
    feature_level: u32,
    /// Null: the server that answered doesn't lead, or is of an earlier release.
    repair: Option<RepairRecord>,
    /// Null: the server that answered doesn't lead, or is of an earlier release.
    rebalance: Option<RebalanceRecord>,
}

/// How evenly full data nodes are, and how far their rebalancing is.
#[derive(Debug, Serialize)]
pub struct RebalanceRecord {
    state: &'static str,
    reason: String,
    bytes_left: u64,
    in_progress: u64,
    chunks_moved: u64,
    bytes_moved: u64,
    moves_failed: u64,
    bytes_per_second: u64,
    /// Null: nobody can know.
    seconds_left: Option<u64>,
    nodes: Vec<NodeShareRecord>,
}

#[derive(Debug, Serialize)]
struct NodeShareRecord {
    node: u32,
    bytes: u64,
    share_bytes: u64,
    room_bytes: u64,
}

/// What rebalancing would move.
#[derive(Debug, Serialize)]
pub struct RebalancePlanRecord {
    uneven: bool,
    chunks: u64,
    bytes: u64,
    least_bytes: u64,
    seconds: u64,
    bytes_per_second: u64,
    nodes: Vec<PlannedNodeRecord>,
}

#[derive(Debug, Serialize)]
struct PlannedNodeRecord {
    #[serde(flatten)]
    share: NodeShareRecord,
    bytes_in: u64,
    bytes_out: u64,
}

impl From<&NodeShare> for NodeShareRecord {
    fn from(share: &NodeShare) -> Self {
        let NodeShare { node, bytes, share_bytes, room_bytes } = *share;
        Self { node, bytes, share_bytes, room_bytes }
    }
}

impl From<&RebalanceStatus> for RebalanceRecord {
    fn from(status: &RebalanceStatus) -> Self {
        Self {
            state: status.state.label(),
            reason: status.reason.clone(),
            bytes_left: status.bytes_left,
            in_progress: status.in_progress,
            chunks_moved: status.chunks_moved,
            bytes_moved: status.bytes_moved,
            moves_failed: status.moves_failed,
            bytes_per_second: status.bytes_per_second,
            seconds_left: status.time_left.map(|left| left.as_secs()),
            nodes: status.nodes.iter().map(NodeShareRecord::from).collect(),
        }
    }
}

impl From<&RebalancePlan> for RebalancePlanRecord {
    fn from(plan: &RebalancePlan) -> Self {
        let node = |node: &PlannedNode| PlannedNodeRecord {
            share: NodeShareRecord::from(&node.share),
            bytes_in: node.bytes_in,
            bytes_out: node.bytes_out,
        };
        Self {
            uneven: plan.uneven,
            chunks: plan.chunks,
            bytes: plan.bytes,
            least_bytes: plan.least_bytes,
            seconds: plan.time.as_secs(),
            bytes_per_second: plan.bytes_per_second,
            nodes: plan.nodes.iter().map(node).collect(),
        }
    }
}

/// What lacks replicas, and how its repair is.
#[derive(Debug, Serialize)]
pub struct RepairRecord {
    /// Nothing is left to do.
    whole: bool,
    reason: String,
    /// False: the numbers are not whole yet.
    complete: bool,
    chunks_by_live_replicas: BTreeMap<u32, u64>,
    bytes_left: u64,
    in_progress: u64,
    chunks_repaired: u64,
    bytes_repaired: u64,
    replicas_cleared: u64,
    bytes_per_second: u64,
    /// Null: nobody can know.
    seconds_left: Option<u64>,
    without_place: u64,
    out_of_reach: u64,
    out_of_reach_sample: Vec<String>,
    leaving: Vec<LeavingRecord>,
}

#[derive(Debug, Serialize)]
struct LeavingRecord {
    node: u32,
    why: &'static str,
    replicas: u64,
}

impl From<&RepairStatus> for RepairRecord {
    fn from(status: &RepairStatus) -> Self {
        let leaving = |node: &LeavingNode| LeavingRecord {
            node: node.node,
            why: node.why.label(),
            replicas: node.replicas,
        };
        Self {
            whole: status.is_whole(),
            reason: status.reason.clone(),
            complete: status.complete,
            chunks_by_live_replicas: status.chunks_by_live_replicas.clone(),
            bytes_left: status.bytes_left,
            in_progress: status.in_progress,
            chunks_repaired: status.chunks_repaired,
            bytes_repaired: status.bytes_repaired,
            replicas_cleared: status.replicas_cleared,
            bytes_per_second: status.bytes_per_second,
            seconds_left: status.time_left.map(|left| left.as_secs()),
            without_place: status.without_place,
            out_of_reach: status.out_of_reach,
            out_of_reach_sample: status.out_of_reach_sample.clone(),
            leaving: status.leaving.iter().map(leaving).collect(),
        }
    }
}

/// Requests of the server that answered, since its start.
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
    /// Null: the server that answered doesn't know.
    certificate_expires: Option<String>,
    version: &'a str,
    /// Null: the server that answered doesn't know.
    feature_level: Option<u32>,
}

/// A data node.
#[derive(Debug, Serialize)]
pub struct DataNodeRecord<'a> {
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
    labels: BTreeMap<&'a str, &'a str>,
    version: &'a str,
    /// Null: it was not noted.
    registered: Option<String>,
    certificate_expires: Option<String>,
    /// Null: it has none, or has yet to say.
    scrub: Option<ScrubRecord>,
    /// It has yet to hear what an operator wants of its scrub.
    scrub_ordered: bool,
    draining: bool,
    removed: bool,
    storage_doubts: &'a [String],
    disks: Vec<DiskRecord<'a>>,
}

/// One of a data node's disks.
#[derive(Debug, Serialize)]
struct DiskRecord<'a> {
    disk: &'a str,
    /// `healthy` or `failed`.
    state: &'static str,
    /// Null: it is healthy.
    reason: Option<&'a str>,
    capacity_bytes: u64,
    used_bytes: u64,
    free_bytes: u64,
    chunks: u64,
}

/// A data node's scrub.
#[derive(Debug, Serialize)]
pub struct ScrubRecord {
    state: &'static str,
    percent: u32,
    /// Null: none is under way.
    pass: Option<ScrubPassRecord>,
    /// Null: none has ended.
    last_pass: Option<ScrubPassRecord>,
    /// Null: none is due.
    next_pass: Option<String>,
    bytes_per_second: u64,
}

#[derive(Debug, Serialize)]
struct ScrubPassRecord {
    began: Option<String>,
    ended: Option<String>,
    bytes: u64,
    chunks: u64,
    damaged_chunks: u64,
    damaged_places: u64,
    read_errors: u64,
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
    certificate_expires: Option<String>,
}

/// RFC 3339 in UTC with milliseconds.
#[must_use]
pub fn timestamp(time: SystemTime) -> String {
    humantime::format_rfc3339_millis(time).to_string()
}

/// A checksum as everybody writes it.
#[must_use]
pub fn checksum(crc32c: u32) -> String {
    format!("{crc32c:08x}")
}

impl<'a> From<&'a Object> for ObjectRecord<'a> {
    fn from(object: &'a Object) -> Self {
        Self {
            bucket: &object.bucket,
            key: &object.key,
            size: object.size,
            etag: &object.etag,
            version: object.version,
            crc32c: checksum(object.crc32c),
            durable_replicas: object.durable_replicas,
            created: timestamp(object.created),
            content_type: &object.content_type,
            metadata: &object.user_metadata,
        }
    }
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
            quota_bytes: bucket.quota_bytes,
            quota_objects: bucket.quota_objects,
            versioning: bucket.versioning.label(),
            older_versions: bucket.older_versions,
            older_bytes: bucket.older_bytes,
            delete_markers: bucket.delete_markers,
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
            feature_level: status.feature_level,
            repair: status.repair.as_ref().map(RepairRecord::from),
            rebalance: status.rebalance.as_ref().map(RebalanceRecord::from),
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
            certificate_expires: server.certificate_expires.map(timestamp),
            version: &server.version,
            feature_level: server.feature_level,
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
            labels: labels_by_key(&node.labels),
            version: &node.version,
            registered: node.registered.map(timestamp),
            certificate_expires: node.certificate_expires.map(timestamp),
            scrub: node.scrub.map(ScrubRecord::from),
            scrub_ordered: node.scrub_ordered,
            draining: node.draining,
            removed: node.removed,
            storage_doubts: &node.storage_doubts,
            disks: node.disks.iter().map(DiskRecord::from).collect(),
        }
    }
}

impl<'a> From<&'a NodeDisk> for DiskRecord<'a> {
    fn from(disk: &'a NodeDisk) -> Self {
        Self {
            disk: &disk.disk,
            state: if disk.failure.is_some() { "failed" } else { "healthy" },
            reason: disk.failure.as_deref(),
            capacity_bytes: disk.capacity_bytes,
            used_bytes: disk.used_bytes,
            free_bytes: disk.free_bytes,
            chunks: disk.chunks,
        }
    }
}

impl From<NodeScrub> for ScrubRecord {
    fn from(scrub: NodeScrub) -> Self {
        Self {
            state: scrub.state.label(),
            percent: scrub.percent,
            pass: scrub.pass.map(ScrubPassRecord::from),
            last_pass: scrub.last_pass.map(ScrubPassRecord::from),
            next_pass: scrub.next_pass.map(timestamp),
            bytes_per_second: scrub.bytes_per_second,
        }
    }
}

impl From<ScrubPass> for ScrubPassRecord {
    fn from(pass: ScrubPass) -> Self {
        let ScrubPass { bytes, chunks, damaged_chunks, damaged_places, read_errors, .. } = pass;
        Self {
            began: pass.began.map(timestamp),
            ended: pass.ended.map(timestamp),
            bytes,
            chunks,
            damaged_chunks,
            damaged_places,
            read_errors,
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
            certificate_expires: edge.certificate_expires.map(timestamp),
        }
    }
}

/// The values of labels by their keys.
#[must_use]
pub fn labels_by_key(labels: &[NodeLabel]) -> BTreeMap<&str, &str> {
    labels.iter().map(|label| (label.key.as_str(), label.value.as_str())).collect()
}

/// Whole milliseconds.
#[must_use]
pub fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

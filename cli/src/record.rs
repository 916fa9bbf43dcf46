//! Results as JSON: one struct for each kind of line. Field names are a promise to scripts.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use serde::Serialize;
use xdpfs_client::{
    AccessKeyInfo, Bucket, ChunkPlacement, ClusterStatus, DataNode, Edge, Grant, MetaServer, NodeLabel,
    Object, PutResult, Rotation, Warning, warnings,
};

use crate::{address::Address, failure::Failure};

/// A line on standard error.
#[derive(Debug, Serialize)]
pub(crate) struct ErrorRecord<'a> {
    error: ErrorBody<'a>,
}

#[derive(Debug, Serialize)]
struct ErrorBody<'a> {
    kind: &'static str,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bucket: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
}

/// Whether a server serves.
#[derive(Debug, Serialize)]
pub(crate) struct HealthRecord<'a> {
    pub(crate) server: &'a str,
    pub(crate) service: &'a str,
    pub(crate) serving: bool,
}

/// A member's certificate.
#[derive(Debug, Serialize)]
pub(crate) struct CertificateRecord<'a> {
    pub(crate) member: &'a str,
    pub(crate) directory: &'a str,
    pub(crate) hosts: &'a [String],
    pub(crate) until: &'a str,
    pub(crate) made: bool,
}

/// An object.
#[derive(Debug, Serialize)]
pub(crate) struct ObjectRecord<'a> {
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

/// An object that was put.
#[derive(Debug, Serialize)]
pub(crate) struct PutRecord<'a> {
    #[serde(flatten)]
    object: ObjectRecord<'a>,
    chunks_in_debt: u32,
    source: &'a str,
}

/// An object, or a part of one, that was got.
#[derive(Debug, Serialize)]
pub(crate) struct GetRecord<'a> {
    #[serde(flatten)]
    object: ObjectRecord<'a>,
    /// Bytes written, which are fewer than `size` for a range.
    pub(crate) bytes: u64,
    pub(crate) target: &'a str,
}

/// An object and where its chunks lie.
#[derive(Debug, Serialize)]
pub(crate) struct StatRecord<'a> {
    #[serde(flatten)]
    object: ObjectRecord<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    chunks: Option<Vec<ChunkRecord>>,
}

/// Where one chunk lies.
#[derive(Debug, Serialize)]
pub(crate) struct ChunkRecord {
    offset: u64,
    length: u32,
    chunk: String,
    crc32c: String,
    nodes: Vec<String>,
}

/// An object that was removed.
#[derive(Debug, Serialize)]
pub(crate) struct RemovedRecord<'a> {
    #[serde(flatten)]
    object: ObjectRecord<'a>,
    removed: bool,
}

/// An object that was copied.
#[derive(Debug, Serialize)]
pub(crate) struct CopiedRecord<'a> {
    #[serde(flatten)]
    object: ObjectRecord<'a>,
    source: String,
    /// Bytes that went through this machine.
    bytes_moved: u64,
    copied: bool,
}

/// An object that was moved.
#[derive(Debug, Serialize)]
pub(crate) struct MovedRecord<'a> {
    #[serde(flatten)]
    object: ObjectRecord<'a>,
    source: String,
    /// Bytes that went through this machine.
    bytes_moved: u64,
    moved: bool,
}

/// Keys that go on behind a slash.
#[derive(Debug, Serialize)]
pub(crate) struct GroupRecord<'a> {
    pub(crate) bucket: &'a str,
    pub(crate) prefix: &'a str,
}

/// A bucket.
#[derive(Debug, Serialize)]
pub(crate) struct BucketRecord<'a> {
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
}

/// A bucket that was removed.
#[derive(Debug, Serialize)]
pub(crate) struct RemovedBucketRecord<'a> {
    pub(crate) bucket: &'a str,
    pub(crate) removed: bool,
    pub(crate) objects_removed: u64,
}

/// An access key, without its secret.
#[derive(Debug, Serialize)]
pub(crate) struct AccessKeyRecord<'a> {
    id: String,
    grants: Vec<GrantRecord<'a>>,
    label: &'a str,
    created: String,
    /// Null: it is good.
    revoked: Option<String>,
}

/// Rights on some buckets.
#[derive(Debug, Serialize)]
struct GrantRecord<'a> {
    buckets: &'a str,
    rights: Vec<&'static str>,
}

/// An access key that was just made: the only place where its secret is shown, so no `Debug`.
#[derive(Serialize)]
pub(crate) struct NewAccessKeyRecord<'a> {
    pub(crate) id: &'a str,
    /// `ID.SECRET`
    pub(crate) access_key: &'a str,
    /// None of a root key, which no cluster knows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) key: Option<AccessKeyRecord<'a>>,
}

/// A key epoch that has ended those before.
#[derive(Debug, Serialize)]
pub(crate) struct RotationRecord {
    key_epoch: u32,
    obeyed_within_ms: u64,
}

/// How much there is.
#[derive(Debug, Serialize)]
pub(crate) struct UsageRecord<'a> {
    pub(crate) bucket: &'a str,
    pub(crate) prefix: &'a str,
    pub(crate) objects: u64,
    pub(crate) bytes: u64,
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
}

#[derive(Debug, Serialize)]
struct WarningRecord {
    code: &'static str,
    what: String,
    action: String,
}

impl From<Warning> for WarningRecord {
    fn from(Warning { code, what, action }: Warning) -> Self {
        Self { code, what, action }
    }
}

#[derive(Debug, Serialize)]
struct MetaServerRecord<'a> {
    id: u64,
    endpoint: &'a str,
    role: &'static str,
    matched_index: u64,
    /// Null: the server that answered doesn't know.
    certificate_expires: Option<String>,
}

/// A data node.
#[derive(Debug, Serialize)]
pub(crate) struct DataNodeRecord<'a> {
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
pub(crate) fn timestamp(time: SystemTime) -> String {
    humantime::format_rfc3339_millis(time).to_string()
}

/// A checksum as everybody writes it.
pub(crate) fn checksum(crc32c: u32) -> String {
    format!("{crc32c:08x}")
}

impl<'a> From<&'a Failure> for ErrorRecord<'a> {
    fn from(failure: &'a Failure) -> Self {
        let address = failure.address.as_ref();
        Self {
            error: ErrorBody {
                kind: failure.kind,
                message: &failure.message,
                hint: failure.hint.as_deref(),
                bucket: address.map(|address| address.bucket.as_str()),
                key: address.map(|address| address.key.as_str()).filter(|key| !key.is_empty()),
            },
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
            crc32c: checksum(object.crc32c),
            durable_replicas: object.durable_replicas,
            created: timestamp(object.created),
            content_type: &object.content_type,
            metadata: &object.user_metadata,
        }
    }
}

impl<'a> PutRecord<'a> {
    pub(crate) fn new(put: &'a PutResult, source: &'a str) -> Self {
        Self { object: (&put.object).into(), chunks_in_debt: put.chunks_in_debt, source }
    }
}

impl<'a> GetRecord<'a> {
    pub(crate) fn new(object: &'a Object, bytes: u64, target: &'a str) -> Self {
        Self { object: object.into(), bytes, target }
    }
}

impl<'a> StatRecord<'a> {
    pub(crate) fn new(object: &'a Object, chunks: Option<&[ChunkPlacement]>) -> Self {
        let chunks = chunks.map(|chunks| chunks.iter().map(ChunkRecord::from).collect());
        Self { object: object.into(), chunks }
    }
}

impl From<&ChunkPlacement> for ChunkRecord {
    fn from(chunk: &ChunkPlacement) -> Self {
        Self {
            offset: chunk.offset,
            length: chunk.length,
            chunk: chunk.chunk.to_string(),
            crc32c: checksum(chunk.crc32c),
            nodes: chunk.nodes.iter().map(ToString::to_string).collect(),
        }
    }
}

impl<'a> From<&'a Object> for RemovedRecord<'a> {
    fn from(object: &'a Object) -> Self {
        Self { object: object.into(), removed: true }
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
        }
    }
}

impl<'a> From<&'a AccessKeyInfo> for AccessKeyRecord<'a> {
    fn from(key: &'a AccessKeyInfo) -> Self {
        let grant = |grant: &'a Grant| GrantRecord {
            buckets: &grant.buckets,
            rights: grant.rights.iter().map(|right| right.label()).collect(),
        };
        Self {
            id: key.id.to_string(),
            grants: key.grants.iter().map(grant).collect(),
            label: &key.label,
            created: timestamp(key.created),
            revoked: key.revoked.map(timestamp),
        }
    }
}

impl From<&Rotation> for RotationRecord {
    fn from(rotation: &Rotation) -> Self {
        Self { key_epoch: rotation.key_epoch, obeyed_within_ms: milliseconds(rotation.obeyed_within) }
    }
}

impl<'a> CopiedRecord<'a> {
    pub(crate) fn new(object: &'a Object, source: &Address, bytes_moved: u64) -> Self {
        Self { object: object.into(), source: source.to_string(), bytes_moved, copied: true }
    }
}

impl<'a> MovedRecord<'a> {
    pub(crate) fn new(object: &'a Object, source: &Address, bytes_moved: u64) -> Self {
        Self { object: object.into(), source: source.to_string(), bytes_moved, moved: true }
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
        }
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
pub(crate) fn labels_by_key(labels: &[NodeLabel]) -> BTreeMap<&str, &str> {
    labels.iter().map(|label| (label.key.as_str(), label.value.as_str())).collect()
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

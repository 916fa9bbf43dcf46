//! Results as JSON: one struct for each kind of line. Field names are a promise to scripts. Those that
//! the status page answers with, too, are the SDK's.

use serde::Serialize;
pub(crate) use xdpfs_client::record::{
    BucketRecord, DataNodeRecord, ObjectRecord, RebalancePlanRecord, RebalanceRecord, RepairRecord,
    ScrubRecord, StatusRecord, checksum, labels_by_key, timestamp,
};
use xdpfs_client::{
    AccessKeyInfo, ChunkPlacement, CopyWay, Deleted, Grant, Object, ObjectVersion, PutResult, Rotation,
    record::milliseconds,
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
    /// The version of the delete marker that hides it: it is kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    delete_marker: Option<u64>,
    /// What was removed is a delete marker.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    was_delete_marker: bool,
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
    /// Who moved the bytes: `client`, `nodes`, or nobody, if they are `shared`.
    by: &'static str,
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
    /// Who moved the bytes: `client`, `nodes`, or nobody, if they are `shared`.
    by: &'static str,
}

/// Keys that go on behind a slash.
#[derive(Debug, Serialize)]
pub(crate) struct GroupRecord<'a> {
    pub(crate) bucket: &'a str,
    pub(crate) prefix: &'a str,
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
    /// Visible ones.
    pub(crate) objects: u64,
    pub(crate) bytes: u64,
    pub(crate) older_versions: u64,
    pub(crate) older_bytes: u64,
}

/// A version of an object, or a delete marker.
#[derive(Debug, Serialize)]
pub(crate) struct VersionRecord<'a> {
    #[serde(flatten)]
    object: ObjectRecord<'a>,
    latest: bool,
    delete_marker: bool,
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

impl<'a> From<&'a Deleted> for RemovedRecord<'a> {
    fn from(deleted: &'a Deleted) -> Self {
        Self {
            object: (&deleted.object).into(),
            removed: true,
            delete_marker: deleted.delete_marker,
            was_delete_marker: deleted.was_delete_marker,
        }
    }
}

impl<'a> From<&'a ObjectVersion> for VersionRecord<'a> {
    fn from(version: &'a ObjectVersion) -> Self {
        let ObjectVersion { object, latest, delete_marker } = version;
        Self { object: object.into(), latest: *latest, delete_marker: *delete_marker }
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
    pub(crate) fn new(object: &'a Object, source: &Address, bytes_moved: u64, way: CopyWay) -> Self {
        let (source, by) = (source.to_string(), way.label());
        Self { object: object.into(), source, bytes_moved, copied: true, by }
    }
}

impl<'a> MovedRecord<'a> {
    pub(crate) fn new(object: &'a Object, source: &Address, bytes_moved: u64, way: CopyWay) -> Self {
        let (source, by) = (source.to_string(), way.label());
        Self { object: object.into(), source, bytes_moved, moved: true, by }
    }
}

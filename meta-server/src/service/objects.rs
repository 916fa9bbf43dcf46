//! Objects as they are read and removed.

use std::collections::BTreeSet;

use xdpfs_proto::{
    meta::v1 as proto,
    state::v1::{self as pb, command, outcome},
};
use xdpfs_wire::NodeId;

use super::{
    Gateway, Refusal,
    buckets::bucket_not_found,
    capability::{self, Grantee},
    gateway::{Call, RequestId, no_randomness, reused_request_id},
    name::{self, ObjectName},
};
use crate::state_machine::{
    Bucket, Chunk, DeleteMarker, Etag, Object, Reason, State, check_precondition, chunk_id_bytes,
};

/// Chunks in one answer; a reader asks again for the rest of a larger object. It keeps an answer below what any gRPC
/// client takes by default.
const CHUNKS_PER_ANSWER_MAX: usize = 4096;
/// No etag is longer.
const ETAG_BYTES_MAX: usize = 64;

impl Gateway {
    pub(super) async fn get_object(
        &self,
        call: Call<proto::GetObjectRequest>,
    ) -> Result<proto::GetObjectResponse, Refusal> {
        let request = call.message;
        let name = ObjectName::parse(&request.name)?;
        let precondition = parse_precondition(request.precondition)?;
        let range = parse_range(request.range_start, request.range_end)?;
        let random = getrandom::u32().map_err(no_randomness)?;
        self.admit(call.deadline, &call.access).await?;
        let now_ms = self.now_ms();
        let state = self.state();
        // Not through another look at the state, in which the key may be revoked.
        self.check(&state, &call.access)?;
        let (bucket, object) = find(&state, &name, request.version, precondition.as_ref())?;
        let (chunks_offset, chunks) = overlapping(object, range);
        let grantee = Grantee::reader(random, bucket.id);
        let capability = capability::grant(state.key_epochs(), &self.config().times, now_ms, grantee)?;
        Ok(proto::GetObjectResponse {
            object: Some(held_to_proto(bucket, &name.key, object)),
            nodes: addresses(&state, chunks.iter().flat_map(|chunk| chunk.replicas.iter())),
            chunks: chunks.iter().map(chunk_to_proto).collect(),
            chunks_offset,
            capability: Some(capability),
        })
    }

    pub(super) async fn head_object(
        &self,
        call: Call<proto::HeadObjectRequest>,
    ) -> Result<proto::HeadObjectResponse, Refusal> {
        let name = ObjectName::parse(&call.message.name)?;
        let version = call.message.version;
        let precondition = parse_precondition(call.message.precondition)?;
        self.admit(call.deadline, &call.access).await?;
        let state = self.state();
        let (bucket, object) = find(&state, &name, version, precondition.as_ref())?;
        Ok(proto::HeadObjectResponse { object: Some(held_to_proto(bucket, &name.key, object)) })
    }

    pub(super) async fn delete_object(
        &self,
        call: Call<proto::DeleteObjectRequest>,
    ) -> Result<proto::DeleteObjectResponse, Refusal> {
        let request = call.message;
        let request_id = RequestId::parse(&request.request_id)?;
        let ObjectName { bucket, key } = ObjectName::parse(&request.name)?;
        let precondition = parse_precondition(request.precondition)?;
        let delete = pb::DeleteObject { bucket: bucket.clone(), key, precondition, version: request.version };
        match self
            .propose_for(&call.access, call.deadline, request_id, command::Kind::DeleteObject(delete))
            .await?
        {
            // No replica of it is kept any more.
            outcome::Kind::Deleted(object) => {
                let object = Some(head_to_proto(&bucket, object, 0));
                Ok(proto::DeleteObjectResponse { object, ..Default::default() })
            }
            outcome::Kind::VersionDeleted(deleted) => Ok(proto::DeleteObjectResponse {
                object: deleted
                    .object
                    .map(|object| removed_to_proto(&bucket, object, deleted.was_delete_marker)),
                delete_marker: deleted.delete_marker,
                was_delete_marker: deleted.was_delete_marker,
            }),
            _ => Err(reused_request_id()),
        }
    }
}

pub(super) fn find<'a>(
    state: &'a State,
    name: &ObjectName,
    version: u64,
    precondition: Option<&pb::Precondition>,
) -> Result<(&'a Bucket, &'a Object), Refusal> {
    let bucket = state.bucket(&name.bucket).ok_or_else(bucket_not_found)?;
    let (object, otherwise) = match version {
        0 => (state.object(bucket.id, &name.key), "no object of this name"),
        version => (
            state.version(bucket.id, &name.key.as_str().into(), version),
            "the key has no such version, or it is a delete marker",
        ),
    };
    let object = object.ok_or_else(|| Refusal::new(Reason::ObjectNotFound, otherwise))?;
    if !check_precondition(precondition, Some(object.etag())) {
        let failed = "the key does not hold what the precondition asks for";
        return Err(Refusal::new(Reason::PreconditionFailed, failed));
    }
    Ok((bucket, object))
}

/// First byte, and first byte behind the range; none is the end of the object.
type ByteRange = (u64, Option<u64>);

fn parse_range(start: u64, end: u64) -> Result<ByteRange, Refusal> {
    let end = Some(end).filter(|end| *end != 0);
    if end.is_some_and(|end| end <= start) {
        return Err(Refusal::invalid("range_end", "the range ends before it begins"));
    }
    Ok((start, end))
}

/// The chunks that overlap the range, up to as many as an answer holds, and where the first one begins.
fn overlapping(object: &Object, (start, end): ByteRange) -> (u64, &[Chunk]) {
    // All chunks but the last one have the length of the first one.
    let chunk_len = object.chunks.first().map_or(1, |chunk| u64::from(chunk.length).max(1));
    let end = end.unwrap_or(object.size).min(object.size);
    if start >= end {
        return (start.min(object.size), &[]);
    }
    let first = (start / chunk_len) as usize;
    let behind =
        (end.div_ceil(chunk_len) as usize).min(first + CHUNKS_PER_ANSWER_MAX).min(object.chunks.len());
    (first as u64 * chunk_len, object.chunks.get(first..behind).unwrap_or_default())
}

/// Where the nodes are reached, each once.
pub(super) fn addresses(state: &State, nodes: impl IntoIterator<Item = NodeId>) -> Vec<proto::NodeAddress> {
    let nodes: BTreeSet<NodeId> = nodes.into_iter().collect();
    let known = nodes.into_iter().filter_map(|node| state.node(node));
    known
        .map(|node| proto::NodeAddress {
            node_id: node.id.0.into(),
            node_epoch: node.wire_epoch().0.into(),
            address: node.address.clone(),
        })
        .collect()
}

pub(super) fn held_to_proto(bucket: &Bucket, key: &str, object: &Object) -> proto::Object {
    to_proto(&bucket.name, key, object, object.durable_replicas(bucket.replicas))
}

pub(super) fn to_proto(bucket: &str, key: &str, object: &Object, durable_replicas: u32) -> proto::Object {
    proto::Object {
        name: name::object_resource(bucket, key),
        version: object.version,
        etag: object.etag().to_string(),
        size: object.size,
        crc32c: object.crc32c,
        create_time_ms: object.create_time_ms,
        content_type: object.content_type.clone(),
        user_metadata: object.user_metadata.clone(),
        durable_replicas,
    }
}

pub(super) fn marker_to_proto(bucket: &str, key: &str, marker: DeleteMarker) -> proto::Object {
    proto::Object {
        name: name::object_resource(bucket, key),
        version: marker.version,
        create_time_ms: marker.create_time_ms,
        ..Default::default()
    }
}

/// From an answer of the state, which does not hold the chunks.
pub(super) fn head_to_proto(bucket: &str, object: pb::Object, durable_replicas: u32) -> proto::Object {
    let etag = Etag { version: object.version, crc32c: object.crc32c };
    proto::Object {
        name: name::object_resource(bucket, &object.key),
        version: object.version,
        etag: etag.to_string(),
        size: object.size,
        crc32c: object.crc32c,
        create_time_ms: object.create_time_ms,
        content_type: object.content_type,
        user_metadata: object.user_metadata,
        durable_replicas,
    }
}

/// What a delete has removed or hidden; a delete marker has no etag.
pub(super) fn removed_to_proto(bucket: &str, object: pb::Object, was_delete_marker: bool) -> proto::Object {
    let removed = head_to_proto(bucket, object, 0);
    if was_delete_marker { proto::Object { etag: String::new(), ..removed } } else { removed }
}

fn chunk_to_proto(chunk: &Chunk) -> proto::Chunk {
    proto::Chunk {
        chunk_id: chunk_id_bytes(chunk.id).to_vec(),
        length: chunk.length,
        crc32c: chunk.crc32c,
        node_ids: chunk.replicas.numbers(),
    }
}

pub(super) fn parse_precondition(
    precondition: Option<proto::Precondition>,
) -> Result<Option<pb::Precondition>, Refusal> {
    use proto::precondition::Kind;
    let checked = |etag: String| {
        let too_long = || Refusal::invalid("precondition", "it is longer than any etag");
        Some(etag).filter(|etag| etag.len() <= ETAG_BYTES_MAX).ok_or_else(too_long)
    };
    let kind = match precondition.and_then(|precondition| precondition.kind) {
        None => return Ok(None),
        Some(Kind::IfMatch(etag)) => pb::precondition::Kind::IfMatch(checked(etag)?),
        Some(Kind::IfNoneMatch(etag)) => pb::precondition::Kind::IfNoneMatch(checked(etag)?),
        Some(Kind::IfNoneMatchAny(true)) => pb::precondition::Kind::IfNoneMatchAny(true),
        Some(Kind::IfNoneMatchAny(false)) => {
            return Err(Refusal::invalid("precondition.if_none_match_any", "it must be true"));
        }
    };
    Ok(Some(pb::Precondition { kind: Some(kind) }))
}

#[cfg(test)]
mod tests {
    use xdpfs_wire::ChunkId;

    use super::*;
    use crate::state_machine::Replicas;

    /// An object of chunks of ten bytes.
    fn object(size: u64) -> Object {
        let chunk = |at: u64| Chunk {
            id: ChunkId(u128::from(at)),
            length: (size - at * 10).min(10) as u32,
            crc32c: 0,
            replicas: Replicas::default(),
        };
        Object {
            version: 1,
            size,
            crc32c: 0,
            create_time_ms: 0,
            content_type: String::new(),
            user_metadata: Default::default(),
            kept: false,
            chunks: (0..size.div_ceil(10)).map(chunk).collect(),
        }
    }

    #[test]
    fn chunks_that_overlap_the_range_are_found() {
        let check = |size, range, expect: (u64, &[u128])| {
            let object = object(size);
            let (offset, chunks) = overlapping(&object, range);
            let ids: Vec<_> = chunks.iter().map(|chunk| chunk.id.0).collect();
            assert_eq!((offset, &ids[..]), expect, "{range:?} of {size}");
        };
        check(25, (0, None), (0, &[0, 1, 2]));
        check(25, (9, Some(10)), (0, &[0]));
        check(25, (9, Some(11)), (0, &[0, 1]));
        check(25, (10, Some(20)), (10, &[1]));
        check(25, (24, None), (20, &[2]));
        check(25, (20, Some(1000)), (20, &[2]));
        check(25, (25, None), (25, &[]));
        check(25, (1000, Some(2000)), (25, &[]));
        check(20, (19, None), (10, &[1]));
        check(7, (3, Some(4)), (0, &[0]));
        check(0, (0, None), (0, &[]));
    }

    #[test]
    fn answer_covers_the_first_part_of_a_long_range() {
        let object = object(10 * 10_000);
        let (offset, chunks) = overlapping(&object, (50, None));
        assert_eq!((offset, chunks.len()), (50, CHUNKS_PER_ANSWER_MAX));
        let (offset, chunks) = overlapping(&object, (10 * 9_999, None));
        assert_eq!((offset, chunks.len()), (10 * 9_999, 1));
    }

    #[test]
    fn range_that_ends_before_it_begins_is_refused() {
        assert_eq!(parse_range(0, 0), Ok((0, None)));
        assert_eq!(parse_range(5, 0), Ok((5, None)));
        assert_eq!(parse_range(5, 6), Ok((5, Some(6))));
        assert!(parse_range(5, 5).is_err());
        assert!(parse_range(5, 4).is_err());
    }

    #[test]
    fn precondition_that_says_nothing_is_refused() {
        use proto::precondition::Kind;
        let parse = |kind| parse_precondition(Some(proto::Precondition { kind }));
        assert_eq!(parse(None), Ok(None));
        assert!(parse(Some(Kind::IfNoneMatchAny(true))).unwrap().is_some());
        assert!(parse(Some(Kind::IfNoneMatchAny(false))).is_err());
        assert!(parse(Some(Kind::IfMatch("e".repeat(65)))).is_err());
    }
}

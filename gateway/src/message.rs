//! Messages of `xdpfs.object.v1` as the native client has them, and the other way round.

use std::time::{SystemTime, UNIX_EPOCH};

use xdpfs_client::{
    BATCH_OPERATIONS_MAX, Batch, BatchResult, Bucket, BucketOptions, ByteRange, CopyOptions, DeleteOptions,
    Object, ObjectMetadata, ObjectVersion, Precondition, PutOptions, Versioning,
};
use xdpfs_proto::object::v1 as proto;

use crate::{
    inbox::{BodySender, body},
    refusal::Refusal,
};

pub(crate) fn object(object: Object) -> proto::Object {
    proto::Object {
        bucket: object.bucket,
        key: object.key,
        version: object.version,
        etag: object.etag,
        size: object.size,
        crc32c: object.crc32c,
        create_time_ms: millis(object.created),
        content_type: object.content_type,
        user_metadata: object.user_metadata,
        durable_replicas: object.durable_replicas,
    }
}

pub(crate) fn version(version: ObjectVersion) -> proto::ObjectVersion {
    proto::ObjectVersion {
        object: Some(object(version.object)),
        latest: version.latest,
        delete_marker: version.delete_marker,
    }
}

pub(crate) fn bucket(bucket: Bucket) -> proto::Bucket {
    let versioning = match bucket.versioning {
        Versioning::Off => proto::Versioning::Off,
        Versioning::On => proto::Versioning::On,
        Versioning::Suspended => proto::Versioning::Suspended,
    };
    proto::Bucket {
        name: bucket.name,
        chunk_size: bucket.chunk_size,
        replicas: bucket.replicas,
        min_replicas: bucket.min_replicas,
        create_time_ms: millis(bucket.created),
        objects: bucket.objects,
        bytes: bucket.bytes,
        quota_bytes: bucket.quota_bytes.unwrap_or_default(),
        quota_objects: bucket.quota_objects.unwrap_or_default(),
        versioning: versioning.into(),
        older_versions: bucket.older_versions,
        older_bytes: bucket.older_bytes,
        delete_markers: bucket.delete_markers,
    }
}

pub(crate) fn bucket_options(request: &proto::CreateBucketRequest) -> Result<BucketOptions, Refusal> {
    let unknown = |_| Refusal::invalid("versioning", "there is no versioning of this number");
    let versioning = match proto::Versioning::try_from(request.versioning).map_err(unknown)? {
        proto::Versioning::Unspecified | proto::Versioning::Off => Versioning::Off,
        proto::Versioning::On => Versioning::On,
        proto::Versioning::Suspended => Versioning::Suspended,
    };
    Ok(BucketOptions {
        chunk_size: nonzero(request.chunk_size),
        replicas: nonzero(request.replicas),
        min_replicas: nonzero(request.min_replicas),
        quota_bytes: nonzero(request.quota_bytes),
        quota_objects: nonzero(request.quota_objects),
        versioning,
    })
}

/// Zero stands for nothing.
pub(crate) fn nonzero<N: Default + PartialEq>(number: N) -> Option<N> {
    (number != N::default()).then_some(number)
}

/// The empty text stands for nothing.
pub(crate) fn nonempty(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

/// `field` is where it stands in the request.
pub(crate) fn precondition(
    field: &'static str,
    precondition: Option<proto::Precondition>,
) -> Result<Option<Precondition>, Refusal> {
    use proto::precondition::Kind;
    let Some(precondition) = precondition else { return Ok(None) };
    let no_etag = |error: xdpfs_client::ParsePreconditionError| Refusal::invalid(field, error.to_string());
    Ok(Some(match precondition.kind {
        Some(Kind::IfMatch(etag)) => Precondition::if_match(&etag).map_err(no_etag)?,
        Some(Kind::IfNoneMatch(etag)) => Precondition::if_none_match(&etag).map_err(no_etag)?,
        Some(Kind::IfNoneMatchAny(true)) => Precondition::IfNoneMatchAny,
        Some(Kind::IfNoneMatchAny(false)) | None => {
            return Err(Refusal::invalid(field, "a precondition says what must be so"));
        }
    }))
}

/// `None`: all bytes.
pub(crate) fn byte_range(range: Option<proto::ByteRange>) -> Result<Option<ByteRange>, Refusal> {
    use proto::byte_range::Kind;
    let Some(range) = range else { return Ok(None) };
    Ok(Some(match range.kind {
        Some(Kind::Span(proto::ByteSpan { offset, length: 0 })) => ByteRange::From(offset),
        Some(Kind::Span(proto::ByteSpan { offset, length })) => {
            ByteRange::Inclusive { first: offset, last: offset.saturating_add(length - 1) }
        }
        Some(Kind::Suffix(0)) => return Err(Refusal::invalid("range", "a suffix has at least one byte")),
        Some(Kind::Suffix(length)) => ByteRange::Suffix(length),
        None => return Err(Refusal::invalid("range", "a range is a span or a suffix")),
    }))
}

pub(crate) fn metadata(metadata: proto::ObjectMetadata) -> ObjectMetadata {
    ObjectMetadata { content_type: metadata.content_type, user_metadata: metadata.user_metadata }
}

pub(crate) fn put_options(
    wanted: Option<proto::Precondition>,
    said: Option<proto::ObjectMetadata>,
    size_hint: Option<u64>,
) -> Result<PutOptions, Refusal> {
    let ObjectMetadata { content_type, user_metadata } = said.map(metadata).unwrap_or_default();
    let precondition = precondition("precondition", wanted)?;
    Ok(PutOptions { precondition, content_type, user_metadata, size_hint })
}

/// The batch, and where the bytes of its puts go, in their order.
pub(crate) fn batch(header: proto::CommitBatchHeader) -> Result<(Batch, Vec<BodySender>), Refusal> {
    if header.operations.len() > BATCH_OPERATIONS_MAX {
        let words = format!("a batch has 1 to {BATCH_OPERATIONS_MAX} operations");
        return Err(Refusal::invalid("operations", words));
    }
    let mut batch = Batch::new(header.bucket);
    let mut bodies = Vec::new();
    for (operation, number) in header.operations.into_iter().zip(1..) {
        let added = add_operation(batch, &mut bodies, operation);
        batch = added.map_err(|refusal| refusal.of_operation(number))?;
    }
    Ok((batch, bodies))
}

fn add_operation(
    batch: Batch,
    bodies: &mut Vec<BodySender>,
    operation: proto::BatchOperation,
) -> Result<Batch, Refusal> {
    use proto::batch_operation::Kind;
    Ok(match operation.kind {
        Some(Kind::Put(put)) => {
            let options = put_options(put.precondition, put.metadata, put.size_hint)?;
            let (sender, input) = body();
            bodies.push(sender);
            batch.put(put.key, input, options)
        }
        Some(Kind::Copy(copy)) => {
            let options = CopyOptions {
                source_precondition: precondition("source_precondition", copy.source_precondition)?,
                precondition: precondition("precondition", copy.precondition)?,
                metadata: copy.metadata.map(metadata),
                source_version: nonzero(copy.source_version),
            };
            batch.copy(copy.source_key, copy.key, options)
        }
        Some(Kind::Delete(delete)) => {
            let precondition = precondition("precondition", delete.precondition)?;
            let options = DeleteOptions { precondition, version: nonzero(delete.version) };
            batch.delete_with(delete.key, options)
        }
        Some(Kind::Check(check)) => {
            let nothing = || Refusal::invalid("precondition", "a check says what the key must hold");
            let wanted = precondition("precondition", check.precondition)?.ok_or_else(nothing)?;
            batch.check(check.key, wanted)
        }
        None => {
            return Err(Refusal::invalid("operations", "an operation is a put, a copy, a delete or a check"));
        }
    })
}

pub(crate) fn batch_result(result: BatchResult) -> proto::BatchResult {
    proto::BatchResult {
        object: result.object.map(object),
        chunks_in_debt: result.chunks_in_debt,
        delete_marker: result.delete_marker.unwrap_or_default(),
    }
}

fn millis(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_spans_and_suffixes() {
        use proto::byte_range::Kind;
        let check = |kind: Option<Kind>, expect: Option<ByteRange>| {
            let read = byte_range(Some(proto::ByteRange { kind }));
            assert_eq!(read.ok().flatten(), expect, "{kind:?}");
        };
        let span = |offset, length| Some(Kind::Span(proto::ByteSpan { offset, length }));
        check(span(5, 0), Some(ByteRange::From(5)));
        check(span(5, 10), Some(ByteRange::Inclusive { first: 5, last: 14 }));
        check(span(u64::MAX, u64::MAX), Some(ByteRange::Inclusive { first: u64::MAX, last: u64::MAX }));
        check(Some(Kind::Suffix(3)), Some(ByteRange::Suffix(3)));
        check(Some(Kind::Suffix(0)), None);
        check(None, None);
        assert_eq!(byte_range(None), Ok(None));
    }

    #[test]
    fn preconditions_say_something_or_are_refused() {
        use proto::precondition::Kind;
        let check = |kind: Option<Kind>, expect: Option<Precondition>| {
            let read = precondition("precondition", Some(proto::Precondition { kind: kind.clone() }));
            assert_eq!(read.ok().flatten(), expect, "{kind:?}");
        };
        check(Some(Kind::IfMatch("1f-0".into())), Some(Precondition::IfMatch("1f-0".into())));
        check(Some(Kind::IfNoneMatch("\"1f-0\"".into())), Some(Precondition::IfNoneMatch("1f-0".into())));
        check(Some(Kind::IfNoneMatchAny(true)), Some(Precondition::IfNoneMatchAny));
        check(Some(Kind::IfNoneMatchAny(false)), None);
        check(Some(Kind::IfMatch("no etag".into())), None);
        check(None, None);
        assert_eq!(precondition("precondition", None), Ok(None));
    }

    #[test]
    fn batch_of_too_many_operations_is_refused_before_anything_is_made_for_it() {
        let check = |count: usize, is_refused: bool| {
            let put =
                proto::batch_operation::Kind::Put(proto::BatchPut { key: "k".into(), ..Default::default() });
            let operations = vec![proto::BatchOperation { kind: Some(put) }; count];
            let header = proto::CommitBatchHeader { operations, ..Default::default() };
            assert_eq!(batch(header).is_err(), is_refused, "{count}");
        };
        check(BATCH_OPERATIONS_MAX, false);
        check(BATCH_OPERATIONS_MAX + 1, true);
    }

    #[test]
    fn operation_that_makes_no_sense_is_named_by_its_number() {
        let check = proto::BatchCheck { key: "k".into(), precondition: None };
        let delete = proto::BatchDelete { key: "k".into(), ..Default::default() };
        let operation = |kind| proto::BatchOperation { kind: Some(kind) };
        let header = proto::CommitBatchHeader {
            bucket: "bucket".into(),
            operations: vec![
                operation(proto::batch_operation::Kind::Delete(delete)),
                operation(proto::batch_operation::Kind::Check(check)),
            ],
            ..Default::default()
        };
        let refusal = batch(header).unwrap_err();
        assert_eq!(
            refusal,
            Refusal::invalid("precondition", "a check says what the key must hold").of_operation(2)
        );
    }
}

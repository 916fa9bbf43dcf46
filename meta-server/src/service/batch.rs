//! Copies, and batches of puts, copies, deletes and checks. What is checked here is only what no state could make right.

use xdpfs_proto::{
    meta::v1::{self as proto, batch_operation::Kind},
    state::v1::{self as pb, batch_operation, command, outcome},
};

use super::{
    Gateway, Refusal,
    access::Access,
    commit::{check_content_type, check_user_metadata, combined_crc32c, parse_chunks},
    gateway::{Call, RequestId, reused_request_id},
    name::{self, ObjectName, check_key},
    objects::{head_to_proto, parse_precondition, removed_to_proto},
};
use crate::state_machine::{BATCH_OPERATIONS_MAX, CHUNKS_PER_OBJECT_MAX, Reason};

impl Gateway {
    pub(super) async fn copy_object(
        &self,
        call: Call<proto::CopyObjectRequest>,
    ) -> Result<proto::CopyObjectResponse, Refusal> {
        let request = call.message;
        let request_id = RequestId::parse(&request.request_id)?;
        let source = ObjectName::parse(&request.source)?;
        let destination = ObjectName::parse(&request.destination)?;
        if source.bucket != destination.bucket {
            let rule = "a copy stays in its bucket: put what is read from the other one";
            return Err(Refusal::invalid("destination", rule));
        }
        let copy = pb::BatchCopy {
            source: source.key,
            source_precondition: parse_precondition(request.source_precondition)?,
            key: destination.key,
            precondition: parse_precondition(request.precondition)?,
            metadata: request.metadata.map(parse_metadata).transpose()?,
            source_version: request.source_version,
        };
        let operations = vec![pb::BatchOperation { kind: Some(batch_operation::Kind::Copy(copy)) }];
        let batch = pb::Batch { bucket: source.bucket, operations };
        let results = self.apply_batch(&call.access, call.deadline, request_id, batch).await;
        let mut results = results.map_err(Refusal::outside_batch)?;
        match (results.pop().and_then(|result| result.object), results.is_empty()) {
            (Some(object), true) => Ok(proto::CopyObjectResponse { object: Some(object) }),
            _ => Err(reused_request_id()),
        }
    }

    pub(super) async fn commit_batch(
        &self,
        call: Call<proto::CommitBatchRequest>,
    ) -> Result<proto::CommitBatchResponse, Refusal> {
        let request = call.message;
        let request_id = RequestId::parse(&request.request_id)?;
        let bucket = name::parse_bucket("parent", &request.parent)?;
        let operations = parse_operations(request.operations)?;
        let batch = pb::Batch { bucket, operations };
        let results = self.apply_batch(&call.access, call.deadline, request_id, batch).await?;
        Ok(proto::CommitBatchResponse { results })
    }

    async fn apply_batch(
        &self,
        access: &Access,
        deadline: std::time::Instant,
        request_id: RequestId,
        batch: pb::Batch,
    ) -> Result<Vec<proto::BatchResult>, Refusal> {
        let (bucket, count) = (batch.bucket.clone(), batch.operations.len());
        let batch = command::Kind::Batch(batch);
        let outcome::Kind::Batched(batched) = self.propose_for(access, deadline, request_id, batch).await?
        else {
            return Err(reused_request_id());
        };
        if batched.results.len() != count {
            return Err(reused_request_id());
        }
        let result = |result: pb::BatchResult| proto::BatchResult {
            object: result.object.map(|object| match result.was_delete_marker {
                true => removed_to_proto(&bucket, object, true),
                false => head_to_proto(&bucket, object, result.durable_replicas),
            }),
            chunks_in_debt: result.chunks_in_debt,
            delete_marker: result.delete_marker,
            was_delete_marker: result.was_delete_marker,
        };
        Ok(batched.results.into_iter().map(result).collect())
    }
}

fn parse_operations(operations: Vec<proto::BatchOperation>) -> Result<Vec<pb::BatchOperation>, Refusal> {
    if !(1..=BATCH_OPERATIONS_MAX).contains(&operations.len()) {
        let rule = format!("a batch has 1 to {BATCH_OPERATIONS_MAX} operations");
        return Err(Refusal::invalid("operations", rule));
    }
    let chunks = |operation: &proto::BatchOperation| match &operation.kind {
        Some(Kind::Put(put)) => put.chunks.len(),
        _ => 0,
    };
    if operations.iter().map(chunks).sum::<usize>() > CHUNKS_PER_OBJECT_MAX {
        let rule = format!("the puts of a batch have at most {CHUNKS_PER_OBJECT_MAX} chunks together");
        return Err(Refusal::new(Reason::ObjectTooLarge, rule));
    }
    let parse = |(place, operation)| parse_operation(operation).map_err(|refusal| refusal.at(place));
    operations.into_iter().enumerate().map(parse).collect()
}

fn parse_operation(operation: proto::BatchOperation) -> Result<pb::BatchOperation, Refusal> {
    let kind = match operation.kind {
        Some(Kind::Put(put)) => {
            let metadata = put.metadata.map(parse_metadata).transpose()?.unwrap_or_default();
            let chunks = parse_chunks(put.chunks)?;
            batch_operation::Kind::Commit(pb::CommitPut {
                upload_id: put.upload_id,
                crc32c: combined_crc32c(&chunks),
                chunks,
                precondition: parse_precondition(put.precondition)?,
                content_type: metadata.content_type,
                user_metadata: metadata.user_metadata,
                source_bucket: String::new(),
            })
        }
        Some(Kind::Copy(copy)) => batch_operation::Kind::Copy(pb::BatchCopy {
            source: parse_key("copy.source_key", copy.source_key)?,
            source_precondition: parse_precondition(copy.source_precondition)?,
            key: parse_key("copy.key", copy.key)?,
            precondition: parse_precondition(copy.precondition)?,
            metadata: copy.metadata.map(parse_metadata).transpose()?,
            source_version: copy.source_version,
        }),
        Some(Kind::Delete(delete)) => batch_operation::Kind::Delete(pb::BatchDelete {
            key: parse_key("delete.key", delete.key)?,
            precondition: parse_precondition(delete.precondition)?,
            version: delete.version,
        }),
        Some(Kind::Check(check)) => {
            let precondition = parse_precondition(check.precondition)?;
            if precondition.is_none() {
                let rule = "a check has a precondition: without one it would check nothing";
                return Err(Refusal::invalid("check.precondition", rule));
            }
            let key = parse_key("check.key", check.key)?;
            batch_operation::Kind::Check(pb::BatchCheck { key, precondition })
        }
        None => return Err(Refusal::invalid("operations", "the operation is of an unknown kind")),
    };
    Ok(pb::BatchOperation { kind: Some(kind) })
}

fn parse_key(field: &'static str, key: String) -> Result<String, Refusal> {
    check_key(field, &key)?;
    Ok(key)
}

fn parse_metadata(metadata: proto::ObjectMetadata) -> Result<pb::ObjectMetadata, Refusal> {
    check_content_type(&metadata.content_type)?;
    check_user_metadata(&metadata.user_metadata)?;
    let proto::ObjectMetadata { content_type, user_metadata } = metadata;
    Ok(pb::ObjectMetadata { content_type, user_metadata })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation(kind: Kind) -> proto::BatchOperation {
        proto::BatchOperation { kind: Some(kind) }
    }

    fn delete(key: &str) -> Kind {
        Kind::Delete(proto::BatchDelete { key: key.into(), ..Default::default() })
    }

    #[test]
    fn batches_are_bounded() {
        let parse = |count| parse_operations(vec![operation(delete("k")); count]).map(|parsed| parsed.len());
        assert_eq!(parse(1), Ok(1));
        assert_eq!(parse(BATCH_OPERATIONS_MAX), Ok(BATCH_OPERATIONS_MAX));
        for count in [0, BATCH_OPERATIONS_MAX + 1] {
            assert_eq!(parse(count).unwrap_err().reason(), Reason::InvalidArgument, "{count}");
        }
        let chunk = proto::WrittenChunk { chunk_id: vec![0; 16], length: 1, ..Default::default() };
        let put = |count| proto::BatchPut { chunks: vec![chunk.clone(); count], ..Default::default() };
        let puts = |count| vec![operation(Kind::Put(put(count))), operation(Kind::Put(put(1)))];
        assert!(parse_operations(puts(CHUNKS_PER_OBJECT_MAX - 1)).is_ok());
        let refused = parse_operations(puts(CHUNKS_PER_OBJECT_MAX)).unwrap_err();
        assert_eq!(refused.reason(), Reason::ObjectTooLarge);
    }

    #[test]
    fn operation_that_no_state_could_make_right_is_named() {
        let check = |kind: Option<Kind>, reason| {
            let operations = vec![operation(delete("k")), proto::BatchOperation { kind: kind.clone() }];
            let refusal = parse_operations(operations).unwrap_err();
            assert_eq!(refusal.reason(), reason, "{kind:?}");
            assert_eq!(refusal, refusal.clone().outside_batch().at(1), "{kind:?}");
        };
        check(None, Reason::InvalidArgument);
        check(Some(delete("")), Reason::InvalidName);
        check(
            Some(Kind::Check(proto::BatchCheck { key: "k".into(), precondition: None })),
            Reason::InvalidArgument,
        );
        let copy = proto::BatchCopy { source_key: "a\n".into(), key: "b".into(), ..Default::default() };
        check(Some(Kind::Copy(copy.clone())), Reason::InvalidName);
        let metadata = proto::ObjectMetadata { content_type: "x".repeat(257), ..Default::default() };
        let copy = proto::BatchCopy { source_key: "a".into(), metadata: Some(metadata), ..copy };
        check(Some(Kind::Copy(copy)), Reason::InvalidArgument);
    }
}

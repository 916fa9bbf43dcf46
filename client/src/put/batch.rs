//! The end of a batch: the bytes of its puts are made durable, and then one request makes all of it happen.

use std::sync::Arc;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use tokio::time::Instant;
use tracing::debug;
use xdpfs_proto::meta::v1::{self as proto, batch_operation::Kind};

use super::{
    PutOptions, Staged,
    commit::{accept, refresh},
    stage,
    upload::Purpose,
};
use crate::{
    Batch, BatchOperation, BatchResult, Object, Precondition,
    client::Shared,
    control::{Backoff, Meta, Operation, Reason, Refusal},
    error::{Error, Result},
    name::bucket_name,
};

/// Puts of a batch whose bytes are under way at once.
const PUTS_IN_FLIGHT_MAX: usize = 4;

/// An operation that only waits for the commit.
enum Ready {
    Put(Box<Staged>, PutOptions),
    Other(Kind),
}

/// Writes what the batch puts, and commits until the leader says yes or no.
pub(crate) async fn commit_batch(shared: &Arc<Shared>, batch: Batch) -> Result<Vec<BatchResult>> {
    batch.validate()?;
    let Batch { bucket, operations } = batch;
    let parent = bucket_name(&bucket)?;
    let subjects: Vec<Subject> = operations.iter().map(Subject::of).collect();
    let ready = stream::iter(operations.into_iter().enumerate()).map(|(place, operation)| {
        let bucket = &bucket;
        async move {
            let key = operation.key().to_owned();
            prepare(shared, bucket, operation).await.map_err(|error| at(place + 1, key, error))
        }
    });
    let mut ready: Vec<Ready> = ready.buffered(PUTS_IN_FLIGHT_MAX).try_collect().await?;
    let started = Instant::now();
    let mut backoff = Backoff::default();
    for attempts in 1.. {
        let seen: Vec<u64> = puts(&ready).map(|staged| staged.guard.upload().generation()).collect();
        let request = proto::CommitBatchRequest {
            request_id: shared.change_id(),
            parent: parent.clone(),
            operations: ready.iter().map(to_proto).collect(),
        };
        let send = |mut meta: Meta, request| async move { meta.commit_batch(request).await };
        match shared.control.call(Operation::CommitBatch, request, send).await {
            Ok(committed) => {
                puts(&ready).for_each(|staged| staged.guard.upload().settle());
                return results(committed, &ready);
            }
            Err(refusal) if refusal.is(&Reason::StaleReceipts) => {
                debug!(attempts, "some receipts of the batch are stale");
                let waited = started.elapsed();
                if waited >= shared.config.deadline {
                    let operation = Operation::CommitBatch.label();
                    let why = "the data nodes do not renew their receipts".into();
                    return Err(Error::Unavailable { operation, attempts, waited, why });
                }
                tokio::time::sleep(backoff.next_delay()).await;
                renew(&mut ready, seen).await?;
            }
            Err(refusal) => return Err(explain(refusal, &bucket, &subjects)),
        }
    }
    unreachable!("the deadline comes before attempts run out")
}

async fn prepare(shared: &Arc<Shared>, bucket: &str, operation: BatchOperation) -> Result<Ready> {
    let precondition = |precondition: Option<Precondition>| Precondition::to_proto(precondition.as_ref());
    Ok(Ready::Other(match operation {
        BatchOperation::Put { key, input, options } => {
            let staged = stage(shared, bucket, &key, input, &options, Purpose::Batch).await?;
            return Ok(Ready::Put(Box::new(staged), options));
        }
        BatchOperation::Copy { source, key, options } => Kind::Copy(proto::BatchCopy {
            source_key: source,
            source_precondition: precondition(options.source_precondition),
            key,
            precondition: precondition(options.precondition),
            metadata: options.metadata.map(|metadata| metadata.to_proto()),
            source_version: options.source_version.unwrap_or_default(),
        }),
        BatchOperation::Delete { key, options } => Kind::Delete(proto::BatchDelete {
            key,
            precondition: precondition(options.precondition),
            version: options.version.unwrap_or_default(),
        }),
        BatchOperation::Check { key, precondition: wanted } => {
            Kind::Check(proto::BatchCheck { key, precondition: precondition(Some(wanted)) })
        }
    }))
}

fn puts(ready: &[Ready]) -> impl Iterator<Item = &Staged> {
    ready.iter().filter_map(|ready| match ready {
        Ready::Put(staged, _) => Some(&**staged),
        Ready::Other(_) => None,
    })
}

fn to_proto(ready: &Ready) -> proto::BatchOperation {
    let kind = match ready {
        Ready::Put(staged, options) => Kind::Put(proto::BatchPut {
            upload_id: staged.guard.upload().id,
            chunks: staged.chunks.iter().map(super::Written::to_proto).collect(),
            precondition: Precondition::to_proto(options.precondition.as_ref()),
            metadata: Some(proto::ObjectMetadata {
                content_type: options.content_type.clone(),
                user_metadata: options.user_metadata.clone(),
            }),
        }),
        Ready::Other(kind) => kind.clone(),
    };
    proto::BatchOperation { kind: Some(kind) }
}

/// Asks for the receipts of all puts anew.
async fn renew(ready: &mut [Ready], seen: Vec<u64>) -> Result<()> {
    let staged = ready.iter_mut().filter_map(|ready| match ready {
        Ready::Put(staged, _) => Some(staged),
        Ready::Other(_) => None,
    });
    for (staged, seen) in staged.zip(seen) {
        let upload = Arc::clone(staged.guard.upload());
        upload.renew(seen).await?;
        refresh(&upload, &mut staged.chunks).await?;
    }
    Ok(())
}

fn results(committed: proto::CommitBatchResponse, ready: &[Ready]) -> Result<Vec<BatchResult>> {
    let operation = Operation::CommitBatch.label();
    if committed.results.len() != ready.len() {
        return Err(Error::BadReply { operation, what: "there is not one result for each operation" });
    }
    let result = |(result, ready): (proto::BatchResult, &Ready)| match ready {
        Ready::Put(staged, _) => {
            let name = &staged.guard.upload().name;
            let put = accept(result.object, result.chunks_in_debt, name, &staged.chunks)?;
            let chunks_in_debt = put.chunks_in_debt;
            Ok(BatchResult { object: Some(put.object), chunks_in_debt, delete_marker: None })
        }
        Ready::Other(Kind::Check(_)) => Ok(BatchResult::default()),
        Ready::Other(_) => {
            let object = Object::parse(result.object, operation)?;
            Ok(BatchResult {
                object: Some(object),
                chunks_in_debt: result.chunks_in_debt,
                delete_marker: Some(result.delete_marker).filter(|version| *version > 0),
            })
        }
    };
    committed.results.into_iter().zip(ready).map(result).collect()
}

fn explain(refusal: Refusal, bucket: &str, subjects: &[Subject]) -> Error {
    let operation = refusal.operation();
    let named = operation.and_then(|operation| Some((operation, subjects.get(operation.checked_sub(1)?)?)));
    match named {
        Some((operation, Subject { key, read })) => {
            at(operation, key.clone(), refusal.about(Operation::CommitBatch, bucket, read))
        }
        None => refusal.about(Operation::CommitBatch, bucket, ""),
    }
}

/// The keys of an operation.
struct Subject {
    /// The one that it changes or checks.
    key: String,
    /// The one that must be there.
    read: String,
}

impl Subject {
    fn of(operation: &BatchOperation) -> Self {
        let read = match operation {
            BatchOperation::Copy { source, .. } => source,
            other => other.key(),
        };
        Self { key: operation.key().to_owned(), read: read.to_owned() }
    }
}

/// The error as that of one operation, counted from 1.
fn at(operation: usize, key: String, source: Error) -> Error {
    Error::BatchRefused { operation, key, source: Box::new(source) }
}

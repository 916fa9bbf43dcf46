//! The end of a put: one request that makes the object visible.
//!
//! Invariant: receipts that the leader finds stale are asked for anew; their bytes are never sent again.

use std::{collections::BTreeMap, sync::Arc};

use futures::{StreamExt as _, stream};
use tokio::time::Instant;
use tracing::debug;
use xdpfs_proto::meta::v1 as proto;
use xdpfs_transport::{TransferError, crc32c_combine};
use xdpfs_wire::{ChunkId, NodeId, Receipt, Status};

use super::{PutOptions, PutResult, Staged, replicas::Written, upload::Upload};
use crate::{
    Object, Precondition,
    chunk_transport::ChunkSum,
    control::{Backoff, Operation, Reason},
    error::{Error, Result},
    name::ObjectName,
};

/// Receipts asked for at once.
const RECEIPTS_IN_FLIGHT_MAX: usize = 16;

/// What became of a receipt that was asked for anew.
#[derive(Debug)]
enum Renewal {
    /// The node holds the chunk no more.
    Lost,
    NotNow,
    Renewed(Receipt),
}

/// Commits until the leader says yes or no, with new receipts where nodes have registered anew.
pub(super) async fn commit(mut staged: Staged, options: PutOptions) -> Result<PutResult> {
    let upload = Arc::clone(staged.guard.upload());
    let (upload, chunks) = (&*upload, &mut staged.chunks);
    let started = Instant::now();
    let mut backoff = Backoff::default();
    for attempts in 1.. {
        let seen = upload.generation();
        let request = request(upload, chunks, &options);
        let send = |mut meta: crate::control::Meta, request| async move { meta.commit_put(request).await };
        match upload.shared.control.call(Operation::CommitPut, request, send).await {
            Ok(committed) => {
                upload.settle();
                return accept(committed.object, committed.chunks_in_debt, &upload.name, chunks);
            }
            Err(refusal) if refusal.is(&Reason::StaleReceipts) => {
                debug!(upload = upload.id, attempts, "some receipts are stale");
                let waited = started.elapsed();
                if waited >= upload.shared.config.deadline {
                    let operation = Operation::CommitPut.label();
                    let why = "the data nodes do not renew their receipts".into();
                    return Err(Error::Unavailable { operation, attempts, waited, why });
                }
                tokio::time::sleep(backoff.next_delay()).await;
                upload.renew(seen).await?;
                refresh(upload, chunks).await?;
            }
            Err(refusal) => return Err(upload.explain(refusal, Operation::CommitPut)),
        }
    }
    unreachable!("the deadline comes before attempts run out")
}

fn request(upload: &Upload, chunks: &[Written], options: &PutOptions) -> proto::CommitPutRequest {
    proto::CommitPutRequest {
        request_id: upload.shared.change_id(),
        upload_id: upload.id,
        chunks: chunks.iter().map(Written::to_proto).collect(),
        precondition: Precondition::to_proto(options.precondition.as_ref()),
        content_type: options.content_type.clone(),
        user_metadata: options.user_metadata.clone(),
    }
}

/// What the leader says it has made of the chunks.
pub(super) fn accept(
    object: Option<proto::Object>,
    chunks_in_debt: u32,
    name: &ObjectName,
    chunks: &[Written],
) -> Result<PutResult> {
    let object = Object::parse(object, "CommitPut")?;
    object.check_name(&name.bucket, &name.key)?;
    let crc32c =
        chunks.iter().fold(0, |sum, chunk| crc32c_combine(sum, chunk.sum.crc32c, chunk.sum.length.into()));
    let size = chunks.iter().map(|chunk| u64::from(chunk.sum.length)).sum::<u64>();
    if (object.crc32c, object.size) != (crc32c, size) {
        return Err(Error::Integrity { what: "the committed object".into() });
    }
    Ok(PutResult { object, chunks_in_debt })
}

/// Asks the nodes again for receipts of an older registration, or for all if none is known to be older.
pub(super) async fn refresh(upload: &Upload, chunks: &mut [Written]) -> Result<()> {
    let is_stale = |receipt: &Receipt| {
        upload.access(receipt.node).is_none_or(|access| access.target.node_epoch != receipt.node_epoch)
    };
    let mut wanted: Vec<Receipt> = chunks.iter().flat_map(|chunk| &chunk.receipts).copied().collect();
    if wanted.iter().any(is_stale) {
        wanted.retain(is_stale);
    }
    let renewals = stream::iter(wanted).map(|receipt| renew_receipt(upload, receipt));
    let renewals: Vec<_> = renewals.buffer_unordered(RECEIPTS_IN_FLIGHT_MAX).collect().await;
    let mut by_chunk: BTreeMap<ChunkId, &mut Written> =
        chunks.iter_mut().map(|written| (written.chunk, written)).collect();
    for (old, renewal) in renewals {
        let Some(written) = by_chunk.get_mut(&old.chunk) else { continue };
        written.take(old.node, renewal, upload.min_replicas)?;
    }
    Ok(())
}

async fn renew_receipt(upload: &Upload, old: Receipt) -> (Receipt, Renewal) {
    let Some(access) = upload.access(old.node) else { return (old, Renewal::NotNow) };
    let sum = ChunkSum { length: old.length, crc32c: old.crc };
    let renewal = match upload.shared.transport.receipt(access.target, access.key, old.chunk, sum).await {
        Ok(receipt) => Renewal::Renewed(receipt),
        Err(TransferError::Refused(
            Status::NotOpen | Status::NotFound | Status::Corrupt | Status::Conflict,
        )) => Renewal::Lost,
        Err(error) => {
            debug!(chunk = %old.chunk, node = %old.node, %error, "receipt not renewed");
            Renewal::NotNow
        }
    };
    (old, renewal)
}

impl Written {
    /// # Errors
    /// Too few replicas are left.
    fn take(&mut self, node: NodeId, renewal: Renewal, needed: usize) -> Result<()> {
        match renewal {
            Renewal::Lost => self.receipts.retain(|receipt| receipt.node != node),
            Renewal::Renewed(receipt) => {
                self.receipts.iter_mut().filter(|old| old.node == node).for_each(|old| *old = receipt)
            }
            // The leader leaves it out.
            Renewal::NotNow => {}
        }
        if self.receipts.len() >= needed {
            return Ok(());
        }
        // Its bytes were let go of when it was durable, so it cannot be written again.
        let why = format!("data node {node} has lost it since");
        Err(Error::NotDurable {
            chunk: self.chunk,
            durable: self.receipts.len() as u32,
            needed: needed as u32,
            why,
        })
    }

    pub(super) fn to_proto(&self) -> proto::WrittenChunk {
        let receipt = |receipt: &Receipt| proto::Receipt {
            node_id: receipt.node.0.into(),
            node_epoch: receipt.node_epoch.0.into(),
            mac: receipt.mac,
        };
        proto::WrittenChunk {
            chunk_id: self.chunk.0.to_be_bytes().to_vec(),
            length: self.sum.length,
            crc32c: self.sum.crc32c,
            receipts: self.receipts.iter().map(receipt).collect(),
        }
    }
}

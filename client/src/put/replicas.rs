//! One chunk of a put: written to all its nodes at once, done when enough of them are durable.
//!
//! Invariant: a chunk counts as written only with receipts of at least `min_replicas` distinct nodes, which the
//! leader placed in distinct failure domains.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use futures::{StreamExt as _, stream::FuturesUnordered};
use tokio::time::Instant;
use tracing::{Instrument as _, debug};
use xdpfs_transport::{TransferError, crc32c};
use xdpfs_wire::{Advice, ChunkId, NodeId, Receipt, Status};

use super::upload::{Grant, Upload};
use crate::{
    chunk_transport::ChunkSum,
    control::Backoff,
    error::{Error, Result},
    traces,
};

/// How often one node is asked again within a round, after a renewal or a pause.
const ATTEMPTS_MAX: u32 = 5;
/// How long suspects are waited for at least.
const SUSPECT_WAIT_MIN: Duration = Duration::from_millis(10);

/// A chunk that is durable on enough nodes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Written {
    pub(super) chunk: ChunkId,
    pub(super) sum: ChunkSum,
    pub(super) receipts: Vec<Receipt>,
}

/// Why a node has no replica.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Failure {
    /// It will not have one.
    Permanent(Status),
    /// It may have one later.
    Transient(String),
}

/// One chunk on its way.
struct ChunkWrite<'a> {
    upload: &'a Upload,
    data: Bytes,
    sum: ChunkSum,
    grant: Grant,
    receipts: Vec<Receipt>,
    failures: BTreeMap<NodeId, Failure>,
}

/// Writes `data` until enough nodes hold it, on other nodes than those granted if need be.
pub(super) async fn write_chunk(upload: &Upload, grant: Grant, data: Bytes) -> Result<Written> {
    let sum = ChunkSum { length: data.len() as u32, crc32c: crc32c(&data) };
    let mut write = ChunkWrite { upload, data, sum, grant, receipts: vec![], failures: BTreeMap::new() };
    let deadline = Instant::now() + upload.shared.config.deadline;
    let mut backoff = Backoff::default();
    loop {
        let seen = upload.generation();
        write.round().await;
        if write.is_durable() {
            return Ok(Written { chunk: write.grant.chunk, sum, receipts: write.receipts });
        }
        debug!(chunk = %write.grant.chunk, failures = ?write.failures, "too few replicas");
        if Instant::now() >= deadline {
            return Err(write.into_error());
        }
        upload.renew(seen).await?;
        match upload.other_grant().await? {
            Some(grant) => write.move_to(grant),
            None if write.is_hopeless() => return Err(write.into_error()),
            None => {}
        }
        tokio::time::sleep(backoff.next_delay()).await;
    }
}

impl ChunkWrite<'_> {
    /// Writes to every node that has no replica yet and may have one.
    async fn round(&mut self) {
        let started = Instant::now();
        let mut pending = self.missing();
        let writes: FuturesUnordered<_> = pending.iter().map(|node| self.write_replica(*node)).collect();
        let mut writes = writes.fuse();
        let mut answers = vec![];
        let needed = self.upload.min_replicas.saturating_sub(self.receipts.len());
        let (mut durable, mut patience) = (0, None);
        loop {
            if durable >= needed {
                let until = Instant::now() + self.wait_for(&pending, started.elapsed());
                patience = Some(patience.map_or(until, |patience: Instant| patience.min(until)));
            }
            tokio::select! {
                answer = writes.next() => {
                    let Some((node, result)) = answer else { break };
                    pending.retain(|other| *other != node);
                    durable += usize::from(result.is_ok());
                    answers.push((node, result));
                }
                () = tokio::time::sleep_until(patience.unwrap_or(started)), if patience.is_some() => {
                    debug!(chunk = %self.grant.chunk, ?pending, "stragglers are not waited for");
                    pending.iter().for_each(|node| self.upload.shared.suspects.suspect(*node));
                    break;
                }
            }
        }
        drop(writes);
        for (node, result) in answers {
            match result {
                Ok(receipt) => self.receipts.push(receipt),
                Err(failure) => {
                    self.failures.insert(node, failure);
                }
            }
        }
    }

    /// How much longer to wait for `pending` once enough replicas are durable, which took `so_far`. Suspects get as
    /// long again as the others took: a node that works again is not left out, and one that is dead costs little.
    fn wait_for(&self, pending: &[NodeId], so_far: Duration) -> Duration {
        let shared = &self.upload.shared;
        if pending.iter().all(|node| shared.suspects.contains(*node)) {
            so_far.max(SUSPECT_WAIT_MIN)
        } else {
            shared.config.straggler_wait.max(so_far * 2)
        }
    }

    fn missing(&self) -> Vec<NodeId> {
        let has_receipt = |node: &NodeId| self.receipts.iter().any(|receipt| receipt.node == *node);
        let is_lost = |node: &NodeId| matches!(self.failures.get(node), Some(Failure::Permanent(_)));
        self.grant.nodes.iter().copied().filter(|node| !has_receipt(node) && !is_lost(node)).collect()
    }

    fn is_durable(&self) -> bool {
        self.receipts.len() >= self.upload.min_replicas
    }

    /// Whether the nodes that may still answer are too few.
    fn is_hopeless(&self) -> bool {
        self.receipts.len() + self.missing().len() < self.upload.min_replicas
    }

    fn move_to(&mut self, grant: Grant) {
        debug!(from = %self.grant.chunk, to = %grant.chunk, nodes = ?grant.nodes, "chunk moves to other nodes");
        self.grant = grant;
        self.receipts.clear();
        self.failures.clear();
    }

    async fn write_replica(&self, node: NodeId) -> (NodeId, Result<Receipt, Failure>) {
        let result = self.try_replica(node).await;
        match &result {
            Ok(_) => self.upload.shared.suspects.clear(node),
            Err(failure) => {
                debug!(chunk = %self.grant.chunk, %node, ?failure, "no replica");
                self.upload.shared.suspects.suspect(node);
            }
        }
        (node, result)
    }

    async fn try_replica(&self, node: NodeId) -> Result<Receipt, Failure> {
        let mut backoff = Backoff::default();
        let mut last = Failure::Transient("the leader gave no address for it".into());
        for _ in 0..ATTEMPTS_MAX {
            let seen = self.upload.generation();
            let status = match self.send_to(node).await {
                Ok(receipt) => return Ok(receipt),
                Err(None) => Status::StaleNode,
                Err(Some(TransferError::Refused(status))) => status,
                Err(Some(error)) => return Err(Failure::Transient(error.to_string())),
            };
            match status.advice() {
                Advice::GiveUp => return Err(Failure::Permanent(status)),
                Advice::OtherReplica if status == Status::NoSpace => return Err(Failure::Permanent(status)),
                Advice::OtherReplica | Advice::Done => return Err(refused(status)),
                Advice::Refresh => {
                    last = refused(status);
                    self.upload.renew(seen).await.map_err(|error| Failure::Transient(error.to_string()))?;
                }
                Advice::Retry => last = refused(status),
            }
            tokio::time::sleep(backoff.next_delay()).await;
        }
        Err(last)
    }

    /// One transfer; `None` if the node's address is not known.
    async fn send_to(&self, node: NodeId) -> Result<Receipt, Option<TransferError>> {
        let access = self.upload.access(node).ok_or(None)?;
        let (chunk, data) = (self.grant.chunk, self.data.clone());
        let write =
            self.upload.shared.transport.write(access.target, access.key, chunk, data, self.sum.crc32c);
        let span = traces::write_chunk(node.0, self.data.len());
        let receipt = write.instrument(span).await.map_err(Some)?;
        let is_ours = receipt.chunk == chunk
            && receipt.node == node
            && (receipt.length, receipt.crc) == (self.sum.length, self.sum.crc32c);
        if is_ours { Ok(receipt) } else { Err(Some(TransferError::Corrupt)) }
    }

    fn into_error(self) -> Error {
        let permanent = |wanted| self.failures.values().any(|failure| *failure == Failure::Permanent(wanted));
        if permanent(Status::Denied) {
            return Error::PermissionDenied { message: "the data nodes refuse the capability".into() };
        }
        if permanent(Status::NoSpace) {
            return Error::NoSpace;
        }
        let why = match self.failures.iter().next_back() {
            Some((node, Failure::Permanent(status))) => format!("data node {node} refused ({status:?})"),
            Some((node, Failure::Transient(why))) => format!("data node {node}: {why}"),
            None => "too few data nodes".into(),
        };
        Error::NotDurable {
            chunk: self.grant.chunk,
            durable: self.receipts.len() as u32,
            needed: self.upload.min_replicas as u32,
            why,
        }
    }
}

fn refused(status: Status) -> Failure {
    Failure::Transient(TransferError::Refused(status).to_string())
}

//! Data nodes in memory, behind the chunk transport's seam.

use std::{
    collections::BTreeMap,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures::future::BoxFuture;
use xdpfs_transport::{SessionKey, Target, TransferError, crc32c};
use xdpfs_wire::{ChunkId, NodeEpoch, NodeId, Receipt, Rights, Status};

use super::state::State;
use crate::chunk_transport::{ChunkSum, ChunkTransport};

/// What a node does with a request.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum Behaviour {
    /// Does not answer; the transport's patience ends it.
    Dead,
    /// Signs for other bytes than those that it was sent, and gives other bytes than those that it holds.
    Lies,
    /// Answers so.
    Refuses(Status),
    /// Answers after this long.
    Slow(Duration),
    /// Answers at once.
    #[default]
    Works,
}

/// One node.
#[derive(Debug, Default)]
pub(crate) struct FakeNode {
    pub(crate) epoch: u16,
    pub(crate) behaviour: Behaviour,
    pub(crate) chunks: BTreeMap<ChunkId, Bytes>,
    /// The leader does not say where it is.
    pub(crate) is_hidden: bool,
    /// Reads that it answered.
    pub(crate) reads: u32,
    /// Writes that it made durable.
    pub(crate) writes: u32,
}

/// How long the transport waits for a dead node.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long a transfer takes.
const TRANSFER_TIME: Duration = Duration::from_millis(5);

#[derive(Debug)]
pub(super) struct FakeNodes {
    state: Arc<Mutex<State>>,
}

/// Bytes of a transfer that has not ended.
struct Outstanding<'a> {
    nodes: &'a FakeNodes,
    bytes: u64,
}

impl Drop for Outstanding<'_> {
    fn drop(&mut self) {
        self.nodes.state().outstanding -= self.bytes;
    }
}

impl FakeNodes {
    pub(super) fn new(state: &Arc<Mutex<State>>) -> Self {
        Self { state: Arc::clone(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn outstanding(&self, bytes: usize) -> Outstanding<'_> {
        let mut state = self.state();
        let bytes = bytes as u64;
        state.outstanding += bytes;
        state.asked += bytes;
        state.outstanding_most = state.outstanding_most.max(state.outstanding);
        Outstanding { nodes: self, bytes }
    }

    /// Lets the node take its time; whether it lies.
    async fn reach(&self, target: Target, key: SessionKey, right: Rights) -> Result<bool, TransferError> {
        let behaviour = self.state().node(target.node.0).behaviour;
        match behaviour {
            Behaviour::Dead => {
                tokio::time::sleep(PATIENCE).await;
                return Err(TransferError::Unreachable);
            }
            Behaviour::Refuses(status) => return Err(TransferError::Refused(status)),
            Behaviour::Slow(delay) => tokio::time::sleep(delay).await,
            Behaviour::Lies | Behaviour::Works => tokio::time::sleep(TRANSFER_TIME).await,
        }
        let mut state = self.state();
        if u64::from(key.capability.expiry.0) <= state.now_s() {
            state.expired += 1;
            return Err(TransferError::Refused(Status::Expired));
        }
        if !key.capability.rights.contains(right) {
            return Err(TransferError::Refused(Status::Denied));
        }
        Ok(behaviour == Behaviour::Lies)
    }
}

fn receipt(chunk: ChunkId, sum: ChunkSum, node: NodeId, epoch: u16) -> Receipt {
    let node_epoch = NodeEpoch(epoch);
    Receipt { chunk, length: sum.length, crc: sum.crc32c, node, node_epoch, mac: epoch.into() }
}

impl ChunkTransport for FakeNodes {
    fn read(
        &self,
        target: Target,
        key: SessionKey,
        chunk: ChunkId,
        range: Range<u32>,
    ) -> BoxFuture<'_, Result<Bytes, TransferError>> {
        Box::pin(async move {
            let _outstanding = self.outstanding(range.len());
            let lies = self.reach(target, key, Rights::READ).await?;
            let mut state = self.state();
            let node = state.node(target.node.0);
            let held = node.chunks.get(&chunk).ok_or(TransferError::Refused(Status::NotFound))?;
            if range.end as usize > held.len() {
                return Err(TransferError::Refused(Status::Range));
            }
            let bytes = held.slice(range.start as usize..range.end as usize);
            node.reads += 1;
            Ok(if lies { bytes.iter().map(|byte| !byte).collect() } else { bytes })
        })
    }

    fn write(
        &self,
        target: Target,
        key: SessionKey,
        chunk: ChunkId,
        data: Bytes,
        crc: u32,
    ) -> BoxFuture<'_, Result<Receipt, TransferError>> {
        Box::pin(async move {
            let _outstanding = self.outstanding(data.len());
            assert_eq!(crc32c(&data), crc);
            let lies = self.reach(target, key, Rights::WRITE).await?;
            let mut state = self.state();
            let node = state.node(target.node.0);
            if target.node_epoch.0 != node.epoch {
                return Err(TransferError::Refused(Status::StaleNode));
            }
            node.writes += 1;
            let sum = ChunkSum { length: data.len() as u32, crc32c: if lies { !crc } else { crc } };
            node.chunks.insert(chunk, data);
            Ok(receipt(chunk, sum, target.node, node.epoch))
        })
    }

    fn receipt(
        &self,
        target: Target,
        key: SessionKey,
        chunk: ChunkId,
        sum: ChunkSum,
    ) -> BoxFuture<'_, Result<Receipt, TransferError>> {
        Box::pin(async move {
            self.reach(target, key, Rights::WRITE).await?;
            let mut state = self.state();
            let node = state.node(target.node.0);
            if target.node_epoch.0 != node.epoch {
                return Err(TransferError::Refused(Status::StaleNode));
            }
            if !node.chunks.contains_key(&chunk) {
                return Err(TransferError::Refused(Status::NotOpen));
            }
            Ok(receipt(chunk, sum, target.node, node.epoch))
        })
    }
}

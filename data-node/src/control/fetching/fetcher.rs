//! One fetch: reads the parts, from this node's own disks or from others by the chunk protocol, and makes the chunk durable.
//!
//! Invariant: only nodes are asked that the leader has named, at addresses that it has named. A chunk is in memory once;
//! of one that is made of several parts, one part more.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, OnceLock, PoisonError, RwLock},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use xdpfs_proto::node::v1::FetchFailure;
use xdpfs_transport::{ChunkClient, ChunkClientConfig, SessionKey, Target, TransferError, crc32c};
use xdpfs_wire::{BucketId, ChunkId, KeyEpochs as _, NodeEpoch, NodeId, Status};

use super::{
    order::{Introduction, Order, Part},
    queue::{End, Made},
};
use crate::{
    disks::Disks,
    node_state::NodeState,
    store::{ChunkInfo, PutError},
};

/// How long a store that is busy is asked again, and how often.
const BUSY_PAUSE: Duration = Duration::from_millis(50);
const BUSY_TRIES_MAX: u32 = 100;

/// Makes chunks of what other nodes hold.
#[derive(Debug)]
pub(super) struct Fetcher {
    disks: Disks,
    state: Arc<NodeState>,
    introduction: RwLock<Arc<Introduction>>,
    /// Bound when it is first needed: most nodes of a small cluster hold what they are to copy.
    client: OnceLock<ChunkClient>,
}

impl Fetcher {
    pub(super) fn new(disks: Disks, state: Arc<NodeState>) -> Self {
        Self { disks, state, introduction: RwLock::default(), client: OnceLock::new() }
    }

    /// Goes by this from now on.
    pub(super) fn introduce(&self, introduction: Introduction) {
        *self.introduction.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(introduction);
    }

    /// What is at hand of the order once this returns.
    pub(super) async fn fetch(&self, order: &Order) -> End {
        if let Some(held) = self.disks.stat_safe(order.chunk) {
            let is_it = held.length == order.length && order.crc.is_none_or(|crc| crc == held.crc);
            if !is_it {
                return Err(FetchFailure::Conflict);
            }
            // What turns out to be damaged is out of service by then, and can be written again.
            if !order.verify || self.is_good(order.chunk, held).await {
                return Ok(Made { info: held, was_held: true });
            }
        }
        let data = match order.parts.as_slice() {
            [whole] => self.read(whole, order.crc).await?,
            parts => {
                let mut data = BytesMut::with_capacity(order.length as usize);
                for part in parts {
                    data.extend_from_slice(&self.read(part, None).await?);
                }
                data.freeze()
            }
        };
        let crc = crc32c(&data);
        if order.crc.is_some_and(|expected| expected != crc) {
            return Err(FetchFailure::Corrupt);
        }
        self.keep(order, crc, data).await
    }

    async fn keep(&self, order: &Order, crc: u32, data: Bytes) -> End {
        for _ in 0..BUSY_TRIES_MAX {
            match self.disks.put(order.chunk, crc, data.clone()).await {
                Ok(()) => {
                    let info = ChunkInfo { length: order.length, crc };
                    return Ok(Made { info, was_held: false });
                }
                Err(PutError::Busy) => tokio::time::sleep(BUSY_PAUSE).await,
                Err(PutError::Conflict) => return Err(FetchFailure::Conflict),
                Err(PutError::NoSpace) => return Err(FetchFailure::NoSpace),
                Err(PutError::Corrupt | PutError::Failed | PutError::Length) => {
                    return Err(FetchFailure::Refused);
                }
            }
        }
        Err(FetchFailure::NoSpace)
    }

    /// Tries one holder after another, until one gives bytes with this checksum, if it is known.
    async fn read(&self, part: &Part, crc: Option<u32>) -> Result<Bytes, FetchFailure> {
        let is_it = |bytes: &Bytes| crc.is_none_or(|crc| crc == crc32c(bytes));
        let own = self.state.registration().target.node;
        if part.nodes.contains(&own)
            && let Some(bytes) = self.read_here(part).await.filter(is_it)
        {
            return Ok(bytes);
        }
        let introduction = Arc::clone(&self.introduction.read().unwrap_or_else(PoisonError::into_inner));
        let mut failure = FetchFailure::Gone;
        for node in part.nodes.iter().filter(|node| **node != own) {
            for address in introduction.addresses.get(node).into_iter().flatten() {
                match self.read_there(part, *node, address, &introduction).await {
                    Ok(bytes) if is_it(&bytes) => return Ok(bytes),
                    Ok(_) => {
                        failure = FetchFailure::Corrupt;
                        break;
                    }
                    Err(Failed::Holder(TransferError::Refused(Status::NotFound))) => break,
                    Err(why) => {
                        if failure == FetchFailure::Gone {
                            failure = FetchFailure::OutOfReach;
                        }
                        tracing::debug!(%node, address, ?why, chunk = %part.chunk, "a source gives no bytes");
                    }
                }
            }
        }
        Err(failure)
    }

    /// Whether all of it can be read, and is what was written.
    async fn is_good(&self, chunk: ChunkId, held: ChunkInfo) -> bool {
        let whole = Part { chunk, offset: 0, length: held.length, nodes: Vec::new() };
        self.read_here(&whole).await.is_some_and(|bytes| crc32c(&bytes) == held.crc)
    }

    /// What this node holds needs no network.
    async fn read_here(&self, part: &Part) -> Option<Bytes> {
        let disks = self.disks.clone();
        let (chunk, offset, length) = (part.chunk, part.offset, part.length);
        let read = tokio::task::spawn_blocking(move || {
            let mut bytes = vec![0; length as usize];
            disks.read(chunk, offset, &mut bytes).map(|()| Bytes::from(bytes))
        });
        read.await.ok()?.ok()
    }

    async fn read_there(
        &self,
        part: &Part,
        node: NodeId,
        address: &str,
        introduction: &Introduction,
    ) -> Result<Bytes, Failed> {
        let session = self.session(part.chunk.bucket(), introduction).ok_or(Failed::NoCapability)?;
        let address = resolve(address).await.ok_or(Failed::NoAddress)?;
        let client = self.client().map_err(Failed::NoSocket)?;
        // Reads are good in any registration.
        let target = Target { address, node, node_epoch: NodeEpoch(0) };
        let range = part.offset..part.offset + part.length;
        let bytes = client.read(target, session, part.chunk, range).await.map_err(Failed::Holder)?;
        if bytes.len() != part.length as usize {
            return Err(Failed::Holder(TransferError::Corrupt));
        }
        Ok(bytes)
    }

    /// The leader says what may be read and until when; the key follows from the epoch's secret.
    fn session(&self, bucket: BucketId, introduction: &Introduction) -> Option<SessionKey> {
        let capability = *introduction.capabilities.get(&bucket)?;
        let secret = self.state.key_epochs().secret(capability.key_epoch)?;
        Some(SessionKey { capability, key: capability.key(secret) })
    }

    fn client(&self) -> io::Result<&ChunkClient> {
        if let Some(client) = self.client.get() {
            return Ok(client);
        }
        let client = ChunkClient::bind(ChunkClientConfig::default())?;
        Ok(self.client.get_or_init(|| client))
    }
}

/// Why a source gave nothing.
#[derive(Debug)]
#[expect(dead_code, reason = "they are for whoever reads the log")]
enum Failed {
    Holder(TransferError),
    NoAddress,
    NoCapability,
    NoSocket(io::Error),
}

async fn resolve(address: &str) -> Option<SocketAddr> {
    if let Ok(address) = address.parse() {
        return Some(address);
    }
    tokio::net::lookup_host(address).await.ok()?.next()
}

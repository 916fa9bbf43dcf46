//! Datagrams in, datagrams out: the chunk protocol's endpoint between a socket and the disks.
//!
//! Invariant: one task owns the endpoint and never waits for the disk. Reads wait in the reader pool's bounded queue,
//! stores in the memory that the endpoint reserved for their uploads; there is no other queue.

mod reader_pool;
mod view;

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use tokio_util::sync::CancellationToken;
use xdpfs_transport::{
    NodeConfig, NodeEndpoint, Peer, Transmit,
    node::{Action, ReadJob, StoreJob, StoreTicket},
    shell::{ReceiveBuffers, Socket},
};
use xdpfs_wire::{CookieSecret, SipKey, Status};

use self::{
    reader_pool::{PoolFull, ReaderPool},
    view::View,
};
use crate::{disks::Disks, node_failure::NodeFailure, node_state::NodeState, store::PutError};

/// The kernel charges a datagram with its buffer's overhead, so only a part of the receive buffer holds payload.
const RECEIVE_BUFFER_SHARE: usize = 3;
/// A writer may always run ahead by this much, however small the receive buffer: one segmented batch.
const CREDIT_BYTES_MIN: u32 = 64 << 10;
/// How long stores that are under way may take when the node stops. Their writers would only ask again elsewhere.
const DRAIN_MAX: Duration = Duration::from_secs(5);
/// A socket that fails so often in a row is broken.
const RECEIVE_FAILURES_MAX: u32 = 100;
/// Between two failures of the socket.
const RECEIVE_PAUSE: Duration = Duration::from_millis(10);

/// A chunk that the store is making durable.
type Storing = BoxFuture<'static, (StoreTicket, Result<(), PutError>)>;

/// The node's end of the chunk protocol.
pub(crate) struct DataPath {
    socket: Arc<Socket>,
    endpoint: NodeEndpoint,
    disks: Disks,
    state: Arc<NodeState>,
    readers: ReaderPool,
    /// As many as the endpoint lets in, each with its upload's memory.
    storing: FuturesUnordered<Storing>,
    reply: Vec<u8>,
    scratch: Vec<u8>,
    receive_failures: u32,
}

impl DataPath {
    /// Takes over the socket. Call inside a tokio runtime.
    ///
    /// # Errors
    /// No thread or no randomness is to be had.
    pub(crate) fn new(socket: Socket, disks: Disks, state: Arc<NodeState>) -> io::Result<Self> {
        let socket = Arc::new(socket);
        let mut secret = [0; 16];
        getrandom::fill(&mut secret)?;
        let endpoint = NodeEndpoint::new(endpoint_config(&socket), CookieSecret(SipKey::from_bytes(secret)));
        let readers = ReaderPool::spawn(&disks, &socket)?;
        Ok(Self {
            socket,
            endpoint,
            disks,
            state,
            readers,
            storing: FuturesUnordered::new(),
            reply: Vec::new(),
            scratch: Vec::new(),
            receive_failures: 0,
        })
    }

    /// Serves until `stop`, then finishes what is under way.
    pub(crate) async fn run(mut self, stop: CancellationToken) -> Result<(), NodeFailure> {
        let mut buffers = ReceiveBuffers::default();
        let socket = Arc::clone(&self.socket);
        let result = loop {
            let timeout = self.endpoint.poll_timeout();
            tokio::select! {
                () = stop.cancelled() => break Ok(()),
                received = socket.receive(&mut buffers) => {
                    if let Err(failure) = self.take(received, &buffers).await {
                        break Err(failure);
                    }
                }
                Some((ticket, result)) = self.storing.next() => self.finish_store(&ticket, result).await,
                () = sleep_until(timeout) => self.endpoint.handle_timeout(Instant::now()),
            }
        };
        self.drain().await;
        result
    }

    async fn take(&mut self, received: io::Result<()>, buffers: &ReceiveBuffers) -> Result<(), NodeFailure> {
        match received {
            Ok(()) => {
                self.receive_failures = 0;
                self.handle_batch(buffers).await;
                Ok(())
            }
            Err(error) => {
                self.receive_failures += 1;
                tracing::warn!(%error, failures = self.receive_failures, "receiving failed");
                if self.receive_failures >= RECEIVE_FAILURES_MAX {
                    return Err(NodeFailure::Socket(Arc::new(error)));
                }
                tokio::time::sleep(RECEIVE_PAUSE).await;
                Ok(())
            }
        }
    }

    async fn handle_batch(&mut self, buffers: &ReceiveBuffers) {
        let view = View::of(&self.state, &self.disks);
        let now = Instant::now();
        for (from, datagram) in buffers.datagrams() {
            match self.endpoint.handle_datagram(now, from, datagram, &view, &mut self.reply) {
                Action::None => {}
                Action::Reply => self.send_reply(from).await,
                Action::Read(job) => self.start_read(job).await,
                Action::Store(job) => self.start_store(job),
            }
        }
        self.state.counters().publish(&self.endpoint.counters());
    }

    async fn start_read(&mut self, job: ReadJob) {
        if let Err(PoolFull) = self.readers.submit(job) {
            job.answer(Instant::now, Err(Status::Busy), &mut self.scratch, &mut self.reply);
            self.state.counters().note_read_put_off();
            self.send_reply(job.from).await;
        }
    }

    fn start_store(&mut self, job: StoreJob) {
        let ticket = job.ticket();
        let put = self.disks.put(job.chunk, job.crc, job.data);
        self.storing.push(Box::pin(async move { (ticket, put.await) }));
    }

    /// The receipt is signed in the registration of this moment, not in that of the request: it says that the chunk
    /// is durable now, which is true, and one view gives its epoch and its key.
    async fn finish_store(&mut self, ticket: &StoreTicket, result: Result<(), PutError>) {
        let view = View::of(&self.state, &self.disks);
        let result = result.map_err(status_of);
        self.endpoint.handle_stored(ticket, result, &view, &mut self.reply);
        self.send_reply(ticket.from).await;
    }

    async fn send_reply(&mut self, to: Peer) {
        send(&self.socket, Transmit::to(to, None), &self.reply).await;
    }

    /// Lets the stores under way end, and their writers know.
    async fn drain(mut self) {
        let finish = async {
            while let Some((ticket, result)) = self.storing.next().await {
                self.finish_store(&ticket, result).await;
            }
        };
        if tokio::time::timeout(DRAIN_MAX, finish).await.is_err() {
            tracing::warn!(stores = self.storing.len(), "stopping without an answer to some writers");
        }
        self.readers.close().await;
    }
}

fn endpoint_config(socket: &Socket) -> NodeConfig {
    let usual = NodeConfig::default();
    let receivable = u32::try_from(socket.receive_buffer_bytes() / RECEIVE_BUFFER_SHARE).unwrap_or(u32::MAX);
    NodeConfig { credit_bytes: usual.credit_bytes.min(receivable).max(CREDIT_BYTES_MIN), ..usual }
}

/// What a writer is told of a store that failed.
const fn status_of(error: PutError) -> Status {
    match error {
        PutError::Busy => Status::Busy,
        PutError::Conflict => Status::Conflict,
        PutError::Corrupt => Status::Corrupt,
        PutError::Failed => Status::Internal,
        PutError::Length => Status::Invalid,
        PutError::NoSpace => Status::NoSpace,
    }
}

/// Datagrams that can't be sent are as good as lost: whoever wanted them asks again.
async fn send(socket: &Socket, transmit: Transmit, contents: &[u8]) {
    if let Err(error) = socket.send(transmit, contents).await {
        tracing::debug!(%error, "a datagram could not be sent");
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

//! [`ClientEndpoint`] behind async functions: a task owns it, the sockets and the timer.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket as StdUdpSocket};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{Notify, mpsc, oneshot};
use xdpfs_wire::{ChunkId, Receipt};

use super::socket::{ReceiveBuffers, Socket};
use crate::client::{
    ClientConfig, ClientEndpoint, Counters, Outcome, SessionKey, Target, TransferError, TransferId,
};
use crate::datagram::Transmit;

/// Transfers that may wait to be taken up by the task.
const COMMANDS_MAX: usize = 256;
/// The kernel charges a datagram with its buffer's overhead, so only a part of the receive buffer holds payload.
const RECEIVE_BUFFER_SHARE: u64 = 3;

/// How a [`ChunkClient`] behaves.
#[derive(Clone, Copy, Debug, Default)]
pub struct ChunkClientConfig {
    /// Windows and timers. The read budget is lowered to what the receive buffer really holds.
    pub endpoint: ClientConfig,
}

/// Reads and writes chunks. Clones share one task and its sockets; the task ends with the last clone.
#[derive(Clone, Debug)]
pub struct ChunkClient {
    commands: mpsc::Sender<Command>,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// A caller has gone away.
    abandoned: Notify,
    counters: Mutex<Counters>,
}

struct Command {
    target: Target,
    session: SessionKey,
    chunk: ChunkId,
    work: Work,
    done: oneshot::Sender<Result<Outcome, TransferError>>,
}

enum Work {
    Read(Range<u32>),
    Write(Bytes, u32),
    Confirm { length: u32, crc: u32 },
}

impl ChunkClient {
    /// Binds the sockets and starts the task. Call inside a tokio runtime.
    ///
    /// # Errors
    /// No socket can be bound, or no randomness is to be had.
    pub fn bind(config: ChunkClientConfig) -> io::Result<Self> {
        let ipv4 = Socket::new(StdUdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?)?;
        // Hosts without IPv6 are normal; nodes with IPv6 addresses are then out of reach.
        let ipv6 = StdUdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).and_then(Socket::new).ok();
        let mut endpoint = config.endpoint;
        let receivable = ipv4.receive_buffer_bytes() as u64 / RECEIVE_BUFFER_SHARE;
        endpoint.read_budget_bytes = endpoint.read_budget_bytes.min(receivable);
        let mut seed = [0; 4];
        getrandom::fill(&mut seed).map_err(io::Error::other)?;
        let (commands, inbox) = mpsc::channel(COMMANDS_MAX);
        let shared = Arc::new(Shared::default());
        let driver = Driver {
            endpoint: ClientEndpoint::new(endpoint, u32::from_le_bytes(seed)),
            sockets: Sockets { ipv4, ipv6 },
            waiting: HashMap::new(),
            shared: Arc::clone(&shared),
        };
        tokio::spawn(driver.run(inbox));
        Ok(Self { commands, shared })
    }

    /// Reads `range` of a chunk. Dropping the future cancels the read.
    ///
    /// # Errors
    /// See [`TransferError`]. An empty range is answered without asking anybody.
    pub async fn read(
        &self,
        target: Target,
        session: SessionKey,
        chunk: ChunkId,
        range: Range<u32>,
    ) -> Result<Bytes, TransferError> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        match self.transfer(target, session, chunk, Work::Read(range)).await? {
            Outcome::Read(bytes) => Ok(bytes),
            Outcome::Durable(_) => Err(TransferError::Corrupt),
        }
    }

    /// Writes a whole chunk and waits for the node's receipt. Dropping the future cancels the write.
    ///
    /// # Errors
    /// See [`TransferError`].
    ///
    /// # Panics
    /// If `data` is empty: no chunk is.
    pub async fn write(
        &self,
        target: Target,
        session: SessionKey,
        chunk: ChunkId,
        data: Bytes,
        crc: u32,
    ) -> Result<Receipt, TransferError> {
        assert!(!data.is_empty(), "a chunk has at least one byte");
        self.receipt_for(target, session, chunk, Work::Write(data, crc)).await
    }

    /// Asks for a receipt for a chunk that the node should already hold.
    ///
    /// # Errors
    /// `Refused(NotOpen)` if it doesn't; otherwise see [`TransferError`].
    pub async fn receipt(
        &self,
        target: Target,
        session: SessionKey,
        chunk: ChunkId,
        length: u32,
        crc: u32,
    ) -> Result<Receipt, TransferError> {
        self.receipt_for(target, session, chunk, Work::Confirm { length, crc }).await
    }

    /// What has been seen and done since the start.
    #[must_use]
    pub fn counters(&self) -> Counters {
        *self.shared.counters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn receipt_for(
        &self,
        target: Target,
        session: SessionKey,
        chunk: ChunkId,
        work: Work,
    ) -> Result<Receipt, TransferError> {
        match self.transfer(target, session, chunk, work).await? {
            Outcome::Durable(receipt) => Ok(receipt),
            Outcome::Read(_) => Err(TransferError::Corrupt),
        }
    }

    async fn transfer(
        &self,
        target: Target,
        session: SessionKey,
        chunk: ChunkId,
        work: Work,
    ) -> Result<Outcome, TransferError> {
        let (done, outcome) = oneshot::channel();
        let command = Command { target, session, chunk, work, done };
        self.commands.send(command).await.map_err(|_| TransferError::Closed)?;
        let mut guard = AbandonGuard { shared: &self.shared, armed: true };
        let outcome = outcome.await;
        guard.armed = false;
        outcome.unwrap_or(Err(TransferError::Closed))
    }
}

/// Wakes the task when a caller stops waiting.
struct AbandonGuard<'a> {
    shared: &'a Shared,
    armed: bool,
}

impl Drop for AbandonGuard<'_> {
    fn drop(&mut self) {
        if self.armed {
            self.shared.abandoned.notify_one();
        }
    }
}

struct Sockets {
    ipv4: Socket,
    ipv6: Option<Socket>,
}

impl Sockets {
    async fn send(&self, transmit: Transmit, contents: &[u8]) {
        let socket = match transmit.destination {
            SocketAddr::V4(_) => Some(&self.ipv4),
            SocketAddr::V6(_) => self.ipv6.as_ref(),
        };
        let Some(socket) = socket else { return };
        if let Err(error) = socket.send(transmit, contents).await {
            // As good as lost; the transfer's patience decides.
            tracing::debug!(%error, "a datagram could not be sent");
        }
    }
}

struct Driver {
    endpoint: ClientEndpoint,
    sockets: Sockets,
    waiting: HashMap<TransferId, oneshot::Sender<Result<Outcome, TransferError>>>,
    shared: Arc<Shared>,
}

impl Driver {
    async fn run(mut self, mut inbox: mpsc::Receiver<Command>) {
        let shared = Arc::clone(&self.shared);
        let (mut ipv4, mut ipv6) = (ReceiveBuffers::default(), ReceiveBuffers::default());
        let mut outgoing = Vec::new();
        loop {
            self.flush(&mut outgoing).await;
            let timeout = self.endpoint.poll_timeout();
            tokio::select! {
                command = inbox.recv() => match command {
                    Some(command) => self.start(command),
                    None => return,
                },
                result = self.sockets.ipv4.receive(&mut ipv4) => self.take(result, &ipv4),
                result = receive_if(self.sockets.ipv6.as_ref(), &mut ipv6) => self.take(result, &ipv6),
                () = sleep_until(timeout) => self.endpoint.handle_timeout(Instant::now()),
                () = shared.abandoned.notified() => self.cancel_abandoned(),
            }
        }
    }

    async fn flush(&mut self, outgoing: &mut Vec<u8>) {
        while let Some(transmit) = self.endpoint.poll_transmit(Instant::now(), outgoing) {
            self.sockets.send(transmit, outgoing).await;
        }
        while let Some(event) = self.endpoint.poll_event() {
            if let Some(done) = self.waiting.remove(&event.transfer) {
                // Nobody may wait any more; then nobody misses it.
                let _ = done.send(event.outcome);
            }
        }
        *self.shared.counters.lock().unwrap_or_else(PoisonError::into_inner) = self.endpoint.counters();
    }

    fn start(&mut self, command: Command) {
        let Command { target, session, chunk, work, done } = command;
        let now = Instant::now();
        let transfer = match work {
            Work::Read(range) => self.endpoint.read(now, target, session, chunk, range),
            Work::Write(data, crc) => self.endpoint.write(now, target, session, chunk, data, crc),
            Work::Confirm { length, crc } => self.endpoint.confirm(now, target, session, chunk, length, crc),
        };
        self.waiting.insert(transfer, done);
    }

    fn take(&mut self, result: io::Result<()>, buffers: &ReceiveBuffers) {
        match result {
            Ok(()) => {
                let now = Instant::now();
                for (from, datagram) in buffers.datagrams() {
                    self.endpoint.handle_datagram(now, from.address, datagram);
                }
                self.endpoint.handle_timeout(now);
            }
            Err(error) => tracing::warn!(%error, "receiving failed"),
        }
    }

    fn cancel_abandoned(&mut self) {
        let endpoint = &mut self.endpoint;
        self.waiting.retain(|transfer, done| {
            if done.is_closed() {
                endpoint.cancel(*transfer);
            }
            !done.is_closed()
        });
    }
}

async fn receive_if(socket: Option<&Socket>, buffers: &mut ReceiveBuffers) -> io::Result<()> {
    match socket {
        Some(socket) => socket.receive(buffers).await,
        None => std::future::pending().await,
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.max(Instant::now() + TIMER_GRAIN).into()).await,
        None => std::future::pending().await,
    }
}

/// Timers closer than this would only spin.
const TIMER_GRAIN: Duration = Duration::from_micros(200);

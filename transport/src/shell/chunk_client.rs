//! [`ClientEndpoint`] behind async functions: a task owns it, the sockets and the timer.

use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket as StdUdpSocket};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{Notify, mpsc, oneshot};
use xdpfs_wire::{ChunkId, Receipt};

use super::socket::{ReceiveBuffers, Socket};
use crate::client::{
    ClientConfig, ClientEndpoint, Counters, Outcome, SessionKey, Target, TransferError, TransferId,
};
use crate::datagram::{LANES_MAX, Transmit};

/// Transfers that may wait to be taken up by the task.
const COMMANDS_MAX: usize = 256;
/// System calls that bring datagrams before timers are looked at.
const RECEIVES_MAX: usize = 64;
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
        let ipv4 = bind(Ipv4Addr::UNSPECIFIED.into())?;
        // Hosts without IPv6 are normal; nodes with IPv6 addresses are then out of reach.
        let ipv6 = bind(Ipv6Addr::UNSPECIFIED.into()).ok();
        let mut endpoint = config.endpoint;
        let receivable = ipv4.receive_buffer_bytes() as u64 / RECEIVE_BUFFER_SHARE;
        endpoint.read_budget_bytes = endpoint.read_budget_bytes.min(receivable);
        let mut seed = [0; 4];
        getrandom::fill(&mut seed).map_err(io::Error::other)?;
        let (commands, inbox) = mpsc::channel(COMMANDS_MAX);
        let shared = Arc::new(Shared::default());
        let driver = Driver {
            endpoint: ClientEndpoint::new(endpoint, u32::from_le_bytes(seed)),
            sockets: Sockets { ipv4: vec![ipv4], ipv6: ipv6.into_iter().collect() },
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

/// The client's ports. Further ones are bound when a path is to be tried from another port.
struct Sockets {
    /// In the order of their lanes.
    ipv4: Vec<Socket>,
    ipv6: Vec<Socket>,
}

impl Sockets {
    async fn send(&mut self, transmit: Transmit, contents: &[u8]) {
        let (lanes, any) = match transmit.destination {
            SocketAddr::V4(_) => (&mut self.ipv4, IpAddr::from(Ipv4Addr::UNSPECIFIED)),
            SocketAddr::V6(_) => (&mut self.ipv6, IpAddr::from(Ipv6Addr::UNSPECIFIED)),
        };
        let lane = usize::from(transmit.lane.min(LANES_MAX - 1));
        if !lanes.is_empty() && lanes.len() <= lane {
            match bind(any) {
                Ok(socket) => lanes.push(socket),
                Err(error) => tracing::debug!(%error, "no further port can be bound"),
            }
        }
        let Some(socket) = lanes.get(lane).or(lanes.last()) else { return };
        if let Err(error) = socket.send(transmit, contents).await {
            // As good as lost; the transfer's patience decides.
            tracing::debug!(%error, "a datagram could not be sent");
        }
    }

    /// Fills `buffers` from some socket; whether anything was there.
    fn try_receive(&self, buffers: &mut ReceiveBuffers) -> io::Result<bool> {
        for socket in self.ipv4.iter().chain(&self.ipv6) {
            if socket.try_receive(buffers)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Waits until there may be something to receive.
    async fn readable(&self) -> io::Result<()> {
        poll_fn(|cx| {
            let all = self.ipv4.iter().chain(&self.ipv6);
            all.map(|socket| socket.poll_readable(cx)).find(Poll::is_ready).unwrap_or(Poll::Pending)
        })
        .await
    }
}

fn bind(address: IpAddr) -> io::Result<Socket> {
    Socket::new(StdUdpSocket::bind((address, 0))?)
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
        let mut incoming = ReceiveBuffers::default();
        let mut outgoing = Vec::new();
        loop {
            self.flush(&mut outgoing).await;
            let timeout = self.endpoint.poll_timeout();
            tokio::select! {
                command = inbox.recv() => match command {
                    Some(command) => self.start(command),
                    None => return,
                },
                readable = self.sockets.readable() => {
                    if let Err(error) = readable {
                        tracing::warn!(%error, "waiting for datagrams failed");
                    }
                }
                () = sleep_until(timeout) => {}
                () = shared.abandoned.notified() => self.cancel_abandoned(),
            }
            while let Ok(command) = inbox.try_recv() {
                self.start(command);
            }
            self.take_all(&mut incoming, &mut outgoing).await;
        }
    }

    /// Takes what has come before it looks at timers: a client that was not scheduled finds its answers waiting.
    async fn take_all(&mut self, incoming: &mut ReceiveBuffers, outgoing: &mut Vec<u8>) {
        for _ in 0..RECEIVES_MAX {
            match self.sockets.try_receive(incoming) {
                Ok(true) => {
                    let now = Instant::now();
                    for (from, datagram) in incoming.datagrams() {
                        self.endpoint.handle_datagram(now, from.address, datagram);
                    }
                    // What follows is asked for while the rest is being read.
                    self.flush(outgoing).await;
                }
                Ok(false) => break,
                Err(error) => {
                    tracing::warn!(%error, "receiving failed");
                    break;
                }
            }
        }
        let now = Instant::now();
        if self.endpoint.poll_timeout().is_some_and(|due| due <= now) {
            self.endpoint.handle_timeout(now);
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
        let counters = self.endpoint.counters();
        let before = std::mem::replace(
            &mut *self.shared.counters.lock().unwrap_or_else(PoisonError::into_inner),
            counters,
        );
        if counters.paths_one_by_one > before.paths_one_by_one {
            tracing::warn!(
                paths = counters.paths_one_by_one,
                "super-packets are damaged or lost on the way: datagrams travel one by one"
            );
        }
    }

    fn start(&mut self, command: Command) {
        let Command { target, session, chunk, work, done } = command;
        // The caller has gone away before the task took it up, and nothing would wake it for that again.
        if done.is_closed() {
            return;
        }
        let now = Instant::now();
        let transfer = match work {
            Work::Read(range) => self.endpoint.read(now, target, session, chunk, range),
            Work::Write(data, crc) => self.endpoint.write(now, target, session, chunk, data, crc),
            Work::Confirm { length, crc } => self.endpoint.confirm(now, target, session, chunk, length, crc),
        };
        self.waiting.insert(transfer, done);
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

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.max(Instant::now() + TIMER_GRAIN).into()).await,
        None => std::future::pending().await,
    }
}

/// Timers closer than this would only spin.
const TIMER_GRAIN: Duration = Duration::from_micros(200);

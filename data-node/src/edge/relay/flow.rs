//! One client as nodes see it: a socket of its own, so that what nodes answer finds its way back.
//!
//! Invariant: only what a node of this edge sends goes back to a client, and it goes from the address that the client
//! asked. All flows share a few receive buffers.

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::{Semaphore, watch};
use tokio_util::task::{AbortOnDropHandle, TaskTracker};
use xdpfs_transport::{
    Peer, Transmit,
    shell::{ReceiveBuffers, Socket},
};

use super::{Event, RelayCounters};
use crate::edge::table::Table;

/// Flows that receive at the same time. Each buffer takes half a MiB.
const BUFFERS: usize = 4;
/// Rounds of receiving for one flow before others get the buffer.
const ROUNDS_MAX: usize = 8;

/// Which flow a datagram belongs to.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct FlowKey {
    client: SocketAddr,
    /// Which address of the edge the client asked.
    asked: Option<IpAddr>,
    /// A socket reaches nodes of one IP version.
    node_is_v6: bool,
}

/// A socket, and the task that carries replies back from it. The task ends with it.
#[derive(Debug)]
pub(super) struct Flow {
    socket: Arc<Socket>,
    port: u16,
    returns: Arc<Returns>,
    _task: AbortOnDropHandle<()>,
}

/// What the ways back of all flows share.
#[derive(Debug)]
pub(super) struct Returns {
    listener: Arc<Socket>,
    tables: watch::Receiver<Arc<Table>>,
    counters: Arc<RelayCounters>,
    tasks: TaskTracker,
    turns: Semaphore,
    buffers: Mutex<Vec<ReceiveBuffers>>,
    /// Of all flows.
    ports: Mutex<BTreeSet<u16>>,
}

impl FlowKey {
    pub(super) fn new(client: Peer, node: SocketAddr) -> Self {
        Self { client: client.address, asked: client.local, node_is_v6: node.is_ipv6() }
    }

    /// Where the flow's socket is bound.
    pub(super) fn own_address(self) -> SocketAddr {
        if self.node_is_v6 { (Ipv6Addr::UNSPECIFIED, 0).into() } else { (Ipv4Addr::UNSPECIFIED, 0).into() }
    }

    fn client(self) -> Peer {
        Peer { address: self.client, local: self.asked }
    }
}

impl Flow {
    /// Starts to carry back what the socket receives.
    pub(super) fn start(socket: UdpSocket, key: FlowKey, returns: &Arc<Returns>) -> io::Result<Self> {
        let socket = Arc::new(Socket::new(socket)?);
        let port = socket.local_addr()?.port();
        returns.ports().insert(port);
        let task = Arc::clone(returns).carry(Arc::clone(&socket), key.client());
        let task = AbortOnDropHandle::new(returns.tasks.spawn(task));
        Ok(Self { socket, port, returns: Arc::clone(returns), _task: task })
    }

    pub(super) fn socket(&self) -> Arc<Socket> {
        Arc::clone(&self.socket)
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.returns.ports().remove(&self.port);
    }
}

impl Returns {
    pub(super) fn new(
        listener: Arc<Socket>,
        tables: watch::Receiver<Arc<Table>>,
        counters: Arc<RelayCounters>,
    ) -> Self {
        Self {
            listener,
            tables,
            counters,
            tasks: TaskTracker::new(),
            turns: Semaphore::new(BUFFERS),
            buffers: Mutex::default(),
            ports: Mutex::default(),
        }
    }

    /// Whether the relay itself has sent this, by one of its flows.
    pub(super) fn is_flow(&self, from: Peer) -> bool {
        let ip = from.address.ip();
        (ip.is_loopback() || from.local == Some(ip)) && self.ports().contains(&from.address.port())
    }

    /// Resolves once no flow's task is left.
    pub(super) async fn ended(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Carries replies to `client` until the socket breaks.
    async fn carry(self: Arc<Self>, socket: Arc<Socket>, client: Peer) {
        loop {
            if let Err(error) = self.take_turn(&socket, client).await {
                tracing::debug!(%error, "a flow has ended");
                return;
            }
        }
    }

    async fn take_turn(&self, socket: &Socket, client: Peer) -> io::Result<()> {
        socket.readable().await?;
        let Ok(_turn) = self.turns.acquire().await else { return Err(io::ErrorKind::NotConnected.into()) };
        // Abandoned with the flow, they are made anew.
        let mut buffers = self.buffers().pop().unwrap_or_default();
        for _ in 0..ROUNDS_MAX {
            if !socket.try_receive(&mut buffers)? {
                break;
            }
            self.hand_back(&buffers, client).await;
        }
        self.buffers().push(buffers);
        Ok(())
    }

    async fn hand_back(&self, buffers: &ReceiveBuffers, client: Peer) {
        let table = Arc::clone(&self.tables.borrow());
        for batch in buffers.batches() {
            let datagrams = batch.bytes.len().div_ceil(batch.segment_size);
            if !table.is_node(batch.from.address) {
                self.counters.count_many(Event::Stranger, datagrams);
                continue;
            }
            let segment_size = (datagrams > 1).then_some(batch.segment_size);
            send(&self.listener, Transmit::to(client, segment_size), batch.bytes).await;
            self.counters.count_many(Event::Returned, datagrams);
        }
    }

    fn buffers(&self) -> std::sync::MutexGuard<'_, Vec<ReceiveBuffers>> {
        self.buffers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ports(&self) -> std::sync::MutexGuard<'_, BTreeSet<u16>> {
        self.ports.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Datagrams that can't be sent are as good as lost: whoever wanted them asks again.
pub(super) async fn send(socket: &Socket, transmit: Transmit, contents: &[u8]) {
    if let Err(error) = socket.send(transmit, contents).await {
        tracing::debug!(%error, "a datagram could not be relayed");
    }
}

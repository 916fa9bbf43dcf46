//! A UDP socket with segmentation offload on send and receive, where the kernel has it.

use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket as StdUdpSocket};

use quinn_udp::{RecvMeta, UdpSockRef, UdpSocketState};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use crate::datagram::Transmit;

/// Datagrams that one system call may bring.
const BATCH: usize = 8;
/// Room for whatever the kernel coalesces: it may fill a message up to the largest UDP payload.
const BUFFER_LEN: usize = 1 << 16;
/// Asked of the kernel; what it gave is read back.
const KERNEL_BUFFER_LEN: usize = 8 << 20;

/// A bound socket.
#[derive(Debug)]
pub struct Socket {
    io: UdpSocket,
    state: UdpSocketState,
    receive_buffer_bytes: usize,
}

/// Where received datagrams lie until they are handled.
#[derive(Debug)]
pub struct ReceiveBuffers {
    bytes: Vec<u8>,
    metas: [RecvMeta; BATCH],
    filled: usize,
}

impl Default for ReceiveBuffers {
    fn default() -> Self {
        Self { bytes: vec![0; BATCH * BUFFER_LEN], metas: [RecvMeta::default(); BATCH], filled: 0 }
    }
}

impl ReceiveBuffers {
    /// Each received datagram, with where it came from.
    pub fn datagrams(&self) -> impl Iterator<Item = (SocketAddr, &[u8])> {
        let messages = self.bytes.chunks(BUFFER_LEN).zip(&self.metas).take(self.filled);
        messages.flat_map(|(buffer, meta)| {
            let bytes = buffer.get(..meta.len).unwrap_or_default();
            bytes.chunks(meta.stride.max(1)).map(|datagram| (meta.addr, datagram))
        })
    }
}

impl Socket {
    /// Takes over a bound socket. Call inside a tokio runtime.
    ///
    /// # Errors
    /// The kernel refuses an option that the protocol can't do without.
    pub fn new(socket: StdUdpSocket) -> io::Result<Self> {
        enlarge_buffers(&socket);
        let state = UdpSocketState::new(UdpSockRef::from(&socket))?;
        let receive_buffer_bytes = state.recv_buffer_size(UdpSockRef::from(&socket))?;
        socket.set_nonblocking(true)?;
        Ok(Self { io: UdpSocket::from_std(socket)?, state, receive_buffer_bytes })
    }

    /// Where the socket is bound.
    ///
    /// # Errors
    /// The kernel doesn't say.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.io.local_addr()
    }

    /// What the kernel allows to wait in the receive buffer, its own overhead included.
    #[must_use]
    pub fn receive_buffer_bytes(&self) -> usize {
        self.receive_buffer_bytes
    }

    /// Sends `contents` as `transmit` says, waiting while the kernel's buffer is full.
    ///
    /// # Errors
    /// The path or the socket refuses a datagram, for example as too long. Nothing from it on is sent, which counts as
    /// lost: the protocol asks again.
    pub async fn send(&self, transmit: Transmit, contents: &[u8]) -> io::Result<()> {
        let segment_size = transmit.segment_size.unwrap_or(contents.len()).max(1);
        let batch = segment_size * self.state.max_gso_segments().max(1);
        for part in contents.chunks(batch) {
            let message = quinn_udp::Transmit {
                destination: transmit.destination,
                ecn: None,
                contents: part,
                segment_size: (part.len() > segment_size).then_some(segment_size),
                src_ip: None,
            };
            self.io
                .async_io(Interest::WRITABLE, || self.state.try_send(UdpSockRef::from(&self.io), &message))
                .await?;
        }
        Ok(())
    }

    /// Waits for datagrams and fills `buffers` with them. Safe to cancel.
    ///
    /// # Errors
    /// The socket is broken. Errors of single datagrams (ICMP) are not errors of the socket.
    pub async fn receive(&self, buffers: &mut ReceiveBuffers) -> io::Result<()> {
        buffers.filled = 0;
        let mut slices: Vec<IoSliceMut<'_>> =
            buffers.bytes.chunks_mut(BUFFER_LEN).map(IoSliceMut::new).collect();
        let metas = &mut buffers.metas;
        let received = self
            .io
            .async_io(Interest::READABLE, || self.state.recv(UdpSockRef::from(&self.io), &mut slices, metas))
            .await;
        match received {
            Ok(filled) => buffers.filled = filled,
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

/// Large buffers keep a burst from many nodes whole. With CAP_NET_ADMIN the system's maximum doesn't bind; without,
/// the kernel clamps silently, which is why the real size is read back.
fn enlarge_buffers(socket: &StdUdpSocket) {
    use rustix::net::sockopt;
    let bytes = KERNEL_BUFFER_LEN;
    let results = [
        sockopt::set_socket_recv_buffer_size_force(socket, bytes)
            .or_else(|_| sockopt::set_socket_recv_buffer_size(socket, bytes)),
        sockopt::set_socket_send_buffer_size(socket, bytes),
    ];
    for error in results.into_iter().filter_map(Result::err) {
        tracing::debug!(%error, "the kernel keeps its socket buffer size");
    }
}

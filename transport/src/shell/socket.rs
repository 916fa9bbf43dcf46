//! A UDP socket with segmentation offload on send and receive, where the kernel has it.

use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket as StdUdpSocket};
use std::task::{self, Poll};

use quinn_udp::{RecvMeta, UdpSockRef, UdpSocketState};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use crate::datagram::{Peer, Transmit};

/// Datagrams that one system call may bring.
const BATCH: usize = 8;
/// Room for whatever the kernel coalesces: it may fill a message up to the largest UDP payload.
const BUFFER_LEN: usize = 1 << 16;
/// Bytes asked of the kernel for either buffer; what it gave is read back.
pub const KERNEL_BUFFER_LEN: usize = 8 << 20;

/// A bound socket.
#[derive(Debug)]
pub struct Socket {
    io: UdpSocket,
    state: UdpSocketState,
    /// Whether datagrams may arrive at several addresses of this host.
    has_many_addresses: bool,
    receive_buffer_bytes: usize,
}

/// Where received datagrams lie until they are handled.
#[derive(Debug)]
pub struct ReceiveBuffers {
    bytes: Vec<u8>,
    metas: [RecvMeta; BATCH],
    filled: usize,
}

/// Datagrams of one sender, merged by the kernel.
#[derive(Clone, Copy, Debug)]
pub struct ReceivedBatch<'a> {
    /// The sender.
    pub from: Peer,
    /// Bytes in each datagram but the last.
    pub segment_size: usize,
    /// One datagram behind the other.
    pub bytes: &'a [u8],
}

impl<'a> ReceivedBatch<'a> {
    fn datagrams(self) -> impl Iterator<Item = (Peer, &'a [u8])> {
        self.bytes.chunks(self.segment_size).map(move |datagram| (self.from, datagram))
    }
}

impl Default for ReceiveBuffers {
    fn default() -> Self {
        Self { bytes: vec![0; BATCH * BUFFER_LEN], metas: [RecvMeta::default(); BATCH], filled: 0 }
    }
}

impl ReceiveBuffers {
    /// Each received datagram, with where it came from.
    pub fn datagrams(&self) -> impl Iterator<Item = (Peer, &[u8])> {
        self.batches().flat_map(ReceivedBatch::datagrams)
    }

    /// What was received, as the kernel had merged it.
    pub fn batches(&self) -> impl Iterator<Item = ReceivedBatch<'_>> {
        let messages = self.bytes.chunks(BUFFER_LEN).zip(&self.metas).take(self.filled);
        messages.map(|(buffer, meta)| ReceivedBatch {
            from: Peer { address: meta.addr, local: meta.dst_ip },
            segment_size: meta.stride.max(1),
            bytes: buffer.get(..meta.len).unwrap_or_default(),
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
        let has_many_addresses = socket.local_addr()?.ip().is_unspecified();
        socket.set_nonblocking(true)?;
        Ok(Self { io: UdpSocket::from_std(socket)?, state, has_many_addresses, receive_buffer_bytes })
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
        let segments_max = if transmit.one_by_one { 1 } else { self.state.max_gso_segments().max(1) };
        for part in contents.chunks(segment_size * segments_max) {
            let segments = part.len().div_ceil(segment_size);
            match self.send_part(transmit, part, segment_size).await {
                // The kernel or the card won't segment: then this socket sends single datagrams from here on.
                Err(_) if segments > 1 && self.state.max_gso_segments() <= 1 => {
                    for datagram in part.chunks(segment_size) {
                        self.send_part(transmit, datagram, segment_size).await?;
                    }
                }
                sent => sent?,
            }
        }
        Ok(())
    }

    async fn send_part(&self, transmit: Transmit, part: &[u8], segment_size: usize) -> io::Result<()> {
        let message = quinn_udp::Transmit {
            destination: transmit.destination,
            ecn: None,
            contents: part,
            segment_size: (part.len() > segment_size).then_some(segment_size),
            src_ip: transmit.source.filter(|_| self.has_many_addresses),
        };
        let send = || self.state.try_send(UdpSockRef::from(&self.io), &message);
        self.io.async_io(Interest::WRITABLE, send).await
    }

    /// Whether the kernel takes several datagrams in one call here, as far as has been seen.
    #[must_use]
    pub fn segments_datagrams(&self) -> bool {
        self.state.max_gso_segments() > 1
    }

    /// Waits for datagrams and fills `buffers` with them. Safe to cancel.
    ///
    /// # Errors
    /// The socket is broken. Errors of single datagrams (ICMP) are not errors of the socket.
    pub async fn receive(&self, buffers: &mut ReceiveBuffers) -> io::Result<()> {
        buffers.filled = 0;
        let mut slices = buffers.bytes.chunks_mut(BUFFER_LEN).map(IoSliceMut::new).collect::<Vec<_>>();
        let metas = &mut buffers.metas;
        let receive = || self.state.recv(UdpSockRef::from(&self.io), &mut slices, metas);
        let received = self.io.async_io(Interest::READABLE, receive).await;
        buffers.filled = filled(received)?;
        Ok(())
    }

    /// Waits until there may be datagrams to receive, so that many sockets can share a few buffers.
    ///
    /// # Errors
    /// The socket is broken.
    pub async fn readable(&self) -> io::Result<()> {
        self.io.readable().await
    }

    /// The same, for whoever waits for several sockets at once.
    pub(super) fn poll_readable(&self, cx: &mut task::Context<'_>) -> Poll<io::Result<()>> {
        self.io.poll_recv_ready(cx)
    }

    /// Fills `buffers` with datagrams that have arrived; whether there were any.
    ///
    /// # Errors
    /// The socket is broken. Errors of single datagrams (ICMP) are not errors of the socket.
    pub fn try_receive(&self, buffers: &mut ReceiveBuffers) -> io::Result<bool> {
        buffers.filled = 0;
        let mut slices = buffers.bytes.chunks_mut(BUFFER_LEN).map(IoSliceMut::new).collect::<Vec<_>>();
        let metas = &mut buffers.metas;
        let receive = || self.state.recv(UdpSockRef::from(&self.io), &mut slices, metas);
        match self.io.try_io(Interest::READABLE, receive) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            received => {
                buffers.filled = filled(received)?;
                Ok(true)
            }
        }
    }
}

/// How many messages were received. What ICMP says of an earlier datagram is not an error of the socket.
fn filled(received: io::Result<usize>) -> io::Result<usize> {
    match received {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(0),
        received => received,
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A client that hears only the address that it speaks to.
    fn client_of(server: &str) -> StdUdpSocket {
        let server: SocketAddr = server.parse().unwrap();
        let own = if server.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" };
        let client = StdUdpSocket::bind(own).unwrap();
        client.connect(server).unwrap();
        client.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
        client
    }

    async fn echo(socket: &Socket) {
        let mut buffers = ReceiveBuffers::default();
        while buffers.filled == 0 {
            socket.receive(&mut buffers).await.unwrap();
        }
        for (from, datagram) in buffers.datagrams() {
            socket.send(Transmit::to(from, None), datagram).await.unwrap();
        }
    }

    #[tokio::test]
    async fn answers_come_from_the_address_that_was_asked() {
        let check = async |listen: &str, asked: &[&str]| {
            let socket = Socket::new(StdUdpSocket::bind(listen).unwrap()).unwrap();
            let port = socket.local_addr().unwrap().port();
            for address in asked {
                let client = client_of(&format!("{address}:{port}"));
                client.send(b"who?").unwrap();
                echo(&socket).await;
                let mut answer = [0; 16];
                let received = client.recv(&mut answer);
                assert!(matches!(received, Ok(4)), "{listen} asked at {address}: {received:?}");
            }
        };
        check("0.0.0.0:0", &["127.0.0.1", "127.0.0.2", "127.3.2.1"]).await;
        check("127.0.0.2:0", &["127.0.0.2"]).await;
        check("[::]:0", &["[::1]", "127.0.0.1", "127.0.0.2"]).await;
    }

    /// Without checksums there is no segmentation, so the kernel refuses it.
    fn end_checksums(socket: &StdUdpSocket) {
        use std::os::fd::AsRawFd as _;
        let (one, length) = (1_i32, size_of::<i32>() as libc::socklen_t);
        // SAFETY: the pointer is to `length` bytes that live through the call.
        let result = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_NO_CHECK,
                std::ptr::from_ref(&one).cast(),
                length,
            )
        };
        assert_eq!(result, 0);
    }

    #[tokio::test]
    async fn what_the_kernel_will_not_segment_leaves_one_by_one() {
        let receiver = StdUdpSocket::bind("127.0.0.1:0").unwrap();
        receiver.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
        let sender = StdUdpSocket::bind("127.0.0.1:0").unwrap();
        end_checksums(&sender);
        let sender = Socket::new(sender).unwrap();
        let bytes: Vec<u8> = (0..440_u32).map(|at| at as u8).collect();
        let to = Transmit::to(receiver.local_addr().unwrap().into(), Some(100));
        sender.send(to, &bytes).await.unwrap();
        for expect in bytes.chunks(100) {
            let mut datagram = [0; 1000];
            let length = receiver.recv(&mut datagram).unwrap();
            assert_eq!(&datagram[..length], expect);
        }
        assert!(!sender.segments_datagrams());
    }

    #[tokio::test]
    async fn sockets_that_share_buffers_wait_for_their_turn_to_fill_them() {
        let sockets = [(); 2].map(|()| Socket::new(StdUdpSocket::bind("127.0.0.1:0").unwrap()).unwrap());
        let mut buffers = ReceiveBuffers::default();
        for socket in &sockets {
            assert!(!socket.try_receive(&mut buffers).unwrap(), "nothing has come");
            client_of(&socket.local_addr().unwrap().to_string()).send(b"hello").unwrap();
            while !socket.try_receive(&mut buffers).unwrap() {
                socket.readable().await.unwrap();
            }
            let batches: Vec<_> = buffers.batches().map(|batch| batch.bytes).collect();
            assert_eq!(batches, [b"hello"]);
        }
    }
}

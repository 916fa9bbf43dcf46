//! A node that is a socket only: it hears what is sent to it, and says what it is told to.

use std::net::SocketAddr;

use tokio::net::UdpSocket;

use crate::in_time;

pub(crate) struct FakeNode {
    pub(crate) id: u16,
    socket: UdpSocket,
}

impl FakeNode {
    pub(crate) async fn start(id: u16) -> Self {
        Self { id, socket: UdpSocket::bind("127.0.0.1:0").await.unwrap() }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.socket.local_addr().unwrap()
    }

    /// The next datagram, and the flow that it comes from.
    pub(crate) async fn hear(&self) -> (SocketAddr, Vec<u8>) {
        let mut bytes = vec![0; 1 << 16];
        let (len, from) = in_time("a datagram", self.socket.recv_from(&mut bytes)).await.unwrap();
        bytes.truncate(len);
        (from, bytes)
    }

    pub(crate) async fn say(&self, to: SocketAddr, words: &[u8]) {
        self.socket.send_to(words, to).await.unwrap();
    }
}

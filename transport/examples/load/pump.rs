//! What the kernel does at best: a request of a few bytes is answered by one segmented send of bytes that lie ready, and the
//! receiver counts what comes. No checksum, no tag, no copy besides the kernel's.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use xdpfs_transport::shell::{ReceiveBuffers, Socket};
use xdpfs_transport::{BURST_BYTES_MAX, Peer, Transmit};

use crate::Result;

/// As many bytes as the chunk protocol asks for at most.
const OUTSTANDING_MAX: usize = 2 << 20;
const WARM_UP: Duration = Duration::from_millis(300);
/// Whatever was on its way then was lost.
const PATIENCE: Duration = Duration::from_millis(50);

pub(crate) async fn serve(address: SocketAddr) -> Result<String> {
    let socket = Socket::new(UdpSocket::bind(address)?)?;
    let ready = vec![0x5a; BURST_BYTES_MAX];
    let mut buffers = ReceiveBuffers::default();
    loop {
        socket.receive(&mut buffers).await?;
        for (from, request) in buffers.datagrams() {
            let Some(datagram) = request.first_chunk::<4>().map(|bytes| u32::from_le_bytes(*bytes) as usize)
            else {
                continue;
            };
            let _lost = socket.send(Transmit::to(from, Some(datagram)), &ready[..burst(datagram)]).await;
        }
    }
}

/// Bytes of the datagrams of this length that make up a burst.
const fn burst(datagram: usize) -> usize {
    BURST_BYTES_MAX / datagram * datagram
}

pub(crate) async fn pump(address: SocketAddr, datagram: usize, time: Duration) -> Result<String> {
    let any: IpAddr = if address.is_ipv4() { [0, 0, 0, 0].into() } else { [0_u16; 8].into() };
    let socket = Socket::new(UdpSocket::bind((any, 0))?)?;
    let request = (datagram as u32).to_le_bytes();
    let room = OUTSTANDING_MAX.min(socket.receive_buffer_bytes() / 3);
    let mut buffers = ReceiveBuffers::default();
    let (from, until) = (Instant::now() + WARM_UP, Instant::now() + WARM_UP + time);
    let (mut outstanding, mut counted) = (0, 0);
    loop {
        while outstanding < room {
            socket.send(Transmit::to(Peer::from(address), None), &request).await?;
            outstanding += burst(datagram);
        }
        match tokio::time::timeout(PATIENCE, socket.receive(&mut buffers)).await {
            Ok(received) => received?,
            Err(_) => outstanding = 0,
        }
        let bytes: usize = buffers.batches().map(|batch| batch.bytes.len()).sum();
        outstanding = outstanding.saturating_sub(bytes);
        let now = Instant::now();
        if now >= until {
            break;
        }
        if now >= from {
            counted += bytes;
        }
    }
    Ok(format!(r#"{{"bytes_per_s":{:.0}}}"#, counted as f64 / time.as_secs_f64()))
}

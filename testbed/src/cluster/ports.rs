//! Addresses that nobody else on the machine uses.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    process,
    sync::atomic::{AtomicU8, Ordering},
};

/// A loopback address of this cluster's own. Outgoing connections on the machine take their ports on 127.0.0.1, so
/// a port that is free here stays free while its owner is down.
pub(super) fn unused_loopback_address() -> io::Result<IpAddr> {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [_, _, high, low] = process::id().to_be_bytes();
    let address: IpAddr =
        Ipv4Addr::new(127, high | 0x40, low, NEXT.fetch_add(1, Ordering::Relaxed).max(1)).into();
    UdpSocket::bind((address, 0)).map(|_free| address)
}

/// Ports on which nobody listens, neither on UDP nor on TCP.
pub(super) fn free_ports(address: IpAddr, count: usize) -> io::Result<Vec<SocketAddr>> {
    // All are held until the last one is found, so that none is found twice.
    let mut held = Vec::new();
    while held.len() < count {
        let stream = TcpListener::bind((address, 0))?;
        let local = stream.local_addr()?;
        if let Ok(datagram) = UdpSocket::bind(local) {
            held.push((local, stream, datagram));
        }
    }
    Ok(held.iter().map(|(local, ..)| *local).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_ports_are_distinct_and_free() {
        let one = unused_loopback_address().expect("there are many");
        let other = unused_loopback_address().expect("there are many");
        assert_ne!(one, other);
        assert!(one.is_loopback());
        let mut ports = free_ports(one, 8).expect("there are many");
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 8);
        TcpListener::bind(ports[0]).expect("it was let go");
    }
}

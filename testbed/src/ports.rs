//! Addresses that nobody else on the machine uses, not even while their owner is down.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    ops::Range,
    process,
    sync::atomic::{AtomicU8, AtomicU16, Ordering},
};

/// Below the ports that Linux gives out by itself (from 32768: `ip_local_port_range` in ip-sysctl.rst). From among those,
/// a socket for all addresses could take a port while its owner is started again.
const PORTS: Range<u16> = 10_000..30_000;

/// A loopback address of the caller's own, in this process and beside others.
///
/// # Errors
///
/// There is no such address.
pub fn unused_loopback_address() -> io::Result<IpAddr> {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [_, _, high, low] = process::id().to_be_bytes();
    let address: IpAddr =
        Ipv4Addr::new(127, high | 0x40, low, NEXT.fetch_add(1, Ordering::Relaxed).max(1)).into();
    UdpSocket::bind((address, 0)).map(|_free| address)
}

/// Ports on which nobody listens, neither on UDP nor on TCP; never the same one twice in this process.
///
/// # Errors
///
/// The address is not this machine's, or all ports are taken.
pub fn free_ports(address: IpAddr, count: usize) -> io::Result<Vec<SocketAddr>> {
    (0..count).map(|_| free_port(address)).collect()
}

fn free_port(address: IpAddr) -> io::Result<SocketAddr> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let mut taken = io::Error::from(io::ErrorKind::AddrInUse);
    for _ in PORTS {
        let port = PORTS.start + NEXT.fetch_add(1, Ordering::Relaxed) % (PORTS.end - PORTS.start);
        let socket = SocketAddr::new(address, port);
        match TcpListener::bind(socket).and_then(|_stream| UdpSocket::bind(socket)) {
            Ok(_datagram) => return Ok(socket),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => taken = error,
            Err(error) => return Err(error),
        }
    }
    Err(taken)
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
        ports.extend(free_ports(one, 8).expect("there are more"));
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 16);
        TcpListener::bind(ports[0]).expect("it was let go");
    }

    #[test]
    fn ports_in_use_are_passed_over() {
        let address = unused_loopback_address().expect("there are many");
        let next = free_ports(address, 1).expect("there are many")[0];
        let held: Vec<_> = (1..20)
            .map(|ahead| UdpSocket::bind((address, next.port() + ahead)).expect("a free port"))
            .collect();
        let free = free_ports(address, 4).expect("there are more");
        for socket in held {
            assert!(!free.contains(&socket.local_addr().expect("it is bound")));
        }
    }
}

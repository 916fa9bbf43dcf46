//! What is none of an edge's business, and must come through as if there were none: pings, TCP, other people's UDP.

use std::{
    io::{Read as _, Write as _},
    mem::MaybeUninit,
    net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
    time::Duration,
};

use socket2::{Domain, Protocol, Socket, Type};
use xdpfs_testbed::{Cluster, Content, namespace::Namespace};

/// Longer than any answer takes.
const PATIENCE: Duration = Duration::from_secs(10);

/// From the client to the edge's host, to a data node behind it and to the metadata servers' host.
pub(crate) fn other_traffic_crosses(cluster: &Cluster) {
    let lan = cluster.lan();
    for (host, address) in [(lan.edge(0), lan.edge_address(0)), (lan.node(0), lan.node_address(0))] {
        lan.client().run(|| echo(address));
        terminal(lan.client(), host, address);
        bulk(lan.client(), host, address);
        datagrams(lan.client(), host, address);
    }
}

/// A ping, and its answer.
fn echo(address: IpAddr) {
    const PAYLOAD: &[u8] = b"a ping of ours, and of nobody else";
    let (domain, protocol, request, reply) = match address {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4, 8, 0),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6, 128, 129),
    };
    let mut message = [&[request, 0, 0, 0, 0, 1, 0, 1], PAYLOAD].concat();
    if address.is_ipv4() {
        // The kernel does it for IPv6 only.
        let sum: u32 = message.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
        let check = !((sum & 0xffff) + (sum >> 16)) as u16;
        message[2..4].copy_from_slice(&check.to_be_bytes());
    }
    let socket = Socket::new(domain, Type::RAW, Some(protocol)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.connect(&SocketAddr::new(address, 0).into()).unwrap();
    socket.send(&message).unwrap();
    loop {
        let mut packet = [MaybeUninit::uninit(); 256];
        let length = socket.recv(&mut packet).unwrap_or_else(|error| panic!("ping {address}: {error}"));
        // SAFETY: as many bytes were received.
        let packet: Vec<u8> = packet[..length].iter().map(|byte| unsafe { byte.assume_init() }).collect();
        // Of IPv4, the header comes too; whatever else comes by is not the reply.
        let answer = if address.is_ipv4() { &packet[20..] } else { &packet[..] };
        if answer[0] == reply && answer[8..] == *PAYLOAD {
            return;
        }
    }
}

/// Many small messages in turn, as of somebody who types.
fn terminal(client: &Namespace, host: &Namespace, address: IpAddr) {
    let (mut here, mut there) = connected(client, host, address);
    for number in 0..200_u32 {
        let key = number.to_be_bytes();
        let mut seen = [0; 4];
        here.write_all(&key).unwrap();
        there.read_exact(&mut seen).unwrap();
        there.write_all(&seen).unwrap();
        here.read_exact(&mut seen).unwrap();
        assert_eq!(seen, key);
    }
}

/// Much in both directions at once.
fn bulk(client: &Namespace, host: &Namespace, address: IpAddr) {
    let (here, there) = connected(client, host, address);
    let contents = [Content::new(1, 4 << 20), Content::new(2, 4 << 20)];
    thread::scope(|scope| {
        for (number, from, to) in [(0, &here, &there), (1, &there, &here)] {
            let (sent, expect) = (contents[number].to_vec(), &contents[number]);
            let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
            scope.spawn(move || {
                from.write_all(&sent).unwrap();
                from.shutdown(Shutdown::Write).unwrap();
            });
            scope.spawn(move || {
                let mut received = Vec::new();
                to.read_to_end(&mut received).unwrap();
                assert!(received == expect.to_vec(), "TCP to {address} was changed");
            });
        }
    });
}

/// UDP to a port that is not an edge's, of every length up to several fragments.
fn datagrams(client: &Namespace, host: &Namespace, address: IpAddr) {
    let server = host.run(|| UdpSocket::bind((address, 0)).unwrap());
    let port = server.local_addr().unwrap();
    let socket = client.run(|| {
        let any: IpAddr = if address.is_ipv4() { [0; 4].into() } else { [0_u16; 8].into() };
        UdpSocket::bind((any, 0)).unwrap()
    });
    for side in [&server, &socket] {
        side.set_read_timeout(Some(PATIENCE)).unwrap();
    }
    let mut buffer = vec![0; 1 << 16];
    for length in [0, 1, 64, 1200, 1452, 1472, 3400, 9000] {
        let sent = Content::new(3, length).to_vec();
        socket.send_to(&sent, port).unwrap();
        let (got, from) = server.recv_from(&mut buffer).unwrap_or_else(|error| panic!("{length}: {error}"));
        assert!(buffer[..got] == sent, "{length} bytes to {address} were changed");
        server.send_to(&sent, from).unwrap();
        let got = socket.recv(&mut buffer).unwrap_or_else(|error| panic!("{length} back: {error}"));
        assert!(buffer[..got] == sent, "{length} bytes from {address} were changed");
    }
}

fn connected(client: &Namespace, host: &Namespace, address: IpAddr) -> (TcpStream, TcpStream) {
    let listener = host.run(|| TcpListener::bind((address, 0)).unwrap());
    let port = listener.local_addr().unwrap();
    let here = client.run(|| TcpStream::connect_timeout(&port, PATIENCE).unwrap());
    let (there, _) = listener.accept().unwrap();
    for stream in [&here, &there] {
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
    }
    (here, there)
}

//! What isn't ours: somebody else's XDP program, and pings.

use std::{
    mem::MaybeUninit,
    net::{Ipv4Addr, SocketAddr},
};

use aya::{
    Ebpf,
    programs::{Xdp, XdpMode},
};
use socket2::{Domain, Protocol, Socket, Type};

use xdpfs_testbed::namespace::Namespace;

use crate::PATIENCE;

#[cfg(xdp_object)]
const OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/xdpfs-ebpf.o"));
#[cfg(not(xdp_object))]
const OBJECT: &[u8] = &[];

/// Knows no port, so everything is foreign to it and passes.
pub(crate) const PASSER: &str = "xdpfs_ingress";
/// Does something else.
pub(crate) const STRANGER: &str = "xdpfs_ticks";

/// A program on an interface while this lives.
pub(crate) struct Foreign {
    pub(crate) id: u32,
    _ebpf: Ebpf,
}

impl Foreign {
    pub(crate) fn on(namespace: &Namespace, interface: &str, name: &str) -> Self {
        let mut ebpf = Ebpf::load(OBJECT).unwrap();
        let program: &mut Xdp = ebpf.program_mut(name).unwrap().try_into().unwrap();
        program.load().unwrap();
        namespace.run(|| program.attach(interface, XdpMode::Driver).map(drop).unwrap());
        let id = program.info().unwrap().id();
        Self { id, _ebpf: ebpf }
    }
}

/// Asks for an echo, and waits for it.
pub(crate) fn echo(address: Ipv4Addr) {
    // Type 8, code 0, the checksum of these bytes, then identifier and sequence number.
    const REQUEST: [u8; 8] = [8, 0, 0xf7, 0xfe, 0, 0, 0, 1];
    const REPLY: u8 = 0;
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.connect(&SocketAddr::from((address, 0)).into()).unwrap();
    socket.send(&REQUEST).unwrap();
    loop {
        let mut packet = [MaybeUninit::uninit(); 128];
        let length = socket.recv(&mut packet).unwrap();
        // Behind an IPv4 header without options; whatever else comes by is not the reply.
        // SAFETY: as many bytes were received.
        let kind = unsafe { packet[..length][20].assume_init() };
        if kind == REPLY {
            return;
        }
    }
}

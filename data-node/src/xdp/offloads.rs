//! What an interface does besides moving packets: whether it takes redirected ones, and the switches of ethtool.

use std::{
    ffi::c_void,
    io,
    os::fd::{AsFd, OwnedFd},
};

use rustix::{
    ioctl::{self, Ioctl, IoctlOutput, Opcode},
    net::{AddressFamily, SocketFlags, SocketType, socket_with},
};

use xdpfs_host::netlink::{Netlink, Question, attribute, malformed, u16_at};

const GENERIC_CONTROL: u16 = 0x10;
const CONTROL_GET_FAMILY: u8 = 3;
const CONTROL_FAMILY_ID: u16 = 1;
const CONTROL_FAMILY_NAME: u16 = 2;
const NETDEV_DEV_GET: u8 = 1;
const NETDEV_IFINDEX: u16 = 1;
const NETDEV_XDP_FEATURES: u16 = 3;
const XDP_NDO_XMIT: u8 = 4;
const GENERIC_HEADER_LEN: usize = 4;

const SIOCETHTOOL: Opcode = 0x8946;
const SIOCGIFNAME: Opcode = 0x8910;
const ETHTOOL_GET_GRO: u32 = 0x2b;
const ETHTOOL_SET_GRO: u32 = 0x2c;

/// Whether an interface takes packets that a native program redirects to it, as its driver says. None if the kernel
/// can't tell, which takes Linux 6.3.
///
/// A veth does once the other end has GRO or a program of its own; some network cards do once they have a program.
pub(super) fn takes_redirects(interface: u32) -> Option<bool> {
    let netlink = Netlink::generic().ok()?;
    let header = |command| [command, 1, 0, 0];
    let question = Question::new(GENERIC_CONTROL, &header(CONTROL_GET_FAMILY));
    let family = netlink.ask(question.with(CONTROL_FAMILY_NAME, b"netdev\0")).ok()?;
    let family = u16_at(attribute(family.body.get(GENERIC_HEADER_LEN..)?, CONTROL_FAMILY_ID)?, 0)?;
    let question = Question::new(family, &header(NETDEV_DEV_GET));
    let device = netlink.ask(question.with(NETDEV_IFINDEX, &interface.to_ne_bytes())).ok()?;
    // 64 bits in the host's order, of which the lowest byte is wanted.
    let features = attribute(device.body.get(GENERIC_HEADER_LEN..)?, NETDEV_XDP_FEATURES)?;
    let features = u64::from_ne_bytes(features.try_into().ok()?);
    Some(features & u64::from(XDP_NDO_XMIT) != 0)
}

/// The switches of the interfaces of one network namespace: that of the thread that made this.
#[derive(Debug)]
pub(super) struct Switches {
    socket: OwnedFd,
}

impl Switches {
    pub(super) fn open() -> io::Result<Self> {
        Ok(Self { socket: socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)? })
    }

    /// The name of an interface.
    pub(super) fn name(&self, interface: u32) -> io::Result<String> {
        let mut request = Request { name: [0; NAME_LEN], value: [0; 24] };
        request.value[..4].copy_from_slice(&interface.to_ne_bytes());
        call(&self.socket, SIOCGIFNAME, &mut request)?;
        let name = request.name.split(|byte| *byte == 0).next().unwrap_or_default();
        String::from_utf8(name.to_vec()).map_err(|_| malformed())
    }

    /// Whether an interface merges packets that it receives.
    pub(super) fn gro(&self, interface: &str) -> io::Result<bool> {
        self.ethtool(interface, ETHTOOL_GET_GRO, 0).map(|value| value != 0)
    }

    /// Has an interface merge packets that it receives, or not.
    pub(super) fn set_gro(&self, interface: &str, on: bool) -> io::Result<()> {
        self.ethtool(interface, ETHTOOL_SET_GRO, u32::from(on)).map(drop)
    }

    /// Reads or sets one value, by a command of ethtool.
    pub(super) fn ethtool(&self, interface: &str, command: u32, value: u32) -> io::Result<u32> {
        let mut question = [command, value];
        let mut request = Request { name: [0; NAME_LEN], value: [0; 24] };
        let name = interface.as_bytes();
        request.name.get_mut(..name.len()).ok_or_else(malformed)?.copy_from_slice(name);
        let address = (&raw mut question).expose_provenance() as u64;
        request.value[..8].copy_from_slice(&address.to_ne_bytes());
        call(&self.socket, SIOCETHTOOL, &mut request)?;
        // The kernel has written to it, which the compiler can't see.
        // SAFETY: the array lives and is initialised.
        Ok(unsafe { (&raw const question[1]).read_volatile() })
    }
}

const NAME_LEN: usize = 16;

/// `struct ifreq`.
#[repr(C, align(8))]
struct Request {
    name: [u8; NAME_LEN],
    value: [u8; 24],
}

struct Call<'a> {
    opcode: Opcode,
    request: &'a mut Request,
}

// SAFETY: both calls read and write one `struct ifreq`, and nothing comes out beside it.
unsafe impl Ioctl for Call<'_> {
    type Output = ();

    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        self.opcode
    }

    fn as_ptr(&mut self) -> *mut c_void {
        (&raw mut *self.request).cast()
    }

    unsafe fn output_from_ptr(_: IoctlOutput, _: *mut c_void) -> rustix::io::Result<()> {
        Ok(())
    }
}

fn call(socket: impl AsFd, opcode: Opcode, request: &mut Request) -> io::Result<()> {
    // SAFETY: the opcodes are those of `struct ifreq`, and what it points to lives as long as the call.
    unsafe { ioctl::ioctl(socket, Call { opcode, request }) }?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_has_a_name_and_switches() {
        let switches = Switches::open().unwrap();
        assert_eq!(switches.name(1).unwrap(), "lo");
        assert!(switches.gro("lo").is_ok());
        assert!(switches.gro("xdpfs-nowhere").is_err());
        assert!(switches.gro("a-name-that-no-interface-can-have").is_err());
    }
}

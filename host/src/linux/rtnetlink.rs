//! Questions over an rtnetlink socket of the calling thread's network namespace.

use std::{io, mem::MaybeUninit, os::fd::OwnedFd};

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink::SocketAddrNetlink, recv, sendto,
    socket_with,
};

use crate::{
    Interface, InterfaceAddress,
    address::{ADDRESS_HEAD_LEN, RTM_GETADDR},
    interface::{IFLA_IFNAME, LINK_HEAD_LEN, RTM_GETLINK},
    netlink::{Message, NLM_F_DUMP, malformed, messages, question},
};

/// What the kernel fills at the most, if it is given room.
const ANSWER_LEN_MAX: usize = 32 << 10;
/// The most reads for one answer: more interfaces or addresses than that are not counted.
const READS_MAX: usize = 1 << 12;

/// The interface of this name.
///
/// # Errors
/// There is none, or the kernel can't be asked.
pub fn interface(name: &str) -> io::Result<Interface> {
    let name = [name.as_bytes(), b"\0"].concat();
    let asked = question(RTM_GETLINK, 0, &[0; LINK_HEAD_LEN], &[(IFLA_IFNAME, &name)]);
    one(&asked, Interface::parse)
}

/// The interface with this number.
///
/// # Errors
/// There is none, or the kernel can't be asked.
pub fn interface_at(index: u32) -> io::Result<Interface> {
    let mut head = [0; LINK_HEAD_LEN];
    head[4..8].copy_from_slice(&index.to_ne_bytes());
    one(&question(RTM_GETLINK, 0, &head, &[]), Interface::parse)
}

/// All interfaces.
///
/// # Errors
/// The kernel can't be asked.
pub fn interfaces() -> io::Result<Vec<Interface>> {
    let asked = question(RTM_GETLINK, NLM_F_DUMP, &[0; LINK_HEAD_LEN], &[]);
    let mut interfaces = Vec::new();
    ask(&asked, |message| {
        interfaces.push(Interface::parse(message)?);
        Ok(())
    })?;
    Ok(interfaces)
}

/// The addresses of all interfaces.
///
/// # Errors
/// The kernel can't be asked.
pub fn addresses() -> io::Result<Vec<InterfaceAddress>> {
    let asked = question(RTM_GETADDR, NLM_F_DUMP, &[0; ADDRESS_HEAD_LEN], &[]);
    let mut addresses = Vec::new();
    ask(&asked, |message| {
        addresses.extend(InterfaceAddress::parse(message));
        Ok(())
    })?;
    Ok(addresses)
}

/// Asks for one thing.
pub(super) fn one<T>(asked: &[u8], parse: impl Fn(Message<'_>) -> io::Result<T>) -> io::Result<T> {
    let socket = send(asked)?;
    let mut buffer = vec![MaybeUninit::uninit(); ANSWER_LEN_MAX];
    let ((answer, _), _) = recv(&socket, &mut buffer[..], RecvFlags::empty())?;
    let (messages, _) = messages(answer)?;
    messages.first().copied().ok_or_else(malformed).and_then(parse)
}

/// Asks for all of a kind, and takes each.
fn ask(asked: &[u8], mut take: impl FnMut(Message<'_>) -> io::Result<()>) -> io::Result<()> {
    let socket = send(asked)?;
    let mut buffer = vec![MaybeUninit::uninit(); ANSWER_LEN_MAX];
    for _ in 0..READS_MAX {
        let ((answer, _), _) = recv(&socket, &mut buffer[..], RecvFlags::empty())?;
        let (messages, is_last) = messages(answer)?;
        messages.into_iter().try_for_each(&mut take)?;
        if is_last {
            return Ok(());
        }
    }
    Err(malformed())
}

fn send(asked: &[u8]) -> io::Result<OwnedFd> {
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    sendto(&socket, asked, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_found_by_name_and_number_and_in_the_list() {
        let loopback = interface("lo").unwrap();
        assert!(loopback.is_loopback && loopback.peer.is_none() && loopback.kind.is_empty(), "{loopback:?}");
        assert_eq!(interface_at(loopback.index).unwrap(), loopback);
        assert!(interfaces().unwrap().iter().any(|interface| interface.name == "lo"));
        let none = interface("xdpfs-nowhere").unwrap_err();
        assert_eq!(none.raw_os_error(), Some(rustix::io::Errno::NODEV.raw_os_error()));
    }

    #[test]
    fn every_address_belongs_to_an_interface() {
        let interfaces = interfaces().unwrap();
        for address in addresses().unwrap() {
            assert!(interfaces.iter().any(|interface| interface.index == address.interface), "{address:?}");
        }
    }
}

//! Interfaces and addresses of the calling thread's network namespace.

use std::io;

use crate::{
    Interface, InterfaceAddress,
    address::{ADDRESS_HEAD_LEN, RTM_GETADDR},
    interface::{IFLA_IFNAME, LINK_HEAD_LEN, RTM_GETLINK},
    netlink::{Netlink, Question},
};

/// The interface of this name.
///
/// # Errors
/// There is none, or the kernel can't be asked.
pub fn interface(name: &str) -> io::Result<Interface> {
    let name = [name.as_bytes(), b"\0"].concat();
    let question = Question::new(RTM_GETLINK, &[0; LINK_HEAD_LEN]).with(IFLA_IFNAME, &name);
    Interface::parse(&Netlink::route()?.ask(question)?)
}

/// The interface with this number.
///
/// # Errors
/// There is none, or the kernel can't be asked.
pub fn interface_at(index: u32) -> io::Result<Interface> {
    let mut head = [0; LINK_HEAD_LEN];
    head[4..8].copy_from_slice(&index.to_ne_bytes());
    Interface::parse(&Netlink::route()?.ask(Question::new(RTM_GETLINK, &head))?)
}

/// All interfaces.
///
/// # Errors
/// The kernel can't be asked.
pub fn interfaces() -> io::Result<Vec<Interface>> {
    interfaces_by(&Netlink::route()?)
}

/// The addresses of all interfaces.
///
/// # Errors
/// The kernel can't be asked.
pub fn addresses() -> io::Result<Vec<InterfaceAddress>> {
    addresses_by(&Netlink::route()?)
}

/// As [`interfaces`], over a connection that is there already.
///
/// # Errors
/// The kernel can't be asked.
pub fn interfaces_by(netlink: &Netlink) -> io::Result<Vec<Interface>> {
    let links = netlink.list(Question::new(RTM_GETLINK, &[0; LINK_HEAD_LEN]))?;
    links.iter().map(Interface::parse).collect()
}

/// As [`addresses`], over a connection that is there already.
///
/// # Errors
/// The kernel can't be asked.
pub fn addresses_by(netlink: &Netlink) -> io::Result<Vec<InterfaceAddress>> {
    let addresses = netlink.list(Question::new(RTM_GETADDR, &[0; ADDRESS_HEAD_LEN]))?;
    Ok(addresses.iter().filter_map(InterfaceAddress::parse).collect())
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

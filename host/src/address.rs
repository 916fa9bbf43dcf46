//! The addresses of interfaces.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::netlink::{Message, attributes, u32_at};

pub(crate) const RTM_NEWADDR: u16 = 20;
pub(crate) const RTM_GETADDR: u16 = 22;
/// Bytes of `struct ifaddrmsg`.
pub(crate) const ADDRESS_HEAD_LEN: usize = 8;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
/// `RT_SCOPE_LINK`: of no use without naming the interface.
const SCOPE_LINK: u8 = 253;

/// One address of one interface.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct InterfaceAddress {
    /// The interface, by its number.
    pub interface: u32,
    /// The address.
    pub address: IpAddr,
    /// Whether it is of use on its link only, and only with the interface's name.
    pub is_link_local: bool,
}

impl InterfaceAddress {
    /// `None` if the message is about something else, or makes no sense.
    pub(crate) fn parse(message: Message<'_>) -> Option<Self> {
        let (head, rest) = message.body.split_first_chunk::<ADDRESS_HEAD_LEN>()?;
        if message.kind != RTM_NEWADDR {
            return None;
        }
        // Of a point-to-point link, the first is the other end's.
        let of = |wanted| attributes(rest).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
        let bytes = of(IFA_LOCAL).or_else(|| of(IFA_ADDRESS))?;
        let address = match bytes.len() {
            4 => IpAddr::from(Ipv4Addr::from(*bytes.first_chunk::<4>()?)),
            16 => IpAddr::from(Ipv6Addr::from(*bytes.first_chunk::<16>()?)),
            _ => return None,
        };
        Some(Self { interface: u32_at(head, 4)?, address, is_link_local: head[3] == SCOPE_LINK })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::{messages, question};

    #[test]
    fn addresses_of_both_versions_are_read() {
        let check = |scope, attributes: &[(u16, &[u8])], expect: Option<(&str, bool)>| {
            let head = [2, 24, 0, scope, 9, 0, 0, 0];
            let answer = question(RTM_NEWADDR, 0, &head, attributes);
            let found = InterfaceAddress::parse(messages(&answer).unwrap().0[0]);
            let expect = expect.map(|(address, is_link_local)| InterfaceAddress {
                interface: u32::from_ne_bytes([9, 0, 0, 0]),
                address: address.parse().unwrap(),
                is_link_local,
            });
            assert_eq!(found, expect, "{attributes:?}");
        };
        check(0, &[(IFA_ADDRESS, &[10, 0, 0, 1])], Some(("10.0.0.1", false)));
        check(0, &[(IFA_ADDRESS, &[10, 0, 0, 1]), (IFA_LOCAL, &[10, 0, 0, 2])], Some(("10.0.0.2", false)));
        let v6 = "fe80::1".parse::<Ipv6Addr>().unwrap().octets();
        check(SCOPE_LINK, &[(IFA_ADDRESS, &v6)], Some(("fe80::1", true)));
        check(0, &[(IFA_ADDRESS, &[10, 0, 0])], None);
        check(0, &[], None);
    }
}

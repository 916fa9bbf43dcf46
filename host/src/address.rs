//! The addresses of interfaces.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::netlink::{Message, attribute, u32_at};

pub(crate) const RTM_NEWADDR: u16 = 20;
pub(crate) const RTM_GETADDR: u16 = 22;
/// Bytes of `struct ifaddrmsg`.
pub(crate) const ADDRESS_HEAD_LEN: usize = 8;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
/// `RT_SCOPE_LINK`: of no use without naming the interface.
const SCOPE_LINK: u8 = 253;
/// `RT_SCOPE_SITE`; above are links and hosts.
const SCOPE_WIDE_MAX: u8 = 200;
const IFA_F_SECONDARY: u8 = 1;

/// One address of one interface.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct InterfaceAddress {
    /// The interface, by its number.
    pub interface: u32,
    /// The address.
    pub address: IpAddr,
    /// Whether it is of use on its link only, and only with the interface's name.
    pub is_link_local: bool,
    /// Whether others than hosts of one link reach it, and it is the first of its network.
    pub is_main: bool,
}

impl InterfaceAddress {
    /// `None` if the message is about something else, or makes no sense.
    pub(crate) fn parse(message: &Message) -> Option<Self> {
        let (head, rest) = message.body.split_first_chunk::<ADDRESS_HEAD_LEN>()?;
        if message.kind != RTM_NEWADDR {
            return None;
        }
        // Of a point-to-point link, the first is the other end's.
        let bytes = attribute(rest, IFA_LOCAL).or_else(|| attribute(rest, IFA_ADDRESS))?;
        let address = match bytes.len() {
            4 => IpAddr::from(Ipv4Addr::from(*bytes.first_chunk::<4>()?)),
            16 => IpAddr::from(Ipv6Addr::from(*bytes.first_chunk::<16>()?)),
            _ => return None,
        };
        let (flags, scope) = (head[2], head[3]);
        Some(Self {
            interface: u32_at(head, 4)?,
            address,
            is_link_local: scope == SCOPE_LINK,
            is_main: scope <= SCOPE_WIDE_MAX && flags & IFA_F_SECONDARY == 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::Question;

    #[test]
    fn addresses_of_both_versions_are_read() {
        let check =
            |flags_and_scope: [u8; 2], attributes: &[(u16, &[u8])], expect: Option<(&str, bool, bool)>| {
                let [flags, scope] = flags_and_scope;
                let question = Question::new(RTM_NEWADDR, &[2, 24, flags, scope, 9, 0, 0, 0]);
                let answer =
                    attributes.iter().fold(question, |question, (kind, value)| question.with(*kind, value));
                let found = InterfaceAddress::parse(&answer.into_message());
                let expect = expect.map(|(address, is_link_local, is_main)| InterfaceAddress {
                    interface: u32::from_ne_bytes([9, 0, 0, 0]),
                    address: address.parse().unwrap(),
                    is_link_local,
                    is_main,
                });
                assert_eq!(found, expect, "{attributes:?}");
            };
        check([0, 0], &[(IFA_ADDRESS, &[10, 0, 0, 1])], Some(("10.0.0.1", false, true)));
        let pair: [(u16, &[u8]); 2] = [(IFA_ADDRESS, &[10, 0, 0, 1]), (IFA_LOCAL, &[10, 0, 0, 2])];
        check([IFA_F_SECONDARY, 0], &pair, Some(("10.0.0.2", false, false)));
        let v6 = "fe80::1".parse::<Ipv6Addr>().unwrap().octets();
        check([0, SCOPE_LINK], &[(IFA_ADDRESS, &v6)], Some(("fe80::1", true, false)));
        check([0, 0], &[(IFA_ADDRESS, &[10, 0, 0])], None);
        check([0, 0], &[], None);
    }
}

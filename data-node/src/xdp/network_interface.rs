//! What the kernel says of one network interface: one question over rtnetlink, and its answer.

use std::{io, mem::MaybeUninit};

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink::SocketAddrNetlink, recv, sendto,
    socket_with,
};

const RTM_GETLINK: u16 = 18;
const RTM_NEWLINK: u16 = 16;
const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_XDP: u16 = 43;
/// `IFLA_XDP_PROG_ID` and its likes for driver, stack and hardware.
const IFLA_XDP_PROG_IDS: std::ops::RangeInclusive<u16> = 4..=7;
/// Bits of an attribute's type that are flags.
const TYPE_MASK: u16 = 0x3fff;
const HEADER_LEN: usize = 16;
const ATTRIBUTES_AT: usize = HEADER_LEN + 16;
const ANSWER_LEN_MAX: usize = 32 << 10;

/// One network interface of this process's network namespace.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct NetworkInterface {
    /// Its number.
    pub(super) index: u32,
    /// Whether it is one end of a veth pair.
    pub(super) is_veth: bool,
    /// The number of the XDP program on it.
    pub(super) program: Option<u32>,
}

impl NetworkInterface {
    /// The interface of this name.
    ///
    /// # Errors
    /// There is none, or the kernel can't be asked.
    pub(super) fn find(name: &str) -> io::Result<Self> {
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
        sendto(&socket, &question(name), SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
        let mut answer = vec![MaybeUninit::uninit(); ANSWER_LEN_MAX];
        let ((answer, _), _) = recv(&socket, &mut answer[..], RecvFlags::empty())?;
        parse(answer)
    }
}

fn question(name: &str) -> Vec<u8> {
    let attribute_len = 4 + name.len() + 1;
    let len = ATTRIBUTES_AT + attribute_len.next_multiple_of(4);
    let mut message = Vec::with_capacity(len);
    message.extend_from_slice(&(len as u32).to_ne_bytes());
    message.extend_from_slice(&RTM_GETLINK.to_ne_bytes());
    message.extend_from_slice(&NLM_F_REQUEST.to_ne_bytes());
    // Number and sender of the message, and the interface by its number, which are all left open.
    message.resize(ATTRIBUTES_AT, 0);
    message.extend_from_slice(&(attribute_len as u16).to_ne_bytes());
    message.extend_from_slice(&IFLA_IFNAME.to_ne_bytes());
    message.extend_from_slice(name.as_bytes());
    message.resize(len, 0);
    message
}

fn parse(answer: &[u8]) -> io::Result<NetworkInterface> {
    let malformed = || io::Error::new(io::ErrorKind::InvalidData, "the kernel's answer makes no sense");
    match u16_at(answer, 4) {
        Some(RTM_NEWLINK) => {}
        Some(NLMSG_ERROR) => {
            let errno = u32_at(answer, HEADER_LEN).map_or(0, u32::cast_signed);
            return Err(io::Error::from_raw_os_error(errno.wrapping_neg()));
        }
        _ => return Err(malformed()),
    }
    let index = u32_at(answer, HEADER_LEN + 4).ok_or_else(malformed)?;
    let attributes = || attributes(answer.get(ATTRIBUTES_AT..).unwrap_or_default());
    let kind = nested(attributes(), IFLA_LINKINFO).find(|(kind, _)| *kind == IFLA_INFO_KIND);
    let is_veth = kind.is_some_and(|(_, kind)| kind == b"veth\0");
    let program = nested(attributes(), IFLA_XDP)
        .filter(|(kind, _)| IFLA_XDP_PROG_IDS.contains(kind))
        .filter_map(|(_, id)| u32_at(id, 0))
        .find(|id| *id != 0);
    Ok(NetworkInterface { index, is_veth, program })
}

fn nested<'a>(
    attributes: impl Iterator<Item = (u16, &'a [u8])>,
    parent: u16,
) -> impl Iterator<Item = (u16, &'a [u8])> {
    attributes.filter(move |(kind, _)| *kind == parent).flat_map(|(_, children)| self::attributes(children))
}

/// Types and values, up to the first that makes no sense.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let (len, kind) = (usize::from(u16_at(bytes, 0)?), u16_at(bytes, 2)? & TYPE_MASK);
        let value = bytes.get(4..len)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().copied().map(u16::from_ne_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().copied().map(u32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = ((4 + value.len()) as u16).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn answer(attributes: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = vec![0; ATTRIBUTES_AT];
        bytes[4..6].copy_from_slice(&RTM_NEWLINK.to_ne_bytes());
        bytes[HEADER_LEN + 4..HEADER_LEN + 8].copy_from_slice(&9_u32.to_ne_bytes());
        bytes.extend(attributes.concat());
        bytes
    }

    #[test]
    fn loopback_is_found_and_others_are_not() {
        let loopback = NetworkInterface::find("lo").unwrap();
        assert_eq!((loopback.index, loopback.is_veth), (1, false));
        let none = NetworkInterface::find("xdpfs-nowhere").unwrap_err();
        assert_eq!(none.raw_os_error(), Some(rustix::io::Errno::NODEV.raw_os_error()));
    }

    #[test]
    fn kind_and_program_are_read_from_nested_attributes() {
        let check = |attributes: &[Vec<u8>], is_veth, program| {
            let expect = NetworkInterface { index: 9, is_veth, program };
            assert_eq!(parse(&answer(attributes)).unwrap(), expect);
        };
        let info = attribute(IFLA_LINKINFO, &attribute(IFLA_INFO_KIND, b"veth\0"));
        let name = attribute(IFLA_IFNAME, b"eth0\0");
        let program = |kind, id: u32| {
            attribute(IFLA_XDP | 0x8000, &[attribute(2, &[1]), attribute(kind, &id.to_ne_bytes())].concat())
        };
        check(&[], false, None);
        check(&[name.clone(), info, program(4, 70)], true, Some(70));
        check(&[name, program(6, 71)], false, Some(71));
        check(&[attribute(IFLA_XDP, &attribute(2, &[0]))], false, None);
    }

    #[test]
    fn cut_answers_are_refused_or_read_as_far_as_they_go() {
        let whole = answer(&[attribute(IFLA_LINKINFO, &attribute(IFLA_INFO_KIND, b"veth\0"))]);
        for len in 0..whole.len() {
            let parsed = parse(&whole[..len]);
            assert!(parsed.is_err() || !parsed.unwrap().is_veth, "{len}");
        }
    }
}

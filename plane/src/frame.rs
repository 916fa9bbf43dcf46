//! Where a datagram lies in an Ethernet frame. Whatever is not plainly one of ours is foreign and none of our
//! business: attaching xdpfs must never break anything else.

use xdpfs_wire::PieceClass;

use crate::{
    fate::Fate,
    maps::{Address, ReplyKey},
};

/// Bytes of an Ethernet header without tags.
const ETHERNET_LEN: usize = 14;
const VLAN_TAG_LEN: usize = 4;
const IPV4_LEN: usize = 20;
const IPV6_LEN: usize = 40;
const UDP_LEN: usize = 8;

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERTYPE_VLAN: u16 = 0x8100;
/// The outer tag of two (IEEE 802.1ad).
const ETHERTYPE_QINQ: u16 = 0x88a8;
const PROTOCOL_UDP: u8 = 17;
/// More-fragments bit and fragment offset of IPv4: neither may be set.
const IPV4_FRAGMENT_MASK: u16 = 0x3fff;
/// Version 4 and a header of five words: no options.
const IPV4_PLAIN: u8 = 0x45;

/// Bytes of the longest headers without tags.
pub const HEADERS_LEN_MAX: usize = ETHERNET_LEN + IPV6_LEN + UDP_LEN;

/// How many UDP ports one program can serve.
pub const PORTS_MAX: usize = 4;

/// The UDP ports of data nodes on this host; zero means none.
pub type Ports = [u16; PORTS_MAX];

/// A frame under bounds checks: a slice on the host, packet pointers in the kernel.
pub trait Frame {
    /// The `N` bytes at `at`; `None` if the frame ends before them. At least two: of a comparison for one byte the
    /// compiler makes one that the verifier doesn't follow.
    fn at<const N: usize>(&self, at: usize) -> Option<&[u8; N]>;

    /// Bytes of the frame.
    fn frame_len(&self) -> usize;
}

/// The version of the IP header.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Ip {
    /// IPv4 without options.
    V4 = 0,
    /// IPv6 without extension headers.
    V6 = 1,
}

/// Where one of our datagrams lies.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Envelope {
    /// The version of the IP header.
    pub ip: Ip,
    /// Bytes of the VLAN tags.
    pub tags_len: usize,
    /// Bytes of the UDP payload.
    pub datagram_len: usize,
}

impl Envelope {
    /// Finds the datagram in a frame.
    ///
    /// # Errors
    /// [`Fate::Foreign`] for all that is not UDP to one of `ports` in the plainest form, [`Fate::SuperPacket`] for
    /// a datagram that no path class allows.
    #[inline(always)]
    pub fn find(frame: &impl Frame, ports: Ports) -> Result<Self, Fate> {
        let (mut envelope, ip_payload_len) = udp(frame).ok_or(Fate::Foreign)?;
        let [_, _, p0, p1, l0, l1] = *frame.at::<6>(envelope.udp_at()).ok_or(Fate::Foreign)?;
        let port = u16::from_be_bytes([p0, p1]);
        if port == 0 || !(port == ports[0] || port == ports[1] || port == ports[2] || port == ports[3]) {
            return Err(Fate::Foreign);
        }
        let udp_len = usize::from(u16::from_be_bytes([l0, l1]));
        // A datagram that contradicts its frame is left to the kernel, which knows how to complain.
        if udp_len < UDP_LEN || udp_len > ip_payload_len || envelope.udp_at() + udp_len > frame.frame_len() {
            return Err(Fate::Foreign);
        }
        envelope.datagram_len = udp_len - UDP_LEN;
        if envelope.datagram_len > PieceClass::Jumbo.datagram_len() {
            return Err(Fate::SuperPacket);
        }
        Ok(envelope)
    }

    /// Finds what may be a reply, and who sent it by which device. The frame need not be whole: only its headers are
    /// looked at. `None` for all that is not UDP in the plainest form, tagged frames too.
    #[inline(always)]
    pub fn find_reply(frame: &impl Frame, device: u32) -> Option<(Self, ReplyKey)> {
        let (envelope, ip_payload_len) = udp(frame)?;
        if envelope.tags_len != 0 {
            return None;
        }
        let [p0, p1, _, _, l0, l1, _, _] = *frame.at::<8>(envelope.udp_at())?;
        let udp_len = usize::from(u16::from_be_bytes([l0, l1]));
        if udp_len < UDP_LEN || udp_len > ip_payload_len {
            return None;
        }
        let key = ReplyKey { device, address: envelope.source(frame)?, port: [p0, p1], reserved: [0; 2] };
        Some((Self { datagram_len: udp_len - UDP_LEN, ..envelope }, key))
    }

    /// Who sent it, says the IP header; `None` if the frame ends before.
    #[inline(always)]
    pub fn source(&self, frame: &impl Frame) -> Option<Address> {
        match self.ip {
            Ip::V4 => Some(mapped(*frame.at::<4>(self.ip_at() + 12)?)),
            Ip::V6 => frame.at::<16>(self.ip_at() + 8).copied(),
        }
    }

    /// Whom it is for, says the IP header; `None` if the frame ends before.
    #[inline(always)]
    pub fn destination(&self, frame: &impl Frame) -> Option<Address> {
        match self.ip {
            Ip::V4 => Some(mapped(*frame.at::<4>(self.ip_at() + 16)?)),
            Ip::V6 => frame.at::<16>(self.ip_at() + 24).copied(),
        }
    }

    /// How many hops it has left; `None` if the frame ends before.
    #[inline(always)]
    pub fn hops(&self, frame: &impl Frame) -> Option<u8> {
        let at = match self.ip {
            Ip::V4 => 8,
            Ip::V6 => 7,
        };
        frame.at::<2>(self.ip_at() + at).map(|[hops, _]| *hops)
    }

    /// As one word, which global functions of a BPF program can take.
    #[inline(always)]
    #[must_use]
    pub const fn to_word(self) -> u32 {
        (self.datagram_len as u32) << 16 | (self.tags_len as u32) << 8 | self.ip as u32
    }

    /// The inverse of [`Envelope::to_word`].
    ///
    /// The masks keep any word within bounds that the verifier can see; comparisons would be rearranged by the
    /// compiler until it saw them no more.
    #[inline(always)]
    #[must_use]
    pub const fn from_word(word: u32) -> Self {
        let ip = if word & 1 == Ip::V4 as u32 { Ip::V4 } else { Ip::V6 };
        Self { ip, tags_len: (word >> 8) as usize & 0xf, datagram_len: (word >> 16) as usize & 0x3fff }
    }

    /// Where the IP header starts.
    #[inline(always)]
    #[must_use]
    pub const fn ip_at(&self) -> usize {
        ETHERNET_LEN + self.tags_len
    }

    /// Where the UDP header starts.
    #[inline(always)]
    #[must_use]
    pub const fn udp_at(&self) -> usize {
        match self.ip {
            Ip::V4 => self.ip_at() + IPV4_LEN,
            Ip::V6 => self.ip_at() + IPV6_LEN,
        }
    }

    /// Bytes of UDP header and datagram.
    #[inline(always)]
    #[must_use]
    pub const fn udp_len(&self) -> usize {
        UDP_LEN + self.datagram_len
    }

    /// Where the datagram starts.
    #[inline(always)]
    #[must_use]
    pub const fn datagram_at(&self) -> usize {
        self.udp_at() + UDP_LEN
    }
}

/// Whether a frame is for many hosts, says its MAC address.
#[inline(always)]
pub fn is_for_many(frame: &impl Frame) -> bool {
    frame.at::<2>(0).is_some_and(|[first, _]| first & 1 != 0)
}

#[inline(always)]
const fn mapped([a, b, c, d]: [u8; 4]) -> Address {
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
}

/// UDP in the plainest form, whose length is not known yet, and the bytes behind its IP header.
#[inline(always)]
fn udp(frame: &impl Frame) -> Option<(Envelope, usize)> {
    let (ethertype, tags_len) = network_layer(frame)?;
    let ip_at = ETHERNET_LEN + tags_len;
    let (ip, ip_payload_len) = match ethertype {
        ETHERTYPE_IPV4 => (Ip::V4, udp_over_ipv4(frame, ip_at)),
        ETHERTYPE_IPV6 => (Ip::V6, udp_over_ipv6(frame, ip_at)),
        _ => return None,
    };
    Some((Envelope { ip, tags_len, datagram_len: 0 }, ip_payload_len?))
}

/// The EtherType behind at most two VLAN tags, and the length of those.
#[inline(always)]
fn network_layer(frame: &impl Frame) -> Option<(u16, usize)> {
    let ethertype = u16::from_be_bytes(*frame.at::<2>(ETHERNET_LEN - 2)?);
    if !is_vlan(ethertype) {
        return Some((ethertype, 0));
    }
    let ethertype = u16::from_be_bytes(*frame.at::<2>(ETHERNET_LEN + VLAN_TAG_LEN - 2)?);
    if !is_vlan(ethertype) {
        return Some((ethertype, VLAN_TAG_LEN));
    }
    let ethertype = u16::from_be_bytes(*frame.at::<2>(ETHERNET_LEN + 2 * VLAN_TAG_LEN - 2)?);
    Some((ethertype, 2 * VLAN_TAG_LEN))
}

#[inline(always)]
const fn is_vlan(ethertype: u16) -> bool {
    matches!(ethertype, ETHERTYPE_VLAN | ETHERTYPE_QINQ)
}

/// Bytes behind the IPv4 header, if UDP comes there and the packet is whole.
#[inline(always)]
fn udp_over_ipv4(frame: &impl Frame, at: usize) -> Option<usize> {
    let [plain, _, l0, l1, _, _, f0, f1, _, protocol] = *frame.at::<10>(at)?;
    let is_whole = u16::from_be_bytes([f0, f1]) & IPV4_FRAGMENT_MASK == 0;
    if protocol != PROTOCOL_UDP || plain != IPV4_PLAIN || !is_whole {
        return None;
    }
    usize::from(u16::from_be_bytes([l0, l1])).checked_sub(IPV4_LEN)
}

/// Bytes behind the IPv6 header, if UDP comes directly there.
#[inline(always)]
fn udp_over_ipv6(frame: &impl Frame, at: usize) -> Option<usize> {
    let [version, _, _, _, l0, l1, next_header] = *frame.at::<7>(at)?;
    if next_header != PROTOCOL_UDP || version >> 4 != 6 {
        return None;
    }
    Some(usize::from(u16::from_be_bytes([l0, l1])))
}

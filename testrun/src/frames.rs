//! Frames around datagrams, with right lengths and checksums.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What fits into one page beside the headroom; longer packets never reach a program without fragments.
pub const FRAME_LEN_MAX: usize = 3520;

pub const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub const EDGE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
pub const CLIENT_PORT: u16 = 50_000;
pub const CLIENT_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub const EDGE_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
/// Of the edge too, on the nodes' side.
pub const NODE_SIDE_V4: Ipv4Addr = Ipv4Addr::new(10, 1, 2, 1);
pub const CLIENT_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
pub const EDGE_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);

/// How a datagram is wrapped.
#[derive(Clone, Copy, Debug)]
pub struct Wrapping {
    /// EtherTypes of the VLAN tags, outermost first.
    pub tags: &'static [u16],
    pub source: IpAddr,
    pub destination: IpAddr,
}

pub const V4: Wrapping =
    Wrapping { tags: &[], source: IpAddr::V4(CLIENT_V4), destination: IpAddr::V4(EDGE_V4) };
pub const V6: Wrapping =
    Wrapping { tags: &[], source: IpAddr::V6(CLIENT_V6), destination: IpAddr::V6(EDGE_V6) };
pub const VLAN: [u16; 1] = [0x8100];
pub const QINQ: [u16; 2] = [0x88a8, 0x8100];

/// All that must be understood.
pub const WRAPPINGS: [(&str, Wrapping); 6] = [
    ("v4", V4),
    ("v6", V6),
    ("v4 vlan", Wrapping { tags: &VLAN, ..V4 }),
    ("v6 vlan", Wrapping { tags: &VLAN, ..V6 }),
    ("v4 qinq", Wrapping { tags: &QINQ, ..V4 }),
    ("v6 qinq", Wrapping { tags: &QINQ, ..V6 }),
];

/// From the node of `fixture::THERE` to a client, whose port is the one that frames are sent to.
pub const REPLY_V4: Wrapping = Wrapping {
    tags: &[],
    source: IpAddr::V4(Ipv4Addr::new(10, 1, 2, 3)),
    destination: IpAddr::V4(CLIENT_V4),
};
pub const REPLY_V6: Wrapping = Wrapping {
    tags: &[],
    source: IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x1234)),
    destination: IpAddr::V6(CLIENT_V6),
};

impl Wrapping {
    /// Where the IP header starts.
    pub fn ip_at(&self) -> usize {
        14 + 4 * self.tags.len()
    }

    /// Where the UDP header starts.
    pub fn udp_at(&self) -> usize {
        self.ip_at() + if self.source.is_ipv4() { 20 } else { 40 }
    }

    /// The frame around `datagram`, sent to `port`.
    pub fn frame(&self, port: u16, datagram: &[u8]) -> Vec<u8> {
        let mut frame = [EDGE_MAC, CLIENT_MAC].concat();
        for tag in self.tags {
            frame.extend(tag.to_be_bytes());
            frame.extend([0, 42]);
        }
        let udp_len = (8 + datagram.len()) as u16;
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                frame.extend(0x0800_u16.to_be_bytes());
                let mut ip = vec![0x45, 0];
                ip.extend((20 + udp_len).to_be_bytes());
                ip.extend([0, 7, 0x40, 0, 64, 17, 0, 0]);
                ip.extend(source.octets());
                ip.extend(destination.octets());
                let check = !fold(sum(&ip));
                ip[10..12].copy_from_slice(&check.to_be_bytes());
                frame.extend(ip);
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                frame.extend(0x86dd_u16.to_be_bytes());
                frame.extend([0x60, 0, 0, 0]);
                frame.extend(udp_len.to_be_bytes());
                frame.extend([17, 64]);
                frame.extend(source.octets());
                frame.extend(destination.octets());
            }
            _ => unreachable!("addresses of one family"),
        }
        frame.extend(CLIENT_PORT.to_be_bytes());
        frame.extend(port.to_be_bytes());
        frame.extend(udp_len.to_be_bytes());
        frame.extend([0, 0]);
        frame.extend(datagram);
        let check = self.udp_check(&frame);
        let at = self.udp_at() + 6;
        frame[at..at + 2].copy_from_slice(&check.to_be_bytes());
        frame
    }

    /// The right UDP checksum of a frame that is wrapped like this, whatever stands in it.
    pub fn udp_check(&self, frame: &[u8]) -> u16 {
        let mut udp = frame[self.udp_at()..].to_vec();
        udp[6..8].fill(0);
        match !fold(self.pseudo_sum(frame) + sum(&udp)) {
            0 => 0xffff,
            check => check,
        }
    }

    /// What an unfinished checksum (`CHECKSUM_PARTIAL`) holds.
    pub fn partial_check(&self, frame: &[u8]) -> u16 {
        fold(self.pseudo_sum(frame))
    }

    fn pseudo_sum(&self, frame: &[u8]) -> u64 {
        let addresses = if self.source.is_ipv4() { 12..20 } else { 8..40 };
        let ip = &frame[self.ip_at()..];
        let udp_len = frame.len() - self.udp_at();
        sum(&ip[addresses]) + 17 + udp_len as u64
    }
}

pub fn sum(bytes: &[u8]) -> u64 {
    bytes
        .chunks(2)
        .map(|pair| u64::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)])))
        .sum()
}

pub fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

//! IPv4 frames, taken apart and put together.

use std::net::Ipv4Addr;

const ETHERNET_LEN: usize = 14;
const HEADERS_LEN: usize = ETHERNET_LEN + 20 + 8;
const UDP: u8 = 17;

/// Where frames come from and go to, but for what each of them says for itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Way {
    pub(crate) from_mac: [u8; 6],
    pub(crate) to_mac: [u8; 6],
    pub(crate) to: (Ipv4Addr, u16),
}

impl Way {
    /// A frame with a datagram that claims to come from somewhere.
    pub(crate) fn frame(&self, from: (Ipv4Addr, u16), datagram: &[u8]) -> Vec<u8> {
        let udp_len = (8 + datagram.len()) as u16;
        let mut ip = vec![0x45, 0];
        ip.extend((20 + udp_len).to_be_bytes());
        ip.extend([0, 0, 0x40, 0, 64, UDP, 0, 0]);
        ip.extend(from.0.octets());
        ip.extend(self.to.0.octets());
        let check = folded(sum(&ip));
        ip[10..12].copy_from_slice(&check.to_be_bytes());
        let mut udp = Vec::new();
        udp.extend(from.1.to_be_bytes());
        udp.extend(self.to.1.to_be_bytes());
        udp.extend(udp_len.to_be_bytes());
        udp.extend([0, 0]);
        udp.extend(datagram);
        let check = match folded(sum(&ip[12..20]) + u32::from(UDP) + u32::from(udp_len) + sum(&udp)) {
            0 => 0xffff,
            check => check,
        };
        udp[6..8].copy_from_slice(&check.to_be_bytes());
        [&self.to_mac[..], &self.from_mac, &[8, 0], &ip, &udp].concat()
    }

    /// The datagram in a frame that goes this way; `None` if it is another frame.
    pub(crate) fn datagram<'a>(&self, frame: &'a [u8]) -> Option<&'a [u8]> {
        let (headers, datagram) = frame.split_at_checked(HEADERS_LEN)?;
        let is_plain = headers[12..15] == [8, 0, 0x45] && headers[ETHERNET_LEN + 9] == UDP;
        let is_ours = headers[30..34] == self.to.0.octets() && headers[36..38] == self.to.1.to_be_bytes();
        (is_plain && is_ours).then_some(datagram)
    }
}

/// Whom a frame is for.
pub(crate) fn destination(frame: &[u8]) -> Ipv4Addr {
    frame[30..34].first_chunk().copied().unwrap_or_default().into()
}

fn sum(bytes: &[u8]) -> u32 {
    let word = |pair: &[u8]| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
    bytes.chunks(2).map(word).sum()
}

fn folded(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    !((sum & 0xffff) + (sum >> 16)) as u16
}

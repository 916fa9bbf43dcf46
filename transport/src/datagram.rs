//! Laying datagrams into a send buffer and taking received ones apart.

use std::net::{IpAddr, SocketAddr};

use xdpfs_wire::{CapabilityKey, HEADER_LEN, Header, HeaderBytes, Opcode, PieceClass};

use crate::checksum::crc32c;

/// The most payload bytes in one burst, so that a burst fits a single segmented send (65,507 bytes of UDP payload).
pub const BURST_BYTES_MAX: usize = 60 << 10;

/// Ports that a client may send from.
pub(crate) const LANES_MAX: u8 = 4;

/// Who sent a datagram, and which of our addresses it was sent to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Peer {
    /// The sender.
    pub address: SocketAddr,
    /// The address that an answer has to come from; `None` if it is known only to the socket.
    pub local: Option<IpAddr>,
}

impl From<SocketAddr> for Peer {
    fn from(address: SocketAddr) -> Self {
        Self { address, local: None }
    }
}

/// Datagrams to be sent: the bytes are in the buffer that was polled into.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Transmit {
    /// Where to.
    pub destination: SocketAddr,
    /// Which of our addresses from, if that matters. A socket that is bound to an address has no choice.
    pub source: Option<IpAddr>,
    /// Bytes in each datagram but the last, if the buffer holds more than one.
    pub segment_size: Option<usize>,
    /// Whether the datagrams may not leave as one super-packet, which this path damages or loses.
    pub one_by_one: bool,
    /// Which of the sender's ports from, if it has several.
    pub lane: u8,
}

impl Transmit {
    /// An answer to `peer`.
    #[must_use]
    pub const fn to(peer: Peer, segment_size: Option<usize>) -> Self {
        Self { destination: peer.address, source: peer.local, segment_size, one_by_one: false, lane: 0 }
    }
}

/// How many full pieces of `class` one burst carries.
pub(crate) fn burst_pieces(class: PieceClass) -> u32 {
    let fitting = BURST_BYTES_MAX / class.datagram_len();
    (fitting as u32).min(xdpfs_wire::payload::BURST_PIECES_MAX)
}

/// Appends one datagram: the sealed header, the payload, and zeros up to `padded_len` payload bytes.
pub(crate) fn append(
    out: &mut Vec<u8>,
    key: CapabilityKey,
    mut header: Header,
    payload: &[u8],
    padded_len: usize,
) {
    let start = out.len();
    out.resize(start + HEADER_LEN, 0);
    out.extend_from_slice(payload);
    if payload.len() < padded_len {
        out.resize(start + HEADER_LEN + padded_len, 0);
    }
    header.payload_crc = crc32c(checked_part(&header, &out[start + HEADER_LEN..]));
    out[start..start + HEADER_LEN].copy_from_slice(&key.seal(&header));
}

/// Splits a received datagram; `None` if it is shorter than a header.
pub(crate) fn split(datagram: &[u8]) -> Option<(&HeaderBytes, &[u8])> {
    datagram.split_first_chunk::<HEADER_LEN>()
}

/// Whether the payload has the checksum that its header says.
pub(crate) fn payload_intact(header: &Header, payload: &[u8]) -> bool {
    crc32c(checked_part(header, payload)) == header.payload_crc
}

/// The bytes that the payload checksum covers: chunk bytes without their padding, everything otherwise.
fn checked_part<'a>(header: &Header, payload: &'a [u8]) -> &'a [u8] {
    let carries_chunk_bytes = matches!(header.opcode, Opcode::Data | Opcode::PutData | Opcode::PutWhole);
    match payload.get(..header.length as usize) {
        Some(bytes) if carries_chunk_bytes => bytes,
        _ => payload,
    }
}

//! The payloads that are not chunk bytes (`docs/protocol.md §4`). Each has one fixed size; padding behind it is
//! ignored.

use crate::cookie::Cookie;
use crate::ids::{NodeEpoch, NodeId};
use crate::receipt::Receipt;

/// The shortest payload of a request whose reply carries a payload: no reply is longer than [`SACK_LEN`], so a node
/// never answers with more bytes than it was sent.
pub const REQUEST_PADDING_MIN: usize = SACK_LEN;

/// Bytes of a [`GetBurst`].
pub const GET_BURST_LEN: usize = 16;
/// Bytes of a [`ChunkSum`].
pub const CHUNK_SUM_LEN: usize = 8;
/// Bytes of a [`Pong`].
pub const PONG_LEN: usize = 16;
/// Bytes of a [`Tail`].
pub const TAIL_LEN: usize = 8;
/// Bytes of an encoded [`Receipt`].
pub const RECEIPT_LEN: usize = 24;
/// Bytes of a [`Sack`].
pub const SACK_LEN: usize = 40;
/// Bytes of the cookie that comes with a `Cookie` status.
pub const COOKIE_LEN: usize = 8;

/// How many pieces one burst can name.
pub const BURST_PIECES_MAX: u32 = 64;
/// How many pieces behind the first hole a [`Sack`] describes.
pub const SACK_WINDOW: u32 = 256;

/// Which pieces of the range a `GetBurst` wants. Piece `i` starts at `offset + i * piece_len`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct GetBurst {
    /// Proof of the sender's address.
    pub cookie: Cookie,
    /// Bit `i` set: send piece `i`.
    pub wanted: u64,
}

/// Checksum of a whole chunk, in `PutOpen`, `PutCommit` and `StatReply`; the header's `length` is the chunk's.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ChunkSum {
    /// CRC32C of the chunk.
    pub crc: u32,
}

/// What a node says of itself in a `Pong`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Pong {
    /// Proof of the asker's address, to be sent back in `GetBurst`.
    pub cookie: Cookie,
    /// Bytes of a burst that the node is ready to send at once.
    pub burst_max: u32,
}

/// The end of a burst.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Tail {
    /// From the arrival of the request to the departure of the burst, in microseconds: not the network's fault.
    pub service_us: u32,
    /// Pieces sent.
    pub pieces: u32,
}

/// What has arrived of an upload. The header's `offset` is the first byte that is missing, its `length` the first
/// byte that may not be sent yet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Sack {
    /// Bit `i`: the `i`-th piece from the first missing one has arrived. Word 0 holds the lowest bits.
    pub arrived: [u64; 4],
    /// Distinct pieces that have arrived in all.
    pub pieces: u32,
}

impl GetBurst {
    /// Reads one; `None` if the payload is too short.
    #[must_use]
    pub fn parse(payload: &[u8]) -> Option<Self> {
        Some(Self { cookie: Cookie(u64_at(payload, 0)?), wanted: u64_at(payload, 8)? })
    }

    /// As it travels.
    #[must_use]
    pub fn encode(&self) -> [u8; GET_BURST_LEN] {
        let mut bytes = [0; GET_BURST_LEN];
        bytes[..8].copy_from_slice(&self.cookie.0.to_le_bytes());
        bytes[8..].copy_from_slice(&self.wanted.to_le_bytes());
        bytes
    }
}

impl ChunkSum {
    /// Reads one; `None` if the payload is too short.
    #[must_use]
    pub fn parse(payload: &[u8]) -> Option<Self> {
        u64_at(payload, 0).map(|word| Self { crc: word as u32 })
    }

    /// As it travels.
    #[must_use]
    pub fn encode(&self) -> [u8; CHUNK_SUM_LEN] {
        u64::from(self.crc).to_le_bytes()
    }
}

impl Pong {
    /// Reads one; `None` if the payload is too short.
    #[must_use]
    pub fn parse(payload: &[u8]) -> Option<Self> {
        Some(Self { cookie: Cookie(u64_at(payload, 0)?), burst_max: u32_at(payload, 8)? })
    }

    /// As it travels.
    #[must_use]
    pub fn encode(&self) -> [u8; PONG_LEN] {
        let mut bytes = [0; PONG_LEN];
        bytes[..8].copy_from_slice(&self.cookie.0.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.burst_max.to_le_bytes());
        bytes
    }
}

impl Tail {
    /// Reads one; `None` if the payload is too short.
    #[must_use]
    pub fn parse(payload: &[u8]) -> Option<Self> {
        Some(Self { service_us: u32_at(payload, 0)?, pieces: u32_at(payload, 4)? })
    }

    /// As it travels.
    #[must_use]
    pub fn encode(&self) -> [u8; TAIL_LEN] {
        let mut bytes = [0; TAIL_LEN];
        bytes[..4].copy_from_slice(&self.service_us.to_le_bytes());
        bytes[4..].copy_from_slice(&self.pieces.to_le_bytes());
        bytes
    }
}

impl Sack {
    /// Reads one; `None` if the payload is too short.
    #[must_use]
    pub fn parse(payload: &[u8]) -> Option<Self> {
        let arrived = [u64_at(payload, 0)?, u64_at(payload, 8)?, u64_at(payload, 16)?, u64_at(payload, 24)?];
        Some(Self { arrived, pieces: u32_at(payload, 32)? })
    }

    /// As it travels.
    #[must_use]
    pub fn encode(&self) -> [u8; SACK_LEN] {
        let mut bytes = [0; SACK_LEN];
        for (slot, word) in bytes.chunks_exact_mut(8).zip(self.arrived) {
            slot.copy_from_slice(&word.to_le_bytes());
        }
        bytes[32..36].copy_from_slice(&self.pieces.to_le_bytes());
        bytes
    }

    /// Whether the `i`-th piece from the first missing one has arrived.
    #[must_use]
    pub fn has_arrived(&self, i: u32) -> bool {
        self.arrived.get(i as usize / 64).is_some_and(|word| word >> (i % 64) & 1 == 1)
    }

    /// Notes that the `i`-th piece from the first missing one has arrived; beyond the window it can't be said.
    pub fn note_arrived(&mut self, i: u32) {
        if let Some(word) = self.arrived.get_mut(i as usize / 64) {
            *word |= 1 << (i % 64);
        }
    }
}

impl Receipt {
    /// Reads a receipt for the chunk that the header names; `None` if the payload is too short.
    #[must_use]
    pub fn parse(header: &crate::Header, payload: &[u8]) -> Option<Self> {
        let who = u32_at(payload, 0)?;
        Some(Self {
            chunk: header.chunk,
            node: NodeId(who as u16),
            node_epoch: NodeEpoch((who >> 16) as u16),
            length: u32_at(payload, 4)?,
            crc: u32_at(payload, 8)?,
            mac: u64_at(payload, 16)?,
        })
    }

    /// As it travels. The chunk id is in the header.
    #[must_use]
    pub fn encode(&self) -> [u8; RECEIPT_LEN] {
        let mut bytes = [0; RECEIPT_LEN];
        bytes[0..2].copy_from_slice(&self.node.0.to_le_bytes());
        bytes[2..4].copy_from_slice(&self.node_epoch.0.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.length.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.crc.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.mac.to_le_bytes());
        bytes
    }
}

fn u32_at(payload: &[u8], at: usize) -> Option<u32> {
    payload.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes)
}

fn u64_at(payload: &[u8], at: usize) -> Option<u64> {
    payload.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes)
}

const _: () = assert!(PONG_LEN <= REQUEST_PADDING_MIN && RECEIPT_LEN <= REQUEST_PADDING_MIN);
const _: () = assert!(CHUNK_SUM_LEN <= REQUEST_PADDING_MIN && COOKIE_LEN <= GET_BURST_LEN);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_round_trip() {
        let burst = GetBurst { cookie: Cookie(1), wanted: u64::MAX };
        assert_eq!(GetBurst::parse(&burst.encode()), Some(burst));
        let sum = ChunkSum { crc: u32::MAX };
        assert_eq!(ChunkSum::parse(&sum.encode()), Some(sum));
        let pong = Pong { cookie: Cookie(3), burst_max: 4 };
        assert_eq!(Pong::parse(&pong.encode()), Some(pong));
        let tail = Tail { service_us: 5, pieces: 6 };
        assert_eq!(Tail::parse(&tail.encode()), Some(tail));
        let sack = Sack { arrived: [1, 2, 3, 4], pieces: 7 };
        assert_eq!(Sack::parse(&sack.encode()), Some(sack));
    }

    #[test]
    fn short_payloads_are_refused() {
        assert_eq!(GetBurst::parse(&[0; GET_BURST_LEN - 1]), None);
        assert_eq!(Sack::parse(&[0; 35]), None);
        assert_eq!(Tail::parse(&[]), None);
    }

    #[test]
    fn sack_bits_count_from_the_first_hole() {
        let mut sack = Sack { arrived: [0; 4], pieces: 0 };
        sack.note_arrived(0);
        sack.note_arrived(255);
        sack.note_arrived(256);
        assert!(sack.has_arrived(0) && sack.has_arrived(255));
        assert!(!sack.has_arrived(1) && !sack.has_arrived(256));
    }
}

//! The fixed 64-byte header at the start of every datagram (`docs/protocol.md §3`).

use crate::ids::{
    BucketId, CHUNK_LEN_MAX, ChunkId, ClientId, Expiry, KeyEpoch, NodeEpoch, NodeId, RequestId, Rights,
};
use crate::opcode::Opcode;
use crate::status::Status;

/// Bytes in a header: one cache line.
pub const HEADER_LEN: usize = 64;
/// The first two bytes of every datagram, little-endian.
pub const MAGIC: u16 = 0x5846;
/// The protocol's major version.
pub const VERSION: u8 = 1;

/// Version in the high nibble, header length in units of eight bytes in the low one.
const VERSION_BYTE: u8 = VERSION << 4 | (HEADER_LEN / 8) as u8;
const CLASS_MASK: u8 = 0b0000_0111;

/// A header as it travels.
pub type HeaderBytes = [u8; HEADER_LEN];

/// How many payload bytes a full piece carries. A class is chosen per path so that no datagram is ever fragmented.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[repr(u8)]
pub enum PieceClass {
    /// 1024 bytes: fits the 1280-byte minimum of IPv6 (RFC 8200 §5).
    Small = 0,
    /// 1344 bytes: fits Ethernet's 1500 and the usual overlays with IPv4 and IPv6.
    Standard = 1,
    /// 3328 bytes: the largest that plain native XDP carries.
    Large = 2,
    /// 8192 bytes: two disk pages, for jumbo frames of 9000.
    Jumbo = 3,
}

impl PieceClass {
    /// All classes, smallest first.
    pub const ALL: [Self; 4] = [Self::Small, Self::Standard, Self::Large, Self::Jumbo];

    /// Payload bytes of a full piece.
    #[must_use]
    pub const fn piece_len(self) -> u32 {
        match self {
            Self::Small => 1024,
            Self::Standard => 1344,
            Self::Large => 3328,
            Self::Jumbo => 8192,
        }
    }

    /// Bytes of the UDP payload that carries a full piece.
    #[must_use]
    pub const fn datagram_len(self) -> usize {
        HEADER_LEN + self.piece_len() as usize
    }

    /// The next smaller class, if there is one.
    #[must_use]
    pub const fn smaller(self) -> Option<Self> {
        match self {
            Self::Small => None,
            Self::Standard => Some(Self::Small),
            Self::Large => Some(Self::Standard),
            Self::Jumbo => Some(Self::Large),
        }
    }

    const fn from_bits(bits: u8) -> Option<Self> {
        match bits {
            0 => Some(Self::Small),
            1 => Some(Self::Standard),
            2 => Some(Self::Large),
            3 => Some(Self::Jumbo),
            _ => None,
        }
    }
}

/// The five flag bits above the piece class.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Flags(u8);

impl Flags {
    /// No flag.
    pub const NONE: Self = Self(0);
    /// The sender of `PutData` wants a `Sack` for this datagram.
    pub const ACK_WANTED: Self = Self(1 << 3);
    /// The sender of `GetBurst` wants each datagram of the answer sent by itself, not as a part of a super-packet. The bit of
    /// [`Self::ACK_WANTED`], which `GetBurst` has no use for, so that nodes that don't know it answer as ever.
    pub const ONE_BY_ONE: Self = Self::ACK_WANTED;
    /// Sent before under the same request id; for statistics only.
    pub const RETRANSMIT: Self = Self(1 << 4);
    const DEFINED: u8 = Self::ACK_WANTED.0 | Self::RETRANSMIT.0;

    /// Both sets together.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether every flag in `other` is set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// A parsed header. Every field is little-endian on the wire and 4-byte aligned or smaller.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Header {
    /// What the datagram is.
    pub opcode: Opcode,
    /// The size of a full piece in this exchange.
    pub class: PieceClass,
    /// Flags besides the piece class.
    pub flags: Flags,
    /// How the request ended; [`Status::Ok`] in requests.
    pub status: Status,
    /// What the capability allows.
    pub rights: Rights,
    /// Which epoch secret the capability was derived from.
    pub key_epoch: KeyEpoch,
    /// The data node asked, or answering.
    pub node: NodeId,
    /// The registration of that node which the sender knows of.
    pub node_epoch: NodeEpoch,
    /// Whom the capability was given to.
    pub client: ClientId,
    /// The bucket that the capability reaches.
    pub bucket: BucketId,
    /// When the capability ends.
    pub expiry: Expiry,
    /// Chosen by the client, echoed by the node.
    pub request: RequestId,
    /// A place in the chunk, in bytes.
    pub offset: u32,
    /// The chunk.
    pub chunk: ChunkId,
    /// A size, in bytes; which one depends on the opcode.
    pub length: u32,
    /// CRC32C of the first `length` payload bytes for data, of the whole payload otherwise.
    pub payload_crc: u32,
    /// SipHash-2-4 over the 56 bytes before it, under the capability's key.
    pub tag: u64,
}

/// Why bytes are not a header.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ParseError {
    /// The first two bytes are not [`MAGIC`].
    Magic,
    /// A version or header length that this code doesn't speak.
    Version,
    /// No such opcode.
    Opcode,
    /// A bit or a value that has no meaning yet is set.
    Reserved,
    /// Offset or length beyond the largest chunk.
    Length,
}

impl core::fmt::Display for ParseError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Magic => "not an xdpfs datagram",
            Self::Version => "unknown protocol version",
            Self::Opcode => "unknown opcode",
            Self::Reserved => "a reserved bit is set",
            Self::Length => "offset or length beyond the largest chunk",
        })
    }
}

impl core::error::Error for ParseError {}

impl Header {
    /// Reads a header and checks everything that needs no key.
    ///
    /// # Errors
    /// The first rule of `docs/protocol.md §3` that the bytes break.
    #[inline(always)]
    pub fn parse(bytes: &HeaderBytes) -> Result<Self, ParseError> {
        if u16_at::<0>(bytes) != MAGIC {
            return Err(ParseError::Magic);
        }
        if bytes[2] != VERSION_BYTE {
            return Err(ParseError::Version);
        }
        let Some(opcode) = Opcode::from_byte(bytes[3]) else { return Err(ParseError::Opcode) };
        let flags = bytes[4] & !CLASS_MASK;
        let Some(class) = PieceClass::from_bits(bytes[4] & CLASS_MASK) else {
            return Err(ParseError::Reserved);
        };
        let Some(status) = Status::from_byte(bytes[5]) else { return Err(ParseError::Reserved) };
        let rights = Rights(bytes[6]);
        let request_with_status = !opcode.is_reply() && bytes[5] != 0;
        if flags & !Flags::DEFINED != 0 || !Rights::ALL.contains(rights) || request_with_status {
            return Err(ParseError::Reserved);
        }
        let header = Self {
            opcode,
            class,
            flags: Flags(flags),
            status,
            rights,
            key_epoch: KeyEpoch(bytes[7]),
            node: NodeId(u16_at::<8>(bytes)),
            node_epoch: NodeEpoch(u16_at::<10>(bytes)),
            client: ClientId(u32_at::<12>(bytes)),
            bucket: BucketId(u32_at::<16>(bytes)),
            expiry: Expiry(u32_at::<20>(bytes)),
            request: RequestId(u32_at::<24>(bytes)),
            offset: u32_at::<28>(bytes),
            chunk: ChunkId(u128::from(u64_at::<40>(bytes)) << 64 | u128::from(u64_at::<32>(bytes))),
            length: u32_at::<48>(bytes),
            payload_crc: u32_at::<52>(bytes),
            tag: u64_at::<56>(bytes),
        };
        let beyond = header.offset > CHUNK_LEN_MAX || header.length > CHUNK_LEN_MAX;
        // `Busy` carries a delay in `length`, which no chunk size bounds.
        if beyond && !matches!(header.status, Status::Busy) {
            return Err(ParseError::Length);
        }
        Ok(header)
    }

    /// Writes the header, tag included, as it travels.
    #[inline(always)]
    #[must_use]
    pub fn encode(&self) -> HeaderBytes {
        let mut bytes = [0; HEADER_LEN];
        bytes[0..2].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[2] = VERSION_BYTE;
        bytes[3] = self.opcode as u8;
        bytes[4] = self.class as u8 | self.flags.0;
        bytes[5] = self.status as u8;
        bytes[6] = self.rights.0;
        bytes[7] = self.key_epoch.0;
        bytes[8..10].copy_from_slice(&self.node.0.to_le_bytes());
        bytes[10..12].copy_from_slice(&self.node_epoch.0.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.client.0.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.bucket.0.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.expiry.0.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.request.0.to_le_bytes());
        bytes[28..32].copy_from_slice(&self.offset.to_le_bytes());
        bytes[32..48].copy_from_slice(&self.chunk.0.to_le_bytes());
        bytes[48..52].copy_from_slice(&self.length.to_le_bytes());
        bytes[52..56].copy_from_slice(&self.payload_crc.to_le_bytes());
        bytes[56..64].copy_from_slice(&self.tag.to_le_bytes());
        bytes
    }
}

/// The seven words that the tag covers.
#[inline(always)]
pub(crate) fn tagged_words(bytes: &HeaderBytes) -> [u64; 7] {
    [
        u64_at::<0>(bytes),
        u64_at::<8>(bytes),
        u64_at::<16>(bytes),
        u64_at::<24>(bytes),
        u64_at::<32>(bytes),
        u64_at::<40>(bytes),
        u64_at::<48>(bytes),
    ]
}

#[inline(always)]
fn u16_at<const AT: usize>(bytes: &HeaderBytes) -> u16 {
    const { assert!(AT + 2 <= HEADER_LEN) };
    u16::from_le_bytes([bytes[AT], bytes[AT + 1]])
}

#[inline(always)]
fn u32_at<const AT: usize>(bytes: &HeaderBytes) -> u32 {
    const { assert!(AT + 4 <= HEADER_LEN) };
    u32::from_le_bytes([bytes[AT], bytes[AT + 1], bytes[AT + 2], bytes[AT + 3]])
}

/// Two 32-bit reads: a UDP payload is only 4-byte aligned behind either IP version.
#[inline(always)]
fn u64_at<const AT: usize>(bytes: &HeaderBytes) -> u64 {
    const { assert!(AT + 8 <= HEADER_LEN) };
    let low = u32::from_le_bytes([bytes[AT], bytes[AT + 1], bytes[AT + 2], bytes[AT + 3]]);
    let high = u32::from_le_bytes([bytes[AT + 4], bytes[AT + 5], bytes[AT + 6], bytes[AT + 7]]);
    (high as u64) << 32 | low as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample() -> Header {
        Header {
            opcode: Opcode::PutData,
            class: PieceClass::Large,
            flags: Flags::ACK_WANTED,
            status: Status::Ok,
            rights: Rights::WRITE,
            key_epoch: KeyEpoch(3),
            node: NodeId(0x0201),
            node_epoch: NodeEpoch(0x0403),
            client: ClientId(0x0807_0605),
            bucket: BucketId(0x0c0b_0a09),
            expiry: Expiry(0x100f_0e0d),
            request: RequestId(0x1413_1211),
            offset: 3328,
            chunk: ChunkId::new(BucketId(0x0c0b_0a09), 77),
            length: 3328,
            payload_crc: 0x1817_1615,
            tag: 0x201f_1e1d_1c1b_1a19,
        }
    }

    #[test]
    fn fields_sit_where_the_protocol_page_says() {
        let bytes = sample().encode();
        assert_eq!(bytes[0..8], [0x46, 0x58, 0x18, 0x07, 0x0a, 0, 2, 3]);
        assert_eq!(bytes[8..12], [1, 2, 3, 4]);
        assert_eq!(bytes[12..16], [5, 6, 7, 8]);
        assert_eq!(bytes[44..48], [9, 10, 11, 12], "the bucket is the last word of the chunk id");
        assert_eq!(bytes[52..56], [0x15, 0x16, 0x17, 0x18]);
        assert_eq!(bytes[56..64], [0x19, 0x1a, 0x1b, 0x1c, 0x1d, 0x1e, 0x1f, 0x20]);
    }

    #[test]
    fn each_broken_rule_has_its_own_error() {
        let check = |at: usize, value: u8, expect: ParseError| {
            let mut bytes = sample().encode();
            bytes[at] = value;
            assert_eq!(Header::parse(&bytes), Err(expect), "byte {at} set to {value:#x}");
        };
        check(0, 0, ParseError::Magic);
        check(2, 0x28, ParseError::Version);
        check(2, 0x19, ParseError::Version);
        check(3, 0x7f, ParseError::Opcode);
        check(4, 0x04, ParseError::Reserved);
        check(4, 0x20, ParseError::Reserved);
        check(5, 1, ParseError::Reserved);
        check(5, 0xff, ParseError::Reserved);
        check(6, 0x80, ParseError::Reserved);
        check(31, 0xff, ParseError::Length);
        check(51, 0xff, ParseError::Length);
    }

    proptest! {
        #[test]
        fn whatever_parses_encodes_to_the_same_bytes(mut bytes: [u8; 32], tail: [u8; 32], opcode in 0..16u8) {
            bytes[0..3].copy_from_slice(&[0x46, 0x58, 0x18]);
            bytes[3] = opcode | bytes[3] & 0x80;
            bytes[4] &= 0x1b;
            bytes[5] &= 0x0f;
            bytes[6] &= 0x03;
            let mut whole = [0; HEADER_LEN];
            whole[..32].copy_from_slice(&bytes);
            whole[32..].copy_from_slice(&tail);
            if let Ok(header) = Header::parse(&whole) {
                prop_assert_eq!(header.encode(), whole);
            }
        }
    }
}

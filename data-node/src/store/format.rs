//! What the bytes of a segment mean. Pure: knows no file, no clock, no index.
//!
//! A segment is a superblock of 4 KiB, written twice, and then records that start at multiples of 64 bytes. Numbers
//! are little-endian.
//!
//! | superblock bytes | field | record bytes | field |
//! |---|---|---|---|
//! | 0..8 | magic `XDPFSSEG` | 0..4 | magic `XREC` |
//! | 8..12 | format version | 4 | kind: 1 chunk, 2 tombstone |
//! | 12..16 | segment id | 5..8 | zero |
//! | 16..32 | node uuid | 8..16 | nonce of the segment |
//! | 32..40 | nonce | 16..32 | chunk id |
//! | 40..60 | zero | 32..36, 36..40 | length, CRC32C of the chunk |
//! | 60..64 | CRC32C of 0..60 | 40..48, 48..56 | sequence, batch |
//! | | | 56..60 | position in the segment, in units of 64 bytes |
//! | | | 60..64 | CRC32C of 0..60 |
//!
//! A chunk's record goes on with one CRC32C for each page of 4 KiB, then the data. Small chunks are packed, so that
//! they don't cost a page each; the data of large ones starts on a page boundary of the file, so that one page of
//! the chunk is one page of the disk. The nonce is secret and the position is part of the header, so no user's bytes
//! can pass for a record.

use xdpfs_wire::ChunkId;

use super::checksum::crc32c;

/// Bytes that one page checksum covers, and the disk page that large chunks are aligned to.
pub(super) const PAGE_LEN: usize = 4096;
/// Where the first record starts.
pub(super) const SUPERBLOCK_LEN: u64 = 4096;
/// Bytes in a record header, and the alignment of records.
pub(super) const HEADER_LEN: usize = 64;
/// The longest segment whose positions fit a header.
pub(super) const SEGMENT_LEN_MAX: u64 = (u32::MAX as u64) * UNIT;

const UNIT: u64 = HEADER_LEN as u64;
const SUPERBLOCK_COPY_AT: usize = PAGE_LEN / 2;
const FORMAT_VERSION: u32 = 1;
const SEGMENT_MAGIC: [u8; 8] = *b"XDPFSSEG";
const RECORD_MAGIC: [u8; 4] = *b"XREC";
const PAGE_CRC_LEN: u64 = 4;
/// From this length on, aligning the data costs less than 7 % and saves a page on both ends of a range read.
const LARGE_LEN_MIN: u32 = 64 << 10;

/// The head of a segment.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Superblock {
    pub(super) node_uuid: [u8; 16],
    pub(super) segment: u32,
    pub(super) nonce: u64,
}

/// Why a superblock can't be used.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum SuperblockError {
    /// Neither copy is whole.
    Damaged,
    /// Written by another version of this program.
    Version(u32),
}

impl Superblock {
    pub(super) fn encode(&self) -> [u8; SUPERBLOCK_LEN as usize] {
        let mut copy = [0; HEADER_LEN];
        copy[..8].copy_from_slice(&SEGMENT_MAGIC);
        copy[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        copy[12..16].copy_from_slice(&self.segment.to_le_bytes());
        copy[16..32].copy_from_slice(&self.node_uuid);
        copy[32..40].copy_from_slice(&self.nonce.to_le_bytes());
        seal(&mut copy);
        let mut block = [0; SUPERBLOCK_LEN as usize];
        block[..HEADER_LEN].copy_from_slice(&copy);
        block[SUPERBLOCK_COPY_AT..SUPERBLOCK_COPY_AT + HEADER_LEN].copy_from_slice(&copy);
        block
    }

    pub(super) fn parse(block: &[u8; SUPERBLOCK_LEN as usize]) -> Result<Self, SuperblockError> {
        let first: &[u8; HEADER_LEN] = array_at(block, 0);
        let second: &[u8; HEADER_LEN] = array_at(block, SUPERBLOCK_COPY_AT);
        let copy = [first, second]
            .into_iter()
            .find(|copy| is_sealed(copy) && copy[..8] == SEGMENT_MAGIC)
            .ok_or(SuperblockError::Damaged)?;
        match u32_at(copy, 8) {
            FORMAT_VERSION => Ok(Self {
                segment: u32_at(copy, 12),
                node_uuid: *array_at(copy, 16),
                nonce: u64::from_le_bytes(*array_at(copy, 32)),
            }),
            other => Err(SuperblockError::Version(other)),
        }
    }
}

/// What a record is about.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub(super) enum Kind {
    /// The chunk's bytes follow.
    Chunk = 1,
    /// The chunk is gone; kills every record of it with a lower sequence.
    Tombstone = 2,
}

/// The head of a record.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Header {
    pub(super) kind: Kind,
    pub(super) chunk: ChunkId,
    /// Zero in tombstones.
    pub(super) length: u32,
    /// Zero in tombstones.
    pub(super) crc: u32,
    /// Orders all records of a store; a copy made by compaction keeps the number of its original.
    pub(super) sequence: u64,
    /// Counts the syncs of a store: when a batch begins, all earlier ones are on the disk.
    pub(super) batch: u64,
}

impl Header {
    /// The header as it stands at `position` of the segment with `nonce`.
    pub(super) fn encode(&self, nonce: u64, position: u64) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[..4].copy_from_slice(&RECORD_MAGIC);
        bytes[4] = self.kind as u8;
        bytes[8..16].copy_from_slice(&nonce.to_le_bytes());
        bytes[16..32].copy_from_slice(&self.chunk.0.to_le_bytes());
        bytes[32..36].copy_from_slice(&self.length.to_le_bytes());
        bytes[36..40].copy_from_slice(&self.crc.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[48..56].copy_from_slice(&self.batch.to_le_bytes());
        bytes[56..60].copy_from_slice(&units(position).to_le_bytes());
        seal(&mut bytes);
        bytes
    }

    /// The header at `position`, if there is a sound one.
    pub(super) fn parse(bytes: &[u8; HEADER_LEN], nonce: u64, position: u64) -> Option<Self> {
        let ours = bytes[..4] == RECORD_MAGIC
            && bytes[8..16] == nonce.to_le_bytes()
            && bytes[56..60] == units(position).to_le_bytes()
            && is_sealed(bytes);
        let kind = match bytes[4] {
            _ if !ours => return None,
            1 => Kind::Chunk,
            2 => Kind::Tombstone,
            _ => return None,
        };
        Some(Self {
            kind,
            chunk: ChunkId(u128::from_le_bytes(*array_at(bytes, 16))),
            length: u32_at(bytes, 32),
            crc: u32_at(bytes, 36),
            sequence: u64::from_le_bytes(*array_at(bytes, 40)),
            batch: u64::from_le_bytes(*array_at(bytes, 48)),
        })
    }

    /// Where the parts of this record lie if it starts at `position`.
    pub(super) fn extent(&self, position: u64) -> Extent {
        match self.kind {
            Kind::Chunk => Extent::of_chunk(position, self.length),
            Kind::Tombstone => Extent::of_tombstone(position),
        }
    }
}

/// Where the parts of a record lie in its segment.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Extent {
    /// The header.
    pub(super) start: u64,
    /// The page checksums.
    pub(super) page_crcs: u64,
    /// The data.
    pub(super) data: u64,
    /// The next record.
    pub(super) end: u64,
}

impl Extent {
    pub(super) const fn of_chunk(start: u64, length: u32) -> Self {
        let page_crcs = start + UNIT;
        let packed = page_crcs + pages(length) * PAGE_CRC_LEN;
        let alignment = if length >= LARGE_LEN_MIN { PAGE_LEN as u64 } else { 1 };
        let data = packed.next_multiple_of(alignment);
        Self { start, page_crcs, data, end: (data + length as u64).next_multiple_of(UNIT) }
    }

    pub(super) const fn of_tombstone(start: u64) -> Self {
        let end = start + UNIT;
        Self { start, page_crcs: end, data: end, end }
    }

    pub(super) const fn len(&self) -> u64 {
        self.end - self.start
    }

    /// The most that a chunk of this length takes, wherever it starts.
    pub(super) const fn len_max(length: u32) -> u64 {
        Self::of_chunk(0, length).len() + PAGE_LEN as u64
    }
}

/// Pages of a chunk; the last may be shorter.
pub(super) const fn pages(length: u32) -> u64 {
    (length as u64).div_ceil(PAGE_LEN as u64)
}

fn units(position: u64) -> u32 {
    debug_assert!(position.is_multiple_of(UNIT), "records are aligned");
    (position / UNIT) as u32
}

fn seal(bytes: &mut [u8; HEADER_LEN]) {
    let crc = crc32c(&bytes[..HEADER_LEN - 4]);
    bytes[HEADER_LEN - 4..].copy_from_slice(&crc.to_le_bytes());
}

fn is_sealed(bytes: &[u8; HEADER_LEN]) -> bool {
    bytes[HEADER_LEN - 4..] == crc32c(&bytes[..HEADER_LEN - 4]).to_le_bytes()
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(*array_at(bytes, at))
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> &[u8; N] {
    bytes[at..].first_chunk().expect("offsets are constants inside a fixed-size block")
}

const _: () = assert!(SUPERBLOCK_LEN.is_multiple_of(UNIT));

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use xdpfs_wire::CHUNK_LEN_MAX;

    use super::*;

    const SUPERBLOCK: Superblock =
        Superblock { node_uuid: [7; 16], segment: 3, nonce: 0x1234_5678_9abc_def0 };

    fn header() -> Header {
        Header {
            kind: Kind::Chunk,
            chunk: ChunkId(1 << 96 | 5),
            length: 4097,
            crc: 9,
            sequence: 10,
            batch: 11,
        }
    }

    #[test]
    fn superblock_survives_the_loss_of_either_copy() {
        let whole = SUPERBLOCK.encode();
        for at in 0..whole.len() {
            let mut block = whole;
            block[at] ^= 0x10;
            assert_eq!(Superblock::parse(&block), Ok(SUPERBLOCK), "byte {at}");
        }
        assert_eq!(Superblock::parse(&[0; 4096]), Err(SuperblockError::Damaged));
    }

    #[test]
    fn superblock_of_another_version_is_named_so() {
        let mut block = SUPERBLOCK.encode();
        block[8] = 2;
        let copy: &mut [u8; HEADER_LEN] = block.first_chunk_mut().expect("a block is longer than a header");
        seal(copy);
        assert_eq!(Superblock::parse(&block), Err(SuperblockError::Version(2)));
    }

    #[test]
    fn any_flipped_byte_of_a_header_is_noticed() {
        let whole = header().encode(1, 4096);
        assert_eq!(Header::parse(&whole, 1, 4096), Some(header()));
        for at in 0..whole.len() {
            let mut bytes = whole;
            bytes[at] ^= 1;
            assert_eq!(Header::parse(&bytes, 1, 4096), None, "byte {at}");
        }
    }

    #[test]
    fn header_counts_only_where_it_was_written() {
        let bytes = header().encode(1, 4096);
        assert_eq!(Header::parse(&bytes, 1, 4096 + 64), None, "another position");
        assert_eq!(Header::parse(&bytes, 2, 4096), None, "another segment");
    }

    proptest! {
        #[test]
        fn parts_of_a_record_follow_each_other(start in 0..1_u64 << 20, length in 1..=CHUNK_LEN_MAX) {
            let start = start * UNIT;
            let extent = Extent::of_chunk(start, length);
            prop_assert_eq!(extent.page_crcs, start + 64);
            prop_assert!(extent.data >= extent.page_crcs + 4 * pages(length));
            prop_assert!(extent.end >= extent.data + u64::from(length));
            prop_assert!(extent.end.is_multiple_of(UNIT));
            prop_assert!(length < LARGE_LEN_MIN || extent.data.is_multiple_of(PAGE_LEN as u64));
            prop_assert!(extent.len() <= Extent::len_max(length));
        }
    }
}

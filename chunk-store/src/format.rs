//! What the bytes of a segment mean. Pure: knows no file, no clock, no index.
//!
//! A segment is a superblock of one page, then batches that start on pages, and, once it is sealed, an index and a footer.
//! `docs/design/0028-chunks-in-batches.md` has the layout and its reasons. Numbers are little-endian.
//!
//! | superblock, twice in its page | batch header | descriptor |
//! |---|---|---|
//! | 0..8 magic `XDPFSSEG` | 0..4 magic `XBAT` | 0..16 chunk id |
//! | 8..12 format version | 4 kind: 1 records, 2 index | 16..20 length |
//! | 12..16 segment id | 5..8 zero | 20..24 CRC32C of the chunk |
//! | 16..32 node uuid | 8..16 nonce of the segment | 24..32 sequence |
//! | 32..40 nonce | 16..24 batch number | 32..36 start in the segment, in units of 64 bytes |
//! | 40 state: 1 in use, 2 free | 24..28 position in the segment, in pages | 36 kind: 1 chunk, 2 tombstone |
//! | 41 class: 1 hot, 2 cold | 28..32 pages of the batch | 37..40 zero |
//! | 42..60 zero | 32..36 number of descriptors | |
//! | 60..64 CRC32C of 0..60 | 36..40 CRC32C of the header before in this segment | |
//! | | 40..56 zero | |
//! | | 56..60 CRC32C of the descriptors | |
//! | | 60..64 CRC32C of 0..60 | |
//!
//! The descriptors follow their header. Behind them each chunk has, from its start on, one CRC32C for each of its pages if it
//! has more than one, and its bytes. Small chunks are packed; the bytes of large ones, and of those that fill a page, begin on a page, so that a page of the
//! chunk is a page of the disk. The nonce is secret and the position is part of the header, so no user's bytes, and nothing
//! that an earlier use of the same file has left, can pass for a batch.

use xdpfs_wire::ChunkId;

use crate::{checksum::crc32c, page_buffer::PAGE_LEN};

/// Bytes of the page at the start of a segment.
pub(crate) const SUPERBLOCK_LEN: u64 = PAGE;
/// Bytes of a batch's header.
pub(crate) const HEADER_LEN: usize = 64;
/// Bytes of a descriptor.
pub(crate) const DESCRIPTOR_LEN: usize = 40;
/// Bytes of the page at the end of a sealed segment.
pub(crate) const FOOTER_LEN: u64 = PAGE;

/// A page, where it counts among positions.
pub(crate) const PAGE: u64 = PAGE_LEN as u64;
/// What records are aligned to.
const UNIT: u64 = 64;
const FORMAT_VERSION: u32 = 2;
const SEGMENT_MAGIC: [u8; 8] = *b"XDPFSSEG";
const BATCH_MAGIC: [u8; 4] = *b"XBAT";
const FOOTER_MAGIC: [u8; 8] = *b"XDPFSEND";
const BLOCK_LEN: usize = 64;
const SUPERBLOCK_COPY_AT: usize = PAGE_LEN / 2;
/// From this length on, aligning the bytes costs less than 7 % and saves a page on both ends of a range read.
const LARGE_LEN_MIN: u32 = 64 << 10;
/// A chunk of one page that is as full as this begins on a page: several of them lie as close as if they were packed, and each is
/// read as one page, not two. A shorter one may share its page with its batch's head.
const FULL_LEN_MIN: u32 = PAGE as u32 - 96;

/// A use of a segment file, numbered in the order in which they begin; never used twice.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) struct SegmentId(pub(crate) u32);

/// What is written to a segment.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[repr(u8)]
pub(crate) enum Class {
    /// What comes in.
    Hot = 1,
    /// What has outlived the others of its segment, and so will probably stay.
    Cold = 2,
}

/// The head of a segment.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Superblock {
    pub(crate) node_uuid: [u8; 16],
    pub(crate) segment: SegmentId,
    pub(crate) nonce: u64,
    pub(crate) class: Class,
    /// Nothing in the segment counts.
    pub(crate) is_free: bool,
}

/// Why a superblock can't be used.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum SuperblockError {
    /// Neither copy is whole.
    Damaged,
    /// Written by another version of this program.
    Version(u32),
}

impl Superblock {
    pub(crate) fn encode(&self, page: &mut [u8]) {
        let mut copy = [0; BLOCK_LEN];
        copy[..8].copy_from_slice(&SEGMENT_MAGIC);
        copy[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        copy[12..16].copy_from_slice(&self.segment.0.to_le_bytes());
        copy[16..32].copy_from_slice(&self.node_uuid);
        copy[32..40].copy_from_slice(&self.nonce.to_le_bytes());
        copy[40] = if self.is_free { 2 } else { 1 };
        copy[41] = self.class as u8;
        seal(&mut copy);
        page.fill(0);
        page[..BLOCK_LEN].copy_from_slice(&copy);
        page[SUPERBLOCK_COPY_AT..SUPERBLOCK_COPY_AT + BLOCK_LEN].copy_from_slice(&copy);
    }

    /// Reads a superblock. Copies differ where a change of it was cut off; then it is free, for either it was, or it was about
    /// to become so.
    pub(crate) fn parse(page: &[u8]) -> Result<Self, SuperblockError> {
        let first = Self::parse_copy(array_at(page, 0));
        let second = Self::parse_copy(array_at(page, SUPERBLOCK_COPY_AT));
        match (first, second) {
            (Ok(first), Ok(second)) if second.is_free && !first.is_free => Ok(second),
            (Ok(whole), _) | (Err(SuperblockError::Damaged), Ok(whole)) => Ok(whole),
            (Err(error), _) => Err(error),
        }
    }

    fn parse_copy(copy: &[u8; BLOCK_LEN]) -> Result<Self, SuperblockError> {
        if !is_sealed(copy) || copy[..8] != SEGMENT_MAGIC {
            return Err(SuperblockError::Damaged);
        }
        match u32_at(copy, 8) {
            FORMAT_VERSION => Ok(Self {
                segment: SegmentId(u32_at(copy, 12)),
                node_uuid: *array_at(copy, 16),
                nonce: u64_at(copy, 32),
                is_free: copy[40] == 2,
                class: if copy[41] == Class::Cold as u8 { Class::Cold } else { Class::Hot },
            }),
            other => Err(SuperblockError::Version(other)),
        }
    }
}

/// What a batch holds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub(crate) enum BatchKind {
    /// Chunks and deletions.
    Records = 1,
    /// The descriptors of all batches before it in its segment.
    Index = 2,
}

/// The head of a batch.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct BatchHeader {
    pub(crate) kind: BatchKind,
    /// Counts the durable writes of a store: when a batch begins, all earlier ones are on the disk.
    pub(crate) number: u64,
    pub(crate) pages: u32,
    pub(crate) descriptors: u32,
    /// The digest of the batch before in this segment.
    pub(crate) previous: u32,
    /// CRC32C of the descriptors.
    pub(crate) table_crc: u32,
}

impl BatchHeader {
    /// Writes the header as it stands at `position` of the segment with `nonce`; gives the batch's digest.
    pub(crate) fn encode(&self, nonce: u64, position: u64, out: &mut [u8]) -> u32 {
        let mut bytes = [0; HEADER_LEN];
        bytes[..4].copy_from_slice(&BATCH_MAGIC);
        bytes[4] = self.kind as u8;
        bytes[8..16].copy_from_slice(&nonce.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.number.to_le_bytes());
        bytes[24..28].copy_from_slice(&page_number(position).to_le_bytes());
        bytes[28..32].copy_from_slice(&self.pages.to_le_bytes());
        bytes[32..36].copy_from_slice(&self.descriptors.to_le_bytes());
        bytes[36..40].copy_from_slice(&self.previous.to_le_bytes());
        bytes[56..60].copy_from_slice(&self.table_crc.to_le_bytes());
        let digest = seal(&mut bytes);
        out[..HEADER_LEN].copy_from_slice(&bytes);
        digest
    }

    /// The header at `position` of the segment with `nonce`, with the batch's digest; `None` if there is none.
    pub(crate) fn parse(bytes: &[u8], nonce: u64, position: u64) -> Option<(Self, u32)> {
        let bytes: &[u8; HEADER_LEN] = bytes.first_chunk()?;
        let is_here = bytes[..4] == BATCH_MAGIC
            && u64_at(bytes, 8) == nonce
            && u64::from(u32_at(bytes, 24)) * PAGE == position;
        if !is_here || !is_sealed(bytes) {
            return None;
        }
        let kind = match bytes[4] {
            1 => BatchKind::Records,
            2 => BatchKind::Index,
            _ => return None,
        };
        let header = Self {
            kind,
            number: u64_at(bytes, 16),
            pages: u32_at(bytes, 28),
            descriptors: u32_at(bytes, 32),
            previous: u32_at(bytes, 36),
            table_crc: u32_at(bytes, 56),
        };
        let is_sane = header.pages > 0 && table_end(header.descriptors as usize) <= header.len();
        is_sane.then(|| (header, u32_at(bytes, HEADER_LEN - 4)))
    }

    /// Bytes of the batch.
    pub(crate) const fn len(&self) -> u64 {
        self.pages as u64 * PAGE
    }
}

/// The digest that the first batch of a segment refers to.
pub(crate) const fn first_digest(nonce: u64) -> u32 {
    nonce as u32
}

/// Where the descriptors of a batch end, from its start.
pub(crate) const fn table_end(descriptors: usize) -> u64 {
    (HEADER_LEN + descriptors * DESCRIPTOR_LEN) as u64
}

/// What a record is about.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// The chunk's bytes follow.
    Chunk = 1,
    /// The chunk is gone; kills every record of it with a lower sequence.
    Tombstone = 2,
}

/// The sums that identify a chunk's bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Content {
    pub(crate) length: u32,
    pub(crate) crc: u32,
}

impl Content {
    /// Of a tombstone.
    pub(crate) const NONE: Self = Self { length: 0, crc: 0 };
}

/// A record as its batch, or the index of its segment, tells of it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Descriptor {
    pub(crate) kind: Kind,
    pub(crate) chunk: ChunkId,
    pub(crate) content: Content,
    /// Orders all records of a store; a copy made by compaction keeps the number of its original.
    pub(crate) sequence: u64,
    /// In the segment, in units of 64 bytes; zero in tombstones.
    pub(crate) start_units: u32,
}

impl Descriptor {
    pub(crate) fn encode(&self, out: &mut [u8]) {
        out[..16].copy_from_slice(&self.chunk.0.to_le_bytes());
        out[16..20].copy_from_slice(&self.content.length.to_le_bytes());
        out[20..24].copy_from_slice(&self.content.crc.to_le_bytes());
        out[24..32].copy_from_slice(&self.sequence.to_le_bytes());
        out[32..36].copy_from_slice(&self.start_units.to_le_bytes());
        out[36] = self.kind as u8;
        out[37..DESCRIPTOR_LEN].fill(0);
    }

    /// `None` if the bytes make no sense, which their checksum lets happen only if a program wrote nonsense.
    pub(crate) fn parse(bytes: &[u8; DESCRIPTOR_LEN]) -> Option<Self> {
        let kind = match bytes[36] {
            1 => Kind::Chunk,
            2 => Kind::Tombstone,
            _ => return None,
        };
        let content = Content { length: u32_at(bytes, 16), crc: u32_at(bytes, 20) };
        let is_sane = match kind {
            Kind::Chunk => (1..=xdpfs_wire::CHUNK_LEN_MAX).contains(&content.length),
            Kind::Tombstone => content == Content::NONE,
        };
        is_sane.then(|| Self {
            kind,
            chunk: ChunkId(u128::from_le_bytes(*array_at(bytes, 0))),
            content,
            sequence: u64_at(bytes, 24),
            start_units: u32_at(bytes, 32),
        })
    }

    /// All descriptors of a table.
    pub(crate) fn parse_all(table: &[u8]) -> impl Iterator<Item = Self> + '_ {
        table.as_chunks().0.iter().filter_map(Self::parse)
    }

    /// Bytes that the record takes, its descriptor included.
    pub(crate) const fn len(&self) -> u64 {
        let bytes = match self.kind {
            Kind::Chunk => Extent::of_chunk(self.start(), self.content.length).len(),
            Kind::Tombstone => 0,
        };
        bytes + DESCRIPTOR_LEN as u64
    }

    pub(crate) const fn start(&self) -> u64 {
        self.start_units as u64 * UNIT
    }
}

/// Where the parts of a chunk's record lie in their segment.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Extent {
    /// The checksums of the pages, if there are several.
    pub(crate) start: u64,
    /// The chunk's bytes.
    pub(crate) data: u64,
    /// Where the next record may start.
    pub(crate) end: u64,
}

impl Extent {
    /// Of a chunk whose record starts at `start`, or at the next place where it may.
    pub(crate) const fn of_chunk(start: u64, length: u32) -> Self {
        let pages = pages(length);
        let start = if pages == 1 && length >= FULL_LEN_MIN { start.next_multiple_of(PAGE) } else { start };
        let packed = if pages > 1 { start + pages * 4 } else { start };
        let data = if length >= LARGE_LEN_MIN { packed.next_multiple_of(PAGE) } else { packed };
        Self { start, data, end: (data + length as u64).next_multiple_of(UNIT) }
    }

    pub(crate) const fn len(&self) -> u64 {
        self.end - self.start
    }

    /// The most that a chunk of this length takes, wherever it starts, with its descriptor and its share of the batch's end.
    pub(crate) const fn len_max(length: u32) -> u64 {
        Self::of_chunk(0, length).len() + 2 * PAGE
    }

    pub(crate) const fn start_units(&self) -> u32 {
        (self.start / UNIT) as u32
    }

    /// Where a record may start from `position` on.
    pub(crate) const fn first_start(position: u64) -> u64 {
        position.next_multiple_of(UNIT)
    }
}

/// Pages of a chunk; the last may be shorter.
pub(crate) const fn pages(length: u32) -> u64 {
    (length as u64).div_ceil(PAGE)
}

/// Bytes in the last page of a chunk.
pub(crate) const fn last_page_len(length: u32) -> usize {
    (length as usize - 1) % PAGE_LEN + 1
}

/// The end of a sealed segment: where its index is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Footer {
    pub(crate) index_at: u64,
}

impl Footer {
    pub(crate) fn encode(&self, nonce: u64, page: &mut [u8]) {
        let mut bytes = [0; BLOCK_LEN];
        bytes[..8].copy_from_slice(&FOOTER_MAGIC);
        bytes[8..16].copy_from_slice(&nonce.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.index_at.to_le_bytes());
        seal(&mut bytes);
        page.fill(0);
        page[..BLOCK_LEN].copy_from_slice(&bytes);
    }

    /// `None` if the segment with `nonce` isn't sealed.
    pub(crate) fn parse(page: &[u8], nonce: u64) -> Option<Self> {
        let bytes: &[u8; BLOCK_LEN] = page.first_chunk()?;
        let is_one = is_sealed(bytes) && bytes[..8] == FOOTER_MAGIC && u64_at(bytes, 8) == nonce;
        is_one.then(|| Self { index_at: u64_at(bytes, 16) })
    }
}

/// Bytes of an index of so many descriptors, with the footer behind it.
pub(crate) const fn index_len(descriptors: usize) -> u64 {
    table_end(descriptors).next_multiple_of(PAGE) + FOOTER_LEN
}

fn page_number(position: u64) -> u32 {
    debug_assert!(position.is_multiple_of(PAGE), "batches start on pages");
    (position / PAGE) as u32
}

fn seal(bytes: &mut [u8; BLOCK_LEN]) -> u32 {
    let crc = crc32c(&bytes[..BLOCK_LEN - 4]);
    bytes[BLOCK_LEN - 4..].copy_from_slice(&crc.to_le_bytes());
    crc
}

fn is_sealed(bytes: &[u8; BLOCK_LEN]) -> bool {
    bytes[BLOCK_LEN - 4..] == crc32c(&bytes[..BLOCK_LEN - 4]).to_le_bytes()
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(*array_at(bytes, at))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(*array_at(bytes, at))
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> &[u8; N] {
    bytes[at..].first_chunk().expect("offsets are constants inside a fixed-size block")
}

const _: () = assert!(HEADER_LEN == BLOCK_LEN);
const _: () = assert!(SUPERBLOCK_LEN.is_multiple_of(UNIT));

#[cfg(test)]
mod tests;

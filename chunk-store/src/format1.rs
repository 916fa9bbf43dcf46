//! The format before this one, as far as it takes to read what a store in it holds.
//!
//! A segment was a superblock of a page, then records at multiples of 64 bytes: a header, one CRC32C for each page of the chunk,
//! and the chunk, which began on a page if it was large. Segments were numbered in the order in which they were written, and named
//! by their numbers.
//!
//! | superblock bytes | field | record bytes | field |
//! |---|---|---|---|
//! | 0..8 | magic `XDPFSSEG` | 0..4 | magic `XREC` |
//! | 8..12 | format version, 1 | 4 | kind: 1 chunk, 2 tombstone |
//! | 16..32 | node uuid | 8..16 | nonce of the segment |
//! | 32..40 | nonce | 16..32 | chunk id |
//! | 60..64 | CRC32C of 0..60 | 32..36, 36..40 | length, CRC32C of the chunk |
//! | | | 40..48, 48..56 | sequence, batch |
//! | | | 56..60 | position in the segment, in units of 64 bytes |
//! | | | 60..64 | CRC32C of 0..60 |

use std::{
    collections::{BTreeMap, HashMap},
    io,
    sync::Arc,
};

use bytes::Bytes;
use xdpfs_wire::{CHUNK_LEN_MAX, ChunkId};

use crate::{
    checksum::{crc32c, joined},
    format::{Content, last_page_len, pages},
    medium::{Access, Medium, SegmentFile, Slot},
    page_buffer::{PAGE_LEN, PageBuffer},
    reading::Damaged,
    span::Span,
};

const HEADER_LEN: usize = 64;
const SUPERBLOCK_LEN: u64 = 4096;
const RECORD_MAGIC: [u8; 4] = *b"XREC";
const LARGE_LEN_MIN: u32 = 64 << 10;

/// The chunks of a store in the old format, by the files that they live in.
#[derive(Debug, Default)]
pub(crate) struct OldStore {
    files: Vec<OldFile>,
}

#[derive(Debug)]
struct OldFile {
    slot: Slot,
    file: Arc<dyn SegmentFile>,
    live: Vec<OldChunk>,
}

/// A chunk in the old format.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OldChunk {
    pub(crate) chunk: ChunkId,
    pub(crate) content: Content,
    start: u64,
    sequence: u64,
    batch: u64,
    /// Of the last batch, which may be torn.
    pub(crate) is_last: bool,
}

/// A record's head.
#[derive(Clone, Copy)]
struct Head {
    is_tombstone: bool,
    chunk: OldChunk,
}

impl OldStore {
    /// Finds out what lives in the files.
    pub(crate) fn read(medium: &dyn Medium, slots: &[Slot]) -> io::Result<Self> {
        let mut files = Vec::new();
        let mut newest: BTreeMap<ChunkId, (usize, OldChunk)> = BTreeMap::new();
        let mut tombstones: HashMap<ChunkId, u64> = HashMap::new();
        let mut last_batch = 0;
        for slot in slots {
            let file = medium.open(*slot, Access::ReadOnly)?;
            for head in heads(&*file)? {
                let OldChunk { chunk: id, sequence, batch, .. } = head.chunk;
                last_batch = last_batch.max(batch);
                if head.is_tombstone {
                    let killed = tombstones.entry(id).or_default();
                    *killed = sequence.max(*killed);
                } else if newest.get(&id).is_none_or(|(_, newest)| newest.sequence <= sequence) {
                    newest.insert(id, (files.len(), head.chunk));
                }
            }
            files.push(OldFile { slot: *slot, file, live: Vec::new() });
        }
        for (id, (file, mut chunk)) in newest {
            if tombstones.get(&id).is_none_or(|killed| *killed < chunk.sequence) {
                chunk.is_last = chunk.batch == last_batch;
                files[file].live.push(chunk);
            }
        }
        files.iter_mut().for_each(|file| file.live.sort_unstable_by_key(|chunk| chunk.start));
        Ok(Self { files })
    }

    /// The files, in the order in which they were written.
    pub(crate) fn slots(&self) -> impl Iterator<Item = Slot> + '_ {
        self.files.iter().map(|file| file.slot)
    }

    /// Hands over all that lives in a file, with the checksums of its pages.
    pub(crate) fn for_each(
        &self,
        slot: Slot,
        mut take: impl FnMut(&OldChunk, Result<(Vec<u32>, Bytes), Damaged>) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut span = Span::default();
        for file in self.files.iter().filter(|file| file.slot == slot) {
            for chunk in &file.live {
                let Content { length, crc } = chunk.content;
                let data = data_at(chunk.start, length);
                let bytes = span.bytes(&*file.file, data, data + u64::from(length), u64::MAX >> 1)?;
                // The checksums of pages that lie beside the data would tell which page is bad; that of the chunk tells enough.
                let sums: Vec<u32> = bytes.chunks(PAGE_LEN).map(crc32c).collect();
                let is_whole = joined(&sums, last_page_len(length)) == crc;
                let found = if is_whole { Ok((sums, Bytes::copy_from_slice(bytes))) } else { Err(Damaged) };
                take(chunk, found)?;
            }
        }
        Ok(())
    }
}

/// The heads of all records of a file, also behind damaged ones.
fn heads(file: &dyn SegmentFile) -> io::Result<Vec<Head>> {
    let mut superblock = PageBuffer::new(1);
    file.read(&mut superblock, 0)?;
    let copies = [&superblock[..HEADER_LEN], &superblock[PAGE_LEN / 2..][..HEADER_LEN]];
    let Some(copy) = copies.into_iter().find(|copy| is_sealed(copy)) else { return Ok(Vec::new()) };
    let nonce = copy[32..40].to_vec();
    let length = file.len()?;
    let (mut span, mut found, mut position) = (Span::default(), Vec::new(), SUPERBLOCK_LEN);
    while position + HEADER_LEN as u64 <= length {
        let bytes = span.bytes(file, position, position + HEADER_LEN as u64, length)?;
        let head = (bytes[8..16] == nonce[..]).then(|| parse(bytes, position)).flatten();
        let end = head.map(|head| end_of(&head, position)).filter(|end| *end <= length);
        match (head, end) {
            (Some(head), Some(end)) => {
                found.push(head);
                position = end;
            }
            _ => position += HEADER_LEN as u64,
        }
    }
    Ok(found)
}

fn parse(bytes: &[u8], position: u64) -> Option<Head> {
    let u32_at = |at: usize| Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
    let u64_at = |at: usize| Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
    let is_here = bytes[..4] == RECORD_MAGIC && u64::from(u32_at(56)?) * 64 == position;
    if !is_here || !is_sealed(bytes) {
        return None;
    }
    let content = Content { length: u32_at(32)?, crc: u32_at(36)? };
    let is_tombstone = match (bytes[4], content.length) {
        (1, 1..=CHUNK_LEN_MAX) => false,
        (2, 0) => true,
        _ => return None,
    };
    let chunk = OldChunk {
        chunk: ChunkId(u128::from_le_bytes(*bytes.get(16..)?.first_chunk()?)),
        content,
        start: position,
        sequence: u64_at(40)?,
        batch: u64_at(48)?,
        is_last: false,
    };
    Some(Head { is_tombstone, chunk })
}

fn data_at(start: u64, length: u32) -> u64 {
    let packed = start + HEADER_LEN as u64 + pages(length) * 4;
    if length >= LARGE_LEN_MIN { packed.next_multiple_of(PAGE_LEN as u64) } else { packed }
}

fn end_of(head: &Head, position: u64) -> u64 {
    let length = head.chunk.content.length;
    match head.is_tombstone {
        true => position + HEADER_LEN as u64,
        false => (data_at(position, length) + u64::from(length)).next_multiple_of(64),
    }
}

fn is_sealed(bytes: &[u8]) -> bool {
    bytes[HEADER_LEN - 4..HEADER_LEN] == crc32c(&bytes[..HEADER_LEN - 4]).to_le_bytes()
}

//! Puts records together to a batch, as it will stand on the disk. Pure.
//!
//! This is where bytes are copied once on their way to the disk: they come in pieces that lie anywhere, and the disk takes whole
//! pages of memory.

use bytes::Bytes;
use xdpfs_wire::ChunkId;

use crate::{
    checksum::crc32c,
    chunk_map::Location,
    format::{
        BatchHeader, BatchKind, Content, DESCRIPTOR_LEN, Descriptor, Extent, Footer, HEADER_LEN, Kind, PAGE,
        index_len, table_end,
    },
};

/// A record that has no place yet.
#[derive(Debug)]
pub(crate) struct NewRecord {
    pub(crate) kind: Kind,
    pub(crate) chunk: ChunkId,
    pub(crate) content: Content,
    pub(crate) sequence: u64,
    pub(crate) data: Bytes,
    /// Of each page.
    pub(crate) page_crcs: Vec<u32>,
    pub(crate) origin: Origin,
}

/// Why a record is written.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Origin {
    /// Somebody wants it.
    Caller,
    /// It is moved from there; tombstones don't need to know.
    Copy(Option<Location>),
}

/// Where a batch will stand.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) nonce: u64,
    pub(crate) position: u64,
    pub(crate) number: u64,
    /// The digest of the batch before.
    pub(crate) previous: u32,
}

/// A batch in memory.
#[derive(Debug)]
pub(crate) struct Assembled {
    pub(crate) descriptors: Vec<Descriptor>,
    pub(crate) digest: u32,
}

impl NewRecord {
    /// A deletion of `chunk`.
    pub(crate) fn tombstone(chunk: ChunkId, sequence: u64, origin: Origin) -> Self {
        let (content, data, page_crcs) = (Content::NONE, Bytes::new(), Vec::new());
        Self { kind: Kind::Tombstone, chunk, content, sequence, data, page_crcs, origin }
    }

    fn describe(&self, at: u64) -> (Descriptor, Option<Extent>) {
        let extent = (self.kind == Kind::Chunk)
            .then(|| Extent::of_chunk(Extent::first_start(at), self.content.length));
        let start_units = extent.map_or(0, |extent| extent.start_units());
        let &Self { kind, chunk, content, sequence, .. } = self;
        (Descriptor { kind, chunk, content, sequence, start_units }, extent)
    }
}

/// Bytes of a batch of these records at `position`.
pub(crate) fn batch_len(records: &[NewRecord], position: u64) -> u64 {
    let front = position + table_end(records.len());
    let end = records.iter().fold(front, |at, record| record.describe(at).1.map_or(at, |extent| extent.end));
    (end - position).next_multiple_of(PAGE)
}

/// Writes the batch into `out`, which has just its length.
pub(crate) fn assemble(records: &[NewRecord], place: Place, out: &mut [u8]) -> Assembled {
    let mut descriptors = Vec::with_capacity(records.len());
    let mut at = place.position + table_end(records.len());
    let inside = |position: u64| (position - place.position) as usize;
    let mut written = inside(at);
    for record in records {
        let (descriptor, extent) = record.describe(at);
        if let Some(extent) = extent {
            // What lies between records is what the buffer held before, unless it is made nothing.
            out[written..inside(extent.data)].fill(0);
            if record.page_crcs.len() > 1 {
                let (sums, _) = out[inside(extent.start)..].as_chunks_mut();
                sums.iter_mut().zip(&record.page_crcs).for_each(|(sum, crc)| *sum = crc.to_le_bytes());
            }
            let data = inside(extent.data);
            written = data + record.data.len();
            out[data..written].copy_from_slice(&record.data);
            at = extent.end;
        }
        descriptors.push(descriptor);
    }
    out[written..].fill(0);
    let digest = write_front(&descriptors, BatchKind::Records, place, out);
    Assembled { descriptors, digest }
}

/// Writes the index of a segment, and its footer, into `out`, which has just their length.
pub(crate) fn assemble_index(descriptors: &[Descriptor], place: Place, out: &mut [u8]) {
    debug_assert_eq!(out.len() as u64, index_len(descriptors.len()));
    let footer = out.len() - PAGE as usize;
    out[table_end(descriptors.len()) as usize..].fill(0);
    write_front(descriptors, BatchKind::Index, place, out);
    Footer { index_at: place.position }.encode(place.nonce, &mut out[footer..]);
}

fn write_front(descriptors: &[Descriptor], kind: BatchKind, place: Place, out: &mut [u8]) -> u32 {
    let Place { nonce, position, number, previous } = place;
    let pages = (out.len() as u64 / PAGE) as u32;
    let table = &mut out[HEADER_LEN..table_end(descriptors.len()) as usize];
    for (descriptor, bytes) in descriptors.iter().zip(table.chunks_exact_mut(DESCRIPTOR_LEN)) {
        descriptor.encode(bytes);
    }
    let table_crc = crc32c(table);
    let count = descriptors.len() as u32;
    let header = BatchHeader { kind, number, pages, descriptors: count, previous, table_crc };
    header.encode(nonce, position, out)
}

//! One use of a segment file, and the reading of what it holds.
//!
//! Readers share a segment; its file is used again only when the last of them is done.

use std::{io, sync::Arc};

use crate::{
    checksum::crc32c,
    format::{
        BatchHeader, BatchKind, Class, DESCRIPTOR_LEN, Descriptor, FOOTER_LEN, Footer, HEADER_LEN, PAGE,
        SUPERBLOCK_LEN, SegmentId, Superblock, SuperblockError, first_digest, table_end,
    },
    medium::{SegmentFile, Slot},
    page_buffer::{PAGE_LEN, PageBuffer},
    span::Span,
};

/// How far behind a place without a batch the next one is looked for. What is longer is the end: batches are much shorter.
const GAP_MAX: u64 = 256 << 20;

/// A segment in use.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) id: SegmentId,
    pub(crate) slot: Slot,
    /// What its batches must carry.
    pub(crate) nonce: u64,
    pub(crate) class: Class,
    pub(crate) file: Arc<dyn SegmentFile>,
}

/// What a segment was found to hold.
#[derive(Debug)]
pub(crate) struct Contents {
    pub(crate) descriptors: Vec<Descriptor>,
    /// Where the last batch ends; of a sealed segment, the file.
    pub(crate) end: u64,
    pub(crate) is_sealed: bool,
    /// What the next batch refers to.
    pub(crate) digest: u32,
    /// The last batch of records, if the segment isn't sealed.
    pub(crate) last: Option<LastBatch>,
    /// The highest number of a batch.
    pub(crate) number: u64,
    /// Where batches are missing before others.
    pub(crate) damaged: Vec<u64>,
}

/// The batch at the end of a segment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LastBatch {
    pub(crate) position: u64,
    pub(crate) number: u64,
    /// How many descriptors it has; they are the last ones.
    pub(crate) descriptors: usize,
    /// What it refers to.
    pub(crate) previous: u32,
}

/// What the first page of a file says.
#[derive(Debug)]
pub(crate) enum Head {
    Damaged,
    /// Written by another version of this program.
    Other(u32),
    Ours(Superblock),
}

/// Reads the first page of a file.
pub(crate) fn read_head(file: &dyn SegmentFile) -> io::Result<Head> {
    let mut page = PageBuffer::new(1);
    file.read(&mut page, 0)?;
    Ok(match Superblock::parse(&page) {
        Ok(superblock) => Head::Ours(superblock),
        Err(SuperblockError::Damaged) => Head::Damaged,
        Err(SuperblockError::Version(version)) => Head::Other(version),
    })
}

/// Writes the first page of a file; it is durable on return.
pub(crate) fn write_head(file: &dyn SegmentFile, superblock: &Superblock) -> io::Result<()> {
    let mut page = PageBuffer::new(1);
    superblock.encode(&mut page);
    file.write_durably(&page, 0)
}

impl Segment {
    pub(crate) fn new(slot: Slot, superblock: &Superblock, file: Arc<dyn SegmentFile>) -> Self {
        let Superblock { segment: id, nonce, class, .. } = *superblock;
        Self { id, slot, nonce, class, file }
    }

    /// All that the segment holds.
    pub(crate) fn contents(&self) -> io::Result<Contents> {
        let length = self.file.len()?;
        match self.sealed(length)? {
            Some(contents) => Ok(contents),
            None => self.walk(length),
        }
    }

    /// What the index of a sealed segment says; `None` if it has none, or none that is whole.
    fn sealed(&self, length: u64) -> io::Result<Option<Contents>> {
        if !length.is_multiple_of(PAGE) || length < SUPERBLOCK_LEN + FOOTER_LEN {
            return Ok(None);
        }
        let mut page = PageBuffer::new(1);
        self.file.read(&mut page, length - FOOTER_LEN)?;
        let Some(footer) = Footer::parse(&page, self.nonce) else { return Ok(None) };
        let is_inside = footer.index_at.is_multiple_of(PAGE) && footer.index_at < length - FOOTER_LEN;
        if !is_inside {
            return Ok(None);
        }
        let mut span = Span::default();
        let Some((header, _)) = self.header_at(&mut span, footer.index_at, length)? else { return Ok(None) };
        let is_index = header.kind == BatchKind::Index && footer.index_at + header.len() == length;
        if !is_index {
            return Ok(None);
        }
        let Some(descriptors) = self.table(&mut span, footer.index_at, &header)? else { return Ok(None) };
        Ok(Some(Contents {
            descriptors,
            end: length,
            is_sealed: true,
            digest: 0,
            last: None,
            number: header.number,
            damaged: Vec::new(),
        }))
    }

    /// Goes from batch to batch.
    fn walk(&self, length: u64) -> io::Result<Contents> {
        let mut found = Contents {
            descriptors: Vec::new(),
            end: SUPERBLOCK_LEN,
            is_sealed: false,
            digest: first_digest(self.nonce),
            last: None,
            number: 0,
            damaged: Vec::new(),
        };
        let mut span = Span::default();
        let mut position = SUPERBLOCK_LEN;
        while position < length {
            if !self.take_batch(&mut span, position, length, &mut found)? {
                // A batch that nothing follows was never finished; one that others follow has rotted.
                let Some(next) = self.next_batch(&mut span, position, length, found.number)? else { break };
                found.damaged.push(position);
                position = next;
                continue;
            }
            position = found.end;
        }
        Ok(found)
    }

    /// Whether there is a batch at `position` that continues what was found.
    fn take_batch(
        &self,
        span: &mut Span,
        position: u64,
        length: u64,
        found: &mut Contents,
    ) -> io::Result<bool> {
        let Some((header, digest)) = self.header_at(span, position, length)? else { return Ok(false) };
        // Behind a gap there is nothing to compare with.
        let is_chained = position != found.end || header.previous == found.digest;
        if !is_chained || header.number <= found.number {
            return Ok(false);
        }
        if header.kind == BatchKind::Records {
            let Some(descriptors) = self.table(span, position, &header)? else { return Ok(false) };
            let (number, previous) = (header.number, header.previous);
            found.last = Some(LastBatch { position, number, descriptors: descriptors.len(), previous });
            found.descriptors.extend(descriptors);
        }
        found.number = header.number;
        found.digest = digest;
        found.end = position + header.len();
        Ok(true)
    }

    fn next_batch(&self, span: &mut Span, gap: u64, length: u64, number: u64) -> io::Result<Option<u64>> {
        let mut position = gap + PAGE;
        while position < length.min(gap.saturating_add(GAP_MAX)) {
            let header = self.header_at(span, position, length)?;
            if header.is_some_and(|(header, _)| header.number > number) {
                return Ok(Some(position));
            }
            position += PAGE;
        }
        Ok(None)
    }

    fn header_at(
        &self,
        span: &mut Span,
        position: u64,
        length: u64,
    ) -> io::Result<Option<(BatchHeader, u32)>> {
        let bytes = span.bytes(&*self.file, position, position + HEADER_LEN as u64, length)?;
        let parsed = BatchHeader::parse(bytes, self.nonce, position);
        // The end of the last batch may be missing.
        Ok(parsed.filter(|(header, _)| position + table_end(header.descriptors as usize) <= length))
    }

    fn table(
        &self,
        span: &mut Span,
        position: u64,
        header: &BatchHeader,
    ) -> io::Result<Option<Vec<Descriptor>>> {
        let end = position + table_end(header.descriptors as usize);
        let table = span.bytes(&*self.file, position + HEADER_LEN as u64, end, end)?;
        if crc32c(table) != header.table_crc {
            return Ok(None);
        }
        let descriptors: Vec<_> = Descriptor::parse_all(table).collect();
        Ok((descriptors.len() == header.descriptors as usize).then_some(descriptors))
    }
}

const _: () = assert!(DESCRIPTOR_LEN < PAGE_LEN);

//! Which bytes of a segment a part of a chunk needs, and whether those that came are the right ones. Pure.
//!
//! Invariant: every byte that leaves through here has passed the checksum of its page, and the checksums of the pages have
//! passed that of the chunk.

use std::{ops::Range, sync::Arc};

use crate::{
    checksum::{crc32c, joined},
    chunk_map::Location,
    format::{PAGE, last_page_len, pages},
    page_buffer::PAGE_LEN,
};

/// Bytes that are read in vain at most, so that checksums and data come by one read.
const DETOUR_MAX: u64 = 64 << 10;

/// The bytes fail their checksum.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Damaged;

/// Pages of the disk, by their place in the segment.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Fetch {
    pub(crate) position: u64,
    pub(crate) pages: usize,
}

/// What to read next for pages of a chunk.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Plan {
    Pages(PagesPlan),
    /// The checksums first.
    Table(TablePlan),
}

/// How pages of a chunk are read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct PagesPlan {
    pub(crate) fetch: Fetch,
    first_page: u32,
    page_count: usize,
    /// In what is fetched.
    data_at: usize,
    data_len: usize,
    table_at: Option<usize>,
}

/// How the checksums of a chunk's pages are read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct TablePlan {
    pub(crate) fetch: Fetch,
    table_at: usize,
}

/// Checksums of a chunk's pages, which agree with the chunk's.
pub(crate) type PageTable = Arc<[u32]>;

/// How to read these pages of the chunk, which it has.
pub(crate) fn plan(location: &Location, wanted: Range<u32>, is_table_known: bool) -> Plan {
    let (extent, length) = (location.extent(), location.content().length);
    let first = extent.data + u64::from(wanted.start) * PAGE;
    let end = extent.data + (u64::from(wanted.end) * PAGE).min(length.into());
    let needs_table = pages(length) > 1 && !is_table_known;
    if needs_table && first - extent.start > DETOUR_MAX.max(pages(length) * 4 + PAGE) {
        let fetch = Fetch::of(extent.start, extent.start + pages(length) * 4);
        return Plan::Table(TablePlan { fetch, table_at: (extent.start - fetch.position) as usize });
    }
    let fetch = Fetch::of(if needs_table { extent.start } else { first }, end);
    Plan::Pages(PagesPlan {
        fetch,
        first_page: wanted.start,
        page_count: wanted.len(),
        data_at: (first - fetch.position) as usize,
        data_len: (end - first) as usize,
        table_at: needs_table.then(|| (extent.start - fetch.position) as usize),
    })
}

impl Fetch {
    fn of(start: u64, end: u64) -> Self {
        let position = start - start % PAGE;
        Self { position, pages: (end - position).div_ceil(PAGE) as usize }
    }
}

impl TablePlan {
    /// The checksums in what was fetched.
    pub(crate) fn check(&self, location: &Location, fetched: &[u8]) -> Result<PageTable, Damaged> {
        parse_table(location, &fetched[self.table_at..])
    }
}

impl PagesPlan {
    /// Where the pages are in what is fetched.
    pub(crate) const fn data(&self) -> Range<usize> {
        self.data_at..self.data_at + self.data_len
    }

    /// The bytes of the pages in what was fetched. `known` are the checksums if they were known when it was planned.
    pub(crate) fn check<'a>(
        &self,
        location: &Location,
        fetched: &'a [u8],
        known: Option<&[u32]>,
    ) -> Result<&'a [u8], Damaged> {
        let data = &fetched[self.data_at..self.data_at + self.data_len];
        let read = self.table_at.map(|at| parse_table(location, &fetched[at..])).transpose()?;
        let single = [location.content().crc];
        let table = known.or(read.as_deref()).unwrap_or(&single);
        let sums = table.get(self.first_page as usize..).ok_or(Damaged)?;
        let is_whole = sums.len() >= self.page_count
            && data.chunks(PAGE_LEN).zip(sums).all(|(page, sum)| crc32c(page) == *sum);
        if is_whole { Ok(data) } else { Err(Damaged) }
    }

    /// The checksums of all pages, if they were fetched, too.
    pub(crate) fn table(&self, location: &Location, fetched: &[u8]) -> Option<PageTable> {
        parse_table(location, &fetched[self.table_at?..]).ok()
    }
}

fn parse_table(location: &Location, bytes: &[u8]) -> Result<PageTable, Damaged> {
    let content = location.content();
    let count = pages(content.length) as usize;
    let (sums, _) = bytes.as_chunks();
    let table: PageTable = sums.iter().take(count).map(|sum| u32::from_le_bytes(*sum)).collect();
    let is_whole = table.len() == count && joined(&table, last_page_len(content.length)) == content.crc;
    if is_whole { Ok(table) } else { Err(Damaged) }
}

/// The bytes of a whole record from its start on: the checksums of its pages, and its chunk.
pub(crate) fn check_record<'a>(
    location: &Location,
    record: &'a [u8],
) -> Result<(PageTable, &'a [u8]), Damaged> {
    let (extent, content) = (location.extent(), location.content());
    let data = &record[(extent.data - extent.start) as usize..][..content.length as usize];
    let table = match pages(content.length) {
        1 => [content.crc].into(),
        _ => parse_table(location, record)?,
    };
    let is_whole = data.chunks(PAGE_LEN).zip(table.iter()).all(|(page, sum)| crc32c(page) == *sum);
    if is_whole { Ok((table, data)) } else { Err(Damaged) }
}

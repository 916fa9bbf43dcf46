//! Reading a segment from its front to its end, in large pieces.

use std::io;

use crate::{
    format::PAGE,
    medium::SegmentFile,
    page_buffer::{PAGE_LEN, PageBuffer},
};

/// Pages that are read at once, unless somebody wants more in one piece.
const PAGES: usize = 64;

/// Memory that is kept from one read to the next.
const KEPT_LEN: usize = 8 << 20;

/// The piece that was read last.
#[derive(Debug, Default)]
pub(crate) struct Span {
    buffer: Option<PageBuffer>,
    start: u64,
    len: usize,
}

impl Span {
    /// The bytes of `file` from `start` to `end`; no more than `limit` is read ahead of them. Zeros stand for what lies beyond the
    /// end of the file.
    pub(crate) fn bytes(
        &mut self,
        file: &dyn SegmentFile,
        start: u64,
        end: u64,
        limit: u64,
    ) -> io::Result<&[u8]> {
        if start < self.start || end > self.start + self.len as u64 {
            self.fetch(file, start, end, limit)?;
        }
        let from = (start - self.start) as usize;
        let buffer: &[u8] = self.buffer.as_deref().unwrap_or_default();
        Ok(&buffer[from..from + (end - start) as usize])
    }

    /// Has the next read go to the disk.
    pub(crate) fn forget(&mut self) {
        self.len = 0;
    }

    fn fetch(&mut self, file: &dyn SegmentFile, start: u64, end: u64, limit: u64) -> io::Result<()> {
        let first = start - start % PAGE;
        let wanted = (end - first).div_ceil(PAGE) as usize;
        let ahead = (limit.max(end) - first).div_ceil(PAGE) as usize;
        let pages = wanted.max(PAGES.min(ahead));
        self.len = 0;
        let buffer = match self.buffer.take() {
            Some(buffer)
                if buffer.len() >= pages * PAGE_LEN && buffer.len() <= KEPT_LEN.max(pages * PAGE_LEN) =>
            {
                self.buffer.insert(buffer)
            }
            _ => self.buffer.insert(PageBuffer::new(pages)),
        };
        file.read(&mut buffer[..pages * PAGE_LEN], first)?;
        (self.start, self.len) = (first, pages * PAGE_LEN);
        Ok(())
    }
}

//! Transfers by a call each, for where io_uring can't be had.

use std::{collections::VecDeque, io, sync::Arc};

use super::{DurableWriter, PageReader, SegmentFile, WriteBuffer, write_buffer::Buffers};
use crate::page_buffer::{PAGE_LEN, PageBuffer};

/// Writes as soon as it is asked to, so that there is nothing to wait for.
#[derive(Debug)]
pub(super) struct PlainWriter {
    buffers: Buffers,
    written: Option<(io::Result<()>, WriteBuffer)>,
}

impl PlainWriter {
    pub(super) fn new(buffer_pages: usize) -> Self {
        Self { buffers: Buffers::new(buffer_pages), written: None }
    }
}

impl DurableWriter for PlainWriter {
    fn buffer(&mut self, length: usize) -> WriteBuffer {
        self.buffers.take(length)
    }

    fn begin(&mut self, file: &Arc<dyn SegmentFile>, buffer: WriteBuffer, length: usize, position: u64) {
        assert!(self.written.is_none(), "one write at a time");
        let result = file.write_durably(&buffer[..length], position);
        self.written = Some((result, buffer));
    }

    fn is_busy(&self) -> bool {
        self.written.is_some()
    }

    fn finish(&mut self) -> (io::Result<()>, WriteBuffer) {
        self.written.take().expect("a write is under way")
    }
}

/// Reads one range after the other when it is asked for what has completed.
#[derive(Debug)]
pub(super) struct PlainReader {
    slots: usize,
    buffer: PageBuffer,
    asked: VecDeque<Asked>,
}

#[derive(Debug)]
struct Asked {
    file: Arc<dyn SegmentFile>,
    position: u64,
    length: usize,
    token: u64,
}

impl PlainReader {
    pub(super) fn new(slots: usize, slot_pages: usize) -> Self {
        Self { slots, buffer: PageBuffer::new(slot_pages), asked: VecDeque::with_capacity(slots) }
    }
}

impl PageReader for PlainReader {
    fn free(&self) -> usize {
        self.slots - self.asked.len()
    }

    fn submit(&mut self, file: Arc<dyn SegmentFile>, position: u64, pages: usize, token: u64) {
        assert!(self.free() > 0, "no more reads than there are slots");
        assert!((1..=self.buffer.pages()).contains(&pages), "a read fits its slot");
        self.asked.push_back(Asked { file, position, length: pages * PAGE_LEN, token });
    }

    fn complete(&mut self, _wait: bool, done: &mut dyn FnMut(u64, io::Result<&[u8]>)) {
        while let Some(asked) = self.asked.pop_front() {
            let out = &mut self.buffer[..asked.length];
            let result = asked.file.read(out, asked.position);
            done(asked.token, result.map(|()| &*out));
        }
    }
}

//! What a batch is put together in.

use std::{
    mem,
    ops::{Deref, DerefMut},
    sync::mpsc::{self, Receiver, Sender},
};

use crate::page_buffer::PageBuffer;

/// Memory for one batch. Goes back to the writer that it is of, if any, when it is dropped.
#[derive(Debug, Default)]
pub struct WriteBuffer {
    pages: PageBuffer,
    home: Option<Sender<PageBuffer>>,
}

impl WriteBuffer {
    /// Memory of no writer.
    #[must_use]
    pub const fn homeless(pages: PageBuffer) -> Self {
        Self { pages, home: None }
    }

    /// Memory that comes back by `home`.
    pub(super) const fn lent(pages: PageBuffer, home: Sender<PageBuffer>) -> Self {
        Self { pages, home: Some(home) }
    }

    /// Parts with the memory for the time that the kernel works on it.
    pub(super) fn take(&mut self) -> PageBuffer {
        mem::take(&mut self.pages)
    }

    /// The memory is back.
    pub(super) fn put_back(&mut self, pages: PageBuffer) {
        self.pages = pages;
    }
}

impl Deref for WriteBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.pages
    }
}

impl DerefMut for WriteBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.pages
    }
}

impl Drop for WriteBuffer {
    fn drop(&mut self) {
        // Without its memory, the buffer is one whose ring has failed.
        if let (Some(home), 1..) = (self.home.take(), self.pages.len()) {
            // A writer that is gone needs no memory.
            let _ = home.send(self.take());
        }
    }
}

/// The two buffers of a writer. One is filled while the other is being written.
#[derive(Debug)]
pub(super) struct Buffers {
    back: Receiver<PageBuffer>,
    home: Sender<PageBuffer>,
    length: usize,
}

impl Buffers {
    const COUNT: usize = 2;

    pub(super) fn new(pages: usize) -> Self {
        Self::of(Self::allocate(pages))
    }

    /// Memory for a writer, if it has something to do with it first.
    pub(super) fn allocate(pages: usize) -> [PageBuffer; Self::COUNT] {
        [PageBuffer::new(pages), PageBuffer::new(pages)]
    }

    pub(super) fn of(buffers: [PageBuffer; Self::COUNT]) -> Self {
        let length = buffers[0].len();
        let (home, back) = mpsc::channel();
        let lent = buffers.map(|pages| WriteBuffer::lent(pages, home.clone()));
        // By being dropped, they come home.
        drop(lent);
        Self { back, home, length }
    }

    /// One of the two, or another if none is back or long enough.
    pub(super) fn take(&self, length: usize) -> WriteBuffer {
        let own = if length <= self.length { self.back.try_recv().ok() } else { None };
        match own {
            Some(pages) => WriteBuffer::lent(pages, self.home.clone()),
            None => WriteBuffer::homeless(PageBuffer::with_len(length)),
        }
    }
}

//! Memory that a disk may be read into, and written from, past the kernel's cache.

use std::{
    fmt,
    ops::{Deref, DerefMut},
};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Bytes of a page: what every position, length and address of direct I/O is a multiple of.
pub const PAGE_LEN: usize = 4096;

/// A fixed number of pages, zeroed when made, at an address that is a multiple of their length.
///
/// The memory stays where it is when the buffer moves: the kernel may be at work on it.
#[derive(Default)]
pub struct PageBuffer {
    pages: Vec<Page>,
}

#[derive(Clone, Copy, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C, align(4096))]
struct Page([u8; PAGE_LEN]);

const _: () = assert!(size_of::<Page>() == PAGE_LEN && align_of::<Page>() == PAGE_LEN);

impl PageBuffer {
    /// Zeroed memory of this many pages.
    #[must_use]
    pub fn new(pages: usize) -> Self {
        Self { pages: vec![Page([0; PAGE_LEN]); pages] }
    }

    /// Zeroed memory of at least this many bytes.
    #[must_use]
    pub fn with_len(bytes: usize) -> Self {
        Self::new(bytes.div_ceil(PAGE_LEN))
    }

    /// How many pages there are.
    #[must_use]
    pub fn pages(&self) -> usize {
        self.pages.len()
    }
}

impl Deref for PageBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.pages.as_bytes()
    }
}

impl DerefMut for PageBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.pages.as_mut_bytes()
    }
}

impl fmt::Debug for PageBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PageBuffer").field("pages", &self.pages()).finish()
    }
}

#[cfg(test)]
mod tests;

//! How the engine reaches a disk: numbered segment files in one directory, durable writes, and several reads at once.
//!
//! Nothing else of the engine touches files, so that tests can put a simulated disk in its place. What a medium promises
//! to survive power loss does so when the call returns; an error of a durable write is final, and is never retried.

mod directory;
mod disk;
mod file;
mod latch;
mod mode;
mod plain;
mod probe;
mod ring;
mod ring_io;
mod write_buffer;

use std::{any::Any, fmt::Debug, io, sync::Arc};

pub use disk::{DiskMedium, IoWanted};
pub use mode::{Facility, IoMode};
pub use write_buffer::WriteBuffer;

use crate::page_buffer::PAGE_LEN;

/// A numbered file of a store's directory.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Slot(pub u32);

/// What a segment file is opened for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Access {
    /// To be looked at; writes fail.
    ReadOnly,
    /// For the engine.
    ReadWrite,
}

/// Room on the file system, in bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Room {
    /// The size of the file system.
    pub total: u64,
    /// What can still be written.
    pub available: u64,
}

/// A directory of segment files on one disk.
pub trait Medium: Debug + Send + Sync {
    /// The files that are there, ascending.
    ///
    /// # Errors
    /// If the directory can't be read.
    fn slots(&self) -> io::Result<Vec<Slot>>;

    /// Makes a file, empty. Its name is durable on return; if that can't be had, the file is removed again.
    ///
    /// # Errors
    /// If there is one already, or the disk fails.
    fn create(&self, slot: Slot) -> io::Result<Arc<dyn SegmentFile>>;

    /// Opens a file that is there.
    ///
    /// # Errors
    /// If there is none, or the disk fails.
    fn open(&self, slot: Slot, access: Access) -> io::Result<Arc<dyn SegmentFile>>;

    /// Removes a file; it stays away after a power loss. Who has it open can go on reading.
    ///
    /// # Errors
    /// If there is none, or the disk fails.
    fn remove(&self, slot: Slot) -> io::Result<()>;

    /// Room on the file system.
    ///
    /// # Errors
    /// If the system can't tell.
    fn room(&self) -> io::Result<Room>;

    /// What writes batches, with two buffers of this many pages of its own. A store has one, used by one thread.
    fn writer(&self, buffer_pages: usize) -> Box<dyn DurableWriter>;

    /// What reads, at most `slots` ranges at once of at most `slot_pages` pages each. One for each thread that reads;
    /// it must stay with the thread while reads are under way.
    ///
    /// # Panics
    /// If there are no slots, or no pages in them.
    fn reader(&self, slots: usize, slot_pages: usize) -> Box<dyn PageReader>;

    /// How the disk is reached, and why not better.
    fn about(&self) -> IoMode;
}

/// An open segment file. All threads may use it at once.
///
/// Addresses of memory, positions and lengths are multiples of [`PAGE_LEN`] throughout.
pub trait SegmentFile: Any + Debug + Send + Sync {
    /// Bytes in the file.
    ///
    /// # Errors
    /// If the disk fails.
    fn len(&self) -> io::Result<u64>;

    /// Whether the file has no bytes.
    ///
    /// # Errors
    /// If the disk fails.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Cuts or extends the file, with zeros; durable on return.
    ///
    /// # Errors
    /// If the disk fails.
    fn set_len(&self, length: u64) -> io::Result<()>;

    /// Takes disk space for a range that will be written, so that the write can't run out of it. The length of the file
    /// stays. Does nothing where the file system can't.
    ///
    /// # Errors
    /// If there is no space, or the disk fails.
    fn allocate(&self, position: u64, length: u64) -> io::Result<()>;

    /// Fills `out` from `position` on. What lies beyond the end of the file reads as zeros.
    ///
    /// # Errors
    /// If the disk fails.
    fn read(&self, out: &mut [u8], position: u64) -> io::Result<()>;

    /// Writes all of `bytes`; they survive power loss on return.
    ///
    /// # Errors
    /// If the disk fails. What of the range is on the disk is then unknown.
    fn write_durably(&self, bytes: &[u8], position: u64) -> io::Result<()>;

    /// Lets go of what the kernel has cached, so that the next read shows what is on the disk. Does nothing where the
    /// kernel caches nothing.
    ///
    /// # Errors
    /// If the system refuses for another reason than that it can't.
    fn forget_cached(&self) -> io::Result<()>;
}

/// Writes batches, one at a time, while the next is put together.
///
/// Dropped with a write under way, it waits for it.
pub trait DurableWriter: Debug + Send {
    /// A buffer of at least `length` bytes: one of the writer's own two if one is back and long enough, else one made
    /// for this batch alone. It comes back to the writer by being dropped. What it holds is unspecified.
    fn buffer(&mut self, length: usize) -> WriteBuffer;

    /// Begins to write the first `length` bytes of `buffer`. Returns at once if the kernel allows.
    ///
    /// # Panics
    /// If a write is under way, or `file` is of another kind of medium.
    fn begin(&mut self, file: &Arc<dyn SegmentFile>, buffer: WriteBuffer, length: usize, position: u64);

    /// Whether a write is under way.
    fn is_busy(&self) -> bool;

    /// Waits for the write that is under way; on success it survives power loss. The buffer holds what was written,
    /// except after an error, when it may be an empty one.
    ///
    /// # Panics
    /// If no write is under way.
    fn finish(&mut self) -> (io::Result<()>, WriteBuffer);
}

/// Reads ranges of pages, several at once.
///
/// Dropped with reads under way, it waits for them.
pub trait PageReader: Debug + Send {
    /// How many more may be submitted before one completes.
    fn free(&self) -> usize;

    /// Asks for `pages` pages from `position` on. Begun by the next [`complete`](Self::complete) at the latest.
    ///
    /// # Panics
    /// If none is free, there are more pages than in a slot (or none), or `file` is of another kind of medium.
    fn submit(&mut self, file: Arc<dyn SegmentFile>, position: u64, pages: usize, token: u64);

    /// Hands over all that has completed, by its token; with `wait`, at least one if any is under way. What lies beyond
    /// the end of a file reads as zeros.
    fn complete(&mut self, wait: bool, done: &mut dyn FnMut(u64, io::Result<&[u8]>));
}

/// The contract of every transfer.
fn assert_aligned(bytes: &[u8], position: u64) {
    assert!(bytes.as_ptr().addr().is_multiple_of(PAGE_LEN), "memory of a transfer begins at a page");
    assert!(bytes.len().is_multiple_of(PAGE_LEN), "a transfer is whole pages");
    assert!(position.is_multiple_of(PAGE_LEN as u64), "a transfer begins at a page of the file");
}

#[cfg(test)]
mod tests;

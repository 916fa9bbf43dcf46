//! io_uring made safe: the only unsafe code of the crate.
//!
//! Invariant: from the moment that an operation is pushed until its completion is reaped, the ring owns the memory and
//! the file that the kernel works on. A ring that is dropped waits for the kernel first.

use std::{collections::BTreeMap, fmt, io, mem, os::fd::AsRawFd as _, sync::Arc, thread};

use io_uring::{IoUring, cqueue, opcode, squeue, types::Fd};

use super::file::DiskFile;
use crate::page_buffer::PageBuffer;

/// A transfer between the beginning of `buffer` and `file`.
#[derive(Debug)]
pub(super) struct Operation {
    pub(super) kind: Kind,
    pub(super) file: Arc<DiskFile>,
    pub(super) buffer: PageBuffer,
    pub(super) length: usize,
    pub(super) position: u64,
    /// For whoever pushed it.
    pub(super) token: u64,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    Read,
    WriteDurably,
}

/// An operation that the kernel has done with.
#[derive(Debug)]
pub(super) struct Completion {
    pub(super) operation: Operation,
    /// Bytes that were transferred.
    pub(super) result: io::Result<usize>,
}

/// A ring for a number of operations at once. It stays with one thread while any are under way: the kernel cancels
/// those of a thread that ends.
pub(super) struct Ring {
    ring: IoUring,
    /// By the number that the kernel knows the operation by.
    under_way: Vec<Option<Operation>>,
    free: Vec<usize>,
    /// Numbers of registered buffers, by their addresses.
    registered: BTreeMap<usize, u16>,
}

impl Ring {
    pub(super) fn new(operations: usize) -> io::Result<Self> {
        let entries = u32::try_from(operations).map_err(|_| io::ErrorKind::InvalidInput)?;
        Ok(Self {
            ring: IoUring::new(entries)?,
            under_way: (0..operations).map(|_| None).collect(),
            free: (0..operations).collect(),
            registered: BTreeMap::new(),
        })
    }

    /// Has the kernel map these buffers for good. They should live as long as the ring: the kernel goes on to transfer to
    /// and from the memory that is there at the time of this call, for any buffer at the same address.
    pub(super) fn register<'a>(
        &mut self,
        buffers: impl Iterator<Item = &'a mut PageBuffer>,
    ) -> io::Result<()> {
        let mut vectors = Vec::new();
        for buffer in buffers {
            vectors.push(libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() });
        }
        // SAFETY: every vector is memory that was mapped, writable and ours when this call began. The kernel takes its
        // own references of the pages, so that it touches nothing else's memory even if a buffer is freed too early; and
        // it transfers to and from them only by operations, whose memory is borrowed to it in `push`.
        unsafe { self.ring.submitter().register_buffers(&vectors) }?;
        let numbers = vectors.iter().zip(0..);
        self.registered = numbers.map(|(vector, number)| (vector.iov_base.addr(), number)).collect();
        Ok(())
    }

    fn is_idle(&self) -> bool {
        self.free.len() == self.under_way.len()
    }

    /// What is under way, by its tokens.
    pub(super) fn tokens(&self) -> impl Iterator<Item = u64> {
        self.under_way.iter().flatten().map(|operation| operation.token)
    }

    /// Adds an operation, for the next [`enter`](Self::enter).
    ///
    /// # Panics
    /// If there is no room, or the buffer is shorter than the operation.
    pub(super) fn push(&mut self, mut operation: Operation) {
        assert!(operation.length <= operation.buffer.len(), "an operation stays within its buffer");
        let number = self.free.pop().expect("no more operations than the ring was made for");
        let entry = self.entry(&mut operation).user_data(number as u64);
        // The kernel may have this operation from here on.
        self.under_way[number] = Some(operation);
        // SAFETY: the memory of `entry` is the operation's buffer, long enough by the assertion above, and the
        // descriptor is its file's. Both stay where they are, untouched, in `under_way` until the completion has been
        // reaped; dropping the ring waits for that, or leaks them.
        let pushed = unsafe { self.ring.submission().push(&entry) };
        pushed.expect("the kernel has taken all entries before, and has as many as operations");
    }

    fn entry(&self, operation: &mut Operation) -> squeue::Entry {
        let file = Fd(operation.file.as_raw_fd());
        let memory = operation.buffer.as_mut_ptr();
        let length = u32::try_from(operation.length).expect("operations are shorter than 4 GiB");
        let position = operation.position;
        match (operation.kind, self.registered.get(&memory.addr()).copied()) {
            (Kind::Read, None) => opcode::Read::new(file, memory, length).offset(position).build(),
            (Kind::Read, Some(number)) => {
                opcode::ReadFixed::new(file, memory, length, number).offset(position).build()
            }
            (Kind::WriteDurably, None) => {
                opcode::Write::new(file, memory, length).offset(position).rw_flags(libc::RWF_DSYNC).build()
            }
            (Kind::WriteDurably, Some(number)) => opcode::WriteFixed::new(file, memory, length, number)
                .offset(position)
                .rw_flags(libc::RWF_DSYNC)
                .build(),
        }
    }

    /// Gives the kernel what was pushed. With `wait`, returns once something has completed, if anything is under way.
    ///
    /// # Errors
    /// If the ring can't be used any more. What is under way remains so.
    pub(super) fn enter(&mut self, wait: bool) -> io::Result<()> {
        loop {
            let is_sought = wait && !self.is_idle() && self.ring.completion().is_empty();
            if !is_sought && self.ring.submission().is_empty() {
                return Ok(());
            }
            match self.ring.submit_and_wait(usize::from(is_sought)) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The kernel wants completions to be reaped first, or has no memory at the moment.
                Err(error) if is_pressed(&error) => {
                    if !self.ring.completion().is_empty() {
                        return Ok(());
                    }
                    thread::yield_now();
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// One operation that has completed.
    pub(super) fn reap(&mut self) -> Option<Completion> {
        let entry: cqueue::Entry = self.ring.completion().next()?;
        let number = usize::try_from(entry.user_data()).expect("the kernel repeats what it was given");
        let operation = self.under_way[number].take().expect("an operation completes once");
        self.free.push(number);
        let result = match usize::try_from(entry.result()) {
            Ok(bytes) => Ok(bytes),
            Err(_) => Err(io::Error::from_raw_os_error(-entry.result())),
        };
        Some(Completion { operation, result })
    }

    /// Waits until nothing is under way.
    fn settle(&mut self) -> io::Result<()> {
        while !self.is_idle() {
            self.enter(true)?;
            while self.reap().is_some() {}
        }
        Ok(())
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        if let Err(error) = self.settle() {
            tracing::error!(%error, "a ring can't be waited for; its memory is given up");
            // The kernel may still be at work on it.
            mem::forget(mem::take(&mut self.under_way));
        }
    }
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ring")
            .field("operations", &self.under_way.len())
            .field("free", &self.free.len())
            .field("registered", &self.registered.len())
            .finish_non_exhaustive()
    }
}

fn is_pressed(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EBUSY))
}

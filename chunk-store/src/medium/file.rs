//! One segment file on a real disk, and the transfers that take a call each.

use std::{
    any::Any,
    fs::File,
    io::{self, IoSlice},
    os::{
        fd::{AsRawFd, RawFd},
        unix::fs::FileExt as _,
    },
    sync::Arc,
    thread,
};

use rustix::{
    fs::{Advice, FallocateFlags, OFlags},
    io::{Errno, ReadWriteFlags},
};

use super::{SegmentFile, assert_aligned, latch::Latches};
use crate::page_buffer::PAGE_LEN;

/// An open file, and what its medium has learnt of the disk.
#[derive(Debug)]
pub(super) struct DiskFile {
    file: File,
    direct: bool,
    latches: Arc<Latches>,
}

impl DiskFile {
    /// Takes the file past the kernel's cache, unless that is off.
    pub(super) fn new(file: File, latches: &Arc<Latches>) -> Self {
        let direct = latches.direct.is_on() && is_made_direct(&file, latches);
        Self { file, direct, latches: Arc::clone(latches) }
    }

    /// The file that a medium of this kind has given out.
    ///
    /// # Panics
    /// If it was another kind.
    pub(super) fn of(file: Arc<dyn SegmentFile>) -> Arc<Self> {
        let file: Arc<dyn Any + Send + Sync> = file;
        file.downcast().expect("a medium is handed its own files only")
    }

    /// Whether one call can write and make durable.
    pub(super) fn writes_durably(&self) -> bool {
        self.latches.dsync.is_on()
    }

    fn read_once(&self, out: &mut [u8], position: u64) -> io::Result<usize> {
        again(|| self.file.read_at(out, position))
    }

    fn write_once(&self, bytes: &[u8], position: u64, flags: ReadWriteFlags) -> io::Result<usize> {
        again(|| Ok(rustix::io::pwritev2(&self.file, &[IoSlice::new(bytes)], position, flags)?))
    }

    /// Whether less than a page came because the file ends there.
    fn ends_by(&self, position: u64) -> io::Result<bool> {
        Ok(self.len()? <= position)
    }
}

impl AsRawFd for DiskFile {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

impl SegmentFile for DiskFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.file.set_len(length)?;
        self.file.sync_all()
    }

    fn allocate(&self, position: u64, length: u64) -> io::Result<()> {
        loop {
            match rustix::fs::fallocate(&self.file, FallocateFlags::KEEP_SIZE, position, length) {
                // A file system without the call just allocates when it writes.
                Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn read(&self, out: &mut [u8], position: u64) -> io::Result<()> {
        assert_aligned(out, position);
        let mut done = 0;
        let mut is_second_try = false;
        while done < out.len() {
            let got = self.read_once(&mut out[done..], position + done as u64)?;
            if got >= PAGE_LEN {
                done += whole_pages(got);
                is_second_try = false;
                continue;
            }
            if self.ends_by(position + (done + got) as u64)? {
                out[done + got..].fill(0);
                return Ok(());
            }
            // It may have grown between the two calls; otherwise the disk is withholding something.
            if is_second_try {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            is_second_try = true;
        }
        Ok(())
    }

    fn write_durably(&self, bytes: &[u8], position: u64) -> io::Result<()> {
        assert_aligned(bytes, position);
        let mut refusal = None;
        let mut one_call = self.writes_durably();
        let mut done = 0;
        while done < bytes.len() {
            let flags = if one_call { ReadWriteFlags::DSYNC } else { ReadWriteFlags::empty() };
            match self.write_once(&bytes[done..], position + done as u64, flags) {
                Ok(put) if put >= PAGE_LEN => done += whole_pages(put),
                Ok(_) => return Err(io::ErrorKind::WriteZero.into()),
                Err(error) if one_call && is_refusal(&error) => {
                    one_call = false;
                    refusal = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        if !one_call {
            self.file.sync_data()?;
        }
        if let Some(error) = refusal
            && self.latches.dsync.turn_off(error.to_string())
        {
            tracing::warn!(%error, "the disk takes no RWF_DSYNC; every write is followed by fdatasync");
        }
        Ok(())
    }

    fn forget_cached(&self) -> io::Result<()> {
        if self.direct {
            return Ok(());
        }
        match rustix::fs::fadvise(&self.file, 0, None, Advice::DontNeed) {
            // Advice that a file system doesn't take leaves things as they were.
            Ok(()) | Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Sets `O_DIRECT` after the fact: an `open` that asks for it may leave a new file behind though it fails.
fn is_made_direct(file: &File, latches: &Latches) -> bool {
    let made =
        rustix::fs::fcntl_getfl(file).and_then(|flags| rustix::fs::fcntl_setfl(file, flags | OFlags::DIRECT));
    match made {
        Ok(()) => true,
        Err(error) => {
            latches.direct.turn_off(format!("the file system refuses O_DIRECT: {error}"));
            false
        }
    }
}

/// Whether this is said of a flag that the kernel or the file system doesn't know, and not of the disk.
pub(super) fn is_refusal(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS))
}

/// Whether nothing was done, and the same call may do it.
pub(super) fn is_to_be_repeated(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock)
}

/// Direct I/O goes on at a page only.
pub(super) const fn whole_pages(bytes: usize) -> usize {
    bytes / PAGE_LEN * PAGE_LEN
}

fn again(mut call: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match call() {
            Err(error) if is_to_be_repeated(&error) => thread::yield_now(),
            other => return other,
        }
    }
}

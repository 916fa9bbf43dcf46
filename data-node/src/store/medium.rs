//! The few disk calls that durability rests on, behind a trait so that tests can make them fail.

use std::{fmt, fs::File, io, os::unix::fs::FileExt as _};

use rustix::{fs::FallocateFlags, io::Errno};

/// Room on the file system, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    pub(super) total: u64,
    pub(super) available: u64,
}

/// What the writer asks of the disk.
pub(super) trait Medium: fmt::Debug + Send + Sync {
    /// Takes disk space for a range that will be written, so that the write can't run out of it.
    fn allocate(&self, file: &File, position: u64, length: u64) -> io::Result<()>;
    /// Writes all of `bytes`.
    fn write(&self, file: &File, bytes: &[u8], position: u64) -> io::Result<()>;
    /// Returns once everything written to `file` survives a power loss.
    fn sync(&self, file: &File) -> io::Result<()>;
    /// Room on the file system of `directory`.
    fn room(&self, directory: &File) -> io::Result<Room>;
}

/// The kernel's own.
#[derive(Debug)]
pub(super) struct Disk;

impl Medium for Disk {
    fn allocate(&self, file: &File, position: u64, length: u64) -> io::Result<()> {
        match rustix::fs::fallocate(file, FallocateFlags::KEEP_SIZE, position, length) {
            // A file system without the call just allocates when it writes.
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn write(&self, file: &File, bytes: &[u8], position: u64) -> io::Result<()> {
        file.write_all_at(bytes, position)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        file.sync_data()
    }

    fn room(&self, directory: &File) -> io::Result<Room> {
        let stat = rustix::fs::fstatvfs(directory)?;
        Ok(Room {
            total: stat.f_blocks.saturating_mul(stat.f_frsize),
            available: stat.f_bavail.saturating_mul(stat.f_frsize),
        })
    }
}

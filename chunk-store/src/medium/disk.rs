//! The kernel's own disk: the best way to it that the probe has found, and the next worse one from when it fails on.

use std::{fs::File, io, path::Path, sync::Arc};

use super::{
    Access, DurableWriter, IoMode, Medium, PageReader, Room, SegmentFile, Slot,
    directory::Directory,
    file::DiskFile,
    latch::Latches,
    plain::{PlainReader, PlainWriter},
    probe, ring_io,
};

/// Ways to the disk that may be used if they work.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct IoWanted {
    /// Past the kernel's cache.
    pub direct: bool,
    /// By io_uring.
    pub ring: bool,
}

impl Default for IoWanted {
    fn default() -> Self {
        Self { direct: true, ring: true }
    }
}

/// A directory on a real disk.
#[derive(Debug)]
pub struct DiskMedium {
    directory: Directory,
    latches: Arc<Latches>,
}

impl DiskMedium {
    /// Opens a directory, and makes it (not its parents) if need be. Finds out, by a file without a name, what of the
    /// wanted works.
    ///
    /// # Errors
    /// If the directory can't be had. That something wanted doesn't work is none: see [`Medium::about`].
    pub fn open(directory: &Path, wanted: IoWanted) -> io::Result<Self> {
        let directory = Directory::open(directory)?;
        let latches = Arc::new(Latches::default());
        const NOT_WANTED: &str = "not wanted";
        if !wanted.direct {
            latches.direct.turn_off(NOT_WANTED);
        }
        if !wanted.ring {
            latches.ring.turn_off(NOT_WANTED);
        }
        probe::run(&directory, &latches);
        Ok(Self { directory, latches })
    }

    /// Opens a directory that is there, to look at it: by the plainest means, and without writing anything.
    ///
    /// # Errors
    /// If there is none, or it isn't accessible.
    pub fn open_existing(directory: &Path) -> io::Result<Self> {
        let directory = Directory::open_existing(directory)?;
        let latches = Arc::new(Latches::default());
        const ONLY_LOOKED_AT: &str = "the directory is only looked at";
        latches.direct.turn_off(ONLY_LOOKED_AT);
        latches.ring.turn_off(ONLY_LOOKED_AT);
        Ok(Self { directory, latches })
    }

    /// The directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    #[cfg(test)]
    pub(super) fn latches(&self) -> &Latches {
        &self.latches
    }

    fn file(&self, file: File) -> Arc<dyn SegmentFile> {
        Arc::new(DiskFile::new(file, &self.latches))
    }

    /// What `make` makes of the ring, unless there is none.
    fn by_ring<T>(&self, make: impl FnOnce(&Arc<Latches>) -> io::Result<T>) -> Option<T> {
        if !self.latches.ring.is_on() {
            return None;
        }
        let made = make(&self.latches).map_err(|error| ring_io::give_up(&self.latches, error));
        made.ok()
    }
}

impl Medium for DiskMedium {
    fn slots(&self) -> io::Result<Vec<Slot>> {
        self.directory.slots()
    }

    fn create(&self, slot: Slot) -> io::Result<Arc<dyn SegmentFile>> {
        Ok(self.file(self.directory.create(slot)?))
    }

    fn open(&self, slot: Slot, access: Access) -> io::Result<Arc<dyn SegmentFile>> {
        let path = self.directory.path_of(slot);
        let file = File::options().read(true).write(access == Access::ReadWrite).open(path)?;
        Ok(self.file(file))
    }

    fn remove(&self, slot: Slot) -> io::Result<()> {
        self.directory.remove(slot)
    }

    fn room(&self) -> io::Result<Room> {
        let stat = rustix::fs::fstatvfs(self.directory.file())?;
        Ok(Room {
            total: stat.f_blocks.saturating_mul(stat.f_frsize),
            available: stat.f_bavail.saturating_mul(stat.f_frsize),
        })
    }

    fn writer(&self, buffer_pages: usize) -> Box<dyn DurableWriter> {
        match self.by_ring(|latches| ring_io::writer(buffer_pages, latches)) {
            Some(writer) => Box::new(writer),
            None => Box::new(PlainWriter::new(buffer_pages)),
        }
    }

    fn reader(&self, slots: usize, slot_pages: usize) -> Box<dyn PageReader> {
        assert!(slots > 0 && slot_pages > 0, "a reader reads something");
        match self.by_ring(|latches| ring_io::reader(slots, slot_pages, latches)) {
            Some(reader) => Box::new(reader),
            None => Box::new(PlainReader::new(slots, slot_pages)),
        }
    }

    fn about(&self) -> IoMode {
        self.latches.mode()
    }
}

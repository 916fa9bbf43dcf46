//! One segment file: made, opened, read. Every byte that leaves through here has passed its page checksum.
//!
//! The open file is shared by all readers, so unlinking a segment never disturbs one.

use std::{
    fs::{self, File},
    io,
    num::NonZeroU64,
    ops::Range,
    os::unix::fs::FileExt as _,
};

use bytes::Bytes;
use rustix::fs::Advice;

use super::{
    ReadError,
    checksum::crc32c,
    directory::Directory,
    format::{Extent, PAGE_LEN, SUPERBLOCK_LEN, Superblock, SuperblockError, pages},
    index::SegmentId,
    medium::Medium,
};

/// Pages whose checksums are fetched at once: more than a burst of the protocol, few enough for the stack.
const STRIDE_PAGES: usize = 64;

/// A segment with its file held open.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) id: SegmentId,
    /// What its record headers must carry.
    pub(super) nonce: u64,
    pub(super) file: File,
}

/// A chunk inside a segment.
#[derive(Clone, Copy, Debug)]
pub(super) struct ChunkExtent {
    pub(super) extent: Extent,
    pub(super) length: u32,
}

/// Why a segment can't be used.
#[derive(Debug)]
pub(super) enum SegmentError {
    /// Its superblock is damaged, or names another segment than its file name does.
    Damaged,
    /// It belongs to another node.
    Foreign,
    Io(io::Error),
    Version(u32),
}

impl From<io::Error> for SegmentError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl Segment {
    /// Makes an empty segment; when this returns, it is there after a power loss.
    pub(super) fn create(
        directory: &Directory,
        medium: &dyn Medium,
        node_uuid: [u8; 16],
        id: SegmentId,
    ) -> io::Result<Self> {
        let path = directory.path_of(id);
        let file = File::options().create_new(true).read(true).write(true).open(&path)?;
        let made = Self::initialise(file, medium, node_uuid, id);
        match made {
            Ok(segment) => directory.sync().map(|()| segment),
            Err(error) => {
                // Nothing refers to the file. If even this fails, the next start finds it empty and removes it.
                let _ = fs::remove_file(&path);
                Err(error)
            }
        }
    }

    fn initialise(file: File, medium: &dyn Medium, node_uuid: [u8; 16], id: SegmentId) -> io::Result<Self> {
        let mut nonce = [0; 8];
        getrandom::fill(&mut nonce)?;
        let nonce = u64::from_le_bytes(nonce);
        let superblock = Superblock { node_uuid, segment: id.0, nonce };
        medium.allocate(&file, 0, SUPERBLOCK_LEN)?;
        medium.write(&file, &superblock.encode(), 0)?;
        medium.sync(&file)?;
        Ok(Self { id, nonce, file })
    }

    /// Opens a segment that was made earlier.
    pub(super) fn open(
        directory: &Directory,
        node_uuid: [u8; 16],
        id: SegmentId,
    ) -> Result<Self, SegmentError> {
        let file = File::options().read(true).write(true).open(directory.path_of(id))?;
        Self::of_file(file, node_uuid, id)
    }

    /// Opens a segment that is only looked at.
    pub(super) fn open_read_only(
        directory: &Directory,
        node_uuid: [u8; 16],
        id: SegmentId,
    ) -> Result<Self, SegmentError> {
        Self::of_file(File::open(directory.path_of(id))?, node_uuid, id)
    }

    fn of_file(file: File, node_uuid: [u8; 16], id: SegmentId) -> Result<Self, SegmentError> {
        let nonce = read_superblock(&file, node_uuid, id)?.nonce;
        Ok(Self { id, nonce, file })
    }

    /// Whether the segment could be opened again.
    pub(super) fn check_superblock(&self, node_uuid: [u8; 16]) -> Result<(), SegmentError> {
        let found = read_superblock(&self.file, node_uuid, self.id)?;
        if found.nonce == self.nonce { Ok(()) } else { Err(SegmentError::Damaged) }
    }

    /// Bytes in the file.
    pub(super) fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    /// Forgets what the kernel has cached, so that the next read shows what is on the disk. After a failed sync the
    /// cache may hold pages that never got there.
    pub(super) fn drop_cache(&self) -> io::Result<()> {
        match rustix::fs::fadvise(&self.file, 0, None, Advice::DontNeed) {
            // Advice that a file system doesn't take leaves things as they were.
            Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::OPNOTSUPP) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Lets go of what the kernel has cached of these bytes, so that the next read of them is one of the disk, and so that what
    /// is read once doesn't push out what is read often.
    pub(super) fn forget(&self, bytes: Range<u64>) -> io::Result<()> {
        match NonZeroU64::new(bytes.end.saturating_sub(bytes.start)) {
            Some(length) => Ok(rustix::fs::fadvise(&self.file, bytes.start, Some(length), Advice::DontNeed)?),
            None => Ok(()),
        }
    }

    /// Fills `out` from `offset` of the chunk, checking every page that it touches. Allocates nothing.
    pub(super) fn read(&self, chunk: ChunkExtent, offset: u32, out: &mut [u8]) -> Result<(), ReadError> {
        let end = u64::from(offset) + out.len() as u64;
        if end > u64::from(chunk.length) {
            return Err(ReadError::Range);
        }
        let mut offset = offset as usize;
        let mut rest = out;
        while !rest.is_empty() {
            let skip = offset % PAGE_LEN;
            let (stride, behind) = rest.split_at_mut(rest.len().min(STRIDE_PAGES * PAGE_LEN - skip));
            self.read_stride(chunk, offset, stride)?;
            offset += stride.len();
            rest = behind;
        }
        Ok(())
    }

    /// Reads what touches no more than [`STRIDE_PAGES`] pages.
    fn read_stride(&self, chunk: ChunkExtent, offset: usize, out: &mut [u8]) -> Result<(), ReadError> {
        let (first, skip) = (offset / PAGE_LEN, offset % PAGE_LEN);
        let mut crcs = [0; STRIDE_PAGES];
        let crcs = &mut crcs[..(skip + out.len()).div_ceil(PAGE_LEN)];
        self.read_page_crcs(chunk, first, crcs)?;
        Pages { segment: self, chunk, first, crcs }.read(skip, out)
    }

    /// The whole chunk, with the checksums of its pages.
    pub(super) fn read_whole(&self, chunk: ChunkExtent) -> Result<(Bytes, Vec<u32>), ReadError> {
        let mut crcs = vec![0; pages(chunk.length) as usize];
        for (stride, crcs) in crcs.chunks_mut(STRIDE_PAGES).enumerate() {
            self.read_page_crcs(chunk, stride * STRIDE_PAGES, crcs)?;
        }
        let mut data = vec![0; chunk.length as usize];
        Pages { segment: self, chunk, first: 0, crcs: &crcs }.read(0, &mut data)?;
        Ok((data.into(), crcs))
    }

    /// Fills `out` with the checksums from the `first` page on; there are no more than [`STRIDE_PAGES`].
    fn read_page_crcs(&self, chunk: ChunkExtent, first: usize, out: &mut [u32]) -> Result<(), ReadError> {
        let mut bytes = [[0; size_of::<u32>()]; STRIDE_PAGES];
        let bytes = &mut bytes[..out.len()];
        let position = chunk.extent.page_crcs + (first * size_of::<u32>()) as u64;
        self.read_exact(bytes.as_flattened_mut(), position)?;
        for (crc, bytes) in out.iter_mut().zip(bytes) {
            *crc = u32::from_le_bytes(*bytes);
        }
        Ok(())
    }

    fn read_exact(&self, out: &mut [u8], position: u64) -> Result<(), ReadError> {
        self.file.read_exact_at(out, position).map_err(|error| match error.kind() {
            // The file was cut behind our back.
            io::ErrorKind::UnexpectedEof => ReadError::Corrupt,
            _ => {
                tracing::warn!(segment = self.id.0, position, %error, "reading a segment failed");
                ReadError::Failed
            }
        })
    }
}

fn read_superblock(file: &File, node_uuid: [u8; 16], id: SegmentId) -> Result<Superblock, SegmentError> {
    let mut block = [0; SUPERBLOCK_LEN as usize];
    match file.read_exact_at(&mut block, 0) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(SegmentError::Damaged),
        other => other?,
    }
    match Superblock::parse(&block) {
        Ok(superblock) if superblock.node_uuid != node_uuid => Err(SegmentError::Foreign),
        Ok(superblock) if superblock.segment != id.0 => Err(SegmentError::Damaged),
        Ok(superblock) => Ok(superblock),
        Err(SuperblockError::Damaged) => Err(SegmentError::Damaged),
        Err(SuperblockError::Version(version)) => Err(SegmentError::Version(version)),
    }
}

/// Consecutive pages of a chunk, `first` being the one that `crcs` start with.
struct Pages<'a> {
    segment: &'a Segment,
    chunk: ChunkExtent,
    first: usize,
    crcs: &'a [u32],
}

impl Pages<'_> {
    /// Fills `out` from `skip` bytes into the first page. Pages wanted whole are read straight into `out`.
    fn read(&self, skip: usize, mut out: &mut [u8]) -> Result<(), ReadError> {
        let mut page = 0;
        if skip > 0 {
            let (head, rest) = out.split_at_mut(out.len().min(self.page_len(0) - skip));
            self.read_part(0, skip, head)?;
            out = rest;
            page = 1;
        }
        if out.is_empty() {
            return Ok(());
        }
        let to_the_end = self.start_of(page) + out.len() == self.chunk.length as usize;
        let whole_len = if to_the_end { out.len() } else { out.len() / PAGE_LEN * PAGE_LEN };
        let (whole, tail) = out.split_at_mut(whole_len);
        self.read_whole(page, whole)?;
        if tail.is_empty() {
            return Ok(());
        }
        self.read_part(page + whole_len / PAGE_LEN, 0, tail)
    }

    fn read_whole(&self, page: usize, out: &mut [u8]) -> Result<(), ReadError> {
        self.segment.read_exact(out, self.position_of(page))?;
        let sound = out.chunks(PAGE_LEN).zip(&self.crcs[page..]).all(|(bytes, crc)| crc32c(bytes) == *crc);
        if sound { Ok(()) } else { Err(ReadError::Corrupt) }
    }

    fn read_part(&self, page: usize, skip: usize, out: &mut [u8]) -> Result<(), ReadError> {
        let mut scratch = [0; PAGE_LEN];
        let whole = &mut scratch[..self.page_len(page)];
        self.read_whole(page, whole)?;
        out.copy_from_slice(&whole[skip..skip + out.len()]);
        Ok(())
    }

    fn page_len(&self, page: usize) -> usize {
        PAGE_LEN.min(self.chunk.length as usize - self.start_of(page))
    }

    fn position_of(&self, page: usize) -> u64 {
        self.chunk.extent.data + self.start_of(page) as u64
    }

    fn start_of(&self, page: usize) -> usize {
        (self.first + page) * PAGE_LEN
    }
}

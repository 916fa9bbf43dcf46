//! Finds out what a disk and its kernel can do, by trying it on a file that nobody sees.

use std::{
    fs::{self, File},
    io,
    sync::Arc,
};

use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
};

use super::{
    DurableWriter as _, PageReader as _, SegmentFile, WriteBuffer, directory::Directory, file::DiskFile,
    latch::Latches, ring_io,
};
use crate::page_buffer::{PAGE_LEN, PageBuffer};

/// Where a file can't be without a name. It has one for a moment only.
const NAME: &str = "probe";

/// File systems in user space are asked to be durable by `fsync` alone: that a write should be is a flag of it that few
/// of them look at.
const FUSE_MAGIC: i64 = 0x6573_5546;

/// Turns off what doesn't work. A disk that can't be tried at all is reached by the plainest means: whether it is to be
/// used is for the first real write to say.
pub(super) fn run(directory: &Directory, latches: &Arc<Latches>) {
    if let Err(error) = try_all(directory, latches) {
        if is_full(&error) {
            // Such a disk is as fast as another. What it can't do will show.
            return;
        }
        let reason = format!("could not be tried: {error}");
        latches.direct.turn_off(reason.as_str());
        latches.ring.turn_off(reason.as_str());
        tracing::warn!(%error, directory = %directory.path().display(), "the disk could not be tried");
    }
}

fn try_all(directory: &Directory, latches: &Arc<Latches>) -> io::Result<()> {
    if is_fuse(directory)? {
        latches.dsync.turn_off("the file system is in user space");
    }
    let mut page = PageBuffer::new(1);
    page.fill(0x5a);
    if let Err(error) = try_plain(&DiskFile::new(unnamed_file(directory)?, latches), &page) {
        if !latches.direct.is_on() || is_full(&error) {
            return Err(error);
        }
        latches.direct.turn_off(format!("direct transfers of a page fail: {error}"));
        try_plain(&DiskFile::new(unnamed_file(directory)?, latches), &page)?;
    }
    if latches.ring.is_on()
        && let Err(error) = try_ring(DiskFile::new(unnamed_file(directory)?, latches), &page, latches)
    {
        if is_full(&error) {
            return Err(error);
        }
        latches.ring.turn_off(error.to_string());
    }
    Ok(())
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn try_plain(file: &DiskFile, page: &PageBuffer) -> io::Result<()> {
    file.write_durably(page, 0)?;
    let mut back = PageBuffer::new(1);
    file.read(&mut back, 0)?;
    expect_same(page, &back)
}

fn try_ring(file: DiskFile, page: &PageBuffer, latches: &Arc<Latches>) -> io::Result<()> {
    let file: Arc<dyn SegmentFile> = Arc::new(file);
    let mut writer = ring_io::writer(1, latches)?;
    let mut buffer = writer.buffer(PAGE_LEN);
    buffer.copy_from_slice(page);
    writer.begin(&file, buffer, PAGE_LEN, 0);
    let (written, _): (_, WriteBuffer) = writer.finish();
    written?;
    let mut reader = ring_io::reader(1, 1, latches)?;
    reader.submit(file, 0, 1, 0);
    let mut read = Err(io::ErrorKind::UnexpectedEof.into());
    reader.complete(true, &mut |_, result| read = result.and_then(|back| expect_same(page, back)));
    read
}

fn expect_same(written: &[u8], read: &[u8]) -> io::Result<()> {
    if written == read { Ok(()) } else { Err(io::Error::other("what was written is not read back")) }
}

fn is_fuse(directory: &Directory) -> io::Result<bool> {
    Ok(rustix::fs::fstatfs(directory.file())?.f_type == FUSE_MAGIC)
}

fn unnamed_file(directory: &Directory) -> io::Result<File> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    match rustix::fs::openat(directory.file(), ".", flags, Mode::RUSR | Mode::WUSR) {
        Ok(file) => Ok(file.into()),
        // What file systems and kernels without unnamed files say.
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL | Errno::NOENT) => {
            let path = directory.path().join(NAME);
            let file = File::options().create(true).truncate(true).read(true).write(true).open(&path)?;
            fs::remove_file(&path)?;
            Ok(file)
        }
        Err(error) => Err(error.into()),
    }
}

//! What the kernel asks of a medium, and how it is answered: FUSE, and no decision.
//!
//! Invariant: writes come here as they are made, and attributes are asked for each time. The kernel keeps what it has seen of
//! a file in its cache when that is closed, as it does for file systems on disks.

use std::{
    ffi::OsStr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty,
    ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};

use super::medium::{Attributes, Medium, ROOT, Refusal};

/// The kernel asks again each time.
const NEVER_KEPT: Duration = Duration::ZERO;
const BLOCK: u32 = 4096;
/// What statfs tells: more than anything here needs.
const BLOCKS: u64 = 1 << 24;
const NAME_LEN_MAX: u32 = 255;

/// A medium under the kernel.
#[derive(Debug)]
pub(super) struct Mounted {
    medium: Arc<Mutex<Medium>>,
    owner: (u32, u32),
}

impl Mounted {
    pub(super) fn new(medium: Arc<Mutex<Medium>>) -> Self {
        let owner = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        Self { medium, owner }
    }

    fn medium(&self) -> MutexGuard<'_, Medium> {
        self.medium.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn attr(&self, attributes: &Attributes) -> FileAttr {
        FileAttr {
            ino: INodeNo(attributes.node),
            size: attributes.len,
            blocks: attributes.len.div_ceil(512),
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: kind(attributes),
            perm: attributes.mode as u16,
            nlink: if attributes.is_directory { 2 } else { 1 },
            uid: self.owner.0,
            gid: self.owner.1,
            rdev: 0,
            blksize: BLOCK,
            flags: 0,
        }
    }

    fn reply_entry(&self, found: Result<Attributes, Refusal>, reply: ReplyEntry) {
        match found {
            Ok(attributes) => reply.entry(&NEVER_KEPT, &self.attr(&attributes), Generation(0)),
            Err(refusal) => reply.error(errno(refusal)),
        }
    }

    fn reply_attr(&self, found: Result<Attributes, Refusal>, reply: ReplyAttr) {
        match found {
            Ok(attributes) => reply.attr(&NEVER_KEPT, &self.attr(&attributes)),
            Err(refusal) => reply.error(errno(refusal)),
        }
    }
}

impl Filesystem for Mounted {
    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.reply_entry(self.medium().look_up(parent.0, name), reply);
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        self.reply_attr(self.medium().attributes(ino.0), reply);
    }

    fn setattr(
        &self,
        _req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let mut medium = self.medium();
        let changed = mode.map_or(Ok(()), |mode| medium.set_mode(ino.0, mode));
        let changed = changed.and_then(|()| size.map_or(Ok(()), |len| medium.set_len(ino.0, len)));
        self.reply_attr(changed.and_then(|()| medium.attributes(ino.0)), reply);
    }

    fn mkdir(&self, _req: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        self.reply_entry(self.medium().make_directory(parent.0, name, mode & !umask), reply);
    }

    fn unlink(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        reply_empty(self.medium().remove(parent.0, name), reply);
    }

    fn rmdir(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        reply_empty(self.medium().remove(parent.0, name), reply);
    }

    fn rename(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        if !flags.is_empty() {
            return reply.error(Errno::EINVAL);
        }
        reply_empty(self.medium().rename((parent.0, name), (newparent.0, newname)), reply);
    }

    fn open(&self, _req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply_open(self.medium().open(ino.0), reply);
    }

    fn opendir(&self, _req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply_open(self.medium().open(ino.0), reply);
    }

    fn create(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        let mut medium = self.medium();
        let made = medium.make_file(parent.0, name, mode & !umask);
        match made.and_then(|made| Ok((made, medium.open(made.node)?))) {
            Ok((made, handle)) => reply.created(
                &NEVER_KEPT,
                &self.attr(&made),
                Generation(0),
                FileHandle(handle),
                FopenFlags::FOPEN_KEEP_CACHE,
            ),
            Err(refusal) => reply.error(errno(refusal)),
        }
    }

    fn read(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.medium().read(ino.0, offset, size.into()) {
            Ok(data) => reply.data(data),
            Err(refusal) => reply.error(errno(refusal)),
        }
    }

    fn write(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.medium().write(ino.0, offset, data) {
            Ok(()) => reply.written(data.len() as u32),
            Err(refusal) => reply.error(errno(refusal)),
        }
    }

    /// Closing a file makes nothing durable.
    fn flush(&self, _req: &Request, _ino: INodeNo, _fh: FileHandle, _owner: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn release(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.medium().close(fh.0);
        reply.ok();
    }

    fn releasedir(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.medium().close(fh.0);
        reply.ok();
    }

    fn fsync(&self, _req: &Request, _ino: INodeNo, fh: FileHandle, datasync: bool, reply: ReplyEmpty) {
        reply_empty(self.medium().sync_file(fh.0, datasync), reply);
    }

    fn fsyncdir(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        reply_empty(self.medium().sync_directory(ino.0), reply);
    }

    fn readdir(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let listed = match self.medium().list(ino.0) {
            Ok(listed) => listed,
            Err(refusal) => return reply.error(errno(refusal)),
        };
        // Nobody here follows the way up.
        let dots = [".", ".."].map(|name| (name.into(), INodeNo(ROOT), FileType::Directory));
        let named = listed.iter().map(|(name, found)| (name.clone(), INodeNo(found.node), kind(found)));
        for (place, (name, node, kind)) in dots.into_iter().chain(named).enumerate().skip(offset as usize) {
            if reply.add(node, place as u64 + 1, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        let free = self.medium().room().map_or(BLOCKS, |bytes| bytes / u64::from(BLOCK));
        reply.statfs(BLOCKS, free, free, BLOCKS, BLOCKS, BLOCK, NAME_LEN_MAX, BLOCK);
    }

    /// Space is taken beyond the end, or as if zeros had been written; there are no other modes.
    fn fallocate(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let mut medium = self.medium();
        let done = match mode {
            0 => {
                let longer = medium.attributes(ino.0).map(|found| found.len.max(offset + length));
                longer.and_then(|len| medium.set_len(ino.0, len))
            }
            libc::FALLOC_FL_KEEP_SIZE => medium.hold(ino.0, offset + length),
            _ => Err(Refusal::NotSupported),
        };
        reply_empty(done, reply);
    }
}

const fn kind(attributes: &Attributes) -> FileType {
    if attributes.is_directory { FileType::Directory } else { FileType::RegularFile }
}

fn reply_empty(done: Result<(), Refusal>, reply: ReplyEmpty) {
    match done {
        Ok(()) => reply.ok(),
        Err(refusal) => reply.error(errno(refusal)),
    }
}

fn reply_open(opened: Result<u64, Refusal>, reply: ReplyOpen) {
    match opened {
        Ok(handle) => reply.opened(FileHandle(handle), FopenFlags::FOPEN_KEEP_CACHE),
        Err(refusal) => reply.error(errno(refusal)),
    }
}

const fn errno(refusal: Refusal) -> Errno {
    match refusal {
        Refusal::Exists => Errno::EEXIST,
        Refusal::IsDirectory => Errno::EISDIR,
        Refusal::Medium => Errno::EIO,
        Refusal::NoSpace => Errno::ENOSPC,
        Refusal::NotADirectory => Errno::ENOTDIR,
        Refusal::NotEmpty => Errno::ENOTEMPTY,
        Refusal::NotFound => Errno::ENOENT,
        Refusal::NotSupported => Errno::EOPNOTSUPP,
    }
}

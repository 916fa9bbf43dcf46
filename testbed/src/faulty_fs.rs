//! A file system of a test's own that has the faults of real ones: at a power cut only what was synced is sure to be there,
//! writes, syncs and reads fail when they are told to, and space runs out.
//!
//! Invariant: what a cut takes is decided by seed, and never what a successful sync covered, unless the file system was told
//! to lie. Needs root and /dev/fuse; whatever works on directories can be run on it.

mod file;
mod medium;
mod mounted;

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use fuser::{BackgroundSession, Config, MountOption, SessionACL};

pub use self::{file::Losses, medium::NameModel};
use self::{medium::Medium, mounted::Mounted};

/// A mounted file system. Dropping it unmounts it, and nothing of it is left.
#[derive(Debug)]
pub struct FaultyFs {
    medium: Arc<Mutex<Medium>>,
    path: PathBuf,
    session: Option<BackgroundSession>,
}

impl FaultyFs {
    /// Mounts an empty one on `path`, which is made if it is not there.
    ///
    /// # Errors
    /// Without root or /dev/fuse.
    pub fn mount(path: &Path, seed: u64, names: NameModel) -> io::Result<Self> {
        fs::create_dir_all(path)?;
        let medium = Arc::new(Mutex::new(Medium::new(seed, names)));
        let mut mounted = Self { medium, path: path.to_owned(), session: None };
        mounted.attach()?;
        Ok(mounted)
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Cuts the power, unless it is cut already: from here on everything fails, and what was not synced is lost, in whole or
    /// in part. Tells what of the content of files went.
    #[must_use]
    pub fn cut(&self) -> Losses {
        self.medium().cut()
    }

    /// Cuts the power after so many more changes and syncs, before the next one.
    pub fn cut_after(&self, changes: u64) {
        self.medium().cut_after(changes);
    }

    /// Mounts anew what the cut has left, without anything that the kernel may remember of it. Whoever used it must have
    /// ended, or goes on with a file system that only fails.
    ///
    /// # Errors
    /// It can't be mounted or unmounted.
    pub fn power_on(&mut self) -> io::Result<()> {
        self.detach()?;
        self.medium().power_on();
        self.attach()
    }

    /// From here on an fdatasync says that it has synced, and does nothing; fsync does what it should. This is how a program
    /// behaves that leaves its fdatasync out.
    pub fn ignore_fdatasync(&self) {
        self.medium().ignore_fdatasync();
    }

    /// After so many more writes, one fails with an I/O error and changes nothing.
    pub fn fail_write_after(&self, writes: u64) {
        self.medium().fail_write_after(writes);
    }

    /// After so many more reads, one fails with an I/O error.
    pub fn fail_read_after(&self, reads: u64) {
        self.medium().fail_read_after(reads);
    }

    /// After so many more syncs of files, one fails with an I/O error. As on Linux, what it should have made durable never
    /// will be, though it can be read while the kernel's cache has it; every file that was open hears of the error once;
    /// and the next sync succeeds.
    pub fn fail_sync_after(&self, syncs: u64) {
        self.medium().fail_sync_after(syncs);
    }

    /// From here on files may grow by so many bytes together, and this is what the file system says that is free; `None`: by
    /// as many as they like.
    pub fn limit_growth(&self, bytes: Option<u64>) {
        self.medium().limit_growth(bytes);
    }

    /// From here on no space can be taken before it is written to, as on many file systems in user space.
    pub fn hold_nothing(&self) {
        self.medium().hold_nothing();
    }

    /// Whether the failure that was asked for has happened.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.medium().has_failed()
    }

    fn attach(&mut self) -> io::Result<()> {
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("xdpfs-testbed".to_owned()), MountOption::NoAtime];
        config.acl = SessionACL::All;
        let mounted = Mounted::new(Arc::clone(&self.medium));
        self.session = Some(fuser::spawn_mount(mounted, &self.path, &config)?);
        // Only a request that is answered shows that it is there.
        fs::metadata(&self.path).map(drop)
    }

    fn detach(&mut self) -> io::Result<()> {
        self.session.take().map_or(Ok(()), BackgroundSession::umount_and_join)
    }

    fn medium(&self) -> MutexGuard<'_, Medium> {
        self.medium.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for FaultyFs {
    fn drop(&mut self) {
        // Nobody is left to tell.
        let _left_mounted = self.detach();
    }
}

//! What speaks against a directory keeping bytes when the power fails: asked of the kernel, and of a watch.
//!
//! Invariant: nothing is left in the directory, also if the process is killed in the middle of it.

use std::{
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use xdpfs_host::FileSystem;

/// Faster than any medium that keeps bytes without power, through a file system: those with a cache that a capacitor backs
/// take longer than this for the way there and back.
pub const TOO_FAST: Duration = Duration::from_micros(10);
const WRITE_LEN: usize = 4096;
/// Writes at the start of a node: enough for a median, few enough for a slow disk.
const WRITES: usize = 15;
const PATIENCE: Duration = Duration::from_millis(300);
/// The file that is written and removed again.
const DRAFT: &str = "sync-probe.draft";

/// Something that speaks against a directory.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum StorageDoubt {
    /// It is in memory.
    Volatile,
    /// It is on another machine, or in the hands of a program (FUSE).
    Network,
    /// It is in the layers of a container.
    Overlay,
    /// A write is durable sooner than any medium could have it.
    FastSync,
}

impl StorageDoubt {
    /// A stable name.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Volatile => "volatile",
            Self::Network => "network",
            Self::Overlay => "overlay",
            Self::FastSync => "fast_sync",
        }
    }

    /// Whether it is certain. How fast a medium can be is a guess: tomorrow's may be faster.
    #[must_use]
    pub const fn is_certain(self) -> bool {
        !matches!(self, Self::FastSync)
    }

    /// What to do about it.
    #[must_use]
    pub const fn advice(self) -> &'static str {
        match self {
            Self::Volatile | Self::Network => "name a directory on a disk of this host",
            Self::Overlay => "give the container a volume, such as -v xdpfs-data:/data",
            Self::FastSync => {
                "use a disk with power loss protection, or turn its volatile cache off: hdparm -W0 /dev/DISK"
            }
        }
    }
}

impl fmt::Display for StorageDoubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Volatile => "it is in memory: what is acknowledged is gone with the next start of the host",
            Self::Network => {
                "it is on another machine, or a program keeps it (FUSE): two replicas may end on one disk, and what is \
                 acknowledged is only as durable as what stands behind it"
            }
            Self::Overlay => "it is in the layers of a container: what is acknowledged goes with the container",
            Self::FastSync => {
                "writes are durable sooner than any medium could have them: bytes seem to wait in memory that a power loss \
                 empties"
            }
        })
    }
}

/// What the kernel says of the directory, or of the one above in which it would be made. Nothing if it can't be asked: whoever
/// uses the directory will find out why.
#[must_use]
pub fn of_file_system(directory: &Path) -> Option<StorageDoubt> {
    doubt_of(xdpfs_host::file_system(&existing(directory)?).ok()?)
}

/// What the watch says of a directory that is there. Blocks for a moment.
#[must_use]
pub fn of_sync(directory: &Path) -> Option<StorageDoubt> {
    let mut times = measure(directory, WRITES, PATIENCE).unwrap_or_default();
    is_too_fast(&mut times).then_some(StorageDoubt::FastSync)
}

/// How long each of at most `writes` small writes took to be durable; they end after `patience`, too. Blocks.
///
/// # Errors
/// No file can be written there.
pub fn measure(directory: &Path, writes: usize, patience: Duration) -> io::Result<Vec<Duration>> {
    let mut file = nameless(directory)?;
    let (began, bytes) = (Instant::now(), [0x5a; WRITE_LEN]);
    let mut times = Vec::with_capacity(writes);
    while times.len() < writes && began.elapsed() < patience {
        let wrote = Instant::now();
        file.write_all(&bytes)?;
        file.sync_data()?;
        times.push(wrote.elapsed());
    }
    Ok(times)
}

/// The directory, or the one above in which it would be made.
#[must_use]
pub fn existing(directory: &Path) -> Option<PathBuf> {
    let absolute = std::path::absolute(directory).ok()?;
    absolute.ancestors().find(|path| path.is_dir()).map(Path::to_owned)
}

/// A file that goes when it is closed.
fn nameless(directory: &Path) -> io::Result<File> {
    let path = directory.join(format!("{DRAFT}.{}", std::process::id()));
    let file = OpenOptions::new().create_new(true).write(true).open(&path)?;
    fs::remove_file(path)?;
    Ok(file)
}

const fn doubt_of(kind: FileSystem) -> Option<StorageDoubt> {
    match kind {
        FileSystem::Disk => None,
        FileSystem::Memory => Some(StorageDoubt::Volatile),
        FileSystem::Network => Some(StorageDoubt::Network),
        FileSystem::Overlay => Some(StorageDoubt::Overlay),
    }
}

/// By the median, so that one write that met something else decides nothing.
fn is_too_fast(times: &mut [Duration]) -> bool {
    times.sort_unstable();
    times.get(times.len() / 2).is_some_and(|median| *median < TOO_FAST)
}

#[cfg(test)]
mod tests;

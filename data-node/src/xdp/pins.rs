//! What outlives the process, in a directory of the BPF file system: maps, links, and which interfaces were prepared.
//!
//! Invariant: whoever changes anything in there holds its lock, which ends with the process, however that ends.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use aya::programs::links::{FdLink, PinnedLink};
use rustix::{
    fs::{FlockOperation, flock, fstatfs},
    io::Errno,
};
use xdpfs_plane::maps::LAYOUT;

use super::{XdpError, peer::Change};

/// Of the BPF file system.
const MAGIC: i64 = 0xcafe_4a11;
const LINKS: &str = "links";
/// A directory per interface and change: the file system holds no files.
const PREPARED: &str = "prepared";
/// Behind the number of an interface: what was turned on is the merging of what its bridge sends on.
const FORWARDING: &str = "-forwarding";

/// The directory, locked.
#[derive(Debug)]
pub(super) struct Pins {
    directory: PathBuf,
    #[expect(dead_code, reason = "closing it unlocks the directory")]
    lock: File,
}

impl Pins {
    /// Locks the directory, which is made if it isn't there.
    pub(super) fn open(directory: &Path) -> Result<Self, XdpError> {
        let error = |hint| {
            let directory = directory.to_owned();
            move |source: io::Error| XdpError::Pin { directory, hint, source: Box::new(source) }
        };
        const HINT: &str = "it must be in a BPF file system, without dots in its name; \
            `mount -t bpf bpf /sys/fs/bpf` makes one, or name another directory by --pin-dir";
        // Whatever comes of it shows in the directory itself.
        let made = fs::create_dir_all(directory);
        let lock = File::open(directory).map_err(|error| made.err().unwrap_or(error)).map_err(error(HINT))?;
        let kind = fstatfs(&lock).map_err(io::Error::from).map_err(error(HINT))?;
        if kind.f_type != MAGIC {
            let _ = fs::remove_dir(directory);
            return Err(error(HINT)(io::Error::other("it is in another file system")));
        }
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(XdpError::Taken { directory: directory.to_owned() }),
            Err(refused) => return Err(error("it can't be locked")(refused.into())),
        }
        let this = Self { directory: directory.to_owned(), lock };
        for part in [this.maps(), this.part(LINKS), this.part(PREPARED)] {
            fs::create_dir_all(part).map_err(error("it can't be written to"))?;
        }
        Ok(this)
    }

    /// Where the maps of this layout are.
    pub(super) fn maps(&self) -> PathBuf {
        self.part(&format!("maps-{LAYOUT}"))
    }

    /// The names of the links.
    pub(super) fn links(&self) -> Vec<String> {
        names(&self.part(LINKS))
    }

    /// The link of this name.
    pub(super) fn link(&self, name: &str) -> Option<FdLink> {
        PinnedLink::from_pin(self.part(LINKS).join(name)).ok().map(FdLink::from)
    }

    /// Keeps a link under a name, where there is none yet.
    pub(super) fn keep(&self, name: &str, link: FdLink) -> Result<FdLink, XdpError> {
        let path = self.part(LINKS).join(name);
        let pinned = link.pin(&path).map_err(|error| XdpError::Pin {
            directory: path,
            hint: "links need Linux 5.7 or newer",
            source: Box::new(error),
        })?;
        Ok(pinned.into())
    }

    /// Keeps a link no longer.
    pub(super) fn forget(&self, name: &str) {
        remove(fs::remove_file, &self.part(LINKS).join(name));
    }

    /// The interfaces whose other end was prepared, and how.
    pub(super) fn prepared(&self) -> Vec<(u32, Change)> {
        let parse = |name: &String| {
            let (number, change) = match name.strip_suffix(FORWARDING) {
                Some(number) => (number, Change::GroForwarding),
                None => (name.as_str(), Change::Gro),
            };
            Some((number.parse().ok()?, change))
        };
        names(&self.part(PREPARED)).iter().filter_map(parse).collect()
    }

    /// Notes how the other end of an interface was prepared.
    pub(super) fn note_prepared(&self, interface: u32, change: Change) {
        let path = self.preparation(interface, change);
        if let Err(error) = fs::create_dir_all(&path) {
            tracing::warn!(path = %path.display(), %error, "a preparation will not be undone after a crash");
        }
    }

    /// Notes that there is nothing to be undone there any more.
    pub(super) fn note_undone(&self, interface: u32, change: Change) {
        remove(fs::remove_dir, &self.preparation(interface, change));
    }

    fn preparation(&self, interface: u32, change: Change) -> PathBuf {
        let suffix = match change {
            Change::Gro => "",
            Change::GroForwarding => FORWARDING,
        };
        self.part(PREPARED).join(format!("{interface}{suffix}"))
    }

    /// Removes the maps of other layouts.
    pub(super) fn forget_other_layouts(&self) {
        let present = self.maps();
        let others = names(&self.directory).into_iter().filter(|name| name.starts_with("maps-"));
        for other in others.map(|name| self.part(&name)).filter(|other| *other != present) {
            remove_maps(&other);
        }
    }

    /// Removes everything, and the directory too.
    pub(super) fn clear(self) {
        for name in self.links() {
            self.forget(&name);
        }
        for name in names(&self.directory).iter().filter(|name| name.starts_with("maps-")) {
            remove_maps(&self.part(name));
        }
        for part in [self.part(LINKS), self.part(PREPARED), self.directory.clone()] {
            remove(fs::remove_dir, &part);
        }
    }

    fn part(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}

fn remove_maps(directory: &Path) {
    for name in names(directory) {
        remove(fs::remove_file, &directory.join(name));
    }
    remove(fs::remove_dir, directory);
}

fn remove(by: impl FnOnce(PathBuf) -> io::Result<()>, path: &Path) {
    match by(path.to_owned()) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), %error, "something of the kernel program stays behind");
        }
        Ok(()) | Err(_) => {}
    }
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().filter_map(Result::ok);
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

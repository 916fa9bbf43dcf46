//! What an edge pins in the kernel, in a file system of its own.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

/// A file system for pins; when it is unmounted, which this does when it is dropped, whatever is pinned there is gone.
#[derive(Debug)]
pub(super) struct Pins(PathBuf);

impl Pins {
    /// Mounts one at `path`.
    pub(super) fn mount(path: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&path)?;
        let output = Command::new("mount").args(["-t", "bpf", "bpf"]).arg(&path).output()?;
        if !output.status.success() {
            return Err(io::Error::other(String::from_utf8_lossy(&output.stderr).into_owned()));
        }
        Ok(Self(path))
    }

    /// The directory that an edge is told; it makes it.
    pub(super) fn path(&self) -> PathBuf {
        self.root().join("edge")
    }

    fn root(&self) -> &Path {
        &self.0
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        // Nothing is left to do about it if that fails.
        let _failed = Command::new("umount").arg(self.root()).output();
    }
}

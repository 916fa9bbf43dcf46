//! What the measurements run on: release binaries, a cluster, and a directory on the same disk.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use tempfile::TempDir;
use xdpfs_testbed::{Cluster, ClusterOptions, Content};

use crate::{setup, sh};

pub(super) struct Bed {
    // Dropped first: the directory is the cluster's too.
    pub(super) cluster: Cluster,
    work: TempDir,
}

impl Bed {
    pub(super) fn prepare() -> anyhow::Result<Self> {
        setup::required()?;
        let packages = ["-p", "xdpfs-meta-server", "-p", "xdpfs-data-node", "-p", "xdpfs-cli"];
        sh::run(&[&["cargo", "build", "--locked", "--release", "--bins"], &packages[..]].concat())?;
        let bin_dir = Some(sh::target_dir("release"));
        // On the disk that is built on: the temporary directory may be in memory.
        let work = tempfile::Builder::new().prefix("bench-").tempdir_in(sh::target_dir(""))?;
        let dir = Some(work.path().join("cluster"));
        let cluster = Cluster::start(ClusterOptions { bin_dir, dir, ..ClusterOptions::default() })?;
        let bed = Self { cluster, work };
        bed.call(&["mb", "bench"])?;
        Ok(bed)
    }

    /// A directory of this name, made anew.
    pub(super) fn empty_dir(&self, name: &str) -> anyhow::Result<PathBuf> {
        let path = self.work.path().join(name);
        if path.exists() {
            fs::remove_dir_all(&path)?;
        }
        fs::create_dir(&path)?;
        Ok(path)
    }

    /// A file of this size in `dir`; bytes that do not compress.
    pub(super) fn file(&self, dir: &Path, name: &str, len: u64) -> anyhow::Result<PathBuf> {
        let path = dir.join(name);
        let mut file = fs::File::create(&path)?;
        std::io::copy(&mut Content::new(len, len), &mut file)?;
        Ok(path)
    }

    /// Runs the tool to the end; how long it took.
    pub(super) fn call(&self, args: &[&str]) -> anyhow::Result<Duration> {
        let invocation = self.cluster.cli().invoke(args).within(Duration::from_secs(600));
        let output = invocation.stdout(std::io::sink()).try_run()?;
        ensure!(output.code == Some(0), "`xdpfs-cli {}` failed: {}", args.join(" "), output.stderr);
        Ok(output.took)
    }
}

/// How long `work` takes.
pub(super) fn timed(work: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<Duration> {
    let began = Instant::now();
    work()?;
    Ok(began.elapsed())
}

pub(super) fn text(path: &Path) -> anyhow::Result<&str> {
    path.to_str().with_context(|| format!("{} is not text", path.display()))
}

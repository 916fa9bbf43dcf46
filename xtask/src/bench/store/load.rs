//! The program that puts load on a store, and the store's directory.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::{setup, sh};

const PROGRAM: &str = "store_load";
/// How long a process goes on putting chunks before it is killed.
const LIFE: Duration = Duration::from_millis(300);
/// Bytes of chunks that are on their way while a store is filled.
const FILLING_BYTES: u64 = 16 << 20;

pub(super) struct Load {
    program: PathBuf,
    work: TempDir,
}

/// What the program has printed, by name.
#[derive(Debug, Default)]
pub(super) struct Numbers(Value);

impl Load {
    pub(super) fn prepare() -> anyhow::Result<Self> {
        setup::for_disk_reference();
        let words =
            ["cargo", "build", "--locked", "--release", "-p", "xdpfs-chunk-store", "--example", PROGRAM];
        sh::run(&words)?;
        let program = sh::target_dir("release").join("examples").join(PROGRAM);
        // On the disk that is built on: the temporary directory may be in memory.
        let work = tempfile::Builder::new().prefix("bench-").tempdir_in(sh::target_dir(""))?;
        Ok(Self { program, work })
    }

    /// Where others may measure the same disk.
    pub(super) fn directory(&self) -> &Path {
        self.work.path()
    }

    pub(super) fn call(&self, args: &[&str]) -> anyhow::Result<Numbers> {
        let line = args.join(" ");
        let output = self.command(args).output().with_context(|| format!("cannot run {PROGRAM}"))?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "`{PROGRAM} {line}` failed ({}): {errors}", output.status);
        Ok(Numbers(serde_json::from_slice(&output.stdout)?))
    }

    /// The same, without anything that was there before, or is left behind.
    pub(super) fn on_fresh_store(&self, args: &[&str]) -> anyhow::Result<Numbers> {
        self.clear()?;
        let numbers = self.call(args)?;
        self.clear()?;
        Ok(numbers)
    }

    /// A fresh store with so many chunks of this length.
    pub(super) fn fill(&self, count: u64, length: u64) -> anyhow::Result<()> {
        self.clear()?;
        let began = Instant::now();
        // A large chunk takes much of what may wait.
        let puts = (FILLING_BYTES / length).clamp(2, 512);
        let (count, length, puts) = (count.to_string(), length.to_string(), puts.to_string());
        self.call(&["fill", "--count", &count, "--length", &length, "--puts", &puts])?;
        eprintln!("  {count} chunks of {length} bytes in {:.1} s", began.elapsed().as_secs_f64());
        Ok(())
    }

    /// Kills a process that puts chunks into a store that has at least so many, and more each time.
    pub(super) fn fill_until_killed(&self, count: u64, length: u64) -> anyhow::Result<()> {
        let (count, length) = (count.to_string(), length.to_string());
        let mut command = self.command(&["fill-until-killed", "--count", &count, "--length", &length]);
        let mut child = command.stdout(Stdio::piped()).spawn()?;
        let mut ready = String::new();
        let said = child.stdout.take().map(|out| BufReader::new(out).read_line(&mut ready)).transpose();
        thread::sleep(LIFE);
        // Fails only for one that is gone already, which is looked at next.
        let _gone = child.kill();
        let status = child.wait()?;
        said?;
        ensure!(ready.trim() == "ready" && status.code().is_none(), "the process ended by itself: {status}");
        Ok(())
    }

    fn clear(&self) -> anyhow::Result<()> {
        let store = self.store();
        if store.exists() {
            fs::remove_dir_all(store)?;
        }
        Ok(())
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--directory").arg(self.store()).args(args).stdin(Stdio::null());
        command
    }

    fn store(&self) -> PathBuf {
        self.work.path().join("store")
    }
}

impl Numbers {
    pub(super) fn one(&self, name: &str) -> anyhow::Result<f64> {
        self.0[name].as_f64().with_context(|| format!("{PROGRAM} says nothing of {name}"))
    }

    pub(super) fn several<const COUNT: usize>(&self, names: [&str; COUNT]) -> anyhow::Result<[f64; COUNT]> {
        let mut all = [0.0; COUNT];
        for (value, name) in all.iter_mut().zip(names) {
            *value = self.one(name)?;
        }
        Ok(all)
    }
}

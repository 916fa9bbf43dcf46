//! fio: what the disk can do by itself.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, ensure};
use serde_json::Value;

use super::{MIB, SECONDS};
use crate::setup;

/// Of which Debian has the program.
const PROGRAM: &str = "fio";
/// What O_DIRECT can write at the least.
const BLOCK_MIN: u64 = 4 << 10;

pub(super) struct Fio {
    /// Of its files; `None` if there is no such program here.
    directory: Option<PathBuf>,
}

/// What one run has come to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Done {
    pub(super) per_second: f64,
    pub(super) bytes_per_s: f64,
    pub(super) p50_us: f64,
    pub(super) p99_us: f64,
}

impl Fio {
    pub(super) fn find(directory: &Path) -> Self {
        Self { directory: setup::has_program(PROGRAM).then(|| directory.join(PROGRAM)) }
    }

    /// Each of so many threads writes to a file of its own, and waits for the disk each time.
    pub(super) fn in_sync(length: u64, threads: u32, bytes_max: u64) -> Vec<String> {
        let size = (bytes_max / u64::from(threads)).min(256 * MIB);
        let job =
            format!("--rw=write --ioengine=psync --direct=1 --sync=dsync --bs={}", length.max(BLOCK_MIN));
        words(&format!("{job} --numjobs={threads} --thread --group_reporting --size={size}"))
    }

    /// As fast as the disk takes large blocks in a row.
    pub(super) fn bandwidth() -> Vec<String> {
        words("--rw=write --ioengine=io_uring --direct=1 --bs=4m --iodepth=4 --size=2g")
    }

    /// Single pages anywhere in a file that is there.
    pub(super) fn random_pages(depth: u32, size: u64) -> Vec<String> {
        let job = "--rw=randread --ioengine=io_uring --direct=1 --bs=4k --norandommap";
        words(&format!("{job} --iodepth={depth} --size={size} --filename=read"))
    }

    /// One block behind the other of a file that is there.
    pub(super) fn bursts(length: u64, depth: u32, size: u64) -> Vec<String> {
        let job = "--rw=read --ioengine=io_uring --direct=1";
        words(&format!("{job} --bs={length} --iodepth={depth} --size={size} --filename=read"))
    }

    /// Pages that the kernel has in memory.
    pub(super) fn cached_pages() -> Vec<String> {
        let job = "--rw=randread --ioengine=psync --direct=0 --invalidate=0 --bs=4k --norandommap";
        words(&format!("{job} --gtod_reduce=1 --size=4m --pre_read=1 --filename=cached"))
    }

    /// `None` if there is no fio. Its files are gone afterwards.
    pub(super) fn write(&self, job: &[String]) -> anyhow::Result<Option<Done>> {
        let done = self.run(job, "write");
        if let Some(directory) = self.directory.as_ref().filter(|directory| directory.exists()) {
            fs::remove_dir_all(directory)?;
        }
        done
    }

    /// `None` if there is no fio. Its file stays for the next reading.
    pub(super) fn read(&self, job: &[String]) -> anyhow::Result<Option<Done>> {
        self.run(job, "read")
    }

    fn run(&self, job: &[String], direction: &str) -> anyhow::Result<Option<Done>> {
        let Some(directory) = &self.directory else { return Ok(None) };
        fs::create_dir_all(directory)?;
        let output = Command::new(PROGRAM)
            .args(["--name=job", "--fallocate=native", "--time_based", "--output-format=json"])
            .arg(format!("--runtime={}ms", (SECONDS.parse::<f64>()? * 1e3) as u64))
            .args(job)
            .current_dir(directory)
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("cannot run {PROGRAM}"))?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "fio {} failed ({}): {errors}", job.join(" "), output.status);
        // What it warns of comes first.
        let start = output.stdout.iter().position(|byte| *byte == b'{').context("fio says nothing")?;
        let said: Value = serde_json::from_slice(&output.stdout[start..])?;
        let said = &said["jobs"][0][direction];
        let number = |value: &Value| value.as_f64().unwrap_or(f64::NAN);
        let us = |percentile: &str| number(&said["clat_ns"]["percentile"][percentile]) / 1e3;
        let per_second = number(&said["iops"]);
        ensure!(per_second > 0.0, "fio {} did nothing: {errors}", job.join(" "));
        Ok(Some(Done {
            per_second,
            bytes_per_s: number(&said["bw_bytes"]),
            p50_us: us("50.000000"),
            p99_us: us("99.000000"),
        }))
    }
}

fn words(line: &str) -> Vec<String> {
    line.split(' ').map(str::to_owned).collect()
}

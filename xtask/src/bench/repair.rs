//! A data node that is lost, and one that joins: how fast what they need is copied, what readers notice, and how much is moved.

use std::{
    fs,
    path::PathBuf,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use serde_json::Value;
use tempfile::TempDir;
use xdpfs_testbed::{Cluster, ClusterOptions, Content, Member};

use super::{
    bed::timed,
    reference,
    row::{Condition, Row, Scale, rows},
};
use crate::{setup, sh};

/// Before anything is lost, each with three replicas.
const OBJECTS: u64 = 16;
const OBJECT_BYTES: u64 = 32 << 20;
const BUCKET: &str = "bench";
/// What readers read meanwhile.
const LOAD: &str = "object_load";
const LOAD_BUCKET: &str = "load-r3";
const LOAD_BYTES: &str = "65536";
const LOAD_AT_ONCE: &str = "4";
const LOAD_SECONDS: &str = "2";
const UNLIMITED: &str = "64GiB";
/// For each thing that is waited for.
const WITHIN: Duration = Duration::from_secs(120);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A cluster with one metadata server, and with objects.
struct Bed {
    // Dropped first: the directory is the cluster's, too.
    cluster: Cluster,
    work: TempDir,
}

impl Bed {
    fn prepare(data_nodes: usize, settings: &[(&str, &str)]) -> anyhow::Result<Self> {
        setup::required()?;
        let packages = ["-p", "xdpfs-meta-server", "-p", "xdpfs-data-node", "-p", "xdpfs-cli"];
        sh::run(&[&["cargo", "build", "--locked", "--release", "--bins"], &packages[..]].concat())?;
        let bin_dir = Some(sh::target_dir("release"));
        // On the disk that is built on: the temporary directory may be in memory.
        let work = tempfile::Builder::new().prefix("bench-").tempdir_in(sh::target_dir(""))?;
        let dir = Some(work.path().join("cluster"));
        let usual = [("NODE_SILENT_AFTER_S", "2"), ("NODE_LEASE_S", "4"), ("REBALANCE_AFTER_S", "3")];
        let env = usual.iter().chain(settings);
        let env = env.map(|(name, value)| (format!("XDPFS_META_{name}"), (*value).to_owned())).collect();
        let options =
            ClusterOptions { meta_servers: 1, data_nodes, bin_dir, dir, env, ..ClusterOptions::default() };
        let bed = Self { cluster: Cluster::start(options)?, work };
        for bucket in [BUCKET, LOAD_BUCKET] {
            bed.call(&["mb", bucket])?;
        }
        for number in 0..OBJECTS {
            let address = format!("{BUCKET}/{number}");
            let put = bed.cluster.cli().invoke(["put", "-", &address]);
            let put = put.stdin(Content::new(number, OBJECT_BYTES)).within(WITHIN).try_run()?;
            ensure!(put.code == Some(0), "{address}: {}", put.stderr);
        }
        Ok(bed)
    }

    fn call(&self, args: &[&str]) -> anyhow::Result<()> {
        let output = self.cluster.cli().invoke(args).within(WITHIN).try_run()?;
        ensure!(output.code == Some(0), "`xdpfs-cli {}` failed: {}", args.join(" "), output.stderr);
        Ok(())
    }

    /// What a command says, once it is so.
    fn until(&self, args: &[&str], is_so: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
        let end = Instant::now() + WITHIN;
        loop {
            let output = self.cluster.cli().invoke(["--json"].iter().chain(args)).try_run()?;
            let said: Option<Value> = serde_json::from_str(output.text().trim()).ok();
            if let Some(said) = said.as_ref().filter(|said| output.code == Some(0) && is_so(said)) {
                return Ok(said.clone());
            }
            if Instant::now() >= end {
                bail!("`xdpfs-cli {}` says {said:?} {}", args.join(" "), output.stderr);
            }
            // There is nothing to wait on but the servers' own word.
            thread::sleep(LOOK_EVERY);
        }
    }

    /// The first data node is gone for good, and repair begins.
    fn lose_node(&mut self) -> anyhow::Result<()> {
        self.call(&["rebalance", "pause"])?;
        let victim = Member::DataNode(0);
        let line = self.cluster.ready_line(victim);
        let number = line.split_whitespace().find_map(|word| word.strip_prefix("id="));
        let number = number.context("a ready line has the id")?.to_owned();
        self.cluster.kill(victim);
        let is_silent = |said: &Value| {
            let mut nodes = said["data_nodes"].as_array().into_iter().flatten();
            nodes.any(|node| node["id"].as_u64() == number.parse().ok() && node["state"] == "silent")
        };
        self.until(&["status"], is_silent)?;
        self.call(&["node", "remove", &number, "--lost"])
    }

    fn await_whole(&self) -> anyhow::Result<Value> {
        self.until(&["repair", "status"], |said| said["whole"] == true && said["chunks_repaired"] != 0)
    }

    /// The longest that 99 of a hundred gets take, in microseconds.
    fn p99_us(&self, program: &PathBuf) -> anyhow::Result<f64> {
        let args = ["get", LOAD_BUCKET, LOAD_BYTES, LOAD_AT_ONCE, LOAD_SECONDS];
        let output = Command::new(program).arg(self.cluster.endpoint()).args(args).output()?;
        ensure!(output.status.success(), "{LOAD} failed: {}", String::from_utf8_lossy(&output.stderr));
        let said: Value = serde_json::from_slice(&output.stdout)?;
        said["p99_us"].as_f64().with_context(|| format!("{said} says nothing of p99_us"))
    }
}

/// What a lost node held is made anew as fast as it goes, beside what disk and loopback do with as many bytes.
pub(super) fn rebuild(runs: u32) -> anyhow::Result<Vec<Row>> {
    let (mut rates, mut limits) = (Vec::new(), Vec::new());
    for run in 1..=runs {
        let mut bed = Bed::prepare(4, &[("REPAIR_RATE", UNLIMITED), ("REPAIR_PER_NODE", "32")])?;
        bed.lose_node()?;
        let began = Instant::now();
        let said = bed.await_whole()?;
        let took = began.elapsed();
        let bytes = said["bytes_repaired"].as_u64().context("it says how much")?;
        let file = bed.work.path().join("reference");
        let mut content = fs::File::create(&file)?;
        std::io::copy(&mut Content::new(1, bytes), &mut content)?;
        content.sync_all()?;
        let copy = bed.work.path().join("copy");
        let disk = timed(|| {
            let mut target = fs::File::create(&copy)?;
            std::io::copy(&mut fs::File::open(&file)?, &mut target)?;
            Ok(target.sync_all()?)
        })?;
        let link = timed(|| reference::over_tcp(&file, 1))?;
        let rate = |time: Duration| bytes as f64 / time.as_secs_f64();
        let (rate, limit) = (rate(took), rate(disk.max(link)));
        eprintln!(
            "  repair.rebuild, run {run} of {runs}: {bytes} bytes, {rate:.0} against {limit:.0} bytes/s"
        );
        rates.push(rate);
        limits.push(limit);
    }
    let scale = Scale { bench: "repair.rebuild", unit: "bytes/s" };
    Ok(under_cluster(rows(scale, "bytes_per_s", rates, vec![("link_or_disk", limits)])))
}

/// Gets while a lost node is made anew at the usual limit, beside gets before.
pub(super) fn foreground_p99(runs: u32) -> anyhow::Result<Vec<Row>> {
    sh::run(&["cargo", "build", "--locked", "--release", "-p", "xdpfs-client", "--example", LOAD])?;
    let program = sh::target_dir("release").join("examples").join(LOAD);
    let (mut busy, mut quiet) = (Vec::new(), Vec::new());
    for run in 1..=runs {
        let mut bed = Bed::prepare(4, &[])?;
        // Once without counting.
        bed.p99_us(&program)?;
        let before = bed.p99_us(&program)?;
        bed.lose_node()?;
        let during = bed.p99_us(&program)?;
        let said = bed.until(&["repair", "status"], |_| true)?;
        let (made, left) = (&said["bytes_repaired"], &said["bytes_left"]);
        eprintln!(
            "  repair.foreground_p99, run {run} of {runs}: {during:.0} against {before:.0} us; {made} bytes were made, {left} are left"
        );
        ensure!(made != 0, "nothing was made anew meanwhile");
        busy.push(during);
        quiet.push(before);
    }
    let scale = Scale { bench: "repair.foreground_p99", unit: "us" };
    Ok(under_cluster(rows(scale, "p99_us", busy, vec![("quiet", quiet)])))
}

/// What is moved when a node joins, beside what has to be.
pub(super) fn rebalance_bytes(runs: u32) -> anyhow::Result<Vec<Row>> {
    let (mut moved, mut least) = (Vec::new(), Vec::new());
    for run in 1..=runs {
        let mut bed = Bed::prepare(3, &[("REBALANCE_RATE", UNLIMITED)])?;
        bed.until(&["rebalance", "status"], |said| said["state"] == "even")?;
        bed.cluster.join_data_node()?;
        let plan = bed.until(&["rebalance", "plan"], |said| said["uneven"] == true)?;
        let said =
            bed.until(&["rebalance", "status"], |said| said["state"] == "even" && said["bytes_moved"] != 0)?;
        let number = |value: &Value| value.as_f64().context("it is a number");
        let (bytes, needed) = (number(&said["bytes_moved"])?, number(&plan["least_bytes"])?);
        eprintln!("  repair.rebalance_bytes, run {run} of {runs}: {bytes:.0} against {needed:.0} bytes");
        moved.push(bytes);
        least.push(needed);
    }
    let scale = Scale { bench: "repair.rebalance_bytes", unit: "bytes" };
    Ok(under_cluster(rows(scale, "bytes", moved, vec![("least_possible", least)])))
}

fn under_cluster(rows: Vec<Row>) -> Vec<Row> {
    let conditions: [Condition; 1] = [(
        "cluster",
        format!(
            "one server, {OBJECTS} objects of {} MiB, three replicas, one disk, loopback",
            OBJECT_BYTES >> 20
        ),
    )];
    rows.into_iter().map(|row| row.under(&conditions)).collect()
}

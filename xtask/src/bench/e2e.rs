//! Whole objects through a whole cluster, puts durable, beside nginx on the same disk and loopback.

mod nginx;

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context as _, ensure};
use serde_json::Value;
use tempfile::TempDir;
use xdpfs_testbed::{Cluster, ClusterOptions};

use self::nginx::Nginx;
use super::row::{Condition, Row, Scale, rows};
use crate::{setup, sh};

/// How long each thing is measured in each run.
const SECONDS: &str = "2";
const SIZES: [(&str, u64); 4] = [("4k", 4 << 10), ("64k", 64 << 10), ("1m", 1 << 20), ("64m", 64 << 20)];
const AT_ONCE: [u32; 2] = [1, 16];
const REPLICAS: [u32; 2] = [1, 3];
const EXAMPLE: &str = "object_load";
const METRICS: [(&str, &str); 5] = [
    ("bytes_per_s", "bytes/s"),
    ("ops_per_s", "objects/s"),
    ("p50_us", "us"),
    ("p99_us", "us"),
    ("cpu_s_per_gb", "s"),
];

struct Bed {
    // Dropped first: the directory is theirs, too.
    cluster: Cluster,
    nginx: Option<Nginx>,
    program: PathBuf,
    _work: TempDir,
}

impl Bed {
    fn prepare() -> anyhow::Result<Self> {
        setup::required()?;
        setup::for_web_reference();
        let packages = ["-p", "xdpfs-meta-server", "-p", "xdpfs-data-node", "-p", "xdpfs-cli"];
        sh::run(&[&["cargo", "build", "--locked", "--release", "--bins"], &packages[..]].concat())?;
        sh::run(&["cargo", "build", "--locked", "--release", "-p", "xdpfs-client", "--example", EXAMPLE])?;
        let bin_dir = sh::target_dir("release");
        let program = bin_dir.join("examples").join(EXAMPLE);
        // On the disk that is built on: the temporary directory may be in memory.
        let work = tempfile::Builder::new().prefix("bench-").tempdir_in(sh::target_dir(""))?;
        let dir = Some(work.path().join("cluster"));
        let cluster =
            Cluster::start(ClusterOptions { bin_dir: Some(bin_dir), dir, ..ClusterOptions::default() })?;
        for replicas in REPLICAS {
            let args = ["mb", &bucket(replicas), "--replicas", &replicas.to_string()];
            let output = cluster.cli().invoke(args).try_run()?;
            ensure!(output.code == Some(0), "no bucket: {}", output.stderr);
        }
        let nginx = Nginx::start(&work.path().join("nginx"))?;
        Ok(Self { cluster, nginx, program, _work: work })
    }

    /// What is measured of xdpfs.
    fn xdpfs(&self, what: &str, replicas: u32, size: &str, at_once: &str) -> anyhow::Result<[f64; 5]> {
        let members = [self.cluster.all_meta_servers(), self.cluster.all_data_nodes()].concat();
        let pids = || members.iter().filter_map(|member| self.cluster.pid(*member)).collect::<Vec<_>>();
        self.measure(self.cluster.endpoint(), &pids(), [what, &bucket(replicas), size, at_once])
    }

    fn nginx(&self, what: &str, size: &str, at_once: &str) -> anyhow::Result<Option<[f64; 5]>> {
        let Some(nginx) = &self.nginx else { return Ok(None) };
        let endpoint = format!("http://{}/", nginx.address());
        let measured = self.measure(&endpoint, &nginx.pids()?, [what, "-", size, at_once])?;
        nginx.forget()?;
        Ok(Some(measured))
    }

    fn measure(&self, endpoint: &str, servers: &[u32], args: [&str; 4]) -> anyhow::Result<[f64; 5]> {
        let before = cpu_s(servers)?;
        let output = Command::new(&self.program).arg(endpoint).args(args).arg(SECONDS).output()?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "{EXAMPLE} {endpoint} {args:?} failed ({}): {errors}",
            output.status
        );
        let used = cpu_s(servers)? - before;
        let said: Value = serde_json::from_slice(&output.stdout)?;
        let one = |name: &str| said[name].as_f64().with_context(|| format!("{said} says nothing of {name}"));
        // What a get puts first is a part of it, and of its bytes.
        let cpu = one("client_cpu_s_per_gb")? + used / (one("bytes")? / 1e9);
        Ok([one("bytes_per_s")?, one("ops_per_s")?, one("p50_us")?, one("p99_us")?, cpu])
    }
}

fn bucket(replicas: u32) -> String {
    format!("load-r{replicas}")
}

/// What these processes have used of all cores so far.
fn cpu_s(pids: &[u32]) -> anyhow::Result<f64> {
    let mut ticks = 0;
    for pid in pids {
        let line = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let fields = line.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(2);
        ticks += fields.map(|field| field.parse().unwrap_or(0_u64)).sum::<u64>();
    }
    Ok(ticks as f64 / 100.0)
}

pub(super) fn put(runs: u32) -> anyhow::Result<Vec<Row>> {
    all_of("put", runs, "xdpfs: durable on so many nodes; nginx: PUT into a file that is not synced")
}

pub(super) fn get(runs: u32) -> anyhow::Result<Vec<Row>> {
    all_of(
        "get",
        runs,
        "xdpfs: from replicas, every byte checked; nginx: sendfile of files that the kernel has in memory",
    )
}

fn all_of(what: &str, runs: u32, compared: &str) -> anyhow::Result<Vec<Row>> {
    let mut all = Vec::new();
    for (size_name, size) in SIZES {
        for at_once in AT_ONCE {
            // A new one each time, or all that was put would fill the disk.
            let bed = Bed::prepare()?;
            for replicas in REPLICAS {
                // Of these there are a few dozen.
                let bench = &*format!("e2e.{what}.{size_name}.c{at_once}.r{replicas}").leak();
                let (size, at_once) = (size.to_string(), at_once.to_string());
                let (mut ours, mut theirs) = (Vec::new(), Vec::new());
                for run in 0..=runs {
                    let xdpfs = bed.xdpfs(what, replicas, &size, &at_once)?;
                    let nginx = bed.nginx(what, &size, &at_once)?;
                    if run > 0 {
                        eprintln!("  {bench}, run {run} of {runs}: {xdpfs:.1?}, nginx {nginx:.1?}");
                        ours.push(xdpfs);
                        theirs.extend(nginx);
                    }
                }
                let column =
                    |values: &[[f64; 5]], at: usize| values.iter().map(|values| values[at]).collect();
                for (at, (metric, unit)) in METRICS.into_iter().enumerate() {
                    let references = vec![("nginx", column(&theirs, at))];
                    all.extend(rows(Scale { bench, unit }, metric, column(&ours, at), references));
                }
            }
        }
    }
    let conditions: [Condition; 2] = [
        ("compared", compared.to_owned()),
        ("cluster", "three servers, three nodes, one disk, loopback".to_owned()),
    ];
    Ok(all.into_iter().map(|row| row.under(&conditions)).collect())
}

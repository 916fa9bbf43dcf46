//! Whole requests across an edge, beside the same network without one.
//!
//! The network is the testbed's: a client, an edge and a data node behind it, each in a namespace of its own, joined by
//! veths. The clusters of all ways stand at the same time and are measured in turn.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use tempfile::TempDir;
use xdpfs_testbed::{Cli, Cluster, ClusterOptions, Content, EdgeOptions, LanOptions, Member};

use super::row::{Row, Scale, rows};
use crate::{ebpf, setup, sh};

const MIB: u64 = 1 << 20;
const BULK_BYTES: u64 = 32 * MIB;
/// Gets of one run.
const GETS: &str = "1000";
/// In memory, so that no disk is measured.
const MEMORY: &str = "/dev/shm";
const EXAMPLE: &str = "small_gets";

/// How requests come from the client to the data node.
#[derive(Clone, Copy)]
struct Way {
    name: &'static str,
    /// What the edge is told; `None` if there is none, and the kernel routes.
    edge: Option<&'static [&'static str]>,
}

const NATIVE: Way = Way { name: "native", edge: Some(&["--xdp", "native"]) };
const GENERIC: Way = Way { name: "generic", edge: Some(&["--xdp", "generic"]) };
/// User space on the edge relays.
const OFF: Way = Way { name: "off", edge: Some(&["--xdp", "off"]) };
const KERNEL_EDGE: Way = Way { name: "kernel_edge", edge: None };

/// A cluster that is reached in one way.
struct Crossing {
    way: Way,
    cluster: Cluster,
    _dir: TempDir,
}

impl Crossing {
    fn start(way: Way, mtu: u32, bin_dir: PathBuf) -> anyhow::Result<Self> {
        let memory = Path::new(MEMORY);
        let builder = || tempfile::Builder::new().prefix("xdpfs-bench-").to_owned();
        let dir = if memory.is_dir() { builder().tempdir_in(memory)? } else { builder().tempdir()? };
        let edges = way.edge.map(|args| EdgeOptions { args: args.iter().map(ToString::to_string).collect() });
        let cluster = Cluster::start(ClusterOptions {
            meta_servers: 1,
            data_nodes: 1,
            bin_dir: Some(bin_dir),
            dir: Some(dir.path().join("cluster")),
            lan: Some(LanOptions { mtu, ..LanOptions::default() }),
            edges,
            ..ClusterOptions::default()
        })?;
        if way.edge.is_some() {
            let ready = cluster.ready_line(Member::Edge(0));
            let mode = format!("xdp={}", way.name);
            ensure!(ready.contains(&mode), "the edge is not in the mode `{}`: {ready}", way.name);
        }
        let crossing = Self { way, cluster, _dir: dir };
        crossing.call(&["mb", "bench", "--replicas", "1"], None)?;
        Ok(crossing)
    }

    /// Bulk in MiB/s.
    fn call(&self, args: &[&str], stdin: Option<Content>) -> anyhow::Result<f64> {
        let mut invocation = self.cluster.cli().invoke(args).within(Duration::from_secs(120));
        if let Some(content) = stdin {
            invocation = invocation.stdin(content);
        }
        let output = invocation.stdout(io::sink()).try_run()?;
        ensure!(output.code == Some(0), "`xdpfs-cli {}` failed: {}", args.join(" "), output.stderr);
        Ok((BULK_BYTES / MIB) as f64 / output.took.as_secs_f64())
    }

    /// What the example prints.
    fn small_gets(&self, example: &Path) -> anyhow::Result<[f64; 3]> {
        let cli = self.cluster.cli();
        let tool = Cli { program: example.to_owned(), ..cli.clone() };
        let output = tool.invoke([cli.endpoint.as_str(), "bench", GETS]).try_run()?;
        ensure!(output.code == Some(0), "`{EXAMPLE}` failed: {}", output.stderr);
        let text = output.text();
        let numbers: Vec<f64> = text.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
        numbers.first_chunk().copied().context("three numbers were expected")
    }
}

/// Values of one metric, for each way.
type Values = Vec<(&'static str, Vec<f64>)>;

/// One small get with all that belongs to it: asking the leader, and one datagram each way across the edge.
pub(super) fn get_rtt(runs: u32) -> anyhow::Result<Vec<Row>> {
    let bin_dir = binaries()?;
    let example = bin_dir.join("examples").join(EXAMPLE);
    let crossings = [NATIVE, KERNEL_EDGE, OFF]
        .map(|way| Crossing::start(way, 1500, bin_dir.clone()))
        .into_iter()
        .collect::<anyhow::Result<Vec<_>>>()?;
    let metrics = ["p50_us", "p99_us", "leader_p50_us"];
    let mut values = metrics.map(|_| empty(&crossings));
    for run in 0..=runs {
        for (at, crossing) in crossings.iter().enumerate() {
            let measured = crossing.small_gets(&example)?;
            eprintln!("  xdp.get_rtt {}, run {run} of {runs}: {measured:.1?} us", crossing.way.name);
            let counts = run > 0;
            for (values, value) in values.iter_mut().zip(measured).filter(|_| counts) {
                values[at].1.push(value);
            }
        }
    }
    let scale = Scale { bench: "xdp.get_rtt", unit: "us" };
    let rows = metrics.into_iter().zip(values).flat_map(|(metric, values)| against(scale, metric, values));
    Ok(rows.map(|row| row.under(&conditions(1500))).collect())
}

/// Large objects where no segmentation offload is lost.
pub(super) fn bulk_1500(runs: u32) -> anyhow::Result<Vec<Row>> {
    bulk("xdp.bulk.1500", 1500, runs)
}

/// With what the longest packets of plain native XDP give back.
pub(super) fn bulk_3498(runs: u32) -> anyhow::Result<Vec<Row>> {
    bulk("xdp.bulk.3498", 3498, runs)
}

fn bulk(bench: &'static str, mtu: u32, runs: u32) -> anyhow::Result<Vec<Row>> {
    let bin_dir = binaries()?;
    let crossings = [NATIVE, GENERIC, OFF, KERNEL_EDGE]
        .map(|way| Crossing::start(way, mtu, bin_dir.clone()))
        .into_iter()
        .collect::<anyhow::Result<Vec<_>>>()?;
    let (mut puts, mut gets) = (empty(&crossings), empty(&crossings));
    for run in 0..=runs {
        for (at, crossing) in crossings.iter().enumerate() {
            let content = Content::new(u64::from(run), BULK_BYTES);
            let put = crossing.call(&["put", "-", "bench/bulk"], Some(content))?;
            let get = crossing.call(&["get", "bench/bulk", "-"], None)?;
            eprintln!(
                "  {bench} {}, run {run} of {runs}: put {put:.0}, get {get:.0} MiB/s",
                crossing.way.name
            );
            if run > 0 {
                puts[at].1.push(put);
                gets[at].1.push(get);
            }
        }
    }
    let scale = Scale { bench, unit: "MiB/s" };
    let rows = [against(scale, "native_put", puts), against(scale, "native_get", gets)].concat();
    Ok(rows.into_iter().map(|row| row.under(&conditions(mtu))).collect())
}

fn empty(crossings: &[Crossing]) -> Values {
    crossings.iter().map(|crossing| (crossing.way.name, Vec::new())).collect()
}

/// The first way against all others.
fn against(scale: Scale, metric: &'static str, values: Values) -> Vec<Row> {
    let mut values = values.into_iter();
    values.next().map_or_else(Vec::new, |(_, subject)| rows(scale, metric, subject, values.collect()))
}

fn conditions(mtu: u32) -> [super::row::Condition; 3] {
    [
        ("mtu", mtu.to_string()),
        ("interfaces", "veth".to_owned()),
        ("data", "one replica, in memory".to_owned()),
    ]
}

/// Release binaries with the kernel program in them; where they are.
fn binaries() -> anyhow::Result<PathBuf> {
    setup::for_kernel_program()?;
    ebpf::build()?;
    let packages = ["-p", "xdpfs-meta-server", "-p", "xdpfs-data-node", "-p", "xdpfs-cli"];
    sh::run(&[&["cargo", "build", "--locked", "--release", "--bins"], &packages[..]].concat())?;
    sh::run(&["cargo", "build", "--locked", "--release", "-p", "xdpfs-client", "--example", EXAMPLE])?;
    Ok(sh::target_dir("release"))
}

//! A cluster of metadata servers and one of etcd, side by side, and what is read from outside of either.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use tempfile::TempDir;
use xdpfs_testbed::{Cluster, ClusterOptions, Member};

use super::super::etcd::Etcd;
use crate::{setup, sh};

/// What xdpfs is measured against.
pub(super) const REFERENCE: &str = "etcd";
const SERVERS: usize = 3;
const LOAD: &str = "meta_load";

pub(super) struct Pair {
    // Dropped first: the directory is the clusters', too.
    xdpfs: Cluster,
    etcd: Option<Etcd>,
    load: PathBuf,
    _work: TempDir,
}

/// One of the two.
pub(super) struct Side<'a> {
    pair: &'a Pair,
    system: System<'a>,
}

#[derive(Clone, Copy)]
enum System<'a> {
    Etcd(&'a Etcd),
    Xdpfs(&'a Cluster),
}

impl Pair {
    pub(super) fn start() -> anyhow::Result<Self> {
        setup::for_metadata_reference();
        Self::start_with(Etcd::start)
    }

    /// This project's cluster alone.
    pub(super) fn without_reference() -> anyhow::Result<Self> {
        Self::start_with(|_| Ok(None))
    }

    fn start_with(etcd: fn(&Path) -> anyhow::Result<Option<Etcd>>) -> anyhow::Result<Self> {
        sh::run(&["cargo", "build", "--locked", "--release", "-p", "xdpfs-meta-server", "--bins"])?;
        sh::run(&["cargo", "build", "--locked", "--release", "-p", "xdpfs-meta-server", "--example", LOAD])?;
        let bin_dir = sh::target_dir("release");
        let load = bin_dir.join("examples").join(LOAD);
        // On the disk that is built on: the temporary directory may be in memory.
        let work = tempfile::Builder::new().prefix("bench-").tempdir_in(sh::target_dir(""))?;
        let xdpfs = Cluster::start(ClusterOptions {
            data_nodes: 0,
            bin_dir: Some(bin_dir),
            dir: Some(work.path().join("xdpfs")),
            env: vec![("XDPFS_META_HTTP_LISTEN".to_owned(), "127.0.0.1:0".to_owned())],
            ready_within: Duration::from_secs(300),
            ..ClusterOptions::default()
        })?;
        let etcd = etcd(&work.path().join(REFERENCE))?;
        let pair = Self { xdpfs, etcd, load, _work: work };
        pair.each(|side| side.load(&["serve"]))?;
        Ok(pair)
    }

    /// The subject, and the reference if it is there.
    pub(super) fn sides(&self) -> Vec<Side<'_>> {
        let etcd = self.etcd.iter().map(System::Etcd);
        let systems = std::iter::once(System::Xdpfs(&self.xdpfs)).chain(etcd);
        systems.map(|system| Side { pair: self, system }).collect()
    }

    pub(super) fn each<T>(&self, ask: impl Fn(&Side<'_>) -> anyhow::Result<T>) -> anyhow::Result<Vec<T>> {
        self.sides().iter().map(ask).collect()
    }

    /// Makes so many keys in either.
    pub(super) fn fill(&self, count: u64) -> anyhow::Result<()> {
        for side in self.sides() {
            let began = Instant::now();
            side.load(&["fill", &count.to_string()])?;
            eprintln!("  {count} keys in {}, in {:.1} s", side.name(), began.elapsed().as_secs_f64());
        }
        Ok(())
    }

    /// Kills all servers and starts them again. How long each cluster then takes until it serves a read.
    pub(super) fn restart(&mut self) -> anyhow::Result<Vec<Duration>> {
        let mut took = Vec::new();
        for member in self.xdpfs.all_meta_servers() {
            self.xdpfs.kill(member);
        }
        let began = Instant::now();
        self.xdpfs.restart_all(&self.xdpfs.all_meta_servers())?;
        self.sides()[0].load(&["serve"])?;
        took.push(began.elapsed());
        if let Some(etcd) = &mut self.etcd {
            let began = Instant::now();
            etcd.restart()?;
            self.sides()[1].load(&["serve"])?;
            took.push(began.elapsed());
        }
        Ok(took)
    }
}

impl Side<'_> {
    pub(super) const fn name(&self) -> &'static str {
        match self.system {
            System::Etcd(_) => REFERENCE,
            System::Xdpfs(_) => "xdpfs",
        }
    }

    /// What the client prints.
    pub(super) fn load(&self, args: &[&str]) -> anyhow::Result<Vec<f64>> {
        let endpoints = match self.system {
            System::Etcd(etcd) => etcd.endpoints(),
            System::Xdpfs(cluster) => cluster.endpoint().to_owned(),
        };
        run_load(&self.pair.load, self.name(), &endpoints, args)
    }

    /// What is resident in the leader.
    pub(super) fn memory_bytes(&self) -> anyhow::Result<f64> {
        let leader = self.leader()?;
        let pid = match self.system {
            System::Etcd(etcd) => Some(etcd.pid(leader)),
            System::Xdpfs(cluster) => cluster.pid(Member::MetaServer(leader)),
        };
        let status = fs::read_to_string(format!("/proc/{}/status", pid.context("the leader is gone")?))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? * 1024.0)
    }

    /// What the leader's directory takes.
    pub(super) fn disk_bytes(&self) -> anyhow::Result<u64> {
        let leader = self.leader()?;
        match self.system {
            System::Etcd(etcd) => directory_bytes(&etcd.data_dir(leader)),
            System::Xdpfs(cluster) => directory_bytes(&cluster.data_dir(Member::MetaServer(leader))),
        }
    }

    /// How often all servers together have synced their logs since their start, by their own count.
    pub(super) fn syncs(&self) -> anyhow::Result<f64> {
        self.sum("xdpfs_meta_log_sync_seconds_count", "etcd_disk_wal_fsync_duration_seconds_count")
    }

    /// How many heartbeats the servers have sent to each other. etcd does not count its own.
    pub(super) fn heartbeats(&self) -> anyhow::Result<f64> {
        ensure!(matches!(self.system, System::Xdpfs(_)), "etcd does not count heartbeats");
        self.sum("xdpfs_meta_raft_messages_total{kind=\"heartbeat\"}", "")
    }

    fn sum(&self, xdpfs: &str, etcd: &str) -> anyhow::Result<f64> {
        let (name, addresses) = match self.system {
            System::Etcd(servers) => {
                (etcd, servers.clients().iter().map(ToString::to_string).collect::<Vec<_>>())
            }
            System::Xdpfs(cluster) => {
                let http = |server| {
                    let mut words = cluster.ready_line(Member::MetaServer(server)).split_whitespace();
                    words.find_map(|word| word.strip_prefix("http=")).map(ToOwned::to_owned)
                };
                (xdpfs, (0..SERVERS).map(http).collect::<Option<_>>().context("a server tells no metrics")?)
            }
        };
        addresses.iter().map(|address| value(&scrape(address)?, name)).sum()
    }

    fn leader(&self) -> anyhow::Result<usize> {
        Ok(self.load(&["serve"])?.first().map_or(0, |leader| *leader as usize))
    }
}

const COUNTED: &str = "counted_cluster";

/// Three servers of this project in a process that counts what it allocates.
pub(super) struct CountedCluster {
    process: Child,
    words: BufReader<ChildStdout>,
    endpoints: String,
    load: PathBuf,
    _work: TempDir,
}

impl CountedCluster {
    pub(super) fn start() -> anyhow::Result<Self> {
        sh::run(&[
            "cargo",
            "build",
            "--locked",
            "--release",
            "-p",
            "xdpfs-meta-server",
            "--example",
            COUNTED,
        ])?;
        let examples = sh::target_dir("release").join("examples");
        let work = tempfile::Builder::new().prefix("bench-").tempdir_in(sh::target_dir(""))?;
        let mut command = Command::new(examples.join(COUNTED));
        let mut process = command
            .arg(work.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let words = BufReader::new(process.stdout.take().context("its output is a pipe")?);
        let load = examples.join(LOAD);
        let mut cluster = Self { process, words, endpoints: String::new(), load, _work: work };
        cluster.endpoints = cluster.read()?;
        Ok(cluster)
    }

    pub(super) fn load(&self, args: &[&str]) -> anyhow::Result<Vec<f64>> {
        run_load(&self.load, "xdpfs", &self.endpoints, args)
    }

    /// How often it has allocated since its start.
    pub(super) fn allocations(&mut self) -> anyhow::Result<f64> {
        let input = self.process.stdin.as_mut().context("its input is a pipe")?;
        writeln!(input)?;
        Ok(self.read()?.parse()?)
    }

    fn read(&mut self) -> anyhow::Result<String> {
        let mut line = String::new();
        ensure!(self.words.read_line(&mut line)? > 0, "`{COUNTED}` has ended");
        Ok(line.trim().to_owned())
    }
}

impl Drop for CountedCluster {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        // It ends with its input. Nobody waits for what it would say.
        let _ended = self.process.wait();
    }
}

fn run_load(program: &Path, system: &str, endpoints: &str, args: &[&str]) -> anyhow::Result<Vec<f64>> {
    let mut command = Command::new(program);
    command.args(["--system", system, "--endpoints", endpoints]).args(args);
    let output = command.output().with_context(|| format!("cannot run {LOAD}"))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "`{LOAD} {}` on {system} failed: {errors}", args.join(" "));
    let text = String::from_utf8(output.stdout)?;
    Ok(text.split_whitespace().map(str::parse).collect::<Result<_, _>>()?)
}

/// The reference of the state in memory.
pub(super) const IN_SLED: &str = "objects in sled, with 256 MiB of cache";
const SHAPES: &str = "state_shapes";

/// Measures so many objects in one shape, in a process of its own.
pub(super) fn shape(shape: &str, count: u64) -> anyhow::Result<[f64; 6]> {
    sh::run(&["cargo", "build", "--locked", "--release", "-p", "xdpfs-meta-server", "--example", SHAPES])?;
    let program = sh::target_dir("release").join("examples").join(SHAPES);
    let work = tempfile::Builder::new().prefix("bench-").tempdir_in(sh::target_dir(""))?;
    let output = Command::new(program).args([shape, &count.to_string()]).arg(work.path()).output()?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "`{SHAPES} {shape} {count}` failed: {errors}");
    let text = String::from_utf8(output.stdout)?;
    let numbers: Vec<f64> = text.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
    numbers.first_chunk().copied().context("six numbers were expected")
}

fn scrape(address: &str) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(stream, "GET /metrics HTTP/1.0\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

fn value(text: &str, name: &str) -> anyhow::Result<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    Ok(line.with_context(|| format!("{name} is not told"))?.trim().parse()?)
}

/// What all files together take on the disk.
fn directory_bytes(directory: &Path) -> anyhow::Result<u64> {
    use std::os::unix::fs::MetadataExt as _;
    let mut bytes = 0;
    for item in fs::read_dir(directory)? {
        let item = item?;
        let metadata = item.metadata()?;
        bytes += if metadata.is_dir() { directory_bytes(&item.path())? } else { metadata.blocks() * 512 };
    }
    Ok(bytes)
}

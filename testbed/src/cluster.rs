//! Metadata servers and data nodes as processes of their own, on a loopback address that no other cluster uses.
//!
//! Invariant: a member keeps its directory, address and ports through every kill and restart, so that a restart is
//! the same member coming back and nothing else.

mod binaries;
mod ports;
mod status;

use std::{
    fmt, fs, io,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

pub use self::status::ClusterStatus;
use crate::{
    cli::Cli,
    process::{Process, ProcessSpec, StartError, StopError, peak_memory_bytes},
    udp_shim::{Rates, UdpShim},
};

/// What a cluster is made of.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    /// How many metadata servers.
    pub meta_servers: usize,
    /// How many data nodes.
    pub data_nodes: usize,
    /// Where the binaries are; `None`: `XDPFS_BIN_DIR`, or else where the running executable was built.
    pub bin_dir: Option<PathBuf>,
    /// Where the data goes and stays; `None`: a temporary directory that is removed at the end.
    pub dir: Option<PathBuf>,
    /// Each data node's `--capacity`; `None`: what the disk has.
    pub data_node_capacity: Option<String>,
    /// Puts a lossy path before every data node.
    pub shim: Option<ShimOptions>,
    /// Puts all data nodes behind one edge without a kernel program; there is no lossy path then.
    pub edge: bool,
    /// More environment for every member.
    pub env: Vec<(String, String)>,
    /// How long a member may take to become ready.
    pub ready_within: Duration,
}

/// How lossy the path to the data nodes is.
#[derive(Clone, Copy, Debug)]
pub struct ShimOptions {
    /// What happens to datagrams, in each direction.
    pub rates: Rates,
    /// Decides to which ones.
    pub seed: u64,
}

impl Default for ClusterOptions {
    fn default() -> Self {
        Self {
            meta_servers: 3,
            data_nodes: 3,
            bin_dir: None,
            dir: None,
            data_node_capacity: None,
            shim: None,
            edge: false,
            env: Vec::new(),
            ready_within: Duration::from_secs(30),
        }
    }
}

/// One process of a cluster, counted from zero within its kind.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Member {
    /// A data node.
    DataNode(usize),
    /// The edge, if the cluster has one.
    Edge,
    /// A metadata server; its Raft id is one more.
    MetaServer(usize),
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DataNode(index) => write!(f, "data-node-{index}"),
            Self::Edge => f.write_str("edge"),
            Self::MetaServer(index) => write!(f, "meta-server-{}", index + 1),
        }
    }
}

/// A running cluster. Dropping it kills what it started; in a test that fails, the ends of the logs are shown.
#[derive(Debug)]
pub struct Cluster {
    // Dropped first: no process may outlive the directory that it writes to.
    meta_servers: Vec<Seat>,
    data_nodes: Vec<Seat>,
    edge: Option<Seat>,
    endpoints: Vec<SocketAddr>,
    cli: Cli,
    ready_within: Duration,
    dir: ClusterDir,
}

/// A member's place, whether it runs or not.
#[derive(Debug)]
struct Seat {
    spec: ProcessSpec,
    process: Option<Process>,
    /// Kept with the seat: it forwards to the same address after a restart.
    shim: Option<UdpShim>,
    /// The last `ready` line without its first word.
    ready: String,
}

#[derive(Debug)]
enum ClusterDir {
    Kept(PathBuf),
    Temporary(TempDir),
}

impl ClusterDir {
    fn path(&self) -> &Path {
        match self {
            Self::Kept(path) => path,
            Self::Temporary(dir) => dir.path(),
        }
    }
}

impl Cluster {
    /// Starts all members and waits until each is ready.
    ///
    /// # Errors
    /// [`StartError`] of the first member that is not; nothing is left running then.
    pub fn start(options: ClusterOptions) -> Result<Self, StartError> {
        let mut cluster = Self::prepare(options)
            .map_err(|source| StartError::Spawn { name: "the cluster".to_owned(), source })?;
        for index in 0..cluster.meta_servers.len() {
            cluster.seat(Member::MetaServer(index)).spec.args.push("--bootstrap".into());
        }
        cluster.restart_all(&cluster.all_meta_servers())?;
        // A directory that has been wiped must not vote again, so only the first start says so.
        for index in 0..cluster.meta_servers.len() {
            cluster.seat(Member::MetaServer(index)).spec.args.pop();
        }
        cluster.restart_all(&cluster.all_data_nodes())?;
        if cluster.edge.is_some() {
            cluster.restart(Member::Edge)?;
        }
        Ok(cluster)
    }

    /// The metadata servers' endpoints, comma separated.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.cli.endpoint
    }

    /// One metadata server's endpoint.
    #[must_use]
    pub fn endpoint_of(&self, meta_server: usize) -> SocketAddr {
        self.endpoints[meta_server]
    }

    /// The command line tool, pointed at this cluster.
    #[must_use]
    pub const fn cli(&self) -> &Cli {
        &self.cli
    }

    /// Where everything is kept.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Every metadata server.
    #[must_use]
    pub fn all_meta_servers(&self) -> Vec<Member> {
        (0..self.meta_servers.len()).map(Member::MetaServer).collect()
    }

    /// Every data node.
    #[must_use]
    pub fn all_data_nodes(&self) -> Vec<Member> {
        (0..self.data_nodes.len()).map(Member::DataNode).collect()
    }

    /// Where a data node keeps its chunks.
    #[must_use]
    pub fn data_dir(&self, member: Member) -> PathBuf {
        self.dir().join(member.to_string())
    }

    /// The relay before a data node, if the cluster has a lossy path.
    #[must_use]
    pub fn shim(&self, data_node: usize) -> Option<&UdpShim> {
        self.data_nodes[data_node].shim.as_ref()
    }

    /// The member's `ready` line without its first word.
    #[must_use]
    pub fn ready_line(&self, member: Member) -> &str {
        &self.seat_of(member).ready
    }

    /// Its process id, if it runs.
    #[must_use]
    pub fn pid(&self, member: Member) -> Option<u32> {
        self.seat_of(member).process.as_ref().map(Process::pid)
    }

    /// The most memory that a member has had resident since its start.
    #[must_use]
    pub fn peak_memory_bytes(&self, member: Member) -> Option<u64> {
        self.pid(member).and_then(peak_memory_bytes)
    }

    /// SIGKILL.
    pub fn kill(&mut self, member: Member) {
        if let Some(mut process) = self.seat(member).process.take() {
            process.kill();
        }
    }

    /// SIGTERM; `true` if it then exited with 0.
    ///
    /// # Errors
    /// If it does not run, or does not stop in time.
    pub fn stop(&mut self, member: Member) -> Result<bool, StopError> {
        let within = self.ready_within;
        let mut process =
            self.seat(member).process.take().ok_or_else(|| StopError::NotRunning(member.to_string()))?;
        process.stop(within).map(|status| status.success())
    }

    /// SIGSTOP.
    ///
    /// # Errors
    /// If it does not run.
    pub fn pause(&self, member: Member) -> Result<(), StopError> {
        self.running(member)?.pause()
    }

    /// SIGCONT.
    ///
    /// # Errors
    /// If it does not run.
    pub fn resume(&self, member: Member) -> Result<(), StopError> {
        self.running(member)?.resume()
    }

    /// Starts a member again, with the data it had, and waits until it is ready.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn restart(&mut self, member: Member) -> Result<(), StartError> {
        self.restart_all(&[member])
    }

    /// Starts members together: metadata servers may need each other to become ready.
    ///
    /// # Errors
    /// [`StartError`] of the first that is not ready in time.
    pub fn restart_all(&mut self, members: &[Member]) -> Result<(), StartError> {
        for member in members {
            self.kill(*member);
            let seat = self.seat(*member);
            seat.process = Some(Process::spawn(&seat.spec)?);
        }
        let deadline = Instant::now() + self.ready_within;
        for member in members {
            let within = deadline.saturating_duration_since(Instant::now());
            let seat = self.seat(*member);
            if let Some(process) = &mut seat.process {
                seat.ready = process.await_ready(within)?;
            }
        }
        Ok(())
    }

    /// The cluster as its leader sees it; `None` if no server answers.
    #[must_use]
    pub fn status(&self) -> Option<ClusterStatus> {
        let output = self.cli.invoke(["--json", "status"]).within(STATUS_WITHIN).try_run().ok()?;
        ClusterStatus::parse(&output.text())
    }

    /// The leading metadata server, waited for.
    #[must_use]
    pub fn leader(&self, within: Duration) -> Option<Member> {
        self.await_status(within, |status| status.leader().is_some()).and_then(|status| status.leader())
    }

    /// The leader that follows `previous`, waited for: a server that has not noticed a leader's death still names it.
    #[must_use]
    pub fn next_leader(&self, previous: Member, within: Duration) -> Option<Member> {
        let is_next = |status: &ClusterStatus| status.leader().is_some_and(|leader| leader != previous);
        self.await_status(within, is_next).and_then(|status| status.leader())
    }

    /// The first status that `is_wanted` accepts, if there is one in time.
    #[must_use]
    pub fn await_status(
        &self,
        within: Duration,
        is_wanted: impl Fn(&ClusterStatus) -> bool,
    ) -> Option<ClusterStatus> {
        let deadline = Instant::now() + within;
        loop {
            if let Some(status) = self.status().filter(&is_wanted) {
                return Some(status);
            }
            if Instant::now() >= deadline {
                return None;
            }
            // There is nothing to wait on but the servers' own word.
            thread::sleep(STATUS_PAUSE);
        }
    }

    /// The ends of all members' logs.
    #[must_use]
    pub fn log_tails(&self) -> String {
        let seats = self.meta_servers.iter().chain(&self.data_nodes).chain(&self.edge);
        seats.filter_map(|seat| seat.process.as_ref()).map(Process::log_tail).collect()
    }

    fn prepare(options: ClusterOptions) -> io::Result<Self> {
        let dir = match options.dir {
            Some(path) => fs::create_dir_all(&path).map(|()| ClusterDir::Kept(path))?,
            None => ClusterDir::Temporary(tempfile::Builder::new().prefix("xdpfs-testbed-").tempdir()?),
        };
        let bin_dir = options.bin_dir.map_or_else(binaries::find, Ok)?;
        let address = ports::unused_loopback_address()?;
        let endpoints = ports::free_ports(address, options.meta_servers)?;
        let peers = ports::free_ports(address, options.meta_servers)?;
        let listens = ports::free_ports(address, options.data_nodes)?;
        let endpoint = join(&endpoints);
        let edge_listen = options
            .edge
            .then(|| ports::free_ports(address, 1))
            .transpose()?
            .and_then(|mut ports| ports.pop());

        let blueprint = Blueprint { bin_dir: &bin_dir, dir: dir.path(), env: &options.env };
        let members: Vec<String> = (0..options.meta_servers)
            .map(|index| format!("{},{},{}", index + 1, peers[index], endpoints[index]))
            .collect();
        let meta_servers =
            (0..options.meta_servers).map(|index| blueprint.meta_server(index, &members)).collect();
        let mut data_nodes = Vec::new();
        for (index, listen) in listens.iter().enumerate() {
            let shim = options.shim.filter(|_| !options.edge);
            let shim = shim.map(|shim| lossy_path(address, *listen, shim, index)).transpose()?;
            let mut node =
                blueprint.data_node(index, *listen, &endpoint, shim, options.data_node_capacity.as_deref());
            if let Some(edge) = edge_listen {
                node.spec.args.extend(["--advertise".into(), edge.to_string().into()]);
            }
            data_nodes.push(node);
        }
        let edge = edge_listen.map(|listen| blueprint.edge(listen, &endpoint));
        let cli = Cli { program: bin_dir.join("xdpfs-cli"), endpoint };
        Ok(Self { meta_servers, data_nodes, edge, endpoints, cli, ready_within: options.ready_within, dir })
    }

    fn seat(&mut self, member: Member) -> &mut Seat {
        match member {
            Member::DataNode(index) => &mut self.data_nodes[index],
            Member::Edge => self.edge.as_mut().expect("the cluster was started with an edge"),
            Member::MetaServer(index) => &mut self.meta_servers[index],
        }
    }

    fn seat_of(&self, member: Member) -> &Seat {
        match member {
            Member::DataNode(index) => &self.data_nodes[index],
            Member::Edge => self.edge.as_ref().expect("the cluster was started with an edge"),
            Member::MetaServer(index) => &self.meta_servers[index],
        }
    }

    fn running(&self, member: Member) -> Result<&Process, StopError> {
        self.seat_of(member).process.as_ref().ok_or_else(|| StopError::NotRunning(member.to_string()))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if thread::panicking() {
            #[expect(clippy::print_stderr, reason = "a failing test is explained where its output goes")]
            {
                eprintln!("{}", self.log_tails());
            }
        }
    }
}

const STATUS_WITHIN: Duration = Duration::from_secs(10);
const STATUS_PAUSE: Duration = Duration::from_millis(50);

/// What all members have in common.
struct Blueprint<'a> {
    bin_dir: &'a Path,
    dir: &'a Path,
    env: &'a [(String, String)],
}

impl Blueprint<'_> {
    fn meta_server(&self, index: usize, members: &[String]) -> Seat {
        let mut args = vec!["--id".to_owned(), (index + 1).to_string()];
        for member in members {
            args.extend(["--member".to_owned(), member.clone()]);
        }
        self.seat(Member::MetaServer(index), "xdpfs-meta-server", args, None)
    }

    fn data_node(
        &self,
        index: usize,
        listen: SocketAddr,
        endpoint: &str,
        shim: Option<UdpShim>,
        capacity: Option<&str>,
    ) -> Seat {
        let mut args =
            vec!["--meta".to_owned(), endpoint.to_owned(), "--listen".to_owned(), listen.to_string()];
        if let Some(shim) = &shim {
            args.extend(["--advertise".to_owned(), shim.address().to_string()]);
        }
        if let Some(capacity) = capacity {
            args.extend(["--capacity".to_owned(), capacity.to_owned()]);
        }
        self.seat(Member::DataNode(index), "xdpfs-data-node", args, shim)
    }

    fn edge(&self, listen: SocketAddr, endpoint: &str) -> Seat {
        let args = ["edge", "--meta", endpoint, "--listen", &listen.to_string()].map(str::to_owned);
        let mut seat = self.seat(Member::Edge, "xdpfs-data-node", Vec::new(), None);
        // It keeps no data.
        seat.spec.args = args.into_iter().map(Into::into).collect();
        seat
    }

    fn seat(&self, member: Member, program: &str, args: Vec<String>, shim: Option<UdpShim>) -> Seat {
        let mut env = self.env.to_vec();
        if std::env::var_os("XDPFS_LOG").is_none() {
            env.push(("XDPFS_LOG".to_owned(), "info".to_owned()));
        }
        let mut spec = ProcessSpec {
            name: member.to_string(),
            program: self.bin_dir.join(program),
            args: vec!["--data-dir".into(), self.dir.join(member.to_string()).into()],
            env,
            log: self.dir.join(format!("{member}.log")),
        };
        spec.args.extend(args.into_iter().map(Into::into));
        Seat { spec, process: None, shim, ready: String::new() }
    }
}

fn lossy_path(address: IpAddr, node: SocketAddr, options: ShimOptions, index: usize) -> io::Result<UdpShim> {
    let seed = options.seed.wrapping_add(index as u64);
    UdpShim::start(SocketAddr::new(address, 0), node, options.rates, seed)
}

fn join(endpoints: &[SocketAddr]) -> String {
    let endpoints: Vec<String> = endpoints.iter().map(ToString::to_string).collect();
    endpoints.join(",")
}

//! Metadata servers, data nodes and edges as processes of their own: on a loopback address that no other cluster uses,
//! or each in its place of a network of namespaces.
//!
//! Invariant: a member keeps its directory, address and ports through every kill and restart, so that a restart is
//! the same member coming back and nothing else.

mod binaries;
mod certificates;
mod pins;
mod status;

use std::{
    fmt, fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use self::pins::Pins;
pub use self::status::ClusterStatus;
use crate::{
    cli::Cli,
    lan::{Lan, LanOptions, Site, UPLINK},
    namespace::Namespace,
    ports,
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
    /// The data of such a cluster is there already.
    pub is_found: bool,
    /// Each data node's `--capacity`; `None`: what the disk has.
    pub data_node_capacity: Option<String>,
    /// What each data node says of itself (`--label`), such as `zone=a,rack=r1`; those behind the last say nothing.
    pub data_node_labels: Vec<String>,
    /// Puts a lossy path before every data node.
    pub shim: Option<ShimOptions>,
    /// Gives each member a namespace of its own; `None`: all are on loopback.
    pub lan: Option<LanOptions>,
    /// Puts all data nodes behind edges, without a lossy path: one on loopback, without a kernel program, or those of
    /// the network. `None`: those only route.
    pub edges: Option<EdgeOptions>,
    /// Whether TLS is spoken on every gRPC connection.
    pub tls: bool,
    /// More environment for every member.
    pub env: Vec<(String, String)>,
    /// How long a member may take to become ready.
    pub ready_within: Duration,
}

/// What every edge is told.
#[derive(Clone, Debug, Default)]
pub struct EdgeOptions {
    /// More arguments for it.
    pub args: Vec<String>,
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
            is_found: false,
            data_node_capacity: None,
            data_node_labels: Vec::new(),
            shim: None,
            lan: None,
            edges: None,
            tls: false,
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
    /// What clients know of the data nodes behind it.
    Edge(usize),
    /// A metadata server; its Raft id is one more.
    MetaServer(usize),
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DataNode(index) => write!(f, "data-node-{index}"),
            Self::Edge(index) => write!(f, "edge-{index}"),
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
    edges: Vec<Seat>,
    /// What the edges have left in the kernel.
    _pins: Vec<Pins>,
    lan: Option<Lan>,
    endpoints: Vec<SocketAddr>,
    cli: Cli,
    ready_within: Duration,
    dir: ClusterDir,
}

/// A member's place, whether it runs or not.
#[derive(Debug)]
struct Seat {
    spec: ProcessSpec,
    /// How many of its arguments say who it is.
    fixed_args: usize,
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
        // A directory that has been wiped must not vote again, so only the first start says so.
        let only_now: &[&str] = if options.is_found { &[] } else { &["--bootstrap"] };
        let mut cluster = Self::prepare(options)
            .map_err(|source| StartError::Spawn { name: "the cluster".to_owned(), source })?;
        for index in 0..cluster.meta_servers.len() {
            cluster.seat(Member::MetaServer(index)).spec.args.extend(only_now.iter().map(Into::into));
        }
        cluster.restart_all(&cluster.all_meta_servers())?;
        for index in 0..cluster.meta_servers.len() {
            let args = &mut cluster.seat(Member::MetaServer(index)).spec.args;
            args.truncate(args.len() - only_now.len());
        }
        cluster.restart_all(&[cluster.all_data_nodes(), cluster.all_edges()].concat())?;
        Ok(cluster)
    }

    /// The command line tool, pointed at no cluster.
    ///
    /// # Errors
    /// Nobody knows where the binaries are.
    pub fn tool() -> io::Result<Cli> {
        let program = binaries::find()?.join("xdpfs-cli");
        Ok(Cli { program, endpoint: String::new(), ca: None, access_key: None, namespace: None })
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

    /// From now on the command line tool shows this access key.
    pub fn show_access_key(&mut self, access_key: impl Into<String>) {
        self.cli.access_key = Some(access_key.into());
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

    /// Every edge.
    #[must_use]
    pub fn all_edges(&self) -> Vec<Member> {
        (0..self.edges.len()).map(Member::Edge).collect()
    }

    /// The network that it runs in.
    ///
    /// # Panics
    /// If that is loopback.
    #[must_use]
    pub fn lan(&self) -> &Lan {
        self.lan.as_ref().expect("it was asked for")
    }

    /// Where the certificates of a cluster with TLS are, as `xdpfs-cli init` has made them.
    #[must_use]
    pub fn certificates(&self) -> PathBuf {
        self.dir().join(CERTIFICATES)
    }

    /// Where a data node keeps its chunks.
    #[must_use]
    pub fn data_dir(&self, member: Member) -> PathBuf {
        self.dir().join(member.to_string())
    }

    /// The options that name all metadata servers, as each of them was started with.
    #[must_use]
    pub fn member_options(&self) -> Vec<String> {
        let args = self.meta_servers.first().map(|seat| seat.spec.args.as_slice()).unwrap_or_default();
        let options = args.windows(2).filter(|pair| pair[0] == "--member").flatten();
        options.map(|text| text.to_string_lossy().into_owned()).collect()
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

    /// SIGHUP: it reads its configuration again.
    ///
    /// # Errors
    /// If it does not run.
    pub fn hang_up(&self, member: Member) -> Result<(), StopError> {
        self.running(member)?.hang_up()
    }

    /// All that a member has logged, in all of its runs.
    ///
    /// # Errors
    /// The file can't be read.
    pub fn log(&self, member: Member) -> io::Result<String> {
        fs::read(&self.seat_of(member).spec.log).map(|log| String::from_utf8_lossy(&log).into_owned())
    }

    /// Starts a member again, with the data it had, and waits until it is ready.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn restart(&mut self, member: Member) -> Result<(), StartError> {
        self.restart_all(&[member])
    }

    /// From its next start on, a member is run from the binaries in this directory.
    pub fn use_binaries(&mut self, member: Member, directory: &Path) {
        let spec = &mut self.seat(member).spec;
        if let Some(name) = spec.program.file_name() {
            spec.program = directory.join(name);
        }
    }

    /// Starts an edge anew with other arguments, after the running one has ended as asked.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn restart_edge(&mut self, edge: usize, options: &EdgeOptions) -> Result<(), StartError> {
        let member = Member::Edge(edge);
        // One that does not stop is killed.
        let _hung = self.stop(member);
        let seat = self.seat(member);
        seat.spec.args.truncate(seat.fixed_args);
        seat.spec.args.extend(options.args.iter().map(Into::into));
        self.restart(member)
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

    /// A metadata server with an empty directory joins the cluster, on the loopback address of the others, and is waited
    /// for. From now on the command line tool knows it, too.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn join_meta_server(&mut self, learner: bool) -> Result<Member, StartError> {
        let member = Member::MetaServer(self.meta_servers.len());
        let spec = |source| StartError::Spawn { name: member.to_string(), source };
        let ports = ports::free_ports(self.endpoints[0].ip(), 2).map_err(spec)?;
        let first = &self.meta_servers[0].spec;
        let mut args = vec!["--join".to_owned(), self.cli.endpoint.clone()];
        args.extend(["--address".to_owned(), format!("{},{}", ports[0], ports[1])]);
        args.extend(["--data-dir".to_owned(), self.data_dir(member).display().to_string()]);
        if learner {
            args.push("--learner".to_owned());
        }
        let spec = ProcessSpec {
            name: member.to_string(),
            args: args.into_iter().map(Into::into).collect(),
            log: self.dir().join(format!("{member}.log")),
            ..first.clone()
        };
        let fixed_args = spec.args.len();
        self.meta_servers.push(Seat { spec, fixed_args, process: None, shim: None, ready: String::new() });
        self.endpoints.push(ports[1]);
        self.restart(member)?;
        self.cli.endpoint = join(&self.endpoints);
        Ok(member)
    }

    /// A data node with an empty directory joins the cluster, on the loopback address of the others, and is waited for.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn join_data_node(&mut self) -> Result<Member, StartError> {
        let member = Member::DataNode(self.data_nodes.len());
        let failed = |source| StartError::Spawn { name: member.to_string(), source };
        let port = ports::free_ports(self.endpoints[0].ip(), 1).map_err(failed)?[0];
        let mut args = vec!["--data-dir".to_owned(), self.data_dir(member).display().to_string()];
        args.extend(["--meta".to_owned(), self.cli.endpoint.clone()]);
        args.extend(["--listen".to_owned(), port.to_string()]);
        let spec = ProcessSpec {
            name: member.to_string(),
            args: args.into_iter().map(Into::into).collect(),
            log: self.dir().join(format!("{member}.log")),
            ..self.data_nodes[0].spec.clone()
        };
        let fixed_args = spec.args.len();
        self.data_nodes.push(Seat { spec, fixed_args, process: None, shim: None, ready: String::new() });
        self.restart(member)?;
        Ok(member)
    }

    /// From now on the command line tool asks these metadata servers only.
    pub fn ask_only(&mut self, meta_servers: &[Member]) {
        let endpoints = meta_servers.iter().filter_map(|member| match member {
            Member::MetaServer(index) => Some(self.endpoints[*index]),
            Member::DataNode(_) | Member::Edge(_) => None,
        });
        self.cli.endpoint = join(&endpoints.collect::<Vec<_>>());
    }

    /// How a member that runs ends by itself, waited for: `None` if it does not in time.
    #[must_use]
    pub fn await_end(&mut self, member: Member, within: Duration) -> Option<String> {
        let deadline = Instant::now() + within;
        let process = self.seat(member).process.as_mut()?;
        while process.is_running() {
            if Instant::now() >= deadline {
                return None;
            }
            // There is nothing to wait on but the process.
            thread::sleep(STATUS_PAUSE);
        }
        Some(process.log_tail())
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
        let seats = self.meta_servers.iter().chain(&self.data_nodes).chain(&self.edges);
        seats.filter_map(|seat| seat.process.as_ref()).map(Process::log_tail).collect()
    }

    fn prepare(options: ClusterOptions) -> io::Result<Self> {
        let dir = match options.dir {
            Some(path) => fs::create_dir_all(&path).map(|()| ClusterDir::Kept(path))?,
            None => ClusterDir::Temporary(tempfile::Builder::new().prefix("xdpfs-testbed-").tempdir()?),
        };
        let bin_dir = options.bin_dir.map_or_else(binaries::find, Ok)?;
        let lan = options.lan.map(|lan| Lan::lay(lan, options.data_nodes)).transpose()?;
        let sites = match &lan {
            Some(lan) => Sites::in_lan(lan, options.data_nodes),
            None => Sites::on_loopback(options.data_nodes)?,
        };
        let endpoints = sites.meta.free_ports(options.meta_servers)?;
        let peers = sites.meta.free_ports(options.meta_servers)?;
        let endpoint = join(&endpoints);

        let program = bin_dir.join("xdpfs-cli");
        let certificates = dir.path().join(CERTIFICATES);
        if options.tls {
            let servers: Vec<_> = (0..options.meta_servers).map(|_| sites.meta.address).collect();
            certificates::make(&program, &certificates, "testbed", &servers)?;
        }
        let safety = match (options.tls, &lan) {
            (true, _) => Safety::Tls(&certificates),
            (false, Some(_)) => Safety::Insecure,
            (false, None) => Safety::Loopback,
        };
        let blueprint =
            Blueprint { bin_dir: &bin_dir, dir: dir.path(), env: &options.env, endpoint: &endpoint, safety };
        let members: Vec<String> = (0..options.meta_servers)
            .map(|index| format!("{},{},{}", index + 1, peers[index], endpoints[index]))
            .collect();
        let meta_servers = (0..options.meta_servers)
            .map(|index| blueprint.meta_server(index, &members, sites.meta.namespace.clone()))
            .collect();
        let mut edges = Vec::new();
        let mut pins = Vec::new();
        if let Some(edge) = &options.edges {
            for (index, place) in sites.edges.iter().enumerate() {
                if lan.is_some() {
                    pins.push(Pins::mount(dir.path().join(format!("pins-{index}")))?);
                }
                edges.push(blueprint.edge(index, place, edge, pins.get(index)));
            }
        }
        let mut data_nodes = Vec::new();
        for (index, listen) in sites.data_node_listens()?.into_iter().enumerate() {
            let shim = options.shim.filter(|_| options.edges.is_none());
            let shim = shim.map(|shim| lossy_path(listen, shim, index)).transpose()?;
            let edge = lan.as_ref().map_or(0, |lan| lan.edge_of(index));
            let edge = SocketAddr::new(sites.edges[edge].address, EDGE_PORT);
            let edge = options.edges.is_some().then_some(edge);
            let node = DataNode { listen, advertise: shim.as_ref().map(UdpShim::address).or(edge) };
            let namespace = sites.data_nodes[index].namespace.clone();
            let capacity = options.data_node_capacity.as_deref();
            let mut seat = Seat { shim, ..blueprint.data_node(index, &node, capacity, namespace) };
            if let Some(labels) = options.data_node_labels.get(index) {
                seat.spec.args.extend(["--label".into(), labels.into()]);
                seat.fixed_args = seat.spec.args.len();
            }
            data_nodes.push(seat);
        }
        let ca = options.tls.then(|| certificates.join("ca.pem"));
        let cli = Cli { program, endpoint, ca, access_key: None, namespace: sites.client.namespace };
        let ready_within = options.ready_within;
        Ok(Self { meta_servers, data_nodes, edges, _pins: pins, lan, endpoints, cli, ready_within, dir })
    }

    fn seat(&mut self, member: Member) -> &mut Seat {
        match member {
            Member::DataNode(index) => &mut self.data_nodes[index],
            Member::Edge(index) => &mut self.edges[index],
            Member::MetaServer(index) => &mut self.meta_servers[index],
        }
    }

    fn seat_of(&self, member: Member) -> &Seat {
        match member {
            Member::DataNode(index) => &self.data_nodes[index],
            Member::Edge(index) => &self.edges[index],
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

/// Where the certificates are, in the cluster's directory.
const CERTIFICATES: &str = "tls";

/// Every edge's; it is the only one on its addresses.
const EDGE_PORT: u16 = 7400;

/// Where members and clients live.
struct Sites {
    client: Site,
    meta: Site,
    data_nodes: Vec<Site>,
    edges: Vec<Site>,
}

impl Sites {
    fn on_loopback(data_nodes: usize) -> io::Result<Self> {
        let site = Site { namespace: None, address: ports::unused_loopback_address()? };
        let data_nodes = vec![site.clone(); data_nodes];
        Ok(Self { client: site.clone(), meta: site.clone(), data_nodes, edges: vec![site] })
    }

    fn in_lan(lan: &Lan, data_nodes: usize) -> Self {
        Self {
            client: lan.client_site(),
            meta: lan.meta_site(),
            data_nodes: (0..data_nodes).map(|node| lan.node_site(node)).collect(),
            edges: (0..lan.edges()).map(|edge| lan.edge_site(edge)).collect(),
        }
    }

    /// Of all at once where they share an address, so that no two get the same port.
    fn data_node_listens(&self) -> io::Result<Vec<SocketAddr>> {
        match self.data_nodes.first() {
            Some(site) if site.namespace.is_none() => site.free_ports(self.data_nodes.len()),
            _ => self.data_nodes.iter().map(|site| Ok(site.free_ports(1)?[0])).collect(),
        }
    }
}

impl Site {
    fn free_ports(&self, count: usize) -> io::Result<Vec<SocketAddr>> {
        match &self.namespace {
            Some(namespace) => namespace.run(|| ports::free_ports(self.address, count)),
            None => ports::free_ports(self.address, count),
        }
    }
}

/// Where a data node listens, and where clients find it if that is elsewhere.
struct DataNode {
    listen: SocketAddr,
    advertise: Option<SocketAddr>,
}

/// What all members have in common.
struct Blueprint<'a> {
    bin_dir: &'a Path,
    dir: &'a Path,
    env: &'a [(String, String)],
    endpoint: &'a str,
    safety: Safety<'a>,
}

/// What keeps strangers out.
#[derive(Clone, Copy)]
enum Safety<'a> {
    /// Nothing: nobody else is in the network.
    Insecure,
    /// The loopback interface.
    Loopback,
    /// Certificates in this directory.
    Tls(&'a Path),
}

impl Safety<'_> {
    fn args(self, member: &str) -> Vec<String> {
        match self {
            Self::Insecure => vec!["--insecure".to_owned()],
            Self::Loopback => Vec::new(),
            Self::Tls(directory) => vec!["--tls".to_owned(), directory.join(member).display().to_string()],
        }
    }
}

impl Blueprint<'_> {
    fn meta_server(&self, index: usize, members: &[String], namespace: Option<Arc<Namespace>>) -> Seat {
        let mut args = vec!["--id".to_owned(), (index + 1).to_string()];
        for member in members {
            args.extend(["--member".to_owned(), member.clone()]);
        }
        let member = Member::MetaServer(index);
        args.extend(["--data-dir".to_owned(), self.path(&member.to_string())]);
        args.extend(self.safety.args(&format!("meta-{}", index + 1)));
        if namespace.is_some() {
            // Its address is not loopback, and whoever reaches it belongs to the test.
            args.push("--open".to_owned());
        }
        self.seat(member, "xdpfs-meta-server", args, namespace)
    }

    fn data_node(
        &self,
        index: usize,
        node: &DataNode,
        capacity: Option<&str>,
        namespace: Option<Arc<Namespace>>,
    ) -> Seat {
        let member = Member::DataNode(index);
        let mut args = vec!["--data-dir".to_owned(), self.path(&member.to_string())];
        args.extend(["--meta".to_owned(), self.endpoint.to_owned()]);
        args.extend(["--listen".to_owned(), node.listen.to_string()]);
        args.extend(self.safety.args("node"));
        if let Some(advertise) = node.advertise {
            args.extend(["--advertise".to_owned(), advertise.to_string()]);
        }
        if let Some(capacity) = capacity {
            args.extend(["--capacity".to_owned(), capacity.to_owned()]);
        }
        self.seat(member, "xdpfs-data-node", args, namespace)
    }

    fn edge(&self, index: usize, site: &Site, options: &EdgeOptions, pins: Option<&Pins>) -> Seat {
        let member = Member::Edge(index);
        let listen = SocketAddr::new(site.address, EDGE_PORT);
        let mut args = vec!["edge".to_owned(), "--meta".to_owned(), self.endpoint.to_owned()];
        args.extend(["--listen".to_owned(), listen.to_string()]);
        args.extend(self.safety.args("node"));
        if let Some(pins) = pins {
            args.extend(["--uplink".to_owned(), UPLINK.to_owned()]);
            args.extend(["--pin-dir".to_owned(), pins.path().display().to_string()]);
        }
        args.extend(["--admin-socket".to_owned(), self.path(&format!("{member}.sock"))]);
        let mut seat = self.seat(member, "xdpfs-data-node", args, site.namespace.clone());
        seat.spec.args.extend(options.args.iter().map(Into::into));
        seat
    }

    fn path(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }

    fn seat(
        &self,
        member: Member,
        program: &str,
        args: Vec<String>,
        namespace: Option<Arc<Namespace>>,
    ) -> Seat {
        let spec = ProcessSpec {
            name: member.to_string(),
            program: self.bin_dir.join(program),
            args: args.into_iter().map(Into::into).collect(),
            env: self.env.to_vec(),
            log: self.dir.join(format!("{member}.log")),
            namespace,
        };
        Seat { fixed_args: spec.args.len(), spec, process: None, shim: None, ready: String::new() }
    }
}

fn lossy_path(node: SocketAddr, options: ShimOptions, index: usize) -> io::Result<UdpShim> {
    let seed = options.seed.wrapping_add(index as u64);
    UdpShim::start(SocketAddr::new(node.ip(), 0), node, options.rates, seed)
}

fn join(endpoints: &[SocketAddr]) -> String {
    let endpoints: Vec<String> = endpoints.iter().map(ToString::to_string).collect();
    endpoints.join(",")
}

//! Namespaces with veth pairs between them: client — edge — nodes.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    io::{self, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    path::PathBuf,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rustix::process::geteuid;
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};
use xdpfs_host::{features, set_feature};
use xdpfs_testbed::namespace::{self, End, Namespace};
use xdpfs_wire::{
    BucketId, Capability, ChunkId, ClientId, EpochSecret, Expiry, Flags, Header, KeyEpoch, NodeEpoch, NodeId,
    Opcode, PieceClass, RequestId, Rights, SipKey, Status, TargetNode, payload::REQUEST_PADDING_MIN,
};

use super::super::super::edge_plane::{
    EdgePlane, EdgeReport, EdgeXdpConfig, NodeRoute, OnExit, Prepare, Replies, RouteTable, SourceConfig,
};
use super::super::super::{XdpError, XdpMode};

pub(super) const UPLINK: &str = "up0";
pub(super) const NODE_DEVICES: [&str; 2] = ["down1", "down2"];
const BRIDGE: &str = "bridge0";
const MTU: u32 = 1500;
const PORT: u16 = 7400;
const NODE_PORT: u16 = 7401;
/// Requests of a stream that have no reply yet.
const UNDER_WAY: u32 = 16;
const PATIENCE: Duration = Duration::from_secs(10);
const SECRET: EpochSecret = EpochSecret(SipKey { k0: 1, k1: 2 });
const EPOCH: NodeEpoch = NodeEpoch(5);

/// Removed in the order of the fields.
pub(super) struct Lab {
    echoes: Vec<Echo>,
    pub(super) client: Namespace,
    pub(super) edge: Namespace,
    pub(super) node_spaces: Vec<Namespace>,
    pins: Mount,
}

/// A BPF file system.
struct Mount(TempDir);

/// What differs between tests.
#[derive(Clone, Copy)]
pub(super) struct Options {
    pub(super) mode: XdpMode,
    pub(super) replies: Replies,
    pub(super) is_v4: bool,
    pub(super) on_exit: OnExit,
    pub(super) prepare: Prepare,
    pub(super) user: Option<&'static str>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            mode: XdpMode::Native,
            replies: Replies::Auto,
            is_v4: true,
            on_exit: OnExit::Detach,
            prepare: Prepare::Auto,
            user: None,
        }
    }
}

/// A plane at work.
pub(super) struct Running {
    plane: Option<EdgePlane>,
    runtime: Runtime,
    nodes: Vec<NodeRoute>,
    /// What the thread that started it has left.
    pub(super) caller_capabilities: u64,
    /// The user that it is then.
    pub(super) caller: u32,
}

/// Requests to a node without a pause, a few under way at a time, and their replies.
pub(super) struct Stream {
    stop: Arc<AtomicBool>,
    received: Arc<AtomicU64>,
    thread: JoinHandle<(u64, u64)>,
}

/// A node that sends back what it gets.
struct Echo {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Lab {
    /// `None` where it can't be had, which is said.
    pub(super) fn open() -> Option<Self> {
        if geteuid().is_root() {
            return Some(Self::new());
        }
        assert!(env::var_os("CI").is_none(), "these tests take root");
        let _ = io::stderr().write_all(b"\nSKIPPED an edge's test: it takes root\n");
        None
    }

    fn new() -> Self {
        let [client, edge] = ["client", "edge"].map(|role| Namespace::new(role).unwrap());
        pair(&client, "eth0", &edge, UPLINK);
        add_addresses(&client, "eth0", 0, 1);
        add_addresses(&edge, UPLINK, 0, 2);
        set_gro(&client, "eth0", true);
        let nodes = 1..=NODE_DEVICES.len();
        let node_spaces =
            nodes.clone().map(|number| Namespace::new(&format!("node{number}")).unwrap()).collect();
        let mut this = Self { echoes: Vec::new(), client, edge, node_spaces, pins: Mount::new() };
        for number in nodes {
            this.connect(number);
            this.echoes.push(this.echo(number, true));
            this.echoes.push(this.echo(number, false));
        }
        this
    }

    /// The numbers of the nodes.
    pub(super) fn nodes(&self) -> impl Iterator<Item = u16> {
        1..=NODE_DEVICES.len() as u16
    }

    /// Makes the pair between the edge and a node.
    pub(super) fn connect(&self, number: usize) {
        let (node, device) = (&self.node_spaces[number - 1], NODE_DEVICES[number - 1]);
        pair(node, "eth0", &self.edge, device);
        add_addresses(node, "eth0", number, 2);
        add_addresses(&self.edge, device, number, 1);
        lead_out(node, number);
    }

    /// Puts the edge's end of the pair into a bridge, which has the addresses then.
    pub(super) fn bridge(&self, number: usize) {
        bridge(&self.edge, NODE_DEVICES[number - 1], number, 1);
    }

    /// The same with the node's end.
    pub(super) fn bridge_peer(&self, number: usize) {
        let node = &self.node_spaces[number - 1];
        bridge(node, "eth0", number, 2);
        lead_out(node, number);
    }

    /// Removes it.
    pub(super) fn disconnect(&self, number: usize) {
        self.edge.ip(&["link", "delete", NODE_DEVICES[number - 1]]).unwrap();
    }

    fn echo(&self, number: usize, is_v4: bool) -> Echo {
        let stop = Arc::new(AtomicBool::new(false));
        let address = (node_ip(number as u16, is_v4), NODE_PORT);
        let socket = self.node_spaces[number - 1].run(|| UdpSocket::bind(address).unwrap());
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let stopped = Arc::clone(&stop);
        let work = move || {
            let mut bytes = [0; 2048];
            while !stopped.load(Ordering::Relaxed) {
                if let Ok((length, from)) = socket.recv_from(&mut bytes) {
                    let _ = socket.send_to(&bytes[..length], from);
                }
            }
        };
        Echo { stop, thread: Some(thread::spawn(work)) }
    }

    pub(super) fn config(&self, options: Options) -> EdgeXdpConfig {
        EdgeXdpConfig {
            mode: options.mode,
            uplink: UPLINK.to_owned(),
            listen: SocketAddr::from((unspecified(options.is_v4), PORT)),
            advertised: None,
            replies: options.replies,
            pin_dir: self.pin_dir(),
            on_exit: options.on_exit,
            prepare: options.prepare,
            sources: SourceConfig::default(),
            user: options.user.map(|user| user.parse().unwrap()),
        }
    }

    pub(super) fn pin_dir(&self) -> PathBuf {
        self.pins.0.path().join("edge")
    }

    /// Whether the other end of a node's interface has GRO.
    pub(super) fn gro(&self, number: usize) -> bool {
        is_on(&self.node_spaces[number - 1], "eth0", "rx-gro")
    }

    /// Whether the other end of a node's interface merges what it sends on.
    pub(super) fn gro_forwarding(&self, number: usize) -> bool {
        is_on(&self.node_spaces[number - 1], "eth0", "rx-udp-gro-forwarding")
    }

    /// The program on the uplink.
    pub(super) fn ingress_program(&self) -> Option<u32> {
        self.edge.run(|| xdpfs_host::interface(UPLINK).unwrap().program)
    }

    /// Starts a plane, which is not told anything yet.
    pub(super) fn try_start(&self, options: Options) -> Result<Running, XdpError> {
        self.try_start_in("edge", options)
    }

    /// The same with another directory for what outlives it.
    pub(super) fn try_start_in(&self, directory: &str, options: Options) -> Result<Running, XdpError> {
        let pin_dir = self.pins.0.path().join(directory);
        let config = EdgeXdpConfig { pin_dir, ..self.config(options) };
        let (plane, caller_capabilities, caller) =
            self.edge.run(|| (EdgePlane::start(config), capabilities_of_this_thread(), geteuid().as_raw()));
        let plane = plane?;
        let nodes = self.nodes().map(|number| NodeRoute {
            target: TargetNode { node: NodeId(number), epoch: EPOCH },
            direct: SocketAddr::new(node_ip(number, options.is_v4), NODE_PORT),
        });
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        Ok(Running { plane: Some(plane), runtime, nodes: nodes.collect(), caller_capabilities, caller })
    }

    /// Starts a plane and tells it of the nodes.
    pub(super) fn start(&self, options: Options) -> Running {
        let running = self.try_start(options).unwrap();
        running.follow();
        running
    }

    /// Sends requests to a node by the edge, one after the other; how many replies came back.
    pub(super) fn exchange(&self, node: u16, is_v4: bool, requests: u32) -> u32 {
        let socket = self.client.run(|| UdpSocket::bind((unspecified(is_v4), 0)).unwrap());
        socket.connect((edge_ip(is_v4), PORT)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let mut bytes = [0; 2048];
        let mut replies = 0;
        for request in 0..requests {
            let sent = request_to(node, request);
            socket.send(&sent).unwrap();
            if let Ok(length) = socket.recv(&mut bytes)
                && bytes[..length] == sent
            {
                replies += 1;
            }
        }
        replies
    }
}

impl Running {
    fn plane(&self) -> &EdgePlane {
        self.plane.as_ref().unwrap()
    }

    pub(super) fn report(&self) -> EdgeReport {
        self.plane().report()
    }

    pub(super) fn try_follow(&self) -> Result<(), XdpError> {
        let table = RouteTable {
            nodes: self.nodes.clone(),
            key_epochs: BTreeMap::from([(KeyEpoch(1), SECRET)]),
            unix_ms: 1_000_000_000,
            made: Instant::now(),
        };
        self.runtime.block_on(self.plane().follow(Arc::new(table)))
    }

    pub(super) fn follow(&self) {
        self.try_follow().unwrap();
    }

    /// Waits until all nodes' packets are forwarded, and their replies cross as is said.
    pub(super) fn until_forwarded(&self, replies: &str) {
        self.until(|report| {
            report.nodes.iter().all(|place| place.device.is_some() && place.replies == replies)
        });
    }

    pub(super) fn until(&self, done: impl Fn(&EdgeReport) -> bool) {
        let began = Instant::now();
        while !done(&self.report()) {
            assert!(began.elapsed() < PATIENCE, "{:?}", self.report());
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// What the plane's own thread has.
    pub(super) fn capabilities_of_thread(&mut self) -> u64 {
        self.runtime.block_on(self.plane.as_ref().unwrap().privileged(capabilities_of_this_thread)).unwrap()
    }

    /// Goes without a word, as if it was killed: all that it had open is closed.
    pub(super) fn die(self) {
        drop(self.plane);
    }

    pub(super) fn stop(mut self) {
        let plane = self.plane.take().unwrap();
        self.runtime.block_on(plane.stop());
    }
}

impl Stream {
    /// Starts to ask a node, by the edge.
    pub(super) fn start(lab: &Lab, node: u16) -> Self {
        let socket = lab.client.run(|| UdpSocket::bind((unspecified(true), 0)).unwrap());
        socket.connect((edge_ip(true), PORT)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        let (stop, received) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, count) = (Arc::clone(&stop), Arc::clone(&received));
        let work = move || {
            let (mut sent, mut bytes) = (0, [0; 2048]);
            let mut seen = BTreeSet::new();
            let receive = |seen: &mut BTreeSet<u32>, bytes: &mut [u8]| {
                let length = socket.recv(bytes).unwrap_or(0);
                let header = bytes[..length].first_chunk().and_then(|header| Header::parse(header).ok());
                seen.extend(header.map(|header| header.request.0));
                count.store(seen.len() as u64, Ordering::Relaxed);
                header.is_some()
            };
            while !stopped.load(Ordering::Relaxed) {
                socket.send(&request_to(node, sent)).unwrap();
                sent += 1;
                if sent > UNDER_WAY {
                    receive(&mut seen, &mut bytes);
                }
            }
            while seen.len() < sent as usize && receive(&mut seen, &mut bytes) {}
            (u64::from(sent), seen.len() as u64)
        };
        Self { stop, received, thread: thread::spawn(work) }
    }

    /// How many replies have come.
    pub(super) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    pub(super) fn until_received(&self, replies: u64) {
        let began = Instant::now();
        while self.received() < replies {
            assert!(began.elapsed() < PATIENCE, "{} of {replies}", self.received());
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Asks no more; how many requests were sent, and how many of them answered.
    pub(super) fn end(self) -> (u64, u64) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

impl Mount {
    fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let status = Command::new("mount").args(["-t", "bpf", "bpf"]).arg(directory.path()).status().unwrap();
        assert!(status.success());
        Self(directory)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Of the calling thread: effective, permitted and bounding capabilities, all together.
fn capabilities_of_this_thread() -> u64 {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap();
    let sets = status.lines().filter_map(|line| {
        let (name, bits) = line.split_once(":\t")?;
        ["CapEff", "CapPrm", "CapBnd", "CapInh", "CapAmb"].contains(&name).then_some(bits)
    });
    sets.map(|bits| u64::from_str_radix(bits, 16).unwrap()).fold(0, |all, bits| all | bits)
}

fn pair(one: &Namespace, one_device: &str, other: &Namespace, other_device: &str) {
    let end = |namespace, device| End { namespace, device };
    namespace::connect(end(one, one_device), end(other, other_device), MTU).unwrap();
}

fn lead_out(node: &Namespace, network: usize) {
    node.ip(&["route", "replace", "default", "via", &format!("10.78.{network}.1")]).unwrap();
    node.ip(&["-6", "route", "replace", "default", "via", &format!("fd78:{network}::1")]).unwrap();
}

fn bridge(namespace: &Namespace, device: &str, network: usize, host: u8) {
    namespace.ip(&["address", "flush", "dev", device]).unwrap();
    namespace.ip(&["link", "add", BRIDGE, "type", "bridge"]).unwrap();
    namespace.ip(&["link", "set", device, "master", BRIDGE]).unwrap();
    namespace.ip(&["link", "set", BRIDGE, "up"]).unwrap();
    add_addresses(namespace, BRIDGE, network, host);
}

/// Addresses of both IP versions, in the network of a node or, by zero, in that of the client.
fn add_addresses(namespace: &Namespace, device: &str, network: usize, host: u8) {
    let v6 = if network == 0 { format!("fd78::{host}") } else { format!("fd78:{network}::{host}") };
    for (address, prefix_len) in [(format!("10.78.{network}.{host}"), 24), (v6, 64)] {
        namespace.add_address(device, address.parse().unwrap(), prefix_len).unwrap();
    }
}

pub(super) fn set_gro(namespace: &Namespace, device: &str, on: bool) {
    namespace.run(|| set_feature(device, "rx-gro", on).unwrap());
}

/// Whether an interface takes batches that are cut apart behind it.
pub(super) fn has_segmentation_offload(namespace: &Namespace, device: &str) -> bool {
    is_on(namespace, device, "tx-tcp-segmentation")
}

fn is_on(namespace: &Namespace, device: &str, feature: &str) -> bool {
    namespace.run(|| features(device).unwrap().is_on(feature))
}

fn unspecified(is_v4: bool) -> IpAddr {
    if is_v4 { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() }
}

pub(super) fn edge_ip(is_v4: bool) -> IpAddr {
    let ip = if is_v4 { "10.78.0.2" } else { "fd78::2" };
    ip.parse().unwrap()
}

fn node_ip(number: u16, is_v4: bool) -> IpAddr {
    let ip = if is_v4 { format!("10.78.{number}.2") } else { format!("fd78:{number}::2") };
    ip.parse().unwrap()
}

/// A ping, told apart by its number.
pub(super) fn request_to(node: u16, number: u32) -> Vec<u8> {
    let header = Header {
        opcode: Opcode::Ping,
        class: PieceClass::Standard,
        flags: Flags::NONE,
        status: Status::Ok,
        rights: Rights::ALL,
        key_epoch: KeyEpoch(1),
        node: NodeId(node),
        node_epoch: EPOCH,
        client: ClientId(1),
        bucket: BucketId(1),
        expiry: Expiry(2_000_000),
        request: RequestId(number),
        offset: 0,
        chunk: ChunkId::new(BucketId(1), 1),
        length: 0,
        payload_crc: 0,
        tag: 0,
    };
    let mut datagram = Capability::claimed_by(&header).key(SECRET).seal(&header).to_vec();
    datagram.resize(datagram.len() + REQUEST_PADDING_MIN, 0);
    datagram
}

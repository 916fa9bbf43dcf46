//! Two network namespaces with a veth pair between them: a client on one side, a node and its metadata service on the
//! other.

use std::{
    env, fs,
    io::{self, Write as _},
    net::{Ipv4Addr, SocketAddr},
    process::{self, Command},
    sync::atomic::{AtomicU32, Ordering},
    thread,
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};
use xdpfs_proto::node::v1::HeartbeatRequest;

use crate::{
    fake_meta::{FakeMeta, Heard},
    program::Program,
    writer::Writer,
};

pub(crate) const CLIENT_DEVICE: &str = "client0";
pub(crate) const NODE_DEVICE: &str = "node0";
pub(crate) const NODE_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);

static LABS: AtomicU32 = AtomicU32::new(0);
static SKIPPED: AtomicU32 = AtomicU32::new(0);

/// Removed in the order of the fields: first what runs in the namespaces.
pub(crate) struct Lab {
    pub(crate) meta: FakeMeta,
    client_runtime: Runtime,
    node_runtime: Runtime,
    home: TempDir,
    pub(crate) client: Namespace,
    pub(crate) node: Namespace,
}

/// A network namespace that is removed when it is dropped.
pub(crate) struct Namespace {
    name: String,
}

impl Lab {
    /// `None` where it can't be had, which is said.
    pub(crate) fn open() -> Option<Self> {
        match obstacle() {
            None => Some(Self::new()),
            Some(obstacle) if env::var_os("CI").is_some() => panic!("{obstacle}"),
            Some(obstacle) => {
                let skipped = SKIPPED.fetch_add(1, Ordering::Relaxed) + 1;
                // Not by a macro, or the test harness would keep it to itself; at once, or it would come between words.
                let said = format!("\nSKIPPED {skipped} XDP tests so far: {obstacle}\n");
                let _ = io::stderr().write_all(said.as_bytes());
                None
            }
        }
    }

    fn new() -> Self {
        let lab = format!("xdpfs-{}-{}", process::id(), LABS.fetch_add(1, Ordering::Relaxed));
        let (client, node) = (Namespace::new(format!("{lab}-c")), Namespace::new(format!("{lab}-n")));
        connect(&client, &node);
        let (client_runtime, node_runtime) = (client.runtime(), node.runtime());
        let meta = node.run(|| node_runtime.block_on(FakeMeta::start()));
        Self { meta, client_runtime, node_runtime, home: TempDir::new().unwrap(), client, node }
    }

    /// Removes the pair; the interfaces vanish.
    pub(crate) fn disconnect(&self) {
        ip(&["-n", &self.node.name, "link", "delete", NODE_DEVICE]);
    }

    /// Makes a pair of the same names.
    pub(crate) fn connect(&self) {
        connect(&self.client, &self.node);
    }

    /// Starts the node on its side of the pair, and waits until it serves.
    pub(crate) fn start(&self, arguments: &[&str]) -> Program {
        let registrations = self.meta.heard().registrations.len();
        let mut program = self.launch(arguments);
        program.await_ready();
        assert!(self.meta.heard().registrations.len() > registrations);
        program.first_beat = Some(self.beat());
        program
    }

    /// Starts a node that can't; its exit code and what it said.
    pub(crate) fn fail(&self, arguments: &[&str]) -> (Option<i32>, String) {
        self.launch(arguments).end()
    }

    fn launch(&self, arguments: &[&str]) -> Program {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.node.name, env!("CARGO_BIN_EXE_xdpfs-data-node")]);
        // What a killed node leaves behind goes with the lab.
        if !arguments.contains(&"--admin-socket") {
            command.arg("--admin-socket").arg(self.home.path().join("xdp.sock"));
        }
        if !arguments.contains(&"--data-dir") {
            command.arg("--data-dir").arg(self.home.path().join("data"));
        }
        command.args(["--meta", &self.meta.address.to_string(), "--listen", &format!("{NODE_ADDRESS}:0")]);
        if !arguments.contains(&"--xdp-interface") {
            command.args(["--xdp-interface", NODE_DEVICE]);
        }
        Program::start(command.args(arguments))
    }

    /// Does something as a client.
    pub(crate) fn client(&self, address: SocketAddr, work: impl AsyncFnOnce(Writer) + Send) {
        self.client.run(|| self.client_runtime.block_on(async { work(Writer::at(address)).await }));
    }

    /// A heartbeat that was sent after this call.
    pub(crate) fn beat(&self) -> HeartbeatRequest {
        self.node_runtime.block_on(self.meta.next_heartbeat())
    }

    /// Waits for a heartbeat that says what is wanted.
    pub(crate) fn until(&self, what: &str, mut done: impl FnMut(&HeartbeatRequest) -> bool) {
        self.until_heard(what, |heard| heard.heartbeats.last().is_some_and(&mut done));
    }

    /// Waits until something was heard.
    pub(crate) fn until_heard(&self, what: &str, mut done: impl FnMut(&Heard) -> bool) {
        self.node_runtime.block_on(self.meta.until(what, |heard| done(heard).then_some(())));
    }

    /// Datagrams that sockets on the node's side have received, as the kernel counts them.
    pub(crate) fn datagrams_received(&self) -> u64 {
        // Of the thread that reads it, unlike /proc/net.
        let table = self.node.run(|| fs::read_to_string("/proc/thread-self/net/snmp").unwrap());
        let mut lines = table.lines().filter_map(|line| line.strip_prefix("Udp: "));
        let (names, counts) = (lines.next().unwrap(), lines.next().unwrap());
        let mut columns = names.split(' ').zip(counts.split(' '));
        columns.find(|(name, _)| *name == "InDatagrams").unwrap().1.parse().unwrap()
    }

    /// The number of the XDP program on the node's interface.
    pub(crate) fn program(&self) -> Option<u32> {
        let said = ip(&["-n", &self.node.name, "-d", "link", "show", NODE_DEVICE]);
        let mut words = said.split_whitespace().skip_while(|word| !word.starts_with("prog/xdp"));
        words.nth(2).map(|id| id.parse().unwrap())
    }

    pub(crate) fn set_mtu(&self, mtu: u32) {
        for (namespace, device) in [(&self.client, CLIENT_DEVICE), (&self.node, NODE_DEVICE)] {
            ip(&["-n", &namespace.name, "link", "set", device, "mtu", &mtu.to_string()]);
        }
    }
}

impl Namespace {
    fn new(name: String) -> Self {
        ip(&["netns", "add", &name]);
        let namespace = Self { name };
        ip(&["-n", &namespace.name, "link", "set", "lo", "up"]);
        namespace
    }

    fn up(&self, device: &str, address: &str) {
        ip(&["-n", &self.name, "address", "add", address, "dev", device]);
        ip(&["-n", &self.name, "link", "set", device, "up"]);
    }

    /// Does something in here. Sockets and threads that it makes stay here.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let namespace = fs::File::open(format!("/run/netns/{}", self.name)).unwrap();
        let enter = || {
            use std::os::fd::AsFd as _;
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            work()
        };
        thread::scope(|scope| scope.spawn(enter).join().unwrap())
    }

    fn runtime(&self) -> Runtime {
        self.run(|| Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // The pair goes with it.
        let _ = Command::new("ip").args(["netns", "delete", &self.name]).status();
    }
}

fn connect(client: &Namespace, node: &Namespace) {
    let pair = ["link", "add", CLIENT_DEVICE, "netns", &client.name, "type", "veth"];
    ip(&[&pair[..], &["peer", "name", NODE_DEVICE, "netns", &node.name]].concat());
    client.up(CLIENT_DEVICE, "10.77.0.1/24");
    node.up(NODE_DEVICE, &format!("{NODE_ADDRESS}/24"));
}

/// What keeps these tests from running.
fn obstacle() -> Option<String> {
    if !cfg!(xdp_object) {
        return Some("the kernel program is not built: `cargo xtask build-ebpf`, then build again".into());
    }
    if !rustix::process::geteuid().is_root() {
        return Some("they take root".into());
    }
    Command::new("ip").arg("-V").output().err().map(|error| format!("they take iproute2: {error}"))
}

fn ip(arguments: &[&str]) -> String {
    let output = Command::new("ip").args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {}: {said}", arguments.join(" "));
    String::from_utf8(output.stdout).unwrap()
}

//! Two network namespaces with a veth pair between them: a client on one side, a node and its metadata service on the
//! other.

use std::{
    env,
    io::{self, Write as _},
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::chown,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};
use xdpfs_proto::node::v1::HeartbeatRequest;
use xdpfs_testbed::namespace::{self, End, Namespace};

use crate::{
    fake_meta::{FakeMeta, Heard},
    program::Program,
    writer::Writer,
};

pub(crate) const CLIENT_DEVICE: &str = "client0";
pub(crate) const NODE_DEVICE: &str = "node0";
pub(crate) const NODE_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);

const MTU: u32 = 1500;

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
        let [client, node] = ["client", "node"].map(|role| Namespace::new(role).unwrap());
        connect(&client, &node);
        let (client_runtime, node_runtime) = (runtime(&client), runtime(&node));
        let meta = node.run(|| node_runtime.block_on(FakeMeta::start()));
        Self { meta, client_runtime, node_runtime, home: TempDir::new().unwrap(), client, node }
    }

    /// Removes the pair; the interfaces vanish.
    pub(crate) fn disconnect(&self) {
        self.node.ip(&["link", "delete", NODE_DEVICE]).unwrap();
    }

    /// Makes a pair of the same names.
    pub(crate) fn connect(&self) {
        connect(&self.client, &self.node);
    }

    /// A directory of another user's.
    pub(crate) fn own_directory(&self, uid: u32, gid: u32) -> TempDir {
        // What a killed node leaves in the socket's directory must be its own, too.
        let directory = TempDir::new().unwrap();
        for path in [directory.path(), self.home.path()] {
            chown(path, Some(uid), Some(gid)).unwrap();
        }
        directory
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
        let mut command = Command::new(env!("CARGO_BIN_EXE_xdpfs-data-node"));
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
        self.node.run(|| Program::start(command.args(arguments)))
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
        self.node.udp_counts().unwrap().received
    }

    /// The number of the XDP program on the node's interface.
    pub(crate) fn program(&self) -> Option<u32> {
        self.node.run(|| xdpfs_host::interface(NODE_DEVICE).unwrap().program)
    }

    pub(crate) fn set_mtu(&self, mtu: u32) {
        for (namespace, device) in [(&self.client, CLIENT_DEVICE), (&self.node, NODE_DEVICE)] {
            namespace.ip(&["link", "set", device, "mtu", &mtu.to_string()]).unwrap();
        }
    }
}

fn runtime(namespace: &Namespace) -> Runtime {
    namespace.run(|| Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap())
}

fn connect(client: &Namespace, node: &Namespace) {
    let client_end = End { namespace: client, device: CLIENT_DEVICE };
    namespace::connect(client_end, End { namespace: node, device: NODE_DEVICE }, MTU).unwrap();
    client.add_address(CLIENT_DEVICE, [10, 77, 0, 1].into(), 24).unwrap();
    node.add_address(NODE_DEVICE, NODE_ADDRESS.into(), 24).unwrap();
}

/// What keeps these tests from running.
fn obstacle() -> Option<String> {
    if !cfg!(xdp_object) {
        return Some("the kernel program is not built: `cargo xtask build-ebpf`, then build again".into());
    }
    namespace::obstacle()
}

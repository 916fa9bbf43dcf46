//! Three servers of etcd 3.4 on loopback, with what they do by default: every put is in a file and synced before it is
//! acknowledged.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::Context as _;
use xdpfs_testbed::ports;

use crate::setup;

/// Of which Debian has the program.
pub(super) const PROGRAM: &str = "etcd";
const SERVERS: usize = 3;
/// More than anything here needs; by default it refuses puts beyond 2 GiB.
const QUOTA_BYTES: &str = "8589934592";

pub(super) struct Etcd {
    dir: PathBuf,
    clients: Vec<SocketAddr>,
    peers: Vec<SocketAddr>,
    servers: Vec<Child>,
}

impl Etcd {
    /// None if there is no such program here.
    pub(super) fn start(dir: &Path) -> anyhow::Result<Option<Self>> {
        if !setup::has_program(PROGRAM) {
            return Ok(None);
        }
        let address = ports::unused_loopback_address()?;
        let (clients, peers) = (ports::free_ports(address, SERVERS)?, ports::free_ports(address, SERVERS)?);
        fs::create_dir_all(dir)?;
        let mut etcd = Self { dir: dir.to_owned(), clients, peers, servers: Vec::new() };
        etcd.restart()?;
        Ok(Some(etcd))
    }

    /// Starts all servers, after those that run are killed.
    pub(super) fn restart(&mut self) -> anyhow::Result<()> {
        self.kill();
        self.servers = (0..SERVERS).map(|server| self.spawn(server)).collect::<Result<_, _>>()?;
        Ok(())
    }

    /// Where clients reach them, with commas between.
    pub(super) fn endpoints(&self) -> String {
        self.clients.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
    }

    /// Where each tells its metrics.
    pub(super) fn clients(&self) -> &[SocketAddr] {
        &self.clients
    }

    pub(super) fn pid(&self, server: usize) -> u32 {
        self.servers[server].id()
    }

    pub(super) fn data_dir(&self, server: usize) -> PathBuf {
        self.dir.join(server.to_string())
    }

    fn spawn(&self, server: usize) -> anyhow::Result<Child> {
        let log =
            fs::File::options().create(true).append(true).open(self.dir.join(format!("{server}.log")))?;
        let url = |address: SocketAddr| format!("http://{address}");
        let all = self.peers.iter().enumerate().map(|(server, peer)| format!("s{server}=http://{peer}"));
        let (client, peer) = (url(self.clients[server]), url(self.peers[server]));
        Command::new(PROGRAM)
            .args(["--name", &format!("s{server}"), "--initial-cluster-token", "bench"])
            .arg("--data-dir")
            .arg(self.data_dir(server))
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &all.collect::<Vec<_>>().join(","), "--initial-cluster-state", "new"])
            .args(["--quota-backend-bytes", QUOTA_BYTES, "--logger", "zap", "--log-level", "error"])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot run {PROGRAM}"))
    }

    fn kill(&mut self) {
        for mut server in self.servers.drain(..) {
            // Fails only for one that is gone already.
            let _gone = server.kill();
            let _gone = server.wait();
        }
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
    }
}

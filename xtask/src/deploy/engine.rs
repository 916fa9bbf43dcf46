//! A container engine of the test's own: containerd and dockerd in a network namespace, with all their state in a
//! temporary directory.
//!
//! Invariant: nothing of it is left, neither rules nor bridges, because both end with the namespace.

use std::{
    fs::{self, File},
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use xdpfs_testbed::namespace::{End, Namespace, connect};

use super::await_some;
use crate::{apt, setup, sh};

/// The host's interface that clients from elsewhere come in by.
pub(super) const UPLINK: &str = "uplink";
/// The host's address on it, and that of the client at its other end.
pub(super) const UPLINK_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 178, 0, 1);
const CLIENT_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 178, 0, 2);
const CLIENT_DEVICE: &str = "host";
const PREFIX_LEN: u8 = 24;
const MTU: u32 = 1500;

const STARTED_WITHIN: Duration = Duration::from_secs(60);
const STOPPED_WITHIN: Duration = Duration::from_secs(30);

/// Programs and the packages of Debian that bring them.
const PROGRAMS: &[(&str, &str)] = &[
    ("dockerd", "docker.io"),
    ("containerd", "containerd"),
    ("docker", "docker.io"),
    ("docker-compose", "docker-compose"),
    ("iptables", "iptables"),
    ("ip", "iproute2"),
];

/// A running engine. Dropping it ends it, and all containers.
pub(super) struct Engine {
    // Dropped in this order: the daemons end before what they stand on.
    _dockerd: Daemon,
    _containerd: Daemon,
    host: Arc<Namespace>,
    client: Arc<Namespace>,
    place: Place,
}

/// Where all of the engine's state is.
struct Place(TempDir);

/// Installs what an engine takes, if that can be done.
pub(crate) fn bring() -> anyhow::Result<()> {
    ensure!(sh::is_root(), "only root can start a container engine");
    let missing: Vec<_> = PROGRAMS
        .iter()
        .filter(|(program, _)| !setup::has_program(program))
        .map(|(_, package)| *package)
        .collect();
    if missing.is_empty() { Ok(()) } else { apt::install(&missing) }
}

impl Engine {
    pub(super) fn start() -> anyhow::Result<Self> {
        let (host, client) = (Namespace::new("host")?, Namespace::new("client")?);
        let uplink = End { namespace: &host, device: UPLINK };
        connect(uplink, End { namespace: &client, device: CLIENT_DEVICE }, MTU)?;
        host.add_address(UPLINK, UPLINK_ADDRESS.into(), PREFIX_LEN)?;
        client.add_address(CLIENT_DEVICE, CLIENT_ADDRESS.into(), PREFIX_LEN)?;
        // Names of sockets must be short, so this is not in the target directory.
        let directory = Place(tempfile::Builder::new().prefix("xdpfs-engine-").tempdir()?);
        let place = |name: &str| directory.0.path().join(name);
        fs::write(place("containerd.toml"), "")?;
        // One of its own: dockerd would take the system's, which is in another network.
        let mut command = Command::new("containerd");
        command.arg("--config").arg(place("containerd.toml")).arg("--address").arg(place("containerd.sock"));
        command.arg("--root").arg(place("containerd")).arg("--state").arg(place("containerd-run"));
        let containerd = Daemon::start("containerd", command, &host, directory.0.path())?;
        await_some("containerd listens", STARTED_WITHIN, || {
            Ok(place("containerd.sock").exists().then_some(()))
        })?;
        let mut command = Command::new("dockerd");
        command.arg("--containerd").arg(place("containerd.sock")).arg("--host").arg(directory.url());
        command.arg("--data-root").arg(place("docker")).arg("--exec-root").arg(place("docker-run"));
        command.arg("--pidfile").arg(place("docker.pid"));
        let mut dockerd = Daemon::start("dockerd", command, &host, directory.0.path())?;
        let url = directory.url();
        await_some("dockerd answers", STARTED_WITHIN, || {
            dockerd.check()?;
            Ok(sh::succeeds(&["docker", "--host", &url, "version"]).then_some(()))
        })?;
        Ok(Self {
            _dockerd: dockerd,
            _containerd: containerd,
            host: Arc::new(host),
            client: Arc::new(client),
            place: directory,
        })
    }

    /// What `DOCKER_HOST` must be.
    pub(super) fn url(&self) -> String {
        self.place.url()
    }

    /// The network that the engine and containers in the host's network are in.
    pub(super) fn host(&self) -> &Arc<Namespace> {
        &self.host
    }

    /// The network of clients from elsewhere.
    pub(super) fn client(&self) -> &Arc<Namespace> {
        &self.client
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let url = self.url();
        let all = sh::output(&["docker", "--host", &url, "ps", "--all", "--quiet"]).unwrap_or_default();
        let ids: Vec<_> = all.split_whitespace().collect();
        if !ids.is_empty() {
            // They would outlive the engine, and hold its directory.
            let _ = sh::output(&[&["docker", "--host", &url, "rm", "--force"], &ids[..]].concat());
        }
    }
}

impl Place {
    fn url(&self) -> String {
        format!("unix://{}", self.0.path().join("docker.sock").display())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // dockerd leaves the name of its network namespace mounted.
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let places = mounts.lines().filter_map(|line| line.split(' ').nth(1));
        let ours: Vec<_> = places.filter(|place| Path::new(place).starts_with(self.0.path())).collect();
        for place in ours.into_iter().rev() {
            if let Err(error) = sh::output(&["umount", place]) {
                eprintln!("{error:#}");
            }
        }
    }
}

struct Daemon {
    name: &'static str,
    child: Child,
    log: PathBuf,
}

impl Daemon {
    fn start(
        name: &'static str,
        mut command: Command,
        host: &Namespace,
        directory: &Path,
    ) -> anyhow::Result<Self> {
        let log = directory.join(format!("{name}.log"));
        let output = File::create(&log)?;
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let child = host.run(|| command.spawn()).with_context(|| format!("cannot start {name}"))?;
        Ok(Self { name, child, log })
    }

    /// Whether it still runs.
    fn check(&mut self) -> anyhow::Result<()> {
        if let Some(status) = self.child.try_wait()? {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            let lines: Vec<_> = log.lines().collect();
            let tail = lines[lines.len().saturating_sub(20)..].join("\n");
            anyhow::bail!("{} has ended with {status}:\n{tail}", self.name);
        }
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid {
            // It may have ended already.
            let _ = kill_process(pid, Signal::TERM);
        }
        let deadline = Instant::now() + STOPPED_WITHIN;
        while Instant::now() < deadline {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(super::LOOK_AGAIN_AFTER);
        }
        eprintln!("{} did not stop and is killed", self.name);
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

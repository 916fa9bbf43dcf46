//! Two namespaces joined by a veth: one has services, the other asks them.

use std::{
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use serde_json::Value;
use xdpfs_testbed::namespace::{End, Namespace, connect, obstacle};

use crate::{setup, sh};

const PROGRAM: &str = "transport_load";
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const ASKER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
const DEVICE: &str = "wire0";
/// How long a service may take until it listens.
const START_MAX: Duration = Duration::from_secs(5);

/// What the server's side can run.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Service {
    Iperf3,
    Memcached,
    Node,
    Pump,
}

impl Service {
    const fn program(self) -> &'static str {
        match self {
            Self::Iperf3 => "iperf3",
            Self::Memcached => "memcached",
            Self::Node | Self::Pump => PROGRAM,
        }
    }

    const fn port(self) -> u16 {
        match self {
            Self::Iperf3 => 5201,
            Self::Memcached => 11211,
            Self::Node => 7100,
            Self::Pump => 7101,
        }
    }

    /// As /proc/net has it.
    const fn protocol(self) -> &'static str {
        match self {
            Self::Iperf3 | Self::Memcached => "tcp",
            Self::Node | Self::Pump => "udp",
        }
    }
}

pub(super) struct Hosts {
    server: Namespace,
    asker: Namespace,
    program: PathBuf,
}

/// A service that runs until it is dropped.
pub(super) struct Running {
    service: Service,
    child: Child,
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _gone = self.child.kill();
        let _status = self.child.wait();
    }
}

/// What was printed, by name.
#[derive(Debug)]
pub(super) struct Numbers(Value);

impl Numbers {
    pub(super) fn one(&self, name: &str) -> anyhow::Result<f64> {
        self.0[name].as_f64().with_context(|| format!("nothing is said of {name}: {}", self.0))
    }

    pub(super) fn several<const COUNT: usize>(&self, names: [&str; COUNT]) -> anyhow::Result<[f64; COUNT]> {
        let mut all = [0.0; COUNT];
        for (value, name) in all.iter_mut().zip(names) {
            *value = self.one(name)?;
        }
        Ok(all)
    }
}

impl Hosts {
    pub(super) fn join(mtu: u32) -> anyhow::Result<Self> {
        if let Some(obstacle) = obstacle() {
            bail!("two network namespaces are needed: {obstacle}");
        }
        let words = ["cargo", "build", "--locked", "--release", "-p", "xdpfs-transport"];
        sh::run(&[&words[..], &["--features", "tokio", "--example", PROGRAM]].concat())?;
        let program = sh::target_dir("release").join("examples").join(PROGRAM);
        let (server, asker) = (Namespace::new("server")?, Namespace::new("asker")?);
        let ends = [(&server, SERVER), (&asker, ASKER)];
        let [one, other] = ends.map(|(namespace, _)| End { namespace, device: DEVICE });
        connect(one, other, mtu)?;
        for (namespace, address) in ends {
            namespace.add_address(DEVICE, IpAddr::V4(address), 24)?;
        }
        Ok(Self { server, asker, program })
    }

    /// Starts a service that must be there.
    pub(super) fn serve(&self, service: Service) -> anyhow::Result<Running> {
        let address = format!("{SERVER}:{}", service.port());
        let (server, port) = (SERVER.to_string(), service.port().to_string());
        let mut command = match service {
            Service::Node | Service::Pump => Command::new(&self.program),
            Service::Iperf3 | Service::Memcached => Command::new(service.program()),
        };
        match service {
            Service::Iperf3 => command.args(["--server", "--bind", &server, "--port", &port]),
            Service::Memcached => {
                let sockets = ["--listen", &server, "--port", &port, "--udp-port", &port];
                command.args(sockets).args(["--user", "nobody", "--threads", "2"])
            }
            Service::Node => command.args(["serve", &address]),
            Service::Pump => command.args(["pump-serve", &address]),
        };
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child =
            self.server.run(|| command.spawn()).with_context(|| format!("cannot start {service:?}"))?;
        let running = Running { service, child };
        let began = Instant::now();
        while !self.listens(service)? {
            ensure!(began.elapsed() < START_MAX, "{service:?} does not listen");
            thread::sleep(Duration::from_millis(20));
        }
        Ok(running)
    }

    /// The same for what others have made; `None` if it isn't installed.
    pub(super) fn serve_if_there(&self, service: Service) -> anyhow::Result<Option<Running>> {
        let is_there = setup::has_program(service.program());
        is_there.then(|| self.serve(service)).transpose()
    }

    fn listens(&self, service: Service) -> anyhow::Result<bool> {
        let path = format!("/proc/thread-self/net/{}", service.protocol());
        let table = self.server.run(|| std::fs::read_to_string(path))?;
        Ok(table.contains(&format!(":{:04X} 00000000:0000", service.port())))
    }

    /// What the program says of a service.
    pub(super) fn ask(&self, of: &Running, command: &str, args: &[&str]) -> anyhow::Result<Numbers> {
        let address = format!("{SERVER}:{}", of.service.port());
        self.run(Command::new(&self.program).args([command, &address]).args(args)).map(Numbers)
    }

    /// Bytes a second that come from the server over one TCP connection.
    pub(super) fn ask_iperf3(&self, of: &Running, seconds: &str) -> anyhow::Result<f64> {
        let (server, port) = (SERVER.to_string(), of.service.port().to_string());
        let mut command = Command::new(of.service.program());
        command.args(["--client", &server, "--port", &port, "--reverse", "--omit", "1", "--time", seconds]);
        let said = self.run(command.arg("--json"))?;
        let bits = said["end"]["sum_received"]["bits_per_second"].as_f64();
        Ok(bits.context("iperf3 tells no rate")? / 8.0)
    }

    fn run(&self, command: &mut Command) -> anyhow::Result<Value> {
        let output = self.asker.run(|| command.stdin(Stdio::null()).output())?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{command:?} failed ({}): {errors}", output.status);
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    /// Datagrams and segments cross one by one, each as large as the path takes.
    pub(super) fn end_offloads(&self) -> anyhow::Result<()> {
        let words = ["ethtool", "-K", DEVICE, "tx", "off", "tso", "off", "gso", "off", "gro", "off"];
        self.in_both(&[&words])
    }

    /// Both kernels lose so many of a thousand packets that come to them.
    pub(super) fn lose(&self, of_thousand: u32) -> anyhow::Result<()> {
        let rule = format!("numgen random mod 1000 < {of_thousand} drop");
        self.in_both(&[
            &["nft", "add", "table", "inet", "loss"],
            &["nft", "add", "chain", "inet", "loss", "in", "{ type filter hook input priority 0; }"],
            &["nft", "add", "rule", "inet", "loss", "in", &rule],
        ])
    }

    fn in_both(&self, commands: &[&[&str]]) -> anyhow::Result<()> {
        for namespace in [&self.server, &self.asker] {
            for words in commands {
                let Some((program, args)) = words.split_first() else { continue };
                let output = namespace.run(|| Command::new(program).args(args).output())?;
                let errors = String::from_utf8_lossy(&output.stderr);
                ensure!(output.status.success(), "`{}` failed: {errors}", words.join(" "));
            }
        }
        Ok(())
    }
}

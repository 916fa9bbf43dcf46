//! What an edge is told at its start: as typed on the command line, and as checked.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Parser, value_parser};
use thiserror::Error;
use xdpfs_observe::LogFilter;

use crate::{
    config::{MetaEndpoint, is_host_and_port},
    health::HealthConfig,
    link::{Link, LinkError},
    run_as::RunAs,
    source_prefix::SourcePrefix,
    xdp::{EdgeXdpConfig, OnExit, Prepare, Replies, SourceConfig, XdpMode},
};

const AFTER_HELP: &str = "Nodes behind the edge advertise its address (--advertise) and listen on their own, or name another \
    one where the edge reaches them (--direct).\n\n\
    Prints one line `ready address=HOST:PORT xdp=MODE replies=HOW` once a metadata leader has said which nodes there are. \
    Logs go to stderr; SIGHUP has the configuration read again. SIGINT and SIGTERM stop the edge. Exit codes: 0 \
    stopped as told, 1 failed, 2 wrong usage.";

/// Where pinned state of the kernel program lies, for each uplink.
const PIN_ROOT: &str = "/sys/fs/bpf/xdpfs";
/// Bytes of an interface's name (`IFNAMSIZ`, without the zero at its end).
const INTERFACE_LEN_MAX: usize = 15;
/// Clients whose datagrams are relayed at a time.
const FLOWS_MAX: usize = 4096;
/// Longer than a node may take to answer.
const FLOW_IDLE_MAX: Duration = Duration::from_secs(30);

/// Stands before data nodes: clients reach all of them at one address.
#[derive(Clone, Debug, Parser)]
#[command(name = "edge", about, after_help = AFTER_HELP)]
pub struct EdgeArguments {
    /// The metadata servers, separated by commas. Any of them will do: the leader is found from there.
    #[arg(long, value_name = "HOST:PORT", env = "XDPFS_EDGE_META", value_delimiter = ',', required = true)]
    meta: Vec<MetaEndpoint>,
    /// The directory with ca.pem, server.pem and server.key, as xdpfs-cli init makes it: TLS is spoken with the metadata
    /// servers. The files are looked at every two seconds, and new ones are used.
    #[arg(long, value_name = "DIR", env = "XDPFS_EDGE_TLS")]
    tls: Option<PathBuf>,
    /// Speak plaintext with metadata servers on other hosts, too: everybody on the way sees the cluster's secrets.
    #[arg(long, env = "XDPFS_EDGE_INSECURE")]
    insecure: bool,
    /// The address to receive datagrams on. Port 0 takes any free one.
    #[arg(long, value_name = "IP:PORT", env = "XDPFS_EDGE_LISTEN", default_value = "0.0.0.0:7400")]
    listen: SocketAddr,
    /// The `HOST:PORT` that the nodes behind this edge advertise, if it isn't the one it listens on.
    #[arg(long, value_name = "HOST:PORT", env = "XDPFS_EDGE_ADVERTISE")]
    advertise: Option<String>,
    /// The interface that clients' datagrams come in by. Needed unless XDP is off.
    #[arg(long, value_name = "INTERFACE", env = "XDPFS_EDGE_UPLINK")]
    uplink: Option<String>,
    /// Whether datagrams cross the edge in the kernel. By default auto if an uplink is named, else off. What can't be
    /// had is an error, but with auto.
    #[arg(long, value_name = "MODE", env = "XDPFS_EDGE_XDP")]
    xdp: Option<XdpMode>,
    /// How replies of nodes cross the edge.
    #[arg(long, value_name = "HOW", env = "XDPFS_EDGE_REPLIES", default_value = "auto")]
    replies: Replies,
    /// Where the state of the kernel program is pinned, on a BPF file system [default: /sys/fs/bpf/xdpfs/UPLINK].
    #[arg(long, value_name = "DIR", env = "XDPFS_EDGE_PIN_DIR")]
    pin_dir: Option<PathBuf>,
    /// What becomes of the kernel program when the edge is told to stop. When it is killed, the program stays, and the
    /// next start takes it over.
    #[arg(long, value_name = "WHAT", env = "XDPFS_EDGE_ON_EXIT", default_value = "detach")]
    on_exit: OnExit,
    /// Whether the interfaces of nodes are made ready for what the kernel program sends them.
    #[arg(long, value_name = "WHEN", env = "XDPFS_EDGE_PREPARE", default_value = "auto")]
    prepare: Prepare,
    /// Datagrams per second that one address may send. By default as many as it likes.
    #[arg(long, value_name = "N", env = "XDPFS_EDGE_SOURCE_RATE", value_parser = value_parser!(u32).range(1..=1_000_000_000))]
    source_rate: Option<u32>,
    /// Addresses that may send, separated by commas, such as 10.1.0.0/16. If there are any, others may not.
    #[arg(long, value_name = "PREFIX", env = "XDPFS_EDGE_ALLOW", value_delimiter = ',')]
    allow: Vec<SourcePrefix>,
    /// Addresses that may not send. Of two prefixes that fit, the longer one counts.
    #[arg(long, value_name = "PREFIX", env = "XDPFS_EDGE_DENY", value_delimiter = ',')]
    deny: Vec<SourcePrefix>,
    /// The unix socket where `xdpfs-cli xdp` asks about the kernel program. By default, with XDP,
    /// `/run/xdpfs/edge-PORT.sock`, if that can be had.
    #[arg(long, value_name = "PATH", env = "XDPFS_EDGE_ADMIN_SOCKET")]
    admin_socket: Option<PathBuf>,
    /// Tell metrics and readiness over HTTP here. By default nowhere.
    #[arg(long, value_name = "IP:PORT", env = "XDPFS_EDGE_HTTP_LISTEN")]
    http_listen: Option<SocketAddr>,
    /// Where the edge says whether it serves, by grpc.health.v1, as `xdpfs.Edge`: it does once a leader has said which
    /// nodes there are, and while it has said so within ten seconds. By default nowhere.
    #[arg(long, value_name = "IP:PORT", env = "XDPFS_EDGE_HEALTH_LISTEN")]
    health_listen: Option<SocketAddr>,
    /// The user to become once what takes root is done: NAME, NAME:GROUP or UID:GID. One thread stays what it is if it
    /// has the kernel program in its care.
    #[arg(long, value_name = "USER", env = "XDPFS_EDGE_USER")]
    user: Option<RunAs>,
    /// Which messages are logged: a level, such as `debug`, or MODULE=LEVEL, separated by commas.
    #[arg(long, env = "XDPFS_LOG", value_name = "FILTER", default_value = "info")]
    pub log: LogFilter,
    /// Log as JSON.
    #[arg(long, env = "XDPFS_LOG_JSON")]
    pub log_json: bool,
    /// A TOML file with options: each key is a long option without its dashes, and an unknown one is an error. What the
    /// command line or the environment says wins.
    #[arg(long, env = "XDPFS_EDGE_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print every option with its value and where that came from, as such a file, and end.
    #[arg(long)]
    pub show_config: bool,
}

/// Why a configuration can't work.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum EdgeConfigError {
    /// The address that nodes should advertise isn't `HOST:PORT`.
    #[error("the advertised address {0:?} is not HOST:PORT")]
    Advertise(String),
    /// A prefix is both allowed and denied.
    #[error("{0} is both allowed and denied")]
    Contradiction(SourcePrefix),
    /// The metadata servers can't be spoken to so.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// There can't be such an interface.
    #[error("{0:?} is no name of an interface")]
    Interface(String),
    /// There is no metadata server.
    #[error("at least one metadata server is needed")]
    NoEndpoint,
    /// State would be pinned wherever the program happens to be started.
    #[error("the pin directory {} is not an absolute path", .0.display())]
    PinDir(PathBuf),
    /// The edge listens on all addresses, and none of them was named for clients.
    #[error("listening on {0} needs the address that nodes advertise: --advertise")]
    Unspecified(SocketAddr),
    /// XDP without an interface to put it on.
    #[error("XDP mode {0} needs the interface that datagrams come in by: --uplink")]
    Uplink(XdpMode),
}

/// A checked configuration.
#[derive(Clone, Debug)]
pub struct EdgeConfig {
    /// Metadata servers to ask for the leader.
    pub meta: Vec<MetaEndpoint>,
    /// How they are spoken to.
    pub link: Link,
    /// Where datagrams are received.
    pub listen: SocketAddr,
    /// What the nodes behind the edge advertise; where datagrams are received if not given.
    pub advertise: Option<String>,
    /// The interface that datagrams come in by. There is one, unless XDP is off.
    pub uplink: Option<String>,
    /// Whether datagrams cross in the kernel.
    pub xdp: XdpMode,
    /// How replies cross.
    pub replies: Replies,
    /// Where the kernel program's state is pinned; a place of the uplink's own if not given.
    pub pin_dir: Option<PathBuf>,
    /// What becomes of the kernel program.
    pub on_exit: OnExit,
    /// Whether interfaces are made ready.
    pub prepare: Prepare,
    /// Who may send, and how fast.
    pub sources: SourceConfig,
    /// The unix socket where operators ask about the kernel program; the usual one, if there is one to ask about, if
    /// not given.
    pub admin_socket: Option<PathBuf>,
    /// Where metrics and readiness are told over HTTP. None: nowhere.
    pub listen_http: Option<SocketAddr>,
    /// Where the edge says whether it serves; nowhere if not given.
    pub health: Option<HealthConfig>,
    /// The user to become once what takes root is done.
    pub user: Option<RunAs>,
    /// Clients whose datagrams are relayed at a time; of more, those heard of longest ago are forgotten.
    pub flows_max: usize,
    /// A client is forgotten after this long without a datagram.
    pub flow_idle_max: Duration,
}

impl EdgeConfig {
    /// An edge without a kernel program on any free port of the loopback interface.
    #[must_use]
    pub fn new(meta: Vec<MetaEndpoint>) -> Self {
        Self {
            meta,
            link: Link::default(),
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            advertise: None,
            uplink: None,
            xdp: XdpMode::Off,
            replies: Replies::default(),
            pin_dir: None,
            on_exit: OnExit::default(),
            prepare: Prepare::default(),
            sources: SourceConfig::default(),
            admin_socket: None,
            listen_http: None,
            health: None,
            user: None,
            flows_max: FLOWS_MAX,
            flow_idle_max: FLOW_IDLE_MAX,
        }
    }

    /// Whether the parts fit each other.
    ///
    /// # Errors
    /// See [`EdgeConfigError`].
    pub fn check(&self) -> Result<(), EdgeConfigError> {
        if self.meta.is_empty() {
            return Err(EdgeConfigError::NoEndpoint);
        }
        self.link.check(&self.meta)?;
        match &self.uplink {
            None if self.xdp != XdpMode::Off => return Err(EdgeConfigError::Uplink(self.xdp)),
            Some(name) if !is_interface_name(name) => return Err(EdgeConfigError::Interface(name.clone())),
            _ => {}
        }
        if let Some(relative) = self.pin_dir.as_ref().filter(|dir| !dir.is_absolute()) {
            return Err(EdgeConfigError::PinDir(relative.clone()));
        }
        let SourceConfig { allow, deny, .. } = &self.sources;
        if let Some(both) = allow.iter().find(|prefix| deny.contains(prefix)) {
            return Err(EdgeConfigError::Contradiction(*both));
        }
        match &self.advertise {
            Some(address) if !is_host_and_port(address) => Err(EdgeConfigError::Advertise(address.clone())),
            None if self.listen.ip().is_unspecified() => Err(EdgeConfigError::Unspecified(self.listen)),
            _ => Ok(()),
        }
    }

    /// What the kernel program is told, of an edge that receives on `listen`.
    pub(super) fn xdp(&self, listen: SocketAddr) -> EdgeXdpConfig {
        let uplink = self.uplink.clone().unwrap_or_default();
        let advertised = self.advertise.as_ref().and_then(|address| address.parse::<SocketAddr>().ok());
        // The BPF file system has no names with dots.
        let usual = || PathBuf::from(PIN_ROOT).join(uplink.replace('.', "-"));
        EdgeXdpConfig {
            mode: self.xdp,
            listen,
            advertised: advertised.map(|address| address.ip()),
            replies: self.replies,
            pin_dir: self.pin_dir.clone().unwrap_or_else(usual),
            on_exit: self.on_exit,
            prepare: self.prepare,
            sources: self.sources.clone(),
            user: self.user,
            uplink,
        }
    }
}

impl TryFrom<EdgeArguments> for EdgeConfig {
    type Error = EdgeConfigError;

    fn try_from(args: EdgeArguments) -> Result<Self, EdgeConfigError> {
        let usual_mode = if args.uplink.is_none() { XdpMode::Off } else { XdpMode::Auto };
        let config = Self {
            link: Link { tls: args.tls, insecure: args.insecure },
            listen: args.listen,
            advertise: args.advertise,
            xdp: args.xdp.unwrap_or(usual_mode),
            uplink: args.uplink,
            replies: args.replies,
            pin_dir: args.pin_dir,
            on_exit: args.on_exit,
            prepare: args.prepare,
            sources: SourceConfig { rate: args.source_rate, allow: args.allow, deny: args.deny },
            admin_socket: args.admin_socket,
            listen_http: args.http_listen,
            health: args.health_listen.map(HealthConfig::new),
            user: args.user,
            ..Self::new(args.meta)
        };
        config.check().map(|()| config)
    }
}

/// Whether the kernel would take the name. It becomes part of a path, too.
fn is_interface_name(name: &str) -> bool {
    let len_fits = (1..=INTERFACE_LEN_MAX).contains(&name.len());
    len_fits
        && name != "."
        && name != ".."
        && !name.contains(|c: char| c == '/' || c == ':' || c.is_whitespace())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<EdgeConfig, EdgeConfigError> {
        let line = format!("edge --meta localhost:1 {line}");
        EdgeArguments::parse_from(line.split_whitespace()).try_into()
    }

    #[test]
    fn command_line_becomes_a_configuration() {
        let config = parsed(
            "--advertise e:7400 --uplink eth0 --replies kernel --on-exit keep --prepare off --source-rate 5000 \
             --allow 10.0.0.0/8,fd00::/8 --deny 10.9.0.0/16",
        )
        .unwrap();
        assert_eq!(config.listen.to_string(), "0.0.0.0:7400");
        assert_eq!((config.xdp, config.replies), (XdpMode::Auto, Replies::Kernel));
        assert_eq!((config.on_exit, config.prepare), (OnExit::Keep, Prepare::Off));
        assert_eq!(config.sources.rate, Some(5000));
        assert_eq!(config.sources.allow, ["10.0.0.0/8", "fd00::/8"].map(|prefix| prefix.parse().unwrap()));
        assert_eq!(config.xdp(config.listen).pin_dir, PathBuf::from("/sys/fs/bpf/xdpfs/eth0"));
    }

    #[test]
    fn an_uplink_alone_asks_for_the_best_mode() {
        let mode = |line| parsed(line).map(|config| config.xdp);
        assert_eq!(mode("--listen 10.0.0.1:7400"), Ok(XdpMode::Off));
        assert_eq!(mode("--listen 10.0.0.1:7400 --uplink eth0"), Ok(XdpMode::Auto));
        assert_eq!(mode("--listen 10.0.0.1:7400 --uplink eth0 --xdp off"), Ok(XdpMode::Off));
        let native = mode("--listen 10.0.0.1:7400 --xdp native");
        assert_eq!(native, Err(EdgeConfigError::Uplink(XdpMode::Native)));
    }

    #[test]
    fn parts_that_do_not_fit_are_refused() {
        let good = EdgeConfig::new(vec!["localhost:1".parse().unwrap()]);
        let check = |config: EdgeConfig, expect| assert_eq!(config.check(), expect, "{config:?}");
        check(good.clone(), Ok(()));
        check(EdgeConfig { meta: Vec::new(), ..good.clone() }, Err(EdgeConfigError::NoEndpoint));
        let everywhere = "[::]:7400".parse().unwrap();
        let unspecified = EdgeConfig { listen: everywhere, ..good.clone() };
        check(unspecified, Err(EdgeConfigError::Unspecified(everywhere)));
        let advertise = Some("h".to_owned());
        check(EdgeConfig { advertise, ..good.clone() }, Err(EdgeConfigError::Advertise("h".into())));
        for name in ["", ".", "..", "a/b", "a b", "sixteen-bytes-xx"] {
            let config = EdgeConfig { uplink: Some(name.into()), ..good.clone() };
            check(config, Err(EdgeConfigError::Interface(name.into())));
        }
        let pin_dir = EdgeConfig { pin_dir: Some("pins".into()), ..good.clone() };
        check(pin_dir, Err(EdgeConfigError::PinDir("pins".into())));
        let prefix: SourcePrefix = "10.0.0.0/8".parse().unwrap();
        let sources = SourceConfig { allow: vec![prefix], deny: vec![prefix], ..SourceConfig::default() };
        check(EdgeConfig { sources, ..good }, Err(EdgeConfigError::Contradiction(prefix)));
    }
}

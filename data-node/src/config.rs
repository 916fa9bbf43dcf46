//! What the node is told at its start: as typed on the command line, and as checked.

use std::{
    collections::BTreeMap,
    fmt,
    net::SocketAddr,
    num::{NonZeroU64, NonZeroUsize},
    path::{Path, PathBuf},
    str::FromStr,
};

use bytesize::ByteSize;
use clap::Parser;
use thiserror::Error;
use uuid::Uuid;
use xdpfs_observe::LogFilter;

use crate::{
    disks::{IoChoice, StoreOptions},
    health::HealthConfig,
    link::{Link, LinkError},
    node_label::{NodeLabel, NodeLabelError, by_key},
    own_address::OwnAddress,
    run_as::RunAs,
    scrub::ScrubConfig,
    xdp::{XdpConfig, XdpMode},
};

const AFTER_HELP: &str = "Prints one line `ready id=N address=HOST:PORT` once a metadata leader has registered the node. \
    Logs go to stderr; SIGHUP has the configuration read again. SIGINT and SIGTERM stop the node: chunks under \
    way are finished first. Exit codes: 0 stopped as told, 1 failed, 2 wrong usage.";

/// Serves chunks from one data directory.
#[derive(Clone, Debug, Parser)]
#[command(name = "xdpfs-data-node", version, about, after_help = AFTER_HELP)]
pub struct Arguments {
    /// The directory that holds the chunks; made if it isn't there.
    ///
    /// It belongs to one node and one cluster for life, and to one process at a time.
    #[arg(long, value_name = "DIR", env = "XDPFS_NODE_DATA_DIR", required_unless_present = "data_root")]
    data_dir: Option<PathBuf>,
    /// Instead of a data directory, one that holds those of several nodes: the first of `node-1`, `node-2` and so on
    /// that no other process uses is taken, or else the next one is made.
    ///
    /// For the replicas of one service, which are all started alike and share a volume.
    #[arg(long, value_name = "DIR", env = "XDPFS_NODE_DATA_ROOT", conflicts_with = "data_dir")]
    data_root: Option<PathBuf>,
    /// A directory for chunks on a disk of its own, for each disk of the node; several times, or separated by commas. The last
    /// part of its name is made if it isn't there; otherwise it is empty, or a disk of this node. A disk that fails, or that is
    /// not mounted, fails alone: the node goes on with the others and says so.
    ///
    /// The data directory then holds no chunks, but goes on to be one of the disks if it held some before. By default it is the
    /// only disk.
    #[arg(
        long = "disk",
        value_name = "DIR",
        env = "XDPFS_NODE_DISKS",
        value_delimiter = ',',
        conflicts_with = "data_root"
    )]
    disks: Vec<PathBuf>,
    /// A disk that the node shall miss no more, as its log and `xdpfs-cli status` name it; several times, or separated by
    /// commas. What was on it is lost to the node, and an empty directory in its place is a new disk.
    #[arg(
        long = "forget-disk",
        value_name = "UUID",
        env = "XDPFS_NODE_FORGET_DISKS",
        value_delimiter = ',',
        conflicts_with = "data_root"
    )]
    forget_disks: Vec<Uuid>,
    /// The metadata servers, separated by commas. Any of them will do: the leader is found from there.
    #[arg(long, value_name = "HOST:PORT", env = "XDPFS_NODE_META", value_delimiter = ',', required = true)]
    meta: Vec<MetaEndpoint>,
    /// The directory with ca.pem, server.pem and server.key, as xdpfs-cli init makes it: TLS is spoken with the metadata
    /// servers. The files are looked at every two seconds, and new ones are used.
    #[arg(long, value_name = "DIR", env = "XDPFS_NODE_TLS")]
    tls: Option<PathBuf>,
    /// Speak plaintext with metadata servers on other hosts, too: everybody on the way sees the cluster's secrets.
    #[arg(long, env = "XDPFS_NODE_INSECURE")]
    insecure: bool,
    /// The address to receive datagrams on. Port 0 takes any free one.
    #[arg(long, value_name = "IP:PORT", env = "XDPFS_NODE_LISTEN", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// The `HOST:PORT` where clients reach this node, if it isn't the one it listens on. With `auto`, the address that it
    /// would speak to the metadata servers from, as found at the start, and the port that it listens on.
    #[arg(long, value_name = "HOST:PORT", env = "XDPFS_NODE_ADVERTISE")]
    advertise: Option<OwnAddress>,
    /// The `HOST:PORT` where an edge reaches this node, if clients reach it through one: the edge's address is then the
    /// advertised one. By default the address that it listens on; `auto` as for --advertise.
    #[arg(long, value_name = "HOST:PORT", env = "XDPFS_NODE_DIRECT")]
    direct: Option<OwnAddress>,
    /// Replicas are spread over distinct failure domains. By default each node is one of its own.
    #[arg(long, value_name = "NAME", env = "XDPFS_NODE_FAILURE_DOMAIN")]
    failure_domain: Option<String>,
    /// What the node says of itself, such as zone=a; several times, or separated by commas. Replicas are spread over
    /// distinct zones first, then racks, hosts and disks: the labels `zone`, `rack`, `host` and `disk`. Others mean what
    /// you want. What an operator sets by `xdpfs-cli node label` wins.
    #[arg(long = "label", value_name = "KEY=VALUE", env = "XDPFS_NODE_LABELS", value_delimiter = ',')]
    labels: Vec<NodeLabel>,
    /// How much space chunks may take on each disk, such as 10GiB. By default all of its file system but a reserve.
    #[arg(long, value_name = "SIZE", env = "XDPFS_NODE_CAPACITY")]
    capacity: Option<ByteSize>,
    /// Memory for pages of chunks that are read again and again, of all disks together; 0 for none.
    #[arg(long, value_name = "SIZE", env = "XDPFS_NODE_CACHE", default_value = "128MiB")]
    cache: ByteSize,
    /// How many bytes are read ahead of a client that reads straight on, at most; 0 for none.
    #[arg(long, value_name = "SIZE", env = "XDPFS_NODE_READ_AHEAD", default_value = "2MiB")]
    read_ahead: ByteSize,
    /// How many bytes are copied on each disk in a second to get back the room of deleted chunks, unless a chunk waits for that
    /// room; 0 for as many as it can.
    #[arg(long, value_name = "SIZE", env = "XDPFS_NODE_COMPACTION_RATE", default_value = "64MiB")]
    compaction_rate: ByteSize,
    /// How many chunks and deletions one durable write takes, of those that wait.
    #[arg(long, value_name = "COUNT", env = "XDPFS_NODE_BATCH_OPS", default_value = "256")]
    batch_ops: NonZeroUsize,
    /// At how many bytes one durable write takes no more chunks. Two buffers of this size are held for each disk.
    #[arg(long, value_name = "SIZE", env = "XDPFS_NODE_BATCH_BYTES", default_value = "8MiB")]
    batch_bytes: ByteSize,
    /// How disks are reached.
    #[arg(long, value_name = "MODE", env = "XDPFS_NODE_IO", default_value_t)]
    io: IoChoice,
    /// Don't start where chunks would not outlive a power loss, as far as the kernel knows: in memory, in the layers of a
    /// container, on another machine or in the hands of a program (FUSE). Without this, that is a warning.
    #[arg(long, env = "XDPFS_NODE_REQUIRE_DURABLE")]
    require_durable: bool,
    /// How many bytes of chunks are read from each disk and checked in a second, in the background, to find damage before it is too late,
    /// such as 8MiB; 0 for none.
    #[arg(long, value_name = "SIZE", env = "XDPFS_NODE_SCRUB_RATE", default_value = "8MiB")]
    scrub_rate: ByteSize,
    /// How long after all chunks have been checked that begins anew, such as 7days.
    #[arg(long, value_name = "TIME", env = "XDPFS_NODE_SCRUB_INTERVAL", default_value = "7days")]
    scrub_interval: humantime::Duration,
    /// Whether datagrams are judged in the kernel, before the network stack sees them. By default auto if an interface
    /// is named, else off. What can't be had is an error, but with auto.
    #[arg(long, value_name = "MODE", env = "XDPFS_NODE_XDP")]
    xdp: Option<XdpMode>,
    /// The interfaces that datagrams come in by, separated by commas.
    #[arg(long, value_name = "INTERFACE", env = "XDPFS_NODE_XDP_INTERFACE", value_delimiter = ',')]
    xdp_interface: Vec<String>,
    /// The unix socket where `xdpfs-cli xdp` asks about the kernel program. By default, with XDP,
    /// `/run/xdpfs/node-PORT.sock`, or `xdp.sock` in the data directory where that can't be had.
    #[arg(long, value_name = "PATH", env = "XDPFS_NODE_ADMIN_SOCKET")]
    admin_socket: Option<PathBuf>,
    /// Tell metrics and readiness over HTTP here. By default nowhere.
    #[arg(long, value_name = "IP:PORT", env = "XDPFS_NODE_HTTP_LISTEN")]
    http_listen: Option<SocketAddr>,
    /// Where the node says whether it serves, by grpc.health.v1, as `xdpfs.DataNode`: it does while it is registered, has
    /// heard from a leader within ten seconds, and one of its disks at least is sound. By default nowhere.
    #[arg(long, value_name = "IP:PORT", env = "XDPFS_NODE_HEALTH_LISTEN")]
    health_listen: Option<SocketAddr>,
    /// The user to become once what takes root is done: NAME, NAME:GROUP or UID:GID. One thread stays what it is if it
    /// has the kernel program in its care.
    #[arg(long, value_name = "USER", env = "XDPFS_NODE_USER")]
    user: Option<RunAs>,
    /// Which messages are logged: a level, such as `debug`, or MODULE=LEVEL, separated by commas.
    #[arg(long, env = "XDPFS_LOG", value_name = "FILTER", default_value = "info")]
    pub log: LogFilter,
    /// Log as JSON.
    #[arg(long, env = "XDPFS_LOG_JSON")]
    pub log_json: bool,
    /// A TOML file with options: each key is a long option without its dashes, and an unknown one is an error. What the
    /// command line or the environment says wins.
    #[arg(long, env = "XDPFS_NODE_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print every option with its value and where that came from, as such a file, and end.
    #[arg(long)]
    pub show_config: bool,
}

/// Why a configuration can't work.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum ConfigError {
    /// The address that clients should use isn't `HOST:PORT`.
    #[error("the advertised address {0:?} is not HOST:PORT")]
    Advertise(String),
    /// There is no place for chunks.
    #[error("a node needs a place for its chunks: --data-dir or --data-root")]
    DataPlace,
    /// Disks are named for several nodes at once.
    #[error("disks (--disk) belong to one node: they need its --data-dir")]
    Disks,
    /// The address that an edge should use isn't `HOST:PORT`.
    #[error("the direct address {0:?} is not HOST:PORT")]
    Direct(String),
    /// An endpoint isn't `HOST:PORT`.
    #[error("the metadata server {0:?} is not HOST:PORT")]
    Endpoint(String),
    /// The metadata servers can't be spoken to so.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// A label is none.
    #[error(transparent)]
    Label(#[from] NodeLabelError),
    /// There is no metadata server.
    #[error("at least one metadata server is needed")]
    NoEndpoint,
    /// An address for others is none.
    #[error("{0:?} is neither HOST:PORT nor auto")]
    OwnAddress(String),
    /// The node listens on all addresses, and none of them was named for clients.
    #[error("listening on {0} needs an address to advertise: --advertise HOST:PORT, or auto")]
    Unspecified(SocketAddr),
    /// XDP without an interface to put it on.
    #[error("XDP mode {0} needs an interface: --xdp-interface")]
    XdpInterface(XdpMode),
}

/// Where a metadata server listens for clients and nodes.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct MetaEndpoint {
    host_and_port: String,
}

impl MetaEndpoint {
    /// The endpoint as `HOST:PORT`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.host_and_port
    }

    /// Its host, without the brackets of an IPv6 address.
    #[must_use]
    pub fn host(&self) -> &str {
        let host = self.host_and_port.rsplit_once(':').map_or(self.as_str(), |(host, _)| host);
        host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
    }
}

impl fmt::Display for MetaEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.host_and_port)
    }
}

impl FromStr for MetaEndpoint {
    type Err = ConfigError;

    /// Takes `HOST:PORT` and `http://HOST:PORT`.
    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let host_and_port = text.trim().trim_start_matches("http://").trim_end_matches('/');
        if is_host_and_port(host_and_port) {
            Ok(Self { host_and_port: host_and_port.to_owned() })
        } else {
            Err(ConfigError::Endpoint(text.to_owned()))
        }
    }
}

/// Where a node has its chunks.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum DataPlace {
    /// In this directory.
    Directory(PathBuf),
    /// In whichever directory below this one is free.
    Root(PathBuf),
}

impl DataPlace {
    /// The directory that was named.
    #[must_use]
    pub fn path(&self) -> &Path {
        match self {
            Self::Directory(path) | Self::Root(path) => path,
        }
    }
}

/// A checked configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the node keeps who it is, and its chunks if no disks are named.
    pub data: DataPlace,
    /// A directory for each disk. None: the data directory is the only one.
    pub disks: Vec<PathBuf>,
    /// Disks that the node shall miss no more.
    pub forget_disks: Vec<Uuid>,
    /// Metadata servers to ask for the leader.
    pub meta: Vec<MetaEndpoint>,
    /// How they are spoken to.
    pub link: Link,
    /// Where datagrams are received.
    pub listen: SocketAddr,
    /// Where clients are told to send them; where they are received if not given.
    pub advertise: Option<OwnAddress>,
    /// Where an edge sends them; where they are received if not given.
    pub direct: Option<OwnAddress>,
    /// Nodes of one failure domain never hold two replicas of a chunk. Empty: this node alone.
    pub failure_domain: String,
    /// What the node says of itself, by key.
    pub labels: BTreeMap<String, String>,
    /// What the stores of the disks may take, and how they work.
    pub store: StoreOptions,
    /// Whether a place that keeps nothing is an error.
    pub require_durable: bool,
    /// How hard damage is looked for.
    pub scrub: ScrubConfig,
    /// Whether and where the kernel judges datagrams first.
    pub xdp: XdpConfig,
    /// The unix socket where operators ask about the kernel program; the usual one, if there is one to ask about, if
    /// not given.
    pub admin_socket: Option<PathBuf>,
    /// Where metrics and readiness are told over HTTP. None: nowhere.
    pub listen_http: Option<SocketAddr>,
    /// Where the node says whether it serves; nowhere if not given.
    pub health: Option<HealthConfig>,
    /// The user to become once what takes root is done.
    pub user: Option<RunAs>,
}

impl Config {
    /// A node on any free port of the loopback interface.
    #[must_use]
    pub fn new(data_dir: impl Into<PathBuf>, meta: Vec<MetaEndpoint>) -> Self {
        Self {
            data: DataPlace::Directory(data_dir.into()),
            disks: Vec::new(),
            forget_disks: Vec::new(),
            meta,
            link: Link::default(),
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            advertise: None,
            direct: None,
            failure_domain: String::new(),
            labels: BTreeMap::new(),
            store: StoreOptions::default(),
            require_durable: false,
            scrub: ScrubConfig::default(),
            xdp: XdpConfig::default(),
            admin_socket: None,
            listen_http: None,
            health: None,
            user: None,
        }
    }

    /// Whether the parts fit each other.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn check(&self) -> Result<(), ConfigError> {
        if self.meta.is_empty() {
            return Err(ConfigError::NoEndpoint);
        }
        self.link.check(&self.meta)?;
        let speaks_of_disks = !self.disks.is_empty() || !self.forget_disks.is_empty();
        if speaks_of_disks && matches!(self.data, DataPlace::Root(_)) {
            return Err(ConfigError::Disks);
        }
        if self.xdp.mode != XdpMode::Off && self.xdp.interfaces.is_empty() {
            return Err(ConfigError::XdpInterface(self.xdp.mode));
        }
        match &self.direct {
            Some(OwnAddress::At(address)) if !is_host_and_port(address) => {
                return Err(ConfigError::Direct(address.clone()));
            }
            _ => {}
        }
        match &self.advertise {
            Some(OwnAddress::At(address)) if !is_host_and_port(address) => {
                Err(ConfigError::Advertise(address.clone()))
            }
            None if self.listen.ip().is_unspecified() => Err(ConfigError::Unspecified(self.listen)),
            _ => Ok(()),
        }
    }
}

impl TryFrom<Arguments> for Config {
    type Error = ConfigError;

    fn try_from(args: Arguments) -> Result<Self, ConfigError> {
        let usual_mode = if args.xdp_interface.is_empty() { XdpMode::Off } else { XdpMode::Auto };
        let xdp = XdpConfig { mode: args.xdp.unwrap_or(usual_mode), interfaces: args.xdp_interface };
        let data = match (args.data_dir, args.data_root) {
            (Some(directory), _) => DataPlace::Directory(directory),
            (None, Some(root)) => DataPlace::Root(root),
            (None, None) => return Err(ConfigError::DataPlace),
        };
        let config = Self {
            data,
            disks: args.disks,
            forget_disks: args.forget_disks,
            meta: args.meta,
            link: Link { tls: args.tls, insecure: args.insecure },
            listen: args.listen,
            advertise: args.advertise,
            direct: args.direct,
            failure_domain: args.failure_domain.unwrap_or_default(),
            labels: by_key(args.labels)?,
            store: StoreOptions {
                capacity_bytes: args.capacity.map(|capacity| capacity.as_u64()),
                cache_bytes: args.cache.as_u64(),
                read_ahead_bytes: u32::try_from(args.read_ahead.as_u64()).unwrap_or(u32::MAX),
                compaction_rate: NonZeroU64::new(args.compaction_rate.as_u64()),
                batch_ops: args.batch_ops.get(),
                batch_bytes: args.batch_bytes.as_u64(),
                io: args.io,
            },
            require_durable: args.require_durable,
            scrub: ScrubConfig {
                bytes_per_second: args.scrub_rate.as_u64(),
                interval: args.scrub_interval.into(),
            },
            xdp,
            admin_socket: args.admin_socket,
            listen_http: args.http_listen,
            health: args.health_listen.map(HealthConfig::new),
            user: args.user,
        };
        config.check().map(|()| config)
    }
}

pub(crate) fn is_host_and_port(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| {
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let host_is_plain = !bare.is_empty() && !bare.contains(['/', '@', '[', ']', ' ']);
        // An IPv6 address needs its brackets, or its last group would pass for a port.
        host_is_plain && (bare.len() < host.len() || !host.contains(':')) && port.parse::<u16>().is_ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_a_host_and_a_port() {
        let check = |text: &str, expect: Option<&str>| {
            let endpoint = text.parse().ok().map(|endpoint: MetaEndpoint| endpoint.to_string());
            assert_eq!(endpoint.as_deref(), expect, "{text:?}");
        };
        check("127.0.0.1:7001", Some("127.0.0.1:7001"));
        check("http://meta-1:7001/", Some("meta-1:7001"));
        check("[::1]:7001", Some("[::1]:7001"));
        check("::1:7001", None);
        check("meta-1", None);
        check("meta-1:70000", None);
        check(":7001", None);
        check("https://meta-1:7001", None);
        check("", None);
    }

    #[test]
    fn command_line_becomes_a_configuration() {
        let line =
            "node --data-dir /d --insecure --meta a:1,http://b:2 --capacity 10GiB --failure-domain rack-1";
        let config = Config::try_from(Arguments::parse_from(line.split(' '))).unwrap();
        assert_eq!(config.meta.iter().map(MetaEndpoint::as_str).collect::<Vec<_>>(), ["a:1", "b:2"]);
        assert_eq!(config.store.capacity_bytes, Some(10 << 30));
        assert_eq!(config.failure_domain, "rack-1");
        assert!(config.labels.is_empty());
        assert_eq!(config.scrub, ScrubConfig::default(), "the defaults are said twice");
        assert_eq!(config.listen.to_string(), "127.0.0.1:0");
        assert_eq!((config.data, config.health), (DataPlace::Directory("/d".into()), None));
        assert_eq!((config.disks, config.forget_disks), (Vec::new(), Vec::new()));
        let store = StoreOptions { capacity_bytes: config.store.capacity_bytes, ..StoreOptions::default() };
        assert_eq!(config.store, store, "these are said twice, too");

        let line = "node --data-dir /d --meta localhost:1 --label zone=a,rack=r1 --label disk=sda --scrub-rate 0 --scrub-interval 1h";
        let config = Config::try_from(Arguments::parse_from(line.split(' '))).unwrap();
        let labels: Vec<_> =
            config.labels.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        assert_eq!(labels, [("disk", "sda"), ("rack", "r1"), ("zone", "a")]);
        let hourly = ScrubConfig { bytes_per_second: 0, interval: std::time::Duration::from_secs(3600) };
        assert_eq!(config.scrub, hourly);
        let twice =
            Arguments::parse_from("node --data-dir /d --meta localhost:1 --label zone=a,zone=b".split(' '));
        assert_eq!(Config::try_from(twice).unwrap_err(), NodeLabelError::Twice("zone".into()).into());

        let line = "node --data-root /r --insecure --meta a:1 --listen 0.0.0.0:1 --advertise auto --direct auto --health-listen [::]:2";
        let config = Config::try_from(Arguments::parse_from(line.split(' '))).unwrap();
        assert_eq!(config.data, DataPlace::Root("/r".into()));
        assert_eq!((config.advertise, config.direct), (Some(OwnAddress::Auto), Some(OwnAddress::Auto)));
        assert_eq!(config.health, Some(HealthConfig::new("[::]:2".parse().unwrap())));
    }

    #[test]
    fn there_is_one_place_for_chunks() {
        for line in [
            "node --meta a:1",
            "node --meta a:1 --data-dir /d --data-root /r",
            "node --meta a:1 --data-root /r --disk /a",
            "node --meta a:1 --data-dir /d --forget-disk sda",
        ] {
            Arguments::try_parse_from(line.split(' ')).expect_err(line);
        }
    }

    #[test]
    fn disks_are_named_one_by_one_or_together() {
        let uuid = "6ba7b810-9dad-11d1-80b4-00c04fd430c8";
        let line =
            format!("node --data-dir /d --meta localhost:1 --disk /a,/b --disk /c --forget-disk {uuid}");
        let config = Config::try_from(Arguments::parse_from(line.split(' '))).unwrap();
        assert_eq!(config.disks, ["/a", "/b", "/c"].map(PathBuf::from));
        assert_eq!(config.forget_disks, [uuid.parse::<Uuid>().unwrap()]);
    }

    #[test]
    fn an_interface_alone_asks_for_the_best_mode() {
        let check = |line: &str, expect: Result<(XdpMode, &[&str]), ConfigError>| {
            let line = format!("node --data-dir /d --meta localhost:1 {line}");
            let xdp =
                Config::try_from(Arguments::parse_from(line.split_whitespace())).map(|config| config.xdp);
            let expect = expect.map(|(mode, interfaces)| XdpConfig {
                mode,
                interfaces: interfaces.iter().map(|name| (*name).to_owned()).collect(),
            });
            assert_eq!(xdp, expect, "{line}");
        };
        check("", Ok((XdpMode::Off, &[])));
        check("--xdp-interface eth0,eth1", Ok((XdpMode::Auto, &["eth0", "eth1"])));
        check("--xdp generic --xdp-interface eth0", Ok((XdpMode::Generic, &["eth0"])));
        check("--xdp off --xdp-interface eth0", Ok((XdpMode::Off, &["eth0"])));
        check("--xdp native", Err(ConfigError::XdpInterface(XdpMode::Native)));
    }

    #[test]
    fn parts_that_do_not_fit_are_refused() {
        let good = Config::new("/d", vec!["localhost:1".parse().unwrap()]);
        let everywhere = "0.0.0.0:9001".parse().unwrap();
        let check = |config: Config, expect| assert_eq!(config.check(), expect, "{config:?}");
        check(good.clone(), Ok(()));
        check(Config { meta: Vec::new(), ..good.clone() }, Err(ConfigError::NoEndpoint));
        let (data, disks) = (DataPlace::Root("/r".into()), vec!["/a".into()]);
        check(Config { disks: disks.clone(), ..good.clone() }, Ok(()));
        check(Config { data, disks, ..good.clone() }, Err(ConfigError::Disks));
        let elsewhere: MetaEndpoint = "a:1".parse().unwrap();
        let insecure = Err(ConfigError::Link(LinkError::Insecure(elsewhere.clone())));
        check(Config { meta: vec![elsewhere], ..good.clone() }, insecure);
        check(Config { listen: everywhere, ..good.clone() }, Err(ConfigError::Unspecified(everywhere)));
        let at = |address: &str| Some(OwnAddress::At(address.into()));
        check(Config { listen: everywhere, advertise: at("h:1"), ..good.clone() }, Ok(()));
        check(Config { listen: everywhere, advertise: Some(OwnAddress::Auto), ..good.clone() }, Ok(()));
        check(Config { direct: at("h:1"), ..good.clone() }, Ok(()));
        check(Config { direct: at("h"), ..good.clone() }, Err(ConfigError::Direct("h".into())));
        check(Config { advertise: at("h"), ..good }, Err(ConfigError::Advertise("h".into())));
    }
}

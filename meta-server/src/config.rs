//! What one server is told when it starts: parsed and checked once, then passed by value.

use std::{
    env,
    fs::File,
    io::{self, Read as _, Write as _},
    net::SocketAddr,
    num::ParseIntError,
    path::{Path, PathBuf},
    process,
    time::Duration,
};

use bytesize::ByteSize;
use clap::{CommandFactory as _, FromArgMatches as _, Parser, error::ErrorKind};
use xdpfs_observe::LogFilter;
use xdpfs_proto::state::v1 as pb;
use xdpfs_settings::{Reloader, Settings, mark_reloaded};
use xdpfs_trace::{Endpoint, Ratio};

use crate::{
    credential::{Credential, KeyId, MalformedCredential, SecretHash},
    state_machine::FeatureLevel,
};

/// A key and white space around it are shorter.
const KEY_FILE_BYTES_MAX: u64 = 4096;

/// Everything that a server needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// This server's Raft id; one of `members`. Zero: the one that its data directory has, or that the cluster gives it
    /// when it joins.
    pub id: u64,
    /// The servers that the cluster begins with, in the order of their ids. Once it has begun, its log says who they are.
    /// Of a server that joins only itself.
    pub members: Vec<Member>,
    /// Holds the store. Belongs to one server for life.
    pub data_dir: PathBuf,
    /// Whether an empty data directory is the beginning of a new cluster. Otherwise it is an error: a server that has
    /// lost its store must not vote again under its old id.
    pub bootstrap: bool,
    /// Which cluster to join if the data directory is empty, or if it has not become a member yet.
    pub join: Option<Join>,
    /// Whether a damaged store is moved aside, so that the server joins anew.
    pub quarantine: bool,
    /// Where to listen for other servers. None: this member's own address.
    pub listen_peer: Option<SocketAddr>,
    /// Where to listen for clients and data nodes. None: this member's own address.
    pub listen_client: Option<SocketAddr>,
    /// Where to listen for administrators, who are then served nowhere else. None: where clients are.
    pub listen_admin: Option<SocketAddr>,
    /// Leases, capabilities and liveness.
    pub times: Times,
    /// How much repair may do at once.
    pub repair: RepairConfig,
    /// When data nodes are made evenly full, and how fast.
    pub rebalance: RebalanceConfig,
    /// Consensus and its log.
    pub consensus: ConsensusConfig,
    /// The directory with this server's certificate and key and the authorities that it trusts. None: plaintext.
    pub tls: Option<PathBuf>,
    /// Whether plaintext is spoken on addresses that others than this host reach.
    pub insecure: bool,
    /// Connections of clients and data nodes at once; when there are as many, idle ones end.
    pub connections_max: usize,
    /// Requests of clients that are served at once; more are refused.
    pub requests_max: usize,
    /// A request without a deadline of its own gets this one; none may have a longer one.
    pub deadline: Duration,
    /// How long a graceful shutdown may take.
    pub shutdown_timeout: Duration,
    /// Where metrics and readiness are told over HTTP. None: nowhere.
    pub listen_http: Option<SocketAddr>,
    /// Where browsers are shown the cluster. None: nowhere.
    pub listen_console: Option<SocketAddr>,
    /// A key that may do everything, the same on every server. With it nobody is served without a key.
    pub root_key: Option<RootKey>,
    /// Whether to serve on an address that is not loopback without a root key: until the first access key is made,
    /// everybody may do everything there.
    pub open: bool,
    /// Where administrative acts are noted, besides the log.
    pub audit_log: Option<PathBuf>,
}

/// How a server joins a cluster that runs.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Join {
    /// Where some of its metadata servers serve clients, as `host:port`.
    pub endpoints: Vec<String>,
    /// Whether it does not vote until somebody says so.
    pub learner: bool,
    /// What it shows: a key with the right admin on all buckets. None: its certificate, or nothing.
    pub key: Option<Credential>,
}

/// What is kept of a root key.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RootKey {
    /// Its public name.
    pub id: KeyId,
    /// What its secret is compared with.
    pub secret_hash: SecretHash,
}

impl From<&Credential> for RootKey {
    fn from(credential: &Credential) -> Self {
        Self { id: credential.id().clone(), secret_hash: credential.secret_hash() }
    }
}

/// A server of the cluster.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Member {
    /// Its Raft id; never zero, never given to another server.
    pub id: u64,
    /// `host:port` for other servers.
    pub peer_address: String,
    /// `host:port` for clients and data nodes.
    pub client_address: String,
}

impl Member {
    /// As the log carries it.
    pub(crate) fn record(&self) -> pb::MetaMember {
        let Self { id, peer_address, client_address } = self.clone();
        pb::MetaMember { id, peer_address, client_address, ..pb::MetaMember::default() }
    }
}

/// Durations that clients and data nodes notice.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Times {
    /// An upload is aborted after this long without an Extend or a Commit.
    pub upload_lease: Duration,
    /// How long a capability to write lasts.
    pub write_capability: Duration,
    /// How long a capability to read lasts.
    pub read_capability: Duration,
    /// Replicas without a reference stay for this long; longer than any capability.
    pub deletion_grace: Duration,
    /// A new secret for capabilities after this long; longer than any capability.
    pub key_epoch_rotation: Duration,
    /// A new secret is used only after this long, so that data nodes know it.
    pub key_epoch_settle: Duration,
    /// How often data nodes are asked to speak.
    pub heartbeat_interval: Duration,
    /// A node is silent after this long without a heartbeat.
    pub node_silent_after: Duration,
    /// The registration of a node is over after this long without a heartbeat. The node takes no more writes after half of it.
    pub node_lease: Duration,
    /// What a node held is made anew elsewhere after this long without a heartbeat.
    pub repair_after: Duration,
    /// How often edges are asked to ask.
    pub edge_poll_interval: Duration,
    /// An edge is no longer shown after this long without a word.
    pub edge_forgotten_after: Duration,
}

impl Default for Times {
    fn default() -> Self {
        Self {
            upload_lease: Duration::from_secs(60),
            write_capability: Duration::from_secs(120),
            read_capability: Duration::from_secs(120),
            deletion_grace: Duration::from_secs(180),
            key_epoch_rotation: Duration::from_secs(24 * 60 * 60),
            key_epoch_settle: Duration::from_secs(10),
            heartbeat_interval: Duration::from_secs(1),
            node_silent_after: Duration::from_secs(3),
            node_lease: Duration::from_secs(10),
            repair_after: Duration::from_secs(300),
            edge_poll_interval: Duration::from_millis(250),
            edge_forgotten_after: Duration::from_secs(60),
        }
    }
}

/// How much repair may do at once.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RepairConfig {
    /// Bytes that one node may get, and give, in a second.
    pub bytes_per_s: u64,
    /// Chunks that one node makes at once.
    pub per_node: usize,
}

impl Default for RepairConfig {
    fn default() -> Self {
        Self { bytes_per_s: 64 << 20, per_node: 8 }
    }
}

/// When data nodes are made evenly full, and how fast.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RebalanceConfig {
    /// Bytes that one node may get, and give, in a second.
    pub bytes_per_s: u64,
    /// It begins when a node is off its share by more than this part of it.
    pub threshold_percent: u32,
    /// The data nodes have to have been the same ones for so long.
    pub after: Duration,
}

impl Default for RebalanceConfig {
    fn default() -> Self {
        Self { bytes_per_s: 16 << 20, threshold_percent: 10, after: Duration::from_secs(60) }
    }
}

/// How consensus runs.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ConsensusConfig {
    /// The unit of the two below.
    pub tick: Duration,
    /// Ticks without a leader before a server stands for election; up to twice as many by chance.
    pub election_ticks: usize,
    /// Ticks between two heartbeats of the leader.
    pub heartbeat_ticks: usize,
    /// A snapshot is made after this many entries.
    pub snapshot_entries: u64,
    /// A snapshot is made after this many bytes of entries, and no more than these are then kept.
    pub log_bytes_max: u64,
    /// Entries before a snapshot that are kept for servers that lag behind.
    pub log_entries_kept: u64,
    /// No more of what the program can do than this is announced and used.
    pub feature_level_max: FeatureLevel,
}

impl Default for ConsensusConfig {
    fn default() -> Self {
        Self {
            tick: Duration::from_millis(50),
            // A dead leader is replaced within 0.7 to 1.4 s; a leader that is paused for less keeps its place.
            election_ticks: 14,
            heartbeat_ticks: 2,
            snapshot_entries: 20_000,
            log_bytes_max: 64 << 20,
            log_entries_kept: 10_000,
            feature_level_max: FeatureLevel::SUPPORTED,
        }
    }
}

/// Why a configuration is refused.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// Raft ids begin with one.
    #[error("zero is no server id")]
    ZeroId,
    /// The own id must be a member's.
    #[error("server {0} is not among the members")]
    NotAMember(u64),
    /// It does not say which server this is.
    #[error(
        "give --id and --member for a server of a new cluster, or --address, and --join for its first start, for one \
         that joins a cluster"
    )]
    Nobody,
    /// A store can be given up only for a new beginning.
    #[error("--quarantine makes a server join anew: give --join, too")]
    QuarantineWithoutJoin,
    /// Each id names one server.
    #[error("server {0} is there twice")]
    Twice(u64),
    /// A member's address makes no sense.
    #[error("{0:?} is not an address: write HOST:PORT")]
    Address(String),
    /// Anybody could reach an address at which nobody is asked who it is.
    #[error(
        "listening on {0} without TLS would let anybody who reaches it change the cluster: give --tls DIR (xdpfs-cli \
         init makes the certificates), or --insecure if everybody on that network is trusted"
    )]
    Insecure(SocketAddr),
    /// TLS and plaintext are asked for.
    #[error("--tls and --insecure contradict each other: give one of them")]
    InsecureTls,
    /// A server that lets nobody in is of no use.
    #[error("the number of connections must not be zero")]
    NoConnections,
    /// A server that serves nothing is of no use.
    #[error("the number of requests that are served at once must not be zero")]
    NoRequests,
    /// The file with a key can't be used.
    #[error("the key can't be read from {}: {why}", .file.display())]
    KeyFile {
        /// Which file.
        file: PathBuf,
        /// Why; without anything of its content.
        why: String,
    },
    /// Two durations do not fit.
    #[error("{0} must be longer than {1}")]
    TooShort(&'static str, &'static str),
}

impl Config {
    /// A configuration with the usual values.
    #[must_use]
    pub fn new(id: u64, mut members: Vec<Member>, data_dir: PathBuf) -> Self {
        members.sort_by_key(|member| member.id);
        Self {
            id,
            members,
            data_dir,
            bootstrap: false,
            join: None,
            quarantine: false,
            listen_peer: None,
            listen_client: None,
            listen_admin: None,
            times: Times::default(),
            repair: RepairConfig::default(),
            rebalance: RebalanceConfig::default(),
            consensus: ConsensusConfig::default(),
            tls: None,
            insecure: false,
            connections_max: 1024,
            requests_max: 1024,
            deadline: Duration::from_secs(10),
            shutdown_timeout: Duration::from_secs(10),
            listen_http: None,
            listen_console: None,
            root_key: None,
            open: false,
            audit_log: None,
        }
    }

    /// Checks what the parts cannot check for themselves.
    ///
    /// # Errors
    ///
    /// The parts contradict each other.
    pub fn check(&self) -> Result<(), ConfigError> {
        let is_nameless = self.id == 0 && self.members.len() == 1 && !self.bootstrap;
        if self.members.iter().any(|member| member.id == 0) && !is_nameless {
            return Err(ConfigError::ZeroId);
        }
        if self.quarantine && self.join.is_none() {
            return Err(ConfigError::QuarantineWithoutJoin);
        }
        if let Some(pair) = self.members.windows(2).find(|pair| pair[0].id == pair[1].id) {
            return Err(ConfigError::Twice(pair[0].id));
        }
        self.own_member().ok_or(ConfigError::NotAMember(self.id))?;
        let addresses = self.members.iter().flat_map(|member| [&member.peer_address, &member.client_address]);
        let endpoints = self.join.iter().flat_map(|join| &join.endpoints);
        if let Some(bad) = addresses.chain(endpoints).find(|address| !is_host_and_port(address)) {
            return Err(ConfigError::Address(bad.clone()));
        }
        if self.requests_max == 0 {
            return Err(ConfigError::NoRequests);
        }
        if self.connections_max == 0 {
            return Err(ConfigError::NoConnections);
        }
        if self.tls.is_some() && self.insecure {
            return Err(ConfigError::InsecureTls);
        }
        let times = &self.times;
        let capability = times.write_capability.max(times.read_capability);
        if times.deletion_grace <= capability {
            return Err(ConfigError::TooShort("the deletion grace", "any capability"));
        }
        if times.key_epoch_rotation <= capability + times.key_epoch_settle {
            return Err(ConfigError::TooShort("the rotation of key epochs", "any capability"));
        }
        if times.write_capability < times.upload_lease {
            return Err(ConfigError::TooShort("a write capability", "an upload's lease"));
        }
        if times.node_silent_after <= times.heartbeat_interval {
            return Err(ConfigError::TooShort("the silence of a data node", "its heartbeat interval"));
        }
        if times.node_lease / 2 <= times.heartbeat_interval {
            return Err(ConfigError::TooShort("half the lease of a data node", "its heartbeat interval"));
        }
        if times.repair_after < times.node_lease {
            return Err(ConfigError::TooShort("what repair waits", "the lease of a data node"));
        }
        Ok(())
    }

    /// Whether anything may be served at `address` as configured.
    ///
    /// # Errors
    ///
    /// It is reached by others than this host, and nobody has said that plaintext is good enough for them.
    pub fn check_address(&self, address: SocketAddr) -> Result<(), ConfigError> {
        let is_good = self.tls.is_some() || self.insecure || address.ip().is_loopback();
        if is_good { Ok(()) } else { Err(ConfigError::Insecure(address)) }
    }

    /// This server has this id from now on.
    pub(crate) fn become_server(&mut self, id: u64) {
        if self.id == 0 {
            self.id = id;
            self.members.iter_mut().for_each(|member| member.id = id);
        }
    }

    /// This server's own entry.
    #[must_use]
    pub fn own_member(&self) -> Option<&Member> {
        self.members.iter().find(|member| member.id == self.id)
    }

    /// The ids of all members.
    #[must_use]
    pub fn voters(&self) -> Vec<u64> {
        self.members.iter().map(|member| member.id).collect()
    }
}

/// Whether `text` is `HOST:PORT`, with brackets around an IPv6 address.
pub(crate) fn is_host_and_port(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| {
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let host_is_plain =
            !bare.is_empty() && bare.chars().all(|c| c.is_ascii_alphanumeric() || ".:-_".contains(c));
        // An IPv6 address needs its brackets, or its last group would pass for a port.
        host_is_plain && (bare.len() < host.len() || !host.contains(':')) && port.parse::<u16>().is_ok()
    })
}

/// Why a member cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MemberError {
    /// It has other than three parts.
    #[error("expected ID,PEER_ADDRESS,CLIENT_ADDRESS")]
    Parts,
    /// The id is no number.
    #[error("the id is no number")]
    Id(#[from] ParseIntError),
}

impl std::str::FromStr for Member {
    type Err = MemberError;

    fn from_str(text: &str) -> Result<Self, MemberError> {
        let parts: Vec<&str> = text.split(',').map(str::trim).collect();
        let &[id, peer_address, client_address] = parts.as_slice() else { return Err(MemberError::Parts) };
        Ok(Self {
            id: id.parse()?,
            peer_address: peer_address.to_owned(),
            client_address: client_address.to_owned(),
        })
    }
}

/// The options that are read again while the server runs. Certificates are followed all the time.
const RELOADED: &[&str] = &["connections-max", "log", "requests-max", "root-key-file", "trace-sample"];

/// Where a server that joins is reached.
#[derive(Clone, Debug, Eq, PartialEq)]
struct OwnAddress {
    peer: String,
    client: String,
}

impl std::str::FromStr for OwnAddress {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (peer, client) = text.split_once(',').ok_or("expected PEER_ADDRESS,CLIENT_ADDRESS")?;
        Ok(Self { peer: peer.trim().to_owned(), client: client.trim().to_owned() })
    }
}

/// The command line of `xdpfs-meta-server`.
#[derive(Debug, Parser)]
#[command(name = "xdpfs-meta-server", version, about = "A metadata server of xdpfs")]
pub struct Arguments {
    /// This server's id, if it is one of those that the cluster begins with.
    #[arg(long, env = "XDPFS_META_ID", requires = "members", conflicts_with = "address")]
    id: Option<u64>,
    /// Every server that the cluster begins with, this one too: its id, its address for other servers, its address for
    /// clients. Later the cluster itself knows its servers (xdpfs-cli meta list), and this list does not matter.
    #[arg(
        long = "member",
        env = "XDPFS_META_MEMBERS",
        value_name = "ID,PEER_ADDRESS,CLIENT_ADDRESS",
        value_delimiter = ';',
        requires = "id"
    )]
    members: Vec<Member>,
    /// Where the server keeps its log and its snapshots.
    #[arg(long, env = "XDPFS_META_DATA_DIR")]
    data_dir: PathBuf,
    /// Begin a new cluster if the data directory is empty. Give it to the very first start of every server only: a
    /// server that lost its directory must not vote again under its old id.
    #[arg(long, env = "XDPFS_META_BOOTSTRAP")]
    bootstrap: bool,
    /// Join the cluster that one of these metadata servers belongs to, if the data directory is empty: as a server with a
    /// new id, which gets a copy of everything and votes once it has caught up. Later starts need it no more, and may have
    /// it all the same.
    #[arg(
        long,
        env = "XDPFS_META_JOIN",
        value_name = "ENDPOINT",
        value_delimiter = ',',
        requires = "address"
    )]
    #[arg(conflicts_with = "bootstrap")]
    join: Vec<String>,
    /// Where a server that joins is reached: its address for other servers, its address for clients.
    #[arg(long, env = "XDPFS_META_ADDRESS", value_name = "PEER_ADDRESS,CLIENT_ADDRESS")]
    address: Option<OwnAddress>,
    /// Join without a vote until xdpfs-cli meta add or replace gives it one.
    #[arg(long, env = "XDPFS_META_LEARNER", requires = "join")]
    learner: bool,
    /// A file with an access key that has the right admin on all buckets, to join with where there are no certificates.
    #[arg(long, env = "XDPFS_META_JOIN_KEY_FILE", value_name = "FILE", requires = "join")]
    join_key_file: Option<PathBuf>,
    /// If the store is damaged, move it aside within the data directory and join anew, under a new id. The old id stays a
    /// member until somebody removes it.
    #[arg(long, env = "XDPFS_META_QUARANTINE", requires = "join")]
    quarantine: bool,
    /// Listen here for other servers, if not at the member's own address.
    #[arg(long, env = "XDPFS_META_LISTEN_PEER", value_name = "ADDRESS")]
    listen_peer: Option<SocketAddr>,
    /// Listen here for clients and data nodes, if not at the member's own address.
    #[arg(long, env = "XDPFS_META_LISTEN_CLIENT", value_name = "ADDRESS")]
    listen_client: Option<SocketAddr>,
    /// Listen here for administrators. What takes the right admin on all buckets, such as changes of the servers, of access
    /// keys and of data nodes, and backups, is then served here and no longer where clients are; buckets are
    /// administered at both. It has connections and room for requests of its own, however many clients there are. Give it
    /// to all servers, and all these addresses to xdpfs-cli --endpoint, and to --join.
    #[arg(long, env = "XDPFS_META_LISTEN_ADMIN", value_name = "ADDRESS")]
    listen_admin: Option<SocketAddr>,
    /// Seconds without a heartbeat after which a data node gets no new chunks.
    #[arg(long, env = "XDPFS_META_NODE_SILENT_AFTER_S", value_name = "SECONDS", default_value_t = 3)]
    node_silent_after_s: u64,
    /// Seconds without a heartbeat after which the registration of a data node is over: what it says counts only once it has
    /// registered anew. It takes no more writes after half of them. Times are counted on each one's own clock: of clocks that
    /// run at rates less than a third apart, the node stops first.
    #[arg(long, env = "XDPFS_META_NODE_LEASE_S", value_name = "SECONDS", default_value_t = 10)]
    #[arg(value_parser = clap::value_parser!(u64).range(3..=86_400), hide_short_help = true)]
    node_lease_s: u64,
    /// Seconds without a heartbeat after which what a data node held is made anew elsewhere. One that is back before has lost
    /// nothing, and nothing was copied. Must not be shorter than its lease.
    #[arg(long, env = "XDPFS_META_REPAIR_AFTER_S", value_name = "SECONDS", default_value_t = 300)]
    #[arg(value_parser = clap::value_parser!(u64).range(3..))]
    repair_after_s: u64,
    /// Bytes that repair may have one data node get, and give, in a second.
    #[arg(long, env = "XDPFS_META_REPAIR_RATE", value_name = "SIZE", default_value = "64MiB")]
    repair_rate: ByteSize,
    /// Chunks that repair has one data node make at once.
    #[arg(long, env = "XDPFS_META_REPAIR_PER_NODE", value_name = "COUNT", default_value_t = 8)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=512), hide_short_help = true)]
    repair_per_node: u16,
    /// Bytes that one data node may get, and give, in a second only so that all are evenly full.
    #[arg(long, env = "XDPFS_META_REBALANCE_RATE", value_name = "SIZE", default_value = "16MiB")]
    rebalance_rate: ByteSize,
    /// Percent by which a data node has to be off its share before chunks are moved.
    #[arg(long, env = "XDPFS_META_REBALANCE_THRESHOLD", value_name = "PERCENT", default_value_t = 10)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=100), hide_short_help = true)]
    rebalance_threshold: u32,
    /// Seconds for which no data node has come or gone before chunks are moved.
    #[arg(long, env = "XDPFS_META_REBALANCE_AFTER_S", value_name = "SECONDS", default_value_t = 60)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=86_400), hide_short_help = true)]
    rebalance_after_s: u64,
    /// Seconds without a sign of life from its client after which an upload is given up.
    #[arg(long, env = "XDPFS_META_UPLOAD_LEASE_S", value_name = "SECONDS", default_value_t = 60)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=86_400), hide_short_help = true)]
    upload_lease_s: u64,
    /// Seconds that a capability to read or to write lasts. Must not be shorter than an upload's lease.
    #[arg(long, env = "XDPFS_META_CAPABILITY_S", value_name = "SECONDS", default_value_t = 120)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=86_400), hide_short_help = true)]
    capability_s: u64,
    /// Seconds that replicas stay after nothing refers to them any more. Must be longer than a capability lasts.
    #[arg(long, env = "XDPFS_META_DELETION_GRACE_S", value_name = "SECONDS", default_value_t = 180)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=86_400), hide_short_help = true)]
    deletion_grace_s: u64,
    /// The directory with ca.pem, server.pem and server.key, as xdpfs-cli init makes it: TLS is spoken with everybody.
    /// The files are looked at every two seconds, and new ones are used.
    #[arg(long, env = "XDPFS_META_TLS", value_name = "DIR")]
    tls: Option<PathBuf>,
    /// Speak plaintext with others than this host, too: everybody who reaches the addresses is trusted with everything.
    #[arg(long, env = "XDPFS_META_INSECURE")]
    insecure: bool,
    /// Connections of clients and data nodes at once. When there are as many, those end that have been idle for longest.
    #[arg(long, env = "XDPFS_META_CONNECTIONS_MAX", value_name = "COUNT", default_value_t = 1024)]
    connections_max: usize,
    /// Requests of clients that are served at once.
    #[arg(long, env = "XDPFS_META_REQUESTS_MAX", value_name = "COUNT", default_value_t = 1024)]
    requests_max: usize,
    /// Entries of the log after which a snapshot takes their place. Half as many stay for servers that lag behind.
    #[arg(long, env = "XDPFS_META_SNAPSHOT_COUNT", value_name = "COUNT", default_value_t = 20_000)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..), hide_short_help = true)]
    snapshot_count: u64,
    /// Tell metrics and readiness over HTTP here. By default nowhere.
    #[arg(long, env = "XDPFS_META_HTTP_LISTEN", value_name = "ADDRESS")]
    http_listen: Option<SocketAddr>,
    /// Show the cluster to browsers here: its state, charts, buckets and objects, by the visitor's own access key. By
    /// default nowhere. With --tls it is https://, by this server's certificate.
    #[arg(long, env = "XDPFS_META_CONSOLE_LISTEN", value_name = "ADDRESS")]
    console_listen: Option<SocketAddr>,
    /// A file with a key that may do everything, as `xdpfs-cli key generate` prints it; the same on every server. With it
    /// nobody is served without a key, from the start.
    #[arg(long, env = "XDPFS_META_ROOT_KEY_FILE", value_name = "FILE")]
    root_key_file: Option<PathBuf>,
    /// Serve without a root key on an address that others can reach. Until the first access key is made, everybody
    /// there may do everything, which includes making it.
    #[arg(long, env = "XDPFS_META_OPEN")]
    open: bool,
    /// Note administrative acts here as well as in the log: one JSON object on each line, appended.
    #[arg(long, env = "XDPFS_META_AUDIT_LOG", value_name = "FILE")]
    audit_log: Option<PathBuf>,
    /// Which messages are logged: a level, such as `debug`, or MODULE=LEVEL, separated by commas.
    ///
    /// raft-rs, whose words come by slog, speaks at length; what matters of it is logged by this program itself.
    #[arg(long, env = "XDPFS_LOG", value_name = "FILTER", default_value = "info,raft=warn")]
    pub log: LogFilter,
    /// Send traces of clients' requests to this OpenTelemetry collector, by OTLP over gRPC. By default nowhere.
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT", value_name = "http://HOST:PORT")]
    pub otlp_endpoint: Option<Endpoint>,
    /// The share of traces that is taken, of those that begin here, from 0 to 1; those that a client takes are taken too,
    /// unless this is 0.
    #[arg(long, env = "XDPFS_TRACE_SAMPLE", value_name = "RATIO", default_value = "1")]
    pub trace_sample: Ratio,
    /// Log as JSON.
    #[arg(long, env = "XDPFS_LOG_JSON")]
    pub log_json: bool,
    /// A TOML file with options: each key is a long option without its dashes, and an unknown one is an error. What the
    /// command line or the environment says wins.
    #[arg(long, env = "XDPFS_META_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print every option with its value and where that came from, as such a file, and end.
    #[arg(long)]
    show_config: bool,
}

impl Arguments {
    /// Those of this process, from its command line, its environment and its file, and what reads them again. Ends the
    /// process if they make no sense, or if they were only to be shown.
    #[must_use]
    pub fn of_process() -> (Self, Reloader) {
        let command = mark_reloaded(Self::command(), RELOADED);
        let settings = Settings::read(&command, env::args_os()).unwrap_or_else(|error| {
            command.clone().error(ErrorKind::InvalidValue, error).exit();
        });
        let matches = command.clone().get_matches_from(settings.words());
        let arguments = Self::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
        if arguments.show_config {
            // Whoever has closed the other end does not want to know.
            let _ = io::stdout().write_all(settings.show(&command, &matches).as_bytes());
            process::exit(0);
        }
        let reloader = Reloader::new(command, env::args_os(), &matches, RELOADED);
        (arguments, reloader)
    }

    /// The configuration that these arguments stand for.
    ///
    /// # Errors
    ///
    /// The arguments contradict each other.
    pub fn into_config(self) -> Result<Config, ConfigError> {
        let mut config = match (self.id, self.address) {
            (Some(0), _) => return Err(ConfigError::ZeroId),
            (Some(id), None) => Config::new(id, self.members, self.data_dir),
            (None, Some(OwnAddress { peer, client })) => {
                let own = Member { id: 0, peer_address: peer, client_address: client };
                Config::new(0, vec![own], self.data_dir)
            }
            (Some(_), Some(_)) | (None, None) => return Err(ConfigError::Nobody),
        };
        config.bootstrap = self.bootstrap;
        if !self.join.is_empty() {
            let key = self.join_key_file.as_deref().map(read_key).transpose()?;
            config.join = Some(Join { endpoints: self.join, learner: self.learner, key });
        }
        config.quarantine = self.quarantine;
        config.listen_peer = self.listen_peer;
        config.listen_client = self.listen_client;
        config.listen_admin = self.listen_admin;
        config.listen_http = self.http_listen;
        config.listen_console = self.console_listen;
        config.times.node_silent_after = Duration::from_secs(self.node_silent_after_s);
        config.times.node_lease = Duration::from_secs(self.node_lease_s);
        config.times.repair_after = Duration::from_secs(self.repair_after_s);
        config.repair =
            RepairConfig { bytes_per_s: self.repair_rate.as_u64(), per_node: self.repair_per_node.into() };
        config.rebalance = RebalanceConfig {
            bytes_per_s: self.rebalance_rate.as_u64(),
            threshold_percent: self.rebalance_threshold,
            after: Duration::from_secs(self.rebalance_after_s),
        };
        config.times.upload_lease = Duration::from_secs(self.upload_lease_s);
        config.times.write_capability = Duration::from_secs(self.capability_s);
        config.times.read_capability = Duration::from_secs(self.capability_s);
        config.times.deletion_grace = Duration::from_secs(self.deletion_grace_s);
        config.tls = self.tls;
        config.insecure = self.insecure;
        config.connections_max = self.connections_max;
        config.requests_max = self.requests_max;
        config.consensus.snapshot_entries = self.snapshot_count;
        config.consensus.log_entries_kept = self.snapshot_count / 2;
        config.root_key =
            self.root_key_file.as_deref().map(read_key).transpose()?.as_ref().map(RootKey::from);
        config.open = self.open;
        config.audit_log = self.audit_log;
        config.check()?;
        Ok(config)
    }
}

fn read_key(file: &Path) -> Result<Credential, ConfigError> {
    let bad = |why: String| ConfigError::KeyFile { file: file.to_owned(), why };
    let mut text = String::new();
    let opened = File::open(file).map_err(|error| bad(error.to_string()))?;
    opened.take(KEY_FILE_BYTES_MAX).read_to_string(&mut text).map_err(|error| bad(error.to_string()))?;
    let credential: Credential =
        text.trim().parse().map_err(|error: MalformedCredential| bad(error.to_string()))?;
    if is_for_everybody(file) {
        tracing::warn!(file = %file.display(), "everybody on this machine can read the key: chmod o-r");
    }
    Ok(credential)
}

fn is_for_everybody(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    file.metadata().is_ok_and(|metadata| metadata.permissions().mode() & 0o004 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_key_is_read_from_its_file() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("root.key");
        let credential = Credential::generate().unwrap();
        let start = |file: &Path| {
            parse(&[
                "--id",
                "1",
                "--data-dir",
                "d",
                "--member",
                "1,a:1,a:2",
                "--root-key-file",
                file.to_str().unwrap(),
            ])
        };
        std::fs::write(&file, format!("{}\n", credential.to_text())).unwrap();
        assert_eq!(start(&file).unwrap().root_key, Some(RootKey::from(&credential)));
        let error = start(&directory.path().join("none")).unwrap_err();
        assert!(error.contains("none") && error.contains("the key"), "{error}");
        std::fs::write(&file, format!("{}x", credential.to_text())).unwrap();
        let error = start(&file).unwrap_err();
        assert!(error.contains("a dot and its secret") && !error.contains(credential.secret()), "{error}");
    }

    fn parse(arguments: &[&str]) -> Result<Config, String> {
        let name = std::iter::once(&"xdpfs-meta-server");
        let arguments =
            Arguments::try_parse_from(name.chain(arguments)).map_err(|error| error.to_string())?;
        arguments.into_config().map_err(|error| error.to_string())
    }

    #[test]
    fn members_come_one_by_one_or_in_one_string() {
        let one = parse(&["--id", "1", "--data-dir", "d", "--member", "2,b:1,b:2", "--member", "1,a:1,a:2"])
            .unwrap();
        let all = parse(&["--id", "1", "--data-dir", "d", "--member", "1,a:1,a:2;2,b:1,b:2"]).unwrap();
        assert_eq!(one.members, all.members);
        assert_eq!(one.voters(), [1, 2]);
        assert_eq!(one.own_member().unwrap().client_address, "a:2");
    }

    #[test]
    fn server_that_joins_has_no_id_of_its_own() {
        let joins =
            parse(&["--data-dir", "d", "--address", "a:1,a:2", "--join", "b:2,c:2", "--learner"]).unwrap();
        assert_eq!((joins.id, joins.own_member().unwrap().client_address.as_str()), (0, "a:2"));
        let endpoints = vec!["b:2".to_owned(), "c:2".to_owned()];
        assert_eq!(joins.join, Some(Join { endpoints, learner: true, key: None }));
        let mut later = parse(&["--data-dir", "d", "--address", "a:1,a:2"]).unwrap();
        later.become_server(9);
        assert_eq!((later.id, later.voters()), (9, vec![9]));
    }

    #[test]
    fn contradictions_are_refused() {
        let check = |arguments: &[&str], expect: &str| {
            let error = parse(&[&["--data-dir", "d"], arguments].concat()).unwrap_err();
            assert!(error.contains(expect), "{arguments:?}: {error}");
        };
        check(&["--id", "3", "--member", "1,a:1,a:2"], "not among the members");
        check(&["--id", "1", "--member", "1,a:1,a:2;1,b:1,b:2"], "twice");
        check(&["--id", "0", "--member", "0,a:1,a:2"], "zero");
        check(&["--id", "1"], "--member");
        check(&[], "--address");
        check(&["--join", "a:1"], "--address");
        check(&["--address", "a:1"], "PEER_ADDRESS,CLIENT_ADDRESS");
        check(&["--address", "a:1,a:2", "--join", "a"], "HOST:PORT");
        check(&["--address", "a:1,a:2", "--quarantine"], "--join");
        check(&["--address", "a:1,a:2", "--join", "b:2", "--bootstrap"], "--bootstrap");
        check(&["--id", "1", "--member", "1,a:1"], "ID,PEER_ADDRESS");
        check(&["--id", "1", "--member", "1,a:1,a"], "HOST:PORT");
        check(&["--id", "1", "--member", "1,a:1,a:2", "--requests-max", "0"], "zero");
        check(&["--id", "1", "--member", "1,a:1,a:2", "--node-silent-after-s", "1"], "longer than");
        let alone = ["--id", "1", "--member", "1,a:1,a:2"];
        check(&[&alone[..], &["--repair-after-s", "9"]].concat(), "what repair waits must be longer");
        check(&[&alone[..], &["--deletion-grace-s", "120"]].concat(), "deletion grace must be longer");
        check(&[&alone[..], &["--upload-lease-s", "121"]].concat(), "write capability must be longer");
        check(&[&alone[..], &["--capability-s", "0"]].concat(), "not in 1..");
    }

    #[test]
    fn nothing_is_removed_while_a_capability_may_still_read_it() {
        let mut config = Config::new(1, vec!["1,a:1,a:2".parse().unwrap()], "d".into());
        config.check().unwrap();
        config.times.deletion_grace = config.times.read_capability;
        assert!(config.check().is_err());
    }
}

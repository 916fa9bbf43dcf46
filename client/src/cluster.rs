//! The cluster as its leader sees it.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use xdpfs_proto::meta::v1::{self as proto, data_node_status::State, meta_server_status::Role};

use crate::{NodeDisk, NodeLabel, NodeScrub, RebalanceStatus, RepairStatus};

/// The state of the whole cluster.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ClusterStatus {
    /// Made when the cluster was bootstrapped.
    pub cluster_id: String,
    /// The metadata servers.
    pub meta_servers: Vec<MetaServer>,
    /// The data nodes.
    pub data_nodes: Vec<DataNode>,
    /// The metadata server that answered.
    pub server_id: u64,
    /// The leader that it knows of.
    pub leader_id: Option<u64>,
    /// Raft's term.
    pub term: u64,
    /// Entries that a majority holds.
    pub commit_index: u64,
    /// Entries that the answering server has applied.
    pub applied_index: u64,
    /// Buckets.
    pub buckets: u64,
    /// Visible objects.
    pub objects: u64,
    /// Their bytes, counted once.
    pub bytes: u64,
    /// Puts that have begun and not ended.
    pub open_uploads: u64,
    /// Replicas that puts asked for and did not get.
    pub replica_debt: u64,
    /// Replicas that nodes have yet to remove.
    pub pending_deletes: u64,
    /// The edges that the leader has heard of lately. Only the leader knows.
    pub edges: Vec<Edge>,
    /// Milliseconds since the Unix epoch on the clock of the server that answered; zero if it didn't say.
    pub server_time_ms: u64,
    /// Requests that this server has served; `None` if it didn't say.
    pub requests: Option<RequestCounts>,
    /// What the cluster uses of what its metadata servers can do.
    pub feature_level: u32,
    /// What lacks replicas; `None` if the server that answered doesn't lead, or is of an earlier release.
    pub repair: Option<RepairStatus>,
    /// How evenly full data nodes are; `None` if the server that answered doesn't lead, or is of an earlier release.
    pub rebalance: Option<RebalanceStatus>,
}

/// Places of [`RequestCounts::took`].
pub const TOOK_PLACES: usize = 18;

/// Requests of clients that a metadata server has served since its start, but for those that only look at the cluster.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct RequestCounts {
    /// Those that failed by no fault of the caller.
    pub failed: u64,
    /// How many took at most 64 µs; in each place behind, at most twice as long as in the one before; in the last, longer.
    pub took: [u64; TOOK_PLACES],
}

impl From<proto::RequestCounts> for RequestCounts {
    fn from(counts: proto::RequestCounts) -> Self {
        let mut took = [0; TOOK_PLACES];
        // A later server may have more places than this client knows.
        took.iter_mut().zip(&counts.took).for_each(|(place, count)| *place = *count);
        let rest = counts.took.iter().skip(TOOK_PLACES);
        took[TOOK_PLACES - 1] = rest.fold(took[TOOK_PLACES - 1], |sum, count| sum.saturating_add(*count));
        Self { failed: counts.failed, took }
    }
}

/// One metadata server.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct MetaServer {
    /// Its id.
    pub id: u64,
    /// Where clients reach it.
    pub endpoint: String,
    /// What it does at present.
    pub role: MetaRole,
    /// Entries that the leader knows it to hold.
    pub matched_index: u64,
    /// When its certificate ends, if the answering server knows: each knows its own.
    pub certificate_expires: Option<SystemTime>,
    /// Of its program; empty if the answering server doesn't know, or it is of a release that doesn't say.
    pub version: String,
    /// The highest feature level that its program supports, if the answering server knows.
    pub feature_level: Option<u32>,
}

/// What a metadata server does at present.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum MetaRole {
    /// Follows.
    Follower,
    /// Leads.
    Leader,
    /// The answering server can't say.
    Unknown,
    /// Does not answer the leader.
    Unreachable,
}

/// One data node.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DataNode {
    /// Its id.
    pub id: u32,
    /// Its registration.
    pub epoch: u32,
    /// `host:port` of the chunk protocol, as clients reach it.
    pub address: String,
    /// Where an edge reaches it.
    pub direct_address: String,
    /// Whether it is heard of.
    pub state: DataNodeState,
    /// Bytes that it may hold.
    pub capacity_bytes: u64,
    /// Bytes in use.
    pub used_bytes: u64,
    /// Bytes free.
    pub free_bytes: u64,
    /// Chunks.
    pub chunks: u64,
    /// Datagrams refused since its start, by reason.
    pub rejects: BTreeMap<String, u64>,
    /// Nodes of one failure domain fail together.
    pub failure_domain: String,
    /// Time since it was last heard of.
    pub last_heartbeat_age: Duration,
    /// Where its kernel program runs: `native`, `generic` or `off`; empty until it has said.
    pub xdp_mode: String,
    /// Why there.
    pub xdp_reason: String,
    /// Packets that the program has seen since its start, by how they ended.
    pub xdp_packets: BTreeMap<String, u64>,
    /// Bytes of chunks that it made durable since its start.
    pub written_bytes: u64,
    /// Bytes that were read from it since its start.
    pub read_bytes: u64,
    /// The labels that hold, by key.
    pub labels: Vec<NodeLabel>,
    /// The release that it runs; empty until it has said.
    pub version: String,
    /// When it registered, if that was noted.
    pub registered: Option<SystemTime>,
    /// When its certificate ends, if it has one and has said so.
    pub certificate_expires: Option<SystemTime>,
    /// Its scrub, if it has one and has said so.
    pub scrub: Option<NodeScrub>,
    /// It has yet to hear what an operator wants of its scrub.
    pub scrub_ordered: bool,
    /// Operators want it freed: it gets no new chunks.
    pub draining: bool,
    /// It never takes part again.
    pub removed: bool,
    /// What speaks against its data directory keeping bytes without power: `volatile`, `network`, `overlay`, `fast_sync`.
    pub storage_doubts: Vec<String>,
    /// Its disks; none if it has yet to say, or its release doesn't speak of them.
    pub disks: Vec<NodeDisk>,
}

/// A host that stands before data nodes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Edge {
    /// `host:port`, which is also the address of the nodes behind it.
    pub address: String,
    /// The nodes that are registered with this address.
    pub node_ids: Vec<u32>,
    /// Where its kernel program runs: `native`, `generic` or `off`.
    pub xdp_mode: String,
    /// Why there.
    pub xdp_reason: String,
    /// How replies of nodes cross it: `kernel`, `xdp` or `relay`.
    pub replies: String,
    /// Packets and datagrams that it has seen since its start, by how they ended.
    pub packets: BTreeMap<String, u64>,
    /// Datagrams refused since its start, by reason.
    pub rejects: BTreeMap<String, u64>,
    /// Time since it was last heard of.
    pub last_heard_age: Duration,
    /// When its certificate ends, if it has one and has said so.
    pub certificate_expires: Option<SystemTime>,
}

/// Whether a data node is heard of.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum DataNodeState {
    /// Heartbeats arrive.
    Alive,
    /// No heartbeat of late: gets no new chunks.
    Silent,
    /// The answering server can't say.
    Unknown,
}

impl MetaRole {
    /// The role's name in output.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Follower => "follower",
            Self::Leader => "leader",
            Self::Unknown => "unknown",
            Self::Unreachable => "unreachable",
        }
    }
}

impl DataNodeState {
    /// The state's name in output.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Alive => "alive",
            Self::Silent => "silent",
            Self::Unknown => "unknown",
        }
    }
}

impl From<proto::GetClusterStatusResponse> for ClusterStatus {
    fn from(status: proto::GetClusterStatusResponse) -> Self {
        Self {
            cluster_id: status.cluster_id,
            meta_servers: status.meta_servers.into_iter().map(MetaServer::from).collect(),
            data_nodes: status.data_nodes.into_iter().map(DataNode::from).collect(),
            server_id: status.server_id,
            leader_id: (status.leader_id != 0).then_some(status.leader_id),
            term: status.term,
            commit_index: status.commit_index,
            applied_index: status.applied_index,
            buckets: status.buckets,
            objects: status.objects,
            bytes: status.bytes,
            open_uploads: status.open_uploads,
            replica_debt: status.replica_debt,
            pending_deletes: status.pending_deletes,
            edges: status.edges.into_iter().map(Edge::from).collect(),
            server_time_ms: status.server_time_ms,
            requests: status.requests.map(RequestCounts::from),
            feature_level: status.feature_level,
            repair: status.repair.map(RepairStatus::from),
            rebalance: status.rebalance.map(RebalanceStatus::from),
        }
    }
}

impl From<proto::MetaServerStatus> for MetaServer {
    fn from(server: proto::MetaServerStatus) -> Self {
        let role = match server.role() {
            Role::Unspecified => MetaRole::Unknown,
            Role::Leader => MetaRole::Leader,
            Role::Follower => MetaRole::Follower,
            Role::Unreachable => MetaRole::Unreachable,
        };
        Self {
            id: server.id,
            role,
            matched_index: server.matched_index,
            endpoint: server.endpoint,
            certificate_expires: time(server.certificate_expiry_s.checked_mul(1000)),
            feature_level: server.feature_level,
            version: server.version,
        }
    }
}

impl From<proto::DataNodeStatus> for DataNode {
    fn from(node: proto::DataNodeStatus) -> Self {
        let state = match node.state() {
            State::Unspecified => DataNodeState::Unknown,
            State::Alive => DataNodeState::Alive,
            State::Silent => DataNodeState::Silent,
        };
        Self {
            id: node.node_id,
            epoch: node.node_epoch,
            address: node.address,
            direct_address: node.direct_address,
            state,
            capacity_bytes: node.capacity_bytes,
            used_bytes: node.used_bytes,
            free_bytes: node.free_bytes,
            chunks: node.chunks,
            rejects: node.rejects,
            failure_domain: node.failure_domain,
            last_heartbeat_age: Duration::from_millis(node.last_heartbeat_age_ms),
            xdp_mode: node.xdp_mode,
            xdp_reason: node.xdp_reason,
            xdp_packets: node.xdp_packets,
            written_bytes: node.written_bytes,
            read_bytes: node.read_bytes,
            labels: node.labels.into_iter().map(NodeLabel::from).collect(),
            version: node.version,
            registered: time(Some(node.register_time_ms)),
            certificate_expires: time(node.certificate_expiry_s.checked_mul(1000)),
            scrub: node.scrub.map(NodeScrub::from),
            scrub_ordered: node.scrub_ordered,
            draining: node.draining,
            removed: node.removed,
            storage_doubts: node.storage_doubts,
            disks: node.disks.into_iter().map(NodeDisk::from).collect(),
        }
    }
}

impl From<proto::EdgeStatus> for Edge {
    fn from(edge: proto::EdgeStatus) -> Self {
        Self {
            address: edge.address,
            node_ids: edge.node_ids,
            xdp_mode: edge.xdp_mode,
            xdp_reason: edge.xdp_reason,
            replies: edge.replies,
            packets: edge.packets,
            rejects: edge.rejects,
            last_heard_age: Duration::from_millis(edge.last_heard_age_ms),
            certificate_expires: time(edge.certificate_expiry_s.checked_mul(1000)),
        }
    }
}

/// Milliseconds since the Unix epoch; zero is nothing, and so is what no clock shows.
fn time(unix_ms: Option<u64>) -> Option<SystemTime> {
    let since_epoch = unix_ms.filter(|unix_ms| *unix_ms != 0).map(Duration::from_millis)?;
    SystemTime::UNIX_EPOCH.checked_add(since_epoch)
}

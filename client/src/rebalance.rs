//! How evenly full data nodes are, what is moved so that they are, and an end to that for the time being.

use std::time::Duration;

use xdpfs_proto::meta::v1::{self as proto, rebalance_status::State};

use crate::{
    client::{Client, request_id},
    control::{Meta, Operation},
    error::{Error, Result},
};

/// How evenly full data nodes are, and how far their rebalancing is.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct RebalanceStatus {
    /// What is done about it.
    pub state: RebalanceState,
    /// Why that, in a sentence.
    pub reason: String,
    /// Bytes of what is to be moved.
    pub bytes_left: u64,
    /// Chunks that are on their way now.
    pub in_progress: u64,
    /// Chunks that were moved since this leader began.
    pub chunks_moved: u64,
    /// Their bytes.
    pub bytes_moved: u64,
    /// Moves that came to nothing since then.
    pub moves_failed: u64,
    /// Bytes in a second, of late.
    pub bytes_per_second: u64,
    /// Until all is moved, at this rate, if anybody can know.
    pub time_left: Option<Duration>,
    /// What data nodes hold, as they were last counted.
    pub nodes: Vec<NodeShare>,
}

/// What is done so that data nodes are evenly full.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum RebalanceState {
    /// What nodes hold is being counted.
    Counting,
    /// They are as evenly full as they have to be.
    Even,
    /// Chunks are moved.
    Moving,
    /// Nothing: operators want none.
    Paused,
    /// Nothing: no chunk could move without its replicas lying closer together.
    Stuck,
    /// Something that this client doesn't know.
    #[default]
    Unknown,
    /// Nothing yet: something has to end first.
    Waiting,
}

impl RebalanceState {
    /// Its name in output.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Counting => "counting",
            Self::Even => "even",
            Self::Moving => "moving",
            Self::Paused => "paused",
            Self::Stuck => "stuck",
            Self::Unknown => "unknown",
            Self::Waiting => "waiting",
        }
    }
}

/// What a data node holds, and what it should.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct NodeShare {
    /// Its number.
    pub node: u32,
    /// Bytes of chunks that manifests name it for.
    pub bytes: u64,
    /// What it would hold if all were evenly full, as far as failure domains allow.
    pub share_bytes: u64,
    /// What it holds, and what it could take besides.
    pub room_bytes: u64,
}

/// What rebalancing would move if it began now.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct RebalancePlan {
    /// Whether nodes are uneven enough for it to begin by itself.
    pub uneven: bool,
    /// Chunks that would be moved.
    pub chunks: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What would have to be moved if failure domains and the size of chunks were no matter.
    pub least_bytes: u64,
    /// How long it takes at least.
    pub time: Duration,
    /// Bytes that each node may get, and give, in a second.
    pub bytes_per_second: u64,
    /// What that does to each node.
    pub nodes: Vec<PlannedNode>,
}

/// What a plan does to a node.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct PlannedNode {
    /// As it is now.
    pub share: NodeShare,
    /// What it would get.
    pub bytes_in: u64,
    /// What it would give.
    pub bytes_out: u64,
}

impl From<proto::RebalanceStatus> for RebalanceStatus {
    fn from(status: proto::RebalanceStatus) -> Self {
        let state = match status.state() {
            State::Unspecified => RebalanceState::Unknown,
            State::Even => RebalanceState::Even,
            State::Waiting => RebalanceState::Waiting,
            State::Counting => RebalanceState::Counting,
            State::Moving => RebalanceState::Moving,
            State::Paused => RebalanceState::Paused,
            State::Stuck => RebalanceState::Stuck,
        };
        Self {
            state,
            reason: status.reason,
            bytes_left: status.bytes_left,
            in_progress: status.in_progress,
            chunks_moved: status.chunks_moved,
            bytes_moved: status.bytes_moved,
            moves_failed: status.moves_failed,
            bytes_per_second: status.bytes_per_s,
            time_left: status.eta_s.map(Duration::from_secs),
            nodes: status.nodes.iter().map(NodeShare::from).collect(),
        }
    }
}

impl From<&proto::NodeShare> for NodeShare {
    fn from(share: &proto::NodeShare) -> Self {
        let proto::NodeShare { node_id, bytes, share_bytes, room_bytes } = *share;
        Self { node: node_id, bytes, share_bytes, room_bytes }
    }
}

impl From<proto::PlanRebalanceResponse> for RebalancePlan {
    fn from(plan: proto::PlanRebalanceResponse) -> Self {
        let node = |node: &proto::PlannedNode| PlannedNode {
            share: node.share.as_ref().map(NodeShare::from).unwrap_or_default(),
            bytes_in: node.bytes_in,
            bytes_out: node.bytes_out,
        };
        Self {
            uneven: plan.uneven,
            chunks: plan.chunks,
            bytes: plan.bytes,
            least_bytes: plan.least_bytes,
            time: Duration::from_secs(plan.seconds),
            bytes_per_second: plan.bytes_per_s,
            nodes: plan.nodes.iter().map(node).collect(),
        }
    }
}

pub(crate) async fn status(client: &Client) -> Result<RebalanceStatus> {
    let operation = Operation::GetRebalanceStatus;
    let send = |mut meta: Meta, request| async move { meta.get_rebalance_status(request).await };
    let reply = client.shared().control.call(operation, proto::GetRebalanceStatusRequest {}, send).await;
    let reply = reply.map_err(|refusal| refusal.about(operation, "", ""))?;
    let unknown = || {
        Error::Unsupported {
        operation: operation.label(),
        message: "the cluster does not rebalance yet: the leader has only just begun, or some metadata servers run an earlier \
            release"
            .to_owned(),
    }
    };
    reply.rebalance.map(RebalanceStatus::from).ok_or_else(unknown)
}

pub(crate) async fn pause(client: &Client, paused: bool) -> Result<()> {
    let operation = Operation::PauseRebalance;
    let request = proto::PauseRebalanceRequest { request_id: request_id(), paused };
    let send = |mut meta: Meta, request| async move { meta.pause_rebalance(request).await };
    let reply = client.shared().control.call(operation, request, send).await;
    reply.map(|_| ()).map_err(|refusal| refusal.about(operation, "", ""))
}

pub(crate) async fn plan(client: &Client) -> Result<RebalancePlan> {
    let operation = Operation::PlanRebalance;
    let send = |mut meta: Meta, request| async move { meta.plan_rebalance(request).await };
    let reply = client.shared().control.call(operation, proto::PlanRebalanceRequest {}, send).await;
    reply.map(RebalancePlan::from).map_err(|refusal| refusal.about(operation, "", ""))
}

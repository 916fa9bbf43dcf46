//! What lacks replicas, and how its repair is; data nodes that are freed or that go; and replicas that a reader found wanting.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::Notify;
use tracing::debug;
use xdpfs_proto::meta::v1::{self as proto, leaving_node::Why};
use xdpfs_wire::{ChunkId, NodeId};

use crate::{
    client::{Client, Shared, request_id},
    control::{Control, Meta, Operation},
    error::{Error, Result},
    name::parse_object,
};

/// What lacks replicas, and how far its repair is.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct RepairStatus {
    /// Why there is something to do, or nothing, in a sentence.
    pub reason: String,
    /// The manifests have been looked at since nodes last came or went: the numbers are whole.
    pub complete: bool,
    /// Chunks that lack a replica, by how many good ones they have.
    pub chunks_by_live_replicas: BTreeMap<u32, u64>,
    /// Bytes that are to be copied.
    pub bytes_left: u64,
    /// Chunks that nodes are making now.
    pub in_progress: u64,
    /// Chunks that got a replica since this leader began.
    pub chunks_repaired: u64,
    /// Their bytes.
    pub bytes_repaired: u64,
    /// Replicas that were in doubt and turned out to be good.
    pub replicas_cleared: u64,
    /// Bytes in a second, of late.
    pub bytes_per_second: u64,
    /// Until all is repaired, at this rate, if anybody can know.
    pub time_left: Option<Duration>,
    /// Chunks for which no data node would do at present.
    pub without_place: u64,
    /// Chunks of which no replica can be read at present.
    pub out_of_reach: u64,
    /// The first objects that have some of these: `bucket/key`.
    pub out_of_reach_sample: Vec<String>,
    /// Nodes that manifests are to name no more.
    pub leaving: Vec<LeavingNode>,
}

/// A node that manifests are to name no more.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct LeavingNode {
    /// Its number.
    pub node: u32,
    /// Why.
    pub why: LeavingWhy,
    /// Replicas that manifests still name it for.
    pub replicas: u64,
}

/// Why manifests are to name a node no more.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum LeavingWhy {
    /// It has been silent for too long.
    Dead,
    /// Operators want it freed.
    Draining,
    /// Operators have removed it.
    Removed,
    /// For a reason that this client doesn't know.
    Unknown,
}

/// How a data node goes.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct RemoveNodeOptions {
    /// It is gone with all that it held, so it need not be drained first.
    pub lost: bool,
    /// Also if chunks are lost for good with it.
    pub with_its_objects: bool,
}

impl RepairStatus {
    /// Chunks that lack a replica.
    #[must_use]
    pub fn chunks_lacking(&self) -> u64 {
        self.chunks_by_live_replicas.values().sum()
    }

    /// Whether nothing is left to do.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.complete
            && self.chunks_lacking() == 0
            && self.in_progress == 0
            && self.out_of_reach == 0
            && self.without_place == 0
    }
}

impl LeavingWhy {
    /// Its name in output.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Dead => "dead",
            Self::Draining => "draining",
            Self::Removed => "removed",
            Self::Unknown => "unknown",
        }
    }
}

impl From<proto::RepairStatus> for RepairStatus {
    fn from(status: proto::RepairStatus) -> Self {
        let classes = status.classes.iter().map(|class| (class.live_replicas, class.chunks));
        let name = |resource: &String| {
            parse_object(resource).map_or_else(|| resource.clone(), |(bucket, key)| format!("{bucket}/{key}"))
        };
        Self {
            chunks_by_live_replicas: classes.collect(),
            out_of_reach_sample: status.out_of_reach_sample.iter().map(name).collect(),
            leaving: status.nodes.iter().map(LeavingNode::from).collect(),
            reason: status.reason,
            complete: status.complete,
            bytes_left: status.bytes_left,
            in_progress: status.in_progress,
            chunks_repaired: status.chunks_repaired,
            bytes_repaired: status.bytes_repaired,
            replicas_cleared: status.replicas_cleared,
            bytes_per_second: status.bytes_per_s,
            time_left: status.eta_s.map(Duration::from_secs),
            without_place: status.without_place,
            out_of_reach: status.out_of_reach,
        }
    }
}

impl From<&proto::LeavingNode> for LeavingNode {
    fn from(node: &proto::LeavingNode) -> Self {
        let why = match node.why() {
            Why::Unspecified => LeavingWhy::Unknown,
            Why::Dead => LeavingWhy::Dead,
            Why::Draining => LeavingWhy::Draining,
            Why::Removed => LeavingWhy::Removed,
        };
        Self { node: node.node_id, why, replicas: node.replicas }
    }
}

pub(crate) async fn drain_node(client: &Client, node: u32, draining: bool) -> Result<()> {
    let name = format!("nodes/{node}");
    let request = proto::DrainNodeRequest { request_id: request_id(), name, draining };
    let operation = Operation::DrainNode;
    let send = |mut meta: Meta, request| async move { meta.drain_node(request).await };
    let reply = client.shared().control.call(operation, request, send).await;
    reply.map(|_| ()).map_err(|refusal| refusal.about(operation, "", ""))
}

pub(crate) async fn remove_node(client: &Client, node: u32, options: RemoveNodeOptions) -> Result<u64> {
    let RemoveNodeOptions { lost, with_its_objects } = options;
    let name = format!("nodes/{node}");
    let request = proto::RemoveNodeRequest { request_id: request_id(), name, lost, with_its_objects };
    let operation = Operation::RemoveNode;
    let send = |mut meta: Meta, request| async move { meta.remove_node(request).await };
    let reply = client.shared().control.call(operation, request, send).await;
    reply.map(|reply| reply.replicas).map_err(|refusal| refusal.about(operation, "", ""))
}

pub(crate) async fn repair_status(client: &Client) -> Result<RepairStatus> {
    let operation = Operation::GetRepairStatus;
    let send = |mut meta: Meta, request| async move { meta.get_repair_status(request).await };
    let reply = client.shared().control.call(operation, proto::GetRepairStatusRequest {}, send).await;
    let reply = reply.map_err(|refusal| refusal.about(operation, "", ""))?;
    let unknown = || {
        Error::Unsupported {
        operation: operation.label(),
        message: "the cluster does not repair yet: the leader has only just begun, or some metadata servers run an \
            earlier release"
            .to_owned(),
    }
    };
    reply.repair.map(RepairStatus::from).ok_or_else(unknown)
}

/// Replicas in one report, and those that wait; more are reported by whoever reads them next.
const REPORTED_MAX: usize = 64;
const WAITING_MAX: usize = 1024;
/// Reports are gathered for a moment, and there are no more than one in this time.
const PAUSE: Duration = Duration::from_secs(1);
/// How long a report may take, and how long one that a client waits for which is being closed.
const PATIENCE: Duration = Duration::from_secs(30);
const LAST_PATIENCE: Duration = Duration::from_secs(1);

/// Replicas that could not be read as they should, on their way to the leader.
///
/// Invariant: no read waits for it, and it costs one request in a second at most, whatever is found.
#[derive(Debug, Default)]
pub(crate) struct Reports {
    waiting: Mutex<Waiting>,
    /// The client is being closed: nothing more is gathered.
    is_last: Notify,
}

/// A bucket, and the id of the access key under which it was read.
type Reader = (String, Option<String>);

/// What a reader has found, and its own way to the leader: others may have no right to its bucket.
#[derive(Debug)]
struct Found {
    control: Control,
    replicas: BTreeSet<(ChunkId, NodeId)>,
}

/// What one request reports.
#[derive(Debug)]
struct Portion {
    control: Control,
    bucket: String,
    replicas: Vec<(ChunkId, NodeId)>,
}

#[derive(Debug, Default)]
struct Waiting {
    by_reader: BTreeMap<Reader, Found>,
    count: usize,
    is_sending: bool,
}

impl Waiting {
    /// Some of one bucket, and who is to report them.
    fn take(&mut self) -> Option<Portion> {
        let mut entry = self.by_reader.first_entry()?;
        let mut replicas = Vec::new();
        while replicas.len() < REPORTED_MAX
            && let Some(replica) = entry.get_mut().replicas.pop_first()
        {
            replicas.push(replica);
        }
        self.count -= replicas.len();
        let control = entry.get().control.clone();
        let (bucket, _) = entry.key().clone();
        if entry.get().replicas.is_empty() {
            entry.remove();
        }
        Some(Portion { control, bucket, replicas })
    }
}

impl Reports {
    /// The node does not have the chunk as it should.
    pub(crate) fn add(shared: &Arc<Shared>, bucket: &str, chunk: ChunkId, node: NodeId) {
        let begins = {
            let mut waiting = shared.reports.waiting();
            if waiting.count >= WAITING_MAX {
                return;
            }
            let key = shared.config.access_key.as_ref().map(|key| key.id().to_owned());
            let found = waiting.by_reader.entry((bucket.to_owned(), key));
            let found =
                found.or_insert_with(|| Found { control: shared.control.clone(), replicas: BTreeSet::new() });
            if found.replicas.insert((chunk, node)) {
                waiting.count += 1;
            }
            !std::mem::replace(&mut waiting.is_sending, true)
        };
        if begins {
            shared.cleanups.spawn(Self::send_all(Arc::clone(&shared.reports)));
        }
    }

    /// Has what waits sent at once, as far as it fits one request.
    pub(crate) fn hurry(&self) {
        if self.waiting().is_sending {
            self.is_last.notify_one();
        }
    }

    async fn send_all(reports: Arc<Self>) {
        loop {
            let is_last = tokio::time::timeout(PAUSE, reports.is_last.notified()).await.is_ok();
            let taken = {
                let mut waiting = reports.waiting();
                let taken = waiting.take();
                waiting.is_sending = taken.is_some();
                taken
            };
            let Some(Portion { control, bucket, replicas }) = taken else { return };
            let replica = |(chunk, node): (ChunkId, NodeId)| proto::DoubtfulReplica {
                chunk_id: chunk.0.to_be_bytes().to_vec(),
                node_id: node.0.into(),
            };
            let parent = format!("buckets/{bucket}");
            let replicas = replicas.into_iter().map(replica).collect();
            let request = proto::ReportReplicasRequest { parent, replicas };
            let send = |mut meta: Meta, request| async move { meta.report_replicas(request).await };
            let report = control.call(Operation::ReportReplicas, request, send);
            let patience = if is_last { LAST_PATIENCE } else { PATIENCE };
            if !matches!(tokio::time::timeout(patience, report).await, Ok(Ok(_))) {
                debug!("a report of bad replicas is lost");
            }
            let mut waiting = reports.waiting();
            waiting.is_sending = waiting.count > 0;
            if !waiting.is_sending {
                return;
            }
        }
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use xdpfs_wire::BucketId;

    use super::*;
    use crate::fake::FakeCluster;

    #[tokio::test]
    async fn reports_are_taken_in_portions_of_one_bucket() {
        let control = FakeCluster::start(1).client().shared().control.clone();
        let mut waiting = Waiting::default();
        for (bucket, chunks) in [("a", 70), ("b", 1)] {
            let chunk = |number| (ChunkId::new(BucketId(1), number), NodeId(1));
            let found = Found { control: control.clone(), replicas: (0..chunks).map(chunk).collect() };
            waiting.by_reader.insert((bucket.to_owned(), None), found);
            waiting.count += chunks as usize;
        }
        let sizes: Vec<_> = std::iter::from_fn(|| waiting.take())
            .map(|Portion { bucket, replicas, .. }| (bucket, replicas.len()))
            .collect();
        assert_eq!(sizes, [("a".to_owned(), 64), ("a".to_owned(), 6), ("b".to_owned(), 1)]);
        assert_eq!(waiting.count, 0);
    }

    #[tokio::test]
    async fn what_was_read_under_other_keys_is_reported_apart() {
        let client = FakeCluster::start(1).client();
        for key in [None, Some("XKA.SECRET"), Some("XKB.SECRET"), Some("XKA.SECRET")] {
            let reader = client.on_behalf_of(key.map(|key| key.parse().unwrap()));
            Reports::add(reader.shared(), "a", ChunkId::new(BucketId(1), 1), NodeId(1));
        }
        let waiting = client.shared().reports.waiting();
        let keys: Vec<_> = waiting.by_reader.keys().map(|(_, key)| key.as_deref()).collect();
        assert_eq!((keys, waiting.count), (vec![None, Some("XKA"), Some("XKB")], 3));
    }

    #[test]
    fn status_is_whole_only_if_all_was_looked_at() {
        let whole = RepairStatus { complete: true, ..RepairStatus::default() };
        assert!(whole.is_whole());
        assert!(!RepairStatus::default().is_whole());
        assert!(!RepairStatus { in_progress: 1, ..whole.clone() }.is_whole());
        assert!(!RepairStatus { chunks_by_live_replicas: [(2, 1)].into(), ..whole }.is_whole());
    }
}

//! Where chunks lie and why, what operators say of data nodes, and what it would take to free some of them.

use std::collections::BTreeMap;

use tokio::time::Instant;
use xdpfs_proto::meta::v1::{self as proto, PlacementVerdict};
use xdpfs_wire::{ChunkId, NodeId};

use crate::{
    Object,
    client::{Client, request_id},
    control::{Meta, Operation},
    error::{Error, Result},
    name::ObjectName,
    session::{parse_chunk_id, parse_node_ids},
};

/// Names of objects in a plan.
const SAMPLE_MAX: usize = 20;

/// A label of a data node.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NodeLabel {
    /// `zone`, `rack`, `host` and `disk` say where the node is; others mean what operators want.
    pub key: String,
    /// Its value.
    pub value: String,
    /// An operator has set it; otherwise the node says it of itself.
    pub by_operator: bool,
}

/// What to change about the labels of a data node. All of it takes effect, or nothing.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct LabelChange {
    /// Labels to set.
    pub set: BTreeMap<String, String>,
    /// Keys of labels that operators have set and that are to go.
    pub remove: Vec<String>,
    /// Labels in `set` may have another value now.
    pub overwrite: bool,
}

/// What to explain about a key.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct PlacementQuery {
    /// Where a new object would go, even if the key holds one.
    pub as_new: bool,
    /// The first chunk to list.
    pub first_chunk: u32,
    /// How many chunks to list at most; `None`: 64.
    pub chunks: Option<u32>,
}

/// How far apart the replicas of a chunk lie, the best last.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Spread {
    /// The server knows a word for it that this client doesn't.
    Unknown,
    /// There is one replica at most.
    Alone,
    /// Some share a failure domain that a node named at its start.
    OneDomain,
    /// Some share a host, on distinct disks.
    Disks,
    /// All on distinct hosts.
    Hosts,
    /// All in distinct racks.
    Racks,
    /// All in distinct zones.
    Zones,
}

/// What became of a node when a chunk was placed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PlacementChoice {
    /// The client can't reach it.
    Avoided,
    /// Chosen as the first, second and so on.
    Chosen(u32),
    /// This node's replica lies on its disk.
    DiskUsed(u32),
    /// This node's replica lies in its failure domain.
    DomainUsed(u32),
    /// It is to be freed.
    Draining,
    /// It has less room than a chunk needs.
    Full,
    /// This node's replica lies in its host.
    HostUsed(u32),
    /// Chance, weighted by free space, fell on another one.
    Outweighed,
    /// This node's replica lies in its rack.
    RackUsed(u32),
    /// It has not been heard of lately.
    Silent,
    /// This node's replica lies in its zone.
    ZoneUsed(u32),
}

/// Where the chunks of an object lie, or would go.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PlacementReport {
    /// What the key holds; `None`: this is about a new object.
    pub object: Option<Object>,
    /// The bucket's chunk size.
    pub chunk_size: u32,
    /// Replicas that a put asks for.
    pub replicas: u32,
    /// Replicas in distinct failure domains without which a put fails.
    pub min_replicas: u32,
    /// All chunks of the object.
    pub chunk_count: u64,
    /// Chunks by how they are spread, the worst first.
    pub spreads: BTreeMap<Spread, u64>,
    /// Chunks with fewer replicas than the bucket asks for.
    pub chunks_in_debt: u64,
    /// Chunks with fewer replicas than that on nodes that are alive.
    pub chunks_weakened: u64,
    /// Chunks without any there.
    pub chunks_out_of_reach: u64,
    /// The chunks that were asked for.
    pub chunks: Vec<PlacedChunk>,
    /// The nodes that hold any chunk, or all nodes.
    pub nodes: Vec<PlacedNode>,
    /// Why no chunk of a new object could be placed now.
    pub obstacle: Option<String>,
}

/// A chunk and its replicas.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PlacedChunk {
    /// First byte of the chunk in the object.
    pub offset: u64,
    /// The chunk.
    pub chunk: ChunkId,
    /// Its bytes.
    pub length: u32,
    /// The nodes that hold it.
    pub nodes: Vec<NodeId>,
    /// How far apart they are.
    pub spread: Spread,
}

/// A node as placement sees it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct PlacedNode {
    /// Its id.
    pub id: u32,
    /// As its labels say; empty: they don't.
    pub zone: String,
    /// As `zone`.
    pub rack: String,
    /// As `zone`.
    pub host: String,
    /// As `zone`.
    pub disk: String,
    /// What fails together with it.
    pub failure_domain: String,
    /// Heartbeats arrive.
    pub alive: bool,
    /// Chunks of the object that it holds.
    pub chunks: u64,
    /// Free space, which the chance to be chosen goes by. Of a new object only.
    pub weight_bytes: u64,
    /// How many of a thousand chunks would get a replica here. Of a new object only.
    pub chosen_of_thousand: u32,
    /// What became of it for one chunk. Of a new object only.
    pub choice: Option<PlacementChoice>,
}

/// What it would take to free data nodes of their chunks. Nothing was moved.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct DrainPlan {
    /// False: time ran out before all objects were looked at.
    pub complete: bool,
    /// Objects that were looked at.
    pub objects_looked_at: u64,
    /// Their chunks.
    pub chunks_looked_at: u64,
    /// Replicas that would have to move.
    pub replicas: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Where they would go.
    pub targets: Vec<DrainTarget>,
    /// Replicas for which there is no place.
    pub replicas_unplaced: u64,
    /// Their bytes.
    pub bytes_unplaced: u64,
    /// Objects that would have chunks with fewer replicas than now.
    pub objects_short: u64,
    /// The first of them, as `BUCKET/KEY`.
    pub objects_short_sample: Vec<String>,
    /// Chunks that would lie in fewer failure domains than now.
    pub chunks_crowded: u64,
    /// Chunks that can't be copied at present: no node that holds them is alive.
    pub chunks_out_of_reach: u64,
    /// Open uploads with chunks on the nodes, which are not in the numbers above.
    pub open_uploads: u64,
}

/// What would go to one node.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct DrainTarget {
    /// Its id.
    pub node: u32,
    /// Replicas.
    pub replicas: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What is free there now.
    pub free_bytes: u64,
}

impl Spread {
    /// Its name in output.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Alone => "alone",
            Self::OneDomain => "one_domain",
            Self::Disks => "disks",
            Self::Hosts => "hosts",
            Self::Racks => "racks",
            Self::Zones => "zones",
        }
    }

    const fn parse(spread: proto::Spread) -> Self {
        match spread {
            proto::Spread::Unspecified => Self::Unknown,
            proto::Spread::Alone => Self::Alone,
            proto::Spread::OneDomain => Self::OneDomain,
            proto::Spread::Disks => Self::Disks,
            proto::Spread::Hosts => Self::Hosts,
            proto::Spread::Racks => Self::Racks,
            proto::Spread::Zones => Self::Zones,
        }
    }
}

impl PlacementChoice {
    /// Its name in output.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Avoided => "avoided",
            Self::Chosen(_) => "chosen",
            Self::DiskUsed(_) => "disk_used",
            Self::DomainUsed(_) => "domain_used",
            Self::Draining => "draining",
            Self::Full => "full",
            Self::HostUsed(_) => "host_used",
            Self::Outweighed => "outweighed",
            Self::RackUsed(_) => "rack_used",
            Self::Silent => "silent",
            Self::ZoneUsed(_) => "zone_used",
        }
    }

    /// The node whose replica is in the way.
    #[must_use]
    pub const fn by(self) -> Option<u32> {
        match self {
            Self::DiskUsed(node)
            | Self::DomainUsed(node)
            | Self::HostUsed(node)
            | Self::RackUsed(node)
            | Self::ZoneUsed(node) => Some(node),
            Self::Avoided
            | Self::Chosen(_)
            | Self::Draining
            | Self::Full
            | Self::Outweighed
            | Self::Silent => None,
        }
    }

    const fn parse(verdict: PlacementVerdict, detail: u32) -> Option<Self> {
        Some(match verdict {
            PlacementVerdict::Unspecified => return None,
            PlacementVerdict::Avoided => Self::Avoided,
            PlacementVerdict::Chosen => Self::Chosen(detail),
            PlacementVerdict::DiskUsed => Self::DiskUsed(detail),
            PlacementVerdict::DomainUsed => Self::DomainUsed(detail),
            PlacementVerdict::Draining => Self::Draining,
            PlacementVerdict::Full => Self::Full,
            PlacementVerdict::HostUsed => Self::HostUsed(detail),
            PlacementVerdict::Outweighed => Self::Outweighed,
            PlacementVerdict::RackUsed => Self::RackUsed(detail),
            PlacementVerdict::Silent => Self::Silent,
            PlacementVerdict::ZoneUsed => Self::ZoneUsed(detail),
        })
    }
}

impl From<proto::NodeLabel> for NodeLabel {
    fn from(label: proto::NodeLabel) -> Self {
        Self { key: label.key, value: label.value, by_operator: label.by_operator }
    }
}

impl From<proto::PlacedNode> for PlacedNode {
    fn from(node: proto::PlacedNode) -> Self {
        Self {
            choice: PlacementChoice::parse(node.verdict(), node.detail),
            id: node.node_id,
            zone: node.zone,
            rack: node.rack,
            host: node.host,
            disk: node.disk,
            failure_domain: node.failure_domain,
            alive: node.alive,
            chunks: node.chunks,
            weight_bytes: node.weight_bytes,
            chosen_of_thousand: node.chosen_of_thousand,
        }
    }
}

impl PlacedChunk {
    fn parse(chunk: &proto::PlacedChunk) -> Option<Self> {
        Some(Self {
            offset: chunk.offset,
            chunk: parse_chunk_id(&chunk.chunk_id)?,
            length: chunk.length,
            nodes: parse_node_ids(&chunk.node_ids),
            spread: Spread::parse(chunk.spread()),
        })
    }
}

impl PlacementReport {
    fn parse(reply: proto::ExplainPlacementResponse) -> Result<Self> {
        let operation = Operation::ExplainPlacement.label();
        let chunks: Option<Vec<_>> = reply.chunks.iter().map(PlacedChunk::parse).collect();
        let mut spreads = BTreeMap::new();
        for count in &reply.spreads {
            *spreads.entry(Spread::parse(count.spread())).or_default() += count.chunks;
        }
        Ok(Self {
            object: reply.object.map(|object| Object::parse(Some(object), operation)).transpose()?,
            chunk_size: reply.chunk_size,
            replicas: reply.replicas,
            min_replicas: reply.min_replicas,
            chunk_count: reply.chunk_count,
            spreads,
            chunks_in_debt: reply.chunks_in_debt,
            chunks_weakened: reply.chunks_weakened,
            chunks_out_of_reach: reply.chunks_out_of_reach,
            chunks: chunks.ok_or(Error::BadReply { operation, what: "a chunk has no good id" })?,
            nodes: reply.nodes.into_iter().map(PlacedNode::from).collect(),
            obstacle: Some(reply.obstacle).filter(|obstacle| !obstacle.is_empty()),
        })
    }
}

impl From<proto::PlanDrainResponse> for DrainPlan {
    fn from(plan: proto::PlanDrainResponse) -> Self {
        let target = |target: proto::DrainTarget| DrainTarget {
            node: target.node_id,
            replicas: target.replicas,
            bytes: target.bytes,
            free_bytes: target.free_bytes,
        };
        let name = |resource: String| {
            let split = resource.strip_prefix("buckets/").and_then(|rest| rest.split_once("/objects/"));
            split.map_or(resource.clone(), |(bucket, key)| format!("{bucket}/{key}"))
        };
        Self {
            complete: plan.complete,
            objects_looked_at: plan.objects_looked_at,
            chunks_looked_at: plan.chunks_looked_at,
            replicas: plan.replicas,
            bytes: plan.bytes,
            targets: plan.targets.into_iter().map(target).collect(),
            replicas_unplaced: plan.replicas_unplaced,
            bytes_unplaced: plan.bytes_unplaced,
            objects_short: plan.objects_short,
            objects_short_sample: plan.objects_short_sample.into_iter().map(name).collect(),
            chunks_crowded: plan.chunks_crowded,
            chunks_out_of_reach: plan.chunks_out_of_reach,
            open_uploads: plan.open_uploads,
        }
    }
}

pub(crate) async fn label_node(client: &Client, node: u32, change: LabelChange) -> Result<Vec<NodeLabel>> {
    let LabelChange { set, remove, overwrite } = change;
    let name = format!("nodes/{node}");
    let request = proto::LabelNodeRequest { request_id: request_id(), name, set, remove, overwrite };
    let operation = Operation::LabelNode;
    let send = |mut meta: Meta, request| async move { meta.label_node(request).await };
    let reply = client.shared().control.call(operation, request, send).await;
    let reply = reply.map_err(|refusal| refusal.about(operation, "", ""))?;
    Ok(reply.labels.into_iter().map(NodeLabel::from).collect())
}

pub(crate) async fn explain(
    client: &Client,
    bucket: &str,
    key: &str,
    query: PlacementQuery,
) -> Result<PlacementReport> {
    let request = proto::ExplainPlacementRequest {
        name: ObjectName::new(bucket, key)?.resource,
        as_new: query.as_new,
        first_chunk: query.first_chunk,
        chunks: query.chunks.unwrap_or_default(),
    };
    let operation = Operation::ExplainPlacement;
    let send = |mut meta: Meta, request| async move { meta.explain_placement(request).await };
    let reply = client.shared().control.call(operation, request, send).await;
    PlacementReport::parse(reply.map_err(|refusal| refusal.about(operation, bucket, key))?)
}

/// Part by part, for as long as one request may be retried.
pub(crate) async fn plan_drain(client: &Client, nodes: &[u32]) -> Result<DrainPlan> {
    let operation = Operation::PlanDrain;
    let send = |mut meta: Meta, request| async move { meta.plan_drain(request).await };
    let mut request = proto::PlanDrainRequest { node_ids: nodes.to_vec(), ..Default::default() };
    let mut plan = DrainPlan::default();
    let until = Instant::now() + client.shared().config.deadline;
    loop {
        let part = client.shared().control.call(operation, request.clone(), send).await;
        let part = part.map_err(|refusal| refusal.about(operation, "", ""))?;
        let last = (part.after_bucket_id, part.after_key.clone());
        plan.add(part.into());
        if plan.complete || Instant::now() >= until {
            return Ok(plan);
        }
        if last <= (request.after_bucket_id, request.after_key) {
            return Err(Error::BadReply { operation: operation.label(), what: "the plan does not go on" });
        }
        (request.after_bucket_id, request.after_key) = last;
        request.given = plan.targets.iter().map(DrainTarget::given).collect();
    }
}

impl DrainTarget {
    fn given(&self) -> proto::DrainTarget {
        proto::DrainTarget { node_id: self.node, bytes: self.bytes, ..Default::default() }
    }
}

impl DrainPlan {
    /// Adds the next part of the same plan.
    fn add(&mut self, part: Self) {
        self.complete = part.complete;
        self.objects_looked_at += part.objects_looked_at;
        self.chunks_looked_at += part.chunks_looked_at;
        self.replicas += part.replicas;
        self.bytes += part.bytes;
        self.replicas_unplaced += part.replicas_unplaced;
        self.bytes_unplaced += part.bytes_unplaced;
        self.objects_short += part.objects_short;
        self.chunks_crowded += part.chunks_crowded;
        self.chunks_out_of_reach += part.chunks_out_of_reach;
        // Not a sum: each part has all of them.
        self.open_uploads = part.open_uploads;
        let room = SAMPLE_MAX.saturating_sub(self.objects_short_sample.len());
        self.objects_short_sample.extend(part.objects_short_sample.into_iter().take(room));
        for target in part.targets {
            match self.targets.iter_mut().find(|known| known.node == target.node) {
                // What was free at first is the larger by what was given since.
                Some(known) => {
                    known.replicas += target.replicas;
                    known.bytes += target.bytes;
                }
                None => self.targets.push(target),
            }
        }
        self.targets.sort_by_key(|target| target.node);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn report_is_taken_from_a_reply_that_makes_sense() {
        let chunk = proto::PlacedChunk {
            chunk_id: vec![7; 16],
            length: 5,
            node_ids: vec![1, 2],
            spread: proto::Spread::Zones.into(),
            ..Default::default()
        };
        let node = proto::PlacedNode {
            node_id: 2,
            verdict: PlacementVerdict::ZoneUsed.into(),
            detail: 1,
            ..Default::default()
        };
        let reply = proto::ExplainPlacementResponse {
            chunks: vec![chunk.clone()],
            nodes: vec![node],
            spreads: vec![proto::SpreadCount { spread: 99, chunks: 3 }],
            ..Default::default()
        };
        let report = PlacementReport::parse(reply.clone()).unwrap();
        assert_eq!((report.chunks[0].spread, report.object), (Spread::Zones, None));
        assert_eq!(report.nodes[0].choice, Some(PlacementChoice::ZoneUsed(1)));
        assert_eq!(report.nodes[0].choice.and_then(PlacementChoice::by), Some(1));
        assert_eq!(report.spreads, [(Spread::Unknown, 3)].into(), "a later server may know more");
        let bad = proto::PlacedChunk { chunk_id: vec![1], ..chunk };
        let bad = proto::ExplainPlacementResponse { chunks: vec![bad], ..reply };
        assert!(matches!(PlacementReport::parse(bad), Err(Error::BadReply { .. })));
    }

    #[test]
    fn parts_add_up_to_a_plan() {
        let target = |node, bytes, free_bytes| DrainTarget { node, replicas: 1, bytes, free_bytes };
        let part = |complete, targets: &[DrainTarget]| DrainPlan {
            complete,
            replicas: 2,
            open_uploads: 3,
            targets: targets.to_vec(),
            objects_short_sample: vec!["b/k".into(); 15],
            ..DrainPlan::default()
        };
        let mut plan = DrainPlan::default();
        plan.add(part(false, &[target(2, 10, 100)]));
        plan.add(part(true, &[target(1, 5, 50), target(2, 7, 90)]));
        assert_eq!((plan.complete, plan.replicas, plan.open_uploads), (true, 4, 3));
        let both = DrainTarget { node: 2, replicas: 2, bytes: 17, free_bytes: 100 };
        assert_eq!((plan.targets, plan.objects_short_sample.len()), (vec![target(1, 5, 50), both], 20));
    }

    #[test]
    fn names_in_a_plan_are_those_that_people_write() {
        let plan = proto::PlanDrainResponse {
            objects_short_sample: vec!["buckets/photos/objects/a/objects/b".into(), "odd".into()],
            ..Default::default()
        };
        assert_eq!(DrainPlan::from(plan).objects_short_sample, ["photos/a/objects/b", "odd"]);
    }
}

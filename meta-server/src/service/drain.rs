//! What it would take to free data nodes of their chunks. It moves nothing.
//!
//! Invariant: the state is locked for a bounded number of chunks at a time, and what is copied out of it is bounded. What
//! changes meanwhile may be counted as it was or as it is.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use xdpfs_proto::meta::v1 as proto;
use xdpfs_wire::{BucketId, NodeId};

use super::{
    Gateway, Refusal,
    gateway::Call,
    name::{self, KEY_BYTES_MAX},
};
use crate::{
    placement::{Bar, Candidate, DrainTally},
    state_machine::{Chunk, ObjectName, Reason, Replicas, State},
};

/// Nodes in one plan.
const NODES_MAX: usize = 64;
/// Objects and chunks that are looked at under one lock; the last object may go beyond it.
const LOOKED_AT_MAX: usize = 4096;
/// Names of objects in an answer.
const SAMPLE_MAX: usize = 20;
/// How long one part takes at most, beyond the objects of one lock.
const PART_MAX: Duration = Duration::from_secs(1);

impl Gateway {
    pub(super) async fn plan_drain(
        &self,
        call: Call<proto::PlanDrainRequest>,
    ) -> Result<proto::PlanDrainResponse, Refusal> {
        let Asked { drained, mut after, given } = Asked::parse(call.message)?;
        let term = self.admit(call.deadline, &call.access).await?;
        let busy = |_| Refusal::new(Reason::Overloaded, "another drain plan is being made");
        let _turn = self.drain_plans().try_acquire().map_err(busy)?;
        let (mut plan, free) = {
            let state = self.state();
            if drained.iter().any(|node| state.node(*node).is_none()) {
                return Err(Refusal::new(Reason::NodeUnknown, "no data node of this number has registered"));
            }
            let mut candidates = self.candidates(&state, term, &[]);
            for candidate in &mut candidates {
                let given = given.get(&candidate.node).copied().unwrap_or_default();
                candidate.free_bytes = candidate.free_bytes.saturating_sub(given);
            }
            let free: Vec<_> = candidates.iter().map(|node| (node.node, node.free_bytes)).collect();
            (Plan::new(candidates, &drained, &state), free)
        };
        let ends_at = call.deadline.min(Instant::now() + PART_MAX);
        loop {
            let batch = Batch::read(&self.state(), after.as_ref(), &drained);
            after = plan.take(batch);
            if after.is_none() || Instant::now() >= ends_at {
                break;
            }
            // Others have a turn, and so does whoever waits to change the state.
            tokio::task::yield_now().await;
        }
        plan.response.complete = after.is_none();
        if let Some((bucket, key)) = &after {
            plan.response.after_bucket_id = bucket.0;
            plan.response.after_key = key.to_string();
        }
        Ok(plan.finish(&free, &self.state()))
    }
}

/// What lies on one node.
pub(super) struct Use {
    pub(super) replicas: u64,
    /// Chunks of which no other node that is heard of has a replica.
    pub(super) chunks_lost: u64,
    /// The first objects that have some of these.
    pub(super) objects: Vec<String>,
}

impl Gateway {
    /// What manifests name the node for.
    pub(super) async fn use_of(
        &self,
        term: u64,
        node: NodeId,
        now: Instant,
        deadline: Instant,
    ) -> Result<Use, Refusal> {
        let busy = |_| Refusal::new(Reason::Overloaded, "another drain plan is being made");
        let _turn = self.drain_plans().try_acquire().map_err(busy)?;
        let (nodes, mut after) = ([node].into(), None);
        let heard: BTreeSet<NodeId> = {
            let state = self.state();
            let others = state.nodes().filter(|other| other.id != node && !other.removed);
            others
                .map(|other| other.id)
                .filter(|other| self.liveness().sight(term, *other, now).alive)
                .collect()
        };
        let mut found = Use { replicas: 0, chunks_lost: 0, objects: Vec::new() };
        loop {
            {
                let state = self.state();
                let batch = Batch::read(&state, after.as_ref(), &nodes);
                for ((bucket, key), chunks) in batch.concerned {
                    found.replicas += chunks.len() as u64;
                    let is_lost = |chunk: &&Chunk| !chunk.replicas.iter().any(|other| heard.contains(&other));
                    let lost = chunks.iter().filter(is_lost).count() as u64;
                    found.chunks_lost += lost;
                    if lost > 0
                        && found.objects.len() < SAMPLE_MAX
                        && let Some(bucket) = state.bucket_by_id(bucket)
                    {
                        found.objects.push(name::object_resource(&bucket.name, &key));
                    }
                }
                after = batch.last;
            }
            if after.is_none() {
                return Ok(found);
            }
            if Instant::now() >= deadline {
                return Err(Refusal::new(
                    Reason::DeadlineExceeded,
                    "there are too many objects to look at in time",
                ));
            }
            tokio::task::yield_now().await;
        }
    }
}

/// What a request asks for.
#[derive(Debug)]
struct Asked {
    drained: BTreeSet<NodeId>,
    /// The object to go on behind.
    after: Option<ObjectName>,
    /// Bytes that earlier parts have given to each node.
    given: BTreeMap<NodeId, u64>,
}

impl Asked {
    fn parse(request: proto::PlanDrainRequest) -> Result<Self, Refusal> {
        let proto::PlanDrainRequest { node_ids, after_bucket_id, after_key, given } = request;
        if node_ids.is_empty() || node_ids.len() > NODES_MAX {
            return Err(Refusal::invalid("node_ids", format!("name 1 to {NODES_MAX} data nodes")));
        }
        if given.len() > usize::from(u16::MAX) || after_key.len() > KEY_BYTES_MAX {
            return Err(Refusal::invalid("given", "no answer of a plan had as much"));
        }
        let node = |id: u32| {
            let unknown = || Refusal::new(Reason::NodeUnknown, "no data node of this number has registered");
            u16::try_from(id).map(NodeId).map_err(|_| unknown())
        };
        Ok(Self {
            drained: node_ids.into_iter().map(node).collect::<Result<_, _>>()?,
            after: (after_bucket_id != 0).then(|| (BucketId(after_bucket_id), after_key.into())),
            given: given
                .into_iter()
                .map(|target| Ok((node(target.node_id)?, target.bytes)))
                .collect::<Result<_, Refusal>>()?,
        })
    }
}

/// What was copied out of the state under one lock.
struct Batch {
    objects: u64,
    chunks: u64,
    /// Objects that lose replicas, with the chunks that do.
    concerned: Vec<(ObjectName, Vec<Chunk>)>,
    /// The last object that was looked at; none: there is nothing behind it.
    last: Option<ObjectName>,
}

impl Batch {
    fn read(state: &State, after: Option<&ObjectName>, drained: &BTreeSet<NodeId>) -> Self {
        let mut batch = Self { objects: 0, chunks: 0, concerned: Vec::new(), last: None };
        let mut last: Option<ObjectName> = None;
        for (name, object) in state.objects_after(after) {
            // A part ends behind all versions of a key.
            let is_full = batch.objects + batch.chunks >= LOOKED_AT_MAX as u64;
            if is_full && last.as_ref() != Some(&name) {
                batch.last = last;
                break;
            }
            batch.objects += 1;
            batch.chunks += object.chunks.len() as u64;
            let loses = |chunk: &&Chunk| chunk.replicas.iter().any(|node| drained.contains(&node));
            let chunks: Vec<Chunk> = object.chunks.iter().filter(loses).copied().collect();
            if !chunks.is_empty() {
                batch.concerned.push((name.clone(), chunks));
            }
            last = Some(name);
        }
        batch
    }
}

/// A plan that is being made.
struct Plan {
    tally: DrainTally,
    silent: Vec<NodeId>,
    response: proto::PlanDrainResponse,
    short: Vec<ObjectName>,
}

impl Plan {
    fn new(mut candidates: Vec<Candidate>, drained: &BTreeSet<NodeId>, state: &State) -> Self {
        let is_silent = |node: &&Candidate| node.barred == Some(Bar::Silent);
        let silent = candidates.iter().filter(is_silent).map(|node| node.node).collect();
        for node in candidates.iter_mut().filter(|node| drained.contains(&node.node)) {
            node.barred = Some(Bar::Draining);
        }
        let on_drained = |replicas: &Replicas| replicas.iter().any(|node| drained.contains(&node));
        let open = state.uploads().filter(|upload| upload.chunks.values().any(on_drained));
        let response = proto::PlanDrainResponse { open_uploads: open.count() as u64, ..Default::default() };
        Self { tally: DrainTally::new(candidates), silent, response, short: Vec::new() }
    }

    /// Gives the last object that was looked at, if there may be more.
    fn take(&mut self, batch: Batch) -> Option<ObjectName> {
        self.response.objects_looked_at += batch.objects;
        self.response.chunks_looked_at += batch.chunks;
        for (name, chunks) in batch.concerned {
            let mut is_short = false;
            for chunk in chunks {
                let holders: Vec<NodeId> = chunk.replicas.iter().collect();
                is_short |= !self.tally.add(chunk.id, chunk.length, &holders, &self.silent);
            }
            self.response.objects_short += u64::from(is_short);
            if is_short && self.short.len() < SAMPLE_MAX && self.short.last() != Some(&name) {
                self.short.push(name);
            }
        }
        batch.last
    }

    fn finish(self, free: &[(NodeId, u64)], state: &State) -> proto::PlanDrainResponse {
        let Self { tally, short, response, .. } = self;
        let targets = free.iter().filter_map(|(node, free_bytes)| {
            let destination = tally.destinations.get(node)?;
            Some(proto::DrainTarget {
                node_id: node.0.into(),
                replicas: destination.replicas,
                bytes: destination.bytes,
                free_bytes: *free_bytes,
            })
        });
        let resource =
            |(bucket, key): ObjectName| Some(name::object_resource(&state.bucket_by_id(bucket)?.name, &key));
        proto::PlanDrainResponse {
            replicas: tally.replicas,
            bytes: tally.bytes,
            targets: targets.collect(),
            replicas_unplaced: tally.replicas_unplaced,
            bytes_unplaced: tally.bytes_unplaced,
            objects_short_sample: short.into_iter().filter_map(resource).collect(),
            chunks_crowded: tally.chunks_crowded,
            chunks_out_of_reach: tally.chunks_out_of_reach,
            ..response
        }
    }
}

#[cfg(test)]
mod tests {
    use xdpfs_proto::state::v1::{self as pb, command};
    use xdpfs_wire::{NodeEpoch, Receipt, ReceiptKey, SipKey};

    use super::*;
    use crate::placement::{Location, Topology};

    #[test]
    fn plan_is_about_some_nodes_and_not_about_too_many() {
        let parse = |node_ids: &[u32]| {
            let request = proto::PlanDrainRequest { node_ids: node_ids.to_vec(), ..Default::default() };
            Asked::parse(request).map(|asked| asked.drained.len()).map_err(|refusal| refusal.reason())
        };
        assert_eq!(parse(&[3, 1, 3]), Ok(2));
        assert_eq!(parse(&[]), Err(Reason::InvalidArgument));
        assert_eq!(parse(&[1; NODES_MAX + 1]), Err(Reason::InvalidArgument));
        assert_eq!(parse(&[70_000]), Err(Reason::NodeUnknown));
        let far = proto::PlanDrainRequest {
            node_ids: vec![1],
            after_bucket_id: 1,
            after_key: "k".repeat(KEY_BYTES_MAX + 1),
            ..Default::default()
        };
        assert_eq!(Asked::parse(far).unwrap_err().reason(), Reason::InvalidArgument);
    }

    /// A state with one bucket and one object of a chunk on nodes 1 and 2 for each key.
    fn state(keys: &[&str]) -> State {
        let mut state = State::default();
        let key = vec![7; 16];
        let mut apply = |kind| {
            let command = pb::Command { time_ms: 1, kind: Some(kind), ..Default::default() };
            state.apply(1, &command).kind.unwrap()
        };
        for uuid in ["u", "v", "w"] {
            apply(command::Kind::RegisterNode(pb::RegisterNode {
                node_uuid: uuid.into(),
                receipt_key: key.clone().into(),
                capacity_bytes: 25,
                ..Default::default()
            }));
        }
        apply(command::Kind::CreateBucket(pb::CreateBucket {
            name: "abc".into(),
            chunk_size: 10,
            replicas: 2,
            min_replicas: 2,
            ..Default::default()
        }));
        for name in keys {
            let placements = vec![pb::Placement { node_ids: vec![1, 2] }];
            let begin = pb::BeginPut {
                bucket: "abc".into(),
                key: (*name).into(),
                placements,
                lease_ms: 1,
                ..Default::default()
            };
            let pb::outcome::Kind::Begun(begun) = apply(command::Kind::BeginPut(begin)) else { panic!() };
            let chunk_id = begun.chunks[0].chunk_id.clone();
            let receipt = |node: u16| {
                let receipt = Receipt {
                    chunk: crate::state_machine::parse_chunk_id(&chunk_id).unwrap(),
                    length: 10,
                    crc: 0,
                    node: NodeId(node),
                    node_epoch: NodeEpoch(1),
                    mac: 0,
                };
                let receipt_key = ReceiptKey(SipKey::from_bytes(key.clone().try_into().unwrap()));
                pb::Receipt { node_id: node.into(), node_epoch: 1, mac: receipt_key.sign(&receipt) }
            };
            let receipts = vec![receipt(1), receipt(2)];
            let chunk = pb::WrittenChunk { chunk_id: chunk_id.clone(), length: 10, crc32c: 0, receipts };
            let commit =
                pb::CommitPut { upload_id: begun.upload_id, chunks: vec![chunk], ..Default::default() };
            let done = apply(command::Kind::CommitPut(commit));
            assert!(matches!(done, pb::outcome::Kind::Committed(_)), "{done:?}");
        }
        state
    }

    #[test]
    fn objects_are_looked_at_in_order_and_once_each() {
        let state = state(&["a", "b", "c"]);
        let drained = [NodeId(1)].into();
        let mut batch = Batch::read(&state, None, &drained);
        assert_eq!((batch.objects, batch.chunks, batch.concerned.len(), &batch.last), (3, 3, 3, &None));
        let first = batch.concerned.remove(0).0;
        let rest = Batch::read(&state, Some(&first), &drained);
        assert_eq!((rest.objects, rest.concerned[0].0.1.as_ref()), (2, "b"));
        assert_eq!(Batch::read(&state, None, &[NodeId(3)].into()).concerned.len(), 0);
    }

    #[test]
    fn names_of_objects_without_a_place_are_told() {
        let state = state(&["a", "b", "c"]);
        let mut topology = Topology::default();
        let candidate = |number: u16| Candidate {
            node: NodeId(number),
            position: topology.position(NodeId(number), Location::default()),
            free_bytes: 25,
            barred: None,
            avoid: false,
        };
        let candidates: Vec<_> = [1, 2, 3].map(candidate).into();
        let free: Vec<_> = candidates.iter().map(|node| (node.node, node.free_bytes)).collect();
        let drained = [NodeId(1)].into();
        let mut plan = Plan::new(candidates, &drained, &state);
        assert_eq!(plan.take(Batch::read(&state, None, &drained)), None);
        let response = plan.finish(&free, &state);
        assert_eq!((response.replicas, response.bytes, response.replicas_unplaced), (3, 30, 1));
        let target = proto::DrainTarget { node_id: 3, replicas: 2, bytes: 20, free_bytes: 25 };
        assert_eq!(response.targets, [target], "there is room for two");
        assert_eq!(response.objects_short_sample, ["buckets/abc/objects/c"]);
    }
}

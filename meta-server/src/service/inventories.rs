//! Inventories: nodes tell what they hold, operators ask what was found, and what nothing refers to is collected if they want that.
//!
//! Invariant: the state is held for a bounded number of chunks at a time, for one node at a time. No name of an object gets into a log.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use xdpfs_proto::{
    meta::v1 as proto,
    node::v1::{TellInventoryRequest, TellInventoryResponse},
    state::v1::{self as pb, command},
};
use xdpfs_wire::{ChunkId, NodeId};

use super::{
    Gateway, Refusal, RequestId,
    gateway::{Call, NodeCall, duration_ms},
    name,
    node::{parse_chunk_ids, registered},
};
use crate::{
    inventory::{Busy, Findings, Kind, Listed, PART_PAUSE, Picture, Sight, Standing, Step, look},
    repair::Doubt,
    state_machine::{FeatureLevel, Node, Reason, State, chunk_id_bytes, parse_chunk_id},
};

/// Chunks in one part of a node's list.
const CHUNKS_PER_PART_MAX: usize = 1 << 14;
/// Chunks that are looked at under one lock.
const LOOKED_AT_MAX: usize = 4096;
/// Of what seems to be wrong, so much is looked at again before it is gone on.
const SUSPECTS_MAX: usize = 1 << 14;
/// How long one request looks at manifests, or at a list.
const TURN: Duration = Duration::from_millis(200);
/// Chunks of one entry that collects.
const COLLECTED_MAX: usize = 1024;

impl Gateway {
    /// A node tells what it holds in a range of ids.
    pub(super) async fn tell_inventory(
        &self,
        call: NodeCall<TellInventoryRequest>,
    ) -> Result<TellInventoryResponse, Refusal> {
        let request = call.message;
        let list = List::parse(&request)?;
        let term = self.read_barrier(call.deadline).await?;
        self.check_member(&request.cluster_id)?;
        let node = registered(&self.state(), request.node_id, request.node_epoch).ok_or_else(|| {
            Refusal::new(Reason::NodeUnknown, "the node is not registered, or has registered anew")
        })?;
        let (number, teller) = (request.number, (node, request.node_epoch));
        let Some((first, until)) = self.inventories().place(term, number, teller) else {
            return Ok(answer(Step::Done));
        };
        if first != list.first {
            // An answer was lost, or this leader waits for more than the one before.
            return Ok(answer(Step::Go { next: first, wait: Duration::ZERO }));
        }
        let Ok(_turn) = self.inventory_turns().try_acquire() else {
            return Ok(answer(Step::Go { next: first, wait: PART_PAUSE }));
        };
        let sight = self.look_at(node, &list, until.map_or(list.last, |until| until.min(list.last))).await;
        let (found, step) = self.inventories().see(term, number, teller, Instant::now(), sight);
        if !found.is_empty() {
            let _settling = Settling { gateway: self, term, number, node };
            self.follow_up(term, number, node, found).await;
        }
        Ok(answer(step))
    }

    async fn look_at(&self, node: NodeId, list: &List, last: ChunkId) -> Sight {
        let began = Instant::now();
        let look_from = |first| look(&self.state(), node, &list.chunks, (first, last), LOOKED_AT_MAX);
        let mut sight = look_from(list.first);
        while sight.last < last && sight.wrong.len() < SUSPECTS_MAX && began.elapsed() < TURN {
            // Others have a turn, and so does whoever waits to change the state.
            tokio::task::yield_now().await;
            let next = look_from(ChunkId(sight.last.0 + 1));
            sight = sight.join(next);
        }
        sight
    }

    /// Repair looks into what it can mend; what nothing refers to is collected, if operators want that.
    async fn follow_up(&self, term: u64, number: u64, node: NodeId, found: BTreeSet<(Kind, ChunkId)>) {
        let mut by_kind: BTreeMap<Kind, Vec<ChunkId>> = BTreeMap::new();
        for (kind, chunk) in found {
            by_kind.entry(kind).or_default().push(chunk);
        }
        let count = |kind| by_kind.get(&kind).map_or(0, Vec::len);
        tracing::info!(
            %node,
            missing = count(Kind::Missing),
            different = count(Kind::Different),
            surplus = count(Kind::Surplus),
            unreferenced = count(Kind::Unreferenced),
            foreign = count(Kind::Foreign),
            "an inventory finds that a data node does not hold what it should"
        );
        let mut take = |kind| by_kind.remove(&kind).unwrap_or_default();
        let doubt = |verify| move |chunk| Doubt { chunk, node, verify };
        self.repairs().doubt(term, take(Kind::Missing).into_iter().map(doubt(false)));
        self.repairs().doubt(term, take(Kind::Different).into_iter().map(doubt(true)));
        self.repairs().surplus(term, node, take(Kind::Surplus));
        if self.inventories().collects(term, number) {
            for chunks in take(Kind::Unreferenced).chunks(COLLECTED_MAX) {
                let collected = self.collect_unreferenced(node, chunks).await;
                self.inventories().note_collected(term, number, node, collected);
            }
        }
    }

    /// Whether something refers to them after all is looked at where the entry is applied. Gives how many are pending deletes then.
    async fn collect_unreferenced(&self, node: NodeId, chunks: &[ChunkId]) -> u64 {
        let chunk_ids = chunks.iter().map(|chunk| chunk_id_bytes(*chunk)).collect();
        let collect = pb::CollectReplicas { node_id: node.0.into(), chunk_ids };
        let deadline = Instant::now() + self.config().deadline;
        let proposed = self.propose(deadline, RequestId::NONE, command::Kind::CollectReplicas(collect)).await;
        if let Err(refusal) = proposed {
            tracing::warn!(%node, ?refusal, "what nothing refers to is not collected: take another inventory");
            return 0;
        }
        let state = self.state();
        chunks.iter().filter(|chunk| state.pending_deletes().contains(node, **chunk)).count() as u64
    }

    /// What was found so far. Looks at some manifests each time.
    pub(super) async fn take_inventory(
        &self,
        call: Call<proto::TakeInventoryRequest>,
    ) -> Result<proto::TakeInventoryResponse, Refusal> {
        let proto::TakeInventoryRequest { number, collect, .. } = call.message;
        let term = self.admit(call.deadline, &call.access).await?;
        if collect && self.state().feature_level() < FeatureLevel::REPAIR {
            let words = "some metadata servers are of a release that collects nothing";
            return Err(Refusal::new(Reason::FeatureLevelTooLow, words));
        }
        let now = Instant::now();
        let nodes: Vec<NodeId> = {
            let state = self.state();
            state.nodes().filter(|node| !node.removed).map(|node: &Node| node.id).collect()
        };
        let standing = |node: NodeId| self.standing_of(term, node, now);
        let standings = nodes.iter().map(|node| (*node, standing(*node)));
        let number = self.inventories().join(term, number, collect, now, standings).map_err(|Busy| {
            Refusal::new(Reason::Overloaded, "another inventory is being taken, of the other kind")
        })?;
        self.inventories().give_up(term, standing);
        let heard = nodes.into_iter().filter(|node| self.liveness().sight(term, *node, now).alive);
        let heard: BTreeSet<NodeId> = heard.collect();
        while self.inventories().look_on(term, number, &self.state(), &heard) && now.elapsed() < TURN {
            tokio::task::yield_now().await;
        }
        let picture = self.inventories().picture(term, number).ok_or_else(|| {
            Refusal::new(Reason::Overloaded, "another inventory has begun in the place of this one")
        })?;
        Ok(shown(&self.state(), picture, &heard))
    }

    /// How a node stands that has yet to tell something.
    fn standing_of(&self, term: u64, node: NodeId, now: Instant) -> Standing {
        let sight = self.liveness().sight(term, node, now);
        match sight.usage {
            _ if !sight.alive => Standing::Silent,
            Some(usage) if !usage.tells_inventory => Standing::Unable,
            // One that has yet to speak to this leader will.
            Some(_) | None => Standing::Telling,
        }
    }
}

/// Something is done about what was found, until this goes: the node may hang up at any time.
struct Settling<'a> {
    gateway: &'a Gateway,
    term: u64,
    number: u64,
    node: NodeId,
}

impl Drop for Settling<'_> {
    fn drop(&mut self) {
        self.gateway.inventories().settle(self.term, self.number, self.node);
    }
}

/// All chunks of a node in a range of ids.
#[derive(Debug)]
struct List {
    first: ChunkId,
    last: ChunkId,
    chunks: Vec<Listed>,
}

impl List {
    fn parse(request: &TellInventoryRequest) -> Result<Self, Refusal> {
        let bound = |field, id| {
            parse_chunk_id(id).ok_or_else(|| Refusal::invalid(field, "a chunk id has sixteen bytes"))
        };
        let (first, last) = (bound("first", &request.first)?, bound("last", &request.last)?);
        let chunks = parse_chunk_ids("chunk_ids", &request.chunk_ids, CHUNKS_PER_PART_MAX)?;
        if [request.lengths.len(), request.crc32cs.len()] != [chunks.len(); 2] {
            return Err(Refusal::invalid("lengths", "each chunk has one length and one checksum"));
        }
        let is_inside = first <= last && chunks.iter().all(|chunk| (first..=last).contains(chunk));
        if !is_inside || !chunks.is_sorted_by(|a, b| a < b) {
            return Err(Refusal::invalid("chunk_ids", "they are not in order, or not in the range"));
        }
        let sums = request.lengths.iter().zip(&request.crc32cs);
        let listed = chunks.into_iter().zip(sums).map(|(chunk, (length, crc32c))| Listed {
            chunk,
            length: *length,
            crc32c: *crc32c,
        });
        Ok(Self { first, last, chunks: listed.collect() })
    }
}

fn answer(step: Step) -> TellInventoryResponse {
    match step {
        Step::Go { next, wait } => TellInventoryResponse {
            done: false,
            next: chunk_id_bytes(next).to_vec(),
            wait_ms: duration_ms(wait) as u32,
        },
        Step::Done => TellInventoryResponse { done: true, ..Default::default() },
    }
}

fn shown(state: &State, picture: Picture, heard: &BTreeSet<NodeId>) -> proto::TakeInventoryResponse {
    let Picture { number, is_complete, collects, nodes, objects, chunks, findings } = picture;
    let nodes = nodes.into_iter().map(|(node, (standing, chunks, collected))| proto::InventoryNode {
        node_id: node.0.into(),
        standing: standing_number(standing).into(),
        chunks,
        collected,
    });
    let counts = findings
        .counts()
        .iter()
        .map(|(kind, count)| proto::InventoryCount { kind: kind_number(*kind).into(), count: *count });
    let shown = findings.kept().map(|(kind, chunk, node)| proto::InventoryFinding {
        kind: kind_number(kind).into(),
        chunk_id: chunk_id_bytes(chunk).to_vec(),
        node_id: node.map_or(0, |node| node.0.into()),
        object: object_of(state, chunk).unwrap_or_default(),
        others: others(state, &findings, heard, chunk, node),
    });
    proto::TakeInventoryResponse {
        number,
        complete: is_complete,
        collect: collects,
        nodes: nodes.collect(),
        objects,
        chunks,
        counts: counts.collect(),
        findings: shown.collect(),
    }
}

/// The first of those that have the chunk.
fn object_of(state: &State, chunk: ChunkId) -> Option<String> {
    let name = state.chunk_owner(chunk)?.first()?;
    Some(name::object_resource(&state.bucket_by_id(chunk.bucket())?.name, &name.key))
}

/// Replicas on other nodes that are heard of, and that nothing was found against.
fn others(
    state: &State,
    findings: &Findings,
    heard: &BTreeSet<NodeId>,
    chunk: ChunkId,
    node: Option<NodeId>,
) -> u32 {
    let replicas = state.chunk(chunk).map(|chunk| chunk.replicas).unwrap_or_default();
    let is_good =
        |other: &NodeId| Some(*other) != node && heard.contains(other) && !findings.is_against(chunk, *other);
    replicas.iter().filter(is_good).count() as u32
}

const fn standing_number(standing: Standing) -> proto::inventory_node::Standing {
    use proto::inventory_node::Standing as Number;
    match standing {
        Standing::Telling => Number::Telling,
        Standing::Told => Number::Told,
        Standing::Silent => Number::Silent,
        Standing::Unable => Number::Unable,
    }
}

const fn kind_number(kind: Kind) -> proto::InventoryKind {
    use proto::InventoryKind as Number;
    match kind {
        Kind::OutOfReach => Number::OutOfReach,
        Kind::Missing => Number::Missing,
        Kind::Different => Number::Different,
        Kind::TooFew => Number::TooFew,
        Kind::NodeGone => Number::NodeGone,
        Kind::Surplus => Number::Surplus,
        Kind::Unreferenced => Number::Unreferenced,
        Kind::Foreign => Number::Foreign,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn list_has_chunks_of_its_range_in_order_with_what_they_are() {
        let id = |number: u128| number.to_be_bytes().to_vec();
        let parse = |first, last, chunks: &[u128], sums: usize| {
            let request = TellInventoryRequest {
                first: id(first),
                last: id(last),
                chunk_ids: chunks.iter().map(|chunk| id(*chunk)).collect(),
                lengths: vec![7; sums],
                crc32cs: vec![8; sums],
                ..Default::default()
            };
            List::parse(&request).map(|list| list.chunks.len()).ok()
        };
        assert_eq!(parse(1, 9, &[1, 5, 9], 3), Some(3));
        assert_eq!(parse(0, u128::MAX, &[], 0), Some(0));
        for (first, last, chunks, sums) in [
            (2, 9, &[1][..], 1),
            (1, 9, &[10], 1),
            (1, 9, &[5, 3], 2),
            (1, 9, &[5, 5], 2),
            (1, 9, &[5], 2),
            (9, 1, &[], 0),
        ] {
            assert_eq!(parse(first, last, chunks, sums), None, "{first} {last} {chunks:?} {sums}");
        }
    }
}

//! Where the chunks of an object lie, or would go, and why.

use std::{collections::BTreeMap, time::Instant};

use xdpfs_proto::meta::v1 as proto;
use xdpfs_wire::NodeId;

use super::{
    Gateway, Refusal,
    buckets::bucket_not_found,
    candidates::{location, wanted},
    gateway::{Call, no_randomness},
    name::ObjectName,
    objects::held_to_proto,
};
use crate::{
    placement::{
        Candidate, Location, NotEnoughNodes, Position, Spread, Topology, Verdict, chosen_of_thousand,
        explain, place,
    },
    state_machine::{Bucket, Node, Object, State, chunk_id_bytes},
};

/// Chunks in an answer, and how many are usual.
const CHUNKS_MAX: usize = 4096;
const CHUNKS_USUAL: usize = 64;

impl Gateway {
    pub(super) async fn explain_placement(
        &self,
        call: Call<proto::ExplainPlacementRequest>,
    ) -> Result<proto::ExplainPlacementResponse, Refusal> {
        let request = call.message;
        let name = ObjectName::parse(&request.name)?;
        let seed = getrandom::u64().map_err(no_randomness)?;
        let term = self.admit(call.deadline, &call.access).await?;
        let state = self.state();
        let bucket = state.bucket(&name.bucket).ok_or_else(bucket_not_found)?;
        let object = state.object(bucket.id, &name.key).filter(|_| !request.as_new);
        let mut response = proto::ExplainPlacementResponse {
            chunk_size: bucket.chunk_size,
            replicas: bucket.replicas,
            min_replicas: bucket.min_replicas,
            ..Default::default()
        };
        let Some(object) = object else {
            let candidates = self.candidates(&state, term, &[]);
            let nodes: Vec<proto::PlacedNode> =
                state.nodes().map(|node| self.placed_node(node, term)).collect();
            let wanted = wanted(bucket);
            // What follows takes a while for many nodes, and needs no state.
            drop(state);
            response.obstacle = place(seed, &candidates, wanted)
                .err()
                .as_ref()
                .map(NotEnoughNodes::to_string)
                .unwrap_or_default();
            let chances = chosen_of_thousand(seed, &candidates, wanted);
            let verdicts = explain(seed, &candidates, wanted);
            let judged = nodes.into_iter().zip(&candidates).zip(verdicts.into_iter().zip(chances));
            response.nodes =
                judged.map(|((node, candidate), why)| judged_node(node, candidate, why)).collect();
            return Ok(response);
        };
        response.object = Some(held_to_proto(bucket, &name.key, object));
        self.explain_object(&state, term, (bucket, object), &mut response);
        let count = match request.chunks as usize {
            0 => CHUNKS_USUAL,
            count => count.min(CHUNKS_MAX),
        };
        let places = Places::new(&state);
        response.chunks = placed_chunks(object, request.first_chunk as usize, count, &places);
        Ok(response)
    }

    /// The sums over all chunks of an object, and its nodes.
    fn explain_object(
        &self,
        state: &State,
        term: u64,
        (bucket, object): (&Bucket, &Object),
        response: &mut proto::ExplainPlacementResponse,
    ) {
        let places = Places::new(state);
        let mut nodes: BTreeMap<NodeId, proto::PlacedNode> = BTreeMap::new();
        for node in object.chunks.iter().flat_map(|chunk| chunk.replicas.iter()) {
            if let Some(known) = state.node(node) {
                nodes.entry(node).or_insert_with(|| self.placed_node(known, term)).chunks += 1;
            }
        }
        let is_alive = |node: NodeId| nodes.get(&node).is_some_and(|node| node.alive);
        let mut spreads: BTreeMap<Spread, u64> = BTreeMap::new();
        for chunk in &object.chunks {
            let alive = chunk.replicas.iter().filter(|node| is_alive(*node)).count() as u32;
            response.chunks_in_debt += u64::from((chunk.replicas.len() as u32) < bucket.replicas);
            response.chunks_weakened += u64::from(alive < bucket.replicas);
            response.chunks_out_of_reach += u64::from(alive == 0);
            *spreads.entry(places.spread(chunk.replicas.iter())).or_default() += 1;
        }
        response.chunk_count = object.chunks.len() as u64;
        let count = |(spread, chunks)| proto::SpreadCount { spread: spread_to_proto(spread).into(), chunks };
        response.spreads = spreads.into_iter().map(count).collect();
        response.nodes = nodes.into_values().collect();
    }

    fn placed_node(&self, node: &Node, term: u64) -> proto::PlacedNode {
        let Location { zone, rack, host, disk, .. } = location(node);
        proto::PlacedNode {
            node_id: node.id.0.into(),
            zone: zone.to_owned(),
            rack: rack.to_owned(),
            host: host.to_owned(),
            disk: disk.to_owned(),
            failure_domain: node.domain(),
            alive: self.liveness().sight(term, node.id, Instant::now()).alive,
            ..Default::default()
        }
    }
}

/// Where all nodes are.
struct Places(BTreeMap<NodeId, Position>);

impl Places {
    fn new(state: &State) -> Self {
        let mut topology = Topology::default();
        Self(state.nodes().map(|node| (node.id, topology.position(node.id, location(node)))).collect())
    }

    fn spread(&self, nodes: impl Iterator<Item = NodeId>) -> Spread {
        let positions: Vec<Position> = nodes.filter_map(|node| self.0.get(&node).copied()).collect();
        Spread::of(&positions)
    }
}

fn placed_chunks(object: &Object, first: usize, count: usize, places: &Places) -> Vec<proto::PlacedChunk> {
    // All chunks but the last one have the length of the first one.
    let full = object.chunks.first().map_or(0, |chunk| u64::from(chunk.length));
    let listed = object.chunks.iter().enumerate().skip(first).take(count);
    let placed = |(at, chunk): (usize, &crate::state_machine::Chunk)| proto::PlacedChunk {
        chunk_id: chunk_id_bytes(chunk.id).to_vec(),
        offset: at as u64 * full,
        length: chunk.length,
        node_ids: chunk.replicas.numbers(),
        spread: spread_to_proto(places.spread(chunk.replicas.iter())).into(),
    };
    listed.map(placed).collect()
}

const fn spread_to_proto(spread: Spread) -> proto::Spread {
    match spread {
        Spread::Alone => proto::Spread::Alone,
        Spread::OneDomain => proto::Spread::OneDomain,
        Spread::Disks => proto::Spread::Disks,
        Spread::Hosts => proto::Spread::Hosts,
        Spread::Racks => proto::Spread::Racks,
        Spread::Zones => proto::Spread::Zones,
    }
}

fn judged_node(
    node: proto::PlacedNode,
    candidate: &Candidate,
    (verdict, chosen_of_thousand): (Verdict, u32),
) -> proto::PlacedNode {
    use proto::PlacementVerdict as Said;
    let (verdict, detail) = match verdict {
        Verdict::Avoided => (Said::Avoided, 0),
        Verdict::Chosen(order) => (Said::Chosen, order),
        Verdict::DiskUsed(by) => (Said::DiskUsed, by.0.into()),
        Verdict::DomainUsed(by) => (Said::DomainUsed, by.0.into()),
        Verdict::Draining => (Said::Draining, 0),
        Verdict::Full => (Said::Full, 0),
        Verdict::HostUsed(by) => (Said::HostUsed, by.0.into()),
        Verdict::Outweighed => (Said::Outweighed, 0),
        Verdict::RackUsed(by) => (Said::RackUsed, by.0.into()),
        Verdict::Silent => (Said::Silent, 0),
        Verdict::ZoneUsed(by) => (Said::ZoneUsed, by.0.into()),
    };
    proto::PlacedNode {
        weight_bytes: candidate.free_bytes,
        chosen_of_thousand,
        verdict: verdict.into(),
        detail,
        ..node
    }
}

//! What data nodes say: `xdpfs.node.v1.NodeService`.
//!
//! Invariant: a node is told to remove a chunk only after its grace, and is told so until it says that the chunk is
//! gone. Nothing is removed because nobody knows of it: that is counted only.

use std::{collections::BTreeSet, sync::Arc, time::Instant};

use bytes::Bytes;
use tonic::{Request, Response, Status};
use uuid::Uuid;
use xdpfs_proto::{
    node::v1::{
        ExchangeFetchesRequest, ExchangeFetchesResponse, HeartbeatRequest, HeartbeatResponse, KeyEpochSecret,
        RegisterNodeRequest, RegisterNodeResponse, ReportChunksRequest, ReportChunksResponse, RouteRequest,
        RouteResponse, ScrubOrder, TellInventoryRequest, TellInventoryResponse,
        node_service_server::NodeService,
    },
    state::v1::{self as pb, command, outcome},
};
use xdpfs_wire::{ChunkId, NodeId};

use super::{
    Gateway, Refusal,
    gateway::{NodeCall, RequestId, duration_ms, new_key, reused_request_id},
};
use crate::{
    config::is_host_and_port,
    liveness::Usage,
    repair::Doubt,
    scrubs::Wish,
    state_machine::{
        FeatureLevel, KEY_RULE, Node, Reason, State, VALUE_RULE, are_labels, chunk_id_bytes, parse_chunk_id,
    },
};

/// Chunks that one answer asks a node to remove.
const DELETES_PER_ANSWER_MAX: usize = 1024;
/// Removed chunks that one heartbeat may tell of: a few answers' worth.
const DELETED_PER_HEARTBEAT_MAX: usize = 4 * DELETES_PER_ANSWER_MAX;
/// Chunks in one page of a report.
const CHUNKS_PER_REPORT_MAX: usize = 1 << 16;
/// Chunks that are looked at for one page: other nodes' chunks lie between those of the node.
const CHUNKS_LOOKED_AT_MAX: usize = 1 << 17;
const ADDRESS_BYTES_MAX: usize = 256;
const FAILURE_DOMAIN_BYTES_MAX: usize = 256;

#[derive(Debug)]
pub(super) struct NodeFrontend(pub(super) Arc<Gateway>);

#[tonic::async_trait]
impl NodeService for NodeFrontend {
    async fn register_node(
        &self,
        request: Request<RegisterNodeRequest>,
    ) -> Result<Response<RegisterNodeResponse>, Status> {
        Ok(Response::new(self.0.register_node(self.0.accept_node(request)).await?))
    }

    async fn heartbeat(
        &self,
        request: Request<HeartbeatRequest>,
    ) -> Result<Response<HeartbeatResponse>, Status> {
        Ok(Response::new(self.0.heartbeat(self.0.accept_node(request)).await?))
    }

    async fn report_chunks(
        &self,
        request: Request<ReportChunksRequest>,
    ) -> Result<Response<ReportChunksResponse>, Status> {
        Ok(Response::new(self.0.report_chunks(self.0.accept_node(request)).await?))
    }

    async fn exchange_fetches(
        &self,
        request: Request<ExchangeFetchesRequest>,
    ) -> Result<Response<ExchangeFetchesResponse>, Status> {
        Ok(Response::new(self.0.exchange_fetches(self.0.accept_node(request)).await?))
    }

    async fn tell_inventory(
        &self,
        request: Request<TellInventoryRequest>,
    ) -> Result<Response<TellInventoryResponse>, Status> {
        Ok(Response::new(self.0.tell_inventory(self.0.accept_node(request)).await?))
    }

    async fn route(&self, request: Request<RouteRequest>) -> Result<Response<RouteResponse>, Status> {
        Ok(Response::new(self.0.route(self.0.accept_node(request)).await?))
    }
}

impl Gateway {
    async fn register_node(
        &self,
        call: NodeCall<RegisterNodeRequest>,
    ) -> Result<RegisterNodeResponse, Refusal> {
        let request = call.message;
        let request_id = RequestId::parse(&request.request_id)?;
        let mut register = parse_registration(&request)?;
        let term = self.read_barrier(call.deadline).await?;
        if self.state().feature_level() < FeatureLevel::MEMBERS_AND_BATCHES {
            // It says them again when it starts the next time.
            register.labels.clear();
        }
        self.check_begun()?;
        if !request.cluster_id.is_empty() {
            self.check_member(&request.cluster_id)?;
        }
        let registered =
            self.propose(call.deadline, request_id, command::Kind::RegisterNode(register)).await?;
        let outcome::Kind::Registered(registered) = registered else { return Err(reused_request_id()) };
        if let Ok(node) = u16::try_from(registered.node_id) {
            self.liveness().registered(term, NodeId(node), Instant::now());
            tracing::info!(node, epoch = registered.node_epoch, "a data node has registered");
        }
        let leader_time_ms = self.now_ms();
        let state = self.state();
        Ok(RegisterNodeResponse {
            cluster_id: state.cluster_id().to_owned(),
            node_id: registered.node_id,
            node_epoch: registered.node_epoch,
            receipt_key: registered.receipt_key.to_vec(),
            key_epochs: key_epochs(&state),
            heartbeat_interval_ms: duration_ms(self.config().times.heartbeat_interval),
            leader_time_ms,
            lease_ms: self.lease_ms(&state),
        })
    }

    /// Whether the cluster has what a node is told when it registers.
    pub(super) fn check_begun(&self) -> Result<(), Refusal> {
        let state = self.state();
        if state.cluster_id().is_empty() || state.key_epochs().live().is_empty() {
            return Err(Refusal::new(Reason::Overloaded, "the leader has only just begun its work"));
        }
        Ok(())
    }

    /// A node of another cluster may have the id and the epoch of one of this cluster, and hold chunks of the same ids:
    /// it would be told to remove what its own cluster refers to.
    pub(super) fn check_member(&self, theirs: &str) -> Result<(), Refusal> {
        self.check_begun()?;
        if theirs != self.state().cluster_id() {
            return Err(Refusal::new(Reason::WrongCluster, "whoever asks belongs to another cluster"));
        }
        Ok(())
    }

    async fn heartbeat(&self, call: NodeCall<HeartbeatRequest>) -> Result<HeartbeatResponse, Refusal> {
        let request = call.message;
        let deleted = parse_deleted(&request.deleted_chunk_ids)?;
        let term = self.read_barrier(call.deadline).await?;
        self.check_member(&request.cluster_id)?;
        let Some(node) = registered(&self.state(), request.node_id, request.node_epoch) else {
            return Ok(HeartbeatResponse { register_again: true, ..Default::default() });
        };
        let usage = Usage {
            capacity_bytes: request.capacity_bytes,
            used_bytes: request.used_bytes,
            free_bytes: request.free_bytes,
            chunks: request.chunks,
            rejects: request.rejects,
            xdp_mode: request.xdp_mode,
            xdp_reason: request.xdp_reason,
            xdp_packets: request.xdp_packets,
            written_bytes: request.written_bytes,
            read_bytes: request.read_bytes,
            certificate_expiry_s: request.certificate_expiry_s,
            version: request.version,
            scrub: request.scrub,
            storage_doubts: request.storage_doubts,
            disks: request.disks,
            tells_inventory: request.tells_inventory,
        };
        self.liveness().heartbeat(term, node, usage, Instant::now());
        let exchange_fetches = self.fetches().heard(term, node, request.takes_fetches, Instant::now());
        let wish = self.scrubs().heard(term, node, request.scrub_order_done);
        self.forget(call.deadline, node, deleted).await?;
        let leader_time_ms = self.now_ms();
        let state = self.state();
        let due = state.pending_deletes().due(node, leader_time_ms, DELETES_PER_ANSWER_MAX);
        Ok(HeartbeatResponse {
            register_again: false,
            key_epochs: key_epochs(&state),
            leader_time_ms,
            delete_chunk_ids: due.map(|chunk| chunk_id_bytes(chunk).to_vec()).collect(),
            exchange_fetches,
            scrub_order: wish.map(|Wish { number, action }| ScrubOrder { number, action: action.into() }),
            lease_ms: self.lease_ms(&state),
            inventory: self.inventories().wanted(term, node),
        })
    }

    /// Registrations end with their leases once all servers know how to end one.
    fn lease_ms(&self, state: &State) -> u64 {
        if state.feature_level() >= FeatureLevel::REPAIR {
            duration_ms(self.config().times.node_lease)
        } else {
            0
        }
    }

    /// Takes the node's word that chunks are gone. What it was not asked to remove makes no entry in the log.
    async fn forget(&self, deadline: Instant, node: NodeId, deleted: Vec<ChunkId>) -> Result<(), Refusal> {
        let chunk_ids: Vec<Bytes> = {
            let state = self.state();
            let pending = deleted.into_iter().filter(|chunk| state.pending_deletes().contains(node, *chunk));
            pending.map(chunk_id_bytes).collect()
        };
        if chunk_ids.is_empty() {
            return Ok(());
        }
        let forget = pb::ForgetChunks { node_id: node.0.into(), chunk_ids };
        self.propose(deadline, RequestId::NONE, command::Kind::ForgetChunks(forget)).await?;
        Ok(())
    }

    async fn report_chunks(
        &self,
        call: NodeCall<ReportChunksRequest>,
    ) -> Result<ReportChunksResponse, Refusal> {
        let request = call.message;
        let page = Page::parse(&request)?;
        let term = self.read_barrier(call.deadline).await?;
        self.check_member(&request.cluster_id)?;
        let state = self.state();
        let node = registered(&state, request.node_id, request.node_epoch).ok_or_else(|| {
            Refusal::new(Reason::NodeUnknown, "the node is not registered, or has registered anew")
        })?;
        let Differences { unknown, missing, surplus } = page.compare(&state, node);
        drop(state);
        let response = ReportChunksResponse {
            unknown: unknown as u32,
            missing: missing.len() as u32,
            surplus: surplus.len() as u32,
        };
        if unknown + missing.len() + surplus.len() > 0 {
            let ReportChunksResponse { unknown, missing, surplus } = response;
            tracing::info!(
                node = node.0,
                unknown,
                missing,
                surplus,
                "a data node does not hold what it is believed to hold"
            );
        }
        // The page may be older than the state: the node is asked before anything is done about it.
        let doubt = |chunk| Doubt { chunk, node, verify: false };
        self.repairs().doubt(term, missing.into_iter().map(doubt));
        self.repairs().surplus(term, node, surplus);
        Ok(response)
    }
}

/// The node, if this is its present registration.
pub(super) fn registered(state: &State, node_id: u32, node_epoch: u32) -> Option<NodeId> {
    let node: &Node = state.node(NodeId(u16::try_from(node_id).ok()?))?;
    (u32::from(node.wire_epoch().0) == node_epoch).then_some(node.id)
}

pub(super) fn key_epochs(state: &State) -> Vec<KeyEpochSecret> {
    let secret = |epoch: &crate::state_machine::KeyEpoch| KeyEpochSecret {
        key_epoch: epoch.wire_number().0.into(),
        secret: epoch.secret.0.to_bytes().to_vec(),
    };
    state.key_epochs().live().iter().map(secret).collect()
}

fn parse_registration(request: &RegisterNodeRequest) -> Result<pb::RegisterNode, Refusal> {
    let uuid = Uuid::parse_str(&request.node_uuid).ok().filter(|uuid| !uuid.is_nil());
    let uuid =
        uuid.ok_or_else(|| Refusal::invalid("node_uuid", "it is made with the data directory, and a UUID"))?;
    let address = parse_address("address", &request.address)?;
    let direct_address = match request.direct_address.as_str() {
        "" => "",
        direct => parse_address("direct_address", direct)?,
    };
    let domain = &request.failure_domain;
    if domain.len() > FAILURE_DOMAIN_BYTES_MAX || domain.chars().any(char::is_control) {
        return Err(Refusal::invalid("failure_domain", "it has at most 256 bytes and no control characters"));
    }
    if !are_labels(&request.labels) {
        return Err(Refusal::invalid("labels", format!("at most 32 labels; {KEY_RULE}, and {VALUE_RULE}")));
    }
    Ok(pb::RegisterNode {
        labels: request.labels.clone(),
        node_uuid: uuid.to_string(),
        address: address.to_owned(),
        direct_address: direct_address.to_owned(),
        failure_domain: domain.clone(),
        capacity_bytes: request.capacity_bytes,
        receipt_key: new_key()?,
    })
}

/// The text, if it is an address that somebody can be reached at.
pub(super) fn parse_address<'a>(field: &'static str, text: &'a str) -> Result<&'a str, Refusal> {
    let has_port = text.rsplit_once(':').is_some_and(|(_, port)| port.parse() != Ok(0_u16));
    if text.len() > ADDRESS_BYTES_MAX || !is_host_and_port(text) || !has_port {
        return Err(Refusal::invalid(field, "expected HOST:PORT"));
    }
    Ok(text)
}

pub(super) fn parse_chunk_ids(
    field: &'static str,
    ids: &[Vec<u8>],
    count_max: usize,
) -> Result<Vec<ChunkId>, Refusal> {
    if ids.len() > count_max {
        return Err(Refusal::invalid(field, format!("at most {count_max} chunks at once")));
    }
    let parsed: Option<Vec<_>> = ids.iter().map(|id| parse_chunk_id(id)).collect();
    parsed.ok_or_else(|| Refusal::invalid(field, "a chunk id has sixteen bytes"))
}

fn parse_deleted(ids: &[Vec<u8>]) -> Result<Vec<ChunkId>, Refusal> {
    parse_chunk_ids("deleted_chunk_ids", ids, DELETED_PER_HEARTBEAT_MAX)
}

/// All chunks of a node in a range of ids.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) first: ChunkId,
    pub(crate) last: ChunkId,
    pub(crate) chunks: Vec<ChunkId>,
}

impl Page {
    fn parse(request: &ReportChunksRequest) -> Result<Self, Refusal> {
        let bound = |field, id| {
            parse_chunk_id(id).ok_or_else(|| Refusal::invalid(field, "a chunk id has sixteen bytes"))
        };
        let (first, last) = (bound("first", &request.first)?, bound("last", &request.last)?);
        let chunks = parse_chunk_ids("chunk_ids", &request.chunk_ids, CHUNKS_PER_REPORT_MAX)?;
        let inside = chunks.iter().all(|chunk| (first..=last).contains(chunk));
        if !inside || !chunks.is_sorted_by(|a, b| a < b) {
            return Err(Refusal::invalid(
                "chunk_ids",
                "they are not in order, or not in the range of the page",
            ));
        }
        Ok(Self { first, last, chunks })
    }

    pub(crate) fn compare(&self, state: &State, node: NodeId) -> Differences {
        let mut differences = Differences::default();
        for chunk in self.chunks.iter().copied() {
            if state.pending_deletes().contains(node, chunk) {
                continue;
            }
            match state.chunk(chunk) {
                Some(held) if !held.replicas.contains(node) => differences.surplus.push(chunk),
                Some(_) => {}
                None => differences.unknown += usize::from(state.chunk_owner(chunk).is_none()),
            }
        }
        let held: BTreeSet<ChunkId> = self.chunks.iter().copied().collect();
        let believed = state.chunks_on(node, self.first, self.last, CHUNKS_LOOKED_AT_MAX);
        differences.missing = believed.filter(|chunk| !held.contains(chunk)).collect();
        differences
    }
}

/// What a node holds besides what manifests say, and what it does not hold.
#[derive(Debug, Default)]
pub(crate) struct Differences {
    /// Chunks that nothing refers to.
    pub(crate) unknown: usize,
    pub(crate) missing: Vec<ChunkId>,
    /// Chunks that manifests name others for.
    pub(crate) surplus: Vec<ChunkId>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registration(node_uuid: &str, address: &str) -> RegisterNodeRequest {
        RegisterNodeRequest { node_uuid: node_uuid.into(), address: address.into(), ..Default::default() }
    }

    #[test]
    fn registration_that_makes_no_sense_is_refused() {
        const UUID: &str = "67e55044-10b1-426f-9247-bb680e5fe0c8";
        let parsed = parse_registration(&registration(&UUID.to_uppercase(), "node-1:9000")).unwrap();
        assert_eq!(parsed.node_uuid, UUID, "one node has one way of writing");
        assert_ne!(
            parsed.receipt_key,
            parse_registration(&registration(UUID, "node-1:9000")).unwrap().receipt_key
        );
        for (uuid, address) in
            [("x", "a:1"), (UUID, "a"), (UUID, ":1"), (UUID, "a:b"), (UUID, "a:00"), (UUID, "a b:1")]
        {
            assert!(parse_registration(&registration(uuid, address)).is_err(), "{uuid} {address}");
        }
        for (direct_address, expect) in
            [("", true), ("10.0.0.1:7", true), ("[fd00::1]:7", true), ("b", false)]
        {
            let direct =
                RegisterNodeRequest { direct_address: direct_address.into(), ..registration(UUID, "a:1") };
            assert_eq!(parse_registration(&direct).is_ok(), expect, "{direct_address}");
        }
        let domain = RegisterNodeRequest { failure_domain: "a\nb".into(), ..registration(UUID, "a:1") };
        assert!(parse_registration(&domain).is_err());
        for (key, value, expect) in [("zone", "a", true), ("Zone", "a", false), ("zone", "a\n", false)] {
            let labels = [(key.to_owned(), value.to_owned())].into();
            let labelled = RegisterNodeRequest { labels, ..registration(UUID, "a:1") };
            assert_eq!(parse_registration(&labelled).is_ok(), expect, "{key}={value}");
        }
    }

    #[test]
    fn page_holds_chunks_of_its_range_in_order() {
        let id = |number: u128| number.to_be_bytes().to_vec();
        let parse = |first, last, chunks: &[u128]| {
            let chunk_ids = chunks.iter().map(|chunk| id(*chunk)).collect();
            Page::parse(&ReportChunksRequest {
                first: id(first),
                last: id(last),
                chunk_ids,
                ..Default::default()
            })
        };
        assert_eq!(parse(1, 9, &[1, 5, 9]).unwrap().chunks.len(), 3);
        assert!(parse(1, 9, &[]).is_ok());
        assert!(parse(2, 9, &[1]).is_err());
        assert!(parse(1, 9, &[10]).is_err());
        assert!(parse(1, 9, &[5, 3]).is_err());
        assert!(parse(1, 9, &[5, 5]).is_err());
        assert!(Page::parse(&ReportChunksRequest { first: vec![1], ..Default::default() }).is_err());
    }
}

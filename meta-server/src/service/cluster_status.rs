//! The cluster as this server sees it. Asked of any server, also of one that has lost the others: no barrier.

use std::time::Instant;

use xdpfs_proto::meta::v1::{self as proto, data_node_status, meta_server_status};

use super::{Gateway, gateway::duration_ms, labels, route::nodes_at};
use crate::{
    config::Member,
    consensus::{RaftStatus, Role},
    edges::{Edge, EdgeWord},
    state_machine::{Node, State},
};

impl Gateway {
    /// The cluster as this server sees it.
    pub(crate) fn cluster_status(&self) -> proto::GetClusterStatusResponse {
        let (raft, server_time_ms) = (self.consensus().status(), self.now_ms());
        let state = self.state();
        proto::GetClusterStatusResponse {
            cluster_id: state.cluster_id().to_owned(),
            meta_servers: self.members().iter().map(|member| self.meta_server(member, &raft)).collect(),
            data_nodes: state.nodes().map(|node| self.data_node(node, &raft)).collect(),
            server_id: self.config().id,
            leader_id: raft.leader_id,
            term: raft.term,
            commit_index: raft.commit_index,
            applied_index: raft.applied_index,
            edges: self.edge_statuses(&state, &raft),
            server_time_ms,
            requests: Some(self.requests().record()),
            feature_level: state.feature_level().0,
            repair: self.repair_outline(&raft),
            rebalance: self.rebalance_outline(&raft),
            ..totals(&state)
        }
    }

    /// Only a leader knows about servers other than itself.
    fn meta_server(&self, member: &Member, raft: &RaftStatus) -> proto::MetaServerStatus {
        use meta_server_status::Role as Said;
        let voter = raft.voters.iter().find(|voter| voter.id == member.id);
        let role = match voter {
            _ if member.id == raft.leader_id => Said::Leader,
            _ if member.id == self.config().id => Said::Follower,
            Some(voter) if voter.active => Said::Follower,
            Some(_) => Said::Unreachable,
            None => Said::Unspecified,
        };
        let program = self.program(member.id);
        proto::MetaServerStatus {
            feature_level: program.as_ref().map(|program| program.feature_level.0),
            version: program.map(|program| program.version).unwrap_or_default(),
            id: member.id,
            endpoint: member.client_address.clone(),
            role: role.into(),
            matched_index: voter.map_or(0, |voter| voter.matched_index),
            certificate_expiry_s: self.own_expiry_s(member).unwrap_or_default(),
            learner: !raft.configuration.votes(member.id),
        }
    }

    /// A server knows of no certificate but its own.
    fn own_expiry_s(&self, member: &Member) -> Option<u64> {
        (member.id == self.config().id).then(|| self.certificate_expiry_s())?
    }

    /// Only a leader hears from data nodes.
    fn data_node(&self, node: &Node, raft: &RaftStatus) -> proto::DataNodeStatus {
        let sight =
            (raft.role == Role::Leader).then(|| self.liveness().sight(raft.term, node.id, Instant::now()));
        let state = match &sight {
            None => data_node_status::State::Unspecified,
            Some(sight) if sight.alive => data_node_status::State::Alive,
            Some(_) => data_node_status::State::Silent,
        };
        let scrub_ordered = sight.is_some() && self.scrubs().is_waiting(raft.term, node.id);
        let age = sight.as_ref().map(|sight| sight.age).unwrap_or_default();
        let usage = sight.and_then(|sight| sight.usage);
        let capacity_bytes = usage.as_ref().map_or(node.capacity_bytes, |usage| usage.capacity_bytes);
        let usage = usage.unwrap_or_default();
        proto::DataNodeStatus {
            node_id: node.id.0.into(),
            node_epoch: node.wire_epoch().0.into(),
            address: node.address.clone(),
            state: state.into(),
            capacity_bytes,
            used_bytes: usage.used_bytes,
            free_bytes: usage.free_bytes,
            chunks: usage.chunks,
            rejects: usage.rejects,
            failure_domain: node.domain(),
            last_heartbeat_age_ms: duration_ms(age),
            xdp_mode: usage.xdp_mode,
            xdp_reason: usage.xdp_reason,
            xdp_packets: usage.xdp_packets,
            written_bytes: usage.written_bytes,
            read_bytes: usage.read_bytes,
            direct_address: node.reached_at().to_owned(),
            labels: labels::to_proto(&node.labels, &node.operator_labels),
            version: usage.version,
            register_time_ms: node.register_time_ms,
            certificate_expiry_s: usage.certificate_expiry_s,
            scrub: usage.scrub,
            scrub_ordered,
            storage_doubts: usage.storage_doubts,
            disks: usage.disks,
            draining: node.draining,
            removed: node.removed,
        }
    }

    /// Without names of objects: every key may ask for it. Only a leader repairs.
    fn repair_outline(&self, raft: &RaftStatus) -> Option<proto::RepairStatus> {
        let status = (raft.role == Role::Leader).then(|| self.repairs().status(raft.term))??;
        Some(proto::RepairStatus { out_of_reach_sample: Vec::new(), ..status })
    }

    fn rebalance_outline(&self, raft: &RaftStatus) -> Option<proto::RebalanceStatus> {
        (raft.role == Role::Leader).then(|| self.repairs().rebalance_status(raft.term))?
    }

    /// Only a leader hears from edges.
    fn edge_statuses(&self, state: &State, raft: &RaftStatus) -> Vec<proto::EdgeStatus> {
        if raft.role != Role::Leader {
            return Vec::new();
        }
        let edges = self.edges().list(raft.term, Instant::now());
        edges.into_iter().map(|edge| edge_status(state, edge)).collect()
    }
}

fn edge_status(state: &State, edge: Edge) -> proto::EdgeStatus {
    let Edge { address, word, age } = edge;
    let EdgeWord { xdp_mode, xdp_reason, replies, packets, rejects, certificate_expiry_s } = word;
    proto::EdgeStatus {
        node_ids: nodes_at(state, &address).map(|node| node.id.0.into()).collect(),
        address,
        xdp_mode,
        xdp_reason,
        replies,
        packets,
        rejects,
        last_heard_age_ms: duration_ms(age),
        certificate_expiry_s,
    }
}

fn totals(state: &State) -> proto::GetClusterStatusResponse {
    proto::GetClusterStatusResponse {
        buckets: state.bucket_count() as u64,
        objects: state.object_count() as u64,
        bytes: state.object_bytes(),
        open_uploads: state.upload_count() as u64,
        replica_debt: state.replica_debt(),
        pending_deletes: state.pending_deletes().count(),
        ..Default::default()
    }
}

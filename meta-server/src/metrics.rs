//! What this server tells of itself when it is scraped.

use std::sync::Arc;

use xdpfs_observe::{Scrape, Source, catalogue as names};
use xdpfs_proto::meta::v1::{
    GetClusterStatusResponse, RebalanceStatus, RepairStatus, data_node_status::State,
};

use crate::{
    consensus::{RaftStatus, Role, StageLatencies},
    peers::Traffic,
    service::{Gateway, RequestMetrics},
};

/// A server, as whoever scrapes it sees it.
#[derive(Debug)]
pub(crate) struct MetaMetrics {
    pub(crate) gateway: Arc<Gateway>,
    pub(crate) latencies: StageLatencies,
    pub(crate) traffic: Traffic,
    pub(crate) requests: Arc<RequestMetrics>,
}

impl Source for MetaMetrics {
    fn collect(&self, scrape: &mut Scrape<'_>) {
        let raft = self.gateway.consensus().status();
        collect_raft(&raft, scrape);
        let StageLatencies { replicate, apply, log_sync } = &self.latencies;
        scrape.latencies(&names::META_COMMIT, [(["replicate"], replicate), (["apply"], apply)]);
        scrape.latency(&names::META_LOG_SYNC, log_sync);
        scrape.counters(&names::META_MESSAGES, self.traffic.counts());
        self.requests.collect(scrape);
        let spans = xdpfs_trace::counts();
        scrape.counters(&names::TRACE_SPANS, [(["sent"], spans.sent), (["lost"], spans.lost)]);
        let expiry_s = self.gateway.certificate_expiry_s().map(|expiry_s| expiry_s as f64);
        scrape.optional_gauge(&names::CERTIFICATE_EXPIRES, expiry_s);
        let key_epoch = self.gateway.state().key_epochs().last_number();
        scrape.gauge(&names::META_KEY_EPOCH, key_epoch.into());
        let programs = self.gateway.consensus().programs();
        let levels = [("cluster", programs.cluster_level()), ("server", programs.own().feature_level)];
        let levels = levels.map(|(of, level)| ([of], level.0.into()));
        scrape.gauges(&names::META_FEATURE_LEVEL, levels);
        let status = self.gateway.cluster_status();
        collect_state(&status, scrape);
        collect_nodes(&status, raft.role == Role::Leader, scrape);
        // Others than the leader have nothing to tell, and tell that.
        collect_repair(status.repair.as_ref().unwrap_or(&RepairStatus::default()), scrape);
        collect_rebalance(status.rebalance.as_ref().unwrap_or(&RebalanceStatus::default()), scrape);
        let is_paused = self.gateway.state().is_rebalance_paused();
        scrape.gauge(&names::META_REBALANCE_PAUSED, f64::from(u8::from(is_paused)));
    }

    fn is_ready(&self) -> bool {
        self.gateway.consensus().status().leader_id != 0
    }
}

fn collect_raft(raft: &RaftStatus, scrape: &mut Scrape<'_>) {
    scrape.gauge(&names::META_LEADS, f64::from(u8::from(raft.role == Role::Leader)));
    scrape.gauge(&names::META_LEADER, raft.leader_id as f64);
    scrape.gauge(&names::META_TERM, raft.term as f64);
    scrape.gauge(&names::META_COMMITTED, raft.commit_index as f64);
    scrape.gauge(&names::META_APPLIED, raft.applied_index as f64);
    let lags = raft
        .voters
        .iter()
        .map(|voter| ([voter.id.to_string()], raft.commit_index.saturating_sub(voter.matched_index) as f64));
    scrape.gauges(&names::META_VOTER_LAG, lags);
    let heard = raft.voters.iter().map(|voter| ([voter.id.to_string()], f64::from(u8::from(voter.active))));
    scrape.gauges(&names::META_VOTER_HEARD, heard);
}

fn collect_state(status: &GetClusterStatusResponse, scrape: &mut Scrape<'_>) {
    for (metric, value) in [
        (&names::META_BUCKETS, status.buckets),
        (&names::META_OBJECTS, status.objects),
        (&names::META_OBJECT_BYTES, status.bytes),
        (&names::META_UPLOADS, status.open_uploads),
        (&names::META_REPLICA_DEBT, status.replica_debt),
        (&names::META_PENDING_DELETES, status.pending_deletes),
    ] {
        scrape.gauge(metric, value as f64);
    }
}

fn collect_repair(repair: &RepairStatus, scrape: &mut Scrape<'_>) {
    let chunks = repair.classes.iter().map(|class| ([class.live_replicas.to_string()], class.chunks as f64));
    scrape.gauges(&names::META_REPAIR_CHUNKS, chunks);
    scrape.gauge(&names::META_REPAIR_LEFT, repair.bytes_left as f64);
    scrape.gauge(&names::META_REPAIR_IN_PROGRESS, repair.in_progress as f64);
    let stuck = [("place", repair.without_place), ("source", repair.out_of_reach)];
    scrape.gauges(&names::META_REPAIR_STUCK, stuck.map(|(lack, chunks)| ([lack], chunks as f64)));
    scrape.gauge(&names::META_REPAIRED, repair.bytes_repaired as f64);
}

fn collect_rebalance(rebalance: &RebalanceStatus, scrape: &mut Scrape<'_>) {
    scrape.gauge(&names::META_REBALANCE_LEFT, rebalance.bytes_left as f64);
    scrape.gauge(&names::META_REBALANCE_IN_PROGRESS, rebalance.in_progress as f64);
    scrape.gauge(&names::META_REBALANCED, rebalance.bytes_moved as f64);
}

/// Only a leader hears from data nodes; what others would say could be added up with its words.
fn collect_nodes(status: &GetClusterStatusResponse, leads: bool, scrape: &mut Scrape<'_>) {
    let nodes = || status.data_nodes.iter().filter(|_| leads);
    let count = |state: State| nodes().filter(|node| node.state() == state).count() as f64;
    let counts = [(["alive"], count(State::Alive)), (["silent"], count(State::Silent))];
    scrape.gauges(&names::META_NODES, counts.into_iter().filter(|_| leads));
    let used = nodes().map(|node| ([node.node_id.to_string()], node.used_bytes as f64));
    scrape.gauges(&names::META_NODE_USED, used);
    let capacity = nodes().map(|node| ([node.node_id.to_string()], node.capacity_bytes as f64));
    scrape.gauges(&names::META_NODE_CAPACITY, capacity);
}

//! Rebalancing, as operators see it: how far it is, what it would move, and an end to it for the time being.
//!
//! Invariant: the state is locked for a bounded number of chunks at a time. What changes meanwhile may be counted as it was or
//! as it is.

use std::time::Instant;

use xdpfs_proto::{meta::v1 as proto, state::v1 as pb, state::v1::command};
use xdpfs_wire::NodeId;

use super::{Gateway, Refusal, RequestId, gateway::Call};
use crate::{
    config::Config,
    placement::Seat,
    rebalance::{DryRun, Seats, Threshold},
    repair::Nodes,
    state_machine::{Reason, State},
};

/// When it begins.
pub(super) fn threshold(config: &Config) -> Threshold {
    Threshold { percent: config.rebalance.threshold_percent, settled_for: config.rebalance.after }
}

impl Gateway {
    /// Nodes that hold a share; and those of which the leader knows too little to decide anything.
    pub(super) fn seats(
        &self,
        state: &State,
        term: u64,
        now: Instant,
        nodes: &Nodes,
    ) -> (Seats, Vec<NodeId>) {
        let (mut seats, mut unknown) = (Seats::new(), Vec::new());
        for candidate in self.candidates(state, term, &[]) {
            let (node, position) = (candidate.node, candidate.position);
            let takes = self.fetches().takes(term, node);
            // One of an earlier release fetches nothing.
            if nodes.leaving().contains_key(&node) || takes == Some(false) {
                continue;
            }
            let usage = self.liveness().sight(term, node, now).usage;
            if takes.is_none() || usage.is_none() || !nodes.stays(node) {
                unknown.push(node);
            }
            let usage = usage.unwrap_or_default();
            let room_bytes = usage.used_bytes.saturating_add(usage.free_bytes);
            seats.insert(node, Seat { node, position, room_bytes, free_bytes: usage.free_bytes });
        }
        (seats, unknown)
    }

    pub(super) async fn get_rebalance_status(
        &self,
        call: Call<proto::GetRebalanceStatusRequest>,
    ) -> Result<proto::GetRebalanceStatusResponse, Refusal> {
        let term = self.admit(call.deadline, &call.access).await?;
        Ok(proto::GetRebalanceStatusResponse { rebalance: self.repairs().rebalance_status(term) })
    }

    pub(super) async fn pause_rebalance(
        &self,
        call: Call<proto::PauseRebalanceRequest>,
    ) -> Result<proto::PauseRebalanceResponse, Refusal> {
        let proto::PauseRebalanceRequest { request_id, paused } = call.message;
        let request_id = RequestId::parse(&request_id)?;
        let pause = command::Kind::PauseRebalance(pb::PauseRebalance { paused });
        self.propose_for(&call.access, call.deadline, request_id, pause).await?;
        tracing::info!(paused, "an operator wants no rebalancing, or wants it again");
        Ok(proto::PauseRebalanceResponse {})
    }

    pub(super) async fn plan_rebalance(
        &self,
        call: Call<proto::PlanRebalanceRequest>,
    ) -> Result<proto::PlanRebalanceResponse, Refusal> {
        let term = self.admit(call.deadline, &call.access).await?;
        let busy = |_| Refusal::new(Reason::Overloaded, "another plan is being made");
        let _turn = self.drain_plans().try_acquire().map_err(busy)?;
        let (seats, unknown) = {
            let (state, now) = (self.state(), Instant::now());
            let nodes = self.repair_nodes(&state, term, now);
            self.seats(&state, term, now, &nodes)
        };
        if let Some(node) = unknown.first() {
            let words = format!("the leader waits for word from data node {node}");
            return Err(Refusal::new(Reason::NotEnoughNodes, words));
        }
        let mut dry_run = DryRun::new(seats, threshold(self.config()));
        while dry_run.look_on(&self.state()) {
            if Instant::now() >= call.deadline {
                let words = "there are too many objects to look at in time";
                return Err(Refusal::new(Reason::DeadlineExceeded, words));
            }
            // Others have a turn, and so does whoever waits to change the state.
            tokio::task::yield_now().await;
        }
        Ok(dry_run.finish(self.config().rebalance.bytes_per_s))
    }
}

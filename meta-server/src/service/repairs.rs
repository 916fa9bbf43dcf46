//! Repair, as the leader does it: asks the pure core what is due, has nodes fetch, and puts changes of manifests in the log.
//! It also ends registrations of nodes that have been silent for longer than their lease.
//!
//! Invariant: the state is held for a bounded number of chunks at a time, and by nobody who waits.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    sync::Arc,
    time::{Duration, Instant},
};

use xdpfs_proto::{
    meta::v1 as proto,
    state::v1::{self as pb, command, outcome},
};
use xdpfs_wire::{BucketId, ChunkId, NodeId};

use super::{
    Gateway, Refusal, RequestId, buckets::bucket_not_found, candidates::candidates, drain::Use,
    gateway::Call, name, rebalance,
};
use crate::{
    consensus::Role,
    fetches::{Order, Owner},
    liveness::Sight,
    placement::Bar,
    rebalance::{Hold, Rebalance},
    repair::{Doubt, GivenUp, Limits, News, Nodes, Repair, Why},
    state_machine::{FeatureLevel, Node, Reason, State, chunk_id_bytes, parse_chunk_id},
};

/// Between two turns while there is something to do, and while there is nothing.
const TURN: Duration = Duration::from_millis(20);
const IDLE_TURN: Duration = Duration::from_millis(250);
/// How long one turn looks at manifests.
const SURVEY_TURN: Duration = Duration::from_millis(10);
/// How often nodes are looked at, and what there is to know is told.
const TICK: Duration = Duration::from_millis(500);
/// How long it waits for one command.
const PATIENCE: Duration = Duration::from_secs(5);
/// Chunks of one entry that collects.
const COLLECTED_MAX: usize = 1024;
/// Doubts that are looked at in one turn; what is left out is told again.
const DOUBTS_PER_TURN_MAX: usize = 4096;
/// Replicas too many that wait at once, and that are looked at in one tick.
const SURPLUS_MAX: usize = 65_536;
const SURPLUS_PER_TICK_MAX: usize = 4096;
/// Replicas that one report of a client is about.
const REPORTED_MAX: usize = 64;

/// Repairs whenever this server leads. Ends with consensus.
pub(crate) async fn run(gateway: Arc<Gateway>) {
    let mut standing = gateway.consensus().watch_standing();
    loop {
        let term = match standing.wait_for(|standing| standing.role == Role::Leader).await {
            Ok(standing) => standing.term,
            Err(_) => return,
        };
        let mut driver = Driver::new(&gateway, term);
        tokio::select! {
            () = driver.run() => {}
            never = watch_clock(&gateway, term) => match never {},
            ended = standing.wait_for(|standing| standing.role != Role::Leader || standing.term != term) => {
                if ended.is_err() {
                    return;
                }
            }
        }
    }
}

/// Notices when this server was stopped. Not the driver: that waits for its entries, in which time nodes are heard, and a log
/// that takes long would keep any of them from ever being given up.
async fn watch_clock(gateway: &Gateway, term: u64) -> Infallible {
    loop {
        gateway.liveness().look_at_clock(term, Instant::now());
        tokio::time::sleep(TICK).await;
    }
}

/// Repair in one term.
struct Driver<'a> {
    gateway: &'a Gateway,
    term: u64,
    repair: Repair,
    rebalance: Rebalance,
    /// Data nodes that rebalancing can't judge yet.
    unknown: Vec<NodeId>,
    /// Replicas that are too many, as far as nodes have said.
    surplus: BTreeSet<(NodeId, ChunkId)>,
    /// What nodes may have made of chunks that are gone.
    orphaned: BTreeSet<(NodeId, ChunkId)>,
    tick_at: Instant,
}

impl<'a> Driver<'a> {
    fn new(gateway: &'a Gateway, term: u64) -> Self {
        let config = &gateway.config().repair;
        let limits = Limits {
            bytes_per_s: config.bytes_per_s,
            per_node: config.per_node,
            moved_bytes_per_s: gateway.config().rebalance.bytes_per_s,
        };
        let repair = Repair::new(limits);
        let rebalance = Rebalance::new(Instant::now(), rebalance::threshold(gateway.config()));
        Self {
            gateway,
            term,
            repair,
            rebalance,
            unknown: Vec::new(),
            surplus: BTreeSet::new(),
            orphaned: BTreeSet::new(),
            tick_at: Instant::now(),
        }
    }

    /// Ends with the term.
    async fn run(&mut self) {
        let mut fetched = self.gateway.fetches().watch();
        loop {
            // A new leader may have entries that it has yet to apply.
            match self.gateway.read_barrier(Instant::now() + PATIENCE).await {
                Ok(term) if term == self.term => break,
                Ok(_) => return,
                Err(_) => tokio::time::sleep(IDLE_TURN).await,
            }
        }
        loop {
            fetched.mark_unchanged();
            self.turn().await;
            if self.repair.is_surveying() {
                tokio::task::yield_now().await;
                continue;
            }
            let wait = if self.repair.is_busy() || self.rebalance.is_busy() { TURN } else { IDLE_TURN };
            // Whoever tells the news lives as long as this server.
            let _told = tokio::time::timeout(wait, fetched.changed()).await;
            tokio::time::sleep(TURN / 4).await;
        }
    }

    async fn turn(&mut self) {
        let now = Instant::now();
        let is_tick = now >= self.tick_at;
        if is_tick {
            self.tick_at = now + TICK;
        }
        let (mut nodes, debt, can_repair) = {
            let state = self.gateway.state();
            let can_repair = state.feature_level() >= FeatureLevel::REPAIR;
            (self.gateway.repair_nodes(&state, self.term, now), state.replica_debt(), can_repair)
        };
        if !can_repair {
            return;
        }
        let News { doubts, surplus } = self.gateway.repairs().take(self.term);
        {
            let state = self.gateway.state();
            doubts
                .into_iter()
                .take(DOUBTS_PER_TURN_MAX)
                .for_each(|doubt| self.repair.doubt(doubt, &state, &nodes));
        }
        // What does not fit is told again.
        let room = SURPLUS_MAX.saturating_sub(self.surplus.len());
        self.surplus.extend(surplus.into_iter().take(room));
        self.repair.note_ends(now, self.gateway.fetches().take_ends(self.term, Owner::Repair));
        let GivenUp { withdrawn, orphaned } = self.repair.give_up(now, &self.gateway.state(), &nodes);
        for (node, chunk) in withdrawn {
            self.gateway.fetches().withdraw(self.term, node, chunk);
        }
        self.orphaned.extend(orphaned);
        self.repair.consider_survey(now, &nodes, debt);
        while self.repair.is_surveying() && now.elapsed() < SURVEY_TURN {
            self.repair.survey(Instant::now(), &self.gateway.state());
        }
        let orders = self.repair.begin(now, &self.gateway.state(), &mut nodes);
        self.order(orders, now);
        self.move_on(now, &mut nodes, is_tick);
        self.change_manifests().await;
        if is_tick {
            self.fence(now).await;
            self.collect(&nodes).await;
            self.publish(&nodes);
        }
    }

    fn order(&self, orders: Vec<(NodeId, Order)>, now: Instant) {
        for (node, order) in orders {
            // One for which there is no room is begun anew when its time is over.
            let _is_taken = self.gateway.fetches().order(self.term, node, order, now);
        }
    }

    /// Has chunks moved so that nodes are evenly full, if there is nothing else to do.
    fn move_on(&mut self, now: Instant, nodes: &mut Nodes, is_tick: bool) {
        let seats = is_tick.then(|| {
            let (seats, unknown) = self.gateway.seats(&self.gateway.state(), self.term, now, nodes);
            self.unknown = unknown;
            seats
        });
        let hold = if self.gateway.state().is_rebalance_paused() {
            Some(Hold::Paused)
        } else if !self.unknown.is_empty() {
            Some(Hold::Unknown(self.unknown.clone()))
        } else {
            self.repair.is_needed().then_some(Hold::Repair)
        };
        self.rebalance.note(now, seats, hold);
        let progress = self.repair.moves(now);
        let began = Instant::now();
        while began.elapsed() < SURVEY_TURN
            && self.rebalance.look_on(Instant::now(), &self.gateway.state(), progress)
        {}
        if self.rebalance.may_move() {
            let waiting = self.rebalance.waiting();
            let orders = self.repair.begin_moves(now, &self.gateway.state(), nodes, waiting);
            self.order(orders, now);
        }
    }

    async fn change_manifests(&mut self) {
        let (chunks, changes): (Vec<ChunkId>, Vec<_>) =
            self.repair.changes(Instant::now(), &self.gateway.state()).into_iter().unzip();
        if chunks.is_empty() {
            return;
        }
        let applied =
            match self.propose(command::Kind::ReplaceReplicas(pb::ReplaceReplicas { changes })).await {
                Some(outcome::Kind::ReplicasReplaced(replaced)) => replaced.applied,
                // Perhaps it happened: a look at the manifests tells.
                _ => vec![false; chunks.len()],
            };
        for (chunk, applied) in chunks.into_iter().zip(applied) {
            self.repair.note_change(Instant::now(), chunk, applied);
        }
    }

    /// Registrations of nodes that have been silent for their lease are over: they have stopped to take writes by then.
    async fn fence(&self, now: Instant) {
        let lease = self.gateway.config().times.node_lease;
        let silent: Vec<(NodeId, u32)> = {
            let state = self.gateway.state();
            let is_due = |node: &&Node| {
                !node.is_fenced() && self.gateway.liveness().sight(self.term, node.id, now).age >= lease
            };
            state.nodes().filter(is_due).map(|node| (node.id, node.epoch)).collect()
        };
        for (node, epoch) in silent {
            tracing::warn!(%node, epoch, "a data node has been silent for its lease: its registration is over");
            let fence = pb::FenceNode { node_id: node.0.into(), epoch };
            self.propose(command::Kind::FenceNode(fence)).await;
        }
    }

    /// Replicas that nobody needs go, once those that are needed are all there.
    async fn collect(&mut self, nodes: &Nodes) {
        let mut by_node: BTreeMap<NodeId, Vec<ChunkId>> = BTreeMap::new();
        {
            let state = self.gateway.state();
            while let Some((node, chunk)) = self.orphaned.pop_first() {
                by_node.entry(node).or_default().push(chunk);
            }
            for _ in 0..SURPLUS_PER_TICK_MAX {
                let Some((node, chunk)) = self.surplus.pop_first() else { break };
                if !self.repair.is_under_way(chunk) && is_surplus(&state, nodes, node, chunk) {
                    by_node.entry(node).or_default().push(chunk);
                }
                if by_node.get(&node).is_some_and(|chunks| chunks.len() >= COLLECTED_MAX) {
                    break;
                }
            }
        }
        for (node, chunks) in by_node {
            tracing::info!(%node, chunks = chunks.len(), "a data node holds replicas that nobody needs: they go");
            let chunk_ids = chunks.into_iter().map(chunk_id_bytes).collect();
            let collect = pb::CollectReplicas { node_id: node.0.into(), chunk_ids };
            self.propose(command::Kind::CollectReplicas(collect)).await;
        }
    }

    fn publish(&mut self, nodes: &Nodes) {
        let state = self.gateway.state();
        let status =
            self.repair.status(Instant::now(), nodes, |(bucket, key)| object_resource(&state, *bucket, key));
        drop(state);
        let now = Instant::now();
        let rebalance = self.rebalance.status(now, self.repair.moves(now));
        self.gateway.repairs().publish(self.term, status, rebalance);
    }

    async fn propose(&self, kind: command::Kind) -> Option<outcome::Kind> {
        match self.gateway.propose(Instant::now() + PATIENCE, RequestId::NONE, kind).await {
            Ok(outcome) => Some(outcome),
            Err(refusal) => {
                tracing::debug!(?refusal, "repair is put off");
                None
            }
        }
    }
}

fn object_resource(state: &State, bucket: BucketId, key: &str) -> Option<String> {
    Some(name::object_resource(&state.bucket_by_id(bucket)?.name, key))
}

/// Whether the chunk has all its replicas without the node.
pub(crate) fn is_surplus(state: &State, nodes: &Nodes, node: NodeId, chunk: ChunkId) -> bool {
    let Some(held) = state.chunk(chunk) else { return false };
    let wanted = state.bucket_by_id(chunk.bucket()).map_or(usize::MAX, |bucket| bucket.replicas as usize);
    let stay = held.replicas.iter().filter(|other| nodes.stays(*other)).count();
    !held.replicas.contains(node) && stay >= wanted && !state.pending_deletes().contains(node, chunk)
}

/// The nodes as repair sees them, by what the leader has heard of them and what it knows of whether they fetch.
pub(crate) fn seen_nodes(
    state: &State,
    repair_after: Duration,
    sight: impl Fn(NodeId) -> Sight,
    takes_fetches: impl Fn(NodeId) -> Option<bool>,
) -> Nodes {
    let (mut leaving, mut unheard) = (BTreeMap::new(), BTreeSet::new());
    for node in state.nodes() {
        let sight = sight(node.id);
        if !sight.alive || node.removed {
            unheard.insert(node.id);
        }
        let why = match (node.removed, node.draining) {
            (true, _) => Some(Why::Removed),
            // Before its registration is over, what it has signed may still get into manifests.
            _ if !sight.alive && sight.age >= repair_after && node.is_fenced() => Some(Why::Dead),
            (false, true) => Some(Why::Draining),
            (false, false) => None,
        };
        leaving.extend(why.map(|why| (node.id, why)));
    }
    let mut candidates = candidates(state, sight, &[]);
    // One of an earlier release can't fetch, and can be read from.
    let mut cannot_fetch = BTreeSet::new();
    for candidate in &mut candidates {
        if takes_fetches(candidate.node) == Some(false) {
            candidate.barred.get_or_insert(Bar::Silent);
            cannot_fetch.insert(candidate.node);
        }
    }
    Nodes::new(candidates, leaving, unheard).without_fetches_of(cannot_fetch)
}

impl Gateway {
    /// The nodes as repair sees them now.
    pub(super) fn repair_nodes(&self, state: &State, term: u64, now: Instant) -> Nodes {
        let sight = |node| self.liveness().sight(term, node, now);
        let takes_fetches = |node| self.fetches().takes(term, node);
        seen_nodes(state, self.config().times.repair_after, sight, takes_fetches)
    }

    pub(super) async fn get_repair_status(
        &self,
        call: Call<proto::GetRepairStatusRequest>,
    ) -> Result<proto::GetRepairStatusResponse, Refusal> {
        let term = self.admit(call.deadline, &call.access).await?;
        Ok(proto::GetRepairStatusResponse { repair: self.repairs().status(term) })
    }

    /// Believed so far that the node is asked.
    pub(super) async fn report_replicas(
        &self,
        call: Call<proto::ReportReplicasRequest>,
    ) -> Result<proto::ReportReplicasResponse, Refusal> {
        let request = call.message;
        if request.replicas.len() > REPORTED_MAX {
            return Err(Refusal::invalid("replicas", format!("at most {REPORTED_MAX} replicas at once")));
        }
        let bucket = name::parse_bucket("parent", &request.parent)?;
        let parse = |replica: &proto::DoubtfulReplica| {
            let node = u16::try_from(replica.node_id).ok().map(NodeId)?;
            Some(Doubt { chunk: parse_chunk_id(&replica.chunk_id)?, node, verify: true })
        };
        let doubts: Option<Vec<Doubt>> = request.replicas.iter().map(parse).collect();
        let doubts = doubts.ok_or_else(|| Refusal::invalid("replicas", "a chunk id has sixteen bytes"))?;
        let term = self.admit(call.deadline, &call.access).await?;
        let state = self.state();
        let bucket = state.bucket(&bucket).ok_or_else(bucket_not_found)?.id;
        let is_named = |doubt: &Doubt| {
            let chunk = state.chunk(doubt.chunk);
            doubt.chunk.bucket() == bucket && chunk.is_some_and(|chunk| chunk.replicas.contains(doubt.node))
        };
        self.repairs().doubt(term, doubts.into_iter().filter(is_named));
        Ok(proto::ReportReplicasResponse {})
    }

    pub(super) async fn drain_node(
        &self,
        call: Call<proto::DrainNodeRequest>,
    ) -> Result<proto::DrainNodeResponse, Refusal> {
        let proto::DrainNodeRequest { request_id, name, draining } = call.message;
        let request_id = RequestId::parse(&request_id)?;
        let node = parse_node(&name)?;
        let drain = pb::DrainNode { node_id: node.0.into(), draining };
        self.propose_for(&call.access, call.deadline, request_id, command::Kind::DrainNode(drain)).await?;
        tracing::info!(%node, draining, "an operator wants a data node freed, or no longer so");
        Ok(proto::DrainNodeResponse {})
    }

    pub(super) async fn remove_node(
        &self,
        call: Call<proto::RemoveNodeRequest>,
    ) -> Result<proto::RemoveNodeResponse, Refusal> {
        let proto::RemoveNodeRequest { request_id, name, lost, with_its_objects } = call.message;
        let request_id = RequestId::parse(&request_id)?;
        let node = parse_node(&name)?;
        let term = self.admit(call.deadline, &call.access).await?;
        let registration = || self.state().node(node).map(|node| (node.epoch, node.is_fenced()));
        if registration().is_none() {
            return Err(Refusal::new(Reason::NodeUnknown, "no data node of this number has registered"));
        }
        let judge = || self.judge_removal(term, node, call.deadline, lost, with_its_objects);
        judge().await?;
        // A manifest could have come to name it since. From here on none can, until it registers again.
        if let Some((epoch, false)) = registration() {
            let fence = command::Kind::FenceNode(pb::FenceNode { node_id: node.0.into(), epoch });
            self.propose(call.deadline, RequestId::NONE, fence).await?;
        }
        let epoch = registration().map_or(0, |(epoch, _)| epoch);
        let replicas = judge().await?;
        let remove = pb::RemoveNode { node_id: node.0.into(), epoch };
        self.propose_for(&call.access, call.deadline, request_id, command::Kind::RemoveNode(remove)).await?;
        tracing::info!(%node, replicas, "an operator has removed a data node");
        Ok(proto::RemoveNodeResponse { replicas })
    }

    /// Whether the node may go with what manifests name it for; how many replicas that is.
    async fn judge_removal(
        &self,
        term: u64,
        node: NodeId,
        deadline: Instant,
        lost: bool,
        with_its_objects: bool,
    ) -> Result<u64, Refusal> {
        // At this moment for all that is looked at: soon after an election everybody counts as heard of.
        let now = Instant::now();
        let is_alive = self.liveness().sight(term, node, now).alive;
        let Use { replicas, chunks_lost, objects } = self.use_of(term, node, now, deadline).await?;
        let refusal = |words: String| Err(Refusal::new(Reason::NodeInUse, words));
        if replicas > 0 && !lost {
            return refusal(format!(
                "data node {node} holds {replicas} replicas: drain it first, or say that it is lost with all that it held"
            ));
        }
        if replicas > 0 && is_alive {
            return refusal(format!("data node {node} is alive and holds {replicas} replicas: drain it"));
        }
        if chunks_lost > 0 && !with_its_objects {
            let objects = objects.join(", ");
            return refusal(format!(
                "data node {node} has the only replicas of {chunks_lost} chunks that can be read at present: {objects}"
            ));
        }
        Ok(replicas)
    }
}

fn parse_node(name: &str) -> Result<NodeId, Refusal> {
    let number = name.strip_prefix("nodes/").and_then(|number| number.parse::<u16>().ok());
    let node = number.map(NodeId);
    node.ok_or_else(|| Refusal::invalid_name("name", "expected nodes/{node}, by the node's number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_is_named_by_its_number() {
        assert_eq!(parse_node("nodes/7"), Ok(NodeId(7)));
        for bad in ["7", "nodes/", "nodes/70000", "nodes/-1", "node/7"] {
            assert!(parse_node(bad).is_err(), "{bad}");
        }
    }
}

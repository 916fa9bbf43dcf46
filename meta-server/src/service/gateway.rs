//! Between requests and consensus: asks it, and says what its answers mean for the sender.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::sync::Semaphore;
use tracing::{Instrument as _, field::Empty};
use uuid::Uuid;
use xdpfs_proto::state::v1::{self as pb, command, outcome};
use xdpfs_trust::Trust;

use super::{
    Refusal,
    access::{Access, Caller},
    layers::{Deadline, RequestMetrics},
    live::Live,
    rights::Asks,
};
use crate::{
    audit::Audit,
    clock::{LeaderClock, millis},
    config::{Config, Member},
    consensus::{Consensus, ConsensusError, Program, StateGuard},
    copies::Copies,
    edges::Edges,
    fetches::Fetches,
    inventory::Inventories,
    liveness::Liveness,
    repair::Inbox,
    scrubs::Scrubs,
    state_machine::{FeatureLevel, MetaMember, Need, Reason, need},
};

/// Callers at once whose key this server has to ask others about.
const STRANGERS_MAX: usize = 32;
/// Drain plans that are made at once: each looks at all objects.
const DRAIN_PLANS_MAX: usize = 1;
/// Backups that are made at once: each holds the state once more.
const BACKUPS_MAX: usize = 1;
/// Parts of nodes' lists that are held against manifests at once.
const INVENTORY_TURNS_MAX: usize = 1;

/// What all handlers work with.
#[derive(Debug)]
pub(crate) struct Gateway {
    config: Config,
    live: Live,
    consensus: Consensus,
    liveness: Liveness,
    edges: Edges,
    fetches: Fetches,
    scrubs: Scrubs,
    copies: Copies,
    repairs: Inbox,
    inventories: Inventories,
    clock: LeaderClock,
    audit: Audit,
    strangers: Semaphore,
    requests: Arc<RequestMetrics>,
    drain_plans: Semaphore,
    inventory_turns: Semaphore,
    /// This server's own certificates, if it has any.
    trust: Option<Arc<Trust>>,
    backups: Arc<Semaphore>,
}

/// A request of a client that is being served. Of what a data node says, `A` is nothing.
#[derive(Debug)]
pub(super) struct Call<T, A = Access> {
    pub(super) deadline: Instant,
    pub(super) access: A,
    pub(super) message: T,
}

/// What a data node or an edge asks. Keys are for clients.
pub(super) type NodeCall<T> = Call<T, ()>;

/// The name that a client has given to its request; empty for the leader's own commands.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct RequestId(Bytes);

impl RequestId {
    /// Of a command that the leader makes for itself.
    pub(crate) const NONE: Self = Self(Bytes::new());

    /// A UUID in any of its textual forms, but not the one of all zeros, which is nobody's own.
    pub(super) fn parse(text: &str) -> Result<Self, Refusal> {
        let id = Uuid::parse_str(text).ok().filter(|id| !id.is_nil());
        let id = id
            .ok_or_else(|| Refusal::invalid("request_id", "a request id is a UUID of the client's making"))?;
        Ok(Self(Bytes::copy_from_slice(id.as_bytes())))
    }
}

impl Gateway {
    pub(crate) fn new(config: Config, consensus: Consensus, audit: Audit, trust: Option<Arc<Trust>>) -> Self {
        let liveness = Liveness::new(config.times.node_silent_after);
        let edges = Edges::new(config.times.edge_forgotten_after);
        let strangers = Semaphore::new(STRANGERS_MAX);
        let backups = Arc::new(Semaphore::new(BACKUPS_MAX));
        let drain_plans = Semaphore::new(DRAIN_PLANS_MAX);
        let inventory_turns = Semaphore::new(INVENTORY_TURNS_MAX);
        let (clock, requests) = (LeaderClock::new(), Arc::default());
        let live = Live::new(&config);
        Self {
            config,
            live,
            consensus,
            liveness,
            edges,
            fetches: Fetches::default(),
            scrubs: Scrubs::default(),
            copies: Copies::default(),
            repairs: Inbox::default(),
            inventories: Inventories::default(),
            clock,
            audit,
            strangers,
            requests,
            drain_plans,
            inventory_turns,
            backups,
            trust,
        }
    }

    /// As it was at the start.
    pub(crate) const fn config(&self) -> &Config {
        &self.config
    }

    /// What of the configuration may have changed since the start.
    pub(crate) const fn live(&self) -> &Live {
        &self.live
    }

    pub(crate) const fn consensus(&self) -> &Consensus {
        &self.consensus
    }

    pub(super) const fn liveness(&self) -> &Liveness {
        &self.liveness
    }

    pub(super) const fn edges(&self) -> &Edges {
        &self.edges
    }

    /// What nodes are to fetch from each other.
    pub(super) const fn fetches(&self) -> &Fetches {
        &self.fetches
    }

    /// What nodes are to do about their scrubs.
    pub(super) const fn scrubs(&self) -> &Scrubs {
        &self.scrubs
    }

    /// Copies that this server drives.
    pub(super) const fn copies(&self) -> &Copies {
        &self.copies
    }

    /// What repair is told, and what it tells.
    pub(super) const fn repairs(&self) -> &Inbox {
        &self.repairs
    }

    /// What nodes hold, against what they should.
    pub(super) const fn inventories(&self) -> &Inventories {
        &self.inventories
    }

    pub(super) const fn audit(&self) -> &Audit {
        &self.audit
    }

    /// Who the members are: by what is applied, or by the configuration until somebody has written it down.
    pub(crate) fn members(&self) -> Vec<Member> {
        let members = self.consensus.members();
        if !members.is_known() {
            return self.config.members.clone();
        }
        let member = |member: &MetaMember| Member {
            id: member.id,
            peer_address: member.peer_address.clone(),
            client_address: member.client_address.clone(),
        };
        members.iter().map(member).collect()
    }

    /// Turns for callers whose key this server has not heard of.
    pub(super) const fn strangers(&self) -> &Semaphore {
        &self.strangers
    }

    /// What is counted of requests.
    pub(crate) const fn requests(&self) -> &Arc<RequestMetrics> {
        &self.requests
    }

    /// Turns for whoever looks at all objects.
    pub(super) const fn drain_plans(&self) -> &Semaphore {
        &self.drain_plans
    }

    /// Turns for what nodes tell for an inventory.
    pub(super) const fn inventory_turns(&self) -> &Semaphore {
        &self.inventory_turns
    }

    /// The last second, since the Unix epoch, in which this server's certificate holds, if it has one.
    pub(crate) fn certificate_expiry_s(&self) -> Option<u64> {
        self.trust.as_ref().map(|trust| trust.expiry().as_secs())
    }

    /// Turns for backups.
    pub(super) const fn backups(&self) -> &Arc<Semaphore> {
        &self.backups
    }

    /// The state as it is now.
    pub(crate) fn state(&self) -> StateGuard<'_> {
        self.consensus.state()
    }

    /// The leader's clock.
    pub(crate) fn now_ms(&self) -> u64 {
        let state_ms = self.state().time_ms();
        self.clock.now_ms(state_ms)
    }

    pub(super) fn accept<T: Asks>(&self, request: tonic::Request<T>) -> Call<T> {
        let (deadline, access) = (self.deadline_of(&request), Access::of(&request));
        Call { deadline, access, message: request.into_inner() }
    }

    pub(super) fn accept_node<T>(&self, request: tonic::Request<T>) -> NodeCall<T> {
        Call { deadline: self.deadline_of(&request), access: (), message: request.into_inner() }
    }

    fn deadline_of<T>(&self, request: &tonic::Request<T>) -> Instant {
        let deadline = request.extensions().get::<Deadline>().map(|deadline| deadline.0);
        deadline.unwrap_or_else(|| Instant::now() + self.config.deadline)
    }

    /// Waits until the state includes everything that was committed when the call was made. Gives the term in which
    /// this server leads.
    pub(crate) async fn read_barrier(&self, deadline: Instant) -> Result<u64, Refusal> {
        let span = tracing::trace_span!(target: xdpfs_trace::TARGET, "read barrier");
        self.consensus.read_barrier(deadline).instrument(span).await.map_err(|error| match error {
            // Nothing was asked for that could have happened.
            ConsensusError::OutcomeUnknown | ConsensusError::Stopped => self.not_leading(),
            ConsensusError::DeadlineExceeded
            | ConsensusError::NotLeader
            | ConsensusError::Overloaded
            | ConsensusError::TooLarge => self.refusal(error),
        })
    }

    /// Puts a client's command into the log. Whether the client may is looked at now, to fail early, and again where
    /// the command is applied, which decides.
    pub(super) async fn propose_for(
        &self,
        access: &Access,
        deadline: Instant,
        request_id: RequestId,
        kind: command::Kind,
    ) -> Result<outcome::Kind, Refusal> {
        let caller = self.check(&self.state(), access)?;
        self.propose_by(Some(&caller), deadline, request_id, kind).await
    }

    /// Puts a command of the cluster's own into the log.
    pub(crate) async fn propose(
        &self,
        deadline: Instant,
        request_id: RequestId,
        kind: command::Kind,
    ) -> Result<outcome::Kind, Refusal> {
        self.propose_by(None, deadline, request_id, kind).await
    }

    /// Waits for what the state says to the command. When this returns, the state of this server includes it.
    async fn propose_by(
        &self,
        caller: Option<&Caller>,
        deadline: Instant,
        request_id: RequestId,
        kind: command::Kind,
    ) -> Result<outcome::Kind, Refusal> {
        self.check_feature_level(deadline, &kind).await?;
        let command = pb::Command {
            caller: caller.map(Caller::record),
            time_ms: self.now_ms(),
            request_id: request_id.0,
            kind: Some(kind),
            deletion_grace_ms: millis(self.config.times.deletion_grace),
        };
        // From the queue of the raft loop through the log and a majority to the state; the stages have histograms.
        let span = tracing::trace_span!(target: xdpfs_trace::TARGET, "propose", index = Empty);
        let applied = self.consensus.propose(&command, deadline).instrument(span.clone()).await;
        let applied = applied.map_err(|error| self.refusal(error))?;
        span.record("index", applied.index);
        match applied.outcome.kind {
            Some(outcome::Kind::Rejected(rejected)) => Err(rejected.into()),
            Some(kind) => Ok(kind),
            None => Err(Refusal::new(Reason::Internal, "the state gave no answer")),
        }
    }

    /// Servers of an earlier release would reject what the others apply, so nothing is proposed that some can't do.
    async fn check_feature_level(&self, deadline: Instant, kind: &command::Kind) -> Result<(), Refusal> {
        let Need { level, what } = need(kind);
        if self.state().feature_level() >= level {
            return Ok(());
        }
        // A leader that has only just begun may have yet to apply what raised it.
        self.read_barrier(deadline).await?;
        let cluster = self.state().feature_level();
        if cluster >= level {
            return Ok(());
        }
        let words =
            format!("{what} needs {level}, and the cluster is at {cluster}: {}", self.waits_for(level));
        Err(Refusal::new(Reason::FeatureLevelTooLow, words))
    }

    /// What keeps the cluster below this level, in words.
    fn waits_for(&self, level: FeatureLevel) -> String {
        let old: Vec<String> = self
            .members()
            .iter()
            .filter(|member| member.id != self.config.id)
            .filter_map(|member| match self.consensus.programs().find(member.id) {
                Some(program) if program.feature_level >= level => None,
                Some(Program { version, .. }) if version.is_empty() => {
                    Some(format!("{} (of an earlier release)", member.id))
                }
                Some(Program { version, .. }) => Some(format!("{} (of release {version})", member.id)),
                None => Some(format!("{} (not heard of)", member.id)),
            })
            .collect();
        match &old[..] {
            [] => "it rises in a moment: try again".to_owned(),
            old => format!("first start the present release on metadata server {}", old.join(", ")),
        }
    }

    /// What the server `id` runs, as far as this one knows.
    pub(super) fn program(&self, id: u64) -> Option<Program> {
        let programs = self.consensus.programs();
        if id == self.config.id { Some(programs.own().clone()) } else { programs.find(id) }
    }

    fn refusal(&self, error: ConsensusError) -> Refusal {
        let reason = match error {
            ConsensusError::NotLeader => return self.not_leading(),
            ConsensusError::DeadlineExceeded => Reason::DeadlineExceeded,
            // The command may be in the log already.
            ConsensusError::OutcomeUnknown | ConsensusError::Stopped => Reason::OutcomeUnknown,
            ConsensusError::Overloaded => Reason::Overloaded,
            ConsensusError::TooLarge => Reason::InvalidArgument,
        };
        Refusal::new(reason, error.to_string())
    }

    /// Where to go instead.
    fn not_leading(&self) -> Refusal {
        let leader = self.consensus.status().leader_id;
        match self.members().into_iter().find(|member| member.id == leader) {
            Some(member) => Refusal::not_leader(&member.client_address),
            None => Refusal::new(Reason::NoLeader, "the cluster has no leader at present"),
        }
    }
}

/// Sixteen random bytes.
pub(crate) fn new_key() -> Result<Bytes, Refusal> {
    let mut key = [0; 16];
    getrandom::fill(&mut key).map_err(no_randomness)?;
    Ok(Bytes::copy_from_slice(&key))
}

pub(super) fn no_randomness(error: getrandom::Error) -> Refusal {
    Refusal::new(Reason::Internal, format!("the system gives no random numbers: {error}"))
}

/// The answer belongs to an earlier request of another kind.
pub(super) fn reused_request_id() -> Refusal {
    Refusal::invalid("request_id", "the request id was used for another request before")
}

/// How much of `expires_ms` is left.
pub(super) const fn left_ms(expires_ms: u64, now_ms: u64) -> u64 {
    expires_ms.saturating_sub(now_ms)
}

/// A duration as messages carry it.
pub(super) fn duration_ms(duration: Duration) -> u64 {
    millis(duration)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_ids_are_uuids() {
        let text = "67e55044-10b1-426f-9247-bb680e5fe0c8";
        let id = RequestId::parse(text).unwrap();
        assert_eq!(id.0.len(), 16);
        assert_eq!(RequestId::parse(&text.to_uppercase()), Ok(id));
        for bad in ["", "x", "67e55044", "00000000-0000-0000-0000-000000000000"] {
            assert!(RequestId::parse(bad).is_err(), "{bad}");
        }
    }
}

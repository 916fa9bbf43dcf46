//! What moves so that data nodes are as full as each other ([design 0037](../../docs/design/0037-rebalance.md)). Not replicated: the
//! next leader counts again, and finds less to do.
//!
//! Invariant: pure; what nodes are like is told. It begins only if some node is far from its share, and then goes on until none is,
//! so that it neither follows small differences nor goes back and forth. It moves nothing by itself: repair copies, and
//! changes manifests, when it has nothing more urgent to do.

mod census;
mod plan;

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use xdpfs_proto::meta::v1::{self as proto, rebalance_status};
use xdpfs_wire::NodeId;

pub(crate) use self::plan::still_fits;
use self::{census::Census, plan::Plan};
pub use self::{census::Count, plan::Move};
use crate::{
    placement::{Position, Seat},
    state_machine::State,
};

/// Between two counts while nodes are even, or as many times as long as a count takes: one that takes long is not to keep
/// a core busy.
const COUNT_INTERVAL: Duration = Duration::from_secs(60);
const COUNT_PAUSES: u32 = 20;
/// Before the next try where nothing could be moved.
const STUCK_INTERVAL: Duration = Duration::from_secs(600);
/// What a plan was made for may have changed by then: a new one is made.
const PLAN_MAX: Duration = Duration::from_secs(3600);
/// Chunks that a node may lack, or have too much, whatever its share is.
const CHUNKS_OFF_MIN: u64 = 4;
/// Moves that wait to begin.
const WAITING_MAX: usize = 512;

/// Nodes that hold a share.
pub type Seats = BTreeMap<NodeId, Seat>;

/// When rebalancing begins.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Threshold {
    /// A node is off its share by more than this part of it, in percent.
    pub percent: u32,
    /// The nodes have been the same ones for so long.
    pub settled_for: Duration,
}

impl Threshold {
    /// Whether some node is so far from its share that something is done about it.
    fn is_passed(self, count: &Count) -> bool {
        let slack = CHUNKS_OFF_MIN * u64::from(count.longest);
        count.bytes.keys().any(|node| {
            let part = u128::from(count.share(*node)) * u128::from(self.percent) / 100;
            let off = count.surplus(*node).max(count.deficit(*node));
            off > slack && u128::from(off) > part
        })
    }
}

/// Why nothing is moved although there may be something to move.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Hold {
    /// Operators want none.
    Paused,
    /// Chunks lack replicas, or have to leave their node: that goes first.
    Repair,
    /// Of these nodes the leader does not know enough.
    Unknown(Vec<NodeId>),
}

/// Rebalancing, as the leader of one term drives it.
#[derive(Debug)]
pub struct Rebalance {
    threshold: Threshold,
    seats: Seats,
    /// Since when these nodes have been the ones.
    since: Instant,
    hold: Option<Hold>,
    phase: Phase,
    /// Moves that wait to begin.
    waiting: VecDeque<Move>,
    count: Option<Count>,
    /// By the last count, and nothing was moved since.
    is_even: bool,
    is_stuck: bool,
    /// A plan was given up for a newer one: what it was for is gone on with, however little is left.
    is_unfinished: bool,
}

#[derive(Debug)]
enum Phase {
    /// Nothing is done before then.
    Rest { until: Instant },
    /// What nodes hold is counted.
    Count { began: Instant, census: Census },
    /// Chunks move.
    Move { began: Instant, plan: Plan, moved_before: u64 },
}

/// What has become of moves that have begun.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Progress {
    /// On their way.
    pub chunks_moving: u64,
    /// Their bytes.
    pub bytes_moving: u64,
    /// Done since this leader began.
    pub chunks_moved: u64,
    /// Their bytes.
    pub bytes_moved: u64,
    /// Of no avail since this leader began.
    pub failed: u64,
    /// Bytes in a second, of late.
    pub bytes_per_s: u64,
}

impl Rebalance {
    /// Nothing is known yet.
    #[must_use]
    pub const fn new(now: Instant, threshold: Threshold) -> Self {
        Self {
            threshold,
            seats: Seats::new(),
            since: now,
            hold: None,
            phase: Phase::Rest { until: now },
            waiting: VecDeque::new(),
            count: None,
            is_even: false,
            is_stuck: false,
            is_unfinished: false,
        }
    }

    /// How nodes are now, if somebody has looked, and whether anything goes first.
    pub fn note(&mut self, now: Instant, seats: Option<Seats>, hold: Option<Hold>) {
        if hold == Some(Hold::Paused) && self.hold != hold {
            self.rest(now);
        }
        self.hold = hold;
        let Some(seats) = seats else { return };
        let places = |seats: &Seats| -> Vec<(NodeId, Position)> {
            seats.values().map(|seat| (seat.node, seat.position)).collect()
        };
        if places(&seats) != places(&self.seats) {
            self.since = now;
            self.count = None;
            self.rest(now);
        }
        self.seats = seats;
    }

    fn rest(&mut self, until: Instant) {
        self.phase = Phase::Rest { until };
        self.waiting.clear();
        (self.is_even, self.is_stuck) = (false, false);
    }

    /// Whether something may move now.
    #[must_use]
    pub const fn may_move(&self) -> bool {
        self.hold.is_none() && matches!(self.phase, Phase::Move { .. })
    }

    /// Whether something is counted or moved.
    #[must_use]
    pub const fn is_busy(&self) -> bool {
        self.hold.is_none() && !matches!(self.phase, Phase::Rest { .. })
    }

    /// Moves that wait to begin.
    pub const fn waiting(&mut self) -> &mut VecDeque<Move> {
        &mut self.waiting
    }

    /// Goes on counting, or looking for moves, under a lock that it holds for a bounded time. Gives whether there is more to
    /// look at.
    pub fn look_on(&mut self, now: Instant, state: &State, progress: Progress) -> bool {
        let is_settled = now.saturating_duration_since(self.since) >= self.threshold.settled_for;
        if self.hold.is_some() || !is_settled {
            return false;
        }
        match &mut self.phase {
            Phase::Rest { until } if now < *until => false,
            Phase::Rest { .. } => {
                self.phase = Phase::Count { began: now, census: Census::default() };
                true
            }
            Phase::Count { began, census } => {
                census.look_on(state, &self.seats);
                if !census.is_complete() {
                    return true;
                }
                let took = now.saturating_duration_since(*began);
                let count = std::mem::take(census).finish(&self.seats);
                let is_unfinished = std::mem::take(&mut self.is_unfinished) && count.least_bytes() > 0;
                if is_unfinished || self.threshold.is_passed(&count) {
                    let plan = Plan::new(&count, &self.seats);
                    self.phase = Phase::Move { began: now, plan, moved_before: progress.chunks_moved };
                } else {
                    self.rest(now + COUNT_INTERVAL.max(took * COUNT_PAUSES));
                    self.is_even = true;
                }
                self.count = Some(count);
                true
            }
            Phase::Move { began, plan, moved_before } => {
                let is_through = self.waiting.is_empty() && progress.chunks_moving == 0;
                if now.saturating_duration_since(*began) >= PLAN_MAX {
                    self.rest(now);
                    self.is_unfinished = true;
                } else if plan.is_complete() && is_through {
                    let is_stuck = progress.chunks_moved == *moved_before;
                    self.rest(if is_stuck { now + STUCK_INTERVAL } else { now });
                    self.is_stuck = is_stuck;
                } else if !plan.is_complete()
                    && self.waiting.len() < WAITING_MAX
                    && (is_through || !plan.is_between_walks())
                {
                    plan.look_on(state, &mut self.waiting);
                    return true;
                }
                false
            }
        }
    }

    /// As it is told to operators.
    #[must_use]
    pub fn status(&self, now: Instant, progress: Progress) -> proto::RebalanceStatus {
        let waiting: u64 = self.waiting.iter().map(|planned| u64::from(planned.length)).sum();
        let sought = match &self.phase {
            Phase::Move { plan, .. } => plan.bytes_left(),
            Phase::Rest { .. } | Phase::Count { .. } => 0,
        };
        let bytes_left = sought + waiting + progress.bytes_moving;
        let (state, reason) = self.state(now);
        let is_moving = bytes_left > 0 && progress.bytes_per_s > 0;
        proto::RebalanceStatus {
            state: state.into(),
            reason,
            bytes_left,
            in_progress: progress.chunks_moving,
            chunks_moved: progress.chunks_moved,
            bytes_moved: progress.bytes_moved,
            moves_failed: progress.failed,
            bytes_per_s: progress.bytes_per_s,
            eta_s: is_moving.then(|| bytes_left / progress.bytes_per_s),
            nodes: self.count.iter().flat_map(|count| node_shares(&self.seats, count)).collect(),
        }
    }

    fn state(&self, now: Instant) -> (rebalance_status::State, String) {
        use rebalance_status::State;
        let settles = self.threshold.settled_for.saturating_sub(now.saturating_duration_since(self.since));
        let (state, words) = match (&self.hold, &self.phase) {
            (Some(Hold::Paused), _) => (State::Paused, "operators want nothing to be moved"),
            (Some(Hold::Repair), _) => (State::Waiting, "repair goes first"),
            (Some(Hold::Unknown(nodes)), _) => {
                let nodes: Vec<String> = nodes.iter().map(ToString::to_string).collect();
                return (
                    State::Waiting,
                    format!("the leader waits for word from data node {}", nodes.join(", ")),
                );
            }
            (None, _) if !settles.is_zero() => {
                let words = format!("data nodes have come or gone: {} s to go", settles.as_secs() + 1);
                return (State::Waiting, words);
            }
            (None, Phase::Count { .. }) => (State::Counting, "what data nodes hold is being counted"),
            (None, Phase::Move { .. }) => (State::Moving, "some data nodes hold more than their share"),
            (None, Phase::Rest { .. }) if self.is_stuck => {
                (State::Stuck, "no chunk could move without its replicas lying closer together")
            }
            (None, Phase::Rest { .. }) if !self.is_even => {
                (State::Counting, "what data nodes hold is about to be counted")
            }
            (None, Phase::Rest { .. }) => (State::Even, "each data node holds its share"),
        };
        (state, words.to_owned())
    }
}

fn node_shares(seats: &Seats, count: &Count) -> Vec<proto::NodeShare> {
    let share = |seat: &Seat| proto::NodeShare {
        node_id: seat.node.0.into(),
        bytes: count.held(seat.node),
        share_bytes: count.share(seat.node),
        room_bytes: seat.room_bytes,
    };
    seats.values().map(share).collect()
}

/// What rebalancing would move if it began now. It moves nothing.
#[derive(Debug)]
pub struct DryRun {
    seats: Seats,
    threshold: Threshold,
    stage: Stage,
    flows: BTreeMap<NodeId, Flow>,
    chunks: u64,
}

#[derive(Debug)]
enum Stage {
    Count(Census),
    Plan(Count, Plan),
}

/// What one node gets and gives.
#[derive(Clone, Copy, Debug, Default)]
struct Flow {
    bytes_in: u64,
    bytes_out: u64,
}

impl DryRun {
    /// With these nodes.
    #[must_use]
    pub fn new(seats: Seats, threshold: Threshold) -> Self {
        Self { seats, threshold, stage: Stage::Count(Census::default()), flows: BTreeMap::new(), chunks: 0 }
    }

    /// Looks at some more manifests. Gives whether there are more.
    pub fn look_on(&mut self, state: &State) -> bool {
        match &mut self.stage {
            Stage::Count(census) => {
                census.look_on(state, &self.seats);
                if census.is_complete() {
                    let count = std::mem::take(census).finish(&self.seats);
                    let plan = Plan::new(&count, &self.seats);
                    self.stage = Stage::Plan(count, plan);
                }
                true
            }
            Stage::Plan(_, plan) => {
                let mut moves = Vec::new();
                plan.look_on(state, &mut moves);
                for Move { length, from, to, .. } in moves {
                    self.chunks += 1;
                    self.flows.entry(from).or_default().bytes_out += u64::from(length);
                    self.flows.entry(to).or_default().bytes_in += u64::from(length);
                }
                // Another walk would take the chunks to lie where they lay.
                !plan.is_complete() && !plan.is_between_walks()
            }
        }
    }

    /// What it has come to, if each node may move so many bytes in a second.
    #[must_use]
    pub fn finish(self, bytes_per_s: u64) -> proto::PlanRebalanceResponse {
        let Stage::Plan(count, _) = self.stage else { return proto::PlanRebalanceResponse::default() };
        let busiest = self.flows.values().map(|flow| flow.bytes_in.max(flow.bytes_out)).max().unwrap_or(0);
        let node = |share: proto::NodeShare| {
            let flow = self.flows.get(&NodeId(share.node_id as u16)).copied().unwrap_or_default();
            proto::PlannedNode { share: Some(share), bytes_in: flow.bytes_in, bytes_out: flow.bytes_out }
        };
        proto::PlanRebalanceResponse {
            uneven: self.threshold.is_passed(&count),
            chunks: self.chunks,
            bytes: self.flows.values().map(|flow| flow.bytes_in).sum(),
            least_bytes: count.least_bytes(),
            seconds: busiest.div_ceil(bytes_per_s.max(1)),
            bytes_per_s,
            nodes: node_shares(&self.seats, &count).into_iter().map(node).collect(),
        }
    }
}

#[cfg(test)]
mod tests;

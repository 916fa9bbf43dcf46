//! What lacks replicas, and what is being done about it ([design 0034](../../docs/design/0034-repair.md)). Not replicated: the
//! next leader looks at the manifests again, and nodes that hold a chunk by then only say so.
//!
//! Invariant: pure; what nodes are like, and what they said, is told. One change of a chunk is under way at a time; before it
//! begins, and again where it is applied, the manifest is looked at as it is then. Memory is bounded, however much there is to
//! do.

mod inbox;
mod nodes;
mod queue;
mod rates;
mod survey;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::{Duration, Instant},
};

use xdpfs_proto::{meta::v1 as proto, node::v1::FetchFailure, state::v1 as pb};
use xdpfs_wire::{ChunkId, NodeId};

pub use self::{
    inbox::{Doubt, Inbox, News},
    nodes::{Nodes, Why},
    queue::{Risk, Task},
    survey::{Survey, SurveyTotals},
};
use self::{queue::Queue, rates::Rates};
use crate::{
    fetches::{End, Fetched, Order, Owner, Part},
    mistake::{Mistake, is_planted},
    placement::place_beside,
    rebalance::{Move, Progress, still_fits},
    state_machine::{Chunk, ObjectName, REPLICA_CHANGES_MAX, Replicas, State, chunk_id_bytes},
};

/// A job that has not ended by then is begun anew elsewhere. Nodes try each source for tens of seconds.
const JOB_MAX: Duration = Duration::from_secs(120);
/// How long a task that failed is put off, the first time and at most.
const RETRY_AFTER: Duration = Duration::from_secs(2);
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);
/// Tasks that are put off at once; what does not fit is found again by the next survey.
const PUT_OFF_MAX: usize = 16_384;
/// Versions that one entry changes, unless it is about one chunk.
const VERSIONS_MAX: usize = 4096;
/// Tasks that are looked at in one turn, so that the state is never held for long.
const LOOKED_AT_MAX: usize = 512;
/// A word of a node is used within this time, or not at all: in the time of a grace it could remove the chunk again.
const WORD_MAX: Duration = Duration::from_secs(30);
/// Between two surveys, as long as something is left that only they can find.
const SURVEY_INTERVAL: Duration = Duration::from_secs(10);
/// While there is enough to do, it is that many times as long.
const BUSY_INTERVALS: u32 = 6;
/// Names of objects that are told.
const SAMPLE_MAX: usize = 20;

/// How much repair may do at once.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Limits {
    /// Bytes that one node may get, and give, in a second.
    pub bytes_per_s: u64,
    /// Chunks that one node makes at once.
    pub per_node: usize,
    /// Bytes that one node may get, and give, in a second only so that nodes are evenly full.
    pub moved_bytes_per_s: u64,
}

/// Repair, as the leader of one term drives it.
#[derive(Debug)]
pub struct Repair {
    limits: Limits,
    queue: Queue,
    rates: Rates,
    /// Of moves.
    move_rates: Rates,
    jobs: BTreeMap<ChunkId, Job>,
    /// Chunks that wait for a change of their manifest, with the words of the nodes that have them.
    ready: BTreeMap<ChunkId, Ready>,
    put_off: BTreeSet<(Instant, Task)>,
    failures: BTreeMap<ChunkId, Failures>,
    survey: Option<Survey>,
    /// What the last survey found, less what was done since.
    totals: SurveyTotals,
    surveyed: Option<Surveyed>,
    /// Whether anything could be begun since the last survey began.
    has_begun: bool,
    done: Done,
    moved: Done,
    moves_failed: u64,
}

/// A chunk that a node makes.
#[derive(Clone, Copy, Debug)]
struct Job {
    task: Task,
    change: Change,
    to: NodeId,
    length: u32,
    /// Replicas that could be read when it began.
    live: u8,
    began: Instant,
}

/// What a job is to come to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Change {
    /// Nothing in the manifest: the node has the chunk again.
    InPlace,
    /// This node is named no more, although it could stay. If it comes to nothing, nothing is lost.
    Move(NodeId),
    /// This node is named no more; none leaves if there are too few.
    Replace(Option<NodeId>),
}

#[derive(Clone, Copy, Debug)]
struct Ready {
    job: Job,
    from: Option<NodeId>,
    word: Fetched,
    at: Instant,
}

/// Jobs that were given up.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct GivenUp {
    /// What nodes need not fetch any more.
    pub withdrawn: Vec<(NodeId, ChunkId)>,
    /// Nothing refers to these chunks any more, and the nodes may have made them already.
    pub orphaned: Vec<(NodeId, ChunkId)>,
}

/// What went wrong with a chunk.
#[derive(Clone, Debug, Default)]
struct Failures {
    count: u32,
    /// Nodes that will not take it.
    refusing: BTreeSet<NodeId>,
    last: Option<Obstacle>,
    /// It is put off until then.
    until: Option<Instant>,
}

/// Why nothing can be done for a chunk at present.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Obstacle {
    /// No replica can be read.
    OutOfReach,
    /// No node would do.
    NoPlace,
    /// A node was asked and did not do it.
    Refused,
}

#[derive(Clone, Debug)]
struct Surveyed {
    nodes: Nodes,
    at: Instant,
    /// How long it took.
    took: Duration,
}

#[derive(Clone, Debug, Default)]
struct Done {
    chunks: u64,
    bytes: u64,
    cleared: u64,
    /// Bytes of the last seconds, for a rate.
    recent: Vec<(Instant, u64)>,
}

impl Done {
    fn note(&mut self, now: Instant, length: u32) {
        self.chunks += 1;
        self.bytes += u64::from(length);
        self.recent.push((now, length.into()));
    }

    /// Bytes in a second, of late.
    fn rate(&mut self, now: Instant) -> u64 {
        self.recent.retain(|(at, _)| now.saturating_duration_since(*at) < RATE_OVER);
        let bytes: u64 = self.recent.iter().map(|(_, bytes)| bytes).sum();
        let since = self.recent.first().map_or(RATE_OVER, |(at, _)| now.saturating_duration_since(*at));
        (bytes as f64 / since.as_secs_f64().max(1.0)) as u64
    }
}

/// Over how long the rate is told.
const RATE_OVER: Duration = Duration::from_secs(10);

impl Repair {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            queue: Queue::default(),
            rates: Rates::new(limits.bytes_per_s),
            move_rates: Rates::new(limits.moved_bytes_per_s),
            jobs: BTreeMap::new(),
            ready: BTreeMap::new(),
            put_off: BTreeSet::new(),
            failures: BTreeMap::new(),
            survey: None,
            totals: SurveyTotals::default(),
            surveyed: None,
            has_begun: false,
            done: Done::default(),
            moved: Done::default(),
            moves_failed: 0,
        }
    }

    /// Whether a survey is under way.
    #[must_use]
    pub const fn is_surveying(&self) -> bool {
        self.survey.is_some()
    }

    /// Whether anything is under way or known to be due.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.is_surveying() || !self.queue.is_empty() || !self.jobs.is_empty() || !self.ready.is_empty()
    }

    /// Whether anything is due that goes before what is moved only so that nodes are evenly full.
    #[must_use]
    pub fn is_needed(&self) -> bool {
        let is_needed = |job: &Job| !matches!(job.change, Change::Move(_));
        self.surveyed.is_none()
            || self.is_surveying()
            || !self.queue.is_empty()
            || self.jobs.values().any(is_needed)
            || self.ready.values().any(|ready| is_needed(&ready.job))
    }

    /// Begins a survey if there may be something that nobody knows of. A change of nodes that leave begins it anew.
    pub fn consider_survey(&mut self, now: Instant, nodes: &Nodes, debt: u64) {
        let is_same = |known: &Nodes| known.leaving() == nodes.leaving();
        if let Some(survey) = &self.survey {
            if is_same(survey.nodes()) {
                return;
            }
        } else if let Some(surveyed) = &self.surveyed
            && is_same(&surveyed.nodes)
        {
            // One that takes long is not to keep a core busy.
            let interval = SURVEY_INTERVAL.max(surveyed.took * 10);
            let interval = if self.is_busy() { interval * BUSY_INTERVALS } else { interval };
            let waits = now.saturating_duration_since(surveyed.at) < interval;
            // What was found may be gone, too.
            let is_stale = self.totals.replicas > 0 || self.totals.out_of_reach > 0;
            let may_find_more = debt > 0 || !nodes.leaving().is_empty() || is_stale;
            // If nothing can be done for what it found, another one would find the same.
            let is_overdue = self.queue.has_overflowed() && self.queue.is_empty() && self.has_begun;
            if !is_overdue && (waits || !may_find_more) {
                return;
            }
        }
        self.queue.begin_survey();
        self.has_begun = false;
        self.survey = Some(Survey::new(now, nodes.clone()));
    }

    /// Looks at some manifests. The state is held for a bounded number of chunks.
    pub fn survey(&mut self, now: Instant, state: &State) {
        let Some(survey) = &mut self.survey else { return };
        survey.look_on(state, &mut self.queue);
        if survey.is_complete() {
            let Some(survey) = self.survey.take() else { return };
            let took = now.saturating_duration_since(survey.began());
            self.surveyed = Some(Surveyed { nodes: survey.nodes().clone(), at: now, took });
            self.totals = survey.into_totals();
        }
    }

    /// Somebody doubts that a node has a chunk.
    pub fn doubt(&mut self, doubt: Doubt, state: &State, nodes: &Nodes) {
        let Doubt { chunk, node, verify } = doubt;
        if !self.is_under_way(chunk) && !is_planted(Mistake::DoubtsForgotten) {
            self.insert(Task { chunk, doubted: Some(node), verify }, state, nodes);
        }
    }

    /// With the risk that it is at now, so that what is only in doubt keeps nothing else waiting.
    fn insert(&mut self, task: Task, state: &State, nodes: &Nodes) {
        let Some(chunk) = state.chunk(task.chunk) else { return };
        let is_good = |node: &NodeId| nodes.is_heard(*node) && Some(*node) != task.doubted;
        let live = chunk.replicas.iter().filter(is_good).count() as u8;
        self.queue.insert(Risk { live, is_leisure: false }, task);
    }

    /// How fetches have ended.
    pub fn note_ends(&mut self, now: Instant, ends: Vec<(NodeId, ChunkId, End)>) {
        for (node, chunk, end) in ends {
            let Some(job) = self.jobs.get(&chunk).copied().filter(|job| job.to == node) else { continue };
            self.jobs.remove(&chunk);
            match (end, job.change) {
                (Ok(word), Change::InPlace) => {
                    self.failures.remove(&chunk);
                    if word.was_held {
                        self.done.cleared += 1;
                        // Who had to read all of it has done as much as if it had moved.
                        if !job.task.verify {
                            self.rates.give_back(node, job.length);
                        }
                    } else {
                        self.done.note(now, job.length);
                    }
                }
                (Ok(word), Change::Replace(from)) => {
                    self.ready.insert(chunk, Ready { job, from, word, at: now });
                }
                (Ok(word), Change::Move(from)) => {
                    self.ready.insert(chunk, Ready { job, from: Some(from), word, at: now });
                }
                (Err(why), _) => self.fail(now, job, why),
            }
        }
    }

    fn fail(&mut self, now: Instant, job: Job, why: FetchFailure) {
        let obstacle = match why {
            FetchFailure::OutOfReach | FetchFailure::Gone | FetchFailure::Corrupt => Obstacle::OutOfReach,
            FetchFailure::Unspecified
            | FetchFailure::Conflict
            | FetchFailure::NoSpace
            | FetchFailure::Refused => Obstacle::Refused,
        };
        let is_move = matches!(job.change, Change::Move(_));
        if obstacle == Obstacle::Refused && !is_move {
            self.failures.entry(job.task.chunk).or_default().refusing.insert(job.to);
        }
        self.part_with(now, job, obstacle);
    }

    /// The job has come to nothing. What was to be moved may as well stay.
    fn part_with(&mut self, now: Instant, job: Job, obstacle: Obstacle) {
        match job.change {
            Change::Move(_) => self.moves_failed += 1,
            Change::InPlace | Change::Replace(_) => self.put_off(now, job.task, obstacle),
        }
    }

    fn put_off(&mut self, now: Instant, task: Task, obstacle: Obstacle) {
        let failures = self.failures.entry(task.chunk).or_default();
        failures.count += 1;
        failures.last = Some(obstacle);
        if obstacle == Obstacle::NoPlace {
            // Perhaps those that would not take it will.
            failures.refusing.clear();
        }
        let delay = RETRY_AFTER.saturating_mul(1 << failures.count.min(6)).min(RETRY_AFTER_MAX) / 2;
        failures.until = Some(now + delay);
        if self.put_off.len() < PUT_OFF_MAX {
            self.put_off.insert((now + delay, task));
        } else {
            self.failures.remove(&task.chunk);
            self.queue.note_overflow();
        }
    }

    /// Gives up jobs that are of no use any more, and those whose nodes can't be expected to end them.
    pub fn give_up(&mut self, now: Instant, state: &State, nodes: &Nodes) -> GivenUp {
        let mut given_up = GivenUp::default();
        let jobs: Vec<Job> = self.jobs.values().copied().collect();
        for job in jobs {
            let chunk = job.task.chunk;
            let is_gone = state.chunk(chunk).is_none();
            let is_lost = !nodes.is_heard(job.to)
                || state.pending_deletes().contains(job.to, chunk)
                || now.saturating_duration_since(job.began) >= JOB_MAX;
            if !is_gone && (!is_lost || is_planted(Mistake::JobsOfTheDeadStay)) {
                continue;
            }
            self.jobs.remove(&chunk);
            given_up.withdrawn.push((job.to, chunk));
            if is_gone {
                self.failures.remove(&chunk);
                given_up.orphaned.push((job.to, chunk));
            } else {
                self.part_with(now, job, Obstacle::Refused);
            }
        }
        given_up
    }

    /// What nodes are to fetch from here on.
    pub fn begin(&mut self, now: Instant, state: &State, nodes: &mut Nodes) -> Vec<(NodeId, Order)> {
        let due: Vec<_> = self.put_off.range(..=(now, Task::LAST)).copied().collect();
        for entry in due {
            self.put_off.remove(&entry);
            self.insert(entry.1, state, nodes);
        }
        let mut per_node = self.jobs_per_node();
        let mut orders = Vec::new();
        let mut kept = Vec::new();
        for _ in 0..LOOKED_AT_MAX {
            let Some((risk, task)) = self.queue.pop() else { break };
            let until = self.failures.get(&task.chunk).and_then(|failures| failures.until);
            if self.is_moving(task.chunk) {
                kept.push((risk, task));
                continue;
            }
            if self.is_under_way(task.chunk) || until.is_some_and(|until| until > now) {
                continue;
            }
            match self.look_at(now, state, nodes, task, &per_node) {
                Look::Nothing => {
                    self.failures.remove(&task.chunk);
                }
                Look::Later => kept.push((risk, task)),
                Look::Obstacle(obstacle) => self.put_off(now, task, obstacle),
                Look::Begin(job, order) => {
                    *per_node.entry(job.to).or_default() += 1;
                    self.has_begun = true;
                    nodes.take_room(job.to, u64::from(job.length));
                    self.jobs.insert(task.chunk, job);
                    orders.push((job.to, order));
                }
            }
        }
        kept.into_iter().for_each(|(risk, task)| self.queue.insert(risk, task));
        orders
    }

    /// What nodes are to fetch from here on only so that they are evenly full. What can't begin yet waits on.
    pub fn begin_moves(
        &mut self,
        now: Instant,
        state: &State,
        nodes: &mut Nodes,
        waiting: &mut VecDeque<Move>,
    ) -> Vec<(NodeId, Order)> {
        let mut per_node = self.jobs_per_node();
        let (mut orders, mut kept) = (Vec::new(), VecDeque::new());
        for _ in 0..LOOKED_AT_MAX {
            let Some(planned) = waiting.pop_front() else { break };
            let is_full = per_node.get(&planned.to).is_some_and(|jobs| *jobs >= self.limits.per_node);
            // Of one chunk, one move after the other.
            if is_full || self.is_under_way(planned.chunk) {
                kept.push_back(planned);
                continue;
            }
            let Some((chunk, sources)) = movable(state, nodes, &planned) else {
                self.moves_failed += 1;
                continue;
            };
            if !self.move_rates.take(now, planned.to, &sources, chunk.length) {
                kept.push_back(planned);
                continue;
            }
            *per_node.entry(planned.to).or_default() += 1;
            nodes.take_room(planned.to, u64::from(chunk.length));
            let task = Task { chunk: planned.chunk, doubted: None, verify: false };
            let (change, live) = (Change::Move(planned.from), chunk.replicas.len() as u8);
            let job = Job { task, change, to: planned.to, length: chunk.length, live, began: now };
            self.jobs.insert(planned.chunk, job);
            orders.push((planned.to, order(chunk, sources, false)));
        }
        kept.append(waiting);
        *waiting = kept;
        orders
    }

    /// Whether it is about to lie elsewhere although nothing is wrong with it.
    fn is_moving(&self, chunk: ChunkId) -> bool {
        let job = self.jobs.get(&chunk).or_else(|| self.ready.get(&chunk).map(|ready| &ready.job));
        job.is_some_and(|job| matches!(job.change, Change::Move(_)))
    }

    /// How far what is moved has come that nobody needs.
    pub fn moves(&mut self, now: Instant) -> Progress {
        let jobs = self.jobs.values().chain(self.ready.values().map(|ready| &ready.job));
        let moving = jobs.filter(|job| matches!(job.change, Change::Move(_)));
        let (chunks_moving, bytes_moving) =
            moving.fold((0, 0), |(chunks, bytes), job| (chunks + 1, bytes + u64::from(job.length)));
        Progress {
            chunks_moving,
            bytes_moving,
            chunks_moved: self.moved.chunks,
            bytes_moved: self.moved.bytes,
            failed: self.moves_failed,
            bytes_per_s: self.moved.rate(now),
        }
    }

    fn jobs_per_node(&self) -> BTreeMap<NodeId, usize> {
        let mut per_node = BTreeMap::new();
        for job in self.jobs.values() {
            *per_node.entry(job.to).or_default() += 1;
        }
        per_node
    }

    fn look_at(
        &mut self,
        now: Instant,
        state: &State,
        nodes: &Nodes,
        task: Task,
        per_node: &BTreeMap<NodeId, usize>,
    ) -> Look {
        let Some(chunk) = state.chunk(task.chunk) else { return Look::Nothing };
        let Some(wanted) = state.bucket_by_id(task.chunk.bucket()).map(|bucket| bucket.replicas) else {
            return Look::Nothing;
        };
        let failures = self.failures.get(&task.chunk);
        let is_refusing = |node: NodeId| failures.is_some_and(|failures| failures.refusing.contains(&node));
        let (change, to) = match task.doubted.filter(|node| chunk.replicas.contains(*node)) {
            // Whoever leaves need not have it again.
            Some(node) if !nodes.is_leaving(node) && !is_refusing(node) => {
                if !nodes.is_heard(node) || !nodes.takes_fetches(node) {
                    return Look::Nothing;
                }
                (Change::InPlace, node)
            }
            doubted => {
                // A node that can't take the chunk again, or one that leaves; or nobody does and one is lacking.
                let refusing = doubted.filter(|node| is_refusing(*node));
                let from = refusing.or_else(|| nodes.first_leaving(&chunk.replicas));
                let is_full = chunk.replicas.len() >= wanted as usize || is_planted(Mistake::DebtForgotten);
                if from.is_none() && is_full {
                    return Look::Nothing;
                }
                let held = nodes.positions(&chunk.replicas, from);
                let barred = |node: NodeId| {
                    chunk.replicas.contains(node)
                        || is_refusing(node)
                        || state.pending_deletes().contains(node, task.chunk)
                };
                // Low bits: chunks of one bucket differ in them.
                let seed = task.chunk.0 as u64;
                let Some(to) = place_beside(seed, nodes.candidates(), &held, chunk.length.into(), barred)
                else {
                    return Look::Obstacle(Obstacle::NoPlace);
                };
                (Change::Replace(from), to)
            }
        };
        let sources = nodes.sources(&chunk.replicas, to);
        if sources.is_empty() && change != Change::InPlace {
            return Look::Obstacle(Obstacle::OutOfReach);
        }
        let is_full = per_node.get(&to).is_some_and(|jobs| *jobs >= self.limits.per_node);
        if is_full || !self.rates.take(now, to, &sources, chunk.length) {
            return Look::Later;
        }
        // One that has nobody else to ask can still say that it has it.
        let holders = if sources.is_empty() { Replicas::new([to]) } else { sources };
        let live = chunk.replicas.iter().filter(|node| nodes.is_heard(*node)).count() as u8;
        let job = Job { task, change, to, length: chunk.length, live, began: now };
        Look::Begin(job, order(chunk, holders, task.verify))
    }

    /// Changes of manifests that are to be put in the log now.
    #[must_use]
    pub fn changes(&mut self, now: Instant, state: &State) -> Vec<(ChunkId, pb::ReplicaChange)> {
        let is_old = |ready: &Ready| now.saturating_duration_since(ready.at) >= WORD_MAX;
        let old: Vec<Ready> = self.ready.values().filter(|ready| is_old(ready)).copied().collect();
        for ready in old {
            self.ready.remove(&ready.job.task.chunk);
            self.part_with(now, ready.job, Obstacle::Refused);
        }
        let change = |(chunk, ready): (&ChunkId, &Ready)| {
            let change = pb::ReplicaChange {
                chunk_id: chunk_id_bytes(*chunk),
                from: ready.from.map_or(0, |node| node.0.into()),
                to: Some(pb::Receipt {
                    node_id: ready.job.to.0.into(),
                    node_epoch: ready.word.node_epoch,
                    mac: ready.word.mac,
                }),
            };
            (*chunk, change)
        };
        // Each version that shares a chunk is changed, and nobody is served meanwhile.
        let (mut count, mut versions) = (0, 0);
        let ready = self.ready.iter().take(REPLICA_CHANGES_MAX).take_while(|(chunk, _)| {
            count += 1;
            versions += state.sharers(**chunk);
            count == 1 || versions <= VERSIONS_MAX
        });
        ready.map(change).collect()
    }

    /// Whether the change of a chunk took effect. What it still lacks is looked at again.
    pub fn note_change(&mut self, now: Instant, chunk: ChunkId, applied: bool) {
        let Some(Ready { job, from, .. }) = self.ready.remove(&chunk) else { return };
        if !applied {
            self.part_with(now, job, Obstacle::Refused);
            return;
        }
        if let Change::Move(_) = job.change {
            self.moved.note(now, job.length);
            return;
        }
        self.failures.remove(&chunk);
        self.done.note(now, job.length);
        self.totals.settle(job.live, from, job.length);
        // Another one may be lacking.
        self.queue.insert(Risk::IN_DOUBT, Task { doubted: None, ..job.task });
    }

    /// Whether the node is about to be named for the chunk.
    #[must_use]
    pub fn is_under_way(&self, chunk: ChunkId) -> bool {
        self.jobs.contains_key(&chunk) || self.ready.contains_key(&chunk)
    }

    /// As it is told to operators.
    pub fn status(
        &mut self,
        now: Instant,
        nodes: &Nodes,
        resource: impl Fn(&ObjectName) -> Option<String>,
    ) -> proto::RepairStatus {
        let bytes_per_s = self.done.rate(now);
        let complete = self
            .surveyed
            .as_ref()
            .is_some_and(|surveyed| !self.is_surveying() && surveyed.nodes.leaving() == nodes.leaving());
        let totals = match &self.survey {
            Some(survey) => survey.totals(),
            None => &self.totals,
        };
        let count = |obstacle| {
            self.failures.values().filter(|failures| failures.last == Some(obstacle)).count() as u64
        };
        let is_repair = |job: &Job| !matches!(job.change, Change::Move(_));
        let in_progress = self.jobs.values().filter(|job| is_repair(job)).count()
            + self.ready.values().filter(|ready| is_repair(&ready.job)).count();
        let classes = totals.classes.iter().filter(|(_, chunks)| **chunks > 0);
        let eta_s = (totals.bytes > 0 && complete && bytes_per_s > 0).then(|| totals.bytes / bytes_per_s);
        proto::RepairStatus {
            reason: self.reason(nodes, totals),
            complete,
            classes: classes
                .map(|(live, chunks)| proto::RepairClass { live_replicas: u32::from(*live), chunks: *chunks })
                .collect(),
            bytes_left: totals.bytes,
            in_progress: in_progress as u64,
            chunks_repaired: self.done.chunks,
            bytes_repaired: self.done.bytes,
            replicas_cleared: self.done.cleared,
            bytes_per_s,
            eta_s,
            without_place: count(Obstacle::NoPlace),
            out_of_reach: totals.out_of_reach.max(count(Obstacle::OutOfReach)),
            nodes: nodes
                .leaving()
                .iter()
                .map(|(node, why)| proto::LeavingNode {
                    node_id: node.0.into(),
                    why: why.to_proto().into(),
                    replicas: totals.leaving.get(node).copied().unwrap_or_default(),
                })
                .collect(),
            out_of_reach_sample: totals.out_of_reach_sample.iter().filter_map(resource).collect(),
        }
    }

    fn reason(&self, nodes: &Nodes, totals: &SurveyTotals) -> String {
        let mut why: BTreeMap<Why, Vec<String>> = BTreeMap::new();
        for (node, cause) in nodes.leaving() {
            if totals.leaving.get(node).is_some_and(|replicas| *replicas > 0) {
                why.entry(*cause).or_default().push(node.to_string());
            }
        }
        let mut words: Vec<String> = why
            .into_iter()
            .map(|(why, nodes)| format!("{} {}", why.words(nodes.len()), nodes.join(", ")))
            .collect();
        if totals.lacking > 0 {
            words.push("puts got fewer replicas than they asked for".to_owned());
        }
        if self.jobs.values().any(|job| job.change == Change::InPlace) {
            words.push("replicas are in doubt".to_owned());
        }
        if words.is_empty() { "every chunk has its replicas".to_owned() } else { words.join("; ") }
    }
}

/// What becomes of a task.
enum Look {
    /// There is nothing to do any more.
    Nothing,
    /// Not now.
    Later,
    Obstacle(Obstacle),
    Begin(Job, Order),
}

/// The chunk of a move that still makes sense, and from where it can be had.
fn movable<'a>(state: &'a State, nodes: &Nodes, planned: &Move) -> Option<(&'a Chunk, Replicas)> {
    let chunk = state.chunk(planned.chunk)?;
    let wanted = state.bucket_by_id(planned.chunk.bucket())?.replicas as usize;
    // What lacks something is for repair, which may choose another place.
    let is_whole = chunk.replicas.len() == wanted && chunk.replicas.iter().all(|node| nodes.stays(node));
    let is_taken = nodes.is_heard(planned.to)
        && nodes.takes_fetches(planned.to)
        && !state.pending_deletes().contains(planned.to, planned.chunk);
    let sources = nodes.sources(&chunk.replicas, planned.to);
    let is_fit = is_whole && is_taken && still_fits(planned, &chunk.replicas, |node| nodes.candidate(node));
    (is_fit && !sources.is_empty()).then_some((chunk, sources))
}

fn order(chunk: &Chunk, holders: Replicas, verify: bool) -> Order {
    let part = Part { chunk: chunk.id, offset: 0, length: chunk.length, holders };
    Order {
        owner: Owner::Repair,
        chunk: chunk.id,
        length: chunk.length,
        crc32c: Some(chunk.crc32c),
        parts: [part].into(),
        verify,
    }
}

#[cfg(test)]
mod tests;

//! One server without threads: the real core, log thread and apply thread, each moved by hand.

use std::{
    collections::{BTreeMap, VecDeque},
    mem,
    sync::{
        Arc, Mutex, OnceLock, PoisonError, RwLock,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    time::Instant,
};

use raft::eraftpb::Message;
use tokio::sync::watch;
use xdpfs_observe::Latency;

use super::{
    super::{
        Bootstrap, Fingerprints, Input, InputSender, Outbox, Program, Programs, RaftStatus, Role,
        apply::ApplyThread,
        core::{ApplyJob, LogJob, Output, RaftCore},
        log_thread::{LogThread, StoredSnapshots},
        membership::configuration,
        raft_loop::load_snapshot,
    },
    checks::{Checks, LOOK_EVERY, assert_promise_is_durable},
};
use crate::{
    config::ConsensusConfig,
    state_machine::{Etag, FeatureLevel, State},
    storage::{
        Change, Identity, LogStore as _,
        memory_store::{Medium, MemoryStore, PowerLoss},
    },
};

const QUEUE_MAX: usize = 100_000;
/// Few, so that changes come between the slices of a snapshot.
const RECORDS_PER_SLICE: usize = 2;

/// Every medium that there ever was, by the server that it is of.
pub(super) type Media = BTreeMap<u64, Medium>;

/// The log thread's way out: looks at the medium at the very moment when a message leaves.
#[derive(Clone)]
struct CheckedOutbox {
    medium: Medium,
    left: Arc<Mutex<Vec<Message>>>,
}

impl Outbox for CheckedOutbox {
    fn send(&self, message: Message) {
        assert_promise_is_durable(&self.medium.content(), &message);
        self.left.lock().unwrap_or_else(PoisonError::into_inner).push(message);
    }
}

/// A server that runs.
pub(super) struct Running {
    pub(super) id: u64,
    pub(super) core: RaftCore,
    /// What waits for the raft loop.
    pub(super) inputs: VecDeque<Input>,
    outbox: CheckedOutbox,
    log: LogThread<MemoryStore, CheckedOutbox>,
    log_jobs: SyncSender<LogJob>,
    log_waiting: usize,
    apply: ApplyThread,
    apply_waiting: VecDeque<ApplyJob>,
    reports: Receiver<Input>,
}

impl Running {
    pub(super) fn start(
        id: u64,
        medium: &Medium,
        voters: &[u64],
        config: ConsensusConfig,
        checks: &mut Checks,
    ) -> Self {
        let (mut store, recovered) = medium.open();
        let identity = recovered.identity.clone().unwrap_or_else(|| {
            let identity = Identity { raft_id: id, cluster_id: String::new(), voters: voters.to_vec() };
            store.stage(Change::Identity(identity.clone()));
            store.sync().expect("memory does not fail");
            identity
        });
        let snapshot = recovered.snapshot.clone();
        let load = |meta| load_snapshot(&store.snapshots(), meta).expect("a stored snapshot can be read");
        let state = snapshot.as_ref().map_or_else(State::of_present_level, load);
        let hard_state = recovered.hard_state.clone();
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let mut core =
            RaftCore::new(Bootstrap { recovered, identity, config }, &logger).expect("a server restarts");
        core.know(Arc::clone(state.members()));
        let members = watch::channel(Arc::clone(state.members())).0;
        checks.starts(id, &hard_state, core.status().term);
        let (inputs, reports) = sync_channel(QUEUE_MAX);
        let (log_jobs, log_queue) = sync_channel(QUEUE_MAX);
        let outbox = CheckedOutbox { medium: medium.clone(), left: Arc::default() };
        Self {
            id,
            core,
            inputs: VecDeque::new(),
            outbox: outbox.clone(),
            log: LogThread {
                store,
                jobs: log_queue,
                outbox,
                inputs: InputSender(inputs.clone()),
                snapshots: StoredSnapshots::new(snapshot.clone()),
                latency: Latency::default(),
            },
            log_jobs,
            log_waiting: 0,
            apply: ApplyThread {
                jobs: sync_channel(1).1,
                state: Arc::new(RwLock::new(state)),
                applied: snapshot.map(|meta| meta.position).unwrap_or_default(),
                cluster_id: Arc::new(OnceLock::new()),
                members,
                programs: Programs::new(Program::own(FeatureLevel::SUPPORTED)),
                fingerprints: Fingerprints::default(),
                is_halted: false,
                taking: None,
                to_take: VecDeque::new(),
                records_per_slice: RECORDS_PER_SLICE,
                inputs: InputSender(inputs),
                latency: Latency::default(),
            },
            apply_waiting: VecDeque::new(),
            reports,
        }
    }

    pub(super) fn status(&self) -> RaftStatus {
        self.core.status()
    }

    pub(super) fn leads(&self) -> bool {
        self.status().role == Role::Leader
    }

    /// The last entry that the state includes.
    pub(super) const fn applied(&self) -> u64 {
        self.apply.applied.index
    }

    pub(super) const fn syncs(&self) -> u64 {
        self.log.store.syncs
    }

    /// The power goes in the middle of the next work of the log thread.
    pub(super) const fn lose_power_after(&mut self, syncs: u32, loss: PowerLoss) {
        self.log.store.syncs_before_power_loss = Some(syncs);
        self.log.store.power_loss = loss;
    }

    pub(super) const fn power_loss(&self) -> PowerLoss {
        self.log.store.power_loss
    }

    pub(super) const fn forget_power_loss(&mut self) {
        self.log.store.syncs_before_power_loss = None;
    }

    /// Nothing waits anywhere.
    pub(super) fn is_at_rest(&self) -> bool {
        let is_busy = self.log.is_storing_snapshot() || self.apply.is_encoding();
        self.log_waiting == 0 && self.apply_waiting.is_empty() && !is_busy
    }

    /// raft-rs draws timeouts from a source that has no seed, so they are set anew after everything that may draw one.
    fn set_timeout(&mut self, ticks: u64) {
        let raft = self.core.raft();
        let (from, spread) = (raft.election_timeout() as u64, raft.election_timeout() as u64 - 1);
        raft.set_randomized_election_timeout((from + ticks % spread) as usize);
    }

    pub(super) fn tick(&mut self, now: Instant, ticks: u64, checks: &mut Checks) {
        self.core.tick(now);
        self.set_timeout(ticks);
        self.look(checks);
    }

    /// Lets the core have inputs, but not those that arrive meanwhile.
    pub(super) fn take_inputs(&mut self, count: usize, now: Instant, ticks: u64, checks: &mut Checks) {
        self.inputs.extend(self.reports.try_iter());
        for _ in 0..count.min(self.inputs.len()) {
            let Some(input) = self.inputs.pop_front() else { return };
            self.core.handle(input, now);
            self.set_timeout(ticks);
            self.look(checks);
        }
    }

    fn look(&self, checks: &mut Checks) {
        if self.leads() {
            checks.leads(self.status().term, self.id);
        }
    }

    /// Takes work from the core. Gives the messages that leave at once.
    pub(super) fn poll(&mut self, count: usize, checks: &mut Checks, media: &Media) -> Vec<Message> {
        let mut messages = Vec::new();
        for _ in 0..count {
            match self.core.poll() {
                Some(Output::Apply(job)) => {
                    match &job {
                        ApplyJob::Entries(entries) => {
                            entries.iter().for_each(|(entry, _)| checks.commits(entry, media));
                        }
                        ApplyJob::Configure(position, configuration) => {
                            checks.configures(*position, configuration, media);
                        }
                        ApplyJob::Backup(_) | ApplyJob::Install(..) | ApplyJob::Snapshot => {}
                    }
                    self.apply_waiting.push_back(job);
                }
                Some(Output::Log(job)) => self.queue(job, checks),
                Some(Output::Send(message)) => {
                    assert_promise_is_durable(&self.outbox.medium.content(), &message);
                    messages.push(message);
                }
                None => break,
            }
        }
        messages
    }

    fn queue(&mut self, job: LogJob, checks: &mut Checks) {
        if let LogJob::Write(job) = &job {
            for change in &job.changes {
                match change {
                    Change::HardState(state) => checks.hard_state(self.id, state),
                    Change::Append(entries) => checks.appends(entries, self.term_before(entries[0].index)),
                    _ => {}
                }
            }
        }
        // One that another server's has overtaken is dropped.
        let newest = self.core.raft().raft_log.store.snapshot_meta().map_or(0, |meta| meta.position.index);
        if let LogJob::Snapshot(meta, _) = &job
            && meta.position.index > newest
        {
            checks.stores(meta.position, &configuration(&meta.conf_state));
        }
        self.log_waiting += 1;
        self.log_jobs.try_send(job).expect("there is room");
    }

    fn term_before(&mut self, index: u64) -> u64 {
        self.core.raft().raft_log.term(index - 1).expect("the entry before the first new one is known")
    }

    /// Lets the log thread work once. Gives the messages that leave, or none if the power is lost.
    pub(super) fn work_on_log(&mut self) -> Option<Vec<Message>> {
        if self.log_waiting == 0 && !self.log.is_storing_snapshot() {
            return Some(Vec::new());
        }
        let jobs = self.log.next_jobs().expect("the core is there");
        self.log_waiting -= jobs.len();
        self.log.process(jobs).ok()?;
        Some(mem::take(&mut *self.outbox.left.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    /// Lets the apply thread do one job, and a little of a snapshot.
    pub(super) fn work_on_state(&mut self, checks: &Checks) {
        let Some(job) = self.apply_waiting.pop_front() else { return self.apply.go_on_encoding() };
        for job in stages(job) {
            let before = self.apply.applied;
            self.apply.process(job);
            self.apply.go_on_encoding();
            if self.apply.applied != before {
                assert!(self.apply.applied > before, "the state never goes back");
                self.with_state(|state| checks.applies(self.id, self.applied(), state));
            }
        }
    }

    pub(super) fn with_state<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.apply.state.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// What a key holds in this server's state.
    pub(super) fn held(&self, bucket: &str, key: &str) -> Option<Etag> {
        self.with_state(|state| Some(state.object(state.bucket(bucket)?.id, key)?.etag()))
    }
}

/// The same job in steps that end where the state is looked at.
fn stages(job: ApplyJob) -> Vec<ApplyJob> {
    let ApplyJob::Entries(entries) = job else { return vec![job] };
    let mut stages: Vec<Vec<_>> = Vec::new();
    let mut ends = true;
    for (entry, waiter) in entries {
        let next_ends = entry.index.is_multiple_of(LOOK_EVERY);
        match stages.last_mut().filter(|_| !ends) {
            Some(stage) => stage.push((entry, waiter)),
            None => stages.push(vec![(entry, waiter)]),
        }
        ends = next_ends;
    }
    stages.into_iter().map(ApplyJob::Entries).collect()
}

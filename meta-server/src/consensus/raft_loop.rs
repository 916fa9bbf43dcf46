//! The thread that drives the core, and how all three threads start.
//!
//! Invariant: this thread never waits for anything but inputs and the clock: the other threads wait for it to take their
//! reports. It stops asking the core for work while they are behind.

use std::{
    collections::VecDeque,
    error::Error,
    io,
    sync::{
        Arc, OnceLock, RwLock,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::sync::watch;
use xdpfs_observe::Latency;

use super::{
    Bootstrap, Consensus, Fingerprints, Halt, INPUTS_MAX, Input, InputSender, Outbox, Program, Programs,
    RaftStatus, StageLatencies, Standing, Threads,
    apply::{ApplyThread, RECORDS_PER_SLICE},
    core::{ApplyJob, LogJob, Output, RaftCore},
    log_thread::{LogThread, StoredSnapshots},
};
use crate::{
    state_machine::{SnapshotError, State},
    storage::{LogPosition, LogStore, SnapshotMeta, SnapshotSource, StoreError, crc32c, crc32c_combine},
};

/// Jobs that wait for the apply thread.
const JOBS_MAX: usize = 64;
/// Jobs that wait for the log thread. It takes many at once; while a slow disk keeps it, heartbeats must go on. A leader whose disk does
/// not come back stops with them, and another server leads.
const LOG_JOBS_MAX: usize = 1024;
/// Entries that wait beyond that for the apply thread. It may be busy for long with a snapshot, and heartbeats must go
/// on meanwhile.
const BACKLOG_ENTRIES_MAX: usize = 65_536;
const INPUTS_PER_ROUND_MAX: usize = 256;

/// Why consensus cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// This program must not go on from what is stored.
    #[error(transparent)]
    Halt(#[from] Halt),
    /// raft-rs refuses what it is given.
    #[error("consensus cannot start from what is stored")]
    Raft(#[from] raft::Error),
    /// The newest snapshot cannot be read.
    #[error("the newest snapshot cannot be read")]
    Snapshot(#[from] SnapshotError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The system gives no thread.
    #[error("a thread cannot start")]
    Thread(#[from] io::Error),
}

/// Reads the newest snapshot and starts the threads. `outbox` is made with the sender of the loop's inputs.
///
/// # Errors
///
/// See [`StartError`].
pub fn start<S: LogStore, O: Outbox>(
    bootstrap: Bootstrap,
    store: S,
    latencies: StageLatencies,
    outbox: impl FnOnce(InputSender, Arc<OnceLock<String>>, Programs, Fingerprints) -> O,
) -> Result<(Consensus, Threads), StartError> {
    let (consensus, workers) = assemble(bootstrap, store, latencies, outbox)?;
    Ok((consensus, workers.start()?))
}

/// What the three threads do; nothing of it is done before they start.
pub(crate) struct Workers<S, O> {
    pub(super) raft_loop: RaftLoop<O>,
    pub(super) log_thread: LogThread<S, O>,
    pub(super) apply_thread: ApplyThread,
    inputs: InputSender,
}

impl<S: LogStore, O: Outbox> Workers<S, O> {
    /// Where its messages go.
    pub(crate) const fn outbox(&self) -> &O {
        &self.raft_loop.outbox
    }

    /// # Errors
    ///
    /// The system gives no thread.
    pub(crate) fn start(self) -> Result<Threads, StartError> {
        let Self { raft_loop, log_thread, apply_thread, inputs } = self;
        let handles = vec![
            spawn("raft-log", move || log_thread.run())?,
            spawn("raft-apply", move || apply_thread.run())?,
            spawn("raft-loop", move || raft_loop.run())?,
        ];
        Ok(Threads { inputs, handles })
    }
}

/// The same as [`start`], without the threads.
///
/// # Errors
///
/// See [`StartError`].
pub(crate) fn assemble<S: LogStore, O: Outbox>(
    bootstrap: Bootstrap,
    store: S,
    latencies: StageLatencies,
    outbox: impl FnOnce(InputSender, Arc<OnceLock<String>>, Programs, Fingerprints) -> O,
) -> Result<(Consensus, Workers<S, O>), StartError> {
    let snapshot = bootstrap.recovered.snapshot.clone();
    let state = match &snapshot {
        Some(meta) => load_snapshot(&store.snapshots(), meta)?,
        None => State::default(),
    };
    let programs = Programs::new(Program::own(bootstrap.config.feature_level_max));
    let (cluster, own) = (state.feature_level(), programs.own().feature_level);
    if cluster > own {
        return Err(Halt::TooOld { cluster, own }.into());
    }
    programs.follow_cluster(cluster);
    let fingerprints = Fingerprints::default();
    let cluster_id = Arc::new(OnceLock::new());
    for known in [&bootstrap.identity.cluster_id, state.cluster_id()].into_iter().filter(|id| !id.is_empty())
    {
        let agreed: &String = cluster_id.get_or_init(|| known.to_owned());
        if agreed != known {
            return Err(StoreError::Damaged { what: "it belongs to two clusters".into() }.into());
        }
    }
    let first_voters = bootstrap.identity.voters.clone().into();
    let tick = bootstrap.config.tick;
    let logger = slog::Logger::root(tracing_slog::TracingSlogDrain, slog::o!());
    let mut core = RaftCore::new(bootstrap, &logger)?;
    let (inputs, input_queue) = sync_channel(INPUTS_MAX);
    let (log_jobs, log_queue) = sync_channel(LOG_JOBS_MAX);
    let (apply_jobs, apply_queue) = sync_channel(JOBS_MAX);
    let (status, watched) = watch::channel(core.status());
    let (standing, watched_standing) = watch::channel(Standing::of(&core.status()));
    let inputs = InputSender(inputs);
    let outbox = outbox(inputs.clone(), Arc::clone(&cluster_id), programs.clone(), fingerprints.clone());
    let (members, watched_members) = watch::channel(Arc::clone(state.members()));
    core.know(Arc::clone(state.members()));
    let state = Arc::new(RwLock::new(state));
    let log_thread = LogThread {
        store,
        jobs: log_queue,
        outbox: outbox.clone(),
        inputs: inputs.clone(),
        snapshots: StoredSnapshots::new(snapshot.clone()),
        latency: latencies.log_sync,
    };
    let apply_thread = ApplyThread {
        jobs: apply_queue,
        state: Arc::clone(&state),
        applied: snapshot.map_or(LogPosition::default(), |meta| meta.position),
        cluster_id: Arc::clone(&cluster_id),
        members,
        programs: programs.clone(),
        fingerprints: fingerprints.clone(),
        is_halted: false,
        taking: None,
        to_take: VecDeque::new(),
        records_per_slice: RECORDS_PER_SLICE,
        inputs: inputs.clone(),
        latency: latencies.apply,
    };
    let raft_loop = RaftLoop {
        core,
        tick,
        inputs: input_queue,
        outbox,
        log: log_jobs,
        stalled: None,
        apply: apply_jobs,
        backlog: Backlog::default(),
        status,
        standing,
        latency: latencies.replicate,
    };
    let consensus = Consensus {
        inputs: inputs.clone(),
        state,
        status: watched,
        standing: watched_standing,
        members: watched_members,
        cluster_id,
        first_voters,
        moves: Arc::default(),
        programs,
        fingerprints,
    };
    Ok((consensus, Workers { raft_loop, log_thread, apply_thread, inputs }))
}

pub(crate) fn load_snapshot(source: &impl SnapshotSource, meta: &SnapshotMeta) -> Result<State, StartError> {
    let damaged = |what: &str| StoreError::Damaged { what: what.into() };
    let mut bytes = Vec::new();
    let mut crc = 0;
    for part in 0..meta.parts {
        let data = source
            .part(meta.generation, part)?
            .ok_or_else(|| damaged("a part of the snapshot is missing"))?;
        crc = crc32c_combine(crc, crc32c(&data), data.len() as u64);
        bytes.extend_from_slice(&data);
    }
    if bytes.len() as u64 != meta.total_bytes || crc != meta.crc32c {
        return Err(damaged("the snapshot has a wrong checksum").into());
    }
    Ok(State::decode(&bytes[..])?)
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<thread::JoinHandle<()>> {
    thread::Builder::new().name(name.into()).spawn(move || {
        let _guard = AbortOnPanic;
        work();
    })
}

/// A server with a thread missing would look alive and do nothing.
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if thread::panicking() {
            std::process::abort();
        }
    }
}

pub(super) fn abort(what: &str, error: &(dyn Error + 'static)) -> ! {
    tracing::error!(error, "{what}");
    std::process::abort();
}

/// The job, if it is worth trying again. The thread has ended only if the process is about to.
fn refused(error: TrySendError<LogJob>) -> Option<LogJob> {
    match error {
        TrySendError::Full(job) => Some(job),
        TrySendError::Disconnected(_) => None,
    }
}

pub(super) struct RaftLoop<O> {
    pub(super) core: RaftCore,
    tick: Duration,
    pub(super) inputs: Receiver<Input>,
    outbox: O,
    log: SyncSender<LogJob>,
    /// What the log thread has no room for yet.
    stalled: Option<LogJob>,
    apply: SyncSender<ApplyJob>,
    backlog: Backlog,
    status: watch::Sender<RaftStatus>,
    standing: watch::Sender<Standing>,
    /// How long proposals wait until they are agreed on.
    latency: Latency,
}

/// What the apply thread has no room for yet.
#[derive(Default)]
struct Backlog {
    jobs: VecDeque<ApplyJob>,
    entries: usize,
}

impl Backlog {
    fn push(&mut self, job: ApplyJob) {
        self.entries += entry_count(&job);
        self.jobs.push_back(job);
    }

    fn is_full(&self) -> bool {
        self.entries >= BACKLOG_ENTRIES_MAX
    }

    /// Hands over as much as there is room for.
    fn drain_into(&mut self, queue: &SyncSender<ApplyJob>) {
        while let Some(job) = self.jobs.pop_front() {
            let entries = entry_count(&job);
            match queue.try_send(job) {
                // The thread has ended only if the process is about to.
                Ok(()) | Err(TrySendError::Disconnected(_)) => self.entries -= entries,
                Err(TrySendError::Full(job)) => return self.jobs.push_front(job),
            }
        }
    }
}

fn entry_count(job: &ApplyJob) -> usize {
    match job {
        ApplyJob::Entries(entries) => entries.len(),
        ApplyJob::Backup(_) | ApplyJob::Configure(..) | ApplyJob::Install(..) | ApplyJob::Snapshot => 1,
    }
}

impl<O: Outbox> RaftLoop<O> {
    fn run(mut self) {
        let mut next_tick = self.begin();
        loop {
            let first = match self.inputs.recv_timeout(next_tick.saturating_duration_since(Instant::now())) {
                Ok(input) => Some(input),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            if !self.turn(first, &mut next_tick) {
                return;
            }
        }
    }

    /// Gives when the first tick is due.
    pub(super) fn begin(&mut self) -> Instant {
        // After a restart of the whole cluster nobody has to wait for a timeout.
        self.core.campaign();
        Instant::now() + self.tick
    }

    /// Takes what has come in, `first` before all else, and does what follows from it and from the time. False: the loop
    /// shall end.
    pub(super) fn turn(&mut self, first: Option<Input>, next_tick: &mut Instant) -> bool {
        if first.is_some_and(|first| !self.take_inputs(first)) {
            return false;
        }
        let now = Instant::now();
        if now >= *next_tick {
            self.core.tick(now);
            *next_tick = self.after(*next_tick, now);
        }
        self.work();
        self.publish();
        true
    }

    /// Ticks that were missed are skipped: a burst of them would look like a silent leader.
    fn after(&self, due: Instant, now: Instant) -> Instant {
        let late = now.saturating_duration_since(due);
        if late > self.tick * 4 {
            tracing::warn!(late_ms = late.as_millis() as u64, "the raft loop is late");
        }
        (due + self.tick).max(now + self.tick / 2)
    }

    /// False: the loop shall end.
    fn take_inputs(&mut self, first: Input) -> bool {
        let now = Instant::now();
        let more: Vec<Input> = self.inputs.try_iter().take(INPUTS_PER_ROUND_MAX - 1).collect();
        for input in std::iter::once(first).chain(more) {
            if matches!(input, Input::Stop) {
                return false;
            }
            self.core.handle(input, now);
        }
        true
    }

    /// Every job that is handed over ends with a report, which wakes the loop to hand over more.
    fn work(&mut self) {
        loop {
            self.stalled = self.stalled.take().and_then(|job| self.log.try_send(job).err()).and_then(refused);
            self.backlog.drain_into(&self.apply);
            if self.stalled.is_some() || self.backlog.is_full() {
                return;
            }
            match self.core.poll() {
                Some(Output::Apply(mut job)) => {
                    self.note_agreed(&mut job);
                    self.backlog.push(job);
                }
                Some(Output::Log(job)) => self.stalled = Some(job),
                Some(Output::Send(message)) => self.outbox.send(message),
                None => return,
            }
        }
    }

    /// From here on, what waits for these entries waits for the apply thread.
    fn note_agreed(&self, job: &mut ApplyJob) {
        let ApplyJob::Entries(entries) = job else { return };
        let now = Instant::now();
        for waiter in entries.iter_mut().filter_map(|(_, waiter)| waiter.as_mut()) {
            self.latency.observe(now.saturating_duration_since(waiter.since));
            waiter.since = now;
        }
    }

    fn publish(&self) {
        let status = self.core.status();
        let standing = Standing::of(&status);
        self.standing.send_if_modified(|old| std::mem::replace(old, standing) != standing);
        self.status.send_if_modified(|old| {
            let changed = *old != status;
            if changed {
                if (old.leader_id, old.term) != (status.leader_id, status.term) {
                    tracing::info!(term = status.term, leader = status.leader_id, "leadership changed");
                }
                *old = status;
            }
            changed
        });
    }
}

#[cfg(test)]
mod tests {
    use raft::eraftpb::Message;
    use tokio::sync::oneshot;
    use xdpfs_proto::state::v1::{self as pb, command::Kind};

    use super::*;
    use crate::{
        config::ConsensusConfig,
        consensus::{Applied, ConsensusError, Proposal},
        state_machine::Unsupported,
        storage::{Identity, memory_store::Medium},
    };

    #[derive(Clone)]
    struct Nowhere;

    impl Outbox for Nowhere {
        fn send(&self, _message: Message) {}
    }

    fn bootstrap(medium: &Medium) -> Bootstrap {
        let identity = Identity { raft_id: 1, cluster_id: String::new(), voters: vec![1] };
        Bootstrap { recovered: medium.open().1, identity, config: ConsensusConfig::default() }
    }

    fn init(cluster_id: &str) -> pb::Command {
        let kind = Kind::InitCluster(pb::InitCluster { cluster_id: cluster_id.into(), ..Default::default() });
        pb::Command { time_ms: 1, kind: Some(kind), ..Default::default() }
    }

    /// A server that has just begun to lead, and the other ends of its queues.
    fn leader(jobs_max: usize) -> (RaftLoop<Nowhere>, Receiver<LogJob>, Receiver<ApplyJob>) {
        let (log, log_queue) = sync_channel(jobs_max);
        let (apply, apply_queue) = sync_channel(jobs_max);
        let core =
            RaftCore::new(bootstrap(&Medium::default()), &slog::Logger::root(slog::Discard, slog::o!()));
        let mut raft_loop = RaftLoop {
            core: core.unwrap(),
            tick: Duration::from_millis(1),
            inputs: sync_channel(1).1,
            outbox: Nowhere,
            log,
            stalled: None,
            apply,
            backlog: Backlog::default(),
            status: watch::channel(RaftStatus::default()).0,
            standing: watch::channel(Standing::default()).0,
            latency: Latency::default(),
        };
        raft_loop.core.campaign();
        (raft_loop, log_queue, apply_queue)
    }

    fn propose(raft_loop: &mut RaftLoop<Nowhere>) -> oneshot::Receiver<Result<Applied, ConsensusError>> {
        let data = prost::Message::encode_to_vec(&init("c")).into();
        let deadline = Instant::now() + Duration::from_secs(60);
        let (reply, answer) = oneshot::channel();
        raft_loop.core.handle(Input::Propose(Proposal { data, deadline, reply }), Instant::now());
        answer
    }

    #[test]
    fn busy_apply_thread_holds_up_nothing_else() {
        let (mut raft_loop, log_queue, apply_queue) = leader(JOBS_MAX);
        let count = 3 * JOBS_MAX as u64;
        let mut answers = Vec::new();
        for _ in 0..count {
            answers.push(propose(&mut raft_loop));
            // Nobody takes from the apply queue meanwhile.
            for _ in 0..3 {
                raft_loop.work();
                for job in log_queue.try_iter() {
                    let LogJob::Write(job) = job else { continue };
                    let number = job.number.expect("raft-rs numbers its jobs");
                    raft_loop.core.handle(Input::Persisted(number), Instant::now());
                }
            }
        }
        assert_eq!(raft_loop.core.status().commit_index, count + 1);
        assert!(!raft_loop.backlog.jobs.is_empty());
        let mut indexes = Vec::new();
        loop {
            let before = indexes.len();
            for job in apply_queue.try_iter() {
                let ApplyJob::Entries(entries) = job else { continue };
                indexes.extend(entries.iter().map(|(entry, _)| entry.index));
            }
            raft_loop.work();
            if indexes.len() == before {
                break;
            }
        }
        assert!(indexes.into_iter().eq(1..=count + 1), "no job is lost, and their order is kept");
        assert_eq!(raft_loop.backlog.entries, 0);
    }

    #[test]
    fn loop_stops_making_work_when_the_log_thread_is_behind() {
        let (mut raft_loop, log_queue, _apply_queue) = leader(1);
        let mut answers = Vec::new();
        for _ in 0..5 {
            answers.push(propose(&mut raft_loop));
            raft_loop.work();
        }
        assert!(raft_loop.stalled.is_some());
        let mut changes = 0;
        while let Ok(LogJob::Write(job)) = log_queue.try_recv() {
            changes += job.changes.len();
            raft_loop.work();
        }
        assert!(raft_loop.stalled.is_none());
        assert!(changes >= 2, "what waited is handed over");
    }

    #[tokio::test]
    async fn command_of_an_unknown_kind_stops_a_server_that_is_not_of_its_release() {
        let medium = Medium::default();
        let deadline = Instant::now() + Duration::from_secs(30);
        for is_first in [true, false] {
            let (store, recovered) = medium.open();
            let bootstrap = Bootstrap { recovered, ..bootstrap(&medium) };
            let (consensus, threads) =
                start(bootstrap, store, StageLatencies::default(), |_, _, _, _| Nowhere).unwrap();
            let mut status = consensus.watch_status();
            if is_first {
                status.wait_for(|status| status.leader_id == 1).await.unwrap();
                consensus.propose(&init("cluster"), deadline).await.unwrap();
                // What this release does not know of a command is all that says what it does.
                let unknown = pb::Command { time_ms: 2, ..Default::default() };
                consensus.propose(&unknown, deadline).await.unwrap_err();
            }
            let halted = status.wait_for(|status| status.halt.is_some()).await.unwrap().halt;
            assert!(matches!(halted, Some(Halt::Unsupported { why: Unsupported::Kind, .. })), "{halted:?}");
            assert_eq!(consensus.propose(&init("other"), deadline).await, Err(ConsensusError::NotLeader));
            assert_eq!(consensus.state().cluster_id(), "cluster");
            tokio::task::spawn_blocking(|| threads.stop()).await.unwrap();
        }
    }

    #[tokio::test]
    async fn server_of_one_comes_back_with_everything() {
        let medium = Medium::default();
        let deadline = Instant::now() + Duration::from_secs(30);
        for round in 1..4u64 {
            let (store, recovered) = medium.open();
            let (consensus, threads) = start(
                Bootstrap { recovered, ..bootstrap(&medium) },
                store,
                StageLatencies::default(),
                |_, _, _, _| Nowhere,
            )
            .unwrap();
            let mut status = consensus.watch_status();
            status.wait_for(|status| status.leader_id == 1).await.unwrap();
            let applied = consensus.propose(&init("cluster"), deadline).await.unwrap();
            assert!(applied.index >= 2 * round);
            let term = consensus.read_barrier(deadline).await.unwrap();
            assert_eq!(term, consensus.status().term);
            assert_eq!(consensus.state().cluster_id(), "cluster");
            assert_eq!(consensus.cluster_id(), Some("cluster"));
            let huge = pb::Command {
                request_id: vec![0; crate::consensus::COMMAND_BYTES_MAX].into(),
                ..init("cluster")
            };
            assert_eq!(consensus.propose(&huge, deadline).await, Err(ConsensusError::TooLarge));
            threads.stop();
            assert_eq!(consensus.propose(&init("cluster"), deadline).await, Err(ConsensusError::Stopped));
            assert_eq!(consensus.read_barrier(deadline).await, Err(ConsensusError::Stopped));
        }
    }
}

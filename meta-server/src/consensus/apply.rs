//! The apply thread: the only one that changes the state.

use std::{
    sync::{
        Arc, OnceLock, PoisonError, RwLock,
        mpsc::{Receiver, TryRecvError},
    },
    time::SystemTime,
};

use prost::Message as _;
use raft::eraftpb::{Entry, EntryType};
use tokio::sync::watch;
use xdpfs_observe::Latency;
use xdpfs_proto::state::v1 as pb;

use super::{
    Applied, CHECKPOINT_ENTRIES, Checkpoint, Fingerprints, Halt, Input, InputSender, Programs,
    core::{ApplyJob, Waiter},
};
use crate::{
    mistake::{Mistake, is_planted},
    state_machine::{Configuration, FeatureLevel, Members, SnapshotWalk, State, check_supported},
    storage::{LogPosition, PART_LEN_MAX},
};

/// Entries that are applied before readers get their turn.
const ENTRIES_PER_LOCK_MAX: usize = 64;
/// Records of a snapshot that are encoded between two jobs, chunks of objects counted like records: less than a millisecond.
pub(super) const RECORDS_PER_SLICE: usize = 512;
/// Between so many jobs a large state has been encoded.
const SLICES_MAX: usize = 4096;

pub(super) struct ApplyThread {
    pub(super) jobs: Receiver<ApplyJob>,
    pub(super) state: Arc<RwLock<State>>,
    pub(super) applied: LogPosition,
    pub(super) cluster_id: Arc<OnceLock<String>>,
    /// What others know of the members.
    pub(super) members: watch::Sender<Arc<Members>>,
    pub(super) programs: Programs,
    pub(super) fingerprints: Fingerprints,
    /// What comes now would be applied otherwise than by the other servers.
    pub(super) is_halted: bool,
    /// A snapshot that is being taken, and the last entry that it includes.
    pub(super) snapshot: Option<(LogPosition, SnapshotWalk)>,
    /// Its records that are encoded between two jobs, at least.
    pub(super) records_per_slice: usize,
    pub(super) inputs: InputSender,
    /// How long what is agreed on waits for this thread, and takes it.
    pub(super) latency: Latency,
}

impl ApplyThread {
    /// Works until nobody can give it jobs any more.
    pub(super) fn run(mut self) {
        loop {
            let job = if self.is_taking_snapshot() {
                self.jobs.try_recv()
            } else {
                self.jobs.recv().map_err(|_| TryRecvError::Disconnected)
            };
            match job {
                Ok(job) => self.process(job),
                Err(TryRecvError::Empty) => {}
                Err(TryRecvError::Disconnected) => return,
            }
            self.go_on_with_snapshot();
        }
    }

    pub(super) fn process(&mut self, job: ApplyJob) {
        if self.is_halted {
            return;
        }
        match job {
            ApplyJob::Configure(position, configuration) => self.configure(position, configuration),
            ApplyJob::Entries(entries) => self.apply_all(entries),
            ApplyJob::Install(position, state) => self.install(position, *state),
            ApplyJob::Snapshot => self.begin_snapshot(),
        }
    }

    fn apply_all(&mut self, mut entries: Vec<(Entry, Option<Waiter>)>) {
        while !entries.is_empty() {
            let rest = entries.split_off(entries.len().min(ENTRIES_PER_LOCK_MAX));
            let mut answers = Vec::new();
            let mut halt = None;
            {
                let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
                for (entry, waiter) in entries {
                    let outcome = match apply(&mut state, &entry, self.programs.own().feature_level) {
                        Ok(outcome) => outcome,
                        Err(why) => {
                            halt = Some(why);
                            break;
                        }
                    };
                    self.applied = LogPosition { index: entry.index, term: entry.term };
                    if let Some(differs) = check(&self.fingerprints, &state, entry.index) {
                        halt = Some(differs);
                        break;
                    }
                    answers
                        .extend(waiter.zip(outcome).map(|(waiter, outcome)| (waiter, entry.index, outcome)));
                }
            }
            for (waiter, index, outcome) in answers {
                self.latency.observe(waiter.since.elapsed());
                // The caller may have given up.
                let _ = waiter.reply.send(Ok(Applied { index, outcome }));
            }
            self.halt(halt);
            if self.is_halted {
                break;
            }
            entries = rest;
        }
        self.report();
    }

    fn configure(&mut self, position: LogPosition, configuration: Configuration) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        state.configure(configuration);
        let halt = check(&self.fingerprints, &state, position.index);
        drop(state);
        self.applied = position;
        self.halt(halt);
        self.report();
    }

    fn install(&mut self, position: LogPosition, state: State) {
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = state;
        self.applied = position;
        if self.snapshot.take().is_some() {
            // It was of the state that is gone.
            self.inputs.deliver(Input::SnapshotStored(None));
        }
        self.report();
    }

    fn halt(&mut self, halt: Option<Halt>) {
        if let Some(halt) = halt {
            self.is_halted = true;
            self.inputs.deliver(Input::Halt(halt));
        }
    }

    fn report(&self) {
        let mut cluster_id = None;
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let has_changed = !Arc::ptr_eq(&self.members.borrow(), state.members());
        let members = has_changed.then(|| Arc::clone(state.members()));
        if self.cluster_id.get().is_none() && !state.cluster_id().is_empty() {
            cluster_id = Some(state.cluster_id().to_owned());
            self.cluster_id.get_or_init(|| state.cluster_id().to_owned());
        }
        self.programs.follow_cluster(state.feature_level());
        drop(state);
        if let Some(members) = &members {
            self.members.send_replace(Arc::clone(members));
        }
        self.inputs.deliver(Input::Applied { position: self.applied, cluster_id, members });
    }

    fn begin_snapshot(&mut self) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        self.snapshot = Some((self.applied, state.begin_snapshot(PART_LEN_MAX)));
    }

    /// Whether there is work without a job.
    pub(super) const fn is_taking_snapshot(&self) -> bool {
        self.snapshot.is_some() && !self.is_halted
    }

    /// Does a little more of it. Changes wait for no more than that, and readers not at all.
    pub(super) fn go_on_with_snapshot(&mut self) {
        let Some((position, mut walk)) = self.snapshot.take().filter(|_| !self.is_halted) else { return };
        {
            let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
            let records_max = self.records_per_slice.max(state.object_count() / SLICES_MAX);
            state.go_on_with_snapshot(&mut walk, records_max);
        }
        if !walk.is_whole() {
            self.snapshot = Some((position, walk));
            return;
        }
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let pieces = state.end_snapshot(walk).expect("it is whole");
        drop(state);
        self.inputs.deliver(Input::SnapshotTaken(position, pieces));
    }
}

/// Whether the state is known not to be what others have after the same entry.
fn check(fingerprints: &Fingerprints, state: &State, index: u64) -> Option<Halt> {
    if !index.is_multiple_of(CHECKPOINT_ENTRIES) {
        return None;
    }
    let fingerprint = state.fingerprint()?;
    fingerprints.note(Checkpoint { index, fingerprint })
}

/// Applies an entry with a command. The empty one with which a leader begins its term changes nothing.
///
/// # Errors
///
/// Servers of a later release would apply it in another way.
pub(super) fn apply(
    state: &mut State,
    entry: &Entry,
    supported: FeatureLevel,
) -> Result<Option<pb::Outcome>, Halt> {
    assert_eq!(
        entry.get_entry_type(),
        EntryType::EntryNormal,
        "changes of the servers come by their own way"
    );
    if entry.data.is_empty() {
        return Ok(None);
    }
    let mut command = pb::Command::decode(entry.data.clone()).expect("only encoded commands are proposed");
    check_supported(&command, supported).map_err(|why| Halt::Unsupported { index: entry.index, why })?;
    if is_planted(Mistake::AppliesByLocalClock) {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        command.time_ms = now.map_or(0, |since| since.as_nanos() as u64);
    }
    Ok(Some(state.apply(entry.index, &command)))
}

//! The apply thread: the only one that changes the state.

use std::{
    collections::VecDeque,
    sync::{
        Arc, OnceLock, PoisonError, RwLock,
        mpsc::{Receiver, TryRecvError},
    },
    time::SystemTime,
};

use prost::Message as _;
use raft::eraftpb::{Entry, EntryType};
use tokio::sync::{oneshot, watch};
use xdpfs_observe::Latency;
use xdpfs_proto::state::v1 as pb;

use super::{
    Applied, BackupImage, CHECKPOINT_ENTRIES, Checkpoint, Fingerprints, Halt, Input, InputSender, Programs,
    core::{ApplyJob, Waiter},
};
use crate::{
    backup,
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
    /// What is being encoded.
    pub(super) taking: Option<Taking>,
    /// What is to be encoded after that: the state has one picture at a time.
    pub(super) to_take: VecDeque<Purpose>,
    /// Its records that are encoded between two jobs, at least.
    pub(super) records_per_slice: usize,
    pub(super) inputs: InputSender,
    /// How long what is agreed on waits for this thread, and takes it.
    pub(super) latency: Latency,
}

/// What the state is encoded for.
pub(super) enum Purpose {
    Backup(oneshot::Sender<BackupImage>),
    /// What compacts the log, and goes to servers that lag.
    Snapshot,
}

/// The state of one moment, which is being encoded.
pub(super) struct Taking {
    /// The last entry that it includes.
    position: LogPosition,
    walk: SnapshotWalk,
    whose: Whose,
}

enum Whose {
    /// The image still lacks its pieces.
    Backup(BackupImage, oneshot::Sender<BackupImage>),
    Snapshot,
}

impl ApplyThread {
    /// Works until nobody can give it jobs any more.
    pub(super) fn run(mut self) {
        loop {
            let job = if self.is_encoding() {
                self.jobs.try_recv()
            } else {
                self.jobs.recv().map_err(|_| TryRecvError::Disconnected)
            };
            match job {
                Ok(job) => self.process(job),
                Err(TryRecvError::Empty) => {}
                Err(TryRecvError::Disconnected) => return,
            }
            self.go_on_encoding();
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
            ApplyJob::Backup(reply) => self.to_take.push_back(Purpose::Backup(reply)),
            ApplyJob::Snapshot => self.to_take.push_back(Purpose::Snapshot),
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
        // What was being encoded was of the state that is gone, and a snapshot of the new one is stored already.
        let begun = self.taking.take().is_some_and(|taking| matches!(taking.whose, Whose::Snapshot));
        let waiting = self.to_take.len();
        self.to_take.retain(|purpose| matches!(purpose, Purpose::Backup(_)));
        if begun || self.to_take.len() < waiting {
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

    /// Begins with what is to be encoded next, if there is anything.
    fn take_next(&mut self) {
        let Some(purpose) = self.to_take.pop_front() else { return };
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let (walk, whose) = match purpose {
            Purpose::Backup(reply) => {
                let image = BackupImage {
                    index: self.applied.index,
                    cluster_id: state.cluster_id().to_owned(),
                    buckets: state.bucket_count() as u64,
                    objects: state.object_count() as u64,
                    object_bytes: state.object_bytes(),
                    pieces: Vec::new(),
                };
                (state.begin_backup(backup::PART_BYTES_MAX), Whose::Backup(image, reply))
            }
            Purpose::Snapshot => (state.begin_snapshot(PART_LEN_MAX), Whose::Snapshot),
        };
        self.taking = Some(Taking { position: self.applied, walk, whose });
    }

    /// Whether there is work without a job.
    pub(super) fn is_encoding(&self) -> bool {
        (self.taking.is_some() || !self.to_take.is_empty()) && !self.is_halted
    }

    /// Encodes a little more. Changes wait for no more than that, and readers not at all.
    pub(super) fn go_on_encoding(&mut self) {
        if self.is_halted {
            return;
        }
        if self.taking.is_none() {
            self.take_next();
        }
        let Some(mut taking) = self.taking.take() else { return };
        let is_wanted = !matches!(&taking.whose, Whose::Backup(_, reply) if reply.is_closed());
        if is_wanted {
            let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
            let records_max = self.records_per_slice.max(state.object_count() / SLICES_MAX);
            state.go_on_with_snapshot(&mut taking.walk, records_max);
        }
        if is_wanted && !taking.walk.is_whole() {
            self.taking = Some(taking);
            return;
        }
        let Taking { position, walk, whose } = taking;
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let (pieces, noted) = state.end_snapshot(walk);
        drop(state);
        drop(noted);
        match (whose, pieces) {
            (Whose::Snapshot, Some(pieces)) => self.inputs.deliver(Input::SnapshotTaken(position, pieces)),
            // Who wanted it may have gone.
            (Whose::Backup(image, reply), Some(pieces)) => drop(reply.send(BackupImage { pieces, ..image })),
            (_, None) => {}
        }
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

#[cfg(test)]
mod tests {
    use xdpfs_proto::state::v1::command::Kind;

    use super::*;
    use crate::consensus::Program;

    /// An apply thread that encodes a record at a time, and what it reports.
    fn thread() -> (ApplyThread, Receiver<Input>) {
        let (inputs, reports) = InputSender::channel();
        let state = State::default();
        let thread = ApplyThread {
            jobs: std::sync::mpsc::sync_channel(1).1,
            applied: LogPosition::default(),
            cluster_id: Arc::new(OnceLock::new()),
            members: watch::channel(Arc::clone(state.members())).0,
            state: Arc::new(RwLock::new(state)),
            programs: Programs::new(Program::own(FeatureLevel::SUPPORTED)),
            fingerprints: Fingerprints::default(),
            is_halted: false,
            taking: None,
            to_take: VecDeque::new(),
            records_per_slice: 1,
            inputs,
            latency: Latency::default(),
        };
        (thread, reports)
    }

    fn make_bucket(thread: &mut ApplyThread, name: &str) {
        let bucket = pb::CreateBucket {
            name: name.into(),
            chunk_size: 65_536,
            replicas: 1,
            min_replicas: 1,
            ..Default::default()
        };
        let index = thread.applied.index + 1;
        let command = pb::Command {
            time_ms: index,
            request_id: index.to_be_bytes().repeat(2).into(),
            kind: Some(Kind::CreateBucket(bucket)),
            ..Default::default()
        };
        let entry = Entry { index, term: 1, data: command.encode_to_vec().into(), ..Default::default() };
        thread.process(ApplyJob::Entries(vec![(entry, None)]));
    }

    fn encoded_by_now(thread: &ApplyThread) -> (Vec<bytes::Bytes>, Vec<bytes::Bytes>) {
        let state = thread.state.read().unwrap();
        (state.encode_backup(backup::PART_BYTES_MAX), state.encode(PART_LEN_MAX))
    }

    fn snapshots(reports: &Receiver<Input>) -> Vec<Option<(u64, Vec<bytes::Bytes>)>> {
        let of = |input| match input {
            Input::SnapshotTaken(position, pieces) => Some(Some((position.index, pieces))),
            Input::SnapshotStored(None) => Some(None),
            _ => None,
        };
        reports.try_iter().filter_map(of).collect()
    }

    #[test]
    fn backup_is_of_one_moment_and_a_snapshot_waits_for_it() {
        let (mut thread, reports) = thread();
        make_bucket(&mut thread, "first");
        let (reply, mut image) = oneshot::channel();
        thread.process(ApplyJob::Backup(reply));
        thread.go_on_encoding();
        let (backup, _) = encoded_by_now(&thread);
        thread.process(ApplyJob::Snapshot);
        make_bucket(&mut thread, "second");
        let image = loop {
            assert!(thread.is_encoding());
            thread.go_on_encoding();
            if let Ok(image) = image.try_recv() {
                break image;
            }
        };
        assert_eq!((image.index, image.buckets), (1, 1));
        assert!(image.pieces == backup);
        let (_, snapshot) = encoded_by_now(&thread);
        assert!(snapshots(&reports).is_empty());
        thread.go_on_encoding();
        make_bucket(&mut thread, "third");
        while thread.is_encoding() {
            thread.go_on_encoding();
        }
        assert!(snapshots(&reports) == [Some((2, snapshot))]);
    }

    #[test]
    fn backup_that_nobody_waits_for_any_more_holds_up_no_snapshot() {
        let (mut thread, reports) = thread();
        make_bucket(&mut thread, "first");
        let (reply, image) = oneshot::channel();
        thread.process(ApplyJob::Backup(reply));
        thread.process(ApplyJob::Snapshot);
        thread.go_on_encoding();
        drop(image);
        while thread.is_encoding() {
            thread.go_on_encoding();
        }
        assert!(matches!(&snapshots(&reports)[..], [Some((1, _))]));
    }

    #[test]
    fn loaded_snapshot_ends_what_was_being_encoded() {
        let (mut thread, reports) = thread();
        make_bucket(&mut thread, "first");
        let (reply, mut image) = oneshot::channel();
        thread.process(ApplyJob::Backup(reply));
        thread.process(ApplyJob::Snapshot);
        thread.go_on_encoding();
        thread.process(ApplyJob::Install(LogPosition { index: 9, term: 1 }, Box::default()));
        assert!(image.try_recv().is_err());
        assert_eq!(snapshots(&reports), [None]);
        assert!(!thread.is_encoding());
    }
}

//! Makes things durable, as many at once as are waiting.
//!
//! Invariant: messages of a job leave, and the job is reported, only after everything in it and before it is durable.
//! An error ends the process: what is durable is unknown then, and no retry can tell.

use std::{
    collections::VecDeque,
    sync::mpsc::{Receiver, TryRecvError},
    time::Instant,
};

use bytes::Bytes;
use xdpfs_observe::Latency;

use super::{
    Input, InputSender, Outbox,
    core::{LogJob, WriteJob},
};
use crate::{
    mistake::{Mistake, is_planted},
    storage::{Change, LogStore, PART_LEN_MAX, SnapshotMeta, StoreError},
};

/// Jobs that become durable in one step.
const JOBS_PER_SYNC_MAX: usize = 256;
/// Parts of a local snapshot that are stored with one sync: 256 KiB. What waits for that sync waits for them, too.
const PARTS_PER_SYNC: usize = (256 << 10) / PART_LEN_MAX;
/// Syncs without parts that come between, if there is so much other work.
const SYNCS_BETWEEN_PARTS: u32 = 4;
/// Parts of another server's snapshot that are stored with one sync: 1 MiB. All else waits for it anyway.
const INSTALLED_PARTS_PER_SYNC: usize = (1 << 20) / PART_LEN_MAX;

pub(super) struct LogThread<S, O> {
    pub(super) store: S,
    pub(super) jobs: Receiver<LogJob>,
    pub(super) outbox: O,
    pub(super) inputs: InputSender,
    pub(super) snapshots: StoredSnapshots,
    /// How long making things durable takes.
    pub(super) latency: Latency,
}

/// The snapshots whose parts are stored: the newest one, and the one before, which may still be read.
#[derive(Debug, Default)]
pub(super) struct StoredSnapshots {
    newest: Option<SnapshotMeta>,
    previous: Option<SnapshotMeta>,
    /// A local one that is being stored, and its next part.
    staging: Option<Staging>,
}

impl StoredSnapshots {
    pub(super) fn new(newest: Option<SnapshotMeta>) -> Self {
        Self { newest, ..Self::default() }
    }

    /// Whether parts of a local one are stored with this sync.
    const fn is_next(&mut self, is_idle: bool) -> bool {
        let Some(staging) = &mut self.staging else { return false };
        let is_next = is_idle || staging.syncs >= SYNCS_BETWEEN_PARTS;
        staging.syncs += 1;
        is_next
    }
}

#[derive(Debug)]
struct Staging {
    meta: SnapshotMeta,
    pieces: VecDeque<Bytes>,
    next_part: u32,
    /// Syncs since the last part.
    syncs: u32,
}

impl<S: LogStore, O: Outbox> LogThread<S, O> {
    /// Whether there is work without a job.
    #[cfg(test)]
    pub(super) const fn is_storing_snapshot(&self) -> bool {
        self.snapshots.staging.is_some()
    }

    /// Works until nobody can give it jobs any more.
    pub(super) fn run(mut self) {
        while let Some(jobs) = self.next_jobs() {
            if let Err(error) = self.process(jobs) {
                super::raft_loop::abort("the log cannot be written", &error);
            }
        }
    }

    /// Waits for a job, unless there is a snapshot to go on with.
    pub(super) fn next_jobs(&self) -> Option<Vec<LogJob>> {
        let first = if self.snapshots.staging.is_some() {
            match self.jobs.try_recv() {
                Ok(job) => Some(job),
                Err(TryRecvError::Empty) => None,
                Err(TryRecvError::Disconnected) => return None,
            }
        } else {
            Some(self.jobs.recv().ok()?)
        };
        Some(self.jobs_after(first))
    }

    /// With those that wait behind it, as many as become durable in one step.
    pub(super) fn jobs_after(&self, first: Option<LogJob>) -> Vec<LogJob> {
        first.into_iter().chain(self.jobs.try_iter()).take(JOBS_PER_SYNC_MAX).collect()
    }

    pub(super) fn process(&mut self, jobs: Vec<LogJob>) -> Result<(), StoreError> {
        let (mut must_sync, mut number, mut messages) = (false, None, Vec::new());
        let is_idle = jobs.is_empty();
        for job in jobs {
            match job {
                LogJob::Snapshot(meta, pieces) => {
                    self.snapshots.staging = Some(Staging {
                        meta,
                        pieces: pieces.into(),
                        next_part: 0,
                        syncs: SYNCS_BETWEEN_PARTS,
                    });
                }
                LogJob::Write(job) => {
                    must_sync |= job.must_sync;
                    number = job.number.or(number);
                    messages.extend(self.stage(job)?);
                }
            }
        }
        let has_parts = self.snapshots.is_next(is_idle);
        let stored = if has_parts { self.stage_parts() } else { None };
        if must_sync || has_parts {
            let began = Instant::now();
            if !is_planted(Mistake::SkipsSync) {
                self.store.sync()?;
            }
            self.latency.observe(began.elapsed());
        }
        messages.into_iter().for_each(|message| self.outbox.send(message));
        if let Some(number) = number {
            self.inputs.deliver(Input::Persisted(number));
        }
        if let Some(stored) = stored {
            self.inputs.deliver(Input::SnapshotStored(stored));
        }
        Ok(())
    }

    fn stage(&mut self, job: WriteJob) -> Result<Vec<raft::eraftpb::Message>, StoreError> {
        if let Some((meta, pieces)) = job.install {
            if is_planted(Mistake::InstallsBeforeParts) {
                self.store.stage(Change::Install(meta.clone()));
            }
            self.store_parts(&meta, pieces)?;
            self.store.stage(Change::Install(meta.clone()));
            self.replace_newest(meta);
        }
        job.changes.into_iter().for_each(|change| self.store.stage(change));
        Ok(job.messages)
    }

    /// Parts become durable before the change that makes them count.
    fn store_parts(&mut self, meta: &SnapshotMeta, pieces: Vec<Bytes>) -> Result<(), StoreError> {
        for (part, data) in pieces.into_iter().enumerate() {
            self.store.stage(Change::SnapshotPart { generation: meta.generation, part: part as u32, data });
            if (part + 1) % INSTALLED_PARTS_PER_SYNC == 0 {
                self.store.sync()?;
            }
        }
        self.store.sync()
    }

    /// Goes on with a local snapshot. Gives what became of it when it ends.
    fn stage_parts(&mut self) -> Option<Option<SnapshotMeta>> {
        let mut staging = self.snapshots.staging.take()?;
        let generation = staging.meta.generation;
        let newest = self.snapshots.newest.as_ref().map_or(0, |meta| meta.position.index);
        if staging.meta.position.index <= newest {
            // Another server's snapshot has overtaken it.
            self.store.stage(Change::DropSnapshot { generation, parts: staging.next_part });
            return Some(None);
        }
        let count = staging.pieces.len().min(PARTS_PER_SYNC);
        for data in staging.pieces.drain(..count) {
            self.store.stage(Change::SnapshotPart { generation, part: staging.next_part, data });
            staging.next_part += 1;
        }
        if !staging.pieces.is_empty() {
            staging.syncs = 0;
            self.snapshots.staging = Some(staging);
            return None;
        }
        self.store.stage(Change::Snapshot(staging.meta.clone()));
        self.replace_newest(staging.meta.clone());
        Some(Some(staging.meta))
    }

    fn replace_newest(&mut self, meta: SnapshotMeta) {
        if let Some(old) = self.snapshots.previous.take() {
            self.store.stage(Change::DropSnapshot { generation: old.generation, parts: old.parts });
        }
        self.snapshots.previous = self.snapshots.newest.replace(meta);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc, Mutex,
        mpsc::{SyncSender, sync_channel},
    };

    use raft::eraftpb::{Entry, HardState, Message};

    use super::*;
    use crate::storage::{
        Identity, LogPosition, SnapshotSource as _,
        memory_store::{Medium, MemoryStore},
    };

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<Message>>>);

    impl Outbox for Kept {
        fn send(&self, message: Message) {
            self.0.lock().unwrap().push(message);
        }
    }

    struct Bench {
        medium: Medium,
        thread: LogThread<MemoryStore, Kept>,
        jobs: SyncSender<LogJob>,
        reports: Receiver<Input>,
        sent: Kept,
    }

    impl Bench {
        fn new() -> Self {
            let medium = Medium::default();
            let (jobs, queue) = sync_channel(100);
            let (inputs, reports) = sync_channel(100);
            let sent = Kept::default();
            let thread = LogThread {
                store: medium.open().0,
                jobs: queue,
                outbox: sent.clone(),
                inputs: InputSender(inputs),
                snapshots: StoredSnapshots::default(),
                latency: Latency::default(),
            };
            Self { medium, thread, jobs, reports, sent }
        }

        /// One step of the thread. Gives what it reports.
        fn step(&mut self) -> Vec<Input> {
            let jobs = self.thread.next_jobs().unwrap();
            self.thread.process(jobs).unwrap();
            self.reports.try_iter().collect()
        }

        fn write(&self, number: u64, index: u64) {
            let entry = Entry { index, term: 1, ..Default::default() };
            let state = HardState { term: 1, ..Default::default() };
            let identity = Change::Identity(Identity::default());
            let changes = vec![identity, Change::HardState(state), Change::Append(vec![entry])];
            let job = WriteJob { number: Some(number), changes, must_sync: true, ..WriteJob::default() };
            self.jobs.send(LogJob::Write(WriteJob { messages: vec![Message::default()], ..job })).unwrap();
        }

        fn newest(&self) -> Option<u64> {
            self.medium.content().kept.snapshot.as_ref().map(|meta| meta.generation)
        }

        fn has_part(&self, generation: u64) -> bool {
            self.medium.part(generation, 0).unwrap().is_some()
        }
    }

    fn snapshot(generation: u64, index: u64, parts: usize) -> (SnapshotMeta, Vec<Bytes>) {
        let position = LogPosition { index, term: 1 };
        let meta = SnapshotMeta { generation, position, parts: parts as u32, ..SnapshotMeta::default() };
        (meta, vec![Bytes::from_static(b"part"); parts])
    }

    fn persisted(reports: &[Input]) -> Vec<u64> {
        let number = |report: &Input| match report {
            Input::Persisted(number) => Some(*number),
            _ => None,
        };
        reports.iter().filter_map(number).collect()
    }

    fn stored(reports: &[Input]) -> Option<Option<u64>> {
        reports.iter().find_map(|report| match report {
            Input::SnapshotStored(meta) => Some(meta.as_ref().map(|meta| meta.generation)),
            _ => None,
        })
    }

    #[test]
    fn large_snapshot_is_stored_beside_other_work_and_counts_only_when_it_is_whole() {
        let mut bench = Bench::new();
        bench.write(1, 1);
        assert_eq!(persisted(&bench.step()), [1]);
        let (meta, pieces) = snapshot(1, 1, 3 * PARTS_PER_SYNC);
        bench.jobs.send(LogJob::Snapshot(meta, pieces)).unwrap();
        assert_eq!(stored(&bench.step()), None);
        bench.write(2, 2);
        let reports = bench.step();
        assert_eq!((persisted(&reports), stored(&reports)), (vec![2], None));
        assert_eq!(stored(&bench.step()), None);
        assert_eq!(bench.newest(), None);
        assert_eq!(stored(&bench.step()), Some(Some(1)));
        assert_eq!(bench.newest(), Some(1));
        assert!(!bench.thread.is_storing_snapshot());
    }

    #[test]
    fn large_snapshot_is_stored_also_if_there_is_always_other_work() {
        let mut bench = Bench::new();
        let (meta, pieces) = snapshot(1, 1, 3 * PARTS_PER_SYNC);
        bench.jobs.send(LogJob::Snapshot(meta, pieces)).unwrap();
        let is_stored = |number| {
            bench.write(number, number);
            stored(&bench.step()).is_some()
        };
        let syncs = (1..100).position(is_stored);
        assert_eq!(syncs, Some(2 * (SYNCS_BETWEEN_PARTS as usize + 1)));
    }

    #[test]
    fn unfinished_snapshot_is_gone_after_a_crash() {
        let mut bench = Bench::new();
        let (meta, pieces) = snapshot(1, 1, 2 * PARTS_PER_SYNC);
        bench.jobs.send(LogJob::Snapshot(meta, pieces)).unwrap();
        bench.step();
        assert!(bench.has_part(1));
        assert_eq!(bench.medium.open().1.snapshot, None);
        assert!(!bench.has_part(1));
    }

    #[test]
    fn own_snapshot_that_another_servers_overtakes_is_dropped() {
        let mut bench = Bench::new();
        let (meta, pieces) = snapshot(1, 5, 2 * PARTS_PER_SYNC);
        bench.jobs.send(LogJob::Snapshot(meta, pieces)).unwrap();
        assert_eq!(stored(&bench.step()), None);
        let install = Some(snapshot(2, 9, 2 * PARTS_PER_SYNC + 1));
        let job = WriteJob { number: Some(7), install, must_sync: true, ..WriteJob::default() };
        bench.jobs.send(LogJob::Write(job)).unwrap();
        let reports = bench.step();
        assert_eq!((persisted(&reports), stored(&reports)), (vec![7], None));
        assert_eq!(bench.newest(), Some(2));
        assert_eq!(stored(&bench.step()), Some(None));
        assert!(bench.has_part(2) && !bench.has_part(1));
    }

    #[test]
    fn snapshot_before_the_newest_can_still_be_read() {
        let mut bench = Bench::new();
        for generation in 1..=3 {
            let (meta, pieces) = snapshot(generation, generation, 1);
            bench.jobs.send(LogJob::Snapshot(meta, pieces)).unwrap();
            assert_eq!(stored(&bench.step()), Some(Some(generation)));
        }
        assert!(!bench.has_part(1) && bench.has_part(2) && bench.has_part(3));
    }

    #[test]
    fn failed_sync_reports_and_sends_nothing() {
        let mut bench = Bench::new();
        bench.write(1, 1);
        bench.thread.store.syncs_before_power_loss = Some(0);
        let jobs = bench.thread.next_jobs().unwrap();
        assert!(bench.thread.process(jobs).is_err());
        assert_eq!(bench.reports.try_iter().count(), 0);
        assert!(bench.sent.0.lock().unwrap().is_empty());
    }

    #[test]
    fn jobs_that_wait_become_durable_in_one_sync() {
        let mut bench = Bench::new();
        (1..=50).for_each(|number| bench.write(number, number));
        assert_eq!(persisted(&bench.step()), [50]);
        assert_eq!(bench.thread.store.syncs, 1);
        assert_eq!(bench.sent.0.lock().unwrap().len(), 50);
    }
}

//! A store whose medium is memory and that forgets on a crash what was not synced.
//!
//! Invariant: it keeps what [`super::SledStore`] keeps; a test compares the two. A batch that was being written when the power
//! went is found again whole or not at all, as sled's log finds it: half of it, or a flipped bit in it, shows by its checksum.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;

use super::{Change, LogPosition, LogStore, Recovered, SnapshotMeta, SnapshotSource, StoreError, crc32c};

/// What survives a crash. Clones are the same medium.
#[derive(Clone, Debug, Default)]
pub(crate) struct Medium(Arc<Mutex<Content>>);

#[derive(Clone, Debug, Default)]
pub(crate) struct Content {
    pub(crate) kept: Recovered,
    parts: BTreeMap<(u64, u32), Bytes>,
    /// What was being written when the power went.
    interrupted: Option<Batch>,
}

/// What is left of a batch that was being written when the power went.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum PowerLoss {
    /// All of it, with a flipped bit.
    Corrupt,
    /// All of it: it is durable, and nobody was told.
    Kept,
    /// Nothing.
    #[default]
    Lost,
    /// The first half of its bytes.
    Torn,
}

/// A batch as its bytes lie on the medium.
#[derive(Clone, Debug)]
struct Batch {
    changes: Vec<Change>,
    bytes: Vec<u8>,
    crc32c: u32,
}

/// A server's hold on a medium.
#[derive(Debug)]
pub(crate) struct MemoryStore {
    medium: Medium,
    staged: Vec<Change>,
    /// The power goes during a sync that comes after so many others.
    pub(crate) syncs_before_power_loss: Option<u32>,
    /// What that leaves of the batch.
    pub(crate) power_loss: PowerLoss,
    pub(crate) syncs: u64,
}

impl Medium {
    pub(crate) fn content(&self) -> MutexGuard<'_, Content> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a server finds when it starts.
    pub(crate) fn open(&self) -> (MemoryStore, Recovered) {
        let mut content = self.content();
        if let Some(batch) = content.interrupted.take().filter(Batch::is_whole) {
            batch.changes.into_iter().for_each(|change| content.change(change));
        }
        super::sled_store::check(&content.kept).expect("no crash leaves damage behind");
        let kept = content.kept.snapshot.as_ref().map(|meta| meta.generation);
        content.parts.retain(|(generation, _), _| Some(*generation) == kept);
        let store = MemoryStore {
            medium: self.clone(),
            staged: Vec::new(),
            syncs_before_power_loss: None,
            power_loss: PowerLoss::default(),
            syncs: 0,
        };
        (store, content.kept.clone())
    }
}

impl Batch {
    fn new(changes: Vec<Change>) -> Self {
        let bytes = format!("{changes:?}").into_bytes();
        Self { changes, crc32c: crc32c(&bytes), bytes }
    }

    fn after(mut self, loss: PowerLoss) -> Option<Self> {
        let half = self.bytes.len() / 2;
        match loss {
            PowerLoss::Corrupt => self.bytes[half] ^= 1,
            PowerLoss::Kept => {}
            PowerLoss::Lost => return None,
            PowerLoss::Torn => self.bytes.truncate(half),
        }
        Some(self)
    }

    fn is_whole(&self) -> bool {
        crc32c(&self.bytes) == self.crc32c
    }
}

impl Content {
    /// The last entry, or what it was compacted into.
    pub(crate) fn last(&self) -> LogPosition {
        let last = self.kept.entries.last().map(|entry| LogPosition { index: entry.index, term: entry.term });
        last.unwrap_or(self.kept.compacted)
    }

    /// Whether the entry there is kept, be it in a snapshot.
    pub(crate) fn holds(&self, position: LogPosition) -> bool {
        let Some(at) = position.index.checked_sub(self.kept.compacted.index + 1) else { return true };
        self.kept.entries.get(at as usize).is_some_and(|entry| entry.term == position.term)
    }

    fn change(&mut self, change: Change) {
        let kept = &mut self.kept;
        match change {
            Change::Append(entries) => {
                let Some(first) = entries.first() else { return };
                kept.entries.truncate((first.index - kept.compacted.index - 1) as usize);
                kept.entries.extend(entries);
            }
            Change::Compact(position) => {
                kept.entries.retain(|entry| entry.index > position.index);
                kept.compacted = position;
            }
            Change::DropSnapshot { generation, parts } => {
                self.parts.retain(|(own, part), _| *own != generation || *part >= parts);
            }
            Change::HardState(state) => kept.hard_state = state,
            Change::Identity(identity) => kept.identity = Some(identity),
            Change::Install(meta) => {
                kept.entries.clear();
                kept.compacted = meta.position;
                self.set_snapshot(meta);
            }
            Change::Snapshot(meta) => self.set_snapshot(meta),
            Change::SnapshotPart { generation, part, data } => {
                self.parts.insert((generation, part), data);
            }
        }
    }

    fn set_snapshot(&mut self, meta: SnapshotMeta) {
        let held = self.parts.keys().filter(|(generation, _)| *generation == meta.generation).count();
        assert_eq!(held, meta.parts as usize, "a snapshot counts only once all of its parts are there");
        self.kept.snapshot = Some(meta);
    }
}

impl LogStore for MemoryStore {
    type Snapshots = Medium;

    fn stage(&mut self, change: Change) {
        self.staged.push(change);
    }

    fn sync(&mut self) -> Result<(), StoreError> {
        let mut content = self.medium.content();
        if let Some(left) = self.syncs_before_power_loss.as_mut() {
            let Some(fewer) = left.checked_sub(1) else {
                content.interrupted = Batch::new(std::mem::take(&mut self.staged)).after(self.power_loss);
                return Err(std::io::Error::other("the power is gone").into());
            };
            *left = fewer;
        }
        self.syncs += 1;
        self.staged.drain(..).for_each(|change| content.change(change));
        Ok(())
    }

    fn snapshots(&self) -> Medium {
        self.medium.clone()
    }
}

impl SnapshotSource for Medium {
    fn part(&self, generation: u64, part: u32) -> Result<Option<Bytes>, StoreError> {
        Ok(self.content().parts.get(&(generation, part)).cloned())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use raft::eraftpb::{ConfState, Entry, HardState};
    use tempfile::TempDir;

    use super::*;
    use crate::storage::{Identity, PART_LEN_MAX, SledStore};

    /// What a log thread could do next.
    #[derive(Clone, Debug)]
    enum Step {
        Append { back: u64, lens: Vec<usize> },
        Compact { ahead: u64 },
        Commit,
        Install { ahead: u64 },
        Snapshot { parts: u32 },
        Sync,
        Reopen,
    }

    fn any_step() -> impl Strategy<Value = Step> {
        let lens = prop::sample::select(vec![0, 1, 100, PART_LEN_MAX, PART_LEN_MAX + 1, 3 * PART_LEN_MAX]);
        prop_oneof![
            4 => (0..4u64, prop::collection::vec(lens, 1..4)).prop_map(|(back, lens)| Step::Append { back, lens }),
            1 => (1..4u64).prop_map(|ahead| Step::Compact { ahead }),
            1 => Just(Step::Commit),
            1 => (1..4u64).prop_map(|ahead| Step::Install { ahead }),
            1 => (0..3u32).prop_map(|parts| Step::Snapshot { parts }),
            3 => Just(Step::Sync),
            2 => Just(Step::Reopen),
        ]
    }

    /// Turns steps into changes that follow from each other.
    struct Writer {
        term: u64,
        generation: u64,
        compacted: LogPosition,
        terms: Vec<u64>,
        commit: u64,
        newest: Option<SnapshotMeta>,
    }

    impl Writer {
        fn last(&self) -> u64 {
            self.compacted.index + self.terms.len() as u64
        }

        fn position(&self, index: u64) -> LogPosition {
            match index.checked_sub(self.compacted.index + 1) {
                Some(at) => LogPosition { index, term: self.terms[at as usize] },
                None => self.compacted,
            }
        }

        fn hard_state(&self) -> Change {
            Change::HardState(HardState {
                term: self.term,
                vote: 1,
                commit: self.commit,
                ..Default::default()
            })
        }

        fn changes(&mut self, step: &Step) -> Vec<Change> {
            match step {
                Step::Append { back, lens } => self.append(*back, lens),
                Step::Compact { ahead } => {
                    let covered = self.newest.as_ref().map_or(0, |meta| meta.position.index);
                    let position =
                        self.position((self.compacted.index + ahead).min(covered).max(self.compacted.index));
                    self.terms.drain(..(position.index - self.compacted.index) as usize);
                    self.compacted = position;
                    vec![Change::Compact(position)]
                }
                Step::Commit => {
                    self.commit = self.last();
                    vec![self.hard_state()]
                }
                Step::Install { ahead } => {
                    let position = LogPosition { index: self.last() + ahead, term: self.term };
                    (self.compacted, self.commit) = (position, position.index);
                    self.terms.clear();
                    let mut changes = self.snapshot(position, 1);
                    changes.pop();
                    changes.extend([Change::Install(self.newest.clone().unwrap()), self.hard_state()]);
                    changes
                }
                Step::Snapshot { parts } => self.snapshot(self.position(self.commit), *parts),
                Step::Sync | Step::Reopen => Vec::new(),
            }
        }

        fn append(&mut self, back: u64, lens: &[usize]) -> Vec<Change> {
            self.term += 1;
            let from = self.last().saturating_sub(back).max(self.commit) + 1;
            self.terms.truncate((from - self.compacted.index - 1) as usize);
            let entry = |(at, len): (usize, &usize)| Entry {
                index: from + at as u64,
                term: self.term,
                data: vec![at as u8; *len].into(),
                ..Default::default()
            };
            let entries: Vec<Entry> = lens.iter().enumerate().map(entry).collect();
            self.terms.extend(entries.iter().map(|entry| entry.term));
            vec![Change::Append(entries), self.hard_state()]
        }

        fn snapshot(&mut self, position: LogPosition, parts: u32) -> Vec<Change> {
            let old = self.newest.take();
            self.generation += 1;
            let generation = self.generation;
            let meta = SnapshotMeta {
                generation,
                position,
                conf_state: ConfState::from((vec![1], vec![2])),
                parts,
                total_bytes: 1,
                crc32c: 1,
            };
            self.newest = Some(meta.clone());
            let data = |part: u32| Bytes::from(vec![part as u8; 10]);
            let parts = (0..parts).map(|part| Change::SnapshotPart { generation, part, data: data(part) });
            let drop = old.map(|old| Change::DropSnapshot { generation: old.generation, parts: old.parts });
            parts.chain(drop).chain([Change::Snapshot(meta)]).collect()
        }
    }

    fn parts(source: &impl SnapshotSource, generations: u64) -> Vec<(u64, u32, Bytes)> {
        let keys = (1..=generations).flat_map(|generation| (0..3).map(move |part| (generation, part)));
        keys.filter_map(|(generation, part)| {
            Some((generation, part, source.part(generation, part).unwrap()?))
        })
        .collect()
    }

    fn check(steps: &[Step]) {
        let directory = TempDir::new().unwrap();
        let medium = Medium::default();
        let (mut sled, mut memory) = (SledStore::open(directory.path()).unwrap().0, medium.open().0);
        let mut writer = Writer {
            term: 1,
            generation: 0,
            compacted: LogPosition::default(),
            terms: Vec::new(),
            commit: 0,
            newest: None,
        };
        let identity = Identity { raft_id: 1, cluster_id: "c".into(), voters: vec![1] };
        sled.stage(Change::Identity(identity.clone()));
        memory.stage(Change::Identity(identity));
        for step in steps {
            for change in writer.changes(step) {
                sled.stage(change.clone());
                memory.stage(change);
            }
            if matches!(step, Step::Sync | Step::Reopen) {
                sled.sync().unwrap();
                memory.sync().unwrap();
            }
            if matches!(step, Step::Reopen) {
                drop((sled, memory));
                let (opened, found) = SledStore::open(directory.path()).unwrap();
                let (expected, expected_found) = medium.open();
                assert_eq!(found.identity, expected_found.identity);
                assert_eq!(found.hard_state, expected_found.hard_state);
                assert_eq!(found.compacted, expected_found.compacted);
                assert_eq!(found.entries, expected_found.entries);
                assert_eq!(found.snapshot, expected_found.snapshot);
                let generations = writer.generation;
                assert_eq!(
                    parts(&opened.snapshots(), generations),
                    parts(&expected.snapshots(), generations)
                );
                (sled, memory) = (opened, expected);
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

        #[test]
        fn both_stores_keep_the_same(mut steps in prop::collection::vec(any_step(), 1..40)) {
            steps.push(Step::Reopen);
            check(&steps);
        }
    }

    #[test]
    fn what_was_not_synced_is_there_as_a_whole_or_not_at_all() {
        let check = |loss, expect| {
            let medium = Medium::default();
            let (mut store, _) = medium.open();
            let append = |index| Change::Append(vec![Entry { index, term: 1, ..Default::default() }]);
            store.stage(Change::Identity(Identity::default()));
            store.stage(Change::HardState(HardState { term: 1, ..Default::default() }));
            store.stage(append(1));
            store.sync().unwrap();
            store.stage(append(2));
            store.stage(append(3));
            (store.syncs_before_power_loss, store.power_loss) = (Some(0), loss);
            assert!(store.sync().is_err());
            assert_eq!(medium.content().kept.entries.len(), 1, "{loss:?}: nobody may rest on it");
            assert_eq!(medium.open().1.entries.len(), expect, "{loss:?}");
            assert_eq!(medium.open().1.entries.len(), expect, "{loss:?}: the same once more");
        };
        check(PowerLoss::Lost, 1);
        check(PowerLoss::Torn, 1);
        check(PowerLoss::Corrupt, 1);
        check(PowerLoss::Kept, 3);
    }
}

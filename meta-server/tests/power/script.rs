//! What is written, step by step, and what a store must hold after each step.
//!
//! Invariant: the same seed gives the same steps, so that a process can go on where another was cut off.

use bytes::Bytes;
use raft::eraftpb::{ConfState, Entry, HardState};
use xdpfs_meta_server::storage::{
    Change, Identity, LogPosition, PART_LEN_MAX, Recovered, SnapshotMeta, SnapshotSource, StoreError, crc32c,
};
use xdpfs_testbed::Rng;

/// Entries that the log grows to before it is compacted.
const LOG_LEN_MAX: usize = 120;

/// What a store holds, as far as a server looks at it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Sight {
    identity: Option<Identity>,
    hard_state: HardState,
    compacted: LogPosition,
    /// Index, term, length, CRC32C of each entry.
    entries: Vec<(u64, u64, usize, u32)>,
    snapshot: Option<SnapshotMeta>,
    /// CRC32C of each part of the snapshot.
    parts: Vec<Option<u32>>,
}

impl Sight {
    pub(crate) fn of(recovered: &Recovered, snapshots: &impl SnapshotSource) -> Result<Self, StoreError> {
        let entries = recovered.entries.iter();
        let meta = recovered.snapshot.as_ref();
        let part = |meta: &SnapshotMeta, part| -> Result<_, StoreError> {
            Ok(snapshots.part(meta.generation, part)?.map(|data| crc32c(&data)))
        };
        Ok(Self {
            identity: recovered.identity.clone(),
            hard_state: recovered.hard_state.clone(),
            compacted: recovered.compacted,
            entries: entries.map(summary).collect(),
            snapshot: recovered.snapshot.clone(),
            parts: meta.map_or(Ok(Vec::new()), |meta| (0..meta.parts).map(|at| part(meta, at)).collect())?,
        })
    }

    fn last(&self) -> LogPosition {
        self.entries
            .last()
            .map_or(self.compacted, |(index, term, ..)| LogPosition { index: *index, term: *term })
    }

    fn term_at(&self, index: u64) -> u64 {
        self.entries.iter().find(|entry| entry.0 == index).map_or(self.compacted.term, |entry| entry.1)
    }
}

/// Steps without end.
pub(crate) struct Script {
    rng: Rng,
    sight: Sight,
    generation: u64,
}

impl Script {
    pub(crate) fn new(seed: u64) -> Self {
        Self { rng: Rng::new(seed), sight: Sight::default(), generation: 0 }
    }

    /// What a store holds after the steps so far.
    pub(crate) const fn sight(&self) -> &Sight {
        &self.sight
    }

    pub(crate) fn skip(&mut self, steps: u64) {
        for _ in 0..steps {
            let _written_already = self.next_step();
        }
    }

    /// What is to be synced at once.
    pub(crate) fn next_step(&mut self) -> Vec<Change> {
        if self.sight.identity.is_none() {
            return self.begin();
        }
        if self.sight.entries.len() > LOG_LEN_MAX {
            return self.snapshot_and_compact();
        }
        match self.rng.below(20) {
            0 | 1 => self.vote(),
            2 => self.replace_tail(),
            3 if self.sight.last().index > 0 && self.rng.chance(20.0) => self.install(),
            4..8 => self.commit(),
            _ => self.append(),
        }
    }

    fn begin(&mut self) -> Vec<Change> {
        let identity = Identity { raft_id: 1, cluster_id: "c".into(), voters: vec![1, 2, 3] };
        self.sight.identity = Some(identity.clone());
        self.sight.hard_state.term = 1;
        vec![Change::Identity(identity), Change::HardState(self.sight.hard_state.clone())]
    }

    fn vote(&mut self) -> Vec<Change> {
        self.sight.hard_state.term += 1;
        self.sight.hard_state.vote = 1 + self.rng.below(3);
        vec![Change::HardState(self.sight.hard_state.clone())]
    }

    fn append(&mut self) -> Vec<Change> {
        let entries = self.entries_from(self.sight.last().index + 1);
        vec![Change::Append(entries), Change::HardState(self.sight.hard_state.clone())]
    }

    /// Another leader's entries in place of those that were not agreed on.
    fn replace_tail(&mut self) -> Vec<Change> {
        let not_agreed = self.sight.last().index - self.sight.hard_state.commit;
        let first = self.sight.hard_state.commit + 1 + self.rng.below(not_agreed + 1);
        self.sight.hard_state.term += 1;
        self.sight.entries.retain(|entry| entry.0 < first);
        let entries = self.entries_from(first);
        vec![Change::HardState(self.sight.hard_state.clone()), Change::Append(entries)]
    }

    fn commit(&mut self) -> Vec<Change> {
        let not_agreed = self.sight.last().index - self.sight.hard_state.commit;
        self.sight.hard_state.commit += self.rng.below(not_agreed + 1);
        vec![Change::HardState(self.sight.hard_state.clone())]
    }

    fn snapshot_and_compact(&mut self) -> Vec<Change> {
        let index = self.sight.last().index - 5;
        self.sight.hard_state.commit = self.sight.hard_state.commit.max(index);
        let position = LogPosition { index, term: self.sight.term_at(index) };
        let old = self.sight.snapshot.take();
        let (meta, mut changes) = self.parts(position);
        changes.extend([
            Change::HardState(self.sight.hard_state.clone()),
            Change::Snapshot(meta.clone()),
            Change::Compact(position),
        ]);
        changes.extend(old.map(|old| Change::DropSnapshot { generation: old.generation, parts: old.parts }));
        self.sight.entries.retain(|entry| entry.0 > index);
        self.sight.compacted = position;
        self.sight.snapshot = Some(meta);
        changes
    }

    /// Another server's snapshot, of a place far ahead.
    fn install(&mut self) -> Vec<Change> {
        let index = self.sight.last().index + 1 + self.rng.below(100);
        let position = LogPosition { index, term: self.sight.hard_state.term };
        let old = self.sight.snapshot.take();
        let (meta, mut changes) = self.parts(position);
        self.sight.hard_state.commit = index;
        changes.extend([Change::Install(meta.clone()), Change::HardState(self.sight.hard_state.clone())]);
        changes.extend(old.map(|old| Change::DropSnapshot { generation: old.generation, parts: old.parts }));
        self.sight.entries.clear();
        self.sight.compacted = position;
        self.sight.snapshot = Some(meta);
        changes
    }

    fn parts(&mut self, position: LogPosition) -> (SnapshotMeta, Vec<Change>) {
        self.generation += 1;
        let generation = self.generation;
        let parts: Vec<Bytes> = (0..1 + self.rng.below(20)).map(|_| self.bytes(PART_LEN_MAX)).collect();
        self.sight.parts = parts.iter().map(|data| Some(crc32c(data))).collect();
        let meta = SnapshotMeta {
            generation,
            position,
            conf_state: ConfState::from((vec![1, 2, 3], vec![])),
            parts: parts.len() as u32,
            total_bytes: (parts.len() * PART_LEN_MAX) as u64,
            crc32c: 0,
        };
        let changes =
            (0..).zip(parts).map(|(part, data)| Change::SnapshotPart { generation, part, data }).collect();
        (meta, changes)
    }

    fn entries_from(&mut self, first: u64) -> Vec<Entry> {
        let count = 1 + self.rng.below(8);
        let term = self.sight.hard_state.term;
        let entries: Vec<Entry> = (first..first + count)
            .map(|index| {
                let len = *self.rng.choose(&[0, 1, 100, 100, 500, 2_000, 5_000, PART_LEN_MAX + 1]);
                Entry { index, term, data: self.bytes(len), ..Entry::default() }
            })
            .collect();
        self.sight.entries.extend(entries.iter().map(summary));
        entries
    }

    fn bytes(&mut self, len: usize) -> Bytes {
        let mut rng = Rng::new(self.rng.next_u64());
        let mut bytes: Vec<u8> = (0..len.div_ceil(8)).flat_map(|_| rng.next_u64().to_le_bytes()).collect();
        bytes.truncate(len);
        bytes.into()
    }
}

fn summary(entry: &Entry) -> (u64, u64, usize, u32) {
    (entry.index, entry.term, entry.data.len(), crc32c(&entry.data))
}

//! The log as raft-rs reads it: in memory, from the compacted point on.
//!
//! Invariant: it runs ahead of the medium by exactly the jobs that the log thread has not finished.

use std::{cell::Cell, collections::VecDeque};

use raft::{
    Error, GetEntriesContext, RaftState, Storage, StorageError,
    eraftpb::{ConfState, Entry, HardState, Snapshot},
};

use crate::{
    mistake::{Mistake, is_planted},
    storage::{LogPosition, Recovered, SnapshotMeta},
};

/// The part of an entry's size that is not its data.
const ENTRY_OVERHEAD: u64 = 32;

#[derive(Debug)]
pub(super) struct LogView {
    hard_state: HardState,
    conf_state: ConfState,
    compacted: LogPosition,
    entries: VecDeque<Entry>,
    bytes: u64,
    snapshot: Option<SnapshotMeta>,
    /// A server lags behind the log, and the newest snapshot is of no use to it.
    wants_snapshot: Cell<bool>,
}

impl LogView {
    /// `conf_state` is that of the newest snapshot, or else the first one.
    pub(super) fn new(recovered: Recovered, conf_state: ConfState) -> Self {
        Self {
            hard_state: recovered.hard_state,
            conf_state,
            compacted: recovered.compacted,
            bytes: recovered.entries.iter().map(entry_bytes).sum(),
            entries: recovered.entries.into(),
            snapshot: recovered.snapshot,
            wants_snapshot: Cell::new(false),
        }
    }

    /// Bytes of all entries.
    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) const fn snapshot_meta(&self) -> Option<&SnapshotMeta> {
        self.snapshot.as_ref()
    }

    /// Whether some server needs a newer snapshot than there is.
    pub(super) const fn wants_snapshot(&self) -> bool {
        self.wants_snapshot.get()
    }

    /// Appends, and forgets entries at the same and at later indexes.
    pub(super) fn append(&mut self, entries: &[Entry]) {
        let Some(first) = entries.first() else { return };
        assert!(first.index > self.compacted.index, "an entry that is compacted does not change");
        assert!(first.index <= self.last() + 1, "the log has no gaps");
        if !is_planted(Mistake::KeepsConflictingTail) {
            self.entries.truncate((first.index - self.compacted.index - 1) as usize);
        }
        self.entries.extend(entries.iter().cloned());
        self.bytes = self.entries.iter().map(entry_bytes).sum();
    }

    /// Appends directly behind the last entry: no need to count anew.
    pub(super) fn extend(&mut self, entries: &[Entry]) {
        match entries.first() {
            Some(first) if first.index == self.last() + 1 => {
                self.bytes += entries.iter().map(entry_bytes).sum::<u64>();
                self.entries.extend(entries.iter().cloned());
            }
            _ => self.append(entries),
        }
    }

    /// Starts anew behind another server's snapshot.
    pub(super) fn install(&mut self, meta: SnapshotMeta) {
        self.entries.clear();
        self.bytes = 0;
        self.compacted = meta.position;
        self.conf_state.clone_from(&meta.conf_state);
        self.set_snapshot(meta);
    }

    /// A snapshot of this server is durable.
    pub(super) fn set_snapshot(&mut self, meta: SnapshotMeta) {
        self.snapshot = Some(meta);
        self.wants_snapshot.set(false);
    }

    /// Forgets entries up to and with `index`, which a durable snapshot includes. Gives the place if anything is new.
    pub(super) fn compact(&mut self, index: u64) -> Option<LogPosition> {
        let covered = self.snapshot.as_ref().map_or(0, |meta| meta.position.index);
        assert!(index <= covered, "only what a durable snapshot includes may go");
        if index <= self.compacted.index {
            return None;
        }
        let term = self.term(index).ok()?;
        let count = (index - self.compacted.index) as usize;
        self.bytes -= self.entries.drain(..count).map(|entry| entry_bytes(&entry)).sum::<u64>();
        self.compacted = LogPosition { index, term };
        Some(self.compacted)
    }

    pub(super) fn last(&self) -> u64 {
        self.compacted.index + self.entries.len() as u64
    }

    fn entry(&self, index: u64) -> Option<&Entry> {
        self.entries.get(index.checked_sub(self.compacted.index + 1)? as usize)
    }
}

fn entry_bytes(entry: &Entry) -> u64 {
    entry.data.len() as u64 + ENTRY_OVERHEAD
}

impl Storage for LogView {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState::new(self.hard_state.clone(), self.conf_state.clone()))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low <= self.compacted.index {
            return Err(Error::Store(StorageError::Compacted));
        }
        if high > self.last() + 1 {
            return Err(Error::Store(StorageError::Unavailable));
        }
        let mut room = max_size.into().unwrap_or(u64::MAX);
        let mut taken = Vec::new();
        for entry in (low..high).filter_map(|index| self.entry(index)) {
            let bytes = entry_bytes(entry);
            if bytes > room && !taken.is_empty() {
                break;
            }
            room = room.saturating_sub(bytes);
            taken.push(entry.clone());
        }
        Ok(taken)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index == self.compacted.index {
            return Ok(self.compacted.term);
        }
        if index < self.compacted.index {
            return Err(Error::Store(StorageError::Compacted));
        }
        self.entry(index).map(|entry| entry.term).ok_or(Error::Store(StorageError::Unavailable))
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.compacted.index + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last())
    }

    /// Metadata only; the data says where this server keeps the rest. A server that has joined since takes no snapshot
    /// that does not know it.
    fn snapshot(&self, request_index: u64, to: u64) -> raft::Result<Snapshot> {
        let is_of_use = |meta: &&SnapshotMeta| {
            let servers = &meta.conf_state;
            let mut known = servers.voters.iter().chain(&servers.learners).chain(&servers.voters_outgoing);
            meta.position.index >= request_index && known.any(|id| *id == to)
        };
        let Some(meta) = self.snapshot.as_ref().filter(is_of_use) else {
            self.wants_snapshot.set(true);
            return Err(Error::Store(StorageError::SnapshotTemporarilyUnavailable));
        };
        let mut snapshot = Snapshot { data: meta.encode().into(), ..Default::default() };
        let metadata = snapshot.mut_metadata();
        metadata.index = meta.position.index;
        metadata.term = meta.position.term;
        metadata.set_conf_state(meta.conf_state.clone());
        Ok(snapshot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u64, term: u64) -> Entry {
        Entry { index, term, data: vec![0; 100].into(), ..Default::default() }
    }

    fn view(count: u64) -> LogView {
        let mut view = LogView::new(Recovered::default(), ConfState::from((vec![1], vec![2])));
        view.extend(&(1..=count).map(|index| entry(index, 1)).collect::<Vec<_>>());
        view
    }

    fn get(view: &LogView, low: u64, high: u64, size: u64) -> Vec<u64> {
        let entries = view.entries(low, high, size, GetEntriesContext::empty(false)).unwrap();
        entries.iter().map(|entry| entry.index).collect()
    }

    #[test]
    fn entries_are_limited_by_size_but_never_none() {
        let view = view(5);
        assert_eq!(get(&view, 2, 5, u64::MAX), [2, 3, 4]);
        assert_eq!(get(&view, 2, 5, 0), [2]);
        assert_eq!(get(&view, 2, 5, 300), [2, 3]);
    }

    #[test]
    fn compaction_keeps_the_term_before_the_first_entry() {
        let mut view = view(5);
        let position = LogPosition { index: 4, term: 1 };
        view.set_snapshot(SnapshotMeta { position, ..SnapshotMeta::default() });
        assert_eq!(view.compact(3), Some(LogPosition { index: 3, term: 1 }));
        assert_eq!(view.compact(2), None);
        assert_eq!(view.term(3).unwrap(), 1);
        assert!(view.term(2).is_err());
        assert_eq!(view.first_index().unwrap(), 4);
        assert_eq!(view.bytes(), 2 * (100 + ENTRY_OVERHEAD));
        view.extend(&[entry(5, 2), entry(6, 2)]);
        assert_eq!(view.term(5).unwrap(), 2);
        assert_eq!(view.bytes(), 3 * (100 + ENTRY_OVERHEAD));
    }

    #[test]
    fn snapshot_goes_to_no_server_that_it_does_not_know() {
        let mut view = view(5);
        let position = LogPosition { index: 4, term: 1 };
        let conf_state = ConfState::from((vec![1], vec![2]));
        view.set_snapshot(SnapshotMeta { position, conf_state, ..SnapshotMeta::default() });
        assert!(view.snapshot(0, 2).is_ok());
        assert!(!view.wants_snapshot());
        assert!(view.snapshot(0, 3).is_err());
        assert!(view.wants_snapshot());
        view.set_snapshot(SnapshotMeta { position, ..SnapshotMeta::default() });
        assert!(!view.wants_snapshot());
    }
}

//! Orders to delete, from being heard to being reported. Pure: deletes nothing itself.
//!
//! Invariant: a chunk is reported only after its deletion is durable, and until a report of it was answered. The
//! leader repeats an order until it has heard the report, so whatever doesn't fit here is only put off.

use std::collections::BTreeSet;

use xdpfs_wire::ChunkId;

/// Chunks deleted at once, and deletions kept for the next report.
pub(super) const DELETIONS_MAX: usize = 4096;

/// Where deletions stand.
#[derive(Debug, Default)]
pub(super) struct Deletions {
    running: bool,
    done: BTreeSet<ChunkId>,
}

impl Deletions {
    /// What to delete now of what was ordered; empty if nothing.
    pub(super) fn ordered(&mut self, chunks: impl Iterator<Item = ChunkId>) -> Vec<ChunkId> {
        if self.running {
            return Vec::new();
        }
        let room = DELETIONS_MAX - self.done.len();
        let chunks: BTreeSet<_> = chunks.filter(|chunk| !self.done.contains(chunk)).take(room).collect();
        self.running = !chunks.is_empty();
        chunks.into_iter().collect()
    }

    /// The deletion of `chunks` is durable.
    pub(super) fn succeeded(&mut self, chunks: Vec<ChunkId>) {
        self.running = false;
        self.done.extend(chunks);
    }

    /// Nothing is known of the deletion; the leader will order it again.
    pub(super) fn failed(&mut self) {
        self.running = false;
    }

    /// What is durably gone and hasn't been reported.
    pub(super) fn unreported(&self) -> Vec<ChunkId> {
        self.done.iter().copied().collect()
    }

    /// A report of `chunks` was answered.
    pub(super) fn reported(&mut self, chunks: &[ChunkId]) {
        for chunk in chunks {
            self.done.remove(chunk);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunks(range: std::ops::Range<u128>) -> Vec<ChunkId> {
        range.map(ChunkId).collect()
    }

    #[test]
    fn deletion_is_reported_until_a_report_was_answered() {
        let mut deletions = Deletions::default();
        let running = deletions.ordered(chunks(0..3).into_iter());
        assert_eq!(running, chunks(0..3));
        assert!(deletions.unreported().is_empty(), "nothing is durable yet");
        deletions.succeeded(running);
        assert_eq!(deletions.unreported(), chunks(0..3));
        assert_eq!(deletions.unreported(), chunks(0..3), "a lost report is repeated");
        deletions.reported(&chunks(0..2));
        assert_eq!(deletions.unreported(), chunks(2..3));
    }

    #[test]
    fn repeated_orders_delete_nothing_twice() {
        let mut deletions = Deletions::default();
        let running = deletions.ordered(chunks(0..2).into_iter());
        assert!(deletions.ordered(chunks(0..4).into_iter()).is_empty(), "one deletion at a time");
        deletions.succeeded(running);
        assert_eq!(deletions.ordered(chunks(0..4).into_iter()), chunks(2..4));
    }

    #[test]
    fn failed_deletion_is_ordered_anew() {
        let mut deletions = Deletions::default();
        deletions.ordered(chunks(0..2).into_iter());
        deletions.failed();
        assert!(deletions.unreported().is_empty());
        assert_eq!(deletions.ordered(chunks(0..2).into_iter()), chunks(0..2));
    }

    #[test]
    fn flood_of_orders_is_taken_in_portions() {
        let mut deletions = Deletions::default();
        let many = DELETIONS_MAX as u128 + 5;
        let running = deletions.ordered(chunks(0..many).into_iter());
        assert_eq!(running.len(), DELETIONS_MAX);
        deletions.succeeded(running.clone());
        assert!(deletions.ordered(chunks(0..many).into_iter()).is_empty(), "no room before a report");
        deletions.reported(&running);
        assert_eq!(deletions.ordered(chunks(0..many).into_iter()).len(), DELETIONS_MAX);
    }
}

//! Reads that must see everything committed before them.
//!
//! Invariant: one round of heartbeats serves all reads that came in before it. A read that this server can no longer
//! vouch for is refused, never left waiting.

use std::{collections::BTreeMap, time::Instant};

use super::{ConsensusError, Read};
use crate::mistake::{Mistake, is_planted};

/// Reads that wait at once; more are refused.
const READS_MAX: usize = 16_384;

#[derive(Debug, Default)]
pub(super) struct Reads {
    /// Not yet asked for.
    queued: Vec<Read>,
    /// Asked for, by the context of the round.
    in_flight: BTreeMap<u64, Vec<Read>>,
    /// Confirmed: good as soon as the state includes the entry.
    confirmed: Vec<Confirmed>,
    waiting: usize,
    last_round: u64,
}

/// Reads that are good for the state at `index`, because this server led in `term` when they came.
#[derive(Debug)]
struct Confirmed {
    index: u64,
    term: u64,
    reads: Vec<Read>,
}

impl Reads {
    pub(super) fn push(&mut self, read: Read) {
        if self.waiting >= READS_MAX {
            answer(read, Err(ConsensusError::Overloaded));
            return;
        }
        self.waiting += 1;
        self.queued.push(read);
    }

    /// Begins a round for all queued reads, if there are any. Gives its context.
    pub(super) fn begin_round(&mut self) -> Option<Vec<u8>> {
        if self.queued.is_empty() {
            return None;
        }
        self.last_round += 1;
        self.in_flight.insert(self.last_round, std::mem::take(&mut self.queued));
        Some(self.last_round.to_be_bytes().to_vec())
    }

    /// The round with this context was confirmed at `index`, by the leader of `term`.
    pub(super) fn confirm(&mut self, context: &[u8], index: u64, term: u64) {
        let Ok(context) = context.try_into() else { return };
        if let Some(reads) = self.in_flight.remove(&u64::from_be_bytes(context)) {
            self.confirmed.push(Confirmed { index, term, reads });
        }
    }

    /// Answers the reads that the state is recent enough for.
    pub(super) fn serve(&mut self, applied: u64) {
        let is_served =
            |confirmed: &mut Confirmed| confirmed.index <= applied || is_planted(Mistake::ReadsFromBehind);
        let ready: Vec<_> = self.confirmed.extract_if(.., is_served).collect();
        for Confirmed { term, reads, .. } in ready {
            self.waiting -= reads.len();
            reads.into_iter().for_each(|read| answer(read, Ok(term)));
        }
    }

    /// Leadership has ended: nothing of what is unconfirmed can be confirmed. What is confirmed was true when asked.
    pub(super) fn refuse_unconfirmed(&mut self) {
        let in_flight = std::mem::take(&mut self.in_flight).into_values().flatten();
        for read in std::mem::take(&mut self.queued).into_iter().chain(in_flight) {
            self.waiting -= 1;
            answer(read, Err(ConsensusError::NotLeader));
        }
    }

    /// Ends reads whose deadline has passed or that nobody waits for any more.
    pub(super) fn end_expired(&mut self, now: Instant) {
        let confirmed = self.confirmed.iter_mut().map(|confirmed| &mut confirmed.reads);
        for reads in self.in_flight.values_mut().chain(confirmed).chain([&mut self.queued]) {
            for read in reads.extract_if(.., |read| read.deadline <= now || read.reply.is_closed()) {
                self.waiting -= 1;
                answer(read, Err(ConsensusError::DeadlineExceeded));
            }
        }
        self.in_flight.retain(|_, reads| !reads.is_empty());
        self.confirmed.retain(|confirmed| !confirmed.reads.is_empty());
    }
}

pub(super) fn answer(read: Read, result: Result<u64, ConsensusError>) {
    // The caller may have given up.
    let _ = read.reply.send(result);
}

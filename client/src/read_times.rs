//! How long reads of chunks took of late, and so from when on one is late.
//!
//! Invariant: what is sent twice for being late is a small share of all reads, so that a cluster that is slow as a whole is not
//! made slower by it.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

/// Reads of about the same length are compared: within a factor of sixteen.
const LENGTH_CLASSES: usize = 8;
/// How many reads of each class are remembered.
const REMEMBERED: usize = 64;
/// So few say nothing.
const ENOUGH: usize = 20;
/// One read in so many is late.
const LATE_SHARE: usize = 20;
/// Below the scheduling noise of busy hosts nothing is late.
const LATE_MIN: Duration = Duration::from_millis(2);
/// What an early second read costs, in reads, and the most that can be saved up for.
const COST: u32 = 20;
const CREDIT_MAX: u32 = 10 * COST;

/// Shared by all gets of a client.
#[derive(Debug, Default)]
pub(crate) struct ReadTimes(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    classes: [Recent; LENGTH_CLASSES],
    credit: u32,
}

/// The last reads of one class, in a ring.
#[derive(Debug, Default)]
struct Recent {
    times: Vec<Duration>,
    next: usize,
}

impl ReadTimes {
    /// A read of so many bytes took so long, or has taken so long when another one was faster.
    pub(crate) fn note(&self, bytes: usize, took: Duration) {
        self.with(|state| {
            state.credit = (state.credit + 1).min(CREDIT_MAX);
            let Some(recent) = state.classes.get_mut(class_of(bytes)) else { return };
            match recent.times.get_mut(recent.next) {
                Some(oldest) => *oldest = took,
                None => recent.times.push(took),
            }
            recent.next = (recent.next + 1) % REMEMBERED;
        });
    }

    /// After how long a read of so many bytes is later than nineteen of twenty; `None` if that is not known.
    pub(crate) fn late_after(&self, bytes: usize) -> Option<Duration> {
        let mut times =
            self.with(|state| state.classes.get(class_of(bytes)).map(|recent| recent.times.clone()))?;
        if times.len() < ENOUGH {
            return None;
        }
        times.sort_unstable();
        let late = times.get(times.len() - 1 - times.len() / LATE_SHARE)?;
        // What always takes as long is not late when it does so again.
        Some((*late * 5 / 4).max(LATE_MIN))
    }

    /// Whether a second read may be begun before it is plain that the first has failed.
    pub(crate) fn take_credit(&self) -> bool {
        self.with(|state| {
            let left = state.credit.checked_sub(COST);
            state.credit = left.unwrap_or(state.credit);
            left.is_some()
        })
    }

    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn class_of(bytes: usize) -> usize {
    (bytes.max(1).ilog2() / 4) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn late_is_later_than_nineteen_of_twenty_of_about_the_same_length() {
        let times = ReadTimes::default();
        for i in 0..19 {
            times.note(1000, MS * (i + 1));
        }
        assert_eq!(times.late_after(1000), None);
        times.note(1000, MS * 20);
        assert_eq!(times.late_after(1000), Some(MS * 19 * 5 / 4));
        assert_eq!(times.late_after(1 << 20), None);
        (0..REMEMBERED).for_each(|_| times.note(1000, MS / 100));
        assert_eq!(times.late_after(1000), Some(LATE_MIN));
        times.note(usize::MAX, MS);
    }

    #[test]
    fn early_reads_are_few() {
        let times = ReadTimes::default();
        let early = (0..10_000).filter(|_| {
            times.note(1, MS);
            times.take_credit()
        });
        assert_eq!(early.count(), 500);
        (0..10_000).for_each(|_| times.note(1, MS));
        let at_once = (0..100).filter(|_| times.take_credit()).count();
        assert_eq!(at_once, 10);
    }
}

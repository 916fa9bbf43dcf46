//! The leader's time of day: what leases, capabilities and deletions are measured on.
//!
//! Invariant: it never runs backwards, neither on one server nor from one leader to the next, because it starts no
//! earlier than the state's own time. If this host's wall clock is set back, it goes on at the pace of the monotonic
//! one until the wall clock has caught up. If the wall clock is set forward, it follows: leases then end early, and an
//! open put has to begin again; nothing that was committed is touched.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// A clock that a leader writes into its commands.
#[derive(Debug)]
pub(crate) struct LeaderClock {
    last: Mutex<Reading>,
}

#[derive(Clone, Copy, Debug)]
struct Reading {
    at: Instant,
    time_ms: u64,
}

impl LeaderClock {
    pub(crate) fn new() -> Self {
        Self { last: Mutex::new(Reading { at: Instant::now(), time_ms: 0 }) }
    }

    /// Milliseconds since the Unix epoch, and no less than `state_ms`.
    pub(crate) fn now_ms(&self, state_ms: u64) -> u64 {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.read(Instant::now(), wall, state_ms)
    }

    fn read(&self, now: Instant, wall: Duration, state_ms: u64) -> u64 {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let steady = last.time_ms + millis(now.saturating_duration_since(last.at));
        let time_ms = steady.max(millis(wall)).max(state_ms);
        *last = Reading { at: now.max(last.at), time_ms };
        time_ms
    }
}

/// A duration as messages carry it.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wall_clock_that_is_set_back_does_not_take_time_back() {
        let clock = LeaderClock::new();
        let start = Instant::now();
        let read = |after_ms, wall_ms, state_ms| {
            clock.read(start + Duration::from_millis(after_ms), Duration::from_millis(wall_ms), state_ms)
        };
        assert_eq!(read(0, 5000, 0), 5000);
        assert_eq!(read(100, 1000, 0), 5100, "set back: it goes on at its pace");
        assert_eq!(read(200, 9000, 0), 9000, "set forward: it follows");
        assert_eq!(read(300, 9100, 20_000), 20_000, "an earlier leader was ahead");
        assert_eq!(read(400, 9200, 20_000), 20_100);
    }
}

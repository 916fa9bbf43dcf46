//! The metadata leader's time of day, which expiries are measured on, told without asking this host's wall clock.

use std::{
    sync::atomic::{AtomicI64, Ordering},
    time::{Duration, Instant},
};

use xdpfs_wire::Expiry;

/// Milliseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct UnixMs(pub(crate) u64);

/// A clock that runs on the monotonic one and is set by the leader's answers, so a jump of this host's time of day
/// makes no capability live longer or die early.
#[derive(Debug)]
pub(crate) struct ClusterClock {
    origin: Instant,
    /// What the leader's clock showed at `origin`, in milliseconds.
    origin_ms: AtomicI64,
}

impl ClusterClock {
    /// A clock that shows `leader_time` now.
    #[must_use]
    pub(crate) fn starting_at(leader_time: UnixMs) -> Self {
        let clock = Self { origin: Instant::now(), origin_ms: AtomicI64::new(0) };
        clock.set(leader_time, Duration::ZERO);
        clock
    }

    /// Takes over the time from an answer of the leader. The leader read its clock at some moment of the round trip;
    /// the middle is the best guess, and wrong by half of the trip at most.
    pub(crate) fn set(&self, leader_time: UnixMs, round_trip: Duration) {
        let now_ms = signed(leader_time.0).saturating_add(signed_ms(round_trip / 2));
        self.origin_ms.store(now_ms.saturating_sub(signed_ms(self.origin.elapsed())), Ordering::Release);
    }

    /// The time now, in the unit of expiries.
    #[must_use]
    pub(crate) fn now(&self) -> Expiry {
        Expiry(u32::try_from(self.now_ms().0 / 1000).unwrap_or(u32::MAX))
    }

    /// The time now, as precisely as it is known.
    #[must_use]
    pub(crate) fn now_ms(&self) -> UnixMs {
        let now_ms = self.origin_ms.load(Ordering::Acquire).saturating_add(signed_ms(self.origin.elapsed()));
        UnixMs(u64::try_from(now_ms).unwrap_or(0))
    }
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn signed_ms(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_what_the_leader_said() {
        let clock = ClusterClock::starting_at(UnixMs(1_700_000_000_500));
        assert_eq!(clock.now(), Expiry(1_700_000_000));
        clock.set(UnixMs(1_800_000_000_500), Duration::ZERO);
        assert_eq!(clock.now(), Expiry(1_800_000_000));
    }

    #[test]
    fn half_of_the_round_trip_has_passed_since_the_leader_looked() {
        let clock = ClusterClock::starting_at(UnixMs(0));
        clock.set(UnixMs(10_000), Duration::from_secs(4));
        assert_eq!(clock.now(), Expiry(12));
    }

    #[test]
    fn absurd_times_saturate() {
        for (leader_time, expect) in [(0, 0), (u64::MAX, u32::MAX)] {
            assert_eq!(ClusterClock::starting_at(UnixMs(leader_time)).now(), Expiry(expect));
        }
    }
}

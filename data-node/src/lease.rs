//! For how long this node may vouch for anything without a word from the leader.
//!
//! Invariant: half of the lease after the node has sent the last heartbeat that was answered, it takes no more writes. The
//! leader counts all of the lease, from when that heartbeat arrived, before it ends the registration: so the node is the first
//! to stop, unless its clock is so slow as to lose half of the time. The clock runs on while the host is suspended. The kernel
//! program is told of the same moment, so it refuses what is written to a process that is frozen.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use rustix::time::{ClockId, clock_gettime};

/// A moment on the clock that counts all the time since the host was started.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Moment(Duration);

impl Moment {
    pub(crate) fn now() -> Self {
        let now = clock_gettime(ClockId::Boottime);
        let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
        Self(Duration::from_secs(seconds) + Duration::from_nanos(now.tv_nsec.unsigned_abs()))
    }

    #[cfg(test)]
    pub(crate) const fn at(since_boot: Duration) -> Self {
        Self(since_boot)
    }

    fn millis(self) -> u64 {
        u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX)
    }

    /// Since the host was started.
    #[cfg(all(feature = "xdp", target_os = "linux"))]
    pub(crate) fn nanos(self) -> u64 {
        u64::try_from(self.0.as_nanos()).unwrap_or(u64::MAX)
    }
}

/// The lease of the present registration.
#[derive(Debug, Default)]
pub(crate) struct Lease {
    /// Writes are taken until then. Zero: the leader's release has no leases.
    until_ms: AtomicU64,
}

impl Lease {
    /// The leader has answered what was sent at that moment. Without a length, the lease never ends.
    pub(crate) fn renew(&self, sent_at: Moment, length: Duration) {
        let half_ms = u64::try_from(length.as_millis() / 2).unwrap_or(u64::MAX);
        let until_ms = if half_ms == 0 { 0 } else { sent_at.millis().saturating_add(half_ms) };
        self.until_ms.store(until_ms, Ordering::Release);
    }

    /// From when on the node takes no more writes; `None`: that moment doesn't come.
    #[cfg(all(feature = "xdp", target_os = "linux"))]
    pub(crate) fn end(&self) -> Option<Moment> {
        let until_ms = self.until_ms.load(Ordering::Acquire);
        (until_ms != 0).then(|| Moment(Duration::from_millis(until_ms)))
    }

    /// Whether the node may vouch for what is written to it.
    pub(crate) fn holds(&self, now: Moment) -> bool {
        let until_ms = self.until_ms.load(Ordering::Acquire);
        until_ms == 0 || now.millis() < until_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment::at(Duration::from_secs(seconds))
    }

    #[test]
    fn half_of_the_lease_is_what_the_node_counts_on() {
        let lease = Lease::default();
        assert!(lease.holds(at(1_000_000)), "no leader has spoken of leases");
        lease.renew(at(100), Duration::from_secs(10));
        assert!(lease.holds(at(104)) && !lease.holds(at(105)));
        lease.renew(at(104), Duration::from_secs(10));
        assert!(lease.holds(at(108)) && !lease.holds(at(109)));
        lease.renew(at(104), Duration::ZERO);
        assert!(lease.holds(at(1_000_000)), "a leader of an earlier release has taken over");
    }

    #[test]
    fn clock_runs_on() {
        let before = Moment::now();
        assert!(before > at(0) && Moment::now() >= before);
    }
}

//! A token bucket in one word (the generic cell rate algorithm, ITU-T I.371): the time at which the bucket would be
//! full again. One word can be exchanged atomically, so CPUs share a bucket without a lock.

/// How fast something may happen. An interval of zero is no limit.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct Rate {
    /// Between two events in the long run.
    pub interval_ns: u64,
    /// How far events may run ahead of that. Less than a tick of the kernel (1 to 10 ms) makes the tick the limit.
    pub burst_ns: u64,
}

impl Rate {
    /// Whether there is no limit.
    #[inline(always)]
    #[must_use]
    pub const fn is_unlimited(&self) -> bool {
        self.interval_ns == 0
    }

    /// The bucket after one more event at `now_ns`; `None` if the event comes too early.
    #[inline(always)]
    #[must_use]
    pub const fn take(&self, full_at_ns: u64, now_ns: u64) -> Option<u64> {
        let full_at_ns = if full_at_ns > now_ns { full_at_ns } else { now_ns };
        if full_at_ns - now_ns > self.burst_ns { None } else { Some(full_at_ns + self.interval_ns) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_then_one_event_per_interval() {
        let rate = Rate { interval_ns: 10, burst_ns: 30 };
        let mut bucket = 0;
        let mut passed = |now_ns| {
            let taken = rate.take(bucket, now_ns);
            bucket = taken.unwrap_or(bucket);
            taken.is_some()
        };
        assert_eq!((0..6).filter(|_| passed(100)).count(), 4);
        assert!(passed(110) && !passed(110));
        assert_eq!((0..99).filter(|_| passed(10_000)).count(), 4, "a pause is not saved up");
    }
}

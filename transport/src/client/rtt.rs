//! Round-trip time of one path and the timeout that follows from it (RFC 6298, with shorter bounds).

use std::time::{Duration, Instant};

/// Before the first sample.
const TIMEOUT_INITIAL: Duration = Duration::from_millis(100);
/// Above the scheduling noise of a busy host: a timer that fires early only adds load.
const TIMEOUT_MIN: Duration = Duration::from_millis(5);
const TIMEOUT_MAX: Duration = Duration::from_millis(500);
/// Doublings of the timeout.
const BACKOFF_MAX: u32 = 6;

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rtt {
    smoothed: Option<Duration>,
    variation: Duration,
    /// Doublings of the timeout until a read is sampled (RFC 6298 §5.7): of what takes longer than the timeout there is no sample.
    backoff: u32,
    expired_at: Option<Instant>,
}

impl Rtt {
    /// Of a read that was sent once. What its node takes for it is a part of the time.
    pub(crate) fn sample_read(&mut self, rtt: Duration) {
        self.backoff = 0;
        self.sample(rtt);
    }

    /// Of any other request that was sent once. That it was quick says nothing of reads, which keep their backoff.
    pub(crate) fn sample(&mut self, rtt: Duration) {
        // Longer ones are of a client that was not running, and would have it wait as long again.
        let rtt = rtt.min(TIMEOUT_MAX);
        match self.smoothed {
            None => {
                self.smoothed = Some(rtt);
                self.variation = rtt / 2;
            }
            Some(smoothed) => {
                self.variation = (self.variation * 3 + smoothed.abs_diff(rtt)) / 4;
                self.smoothed = Some((smoothed * 7 + rtt) / 8);
            }
        }
    }

    /// Nothing came in time of what was sent at `sent_at`. Of all that was on its way together it counts once.
    pub(crate) fn note_expired(&mut self, now: Instant, sent_at: Instant) {
        if self.expired_at.is_none_or(|at| sent_at >= at) {
            self.expired_at = Some(now);
            self.backoff = (self.backoff + 1).min(BACKOFF_MAX);
        }
    }

    /// The smoothed time, or a guess before the first sample.
    pub(crate) fn smoothed(&self) -> Duration {
        self.smoothed.unwrap_or(TIMEOUT_INITIAL / 4)
    }

    /// How long an answer takes at the longest, of what has been in time so far.
    pub(crate) fn usual(&self) -> Duration {
        match self.smoothed {
            None => TIMEOUT_INITIAL,
            Some(smoothed) => (smoothed + self.variation * 4).max(TIMEOUT_MIN),
        }
    }

    /// How long to wait for an answer that has failed to come `attempts` times.
    pub(crate) fn timeout(&self, attempts: u32) -> Duration {
        (self.usual() * (1 << attempts.max(self.backoff).min(BACKOFF_MAX))).min(TIMEOUT_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeout_follows_the_path_and_backs_off() {
        let mut rtt = Rtt::default();
        assert_eq!(rtt.timeout(0), TIMEOUT_INITIAL);
        for _ in 0..50 {
            rtt.sample(Duration::from_millis(40));
        }
        assert_eq!(rtt.smoothed().as_millis(), 40);
        assert!(rtt.timeout(0) < Duration::from_millis(50));
        assert!(rtt.timeout(1) >= rtt.timeout(0) * 2);
        assert_eq!(rtt.timeout(40), TIMEOUT_MAX);
    }

    #[test]
    fn timeout_stays_longer_until_a_sample_comes() {
        let start = Instant::now();
        let mut rtt = Rtt::default();
        rtt.sample(Duration::from_micros(200));
        let usual = rtt.timeout(0);
        rtt.note_expired(start + usual, start);
        rtt.note_expired(start + usual, start + usual / 2);
        assert_eq!(rtt.timeout(0), usual * 2);
        rtt.note_expired(start + usual * 3, start + usual);
        assert_eq!((rtt.timeout(0), rtt.timeout(3)), (usual * 4, usual * 8));
        rtt.sample(Duration::from_micros(200));
        assert_eq!(rtt.timeout(0), usual * 4, "a probe is not a read");
        rtt.sample_read(usual * 2);
        assert!(rtt.timeout(0) > usual * 2 && rtt.timeout(0) < usual * 4);
    }

    #[test]
    fn timeout_never_falls_below_scheduling_noise() {
        let mut rtt = Rtt::default();
        rtt.sample(Duration::from_micros(20));
        assert_eq!(rtt.timeout(0), TIMEOUT_MIN);
    }
}

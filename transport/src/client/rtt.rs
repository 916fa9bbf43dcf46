//! Round-trip time of one path and the timeout that follows from it (RFC 6298, with shorter bounds).

use std::time::Duration;

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
}

impl Rtt {
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

    /// The smoothed time, or a guess before the first sample.
    pub(crate) fn smoothed(&self) -> Duration {
        self.smoothed.unwrap_or(TIMEOUT_INITIAL / 4)
    }

    /// How long to wait for an answer that has failed to come `attempts` times.
    pub(crate) fn timeout(&self, attempts: u32) -> Duration {
        let base = match self.smoothed {
            None => TIMEOUT_INITIAL,
            Some(smoothed) => (smoothed + self.variation * 4).max(TIMEOUT_MIN),
        };
        (base * (1 << attempts.min(BACKOFF_MAX))).min(TIMEOUT_MAX)
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
    fn timeout_never_falls_below_scheduling_noise() {
        let mut rtt = Rtt::default();
        rtt.sample(Duration::from_micros(20));
        assert_eq!(rtt.timeout(0), TIMEOUT_MIN);
    }
}

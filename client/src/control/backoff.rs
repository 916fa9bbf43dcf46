//! Waiting between attempts: exponential, with full jitter, so that clients don't return in step.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(20);
const LONGEST: Duration = Duration::from_secs(1);
/// Short beside an election, so that little is added to a leader's absence.
const ELSEWHERE_MAX: Duration = Duration::from_millis(400);
/// Redirects in a row that are followed without a wait.
const REDIRECTS_MAX: u32 = 2;

/// The delays of one request.
#[derive(Debug)]
pub(crate) struct Backoff {
    ceiling: Duration,
    redirects: u32,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { ceiling: FIRST, redirects: 0 }
    }
}

impl Backoff {
    /// The wait before the next attempt.
    pub(crate) fn next_delay(&mut self) -> Duration {
        let ceiling = self.ceiling;
        self.ceiling = (ceiling * 2).min(LONGEST);
        // At least half of the ceiling, so that a burst of short draws cannot use up a server.
        ceiling.mul_f64(0.5 + fastrand::f64() / 2.0)
    }

    /// The wait before another server is asked: it may lead already.
    pub(crate) fn elsewhere(&mut self) -> Duration {
        self.next_delay().min(ELSEWHERE_MAX)
    }

    /// The wait before following a hint: none, unless hints lead in a circle.
    pub(crate) fn redirected(&mut self) -> Duration {
        self.redirects += 1;
        if self.redirects <= REDIRECTS_MAX {
            return Duration::ZERO;
        }
        self.redirects = 0;
        self.next_delay()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_a_bound() {
        let mut backoff = Backoff::default();
        let delays: Vec<_> = (0..12).map(|_| backoff.next_delay()).collect();
        assert!(delays[0] <= FIRST && delays[0] >= FIRST / 2);
        assert!(delays.iter().all(|delay| *delay <= LONGEST));
        assert!(delays[11] >= LONGEST / 2);
        assert_eq!(backoff.elsewhere(), ELSEWHERE_MAX);
    }

    #[test]
    fn a_circle_of_hints_is_slowed_down() {
        let mut backoff = Backoff::default();
        let waits: Vec<_> = (0..3).map(|_| backoff.redirected()).collect();
        assert!(waits[0].is_zero() && waits[1].is_zero() && !waits[2].is_zero());
    }
}

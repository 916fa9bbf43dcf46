//! How long single operations take.

use std::time::Duration;

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Latencies(Vec<Duration>);

impl Latencies {
    pub(crate) fn note(&mut self, took: Duration) {
        self.0.push(took);
    }

    pub(crate) fn join(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    pub(crate) const fn count(&self) -> usize {
        self.0.len()
    }

    /// The median and the 99th percentile, in microseconds.
    pub(crate) fn p50_p99_us(&mut self) -> (f64, f64) {
        self.0.sort_unstable();
        let at = |share: f64| {
            let place = (self.0.len() as f64 * share) as usize;
            self.0.get(place).map_or(f64::NAN, |took| took.as_secs_f64() * 1e6)
        };
        (at(0.5), at(0.99))
    }
}

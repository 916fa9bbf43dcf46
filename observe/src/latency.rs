//! How long something takes, as a histogram.

use std::time::Duration;

use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};

/// The first bound, in seconds.
const SHORTEST: f64 = 0.000_05;
/// Each bound is this many times the one before it; the last is 6.6 s, which is near the longest deadline.
const FACTOR: f64 = 2.0;
const BOUNDS: u16 = 18;

/// A histogram of durations from 50 µs on. Clones are the same histogram.
#[derive(Clone, Debug)]
pub struct Latency(pub(crate) Histogram);

impl Latency {
    /// Notes that it took this long once more.
    pub fn observe(&self, took: Duration) {
        self.0.observe(took.as_secs_f64());
    }
}

impl Default for Latency {
    fn default() -> Self {
        Self(Histogram::new(exponential_buckets(SHORTEST, FACTOR, BOUNDS)))
    }
}

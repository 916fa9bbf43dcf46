//! The congestion window of one path: bytes that may be outstanding. Additive increase, multiplicative decrease
//! (RFC 5681) with the gentler cut of CUBIC (RFC 9438 §4.6), at most once per round trip.

use std::time::{Duration, Instant};

use crate::datagram::BURST_BYTES_MAX;

/// One burst may always be outstanding.
const BYTES_MIN: u64 = BURST_BYTES_MAX as u64;
const BYTES_INITIAL: u64 = 4 * BYTES_MIN;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    bytes: u64,
    bytes_max: u64,
    slow_start_below: u64,
    cut_at: Option<Instant>,
    outstanding: u64,
}

impl Window {
    pub(crate) fn new(bytes_max: u64) -> Self {
        let bytes_max = bytes_max.max(BYTES_MIN);
        let bytes = BYTES_INITIAL.min(bytes_max);
        Self { bytes, bytes_max, slow_start_below: u64::MAX, cut_at: None, outstanding: 0 }
    }

    /// Whether anything more may be sent. The last burst may go beyond the window, so that one always fits.
    pub(crate) fn has_room(&self) -> bool {
        self.outstanding < self.bytes
    }

    /// `bytes` were sent or asked for.
    pub(crate) fn charge(&mut self, bytes: u64) {
        self.outstanding += bytes;
    }

    /// `bytes` are not outstanding any more, for whatever reason.
    pub(crate) fn discharge(&mut self, bytes: u64) {
        self.outstanding = self.outstanding.saturating_sub(bytes);
    }

    /// `bytes` arrived.
    pub(crate) fn grow(&mut self, bytes: u64) {
        let gain =
            if self.bytes < self.slow_start_below { bytes } else { BYTES_MIN * bytes / self.bytes.max(1) };
        self.bytes = (self.bytes + gain).min(self.bytes_max);
    }

    /// Something was lost.
    pub(crate) fn cut(&mut self, now: Instant, rtt: Duration) {
        if self.cut_at.is_some_and(|at| now < at + rtt) {
            return;
        }
        self.cut_at = Some(now);
        self.bytes = (self.bytes * 7 / 10).max(BYTES_MIN);
        self.slow_start_below = self.bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_loss_event_per_round_trip_cuts_once() {
        let start = Instant::now();
        let rtt = Duration::from_millis(1);
        let mut window = Window::new(10 << 20);
        window.grow(5 << 20);
        let before = window.bytes;
        window.cut(start, rtt);
        window.cut(start + rtt / 2, rtt);
        assert_eq!(window.bytes, before * 7 / 10);
        window.cut(start + rtt, rtt);
        assert!(window.bytes < before * 7 / 10);
    }

    #[test]
    fn a_burst_always_fits() {
        let now = Instant::now();
        let mut window = Window::new(0);
        for i in 0..100 {
            window.cut(now + Duration::from_secs(i), Duration::from_millis(1));
        }
        assert!(window.has_room());
        window.charge(BYTES_MIN);
        assert!(!window.has_room());
        window.discharge(BYTES_MIN);
        assert!(window.has_room());
    }
}

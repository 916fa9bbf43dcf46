//! Whether a path takes super-packets: datagrams that the kernel or the card segments and merges (UDP_SEGMENT, UDP_GRO).
//!
//! Released kernels and cards damage the last segment of one, refuse one, or lose all of it. Nothing wrong gets past the
//! checksums; but the path would never be as fast as one datagram at a time, or come to nothing. So every burst is a check, and a
//! path that fails it goes on with single datagrams, both ways.

use std::time::{Duration, Instant};

/// Bursts in a row without their last datagram. With one datagram of three lost, that happens by chance in one of 40 million runs.
const CUT_SHORT_MAX: u32 = 16;
/// Times in a row that a batch came to nothing, and passed one datagram at a time.
const STALLS_MAX: u32 = 3;
/// When super-packets are tried again.
const RETRY_AFTER: Duration = Duration::from_secs(600);

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Offload {
    off_since: Option<Instant>,
    cut_short: u32,
    stalls: u32,
    stalled_at: Option<Instant>,
}

impl Offload {
    /// Whether datagrams have to travel one by one.
    pub(crate) fn is_off(&self) -> bool {
        self.off_since.is_some()
    }

    /// A burst came with its last datagram.
    pub(crate) fn note_whole(&mut self) {
        self.cut_short = 0;
    }

    /// A burst came without its last datagram.
    pub(crate) fn note_cut_short(&mut self, now: Instant) {
        self.cut_short += 1;
        if self.cut_short >= CUT_SHORT_MAX {
            self.turn_off(now);
        }
    }

    /// A part of a super-packet came.
    pub(crate) fn note_passed(&mut self) {
        self.stalls = 0;
    }

    /// A batch has come to nothing, and passed one datagram at a time. Those of one moment count as one: a node that was busy lets down
    /// all that were on their way.
    pub(crate) fn note_stall(&mut self, now: Instant, moment: Duration) {
        if self.stalled_at.is_some_and(|at| now < at + moment) {
            return;
        }
        self.stalled_at = Some(now);
        self.stalls += 1;
        if self.stalls >= STALLS_MAX {
            self.turn_off(now);
        }
    }

    /// Tries again, if it is time.
    pub(crate) fn retry(&mut self, now: Instant) {
        if self.off_since.is_some_and(|at| now >= at + RETRY_AFTER) {
            *self = Self::default();
        }
    }

    fn turn_off(&mut self, now: Instant) {
        if self.off_since.is_none() {
            *self = Self { off_since: Some(now), ..Self::default() };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chance_does_not_turn_it_off_and_a_pattern_does() {
        let start = Instant::now();
        let mut offload = Offload::default();
        for i in 0..1000 {
            offload.note_cut_short(start);
            if i % 10 == 0 {
                offload.note_whole();
            }
        }
        assert!(!offload.is_off());
        let moment = Duration::from_millis(10);
        for i in 0..STALLS_MAX * 2 {
            offload.note_stall(start + moment * i / (STALLS_MAX * 2), moment);
        }
        assert_eq!(offload.stalls, 1, "they were of one moment");
        offload.note_stall(start + moment, moment);
        assert!(!offload.is_off());
        offload.note_passed();
        offload.note_stall(start + moment * 2, moment);
        offload.note_stall(start + moment * 3, moment);
        assert!(!offload.is_off());
        offload.note_stall(start + moment * 4, moment);
        assert!(offload.is_off());
        offload.retry(start + RETRY_AFTER);
        assert!(offload.is_off());
        offload.retry(start + moment * 4 + RETRY_AFTER);
        assert!(!offload.is_off());
        (0..CUT_SHORT_MAX).for_each(|_| offload.note_cut_short(start));
        assert!(offload.is_off());
    }
}

//! The congestion window of one path: bytes that may be outstanding.
//!
//! It grows as in RFC 5681 while it is used, and two signs make it smaller. Losses cut it as in CUBIC (RFC 9438 §4.6), unless
//! they are so few that they are the path's noise. A standing queue does so before anything is lost: see [`Delay`]. Below one
//! burst, bursts get smaller, so that a path is asked for less than a burst in a round trip.

mod delay;

use std::time::{Duration, Instant};

use self::delay::{Delay, Queue};
use crate::datagram::BURST_BYTES_MAX;

const BURST: u64 = BURST_BYTES_MAX as u64;
/// Of a path that loses much, or whose queue stands: a few pieces of any class.
const BYTES_MIN: u64 = 8 << 10;
const BYTES_INITIAL: u64 = 2 * BURST;
/// One byte of so many may be lost before it counts as a sign of congestion (BBRv3 takes one in 50).
const NOISE: u64 = 50;
/// How much a window grows in a round trip, whatever its size, so that windows on one path become equal. A whole burst would be too
/// much for a queue that holds few.
pub(super) const GAIN_BYTES: u64 = 8 << 10;
/// How often a window rests, and for how many round trips at most.
const REST_EVERY: Duration = Duration::from_secs(1);
const REST_RTTS_MAX: u32 = 8;
/// What arrived and what was lost is forgotten by half whenever so much has come.
const MEMORY_BYTES: u64 = 16 * BURST;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    bytes: u64,
    bytes_max: u64,
    slow_start_below: u64,
    cut_at: Option<Instant>,
    outstanding: u64,
    arrived: u64,
    lost: u64,
    delay: Delay,
    /// Since when it asks for one burst at a time, so that its own queue runs empty and all who share the path see its delay.
    rests_since: Option<Instant>,
    rested_at: Option<Instant>,
}

impl Window {
    pub(crate) fn new(bytes_max: u64) -> Self {
        let bytes_max = bytes_max.max(BURST);
        Self {
            bytes: BYTES_INITIAL.min(bytes_max),
            bytes_max,
            slow_start_below: u64::MAX,
            cut_at: None,
            outstanding: 0,
            arrived: 0,
            lost: 0,
            delay: Delay::default(),
            rests_since: None,
            rested_at: None,
        }
    }

    /// Whether anything more may be sent. The last burst may go beyond the window, so that one always fits.
    pub(crate) fn has_room(&self) -> bool {
        let bytes = if self.rests_since.is_some() { self.burst_bytes() } else { self.bytes };
        self.outstanding < bytes
    }

    pub(crate) fn outstanding(&self) -> u64 {
        self.outstanding
    }

    /// How many bytes to ask for at once.
    pub(crate) fn burst_bytes(&self) -> u64 {
        self.bytes.min(BURST)
    }

    /// `bytes` were sent or asked for.
    pub(crate) fn charge(&mut self, bytes: u64) {
        self.outstanding += bytes;
    }

    /// `bytes` are not outstanding any more, for whatever reason.
    pub(crate) fn discharge(&mut self, bytes: u64) {
        self.outstanding = self.outstanding.saturating_sub(bytes);
    }

    /// `bytes` arrived, which are no longer among the outstanding ones.
    pub(crate) fn grow(&mut self, now: Instant, rtt: Duration, bytes: u64) {
        self.arrived += bytes;
        if let Some(since) = self.rests_since {
            if now >= since + rtt * REST_RTTS_MAX {
                self.rests_since = None;
            }
            return;
        }
        if self.arrived >= MEMORY_BYTES {
            (self.arrived, self.lost) = (self.arrived / 2, self.lost / 2);
        }
        // What isn't used says nothing about what would fit.
        let is_used = (self.outstanding + bytes) * 2 >= self.bytes;
        let queue = self.delay.queue(now, rtt);
        if !is_used || queue == Queue::Stands {
            return;
        }
        let in_slow_start = self.bytes < self.slow_start_below && queue == Queue::Empty;
        let gain = if in_slow_start { bytes } else { GAIN_BYTES * bytes / self.bytes.max(1) };
        self.bytes = (self.bytes + gain).min(self.bytes_max);
    }

    /// `bytes` were lost.
    pub(crate) fn note_loss(&mut self, now: Instant, rtt: Duration, bytes: u64) {
        self.lost += bytes;
        if self.lost * NOISE <= self.arrived + self.lost {
            return;
        }
        self.cut(now, rtt, self.bytes * 7 / 10);
    }

    /// A burst took so long, without what the node needed to answer.
    pub(crate) fn note_delay(&mut self, now: Instant, rtt: Duration, sent_at: Instant, delay: Duration) {
        self.rest_now_and_then(now, sent_at);
        if let Some(cut) = self.delay.sample(now, rtt, delay) {
            let left = (self.bytes as f64 * (1.0 - cut)) as u64;
            self.cut(now, rtt, left);
        }
    }

    /// Whoever comes to a queue takes it for a part of the path, and would drive out those who know better. So all let it run empty
    /// at times (as BBR's ProbeRTT).
    fn rest_now_and_then(&mut self, now: Instant, sent_at: Instant) {
        let rested_at = *self.rested_at.get_or_insert(now);
        match self.rests_since {
            Some(since) if sent_at > since => self.rests_since = None,
            None if now >= rested_at + REST_EVERY => {
                (self.rests_since, self.rested_at) = (Some(now), Some(now));
            }
            Some(_) | None => {}
        }
    }

    fn cut(&mut self, now: Instant, rtt: Duration, left: u64) {
        if self.cut_at.is_some_and(|at| now < at + rtt) {
            return;
        }
        self.cut_at = Some(now);
        self.bytes = left.clamp(BYTES_MIN, self.bytes.max(BYTES_MIN));
        self.slow_start_below = self.bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RTT: Duration = Duration::from_millis(1);

    /// A window that was used in full up to `bytes`.
    fn grown(bytes: u64) -> Window {
        let mut window = Window::new(bytes);
        while window.bytes < bytes {
            window.outstanding = window.bytes;
            window.grow(Instant::now(), RTT, BURST);
        }
        window.outstanding = 0;
        window
    }

    #[test]
    fn one_loss_event_per_round_trip_cuts_once() {
        let start = Instant::now();
        let mut window = grown(5 << 20);
        let before = window.bytes;
        window.note_loss(start, RTT, BURST);
        window.note_loss(start + RTT / 2, RTT, BURST);
        assert_eq!(window.bytes, before * 7 / 10);
        window.note_loss(start + RTT, RTT, BURST);
        assert!(window.bytes < before * 7 / 10);
    }

    #[test]
    fn a_few_losses_are_noise() {
        let start = Instant::now();
        let mut window = grown(2 << 20);
        let before = window.bytes;
        for i in 0..1000 {
            window.grow(start, RTT, 100_000);
            window.note_loss(start + RTT * i, RTT, 1000);
        }
        assert_eq!(window.bytes, before);
        for i in 1000..1010 {
            window.grow(start, RTT, 10_000);
            window.note_loss(start + RTT * i, RTT, 2000);
        }
        assert!(window.bytes < before);
    }

    #[test]
    fn a_burst_always_fits_and_gets_smaller_with_the_window() {
        let now = Instant::now();
        let mut window = Window::new(0);
        assert_eq!(window.burst_bytes(), BURST);
        for i in 0..100 {
            window.note_loss(now + Duration::from_secs(i), RTT, BURST);
        }
        assert_eq!(window.burst_bytes(), BYTES_MIN);
        assert!(window.has_room());
        window.charge(BYTES_MIN);
        assert!(!window.has_room());
        window.discharge(BYTES_MIN);
        assert!(window.has_room());
    }

    #[test]
    fn what_is_not_used_does_not_grow() {
        let mut window = Window::new(10 << 20);
        for _ in 0..1000 {
            window.grow(Instant::now(), RTT, 1000);
        }
        assert_eq!(window.bytes, BYTES_INITIAL);
    }

    #[test]
    fn it_rests_every_second_until_a_burst_has_gone_through_alone() {
        let start = Instant::now();
        let mut window = grown(2 << 20);
        window.note_delay(start, RTT, start, RTT);
        window.charge(BURST);
        assert!(window.has_room());
        let rest = start + REST_EVERY;
        window.note_delay(rest, RTT, start, RTT);
        assert!(!window.has_room());
        window.note_delay(rest + RTT, RTT, rest, RTT);
        assert!(!window.has_room(), "it was sent before");
        window.note_delay(rest + RTT * 2, RTT, rest + RTT, RTT);
        assert!(window.has_room());
        window.note_delay(rest + REST_EVERY, RTT, rest, RTT);
        assert!(!window.has_room());
        window.grow(rest + REST_EVERY + RTT * REST_RTTS_MAX, RTT, 1000);
        assert!(window.has_room(), "it doesn't wait for ever");
    }

    #[test]
    fn a_standing_queue_makes_it_smaller_and_one_late_burst_does_not() {
        let start = Instant::now();
        let mut window = grown(2 << 20);
        let before = window.bytes;
        for i in 0..100 {
            let late = if i % 3 == 0 { RTT * 20 } else { RTT };
            window.note_delay(start + RTT * i / 4, RTT, start, late);
        }
        assert_eq!(window.bytes, before, "some of each round trip were in time");
        for i in 100..140 {
            window.note_delay(start + RTT * i / 4, RTT, start, RTT * 20);
        }
        assert!(window.bytes < before / 4, "{} of {before}", window.bytes);
        assert!(window.bytes >= BYTES_MIN);
    }
}

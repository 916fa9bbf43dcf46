//! Whether a queue stands on a path, from how long bursts take (after Swift, Kumar et al. 2020, and the standing round-trip time of
//! Copa, Arun and Balakrishnan 2018).
//!
//! Invariant: only the least delay of a round trip counts. A late burst says that somebody was not scheduled, on hosts that have
//! other things to do; a queue delays all.

use std::time::{Duration, Instant};

/// How far a burst may lie above the path's own delay; a share of that on long paths. Above the scheduling noise of a busy
/// host, and a quarter of what a small switch can hold at 10 Gbit/s.
const QUEUE_MAX: Duration = Duration::from_millis(1);
const QUEUE_SHARE: u32 = 4;
/// The path's own delay is the least of the last one or two of these, since paths change.
const BASE_KEPT: Duration = Duration::from_secs(5);
/// Bursts that a round trip takes at least.
const SAMPLES_MIN: u32 = 3;
/// How hard a queue is cut, and the most at once (Swift's β and max_mdf).
const CUT: f64 = 0.8;
const CUT_MAX: f64 = 0.5;
/// Round trips after which a queue that stood may be gone. Bursts of one piece say nothing of it.
const STANDS_RTTS_MAX: u32 = 8;

/// What the last whole round trip said.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) enum Queue {
    #[default]
    Empty,
    /// It has begun to build up.
    Builds,
    Stands,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Delay {
    /// The least of this period and of the one before.
    least: [Option<Duration>; 2],
    period_began: Option<Instant>,
    round: Option<Round>,
    queue: Queue,
    said_at: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Round {
    ends: Instant,
    least: Duration,
    samples: u32,
}

impl Delay {
    pub(super) fn queue(&self, now: Instant, rtt: Duration) -> Queue {
        let is_old = self.said_at.is_none_or(|at| now > at + rtt * STANDS_RTTS_MAX);
        if is_old && self.queue == Queue::Stands { Queue::Builds } else { self.queue }
    }

    /// A burst took so long. Answers what part to cut, if a round trip ends that had a queue all the time.
    pub(super) fn sample(&mut self, now: Instant, rtt: Duration, delay: Duration) -> Option<f64> {
        let base = self.base(now, delay);
        let round = self.round.get_or_insert(Round { ends: now + rtt, least: delay, samples: 0 });
        round.least = round.least.min(delay);
        round.samples += 1;
        // Few bursts could have been late by themselves.
        if now < round.ends || round.samples < SAMPLES_MIN {
            return None;
        }
        let least = round.least;
        self.round = None;
        self.said_at = Some(now);
        let may_wait = QUEUE_MAX.max(base / QUEUE_SHARE);
        let target = base + may_wait;
        if least <= target {
            self.queue = if least <= base + may_wait / 2 { Queue::Empty } else { Queue::Builds };
            return None;
        }
        self.queue = Queue::Stands;
        let excess = (least - target).as_secs_f64() / least.as_secs_f64();
        Some((CUT * excess).min(CUT_MAX))
    }

    /// The path's own delay, with this sample.
    fn base(&mut self, now: Instant, delay: Duration) -> Duration {
        let began = *self.period_began.get_or_insert(now);
        if now >= began + BASE_KEPT {
            self.least = [None, self.least[0]];
            self.period_began = Some(now);
        }
        let least = self.least[0].map_or(delay, |least| least.min(delay));
        self.least[0] = Some(least);
        self.least[1].map_or(least, |earlier| earlier.min(least))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_longer_path_is_no_queue_for_ever() {
        let start = Instant::now();
        let mut delay = Delay::default();
        for i in 0..100 {
            assert_eq!(delay.sample(start + MS * i, MS, MS), None);
        }
        let cuts_from = |delay: &mut Delay, from: u32| {
            (from..from + 1000).filter(|i| delay.sample(start + MS * *i, MS, MS * 5).is_some()).count()
        };
        assert!(cuts_from(&mut delay, 100) > 100);
        for i in 1100..40_000 {
            let _cut = delay.sample(start + MS * i, MS, MS * 5);
        }
        assert_eq!(cuts_from(&mut delay, 40_000), 0);
        assert_eq!(delay.queue(start + MS * 41_000, MS), Queue::Empty);
    }

    #[test]
    fn a_queue_that_nobody_has_seen_of_late_may_be_gone() {
        let start = Instant::now();
        let mut delay = Delay::default();
        for i in 0..20 {
            let took = if i < 10 { MS } else { MS * 20 };
            let _cut = delay.sample(start + MS * i, MS, took);
        }
        assert_eq!(delay.queue(start + MS * 20, MS), Queue::Stands);
        assert_eq!(delay.queue(start + MS * 40, MS), Queue::Builds);
    }

    #[test]
    fn a_cut_follows_the_excess() {
        let start = Instant::now();
        let check = |late: Duration, expect: f64| {
            let mut delay = Delay::default();
            let mut at = start;
            let mut next = |delay: &mut Delay, value| {
                at += MS;
                delay.sample(at, MS, value)
            };
            for _ in 0..6 {
                next(&mut delay, MS);
            }
            let cut = (0..6).find_map(|_| next(&mut delay, late)).unwrap_or(0.0);
            assert!((cut - expect).abs() < 1e-9, "{late:?}: {cut}");
        };
        check(MS * 2, 0.0);
        check(Duration::from_micros(2500), 0.8 * 0.2);
        check(MS * 100, 0.5);
    }
}

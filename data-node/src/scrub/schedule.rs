//! When the scrub reads: how fast, when the next pass begins, and whether an operator holds it. Pure: the time is told.
//!
//! Invariant: from any moment on, no more is read than the rate allows for the time since, and one step.

use std::time::{Duration, Instant};

use xdpfs_proto::meta::v1::{ScrubAction, ScrubStatus, scrub_status::State};

use super::{ScrubConfig, pass::Pass, record::Record};
use crate::store::ScrubStep;

/// This moment, on both clocks: what is paced goes by the first, what outlasts a restart by the other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now {
    pub(super) at: Instant,
    pub(super) unix_ms: u64,
}

/// What to do next.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Act {
    /// Read on.
    Step,
    /// Nothing for so long, or until there is news.
    Wait(Option<Duration>),
}

/// Decides.
#[derive(Debug)]
pub(super) struct Schedule {
    config: ScrubConfig,
    is_held: bool,
    /// The pass under way, and the segment that it is at.
    pass: Option<(Pass, u32)>,
    last: Option<Pass>,
    /// A pass was asked for.
    is_wanted: bool,
    /// What was read is paid for then. None: nothing was.
    ready_at: Option<Instant>,
}

impl Schedule {
    pub(super) fn new(config: ScrubConfig, record: Record) -> Self {
        let Record { is_held, pass, last } = record;
        Self { config, is_held, pass, last, is_wanted: false, ready_at: None }
    }

    /// What to do now. A pass that is due begins.
    pub(super) fn act(&mut self, now: Now) -> Act {
        if self.config.bytes_per_second == 0 || self.is_held {
            return Act::Wait(None);
        }
        if self.pass.is_none() {
            let wait = self.due_ms(now).saturating_sub(now.unix_ms);
            if wait > 0 {
                return Act::Wait(Some(Duration::from_millis(wait)));
            }
            self.is_wanted = false;
            self.pass = Some((Pass::beginning(now.unix_ms), 0));
        }
        match self.ready_at.and_then(|ready_at| ready_at.checked_duration_since(now.at)) {
            Some(wait) if !wait.is_zero() => Act::Wait(Some(wait)),
            _ => Act::Step,
        }
    }

    /// A step that took from `began` to `now`, and left the walk at `segment` with so much ahead.
    pub(super) fn note(&mut self, step: ScrubStep, segment: u32, bytes_ahead: u64, began: Now, now: Now) {
        // Time in which nothing was read is not made up for.
        let since = self.ready_at.map_or(began.at, |ready_at| ready_at.max(began.at));
        self.ready_at = Some(since + self.time_for(step.bytes));
        let Some((pass, at)) = &mut self.pass else { return };
        pass.add(&step);
        (*at, pass.ahead_bytes) = (segment, bytes_ahead);
        if step.is_end {
            self.last = self.pass.take().map(|(pass, _)| Pass { end_ms: now.unix_ms.max(1), ..pass });
        }
    }

    pub(super) fn order(&mut self, action: ScrubAction, now: Now) {
        match action {
            ScrubAction::Unspecified => {}
            ScrubAction::Start => {
                self.is_held = false;
                self.is_wanted = self.pass.is_none();
            }
            ScrubAction::Pause => self.is_held = true,
            ScrubAction::Resume => self.is_held = false,
        }
        self.ready_at = self.ready_at.filter(|ready_at| *ready_at > now.at);
    }

    pub(super) fn configure(&mut self, config: ScrubConfig, now: Now) {
        // What was read at a low rate would take long to be paid for.
        if self.config.bytes_per_second != config.bytes_per_second {
            self.ready_at = Some(now.at);
        }
        self.config = config;
    }

    /// Where the pass under way goes on.
    pub(super) fn segment(&self) -> u32 {
        self.pass.map_or(0, |(_, segment)| segment)
    }

    pub(super) const fn is_under_way(&self) -> bool {
        self.pass.is_some()
    }

    pub(super) const fn last_pass(&self) -> Option<Pass> {
        self.last
    }

    pub(super) const fn record(&self) -> Record {
        Record { is_held: self.is_held, pass: self.pass, last: self.last }
    }

    pub(super) fn status(&self, now: Now) -> ScrubStatus {
        let state = match () {
            () if self.config.bytes_per_second == 0 => State::Off,
            () if self.is_held => State::Paused,
            () if self.pass.is_some() => State::Running,
            () => State::Waiting,
        };
        let pass = self.pass.map(|(pass, _)| pass).unwrap_or_default();
        let all = u128::from(pass.passed_bytes) + u128::from(pass.ahead_bytes);
        let percent = u128::from(pass.passed_bytes) * 100 / all.max(1);
        ScrubStatus {
            state: state.into(),
            pass: self.pass.map(|(pass, _)| pass.to_proto()),
            percent: u32::try_from(percent).unwrap_or(100),
            last_pass: self.last.map(Pass::to_proto),
            next_pass_time_ms: if state == State::Waiting { self.due_ms(now) } else { 0 },
            rate_bytes_per_s: self.config.bytes_per_second,
        }
    }

    /// A last pass in the future is the work of a clock that was wrong then or is now.
    fn due_ms(&self, now: Now) -> u64 {
        let interval = u64::try_from(self.config.interval.as_millis()).unwrap_or(u64::MAX);
        match self.last {
            Some(last) if !self.is_wanted => last.end_ms.min(now.unix_ms).saturating_add(interval),
            _ => now.unix_ms,
        }
    }

    fn time_for(&self, bytes: u64) -> Duration {
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.config.bytes_per_second.max(1));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX / 2))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: u64 = 1 << 20;
    const CONFIG: ScrubConfig = ScrubConfig { bytes_per_second: RATE, interval: Duration::from_secs(1000) };

    /// Two clocks that stand still until they are moved.
    struct Clock(Now);

    impl Clock {
        fn new() -> Self {
            Self(Now { at: Instant::now(), unix_ms: 1_000_000 })
        }

        fn pass(&mut self, time: Duration) -> Now {
            self.0.at += time;
            self.0.unix_ms += u64::try_from(time.as_millis()).unwrap();
            self.0
        }
    }

    fn step(bytes: u64) -> ScrubStep {
        ScrubStep { bytes, chunks: 1, passed_bytes: bytes, ..ScrubStep::default() }
    }

    const END: ScrubStep = ScrubStep {
        bytes: 0,
        chunks: 0,
        passed_bytes: 0,
        damaged_chunks: 0,
        damaged_places: 0,
        read_errors: 0,
        is_end: true,
    };

    #[test]
    fn rate_is_kept_over_any_stretch_of_time() {
        let mut clock = Clock::new();
        let mut schedule = Schedule::new(CONFIG, Record::default());
        let sizes = [1 << 20, 5, 300_000, 1 << 20, 64 << 10];
        let mut reads: Vec<(Instant, u64)> = Vec::new();
        let end = clock.0.at + Duration::from_secs(60);
        let mut turn = 0;
        while clock.0.at < end {
            match schedule.act(clock.0) {
                Act::Wait(time) => drop(clock.pass(time.expect("a pass is under way"))),
                Act::Step => {
                    let began = clock.0;
                    let bytes = sizes[turn % sizes.len()];
                    // Now and then the disk is slower than the rate.
                    let took = if turn % 7 == 3 { 1500 } else { 2 };
                    let now = clock.pass(Duration::from_millis(took));
                    schedule.note(step(bytes), 1, 0, began, now);
                    reads.push((began.at, bytes));
                    turn += 1;
                }
            }
        }
        for (place, (from, _)) in reads.iter().enumerate() {
            let mut sum = 0;
            for (at, bytes) in &reads[place..] {
                let allowed = (*at - *from).as_secs_f64() * RATE as f64;
                assert!(sum as f64 <= allowed + (1 << 20) as f64 + 1.0, "{sum} bytes in {:?}", *at - *from);
                sum += bytes;
            }
        }
        let sum: u64 = reads.iter().map(|(_, bytes)| bytes).sum();
        assert!(sum > 30 * RATE, "and it isn't much slower: {sum}");
    }

    #[test]
    fn passes_follow_each_other_after_a_pause() {
        let mut clock = Clock::new();
        let mut schedule = Schedule::new(CONFIG, Record::default());
        assert_eq!(schedule.act(clock.0), Act::Step, "the first is due at once");
        schedule.note(step(RATE), 3, RATE, clock.0, clock.0);
        let status = schedule.status(clock.0);
        assert_eq!((status.state(), status.percent), (State::Running, 50));
        assert_eq!((schedule.segment(), schedule.record().pass.unwrap().1), (3, 3));
        schedule.note(END, 3, 0, clock.0, clock.0);
        assert_eq!(schedule.act(clock.0), Act::Wait(Some(CONFIG.interval)));
        let status = schedule.status(clock.0);
        assert_eq!((status.state(), status.pass), (State::Waiting, None));
        assert_eq!(status.last_pass.unwrap().bytes, RATE);
        assert_eq!(status.next_pass_time_ms, clock.0.unix_ms + 1_000_000);
        // A restart doesn't change when the next one is due.
        let mut schedule = Schedule::new(CONFIG, schedule.record());
        clock.pass(CONFIG.interval / 2);
        assert_eq!(schedule.act(clock.0), Act::Wait(Some(CONFIG.interval / 2)));
        clock.pass(CONFIG.interval / 2);
        assert_eq!(schedule.act(clock.0), Act::Step);
        assert_eq!(schedule.segment(), 0, "from the beginning");
    }

    #[test]
    fn pass_that_a_restart_interrupts_goes_on() {
        let clock = Clock::new();
        let mut schedule = Schedule::new(CONFIG, Record::default());
        assert_eq!(schedule.act(clock.0), Act::Step);
        schedule.note(step(7), 5, 93, clock.0, clock.0);
        let mut schedule = Schedule::new(CONFIG, schedule.record());
        assert_eq!(schedule.status(clock.0).percent, 7 * 100 / (7 + 93));
        assert_eq!((schedule.act(clock.0), schedule.segment()), (Act::Step, 5));
        schedule.note(END, 5, 0, clock.0, clock.0);
        assert_eq!(schedule.last_pass().map(|pass| pass.bytes), Some(7));
    }

    #[test]
    fn operators_hold_start_and_resume() {
        let mut clock = Clock::new();
        let mut schedule = Schedule::new(CONFIG, Record::default());
        assert_eq!(schedule.act(clock.0), Act::Step);
        schedule.note(step(10), 1, 10, clock.0, clock.0);
        let now = clock.pass(Duration::from_secs(1));
        schedule.order(ScrubAction::Pause, now);
        assert_eq!((schedule.act(now), schedule.status(now).state()), (Act::Wait(None), State::Paused));
        let mut schedule = Schedule::new(CONFIG, schedule.record());
        assert_eq!(schedule.act(now), Act::Wait(None), "also after a restart");
        schedule.order(ScrubAction::Resume, now);
        assert_eq!(schedule.act(now), Act::Step);
        schedule.note(END, 1, 0, now, now);
        assert!(matches!(schedule.act(now), Act::Wait(Some(_))));
        schedule.order(ScrubAction::Resume, now);
        assert!(matches!(schedule.act(now), Act::Wait(Some(_))), "there is nothing to resume");
        schedule.order(ScrubAction::Start, now);
        assert_eq!((schedule.act(now), schedule.segment()), (Act::Step, 0));
        schedule.order(ScrubAction::Pause, now);
        schedule.order(ScrubAction::Start, now);
        assert_eq!(schedule.act(now), Act::Step);
        schedule.note(END, 1, 0, now, now);
        assert!(matches!(schedule.act(now), Act::Wait(Some(_))), "one start is one pass");
    }

    #[test]
    fn rate_of_zero_is_no_scrub() {
        let clock = Clock::new();
        let off = ScrubConfig { bytes_per_second: 0, ..CONFIG };
        let mut schedule = Schedule::new(off, Record::default());
        schedule.order(ScrubAction::Start, clock.0);
        assert_eq!((schedule.act(clock.0), schedule.status(clock.0).state()), (Act::Wait(None), State::Off));
        schedule.configure(CONFIG, clock.0);
        assert_eq!(schedule.act(clock.0), Act::Step);
    }

    #[test]
    fn clock_that_was_wrong_puts_nothing_off_for_long() {
        let clock = Clock::new();
        let last = Pass { end_ms: u64::MAX, ..Pass::default() };
        let mut schedule = Schedule::new(CONFIG, Record { last: Some(last), ..Record::default() });
        assert_eq!(schedule.act(clock.0), Act::Wait(Some(CONFIG.interval)));
    }
}

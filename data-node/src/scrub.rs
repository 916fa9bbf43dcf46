//! The scrub: all that the store serves is read and checked, over and over, at a set rate, so that damage is found while other
//! replicas are there to repair it from.
//!
//! Invariant: when to read is decided by `schedule`, which is pure; what, by the store. A thread of its own does both, so that
//! nobody waits for it. It may be killed at any time: what it keeps on the disk only says where to go on.

mod each_disk;
mod pass;
mod record;
mod schedule;

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use xdpfs_observe::{Scrape, catalogue as names};
use xdpfs_proto::meta::v1::{ScrubAction, ScrubStatus, scrub_status::State};

pub(crate) use self::each_disk::{ScrubHandles, Scrubbers};
use self::{
    record::Record,
    schedule::{Act, Now, Schedule},
};
use crate::store::{Scrub, ScrubStep, Store};

/// The file that says where to go on, in the directory of the disk.
const FILE: &str = "scrub";
/// Between two such notes while a pass is under way.
const NOTE_INTERVAL: Duration = Duration::from_secs(30);

/// How hard the scrub works.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ScrubConfig {
    /// Bytes of chunks that are read from each disk in a second, at most. Zero: there is no scrub.
    pub bytes_per_second: u64,
    /// From the end of a pass to the next one.
    pub interval: Duration,
}

impl Default for ScrubConfig {
    fn default() -> Self {
        Self { bytes_per_second: 8 << 20, interval: Duration::from_secs(7 * 86_400) }
    }
}

/// The scrub of a store. Its thread ends when it is stopped or dropped.
#[derive(Debug)]
pub(crate) struct Scrubber {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// What others see of a scrub, and how they steer it. Clones are of the same one.
#[derive(Clone, Debug)]
pub(crate) struct ScrubHandle(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    desk: Mutex<Desk>,
    changed: Condvar,
}

#[derive(Debug)]
struct Desk {
    schedule: Schedule,
    /// Of all passes since the start.
    total: ScrubStep,
    /// The number of the last order that was carried out.
    order_done: u64,
    is_stopped: bool,
    /// What to do next may be something else by now.
    has_news: bool,
    /// Something has happened that should be found after a restart.
    is_noteworthy: bool,
}

impl Scrubber {
    /// Starts it, where it left off.
    pub(crate) fn spawn(store: Store, directory: &Path, config: ScrubConfig) -> io::Result<Self> {
        let file = directory.join(FILE);
        let schedule = Schedule::new(config, Record::read(&file));
        let (total, order_done) = (ScrubStep::default(), 0);
        let desk =
            Desk { schedule, total, order_done, is_stopped: false, has_news: false, is_noteworthy: false };
        let shared = Arc::new(Shared { desk: Mutex::new(desk), changed: Condvar::new() });
        let worker =
            Worker { shared: Arc::clone(&shared), store, file, walk: None, noted_at: Instant::now() };
        let thread = thread::Builder::new().name("store-scrub".into()).spawn(move || worker.run())?;
        Ok(Self { shared, thread: Some(thread) })
    }

    pub(crate) fn handle(&self) -> ScrubHandle {
        ScrubHandle(Arc::clone(&self.shared))
    }

    /// Blocks until the step that is under way has ended.
    fn stop(&mut self) {
        self.shared.desk().is_stopped = true;
        self.shared.changed.notify_all();
        if let Some(Err(_)) = self.thread.take().map(JoinHandle::join) {
            tracing::error!("the scrub has died");
        }
    }
}

impl Drop for Scrubber {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ScrubHandle {
    /// How it is.
    pub(crate) fn status(&self) -> ScrubStatus {
        self.0.desk().schedule.status(now())
    }

    /// The number of the last order that was carried out.
    pub(crate) fn order_done(&self) -> u64 {
        self.0.desk().order_done
    }

    /// Does what an operator wants, once for each number.
    pub(crate) fn order(&self, number: u64, action: ScrubAction) {
        let mut desk = self.0.desk();
        if desk.order_done == number {
            return;
        }
        tracing::info!(action = action.as_str_name(), "an operator steers the scrub");
        desk.schedule.order(action, now());
        desk.order_done = number;
        (desk.has_news, desk.is_noteworthy) = (true, true);
        drop(desk);
        self.0.changed.notify_all();
    }

    /// From here on with these values.
    pub(crate) fn configure(&self, config: ScrubConfig) {
        let mut desk = self.0.desk();
        desk.schedule.configure(config, now());
        desk.has_news = true;
        drop(desk);
        self.0.changed.notify_all();
    }

    pub(crate) fn collect(&self, scrape: &mut Scrape<'_>) {
        let (total, status) = {
            let desk = self.0.desk();
            (desk.total, desk.schedule.status(now()))
        };
        for (metric, count) in [
            (&names::SCRUB_BYTES, total.bytes),
            (&names::SCRUB_CHUNKS, total.chunks),
            (&names::SCRUB_DAMAGED, total.damaged_chunks),
            (&names::SCRUB_PLACES, total.damaged_places),
            (&names::SCRUB_READ_ERRORS, total.read_errors),
        ] {
            scrape.counter(metric, count);
        }
        let is_under_way = matches!(status.state(), State::Running | State::Paused) && status.pass.is_some();
        let done = if is_under_way { f64::from(status.percent) / 100.0 } else { 0.0 };
        scrape.gauge(&names::SCRUB_PROGRESS, done);
        if let Some(last) = status.last_pass {
            scrape.gauge(&names::SCRUB_LAST_END, last.end_time_ms as f64 / 1000.0);
        }
    }
}

/// The thread's own.
struct Worker {
    shared: Arc<Shared>,
    store: Store,
    file: PathBuf,
    walk: Option<Scrub>,
    noted_at: Instant,
}

impl Worker {
    fn run(mut self) {
        while let Some(act) = self.next() {
            self.note();
            match act {
                Act::Step => self.step(),
                Act::Wait(time) => self.wait(time),
            }
        }
        self.shared.desk().is_noteworthy = true;
        self.note();
    }

    /// None: it shall end.
    fn next(&self) -> Option<Act> {
        let mut desk = self.shared.desk();
        desk.has_news = false;
        if desk.is_stopped { None } else { Some(desk.schedule.act(now())) }
    }

    /// Sleeps, unless there is news.
    fn wait(&self, time: Option<Duration>) {
        let desk = self.shared.desk();
        // Between the decision to wait and this lock there may have been some.
        if desk.is_stopped || desk.has_news {
            return;
        }
        let longest = time.unwrap_or(Duration::from_secs(3600));
        drop(self.shared.changed.wait_timeout(desk, longest));
    }

    fn step(&mut self) {
        let began = now();
        let from = self.shared.desk().schedule.segment();
        let walk = self.walk.get_or_insert_with(|| self.store.scrub(from));
        let step = walk.step();
        let (segment, bytes_ahead) = (walk.segment(), walk.bytes_ahead());
        let mut desk = self.shared.desk();
        desk.total.add(step);
        desk.schedule.note(step, segment, bytes_ahead, began, now());
        if step.is_end {
            self.walk = None;
            desk.is_noteworthy = true;
            if let Some(pass) = desk.schedule.last_pass() {
                tracing::info!(
                    bytes = pass.bytes,
                    chunks = pass.chunks,
                    damaged_chunks = pass.damaged_chunks,
                    damaged_places = pass.damaged_places,
                    read_errors = pass.read_errors,
                    "all chunks have been checked"
                );
            }
        }
    }

    fn note(&mut self) {
        let record = {
            let mut desk = self.shared.desk();
            let is_time = desk.schedule.is_under_way() && self.noted_at.elapsed() >= NOTE_INTERVAL;
            if !desk.is_noteworthy && !is_time {
                return;
            }
            desk.is_noteworthy = false;
            desk.schedule.record()
        };
        self.noted_at = Instant::now();
        if let Err(error) = record.write(&self.file) {
            tracing::warn!(%error, "how far the scrub is can't be noted");
        }
    }
}

fn now() -> Now {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Now { at: Instant::now(), unix_ms: u64::try_from(unix.as_millis()).unwrap_or(u64::MAX) }
}

#[cfg(test)]
mod tests;

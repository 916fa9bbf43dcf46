//! Objects put and got without a break, each of which must succeed and be what it was.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use xdpfs_testbed::{Cli, Content, Rng};

/// Threads, each with keys of its own.
const HANDS: u64 = 2;
/// Keys of each thread; they are written again and again.
const KEYS: u64 = 16;
const SIZE_MAX: u64 = 3 << 20;
/// Longer than the tool itself tries.
const WITHIN: Duration = Duration::from_secs(120);

/// What was done.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    pub(super) puts: u64,
    pub(super) gets: u64,
    /// The longest that one of them took.
    pub(super) longest: Duration,
}

/// Running threads. Dropping it ends them.
pub(super) struct Workload {
    is_over: Arc<AtomicBool>,
    tally: Arc<Mutex<Tally>>,
    hands: Vec<JoinHandle<anyhow::Result<()>>>,
}

impl Workload {
    /// Begins; `prefix` is `BUCKET/KEY…`.
    pub(super) fn start(cli: &Cli, prefix: &str, seed: u64) -> Self {
        let (is_over, tally) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Tally::default())));
        let hand = |number| {
            let hand = Hand {
                cli: cli.clone(),
                prefix: format!("{prefix}{number}-"),
                rng: Rng::new(seed ^ number),
                tally: Arc::clone(&tally),
            };
            let is_over = Arc::clone(&is_over);
            thread::spawn(move || hand.run(&is_over))
        };
        let hands = (0..HANDS).map(hand).collect();
        Self { is_over, tally, hands }
    }

    /// What has been done so far. Fails as soon as anything has failed.
    pub(super) fn check(&mut self) -> anyhow::Result<Tally> {
        if let Some(ended) = self.hands.iter().position(JoinHandle::is_finished) {
            match self.hands.swap_remove(ended).join() {
                Ok(result) => result?,
                Err(_) => bail!("a thread of the workload has died"),
            }
        }
        Ok(self.tally.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    /// Waits until so many more puts and gets are done.
    pub(super) fn await_more(&mut self, count: u64) -> anyhow::Result<()> {
        let before = self.check()?;
        let wanted = before.puts + before.gets + count;
        super::await_some(&format!("{count} more puts and gets"), WITHIN, || {
            let tally = self.check()?;
            Ok((tally.puts + tally.gets >= wanted).then_some(()))
        })
    }

    /// Ends it; all must have gone well, and something must have been done.
    pub(super) fn finish(mut self) -> anyhow::Result<Tally> {
        self.is_over.store(true, Ordering::Relaxed);
        for hand in std::mem::take(&mut self.hands) {
            match hand.join() {
                Ok(result) => result?,
                Err(_) => bail!("a thread of the workload has died"),
            }
        }
        let tally = self.check()?;
        ensure!(tally.puts > 0 && tally.gets > 0, "the workload did nothing: {tally:?}");
        Ok(tally)
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        for hand in self.hands.drain(..) {
            // Something else has failed already.
            let _unheard = hand.join();
        }
    }
}

struct Hand {
    cli: Cli,
    prefix: String,
    rng: Rng,
    tally: Arc<Mutex<Tally>>,
}

impl Hand {
    fn run(mut self, is_over: &AtomicBool) -> anyhow::Result<()> {
        let mut written: Vec<Option<Content>> = vec![None; KEYS as usize];
        let mut number = 0;
        while !is_over.load(Ordering::Relaxed) {
            number += 1;
            let key = self.rng.below(KEYS);
            let content = Content::new(number, self.rng.below(SIZE_MAX));
            self.put(key, &content)?;
            written[key as usize] = Some(content);
            let key = self.rng.below(KEYS);
            if let Some(content) = &written[key as usize] {
                self.get(key, content)?;
            }
        }
        Ok(())
    }

    fn put(&self, key: u64, content: &Content) -> anyhow::Result<()> {
        put(&self.cli, &format!("{}{key}", self.prefix), content).map(|took| self.note(took, true))
    }

    fn get(&self, key: u64, content: &Content) -> anyhow::Result<()> {
        get(&self.cli, &format!("{}{key}", self.prefix), content).map(|took| self.note(took, false))
    }

    fn note(&self, took: Duration, is_put: bool) {
        let mut tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
        *(if is_put { &mut tally.puts } else { &mut tally.gets }) += 1;
        tally.longest = tally.longest.max(took);
    }
}

/// Puts an object; how long it took.
pub(super) fn put(cli: &Cli, address: &str, content: &Content) -> anyhow::Result<Duration> {
    let began = Instant::now();
    let output = cli.invoke(["put", "-", address]).stdin(content.clone()).within(WITHIN).try_run()?;
    ensure!(output.code == Some(0), "put {address} failed ({:?}): {}", output.code, output.stderr);
    if let Some(error) = output.stream_error {
        return Err(error).with_context(|| format!("put {address} did not take all"));
    }
    Ok(began.elapsed())
}

/// Gets an object, which must be this; how long it took.
pub(super) fn get(cli: &Cli, address: &str, content: &Content) -> anyhow::Result<Duration> {
    let began = Instant::now();
    let check = content.shared_check();
    let output = cli.invoke(["cat", address]).stdout(check.clone()).within(WITHIN).try_run()?;
    ensure!(output.code == Some(0), "cat {address} failed ({:?}): {}", output.code, output.stderr);
    if let Some(error) = output.stream_error {
        return Err(error).with_context(|| format!("{address} is not what it was"));
    }
    check.finish().with_context(|| format!("{address} is not what it was"))?;
    Ok(began.elapsed())
}

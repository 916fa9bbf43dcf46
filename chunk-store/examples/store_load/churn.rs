//! Chunks come and go in a store that is three quarters full, and others read meanwhile.

use std::{
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use clap::Args;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use xdpfs_chunk_store::Store;

use crate::{
    latencies::Latencies,
    read_path::{self, Wanted},
    rig::{self, Chunks, Contents},
};

const PAGE_LEN: u32 = 4096;
/// Of the capacity, what live chunks take.
const FULL: f64 = 0.75;
/// Chunks that come and go at a time.
const TASKS: usize = 32;
/// Compaction and scrub are looked at for so long, if there is enough to do.
const BESIDE_MAX: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Churn {
    /// Of the store.
    #[arg(long)]
    capacity: u64,
    /// Of a chunk.
    #[arg(long)]
    length: u32,
    /// Bytes of chunks that are put, as multiples of the capacity.
    #[arg(long)]
    times: f64,
}

#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Beside {
    /// Of the store.
    #[arg(long)]
    capacity: u64,
    /// Of a chunk.
    #[arg(long)]
    length: u32,
    /// How long the idle store is read.
    #[arg(long)]
    seconds: f64,
}

pub(crate) fn run(directory: &Path, churn: Churn) -> anyhow::Result<Value> {
    let Churn { capacity, length, times } = churn;
    let store = rig::open_small(directory, capacity)?;
    let count = fill(&store, capacity, length)?;
    let (filled, before) = (store.activity().written_bytes(), store.activity().batches().1);
    let puts = (capacity as f64 * times / f64::from(length)) as u64;
    let began = Instant::now();
    replace(&store, count, length, puts)?;
    let took = began.elapsed();
    let put_bytes = store.activity().written_bytes() - filled;
    let written = store.activity().batches().1 - before;
    store.close();
    Ok(json!({
        "amplification": written as f64 / put_bytes as f64,
        "bytes_per_s": put_bytes as f64 / took.as_secs_f64(),
        "moved_bytes": store.activity().moved_bytes(),
    }))
}

/// Gives how many chunks there are.
fn fill(store: &Store, capacity: u64, length: u32) -> anyhow::Result<u64> {
    let count = (capacity as f64 * FULL) as u64 / u64::from(length);
    rig::put_all(store, 0, Chunks { count, length, puts: TASKS })?;
    Ok(count)
}

/// Deletes a random chunk and puts a new one, `puts` times.
fn replace(store: &Store, count: u64, length: u32, puts: u64) -> anyhow::Result<()> {
    let contents = Contents::new(length);
    let live = Arc::new(Mutex::new((0..count).collect::<Vec<_>>()));
    let next = Arc::new(AtomicU64::new(count));
    rig::runtime()?.block_on(async {
        let mut tasks = JoinSet::new();
        for task in 0..TASKS {
            let (store, next, contents) = (store.clone(), Arc::clone(&next), contents.clone());
            let (live, mut random) = (Arc::clone(&live), fastrand::Rng::with_seed(task as u64));
            tasks.spawn(async move {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count + puts {
                        return anyhow::Ok(());
                    }
                    let old = {
                        let mut live = live.lock().unwrap_or_else(PoisonError::into_inner);
                        let at = random.usize(..live.len());
                        live.swap_remove(at)
                    };
                    store.delete(vec![rig::chunk(old)]).await?;
                    rig::put(&store, number, &contents).await?;
                    live.lock().unwrap_or_else(PoisonError::into_inner).push(number);
                }
            });
        }
        while let Some(ended) = tasks.join_next().await {
            ended.context("a task is gone")??;
        }
        Ok(())
    })
}

pub(crate) fn read_beside(directory: &Path, beside: Beside) -> anyhow::Result<Value> {
    let store = rig::open_small(directory, beside.capacity)?;
    let count = fill(&store, beside.capacity, beside.length)?;
    // What stays; every other chunk goes.
    let choose = |random: &mut fastrand::Rng| {
        let page = random.u32(..beside.length / PAGE_LEN);
        let chunk = rig::chunk(random.u64(..count / 2) * 2 + 1);
        Wanted { chunk, offset: page * PAGE_LEN, length: PAGE_LEN as usize }
    };
    let pages = |goes_on: &(dyn Fn() -> bool + Sync)| -> anyhow::Result<Latencies> {
        Ok(read_path::read_at_depth(&store, 1, choose, goes_on)?.0)
    };
    let for_long = |length: Duration| {
        let end = Instant::now() + length;
        move || Instant::now() < end
    };
    let mut idle = pages(&for_long(Duration::from_secs_f64(beside.seconds)))?;
    let dead: Vec<_> = (0..count / 2).map(|number| rig::chunk(number * 2)).collect();
    rig::runtime()?.block_on(store.delete(dead))?;
    let moved = store.activity().moved_bytes();
    let mut compaction = pages(&for_long(BESIDE_MAX))?;
    let moved = store.activity().moved_bytes() - moved;
    let (ended, scrubbed) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut scrub = thread::scope(|scope| {
        let scrubber = scope.spawn(|| {
            let (mut walk, goes_on) = (store.scrub(0), for_long(BESIDE_MAX));
            while goes_on() {
                let step = walk.step();
                scrubbed.fetch_add(step.bytes, Ordering::Relaxed);
                if step.is_end {
                    walk = store.scrub(0);
                }
            }
            ended.store(true, Ordering::Relaxed);
        });
        let latencies = pages(&|| !ended.load(Ordering::Relaxed));
        scrubber.join().ok().context("the scrubber is gone")?;
        latencies
    })?;
    store.close();
    let ((idle_p50_us, idle_p99_us), (compaction_p50_us, compaction_p99_us), (scrub_p50_us, scrub_p99_us)) =
        (idle.p50_p99_us(), compaction.p50_p99_us(), scrub.p50_p99_us());
    Ok(json!({
        "idle_p50_us": idle_p50_us,
        "idle_p99_us": idle_p99_us,
        "compaction_p50_us": compaction_p50_us,
        "compaction_p99_us": compaction_p99_us,
        "scrub_p50_us": scrub_p50_us,
        "scrub_p99_us": scrub_p99_us,
        "moved_bytes": moved,
        "scrubbed_bytes": scrubbed.into_inner(),
    }))
}

//! Reads of an idle store, past all caches or from the store's own.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use clap::Args;
use serde_json::{Value, json};
use xdpfs_chunk_store::{ReadAheadLimits, Store, StoreConfig};
use xdpfs_wire::ChunkId;

use crate::{
    read_path::{self, Wanted},
    rig,
};

const PAGE_LEN: usize = 4096;
/// Pages that are read again and again.
const AGAIN_PAGES: u64 = 1000;

/// What the store may use for reads.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Means {
    /// Bytes of the cache.
    #[arg(long, default_value_t = 128 << 20)]
    cache: u64,
    /// Bytes that are read ahead.
    #[arg(long, default_value_t = 2 << 20)]
    read_ahead: u32,
}

impl Means {
    fn open(&self, directory: &Path) -> anyhow::Result<Store> {
        let usual = rig::config(directory);
        let read_ahead = ReadAheadLimits { window_bytes_max: self.read_ahead, ..usual.read_ahead };
        Ok(Store::open(&StoreConfig { cache_bytes: self.cache, read_ahead, ..usual })?.0)
    }
}

#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Random {
    #[command(flatten)]
    means: Means,
    /// Requests at a time.
    #[arg(long)]
    depth: usize,
    #[arg(long)]
    seconds: f64,
}

#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Again {
    #[command(flatten)]
    means: Means,
    #[arg(long)]
    seconds: f64,
}

#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Sequential {
    #[command(flatten)]
    means: Means,
    /// Bytes of one request.
    #[arg(long)]
    burst: usize,
    /// Requests at a time.
    #[arg(long, default_value_t = 1)]
    at_once: usize,
    #[arg(long)]
    seconds: f64,
}

pub(crate) fn random(directory: &Path, load: Random) -> anyhow::Result<Value> {
    let store = load.means.open(directory)?;
    let places = Places::of(&store)?;
    let end = Instant::now() + Duration::from_secs_f64(load.seconds);
    let goes_on = || Instant::now() < end;
    let (mut latencies, took) =
        read_path::read_at_depth(&store, load.depth, |random| places.page(random), goes_on)?;
    let (p50_us, p99_us) = latencies.p50_p99_us();
    Ok(json!({
        "ops_per_s": latencies.count() as f64 / took.as_secs_f64(),
        "p50_us": p50_us,
        "p99_us": p99_us,
    }))
}

pub(crate) fn again(directory: &Path, load: Again) -> anyhow::Result<Value> {
    let store = load.means.open(directory)?;
    let places = Places::of(&store)?;
    let mut random = fastrand::Rng::with_seed(1);
    let wanted: Vec<Wanted> = (0..AGAIN_PAGES).map(|_| places.page(&mut random)).collect();
    let mut out = [0; PAGE_LEN];
    let mut round = || wanted.iter().try_for_each(|wanted| read_path::read(&store, *wanted, &mut out));
    // Twice, for caches that keep only what was asked for again.
    round()?;
    round()?;
    let (began, length) = (Instant::now(), Duration::from_secs_f64(load.seconds));
    let mut rounds = 0;
    while began.elapsed() < length {
        round()?;
        rounds += 1;
    }
    Ok(json!({ "ns_per_page": began.elapsed().as_nanos() as f64 / (rounds * AGAIN_PAGES) as f64 }))
}

pub(crate) fn sequential(directory: &Path, load: Sequential) -> anyhow::Result<Value> {
    let store = load.means.open(directory)?;
    let places = Places::of(&store)?;
    let mut stream = read_path::Stream::of(&store, load.at_once);
    let (began, length) = (Instant::now(), Duration::from_secs_f64(load.seconds));
    let mut bytes = 0;
    'reading: for number in (0..places.chunks).cycle() {
        for offset in (0..places.length).step_by(load.burst) {
            let burst = load.burst.min((places.length - offset) as usize);
            stream.read(Wanted { chunk: rig::chunk(number), offset, length: burst })?;
            bytes += burst;
            if began.elapsed() >= length {
                break 'reading;
            }
        }
    }
    Ok(json!({ "bytes_per_s": bytes as f64 / began.elapsed().as_secs_f64() }))
}

/// Chunks of one length, numbered from zero on.
struct Places {
    chunks: u64,
    length: u32,
}

impl Places {
    fn of(store: &Store) -> anyhow::Result<Self> {
        let chunks = store.usage().chunks;
        let first = store.chunk_ids(ChunkId(0), 1).first().copied().context("the store is empty")?;
        let length = store.stat(first).context("a chunk is gone")?.length;
        ensure!(length as usize >= PAGE_LEN, "the chunks have no whole page");
        Ok(Self { chunks, length })
    }

    /// Any whole page.
    fn page(&self, random: &mut fastrand::Rng) -> Wanted {
        let page = random.u32(..self.length / PAGE_LEN as u32);
        let chunk = rig::chunk(random.u64(..self.chunks));
        Wanted { chunk, offset: page * PAGE_LEN as u32, length: PAGE_LEN }
    }
}

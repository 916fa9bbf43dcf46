//! What all kinds of load have in common: a store, and chunks for it.

use std::{
    io::Write as _,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use bytes::Bytes;
use clap::Args;
use crc_fast::{CrcAlgorithm, checksum};
use serde_json::{Value, json};
use tokio::{runtime::Runtime, task::JoinSet};
use uuid::Uuid;
use xdpfs_chunk_store::{PutError, Recovery, Store, StoreConfig};
use xdpfs_wire::{BucketId, ChunkId};

const NODE: Uuid = Uuid::from_bytes([0xb5; 16]);
/// Segments of a small store: as many as a disk of 128 GiB has.
const SEGMENTS: u64 = 128;
/// Chunks of one length have as many contents as this.
const CONTENTS: usize = 8;
/// How long whoever was told that the store is busy waits.
const BUSY_PAUSE: Duration = Duration::from_millis(1);

/// So many chunks of one length.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Chunks {
    #[arg(long)]
    pub(crate) count: u64,
    #[arg(long)]
    pub(crate) length: u32,
    /// How many puts are under way at a time.
    #[arg(long, default_value_t = 256)]
    pub(crate) puts: usize,
}

pub(crate) fn config(directory: &Path) -> StoreConfig {
    StoreConfig::new(directory, NODE)
}

pub(crate) fn open(directory: &Path) -> anyhow::Result<(Store, Recovery)> {
    Ok(Store::open(&config(directory))?)
}

/// A store that may not grow further, with as many segments as a large one has at the least.
pub(crate) fn open_small(directory: &Path, capacity: u64) -> anyhow::Result<Store> {
    let usual = config(directory);
    let segment_bytes = capacity / SEGMENTS;
    let config = StoreConfig { capacity_bytes: Some(capacity), reserve_bytes: 0, segment_bytes, ..usual };
    Ok(Store::open(&config)?.0)
}

/// One thread that waits for all puts.
pub(crate) fn runtime() -> anyhow::Result<Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_time().build().context("no runtime")
}

pub(crate) const fn chunk(number: u64) -> ChunkId {
    ChunkId::new(BucketId(1), number)
}

/// Bytes of chunks, with their checksums. They don't compress.
#[derive(Clone, Debug)]
pub(crate) struct Contents(Arc<[(Bytes, u32)]>);

impl Contents {
    pub(crate) fn new(length: u32) -> Self {
        let mut random = fastrand::Rng::with_seed(u64::from(length));
        let mut bytes = vec![0; length as usize + CONTENTS];
        random.fill(&mut bytes);
        let bytes = Bytes::from(bytes);
        let contents = (0..CONTENTS).map(|at| {
            let data = bytes.slice(at..at + length as usize);
            let crc = checksum(CrcAlgorithm::Crc32Iscsi, &data) as u32;
            (data, crc)
        });
        Self(contents.collect())
    }

    pub(crate) fn of(&self, number: u64) -> (Bytes, u32) {
        self.0[number as usize % CONTENTS].clone()
    }
}

/// Puts a chunk, again and again while the store is busy.
pub(crate) async fn put(store: &Store, number: u64, contents: &Contents) -> Result<(), PutError> {
    let (data, crc) = contents.of(number);
    loop {
        match store.put(chunk(number), crc, data.clone()).await {
            Err(PutError::Busy) => tokio::time::sleep(BUSY_PAUSE).await,
            other => return other,
        }
    }
}

pub(crate) fn fill(directory: &Path, chunks: Chunks) -> anyhow::Result<Value> {
    let (store, _) = open(directory)?;
    put_all(&store, 0, chunks)?;
    store.close();
    Ok(json!({ "chunks": store.usage().chunks }))
}

pub(crate) fn fill_until_killed(directory: &Path, chunks: Chunks) -> anyhow::Result<Value> {
    let (store, _) = open(directory)?;
    let first = store.usage().chunks;
    put_all(&store, first, Chunks { count: chunks.count.saturating_sub(first), ..chunks })?;
    let mut out = std::io::stdout();
    writeln!(out, "ready")?;
    out.flush()?;
    put_all(&store, first.max(chunks.count), Chunks { count: u64::MAX >> 1, ..chunks })?;
    Ok(Value::Null)
}

/// Puts `chunks.count` chunks, from this number on.
pub(crate) fn put_all(store: &Store, first: u64, chunks: Chunks) -> anyhow::Result<()> {
    let contents = Contents::new(chunks.length);
    let (next, end) = (Arc::new(AtomicU64::new(first)), first + chunks.count);
    runtime()?.block_on(async {
        let mut tasks = JoinSet::new();
        for _ in 0..chunks.puts {
            let (store, next, contents) = (store.clone(), Arc::clone(&next), contents.clone());
            tasks.spawn(async move {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= end {
                        return Ok(());
                    }
                    put(&store, number, &contents).await?;
                }
            });
        }
        while let Some(ended) = tasks.join_next().await {
            ended.context("a task is gone")?.map_err(|error: PutError| error)?;
        }
        Ok(())
    })
}

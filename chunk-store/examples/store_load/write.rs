//! Durable puts: how many a second, and how many of them one durable write takes.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context as _;
use clap::Args;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use xdpfs_chunk_store::PutError;

use crate::{
    latencies::Latencies,
    rig::{self, Contents},
};

#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Load {
    /// Of a chunk.
    #[arg(long)]
    length: u32,
    #[arg(long)]
    writers: usize,
    #[arg(long)]
    seconds: f64,
    /// It ends when so many have been written, too.
    #[arg(long)]
    bytes_max: u64,
}

pub(crate) fn run(directory: &Path, load: Load) -> anyhow::Result<Value> {
    let Load { length, writers, seconds, bytes_max } = load;
    let (store, _) = rig::open(directory)?;
    let contents = Contents::new(length);
    let count_max = bytes_max / u64::from(length);
    // Number zero makes the first segment.
    let next = Arc::new(AtomicU64::new(1));
    let (mut latencies, took, batches) = rig::runtime()?.block_on(async {
        rig::put(&store, 0, &contents).await?;
        let (before, began) = (store.activity().batches().0, Instant::now());
        let end = began + Duration::from_secs_f64(seconds);
        let mut tasks = JoinSet::new();
        for _ in 0..writers {
            let (store, next, contents) = (store.clone(), Arc::clone(&next), contents.clone());
            tasks.spawn(async move {
                let mut latencies = Latencies::default();
                loop {
                    let (number, began) = (next.fetch_add(1, Ordering::Relaxed), Instant::now());
                    if number > count_max || began >= end {
                        return Ok(latencies);
                    }
                    rig::put(&store, number, &contents).await?;
                    latencies.note(began.elapsed());
                }
            });
        }
        let mut all = Latencies::default();
        while let Some(ended) = tasks.join_next().await {
            all.join(ended.context("a task is gone")?.map_err(|error: PutError| error)?);
        }
        anyhow::Ok((all, began.elapsed(), store.activity().batches().0 - before))
    })?;
    store.close();
    let per_second = latencies.count() as f64 / took.as_secs_f64();
    let (p50_us, p99_us) = latencies.p50_p99_us();
    Ok(json!({
        "ops_per_s": per_second,
        "bytes_per_s": per_second * f64::from(length),
        "fsyncs_per_1000": batches as f64 / latencies.count() as f64 * 1000.0,
        "p50_us": p50_us,
        "p99_us": p99_us,
    }))
}

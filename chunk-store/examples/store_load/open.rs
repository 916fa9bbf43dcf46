//! How long it takes to open a store, and what it takes in memory then.

use std::{collections::HashMap, fs, path::Path, time::Instant};

use anyhow::Context as _;
use serde_json::{Value, json};
use xdpfs_wire::ChunkId;

use crate::rig;

pub(crate) fn run(directory: &Path) -> anyhow::Result<Value> {
    let before = resident_bytes()?;
    let began = Instant::now();
    let (store, recovery) = rig::open(directory)?;
    let took = began.elapsed();
    let opened = resident_bytes()?;
    // What a map of the standard library takes for the same: where each chunk lies, its length and its checksum.
    let ids = store.chunk_ids(ChunkId(0), usize::MAX);
    let listed = resident_bytes()?;
    let map: HashMap<ChunkId, [u32; 4]> = ids.iter().map(|id| (*id, [id.0 as u32; 4])).collect();
    let mapped = resident_bytes()?;
    let numbers = json!({
        "ms": took.as_secs_f64() * 1e3,
        "chunks": recovery.chunks,
        "segments": recovery.segments,
        "torn_bytes": recovery.torn_bytes,
        "resident_bytes": opened.saturating_sub(before),
        "map_bytes_per_chunk": mapped.saturating_sub(listed) as f64 / map.len().max(1) as f64,
    });
    store.close();
    Ok(numbers)
}

/// What of this process is in memory.
fn resident_bytes() -> anyhow::Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
}

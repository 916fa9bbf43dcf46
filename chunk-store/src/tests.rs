//! The store against disks that fail, fill up, tear and rot, and against kill -9.

mod check;
mod compaction;
mod crash;
mod damage;
mod full_disk;
#[cfg(feature = "shuttle")]
mod interleavings;
mod kill;
mod model;
mod old_format;
mod reader;
mod round_trips;
mod scrub;
mod sim_disk;

use std::{
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;
use xdpfs_wire::BucketId;

use self::sim_disk::SimDisk;
use super::{checksum::crc32c, medium::Slot, *};

/// What a store does in the background takes less than this, or never ends.
const PATIENCE: Duration = Duration::from_secs(30);

/// Small segments, so that few chunks make many.
fn config() -> StoreConfig {
    config_in("/nowhere".into())
}

fn config_in(directory: PathBuf) -> StoreConfig {
    StoreConfig {
        capacity_bytes: Some(64 << 20),
        reserve_bytes: 0,
        segment_bytes: SEGMENT_LEN_MIN,
        compaction_rate: None,
        ..StoreConfig::new(directory, Uuid::from_bytes([9; 16]))
    }
}

fn open(disk: &Arc<SimDisk>) -> Store {
    open_as(disk, &config()).0
}

fn open_as(disk: &Arc<SimDisk>, config: &StoreConfig) -> (Store, Recovery) {
    Store::open_on(config, disk.clone(), None).unwrap()
}

fn chunk(number: u64) -> ChunkId {
    ChunkId::new(BucketId(1), number)
}

/// Bytes that no two chunks and no two pages have in common.
fn bytes_of(chunk: ChunkId, length: usize) -> Bytes {
    let mut state = chunk.0 as u64 ^ (length as u64) << 40 | 1;
    let mut word = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        bytes.extend_from_slice(&word());
    }
    bytes.truncate(length);
    bytes.into()
}

/// Waits for what a store promised.
fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

fn put(store: &Store, chunk: ChunkId, data: &Bytes) -> Result<(), PutError> {
    wait(store.put(chunk, crc32c(data), data.clone()))
}

/// Puts the chunk, again and again while room is being made for it.
fn put_patiently(store: &Store, chunk: ChunkId, data: &Bytes) -> Result<(), PutError> {
    let end = Instant::now() + PATIENCE;
    loop {
        match put(store, chunk, data) {
            Err(PutError::Busy) if Instant::now() < end => thread::yield_now(),
            other => return other,
        }
    }
}

fn delete(store: &Store, chunks: &[ChunkId]) -> Result<(), DeleteError> {
    wait(store.delete(chunks.to_vec()))
}

fn read(store: &Store, chunk: ChunkId) -> Result<Bytes, ReadError> {
    let length = store.stat(chunk).ok_or(ReadError::NotFound)?.length;
    read_range(store, chunk, 0, length as usize)
}

fn read_range(store: &Store, chunk: ChunkId, offset: u32, length: usize) -> Result<Bytes, ReadError> {
    let mut out = vec![0xee; length];
    store.read(chunk, offset, &mut out).map(|()| out.into())
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < end, "{what} does not happen");
        thread::yield_now();
    }
}

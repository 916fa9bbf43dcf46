//! The store against disks that fail, fill up, tear and rot, and against kill -9.

mod compaction;
mod damage;
mod faulty_medium;
mod full_disk;
mod kill;
mod model;
mod power_loss;
mod round_trips;
mod scrub;

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;
use xdpfs_wire::BucketId;

use super::{checksum::crc32c, *};

/// What a store does in the background takes less than this, or never ends.
const PATIENCE: Duration = Duration::from_secs(30);

/// A directory for stores that are opened thousands of times. Where it is a memory file system, a sync costs nothing.
fn fast_dir() -> TempDir {
    TempDir::new_in("/dev/shm").or_else(|_| TempDir::new()).unwrap()
}

/// Small segments, so that few chunks make many.
fn config(home: &TempDir) -> StoreConfig {
    config_in(home.path().join("segments"))
}

fn config_in(directory: PathBuf) -> StoreConfig {
    StoreConfig {
        capacity_bytes: Some(64 << 20),
        reserve_bytes: 0,
        segment_bytes: SEGMENT_LEN_MIN,
        ..StoreConfig::new(directory, Uuid::from_bytes([9; 16]))
    }
}

fn open(home: &TempDir) -> Store {
    Store::open(&config(home)).unwrap().0
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

/// The segments' files, ascending.
fn segment_files(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> =
        entries.filter(|path| path.extension().is_some_and(|ext| ext == "segment")).collect();
    files.sort();
    files
}

fn copy_segments(from: &Path, to: &Path) {
    if to.exists() {
        fs::remove_dir_all(to).unwrap();
    }
    fs::create_dir(to).unwrap();
    for file in segment_files(from) {
        fs::copy(&file, to.join(file.file_name().unwrap())).unwrap();
    }
}

//! Clients that put and delete chunks, each its own, and know what they were answered.
//!
//! Invariant: what a chunk may be found as follows from the answers alone.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use crc_fast::{CrcAlgorithm, checksum};
use tokio::runtime::{Builder, Runtime};
use xdpfs_chunk_store::{DeleteError, PutError, ReadError, Store};
use xdpfs_testbed::{Content, Rng};
use xdpfs_wire::{BucketId, ChunkId};

/// Numbers of chunks that belong to one client.
const NUMBERS: u64 = 1 << 20;
const LENGTHS: [u64; 12] = [1, 64, 512, 4095, 4096, 4097, 9_000, 20_000, 33_000, 60_000, 70_001, 150_000];
/// Chunks that one client puts or deletes at once, at most.
const AT_ONCE_MAX: u64 = 6;
/// How long clients wait for what they are there for.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a chunk was last asked to be, and whether that was answered.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum State {
    Absent,
    /// It was to be put or deleted, and there was no answer, or not a good one.
    Either,
    Present,
}

/// One chunk.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chunk {
    pub(crate) state: State,
    /// Each time after it was deleted, it has other bytes.
    version: u64,
}

/// What all clients have been answered so far.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    pub(crate) good: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) failed: AtomicU64,
}

/// One client.
#[derive(Debug)]
pub(crate) struct Client {
    rng: Rng,
    puts_percent: f64,
    runtime: Runtime,
    pub(crate) chunks: BTreeMap<ChunkId, Chunk>,
}

/// What must not be found.
#[derive(Debug)]
pub(crate) struct Wrong {
    _chunk: ChunkId,
    _known: State,
    _found: Result<&'static str, ReadError>,
}

/// Lets clients work until it is enough, or until the store has failed for all of them.
pub(crate) fn work(
    store: &Store,
    clients: &mut [Client],
    is_enough: impl Fn(&Answers) -> bool + Sync,
) -> Answers {
    let answers = Answers::default();
    let give_up = Instant::now() + PATIENCE;
    thread::scope(|scope| {
        for client in clients {
            scope.spawn(|| {
                while !is_enough(&answers) && client.step(store, &answers) {
                    assert!(Instant::now() < give_up, "what clients wait for does not happen: {answers:?}");
                }
            });
        }
    });
    answers
}

impl Client {
    /// Has so many chunks, and puts them in so many of a hundred cases.
    pub(crate) fn new(number: u64, seed: u64, chunks: u64, puts_percent: f64) -> Self {
        let id = |at| ChunkId::new(BucketId(1), number * NUMBERS + at);
        let chunk = Chunk { state: State::Absent, version: 0 };
        Self {
            rng: Rng::new(seed ^ (number + 1) << 40),
            puts_percent,
            runtime: Builder::new_current_thread().build().unwrap(),
            chunks: (0..chunks).map(|at| (id(at), chunk)).collect(),
        }
    }

    /// Puts or deletes some. Gives whether the store goes on.
    fn step(&mut self, store: &Store, answers: &Answers) -> bool {
        let is_put = self.rng.chance(self.puts_percent);
        let suits = if is_put { State::Absent } else { State::Present };
        let fitting = self.chunks.iter().filter(|(_, chunk)| [suits, State::Either].contains(&chunk.state));
        let mut fitting: Vec<_> = fitting.map(|(id, _)| *id).collect();
        let count = 1 + self.rng.below(AT_ONCE_MAX);
        let ids: Vec<_> = (0..count)
            .filter_map(|_| match fitting.len() as u64 {
                0 => None,
                some => Some(fitting.swap_remove(self.rng.below(some) as usize)),
            })
            .collect();
        if is_put { self.put(store, &ids, answers) } else { self.delete(store, &ids, answers) }
    }

    /// Puts chunks at once.
    fn put(&mut self, store: &Store, ids: &[ChunkId], answers: &Answers) -> bool {
        let mut goes_on = true;
        let puts: Vec<_> = ids
            .iter()
            .map(|id| {
                let chunk = self.chunks.get_mut(id).unwrap();
                if chunk.state == State::Absent {
                    *chunk = Chunk { state: State::Either, version: chunk.version + 1 };
                }
                let data = chunk.content(*id);
                (*id, store.put(*id, checksum(CrcAlgorithm::Crc32Iscsi, &data) as u32, data))
            })
            .collect();
        for (id, put) in puts {
            match self.runtime.block_on(put) {
                Ok(()) => {
                    self.chunks.get_mut(&id).unwrap().state = State::Present;
                    answers.good.fetch_add(1, Ordering::Relaxed);
                }
                Err(PutError::Busy | PutError::NoSpace) => {
                    answers.refused.fetch_add(1, Ordering::Relaxed);
                }
                Err(PutError::Failed) => {
                    answers.failed.fetch_add(1, Ordering::Relaxed);
                    goes_on = false;
                }
                Err(error @ (PutError::Conflict | PutError::Corrupt | PutError::Length)) => {
                    panic!("{id}, {:?}: {error}", self.chunks[&id]);
                }
            }
        }
        goes_on
    }

    /// Deletes chunks at once.
    fn delete(&mut self, store: &Store, ids: &[ChunkId], answers: &Answers) -> bool {
        self.note(ids, State::Either);
        match self.runtime.block_on(store.delete(ids.to_vec())) {
            Ok(()) => {
                self.note(ids, State::Absent);
                answers.good.fetch_add(1, Ordering::Relaxed);
                true
            }
            Err(DeleteError::Busy | DeleteError::NoSpace) => {
                answers.refused.fetch_add(1, Ordering::Relaxed);
                true
            }
            Err(DeleteError::Failed) => {
                answers.failed.fetch_add(1, Ordering::Relaxed);
                false
            }
        }
    }

    /// Deletes a few that are there. Gives whether the store could.
    pub(crate) fn delete_some(&mut self, store: &Store) -> bool {
        let ids = self.present().into_iter().take(AT_ONCE_MAX as usize).collect::<Vec<_>>();
        let answers = Answers::default();
        assert!(self.delete(store, &ids, &answers), "the store has failed");
        answers.good.into_inner() > 0
    }

    /// Deletes three of four that are there, so that there is garbage beside what stays. Gives how many.
    pub(crate) fn delete_most(&mut self, store: &Store) -> usize {
        let gone = self.present().into_iter().enumerate().filter(|(at, _)| at % 4 > 0);
        let gone = gone.map(|(_, id)| id).collect::<Vec<_>>();
        self.delete_now(store, &gone);
        gone.len()
    }

    /// Deletes all.
    pub(crate) fn delete_all(&mut self, store: &Store) {
        self.delete_now(store, &self.present());
    }

    fn delete_now(&mut self, store: &Store, ids: &[ChunkId]) {
        let answers = Answers::default();
        self.delete(store, ids, &answers);
        assert_eq!(answers.good.into_inner(), 1, "there is room");
    }

    fn present(&self) -> Vec<ChunkId> {
        self.chunks.iter().filter(|(_, chunk)| chunk.state == State::Present).map(|(id, _)| *id).collect()
    }

    fn note(&mut self, ids: &[ChunkId], state: State) {
        for id in ids {
            self.chunks.get_mut(id).unwrap().state = state;
        }
    }

    /// Compares what is there with what was answered. What was open is known from here on.
    pub(crate) fn judge(&mut self, store: &Store) -> Result<(), Wrong> {
        for (id, chunk) in &mut self.chunks {
            chunk.state = chunk.found(store, *id)?;
        }
        Ok(())
    }

    /// Compares what is there now with what was answered.
    pub(crate) fn look(&self, store: &Store) -> Result<(), Wrong> {
        self.chunks.iter().try_for_each(|(id, chunk)| chunk.found(store, *id).map(drop))
    }

    /// Puts all that are not there, until each is taken.
    pub(crate) fn put_all(&mut self, store: &Store) {
        self.put_missing(store, usize::MAX);
    }

    /// Puts so many of those that are not there, until each is taken.
    pub(crate) fn put_missing(&mut self, store: &Store, mut count: usize) {
        let give_up = Instant::now() + PATIENCE;
        while count > 0 {
            let missing = self.chunks.iter().filter(|(_, chunk)| chunk.state != State::Present);
            let missing =
                missing.map(|(id, _)| *id).take(count.min(AT_ONCE_MAX as usize)).collect::<Vec<_>>();
            if missing.is_empty() {
                return;
            }
            let answers = Answers::default();
            assert!(self.put(store, &missing, &answers), "the store has failed");
            assert!(Instant::now() < give_up, "chunks are not taken though there is room: {answers:?}");
            count -= answers.good.into_inner() as usize;
        }
    }
}

impl Chunk {
    /// What the store has of it, if it may.
    fn found(self, store: &Store, id: ChunkId) -> Result<State, Wrong> {
        let content = self.content(id);
        let found =
            read(store, id).map(|data| if data == content { "what it was" } else { "something else" });
        match (self.state, found) {
            (State::Present | State::Either, Ok("what it was")) => Ok(State::Present),
            (State::Absent | State::Either, Err(ReadError::NotFound)) => Ok(State::Absent),
            _ => Err(Wrong { _chunk: id, _known: self.state, _found: found }),
        }
    }

    /// The bytes of this version.
    fn content(&self, id: ChunkId) -> Bytes {
        let seed = Rng::new(id.0 as u64 ^ self.version << 48).next_u64();
        let len = *Rng::new(seed).choose(&LENGTHS);
        Content::new(seed, len).to_vec().into()
    }
}

/// All of a chunk.
fn read(store: &Store, chunk: ChunkId) -> Result<Vec<u8>, ReadError> {
    let info = store.stat(chunk).ok_or(ReadError::NotFound)?;
    let mut out = vec![0xee; info.length as usize];
    store.read(chunk, 0, &mut out).map(|()| out)
}

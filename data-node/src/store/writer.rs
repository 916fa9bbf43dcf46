//! The one thread that changes a store: takes all that waits, makes it durable by a single sync, answers.
//!
//! Invariant: nothing is answered with success before the sync that covers it has returned.

use std::{
    collections::HashMap,
    io, mem,
    sync::{
        Arc,
        mpsc::{Receiver, TryRecvError},
    },
    thread::{self, JoinHandle},
};

use bytes::Bytes;
use tokio::sync::oneshot;
use xdpfs_wire::ChunkId;

use super::{
    DeleteError, PutError, QueuedBytes, Shared,
    append::{AppendError, Log, NewRecord, Tail},
    checksum::ChunkSums,
    compaction::Compactor,
    format::{Extent, Kind},
    index::Content,
};

/// Operations that share one sync.
const BATCH_OPS_MAX: usize = 256;
/// No operation is added to a batch that has this many bytes of chunks.
const BATCH_BYTES_MAX: u64 = 32 << 20;

/// What the writer is asked for.
#[derive(Debug)]
pub(super) enum Op {
    Close,
    Delete {
        chunks: Vec<ChunkId>,
        reply: oneshot::Sender<Result<(), DeleteError>>,
    },
    Put {
        chunk: ChunkId,
        content: Content,
        data: Bytes,
        reply: oneshot::Sender<Result<(), PutError>>,
        queued: QueuedBytes,
    },
}

/// The writer thread's state.
#[derive(Debug)]
pub(super) struct Writer {
    shared: Arc<Shared>,
    log: Log,
    compactor: Compactor,
}

/// Who waits for a batch. A chunk's bytes count as queued until its put is answered.
#[derive(Debug)]
enum Waiter {
    Delete(oneshot::Sender<Result<(), DeleteError>>),
    Put(oneshot::Sender<Result<(), PutError>>, QueuedBytes),
}

/// Operations that will be made durable together.
#[derive(Debug, Default)]
struct Batch {
    records: Vec<NewRecord>,
    waiters: Vec<Waiter>,
    /// What the batch makes of the chunks that it touches; `None` is a deletion.
    outcome: HashMap<ChunkId, Option<Content>>,
    /// Records that are on the disk already will be dead with it.
    kills: bool,
    /// The most that the records can take.
    length: u64,
    /// What they may take.
    room: u64,
}

/// A chunk that a put or a delete meets.
#[derive(Clone, Copy, Debug)]
struct Present {
    content: Content,
    /// Its bytes are gone, and may be written again; other bytes may not take its name.
    damaged: bool,
}

/// What the queue has to offer.
enum Gathered {
    Closed(Vec<Op>),
    Ops(Vec<Op>),
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>, tail: Tail) -> Self {
        let log = Log::new(Arc::clone(&shared), tail);
        let compactor = Compactor::new(Arc::clone(&shared));
        Self { shared, log, compactor }
    }

    pub(super) fn spawn(mut self, ops: Receiver<Op>) -> io::Result<JoinHandle<()>> {
        thread::Builder::new().name("store-writer".into()).spawn(move || self.run(&ops))
    }

    fn run(&mut self, queue: &Receiver<Op>) {
        loop {
            let idle = !self.compactor.prepare(&mut self.log);
            match gather(queue, idle) {
                Gathered::Ops(ops) => self.commit(ops),
                Gathered::Closed(ops) => {
                    self.commit(ops);
                    break;
                }
            }
            self.compactor.step(&mut self.log);
        }
        // Whether this works or not, the next start finds everything.
        let _ = self.log.trim();
    }

    fn commit(&mut self, ops: Vec<Op>) {
        if ops.is_empty() {
            return;
        }
        let mut batch = Batch { room: self.shared.usage().free_bytes, ..Batch::default() };
        for op in ops {
            match op {
                Op::Close => {}
                Op::Delete { chunks, reply } => self.admit_delete(&mut batch, &chunks, reply),
                Op::Put { chunk, content, data, reply, queued } => {
                    match self.admit_put(&mut batch, chunk, content, data) {
                        Ok(()) => batch.waiters.push(Waiter::Put(reply, queued)),
                        Err(error) => answer(reply, Err(error)),
                    }
                }
            }
        }
        self.finish(batch);
    }

    fn admit_put(
        &mut self,
        batch: &mut Batch,
        chunk: ChunkId,
        content: Content,
        data: Bytes,
    ) -> Result<(), PutError> {
        match self.present(batch, chunk) {
            Some(there) if there.content != content => return Err(PutError::Conflict),
            Some(there) if !there.damaged => return Ok(()),
            Some(_) => batch.kills = true,
            None => {}
        }
        let sums = ChunkSums::of(&data);
        if sums.whole != content.crc {
            return Err(PutError::Corrupt);
        }
        let length = Extent::len_max(content.length);
        if batch.length + length > batch.room {
            return Err(self.out_of_room());
        }
        batch.length += length;
        batch.outcome.insert(chunk, Some(content));
        let sequence = self.log.next_sequence();
        let kind = Kind::Chunk;
        batch.records.push(NewRecord { kind, chunk, content, sequence, data, page_crcs: sums.pages });
        Ok(())
    }

    fn admit_delete(
        &mut self,
        batch: &mut Batch,
        chunks: &[ChunkId],
        reply: oneshot::Sender<Result<(), DeleteError>>,
    ) {
        for chunk in chunks {
            if self.present(batch, *chunk).is_some() {
                batch.kills = true;
                batch.outcome.insert(*chunk, None);
                batch.records.push(NewRecord::tombstone(*chunk, self.log.next_sequence()));
            }
        }
        batch.waiters.push(Waiter::Delete(reply));
    }

    /// What is durable, or will be with the batch.
    fn present(&self, batch: &Batch, chunk: ChunkId) -> Option<Present> {
        match batch.outcome.get(&chunk) {
            Some(outcome) => outcome.map(|content| Present { content, damaged: false }),
            None => {
                let index = self.shared.index();
                index.chunk(chunk).map(|live| Present { content: live.content(), damaged: live.damaged })
            }
        }
    }

    fn out_of_room(&mut self) -> PutError {
        if self.compactor.make_room(&self.log) { PutError::Busy } else { PutError::NoSpace }
    }

    fn finish(&mut self, mut batch: Batch) {
        let mut result = self.append(&batch.records);
        if result == Err(AppendError::NoSpace) {
            // Deletions are small, and make room: they go first.
            batch.refuse_puts(self.out_of_room());
            result = self.append(&batch.records);
        }
        if result.is_ok() {
            let puts = batch.records.iter().filter(|record| record.kind == Kind::Chunk);
            let (chunks, bytes) = puts.fold((0, 0), |(chunks, bytes), record| {
                (chunks + 1, bytes + u64::from(record.content.length))
            });
            self.shared.activity.note_put(chunks, bytes);
        }
        if batch.kills {
            self.compactor.look_again();
        }
        for waiter in batch.waiters {
            waiter.answer(result);
        }
    }

    fn append(&mut self, records: &[NewRecord]) -> Result<(), AppendError> {
        if records.is_empty() { Ok(()) } else { self.log.append(records) }
    }
}

impl Batch {
    fn refuse_puts(&mut self, error: PutError) {
        self.records.retain(|record| record.kind == Kind::Tombstone);
        for waiter in mem::take(&mut self.waiters) {
            match waiter {
                Waiter::Put(reply, _) => answer(reply, Err(error)),
                Waiter::Delete(reply) => self.waiters.push(Waiter::Delete(reply)),
            }
        }
    }
}

impl Waiter {
    fn answer(self, result: Result<(), AppendError>) {
        match self {
            Self::Delete(reply) => answer(
                reply,
                result.map_err(|error| match error {
                    AppendError::Failed => DeleteError::Failed,
                    AppendError::NoSpace => DeleteError::NoSpace,
                }),
            ),
            Self::Put(reply, queued) => {
                drop(queued);
                answer(
                    reply,
                    result.map_err(|error| match error {
                        AppendError::Failed => PutError::Failed,
                        AppendError::NoSpace => PutError::NoSpace,
                    }),
                );
            }
        }
    }
}

/// Takes what waits, up to the caps of a batch. Blocks for the first operation if `idle`.
fn gather(queue: &Receiver<Op>, idle: bool) -> Gathered {
    let mut ops = Vec::new();
    let mut bytes = 0;
    while ops.len() < BATCH_OPS_MAX && bytes < BATCH_BYTES_MAX {
        let next = match queue.try_recv() {
            Err(TryRecvError::Empty) if idle && ops.is_empty() => {
                queue.recv().map_err(|_| TryRecvError::Disconnected)
            }
            other => other,
        };
        match next {
            Ok(Op::Close) | Err(TryRecvError::Disconnected) => return Gathered::Closed(ops),
            Err(TryRecvError::Empty) => break,
            Ok(op) => {
                bytes += op.data_len();
                ops.push(op);
            }
        }
    }
    Gathered::Ops(ops)
}

impl Op {
    fn data_len(&self) -> u64 {
        match self {
            Self::Close | Self::Delete { .. } => 0,
            Self::Put { content, .. } => content.length.into(),
        }
    }
}

/// A caller that has lost interest isn't an error.
fn answer<T>(reply: oneshot::Sender<T>, result: T) {
    let _ = reply.send(result);
}

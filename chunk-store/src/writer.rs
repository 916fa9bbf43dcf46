//! The one thread that changes a store: takes all that waits, makes it durable by a single write, answers. While a batch is on
//! its way to the disk, the next one is put together.
//!
//! Invariant: nothing is answered with success before the write that covers it is durable.

use std::{collections::HashMap, io, mem, sync::Arc, time::Instant};

use bytes::Bytes;
use tokio::sync::oneshot;
use xdpfs_wire::ChunkId;

use crate::{
    DeleteError, PutError, QueuedBytes, Shared,
    batch::{NewRecord, Origin},
    checksum::{crc32c, joined},
    compaction::{Compactor, Due},
    format::{Class, Content, DESCRIPTOR_LEN, Extent, Kind, last_page_len},
    log::{AppendError, Log, Tail},
    page_buffer::PAGE_LEN,
    sync::{
        mpsc::{Receiver, RecvTimeoutError, TryRecvError},
        thread::{self, JoinHandle},
    },
};

/// What the writer is asked for.
#[derive(Debug)]
pub(crate) enum Op {
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
pub(crate) struct Writer {
    shared: Arc<Shared>,
    log: Log,
    compactor: Compactor,
    /// What the batch on its way is for.
    flight: Expectation,
}

/// Who waits for a batch. A chunk's bytes count as queued until its put is answered.
#[derive(Debug)]
enum Waiter {
    Delete(oneshot::Sender<Result<(), DeleteError>>),
    Put(oneshot::Sender<Result<(), PutError>>, QueuedBytes),
}

/// What is expected of a batch.
#[derive(Debug, Default)]
struct Expectation {
    waiters: Vec<Waiter>,
    /// What the batch makes of the chunks that it touches; `None` is a deletion.
    outcome: HashMap<ChunkId, Option<Content>>,
    /// Records that are on the disk already will be dead with it.
    kills: bool,
    /// The most that the records can take.
    length: u64,
}

/// Operations that will be made durable together.
#[derive(Debug, Default)]
struct Batch {
    records: Vec<NewRecord>,
    expectation: Expectation,
    /// What the records may take.
    room: u64,
}

/// A chunk that a put or a delete meets.
#[derive(Clone, Copy, Debug)]
struct Present {
    content: Content,
    /// Its bytes are gone, and may be written again; other bytes may not take its name.
    damaged: bool,
}

/// How long to wait for operations.
#[derive(Clone, Copy, Debug)]
enum Patience {
    Endless,
    None,
    Until(Instant),
}

/// Why a batch isn't on its way.
enum NotSent {
    /// It, or what it counted on, has failed.
    Lost(AppendError),
    /// The disk has no room for these.
    NoPlace(Vec<NewRecord>),
}

impl NotSent {
    fn of(error: AppendError, records: Vec<NewRecord>) -> Self {
        match error {
            AppendError::Failed => Self::Lost(error),
            AppendError::NoSpace => Self::NoPlace(records),
        }
    }
}

/// What the queue has to offer.
struct Gathered {
    ops: Vec<Op>,
    is_closed: bool,
}

impl Writer {
    pub(crate) fn new(shared: Arc<Shared>, tail: Tail) -> Self {
        let log = Log::new(Arc::clone(&shared), tail);
        let compactor = Compactor::new(Arc::clone(&shared));
        Self { shared, log, compactor, flight: Expectation::default() }
    }

    pub(crate) fn spawn(mut self, ops: Receiver<Op>) -> io::Result<JoinHandle<()>> {
        thread::Builder::new().name("store-writer".into()).spawn(move || self.run(&ops))
    }

    /// A number higher than any before.
    pub(crate) fn next_sequence(&mut self) -> u64 {
        self.log.next_sequence()
    }

    /// Writes records that nobody waits for, before the thread is there.
    pub(crate) fn append(&mut self, records: Vec<NewRecord>) -> Result<(), AppendError> {
        self.log.append(Class::Hot, records)
    }

    fn run(&mut self, queue: &Receiver<Op>) {
        loop {
            let due = self.compactor.due(&self.log);
            let patience = match due {
                _ if self.log.is_flying() => Patience::None,
                Due::Never => Patience::Endless,
                Due::Now => Patience::None,
                Due::At(at) => Patience::Until(at),
            };
            let Gathered { ops, is_closed } = self.gather(queue, patience);
            if ops.is_empty() {
                // Whoever waits is told, and the next batch meets a disk at rest.
                let _ = self.land();
            } else {
                self.commit(ops);
            }
            if is_closed {
                let _ = self.land();
                break;
            }
            if matches!(due, Due::Now) && self.land().is_ok() {
                self.compactor.step(&mut self.log);
            }
        }
        if let Err(error) = self.log.trim() {
            // The next start finds everything as it is.
            tracing::debug!(%error, "disk space beyond the end of segments could not be given back");
        }
    }

    fn commit(&mut self, ops: Vec<Op>) {
        let room = self.shared.usage().free_bytes.saturating_sub(self.flight.length);
        let mut batch = Batch { room, ..Batch::default() };
        for op in ops {
            match op {
                Op::Close => {}
                Op::Delete { chunks, reply } => self.admit_delete(&mut batch, &chunks, reply),
                Op::Put { chunk, content, data, reply, queued } => {
                    match self.admit_put(&mut batch, chunk, content, data) {
                        Ok(()) => batch.expectation.waiters.push(Waiter::Put(reply, queued)),
                        Err(error) => answer(reply, Err(error)),
                    }
                }
            }
        }
        let Batch { records, expectation, .. } = batch;
        match self.send_off(records) {
            Ok(()) if self.log.is_flying() => self.flight = expectation,
            Ok(()) => self.meet(expectation, Ok(())),
            Err(NotSent::NoPlace(records)) => self.make_do(records, expectation),
            Err(NotSent::Lost(error)) => self.meet(expectation, Err(error)),
        }
    }

    /// Has the records written, once what is on its way has arrived. Should that fail, so does this: it may have counted on it.
    fn send_off(&mut self, records: Vec<NewRecord>) -> Result<(), NotSent> {
        if records.is_empty() || !self.log.has_place(Class::Hot, &records) {
            match self.land() {
                Ok(()) if records.is_empty() => return Ok(()),
                Ok(()) => {}
                Err(error) => return Err(NotSent::of(error, records)),
            }
        }
        let prepared = self.log.prepare(Class::Hot, records);
        let prepared = prepared.map_err(|(error, records)| NotSent::of(error, records))?;
        match self.land() {
            Ok(()) => self.log.submit(prepared).map_err(NotSent::Lost),
            Err(error) => Err(NotSent::of(error, prepared.into_records())),
        }
    }

    /// There is no space. Deletions are small, and make room: they go on alone.
    fn make_do(&mut self, mut records: Vec<NewRecord>, mut expectation: Expectation) {
        let error = self.out_of_room();
        records.retain(|record| record.kind == Kind::Tombstone);
        for waiter in mem::take(&mut expectation.waiters) {
            match waiter {
                Waiter::Put(reply, _) => answer(reply, Err(error)),
                Waiter::Delete(reply) => expectation.waiters.push(Waiter::Delete(reply)),
            }
        }
        let landed = self.land();
        let result = landed.and_then(|()| match records.is_empty() {
            true => Ok(()),
            false => self.log.append(Class::Hot, records),
        });
        self.meet(expectation, result);
    }

    /// Waits for the batch on its way, and tells whoever waits for it.
    fn land(&mut self) -> Result<(), AppendError> {
        if !self.log.is_flying() {
            return Ok(());
        }
        let landed = self.log.finish();
        let expectation = mem::take(&mut self.flight);
        match landed {
            Ok(records) => {
                let puts = records.iter().filter(|record| record.kind == Kind::Chunk);
                let (chunks, bytes) = puts.fold((0, 0), |(chunks, bytes), record| {
                    (chunks + 1, bytes + u64::from(record.content.length))
                });
                self.shared.activity.note_put(chunks, bytes);
                self.meet(expectation, Ok(()));
                Ok(())
            }
            Err((AppendError::NoSpace, records)) => {
                self.make_do(records, expectation);
                Err(AppendError::NoSpace)
            }
            Err((error, _)) => {
                self.meet(expectation, Err(error));
                Err(error)
            }
        }
    }

    fn meet(&mut self, expectation: Expectation, result: Result<(), AppendError>) {
        if expectation.kills {
            self.compactor.look_again();
        }
        for waiter in expectation.waiters {
            waiter.answer(result);
        }
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
            Some(_) => batch.expectation.kills = true,
            None => {}
        }
        let page_crcs: Vec<u32> = data.chunks(PAGE_LEN).map(crc32c).collect();
        if joined(&page_crcs, last_page_len(content.length)) != content.crc {
            return Err(PutError::Corrupt);
        }
        let length = Extent::len_max(content.length);
        let expected = &mut batch.expectation;
        if expected.length + length > batch.room {
            return Err(self.out_of_room());
        }
        expected.length += length;
        expected.outcome.insert(chunk, Some(content));
        let sequence = self.log.next_sequence();
        let (kind, origin) = (Kind::Chunk, Origin::Caller);
        batch.records.push(NewRecord { kind, chunk, content, sequence, data, page_crcs, origin });
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
                batch.expectation.kills = true;
                batch.expectation.length += DESCRIPTOR_LEN as u64;
                batch.expectation.outcome.insert(*chunk, None);
                let sequence = self.log.next_sequence();
                batch.records.push(NewRecord::tombstone(*chunk, sequence, Origin::Caller));
            }
        }
        batch.expectation.waiters.push(Waiter::Delete(reply));
    }

    /// What is durable, or will be with the batch and the one before it.
    fn present(&self, batch: &Batch, chunk: ChunkId) -> Option<Present> {
        let expected = batch.expectation.outcome.get(&chunk).or_else(|| self.flight.outcome.get(&chunk));
        match expected {
            Some(outcome) => outcome.map(|content| Present { content, damaged: false }),
            None => {
                let index = self.shared.index();
                let live = index.chunk(chunk)?;
                Some(Present { content: live.content(), damaged: live.is_damaged() })
            }
        }
    }

    fn out_of_room(&mut self) -> PutError {
        if self.compactor.make_room(&self.log) { PutError::Busy } else { PutError::NoSpace }
    }

    /// Takes what waits, up to the caps of a batch.
    fn gather(&self, queue: &Receiver<Op>, patience: Patience) -> Gathered {
        let limits = &self.shared.limits;
        let mut gathered = Gathered { ops: Vec::new(), is_closed: false };
        let mut bytes = 0;
        while gathered.ops.len() < limits.batch_ops && bytes < limits.batch_bytes {
            match next(queue, if gathered.ops.is_empty() { patience } else { Patience::None }) {
                Ok(Op::Close) | Err(TryRecvError::Disconnected) => {
                    gathered.is_closed = true;
                    break;
                }
                Err(TryRecvError::Empty) => break,
                Ok(op) => {
                    bytes += op.data_len();
                    gathered.ops.push(op);
                }
            }
        }
        gathered
    }
}

fn next(queue: &Receiver<Op>, patience: Patience) -> Result<Op, TryRecvError> {
    match (queue.try_recv(), patience) {
        (Err(TryRecvError::Empty), Patience::Endless) => queue.recv().map_err(|_| TryRecvError::Disconnected),
        (Err(TryRecvError::Empty), Patience::Until(at)) => {
            queue.recv_timeout(at.saturating_duration_since(Instant::now())).map_err(|error| match error {
                RecvTimeoutError::Timeout => TryRecvError::Empty,
                RecvTimeoutError::Disconnected => TryRecvError::Disconnected,
            })
        }
        (other, _) => other,
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

//! A few threads for each disk that read chunks and send the answers. They block on the disk, which the endpoint's task must not.
//!
//! Invariant: the queue is bounded, and each thread reuses its buffers, so reads take no memory that grows. A thread has several
//! ranges of the disk under way; it waits for a job only when it has none.

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io,
    ops::Range,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::{self, JoinHandle},
    time::Instant,
};

use tokio::runtime::Handle;
use xdpfs_transport::{
    node::{ReadBytes, ReadJob},
    shell::Socket,
};
use xdpfs_wire::Status;

use super::send;
use crate::{
    disks::Disks,
    store::{Pages, ReadError, ReadRequest, Reader, ReaderId, Store},
};

/// For each disk. Each of them has several reads under way; more of them send at a time.
const READERS: usize = 4;
/// Reads that may wait. Each is one burst, so this is 30 MiB of answers at most.
const QUEUE_MAX: usize = 512;

/// The reader threads of all disks. They end when the pool is closed or dropped.
#[derive(Debug)]
pub(super) struct ReaderPool {
    disks: Disks,
    /// In the order of the disks; none for one that has no store.
    queues: Vec<Option<SyncSender<ReadJob>>>,
    threads: Vec<JoinHandle<()>>,
}

/// Too many reads wait already.
#[derive(Debug)]
pub(super) struct PoolFull;

impl ReaderPool {
    /// Starts the threads. Call inside a tokio runtime, which sends what they have read.
    pub(super) fn spawn(disks: &Disks, socket: &Arc<Socket>) -> io::Result<Self> {
        let (mut queues, mut threads) = (Vec::new(), Vec::new());
        for store in disks.each_store() {
            let queue = store.map(|store| spawn(store, socket, &mut threads)).transpose()?;
            queues.push(queue);
        }
        Ok(Self { disks: disks.clone(), queues, threads })
    }

    /// Has the job answered, unless too many wait already.
    pub(super) fn submit(&self, job: ReadJob) -> Result<(), PoolFull> {
        // If no disk has the chunk, any of them can say so.
        let there = self.disks.place_to_read(job.chunk()).and_then(|place| self.queues.get(place)?.as_ref());
        let queue = there.or_else(|| self.queues.iter().flatten().next());
        queue.ok_or(PoolFull)?.try_send(job).map_err(|_| PoolFull)
    }

    /// Answers what waits, and ends the threads.
    pub(super) async fn close(self) {
        drop(self.queues);
        let threads = self.threads;
        let joined = tokio::task::spawn_blocking(move || threads.into_iter().try_for_each(JoinHandle::join));
        if !matches!(joined.await, Ok(Ok(()))) {
            tracing::error!("a reader thread has died");
        }
    }
}

/// Starts the threads of one disk.
fn spawn(
    store: &Store,
    socket: &Arc<Socket>,
    threads: &mut Vec<JoinHandle<()>>,
) -> io::Result<SyncSender<ReadJob>> {
    let (queue, jobs) = sync_channel(QUEUE_MAX);
    let jobs = Arc::new(Mutex::new(jobs));
    let runtime = Handle::current();
    for _ in 0..READERS {
        let jobs = Arc::clone(&jobs);
        let (store, socket, runtime) = (store.clone(), Arc::clone(socket), runtime.clone());
        // What belongs to the kernel's rings stays with the thread that made it.
        let run = move || Worker { reader: store.reader(), socket, runtime }.run(&jobs);
        threads.push(thread::Builder::new().name("chunk-reader".into()).spawn(run)?);
    }
    Ok(queue)
}

/// One thread of the pool.
struct Worker {
    reader: Reader<ReadJob>,
    socket: Arc<Socket>,
    runtime: Handle,
}

/// Bytes of a chunk, as the protocol lays them into datagrams: the one time that they are copied on their way.
struct PagesToSend<'a>(Pages<'a>);

impl ReadBytes for PagesToSend<'_> {
    fn bytes<'a>(&'a self, offset: u32, length: usize, scratch: &'a mut Vec<u8>) -> &'a [u8] {
        self.0.bytes(offset, length, scratch)
    }
}

impl Worker {
    fn run(self, jobs: &Mutex<Receiver<ReadJob>>) {
        let Self { mut reader, socket, runtime } = self;
        let (mut scratch, mut out) = (Vec::new(), Vec::new());
        let mut answer = |job: ReadJob, read: Result<Pages<'_>, Status>| {
            let read = read.map(PagesToSend);
            let read = read.as_ref().map(|pages| pages as &dyn ReadBytes).map_err(|status| *status);
            let answer = job.answer(Instant::now, read, &mut scratch, &mut out);
            runtime.block_on(async {
                for (transmit, bytes) in answer.transmits(job.from, &out).into_iter().flatten() {
                    send(&socket, transmit, bytes).await;
                }
            });
        };
        loop {
            while reader.has_room() {
                let job = match reader.is_busy() {
                    true => poll(jobs),
                    false => match next(jobs) {
                        Some(job) => Some(job),
                        None => return,
                    },
                };
                let Some(job) = job else { break };
                match job.range() {
                    Ok(range) => reader.submit(request(&job, &range), job),
                    Err(status) => answer(job, Err(status)),
                }
            }
            reader.complete(true, |job, read| answer(job, read.map_err(status_of)));
        }
    }
}

fn request(job: &ReadJob, range: &Range<u32>) -> ReadRequest {
    let mut hasher = DefaultHasher::new();
    job.from.address.hash(&mut hasher);
    ReadRequest {
        chunk: job.chunk(),
        offset: range.start,
        length: range.end - range.start,
        reader: ReaderId(hasher.finish()),
    }
}

/// Waits for a job; `None` once there will be no more.
fn next(jobs: &Mutex<Receiver<ReadJob>>) -> Option<ReadJob> {
    jobs.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
}

/// A job, if one is there. Whoever waits for one has found that none is.
fn poll(jobs: &Mutex<Receiver<ReadJob>>) -> Option<ReadJob> {
    jobs.try_lock().ok()?.try_recv().ok()
}

/// What a reader is told of a read that failed.
const fn status_of(error: ReadError) -> Status {
    match error {
        ReadError::Corrupt => Status::Corrupt,
        ReadError::Failed => Status::Internal,
        ReadError::NotFound => Status::NotFound,
        ReadError::Range => Status::Range,
    }
}

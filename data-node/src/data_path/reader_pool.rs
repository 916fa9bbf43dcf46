//! A few threads that read chunks and send the answers. They block on the disk, which the endpoint's task must not.
//!
//! Invariant: the queue is bounded, and each thread reuses its buffers, so reads take no memory that grows.

use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::{self, JoinHandle},
    time::Instant,
};

use tokio::runtime::Handle;
use xdpfs_transport::{Transmit, node::ReadJob, shell::Socket};
use xdpfs_wire::Status;

use super::send;
use crate::{disks::Disks, store::ReadError};

/// Enough for a disk to have several reads to order.
const READERS: usize = 4;
/// Reads that may wait. Each is one burst, so this is 30 MiB of answers at most.
const QUEUE_MAX: usize = 512;

/// The reader threads. They end when the pool is closed or dropped.
#[derive(Debug)]
pub(super) struct ReaderPool {
    queue: SyncSender<ReadJob>,
    threads: Vec<JoinHandle<()>>,
}

/// Too many reads wait already.
#[derive(Debug)]
pub(super) struct PoolFull;

impl ReaderPool {
    /// Starts the threads. Call inside a tokio runtime, which sends what they have read.
    pub(super) fn spawn(disks: &Disks, socket: &Arc<Socket>) -> io::Result<Self> {
        let (queue, jobs) = sync_channel(QUEUE_MAX);
        let jobs = Arc::new(Mutex::new(jobs));
        let runtime = Handle::current();
        let spawn = |_| {
            let jobs = Arc::clone(&jobs);
            let reader =
                Reader { disks: disks.clone(), socket: Arc::clone(socket), runtime: runtime.clone() };
            thread::Builder::new().name("chunk-reader".into()).spawn(move || reader.run(&jobs))
        };
        let threads = (0..READERS).map(spawn).collect::<io::Result<_>>()?;
        Ok(Self { queue, threads })
    }

    /// Has the job answered, unless too many wait already.
    pub(super) fn submit(&self, job: ReadJob) -> Result<(), PoolFull> {
        self.queue.try_send(job).map_err(|_| PoolFull)
    }

    /// Answers what waits, and ends the threads.
    pub(super) async fn close(self) {
        drop(self.queue);
        let threads = self.threads;
        let joined = tokio::task::spawn_blocking(move || threads.into_iter().try_for_each(JoinHandle::join));
        if !matches!(joined.await, Ok(Ok(()))) {
            tracing::error!("a reader thread has died");
        }
    }
}

struct Reader {
    disks: Disks,
    socket: Arc<Socket>,
    runtime: Handle,
}

impl Reader {
    fn run(&self, jobs: &Mutex<Receiver<ReadJob>>) {
        let (mut scratch, mut out) = (Vec::new(), Vec::new());
        while let Some(job) = next(jobs) {
            self.answer(&job, &mut scratch, &mut out);
        }
    }

    fn answer(&self, job: &ReadJob, scratch: &mut Vec<u8>, out: &mut Vec<u8>) {
        let read = |offset, bytes: &mut [u8]| self.disks.read(job.chunk(), offset, bytes).map_err(status_of);
        let answer = job.answer(Instant::now, read, scratch, out);
        let (batch, rest) = out.split_at(answer.batch_len);
        let segment_size = (answer.segment_size < batch.len()).then_some(answer.segment_size);
        self.runtime.block_on(async {
            send(&self.socket, Transmit::to(job.from, segment_size), batch).await;
            if !rest.is_empty() {
                send(&self.socket, Transmit::to(job.from, None), rest).await;
            }
        });
    }
}

/// Waits for a job; `None` once there will be no more.
fn next(jobs: &Mutex<Receiver<ReadJob>>) -> Option<ReadJob> {
    jobs.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
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

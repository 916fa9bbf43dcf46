//! The chunks of one put that are being written.
//!
//! Invariant: they are bounded by their number and by the client's memory budget. Only a put with nothing in flight may
//! go beyond the budget: it would wait for gets that nobody reads, perhaps for the one that feeds it.

use std::{io, sync::Arc};

use bytes::Bytes;
use futures::{StreamExt as _, stream::FuturesUnordered};
use tokio::{io::AsyncRead, sync::OwnedSemaphorePermit};
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument as _;

use super::{
    chunker::Chunker,
    replicas::{self, Written},
    upload::{Grant, Upload},
};
use crate::error::{Error, Result};

/// Dropping it cancels the writes.
#[derive(Debug)]
pub(super) struct InFlight {
    upload: Arc<Upload>,
    writes: FuturesUnordered<AbortOnDropHandle<(u64, Result<Written>)>>,
    begun: u64,
    written: Vec<(u64, Written)>,
}

impl InFlight {
    pub(super) fn new(upload: &Arc<Upload>) -> Self {
        Self { upload: Arc::clone(upload), writes: FuturesUnordered::new(), begun: 0, written: vec![] }
    }

    /// How many chunks were begun so far.
    pub(super) const fn begun(&self) -> u64 {
        self.begun
    }

    /// The next chunk of the input, once there is room for it.
    pub(super) async fn next_data<R>(&mut self, chunker: &mut Chunker<R>) -> Result<Option<Bytes>>
    where
        R: AsyncRead + Unpin,
    {
        let in_flight_max = self.upload.shared.config.chunks_in_flight_max.get();
        let chunk_size = self.upload.chunk_size as usize;
        loop {
            tokio::select! {
                data = chunker.next(chunk_size), if self.writes.len() < in_flight_max => return data.map_err(Error::Input),
                Some(done) = self.writes.next() => self.take(done)?,
            }
        }
    }

    /// A share of the memory budget for a chunk.
    pub(super) async fn memory(&mut self, bytes: usize) -> Result<Option<OwnedSemaphorePermit>> {
        let shared = Arc::clone(&self.upload.shared);
        while !self.writes.is_empty() {
            tokio::select! {
                memory = shared.memory(bytes) => return Ok(memory),
                Some(done) = self.writes.next() => self.take(done)?,
            }
        }
        Ok(shared.try_memory(bytes))
    }

    /// Begins to write a chunk. `memory` is given back when it is written.
    pub(super) fn begin(&mut self, grant: Grant, data: Bytes, memory: Option<OwnedSemaphorePermit>) {
        let (upload, index) = (Arc::clone(&self.upload), self.begun);
        let write = async move {
            let _memory = memory;
            (index, replicas::write_chunk(&upload, grant, data).await)
        };
        self.writes.push(AbortOnDropHandle::new(tokio::spawn(write.in_current_span())));
        self.begun += 1;
    }

    /// All chunks in order, once they are written.
    pub(super) async fn finish(mut self) -> Result<Vec<Written>> {
        while let Some(done) = self.writes.next().await {
            self.take(done)?;
        }
        self.written.sort_unstable_by_key(|(index, _)| *index);
        Ok(self.written.into_iter().map(|(_, chunk)| chunk).collect())
    }

    fn take(&mut self, done: Result<(u64, Result<Written>), tokio::task::JoinError>) -> Result<()> {
        let (index, chunk) = done.map_err(|ended| Error::Input(io::Error::other(ended)))?;
        self.written.push((index, chunk?));
        Ok(())
    }
}

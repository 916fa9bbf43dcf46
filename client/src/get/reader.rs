//! The bytes of one version in order, several chunks ahead of its reader.
//!
//! Invariant: chunks in flight are bounded by their number and by the client's memory budget; only the chunk that the
//! reader waits for may go beyond the budget, so that gets which nobody reads cannot stop the others.

use std::{collections::VecDeque, ops::Range, sync::Arc};

use bytes::Bytes;
use tokio::{sync::OwnedSemaphorePermit, task::JoinError};
use tokio_util::task::AbortOnDropHandle;
use tracing::{Instrument as _, debug};
use xdpfs_transport::crc32c_combine;
use xdpfs_wire::ChunkId;

use super::{
    manifest::{Part, bad_reply},
    piece::{self, Piece},
    version::{Lost, Version},
};
use crate::{ChunkPlacement, error::Error};

/// Bytes of the object, and their share of the memory budget.
#[derive(Debug)]
pub(super) struct Block {
    pub(super) bytes: Bytes,
    pub(super) _memory: Option<OwnedSemaphorePermit>,
}

/// A get on its way.
#[derive(Debug)]
pub(super) struct Reader {
    version: Arc<Version>,
    /// Bytes to give.
    range: Range<u64>,
    /// First byte that no read was begun for.
    next: u64,
    /// Chunks of the manifest that no read was begun for.
    left: VecDeque<ChunkPlacement>,
    in_flight: VecDeque<Flight>,
    renewal: Option<AbortOnDropHandle<()>>,
    /// CRC32C of the chunks so far, for a get of the whole object.
    crc32c: u32,
}

#[derive(Debug)]
struct Flight {
    chunk: ChunkId,
    read: AbortOnDropHandle<Result<Bytes, Lost>>,
    memory: Option<OwnedSemaphorePermit>,
}

impl Reader {
    /// Reads `range`, whose first chunks are `left`.
    pub(super) fn new(version: Arc<Version>, range: Range<u64>, left: VecDeque<ChunkPlacement>) -> Self {
        let next = range.start;
        Self { version, range, next, left, in_flight: VecDeque::new(), renewal: None, crc32c: 0 }
    }

    pub(super) const fn version(&self) -> &Arc<Version> {
        &self.version
    }

    /// The bytes that follow; `None` behind the last ones. Not cancel safe: a reader that was interrupted is to be
    /// dropped.
    pub(super) async fn next(&mut self) -> Result<Option<Block>, Lost> {
        if self.left.is_empty() && self.next < self.range.end {
            let Part { chunks, .. } = self.version.ask(self.next..self.range.end).await?;
            self.left = chunks;
        }
        self.renew_if_due();
        if self.in_flight.is_empty() {
            let memory =
                self.left.front().and_then(|chunk| self.version.shared.try_memory(chunk.length as usize));
            self.begin(memory)?;
        }
        self.begin_more()?;
        let Some(Flight { chunk, read, memory }) = self.in_flight.pop_front() else { return Ok(None) };
        // Only a runtime that shuts down ends the task.
        let ended = |ended: JoinError| Lost::Failed(Error::DataUnavailable { chunk, why: ended.to_string() });
        let bytes = read.await.map_err(ended)??;
        // While the caller is busy with these bytes.
        self.begin_more()?;
        Ok(Some(Block { bytes, _memory: memory }))
    }

    /// Begins as many reads as the bounds allow.
    fn begin_more(&mut self) -> Result<(), Lost> {
        let in_flight_max = self.version.shared.config.chunks_in_flight_max.get();
        while let Some(chunk) = self.left.front().filter(|_| self.in_flight.len() < in_flight_max) {
            let Some(memory) = self.version.shared.try_memory(chunk.length as usize) else { break };
            self.begin(Some(memory))?;
        }
        Ok(())
    }

    /// Begins to read the next chunk, if there is one.
    fn begin(&mut self, memory: Option<OwnedSemaphorePermit>) -> Result<(), Lost> {
        let Some(chunk) = self.left.pop_front() else { return Ok(()) };
        if chunk.offset > self.next || chunk.end() <= self.next {
            return Err(Lost::Failed(bad_reply("a chunk is missing")));
        }
        self.add_up(&chunk)?;
        let end = chunk.end().min(self.range.end);
        // Differences within a chunk, whose length is a `u32`.
        let range = (self.next - chunk.offset) as u32..(end - chunk.offset) as u32;
        self.next = end;
        if self.next == self.range.end {
            self.left.clear();
        }
        let (version, id) = (Arc::clone(&self.version), chunk.chunk);
        let read = async move { piece::read(&version, Piece { chunk, range }).await };
        self.in_flight.push_back(Flight {
            chunk: id,
            read: AbortOnDropHandle::new(tokio::spawn(read.in_current_span())),
            memory,
        });
        Ok(())
    }

    /// The parts of a manifest must make up the object that it is said to be.
    fn add_up(&mut self, chunk: &ChunkPlacement) -> Result<(), Lost> {
        let object = &self.version.object;
        if self.range != (0..object.size) {
            return Ok(());
        }
        self.crc32c = crc32c_combine(self.crc32c, chunk.crc32c, chunk.length.into());
        if chunk.end() == object.size && self.crc32c != object.crc32c {
            return Err(Lost::Failed(Error::Integrity { what: "the object's manifest".into() }));
        }
        Ok(())
    }

    /// Renews the capability in the background, so that a leader's death stops no reader before its capability ends.
    fn renew_if_due(&mut self) {
        let version = &self.version;
        let is_running = self.renewal.as_ref().is_some_and(|renewal| !renewal.is_finished());
        if is_running || version.is_superseded() || !version.session.is_half_spent() {
            return;
        }
        let byte = self.next.min(self.range.end - 1);
        let version = Arc::clone(version);
        let renewal = async move {
            if let Err(lost) = version.ask(byte..byte + 1).await {
                debug!(?lost, "capability not renewed");
            }
        };
        self.renewal = Some(AbortOnDropHandle::new(tokio::spawn(renewal.in_current_span())));
    }
}

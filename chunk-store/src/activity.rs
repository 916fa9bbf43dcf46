//! What a store has done since it was opened, for whoever watches it.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use xdpfs_observe::{Latency, Scrape, catalogue as names};

/// Counters that anybody may read while the store works.
#[derive(Debug, Default)]
pub struct Activity {
    sync: Latency,
    puts: AtomicU64,
    put_bytes: AtomicU64,
    reads: AtomicU64,
    read_bytes: AtomicU64,
    damaged: AtomicU64,
    moved_bytes: AtomicU64,
    batches: AtomicU64,
    batch_bytes: AtomicU64,
}

impl Activity {
    /// A batch of so many bytes, as it stands on the disk, was made durable.
    pub(crate) fn note_sync(&self, took: Duration, bytes: u64) {
        self.sync.observe(took);
        self.batches.fetch_add(1, Ordering::Relaxed);
        self.batch_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Chunks that callers sent are durable.
    pub(crate) fn note_put(&self, chunks: usize, bytes: u64) {
        self.puts.fetch_add(chunks as u64, Ordering::Relaxed);
        self.put_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// A range was read.
    pub(crate) fn note_read(&self, bytes: usize) {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.read_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// A chunk failed its checksum.
    pub(crate) fn note_damage(&self) {
        self.damaged.fetch_add(1, Ordering::Relaxed);
    }

    /// Compaction has written these again.
    pub(crate) fn note_moved(&self, bytes: u64) {
        self.moved_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Durable writes, and what they have brought to the disk: chunks, copies that compaction makes, and what is written about
    /// them.
    #[must_use]
    pub fn batches(&self) -> (u64, u64) {
        (self.batches.load(Ordering::Relaxed), self.batch_bytes.load(Ordering::Relaxed))
    }

    /// Bytes of chunks that were made durable.
    #[must_use]
    pub fn written_bytes(&self) -> u64 {
        self.put_bytes.load(Ordering::Relaxed)
    }

    /// Bytes of chunks that compaction has written again.
    #[must_use]
    pub fn moved_bytes(&self) -> u64 {
        self.moved_bytes.load(Ordering::Relaxed)
    }

    /// Bytes that were read.
    #[must_use]
    pub fn read_bytes(&self) -> u64 {
        self.read_bytes.load(Ordering::Relaxed)
    }

    /// Tells all of it.
    pub fn collect(&self, scrape: &mut Scrape<'_>) {
        scrape.latency(&names::STORE_SYNC, &self.sync);
        for (metric, counter) in [
            (&names::STORE_PUTS, &self.puts),
            (&names::STORE_PUT_BYTES, &self.put_bytes),
            (&names::STORE_READS, &self.reads),
            (&names::STORE_READ_BYTES, &self.read_bytes),
            (&names::STORE_DAMAGED, &self.damaged),
            (&names::STORE_MOVED_BYTES, &self.moved_bytes),
            (&names::STORE_BATCH_BYTES, &self.batch_bytes),
        ] {
            scrape.counter(metric, counter.load(Ordering::Relaxed));
        }
    }
}

//! What a store has done since it was opened, for whoever watches it.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use xdpfs_observe::{Latency, Scrape, catalogue as names};

use super::append::NewRecord;

/// Counters that anybody may read while the store works.
#[derive(Debug, Default)]
pub(crate) struct Activity {
    sync: Latency,
    puts: AtomicU64,
    put_bytes: AtomicU64,
    reads: AtomicU64,
    read_bytes: AtomicU64,
    damaged: AtomicU64,
    moved_bytes: AtomicU64,
}

impl Activity {
    /// A batch was made durable.
    pub(super) fn note_sync(&self, took: Duration) {
        self.sync.observe(took);
    }

    /// Chunks that callers sent are durable.
    pub(super) fn note_put(&self, chunks: usize, bytes: u64) {
        self.puts.fetch_add(chunks as u64, Ordering::Relaxed);
        self.put_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// A range was read.
    pub(super) fn note_read(&self, bytes: usize) {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.read_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// A chunk failed its checksum.
    pub(super) fn note_damage(&self) {
        self.damaged.fetch_add(1, Ordering::Relaxed);
    }

    /// Compaction has written these again.
    pub(super) fn note_moved(&self, records: &[NewRecord]) {
        let bytes = records.iter().map(|record| record.data.len() as u64).sum();
        self.moved_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes of chunks that were made durable.
    pub(crate) fn written_bytes(&self) -> u64 {
        self.put_bytes.load(Ordering::Relaxed)
    }

    /// Bytes that were read.
    pub(crate) fn read_bytes(&self) -> u64 {
        self.read_bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn collect(&self, scrape: &mut Scrape<'_>) {
        scrape.latency(&names::STORE_SYNC, &self.sync);
        for (metric, counter) in [
            (&names::STORE_PUTS, &self.puts),
            (&names::STORE_PUT_BYTES, &self.put_bytes),
            (&names::STORE_READS, &self.reads),
            (&names::STORE_READ_BYTES, &self.read_bytes),
            (&names::STORE_DAMAGED, &self.damaged),
            (&names::STORE_MOVED_BYTES, &self.moved_bytes),
        ] {
            scrape.counter(metric, counter.load(Ordering::Relaxed));
        }
    }
}

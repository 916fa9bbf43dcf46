//! How a page, or a burst of bytes, is asked for. All reads that are measured go through here.

use std::{
    sync::Mutex,
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use xdpfs_chunk_store::{Pages, ReadError, ReadRequest, Reader, ReaderId, Store};
use xdpfs_wire::ChunkId;

use crate::latencies::Latencies;

/// Threads that read, as many as a node has for a disk.
const THREADS: usize = 4;

/// One request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    pub(crate) chunk: ChunkId,
    pub(crate) offset: u32,
    pub(crate) length: usize,
}

impl Wanted {
    const fn request(self, reader: u64) -> ReadRequest {
        let Self { chunk, offset, length } = self;
        ReadRequest { chunk, offset, length: length as u32, reader: ReaderId(reader) }
    }
}

/// Fills `out`, which may be longer, and waits for it.
pub(crate) fn read(store: &Store, wanted: Wanted, out: &mut [u8]) -> Result<(), ReadError> {
    store.read(wanted.chunk, wanted.offset, &mut out[..wanted.length])
}

/// Copies a burst, as it is copied into datagrams.
fn take(pages: &Pages<'_>, wanted: Wanted, scratch: &mut Vec<u8>, out: &mut Vec<u8>) {
    out.clear();
    let mut taken = 0;
    while taken < wanted.length {
        let piece = (wanted.length - taken).min(PIECE_LEN);
        out.extend_from_slice(pages.bytes(wanted.offset + taken as u32, piece, scratch));
        taken += piece;
    }
}

/// Bytes that one datagram carries where packets are large.
const PIECE_LEN: usize = 8192;

/// One client that reads one range after another, so many at a time.
#[derive(Debug)]
pub(crate) struct Stream {
    reader: Reader<Wanted>,
    under_way: usize,
    at_once: usize,
    scratch: Vec<u8>,
    out: Vec<u8>,
}

impl Stream {
    pub(crate) fn of(store: &Store, at_once: usize) -> Self {
        Self { reader: store.reader(), under_way: 0, at_once, scratch: Vec::new(), out: Vec::new() }
    }

    /// Asks for a range, and waits until there is room for another.
    pub(crate) fn read(&mut self, wanted: Wanted) -> Result<(), ReadError> {
        self.reader.submit(wanted.request(1), wanted);
        self.under_way += 1;
        let mut result = Ok(());
        while self.under_way >= self.at_once || !self.reader.has_room() {
            let Self { reader, under_way, scratch, out, .. } = self;
            reader.complete(true, |wanted, read| {
                *under_way -= 1;
                match read {
                    Ok(pages) => take(&pages, wanted, scratch, out),
                    Err(error) => result = Err(error),
                }
            });
        }
        result
    }
}

/// Reads what `choose` says, `depth` requests at a time, for as long as `goes_on` says.
pub(crate) fn read_at_depth(
    store: &Store,
    depth: usize,
    choose: impl Fn(&mut fastrand::Rng) -> Wanted + Sync,
    goes_on: impl Fn() -> bool + Sync,
) -> anyhow::Result<(Latencies, Duration)> {
    let threads = depth.min(THREADS);
    let (all, began) = (Mutex::new(Latencies::default()), Instant::now());
    let one = |seed: usize| -> Result<(), ReadError> {
        let mut random = fastrand::Rng::with_seed(seed as u64);
        let mut latencies = Latencies::default();
        let (mut scratch, mut out, mut result) = (Vec::new(), Vec::new(), Ok(()));
        let (mut reader, mut under_way) = (store.reader(), 0);
        while goes_on() || under_way > 0 {
            while under_way < depth / threads && reader.has_room() && goes_on() {
                let wanted = choose(&mut random);
                // Each one another client: nobody reads straight on.
                reader.submit(wanted.request(random.u64(..)), (wanted, Instant::now()));
                under_way += 1;
            }
            reader.complete(true, |(wanted, began), read| {
                under_way -= 1;
                match read {
                    Ok(pages) => take(&pages, wanted, &mut scratch, &mut out),
                    Err(error) => result = Err(error),
                }
                latencies.note(began.elapsed());
            });
            result?;
        }
        if let Ok(mut all) = all.lock() {
            all.join(latencies);
        }
        Ok(())
    };
    thread::scope(|scope| {
        let readers: Vec<_> = (0..threads).map(|reader| scope.spawn(move || one(reader))).collect();
        for reader in readers {
            reader.join().ok().context("a reader is gone")??;
        }
        anyhow::Ok(())
    })?;
    Ok((all.into_inner().ok().context("a reader is gone")?, began.elapsed()))
}

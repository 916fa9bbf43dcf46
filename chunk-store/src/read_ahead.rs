//! Who reads straight on, and what they will read next. Pure: no disk, no clock.
//!
//! Invariant: what is advised lies within chunks that are there, and a reader that goes straight on is advised no byte
//! twice. Readers that jump about are advised nothing. The memory of all readers together is bounded.

mod place;
mod stream;

use std::{
    collections::{BTreeMap, HashMap},
    ops::Range,
};

use xdpfs_wire::ChunkId;

use stream::{Chunks, Stream};

/// What the window begins with: about two bursts of the protocol.
const WINDOW_MIN: u32 = 128 << 10;

/// Whoever reads: a client, as far as it can be told from others.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ReaderId(pub u64);

/// One place at which a reader goes on. Never used twice.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct StreamId(u64);

/// Counts how often a stream has begun anew; what was advised before is void.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Generation(u64);

/// How far read-ahead may go.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ReadAheadLimits {
    /// Bytes that are advised beyond what a reader has asked for, at most. Zero turns read-ahead off.
    pub window_bytes_max: u32,
    /// Streams that are known. The one that was heard of least recently goes.
    pub streams_max: usize,
}

impl Default for ReadAheadLimits {
    fn default() -> Self {
        Self { window_bytes_max: 2 << 20, streams_max: 1024 }
    }
}

/// What to read now, as somebody will soon ask for it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Advice {
    /// Whom it is for.
    pub stream: StreamId,
    /// To be compared before the reading begins: see [`ReadAhead::is_current`].
    pub generation: Generation,
    /// In the order in which it will be asked for: whole pages, except at the end of a chunk.
    pub ranges: Vec<AdvisedRange>,
}

/// Bytes of one chunk.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AdvisedRange {
    /// The chunk.
    pub chunk: ChunkId,
    /// Where in it.
    pub bytes: Range<u32>,
}

/// What came of it, since the beginning.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct ReadAheadStats {
    /// Bytes that were advised.
    pub advised_bytes: u64,
    /// Those of them that were asked for later.
    pub used_bytes: u64,
    /// Those of them that nobody had asked for when their stream ended or began anew.
    pub cancelled_bytes: u64,
    /// Streams that are known at the moment.
    pub streams: u64,
}

/// The readers of one store.
#[derive(Debug)]
pub struct ReadAhead {
    limits: ReadAheadLimits,
    streams: HashMap<StreamId, Entry>,
    /// Where the streams are, have just been, and are about to go.
    by_chunk: HashMap<(ReaderId, ChunkId), StreamId>,
    by_age: BTreeMap<u64, StreamId>,
    /// Counts what was noted.
    now: u64,
    stats: ReadAheadStats,
}

#[derive(Debug)]
struct Entry {
    reader: ReaderId,
    noted: u64,
    stream: Stream,
}

impl ReadAhead {
    /// Knows no reader yet.
    #[must_use]
    pub fn new(limits: ReadAheadLimits) -> Self {
        Self {
            limits,
            streams: HashMap::new(),
            by_chunk: HashMap::new(),
            by_age: BTreeMap::new(),
            now: 0,
            stats: ReadAheadStats::default(),
        }
    }

    /// A reader has asked for a range of a chunk of this length. Says what to read for it now; `None` if nothing.
    /// `next_chunk` tells the chunk of the store that follows one, and its length.
    pub fn note(
        &mut self,
        reader: ReaderId,
        chunk: ChunkId,
        length: u32,
        range: Range<u32>,
        next_chunk: impl FnOnce(ChunkId) -> Option<(ChunkId, u32)>,
    ) -> Option<Advice> {
        let is_within = range.start < range.end && range.end <= length;
        if self.limits.window_bytes_max == 0 || self.limits.streams_max == 0 || !is_within {
            return None;
        }
        self.now += 1;
        let Some(id) = self.by_chunk.get(&(reader, chunk)).copied() else {
            self.begin(reader, Stream::begin(chunk, length, range));
            return None;
        };
        let entry = self.streams.get_mut(&id)?;
        self.by_age.remove(&entry.noted);
        entry.noted = self.now;
        self.by_age.insert(self.now, id);

        let stream = &mut entry.stream;
        let before = stream.chunks();
        let seen = stream.see(chunk, range, self.limits.window_bytes_max);
        let is_free = |next: &(ChunkId, u32)| !self.by_chunk.contains_key(&(reader, next.0));
        let ranges = stream.advise(|chunk| next_chunk(chunk).filter(is_free));
        let (generation, after) = (stream.generation(), stream.chunks());

        self.stats.used_bytes += seen.used;
        self.stats.cancelled_bytes += seen.cancelled;
        self.stats.advised_bytes += ranges.iter().map(|range| range.bytes.len() as u64).sum::<u64>();
        self.map(reader, id, &before, &after);
        (!ranges.is_empty()).then_some(Advice { stream: id, generation, ranges })
    }

    /// Whether what was advised is still wanted. If not, it need not be read if that hasn't begun.
    #[must_use]
    pub fn is_current(&self, stream: StreamId, generation: Generation) -> bool {
        self.streams.get(&stream).is_some_and(|entry| entry.stream.generation() == generation)
    }

    /// What came of it so far.
    #[must_use]
    pub fn stats(&self) -> ReadAheadStats {
        ReadAheadStats { streams: self.streams.len() as u64, ..self.stats }
    }

    fn begin(&mut self, reader: ReaderId, stream: Stream) {
        while self.streams.len() >= self.limits.streams_max {
            self.end_oldest();
        }
        let id = StreamId(self.now);
        self.map(reader, id, &Chunks::default(), &stream.chunks());
        self.by_age.insert(self.now, id);
        self.streams.insert(id, Entry { reader, noted: self.now, stream });
    }

    fn end_oldest(&mut self) {
        let Some((_, id)) = self.by_age.pop_first() else { return };
        if let Some(mut entry) = self.streams.remove(&id) {
            self.stats.cancelled_bytes += entry.stream.cancel();
            self.map(entry.reader, id, &entry.stream.chunks(), &Chunks::default());
        }
    }

    /// A stream has moved.
    fn map(&mut self, reader: ReaderId, id: StreamId, before: &Chunks, after: &Chunks) {
        if before == after {
            return;
        }
        for chunk in before.iter().flatten() {
            self.by_chunk.remove(&(reader, *chunk));
        }
        for chunk in after.iter().flatten() {
            self.by_chunk.insert((reader, *chunk), id);
        }
    }
}

#[cfg(test)]
mod tests;

//! One reader going through a chunk, and on to the next.
//!
//! A client has several requests under way, so they come slightly out of order, and the last ones of a chunk after the
//! first ones of the next.

use std::ops::Range;

use xdpfs_wire::ChunkId;

use super::{AdvisedRange, Generation, WINDOW_MIN, place::Place};

/// How far from where it should be a request may be and yet have been sent as the next one: what a client has under way
/// when it begins.
const DISORDER: u32 = 256 << 10;
/// A reader whose requests have left holes for so long is no longer judged by them.
const DOUBT_MAX: u32 = 1 << 20;

/// The chunks that a stream has just left, is in, and goes on to.
pub(super) type Chunks = [Option<ChunkId>; 3];

#[derive(Debug)]
pub(super) struct Stream {
    previous: Option<Place>,
    current: Place,
    next: Onward,
    /// What was asked for of the current chunk.
    asked: Asked,
    /// Bytes to be advised beyond; zero until the reader is seen to go straight on.
    window: u32,
    /// Bytes that the reader has come on since the window was last made larger.
    progress: u32,
    /// The last request that did not belong here. If another goes on from it, the reader is there now.
    elsewhere: Option<Range<u32>>,
    generation: u64,
}

/// Requests that lie close to each other.
#[derive(Debug)]
struct Asked {
    start: u32,
    end: u32,
    /// Where the first one ended.
    first_end: u32,
    /// Of all of them.
    bytes: u64,
}

/// What comes behind the current chunk.
#[derive(Debug)]
enum Onward {
    Chunk(Place),
    Nothing,
    Unknown,
}

/// What a request did to earlier advice, in bytes.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Seen {
    pub(super) used: u64,
    pub(super) cancelled: u64,
}

impl Stream {
    pub(super) const fn begin(chunk: ChunkId, length: u32, asked: Range<u32>) -> Self {
        Self {
            previous: None,
            current: Place::new(chunk, length),
            next: Onward::Unknown,
            asked: Asked::begin(&asked),
            window: 0,
            progress: 0,
            elsewhere: None,
            generation: 0,
        }
    }

    pub(super) fn chunks(&self) -> Chunks {
        let next = match &self.next {
            Onward::Chunk(next) => Some(next.chunk),
            Onward::Nothing | Onward::Unknown => None,
        };
        [self.previous.as_ref().map(|previous| previous.chunk), Some(self.current.chunk), next]
    }

    pub(super) const fn generation(&self) -> Generation {
        Generation(self.generation)
    }

    /// A request for a range of one of the stream's chunks.
    pub(super) fn see(&mut self, chunk: ChunkId, range: Range<u32>, window_max: u32) -> Seen {
        if let Some(previous) = self.previous.as_mut().filter(|previous| previous.chunk == chunk) {
            return Seen { used: previous.read(&range), cancelled: 0 };
        }
        let cancelled = if chunk == self.current.chunk { 0 } else { self.move_on(&range) };
        let used = self.current.read(&range);
        Seen { used, cancelled: cancelled + self.follow(range, window_max) }
    }

    /// The reader has come to the next chunk. Returns what it has left unread two chunks ago.
    fn move_on(&mut self, range: &Range<u32>) -> u64 {
        let Onward::Chunk(next) = std::mem::replace(&mut self.next, Onward::Unknown) else { return 0 };
        let previous = std::mem::replace(&mut self.current, next);
        let before = self.previous.replace(previous);
        self.elsewhere = None;
        // Where the request lies in the chunk is where the stream is.
        self.asked = Asked::begin(&(range.start..range.start));
        before.map_or(0, |mut place| place.cancel())
    }

    /// Returns what was cancelled.
    fn follow(&mut self, range: Range<u32>, window_max: u32) -> u64 {
        if !self.is_near(&range) {
            return self.stray(range, window_max);
        }
        let progress = self.asked.add(&range);
        if self.window == 0 {
            if self.asked.is_straight_on() {
                self.window = WINDOW_MIN.min(window_max);
            } else if self.asked.end - self.asked.start > DOUBT_MAX {
                self.asked = Asked::begin(&range);
            }
            return 0;
        }
        self.progress = self.progress.saturating_add(progress);
        if self.progress >= self.window {
            self.window = self.window.saturating_mul(2).min(window_max);
            self.progress = 0;
        }
        0
    }

    /// Whether a request may just have come early or late.
    fn is_near(&self, range: &Range<u32>) -> bool {
        let slack = self.window.max(DISORDER);
        range.start <= self.asked.end.saturating_add(slack)
            && range.end >= self.asked.end.saturating_sub(slack)
    }

    /// A request that does not belong here. Returns what was cancelled.
    fn stray(&mut self, range: Range<u32>, window_max: u32) -> u64 {
        let is_there = self.elsewhere.as_ref().is_some_and(|before| range.start == before.end);
        self.window /= 2;
        if is_there {
            self.window = WINDOW_MIN.min(window_max);
        } else if self.window < WINDOW_MIN.min(window_max) {
            self.window = 0;
        } else {
            self.elsewhere = Some(range);
            return 0;
        }
        self.restart(range)
    }

    /// The stream is at this range, and nowhere else.
    fn restart(&mut self, range: Range<u32>) -> u64 {
        let cancelled = self.cancel();
        self.previous = None;
        self.next = Onward::Unknown;
        self.current.advised_to = 0;
        self.asked = Asked::begin(&range);
        self.progress = 0;
        self.elsewhere = None;
        cancelled
    }

    /// Voids what was advised. Returns how much of it nobody has asked for.
    pub(super) fn cancel(&mut self) -> u64 {
        self.generation += 1;
        let next = match &mut self.next {
            Onward::Chunk(next) => next.cancel(),
            Onward::Nothing | Onward::Unknown => 0,
        };
        self.previous.as_mut().map_or(0, Place::cancel) + self.current.cancel() + next
    }

    /// What to read so that the window is full again, once half of it is used up.
    pub(super) fn advise(
        &mut self,
        next_chunk: impl FnOnce(ChunkId) -> Option<(ChunkId, u32)>,
    ) -> Vec<AdvisedRange> {
        if self.window == 0 || self.stock() > self.window / 2 {
            return Vec::new();
        }
        let to = u64::from(self.asked.end) + u64::from(self.window);
        let mut ranges = Vec::new();
        ranges.extend(self.current.advise(self.asked.end, to));
        let Some(beyond) = to.checked_sub(self.current.length.into()).filter(|beyond| *beyond > 0) else {
            return ranges;
        };
        if matches!(self.next, Onward::Unknown) {
            let current = self.current.chunk;
            self.next = match next_chunk(current).filter(|(chunk, length)| *chunk != current && *length > 0) {
                Some((chunk, length)) => Onward::Chunk(Place::new(chunk, length)),
                None => Onward::Nothing,
            };
        }
        if let Onward::Chunk(next) = &mut self.next {
            ranges.extend(next.advise(0, beyond));
        }
        ranges
    }

    /// Bytes that were advised beyond what was asked for.
    fn stock(&self) -> u32 {
        let next = match &self.next {
            Onward::Chunk(next) => next.advised_to,
            Onward::Nothing | Onward::Unknown => 0,
        };
        self.current.advised_to.saturating_sub(self.asked.end).saturating_add(next)
    }
}

impl Asked {
    const fn begin(range: &Range<u32>) -> Self {
        Self {
            start: range.start,
            end: range.end,
            first_end: range.end,
            bytes: (range.end - range.start) as u64,
        }
    }

    /// Returns how far this takes the end.
    fn add(&mut self, range: &Range<u32>) -> u32 {
        let progress = range.end.saturating_sub(self.end);
        self.start = self.start.min(range.start);
        self.end = self.end.max(range.end);
        self.bytes += range.len() as u64;
        progress
    }

    /// Whether there was more than one, the end has come forward, and there are no holes.
    fn is_straight_on(&self) -> bool {
        self.end > self.first_end && self.bytes >= u64::from(self.end - self.start)
    }
}

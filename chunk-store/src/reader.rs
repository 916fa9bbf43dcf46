//! Reads for many at once: from memory what is there, several ranges of the disk at a time, and ahead of who reads straight on.
//!
//! Invariant: what is handed over has passed its checksums, as in [`crate::reading`]. Bytes come from the disk into memory that
//! the kernel knows, and are handed over from there; what the cache keeps is copied aside.

use std::{collections::VecDeque, fmt, mem, ops::Range, sync::Arc};

use xdpfs_wire::ChunkId;

use crate::{
    ReadError, Shared, cache_name,
    chunk_map::Location,
    format::{last_page_len, pages},
    medium::PageReader,
    page_buffer::PAGE_LEN,
    page_cache::Origin,
    read_ahead::{AdvisedRange, Generation, ReaderId, StreamId},
    reading::{Fetch, PageTable, PagesPlan, Plan, TablePlan, plan},
    segment::Segment,
};

/// Ranges of the disk that one reader has under way.
const FETCHES_MAX: usize = 12;
/// Of those, so many may be for what nobody has asked for yet.
const AHEAD_MAX: usize = 8;
/// Pages of one range: those of a burst of the protocol, with checksums that lie before them.
const FETCH_PAGES_MAX: usize = 56;
/// Pages that are read ahead at once, which leave room for the same.
const AHEAD_PAGES: u32 = 32;
/// Ranges that wait to be read ahead. What is beyond is left to who wants it.
const AHEAD_QUEUE_MAX: usize = 64;
/// Bytes of one read; more than a burst of the protocol.
pub const READ_LEN_MAX: u32 = 64 << 10;

/// A part of a chunk that somebody wants.
#[derive(Clone, Copy, Debug)]
pub struct ReadRequest {
    /// The chunk.
    pub chunk: ChunkId,
    /// Where in it.
    pub offset: u32,
    /// How many bytes, no more than [`READ_LEN_MAX`].
    pub length: u32,
    /// Who wants it.
    pub reader: ReaderId,
}

/// Reads for one thread. Requests are told apart by their tags.
pub struct Reader<T> {
    shared: Arc<Shared>,
    disk: Box<dyn PageReader>,
    /// By token.
    fetches: [Option<Job<T>>; FETCHES_MAX],
    /// What doesn't need the disk.
    ready: VecDeque<(T, Result<Ready, ReadError>)>,
    ahead: VecDeque<Ahead>,
    ahead_count: usize,
    /// What waits for pages that are being read ahead, and for room behind that.
    waiting: Vec<(ReadRequest, T)>,
}

/// The bytes of a read, in pages that lie together or apart.
#[derive(Debug)]
pub struct Pages<'a> {
    /// Of the chunk.
    first_page: u32,
    /// From the first page on.
    before: &'a [Arc<[u8]>],
    /// Behind those, from one read of the disk.
    fetched: &'a [u8],
    after: &'a [Arc<[u8]>],
}

/// Pages of the cache, all that were asked for.
struct Ready {
    first_page: u32,
    pages: Vec<Arc<[u8]>>,
}

/// Something that is read from the disk.
struct Job<T> {
    purpose: Purpose<T>,
    chunk: ChunkId,
    location: Location,
    segment: Arc<Segment>,
    step: Step,
    wanted: Range<u32>,
    table: Option<PageTable>,
}

enum Purpose<T> {
    Ahead,
    Request { tag: T, first_page: u32, before: Vec<Arc<[u8]>>, after: Vec<Arc<[u8]>> },
}

#[derive(Clone, Copy)]
enum Step {
    Pages(PagesPlan),
    Table(TablePlan),
}

/// Pages to be read ahead, as long as the stream goes on.
struct Ahead {
    stream: StreamId,
    generation: Generation,
    chunk: ChunkId,
    pages: Range<u32>,
}

impl<T> fmt::Debug for Reader<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader")
            .field("disk", &self.disk)
            .field("ready", &self.ready.len())
            .finish_non_exhaustive()
    }
}

impl Pages<'_> {
    /// The bytes from `offset` of the chunk on, which were asked for. If they don't lie together, they are laid into `scratch`.
    pub fn bytes<'a>(&'a self, offset: u32, length: usize, scratch: &'a mut Vec<u8>) -> &'a [u8] {
        let (mut page, mut skip) =
            ((offset / PAGE_LEN as u32 - self.first_page) as usize, offset as usize % PAGE_LEN);
        let together = self.together_with(page).get(skip..).unwrap_or_default();
        if together.len() >= length {
            return &together[..length];
        }
        scratch.clear();
        while scratch.len() < length {
            let there = self.together_with(page).get(skip..).unwrap_or_default();
            let taken = there.len().min(length - scratch.len());
            if taken == 0 {
                break;
            }
            scratch.extend_from_slice(&there[..taken]);
            page += (skip + taken).div_ceil(PAGE_LEN);
            skip = 0;
        }
        scratch
    }

    /// All that lies together with a page, from its start on.
    fn together_with(&self, page: usize) -> &[u8] {
        if let Some(before) = self.before.get(page) {
            return before;
        }
        let page = page - self.before.len();
        let fetched = self.fetched.get(page * PAGE_LEN..).unwrap_or_default();
        if !fetched.is_empty() {
            return fetched;
        }
        let behind = page - self.fetched.len().div_ceil(PAGE_LEN);
        self.after.get(behind).map(|after| &**after).unwrap_or_default()
    }
}

impl<T> Reader<T> {
    pub(crate) fn new(shared: &Arc<Shared>) -> Self {
        Self {
            shared: Arc::clone(shared),
            disk: shared.medium.reader(FETCHES_MAX, FETCH_PAGES_MAX),
            fetches: [const { None }; FETCHES_MAX],
            ready: VecDeque::new(),
            ahead: VecDeque::new(),
            ahead_count: 0,
            waiting: Vec::new(),
        }
    }

    /// Whether another request may be submitted.
    #[must_use]
    pub fn has_room(&self) -> bool {
        let begun = self.ready.len() + self.waiting.len();
        begun < FETCHES_MAX && self.fetches.iter().any(Option::is_none)
    }

    /// Whether requests, or what is read ahead, are under way.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        !self.ready.is_empty() || !self.waiting.is_empty() || self.fetches.iter().any(Option::is_some)
    }

    /// Begins to read. [`Self::complete`] tells the end.
    pub fn submit(&mut self, request: ReadRequest, tag: T) {
        self.shared.activity.note_read(request.length as usize);
        // Without a cache there is no place for what nobody has asked for yet.
        if let Some(location) = self.begin(request, tag)
            && self.shared.cache.takes_pages()
        {
            self.note(&request, &location);
        }
    }

    /// Hands over what has been read. Waits for something if `wait`, and anything is under way.
    pub fn complete(&mut self, wait: bool, mut done: impl FnMut(T, Result<Pages<'_>, ReadError>)) {
        let has_some = !self.ready.is_empty();
        for (tag, ready) in mem::take(&mut self.ready) {
            done(tag, ready.as_ref().map(Ready::pages).map_err(|error| *error));
        }
        self.go_ahead();
        let Self { shared, disk, fetches, .. } = self;
        let mut next = Vec::new();
        let mut ended_ahead = 0;
        disk.complete(wait && !has_some, &mut |token, read| {
            let Some(mut job) = fetches.get_mut(token as usize).and_then(Option::take) else { return };
            let read = read.map_err(|error| {
                tracing::warn!(segment = job.segment.id.0, %error, "reading a segment failed");
                ReadError::Failed
            });
            match (read.and_then(|bytes| job.take(shared, bytes)), job.purpose) {
                (Ok(None), purpose) => next.push(Job { purpose, ..job }),
                // What can't be read is told to whoever asks for it.
                (_, Purpose::Ahead) => ended_ahead += 1,
                (Ok(Some(fetched)), Purpose::Request { tag, first_page, before, after }) => {
                    done(tag, Ok(Pages { first_page, before: &before, fetched, after: &after }));
                }
                (Err(error), Purpose::Request { tag, .. }) => done(tag, Err(error)),
            }
        });
        self.ahead_count -= ended_ahead;
        for job in next {
            self.fetch(job);
        }
        // Whatever they wait for: pages that are read ahead, or a place among those that are under way.
        for (request, tag) in mem::take(&mut self.waiting) {
            self.begin(request, tag);
        }
    }

    fn find(&self, request: &ReadRequest) -> Result<(Location, Arc<Segment>), ReadError> {
        let found = self.shared.find(request.chunk)?;
        let end = u64::from(request.offset) + u64::from(request.length);
        let is_inside =
            (1..=READ_LEN_MAX).contains(&request.length) && end <= found.0.content().length.into();
        if is_inside { Ok(found) } else { Err(ReadError::Range) }
    }

    /// Gives where the chunk is.
    fn begin(&mut self, request: ReadRequest, tag: T) -> Option<Location> {
        let (location, segment) = match self.find(&request) {
            Ok(found) => found,
            Err(error) => {
                self.ready.push_back((tag, Err(error)));
                return None;
            }
        };
        let ReadRequest { chunk, offset, length, .. } = request;
        let name = cache_name(chunk, &location);
        let wanted = offset / PAGE_LEN as u32..(offset + length).div_ceil(PAGE_LEN as u32);
        let mut there: Vec<_> = wanted.clone().map(|page| self.shared.cache.get(name, page)).collect();
        let first_page = wanted.start;
        let before: Vec<_> = there.iter_mut().map_while(Option::take).collect();
        if before.len() == wanted.len() {
            self.ready.push_back((tag, Ok(Ready { first_page, pages: before })));
            return Some(location);
        }
        let mut after: Vec<_> = there.iter_mut().skip(before.len()).rev().map_while(Option::take).collect();
        after.reverse();
        let missing = wanted.start + before.len() as u32..wanted.end - after.len() as u32;
        if self.is_read_ahead(chunk, missing.start) || self.fetches.iter().all(Option::is_some) {
            self.waiting.push((request, tag));
            return Some(location);
        }
        let table = self.shared.cache.checksums(name);
        let purpose = Purpose::Request { tag, first_page, before, after };
        let step = Step::of(&location, &missing, table.as_ref());
        self.fetch(Job { purpose, chunk, location, segment, step, wanted: missing, table });
        Some(location)
    }

    /// Whether a page is on its way already, for nobody yet.
    fn is_read_ahead(&self, chunk: ChunkId, page: u32) -> bool {
        self.fetches.iter().flatten().any(|job| {
            matches!(job.purpose, Purpose::Ahead) && job.chunk == chunk && job.wanted.contains(&page)
        })
    }

    /// Notes who reads what, and what that makes worth reading.
    fn note(&mut self, request: &ReadRequest, location: &Location) {
        let &ReadRequest { chunk, offset, length, reader } = request;
        let shared = &self.shared;
        let advice = shared.read_ahead().note(
            reader,
            chunk,
            location.content().length,
            offset..offset + length,
            |chunk| shared.next_chunk(chunk),
        );
        let Some(advice) = advice else { return };
        let (stream, generation) = (advice.stream, advice.generation);
        for AdvisedRange { chunk, bytes } in advice.ranges {
            let end = bytes.end.div_ceil(PAGE_LEN as u32);
            let mut first = bytes.start / PAGE_LEN as u32;
            while first < end {
                let next = end.min(first + AHEAD_PAGES);
                self.ahead.push_back(Ahead { stream, generation, chunk, pages: first..next });
                first = next;
            }
        }
        while self.ahead.len() > AHEAD_QUEUE_MAX {
            self.ahead.pop_front();
        }
    }

    /// Begins to read what will be wanted, if there is nothing more urgent.
    fn go_ahead(&mut self) {
        while self.ahead_count < AHEAD_MAX && self.disk.free() > FETCHES_MAX - AHEAD_MAX {
            let Some(ahead) = self.ahead.pop_front() else { return };
            let Ahead { stream, generation, chunk, mut pages } = ahead;
            if !self.shared.read_ahead().is_current(stream, generation) {
                continue;
            }
            let cache = &self.shared.cache;
            let Ok((location, segment)) = self.shared.find(chunk) else { continue };
            let name = cache_name(chunk, &location);
            pages.start = pages.clone().find(|page| !cache.contains(name, *page)).unwrap_or(pages.end);
            pages.end = pages.end.min(crate::format::pages(location.content().length) as u32);
            if pages.is_empty() {
                continue;
            }
            let table = cache.checksums(name);
            let step = Step::of(&location, &pages, table.as_ref());
            self.ahead_count += 1;
            self.fetch(Job { purpose: Purpose::Ahead, chunk, location, segment, step, wanted: pages, table });
        }
    }

    fn fetch(&mut self, job: Job<T>) {
        let Fetch { position, pages } = job.step.fetch();
        let file = Arc::clone(&job.segment.file);
        let token = self.fetches.iter().position(Option::is_none).expect("there is room, as was asked");
        self.fetches[token] = Some(job);
        self.disk.submit(file, position, pages, token as u64);
    }
}

impl Ready {
    fn pages(&self) -> Pages<'_> {
        Pages { first_page: self.first_page, before: &self.pages, fetched: &[], after: &[] }
    }
}

impl Step {
    fn of(location: &Location, wanted: &Range<u32>, table: Option<&PageTable>) -> Self {
        match plan(location, wanted.clone(), table.is_some()) {
            Plan::Pages(plan) => Self::Pages(plan),
            Plan::Table(plan) => Self::Table(plan),
        }
    }

    const fn fetch(&self) -> Fetch {
        match self {
            Self::Pages(plan) => plan.fetch,
            Self::Table(plan) => plan.fetch,
        }
    }
}

impl<T> Job<T> {
    /// Checks what was read. Gives the pages, or nothing if there is more to read.
    fn take<'a>(&mut self, shared: &Shared, bytes: &'a [u8]) -> Result<Option<&'a [u8]>, ReadError> {
        let checked = match self.step {
            Step::Table(plan) => plan.check(&self.location, bytes).map(|table| {
                let name = cache_name(self.chunk, &self.location);
                shared.cache.insert_checksums(name, Arc::clone(&table));
                self.step = Step::of(&self.location, &self.wanted, Some(&table));
                self.table = Some(table);
                None
            }),
            Step::Pages(plan) => plan.check(&self.location, bytes, self.table.as_deref()).map(Some),
        };
        let Ok(checked) = checked else {
            shared.find_damaged(self.chunk, &self.location);
            return Err(ReadError::Corrupt);
        };
        if let (Some(data), Step::Pages(plan)) = (checked, self.step) {
            let origin = match self.purpose {
                Purpose::Ahead => Origin::ReadAhead,
                Purpose::Request { .. } => Origin::Request,
            };
            let table = if self.table.is_none() { plan.table(&self.location, bytes) } else { None };
            shared.keep(self.chunk, &self.location, self.wanted.start, data, table, origin);
        }
        Ok(checked)
    }
}

/// Bytes of a chunk's page.
pub(crate) const fn page_len(length: u32, page: u32) -> usize {
    if page as u64 + 1 == pages(length) { last_page_len(length) } else { PAGE_LEN }
}

//! Copies from bucket to bucket that are under way: which chunks nodes have yet to make, where, and when one has to go
//! elsewhere. Not replicated: what is agreed on is an upload like that of any put. The next leader begins again from the
//! upload and the source, and nodes that hold a chunk by then only say so.
//!
//! Invariant: pure; what nodes are like, and what they said, is told. A chunk counts with the word of `min_replicas` nodes
//! in their present registrations, as for a put, and what all of them say of its bytes is the same.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use xdpfs_proto::{node::v1::FetchFailure, state::v1 as pb};
use xdpfs_wire::{ChunkId, NodeId};

use crate::{
    fetches::{End, Fetched, Order, Owner, Part},
    state_machine::{Chunk, Object, Replicas, chunk_id_bytes},
};

/// Copies that one leader drives.
pub const COPIES_MAX: usize = 256;
/// Chunks of a copy that nodes make at once.
const WINDOW: usize = 16;
/// Chunks that are granted at once, at most.
const GRANTS_MAX: usize = 64;
/// How often one node is asked for a chunk, and how long it is left alone after each failure.
const TRIES_MAX: u32 = 5;
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// How long the last replicas of a chunk are waited for once enough are there.
const STRAGGLER_WAIT: Duration = Duration::from_secs(5);
/// How often a chunk may move to other nodes.
const MOVES_MAX: u32 = 4;

/// What the leader sees of nodes and chunks at present.
pub trait View {
    /// The node can't be expected to make a chunk: it is silent, or too old.
    fn is_lost(&self, node: NodeId) -> bool;
    /// The number of its present registration.
    fn epoch(&self, node: NodeId) -> Option<u32>;
    /// Whether anything refers to the chunk, so that nodes keep it.
    fn is_kept(&self, chunk: ChunkId) -> bool;
}

/// How a copy cannot go on.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Failure {
    /// The chunks are there, and together they are not what the source holds.
    Corrupt,
    /// The data nodes that would hold a chunk are full.
    NoSpace,
    /// The source was removed or replaced, and its chunks are gone.
    SourceChanged,
    /// Nodes don't bring it about; why, in words.
    TooFewNodes(&'static str),
}

/// What is to be done for a copy now.
#[derive(Debug, Default)]
pub struct Advance {
    /// What nodes are to fetch.
    pub orders: Vec<(NodeId, Order)>,
    /// Chunks that it needs placed.
    pub grants_wanted: usize,
    /// All chunks, once they are there.
    pub written: Option<Vec<pb::WrittenChunk>>,
}

/// What is copied, and how its copy is cut.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The upload that it is copied into.
    pub upload_id: u64,
    /// The bucket that the source lies in, by its name.
    pub source_bucket: String,
    /// What the source held, with its chunks.
    pub source: Arc<Object>,
    /// Of the bucket that it is copied to.
    pub chunk_size: u32,
    /// Of the bucket that it is copied to.
    pub min_replicas: u32,
}

/// A copy under way.
#[derive(Debug)]
pub struct Copy {
    plan: Plan,
    slices: Vec<Slice>,
    /// Granted and not in use, in the order of their ids.
    spare: VecDeque<(ChunkId, Replicas)>,
    by_chunk: BTreeMap<ChunkId, usize>,
    /// Somebody is having chunks granted.
    is_extending: bool,
    /// How often its commit was refused because receipts had grown old.
    refusals: u32,
}

/// A chunk to be made.
#[derive(Debug, Default)]
struct Slice {
    placed: Option<Placed>,
    moves: u32,
}

/// A chunk in the making.
#[derive(Debug)]
struct Placed {
    chunk: ChunkId,
    replicas: BTreeMap<NodeId, Replica>,
    enough_at: Option<Instant>,
}

/// Where a replica stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Replica {
    /// The node is to be asked for it.
    Due { tries: u32 },
    /// The node was asked for it.
    Asked { tries: u32 },
    /// It is asked again then.
    Failing { tries: u32, again_at: Instant, why: FetchFailure },
    /// It is there.
    Holds(Fetched),
    /// It will not be there.
    Lost(Option<FetchFailure>),
}

impl Plan {
    /// Chunks of the copy.
    #[must_use]
    pub fn chunk_count(&self) -> usize {
        usize::try_from(self.source.size.div_ceil(self.chunk_size.into())).unwrap_or(usize::MAX)
    }

    /// Whether chunks of the copy are chunks of the source, byte for byte.
    #[must_use]
    pub fn keeps_chunks(&self) -> bool {
        self.source.chunks.len() < 2 && self.source.size <= self.chunk_size.into()
            || self.source.chunks.first().is_some_and(|chunk| chunk.length == self.chunk_size)
    }

    /// The bytes of a chunk of the copy: from where to where in the object.
    fn range(&self, slice: usize) -> (u64, u64) {
        let start = slice as u64 * u64::from(self.chunk_size);
        (start, (start + u64::from(self.chunk_size)).min(self.source.size))
    }

    fn length(&self, slice: usize) -> u32 {
        let (start, end) = self.range(slice);
        // No longer than a chunk.
        (end - start) as u32
    }

    /// What a chunk of the copy is made of.
    fn parts(&self, slice: usize) -> (Vec<Part>, Option<u32>) {
        let (start, end) = self.range(slice);
        let chunks = &self.source.chunks;
        // All but the last one are as long as the first one.
        let length = chunks.first().map_or(1, |chunk| u64::from(chunk.length).max(1));
        let touched = (start / length) as usize..end.div_ceil(length) as usize;
        let first = touched.start as u64;
        let part = |(at, chunk): (u64, &Chunk)| {
            let begins = at * length;
            let from = start.saturating_sub(begins);
            let to = (end - begins).min(chunk.length.into());
            Part { chunk: chunk.id, offset: from as u32, length: (to - from) as u32, holders: chunk.replicas }
        };
        let chunks = chunks.get(touched).unwrap_or_default();
        let parts: Vec<Part> = (first..).zip(chunks).map(part).collect();
        let whole = match (chunks, parts.as_slice()) {
            ([chunk], [part]) if part.length == chunk.length => Some(chunk.crc32c),
            _ => None,
        };
        (parts, whole)
    }
}

impl Copy {
    /// A copy that begins with these chunks of its upload, in the order of their ids.
    #[must_use]
    pub fn new(plan: Plan, granted: impl IntoIterator<Item = (ChunkId, Replicas)>) -> Self {
        let slices = (0..plan.chunk_count()).map(|_| Slice::default()).collect();
        Self {
            plan,
            slices,
            spare: granted.into_iter().collect(),
            by_chunk: BTreeMap::new(),
            is_extending: false,
            refusals: 0,
        }
    }

    /// What is copied.
    #[must_use]
    pub const fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Bytes of the chunks that enough nodes hold.
    #[must_use]
    pub fn copied_bytes(&self) -> u64 {
        let is_there = |slice: &Slice| {
            slice.placed.as_ref().is_some_and(|placed| placed.held().count() >= self.needed())
        };
        let there = self.slices.iter().enumerate().filter(|(_, slice)| is_there(slice));
        there.map(|(at, _)| u64::from(self.plan.length(at))).sum()
    }

    fn needed(&self) -> usize {
        self.plan.min_replicas.max(1) as usize
    }

    /// More chunks were granted.
    pub fn grant(&mut self, granted: impl IntoIterator<Item = (ChunkId, Replicas)>) {
        self.spare.extend(granted);
    }

    /// Whether the caller is the one to have chunks granted now; it says when it is done with that.
    pub fn begin_extending(&mut self) -> bool {
        !std::mem::replace(&mut self.is_extending, true)
    }

    /// Nobody is having chunks granted any more.
    pub fn end_extending(&mut self) {
        self.is_extending = false;
    }

    /// Its commit was refused for its receipts. Gives how often that was.
    pub fn note_refusal(&mut self) -> u32 {
        self.refusals += 1;
        self.refusals
    }

    /// Looks at what has happened, and says what is to be done.
    ///
    /// # Errors
    /// The copy can't go on.
    pub fn advance(
        &mut self,
        now: Instant,
        ends: Vec<(NodeId, ChunkId, End)>,
        view: &impl View,
    ) -> Result<Advance, Failure> {
        for (node, chunk, end) in ends {
            self.note(now, node, chunk, end);
        }
        let mut advance = Advance::default();
        let mut in_flight = 0;
        for at in 0..self.slices.len() {
            if in_flight >= WINDOW {
                break;
            }
            let is_settled = match self.look_at(at, now, view)? {
                Some(due) => {
                    advance.orders.extend(due.orders);
                    due.is_settled
                }
                None => {
                    advance.grants_wanted += 1;
                    false
                }
            };
            in_flight += usize::from(!is_settled);
        }
        if advance.grants_wanted > 0 {
            let unplaced = self.slices.iter().filter(|slice| slice.placed.is_none()).count();
            advance.grants_wanted = unplaced.min(GRANTS_MAX);
        }
        if in_flight == 0 {
            advance.written = Some(self.written());
        }
        Ok(advance)
    }

    /// The node was asked for the chunk.
    pub fn asked(&mut self, node: NodeId, chunk: ChunkId) {
        if let Some(replica) = self.replica(node, chunk)
            && let Replica::Due { tries } = *replica
        {
            *replica = Replica::Asked { tries: tries + 1 };
        }
    }

    fn replica(&mut self, node: NodeId, chunk: ChunkId) -> Option<&mut Replica> {
        let slice = self.slices.get_mut(*self.by_chunk.get(&chunk)?)?;
        slice.placed.as_mut().filter(|placed| placed.chunk == chunk)?.replicas.get_mut(&node)
    }

    fn note(&mut self, now: Instant, node: NodeId, chunk: ChunkId, end: End) {
        let Some(at) = self.by_chunk.get(&chunk).copied() else { return };
        let length = self.plan.length(at);
        // Whole chunks are held against the manifest by the node; all replicas have to say the same of any.
        let placed = self.slices.get(at).and_then(|slice| slice.placed.as_ref());
        let agreed = placed.and_then(|placed| placed.held().next()).map(|held| held.crc32c);
        let Some(replica) = self.replica(node, chunk) else { return };
        let Replica::Asked { tries } = *replica else { return };
        *replica = match end {
            Ok(fetched) if fetched.length == length && agreed.is_none_or(|crc| crc == fetched.crc32c) => {
                Replica::Holds(fetched)
            }
            Ok(_) => Replica::Lost(Some(FetchFailure::Conflict)),
            Err(why) => match why {
                FetchFailure::OutOfReach | FetchFailure::Gone | FetchFailure::Corrupt
                    if tries < TRIES_MAX =>
                {
                    Replica::Failing { tries, again_at: now + RETRY_AFTER, why }
                }
                FetchFailure::Unspecified
                | FetchFailure::OutOfReach
                | FetchFailure::Gone
                | FetchFailure::Corrupt
                | FetchFailure::Conflict
                | FetchFailure::NoSpace
                | FetchFailure::Refused => Replica::Lost(Some(why)),
            },
        };
    }

    /// What is due for one chunk; none if it needs to be placed first.
    fn look_at(&mut self, at: usize, now: Instant, view: &impl View) -> Result<Option<Due>, Failure> {
        let needed = self.needed();
        if let Some(placed) = self.slices.get_mut(at).and_then(|slice| slice.placed.as_mut()) {
            placed.refresh(now, view, needed);
            if placed.hopeful() < needed {
                self.move_away(at, view)?;
            }
        }
        if self.slices.get(at).is_some_and(|slice| slice.placed.is_none()) {
            let is_good = |(_, nodes): &(ChunkId, Replicas)| {
                nodes.iter().filter(|node| !view.is_lost(*node)).count() >= needed
            };
            // What is of no use is collected when the upload ends.
            while self.spare.front().is_some_and(|granted| !is_good(granted)) {
                self.spare.pop_front();
            }
            let Some((chunk, nodes)) = self.spare.pop_front() else { return Ok(None) };
            self.by_chunk.insert(chunk, at);
            if let Some(slice) = self.slices.get_mut(at) {
                slice.placed = Some(Placed::on(chunk, nodes));
            }
        }
        let Some(placed) = self.slices.get(at).and_then(|slice| slice.placed.as_ref()) else {
            return Ok(None);
        };
        let due: Vec<NodeId> = placed.due().collect();
        let is_settled = placed.is_settled(now, needed);
        let orders =
            if due.is_empty() || is_settled { Vec::new() } else { self.orders(at, placed.chunk, due) };
        Ok(Some(Due { orders, is_settled }))
    }

    /// Too few of the nodes that it was to be on will have the chunk.
    fn move_away(&mut self, at: usize, view: &impl View) -> Result<(), Failure> {
        let sources = self.plan.parts(at).0;
        let Some(slice) = self.slices.get_mut(at) else { return Ok(()) };
        let Some(placed) = slice.placed.take() else { return Ok(()) };
        slice.moves += 1;
        let has_failed = |why| placed.replicas.values().any(|replica| *replica == Replica::Lost(Some(why)));
        if sources.iter().any(|part| !view.is_kept(part.chunk)) {
            return Err(Failure::SourceChanged);
        }
        if has_failed(FetchFailure::Corrupt) {
            return Err(Failure::TooFewNodes("no data node has an undamaged replica of one of its chunks"));
        }
        if has_failed(FetchFailure::OutOfReach) || has_failed(FetchFailure::Gone) {
            return Err(Failure::TooFewNodes("no replica of one of its chunks can be read at present"));
        }
        if slice.moves > MOVES_MAX && has_failed(FetchFailure::NoSpace) {
            return Err(Failure::NoSpace);
        }
        if slice.moves > MOVES_MAX {
            return Err(Failure::TooFewNodes("data nodes that were to make one of its chunks have not"));
        }
        Ok(())
    }

    fn orders(&self, at: usize, chunk: ChunkId, nodes: Vec<NodeId>) -> Vec<(NodeId, Order)> {
        let (parts, crc32c) = self.plan.parts(at);
        let order = Order {
            owner: Owner::Upload(self.plan.upload_id),
            chunk,
            length: self.plan.length(at),
            crc32c,
            parts: parts.into(),
            verify: false,
        };
        nodes.into_iter().map(|node| (node, order.clone())).collect()
    }

    fn written(&self) -> Vec<pb::WrittenChunk> {
        let placed = self.slices.iter().filter_map(|slice| slice.placed.as_ref());
        let written = placed.enumerate().map(|(at, placed)| pb::WrittenChunk {
            chunk_id: chunk_id_bytes(placed.chunk),
            length: self.plan.length(at),
            crc32c: placed.held().next().map_or(0, |held| held.crc32c),
            receipts: placed.receipts(),
        });
        written.collect()
    }
}

/// What is to be done for one chunk.
struct Due {
    orders: Vec<(NodeId, Order)>,
    is_settled: bool,
}

impl Placed {
    fn on(chunk: ChunkId, nodes: Replicas) -> Self {
        let replicas = nodes.iter().map(|node| (node, Replica::Due { tries: 0 })).collect();
        Self { chunk, replicas, enough_at: None }
    }

    fn held(&self) -> impl Iterator<Item = &Fetched> {
        self.replicas.values().filter_map(|replica| match replica {
            Replica::Holds(fetched) => Some(fetched),
            Replica::Asked { .. } | Replica::Due { .. } | Replica::Failing { .. } | Replica::Lost(_) => None,
        })
    }

    fn due(&self) -> impl Iterator<Item = NodeId> {
        let is_due = |(_, replica): &(&NodeId, &Replica)| matches!(replica, Replica::Due { .. });
        self.replicas.iter().filter(is_due).map(|(node, _)| *node)
    }

    /// Replicas that are there, or may yet be.
    fn hopeful(&self) -> usize {
        self.replicas.values().filter(|replica| !matches!(replica, Replica::Lost(_))).count()
    }

    fn refresh(&mut self, now: Instant, view: &impl View, needed: usize) {
        for (node, replica) in &mut self.replicas {
            let is_lost = view.is_lost(*node);
            *replica = match *replica {
                // It says so again, in its present registration, once it is asked.
                Replica::Holds(fetched) if view.epoch(*node) != Some(fetched.node_epoch) => {
                    Replica::Due { tries: 0 }
                }
                Replica::Asked { .. } | Replica::Due { .. } if is_lost => Replica::Lost(None),
                Replica::Failing { why, .. } if is_lost => Replica::Lost(Some(why)),
                Replica::Failing { tries, again_at, .. } if again_at <= now => Replica::Due { tries },
                other => other,
            };
        }
        let is_enough = self.held().count() >= needed;
        self.enough_at = is_enough.then(|| self.enough_at.unwrap_or(now));
    }

    /// Whether nothing more is waited for.
    fn is_settled(&self, now: Instant, needed: usize) -> bool {
        let held = self.held().count();
        let is_late = self.enough_at.is_some_and(|at| now.saturating_duration_since(at) >= STRAGGLER_WAIT);
        held >= needed && (held == self.hopeful() || is_late)
    }

    fn receipts(&self) -> Vec<pb::Receipt> {
        let receipts = self.replicas.iter().filter_map(|(node, replica)| match replica {
            Replica::Holds(fetched) => {
                Some(pb::Receipt { node_id: node.0.into(), node_epoch: fetched.node_epoch, mac: fetched.mac })
            }
            Replica::Asked { .. } | Replica::Due { .. } | Replica::Failing { .. } | Replica::Lost(_) => None,
        });
        receipts.collect()
    }
}

/// The copies that this server drives, for as long as it leads.
#[derive(Debug, Default)]
pub struct Copies(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    term: u64,
    copies: BTreeMap<u64, Copy>,
}

impl Copies {
    /// Whether there is room for one more.
    pub fn has_room(&self, term: u64) -> bool {
        self.at_term(term, |copies| copies.len() < COPIES_MAX)
    }

    /// Begins to drive a copy, unless it is driven already. False: there is no room.
    pub fn begin(&self, term: u64, copy: Copy) -> bool {
        self.at_term(term, |copies| {
            let id = copy.plan.upload_id;
            if copies.len() >= COPIES_MAX && !copies.contains_key(&id) {
                return false;
            }
            copies.entry(id).or_insert(copy);
            true
        })
    }

    /// Works with a copy, if it is driven.
    pub fn with<T>(&self, term: u64, upload_id: u64, work: impl FnOnce(&mut Copy) -> T) -> Option<T> {
        self.at_term(term, |copies| copies.get_mut(&upload_id).map(work))
    }

    /// The copy has ended.
    pub fn end(&self, term: u64, upload_id: u64) {
        self.at_term(term, |copies| copies.remove(&upload_id));
    }

    /// Forgets copies whose uploads are no more.
    pub fn retain(&self, term: u64, is_open: impl Fn(u64) -> bool) {
        self.at_term(term, |copies| copies.retain(|upload_id, _| is_open(*upload_id)));
    }

    fn at_term<T>(&self, term: u64, work: impl FnOnce(&mut BTreeMap<u64, Copy>) -> T) -> T {
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if table.term > term {
            // Whoever was deposed in the meantime drives nothing.
            return work(&mut BTreeMap::new());
        }
        if table.term < term {
            *table = Table { term, ..Table::default() };
        }
        work(&mut table.copies)
    }
}

#[cfg(test)]
mod tests;

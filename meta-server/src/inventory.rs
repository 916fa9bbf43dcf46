//! Inventories: what manifests say, held against what data nodes hold ([design 0036](../../docs/design/0036-fsck.md)). Not
//! replicated: one is lost with the leader that began it.
//!
//! Invariant: pure; what nodes tell, and when, is told. Nothing that a node tells is taken as a finding before it was so in two looks, of
//! which the second is at a list that the node made after the first. Memory is bounded: all findings are counted, and the
//! first of each kind kept.

mod look;
mod manifests;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use xdpfs_wire::{ChunkId, NodeId};

pub use self::look::{Listed, Sight, look};
use self::manifests::Walk;
use crate::state_machine::State;

/// Findings of one kind that are kept, of each node and of the manifests.
const KEPT_MAX: usize = 100;
/// Inventories of one term, by their numbers.
const PER_TERM_BITS: u32 = 32;
/// Between the two looks: what repair and its nodes have under way is settled by then.
pub const SECOND_LOOK_AFTER: Duration = Duration::from_secs(1);
/// A second look that is later is a first one: in the time of a grace, a replica could go and come again.
const SECOND_LOOK_BY: Duration = Duration::from_secs(30);
/// Between two parts of a node's list, so that the leader has time for others.
pub const PART_PAUSE: Duration = Duration::from_millis(20);
/// An inventory that nobody has asked after for so long is in nobody's way.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(10);

/// What is not as it should be, in the order in which it is told.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Kind {
    /// A manifest names no node for the chunk that is heard of.
    OutOfReach,
    /// A manifest names the node, and the node does not hold it.
    Missing,
    /// The node holds other bytes under the chunk's id.
    Different,
    /// Manifests name fewer nodes than the bucket wants replicas.
    TooFew,
    /// A manifest names a node that was removed, or never was.
    NodeGone,
    /// The node holds it, and manifests name others.
    Surplus,
    /// The node holds it, and nothing refers to it.
    Unreferenced,
    /// The same, and its id was never given out.
    Foreign,
}

/// What was found: all counted, the first of each kind kept.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Findings {
    counts: BTreeMap<Kind, u64>,
    kept: BTreeMap<Kind, BTreeSet<(ChunkId, Option<NodeId>)>>,
}

impl Findings {
    fn note(&mut self, kind: Kind, chunk: ChunkId, node: Option<NodeId>) {
        *self.counts.entry(kind).or_default() += 1;
        self.keep(kind, chunk, node);
    }

    fn add(&mut self, other: &Self) {
        for (kind, count) in &other.counts {
            *self.counts.entry(*kind).or_default() += count;
        }
        for (kind, kept) in &other.kept {
            kept.iter().for_each(|(chunk, node)| self.keep(*kind, *chunk, *node));
        }
    }

    fn keep(&mut self, kind: Kind, chunk: ChunkId, node: Option<NodeId>) {
        let kept = self.kept.entry(kind).or_default();
        if kept.len() < KEPT_MAX {
            kept.insert((chunk, node));
        }
    }

    /// How many there are of each kind.
    #[must_use]
    pub const fn counts(&self) -> &BTreeMap<Kind, u64> {
        &self.counts
    }

    /// The first of each kind, and the node that it is about, if it is about one.
    pub fn kept(&self) -> impl Iterator<Item = (Kind, ChunkId, Option<NodeId>)> {
        self.kept.iter().flat_map(|(kind, kept)| kept.iter().map(|(chunk, node)| (*kind, *chunk, *node)))
    }

    /// Whether it was kept that a node does not hold this chunk as it should.
    #[must_use]
    pub fn is_against(&self, chunk: ChunkId, node: NodeId) -> bool {
        let is_in = |kind| self.kept.get(kind).is_some_and(|kept| kept.contains(&(chunk, Some(node))));
        [Kind::Missing, Kind::Different, Kind::NodeGone].iter().any(is_in)
    }
}

/// How far a node is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Standing {
    /// It has yet to tell all that it holds.
    Telling,
    /// It has.
    Told,
    /// It is silent, or fell silent on the way.
    Silent,
    /// Its release knows no inventories.
    Unable,
}

/// A node, in an inventory.
#[derive(Clone, Debug)]
struct Teller {
    standing: Standing,
    /// The registration in which it tells. One that has registered anew begins anew.
    epoch: u32,
    /// From here on nothing was looked at twice.
    next: ChunkId,
    suspects: Option<Suspects>,
    /// Something is being done about what was found last.
    is_settling: bool,
    chunks: u64,
    collected: u64,
    findings: Findings,
}

/// What a first look found.
#[derive(Clone, Debug)]
struct Suspects {
    sight: Sight,
    at: Instant,
}

impl Teller {
    fn new(standing: Standing) -> Self {
        Self {
            standing,
            epoch: 0,
            next: ChunkId(0),
            suspects: None,
            is_settling: false,
            chunks: 0,
            collected: 0,
            findings: Findings::default(),
        }
    }

    /// Takes what a look has shown. Gives what is to be believed.
    fn see(&mut self, now: Instant, sight: Sight) -> BTreeSet<(Kind, ChunkId)> {
        let age = |suspects: &Suspects| now.saturating_duration_since(suspects.at);
        match self.suspects.take() {
            Some(suspects) if age(&suspects) < SECOND_LOOK_AFTER => {
                self.suspects = Some(suspects);
                BTreeSet::new()
            }
            Some(suspects) if age(&suspects) < SECOND_LOOK_BY => {
                self.advance(&sight);
                sight.wrong.intersection(&suspects.sight.wrong).copied().collect()
            }
            _ if sight.wrong.is_empty() => {
                self.advance(&sight);
                BTreeSet::new()
            }
            _ => {
                self.suspects = Some(Suspects { sight, at: now });
                BTreeSet::new()
            }
        }
    }

    fn advance(&mut self, sight: &Sight) {
        self.chunks += sight.chunks;
        match sight.last.0.checked_add(1) {
            Some(next) => self.next = ChunkId(next),
            None => self.standing = Standing::Told,
        }
    }

    fn step(&self) -> Step {
        match (self.standing, &self.suspects) {
            (Standing::Telling, None) => Step::Go { next: self.next, wait: PART_PAUSE },
            (Standing::Telling, Some(_)) => Step::Go { next: self.next, wait: SECOND_LOOK_AFTER },
            (Standing::Told | Standing::Silent | Standing::Unable, _) => Step::Done,
        }
    }
}

/// What a node is to do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Step {
    /// Tell what it holds from this id on, after a while.
    Go {
        /// From where.
        next: ChunkId,
        /// After how long.
        wait: Duration,
    },
    /// Nobody waits for more.
    Done,
}

/// An inventory under way, or the last one.
#[derive(Debug)]
struct Inventory {
    number: u64,
    collects: bool,
    asked_at: Instant,
    tellers: BTreeMap<NodeId, Teller>,
    walk: Walk,
}

/// What an inventory has shown so far.
#[derive(Clone, Debug)]
pub struct Picture {
    /// No two have the same, whoever leads; never zero.
    pub number: u64,
    /// All was looked at.
    pub is_complete: bool,
    /// What nothing refers to is collected.
    pub collects: bool,
    /// Every node, how far it is, the chunks that it has told, and how many of them were collected.
    pub nodes: BTreeMap<NodeId, (Standing, u64, u64)>,
    /// Objects and older versions.
    pub objects: u64,
    /// Their chunks.
    pub chunks: u64,
    /// What is not as it should be.
    pub findings: Findings,
}

impl Inventory {
    fn is_complete(&self) -> bool {
        let is_open = |teller: &Teller| teller.standing == Standing::Telling || teller.is_settling;
        self.walk.is_complete() && !self.tellers.values().any(is_open)
    }

    fn picture(&self) -> Picture {
        let mut findings = self.walk.findings.clone();
        self.tellers.values().for_each(|teller| findings.add(&teller.findings));
        let node =
            |(node, teller): (&NodeId, &Teller)| (*node, (teller.standing, teller.chunks, teller.collected));
        Picture {
            number: self.number,
            is_complete: self.is_complete(),
            collects: self.collects,
            nodes: self.tellers.iter().map(node).collect(),
            objects: self.walk.objects,
            chunks: self.walk.chunks,
            findings,
        }
    }
}

/// Another inventory is under way, and is no good for whoever asks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Busy;

/// The inventory of this term.
#[derive(Debug, Default)]
pub struct Inventories {
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    term: u64,
    /// How many there have been in this term.
    count: u64,
    inventory: Option<Inventory>,
}

impl Inventories {
    /// The one of this number, if the leader knows it; else the one that is under way; else one that begins, of these nodes. Gives its number.
    ///
    /// # Errors
    /// Another one is under way that does not do what this one should.
    pub fn join(
        &self,
        term: u64,
        number: u64,
        collects: bool,
        now: Instant,
        nodes: impl IntoIterator<Item = (NodeId, Standing)>,
    ) -> Result<u64, Busy> {
        self.at_term(term, |table| {
            if let Some(inventory) = &mut table.inventory {
                let is_under_way = !inventory.is_complete();
                if inventory.number == number || (is_under_way && inventory.collects == collects) {
                    inventory.asked_at = now;
                    return Ok(inventory.number);
                }
                let age = now.saturating_duration_since(inventory.asked_at);
                if is_under_way && age < FORGOTTEN_AFTER {
                    return Err(Busy);
                }
            }
            table.count += 1;
            let number = (term << PER_TERM_BITS) | table.count;
            let tellers = nodes.into_iter().map(|(node, standing)| (node, Teller::new(standing)));
            table.inventory = Some(Inventory {
                number,
                collects,
                asked_at: now,
                tellers: tellers.collect(),
                walk: Walk::default(),
            });
            Ok(number)
        })
    }

    /// The one that the node has yet to tell all its chunks for. Zero: none.
    pub fn wanted(&self, term: u64, node: NodeId) -> u64 {
        self.at_term(term, |table| {
            let inventory = table.inventory.as_ref();
            let waits = |inventory: &&Inventory| {
                inventory.tellers.get(&node).is_some_and(|teller| teller.standing == Standing::Telling)
            };
            inventory.filter(waits).map_or(0, |inventory| inventory.number)
        })
    }

    /// From where on the node's list is to be looked at, and up to where if it is a second look. None: nobody waits for it.
    pub fn place(
        &self,
        term: u64,
        number: u64,
        (node, epoch): (NodeId, u32),
    ) -> Option<(ChunkId, Option<ChunkId>)> {
        self.with_teller(term, number, (node, epoch), |teller| {
            (teller.next, teller.suspects.as_ref().map(|suspects| suspects.sight.last))
        })
    }

    /// What the node is to do, without a look.
    pub fn step(&self, term: u64, number: u64, node: (NodeId, u32)) -> Step {
        self.with_teller(term, number, node, |teller| teller.step()).unwrap_or(Step::Done)
    }

    /// A look at the node's list has shown this. Gives what is to be believed, and what the node is to do. If there is anything to
    /// be believed, the inventory is not complete before that is [settled](Self::settle).
    pub fn see(
        &self,
        term: u64,
        number: u64,
        (node, epoch): (NodeId, u32),
        now: Instant,
        sight: Sight,
    ) -> (BTreeSet<(Kind, ChunkId)>, Step) {
        let seen = self.with_teller(term, number, (node, epoch), |teller| {
            let found = teller.see(now, sight);
            for (kind, chunk) in &found {
                teller.findings.note(*kind, *chunk, Some(node));
            }
            teller.is_settling = !found.is_empty();
            (found, teller.step())
        });
        seen.unwrap_or((BTreeSet::new(), Step::Done))
    }

    /// So many of the node's replicas became pending deletes.
    pub fn note_collected(&self, term: u64, number: u64, node: NodeId, replicas: u64) {
        self.with_any_teller(term, number, node, |teller| teller.collected += replicas);
    }

    /// Whatever was to be done about what was found last is done, or given up.
    pub fn settle(&self, term: u64, number: u64, node: NodeId) {
        self.with_any_teller(term, number, node, |teller| teller.is_settling = false);
    }

    /// Whether it collects what nothing refers to.
    pub fn collects(&self, term: u64, number: u64) -> bool {
        self.at_term(term, |table| {
            let inventory = table.inventory.as_ref();
            inventory.is_some_and(|inventory| inventory.number == number && inventory.collects)
        })
    }

    /// Nodes that can't be asked are not waited for any more. `why` says so of each.
    pub fn give_up(&self, term: u64, why: impl Fn(NodeId) -> Standing) {
        self.at_term(term, |table| {
            let tellers = table.inventory.iter_mut().flat_map(|inventory| &mut inventory.tellers);
            let waited_for = tellers.filter(|(_, teller)| teller.standing == Standing::Telling);
            for (node, teller) in waited_for {
                teller.standing = why(*node);
            }
        });
    }

    /// Looks at some manifests. Gives whether there are more.
    pub fn look_on(&self, term: u64, number: u64, state: &State, heard: &BTreeSet<NodeId>) -> bool {
        self.at_term(term, |table| {
            let inventory = table.inventory.as_mut().filter(|inventory| inventory.number == number);
            let Some(walk) =
                inventory.map(|inventory| &mut inventory.walk).filter(|walk| !walk.is_complete())
            else {
                return false;
            };
            walk.look_on(state, heard);
            !walk.is_complete()
        })
    }

    /// What the one of this number has shown so far.
    pub fn picture(&self, term: u64, number: u64) -> Option<Picture> {
        self.at_term(term, |table| {
            let inventory = table.inventory.as_ref();
            inventory.filter(|inventory| inventory.number == number).map(Inventory::picture)
        })
    }

    fn with_any_teller(&self, term: u64, number: u64, node: NodeId, work: impl FnOnce(&mut Teller)) {
        self.at_term(term, |table| {
            let inventory = table.inventory.as_mut().filter(|inventory| inventory.number == number);
            if let Some(teller) = inventory.and_then(|inventory| inventory.tellers.get_mut(&node)) {
                work(teller);
            }
        });
    }

    /// The node, if it is waited for. One that has registered anew since it began to tell begins anew.
    fn with_teller<T>(
        &self,
        term: u64,
        number: u64,
        (node, epoch): (NodeId, u32),
        work: impl FnOnce(&mut Teller) -> T,
    ) -> Option<T> {
        self.at_term(term, |table| {
            let inventory = table.inventory.as_mut().filter(|inventory| inventory.number == number)?;
            let teller = inventory.tellers.get_mut(&node)?;
            if teller.standing != Standing::Telling {
                return None;
            }
            if teller.epoch != epoch {
                *teller = Teller { epoch, collected: teller.collected, ..Teller::new(Standing::Telling) };
            }
            Some(work(teller))
        })
    }

    fn at_term<T>(&self, term: u64, work: impl FnOnce(&mut Table) -> T) -> T {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        // One that was deposed in the meantime changes nothing of what the next term has.
        if table.term > term {
            return work(&mut Table { term, ..Table::default() });
        }
        if table.term < term {
            *table = Table { term, ..Table::default() };
        }
        work(&mut table)
    }
}

#[cfg(test)]
mod tests;

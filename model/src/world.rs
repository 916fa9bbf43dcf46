//! Everything there is: what the log has made of the metadata, what nodes hold and believe, what is on its way, and how much may
//! still go wrong.
//!
//! Invariant: worlds that differ only in which node, or which put, is called the first are one.

/// Nodes.
pub const NODES: usize = 3;
/// Puts, each of one chunk to the same key, each by a client of its own.
pub const CHUNKS: usize = 2;
/// Replicas that a put asks for, and can't do without.
pub const REPLICAS: usize = 2;

/// A whole world.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct World {
    /// By number.
    pub nodes: [Node; NODES],
    /// How each put is.
    pub phases: [Phase; CHUNKS],
    /// What the leader has one node do.
    pub job: Option<Job>,
    /// What a former leader may still get into the log.
    pub late: Option<Change>,
    /// A chunk that a node gets though nobody waits for it: which node, which chunk.
    pub stray: Option<(u8, u8)>,
    /// The node that an operator removes; false: it has registered since the leader looked.
    pub removal: Option<(u8, bool)>,
    /// What may still happen.
    pub left: Scope,
    /// What has happened and must not.
    pub harm: Option<Harm>,
}

/// What a state can't show afterwards.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Harm {
    /// A put that was over, or whose object was deleted, took effect.
    CameBack,
    /// A node removed a chunk that a manifest named it for.
    RemovedLive,
    /// A receipt of a registration that was over counted.
    VouchedByPast,
}

/// A data node.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Node {
    /// As the log has it.
    pub standing: Standing,
    /// Which registration the node believes in.
    pub belief: Belief,
    /// What concerns it and each chunk.
    pub cells: [Cell; CHUNKS],
}

/// A node, as the log has it.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Standing {
    /// Its receipts can be checked.
    #[default]
    Registered,
    /// Its registration is over.
    Fenced,
    /// It never takes part again.
    Removed,
}

/// What a node knows of its registration.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Belief {
    /// The present one.
    #[default]
    Present,
    /// One that a fence has ended, which it has yet to hear of.
    Past,
    /// None: it starts.
    Nothing,
}

/// A node and a chunk.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Cell {
    /// The chunk is on the node's disk.
    pub held: bool,
    /// A client may write it there: it was granted, and the capability holds.
    pub granted: bool,
    /// A manifest names the node for it.
    pub named: bool,
    /// The disk was lost since the manifest names it.
    pub lost: bool,
    /// Somebody reads by a manifest that names the node; and whether the disk was lost since.
    pub read: bool,
    /// See above.
    pub read_lost: bool,
    /// What the client has of the node.
    pub receipt: Option<Word>,
    /// Its way to be removed.
    pub pending: Pending,
}

/// A replica on its way to be removed.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Pending {
    /// It is not.
    #[default]
    No,
    /// The grace has yet to end.
    Waiting,
    /// The node is told to remove it, and may do so at any time.
    Due,
    /// The node has removed it, and has yet to say so.
    Removed,
    /// The log knows nothing of it any more, and the node is still to remove it.
    Forgotten,
}

impl Pending {
    /// Whether the log has it.
    #[must_use]
    pub const fn is_known(self) -> bool {
        matches!(self, Self::Waiting | Self::Due | Self::Removed)
    }
}

/// How a put is.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Phase {
    /// It has not begun.
    #[default]
    Idle,
    /// Its upload is open.
    Open,
    /// The key holds it.
    Committed,
    /// It was given up, or its lease ran out.
    Aborted,
    /// The key held it.
    Deleted,
}

/// A node's signed word that it has a chunk.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Word {
    /// Whether the registration that it was given in is over.
    pub past: Past,
    /// The disk was lost since, and the node has not registered again.
    pub is_lost: bool,
}

/// How a registration came to an end.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Past {
    /// It has not.
    #[default]
    Not,
    /// The leader ended it.
    Fenced,
    /// The node has started again.
    Restarted,
}

/// A chunk that a node is to make.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Job {
    /// What it is to come to.
    pub change: Change,
    /// How far it is.
    pub stage: Stage,
}

/// A change of a manifest, with the new replica's word once there is one.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Change {
    /// Of this chunk.
    pub chunk: u8,
    /// Who leaves; none: nobody, the node is named already.
    pub from: Option<u8>,
    /// Who makes it.
    pub to: u8,
    /// What the node says.
    pub word: Word,
}

/// How far a job is.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Stage {
    /// The node is told.
    Ordered,
    /// The node has the chunk, and has yet to say so.
    Fetched,
    /// The leader has the node's word.
    Told,
}

/// How often things may happen.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Scope {
    /// Puts.
    pub puts: u8,
    /// Deletes of the key.
    pub deletes: u8,
    /// Manifests that somebody begins to read by.
    pub reads: u8,
    /// Registrations that the leader ends, of nodes that it hears nothing of.
    pub fences: u8,
    /// Starts of nodes.
    pub restarts: u8,
    /// Starts of nodes whose disk is empty.
    pub wipes: u8,
    /// Replicas that leave a node which is there.
    pub drains: u8,
    /// Changes of the leader.
    pub leaders: u8,
    /// Nodes that an operator removes for ever.
    pub removals: u8,
}

const NODE_ORDERS: [[usize; NODES]; 6] = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
const CHUNK_ORDERS: [[usize; CHUNKS]; 2] = [[0, 1], [1, 0]];

impl World {
    /// Nothing has happened.
    #[must_use]
    pub fn new(scope: Scope) -> Self {
        Self {
            nodes: [Node::default(); NODES],
            phases: [Phase::Idle; CHUNKS],
            job: None,
            late: None,
            stray: None,
            removal: None,
            left: scope,
            harm: None,
        }
    }

    /// The one that stands for all that are alike.
    #[must_use]
    pub fn canonical(&self) -> Self {
        let orders =
            NODE_ORDERS.iter().flat_map(|nodes| CHUNK_ORDERS.iter().map(move |chunks| (nodes, chunks)));
        orders.map(|(nodes, chunks)| self.renamed(nodes, chunks)).min().unwrap_or(*self)
    }

    /// Node `n` becomes `nodes[n]`; likewise chunks.
    fn renamed(&self, nodes: &[usize; NODES], chunks: &[usize; CHUNKS]) -> Self {
        let node = |number: u8| nodes[usize::from(number)] as u8;
        let chunk = |number: u8| chunks[usize::from(number)] as u8;
        let change = |change: Change| Change {
            chunk: chunk(change.chunk),
            from: change.from.map(node),
            to: node(change.to),
            word: change.word,
        };
        let mut world = *self;
        for (number, old) in self.nodes.iter().enumerate() {
            let new = &mut world.nodes[nodes[number]];
            (new.standing, new.belief) = (old.standing, old.belief);
            for (chunk, cell) in old.cells.iter().enumerate() {
                new.cells[chunks[chunk]] = *cell;
            }
        }
        for (number, phase) in self.phases.iter().enumerate() {
            world.phases[chunks[number]] = *phase;
        }
        world.job = self.job.map(|job| Job { change: change(job.change), ..job });
        world.late = self.late.map(change);
        world.stray = self.stray.map(|(to, of)| (node(to), chunk(of)));
        world.removal = self.removal.map(|(of, is_same)| (node(of), is_same));
        world
    }

    /// A node and a chunk.
    #[must_use]
    pub const fn cell(&self, node: u8, chunk: u8) -> &Cell {
        &self.nodes[node as usize].cells[chunk as usize]
    }

    pub(crate) const fn cell_mut(&mut self, node: u8, chunk: u8) -> &mut Cell {
        &mut self.nodes[node as usize].cells[chunk as usize]
    }

    pub(crate) const fn phase(&self, chunk: u8) -> Phase {
        self.phases[chunk as usize]
    }

    /// The chunk that the key holds.
    #[must_use]
    pub fn held_by_key(&self) -> Option<u8> {
        self.phases.iter().position(|phase| *phase == Phase::Committed).map(|at| at as u8)
    }

    /// Nodes by number.
    pub(crate) fn numbers() -> impl Iterator<Item = u8> + Clone {
        0..NODES as u8
    }

    /// Chunks by number.
    pub(crate) fn chunks() -> impl Iterator<Item = u8> + Clone {
        0..CHUNKS as u8
    }

    /// Every node with every chunk.
    pub(crate) fn places() -> impl Iterator<Item = (u8, u8)> {
        Self::numbers().flat_map(|node| Self::chunks().map(move |chunk| (node, chunk)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worlds_that_differ_in_names_only_are_one() {
        let mut world = World::new(Scope::default());
        world.phases[1] = Phase::Open;
        world.nodes[2].cells[1].granted = true;
        world.job = Some(Job {
            change: Change { chunk: 1, from: Some(0), to: 2, word: Word::default() },
            stage: Stage::Ordered,
        });
        world.removal = Some((0, true));
        for nodes in &NODE_ORDERS {
            for chunks in &CHUNK_ORDERS {
                assert_eq!(world.renamed(nodes, chunks).canonical(), world.canonical());
            }
        }
        world.removal = Some((2, true));
        assert_ne!(world.canonical(), World { removal: Some((0, true)), ..world }.canonical());
    }
}

//! What must be true of every world, and what a world can come to.

use crate::world::{Harm, Phase, REPLICAS, World};

/// What is not as it must be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Broken {
    /// A put that was over took effect, or a deleted object is back.
    CameBack,
    /// A manifest has fewer or more replicas than the put was promised.
    Miscounted,
    /// A manifest names a node that does not have the chunk, though it lost nothing since.
    NamedInVain,
    /// Not all replicas come back once nothing goes wrong any more, or something is left behind.
    NotHealed,
    /// A replica was removed, or is about to be, that a manifest names.
    RemovedLive,
    /// Fewer than all replicas were lost, and the object can't be read.
    Unreadable,
    /// The same for somebody who reads by an older manifest.
    UnreadableByReader,
    /// A receipt of a registration that was over counted.
    VouchedByPast,
}

impl World {
    /// An object that the key holds can be read while at most all replicas but one were lost.
    #[must_use]
    pub fn is_readable(&self) -> bool {
        self.held_by_key().is_none_or(|chunk| {
            let cells = || Self::numbers().map(|node| self.cell(node, chunk)).filter(|cell| cell.named);
            let lost = cells().filter(|cell| cell.lost).count();
            lost >= REPLICAS || cells().any(|cell| cell.held)
        })
    }

    /// Likewise for whoever has a manifest and a capability.
    #[must_use]
    pub fn reader_gets_it(&self) -> bool {
        let cells = || Self::places().map(|(node, chunk)| self.cell(node, chunk)).filter(|cell| cell.read);
        let lost = cells().filter(|cell| cell.read_lost).count();
        cells().next().is_none() || lost >= REPLICAS || cells().any(|cell| cell.held)
    }

    /// Whoever a manifest names has the chunk, or has lost it since.
    #[must_use]
    pub fn manifests_are_true(&self) -> bool {
        Self::places()
            .map(|(node, chunk)| self.cell(node, chunk))
            .all(|cell| !cell.named || cell.lost || cell.held)
    }

    /// Each manifest names as many nodes as the put was promised.
    #[must_use]
    pub fn manifests_are_full(&self) -> bool {
        Self::chunks().all(|chunk| {
            let named = Self::numbers().filter(|node| self.cell(*node, chunk).named).count();
            named == if self.phase(chunk) == Phase::Committed { REPLICAS } else { 0 }
        })
    }

    /// No node is told to remove what a manifest names it for.
    #[must_use]
    pub fn nothing_live_goes(&self) -> bool {
        let is_live_and_goes = |(node, chunk): (u8, u8)| {
            let cell = self.cell(node, chunk);
            cell.named && cell.pending.is_known()
        };
        self.harm != Some(Harm::RemovedLive) && !Self::places().any(is_live_and_goes)
    }

    /// No put that is over takes effect, and nothing comes back after it was deleted.
    #[must_use]
    pub fn nothing_comes_back(&self) -> bool {
        self.harm != Some(Harm::CameBack)
    }

    /// No receipt of a registration that is over has counted.
    #[must_use]
    pub fn past_vouches_for_nothing(&self) -> bool {
        self.harm != Some(Harm::VouchedByPast)
    }
}

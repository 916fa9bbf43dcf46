//! Segment files that nothing is in, to be used again.
//!
//! Invariant: a file is used again only when nobody reads what was in it.

use std::{cmp::Reverse, sync::Arc};

use crate::{
    medium::{SegmentFile, Slot},
    segment::Segment,
};

/// A file whose superblock says that it is free.
#[derive(Debug)]
pub(crate) struct FreeFile {
    pub(crate) slot: Slot,
    pub(crate) file: Arc<dyn SegmentFile>,
    /// Bytes of the disk that it holds.
    pub(crate) len: u64,
}

/// What a file is waiting for.
#[derive(Debug)]
enum State {
    /// Its last readers.
    Retired(Arc<Segment>),
    Free(FreeFile),
}

/// All free files of a store.
#[derive(Debug, Default)]
pub(crate) struct FreeFiles {
    files: Vec<(State, u64)>,
}

impl FreeFiles {
    pub(crate) fn add(&mut self, file: FreeFile) {
        let len = file.len;
        self.files.push((State::Free(file), len));
    }

    /// The segment is no longer to be found by readers; some may still have it.
    pub(crate) fn retire(&mut self, segment: Arc<Segment>, len: u64) {
        self.files.push((State::Retired(segment), len));
    }

    /// How many there are.
    pub(crate) const fn count(&self) -> usize {
        self.files.len()
    }

    /// Bytes of the disk that they hold.
    pub(crate) fn bytes(&self) -> u64 {
        self.files.iter().map(|(_, len)| len).sum()
    }

    /// Bytes of the one that holds most; zero if there is none.
    pub(crate) fn longest(&self) -> u64 {
        self.files.iter().map(|(_, len)| *len).max().unwrap_or_default()
    }

    /// The file that fits `wanted` bytes best: the shortest that is long enough, or the longest. As many of the
    /// longest as are to be `kept` stay, since it is those that are counted on to make room.
    pub(crate) fn take(&mut self, wanted: u64, kept: usize) -> Option<FreeFile> {
        let mut longest_first: Vec<usize> = (0..self.files.len()).collect();
        // Of files that are as long, those that came last: others have waited longer to be used again.
        longest_first.sort_by_key(|at| Reverse((self.files[*at].1, *at)));
        let idle = longest_first.into_iter().skip(kept).filter(|at| self.is_idle(*at)).collect::<Vec<_>>();
        let len = |at: &usize| self.files[*at].1;
        let enough = idle.iter().filter(|at| len(at) >= wanted).min_by_key(|at| len(at));
        let at = *enough.or_else(|| idle.iter().max_by_key(|at| len(at)))?;
        self.remove(at)
    }

    fn is_idle(&self, at: usize) -> bool {
        match &self.files[at].0 {
            State::Free(_) => true,
            // Nobody else can get hold of it any more, so the count only falls.
            State::Retired(segment) => Arc::strong_count(segment) == 1,
        }
    }

    fn remove(&mut self, at: usize) -> Option<FreeFile> {
        let (state, len) = self.files.swap_remove(at);
        match state {
            State::Free(file) => Some(file),
            State::Retired(segment) => {
                // Unlike the count, this is ordered behind what the last reader did.
                let segment = Arc::into_inner(segment)?;
                Some(FreeFile { slot: segment.slot, file: segment.file, len })
            }
        }
    }
}

//! A chunk that a stream goes through: how far it was advised, and what of that nobody has asked for yet.

use std::ops::Range;

use xdpfs_wire::ChunkId;

use super::AdvisedRange;
use crate::page_buffer::PAGE_LEN;

/// Pieces that are remembered of what nobody has asked for. Requests that come out of order leave few; those that leave
/// more jump about.
const PIECES_MAX: usize = 32;

#[derive(Debug)]
pub(super) struct Place {
    pub(super) chunk: ChunkId,
    pub(super) length: u32,
    /// Everything before has been advised, or asked for.
    pub(super) advised_to: u32,
    /// Advised, and not asked for yet. Ascending, none empty.
    unread: Vec<Range<u32>>,
}

impl Place {
    pub(super) const fn new(chunk: ChunkId, length: u32) -> Self {
        Self { chunk, length, advised_to: 0, unread: Vec::new() }
    }

    /// Advises on up to `to`, which is rounded up to a page, or to the end. What lies before `from` is known to have
    /// been asked for, with the rest of its page.
    pub(super) fn advise(&mut self, from: u32, to: u64) -> Option<AdvisedRange> {
        let within =
            |position: u64| position.next_multiple_of(PAGE_LEN as u64).min(self.length.into()) as u32;
        let bytes = self.advised_to.max(within(from.into()))..within(to);
        if bytes.is_empty() {
            return None;
        }
        self.advised_to = bytes.end;
        self.remember(bytes.clone());
        Some(AdvisedRange { chunk: self.chunk, bytes })
    }

    /// Somebody has asked for this range. Returns how much of it was advised and not asked for before.
    pub(super) fn read(&mut self, range: &Range<u32>) -> u64 {
        let mut used = 0;
        for piece in std::mem::take(&mut self.unread) {
            let (start, end) =
                (range.start.clamp(piece.start, piece.end), range.end.clamp(piece.start, piece.end));
            used += u64::from(end.saturating_sub(start));
            if start >= end {
                self.remember(piece);
                continue;
            }
            for rest in [piece.start..start, end..piece.end] {
                if !rest.is_empty() {
                    self.remember(rest);
                }
            }
        }
        used
    }

    /// Forgets what was advised. Returns how much of it nobody has asked for.
    pub(super) fn cancel(&mut self) -> u64 {
        self.unread.drain(..).map(|piece| piece.len() as u64).sum()
    }

    fn remember(&mut self, piece: Range<u32>) {
        match self.unread.last_mut() {
            Some(last) if last.end == piece.start => last.end = piece.end,
            Some(_) | None => self.unread.push(piece),
        }
        if self.unread.len() > PIECES_MAX {
            self.unread.remove(0);
        }
    }
}

//! The content of one file: as it is read now, and as it would be after a power cut.
//!
//! Invariant: what a successful sync covered is durable; of later changes a cut keeps any part, in units that disks write
//! at once, and in any order. What a failed sync covered is nowhere but in the kernel's own cache, until that forgets it.

use std::ops::AddAssign;

use crate::Rng;

/// What a disk writes at once, or not at all.
const SECTOR: u64 = 512;
/// What a page cache writes at once, if nothing stops it.
const PAGE: u64 = 4096;

/// What a power cut has taken of files.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Losses {
    /// Changes that had not been synced.
    pub unsynced: u64,
    /// Those of them that are gone.
    pub lost: u64,
    /// Those of which a part is gone.
    pub torn: u64,
}

impl AddAssign for Losses {
    fn add_assign(&mut self, other: Self) {
        self.unsynced += other.unsynced;
        self.lost += other.lost;
        self.torn += other.torn;
    }
}

/// One file's content.
#[derive(Debug, Default)]
pub(super) struct FileContent {
    now: Vec<u8>,
    durable: Vec<u8>,
    /// Changes that are not durable, oldest first.
    unsynced: Vec<Change>,
    /// Syncs that have failed so far.
    failures: u64,
    /// Space is taken up to here, whatever the length.
    held: u64,
}

#[derive(Debug)]
enum Change {
    Length(u64),
    Write { offset: u64, data: Vec<u8> },
}

/// How a disk dies in the middle of its work.
#[derive(Clone, Copy, Debug)]
enum Death {
    /// Nothing was written yet.
    BeforeAll,
    /// Everything was written, though nobody was told.
    BehindAll,
    /// It had written in order, up to some sector.
    InOrder,
    /// It had written some units of this size, whichever it liked.
    InDisorder(u64),
}

impl FileContent {
    pub(super) const fn len(&self) -> u64 {
        self.now.len() as u64
    }

    pub(super) fn read(&self, offset: u64, len: u64) -> &[u8] {
        let end = self.len().min(offset.saturating_add(len));
        &self.now[offset.min(end) as usize..end as usize]
    }

    pub(super) fn write(&mut self, offset: u64, data: &[u8]) {
        put(&mut self.now, offset, data);
        self.unsynced.push(Change::Write { offset, data: data.to_vec() });
    }

    /// The space that it takes.
    pub(super) fn space(&self) -> u64 {
        self.len().max(self.held)
    }

    pub(super) fn hold(&mut self, end: u64) {
        self.held = self.held.max(end);
    }

    pub(super) fn set_len(&mut self, len: u64) {
        self.held = len;
        self.now.resize(len as usize, 0);
        self.unsynced.push(Change::Length(len));
    }

    pub(super) fn sync(&mut self) {
        for change in self.unsynced.drain(..) {
            change.apply(&mut self.durable);
        }
    }

    /// Syncs that have failed so far: whoever has not heard of the last one has to.
    pub(super) const fn failures(&self) -> u64 {
        self.failures
    }

    /// The kernel's pages count as clean from here on and are never written again, so that the next sync succeeds without
    /// them, and whoever reads what the kernel has forgotten meanwhile sees what was there before. The length stays.
    pub(super) fn fail_sync(&mut self) {
        let len = self.now.len();
        self.unsynced.clear();
        self.now.clone_from(&self.durable);
        self.now.resize(len, 0);
        self.failures += 1;
    }

    /// Keeps what a cut leaves.
    pub(super) fn cut(&mut self, rng: &mut Rng) -> Losses {
        let death = match rng.below(8) {
            0 | 1 => Death::BeforeAll,
            2 => Death::BehindAll,
            3 | 4 => Death::InOrder,
            5 | 6 => Death::InDisorder(PAGE),
            _ => Death::InDisorder(SECTOR),
        };
        let losses = self.die(death, rng);
        self.now.clone_from(&self.durable);
        losses
    }

    fn die(&mut self, death: Death, rng: &mut Rng) -> Losses {
        let changes = std::mem::take(&mut self.unsynced);
        let (mut losses, sectors) =
            (Losses::default(), changes.iter().map(|change| change.units(SECTOR)).sum::<u64>());
        let mut in_order = match death {
            Death::InOrder => rng.below(sectors + 1),
            Death::BeforeAll | Death::BehindAll | Death::InDisorder(_) => 0,
        };
        for change in changes {
            let unit = if let Death::InDisorder(unit) = death { unit } else { SECTOR };
            let units = change.units(unit);
            let kept = (0..units).filter(|_| match death {
                Death::BeforeAll => false,
                Death::BehindAll => true,
                Death::InDisorder(_) => rng.chance(50.0),
                Death::InOrder => {
                    let is_kept = in_order > 0;
                    in_order = in_order.saturating_sub(1);
                    is_kept
                }
            });
            let kept: Vec<u64> = kept.collect();
            losses.unsynced += 1;
            losses.lost += u64::from(kept.is_empty());
            losses.torn += u64::from(!kept.is_empty() && kept.len() as u64 != units);
            for place in kept {
                change.apply_unit(&mut self.durable, unit, place);
            }
        }
        losses
    }
}

impl Change {
    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Self::Length(len) => content.resize(*len as usize, 0),
            Self::Write { offset, data } => put(content, *offset, data),
        }
    }

    /// How many units of the disk this touches.
    fn units(&self, unit: u64) -> u64 {
        match self {
            Self::Length(_) => 1,
            Self::Write { data, .. } if data.is_empty() => 1,
            Self::Write { offset, data } => (offset + data.len() as u64).div_ceil(unit) - offset / unit,
        }
    }

    /// The part of it that is in the `place`-th unit that it touches.
    fn apply_unit(&self, content: &mut Vec<u8>, unit: u64, place: u64) {
        match self {
            Self::Length(_) => self.apply(content),
            Self::Write { offset, data } => {
                let begin = ((offset / unit + place) * unit).max(*offset);
                let end = ((offset / unit + place + 1) * unit).min(offset + data.len() as u64);
                put(content, begin, &data[(begin - offset) as usize..(end - offset) as usize]);
            }
        }
    }
}

/// Writes, with zeros before it where there was nothing.
fn put(content: &mut Vec<u8>, offset: u64, data: &[u8]) {
    let (begin, end) = (offset as usize, offset as usize + data.len());
    if content.len() < end {
        content.resize(end, 0);
    }
    content[begin..end].copy_from_slice(data);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn synced(data: &[u8]) -> FileContent {
        let mut file = FileContent::default();
        file.write(0, data);
        file.sync();
        file
    }

    fn whole(file: &FileContent) -> Vec<u8> {
        file.read(0, u64::MAX).to_vec()
    }

    #[test]
    fn what_was_synced_survives_every_cut() {
        for seed in 0..200 {
            let mut file = synced(&[1; 10_000]);
            file.write(10_000, &[2; 5_000]);
            file.sync();
            file.write(15_000, &[3; 5_000]);
            let losses = file.cut(&mut Rng::new(seed));
            assert_eq!(losses.unsynced, 1);
            assert_eq!(file.read(0, 10_000), [1; 10_000]);
            assert_eq!(file.read(10_000, 5_000), [2; 5_000]);
        }
    }

    #[test]
    fn what_was_not_synced_is_lost_kept_torn_and_reordered() {
        let (mut lost, mut kept, mut torn, mut later_only) = (0, 0, 0, 0);
        for seed in 0..400 {
            let mut file = synced(&[0; 16_384]);
            file.write(0, &[1; 8_192]);
            file.write(8_192, &[2; 8_192]);
            file.cut(&mut Rng::new(seed));
            let content = whole(&file);
            let count = |byte| content.iter().filter(|found| **found == byte).count();
            match (count(1), count(2)) {
                (0, 0) => lost += 1,
                (8_192, 8_192) => kept += 1,
                (first, second) => {
                    torn += 1;
                    later_only += u32::from(first < 8_192 && second > 0);
                    assert!(first % 512 == 0 && second % 512 == 0, "a sector is written at once");
                }
            }
        }
        assert!(lost > 50 && kept > 20 && torn > 100 && later_only > 50, "{lost} {kept} {torn} {later_only}");
    }

    #[test]
    fn unaligned_writes_are_torn_where_sectors_end() {
        let change = Change::Write { offset: 500, data: vec![7; 600] };
        assert_eq!(change.units(SECTOR), 3);
        let mut content = vec![0; 2_000];
        change.apply_unit(&mut content, SECTOR, 1);
        let written: Vec<usize> = (0..2_000).filter(|at| content[*at] == 7).collect();
        assert_eq!((written[0], written.len()), (512, 512));
        change.apply_unit(&mut content, SECTOR, 0);
        change.apply_unit(&mut content, SECTOR, 2);
        assert_eq!(content.iter().filter(|byte| **byte == 7).count(), 600);
    }

    #[test]
    fn what_a_failed_sync_covered_never_becomes_durable() {
        let mut file = synced(b"old");
        file.write(0, b"newer");
        file.fail_sync();
        file.sync();
        assert_eq!(whole(&file), b"old\0\0");
        file.cut(&mut Rng::new(1));
        assert_eq!(whole(&file), b"old");
    }

    #[test]
    fn lengths_are_changes_like_others() {
        let mut file = synced(&[1; 100]);
        file.set_len(10);
        file.set_len(20);
        assert_eq!(whole(&file), [&[1; 10][..], &[0; 10]].concat());
        file.sync();
        file.cut(&mut Rng::new(3));
        assert_eq!(file.len(), 20);
    }
}

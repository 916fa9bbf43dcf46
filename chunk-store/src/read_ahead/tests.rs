use proptest::prelude::*;
use xdpfs_wire::{BucketId, CHUNK_LEN_MAX};

use super::*;
use crate::page_buffer::PAGE_LEN;

const KIB: u32 = 1 << 10;
const MIB: u32 = 1 << 20;
const READER: ReaderId = ReaderId(1);
/// What a burst of the protocol carries at most of a path with datagrams of 1472 bytes: no multiple of a page.
const BURST: u32 = 59_000;

fn chunk(sequence: u64) -> ChunkId {
    ChunkId::new(BucketId(1), sequence)
}

fn alone(_: ChunkId) -> Option<(ChunkId, u32)> {
    None
}

/// The windows that a test goes by, and what they advised.
struct Trial {
    read_ahead: ReadAhead,
    lengths: Vec<u32>,
    advised: Vec<AdvisedRange>,
}

impl Trial {
    /// Of chunks of these lengths, one after the other.
    fn new(lengths: &[u32]) -> Self {
        let read_ahead = ReadAhead::new(ReadAheadLimits::default());
        Self { read_ahead, lengths: lengths.to_vec(), advised: Vec::new() }
    }

    /// Bytes that were advised for this request.
    fn note(&mut self, index: usize, range: Range<u32>) -> u32 {
        let next = |current: ChunkId| {
            assert_eq!(current, chunk(index as u64));
            self.lengths.get(index + 1).map(|length| (chunk(index as u64 + 1), *length))
        };
        let length = self.lengths[index];
        let advice = self.read_ahead.note(READER, chunk(index as u64), length, range, next);
        let Some(advice) = advice else { return 0 };
        assert!(self.read_ahead.is_current(advice.stream, advice.generation));
        let bytes = advice.ranges.iter().map(|range| range.bytes.len() as u32).sum();
        self.advised.extend(advice.ranges);
        bytes
    }

    /// Reads a chunk from end to end by requests of this length. Returns what was advised for each.
    fn read_straight(&mut self, index: usize, step: u32) -> Vec<u32> {
        let length = self.lengths[index];
        let ranges = (0..length).step_by(step as usize).map(|start| start..length.min(start + step));
        ranges.map(|range| self.note(index, range)).collect()
    }

    fn ranges_of(&self, index: usize) -> Vec<Range<u32>> {
        let of_chunk = self.advised.iter().filter(|range| range.chunk == chunk(index as u64));
        of_chunk.map(|range| range.bytes.clone()).collect()
    }
}

/// Asserts that ranges are whole pages of a chunk, and that no two overlap. Returns what they cover.
fn covered(mut ranges: Vec<Range<u32>>, length: u32) -> u64 {
    ranges.sort_by_key(|range| range.start);
    for range in &ranges {
        assert!(range.start < range.end && range.end <= length);
        assert!(range.start.is_multiple_of(PAGE_LEN as u32));
        assert!(range.end.is_multiple_of(PAGE_LEN as u32) || range.end == length);
    }
    assert!(ranges.windows(2).all(|pair| pair[0].end <= pair[1].start), "{ranges:?}");
    ranges.iter().map(|range| range.len() as u64).sum()
}

#[test]
fn two_requests_in_a_row_open_a_window_of_128_kib() {
    let mut trial = Trial::new(&[64 * MIB]);
    assert_eq!(trial.note(0, 0..64 * KIB), 0);
    assert_eq!(trial.note(0, 64 * KIB..128 * KIB), 128 * KIB);
    let advised = AdvisedRange { chunk: chunk(0), bytes: 128 * KIB..256 * KIB };
    assert_eq!(trial.advised, [advised]);
}

#[test]
fn the_window_doubles_with_progress_up_to_its_maximum() {
    let mut trial = Trial::new(&[64 * MIB]);
    let advised = trial.read_straight(0, 64 * KIB);
    let mut farthest = 0;
    let mut ahead = Vec::new();
    for (number, bytes) in (1..).zip(&advised) {
        farthest += bytes;
        if *bytes > 0 {
            // What lies between the reader and the end of what was advised.
            ahead.push((128 * KIB + farthest - number * 64 * KIB).next_power_of_two());
        }
    }
    ahead.dedup();
    assert_eq!(ahead[..5], [128 * KIB, 256 * KIB, 512 * KIB, MIB, 2 * MIB]);
    assert!(ahead[5..].iter().all(|bytes| *bytes < 2 * MIB), "only where the chunk ends");
    // A full window is filled up by halves, not by a page for each request.
    let steady = &advised[200..300];
    assert!(steady.iter().filter(|bytes| **bytes > 0).all(|bytes| *bytes >= MIB));
    let stats = trial.read_ahead.stats();
    assert_eq!(stats.advised_bytes, u64::from(64 * MIB - 128 * KIB));
    assert_eq!((stats.used_bytes, stats.cancelled_bytes), (stats.advised_bytes, 0));
}

#[test]
fn requests_out_of_order_are_still_straight_on() {
    let mut trial = Trial::new(&[16 * MIB]);
    let mut starts: Vec<_> = (0..16 * MIB).step_by(BURST as usize).collect();
    // Within each four, in an order that no two come as they should.
    starts.chunks_exact_mut(4).for_each(|burst| burst.reverse());
    for start in starts {
        trial.note(0, start..(start + BURST).min(16 * MIB));
    }
    let covered = covered(trial.ranges_of(0), 16 * MIB);
    assert!(covered > u64::from(15 * MIB), "{covered}");
    let stats = trial.read_ahead.stats();
    assert_eq!((stats.used_bytes, stats.cancelled_bytes), (stats.advised_bytes, 0));
}

#[test]
fn readers_go_on_to_the_next_chunk() {
    let lengths = [8 * MIB, 3 * MIB + 5, 100, 8 * MIB];
    let mut trial = Trial::new(&lengths);
    for index in 0..lengths.len() {
        trial.read_straight(index, BURST);
    }
    for (index, length) in lengths.into_iter().enumerate().skip(1) {
        assert_eq!(covered(trial.ranges_of(index), length), u64::from(length), "all of chunk {index}");
    }
    assert_eq!(trial.read_ahead.stats().streams, 1);
    assert_eq!(trial.read_ahead.stats().used_bytes, trial.read_ahead.stats().advised_bytes);
}

#[test]
fn the_last_requests_of_a_chunk_may_come_after_the_first_of_the_next() {
    let mut trial = Trial::new(&[4 * MIB, 4 * MIB]);
    let steps = |from: u32, to: u32| (from..to).step_by(64 << 10).map(|start| start..start + 64 * KIB);
    for range in steps(0, 4 * MIB - 128 * KIB) {
        trial.note(0, range);
    }
    trial.note(1, 0..64 * KIB);
    trial.note(0, 4 * MIB - 64 * KIB..4 * MIB);
    trial.note(1, 64 * KIB..128 * KIB);
    trial.note(0, 4 * MIB - 128 * KIB..4 * MIB - 64 * KIB);
    for range in steps(128 * KIB, 4 * MIB) {
        trial.note(1, range);
    }
    let stats = trial.read_ahead.stats();
    assert_eq!(covered(trial.ranges_of(1), 4 * MIB), u64::from(4 * MIB));
    assert_eq!((stats.streams, stats.cancelled_bytes), (1, 0));
    assert_eq!(stats.used_bytes, stats.advised_bytes);
}

#[test]
fn the_chunk_behind_is_looked_up_once() {
    let mut read_ahead = ReadAhead::new(ReadAheadLimits::default());
    let mut asked = 0;
    for start in (0..MIB).step_by(64 << 10) {
        read_ahead.note(READER, chunk(1), MIB, start..start + 64 * KIB, |_| {
            asked += 1;
            None
        });
    }
    assert_eq!(asked, 1);
}

#[test]
fn a_chunk_that_the_reader_is_in_already_is_not_advised_twice() {
    let mut read_ahead = ReadAhead::new(ReadAheadLimits::default());
    let next = |current: ChunkId| (current == chunk(1)).then_some((chunk(2), MIB));
    let mut advised = Vec::new();
    for start in (0..MIB).step_by(64 << 10) {
        for number in 1..=2 {
            let advice = read_ahead.note(READER, chunk(number), MIB, start..start + 64 * KIB, next);
            advised.extend(advice.into_iter().flat_map(|advice| advice.ranges));
        }
    }
    for number in 1..=2 {
        let of_chunk = advised.iter().filter(|range| range.chunk == chunk(number));
        assert_eq!(
            covered(of_chunk.map(|range| range.bytes.clone()).collect(), MIB),
            u64::from(MIB - 128 * KIB)
        );
    }
}

#[test]
fn jumps_halve_the_window_and_then_end_it() {
    let mut trial = Trial::new(&[64 * MIB]);
    for start in (0..8 * MIB).step_by(64 << 10) {
        trial.note(0, start..start + 64 * KIB);
    }
    let (id, generation) = {
        let (id, entry) = trial.read_ahead.streams.iter().next().unwrap();
        (*id, entry.stream.generation())
    };
    // From 2 MiB it takes four to come down to 128 KiB.
    for jump in 0..4 {
        assert_eq!(trial.note(0, (20 + 5 * jump) * MIB..(20 + 5 * jump) * MIB + 4096), 0);
        assert!(trial.read_ahead.is_current(id, generation));
    }
    assert_eq!(trial.read_ahead.stats().cancelled_bytes, 0);
    trial.note(0, 60 * MIB..60 * MIB + 4096);
    assert!(!trial.read_ahead.is_current(id, generation));
    let stats = trial.read_ahead.stats();
    assert!(stats.cancelled_bytes > 0);
    assert_eq!(stats.used_bytes + stats.cancelled_bytes, stats.advised_bytes);
    assert_eq!(trial.note(0, 30 * MIB..30 * MIB + 4096), 0);
}

#[test]
fn a_window_that_was_halved_grows_again() {
    let mut trial = Trial::new(&[64 * MIB]);
    for start in (0..8 * MIB).step_by(64 << 10) {
        trial.note(0, start..start + 64 * KIB);
    }
    trial.note(0, 40 * MIB..40 * MIB + 4096);
    trial.note(0, 50 * MIB..50 * MIB + 4096);
    let most =
        (8 * MIB..16 * MIB).step_by(64 << 10).map(|start| trial.note(0, start..start + 64 * KIB)).max();
    assert!(most >= Some(MIB));
    covered(trial.ranges_of(0), 64 * MIB);
    assert_eq!(trial.read_ahead.stats().cancelled_bytes, 0);
}

#[test]
fn a_reader_that_goes_on_elsewhere_is_followed_and_the_old_advice_void() {
    let mut trial = Trial::new(&[64 * MIB]);
    for start in (0..8 * MIB).step_by(64 << 10) {
        trial.note(0, start..start + 64 * KIB);
    }
    let (id, generation) = {
        let (id, entry) = trial.read_ahead.streams.iter().next().unwrap();
        (*id, entry.stream.generation())
    };
    assert_eq!(trial.note(0, 40 * MIB..40 * MIB + 64 * KIB), 0);
    assert_eq!(trial.note(0, 40 * MIB + 64 * KIB..40 * MIB + 128 * KIB), 128 * KIB);
    assert!(!trial.read_ahead.is_current(id, generation));
    assert_eq!(trial.advised.last().unwrap().bytes.start, 40 * MIB + 128 * KIB);
}

#[test]
fn readers_do_not_disturb_each_other() {
    let mut read_ahead = ReadAhead::new(ReadAheadLimits::default());
    let mut advised = [0, 0];
    for start in (0..8 * MIB).step_by(64 << 10) {
        for (reader, sum) in (0..).map(ReaderId).zip(&mut advised) {
            let range = if reader.0 == 0 {
                start..start + 64 * KIB
            } else {
                8 * MIB - start - 64 * KIB..8 * MIB - start
            };
            if let Some(advice) = read_ahead.note(reader, chunk(1), 8 * MIB, range, alone) {
                *sum += advice.ranges.iter().map(|range| range.bytes.len()).sum::<usize>();
            }
        }
    }
    assert_eq!(advised, [(8 * MIB - 128 * KIB) as usize, 0], "who goes backwards gets nothing");
}

#[test]
fn streams_are_bounded_and_the_least_recent_goes() {
    let limits = ReadAheadLimits { streams_max: 4, ..ReadAheadLimits::default() };
    let mut read_ahead = ReadAhead::new(limits);
    let mut note =
        |reader, start: u32| read_ahead.note(ReaderId(reader), chunk(1), MIB, start..start + 64 * KIB, alone);
    note(0, 0);
    let first = note(0, 64 * KIB).unwrap();
    for reader in 1..4 {
        note(reader, 0);
    }
    note(0, 128 * KIB);
    note(4, 0);
    assert!(note(1, 64 * KIB).is_none(), "it was forgotten");
    for reader in 5..100 {
        note(reader, 0);
    }
    assert!(!read_ahead.is_current(first.stream, first.generation));
    assert_eq!(read_ahead.stats().streams, 4);
    assert_eq!((read_ahead.by_age.len(), read_ahead.by_chunk.len()), (4, 4));
    let stats = read_ahead.stats();
    assert_eq!(stats.used_bytes + stats.cancelled_bytes, stats.advised_bytes);
}

#[test]
fn what_makes_no_sense_is_ignored() {
    let mut trial = Trial::new(&[MIB]);
    assert_eq!(trial.note(0, 5..5), 0);
    assert_eq!(trial.note(0, MIB - 1..MIB + 1), 0);
    assert_eq!(trial.read_ahead.stats(), ReadAheadStats::default());
    let off = ReadAheadLimits { window_bytes_max: 0, ..ReadAheadLimits::default() };
    let mut off = ReadAhead::new(off);
    for start in 0..10 {
        assert!(off.note(READER, chunk(1), MIB, start..start + 1, alone).is_none());
    }
}

#[test]
fn a_small_maximum_is_kept_to() {
    let limits = ReadAheadLimits { window_bytes_max: 16 << 10, ..ReadAheadLimits::default() };
    let mut read_ahead = ReadAhead::new(limits);
    for start in (0..MIB).step_by(4096) {
        let advice = read_ahead.note(READER, chunk(1), MIB, start..start + 4096, alone);
        for range in advice.into_iter().flat_map(|advice| advice.ranges) {
            assert!(range.bytes.end <= start + 4096 + 16 * KIB);
        }
    }
    assert_eq!(read_ahead.stats().used_bytes, u64::from(MIB - 8192));
}

proptest! {
    #[test]
    fn who_goes_straight_on_is_advised_every_byte_at_most_once(
        lengths in prop::collection::vec(1..4 * MIB, 1..6),
        step in 1000..200_000_u32,
    ) {
        let mut trial = Trial::new(&lengths);
        for index in 0..lengths.len() {
            trial.read_straight(index, step);
        }
        for (index, length) in lengths.iter().enumerate() {
            covered(trial.ranges_of(index), *length);
        }
        let stats = trial.read_ahead.stats();
        prop_assert_eq!((stats.used_bytes, stats.cancelled_bytes), (stats.advised_bytes, 0));
    }

    #[test]
    fn who_jumps_about_gets_nothing(starts in prop::collection::vec(0..CHUNK_LEN_MAX / MIB, 1..200), length in 1..200_000_u32) {
        let mut trial = Trial::new(&[CHUNK_LEN_MAX]);
        let mut before = None;
        for start in starts {
            // What lies next to each other may be straight on.
            if before.is_none_or(|before: u32| before.abs_diff(start) > 1) {
                before = Some(start);
                prop_assert_eq!(trial.note(0, start * MIB..start * MIB + length), 0);
            }
        }
        prop_assert_eq!(trial.read_ahead.stats().advised_bytes, 0);
    }

    #[test]
    fn advice_is_sound_and_memory_bounded_whatever_is_asked_for(
        requests in prop::collection::vec((0..3_u64, 0..4_usize, 0..2 * MIB, 1..300_000_u32), 1..400),
    ) {
        const LENGTHS: [u32; 4] = [2 * MIB, 300_001, 4096, 2 * MIB + 300_000];
        let limits = ReadAheadLimits { window_bytes_max: MIB, streams_max: 5 };
        let mut read_ahead = ReadAhead::new(limits);
        let next = |current: ChunkId| {
            let index = (0..3).find(|index| chunk(*index) == current)? + 1;
            Some((chunk(index), LENGTHS[index as usize]))
        };
        for (reader, index, start, length) in requests {
            let end = (start + length).min(LENGTHS[index]);
            let range = start.min(end)..end;
            let advice = read_ahead.note(ReaderId(reader), chunk(index as u64), LENGTHS[index], range, next);
            for range in advice.into_iter().flat_map(|advice| advice.ranges) {
                let index = (0..4).find(|index| chunk(*index) == range.chunk).unwrap();
                prop_assert!(covered(vec![range.bytes], LENGTHS[index as usize]) <= u64::from(MIB) + 4096);
            }
            prop_assert!(read_ahead.streams.len() <= 5 && read_ahead.by_age.len() == read_ahead.streams.len());
            prop_assert!(read_ahead.by_chunk.len() <= 15);
            for ((reader, _), id) in &read_ahead.by_chunk {
                prop_assert_eq!(read_ahead.streams[id].reader, *reader);
            }
        }
        let stats = read_ahead.stats();
        prop_assert!(stats.used_bytes + stats.cancelled_bytes <= stats.advised_bytes);
    }
}

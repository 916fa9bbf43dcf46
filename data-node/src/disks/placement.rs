//! Which disk takes a chunk: weighted rendezvous, so that disks fill alike and nothing has to be remembered. Pure.

use uuid::Uuid;
use xdpfs_wire::ChunkId;

/// A disk that can be written to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    /// Its place among the node's disks.
    pub(super) place: usize,
    pub(super) uuid: Uuid,
    pub(super) free_bytes: u64,
}

/// The candidates for a chunk of this length, the first choice first. Disks without room come last: some may make room when
/// they are asked.
pub(super) fn ranked(mut candidates: Vec<Candidate>, chunk: ChunkId, length: u64) -> Vec<usize> {
    if candidates.len() > 1 {
        let key = |candidate: &Candidate| {
            (candidate.free_bytes > length.saturating_mul(2), score(candidate, chunk))
        };
        candidates.sort_by(|one, other| {
            let ((one_fits, one), (other_fits, other)) = (key(one), key(other));
            other_fits.cmp(&one_fits).then(other.total_cmp(&one))
        });
    }
    candidates.into_iter().map(|candidate| candidate.place).collect()
}

/// The highest of several is each one's as often as its free bytes are of all free bytes.
fn score(candidate: &Candidate, chunk: ChunkId) -> f64 {
    // Between zero and one, and neither.
    let drawn = ((hash(candidate.uuid, chunk) >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
    candidate.free_bytes.max(1) as f64 / -drawn.ln()
}

fn hash(disk: Uuid, chunk: ChunkId) -> u64 {
    let halves = |number: u128| [number as u64, (number >> 64) as u64];
    halves(disk.as_u128()).into_iter().chain(halves(chunk.0)).fold(0, |hash, half| mix(hash ^ half))
}

/// The finish of SplitMix64: each bit of the input moves half of the output.
const fn mix(word: u64) -> u64 {
    let word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    use xdpfs_wire::BucketId;

    use super::*;

    fn candidates(free: &[u64]) -> Vec<Candidate> {
        let candidate = |(place, free_bytes): (usize, &u64)| Candidate {
            place,
            uuid: Uuid::from_u128(place as u128 + 1),
            free_bytes: *free_bytes,
        };
        free.iter().enumerate().map(candidate).collect()
    }

    #[test]
    fn chunks_spread_as_free_bytes_do() {
        let mut taken = [0_u32; 3];
        for number in 0..30_000 {
            let ranked =
                ranked(candidates(&[1 << 30, 2 << 30, 3 << 30]), ChunkId::new(BucketId(1), number), 1000);
            taken[ranked[0]] += 1;
        }
        for (place, taken) in taken.into_iter().enumerate() {
            let expect = 5000 * (place as u32 + 1);
            assert!(taken.abs_diff(expect) < 400, "disk {place} took {taken}, not {expect}");
        }
    }

    #[test]
    fn choice_is_the_same_every_time_and_moves_only_for_the_disk_that_goes() {
        for number in 0..1000 {
            let chunk = ChunkId::new(BucketId(7), number);
            let first = ranked(candidates(&[5 << 30; 4]), chunk, 10);
            assert_eq!(first, ranked(candidates(&[5 << 30; 4]), chunk, 10));
            let without: Vec<_> =
                candidates(&[5 << 30; 4]).into_iter().filter(|disk| disk.place != 2).collect();
            let expect: Vec<_> = first.into_iter().filter(|place| *place != 2).collect();
            assert_eq!(ranked(without, chunk, 10), expect);
        }
    }

    #[test]
    fn full_disks_are_asked_last() {
        for number in 0..100 {
            let chunk = ChunkId::new(BucketId(1), number);
            assert_eq!(ranked(candidates(&[0, 5000, 900]), chunk, 1000)[0], 1);
            assert_eq!(ranked(candidates(&[0, 0]), chunk, 1000).len(), 2);
        }
        assert!(ranked(Vec::new(), ChunkId(1), 1).is_empty());
    }
}

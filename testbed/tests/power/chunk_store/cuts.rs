//! Power cuts while clients put and delete, compaction moves, and files are used again.

use xdpfs_testbed::faulty_fs::NameModel;

use super::bench::{Bench, Scale, Written, seed, setting};

const CUTS: u64 = 80;
/// Cuts within which a store that does not sync must have lost something.
const CUTS_WITHOUT_SYNC_MAX: u64 = 40;

#[test]
fn cuts_take_no_chunk_with_a_receipt_and_bring_no_deleted_one_back() {
    for names in [NameModel::Journal, NameModel::Directory] {
        let (cuts, seed) = (setting("XDPFS_TEST_CUTS", CUTS), seed());
        let mut bench = Bench::new(seed, names, Scale::SMALL);
        for cut in 0..cuts {
            if let Err(loss) = bench.write_and_cut() {
                panic!("{names:?}, seed {seed}, cut {cut}: {loss:?}");
            }
        }
        let Bench { losses, written, .. } = bench;
        println!("{names:?}, seed {seed}: {cuts} cuts, {written:?}, {losses:?}");
        let Written { chunk_bytes, moved_bytes, answers, .. } = written;
        assert!(answers > cuts * 10, "hardly anything was written: {written:?}");
        assert!(chunk_bytes > 2 * Scale::SMALL.capacity_bytes, "no room was needed twice: {written:?}");
        assert!(moved_bytes > 0, "nothing was moved: {written:?}");
        assert!(losses.lost > 0 && losses.torn > 0, "the cuts took nothing: {losses:?}");
    }
}

#[test]
fn store_that_left_out_its_fdatasync_would_lose_chunks() {
    let seed = seed();
    let mut bench = Bench::new(seed, NameModel::Journal, Scale::SMALL);
    bench.file_system.ignore_fdatasync();
    let lost = (1..=CUTS_WITHOUT_SYNC_MAX).find_map(|cut| Some((cut, bench.write_and_cut().err()?)));
    let (cut, loss) =
        lost.unwrap_or_else(|| panic!("seed {seed}: nothing was lost, so the cuts show nothing"));
    println!("seed {seed}: after cut {cut}: {loss:?}");
}

//! Room given back, while readers and writers go on.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

const LENGTH: usize = 12_000;

fn data(number: u64) -> Bytes {
    bytes_of(chunk(number), LENGTH)
}

fn fill(store: &Store, numbers: std::ops::Range<u64>) {
    for number in numbers {
        put(store, chunk(number), &data(number)).unwrap();
    }
}

fn live_bytes(store: &Store) -> u64 {
    store.usage().chunks * LENGTH as u64
}

#[test]
fn room_of_deleted_chunks_is_given_back() {
    let home = fast_dir();
    let store = open(&home);
    fill(&store, 0..60);
    let dead: Vec<_> = (0..60).filter(|number| number % 4 != 0).map(chunk).collect();
    let before = store.usage().used_bytes;
    delete(&store, &dead).unwrap();
    until("compaction", || store.usage().used_bytes < before / 2);
    let check = |store: &Store| {
        assert_eq!(store.usage().chunks, 15);
        for number in (0..60).step_by(4) {
            assert!(read(store, chunk(number)).unwrap() == data(number), "{number}");
        }
    };
    check(&store);
    store.close();
    check(&open(&home));
}

#[test]
fn store_that_is_emptied_shrinks_to_almost_nothing() {
    let home = fast_dir();
    let store = open(&home);
    fill(&store, 0..60);
    delete(&store, &(0..60).map(chunk).collect::<Vec<_>>()).unwrap();
    until("compaction", || store.usage().used_bytes < 2 * SEGMENT_LEN_MIN);
    store.close();
    let store = open(&home);
    assert_eq!(store.usage().chunks, 0);
    assert!(store.chunk_ids(ChunkId(0), 9).is_empty());
}

#[test]
fn garbage_of_the_segment_that_is_written_to_comes_back_too() {
    let home = fast_dir();
    let roomy = StoreConfig { capacity_bytes: Some(8 << 30), segment_bytes: 256 << 20, ..config(&home) };
    let (store, _) = Store::open(&roomy).unwrap();
    let data = bytes_of(chunk(1), 4 << 20);
    let chunks: Vec<_> = (1..=8).map(chunk).collect();
    for id in &chunks {
        put(&store, *id, &data).unwrap();
    }
    assert_eq!(segment_files(&roomy.directory).len(), 1, "all of it fits the first segment");
    delete(&store, &chunks[1..]).unwrap();
    until("compaction", || store.usage().used_bytes < 8 << 20);
    assert!(read(&store, chunks[0]).unwrap() == data);
}

#[test]
fn readers_are_not_disturbed() {
    let home = fast_dir();
    let store = open(&home);
    fill(&store, 0..64);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for reader in 0..3 {
            let (store, stop) = (&store, &stop);
            scope.spawn(move || {
                let mut number = reader;
                while !stop.load(Ordering::Relaxed) {
                    // One chunk in each eight lives through all of this.
                    number = (number + 8) % 64;
                    let kept = number / 8 * 8;
                    assert!(read(store, chunk(kept)).unwrap() == data(kept), "{kept}");
                }
            });
        }
        for round in 0..20 {
            let fresh = 1000 + round * 40;
            fill(&store, fresh..fresh + 40);
            delete(&store, &(fresh..fresh + 40).map(chunk).collect::<Vec<_>>()).unwrap();
            if round == 3 {
                delete(&store, &(0..64).filter(|number| number % 8 != 0).map(chunk).collect::<Vec<_>>())
                    .unwrap();
            }
        }
        until("compaction", || store.usage().used_bytes < 4 * live_bytes(&store) + 2 * SEGMENT_LEN_MIN);
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(store.usage().chunks, 8);
}

#[test]
fn deleted_chunk_stays_away_through_compaction_and_restarts() {
    let home = fast_dir();
    let mut store = open(&home);
    fill(&store, 0..30);
    delete(&store, &[chunk(3), chunk(17)]).unwrap();
    for round in 0..6 {
        // Each round makes the segments of the one before it worth emptying, tombstones among them.
        let fresh = 1000 + round * 30;
        fill(&store, fresh..fresh + 30);
        let mut dead: Vec<_> = (fresh..fresh + 30).map(chunk).collect();
        dead.extend((round * 5..round * 5 + 5).map(chunk));
        delete(&store, &dead).unwrap();
        if round % 2 == 0 {
            store.close();
            store = open(&home);
        }
        let gone = round * 5 + 5;
        let expected: Vec<_> = (gone..30).filter(|number| *number != 17).map(chunk).collect();
        assert_eq!(store.chunk_ids(ChunkId(0), 1000), expected, "round {round}");
    }
}

#[test]
fn chunk_put_again_after_its_deletion_is_there_to_stay() {
    let home = fast_dir();
    let mut store = open(&home);
    for round in 0..5 {
        fill(&store, 0..12);
        store.close();
        store = open(&home);
        for number in 0..12 {
            assert!(read(&store, chunk(number)).unwrap() == data(number), "round {round}");
        }
        delete(&store, &(0..12).map(chunk).collect::<Vec<_>>()).unwrap();
        if round % 2 == 0 {
            store.close();
            store = open(&home);
        }
        assert_eq!(store.usage().chunks, 0, "round {round}");
    }
}

#[test]
fn chunk_that_compaction_finds_damaged_is_taken_out_of_service() {
    let home = fast_dir();
    let store = open(&home);
    fill(&store, 0..20);
    let (file, start) = {
        let index = store.inner.shared.index();
        let location = index.chunk(chunk(0)).unwrap();
        (store.inner.shared.directory.path_of(location.segment), location.chunk_extent().extent.data as usize)
    };
    let mut bytes = fs::read(&file).unwrap();
    bytes[start + 5000] ^= 1;
    fs::write(&file, bytes).unwrap();
    delete(&store, &(1..4).map(chunk).collect::<Vec<_>>()).unwrap();
    until("the damage is found", || store.stat(chunk(0)).is_none());
    assert_eq!(store.chunk_ids(ChunkId(0), 1), [chunk(4)], "so that it will be repaired");
    assert_eq!(read_range(&store, chunk(0), 0, 10), Err(ReadError::Corrupt));
    put(&store, chunk(0), &data(0)).unwrap();
    until("compaction goes on", || !file.exists());
    assert!(read(&store, chunk(0)).unwrap() == data(0));
}

#[test]
fn tombstone_outlives_its_segment_as_long_as_it_has_something_to_kill() {
    let home = fast_dir();
    let store = open(&home);
    // Five chunks fill the first segment; two of them die, which isn't enough to have it emptied.
    fill(&store, 0..4);
    fill(&store, 100..102);
    delete(&store, &[chunk(0)]).unwrap();
    let segments = segment_files(&home.path().join("segments"));
    assert_eq!(segments.len(), 2, "the tombstone lies in the second");
    fill(&store, 102..112);
    delete(&store, &(100..112).map(chunk).collect::<Vec<_>>()).unwrap();
    until("the tombstone's segment is emptied", || !segments[1].exists());
    assert!(segments[0].exists(), "the dead chunk is still on the disk");
    store.close();
    assert_eq!(open(&home).chunk_ids(ChunkId(0), 9), (1..4).map(chunk).collect::<Vec<_>>());
}

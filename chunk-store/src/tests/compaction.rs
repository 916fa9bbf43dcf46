//! Room given back, while readers and writers go on.

use std::sync::atomic::{AtomicBool, Ordering};

use super::{
    damage::{flip, place},
    *,
};

const LENGTH: usize = 12_000;

fn data(number: u64) -> Bytes {
    bytes_of(chunk(number), LENGTH)
}

fn fill(store: &Store, numbers: Range<u64>) {
    for number in numbers {
        put(store, chunk(number), &data(number)).unwrap();
    }
}

fn live_bytes(store: &Store) -> u64 {
    store.usage().chunks * LENGTH as u64
}

#[test]
fn room_of_deleted_chunks_is_given_back() {
    let disk = SimDisk::new();
    let store = open(&disk);
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
    check(&open(&disk));
}

#[test]
fn store_that_is_emptied_shrinks_to_almost_nothing() {
    let disk = SimDisk::new();
    let store = open(&disk);
    fill(&store, 0..60);
    delete(&store, &(0..60).map(chunk).collect::<Vec<_>>()).unwrap();
    until("compaction", || store.usage().used_bytes < 2 * SEGMENT_LEN_MIN);
    store.close();
    let store = open(&disk);
    assert_eq!(store.usage().chunks, 0);
    assert!(store.chunk_ids(ChunkId(0), 9).is_empty());
}

#[test]
fn garbage_of_the_segment_that_is_written_to_comes_back_too() {
    let disk = SimDisk::new();
    let roomy = StoreConfig { capacity_bytes: Some(8 << 30), segment_bytes: 256 << 20, ..config() };
    let (store, _) = open_as(&disk, &roomy);
    let data = bytes_of(chunk(1), 4 << 20);
    let chunks: Vec<_> = (1..=20).map(chunk).collect();
    for id in &chunks {
        put(&store, *id, &data).unwrap();
    }
    assert_eq!(disk.image().len(), 1, "all of it fits the first segment");
    delete(&store, &chunks[1..]).unwrap();
    until("compaction", || store.usage().used_bytes < 8 << 20);
    assert!(read(&store, chunks[0]).unwrap() == data);
}

#[test]
fn readers_are_not_disturbed() {
    let disk = SimDisk::new();
    let store = open(&disk);
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
    let disk = SimDisk::new();
    let mut store = open(&disk);
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
            store = open(&disk);
        }
        let gone = round * 5 + 5;
        let expected: Vec<_> = (gone..30).filter(|number| *number != 17).map(chunk).collect();
        assert_eq!(store.chunk_ids(ChunkId(0), 1000), expected, "round {round}");
    }
}

#[test]
fn chunk_put_again_after_its_deletion_is_there_to_stay() {
    let disk = SimDisk::new();
    let mut store = open(&disk);
    for round in 0..5 {
        fill(&store, 0..12);
        store.close();
        store = open(&disk);
        for number in 0..12 {
            assert!(read(&store, chunk(number)).unwrap() == data(number), "round {round}");
        }
        delete(&store, &(0..12).map(chunk).collect::<Vec<_>>()).unwrap();
        if round % 2 == 0 {
            store.close();
            store = open(&disk);
        }
        assert_eq!(store.usage().chunks, 0, "round {round}");
    }
}

#[test]
fn chunk_that_compaction_finds_damaged_is_taken_out_of_service() {
    let disk = SimDisk::new();
    let store = open(&disk);
    fill(&store, 0..20);
    let (slot, start) = place(&store, chunk(0));
    let there = segment_in(&disk, slot);
    flip(&disk, slot, start + 5000, 0);
    delete(&store, &(1..4).map(chunk).collect::<Vec<_>>()).unwrap();
    until("the damage is found", || store.stat(chunk(0)).is_none());
    assert_eq!(store.chunk_ids(ChunkId(0), 1), [chunk(4)], "so that it will be repaired");
    assert_eq!(read_range(&store, chunk(0), 0, 10), Err(ReadError::Corrupt));
    put(&store, chunk(0), &data(0)).unwrap();
    until("compaction goes on", || segment_in(&disk, slot) != there);
    assert!(read(&store, chunk(0)).unwrap() == data(0));
}

#[test]
fn tombstone_outlives_its_segment_as_long_as_it_has_something_to_kill() {
    let disk = SimDisk::new();
    let store = open(&disk);
    // Four chunks fill the first segment; one of them dies, which isn't enough to have it emptied.
    fill(&store, 0..4);
    let (first, _) = place(&store, chunk(0));
    fill(&store, 100..101);
    let (second, _) = place(&store, chunk(100));
    assert_ne!(first, second);
    let (in_first, in_second) = (segment_in(&disk, first), segment_in(&disk, second));
    delete(&store, &[chunk(0)]).unwrap();
    fill(&store, 101..112);
    delete(&store, &(100..112).map(chunk).collect::<Vec<_>>()).unwrap();
    until("the tombstone's segment is emptied", || segment_in(&disk, second) != in_second);
    assert_eq!(segment_in(&disk, first), in_first, "the dead chunk is still on the disk");
    store.close();
    assert_eq!(open(&disk).chunk_ids(ChunkId(0), 9), (1..4).map(chunk).collect::<Vec<_>>());
}

#[test]
fn files_are_used_again_and_hold_nothing_of_what_they_were() {
    let disk = SimDisk::new();
    let mut store = open(&disk);
    for round in 0..30 {
        let fresh = round * 10;
        fill(&store, fresh..fresh + 10);
        if round > 0 {
            delete(&store, &(fresh - 10..fresh).map(chunk).collect::<Vec<_>>()).unwrap();
        }
        until("compaction", || store.usage().used_bytes < 8 * SEGMENT_LEN_MIN);
        if round % 4 == 3 {
            store.close();
            store = open(&disk);
        }
        assert_eq!(store.chunk_ids(ChunkId(0), 99), (fresh..fresh + 10).map(chunk).collect::<Vec<_>>());
    }
    assert!(disk.image().len() < 20, "{} files for 300 chunks", disk.image().len());
    for number in 290..300 {
        assert!(read(&store, chunk(number)).unwrap() == data(number));
    }
}

#[test]
fn what_is_read_keeps_its_file_from_being_used_again() {
    let disk = SimDisk::new();
    let store = open(&disk);
    fill(&store, 0..4);
    let (location, segment) = store.inner.shared.find(chunk(0)).unwrap();
    delete(&store, &(0..4).map(chunk).collect::<Vec<_>>()).unwrap();
    fill(&store, 10..20);
    until("the segment is emptied", || segment_in(&disk, segment.slot).is_none());
    for round in 0..10 {
        let fresh = 100 + 10 * round;
        fill(&store, fresh..fresh + 10);
        delete(&store, &(fresh..fresh + 10).map(chunk).collect::<Vec<_>>()).unwrap();
    }
    // What is kept for deletions is the longest, and that is another one.
    put(&store, chunk(400), &bytes_of(chunk(400), 1 << 20)).unwrap();
    let long = store.inner.shared.find(chunk(400)).unwrap().1.slot;
    delete(&store, &[chunk(400)]).unwrap();
    fill(&store, 410..420);
    until("the long one is emptied", || segment_in(&disk, long).is_none());
    let mut out = vec![0; LENGTH];
    read_range_of(&segment, &location, &mut out).unwrap();
    assert!(out == data(0), "as it was when it was looked up");
    let slot = segment.slot;
    drop(segment);
    fill(&store, 300..330);
    assert!(segment_in(&disk, slot).is_some(), "it is used again once nobody reads it");
}

fn read_range_of(segment: &Segment, location: &Location, out: &mut [u8]) -> Result<(), ReadError> {
    super::super::read_range(segment, location, 0, out, |_, _, _| {})
}

/// What is in a file, by its superblock; nothing if it is free.
fn segment_in(disk: &SimDisk, slot: Slot) -> Option<format::SegmentId> {
    let found = format::Superblock::parse(&disk.image()[&slot]).unwrap();
    (!found.is_free).then_some(found.segment)
}

#[test]
fn compaction_keeps_to_its_rate_until_somebody_waits_for_room() {
    let disk = SimDisk::new();
    let config =
        StoreConfig { capacity_bytes: Some(2 << 20), compaction_rate: NonZeroU64::new(1), ..config() };
    let (store, _) = open_as(&disk, &config);
    let filled =
        (0..).take_while(|number| put(&store, chunk(*number), &data(*number)).is_ok()).count() as u64;
    delete(&store, &(0..filled).filter(|number| number % 2 == 0).map(chunk).collect::<Vec<_>>()).unwrap();
    // One step is free, and then nothing happens for as long as anybody cares to wait.
    let moved = || store.activity().moved_bytes();
    until("the first step", || moved() > 0);
    let before = moved();
    thread::sleep(Duration::from_millis(50));
    assert_eq!(moved(), before);
    put_patiently(&store, chunk(1000), &data(1000)).unwrap();
    for number in 1001..1000 + filled / 4 {
        put_patiently(&store, chunk(number), &data(number)).unwrap();
    }
    assert!(moved() > before);
}

//! Damage at rest that nobody reads, and walks with the store at work under their feet.

use std::sync::atomic::{AtomicBool, Ordering};

use super::{
    damage::{filled, flip, place},
    sim_disk::Fault,
    *,
};

/// A whole walk.
fn scrub(store: &Store) -> ScrubStep {
    sum_of(store.scrub(0))
}

fn sum_of(mut walk: Scrub) -> ScrubStep {
    let mut sum = ScrubStep::default();
    loop {
        let step = walk.step();
        assert!(step.bytes <= 4 << 20, "one step is little: {step:?}");
        sum.add(step);
        if step.is_end {
            return ScrubStep { is_end: true, ..sum };
        }
    }
}

#[test]
fn walk_checks_every_byte_that_is_served() {
    let disk = SimDisk::new();
    let lengths = [100, 5000, 4096, 1, 30_000, 9000, 3 << 20, 40_000, 700];
    filled(&disk, &lengths);
    let store = open(&disk);
    // So little garbage that compaction lets it lie: what it moves under a walk may be read twice.
    delete(&store, &[chunk(3)]).unwrap();
    let found = scrub(&store);
    let served: usize = lengths.iter().sum::<usize>() - 1;
    assert_eq!((found.bytes, found.chunks), (served as u64, 8));
    assert_eq!((found.damaged_chunks, found.damaged_places, found.read_errors), (0, 0, 0));
    assert_eq!(store.activity().read_bytes(), 0, "nobody has read");
    assert_eq!(scrub(&store).bytes, found.bytes, "and again");
}

#[test]
fn what_a_walk_does_not_complain_of_is_there_after_a_restart() {
    let disk = SimDisk::new();
    let lengths = [100, 5000, 4096, 1, 30_000, 9000, 20_000, 40_000, 700];
    filled(&disk, &lengths);
    let image = disk.image();
    assert!(image.len() > 1, "some are sealed");
    let mut found_by_walks = 0;
    for (slot, file) in &image {
        for at in (0..file.len()).step_by(97) {
            let disk = SimDisk::holding(image.clone());
            let store = open(&disk);
            // At rest: the store knows nothing of it.
            flip(&disk, *slot, at, (at % 8) as u8);
            let found = scrub(&store);
            let out_of_service =
                (0..).zip(lengths).filter(|(number, _)| store.stat(chunk(*number)).is_none());
            assert_eq!(out_of_service.count() as u64, found.damaged_chunks, "a flip at {at} of {slot:?}");
            found_by_walks += found.damaged_chunks;
            store.close();
            if found.damaged_chunks + found.damaged_places > 0 {
                continue;
            }
            let store = open(&disk);
            for (number, length) in (0..).zip(lengths) {
                let (id, data) = (chunk(number), bytes_of(chunk(number), length));
                assert!(read(&store, id) == Ok(data), "{number} after a flip at {at} of {slot:?}");
            }
        }
    }
    assert!(found_by_walks > 500, "most flips hit a chunk: {found_by_walks}");
}

#[test]
fn damage_that_nobody_reads_is_found_and_never_served() {
    let disk = SimDisk::new();
    filled(&disk, &[50_000, 60_000, 3 << 20]);
    let store = open(&disk);
    for (number, length, at) in [(0, 50_000, 20_000), (2, 3 << 20, (3 << 20) - 1)] {
        let (slot, start) = place(&store, chunk(number));
        flip(&disk, slot, start + at, 3);
        let found = scrub(&store);
        assert_eq!((found.damaged_chunks, found.damaged_places), (1, 0));
        assert_eq!(read_range(&store, chunk(number), 0, 4096), Err(ReadError::Corrupt), "other pages, too");
        assert!(!store.chunk_ids(ChunkId(0), 9).contains(&chunk(number)), "it isn't reported");
        assert_eq!(scrub(&store).damaged_chunks, 0, "it is counted once");
        put(&store, chunk(number), &bytes_of(chunk(number), length)).unwrap();
        let found = scrub(&store);
        assert_eq!((found.damaged_chunks, found.chunks), (0, 3), "written again, it is sound");
    }
}

#[test]
fn batch_that_the_next_start_would_lose_is_a_damaged_place() {
    let disk = SimDisk::new();
    filled(&disk, &[3900, 3900, 3900, 20_000]);
    let store = open(&disk);
    let (slot, start) = place(&store, chunk(1));
    // The head of the batch, which holds nothing else.
    flip(&disk, slot, start / 4096 * 4096 + 20, 1);
    let found = scrub(&store);
    assert_eq!((found.damaged_chunks, found.damaged_places, found.chunks), (0, 1, 4));
    assert!(read(&store, chunk(1)).is_ok(), "until then it is served");
}

#[test]
fn head_of_a_segment_counts_and_its_chunks_are_served_as_long_as_they_can_be() {
    let disk = SimDisk::new();
    filled(&disk, &[60_000, 60_000]);
    let store = open(&disk);
    let first = *disk.image().keys().next().unwrap();
    flip(&disk, first, 0, 0);
    assert_eq!(scrub(&store).damaged_places, 0, "there are two copies");
    flip(&disk, first, 2048, 0);
    let found = scrub(&store);
    assert_eq!((found.damaged_places, found.damaged_chunks, found.chunks), (1, 0, 2));
}

#[test]
fn walk_goes_on_from_where_it_was() {
    let disk = SimDisk::new();
    filled(&disk, &[60_000; 8]);
    let store = open(&disk);
    let whole = scrub(&store);
    let mut walk = store.scrub(0);
    assert_eq!(walk.bytes_ahead(), store.usage().used_bytes);
    let mut seen = 0;
    while walk.segment() < 4 {
        seen += walk.step().chunks;
    }
    let rest = sum_of(store.scrub(walk.segment()));
    assert!(seen > 0 && rest.chunks > 0);
    assert_eq!(seen + rest.chunks, whole.chunks);
}

#[test]
fn walk_ends_with_its_store() {
    let disk = SimDisk::new();
    filled(&disk, &[1000]);
    let store = open(&disk);
    let mut walk = store.scrub(0);
    store.close();
    drop(store);
    assert_eq!(walk.step(), ScrubStep { is_end: true, ..ScrubStep::default() });
    drop(open(&disk));
}

#[test]
fn deletions_and_compaction_under_a_walk_are_no_damage() {
    const LENGTH: usize = 12_000;
    let disk = SimDisk::new();
    let store = open(&disk);
    let data = |number: u64| bytes_of(chunk(number), LENGTH);
    let stop = AtomicBool::new(false);
    for number in 0..100 {
        put_patiently(&store, chunk(number), &data(number)).unwrap();
    }
    thread::scope(|scope| {
        let walks = scope.spawn(|| {
            let mut walks = 0;
            while !stop.load(Ordering::Relaxed) || walks < 3 {
                let found = scrub(&store);
                assert_eq!((found.damaged_chunks, found.damaged_places, found.read_errors), (0, 0, 0));
                walks += 1;
            }
            walks
        });
        let before = store.usage().used_bytes;
        for number in 100..600 {
            put_patiently(&store, chunk(number), &data(number)).unwrap();
            delete(&store, &[chunk(number - 100)]).unwrap();
        }
        until("compaction", || store.usage().used_bytes < 4 * before);
        stop.store(true, Ordering::Relaxed);
        assert!(walks.join().unwrap() >= 3);
    });
    for number in 500..600 {
        assert!(read(&store, chunk(number)).unwrap() == data(number), "{number}");
    }
}

#[test]
fn read_that_the_disk_refuses_is_no_damage() {
    let disk = SimDisk::new();
    filled(&disk, &[1000, 2000]);
    let store = open(&disk);
    disk.break_by(Fault::Read(io::ErrorKind::Other));
    let found = scrub(&store);
    assert!(found.read_errors > 0 && found.is_end, "{found:?}");
    assert_eq!((found.damaged_chunks, found.damaged_places, found.chunks), (0, 0, 0));
    assert_eq!(store.usage().chunks, 2, "what can't be read now may be whole");
    assert_eq!(read_range(&store, chunk(0), 0, 1), Err(ReadError::Failed), "a read is told the same");
    disk.heal();
    assert_eq!(scrub(&store).chunks, 2);
}

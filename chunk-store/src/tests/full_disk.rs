//! A disk that is full, and a disk that fails.

use std::io::ErrorKind;

use super::{sim_disk::Fault, *};
use crate::{
    format::{SegmentId, Superblock},
    medium::{Medium as _, Slot},
    slots::{FreeFile, FreeFiles},
};

const NO_SPACE: [Fault; 4] = [
    Fault::Allocate(ErrorKind::StorageFull),
    Fault::Write(ErrorKind::StorageFull, 0),
    Fault::Write(ErrorKind::StorageFull, 70),
    Fault::Write(ErrorKind::StorageFull, 3000),
];
/// Two of these don't fit one segment, so the second needs the next to be made.
const LARGE: usize = 40_000;
/// Many of these fit, and the disk space for them is held from the first on.
const SMALL: usize = 7900;

#[test]
fn full_disk_refuses_a_chunk_and_loses_nothing() {
    let faults = NO_SPACE.map(|fault| (fault, LARGE)).into_iter();
    for (fault, length) in faults.chain(NO_SPACE[1..].iter().map(|fault| (*fault, SMALL))) {
        let disk = SimDisk::new();
        let store = open(&disk);
        let data = |number| bytes_of(chunk(number), length);
        put(&store, chunk(1), &data(1)).unwrap();
        disk.break_by(fault);
        assert_eq!(put(&store, chunk(2), &data(2)), Err(PutError::NoSpace), "{fault:?}");
        assert!(!store.is_fenced());
        assert_eq!(store.stat(chunk(2)), None);
        disk.heal();
        put(&store, chunk(3), &data(3)).unwrap();
        put(&store, chunk(2), &data(2)).unwrap();
        store.close();
        let store = open(&disk);
        for number in 1..=3 {
            assert!(read(&store, chunk(number)).unwrap() == data(number), "{fault:?}: {number}");
        }
    }
}

#[test]
fn deletion_goes_through_where_a_chunk_does_not() {
    let disk = SimDisk::new();
    let store = open(&disk);
    for number in 0..30 {
        put(&store, chunk(number), &bytes_of(chunk(number), 3900)).unwrap();
    }
    // Room for a tombstone, not for a chunk, in one batch of both.
    disk.close_gate();
    let first = store.delete(vec![chunk(0)]);
    disk.wait_at_gate();
    let data = bytes_of(chunk(77), 12_000);
    let (put, deletion) = (store.put(chunk(77), crc32c(&data), data), store.delete(vec![chunk(1)]));
    disk.break_by(Fault::Write(ErrorKind::StorageFull, 5000));
    disk.open_gate();
    wait(first).unwrap();
    assert_eq!(wait(put), Err(PutError::NoSpace));
    assert_eq!(wait(deletion), Ok(()));
    store.close();
    let store = open(&disk);
    assert_eq!(store.chunk_ids(ChunkId(0), 99), (2..30).map(chunk).collect::<Vec<_>>());
}

#[test]
fn tombstone_of_a_refused_chunk_is_not_kept_for_ever() {
    let disk = SimDisk::new();
    let store = open(&disk);
    for number in (100..120).chain([0]) {
        put(&store, chunk(number), &bytes_of(chunk(number), 3900)).unwrap();
    }
    disk.close_gate();
    let first = store.delete(vec![chunk(0)]);
    disk.wait_at_gate();
    let data = bytes_of(chunk(77), 12_000);
    let (put, deletion) = (store.put(chunk(77), crc32c(&data), data), store.delete(vec![chunk(77)]));
    disk.break_by(Fault::Write(ErrorKind::StorageFull, 5000));
    disk.open_gate();
    wait(first).unwrap();
    assert!(matches!(wait(put), Err(PutError::NoSpace | PutError::Busy)));
    wait(deletion).unwrap();
    let index = store.inner.shared.index();
    assert!(!index.has_shadow(chunk(77)), "it has nothing to kill");
    assert!(index.has_shadow(chunk(0)));
}

#[test]
fn full_disk_that_has_no_room_for_a_deletion_says_so() {
    let disk = SimDisk::new();
    let store = open(&disk);
    put(&store, chunk(1), &bytes_of(chunk(1), 5000)).unwrap();
    disk.break_by(Fault::Write(ErrorKind::StorageFull, 0));
    assert_eq!(delete(&store, &[chunk(1)]), Err(DeleteError::NoSpace));
    assert!(read(&store, chunk(1)).is_ok());
    disk.heal();
    delete(&store, &[chunk(1)]).unwrap();
}

#[test]
fn segment_that_can_not_be_begun_leaves_the_old_one_in_use() {
    let disk = SimDisk::new();
    let store = open(&disk);
    // One more doesn't fit.
    for number in 0..4 {
        put(&store, chunk(number), &bytes_of(chunk(number), 12_000)).unwrap();
    }
    disk.break_by(Fault::Allocate(ErrorKind::StorageFull));
    let next = bytes_of(chunk(500), 12_000);
    assert_eq!(put(&store, chunk(500), &next), Err(PutError::NoSpace));
    delete(&store, &[chunk(0)]).unwrap();
    disk.heal();
    put(&store, chunk(500), &next).unwrap();
    store.close();
    assert_eq!(open(&disk).usage().chunks, 4);
}

#[test]
fn failed_disk_fences_the_store_and_is_not_tried_again() {
    let faults = [
        (Fault::Write(ErrorKind::Other, usize::MAX), SMALL),
        (Fault::Write(ErrorKind::Other, usize::MAX), LARGE),
        (Fault::Write(ErrorKind::Other, 100), SMALL),
        (Fault::Write(ErrorKind::Other, 100), LARGE),
        (Fault::Allocate(ErrorKind::Other), LARGE),
    ];
    for (fault, length) in faults {
        let disk = SimDisk::new();
        let store = open(&disk);
        let data = |number| bytes_of(chunk(number), length);
        put(&store, chunk(1), &data(1)).unwrap();
        disk.break_by(fault);
        assert_eq!(put(&store, chunk(2), &data(2)), Err(PutError::Failed), "{fault:?}");
        assert!(store.is_fenced());
        assert_eq!(store.stat(chunk(2)), None);
        let syncs = disk.writes();
        // A sync that works after one that failed says nothing about what the failed one has lost.
        disk.heal();
        assert_eq!(put(&store, chunk(2), &data(2)), Err(PutError::Failed));
        assert_eq!(put(&store, chunk(3), &data(3)), Err(PutError::Failed));
        assert_eq!(delete(&store, &[chunk(1)]), Err(DeleteError::Failed));
        assert_eq!(disk.writes(), syncs, "{fault:?}");
        assert!(read(&store, chunk(1)).unwrap() == data(1), "what is there is served on");
        store.close();
        let store = open(&disk);
        assert!(read(&store, chunk(1)).unwrap() == data(1));
        put(&store, chunk(2), &data(2)).unwrap();
        put(&store, chunk(3), &data(3)).unwrap();
    }
}

#[test]
fn compaction_does_not_try_a_failed_disk_again() {
    for round in 0..100 {
        let disk = SimDisk::new();
        let store = open(&disk);
        for number in 0..80 {
            put(&store, chunk(number), &bytes_of(chunk(number), SMALL)).unwrap();
        }
        let deletion = store.delete((0..70).map(chunk).collect());
        // Each begins a segment, while others wait to be freed.
        let puts: Vec<_> = (100..110)
            .map(|number| bytes_of(chunk(number), LARGE))
            .zip(100..)
            .map(|(data, number)| store.put(chunk(number), crc32c(&data), data))
            .collect();
        wait(deletion).unwrap();
        until("the disk has worked on", || disk.writes() > 100 + round % 30);
        disk.break_by(Fault::Write(ErrorKind::Other, 0));
        for put in puts {
            let _ = wait(put);
        }
        let _ = put(&store, chunk(1000), &bytes_of(chunk(1000), 10));
        store.close();
        assert!(store.is_fenced());
        assert_eq!(disk.failed_writes(), 1, "{round}");
    }
}

#[test]
fn all_who_wait_for_a_failed_sync_are_told() {
    let disk = SimDisk::new();
    let store = open(&disk);
    put(&store, chunk(0), &bytes_of(chunk(0), 10)).unwrap();
    disk.close_gate();
    let start = |number| {
        let data = bytes_of(chunk(number), 10);
        store.put(chunk(number), crc32c(&data), data)
    };
    let first = start(1);
    disk.wait_at_gate();
    let (second, third, deletion) = (start(2), start(3), store.delete(vec![chunk(0)]));
    disk.break_by(Fault::Write(ErrorKind::Other, usize::MAX));
    disk.open_gate();
    for put in [first, second, third] {
        assert_eq!(wait(put), Err(PutError::Failed));
    }
    assert_eq!(wait(deletion), Err(DeleteError::Failed));
}

#[test]
fn chunk_whose_deletion_failed_is_not_said_to_be_stored() {
    let disk = SimDisk::new();
    let store = open(&disk);
    let data = bytes_of(chunk(1), 5000);
    put(&store, chunk(1), &data).unwrap();
    disk.break_by(Fault::Write(ErrorKind::Other, usize::MAX));
    assert_eq!(delete(&store, &[chunk(1)]), Err(DeleteError::Failed));
    disk.heal();
    assert!(read(&store, chunk(1)).is_ok());
    assert_eq!(put(&store, chunk(1), &data), Err(PutError::Failed));
    store.close();
    let store = open(&disk);
    assert_eq!(read(&store, chunk(1)), Err(ReadError::NotFound), "the deletion had reached the disk");
    put(&store, chunk(1), &data).unwrap();
}

#[test]
fn head_that_only_the_kernel_has_is_not_gone_on_with() {
    let disk = SimDisk::new();
    let store = open(&disk);
    for number in 0..6 {
        put(&store, chunk(number), &bytes_of(chunk(number), 12_000)).unwrap();
    }
    delete(&store, &(0..6).map(chunk).collect::<Vec<_>>()).unwrap();
    let is_free = |page: &[u8]| Superblock::parse(page).is_ok_and(|head| head.is_free);
    let free = || disk.image().into_iter().find(|(_, file)| is_free(&file[..PAGE_LEN]));
    until("a segment is freed", || free().is_some());
    store.close();
    // The last process has begun a segment in the free file, and failed to make that durable.
    let (slot, file) = free().unwrap();
    let head = Superblock::parse(&file[..PAGE_LEN]).unwrap();
    let begun = Superblock { segment: SegmentId(100), nonce: 1, is_free: false, ..head };
    let mut page = vec![0; PAGE_LEN];
    begun.encode(&mut page);
    disk.cache_head(slot, page);
    let store = open(&disk);
    let data = bytes_of(chunk(10), 5000);
    put(&store, chunk(10), &data).unwrap();
    store.close();
    assert!(read(&open(&disk), chunk(10)).unwrap() == data);
}

#[test]
fn quota_is_kept_and_deletions_make_room() {
    let disk = SimDisk::new();
    let quota = 2 << 20;
    let config = StoreConfig { capacity_bytes: Some(quota), ..config() };
    let (store, _) = open_as(&disk, &config);
    let data = |number| bytes_of(chunk(number), 50_000);
    let mut stored = 0;
    let refusal = loop {
        match put(&store, chunk(stored), &data(stored)) {
            Ok(()) => stored += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(refusal, PutError::NoSpace);
    assert!((30..42).contains(&stored), "{stored} chunks of 50 kB in 2 MiB");
    assert!(store.usage().used_bytes <= quota);
    for round in 0..4 {
        let (old, new) = (round * 10, stored + round * 10);
        delete(&store, &(old..old + 10).map(chunk).collect::<Vec<_>>()).unwrap();
        for number in new..new + 9 {
            put_patiently(&store, chunk(number), &data(number)).unwrap();
        }
    }
    let held = store.chunk_ids(ChunkId(0), 1000);
    assert_eq!(held.len() as u64, stored - 4);
    store.close();
    let (store, _) = open_as(&disk, &config);
    for id in held {
        assert!(read(&store, id).unwrap() == data(id.0 as u64), "{id}");
    }
}

#[test]
fn deletion_that_found_no_space_does_not_take_effect_later() {
    let disk = SimDisk::new();
    let store = open(&disk);
    let data = bytes_of(chunk(1), 5000);
    put(&store, chunk(1), &data).unwrap();
    // All of it gets through, and is called a failure.
    disk.break_by(Fault::Write(ErrorKind::StorageFull, usize::MAX));
    assert_eq!(delete(&store, &[chunk(1)]), Err(DeleteError::NoSpace));
    disk.heal();
    put(&store, chunk(1), &data).unwrap();
    // The process ends without another write.
    let image = disk.image();
    store.close();
    assert!(read(&open(&SimDisk::holding(image)), chunk(1)).unwrap() == data);
}

#[test]
fn file_that_is_kept_is_the_longest() {
    let disk = SimDisk::new();
    let mut free = FreeFiles::default();
    for (slot, len) in [(1, 10), (2, 30), (3, 20)] {
        free.add(FreeFile { slot: Slot(slot), file: disk.create(Slot(slot)).unwrap(), len });
    }
    // None is long enough.
    assert_eq!(free.take(100, 1).map(|file| file.len), Some(20));
    assert_eq!(free.longest(), 30);
    assert_eq!(free.take(100, 0).map(|file| file.len), Some(30));
}

#[test]
fn full_disk_still_takes_deletions_into_files_that_it_holds() {
    let disk = SimDisk::new();
    let store = open(&disk);
    for number in 0..12 {
        put(&store, chunk(number), &bytes_of(chunk(number), 12_000)).unwrap();
    }
    delete(&store, &(0..8).map(chunk).collect::<Vec<_>>()).unwrap();
    until("compaction", || store.usage().used_bytes < 4 * SEGMENT_LEN_MIN);
    disk.break_by(Fault::Allocate(ErrorKind::StorageFull));
    let mut number = 100;
    while put(&store, chunk(number), &bytes_of(chunk(number), 12_000)).is_ok() {
        number += 1;
    }
    // Compaction may have the last file just now; it gives another one back.
    for number in 8..12 {
        until("the deletion", || delete(&store, &[chunk(number)]).is_ok());
    }
    assert_eq!(read(&store, chunk(9)), Err(ReadError::NotFound));
}

//! A disk that is full, and a disk that fails.

use std::sync::Arc;

use rustix::io::Errno;

use super::{
    faulty_medium::{Fault, FaultyMedium},
    *,
};

const NO_SPACE: [Fault; 4] = [
    Fault::Allocate(Errno::NOSPC),
    Fault::Write(Errno::NOSPC, 0),
    Fault::Write(Errno::NOSPC, 70),
    Fault::Write(Errno::NOSPC, 3000),
];
/// Two of these don't fit one segment, so the second needs the next to be made.
const LARGE: usize = 40_000;
/// Many of these fit, and the disk space for them is held from the first on.
const SMALL: usize = 5000;

fn open_on(home: &TempDir, medium: &Arc<FaultyMedium>) -> Store {
    Store::open_on(&config(home), medium.clone()).unwrap().0
}

#[test]
fn full_disk_refuses_a_chunk_and_loses_nothing() {
    let faults = NO_SPACE.map(|fault| (fault, LARGE)).into_iter();
    for (fault, length) in faults.chain(NO_SPACE[1..].iter().map(|fault| (*fault, SMALL))) {
        let home = fast_dir();
        let medium = Arc::new(FaultyMedium::default());
        let store = open_on(&home, &medium);
        let data = |number| bytes_of(chunk(number), length);
        put(&store, chunk(1), &data(1)).unwrap();
        medium.break_by(fault);
        assert_eq!(put(&store, chunk(2), &data(2)), Err(PutError::NoSpace), "{fault:?}");
        assert!(!store.is_fenced());
        assert_eq!(store.stat(chunk(2)), None);
        medium.heal();
        put(&store, chunk(3), &data(3)).unwrap();
        put(&store, chunk(2), &data(2)).unwrap();
        store.close();
        let store = open(&home);
        for number in 1..=3 {
            assert!(read(&store, chunk(number)).unwrap() == data(number), "{fault:?}: {number}");
        }
    }
}

#[test]
fn deletion_goes_through_where_a_chunk_does_not() {
    let home = fast_dir();
    let medium = Arc::new(FaultyMedium::default());
    let store = open_on(&home, &medium);
    for number in 0..30 {
        put(&store, chunk(number), &bytes_of(chunk(number), 1000)).unwrap();
    }
    // Room for a tombstone, not for a chunk, in one batch of both.
    medium.close_gate();
    let first = store.delete(vec![chunk(0)]);
    medium.wait_at_gate();
    let data = bytes_of(chunk(77), 1000);
    let (put, deletion) = (store.put(chunk(77), crc32c(&data), data), store.delete(vec![chunk(1)]));
    medium.break_by(Fault::Write(Errno::NOSPC, 500));
    medium.open_gate();
    wait(first).unwrap();
    assert_eq!(wait(put), Err(PutError::NoSpace));
    assert_eq!(wait(deletion), Ok(()));
    store.close();
    let store = open(&home);
    assert_eq!(store.chunk_ids(ChunkId(0), 99), (2..30).map(chunk).collect::<Vec<_>>());
}

#[test]
fn tombstone_of_a_refused_chunk_is_not_kept_for_ever() {
    let home = fast_dir();
    let medium = Arc::new(FaultyMedium::default());
    let store = open_on(&home, &medium);
    for number in (100..120).chain([0]) {
        put(&store, chunk(number), &bytes_of(chunk(number), 1000)).unwrap();
    }
    medium.close_gate();
    let first = store.delete(vec![chunk(0)]);
    medium.wait_at_gate();
    let data = bytes_of(chunk(77), 1000);
    let (put, deletion) = (store.put(chunk(77), crc32c(&data), data), store.delete(vec![chunk(77)]));
    medium.break_by(Fault::Write(Errno::NOSPC, 500));
    medium.open_gate();
    wait(first).unwrap();
    assert_eq!(wait(put), Err(PutError::NoSpace));
    wait(deletion).unwrap();
    let index = store.inner.shared.index();
    assert!(!index.has_shadow(chunk(77)), "it has nothing to kill");
    assert!(index.has_shadow(chunk(0)));
}

#[test]
fn full_disk_that_has_no_room_for_a_deletion_says_so() {
    let home = fast_dir();
    let medium = Arc::new(FaultyMedium::default());
    let store = open_on(&home, &medium);
    put(&store, chunk(1), &bytes_of(chunk(1), 5000)).unwrap();
    medium.break_by(Fault::Write(Errno::NOSPC, 0));
    assert_eq!(delete(&store, &[chunk(1)]), Err(DeleteError::NoSpace));
    assert!(read(&store, chunk(1)).is_ok());
    medium.heal();
    delete(&store, &[chunk(1)]).unwrap();
}

#[test]
fn segment_that_can_not_be_begun_leaves_the_old_one_in_use() {
    let home = fast_dir();
    let medium = Arc::new(FaultyMedium::default());
    let store = open_on(&home, &medium);
    let fill = (0..).take_while(|number| {
        put(&store, chunk(*number), &bytes_of(chunk(*number), 10_000)).unwrap();
        store.usage().used_bytes + 10_000 < SEGMENT_LEN_MIN
    });
    let filled = fill.count() as u64;
    medium.break_by(Fault::Allocate(Errno::NOSPC));
    let next = bytes_of(chunk(500), 10_000);
    assert_eq!(put(&store, chunk(500), &next), Err(PutError::NoSpace));
    medium.heal();
    delete(&store, &[chunk(0)]).unwrap();
    put(&store, chunk(500), &next).unwrap();
    store.close();
    assert_eq!(open(&home).usage().chunks, filled + 1);
}

#[test]
fn failed_disk_fences_the_store_and_is_not_tried_again() {
    let faults = [
        (Fault::Sync(Errno::IO), SMALL),
        (Fault::Sync(Errno::IO), LARGE),
        (Fault::Sync(Errno::NOSPC), SMALL),
        (Fault::Write(Errno::IO, 100), SMALL),
        (Fault::Write(Errno::IO, 100), LARGE),
        (Fault::Allocate(Errno::IO), LARGE),
    ];
    for (fault, length) in faults {
        let home = fast_dir();
        let medium = Arc::new(FaultyMedium::default());
        let store = open_on(&home, &medium);
        let data = |number| bytes_of(chunk(number), length);
        put(&store, chunk(1), &data(1)).unwrap();
        medium.break_by(fault);
        assert_eq!(put(&store, chunk(2), &data(2)), Err(PutError::Failed), "{fault:?}");
        assert!(store.is_fenced());
        assert_eq!(store.stat(chunk(2)), None);
        let syncs = medium.syncs();
        // A sync that works after one that failed says nothing about what the failed one has lost.
        medium.heal();
        assert_eq!(put(&store, chunk(2), &data(2)), Err(PutError::Failed));
        assert_eq!(put(&store, chunk(3), &data(3)), Err(PutError::Failed));
        assert_eq!(delete(&store, &[chunk(1)]), Err(DeleteError::Failed));
        assert_eq!(medium.syncs(), syncs, "{fault:?}");
        assert!(read(&store, chunk(1)).unwrap() == data(1), "what is there is served on");
        store.close();
        let store = open(&home);
        assert!(read(&store, chunk(1)).unwrap() == data(1));
        put(&store, chunk(2), &data(2)).unwrap();
        put(&store, chunk(3), &data(3)).unwrap();
    }
}

#[test]
fn all_who_wait_for_a_failed_sync_are_told() {
    let home = fast_dir();
    let medium = Arc::new(FaultyMedium::default());
    let store = open_on(&home, &medium);
    put(&store, chunk(0), &bytes_of(chunk(0), 10)).unwrap();
    medium.close_gate();
    let start = |number| {
        let data = bytes_of(chunk(number), 10);
        store.put(chunk(number), crc32c(&data), data)
    };
    let first = start(1);
    medium.wait_at_gate();
    let (second, third, deletion) = (start(2), start(3), store.delete(vec![chunk(0)]));
    medium.break_by(Fault::Sync(Errno::IO));
    medium.open_gate();
    for put in [first, second, third] {
        assert_eq!(wait(put), Err(PutError::Failed));
    }
    assert_eq!(wait(deletion), Err(DeleteError::Failed));
}

#[test]
fn quota_is_kept_and_deletions_make_room() {
    let home = fast_dir();
    let quota = 2 << 20;
    let config = StoreConfig { capacity_bytes: Some(quota), ..config(&home) };
    let (store, _) = Store::open(&config).unwrap();
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
    let (store, _) = Store::open(&config).unwrap();
    for id in held {
        assert!(read(&store, id).unwrap() == data(id.0 as u64), "{id}");
    }
}

#[test]
fn what_a_refused_write_has_left_is_durably_cut() {
    let home = fast_dir();
    let medium = Arc::new(FaultyMedium::default());
    let store = open_on(&home, &medium);
    put(&store, chunk(1), &bytes_of(chunk(1), SMALL)).unwrap();
    let file = segment_files(&home.path().join("segments")).pop().unwrap();
    let (length, syncs) = (fs::metadata(&file).unwrap().len(), medium.syncs());
    medium.break_by(Fault::Write(Errno::NOSPC, 3000));
    assert_eq!(put(&store, chunk(2), &bytes_of(chunk(2), SMALL)), Err(PutError::NoSpace));
    assert_eq!(fs::metadata(&file).unwrap().len(), length);
    assert_eq!(medium.syncs() - syncs, 1);
}

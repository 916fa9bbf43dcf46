//! The store under many orders in which its threads can run. Who is next is decided anew at every lock, atomic and channel, and
//! while the disk reads; a thread that nobody will ever wake fails the test.

use std::sync::atomic::{AtomicUsize, Ordering as StdOrdering};

use shuttle::{
    Config, Runner,
    future::block_on,
    scheduler::{PctScheduler, RandomScheduler, Scheduler},
    thread::{self, JoinHandle},
};

use super::{sim_disk::Fault, *};
use crate::recovery::recover;

/// Orders in which every next thread is drawn.
const RANDOM_ORDERS: usize = 1000;
/// Orders in which threads have ranks that change a few times, so that one can be held up for long.
const RANKED_ORDERS: usize = 4000;
const RANK_CHANGES: usize = 3;
const STACK_LEN: usize = 1 << 20;
/// Three of these fill a segment.
const THIRD: usize = 18_000;

fn explore(model: fn()) {
    let run = |scheduler: Box<dyn Scheduler + Send>, orders: usize| {
        let mut config = Config::new();
        config.stack_size = STACK_LEN;
        assert_eq!(Runner::new(scheduler, config).run(model), orders);
    };
    run(Box::new(RandomScheduler::new(RANDOM_ORDERS)), RANDOM_ORDERS);
    run(Box::new(PctScheduler::new(RANK_CHANGES, RANKED_ORDERS)), RANKED_ORDERS);
}

fn open_small(disk: &Arc<SimDisk>, cache_bytes: u64) -> Store {
    let config = StoreConfig { capacity_bytes: Some(2 << 20), cache_bytes, ..config() };
    open_as(disk, &config).0
}

fn put(store: &Store, chunk: ChunkId, data: &Bytes) -> Result<(), PutError> {
    block_on(store.put(chunk, crc32c(data), data.clone()))
}

fn delete(store: &Store, chunk: ChunkId) -> Result<(), DeleteError> {
    block_on(store.delete(vec![chunk]))
}

/// What a start would find of the chunk after a power loss at this moment.
fn durable(disk: &SimDisk, chunk: ChunkId) -> Option<Content> {
    let disk = SimDisk::holding(disk.image());
    let index = recover(&*disk, &config()).unwrap().index;
    index.chunk(chunk).map(Location::content)
}

fn content(data: &Bytes) -> Content {
    Content { length: data.len() as u32, crc: crc32c(data) }
}

fn join<T>(threads: impl IntoIterator<Item = JoinHandle<T>>) -> Vec<T> {
    threads.into_iter().map(|thread| thread.join().unwrap()).collect()
}

#[test]
fn a_file_is_used_again_only_when_its_last_reader_is_done() {
    static USED_AGAIN: AtomicUsize = AtomicUsize::new(0);
    explore(|| {
        let disk = SimDisk::new();
        let store = open_small(&disk, 0);
        let data = |number| bytes_of(chunk(number), THIRD);
        (0..4).for_each(|number| put(&store, chunk(number), &data(number)).unwrap());
        let readers: Vec<_> = (0..2)
            .map(|number| {
                let store = store.clone();
                thread::spawn(move || match read(&store, chunk(number)) {
                    Ok(found) => assert!(found == data(number), "these are bytes of another chunk"),
                    Err(error) => assert_eq!(error, ReadError::NotFound),
                })
            })
            .collect();
        (0..3).for_each(|number| delete(&store, chunk(number)).unwrap());
        (4..12).for_each(|number| put(&store, chunk(number), &data(number)).unwrap());
        join(readers);
        let (segments, files) = (store.inner.shared.index().last_segment().unwrap().0, disk.image().len());
        USED_AGAIN.fetch_add(usize::from(segments as usize > files), StdOrdering::Relaxed);
        (3..12).for_each(|number| assert!(read(&store, chunk(number)).unwrap() == data(number)));
        store.close();
    });
    assert!(USED_AGAIN.load(StdOrdering::Relaxed) > 100, "files are hardly ever used again");
}

#[test]
fn success_is_answered_when_it_is_durable() {
    explore(|| {
        let disk = SimDisk::new();
        let store = open_small(&disk, 0);
        let threads = (0..3).map(|thread| {
            let (store, disk) = (store.clone(), disk.clone());
            thread::spawn(move || {
                // Two puts under way at a time, then one of the chunks goes while the other is put again.
                let (first, second) = (chunk(thread * 2), chunk(thread * 2 + 1));
                let (one, other) = (bytes_of(first, 300), bytes_of(second, 5000));
                let puts = [(first, &one), (second, &other)]
                    .map(|(chunk, data)| store.put(chunk, crc32c(data), data.clone()));
                for (put, (chunk, data)) in puts.into_iter().zip([(first, &one), (second, &other)]) {
                    block_on(put).unwrap();
                    assert_eq!(durable(&disk, chunk), Some(content(data)));
                }
                let gone = store.delete(vec![first]);
                let again = store.put(second, crc32c(&other), other.clone());
                block_on(gone).unwrap();
                assert_eq!(durable(&disk, first), None);
                block_on(again).unwrap();
                assert_eq!(durable(&disk, second), Some(content(&other)));
            })
        });
        join(threads.collect::<Vec<_>>());
        store.close();
    });
}

#[test]
fn all_who_want_one_chunk_agree_on_it() {
    explore(|| {
        let disk = SimDisk::new();
        let store = open_small(&disk, 0);
        let (name, one, other) = (chunk(7), bytes_of(chunk(1), 5000), bytes_of(chunk(2), 5000));
        let putting = [one.clone(), one.clone(), other.clone()].map(|data| {
            let store = store.clone();
            thread::spawn(move || put(&store, name, &data))
        });
        let deleting = {
            let store = store.clone();
            thread::spawn(move || delete(&store, name))
        };
        let refused = join(putting).into_iter().filter(|result| *result == Err(PutError::Conflict)).count();
        deleting.join().unwrap().unwrap();
        // With the deletion in between, even both contents may have been there.
        assert!(refused <= 2);
        let found = store.stat(name).map(|info| Content { length: info.length, crc: info.crc });
        assert!([None, Some(content(&one)), Some(content(&other))].contains(&found));
        assert_eq!(durable(&disk, name), found);
        store.close();
    });
}

#[test]
fn closing_leaves_nobody_waiting() {
    explore(|| {
        let disk = SimDisk::new();
        let store = open_small(&disk, 0);
        let threads = (0..3).map(|number| {
            let (store, disk) = (store.clone(), disk.clone());
            thread::spawn(move || {
                let (name, data) = (chunk(number), bytes_of(chunk(number), 3000));
                match put(&store, name, &data) {
                    Ok(()) => assert_eq!(durable(&disk, name), Some(content(&data))),
                    Err(error) => assert_eq!(error, PutError::Failed),
                }
                match delete(&store, name) {
                    Ok(()) => assert_eq!(durable(&disk, name), None),
                    Err(error) => assert_eq!(error, DeleteError::Failed),
                }
            })
        });
        let threads: Vec<_> = threads.collect();
        store.close();
        join(threads);
        assert_eq!(put(&store, chunk(9), &bytes_of(chunk(9), 10)), Err(PutError::Failed));
    });
}

#[test]
fn a_disk_that_fails_promises_nothing() {
    explore(|| {
        let disk = SimDisk::new();
        let store = open_small(&disk, 0);
        let threads = (0..3).map(|number| {
            let (store, disk) = (store.clone(), disk.clone());
            thread::spawn(move || {
                for name in [chunk(number), chunk(number + 10)] {
                    let data = bytes_of(name, 3000);
                    match put(&store, name, &data) {
                        Ok(()) => assert_eq!(durable(&disk, name), Some(content(&data))),
                        Err(error) => assert_eq!(error, PutError::Failed),
                    }
                }
            })
        });
        let threads: Vec<_> = threads.collect();
        disk.break_by(Fault::Write(io::ErrorKind::Other, 0));
        join(threads);
        disk.heal();
        store.close();
    });
}

#[test]
fn a_name_that_is_used_again_gives_the_bytes_of_one_chunk() {
    static FROM_MEMORY: AtomicUsize = AtomicUsize::new(0);
    explore(|| {
        let disk = SimDisk::new();
        let store = open_small(&disk, 64 << 20);
        let (name, one, other) =
            (chunk(7), bytes_of(chunk(1), 3 * PAGE_LEN), bytes_of(chunk(2), 3 * PAGE_LEN));
        put(&store, name, &one).unwrap();
        // Into the cache.
        assert!(read(&store, name).unwrap() == one);
        let readers = [(); 2].map(|()| {
            let (store, one, other) = (store.clone(), one.clone(), other.clone());
            thread::spawn(move || match read(&store, name) {
                Ok(found) => assert!(found == one || found == other, "bytes of two chunks"),
                Err(error) => assert_eq!(error, ReadError::NotFound),
            })
        });
        delete(&store, name).unwrap();
        put(&store, name, &other).unwrap();
        assert!(read(&store, name).unwrap() == other);
        join(readers);
        assert!(read(&store, name).unwrap() == other);
        FROM_MEMORY.fetch_add(store.cache_stats().hits as usize, StdOrdering::Relaxed);
        store.close();
    });
    assert!(FROM_MEMORY.load(StdOrdering::Relaxed) > 1000, "pages hardly ever come from memory");
}

#[test]
fn nobody_takes_a_chunk_for_damaged_that_took_the_name_of_another() {
    explore(|| {
        const PAGES: usize = 40;
        let disk = SimDisk::new();
        let store = open_small(&disk, 64 << 20);
        let (name, far) = (chunk(7), 30 * PAGE_LEN);
        let (one, other) = (bytes_of(chunk(1), PAGES * PAGE_LEN), bytes_of(chunk(2), PAGES * PAGE_LEN));
        put(&store, name, &one).unwrap();
        let reader = {
            let (store, one, other) = (store.clone(), one.clone(), other.clone());
            thread::spawn(move || {
                let mut reader = store.reader();
                let (offset, length) = (far as u32, PAGE_LEN as u32);
                reader.submit(ReadRequest { chunk: name, offset, length, reader: ReaderId(1) }, ());
                let mut found = None;
                while found.is_none() {
                    reader.complete(true, |(), read| {
                        found =
                            Some(read.map(|pages| pages.bytes(offset, PAGE_LEN, &mut Vec::new()).to_vec()));
                    });
                }
                match found.unwrap() {
                    Ok(page) => {
                        assert!([&one, &other].into_iter().any(|data| data[far..][..PAGE_LEN] == page))
                    }
                    Err(error) => assert_eq!(error, ReadError::NotFound),
                }
            })
        };
        delete(&store, name).unwrap();
        put(&store, name, &other).unwrap();
        let page = read_range(&store, name, far as u32, PAGE_LEN).unwrap();
        assert!(page == other[far..][..PAGE_LEN]);
        join([reader]);
        let mut again = store.reader();
        again.submit(
            ReadRequest { chunk: name, offset: 20 * PAGE_LEN as u32, length: 100, reader: ReaderId(2) },
            (),
        );
        while again.is_busy() {
            again.complete(true, |(), read| assert!(read.is_ok()));
        }
        assert_eq!(store.stat(name).map(|info| info.crc), Some(crc32c(&other)));
        store.close();
    });
}

use std::thread;

use xdpfs_wire::BucketId;

use super::*;

const PAGES: u64 = 2048;
const CAPACITY: u64 = PAGES * (PAGE_LEN as u64 + ENTRY_OVERHEAD);

fn chunk(sequence: u64) -> CacheName {
    CacheName { chunk: ChunkId::new(BucketId(1), sequence), crc: 1 }
}

fn page(byte: u8, length: usize) -> Arc<[u8]> {
    vec![byte; length].into()
}

/// Asks for a page as a reader does, and puts it in if it isn't there. Returns whether it was.
fn read(cache: &PageCache, chunk: CacheName, number: u32) -> bool {
    let found = cache.get(chunk, number).is_some();
    if !found {
        cache.insert(chunk, number, page(0, PAGE_LEN), Origin::Request);
    }
    assert!(cache.stats().bytes <= CAPACITY);
    found
}

/// The first pages of a chunk, one after the other. Returns how many were there.
fn read_all(cache: &PageCache, chunk: CacheName, pages: u32) -> u32 {
    (0..pages).filter(|number| read(cache, chunk, *number)).count() as u32
}

fn hot_ones_left(cache: &PageCache, pages: u32) -> u32 {
    (0..pages).filter(|number| cache.contains(chunk(1), *number)).count() as u32
}

#[test]
fn pages_are_found_by_chunk_and_number() {
    let cache = PageCache::new(CAPACITY);
    cache.insert(chunk(1), 0, page(1, PAGE_LEN), Origin::Request);
    cache.insert(chunk(1), 1, page(2, 100), Origin::ReadAhead);
    for _ in 0..5 {
        assert_eq!(cache.get(chunk(1), 0).unwrap()[..], [1; PAGE_LEN]);
        assert_eq!(cache.get(chunk(1), 1).unwrap()[..], [2; 100]);
    }
    assert!(cache.get(chunk(2), 0).is_none());
    assert!(cache.contains(chunk(1), 1) && !cache.contains(chunk(1), 2));
    let expect = PageCacheStats {
        capacity_bytes: cache.stats().capacity_bytes,
        bytes: PAGE_LEN as u64 + 100 + 2 * ENTRY_OVERHEAD,
        hits: 10,
        misses: 1,
        inserted: 2,
        evicted: 0,
    };
    assert_eq!(cache.stats(), expect);
}

#[test]
fn checksums_of_pages_are_kept_beside_them() {
    let cache = PageCache::new(CAPACITY);
    assert!(cache.checksums(chunk(1)).is_none());
    // Those of the largest chunk.
    let checksums: Arc<[u32]> = (0..16_384).collect();
    cache.insert_checksums(chunk(1), Arc::clone(&checksums));
    assert_eq!(cache.checksums(chunk(1)).unwrap(), checksums);
    assert_eq!(cache.stats().bytes, 65_536 + ENTRY_OVERHEAD);
    assert!(cache.get(chunk(1), 0).is_none());
}

#[test]
fn a_chunk_is_forgotten_whole_and_alone() {
    let cache = PageCache::new(CAPACITY);
    for pages in [20, 16_384] {
        for number in 0..20 {
            cache.insert(chunk(1), number, page(1, PAGE_LEN), Origin::Request);
            cache.insert(chunk(2), number, page(2, PAGE_LEN), Origin::Request);
        }
        cache.insert_checksums(chunk(1), vec![0; 20].into());
        cache.insert_checksums(chunk(2), vec![0; 20].into());
        cache.forget(chunk(1), pages);
        assert!((0..20).all(|number| !cache.contains(chunk(1), number)));
        assert!((0..20).all(|number| cache.contains(chunk(2), number)));
        assert!(cache.checksums(chunk(1)).is_none() && cache.checksums(chunk(2)).is_some());
    }
}

#[test]
fn without_memory_there_is_no_cache() {
    for capacity in [0, 1, PAGE_LEN as u64] {
        let cache = PageCache::new(capacity);
        cache.insert(chunk(1), 0, page(1, PAGE_LEN), Origin::Request);
        cache.insert_checksums(chunk(1), vec![1].into());
        cache.forget(chunk(1), 1);
        assert!(cache.get(chunk(1), 0).is_none() && cache.checksums(chunk(1)).is_none());
        assert_eq!(cache.stats(), PageCacheStats { misses: 1, ..PageCacheStats::default() });
    }
}

#[test]
fn what_is_read_again_survives_a_pass_over_ten_times_the_capacity() {
    const HOT: u32 = PAGES as u32 / 2;
    let cache = PageCache::new(CAPACITY);
    for _ in 0..2 {
        read_all(&cache, chunk(1), HOT);
    }
    read_all(&cache, chunk(2), 10 * PAGES as u32);
    let left = hot_ones_left(&cache, HOT);
    println!("{left} of {HOT} are left; {:?}", cache.stats());
    assert!(left > HOT / 2);
}

#[test]
fn what_becomes_popular_during_a_pass_gets_in() {
    const HOT: u32 = PAGES as u32 / 4;
    let cache = PageCache::new(CAPACITY);
    read_all(&cache, chunk(2), 4 * PAGES as u32);
    let mut hits = 0;
    for round in 0..8 {
        hits = read_all(&cache, chunk(1), HOT);
        read_all(&cache, chunk(3 + round), HOT);
    }
    println!("{hits} of {HOT} were hits in the last round");
    assert!(hits > HOT / 2);
}

#[test]
fn a_reader_that_goes_straight_on_pushes_nothing_out() {
    const HOT: u32 = PAGES as u32 / 2;
    let cache = PageCache::new(CAPACITY);
    for _ in 0..4 {
        read_all(&cache, chunk(1), HOT);
    }
    for number in 0..10 * PAGES as u32 {
        cache.insert(chunk(2), number, page(0, PAGE_LEN), Origin::ReadAhead);
        assert!(cache.get(chunk(2), number).is_some());
        if number % 15 == 0 {
            assert!(cache.get(chunk(2), number).is_some(), "two requests share a page");
        }
    }
    let left = hot_ones_left(&cache, HOT);
    println!("{left} of {HOT} are left; {:?}", cache.stats());
    assert!(left > HOT * 9 / 10);
}

#[test]
fn the_budget_holds_whatever_threads_do() {
    let cache = PageCache::new(CAPACITY);
    thread::scope(|scope| {
        for seed in 0..4 {
            let cache = &cache;
            scope.spawn(move || {
                for number in 0..20_000_u32 {
                    let length = 1 + (number as usize * 7919) % PAGE_LEN;
                    cache.insert(chunk(seed % 3), number % 6000, page(1, length), Origin::Request);
                    let _ = cache.get(chunk(1), number % 500);
                    if number % 1000 == 0 {
                        cache.insert_checksums(chunk(u64::from(number)), vec![1; 16_384].into());
                        cache.forget(chunk(seed % 3), 100);
                    }
                    assert!(cache.stats().bytes <= CAPACITY);
                }
            });
        }
    });
    assert!(cache.stats().evicted > 0);
    assert!(cache.stats().bytes > CAPACITY / 2);
}

#[test]
fn the_estimate_covers_what_the_tables_take() {
    let cache = PageCache::new(CAPACITY);
    read_all(&cache, chunk(2), 4 * PAGES as u32);
    let held = cache.held.as_ref().unwrap();
    let estimate = held.len() as u64 * (ENTRY_OVERHEAD - 32);
    println!("{} entries take {:?}, estimated at {estimate}", held.len(), held.memory_used());
    assert!(held.memory_used().total() as u64 <= estimate);
}

#[test]
fn a_name_that_is_used_again_finds_nothing_of_before() {
    let cache = PageCache::new(CAPACITY);
    cache.insert(chunk(1), 0, page(1, PAGE_LEN), Origin::Request);
    cache.insert_checksums(chunk(1), [1, 2].into());
    let again = CacheName { crc: 2, ..chunk(1) };
    assert!(cache.get(again, 0).is_none() && cache.checksums(again).is_none());
}

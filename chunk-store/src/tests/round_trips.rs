//! What goes in comes out, from anywhere in a chunk, before and after a restart.

use super::*;

const MIB: usize = 1 << 20;

#[test]
fn chunks_of_every_boundary_length_come_back() {
    let disk = SimDisk::new();
    let lengths = [
        1,
        63,
        64,
        65,
        4032,
        4095,
        4096,
        4097,
        8191,
        8192,
        8193,
        65_535,
        65_536,
        65_537,
        262_143,
        262_144,
        262_145,
        MIB - 1,
        MIB,
        MIB + 1,
        4 * MIB,
    ];
    let store = open(&disk);
    for (number, length) in lengths.into_iter().enumerate() {
        let id = chunk(number as u64);
        put(&store, id, &bytes_of(id, length)).unwrap();
    }
    let check = |store: &Store| {
        for (number, length) in lengths.into_iter().enumerate() {
            let id = chunk(number as u64);
            let data = bytes_of(id, length);
            assert_eq!(store.stat(id), Some(ChunkInfo { length: length as u32, crc: crc32c(&data) }));
            assert!(read(store, id).unwrap() == data, "{length} bytes");
            check_ranges(store, id, &data);
        }
    };
    check(&store);
    store.close();
    let (store, recovery) = open_as(&disk, &config());
    assert_eq!(recovery.chunks, lengths.len() as u64);
    assert_eq!((recovery.torn_bytes, recovery.quarantined, recovery.unreadable_segments), (0, 0, 0));
    check(&store);
}

/// Ranges that start and end next to every kind of boundary.
fn check_ranges(store: &Store, id: ChunkId, data: &Bytes) {
    let length = data.len();
    let stride = 64 * PAGE_LEN;
    let edges = [0, 1, PAGE_LEN - 1, PAGE_LEN, PAGE_LEN + 1, 3 * PAGE_LEN, stride - 1, stride, stride + 1];
    let edges: Vec<_> =
        edges.into_iter().chain([length / 2, length - 1, length]).filter(|edge| *edge <= length).collect();
    for from in &edges {
        for to in edges.iter().filter(|to| *to >= from) {
            let part = read_range(store, id, *from as u32, to - from).unwrap();
            assert!(part == data[*from..*to], "{from}..{to} of {length}");
        }
    }
    for (offset, wanted) in [(0, length + 1), (length, 1), (length + 1, 0), (u32::MAX as usize, 1)] {
        let outside = read_range(store, id, offset as u32, wanted);
        assert_eq!(outside, Err(ReadError::Range), "{wanted} from {offset} of {length}");
    }
}

#[test]
fn lengths_that_no_chunk_has_are_refused() {
    let disk = SimDisk::new();
    let store = open(&disk);
    let overlong = Bytes::from(vec![0; CHUNK_LEN_MAX as usize + 1]);
    assert_eq!(put(&store, chunk(1), &Bytes::new()), Err(PutError::Length));
    assert_eq!(put(&store, chunk(2), &overlong), Err(PutError::Length));
    assert_eq!(store.usage().chunks, 0);
    let longest = overlong.slice(1..);
    let roomy = StoreConfig { capacity_bytes: Some(1 << 30), ..config() };
    let (roomy, _) = open_as(&SimDisk::new(), &roomy);
    put(&roomy, chunk(3), &longest).unwrap();
    assert!(read(&roomy, chunk(3)).unwrap() == longest);
}

#[test]
fn unknown_chunks_are_not_found() {
    let disk = SimDisk::new();
    let store = open(&disk);
    assert_eq!(read_range(&store, chunk(1), 0, 1), Err(ReadError::NotFound));
    assert_eq!(store.stat(chunk(1)), None);
    assert_eq!(delete(&store, &[chunk(1)]), Ok(()), "as good as deleted");
    assert_eq!(store.usage().chunks, 0);
}

#[test]
fn same_chunk_again_is_a_success_and_other_bytes_a_conflict() {
    let disk = SimDisk::new();
    let store = open(&disk);
    let data = bytes_of(chunk(1), 5000);
    put(&store, chunk(1), &data).unwrap();
    let used = store.usage().used_bytes;
    put(&store, chunk(1), &data).unwrap();
    assert_eq!(store.usage().used_bytes, used, "nothing was written twice");
    for other in [bytes_of(chunk(2), 5000), bytes_of(chunk(2), 4999)] {
        assert_eq!(put(&store, chunk(1), &other), Err(PutError::Conflict));
    }
    assert!(read(&store, chunk(1)).unwrap() == data);
}

#[test]
fn data_that_fails_its_sum_is_refused() {
    let disk = SimDisk::new();
    let store = open(&disk);
    let data = bytes_of(chunk(1), 5000);
    assert_eq!(wait(store.put(chunk(1), crc32c(&data) ^ 1, data.clone())), Err(PutError::Corrupt));
    assert_eq!(store.stat(chunk(1)), None);
    put(&store, chunk(1), &data).unwrap();
}

#[test]
fn ids_come_in_pages_and_in_order() {
    let disk = SimDisk::new();
    let store = open(&disk);
    for number in [5, 1, 9, 3, 7] {
        put(&store, chunk(number), &bytes_of(chunk(number), 10)).unwrap();
    }
    delete(&store, &[chunk(3)]).unwrap();
    assert_eq!(store.chunk_ids(ChunkId(0), 2), [chunk(1), chunk(5)]);
    assert_eq!(store.chunk_ids(chunk(6), 9), [chunk(7), chunk(9)]);
    assert_eq!(store.usage().chunks, 4);
}

#[test]
fn nothing_is_answered_or_shown_before_its_sync() {
    let disk = SimDisk::new();
    let store = open(&disk);
    put(&store, chunk(0), &bytes_of(chunk(0), 10)).unwrap();
    disk.close_gate();
    let data = bytes_of(chunk(1), 5000);
    let mut waiting = Box::pin(store.put(chunk(1), crc32c(&data), data.clone()));
    disk.wait_at_gate();
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(waiting.as_mut().poll(&mut context).is_pending());
    assert_eq!(store.stat(chunk(1)), None);
    disk.open_gate();
    wait(waiting).unwrap();
    assert!(read(&store, chunk(1)).unwrap() == data);
}

#[test]
fn puts_that_wait_together_share_a_sync() {
    let disk = SimDisk::new();
    let roomy = StoreConfig { capacity_bytes: Some(1 << 30), segment_bytes: 1 << 20, ..config() };
    let (store, _) = open_as(&disk, &roomy);
    put(&store, chunk(0), &bytes_of(chunk(0), 10)).unwrap();
    disk.close_gate();
    let start = |number| {
        let data = bytes_of(chunk(number), 100);
        store.put(chunk(number), crc32c(&data), data)
    };
    let first = start(1);
    disk.wait_at_gate();
    let others: Vec<_> = (2..100).map(start).collect();
    let syncs = disk.writes();
    disk.open_gate();
    wait(first).unwrap();
    for other in others {
        wait(other).unwrap();
    }
    assert_eq!(disk.writes() - syncs, 1);
    for number in 0..100 {
        assert!(read(&store, chunk(number)).is_ok());
    }
}

#[test]
fn queue_that_is_full_is_busy_and_loses_nothing() {
    let disk = SimDisk::new();
    let store = open(&disk);
    put(&store, chunk(0), &bytes_of(chunk(0), 10)).unwrap();
    disk.close_gate();
    let start = |number| {
        let data = bytes_of(chunk(number), 10);
        Box::pin(store.put(chunk(number), crc32c(&data), data))
    };
    let mut waiting = vec![start(1)];
    disk.wait_at_gate();
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let refused = (2..).find_map(|number| {
        let mut next = start(number);
        match next.as_mut().poll(&mut context) {
            std::task::Poll::Ready(answer) => Some(answer),
            std::task::Poll::Pending => {
                waiting.push(next);
                None
            }
        }
    });
    assert_eq!(refused, Some(Err(PutError::Busy)));
    assert_eq!(waiting.len(), 1 + QUEUE_OPS_MAX);
    disk.open_gate();
    for put in waiting {
        wait(put).unwrap();
    }
}

#[test]
fn bytes_that_may_wait_are_bounded() {
    let disk = SimDisk::new();
    let roomy = StoreConfig { capacity_bytes: Some(1 << 30), ..config() };
    let (store, _) = open_as(&disk, &roomy);
    put(&store, chunk(0), &bytes_of(chunk(0), 10)).unwrap();
    disk.close_gate();
    let data = bytes_of(chunk(1), 8 * MIB);
    let crc = crc32c(&data);
    let first = store.put(chunk(1), crc, data.clone());
    disk.wait_at_gate();
    let fitting = QUEUE_BYTES_MAX / (8 * MIB as u64);
    let others: Vec<_> = (2..=fitting).map(|number| store.put(chunk(number), crc, data.clone())).collect();
    let refused = wait(store.put(chunk(100), crc, data.clone()));
    assert_eq!(refused, Err(PutError::Busy));
    disk.open_gate();
    wait(first).unwrap();
    for other in others {
        wait(other).unwrap();
    }
    put(&store, chunk(100), &data).unwrap();
}

#[test]
fn closed_store_takes_nothing_and_still_reads() {
    let disk = SimDisk::new();
    let store = open(&disk);
    let data = bytes_of(chunk(1), 100);
    put(&store, chunk(1), &data).unwrap();
    let last = store.put(chunk(2), crc32c(&data), data.clone());
    store.close();
    wait(last).unwrap();
    assert_eq!(put(&store, chunk(3), &data), Err(PutError::Failed));
    assert_eq!(delete(&store, &[chunk(1)]), Err(DeleteError::Failed));
    assert!(read(&store, chunk(1)).unwrap() == data);
    store.close();
    assert_eq!(open(&disk).usage().chunks, 2);
}

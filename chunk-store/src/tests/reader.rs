//! Reads for many at once, from memory and from the disk.

use super::{
    damage::{filled, flip, place},
    *,
};

const LENGTHS: [usize; 8] = [1, 4096, 4097, 20_000, 60_000, 65_536, 200_000, 3 << 20];

fn request(number: u64, offset: usize, length: usize) -> ReadRequest {
    let (offset, length) = (offset as u32, length as u32);
    ReadRequest { chunk: chunk(number), offset, length, reader: ReaderId(7) }
}

/// What is read when all of these are asked for at once.
fn read_all(reader: &mut Reader<usize>, requests: &[ReadRequest]) -> Vec<Result<Vec<u8>, ReadError>> {
    let mut answers = vec![None; requests.len()];
    let mut waiting: std::collections::VecDeque<_> = requests.iter().enumerate().collect();
    while answers.iter().any(Option::is_none) {
        while reader.has_room()
            && let Some((number, request)) = waiting.pop_front()
        {
            reader.submit(*request, number);
        }
        reader.complete(true, |number, read| {
            let ReadRequest { offset, length, .. } = requests[number];
            let read = read.map(|pages| pieces(&pages, offset, length as usize));
            assert!(answers[number].replace(read).is_none(), "answered once");
        });
    }
    answers.into_iter().flatten().collect()
}

/// The bytes as they are cut for datagrams.
fn pieces(pages: &Pages<'_>, offset: u32, length: usize) -> Vec<u8> {
    let (mut all, mut scratch) = (Vec::new(), vec![0xee; 9]);
    while all.len() < length {
        let piece = (length - all.len()).min(1344);
        let bytes = pages.bytes(offset + all.len() as u32, piece, &mut scratch);
        assert_eq!(bytes.len(), piece);
        all.extend_from_slice(bytes);
    }
    all
}

fn ranges() -> Vec<ReadRequest> {
    let mut requests = Vec::new();
    for (number, length) in (0..).zip(LENGTHS) {
        for offset in (0..length).step_by(31_111) {
            requests.push(request(number, offset, (length - offset).min(60_000)));
            requests.push(request(number, offset, (length - offset).min(17)));
        }
    }
    fastrand::Rng::with_seed(3).shuffle(&mut requests);
    requests
}

fn check_all(store: &Store) {
    let requests = ranges();
    let mut reader = store.reader();
    for round in 0..3 {
        for (request, read) in requests.iter().zip(read_all(&mut reader, &requests)) {
            let data = bytes_of(request.chunk, LENGTHS[request.chunk.0 as u64 as usize]);
            let range = request.offset as usize..(request.offset + request.length) as usize;
            assert!(read.unwrap() == data[range], "{request:?} in round {round}");
        }
    }
}

#[test]
fn ranges_come_back_with_and_without_a_cache() {
    let disk = SimDisk::new();
    filled(&disk, &LENGTHS);
    for cache_bytes in [0, 300 << 10, 64 << 20] {
        let (store, _) = open_as(&disk, &StoreConfig { cache_bytes, ..config() });
        check_all(&store);
        let stats = store.cache_stats();
        assert!(stats.bytes <= cache_bytes);
        assert_eq!(stats.hits > 1000, cache_bytes > 1 << 20, "{stats:?}");
        store.close();
    }
}

#[test]
fn ranges_come_back_from_a_real_disk_by_every_way_to_it() {
    for (direct, ring) in [(true, true), (true, false), (false, false)] {
        let home = TempDir::new().unwrap();
        let io = IoWanted { direct, ring };
        let config = StoreConfig { io, cache_bytes: 1 << 20, ..config_in(home.path().join("segments")) };
        let (store, _) = Store::open(&config).unwrap();
        for (number, length) in (0..).zip(LENGTHS) {
            put(&store, chunk(number), &bytes_of(chunk(number), length)).unwrap();
        }
        check_all(&store);
        for (number, length) in (0..).zip(LENGTHS) {
            assert!(read(&store, chunk(number)).unwrap() == bytes_of(chunk(number), length));
        }
    }
}

#[test]
fn reads_that_can_not_be_are_refused_one_by_one() {
    let disk = SimDisk::new();
    filled(&disk, &[5000, 70_000]);
    let store = open(&disk);
    let (slot, start) = place(&store, chunk(1));
    flip(&disk, slot, start + 50_000, 3);
    let mut reader = store.reader();
    let wanted = [
        request(0, 0, 5000),
        request(0, 1, 5000),
        request(9, 0, 1),
        request(1, 49_000, 3000),
        request(0, 100, 1),
        request(0, 0, 0),
        request(1, 0, READ_LEN_MAX as usize + 1),
    ];
    let answers = read_all(&mut reader, &wanted);
    let errors: Vec<_> = answers.iter().map(|answer| answer.as_ref().err().copied()).collect();
    let expected = [
        None,
        Some(ReadError::Range),
        Some(ReadError::NotFound),
        Some(ReadError::Corrupt),
        None,
        Some(ReadError::Range),
        Some(ReadError::Range),
    ];
    assert_eq!(errors, expected);
    assert_eq!(store.stat(chunk(1)), None, "it is out of service");
    disk.break_by(sim_disk::Fault::Read(io::ErrorKind::Other));
    let mut fresh = store.reader();
    let answers = read_all(&mut fresh, &[request(0, 0, 5000)]);
    assert!(answers[0].is_ok(), "from memory");
}

#[test]
fn what_is_deleted_is_forgotten_and_another_chunk_may_take_its_name() {
    let disk = SimDisk::new();
    filled(&disk, &[9000]);
    let store = open(&disk);
    let mut reader = store.reader();
    let whole = |reader: &mut Reader<usize>, length| read_all(reader, &[request(0, 0, length)]).remove(0);
    assert!(whole(&mut reader, 9000).is_ok());
    assert!(read(&store, chunk(0)).is_ok());
    delete(&store, &[chunk(0)]).unwrap();
    assert_eq!(whole(&mut reader, 9000), Err(ReadError::NotFound));
    let other = bytes_of(chunk(5), 8000);
    put(&store, chunk(0), &other).unwrap();
    assert!(whole(&mut reader, 8000).unwrap() == other);
    assert!(read(&store, chunk(0)).unwrap() == other);
}

#[test]
fn who_reads_straight_on_finds_the_next_pages_in_memory() {
    const BURST: usize = 60_000;
    let disk = SimDisk::new();
    let (length, chunks) = (2 << 20, 3);
    filled(&disk, &vec![length; chunks]);
    let misses = |read_ahead: ReadAheadLimits, is_straight: bool| {
        let (store, _) = open_as(&disk, &StoreConfig { read_ahead, ..config() });
        let mut reader = store.reader();
        let mut requests = Vec::new();
        for number in 0..chunks as u64 {
            for offset in (0..length).step_by(BURST) {
                requests.push(request(number, offset, BURST.min(length - offset)));
            }
        }
        if !is_straight {
            fastrand::Rng::with_seed(5).shuffle(&mut requests);
        }
        for request in &requests {
            let read = read_all(&mut reader, &[*request]).remove(0).unwrap();
            let data = bytes_of(request.chunk, length);
            assert!(read == data[request.offset as usize..][..request.length as usize]);
            // What is read ahead has time.
            while reader.is_busy() {
                reader.complete(true, |_, _| panic!("nobody has asked"));
            }
        }
        let (misses, ahead) = (store.cache_stats().misses, store.read_ahead_stats());
        store.close();
        (misses, ahead)
    };
    let off = ReadAheadLimits { window_bytes_max: 0, ..ReadAheadLimits::default() };
    let (without, _) = misses(off, true);
    let (with, ahead) = misses(ReadAheadLimits::default(), true);
    assert!(with * 4 < without, "{with} misses with, {without} without");
    assert!(ahead.used_bytes > 5 << 20, "{ahead:?}");
    let (_, ahead) = misses(ReadAheadLimits::default(), false);
    assert!(ahead.advised_bytes < 2 << 20, "jumping about is no reason: {ahead:?}");
}

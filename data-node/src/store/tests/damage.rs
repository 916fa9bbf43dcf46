//! Bits that flip, and directories that are not this store's.

use super::*;

pub(super) fn filled(home: &TempDir, lengths: &[usize]) {
    let store = open(home);
    for (number, length) in (0..).zip(lengths) {
        put(&store, chunk(number), &bytes_of(chunk(number), *length)).unwrap();
    }
    store.close();
}

/// Turns over one bit.
pub(super) fn flip(file: &Path, at: usize, bit: u8) {
    let mut bytes = fs::read(file).unwrap();
    bytes[at] ^= 1 << bit;
    fs::write(file, bytes).unwrap();
}

/// Where the data of `chunk` lies.
pub(super) fn place(store: &Store, chunk: ChunkId) -> (PathBuf, usize) {
    let index = store.inner.shared.index();
    let location = index.chunk(chunk).unwrap();
    let file = store.inner.shared.directory.path_of(location.segment);
    (file, location.chunk_extent().extent.data as usize)
}

#[test]
fn flipped_bit_anywhere_is_never_served() {
    let home = fast_dir();
    let lengths = [100, 5000, 4096, 1, 30_000, 9000, 20_000, 40_000, 700];
    filled(&home, &lengths);
    let segments = home.path().join("segments");
    assert!(segment_files(&segments).len() > 1, "some are sealed");
    let copy = home.path().join("copy");
    for file in segment_files(&segments) {
        let length = fs::metadata(&file).unwrap().len() as usize;
        // A stride that is no multiple of any alignment, so that all parts of records are hit.
        for at in (0..length).step_by(37) {
            copy_segments(&segments, &copy);
            flip(&copy.join(file.file_name().unwrap()), at, (at % 8) as u8);
            let (store, _) = Store::open(&config_in(copy.clone())).unwrap();
            for (number, length) in (0..).zip(lengths) {
                let (id, data) = (chunk(number), bytes_of(chunk(number), length));
                match read(&store, id) {
                    Ok(found) => assert!(found == data, "{number} after a flip at {at} of {file:?}"),
                    Err(error) => {
                        assert!(matches!(error, ReadError::Corrupt | ReadError::NotFound), "{error:?}");
                        put(&store, id, &data).unwrap();
                        assert!(read(&store, id).unwrap() == data, "written again after a flip at {at}");
                    }
                }
            }
        }
    }
}

#[test]
fn damaged_chunk_is_out_of_service_until_it_is_written_again() {
    let home = fast_dir();
    filled(&home, &[50_000, 60_000]);
    let store = open(&home);
    let data = bytes_of(chunk(0), 50_000);
    let (file, start) = place(&store, chunk(0));
    flip(&file, start + 20_000, 3);
    assert!(read_range(&store, chunk(0), 0, 4096).unwrap() == data[..4096], "other pages are sound");
    assert_eq!(read_range(&store, chunk(0), 20_000, 1), Err(ReadError::Corrupt));
    assert_eq!(read_range(&store, chunk(0), 0, 4096), Err(ReadError::Corrupt), "it isn't trusted any more");
    assert_eq!(store.stat(chunk(0)), None);
    assert_eq!(store.chunk_ids(ChunkId(0), 9), [chunk(1)], "nor reported");
    assert_eq!(store.usage().chunks, 1);
    put(&store, chunk(0), &data).unwrap();
    assert!(read(&store, chunk(0)).unwrap() == data);
    assert_eq!(store.usage().chunks, 2);
    store.close();
    assert!(read(&open(&home), chunk(0)).unwrap() == data, "the new record counts");
}

#[test]
fn damaged_chunk_takes_no_other_bytes() {
    let home = fast_dir();
    filled(&home, &[5000, 70_000]);
    let store = open(&home);
    let (file, start) = place(&store, chunk(0));
    flip(&file, start, 0);
    assert_eq!(read(&store, chunk(0)), Err(ReadError::Corrupt));
    assert_eq!(put(&store, chunk(0), &bytes_of(chunk(9), 5000)), Err(PutError::Conflict));
    put(&store, chunk(0), &bytes_of(chunk(0), 5000)).unwrap();
}

#[test]
fn damaged_chunk_can_be_deleted() {
    let home = fast_dir();
    filled(&home, &[5000, 70_000]);
    let store = open(&home);
    let (file, start) = place(&store, chunk(0));
    flip(&file, start, 0);
    assert_eq!(read(&store, chunk(0)), Err(ReadError::Corrupt));
    delete(&store, &[chunk(0)]).unwrap();
    assert_eq!(read_range(&store, chunk(0), 0, 1), Err(ReadError::NotFound));
    assert_eq!(store.usage().chunks, 1);
    store.close();
    assert_eq!(open(&home).chunk_ids(ChunkId(0), 9), [chunk(1)]);
}

#[test]
fn damage_in_the_middle_is_counted_and_what_lies_behind_is_found() {
    let home = fast_dir();
    filled(&home, &[1000, 1000, 1000, 60_000, 1000]);
    let store = open(&home);
    let (file, start) = place(&store, chunk(1));
    store.close();
    // The header lies before the one page's checksum.
    flip(&file, start - 10, 1);
    let (store, recovery) = Store::open(&config(&home)).unwrap();
    assert_eq!((recovery.quarantined, recovery.torn_bytes), (1, 0));
    assert_eq!(store.chunk_ids(ChunkId(0), 9), [chunk(0), chunk(2), chunk(3), chunk(4)]);
}

#[test]
fn segment_without_a_superblock_is_reported_and_left_alone() {
    let home = fast_dir();
    filled(&home, &[60_000, 60_000, 60_000]);
    let segments = home.path().join("segments");
    let first = &segment_files(&segments)[0];
    let before = {
        flip(first, 0, 0);
        flip(first, 2048, 0);
        fs::read(first).unwrap()
    };
    let (store, recovery) = Store::open(&config(&home)).unwrap();
    assert_eq!((recovery.unreadable_segments, recovery.chunks), (1, 2));
    put(&store, chunk(0), &bytes_of(chunk(0), 60_000)).unwrap();
    store.close();
    assert!(fs::read(first).unwrap() == before);
}

#[test]
fn segment_of_another_node_is_refused() {
    let home = fast_dir();
    filled(&home, &[100]);
    let other = StoreConfig { node_uuid: Uuid::from_bytes([8; 16]), ..config(&home) };
    let refused = Store::open(&other);
    assert!(matches!(refused, Err(OpenError::Foreign { .. })), "{refused:?}");
    assert_eq!(open(&home).usage().chunks, 1);
}

#[test]
fn segment_of_another_version_is_refused() {
    let home = fast_dir();
    filled(&home, &[100]);
    let file = &segment_files(&home.path().join("segments"))[0];
    let mut bytes = fs::read(file).unwrap();
    for copy in [0, 2048] {
        bytes[copy + 8] = 7;
        let crc = crc32c(&bytes[copy..copy + 60]);
        bytes[copy + 60..copy + 64].copy_from_slice(&crc.to_le_bytes());
    }
    fs::write(file, bytes).unwrap();
    let refused = Store::open(&config(&home));
    assert!(matches!(refused, Err(OpenError::Version { version: 7, .. })), "{refused:?}");
}

#[test]
fn directory_in_use_is_refused() {
    let home = fast_dir();
    let store = open(&home);
    let second = Store::open(&config(&home));
    assert!(matches!(second, Err(OpenError::Locked { .. })), "{second:?}");
    store.close();
    let second = open(&home);
    drop(second);
    drop(open(&home));
}

#[test]
fn directory_that_can_not_be_made_is_named() {
    let home = fast_dir();
    let nowhere = home.path().join("absent").join("segments");
    let refused = Store::open(&config_in(nowhere.clone()));
    assert!(matches!(&refused, Err(OpenError::Io { directory, .. }) if *directory == nowhere), "{refused:?}");
}

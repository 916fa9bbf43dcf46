//! Bits that flip, and directories that are not this store's.

use super::*;

pub(super) fn filled(disk: &Arc<SimDisk>, lengths: &[usize]) {
    let store = open(disk);
    for (number, length) in (0..).zip(lengths) {
        put(&store, chunk(number), &bytes_of(chunk(number), *length)).unwrap();
    }
    store.close();
}

/// Turns over one bit.
pub(super) fn flip(disk: &SimDisk, slot: Slot, at: usize, bit: u8) {
    disk.tamper(slot, |bytes| bytes[at] ^= 1 << bit);
}

/// Where the data of `chunk` lies.
pub(super) fn place(store: &Store, chunk: ChunkId) -> (Slot, usize) {
    let (location, segment) = store.inner.shared.find(chunk).unwrap();
    (segment.slot, location.extent().data as usize)
}

#[test]
fn damaged_chunk_is_out_of_service_until_it_is_written_again() {
    let disk = SimDisk::new();
    filled(&disk, &[50_000, 60_000]);
    let store = open(&disk);
    let data = bytes_of(chunk(0), 50_000);
    let (slot, start) = place(&store, chunk(0));
    flip(&disk, slot, start + 20_000, 3);
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
    assert!(read(&open(&disk), chunk(0)).unwrap() == data, "the new record counts");
}

#[test]
fn damaged_chunk_takes_no_other_bytes() {
    let disk = SimDisk::new();
    filled(&disk, &[5000, 70_000]);
    let store = open(&disk);
    let (slot, start) = place(&store, chunk(0));
    flip(&disk, slot, start, 0);
    assert_eq!(read(&store, chunk(0)), Err(ReadError::Corrupt));
    assert_eq!(put(&store, chunk(0), &bytes_of(chunk(9), 5000)), Err(PutError::Conflict));
    put(&store, chunk(0), &bytes_of(chunk(0), 5000)).unwrap();
}

#[test]
fn damaged_chunk_can_be_deleted() {
    let disk = SimDisk::new();
    filled(&disk, &[5000, 70_000]);
    let store = open(&disk);
    let (slot, start) = place(&store, chunk(0));
    flip(&disk, slot, start, 0);
    assert_eq!(read(&store, chunk(0)), Err(ReadError::Corrupt));
    delete(&store, &[chunk(0)]).unwrap();
    assert_eq!(read_range(&store, chunk(0), 0, 1), Err(ReadError::NotFound));
    assert_eq!(store.usage().chunks, 1);
    store.close();
    assert_eq!(open(&disk).chunk_ids(ChunkId(0), 9), [chunk(1)]);
}

/// Where the batch of the chunk starts, which is alone in it.
fn batch_of(store: &Store, chunk: ChunkId) -> (Slot, usize) {
    let (slot, start) = place(store, chunk);
    (slot, (start - 104) / PAGE_LEN * PAGE_LEN)
}

#[test]
fn damage_in_the_middle_is_counted_and_what_lies_behind_is_found() {
    let disk = SimDisk::new();
    filled(&disk, &[3900, 3900, 3900, 20_000, 3900]);
    let store = open(&disk);
    let (slot, batch) = batch_of(&store, chunk(1));
    store.close();
    flip(&disk, slot, batch + 20, 1);
    let (store, recovery) = open_as(&disk, &config());
    assert_eq!((recovery.quarantined, recovery.torn_bytes), (1, 0));
    assert_eq!(store.chunk_ids(ChunkId(0), 9), [chunk(0), chunk(2), chunk(3), chunk(4)]);
}

#[test]
fn sealed_segment_needs_no_heads_of_batches_nor_open_one_its_neighbours() {
    let disk = SimDisk::new();
    filled(&disk, &[3900, 40_000, 40_000]);
    let store = open(&disk);
    let (slot, batch) = batch_of(&store, chunk(0));
    store.close();
    flip(&disk, slot, batch + 20, 1);
    let (store, recovery) = open_as(&disk, &config());
    assert_eq!((recovery.quarantined, recovery.chunks), (0, 3), "its index tells");
    assert!(read(&store, chunk(0)).unwrap() == bytes_of(chunk(0), 3900));
    store.close();
    // Without its footer the segment is walked through, and then the head is missed.
    let length = disk.image()[&slot].len();
    flip(&disk, slot, length - PAGE_LEN, 1);
    let (store, recovery) = open_as(&disk, &config());
    assert_eq!((recovery.quarantined, recovery.chunks), (1, 2));
    assert!(read(&store, chunk(1)).unwrap() == bytes_of(chunk(1), 40_000));
}

/// The check that is printed for whoever wonders what finds what.
#[test]
fn every_byte_of_a_small_segment_may_flip() {
    let lengths = [100, 5000, 4096, 1, 9000, 700];
    let disk = SimDisk::new();
    filled(&disk, &lengths);
    // Sealed and open segments, in one image each.
    let open_image = disk.image();
    let store = open(&disk);
    store.close();
    let sealed = SimDisk::holding(open_image.clone());
    let (store, _) = open_as(&sealed, &config());
    let last = bytes_of(chunk(50), 60_000);
    put(&store, chunk(50), &last).unwrap();
    store.close();
    let (mut flips, mut lost, mut refused, mut harmless) = (0, 0, 0, 0);
    for image in [open_image, sealed.image()] {
        for (slot, file) in &image {
            for at in 0..file.len() {
                flips += 1;
                let mut image = image.clone();
                image.get_mut(slot).unwrap()[at] ^= 1 << (at % 8);
                let disk = SimDisk::holding(image);
                let (store, _) = open_as(&disk, &config());
                let before = (lost, refused);
                for (number, length) in (0..).zip(lengths) {
                    let (id, data) = (chunk(number), bytes_of(chunk(number), length));
                    match read(&store, id) {
                        Ok(found) => assert!(found == data, "{number} after a flip at {at} of {slot:?}"),
                        Err(ReadError::NotFound) => lost += 1,
                        Err(ReadError::Corrupt) => refused += 1,
                        Err(error) => panic!("{error}"),
                    }
                }
                harmless += u32::from(before == (lost, refused));
            }
        }
    }
    println!(
        "{flips} flips: {lost} chunks were found missing at the start, {refused} refused when they were read, \
         {harmless} flips hit nothing that is needed; no wrong byte was served"
    );
    assert!(lost > 0 && refused > 0 && harmless > 0);
}

#[test]
fn segment_without_a_superblock_is_reported_and_left_alone() {
    let disk = SimDisk::new();
    filled(&disk, &[60_000, 60_000, 60_000]);
    let first = *disk.image().keys().next().unwrap();
    flip(&disk, first, 0, 0);
    flip(&disk, first, 2048, 0);
    let before = disk.image()[&first].clone();
    let (store, recovery) = open_as(&disk, &config());
    assert_eq!((recovery.unreadable_segments, recovery.chunks), (1, 2));
    put(&store, chunk(0), &bytes_of(chunk(0), 60_000)).unwrap();
    store.close();
    assert!(disk.image()[&first] == before);
}

#[test]
fn segment_of_another_node_is_refused() {
    let disk = SimDisk::new();
    filled(&disk, &[100]);
    let other = StoreConfig { node_uuid: Uuid::from_bytes([8; 16]), ..config() };
    let refused = Store::open_on(&other, disk.clone(), None);
    assert!(matches!(refused, Err(OpenError::Foreign { .. })), "{refused:?}");
    assert_eq!(open(&disk).usage().chunks, 1);
}

#[test]
fn segment_of_another_version_is_refused() {
    let disk = SimDisk::new();
    filled(&disk, &[100]);
    disk.tamper(*disk.image().keys().next().unwrap(), |bytes| {
        for copy in [0, 2048] {
            bytes[copy + 8] = 7;
            let crc = crc32c(&bytes[copy..copy + 60]);
            bytes[copy + 60..copy + 64].copy_from_slice(&crc.to_le_bytes());
        }
    });
    let refused = Store::open_on(&config(), disk.clone(), None);
    assert!(matches!(refused, Err(OpenError::Version { version: 7, .. })), "{refused:?}");
}

#[test]
fn directory_in_use_is_refused() {
    let home = TempDir::new().unwrap();
    let config = config_in(home.path().join("segments"));
    let store = Store::open(&config).unwrap().0;
    let second = Store::open(&config);
    assert!(matches!(second, Err(OpenError::Locked { .. })), "{second:?}");
    store.close();
    drop(Store::open(&config).unwrap());
    drop(Store::open(&config).unwrap());
}

#[test]
fn directory_that_can_not_be_made_is_named() {
    let home = TempDir::new().unwrap();
    let nowhere = home.path().join("absent").join("segments");
    let refused = Store::open(&config_in(nowhere.clone()));
    assert!(matches!(&refused, Err(OpenError::Io { directory, .. }) if *directory == nowhere), "{refused:?}");
}

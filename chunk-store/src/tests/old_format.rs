//! Stores in the format before this one.

use std::collections::BTreeMap;

use super::*;

/// Writes segments as they were written then.
#[derive(Default)]
struct OldWriter {
    files: BTreeMap<u32, Vec<u8>>,
    sequence: u64,
}

impl OldWriter {
    fn begin(&mut self, number: u32) {
        let mut copy = [0; 64];
        copy[..8].copy_from_slice(b"XDPFSSEG");
        copy[8] = 1;
        copy[12..16].copy_from_slice(&number.to_le_bytes());
        copy[16..32].fill(9);
        copy[32..40].copy_from_slice(&77_u64.to_le_bytes());
        seal(&mut copy);
        let mut page = vec![0; 4096];
        page[..64].copy_from_slice(&copy);
        page[2048..2112].copy_from_slice(&copy);
        self.files.insert(number, page);
    }

    fn record(&mut self, number: u32, kind: u8, id: ChunkId, data: &[u8]) {
        self.sequence += 1;
        let file = self.files.get_mut(&number).unwrap();
        let mut head = [0; 64];
        head[..4].copy_from_slice(b"XREC");
        head[4] = kind;
        head[8..16].copy_from_slice(&77_u64.to_le_bytes());
        head[16..32].copy_from_slice(&id.0.to_le_bytes());
        head[32..36].copy_from_slice(&(data.len() as u32).to_le_bytes());
        let crc = if data.is_empty() { 0 } else { crc32c(data) };
        head[36..40].copy_from_slice(&crc.to_le_bytes());
        head[40..48].copy_from_slice(&self.sequence.to_le_bytes());
        head[48..56].copy_from_slice(&self.sequence.to_le_bytes());
        head[56..60].copy_from_slice(&((file.len() / 64) as u32).to_le_bytes());
        seal(&mut head);
        file.extend_from_slice(&head);
        for page in data.chunks(4096) {
            file.extend_from_slice(&crc32c(page).to_le_bytes());
        }
        if data.len() >= 64 << 10 {
            file.resize(file.len().next_multiple_of(4096), 0);
        }
        file.extend_from_slice(data);
        file.resize(file.len().next_multiple_of(64), 0);
    }

    fn disk(self) -> Arc<SimDisk> {
        SimDisk::holding(self.files.into_iter().map(|(number, file)| (Slot(number), file)).collect())
    }
}

fn seal(block: &mut [u8; 64]) {
    let crc = crc32c(&block[..60]);
    block[60..].copy_from_slice(&crc.to_le_bytes());
}

const LENGTHS: [usize; 5] = [1, 5000, 4096, 65_536, 70_001];

/// Chunks 0 to 4 live in two files; 5 is dead.
fn old_store() -> OldWriter {
    let mut old = OldWriter::default();
    old.begin(1);
    old.begin(2);
    for (number, length) in (0..).zip(LENGTHS) {
        let file = if number < 3 { 1 } else { 2 };
        old.record(file, 1, chunk(number), &bytes_of(chunk(number), length));
    }
    old.record(1, 1, chunk(5), &bytes_of(chunk(5), 333));
    old.record(2, 2, chunk(5), &[]);
    old
}

fn check(store: &Store, expected: Range<u64>) {
    assert_eq!(store.chunk_ids(ChunkId(0), 99), expected.clone().map(chunk).collect::<Vec<_>>());
    for number in expected {
        assert!(read(store, chunk(number)).unwrap() == bytes_of(chunk(number), LENGTHS[number as usize]));
    }
}

#[test]
fn what_lives_in_the_old_format_lives_on_and_its_files_go() {
    let disk = old_store().disk();
    let report = crate::check::check_on(&*disk, &config()).unwrap();
    assert!(report.is_whole(), "{report:?}");
    assert_eq!((report.old_segments, report.chunks), (2, 5));
    let (store, recovery) = open_as(&disk, &config());
    assert_eq!((recovery.chunks, recovery.quarantined, recovery.torn_bytes), (5, 0, 0));
    check(&store, 0..5);
    assert!(!disk.image().contains_key(&Slot(1)) && !disk.image().contains_key(&Slot(2)));
    store.close();
    check(&open(&disk), 0..5);
}

#[test]
fn conversion_may_be_cut_off_anywhere() {
    let disk = old_store().disk();
    let images = Arc::new(Mutex::new(Vec::new()));
    let taken = Arc::clone(&images);
    disk.watch(Box::new(move |image, change| {
        let mut half = image.clone();
        change.leave(&mut half, fastrand::bool);
        taken.lock().unwrap().extend([image.clone(), half]);
    }));
    open(&disk).close();
    let images = images.lock().unwrap();
    assert!(images.len() > 8);
    for image in images.iter() {
        let disk = SimDisk::holding(image.clone());
        check(&open(&disk), 0..5);
    }
}

#[test]
fn damaged_chunk_of_the_old_format_keeps_its_file() {
    let mut old = old_store();
    let file = old.files.get_mut(&1).unwrap();
    let length = file.len();
    file[length - 100] ^= 1;
    file[4096 + 200] ^= 1;
    let disk = old.disk();
    let (store, recovery) = open_as(&disk, &config());
    assert_eq!((recovery.chunks, recovery.quarantined), (4, 1));
    assert_eq!(read_range(&store, chunk(1), 0, 1), Err(ReadError::NotFound));
    assert!(disk.image().contains_key(&Slot(1)));
    put(&store, chunk(1), &bytes_of(chunk(1), LENGTHS[1])).unwrap();
    store.close();
    let (store, recovery) = open_as(&disk, &config());
    assert_eq!(recovery.quarantined, 0, "it was repaired, so the file goes");
    check(&store, 0..5);
    assert!(!disk.image().contains_key(&Slot(1)));
}

#[test]
fn torn_end_of_the_old_format_is_left_out() {
    let mut old = old_store();
    old.record(2, 1, chunk(9), &bytes_of(chunk(9), 9000));
    let file = old.files.get_mut(&2).unwrap();
    let length = file.len();
    file[length - 5000..].fill(0);
    let disk = old.disk();
    let (store, recovery) = open_as(&disk, &config());
    assert_eq!((recovery.chunks, recovery.quarantined, recovery.torn_bytes), (5, 0, 9000));
    check(&store, 0..5);
    assert!(!disk.image().contains_key(&Slot(2)));
}

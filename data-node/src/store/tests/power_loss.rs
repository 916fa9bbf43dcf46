//! What a store is after it was cut off at any moment.

use std::{
    collections::BTreeMap,
    fs::File,
    io,
    sync::{Arc, Mutex},
};

use super::{
    super::medium::{Disk, Medium, Room},
    faulty_medium::FaultyMedium,
    *,
};

/// A store whose last batch holds several chunks and a deletion.
struct LastBatch {
    home: TempDir,
    /// Its segment, and where in it the batch starts.
    file: PathBuf,
    start: u64,
    /// Everything that was there before the batch.
    before: BTreeMap<ChunkId, Bytes>,
    /// What the batch has added.
    added: BTreeMap<ChunkId, Bytes>,
    /// What the batch has deleted.
    deleted: ChunkId,
}

impl LastBatch {
    fn make(lengths: &[usize]) -> Self {
        let home = fast_dir();
        let medium = Arc::new(FaultyMedium::default());
        // All of it fits one segment.
        let config = StoreConfig { segment_bytes: 1 << 20, ..config(&home) };
        let (store, _) = Store::open_on(&config, medium.clone()).unwrap();
        let mut before = BTreeMap::new();
        for number in 0..4 {
            let (id, data) = (chunk(number), bytes_of(chunk(number), 500 + number as usize));
            put(&store, id, &data).unwrap();
            before.insert(id, data);
        }
        let file = segment_files(&home.path().join("segments")).pop().unwrap();
        medium.close_gate();
        // The batch gathers while another is being synced.
        let (id, data) = (chunk(4), bytes_of(chunk(4), 600));
        let held_up = store.put(id, crc32c(&data), data.clone());
        medium.wait_at_gate();
        before.insert(id, data);
        let start = fs::metadata(&file).unwrap().len();
        let mut added = BTreeMap::new();
        let mut waiting = Vec::new();
        for (number, length) in (10..).zip(lengths) {
            let (id, data) = (chunk(number), bytes_of(chunk(number), *length));
            waiting.push(store.put(id, crc32c(&data), data.clone()));
            added.insert(id, data);
        }
        let deleted = chunk(2);
        let deletion = store.delete(vec![deleted]);
        let syncs = medium.syncs();
        medium.open_gate();
        wait(held_up).unwrap();
        for put in waiting {
            wait(put).unwrap();
        }
        wait(deletion).unwrap();
        assert_eq!(medium.syncs() - syncs, 1, "one batch");
        store.close();
        Self { home, file, start, before, added, deleted }
    }

    /// Opens a copy of the store in which the segment is `bytes`, and checks that nothing is half there.
    fn check(&self, bytes: &[u8], context: &str) -> Recovery {
        let copy = self.home.path().join("copy");
        copy_segments(&self.home.path().join("segments"), &copy);
        fs::write(copy.join(self.file.file_name().unwrap()), bytes).unwrap();
        let config = config_in(copy);
        let (store, recovery) = Store::open(&config).unwrap();
        for (id, data) in &self.before {
            match read(&store, *id) {
                Ok(found) => assert!(found == *data, "{context}: {id}"),
                Err(error) => assert_eq!((*id, error), (self.deleted, ReadError::NotFound), "{context}"),
            }
        }
        for (id, data) in &self.added {
            match read(&store, *id) {
                Ok(found) => assert!(found == *data, "{context}: {id}"),
                Err(error) => assert_eq!(error, ReadError::NotFound, "{context}: {id}"),
            }
        }
        // The store goes on, and what was cut off doesn't come back.
        let held = store.chunk_ids(ChunkId(0), 100);
        let (id, data) = (chunk(50), bytes_of(chunk(50), 3000));
        put(&store, id, &data).unwrap();
        store.close();
        let (store, again) = Store::open(&config).unwrap();
        assert_eq!(again.torn_bytes, 0, "{context}");
        let held: Vec<_> = held.into_iter().chain([id]).collect();
        assert_eq!(store.chunk_ids(ChunkId(0), 100), held, "{context}");
        assert!(read(&store, id).unwrap() == data);
        recovery
    }
}

#[test]
fn tail_torn_at_any_byte_takes_nothing_else_along() {
    let batch = LastBatch::make(&[100, 1, 4097]);
    let whole = fs::read(&batch.file).unwrap();
    for length in batch.start as usize..whole.len() {
        batch.check(&whole[..length], &format!("cut at {length}"));
    }
    let recovery = batch.check(&whole, "whole");
    assert_eq!((recovery.torn_bytes, recovery.chunks), (0, 5 + 3 - 1));
}

#[test]
fn any_page_of_the_last_batch_may_be_missing() {
    let batch = LastBatch::make(&[3000, 70_000, 50, 9000]);
    let whole = fs::read(&batch.file).unwrap();
    let pages = whole.len().div_ceil(4096);
    let first = batch.start as usize / 4096;
    for missing in 1..1_u64 << (pages - first).min(5) {
        let mut bytes = whole.clone();
        for page in (first..pages).filter(|page| missing >> ((page - first) % 5) & 1 == 1) {
            let from = (page * 4096).max(batch.start as usize);
            let to = (page * 4096 + 4096).min(bytes.len());
            bytes[from..to].fill(0);
        }
        batch.check(&bytes, &format!("missing pages {missing:b}"));
    }
}

#[test]
fn end_of_zeros_or_noise_is_cut() {
    let batch = LastBatch::make(&[100]);
    let whole = fs::read(&batch.file).unwrap();
    for tail in [vec![0; 5000], bytes_of(chunk(1), 5000).to_vec(), whole[4096..].to_vec()] {
        let length = tail.len() as u64;
        let recovery = batch.check(&[whole.clone(), tail].concat(), "longer than it was");
        assert_eq!(recovery.torn_bytes, length);
        assert_eq!(recovery.chunks, 5);
    }
}

#[test]
fn segment_whose_making_was_cut_off_is_made_anew() {
    let home = fast_dir();
    let store = open(&home);
    let data = bytes_of(chunk(1), 5000);
    put(&store, chunk(1), &data).unwrap();
    store.close();
    let segments = home.path().join("segments");
    for length in [0, 1, 63, 64, 2111, 4095, 4096] {
        fs::write(segments.join("00000002.segment"), vec![0; length]).unwrap();
        let (store, recovery) = Store::open(&config(&home)).unwrap();
        assert_eq!(recovery.torn_bytes, length as u64);
        assert!(read(&store, chunk(1)).unwrap() == data);
        put(&store, chunk(2), &data).unwrap();
        delete(&store, &[chunk(2)]).unwrap();
        store.close();
        let last = segment_files(&segments).pop().unwrap();
        assert_ne!(last, segment_files(&segments)[0]);
        fs::remove_file(last).unwrap();
    }
}

#[test]
fn full_store_without_an_active_segment_still_compacts() {
    let home = fast_dir();
    let config = StoreConfig { capacity_bytes: Some(1 << 20), ..config(&home) };
    let (store, _) = Store::open(&config).unwrap();
    let data = |number| bytes_of(chunk(number), 10_000);
    let filled =
        (0..).take_while(|number| put(&store, chunk(*number), &data(*number)).is_ok()).count() as u64;
    // A quarter of each segment dies: too little to be copied unless somebody needs the room.
    delete(&store, &(0..filled).step_by(4).map(chunk).collect::<Vec<_>>()).unwrap();
    store.close();
    // The next segment was being made when the power went.
    let segments = home.path().join("segments");
    let last = segment_files(&segments).pop().unwrap();
    let number = u32::from_str_radix(last.file_stem().unwrap().to_str().unwrap(), 16).unwrap();
    fs::write(segments.join(format!("{:08x}.segment", number + 1)), "").unwrap();
    let (store, _) = Store::open(&config).unwrap();
    assert!(store.inner.shared.index().segment_count() > 1);
    put_patiently(&store, chunk(5000), &bytes_of(chunk(5000), 60_000)).unwrap();
}

type Model = BTreeMap<ChunkId, Bytes>;

/// Keeps a copy of the store as it is on the disk at each sync, and what had been acknowledged by then.
#[derive(Debug)]
struct Snapshots {
    segments: PathBuf,
    copies: PathBuf,
    acknowledged: Mutex<Model>,
    taken: Mutex<Vec<(PathBuf, Model)>>,
}

impl Snapshots {
    fn take(&self) {
        let mut taken = self.taken.lock().unwrap();
        let copy = self.copies.join(taken.len().to_string());
        copy_segments(&self.segments, &copy);
        taken.push((copy, self.acknowledged.lock().unwrap().clone()));
    }
}

impl Medium for Snapshots {
    fn allocate(&self, file: &File, position: u64, length: u64) -> io::Result<()> {
        Disk.allocate(file, position, length)
    }

    fn write(&self, file: &File, bytes: &[u8], position: u64) -> io::Result<()> {
        // Half of a write, as a crash may leave it.
        let (first, second) = bytes.split_at(bytes.len() / 2);
        Disk.write(file, first, position)?;
        self.take();
        Disk.write(file, second, position + first.len() as u64)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        self.take();
        Disk.sync(file)
    }

    fn room(&self, directory: &File) -> io::Result<Room> {
        Disk.room(directory)
    }
}

/// Puts and deletions with compaction under way, cut off in the middle of each write and at each sync. A deletion is
/// durable wherever compaction stands; the chunk that the store was busy with may be there or not.
#[test]
fn acknowledged_state_survives_a_cut_at_every_step_of_compaction() {
    let home = fast_dir();
    let copies = home.path().join("copies");
    fs::create_dir(&copies).unwrap();
    let segments = home.path().join("segments");
    let medium =
        Arc::new(Snapshots { segments, copies, acknowledged: Mutex::default(), taken: Mutex::default() });
    let (store, _) = Store::open_on(&config(&home), medium.clone()).unwrap();
    let mut under_way = Vec::new();
    let mut note = |id, medium: &Snapshots| under_way.push((medium.taken.lock().unwrap().len(), id));
    for number in 0..48 {
        let (id, data) = (chunk(number), bytes_of(chunk(number), 6000));
        note(id, &medium);
        put(&store, id, &data).unwrap();
        medium.acknowledged.lock().unwrap().insert(id, data);
        if number >= 8 && number % 8 != 0 {
            let old = chunk(number - 8);
            note(old, &medium);
            // Not acknowledged as there any more, nor yet as gone.
            medium.acknowledged.lock().unwrap().remove(&old);
            delete(&store, &[old]).unwrap();
        }
    }
    until("compaction", || medium.segments.read_dir().unwrap().count() < 5);
    store.close();
    let taken = medium.taken.lock().unwrap();
    assert!(taken.len() > 150, "{}", taken.len());
    for (number, (copy, acknowledged)) in taken.iter().enumerate() {
        let busy_with = under_way.iter().rev().find(|(since, _)| *since <= number).map(|(_, id)| *id);
        let (store, recovery) = Store::open(&config_in(copy.clone())).unwrap();
        assert_eq!(recovery.unreadable_segments, 0);
        for (id, data) in acknowledged {
            assert!(read(&store, *id).is_ok_and(|found| found == *data), "cut {number}: {id} is lost");
        }
        for id in store.chunk_ids(ChunkId(0), 1000) {
            let expected = acknowledged.contains_key(&id) || Some(id) == busy_with;
            assert!(expected, "cut {number}: {id} has come back");
        }
    }
}

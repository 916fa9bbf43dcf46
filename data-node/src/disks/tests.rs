//! Disks in directories of their own, which are taken away, mixed up and filled.

use std::fs;

use tempfile::TempDir;
use xdpfs_wire::BucketId;

use super::*;

/// So little that a segment is 64 KiB: a disk whose directory is gone fails with the next segment.
const CAPACITY: u64 = 2 << 20;
/// Two of them don't fit one segment.
const LENGTH: usize = 40_000;
/// Disks get new UUIDs each time, by which chunks fall to them as if by chance: of so many, each of three gets some.
const COUNT: u64 = 60;

/// A place for a node and its disks.
struct Place {
    home: TempDir,
    named: Vec<PathBuf>,
    forget: Vec<Uuid>,
    capacity_bytes: u64,
}

impl Place {
    fn new(disks: &[&str]) -> Self {
        let home = TempDir::new().unwrap();
        let named = disks.iter().map(|name| home.path().join(name)).collect();
        Self { home, named, forget: Vec::new(), capacity_bytes: CAPACITY }
    }

    fn data_directory(&self) -> PathBuf {
        self.home.path().join("data")
    }

    fn disk(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// The data directory is locked as long as the disks are in use.
    fn open(&self) -> Result<(DataDirectory, Disks), DiskError> {
        let directory = DataDirectory::open(&self.data_directory())?;
        let mustered = muster(&directory, Told { directories: &self.named, forget: &self.forget })?;
        let options = StoreOptions { capacity_bytes: Some(self.capacity_bytes), ..StoreOptions::default() };
        let disks = Disks::open(&directory, mustered, &options)?;
        Ok((directory, disks))
    }

    /// Opens the disks, has them used, and closes them.
    fn with<T>(&self, act: impl FnOnce(&Disks) -> T) -> T {
        let (_directory, disks) = self.open().unwrap();
        let result = act(&disks);
        disks.close();
        result
    }

    fn refused(&self) -> DiskError {
        self.open().map(|_| "opened").unwrap_err()
    }
}

fn chunk(number: u64) -> ChunkId {
    ChunkId::new(BucketId(1), number)
}

fn bytes_of(chunk: ChunkId) -> Bytes {
    vec![chunk.0 as u8 + 1; LENGTH].into()
}

fn crc_of(data: &[u8]) -> u32 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, data) as u32
}

fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

fn put(disks: &Disks, number: u64) -> Result<(), PutError> {
    let data = bytes_of(chunk(number));
    wait(disks.put(chunk(number), crc_of(&data), data))
}

fn read(disks: &Disks, number: u64) -> Result<Bytes, ReadError> {
    let mut data = vec![0; LENGTH];
    disks.read(chunk(number), 0, &mut data).map(|()| data.into())
}

fn all(disks: &Disks) -> Vec<ChunkId> {
    disks.chunk_ids(ChunkId(0), 1000)
}

fn held(disks: &Disks) -> Vec<u64> {
    disks.statuses().iter().map(|disk| disk.chunks).collect()
}

/// The disks that have failed, with why.
fn failed(disks: &Disks) -> Vec<(String, String)> {
    let failed = disks.statuses().into_iter().filter(|disk| disk.state() == State::Failed);
    failed.map(|disk| (disk.disk, disk.reason)).collect()
}

/// From here on the disk has no room for another segment: the next one makes it fail.
fn take_away(directory: &Path) {
    fs::remove_dir_all(muster::segments(directory)).unwrap();
}

#[test]
fn chunks_spread_and_are_found_again_after_a_restart() {
    let place = Place::new(&["a", "b", "c"]);
    let before = place.with(|disks| {
        (0..COUNT).for_each(|number| put(disks, number).unwrap());
        put(disks, 3).unwrap();
        assert!(held(disks).iter().all(|chunks| *chunks > 2), "{:?}", held(disks));
        assert_eq!(held(disks).iter().sum::<u64>(), COUNT, "one that is there stays where it is");
        let Usage { capacity_bytes, chunks, used_bytes, free_bytes } = disks.usage();
        assert_eq!((capacity_bytes, chunks), (3 * CAPACITY, COUNT));
        assert!(used_bytes > COUNT * LENGTH as u64 && free_bytes < 3 * CAPACITY - used_bytes + 1);
        held(disks)
    });
    assert!(!place.data_directory().join("segments").exists(), "chunks are on the disks only");
    place.with(|disks| {
        assert_eq!(held(disks), before);
        assert_eq!(all(disks), (0..COUNT).map(chunk).collect::<Vec<_>>());
        assert_eq!(disks.chunk_ids(chunk(5), 3), [chunk(5), chunk(6), chunk(7)]);
        (0..COUNT).for_each(|number| assert_eq!(read(disks, number), Ok(bytes_of(chunk(number)))));
        wait(disks.delete((0..20).map(chunk).collect())).unwrap();
        assert_eq!(all(disks), (20..COUNT).map(chunk).collect::<Vec<_>>());
        assert_eq!(read(disks, 3), Err(ReadError::NotFound));
        let other = Bytes::from_static(b"other bytes");
        let conflict = wait(disks.put(chunk(21), crc_of(&other), other.clone()));
        assert_eq!(conflict, Err(PutError::Conflict));
    });
}

#[test]
fn a_disk_that_fails_fails_alone() {
    let place = Place::new(&["a", "b"]);
    place.with(|disks| {
        (0..20).for_each(|number| put(disks, number).unwrap());
        let lost: Vec<_> = disks.opened().next().unwrap().2.chunk_ids(ChunkId(0), 100);
        assert!(!lost.is_empty() && lost.len() < 20, "{lost:?}");
        take_away(&place.disk("a"));
        (20..40).for_each(|number| put(disks, number).unwrap());
        let failures = failed(disks);
        assert_eq!(failures.len(), 1, "{failures:?}");
        assert!(!disks.is_fenced());
        assert!(failures[0].1.contains("a write to it has failed"), "{failures:?}");
        let kept: Vec<_> = (0..40).map(chunk).filter(|chunk| !lost.contains(chunk)).collect();
        let told = all(disks);
        assert!(told.iter().all(|chunk| kept.contains(chunk)), "what it held is not told");
        assert_eq!(disks.usage().capacity_bytes, CAPACITY);
        (0..40).for_each(|number| {
            assert_eq!(read(disks, number), Ok(bytes_of(chunk(number))), "what is acknowledged is readable");
        });
        assert!(disks.stat(lost[0]).is_some() && disks.stat_safe(lost[0]).is_none());
        // A replica that is to be made anew goes to the other disk, and a deletion doesn't wait for the failed one.
        put(disks, lost[0].0 as u64).unwrap();
        assert!(all(disks).contains(&lost[0]));
        wait(disks.delete(vec![lost[0], kept[0]])).unwrap();
        assert!(!all(disks).contains(&lost[0]) && !all(disks).contains(&kept[0]));
        take_away(&place.disk("b"));
        let ends: Vec<_> = (50..70).map(|number| put(disks, number)).collect();
        assert_eq!(ends.last(), Some(&Err(PutError::Failed)));
        assert!(disks.is_fenced() && all(disks).is_empty());
        assert_eq!(wait(disks.delete(vec![chunk(1)])), Err(DeleteError::Failed));
        assert_eq!(read(disks, 15), Ok(bytes_of(chunk(15))));
    });
}

#[test]
fn full_disk_leaves_chunks_to_the_others() {
    let place = Place { capacity_bytes: 256 << 10, ..Place::new(&["a", "b"]) };
    place.with(|disks| {
        let ends: Vec<_> = (0..20).map(|number| put(disks, number)).collect();
        let taken = ends.iter().take_while(|end| end.is_ok()).count();
        assert!(ends[taken..].iter().all(|end| *end == Err(PutError::NoSpace)), "{ends:?}");
        let held = held(disks);
        assert!(
            held[0].abs_diff(held[1]) <= 1 && taken >= 8,
            "both are full before one is refused: {held:?}"
        );
        assert!(failed(disks).is_empty());
    });
}

#[test]
fn disk_that_is_not_mounted_is_missed_and_not_made_anew() {
    let place = Place::new(&["a", "b"]);
    place.with(|disks| (0..20).for_each(|number| put(disks, number).unwrap()));
    fs::rename(place.disk("b"), place.disk("away")).unwrap();
    for mount_point_is_there in [false, true] {
        if mount_point_is_there {
            fs::create_dir(place.disk("b")).unwrap();
        }
        place.with(|disks| {
            let failures = failed(disks);
            assert!(failures.len() == 1 && failures[0].1.contains("is it mounted?"), "{failures:?}");
            assert!(disks.statuses()[1].chunks > 0, "as many as there were are missing");
            put(disks, 30).unwrap();
            assert!(all(disks).contains(&chunk(30)) && all(disks).len() < 21);
        });
    }
    assert_eq!(fs::read_dir(place.disk("b")).unwrap().count(), 0, "nothing is made in its place");
    fs::remove_dir(place.disk("b")).unwrap();
    fs::rename(place.disk("away"), place.disk("b")).unwrap();
    place.with(|disks| {
        assert!(failed(disks).is_empty());
        assert_eq!(all(disks).len(), 21);
    });
}

#[test]
fn disk_is_known_by_what_is_on_it_and_not_by_its_place() {
    let place = Place::new(&["a", "b"]);
    place.with(|disks| (0..12).for_each(|number| put(disks, number).unwrap()));
    fs::rename(place.disk("a"), place.disk("x")).unwrap();
    fs::rename(place.disk("b"), place.disk("a")).unwrap();
    fs::rename(place.disk("x"), place.disk("b")).unwrap();
    place.with(|disks| assert!(failed(disks).is_empty() && all(disks).len() == 12));
    // Where a disk was that is elsewhere by now, there may be a new one.
    fs::rename(place.disk("a"), place.disk("c")).unwrap();
    let place = Place { named: ["a", "b", "c"].map(|name| place.disk(name)).into(), ..place };
    place.with(|disks| {
        assert!(failed(disks).is_empty() && all(disks).len() == 12);
        assert_eq!(disks.statuses().len(), 3);
    });
}

#[test]
fn disk_that_is_not_named_is_missed_until_it_is_forgotten() {
    let mut place = Place::new(&["a", "b"]);
    place.with(|disks| (0..20).for_each(|number| put(disks, number).unwrap()));
    let named = place.named.clone();
    place.named.pop();
    let (uuid, missing) = place.with(|disks| {
        let failures = failed(disks);
        assert!(failures.len() == 1 && failures[0].1.contains("--forget-disk"), "{failures:?}");
        (failures[0].0.parse().unwrap(), disks.statuses()[1].chunks)
    });
    assert!(missing > 0 && missing < 20);
    place.named.clear();
    let refused = place.refused();
    assert!(
        matches!(refused, DiskError::None { .. }),
        "a node without its disks does not begin anew: {refused}"
    );
    place.named = named.clone();
    place.forget = vec![uuid];
    let refused = place.refused();
    assert!(matches!(refused, DiskError::StillThere { .. }), "{refused}");
    place.named.pop();
    for _ in 0..2 {
        place.with(|disks| assert!(failed(disks).is_empty() && disks.statuses().len() == 1));
    }
    // It is still the node's own.
    place.forget.clear();
    place.named = named;
    place.with(|disks| assert_eq!(all(disks).len(), 20));
}

#[test]
fn lost_disk_is_replaced_once_it_is_forgotten() {
    let mut place = Place::new(&["a", "b"]);
    place.with(|disks| (0..12).for_each(|number| put(disks, number).unwrap()));
    fs::remove_dir_all(place.disk("b")).unwrap();
    fs::create_dir_all(place.disk("b").join("lost+found")).unwrap();
    let uuid = place.with(|disks| failed(disks)[0].0.parse().unwrap());
    place.forget = vec![uuid];
    place.with(|disks| {
        assert!(failed(disks).is_empty());
        assert_eq!(held(disks)[1], 0);
    });
}

#[test]
fn mistakes_of_operators_are_refused() {
    let other = Place::new(&["a"]);
    other.with(|_| ());
    let place = Place { named: vec![other.disk("a")], ..Place::new(&[]) };
    let refused = place.refused();
    assert!(matches!(refused, DiskError::Foreign { .. }), "{refused}");

    let place = Place::new(&["a", "./a"]);
    let refused = place.refused();
    assert!(matches!(refused, DiskError::Twice { .. }), "{refused}");
    let place = Place::new(&["a", "b"]);
    fs::create_dir(place.disk("a")).unwrap();
    std::os::unix::fs::symlink(place.disk("a"), place.disk("b")).unwrap();
    let refused = place.open();
    assert!(matches!(refused, Err(DiskError::Twice { .. })), "{refused:?}");
    assert_eq!(fs::read_dir(place.disk("a")).unwrap().count(), 0, "nothing is made before all is clear");

    let place = Place::new(&["a"]);
    fs::create_dir(place.disk("a")).unwrap();
    fs::write(place.disk("a").join("holiday.jpg"), "sun").unwrap();
    let refused = place.refused();
    assert!(matches!(refused, DiskError::Taken { .. }), "{refused}");
    assert!(!place.disk("a").join("disk-uuid").exists());

    let place = Place::new(&["no/such/parent"]);
    assert!(matches!(place.refused(), DiskError::Directory(DirectoryError::Io { .. })));
    let place = Place::new(&["two\nlines"]);
    assert!(matches!(place.refused(), DiskError::Name { .. }));
}

#[test]
fn damaged_identity_fails_one_disk_and_all_of_them_the_node() {
    let place = Place::new(&["a", "b"]);
    place.with(|disks| put(disks, 1).unwrap());
    fs::write(place.disk("a").join("disk-uuid"), "nonsense").unwrap();
    place.with(|disks| {
        assert!(failed(disks)[0].1.contains("disk-uuid is damaged"), "{:?}", failed(disks));
        put(disks, 2).unwrap();
    });
    // A file where the directory of segments should be: the disk can't be opened.
    fs::rename(place.disk("b").join("segments"), place.disk("b").join("moved")).unwrap();
    fs::write(place.disk("b").join("segments"), "").unwrap();
    let refused = place.refused();
    assert!(matches!(refused, DiskError::None { .. }), "{refused}");
    assert!(refused.to_string().contains("can't be opened"), "{refused}");
}

#[test]
fn chunks_of_the_data_directory_stay_when_disks_are_added() {
    let mut place = Place::new(&[]);
    place.with(|disks| {
        (0..4).for_each(|number| put(disks, number).unwrap());
        assert_eq!(disks.statuses()[0].disk, DATA_DIRECTORY);
    });
    place.named = vec![place.disk("a")];
    place.with(|disks| {
        assert_eq!(held(disks), [4, 0]);
        (4..12).for_each(|number| put(disks, number).unwrap());
        assert_eq!(all(disks).len(), 12);
        assert!(held(disks)[1] > 0);
    });
}

#[test]
fn puts_of_one_chunk_at_a_time_go_to_one_disk() {
    let place = Place::new(&["a", "b", "c"]);
    place.with(|disks| {
        for number in 0..10 {
            let data = bytes_of(chunk(number));
            let puts = (0..5).map(|_| disks.put(chunk(number), crc_of(&data), data.clone()));
            let ends = wait(futures::future::join_all(puts.collect::<Vec<_>>()));
            assert!(ends.iter().all(Result::is_ok), "{ends:?}");
        }
        assert_eq!(held(disks).iter().sum::<u64>(), 10);
        assert!(disks.0.writing.lock().unwrap().is_empty());
    });
}

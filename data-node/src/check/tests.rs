//! Directories as nodes and crashes leave them, byte for byte the same after a look.

use std::collections::BTreeMap;

use tempfile::TempDir;
use xdpfs_wire::{BucketId, ChunkId};

use super::*;
use crate::{
    data_directory::DataDirectory,
    disks::{Disks, StoreOptions, Told, muster},
    store::{Store, StoreConfig},
};

fn chunk(number: u64) -> ChunkId {
    ChunkId::new(BucketId(1), number)
}

/// A directory with chunks of these lengths.
fn filled(lengths: &[usize]) -> TempDir {
    let home = TempDir::new().unwrap();
    let directory = DataDirectory::open(home.path()).unwrap();
    let config = StoreConfig {
        capacity_bytes: Some(64 << 20),
        reserve_bytes: 0,
        segment_bytes: 64 << 10,
        ..StoreConfig::new(directory.segments(), directory.node_uuid())
    };
    let (store, _) = Store::open(&config).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    for (number, length) in (0..).zip(lengths) {
        let data = vec![number as u8 + 1; *length];
        let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &data) as u32;
        runtime.block_on(store.put(chunk(number), crc, data.into())).unwrap();
    }
    store.close();
    home
}

fn segments(home: &TempDir) -> Vec<PathBuf> {
    let entries =
        fs::read_dir(home.path().join(SEGMENTS_DIRECTORY)).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> =
        entries.filter(|path| path.extension().is_some_and(|extension| extension == "segment")).collect();
    files.sort();
    files
}

/// All files below it, with their bytes.
fn image(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(image(&path));
        } else {
            let bytes = fs::read(&path).unwrap();
            files.insert(path, bytes);
        }
    }
    files
}

/// What is found; nothing has changed.
fn check(home: &TempDir) -> StoreReport {
    let before = image(home.path());
    let mut checks = check_directory(home.path(), &[]).unwrap();
    assert!(image(home.path()) == before, "a look changes nothing");
    assert_eq!(checks.len(), 1, "{checks:?}");
    checks.remove(0).found.unwrap()
}

fn output(home: &TempDir, json: bool) -> (CheckEnd, String) {
    let mut out = Vec::new();
    let directories = vec![home.path().to_owned()];
    let end = run(&CheckArguments { directories, disks: Vec::new(), json }, &mut out).unwrap();
    (end, String::from_utf8(out).unwrap())
}

fn edit(file: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(file).unwrap();
    change(&mut bytes);
    fs::write(file, bytes).unwrap();
}

#[test]
fn whole_directory_is_whole() {
    let home = filled(&[100, 5000, 40_000, 60_000, 1]);
    let report = check(&home);
    assert!(report.is_whole(), "{report:?}");
    assert_eq!((report.chunks, report.bytes, report.torn_bytes), (5, 105_101, 0));
    assert_eq!(report.segments, segments(&home).len() as u64);
    let sizes = segments(&home).iter().map(|file| fs::metadata(file).unwrap().len()).sum::<u64>();
    assert_eq!(report.used_bytes, sizes);
    let (end, text) = output(&home, false);
    assert_eq!(end, CheckEnd::Whole);
    assert!(text.contains(": whole\n") && text.contains("5 chunks of 105101 bytes"), "{text}");
    let (_, json) = output(&home, true);
    assert!(json.contains("\"whole\":true,\"segments\":"), "{json}");
}

#[test]
fn torn_tail_is_told_and_neither_cut_nor_damage() {
    let home = filled(&[100, 5000]);
    let last = segments(&home).pop().unwrap();
    edit(&last, |bytes| bytes.truncate(bytes.len() - 5000));
    let report = check(&home);
    assert!(report.is_whole() && report.torn_bytes > 3000, "{report:?}");
    assert_eq!((report.chunks, report.bytes), (1, 100));
    assert!(output(&home, false).1.contains("the next start cuts them off"));
    // What was told is what the next start does.
    let torn = report.torn_bytes;
    let directory = DataDirectory::open(home.path()).unwrap();
    let opened = Store::open(&StoreConfig::new(directory.segments(), directory.node_uuid())).unwrap();
    assert_eq!(opened.1.torn_bytes, torn);
}

#[test]
fn damage_is_named_by_chunk_and_place() {
    let home = filled(&[3900, 40_000, 60_000, 3900, 3900]);
    let files = segments(&home);
    assert_eq!(files.len(), 3);
    // The bytes of the second chunk, and the head of a batch in the segment that is still open.
    edit(&files[0], |bytes| bytes[20_000] ^= 1);
    edit(&files[2], |bytes| bytes[4096 + 20] ^= 1);
    let report = check(&home);
    assert!(!report.is_whole());
    assert_eq!((report.damaged_chunks, report.damaged.as_slice()), (1, &[chunk(1)][..]));
    assert_eq!((report.damaged_places, report.places.as_slice()), (1, &[(3, 4096)][..]));
    assert_eq!(report.chunks, 4);
    let (end, text) = output(&home, false);
    assert_eq!(end, CheckEnd::Damaged);
    assert!(text.contains("DAMAGED") && text.contains(&chunk(1).to_string()), "{text}");
    let (_, json) = output(&home, true);
    assert!(json.contains("\"places\":[{\"segment\":3,\"position\":4096}]"), "{json}");

    edit(&files[0], |bytes| (bytes[0], bytes[2048]) = (0, 0));
    assert_eq!(check(&home).unreadable_segments, [1]);
}

#[test]
fn disks_are_looked_at_where_they_are() {
    let home = TempDir::new().unwrap();
    let place = |name: &str| home.path().join(name);
    let named = ["a", "b"].map(place);
    {
        let directory = DataDirectory::open(&place("data")).unwrap();
        let told = Told { directories: &named, forget: &[] };
        let options = StoreOptions { capacity_bytes: Some(4 << 20), ..StoreOptions::default() };
        let disks = Disks::open(&directory, muster(&directory, told).unwrap(), &options).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        for number in 0..20 {
            let data = vec![1; 1000];
            let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &data) as u32;
            runtime.block_on(disks.put(chunk(number), crc, data.into())).unwrap();
        }
        disks.close();
    }
    let before = image(home.path());
    let run = |disks: &[PathBuf]| {
        let mut out = Vec::new();
        let directories = vec![place("data")];
        let end = run(&CheckArguments { directories, disks: disks.into(), json: false }, &mut out).unwrap();
        (end, String::from_utf8(out).unwrap())
    };
    let chunks = |checks: Vec<DiskCheck>| checks.into_iter().map(|check| check.found.unwrap().chunks);
    let found: Vec<_> = chunks(check_directory(&place("data"), &[]).unwrap()).collect();
    assert!(found.len() == 2 && found.iter().sum::<u64>() == 20, "{found:?}");
    assert!(image(home.path()) == before, "a look changes nothing");

    fs::rename(place("b"), place("c")).unwrap();
    let (end, text) = run(&[]);
    assert_eq!(end, CheckEnd::Usage);
    assert!(text.contains("is it mounted?") && text.contains(": whole"), "{text}");
    let (end, text) = run(&[place("c")]);
    assert_eq!((end, text.matches(": whole").count()), (CheckEnd::Whole, 2), "{text}");
    let (end, text) = run(&[place("c"), home.path().to_owned()]);
    assert_eq!(end, CheckEnd::Usage);
    assert!(text.contains("no disk of any of these data nodes"), "{text}");
}

#[test]
fn directory_in_use_and_one_of_nobody_are_left_alone() {
    let home = filled(&[100]);
    let open = DataDirectory::open(home.path()).unwrap();
    let (end, text) = output(&home, false);
    assert_eq!(end, CheckEnd::Usage);
    assert!(text.contains("is in use by a data node"), "{text}");
    drop(open);
    assert_eq!(output(&home, false).0, CheckEnd::Whole);

    let nobody = TempDir::new().unwrap();
    let (end, text) = output(&nobody, true);
    assert_eq!(end, CheckEnd::Usage);
    assert!(text.contains("\"error\":") && text.contains("no data directory"), "{text}");
    assert_eq!(fs::read_dir(nobody.path()).unwrap().count(), 0, "not even a lock is made");
    fs::write(nobody.path().join("node-uuid"), "nonsense").unwrap();
    assert_eq!(output(&nobody, false).0, CheckEnd::Damaged);
}

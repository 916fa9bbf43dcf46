//! Stores that are only looked at.

use super::{
    damage::{filled, flip, place},
    *,
};

fn check(disk: &Arc<SimDisk>) -> StoreReport {
    let before = disk.image();
    let report = crate::check::check_on(&**disk, &config()).unwrap();
    assert!(disk.image() == before, "nothing was changed");
    report
}

#[test]
fn whole_store_is_told_whole() {
    let disk = SimDisk::new();
    filled(&disk, &[100, 5000, 70_000, 20_000, 40_000]);
    let report = check(&disk);
    assert!(report.is_whole(), "{report:?}");
    assert_eq!((report.chunks, report.bytes, report.torn_bytes), (5, 135_100, 0));
    assert!(report.segments > 1);
}

#[test]
fn damaged_chunk_and_lost_batch_are_told() {
    let disk = SimDisk::new();
    filled(&disk, &[3900, 8000, 3900, 3900]);
    let store = open(&disk);
    let ((slot, data), (_, lost)) = (place(&store, chunk(1)), place(&store, chunk(2)));
    store.close();
    flip(&disk, slot, data + 7500, 2);
    flip(&disk, slot, lost / 4096 * 4096 + 9, 2);
    let report = check(&disk);
    assert_eq!((report.damaged, report.damaged_places, report.chunks), (vec![chunk(1)], 1, 3));
    assert_eq!(report.places.len(), 1);
}

#[test]
fn torn_batch_is_no_damage() {
    let disk = SimDisk::new();
    filled(&disk, &[3900, 20_000]);
    let store = open(&disk);
    let (slot, data) = place(&store, chunk(1));
    store.close();
    flip(&disk, slot, data + 9000, 2);
    let report = check(&disk);
    assert!(report.is_whole(), "{report:?}");
    assert_eq!((report.chunks, report.torn_bytes), (1, 20 << 10));
}

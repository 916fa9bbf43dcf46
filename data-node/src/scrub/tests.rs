//! The thread around the schedule, on a store of its own.

use tempfile::TempDir;
use uuid::Uuid;
use xdpfs_wire::{BucketId, ChunkId};

use super::*;
use crate::store::StoreConfig;

/// What a scrub does takes less than this, or never ends.
const PATIENCE: Duration = Duration::from_secs(30);
const FAST: ScrubConfig = ScrubConfig { bytes_per_second: 1 << 40, interval: Duration::from_secs(86_400) };

fn until(scrub: &ScrubHandle, what: &str, done: impl Fn(&ScrubStatus) -> bool) -> ScrubStatus {
    let end = Instant::now() + PATIENCE;
    loop {
        let status = scrub.status();
        if done(&status) {
            return status;
        }
        assert!(Instant::now() < end, "{what} does not happen: {status:?}");
        thread::yield_now();
    }
}

fn store(home: &TempDir) -> Store {
    let config = StoreConfig {
        capacity_bytes: Some(64 << 20),
        reserve_bytes: 0,
        ..StoreConfig::new(home.path().join("segments"), Uuid::from_bytes([9; 16]))
    };
    Store::open(&config).unwrap().0
}

fn put(store: &Store, number: u64, length: usize) {
    let data = vec![number as u8; length];
    let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &data) as u32;
    let put = store.put(ChunkId::new(BucketId(1), number), crc, data.into());
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(put).unwrap();
}

#[test]
fn scrub_does_what_it_is_told_and_remembers_it() {
    let home = TempDir::new().unwrap();
    let store = store(&home);
    put(&store, 1, 5000);
    let scrubber = Scrubber::spawn(store.clone(), home.path(), FAST).unwrap();
    let scrub = scrubber.handle();
    let first = until(&scrub, "a pass", |status| status.last_pass.is_some());
    assert_eq!(first.last_pass.map(|pass| (pass.bytes, pass.chunks)), Some((5000, 1)));
    assert_eq!(first.state(), State::Waiting);
    put(&store, 2, 7000);
    scrub.order(1, ScrubAction::Start);
    until(&scrub, "another pass", |status| status.last_pass.is_some_and(|pass| pass.bytes == 12_000));
    scrub.order(1, ScrubAction::Pause);
    assert_eq!(scrub.status().state(), State::Waiting, "the number is of an order that was carried out");
    scrub.order(2, ScrubAction::Pause);
    assert_eq!((scrub.status().state(), scrub.order_done()), (State::Paused, 2));
    drop((scrubber, scrub));
    let scrubber = Scrubber::spawn(store.clone(), home.path(), FAST).unwrap();
    let scrub = scrubber.handle();
    assert_eq!((scrub.status().state(), scrub.order_done()), (State::Paused, 0), "also after a restart");
    assert_eq!(scrub.status().last_pass.map(|pass| pass.bytes), Some(12_000));
    scrub.order(7, ScrubAction::Resume);
    assert_eq!(scrub.status().state(), State::Waiting);
}

#[test]
fn scrub_that_is_slow_can_be_held_and_hastened() {
    let home = TempDir::new().unwrap();
    let store = store(&home);
    (1..=3).for_each(|number| put(&store, number, 1 << 20));
    let slow = ScrubConfig { bytes_per_second: 1, ..FAST };
    let scrubber = Scrubber::spawn(store.clone(), home.path(), slow).unwrap();
    let scrub = scrubber.handle();
    let is_paid_for = |status: &ScrubStatus| status.pass.is_some_and(|pass| pass.bytes == 1 << 20);
    until(&scrub, "a step", is_paid_for);
    scrub.order(1, ScrubAction::Pause);
    assert_eq!(scrub.status().state(), State::Paused);
    scrub.order(2, ScrubAction::Resume);
    assert!(is_paid_for(&scrub.status()), "what was read is paid for over days");
    scrub.configure(FAST);
    until(&scrub, "a pass", |status| status.last_pass.is_some_and(|pass| pass.bytes == 3 << 20));
    scrub.configure(ScrubConfig { bytes_per_second: 0, ..FAST });
    assert_eq!(scrub.status().state(), State::Off);
}

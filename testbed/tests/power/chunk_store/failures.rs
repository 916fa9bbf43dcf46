//! Writes, syncs and reads that fail.

use std::{sync::atomic::Ordering, thread, time::Duration};

use xdpfs_chunk_store::{ScrubStep, Store};
use xdpfs_testbed::{
    Rng,
    faulty_fs::{FaultyFs, NameModel},
};

use super::{
    bench::{Bench, Scale, seed},
    client::{Answers, work},
};

const ROUNDS: u64 = 8;
const WALKS: u64 = 12;
/// How long the store is watched for a write that it must not make.
const QUIET: Duration = Duration::from_millis(20);

#[test]
fn write_that_fails_fences_the_store_and_takes_nothing() {
    check("a write", |disk, rng| disk.fail_write_after(rng.below(60)));
}

#[test]
fn sync_that_fails_fences_the_store_and_takes_nothing() {
    check("a sync", |disk, rng| disk.fail_sync_after(rng.below(60)));
}

#[test]
fn reads_that_fail_under_a_walk_take_nothing_out_of_service() {
    for direct in [true, false] {
        let seed = seed();
        let mut bench = Bench::new(seed, NameModel::Journal, Scale::SMALL);
        let store = bench.open_and_judge(Some(direct)).unwrap();
        let (mut found, mut failed) = (ScrubStep::default(), 0);
        for _ in 0..WALKS {
            work(&store, &mut bench.clients, |answers| answers.good.load(Ordering::Relaxed) > 30);
            bench.file_system.fail_read_after(bench.rng.below(60));
            found.add(walk(&store));
            failed += u64::from(bench.file_system.has_failed());
            bench.file_system.fail_read_after(u64::MAX);
        }
        println!("{}, seed {seed}: {failed} reads failed: {found:?}", store.io_mode());
        assert_eq!((found.damaged_chunks, found.damaged_places), (0, 0), "seed {seed}");
        assert!(failed > WALKS / 2 && found.read_errors <= failed, "seed {seed}: {found:?}");
        // Reading ahead, the kernel tries a page once more before it says that it can't be had.
        assert!(!direct || found.read_errors > 0, "seed {seed}: {found:?}");
        bench.judge(&store).unwrap();
        assert_eq!(walk(&store).read_errors, 0);
        assert!(!store.is_fenced());
        work(&store, &mut bench.clients, |answers| answers.good.load(Ordering::Relaxed) > 30);
        store.close();
        drop(store);
        bench.cut_and_judge().unwrap().close();
    }
}

fn check(what: &str, arm: impl Fn(&FaultyFs, &mut Rng)) {
    let seed = seed();
    let mut bench = Bench::new(seed, NameModel::Journal, Scale::SMALL);
    let mut good = 0;
    for round in 0..ROUNDS {
        let context = format!("{what} fails, seed {seed}, round {round}");
        let expect = |result: Result<Store, _>| result.unwrap_or_else(|loss| panic!("{context}: {loss:?}"));
        let store = expect(bench.open_and_judge(None));
        arm(&bench.file_system, &mut bench.rng);
        good += work(&store, &mut bench.clients, |_| false).good.into_inner();
        assert!(bench.file_system.has_failed() && store.is_fenced(), "{context}");
        check_fence(&mut bench, &store, &context);
        store.close();
        drop(store);
        disarm(&bench.file_system);
        // The next process may come with the power still on, and meet what the kernel thinks is on the disk.
        if bench.rng.chance(50.0) {
            let store = expect(bench.open_and_judge(None));
            if bench.rng.chance(50.0) {
                work(&store, &mut bench.clients, |answers| answers.good.load(Ordering::Relaxed) > 20);
            }
            store.close();
        }
        expect(bench.cut_and_judge()).close();
    }
    println!("{what}, seed {seed}: {ROUNDS} rounds, {good} good answers, {:?}", bench.losses);
}

/// A store that has failed writes nothing more and reads on.
fn check_fence(bench: &mut Bench, store: &Store, context: &str) {
    bench.file_system.fail_write_after(0);
    bench.file_system.fail_sync_after(0);
    let Answers { good, refused, failed } = work(store, &mut bench.clients, |_| false);
    let answers = [good, refused].map(|count| count.into_inner());
    assert!(answers == [0, 0] && failed.into_inner() > 0, "{context}: {answers:?}");
    thread::sleep(QUIET);
    assert!(!bench.file_system.has_failed(), "{context}: something was written behind it");
    for client in &bench.clients {
        client.look(store).unwrap_or_else(|wrong| panic!("{context}: {wrong:?}"));
    }
}

fn disarm(disk: &FaultyFs) {
    disk.fail_write_after(u64::MAX);
    disk.fail_sync_after(u64::MAX);
}

fn walk(store: &Store) -> ScrubStep {
    let (mut walk, mut sum) = (store.scrub(0), ScrubStep::default());
    while !sum.is_end {
        let step = walk.step();
        sum.add(step);
        sum.is_end = step.is_end;
    }
    sum
}

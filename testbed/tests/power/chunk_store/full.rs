//! A disk that fills up.

use std::sync::atomic::Ordering;

use xdpfs_chunk_store::Store;
use xdpfs_testbed::faulty_fs::NameModel;

use super::{
    bench::{Bench, CLIENTS, Scale, seed},
    client::work,
};

const ROUNDS: u64 = 4;
/// Too much for the room that there will be, and less than the store may take.
const SCALE: Scale =
    Scale { capacity_bytes: 64 << 20, chunks_per_client: 120, puts_percent: 85.0, ..Scale::SMALL };
/// One with something left for deletions and for what compaction copies. A segment has room for any chunk.
const SPARED: Scale = Scale { reserve_bytes: 1 << 20, segment_bytes: 256 << 10, ..SCALE };
/// By how much files grow beside this until the disk is full, at most.
const ROOM_MAX: u64 = 400_000;
/// Refusals after which it is clear that the disk is full.
const REFUSED: u64 = 60;

#[test]
fn full_disk_refuses_chunks_loses_none_and_is_gone_on_with_when_there_is_room() {
    for holds in [true, false] {
        let deleted = check(SCALE, ROOM_MAX, holds);
        println!("{deleted} deletions without a reserve");
    }
}

#[test]
fn full_disk_with_a_reserve_takes_every_deletion_and_then_chunks_again() {
    let room_max = SPARED.reserve_bytes + ROOM_MAX;
    assert_eq!(check(SPARED, room_max, true), ROUNDS * CLIENTS);
}

/// Gives how often a client could delete while the disk was full.
fn check(scale: Scale, room_max: u64, holds: bool) -> u64 {
    let seed = seed();
    let mut bench = Bench::new(seed, NameModel::Journal, scale);
    if !holds {
        bench.file_system.hold_nothing();
    }
    let (mut good, mut deleted) = (0, 0);
    for round in 0..ROUNDS {
        let context = format!("seed {seed}, round {round}");
        let expect = |result: Result<Store, _>| result.unwrap_or_else(|loss| panic!("{context}: {loss:?}"));
        let mut store = expect(bench.open_and_judge(None));
        bench.file_system.limit_growth(Some(room_max - bench.rng.below(ROOM_MAX)));
        let answers =
            work(&store, &mut bench.clients, |answers| answers.refused.load(Ordering::Relaxed) > REFUSED);
        good += answers.good.into_inner();
        for client in &mut bench.clients {
            deleted += u64::from(client.delete_some(&store));
        }
        assert!(!store.is_fenced() && answers.failed.into_inner() == 0, "{context}");
        for client in &bench.clients {
            client.look(&store).unwrap_or_else(|wrong| panic!("{context}: {wrong:?}"));
        }
        // In the first round there is little that could be deleted.
        if scale.reserve_bytes > 0 && round > 0 {
            for client in &mut bench.clients {
                // Segments with some chunks that stay: without compaction there is no room.
                let gone = client.delete_most(&store);
                client.put_missing(&store, gone / 4);
            }
        }
        if bench.rng.chance(50.0) {
            // A full disk is no reason not to start.
            bench.losses += bench.file_system.cut();
            store.close();
            drop(store);
            store = expect(bench.power_on_and_judge());
        }
        bench.file_system.limit_growth(None);
        for client in &mut bench.clients {
            client.put_all(&store);
        }
        bench.judge(&store).unwrap_or_else(|loss| panic!("{context}: {loss:?}"));
        for client in &mut bench.clients {
            client.delete_all(&store);
        }
        store.close();
        drop(store);
        expect(bench.cut_and_judge()).close();
    }
    println!("seed {seed}, holds {holds}: {ROUNDS} rounds, {good} good answers, {:?}", bench.losses);
    deleted
}

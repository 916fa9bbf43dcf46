//! The protocol on virtual time: a client and some nodes on a network that loses, reorders, duplicates and corrupts
//! by seed. Set `XDPFS_SIM_SEEDS` for more seeds than the few of a normal run; a failure names its seed.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod network;
mod node;
mod rng;
mod world;

use std::time::Duration;

use network::Faults;
use world::{World, chunk_bytes};
use xdpfs_transport::client::Outcome;
use xdpfs_transport::{TransferError, crc32c};
use xdpfs_wire::{PieceClass, Rights, Status};

fn seeds() -> std::ops::Range<u64> {
    let count = std::env::var("XDPFS_SIM_SEEDS").ok().and_then(|text| text.parse().ok());
    0..count.unwrap_or(200)
}

/// Sizes around every boundary that the protocol has.
fn boundary_sizes() -> Vec<usize> {
    let mut sizes = vec![1, 2];
    for class in PieceClass::ALL {
        let piece = class.piece_len() as usize;
        let burst = piece * ((60 << 10) / class.datagram_len()).min(64);
        for edge in [piece, 2 * piece, burst, 2 * burst, 256 * piece] {
            sizes.extend([edge - 1, edge, edge + 1]);
        }
    }
    sizes.sort_unstable();
    sizes.dedup();
    sizes
}

#[test]
fn every_boundary_size_round_trips() {
    for mtu in [1280, 1500, 3498, 9000] {
        let mut world = World::new(u64::from(mtu), 1, Faults { mtu, ..Faults::NONE });
        for (i, size) in boundary_sizes().into_iter().enumerate() {
            let data = chunk_bytes(i as u64, size);
            world
                .write(0, i as u64, &data)
                .unwrap_or_else(|error| panic!("write of {size} at MTU {mtu}: {error}"));
            let read = world.read(0, i as u64, 0..size as u32).unwrap();
            assert_eq!(read, data, "{size} bytes at MTU {mtu}");
        }
    }
}

#[test]
fn ranges_are_exactly_what_was_asked_for() {
    let mut world = World::new(1, 1, Faults::NONE);
    let data = chunk_bytes(9, 300_000);
    world.write(0, 9, &data).unwrap();
    for range in [0..1, 299_999..300_000, 1343..1345, 8191..8193, 5..200_005, 0..300_000] {
        let read = world.read(0, 9, range.clone()).unwrap();
        assert_eq!(read, data[range.start as usize..range.end as usize], "{range:?}");
    }
    let beyond = world.read(0, 9, 299_000..300_001);
    assert_eq!(beyond, Err(TransferError::Refused(Status::Range)));
}

#[test]
fn a_bad_network_costs_time_and_never_bytes() {
    let faults = Faults { loss: 0.05, reorder: 0.05, duplicate: 0.02, corrupt: 0.01, ..Faults::NONE };
    let mut corrupt = 0;
    for seed in seeds() {
        let mut world = World::new(seed, 1, faults);
        let data = chunk_bytes(seed, 700_001);
        world.write(0, 1, &data).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        let read = world.read(0, 1, 0..700_001).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        assert_eq!(read, data, "seed {seed}");
        corrupt += world.client.counters().corrupt + world.nodes[0].corrupt();
    }
    assert!(corrupt > 0, "corruption was injected, so it must have been noticed");
}

#[test]
fn loss_of_half_the_datagrams_is_survived() {
    for seed in seeds() {
        let faults = Faults { loss: 0.5, reorder: 0.1, ..Faults::NONE };
        let mut world = World::with_patience(seed, 1, faults, Duration::from_secs(20));
        let data = chunk_bytes(seed, 50_000);
        world.write(0, 1, &data).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        assert_eq!(world.read(0, 1, 0..50_000).unwrap(), data, "seed {seed}");
    }
}

#[test]
fn five_percent_loss_costs_at_most_a_fifth_more_bytes() {
    let (mut sent, mut needed) = (0, 0);
    for seed in seeds() {
        let mut world = World::new(seed, 1, Faults { loss: 0.05, ..Faults::NONE });
        let data = chunk_bytes(seed, 1 << 20);
        world.write(0, 1, &data).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        world.read(0, 1, 0..1 << 20).unwrap();
        sent += world.chunk_bytes_sent();
        needed += 2 << 20;
    }
    assert!(sent * 10 <= needed * 12, "{sent} bytes sent for {needed}");
}

#[test]
fn a_path_that_shrinks_in_the_middle_is_found_out() {
    for seed in seeds() {
        let mut world = World::new(seed, 1, Faults { mtu: 9000, ..Faults::NONE });
        let data = chunk_bytes(seed, 400_000);
        world.write(0, 1, &data).unwrap();
        world.network.faults.mtu = 1500;
        assert_eq!(world.read(0, 1, 0..400_000).unwrap(), data, "seed {seed}");
        world.write(0, 2, &data).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    }
}

#[test]
fn many_transfers_share_one_node() {
    for seed in seeds() {
        let mut world = World::new(seed, 1, Faults { loss: 0.01, ..Faults::NONE });
        let chunks: Vec<Vec<u8>> = (0..12).map(|i| chunk_bytes(seed + i, 150_000)).collect();
        let writes: Vec<_> = (0..12).map(|i| world.start_write(0, i, &chunks[i as usize])).collect();
        for write in writes {
            assert!(matches!(world.finish(write), Ok(Outcome::Durable(_))), "seed {seed}");
        }
        let reads: Vec<_> = (0..12).map(|i| world.start_read(0, i, 0..150_000)).collect();
        for (i, read) in reads.into_iter().enumerate() {
            let Ok(Outcome::Read(bytes)) = world.finish(read) else { panic!("seed {seed}, chunk {i}") };
            assert_eq!(bytes, chunks[i], "seed {seed}, chunk {i}");
        }
    }
}

#[test]
fn upload_memory_stays_within_its_bound() {
    let mut world = World::new(3, 1, Faults::NONE);
    world.nodes[0].limit_uploads(400_000);
    let data = chunk_bytes(3, 150_000);
    let writes: Vec<_> = (0..10).map(|i| world.start_write(0, i, &data)).collect();
    for write in writes {
        assert!(matches!(world.finish(write), Ok(Outcome::Durable(_))));
    }
    assert!(world.nodes[0].upload_bytes_peak <= 400_000, "{}", world.nodes[0].upload_bytes_peak);
    assert_eq!(world.nodes[0].upload_bytes(), 0);
}

#[test]
fn a_dropped_upload_gives_its_memory_back() {
    let mut world = World::new(4, 1, Faults::NONE);
    let data = chunk_bytes(4, 3 << 20);
    let write = world.start_write(0, 1, &data);
    world.run_for(Duration::from_micros(1500));
    assert!(world.nodes[0].upload_bytes() > 0);
    world.client.cancel(write);
    world.run_for(Duration::from_millis(5));
    assert_eq!(world.nodes[0].upload_bytes(), 0, "the abort reached the node");

    world.start_write(0, 2, &data);
    world.run_for(Duration::from_micros(1500));
    world.network.faults.loss = 1.0;
    world.run_for(Duration::from_secs(30));
    assert_eq!(world.nodes[0].upload_bytes(), 0, "an idle upload is forgotten");
}

#[test]
fn a_dead_node_is_given_up_after_the_patience() {
    let mut world = World::new(5, 1, Faults { loss: 1.0, ..Faults::NONE });
    let before = world.now();
    assert_eq!(world.write(0, 1, &chunk_bytes(5, 10)), Err(TransferError::Unreachable));
    assert_eq!(world.read(0, 1, 0..100_000), Err(TransferError::Unreachable));
    let waited = world.now() - before;
    assert!(waited >= World::PATIENCE * 2 && waited < World::PATIENCE * 3, "{waited:?}");
}

#[test]
fn a_node_that_restarts_forgets_uploads_and_keeps_chunks() {
    for seed in seeds() {
        let mut world = World::new(seed, 1, Faults::NONE);
        let (kept, lost) = (chunk_bytes(seed, 100_000), chunk_bytes(seed + 1, 900_000));
        world.write(0, 1, &kept).unwrap();
        let write = world.start_write(0, 2, &lost);
        world.run_for(Duration::from_micros(900));
        world.nodes[0].restart();
        let outcome = world.finish(write);
        assert!(matches!(outcome, Ok(Outcome::Durable(_))), "seed {seed}: {outcome:?}");
        assert_eq!(world.read(0, 1, 0..100_000).unwrap(), kept, "seed {seed}");
        assert_eq!(world.read(0, 2, 0..900_000).unwrap(), lost, "seed {seed}");
    }
}

#[test]
fn the_same_chunk_again_is_fine_and_another_one_is_a_conflict() {
    let mut world = World::new(6, 1, Faults::NONE);
    for size in [500, 50_000] {
        let data = chunk_bytes(6, size);
        let chunk = size as u64;
        let first = world.write(0, chunk, &data).unwrap();
        assert_eq!(world.write(0, chunk, &data).unwrap(), first);
        assert_eq!(world.confirm(0, chunk, size as u32, crc32c(&data)).unwrap(), first);
        let other = chunk_bytes(7, size);
        assert_eq!(world.write(0, chunk, &other), Err(TransferError::Refused(Status::Conflict)));
        assert_eq!(world.read(0, chunk, 0..size as u32).unwrap(), data);
    }
    let unknown = world.confirm(0, 99, 10, 10);
    assert_eq!(unknown, Err(TransferError::Refused(Status::NotOpen)));
}

#[test]
fn refusals_reach_the_caller() {
    let mut world = World::new(8, 1, Faults::NONE);
    assert_eq!(world.read(0, 1, 0..10), Err(TransferError::Refused(Status::NotFound)));
    assert_eq!(world.read(0, 1, 0..100_000), Err(TransferError::Refused(Status::NotFound)));
    world.rights = Rights::READ;
    assert_eq!(world.write(0, 1, &[1; 10]), Err(TransferError::Refused(Status::Denied)));
    assert_eq!(world.write(0, 1, &[1; 100_000]), Err(TransferError::Refused(Status::Denied)));
    world.rights = Rights::ALL;
    world.nodes[0].store_answer = Err(Status::NoSpace);
    assert_eq!(world.write(0, 1, &[1; 10]), Err(TransferError::Refused(Status::NoSpace)));
    assert_eq!(world.write(0, 1, &[1; 100_000]), Err(TransferError::Refused(Status::NoSpace)));
    world.nodes[0].epoch += 1;
    assert_eq!(world.write(0, 1, &[1; 10]), Err(TransferError::Refused(Status::StaleNode)));
}

#[test]
fn a_slow_disk_is_waited_for() {
    let mut world = World::new(10, 1, Faults::NONE);
    world.nodes[0].store_delay = Duration::from_secs(5);
    world.write(0, 1, &chunk_bytes(1, 100)).unwrap();
    world.write(0, 2, &chunk_bytes(2, 100_000)).unwrap();
    assert_eq!(world.nodes[0].stored, 2, "asking again while the disk works stores nothing twice");
}

#[test]
fn a_stranger_gets_no_more_bytes_than_it_sends() {
    // Everything the client sends is replayed from another address; what the node answers to that address is counted.
    let mut world = World::new(11, 1, Faults::NONE);
    world.network.mirror = true;
    world.write(0, 1, &chunk_bytes(1, 200_000)).unwrap();
    world.write(0, 2, &chunk_bytes(2, 1)).unwrap();
    world.read(0, 1, 0..200_000).unwrap();
    world.read(0, 2, 0..1).unwrap();
    world.read(0, 1, 0..7).unwrap();
    assert!(world.network.mirrored_in > 200_000);
    assert!(
        world.network.mirrored_worst <= 0,
        "one request of a stranger drew {} bytes more than it had",
        world.network.mirrored_worst
    );
}

#[test]
fn hostile_bytes_never_panic_either_side() {
    for seed in seeds() {
        let mut world = World::new(seed, 1, Faults::NONE);
        world.write(0, 1, &chunk_bytes(1, 20_000)).unwrap();
        world.feed_garbage(2000);
        assert_eq!(world.read(0, 1, 0..20_000).unwrap(), chunk_bytes(1, 20_000), "seed {seed}");
    }
}

#[test]
fn several_nodes_are_served_at_once() {
    let mut world = World::new(12, 3, Faults { loss: 0.02, ..Faults::NONE });
    let data = chunk_bytes(12, 500_000);
    let writes: Vec<_> = (0..3).map(|node| world.start_write(node, 1, &data)).collect();
    for write in writes {
        assert!(matches!(world.finish(write), Ok(Outcome::Durable(_))));
    }
    for node in 0..3 {
        assert_eq!(world.read(node, 1, 0..500_000).unwrap(), data);
    }
}

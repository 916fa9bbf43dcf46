//! The protocol on virtual time: a client and some nodes on a network that loses, reorders, duplicates and corrupts
//! by seed. Set `XDPFS_TRANSPORT_SEEDS=FROM..TO` for other seeds than those of a normal run; a failure names its seed.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod network;
mod node;
mod rng;
mod share;
mod storm;
mod world;

use std::time::Duration;

use network::{Bottleneck, Faults, Offload};
use node::{NOW, SECRET};
use world::{Who, World, address_of, chunk_bytes, chunk_id};
use xdpfs_transport::client::Outcome;
use xdpfs_transport::{TransferError, crc32c};
use xdpfs_wire::{ClientId, EpochSecret, Expiry, PieceClass, Rights, SipKey, Status};

fn seeds() -> std::ops::Range<u64> {
    seeds_or(200)
}

fn seeds_or(usual: u64) -> std::ops::Range<u64> {
    let range = std::env::var("XDPFS_TRANSPORT_SEEDS").ok().map(|text| {
        let (from, to) = text.split_once("..").expect("a range of seeds");
        from.parse().unwrap()..to.parse().unwrap()
    });
    range.unwrap_or(0..usual)
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

/// Storms of a normal run. They take some seconds.
const STORMS: u64 = 2000;

#[test]
fn no_storm_costs_a_byte_or_never_ends() {
    let (mut done, mut given_up, mut mild_sent, mut mild_needed) = (0, 0, 0, 0);
    for seed in seeds_or(STORMS) {
        let toll = storm::run(seed);
        (done, given_up) = (done + toll.done, given_up + toll.given_up);
        if toll.was_mild {
            (mild_sent, mild_needed) = (mild_sent + toll.bytes_sent, mild_needed + toll.bytes_needed);
        }
    }
    println!(
        "{done} transfers done, {given_up} given up; {mild_sent} bytes for {mild_needed} in mild storms"
    );
    assert!(given_up * 20 < done, "{given_up} given up, {done} done");
    assert!(mild_sent * 10 <= mild_needed * 12, "{mild_sent} bytes sent for {mild_needed}");
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

/// Before anything larger than the smallest piece, the path is looked into: whoever is asked there may refuse that already.
#[test]
fn a_client_with_an_old_table_is_corrected_by_the_first_reply() {
    let small = 10;
    for (seed, length) in [(9, small), (10, 1000), (11, 100_000), (12, 4 << 20)] {
        let set_up = || {
            let mut world = World::new(seed, 2, Faults::NONE);
            world.network.faults.delay = Duration::from_millis(1);
            world
        };
        // Another node has come to its address.
        let mut moved = set_up();
        moved.nodes[1].address = moved.nodes[0].address;
        // It came back with the time of a later capability.
        let mut late = set_up();
        late.nodes[1].clock.0 += 10_000;
        for (mut world, status) in [(moved, Status::WrongNode), (late, Status::Expired)] {
            let refused = Err(TransferError::Refused(status));
            let began = world.now();
            assert_eq!(world.read(1, 1, 0..length), refused, "read of {length}");
            assert_eq!(world.write(1, 2, &chunk_bytes(1, length as usize)).map(drop), refused.map(drop));
            assert_eq!(world.now() - began, Duration::from_millis(4), "a round trip each, of {length} bytes");
            let held = world.client.held();
            assert_eq!((held.transfers, held.requests, held.window_bytes), (0, 0, 0), "{length}");
            assert_eq!(world.client.counters().timeouts, 0, "{length}");
        }
    }
}

/// A capability that a node does not take ends the transfers under it, and no others.
#[test]
fn a_refused_ping_ends_what_waits_under_its_capability_only() {
    let mut world = World::new(13, 1, Faults::NONE);
    world.nodes[0].insert(chunk_id(1), chunk_bytes(1, 1 << 20));
    let good_until = std::mem::replace(&mut world.expiry, Expiry(NOW.0 - 1));
    let bad = [world.start_read(0, 1, 0..1 << 20), world.start_write(0, 2, &chunk_bytes(2, 1 << 20))];
    world.expiry = good_until;
    let good = world.start_read(0, 1, 0..1 << 20);
    for transfer in bad {
        let outcome = world.finish(transfer).map(drop);
        assert_eq!(outcome, Err(TransferError::Refused(Status::Expired)));
    }
    assert!(matches!(world.finish(good), Ok(Outcome::Read(bytes)) if bytes == chunk_bytes(1, 1 << 20)));
    world.run_for(World::PATIENCE);
    assert_eq!(world.client.held().requests, 0);
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
fn gets_under_other_client_ids_need_no_further_cookie() {
    let mut world = World::new(15, 1, Faults::NONE);
    let data = chunk_bytes(15, 100_000);
    world.write(0, 1, &data).unwrap();
    let sent = [77, 78, 77, 79].map(|client| {
        world.client_id = ClientId(client);
        let before = world.client.counters().datagrams_sent;
        assert_eq!(world.read(0, 1, 0..100_000).unwrap(), data);
        world.client.counters().datagrams_sent - before
    });
    assert_eq!(sent, [sent[0]; 4], "each asks for its bursts and for nothing else");
}

#[test]
fn a_key_that_the_node_does_not_take_closes_the_path_to_nobody_else() {
    let mut world = World::new(16, 1, Faults::NONE);
    let data = chunk_bytes(16, 100_000);
    world.nodes[0].insert(chunk_id(1), data.clone());
    world.secret = EpochSecret(SipKey { k0: 1, k1: 2 });
    assert_eq!(world.read(0, 1, 0..100_000), Err(TransferError::Unreachable));
    world.secret = SECRET;
    assert_eq!(world.read(0, 1, 0..100_000).unwrap(), data);
}

#[test]
fn a_node_that_is_slower_than_its_path_is_waited_for() {
    let mut world = World::new(17, 1, Faults::NONE);
    let data = chunk_bytes(17, 4 << 20);
    world.nodes[0].insert(chunk_id(1), data.clone());
    world.nodes[0].read_delay_min = Duration::from_millis(10);
    let mut sent = [0; 4];
    for sent in &mut sent {
        let before = world.chunk_bytes_sent();
        assert!(world.read(0, 1, 0..4 << 20).unwrap() == data);
        *sent = world.chunk_bytes_sent() - before;
    }
    // The first one learns how slow it is, and is not far off either.
    assert!(sent.iter().all(|sent| sent * 10 <= (4 << 20) * 12), "{sent:?} bytes sent for 4 MiB each");
}

#[test]
fn a_read_that_waits_for_room_is_not_stuck() {
    let mut world = World::with_patience(18, 1, Faults::NONE, Duration::from_secs(1));
    let link = Bottleneck::new(10_000_000, 256 << 10);
    world.network.bottlenecks.insert(address_of(Who::Client, 0).ip(), link);
    for chunk in 0..32 {
        world.nodes[0].insert(chunk_id(chunk), chunk_bytes(chunk, 1 << 20));
    }
    // The last have to wait for more than three seconds.
    let reads: Vec<_> = (0..32).map(|chunk| world.start_read(0, chunk, 0..1 << 20)).collect();
    for (chunk, read) in reads.into_iter().enumerate() {
        let outcome = world.finish(read);
        assert!(matches!(outcome, Ok(Outcome::Read(_))), "chunk {chunk}: {:?}", outcome.err());
    }
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

#[test]
fn many_nodes_that_answer_at_once_share_the_last_link() {
    println!("nodes  queue    of the link  p99        dropped  sent of needed");
    for queue_bytes in [128 << 10, 2 << 20] {
        for nodes in [1, 2, 4, 8, 16, 32] {
            let incast = share::incast(nodes, queue_bytes);
            let share::Incast { share, p99, dropped, cost } = incast;
            println!("{nodes:<6} {queue_bytes:<8} {share:<12.2} {p99:<10.1?} {dropped:<8} {cost:.3}");
            assert!(share > 0.5 && cost < 1.15, "{nodes} nodes: {share:.2} of the link, {cost:.3} of needed");
        }
    }
}

#[test]
fn clients_share_a_link_with_each_other_and_with_tcp() {
    for queue_bytes in [64 << 10, 128 << 10, 256 << 10, 1 << 20] {
        let [first, second] = share::two_clients(queue_bytes);
        println!("queue of {queue_bytes}: two clients have {first:.2} and {second:.2} of the link");
        // A queue of one burst is all or nothing for either.
        let least = if queue_bytes > 64 << 10 { 0.15 } else { 0.0 };
        assert!(first.min(second) > least && first + second > 0.8, "{first} and {second}");
        let [ours, tcp] = share::beside_tcp(queue_bytes);
        println!("queue of {queue_bytes}: a client has {ours:.2}, TCP beside it {tcp:.2}");
        assert!(ours + tcp > 0.8, "{ours} and {tcp}");
    }
}

/// What is wrong with super-packets, and how a path gets on with it.
#[test]
fn super_packets_that_are_damaged_or_lost_are_given_up() {
    for offload in [Offload::DamagesTheLast, Offload::LosesAll] {
        let mut world = World::new(13, 1, Faults { offload, mtu: 1500, ..Faults::NONE });
        let data = chunk_bytes(13, 3 << 20);
        for chunk in 0..3 {
            world.write(0, chunk, &data).unwrap_or_else(|error| panic!("{offload:?}: {error}"));
            assert!(world.read(0, chunk, 0..3 << 20).unwrap() == data, "{offload:?}");
        }
        assert_eq!(world.client.counters().paths_one_by_one, 1, "{offload:?}");
        // From here on nothing is lost or damaged any more.
        let before = world.client.counters();
        assert!(world.read(0, 0, 0..3 << 20).unwrap() == data);
        world.write(0, 4, &data).unwrap();
        let after = world.client.counters();
        assert_eq!((after.retransmits, after.timeouts), (before.retransmits, before.timeouts), "{offload:?}");
    }
    let mut world = World::new(14, 1, Faults { loss: 0.1, mtu: 1500, ..Faults::NONE });
    let data = chunk_bytes(14, 3 << 20);
    world.write(0, 1, &data).unwrap();
    world.read(0, 1, 0..3 << 20).unwrap();
    assert_eq!(world.client.counters().paths_one_by_one, 0, "losses alone are no sign");
}

#[test]
fn a_path_that_is_stuck_is_tried_from_another_port() {
    let mut world = World::new(15, 1, Faults::NONE);
    let data = chunk_bytes(15, 200_000);
    world.write(0, 1, &data).unwrap();
    world.network.blocked_port = Some(address_of(Who::Client, 0).port());
    assert!(world.read(0, 1, 0..200_000).unwrap() == data);
}

#[test]
fn a_client_that_was_stopped_for_long_goes_on() {
    let mut world = World::new(16, 1, Faults::NONE);
    let data = chunk_bytes(16, 2 << 20);
    let write = world.start_write(0, 1, &data);
    world.run_for(Duration::from_micros(700));
    world.jump(Duration::from_secs(9));
    assert!(matches!(world.finish(write), Ok(Outcome::Durable(_))));
    let read = world.start_read(0, 1, 0..2 << 20);
    world.run_for(Duration::from_micros(700));
    world.jump(Duration::from_secs(3600));
    assert!(matches!(world.finish(read), Ok(Outcome::Read(_))));
}

//! What the network and the machines do to a cluster that serves clients, and what must hold all the same.
//!
//! Each ends with all servers in the same state and with the clients' histories judged (`cluster.rs`).

use std::{env, time::Duration};

use super::{
    cluster::Cluster,
    process::{asked_seed, run, run_here, simulate},
    server::IDS,
    trace,
};
use crate::{config::ConsensusConfig, mistake::Mistake};

const SEEDS: [u64; 3] = [1, 2, 3];
/// Seeds that a mistake may survive.
const SEEDS_MAX: u64 = 12;
const CLIENTS: u64 = 4;
/// Unless `XDPFS_SIMULATED_NETWORK_SEEDS` says how many.
const STORMS: u64 = 6;
/// In one storm.
const TROUBLES: u32 = 10;
/// Longer than it takes the others to notice that a leader is gone, and to have another one.
const LONG: Duration = Duration::from_secs(3);
/// Shorter than anybody waits for a leader.
const SHORT: Duration = Duration::from_millis(300);

/// A cluster that serves clients, and who leads it.
fn begin(cluster: &mut Cluster) -> u64 {
    cluster.clients(CLIENTS);
    cluster.elect()
}

fn elects_another(cluster: &mut Cluster, leader: u64) -> u64 {
    cluster.run_until("another server leads", |cluster| {
        cluster.leader().is_some_and(|another| another != leader)
    });
    cluster.leader().expect("somebody leads")
}

/// A leader looks once in the time of an election whether it is followed, and steps down if it has heard of nobody since it
/// looked before. Cut off just after a look, it takes itself for the leader for twice that time, and others choose another.
fn leader_is_cut_off(cluster: &mut Cluster) {
    cluster.clients(CLIENTS);
    cluster.run_until("somebody leads", |cluster| cluster.leader().is_some());
    let began = cluster.elapsed();
    let leader = cluster.elect();
    let consensus = ConsensusConfig::default();
    let between_looks = (consensus.tick * consensus.election_ticks as u32).as_millis();
    cluster.run_until("the leader has just looked", |cluster| {
        (cluster.elapsed() - began).as_millis() % between_looks == consensus.tick.as_millis()
    });
    // Clients that reach it still, and ask nobody else.
    (0..3).for_each(|_| cluster.client(|client| client.of_one(leader).only_read()));
    cluster.isolate(leader);
    let second = elects_another(cluster, leader);
    // And others that change meanwhile what those read.
    (0..2).for_each(|_| cluster.client(|client| client.of_one(second).run()));
    cluster.run_for(LONG);
    cluster.go_on();
    cluster.repair(leader);
    cluster.go_on();
}

#[test]
fn leader_that_is_cut_off_is_replaced_and_follows_after_repair() {
    simulate("leader_that_is_cut_off_is_replaced_and_follows_after_repair", SEEDS, leader_is_cut_off);
}

#[test]
fn leader_that_is_not_heard_is_replaced() {
    simulate("leader_that_is_not_heard_is_replaced", SEEDS, |cluster| {
        let leader = begin(cluster);
        cluster.client(|client| client.of_one(leader).only_read());
        cluster.mute(leader);
        elects_another(cluster, leader);
        cluster.run_for(LONG);
        cluster.go_on();
        cluster.unmute(leader);
        cluster.go_on();
    });
}

#[test]
fn follower_that_is_not_heard_deposes_nobody() {
    simulate("follower_that_is_not_heard_deposes_nobody", SEEDS, |cluster| {
        let leader = begin(cluster);
        let (follower, term) = (Cluster::others(leader).next().expect("there are three"), cluster.term());
        cluster.mute(follower);
        cluster.run_for(LONG);
        cluster.go_on();
        cluster.unmute(follower);
        let committed = cluster.applied(leader);
        cluster.run_until("it catches up", |cluster| cluster.applied(follower) >= committed);
        cluster.go_on();
        assert_eq!((cluster.leader(), cluster.term()), (Some(leader), term));
    });
}

#[test]
fn messages_that_are_held_for_a_moment_change_no_leader() {
    simulate("messages_that_are_held_for_a_moment_change_no_leader", SEEDS, |cluster| {
        let leader = begin(cluster);
        let term = cluster.term();
        for _ in 0..5 {
            cluster.hold(leader);
            cluster.run_for(SHORT);
            cluster.release(leader);
            cluster.go_on();
        }
        assert_eq!((cluster.leader(), cluster.term()), (Some(leader), term));
    });
}

#[test]
fn messages_of_a_former_leader_that_arrive_late_do_no_harm() {
    simulate("messages_of_a_former_leader_that_arrive_late_do_no_harm", SEEDS, |cluster| {
        let leader = begin(cluster);
        cluster.client(|client| client.of_one(leader).only_read());
        cluster.hold(leader);
        elects_another(cluster, leader);
        cluster.release(leader);
        cluster.go_on();
        cluster.run_for(LONG);
    });
}

fn servers_crash(cluster: &mut Cluster) {
    let leader = begin(cluster);
    let follower = Cluster::others(leader).next().expect("there are three");
    cluster.crash(follower);
    cluster.go_on();
    cluster.restart(follower);
    cluster.go_on();
    let leader = cluster.elect();
    cluster.crash(leader);
    elects_another(cluster, leader);
    cluster.go_on();
    cluster.restart(leader);
    cluster.go_on();
    IDS.into_iter().for_each(|id| cluster.crash(id));
    cluster.run_for(SHORT);
    IDS.into_iter().for_each(|id| cluster.restart(id));
    cluster.go_on();
}

#[test]
fn servers_that_crash_come_back_with_all_that_was_acknowledged() {
    simulate("servers_that_crash_come_back_with_all_that_was_acknowledged", SEEDS, servers_crash);
}

/// A state of several parts, of which a server that was away has nothing, and no log that would lead there.
fn miss_much(cluster: &mut Cluster) -> u64 {
    let leader = begin(cluster);
    let follower = Cluster::others(leader).next().expect("there are three");
    cluster.crash(follower);
    (0..8).for_each(|_| cluster.client(|client| client.fill(100, 1900)));
    let before = cluster.applied(leader);
    cluster.run_until("much has changed", |cluster| cluster.applied(leader) > before + 1600);
    assert_eq!(installed(), 0);
    follower
}

/// Snapshots that servers have taken from others.
fn installed() -> u64 {
    trace::count("a snapshot was installed by a peer")
}

#[test]
fn server_that_was_away_for_long_gets_a_snapshot() {
    simulate("server_that_was_away_for_long_gets_a_snapshot", SEEDS, |cluster| {
        let follower = miss_much(cluster);
        cluster.restart(follower);
        cluster.run_until("it has a snapshot", |_| installed() > 0);
        let leader = cluster.elect();
        let committed = cluster.applied(leader);
        cluster.run_until("it catches up", |cluster| cluster.applied(follower) >= committed);
        cluster.go_on();
    });
}

#[test]
fn snapshot_whose_sender_is_cut_off_is_sent_again() {
    simulate("snapshot_whose_sender_is_cut_off_is_sent_again", SEEDS, |cluster| {
        let follower = miss_much(cluster);
        let leader = cluster.elect();
        let before = cluster.bulk(follower);
        cluster.restart(follower);
        cluster.run_until("parts are under way", |cluster| cluster.bulk(follower) > before);
        cluster.cut(leader, follower);
        cluster.run_for(SHORT);
        assert_eq!(installed(), 0, "it was cut off too late");
        cluster.repair(leader);
        cluster
            .run_until("the leader gives the first one up", |_| trace::count("a snapshot was not sent") > 0);
        cluster.run_until("it has a snapshot", |_| installed() > 0);
        cluster.go_on();
    });
}

/// What befalls a server, or ends.
type Act = fn(&mut Cluster, u64);

/// Troubles by chance, one behind the other, and of any length.
fn storm(cluster: &mut Cluster) {
    begin(cluster);
    // Who does not know that another server leads by now.
    IDS.into_iter().for_each(|id| cluster.client(move |client| client.of_one(id).only_read()));
    let mut random = fastrand::Rng::with_seed(cluster.seed.wrapping_mul(31));
    for _ in 0..TROUBLES {
        cluster.run_for(Duration::from_millis(random.u64(..800)));
        let length = Duration::from_millis(random.u64(..2500));
        let id = match random.bool() {
            true => cluster.leader().unwrap_or(IDS[0]),
            false => IDS[random.usize(..IDS.len())],
        };
        let (begin, end): (Act, Act) = match random.u8(..5) {
            0 => (Cluster::isolate, Cluster::repair),
            1 => (Cluster::mute, Cluster::unmute),
            2 => (Cluster::hold, Cluster::release),
            3 => (Cluster::shut_out, Cluster::let_in),
            _ => (Cluster::crash, Cluster::restart),
        };
        begin(cluster, id);
        cluster.run_for(length);
        end(cluster, id);
    }
    cluster.go_on();
}

#[test]
fn nothing_acknowledged_is_lost_whatever_the_network_does() {
    let storms = env::var("XDPFS_SIMULATED_NETWORK_SEEDS");
    let storms = storms.map_or(STORMS, |text| text.parse().expect("it is a number"));
    simulate("nothing_acknowledged_is_lost_whatever_the_network_does", 1..=storms, storm);
}

/// A little of everything.
fn all_kinds_of_trouble(cluster: &mut Cluster) {
    let leader = begin(cluster);
    cluster.hold(leader);
    cluster.run_for(SHORT);
    cluster.release(leader);
    cluster.isolate(leader);
    let second = elects_another(cluster, leader);
    cluster.go_on();
    cluster.repair(leader);
    cluster.crash(second);
    cluster.run_for(LONG);
    cluster.restart(second);
    cluster.go_on();
}

#[test]
fn same_seed_gives_the_same_trace() {
    const TEST: &str = "same_seed_gives_the_same_trace";
    if let Some(seed) = asked_seed() {
        return run_here(seed, all_kinds_of_trouble);
    }
    let trace = |seed| {
        let run = run(TEST, seed, None);
        assert!(run.is_well, "seed {seed}: {}", run.words);
        run.trace
    };
    let (first, again, other) = (trace(1), trace(1), trace(2));
    let differing = first.lines().zip(again.lines()).enumerate().find(|(_, (one, other))| one != other);
    assert!(differing.is_none(), "the same seed has gone two ways: {differing:?}");
    assert_eq!(first.len(), again.len());
    assert_ne!(first, other);
    for what in ["Send", "Delivered", "leadership changed", "Put(", "Found("] {
        assert!(first.contains(what), "the trace does not tell: {what}");
    }
}

/// The tests would fail if somebody made these mistakes.
#[test]
fn planted_mistakes_are_found() {
    let find = |mistake, test| {
        let found = (1..=SEEDS_MAX).find(|seed| !run(test, *seed, Some(mistake)).is_well);
        assert!(found.is_some(), "{mistake:?} survives {SEEDS_MAX} seeds of {test}");
        eprintln!("{mistake:?}: found by {test} with seed {}", found.unwrap_or_default());
    };
    let cut_off = "leader_that_is_cut_off_is_replaced_and_follows_after_repair";
    find(Mistake::ReadsWithoutQuorum, cut_off);
    find(Mistake::AppliesBeforeCommit, cut_off);
    find(Mistake::SkipsSync, "servers_that_crash_come_back_with_all_that_was_acknowledged");
    let storm = "nothing_acknowledged_is_lost_whatever_the_network_does";
    find(Mistake::InstallsBeforeParts, storm);
    find(Mistake::KeepsConflictingTail, storm);
    find(Mistake::PreconditionsOnlyAtBegin, storm);
    find(Mistake::RepeatsApplied, storm);
}

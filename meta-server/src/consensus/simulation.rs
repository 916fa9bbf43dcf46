//! Whole clusters on virtual time, network and media, by seed: safety while everything fails, then healing.
//!
//! Runs as many seeds as `XDPFS_SIM_SEEDS` says (`500`, or `17..18` for seed 17 alone). The seed of a run that fails is
//! printed.

mod checks;
mod client;
mod cluster;
mod network;
mod operator;
mod random;
mod scenarios;
mod server;

use std::{ops::Range, thread};

use self::cluster::Cluster;

const SEEDS: Range<u64> = 0..50;
const STORM_MS: u64 = 6000;

/// Says which seed failed.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("the simulation failed: repeat it with XDPFS_SIM_SEEDS={}..{}", self.0, self.0 + 1);
        }
    }
}

fn seeds() -> Range<u64> {
    let Ok(text) = std::env::var("XDPFS_SIM_SEEDS") else { return SEEDS };
    let (from, to) = text.split_once("..").unwrap_or(("0", &text));
    from.parse().expect("XDPFS_SIM_SEEDS holds numbers")..to.parse().expect("XDPFS_SIM_SEEDS holds numbers")
}

fn weather_a_storm(seed: u64) -> Cluster {
    let _seed = Seed(seed);
    let mut cluster = Cluster::stormy(seed);
    cluster.run(STORM_MS);
    cluster.calm_down();
    let changes = cluster.seen.changes;
    cluster.run_until("clients go on", |cluster| {
        cluster.seen.changes > changes + 20 && cluster.leader().is_some()
    });
    cluster.send_clients_home();
    cluster.run_until("the members are what is wanted of them", |cluster| {
        !cluster.checks.reference.members().is_changing()
    });
    cluster.run_until("clients have their answers", |cluster| cluster.clients_are_idle());
    cluster.run_until("all servers are equal", Cluster::all_are_equal);
    cluster
}

/// What happened in many runs.
#[derive(Debug, Default)]
struct Totals {
    changes: u64,
    reads: u64,
    unknown_outcomes: u64,
    given_up: u64,
    crashes: u64,
    snapshots: u64,
    elections: u64,
    wishes: u64,
    configured: u64,
}

impl Totals {
    fn add(&mut self, cluster: &Cluster) {
        self.changes += cluster.seen.changes;
        self.reads += cluster.seen.reads;
        self.unknown_outcomes += cluster.seen.unknown_outcomes;
        self.given_up += cluster.seen.given_up;
        self.crashes += cluster.crashes;
        self.snapshots += cluster.network.snapshots;
        self.elections += cluster.checks.elections() as u64;
        self.wishes += cluster.operator.done;
        self.configured += cluster.checks.configured;
    }

    /// A simulation in which something never happens shows nothing about it.
    fn is_rich(&self) -> bool {
        let rare = [
            self.unknown_outcomes,
            self.given_up,
            self.crashes,
            self.snapshots,
            self.elections,
            self.wishes,
            self.configured,
        ];
        rare.iter().all(|count| *count > 20) && self.changes > 1000 && self.reads > 1000
    }
}

#[test]
fn nothing_acknowledged_is_lost_in_any_storm() {
    let mut totals = Totals::default();
    seeds().for_each(|seed| totals.add(&weather_a_storm(seed)));
    eprintln!("{totals:?}");
    assert!(totals.is_rich() || seeds().count() < 20, "{totals:?}");
}

#[test]
fn same_seed_gives_the_same_history() {
    let history = |seed| {
        let cluster = weather_a_storm(seed);
        (cluster.now_ms, cluster.checks.committed_index(), cluster.seen.reads, cluster.checks.elections())
    };
    for seed in 1..4 {
        assert_eq!(history(seed), history(seed), "seed {seed}");
    }
}

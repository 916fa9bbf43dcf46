//! Whole clusters on virtual time, by seed: the state machine, placement, liveness and repair as servers run them, with data
//! nodes, clients, a log and a network of the simulation's own. Everything fails for a while, then nothing does.
//!
//! `cargo xtask sim` runs any number of seeds; `XDPFS_CLUSTER_SEEDS` says which (`500`, or `17..18` for seed 17 alone). Invariant:
//! a seed is a history; what must hold is looked at after every step that has changed anything (`checks.rs`,
//! docs/design/0038-the-model-and-the-cluster-simulator.md).

mod checks;
mod client;
mod cluster;
mod faults;
mod leader;
mod messages;
mod node;
mod options;
mod totals;

use std::{env, ops::Range, time::Instant};

use self::{cluster::Cluster, totals::Totals};
use crate::{
    consensus::simulation::runs,
    mistake::{Mistake, plant},
};

const BUCKET: &str = "abc";
/// Bytes of a chunk.
const LENGTH: u32 = 8;
const SEEDS: Range<u64> = 0..40;
/// All must be whole again by then: nodes are given up after half a minute, what failed is put off for up to one, and replicas
/// that leave go after another.
const HEAL_MS: u64 = 250_000;
/// How many seeds a mistake may survive.
const MISTAKE_SEEDS_MAX: u64 = 300;

fn seeds() -> Range<u64> {
    let Ok(text) = env::var("XDPFS_CLUSTER_SEEDS") else { return SEEDS };
    let (from, to) = text.split_once("..").unwrap_or(("0", &text));
    let number = |text: &str| text.parse().expect("XDPFS_CLUSTER_SEEDS holds numbers");
    number(from)..number(to)
}

fn run(seed: u64) -> Totals {
    let mut cluster = Cluster::new(seed);
    let storm_ends_ms = cluster.now_ms + cluster.options.storm_ms;
    cluster.run(storm_ends_ms, |_| false);
    cluster.calm_down();
    let healed = cluster.run(storm_ends_ms + HEAL_MS, Cluster::is_whole);
    assert!(healed, "not all is whole again: {}", cluster.wounds());
    cluster.totals.heal_ms += cluster.now_ms - storm_ends_ms;
    cluster.totals.stranded += cluster.stranded();
    cluster.totals
}

#[test]
fn nothing_acknowledged_is_lost_and_all_replicas_come_back() {
    let began = Instant::now();
    let mut totals = Totals::default();
    let mut failed = Vec::new();
    let count = seeds().count();
    for (seed, ended) in runs::each(seeds(), run) {
        match ended {
            Ok(of_seed) => totals.add(&of_seed),
            Err(why) => failed.push((seed, why)),
        }
    }
    eprintln!("{totals}\n{count} seeds in {:.1} s", began.elapsed().as_secs_f64());
    for (seed, why) in &failed {
        let options = Cluster::new(*seed).options;
        eprintln!(
            "seed {seed} failed: {why}\n    {options:?}\n    again: cargo xtask sim --seeds 0 --clusters 1 --from {seed}"
        );
    }
    assert!(failed.is_empty(), "{} of {count} seeds failed", failed.len());
    let missing = totals.missing();
    assert!(
        missing.is_empty() || count < 20,
        "some things never happened, which shows nothing about them: {missing:?}"
    );
}

#[test]
fn same_seed_gives_the_same_history() {
    for seed in 1..4 {
        assert_eq!(run(seed), run(seed), "seed {seed}");
    }
}

#[test]
fn every_mistake_of_repair_that_is_planted_is_found() {
    let find = |mistake: Mistake| {
        (0..MISTAKE_SEEDS_MAX).find_map(|seed| {
            plant(Some(mistake));
            let why = runs::panic_of(|| {
                run(seed);
            });
            plant(None);
            why.map(|why| (seed, why))
        })
    };
    let all = 0..Mistake::OF_REPAIR.len() as u64;
    let mut survivors = Vec::new();
    for (at, found) in runs::each(all, |at| find(Mistake::OF_REPAIR[at as usize])) {
        let mistake = Mistake::OF_REPAIR[at as usize];
        match found.expect("a search does not panic") {
            Some((seed, why)) => {
                let why: String = why.lines().next().unwrap_or_default().chars().take(110).collect();
                eprintln!("{mistake:<24?} found by seed {seed:>3}: {why}");
            }
            None => survivors.push(mistake),
        }
    }
    assert!(survivors.is_empty(), "the simulation would not find {survivors:?}");
}

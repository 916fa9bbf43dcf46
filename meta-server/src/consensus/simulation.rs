//! Whole clusters on virtual time, network and media, by seed: safety while everything fails, then healing.
//!
//! `cargo xtask sim` runs any number of seeds; `XDPFS_SIM_SEEDS` says which (`500`, or `17..18` for seed 17 alone) and
//! `XDPFS_SIM_REPLICAS` how many servers vote at first, if not the seed. The seed of a run that fails is printed, with what it
//! decides. Invariant: a seed is a history; nothing in it depends on the machine, its clocks, or other runs.

mod checks;
mod client;
mod cluster;
mod histories;
mod mistakes;
mod network;
mod objects;
mod operator;
mod options;
mod random;
pub(crate) mod runs;
mod scenarios;
mod server;
mod totals;

use std::{env, ops::Range, time::Instant};

use self::{cluster::Cluster, totals::Totals};

const SEEDS: Range<u64> = 0..100;
const STORM_MS: u64 = 6000;
/// Seeds that once failed, one a line, with what was wrong. They come first, always.
const KEPT: &str = include_str!("simulation/kept_seeds.txt");

fn seeds() -> Range<u64> {
    let Ok(text) = env::var("XDPFS_SIM_SEEDS") else { return SEEDS };
    let (from, to) = text.split_once("..").unwrap_or(("0", &text));
    from.parse().expect("XDPFS_SIM_SEEDS holds numbers")..to.parse().expect("XDPFS_SIM_SEEDS holds numbers")
}

fn replicas() -> Option<u64> {
    let text = env::var("XDPFS_SIM_REPLICAS").ok()?;
    Some(text.parse().expect("XDPFS_SIM_REPLICAS is a number"))
}

fn kept_seeds() -> impl Iterator<Item = u64> {
    let lines = KEPT.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    lines.map(|line| {
        line.split(' ').next().and_then(|seed| seed.parse().ok()).expect("a line begins with a seed")
    })
}

/// Gives how many operations of clients there were.
fn weather_a_storm(cluster: &mut Cluster) -> u64 {
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
    cluster.histories.judge()
}

fn run(seed: u64) -> Totals {
    let mut cluster = Cluster::stormy(seed, replicas());
    let operations = weather_a_storm(&mut cluster);
    Totals::of(&cluster, operations)
}

#[test]
fn nothing_acknowledged_is_lost_in_any_storm() {
    let began = Instant::now();
    let mut totals = Totals::default();
    let mut failed = Vec::new();
    let count = kept_seeds().count() + seeds().count();
    for (seed, ended) in runs::each(kept_seeds().chain(seeds()), run) {
        match ended {
            Ok(of_seed) => totals.add(&of_seed),
            Err(why) => failed.push((seed, why)),
        }
    }
    eprintln!("{totals}\n{count} seeds in {:.1} s", began.elapsed().as_secs_f64());
    for (seed, why) in &failed {
        let options = Cluster::stormy(*seed, replicas()).options;
        eprintln!(
            "seed {seed} failed: {why}\n    {options:?}\n    again: cargo xtask sim --from {seed} --seeds 1"
        );
    }
    assert!(failed.is_empty(), "{} of {count} seeds failed", failed.len());
    assert!(
        totals.is_rich() || count < 50,
        "something hardly ever happened, which shows nothing about it:\n{totals}"
    );
}

#[test]
fn same_seed_gives_the_same_history() {
    let history = |seed| {
        let totals = run(seed);
        format!("{totals:?}")
    };
    for seed in 1..5 {
        assert_eq!(history(seed), history(seed), "seed {seed}");
    }
}

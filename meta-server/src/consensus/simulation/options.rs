//! What a seed decides about a run before it begins.

use std::time::Duration;

use super::{network::Weather, random::Random};
use crate::config::ConsensusConfig;

pub(super) const TICK_MS: u64 = 10;

/// A run.
#[derive(Clone, Debug)]
pub(super) struct Options {
    /// Servers that vote at first.
    pub(super) replicas: u64,
    /// What the bucket of the clients may hold; zero is no bound.
    pub(super) quota_bytes: u64,
    pub(super) config: ConsensusConfig,
    pub(super) faults: Faults,
}

/// Which faults a run has: some of them, drawn anew for each, since a run without some kind of fault goes further in
/// others.
#[derive(Clone, Debug, Default)]
pub(super) struct Faults {
    pub(super) weather: Weather,
    /// Milliseconds between two crashes; zero is never. Likewise below.
    pub(super) crash_every_ms: u64,
    pub(super) partition_every_ms: u64,
    pub(super) pause_every_ms: u64,
    pub(super) transfer_every_ms: u64,
    /// Milliseconds between two wishes of an operator about the members.
    pub(super) wish_every_ms: u64,
    /// How far servers' wall clocks are apart at first.
    pub(super) clock_skew_max_ms: u64,
    /// Milliseconds between two jumps of a wall clock.
    pub(super) clock_jump_every_ms: u64,
    /// A step of the log thread in so many milliseconds.
    pub(super) disk_slowness: u64,
    pub(super) apply_slowness: u64,
    /// Outputs that the raft loop takes at a time; zero is all.
    pub(super) outputs_max: u64,
}

impl Options {
    /// `replicas` overrides what the seed would say.
    pub(super) fn draw(seed: u64, replicas: Option<u64>, random: &mut Random) -> Self {
        let faults = Faults::draw(random);
        let config = ConsensusConfig {
            snapshot_entries: random.pick(&[3, 20, 1000]),
            log_bytes_max: random.pick(&[5_000, 1 << 20]),
            log_entries_kept: random.pick(&[0, 5, 50]),
            ..calm_config()
        };
        let of_seed = if seed.is_multiple_of(2) { 3 } else { 5 };
        Self {
            replicas: replicas.unwrap_or(of_seed),
            quota_bytes: random.pick(&[0, 0, 5_000]),
            config,
            faults,
        }
    }
}

impl Faults {
    fn draw(random: &mut Random) -> Self {
        let mut some = |choices: &[u64]| if random.one_in(2) { random.pick(choices) } else { 0 };
        Self {
            weather: Weather {
                delay_max_ms: some(&[5, 30]).max(1),
                lost_one_in: some(&[50, 10, 5]),
                doubled_one_in: some(&[30, 5]),
            },
            crash_every_ms: some(&[1500, 400]),
            partition_every_ms: some(&[1500, 500]),
            pause_every_ms: some(&[1000]),
            transfer_every_ms: some(&[1000]),
            wish_every_ms: some(&[300, 100]),
            clock_skew_max_ms: some(&[100, 10_000]),
            clock_jump_every_ms: some(&[3000, 500]),
            disk_slowness: some(&[4, 20]).max(1),
            apply_slowness: some(&[4, 20]).max(1),
            outputs_max: some(&[3]),
        }
    }

    /// None.
    pub(super) fn none() -> Self {
        Self { disk_slowness: 1, apply_slowness: 1, ..Self::default() }
    }
}

pub(super) fn calm_config() -> ConsensusConfig {
    ConsensusConfig {
        tick: Duration::from_millis(TICK_MS),
        election_ticks: 10,
        heartbeat_ticks: 2,
        ..ConsensusConfig::default()
    }
}

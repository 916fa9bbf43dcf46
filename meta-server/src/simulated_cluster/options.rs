//! What a seed decides about a run before it begins.

use fastrand::Rng;

/// Nodes that a chunk is to lie on, and that it can't do without.
pub(super) const REPLICAS: u32 = 3;
pub(super) const REPLICAS_MIN: u32 = 2;

/// What times are in these clusters, in milliseconds: shorter than in earnest, in about the same proportions.
pub(super) const HEARTBEAT_MS: u64 = 1000;
pub(super) const SILENT_MS: u64 = 3000;
pub(super) const LEASE_MS: u64 = 10_000;
pub(super) const REPAIR_AFTER_MS: u64 = 30_000;
pub(super) const UPLOAD_LEASE_MS: u64 = 20_000;
pub(super) const CAPABILITY_MS: u64 = 40_000;
pub(super) const GRACE_MS: u64 = 60_000;

/// A run.
#[derive(Clone, Debug)]
pub(super) struct Options {
    pub(super) nodes: usize,
    pub(super) clients: usize,
    /// Keys of each client.
    pub(super) keys: usize,
    pub(super) storm_ms: u64,
    pub(super) faults: Faults,
}

/// Milliseconds between two faults of each kind; zero is never. Some of them, drawn anew for each run, since a run without
/// some kind of fault goes further in others.
#[derive(Clone, Debug, Default)]
pub(super) struct Faults {
    /// A message in so many is lost; zero is none.
    pub(super) lost_one_in: u64,
    pub(super) delay_max_ms: u64,
    /// How long the log takes for an entry.
    pub(super) commit_max_ms: u64,
    pub(super) crash_ms: u64,
    /// The node starts again with an empty disk, as the same node or as another one.
    pub(super) wipe_ms: u64,
    pub(super) freeze_ms: u64,
    pub(super) cut_ms: u64,
    pub(super) slow_ms: u64,
    pub(super) full_ms: u64,
    pub(super) rot_ms: u64,
    pub(super) drain_ms: u64,
    /// The leader is another one.
    pub(super) election_ms: u64,
    /// All metadata servers stand still.
    pub(super) standstill_ms: u64,
    /// Clients that leave in the middle of a put, or come back to it late: one in so many.
    pub(super) odd_client_one_in: u64,
}

impl Options {
    pub(super) fn draw(random: &mut Rng) -> Self {
        Self {
            nodes: random.usize(4..=6),
            clients: random.usize(2..=4),
            keys: random.usize(2..=6),
            storm_ms: 240_000,
            faults: Faults::draw(random),
        }
    }
}

impl Faults {
    fn draw(random: &mut Rng) -> Self {
        let mut some =
            |choices: &[u64]| if random.bool() { choices[random.usize(0..choices.len())] } else { 0 };
        Self {
            lost_one_in: some(&[100, 20, 8]),
            delay_max_ms: some(&[50, 500]).max(3),
            commit_max_ms: some(&[300, 2500]).max(20),
            crash_ms: some(&[30_000, 8_000]),
            wipe_ms: some(&[60_000, 20_000]),
            freeze_ms: some(&[40_000, 15_000]),
            cut_ms: some(&[40_000, 15_000]),
            slow_ms: some(&[60_000]),
            full_ms: some(&[60_000]),
            rot_ms: some(&[20_000]),
            drain_ms: some(&[60_000]),
            election_ms: some(&[60_000, 15_000]),
            standstill_ms: some(&[80_000]),
            odd_client_one_in: some(&[10, 4]),
        }
    }
}

//! Storms: everything that can go wrong at once, by seed. Whatever a storm does, transfers end, bytes are right, and nothing is
//! left behind.

use std::time::{Duration, Instant};

use xdpfs_transport::client::{Outcome, TransferId};
use xdpfs_transport::{ClientConfig, TransferError};
use xdpfs_wire::{Expiry, Status};

use crate::network::{Faults, Offload};
use crate::node::NOW;
use crate::rng::Rng;
use crate::world::{Who, World, chunk_bytes, chunk_id};

/// Everything has ended after so much simulated time: ten times what a client waits for progress, and what it was stopped.
const FOREVER: Duration = Duration::from_secs(90);
const PATIENCE: Duration = Duration::from_secs(4);
const CHUNK_MAX: u64 = 300_000;
/// Request ids that a path may keep for tails that have not come, and for probes.
const REQUESTS_PER_PATH: usize = 64 + 4;

/// What happens at some moment.
#[derive(Clone, Copy, Debug)]
enum Mischief {
    /// Everything that is sent takes so much longer, for so long.
    Spike(Duration, Duration),
    /// The path's size changes.
    Mtu(u16),
    Restart(usize),
    /// The node's idea of the time moves on.
    NodeClock(u32),
    /// The client does not run for so long.
    ClientStops(Duration),
    Cancel,
}

#[derive(Clone, Debug)]
struct Storm {
    nodes: u16,
    faults: Faults,
    read_delay_max: Duration,
    upload_bytes_max: Option<u64>,
    mischief: Vec<(Duration, Mischief)>,
}

/// What a storm came to.
#[derive(Debug, Default)]
pub(crate) struct Toll {
    pub(crate) done: u32,
    pub(crate) given_up: u32,
    pub(crate) timeouts: u64,
    pub(crate) corrupt: u64,
    pub(crate) bytes_sent: u64,
    pub(crate) bytes_needed: u64,
    /// Whether it was no more than a little loss.
    pub(crate) was_mild: bool,
}

impl Storm {
    fn of(rng: &mut Rng) -> Self {
        let rate = |rng: &mut Rng, max: f64| match rng.below(3) {
            0 => 0.0,
            1 => max * rng.below(1000) as f64 / 10_000.0,
            _ => max * rng.below(1000) as f64 / 1000.0,
        };
        let delays = [20, 100, 100, 500, 5_000, 20_000];
        let mtus = [1280, 1500, 1500, 3498, 9000, 9000];
        let faults = Faults {
            loss: rate(rng, 0.5),
            reorder: rate(rng, 0.2),
            duplicate: rate(rng, 0.1),
            corrupt: rate(rng, 0.03),
            mtu: mtus[rng.below(6) as usize],
            delay: Duration::from_micros(delays[rng.below(6) as usize]),
            offload: match rng.below(6) {
                0 => Offload::DamagesTheLast,
                1 => Offload::LosesAll,
                _ => Offload::Works,
            },
        };
        let nodes = 1 + rng.below(3) as u16;
        let count = rng.below(5);
        let mischief = (0..count).map(|_| {
            let at = Duration::from_micros(rng.below(40_000));
            let what = match rng.below(6) {
                0 => Mischief::Spike(
                    Duration::from_micros(rng.below(200_000)),
                    Duration::from_micros(rng.below(300_000)),
                ),
                1 => Mischief::Mtu(mtus[rng.below(6) as usize]),
                2 => Mischief::Restart(rng.below(nodes.into()) as usize),
                3 => Mischief::NodeClock(rng.below(200) as u32),
                4 => Mischief::ClientStops(Duration::from_millis(rng.below(6000))),
                _ => Mischief::Cancel,
            };
            (at, what)
        });
        let mut mischief: Vec<_> = mischief.collect();
        mischief.sort_by_key(|(at, _)| *at);
        Self {
            nodes,
            faults,
            read_delay_max: Duration::from_micros([0, 1, 300, 3000][rng.below(4) as usize]),
            upload_bytes_max: rng.chance(0.2).then_some(CHUNK_MAX + 1),
            mischief,
        }
    }

    /// Every seed has its own, and some are mild.
    fn with_seed(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        if seed.is_multiple_of(8) {
            let faults = Faults { loss: rng.below(50) as f64 / 1000.0, ..Faults::NONE };
            return Self { faults, mischief: vec![], upload_bytes_max: None, ..Self::of(&mut rng) };
        }
        Self::of(&mut rng)
    }

    fn is_mild(&self) -> bool {
        self.mischief.is_empty() && self.faults.loss <= 0.05 && self.faults.offload == Offload::Works
    }

    /// Whether a transfer may find nobody for as long as a client is patient.
    fn may_defeat(&self) -> bool {
        self.faults.loss + self.faults.corrupt > 0.15
    }
}

#[derive(Debug)]
enum Work {
    Read { chunk: u64, from: u32, to: u32 },
    Write { node: usize, chunk: u64, length: u64 },
}

/// Runs the storm of a seed.
///
/// # Panics
/// If something that must hold does not.
pub(crate) fn run(seed: u64) -> Toll {
    let storm = Storm::with_seed(seed);
    let config = ClientConfig { patience: PATIENCE, transfer_max: PATIENCE * 10, ..ClientConfig::default() };
    let mut world = World::with_config(seed, storm.nodes, storm.faults, config);
    for node in &mut world.nodes {
        node.read_delay_max = storm.read_delay_max;
        if let Some(bytes) = storm.upload_bytes_max {
            node.limit_uploads(bytes);
        }
    }
    let mut works = begin(&mut world, &storm);
    let bytes_needed = works.iter().map(|(_, work)| needed(work)).sum();
    let start = world.now();
    let mut toll = Toll { was_mild: storm.is_mild(), bytes_needed, ..Toll::default() };
    let mut stopped = Duration::ZERO;
    for (at, what) in &storm.mischief {
        while world.now() < start + *at && world.step(start + *at) {}
        if let Mischief::ClientStops(time) = what {
            stopped += *time;
        }
        happen(&mut world, *what, &mut works, start + *at);
    }
    let deadline = start + FOREVER + stopped;
    while !works.is_empty() {
        let ended: Vec<_> =
            works.extract_if(.., |(transfer, _)| world.has_ended(Who::Client, *transfer)).collect();
        for (transfer, work) in ended {
            let outcome = world.take_end(Who::Client, transfer).expect("it has ended");
            judge(seed, &storm, &world, &work, outcome, &mut toll);
        }
        let goes_on = works.is_empty() || world.step(deadline);
        assert!(goes_on, "seed {seed}: {} transfers never ended in {storm:?}", works.len());
    }
    let counters = world.client.counters();
    (toll.timeouts, toll.corrupt) = (counters.timeouts, counters.corrupt);
    toll.bytes_sent = world.chunk_bytes_sent();
    let held = world.client.held();
    assert_eq!((held.transfers, held.read_bytes, held.window_bytes), (0, 0, 0), "seed {seed}: {held:?}");
    assert!(held.requests <= REQUESTS_PER_PATH * world.nodes.len(), "seed {seed}: {held:?}");
    let most = config.read_budget_bytes + xdpfs_transport::BURST_BYTES_MAX as u64;
    assert!(held.read_bytes_most <= most, "seed {seed}: {held:?}");
    for node in &world.nodes {
        assert!(node.upload_bytes_peak <= node.upload_bytes_max(), "seed {seed}");
    }
    toll
}

/// Starts all transfers at once.
fn begin(world: &mut World, storm: &Storm) -> Vec<(TransferId, Work)> {
    let count = 1 + world.rng().below(5);
    (1..=count)
        .map(|chunk| {
            let node = world.rng().below(storm.nodes.into()) as usize;
            let len = 1 + match world.rng().below(3) {
                0 => world.rng().below(3000),
                1 => world.rng().below(60_000),
                _ => world.rng().below(CHUNK_MAX),
            };
            let bytes = chunk_bytes(chunk, len as usize);
            if world.rng().chance(0.5) {
                let transfer = world.start_write(node, chunk, &bytes);
                return (transfer, Work::Write { node, chunk, length: len });
            }
            world.nodes[node].insert(chunk_id(chunk), bytes);
            let from = world.rng().below(len) as u32;
            let to = from + 1 + world.rng().below(len - u64::from(from)) as u32;
            (world.start_read(node, chunk, from..to), Work::Read { chunk, from, to })
        })
        .collect()
}

fn needed(work: &Work) -> u64 {
    match work {
        Work::Read { from, to, .. } => u64::from(to - from),
        Work::Write { length, .. } => *length,
    }
}

fn happen(world: &mut World, what: Mischief, works: &mut Vec<(TransferId, Work)>, now: Instant) {
    match what {
        Mischief::Spike(extra, lasting) => world.network.spike = Some((now + lasting, extra)),
        Mischief::Mtu(mtu) => world.network.faults.mtu = mtu,
        Mischief::Restart(node) => world.nodes[node].restart(),
        Mischief::NodeClock(seconds) => world.nodes[0].clock = Expiry(NOW.0 + seconds),
        Mischief::ClientStops(time) => world.jump(time),
        Mischief::Cancel => {
            if let Some((transfer, _)) = works.pop() {
                world.client.cancel(transfer);
            }
        }
    }
}

fn judge(
    seed: u64,
    storm: &Storm,
    world: &World,
    work: &Work,
    outcome: Result<Outcome, TransferError>,
    toll: &mut Toll,
) {
    match (work, outcome) {
        (Work::Read { chunk, from, to }, Ok(Outcome::Read(bytes))) => {
            let whole = chunk_bytes(*chunk, *to as usize);
            assert!(bytes == whole[*from as usize..], "seed {seed}: other bytes in {storm:?}");
            toll.done += 1;
        }
        (Work::Write { node, chunk, .. }, Ok(Outcome::Durable(receipt))) => {
            let held = world.nodes[*node].holds(chunk_id(*chunk)).expect("what is durable is there");
            assert!(*held == chunk_bytes(*chunk, receipt.length as usize), "seed {seed}: {storm:?}");
            toll.done += 1;
        }
        (_, Err(TransferError::Unreachable | TransferError::Refused(Status::Busy))) if storm.may_defeat() => {
            toll.given_up += 1;
        }
        (work, outcome) => {
            panic!("seed {seed}: {outcome:?} of {work:?} in {storm:?}, {:?}", world.client.counters())
        }
    }
}

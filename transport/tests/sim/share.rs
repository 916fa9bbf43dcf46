//! Who gets what of a link that all have to share: many nodes that answer one client, two clients, and a client beside TCP.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use xdpfs_transport::client::{Outcome, TransferId};

use crate::network::{Bottleneck, Faults};
use crate::world::{Who, World, address_of, chunk_bytes, chunk_id};

const ALL: IpAddr = IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED);
const LAN: Faults = Faults { mtu: 1500, delay: Duration::from_micros(25), ..Faults::NONE };

/// What reading from many nodes at once came to.
#[derive(Debug)]
pub(crate) struct Incast {
    /// Of what the link could have carried.
    pub(crate) share: f64,
    pub(crate) p99: Duration,
    pub(crate) dropped: u64,
    /// Bytes of pieces that were sent, over those that were needed.
    pub(crate) cost: f64,
}

/// One client reads 1 MiB from each of so many nodes, again and again, by a link of 10 Gbit/s.
pub(crate) fn incast(nodes: u16, queue_bytes: u64) -> Incast {
    const BYTES: u32 = 1 << 20;
    let rounds = u32::from(64 / nodes).max(4);
    const RATE: u64 = 1_250_000_000;
    let mut world = World::new(nodes.into(), nodes, LAN);
    let client = address_of(Who::Client, 0).ip();
    world.network.bottlenecks.insert(client, Bottleneck::new(RATE, queue_bytes));
    let bytes = chunk_bytes(1, BYTES as usize);
    for node in &mut world.nodes {
        node.insert(chunk_id(1), bytes.clone());
    }
    let began = world.now();
    let mut took = Vec::new();
    for _ in 0..rounds {
        let round_began = world.now();
        let mut reads: Vec<TransferId> =
            (0..nodes).map(|node| world.start_read(node.into(), 1, 0..BYTES)).collect();
        while !reads.is_empty() {
            for read in reads.extract_if(.., |read| world.has_ended(Who::Client, *read)).collect::<Vec<_>>() {
                match world.take_end(Who::Client, read) {
                    Some(Ok(Outcome::Read(read))) => assert!(read == bytes),
                    other => panic!("{nodes} nodes: {other:?}"),
                }
                took.push(world.now() - round_began);
            }
            assert!(
                reads.is_empty() || world.step(began + Duration::from_secs(60)),
                "{nodes} nodes never end"
            );
        }
    }
    let needed = u64::from(BYTES) * u64::from(nodes) * u64::from(rounds);
    let time = (world.now() - began).as_secs_f64();
    took.sort_unstable();
    Incast {
        share: needed as f64 / time / RATE as f64,
        p99: took[(took.len() * 99 / 100).min(took.len() - 1)],
        dropped: world.network.bottlenecks[&client].dropped,
        cost: world.chunk_bytes_sent() as f64 / needed as f64,
    }
}

/// A client that reads without end.
struct Reader {
    who: Who,
    read: Option<TransferId>,
    got: u64,
}

impl Reader {
    const BYTES: u32 = 1 << 20;

    const fn new(who: Who) -> Self {
        Self { who, read: None, got: 0 }
    }

    fn go_on(&mut self, world: &mut World) {
        let ended = self.read.and_then(|read| world.take_end(self.who, read));
        if let Some(outcome) = ended {
            assert!(matches!(outcome, Ok(Outcome::Read(_))), "{outcome:?}");
            self.got += u64::from(Self::BYTES);
            self.read = None;
        }
        if self.read.is_none() {
            self.read = Some(world.start_read_of(self.who, 0, 1, 0..Self::BYTES));
        }
    }
}

/// Two seconds on a link of 1 Gbit/s that the second joins later. Their shares of the link while both are there.
fn share_link(queue_bytes: u64, mut second: impl FnMut(&mut World) -> u64) -> [f64; 2] {
    const RATE: u64 = 125_000_000;
    const ALONE: Duration = Duration::from_millis(300);
    const TOGETHER: Duration = Duration::from_secs(2);
    let mut world = World::new(1, 1, LAN);
    world.network.bottlenecks.insert(ALL, Bottleneck::new(RATE, queue_bytes));
    world.nodes[0].insert(chunk_id(1), chunk_bytes(1, Reader::BYTES as usize));
    let mut first = Reader::new(Who::Client);
    let began = world.now();
    while world.now() < began + ALONE {
        first.go_on(&mut world);
        go_to(&mut world, began + ALONE);
    }
    let before = first.got;
    let mut others = 0;
    while world.now() < began + ALONE + TOGETHER {
        first.go_on(&mut world);
        others = second(&mut world);
        let soon = world.now() + Duration::from_micros(50);
        go_to(&mut world, soon);
    }
    [first.got - before, others].map(|got| got as f64 / TOGETHER.as_secs_f64() / RATE as f64)
}

/// To the next event, or to `deadline` if that comes first.
fn go_to(world: &mut World, deadline: Instant) {
    if !world.step(deadline) {
        world.jump(deadline - world.now());
    }
}

pub(crate) fn two_clients(queue_bytes: u64) -> [f64; 2] {
    let mut second = Reader::new(Who::Rival);
    share_link(queue_bytes, |world| {
        second.go_on(world);
        second.got
    })
}

/// TCP as RFC 5681 has it, with selective acknowledgements: packets that are lost are known after a round trip.
struct Tcp {
    window: f64,
    slow_start_below: f64,
    cut_until: Option<Instant>,
    on_the_way: BTreeMap<(Instant, u64), bool>,
    sent: u64,
    got: u64,
}

impl Tcp {
    const PACKET: usize = 1500;

    fn new() -> Self {
        let on_the_way = BTreeMap::new();
        Self { window: 10.0, slow_start_below: f64::MAX, cut_until: None, on_the_way, sent: 0, got: 0 }
    }

    fn go_on(&mut self, world: &mut World) {
        let now = world.now();
        let rtt = LAN.delay * 2;
        while let Some(entry) = self.on_the_way.first_entry().filter(|entry| entry.key().0 <= now) {
            if entry.remove() {
                self.got += Self::PACKET as u64;
                self.window += if self.window < self.slow_start_below { 1.0 } else { 1.0 / self.window };
            } else if self.cut_until.is_none_or(|until| now >= until) {
                self.window = (self.window / 2.0).max(2.0);
                self.slow_start_below = self.window;
                // What is on the way was sent with the old window.
                self.cut_until = self.on_the_way.keys().next_back().map(|(at, _)| *at);
            }
        }
        while (self.on_the_way.len() as f64) < self.window {
            let bottleneck = world.network.bottlenecks.get_mut(&ALL).expect("it is there");
            let through = bottleneck.pass(now, Self::PACKET);
            let known =
                through.unwrap_or_else(|| self.on_the_way.keys().next_back().map_or(now, |(at, _)| *at));
            self.sent += 1;
            self.on_the_way.insert((known + rtt, self.sent), through.is_some());
        }
    }
}

/// A client, and TCP.
pub(crate) fn beside_tcp(queue_bytes: u64) -> [f64; 2] {
    let mut tcp = Tcp::new();
    share_link(queue_bytes, |world| {
        tcp.go_on(world);
        tcp.got
    })
}

//! Hostile traffic at full rate beside gets, in the driver: what is forged, expired, cut or stretched never reaches user
//! space; what is replayed draws no more bytes than it brings; gets are right, and how fast they are is told.
//!
//! `XDPFS_TEST_FLOOD_S` says for how many seconds there are gets under the flood.

use std::{
    collections::BTreeMap,
    env,
    net::Ipv4Addr,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use xdpfs_testbed::{
    Cluster, ClusterOptions, Content, LanOptions, Rng, namespace::UdpCounts, packet_socket::PacketSocket,
};

use crate::{
    frames::{Way, destination},
    support::{holds, options, put, rate, started, way},
};

/// How long a capability lives, in seconds.
const CAPABILITY_S: u64 = 6;
/// Requests of one kind that are kept to be replayed.
const CAPTURED_MAX: usize = 200;
/// Frames that the flood sends in turn.
const FRAMES: usize = 4096;
/// How long nothing but the flood is on its way.
const ALONE: Duration = Duration::from_secs(2);
const FLOOD_S: u64 = 4;
/// Where spoofed frames claim to come from (RFC 5737); whatever is sent there comes to the client's side.
const SPOOFED: [u8; 3] = [203, 0, 113];

// Places in the header (docs/protocol.md §3).
const OPCODE: usize = 3;
const EXPIRY: usize = 20;
const TAG: usize = 56;
const HEADER_LEN: usize = 64;

#[test]
fn hostile_traffic_reaches_nobody_and_stops_no_get() {
    let times = [
        ("UPLOAD_LEASE", CAPABILITY_S - 1),
        ("CAPABILITY", CAPABILITY_S),
        ("DELETION_GRACE", CAPABILITY_S + 1),
    ];
    let cluster = started(ClusterOptions {
        lan: Some(LanOptions::default()),
        edges: Some(options(&["--xdp", "native"])),
        env: times.map(|(name, seconds)| (format!("XDPFS_META_{name}_S"), seconds.to_string())).into(),
        ..ClusterOptions::default()
    });
    let content = Content::new(1, 64 << 20);
    put(&cluster, "data/key", &content);
    let way = way(&cluster);

    let old = captured(&cluster, way);
    old.until_expired();
    let mut rng = Rng::new(7);
    let dead = Flood::new(&way, FRAMES, &mut rng, |rng| no_longer_good(&old, rng));
    let (sent, before) = (dead.alone(&cluster, ALONE), reached(&cluster));
    println!("alone: {} frames in {ALONE:?}", sent.frames);
    assert!(sent.frames > 50_000, "that is no flood: {} frames", sent.frames);
    assert_eq!(sent.reached, UdpCounts::default(), "what is not good has reached user space");

    let fresh = captured(&cluster, way);
    let replays = Flood::new(&way, FRAMES, &mut rng, |rng| fresh.any(rng));
    for (what, frames) in [("not good", &dead), ("replayed", &replays)] {
        let answered = frames.answers(&cluster);
        println!("{what}: {answered} frames of answers to {FRAMES} frames from addresses of nobody");
        assert!(answered > 100, "{what}: nobody answers");
    }
    assert!(reached(&cluster).arrived() > before.arrived(), "what is good reaches its node");

    let quiet = goodput(&cluster, &content, Duration::from_secs(2));
    let fresh = captured(&cluster, way);
    let all = Flood::new(&way, FRAMES, &mut rng, |rng| match rng.below(8) {
        0 => fresh.any(rng),
        _ => no_longer_good(&old, rng),
    });
    let seconds = env::var("XDPFS_TEST_FLOOD_S").map_or(FLOOD_S, |value| value.parse().expect("a number"));
    let mut under_fire = 0.0;
    let sent = all.meanwhile(&cluster, || {
        under_fire = goodput(&cluster, &content, Duration::from_secs(seconds));
    });
    println!(
        "gets: {quiet:.0} MB/s alone, {under_fire:.0} MB/s beside {:.0} hostile frames a second",
        sent.frames as f64 / sent.took.as_secs_f64()
    );
    holds(&cluster, "data/key", &content);
    let status = cluster.status().expect("somebody answers");
    for reason in ["bad_magic", "bad_tag", "bad_version", "too_short"] {
        assert_eq!(status.rejects(reason), 0, "{reason}: a node had to refuse that itself");
    }
}

/// Frames that are sent over and over.
struct Flood {
    frames: Vec<(Ipv4Addr, Vec<u8>)>,
}

struct Sent {
    frames: u64,
    took: Duration,
    /// What reached sockets of the edge and of nodes meanwhile.
    reached: UdpCounts,
}

impl Flood {
    fn new(way: &Way, count: usize, rng: &mut Rng, mut datagram: impl FnMut(&mut Rng) -> Vec<u8>) -> Self {
        let [a, b, c] = SPOOFED;
        let frames = (0..count).map(|number| {
            let source = Ipv4Addr::new(a, b, c, (number % 250) as u8 + 1);
            let port = 1024 + rng.below(60_000) as u16;
            (source, way.frame((source, port), &datagram(rng)))
        });
        Self { frames: frames.collect() }
    }

    /// Sends for a time.
    fn alone(&self, cluster: &Cluster, time: Duration) -> Sent {
        self.meanwhile(cluster, || thread::sleep(time))
    }

    /// Sends at full rate while something is done.
    fn meanwhile(&self, cluster: &Cluster, work: impl FnOnce()) -> Sent {
        let (began, before) = (Instant::now(), reached(cluster));
        let over = AtomicBool::new(false);
        let socket = PacketSocket::sender(cluster.lan().client_end(0)).unwrap();
        let frames = thread::scope(|scope| {
            let over = &over;
            let flood = scope.spawn(move || {
                let frames: Vec<&[u8]> = self.frames.iter().map(|(_, frame)| &frame[..]).collect();
                let mut sent = 0;
                while !over.load(Ordering::Relaxed) {
                    // An error means that there was no room for anything.
                    sent += socket.send_all(&frames).unwrap_or(0) as u64;
                }
                sent
            });
            work();
            over.store(true, Ordering::Relaxed);
            flood.join().unwrap()
        });
        let (took, after) = (began.elapsed(), reached(cluster));
        let reached =
            UdpCounts { received: after.received - before.received, lost: after.lost - before.lost };
        Sent { frames, took, reached }
    }

    /// Sends each frame once, no faster than it is handled; how many frames come back. To no address come more bytes
    /// than came from it.
    fn answers(&self, cluster: &Cluster) -> usize {
        let end = cluster.lan().client_end(0);
        let mut ear = PacketSocket::listener(end).unwrap();
        ear.only_to(SPOOFED).unwrap();
        let socket = PacketSocket::sender(end).unwrap();
        let mut balance: BTreeMap<Ipv4Addr, i64> = BTreeMap::new();
        for batch in self.frames.chunks(32) {
            for (source, frame) in batch {
                socket.send(frame).unwrap();
                *balance.entry(*source).or_default() += frame.len() as i64;
            }
            thread::sleep(Duration::from_millis(1));
        }
        let mut answered = 0;
        while let Some(frame) = ear.receive(Duration::from_millis(500)).unwrap() {
            answered += 1;
            let left = balance.get_mut(&destination(&frame)).expect("only these were asked for");
            *left -= frame.len() as i64;
        }
        assert_eq!(ear.missed().unwrap(), 0, "all answers were seen");
        let overdrawn: Vec<_> = balance.iter().filter(|(_, left)| **left < 0).collect();
        assert!(overdrawn.is_empty(), "more was sent than received: {overdrawn:?}");
        answered
    }
}

/// A request that was good once, spoilt in one of the ways that an attacker has.
fn no_longer_good(old: &Requests, rng: &mut Rng) -> Vec<u8> {
    let mut datagram = old.any(rng);
    match rng.below(7) {
        // Replayed as it is: expired.
        0 => {}
        // A longer life, by somebody who does not have the key.
        1 => datagram[EXPIRY..EXPIRY + 4].fill(0xff),
        2 => datagram[TAG + rng.below(8) as usize] ^= 1 << rng.below(8),
        3 => {
            let at = rng.below(TAG as u64) as usize;
            datagram[at] ^= 1 << rng.below(8);
        }
        4 => datagram.truncate(rng.below(datagram.len() as u64) as usize),
        5 => datagram.resize(1472, 0xee),
        _ => datagram[..HEADER_LEN].fill_with(|| rng.next_u64() as u8),
    }
    datagram
}

/// Requests of a client, as it sent them, by their opcodes.
struct Requests(BTreeMap<u8, Vec<Vec<u8>>>);

impl Requests {
    /// Any of any kind.
    fn any(&self, rng: &mut Rng) -> Vec<u8> {
        let kinds: Vec<&Vec<Vec<u8>>> = self.0.values().collect();
        let kind = *rng.choose(&kinds);
        rng.choose(kind).clone()
    }

    fn until_expired(&self) {
        let expiry = |request: &Vec<u8>| u32::from_le_bytes(request[EXPIRY..EXPIRY + 4].try_into().unwrap());
        let last = self.0.values().flatten().map(expiry).max().unwrap();
        // A second more, since the clock of the kernel program need not be exact.
        let over = UNIX_EPOCH + Duration::from_secs(u64::from(last) + 1);
        if let Ok(left) = over.duration_since(SystemTime::now()) {
            assert!(left < Duration::from_secs(3 * CAPABILITY_S), "capabilities live for {left:?}");
            thread::sleep(left);
        }
    }
}

/// Listens to a client that puts and gets small objects and a large one.
fn captured(cluster: &Cluster, way: Way) -> Requests {
    let mut tap = PacketSocket::tap(cluster.lan().client_end(0)).unwrap();
    let [a, b, c, _] = way.to.0.octets();
    tap.only_to([a, b, c]).unwrap();
    for length in [1, 1000, 20_000, 1 << 20] {
        let content = Content::new(length, length);
        put(cluster, "data/captured", &content);
        holds(cluster, "data/captured", &content);
    }
    let mut requests: BTreeMap<u8, Vec<Vec<u8>>> = BTreeMap::new();
    while let Some(frame) = tap.receive(Duration::from_millis(10)).unwrap() {
        // What the client's kernel has not cut into datagrams yet is no request.
        let is_whole = (HEADER_LEN..=1472).contains(&way.datagram(&frame).map_or(0, <[u8]>::len));
        if let Some(datagram) = way.datagram(&frame).filter(|_| is_whole) {
            let kind = requests.entry(datagram[OPCODE]).or_default();
            kind.extend((kind.len() < CAPTURED_MAX).then(|| datagram.to_vec()));
        }
    }
    let kinds: Vec<_> = requests.iter().map(|(kind, requests)| (*kind, requests.len())).collect();
    assert!(kinds.len() > 4, "only these kinds of requests were seen: {kinds:?}");
    Requests(requests)
}

/// How fast gets are, in megabytes a second; each is checked.
fn goodput(cluster: &Cluster, content: &Content, time: Duration) -> f64 {
    let (began, mut gets, mut took) = (Instant::now(), 0.0, Duration::ZERO);
    while began.elapsed() < time {
        took += holds(cluster, "data/key", content);
        gets += 1.0;
    }
    rate(content, took) * gets
}

/// What has reached sockets of the edge and of the nodes behind it.
fn reached(cluster: &Cluster) -> UdpCounts {
    let lan = cluster.lan();
    let nodes = (0..3).map(|node| lan.node(node).udp_counts().unwrap());
    nodes.chain([lan.edge(0).udp_counts().unwrap()]).fold(UdpCounts::default(), |sum, counts| UdpCounts {
        received: sum.received + counts.received,
        lost: sum.lost + counts.lost,
    })
}

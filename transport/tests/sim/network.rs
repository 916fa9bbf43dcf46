//! The network: a queue of datagrams by arrival time, and what goes wrong on the way.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crate::rng::Rng;

/// UDP and IPv4 headers, which a path's MTU also has to carry.
const OVERHEAD: usize = 28;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Faults {
    pub(crate) loss: f64,
    pub(crate) reorder: f64,
    pub(crate) duplicate: f64,
    pub(crate) corrupt: f64,
    pub(crate) mtu: u16,
    /// One way.
    pub(crate) delay: Duration,
    /// What segmentation of several datagrams that are sent at once does to them.
    pub(crate) offload: Offload,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Offload {
    Works,
    /// The last datagram comes damaged, as released kernels have it.
    DamagesTheLast,
    /// Nothing comes; also what a card does that refuses.
    LosesAll,
}

impl Faults {
    pub(crate) const NONE: Self = Self {
        loss: 0.0,
        reorder: 0.0,
        duplicate: 0.0,
        corrupt: 0.0,
        mtu: 9000,
        delay: Duration::from_micros(100),
        offload: Offload::Works,
    };
}

pub(crate) struct Datagram {
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    pub(crate) bytes: Vec<u8>,
}

/// Datagrams that are sent at once.
pub(crate) struct Burst {
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    pub(crate) bytes: Vec<u8>,
    pub(crate) segment_size: Option<usize>,
    pub(crate) one_by_one: bool,
}

/// A link that is slower than what is around it, with a queue before it.
pub(crate) struct Bottleneck {
    pub(crate) bytes_per_s: u64,
    pub(crate) queue_bytes: u64,
    pub(crate) dropped: u64,
    free_at: Option<Instant>,
}

impl Bottleneck {
    pub(crate) const fn new(bytes_per_s: u64, queue_bytes: u64) -> Self {
        Self { bytes_per_s, queue_bytes, dropped: 0, free_at: None }
    }

    /// When a packet that comes now is through; `None` if there is no room for it.
    pub(crate) fn pass(&mut self, now: Instant, bytes: usize) -> Option<Instant> {
        let free_at = self.free_at.map_or(now, |at| at.max(now));
        let waiting = (free_at - now).as_secs_f64() * self.bytes_per_s as f64;
        if waiting as u64 + bytes as u64 > self.queue_bytes {
            self.dropped += 1;
            return None;
        }
        let through = free_at + Duration::from_secs_f64(bytes as f64 / self.bytes_per_s as f64);
        self.free_at = Some(through);
        Some(through)
    }
}

pub(crate) struct Network {
    pub(crate) faults: Faults,
    /// Whether nodes also get each datagram from a stranger's address.
    pub(crate) mirror: bool,
    pub(crate) mirrored_in: i64,
    /// The most bytes that one request of the stranger drew beyond its own.
    pub(crate) mirrored_worst: i64,
    /// On the way to these hosts; the unspecified address is all of them.
    pub(crate) bottlenecks: BTreeMap<IpAddr, Bottleneck>,
    /// The way of a client's datagrams to and from this port is broken.
    pub(crate) blocked_port: Option<u16>,
    /// Until then everything takes so much longer.
    pub(crate) spike: Option<(Instant, Duration)>,
    queue: BTreeMap<(Instant, u64), Datagram>,
    sequence: u64,
    rng: Rng,
}

impl Network {
    pub(crate) fn new(seed: u64, faults: Faults) -> Self {
        Self {
            faults,
            mirror: false,
            mirrored_in: 0,
            mirrored_worst: i64::MIN,
            bottlenecks: BTreeMap::new(),
            blocked_port: None,
            spike: None,
            queue: BTreeMap::new(),
            sequence: 0,
            rng: Rng::new(seed),
        }
    }

    /// Takes datagrams apart as a kernel or a card would, well or badly.
    pub(crate) fn send_burst(&mut self, now: Instant, burst: Burst) {
        let Burst { from, to, mut bytes, segment_size, one_by_one } = burst;
        let segment = segment_size.unwrap_or(bytes.len()).max(1);
        let is_super_packet = bytes.len() > segment && !one_by_one;
        match self.faults.offload {
            Offload::DamagesTheLast if is_super_packet => {
                let at = bytes.len() - 1;
                bytes[at] ^= 0x10;
            }
            Offload::LosesAll if is_super_packet => return,
            Offload::DamagesTheLast | Offload::LosesAll | Offload::Works => {}
        }
        for bytes in bytes.chunks(segment) {
            self.send(now, Datagram { from, to, bytes: bytes.to_vec() });
        }
    }

    pub(crate) fn send(&mut self, now: Instant, mut datagram: Datagram) {
        let faults = self.faults;
        if datagram.bytes.len() + OVERHEAD > faults.mtu.into() || self.rng.chance(faults.loss) {
            return;
        }
        if [datagram.from.port(), datagram.to.port()].map(Some).contains(&self.blocked_port) {
            return;
        }
        if self.rng.chance(faults.corrupt) {
            let at = self.rng.below(datagram.bytes.len() as u64) as usize;
            datagram.bytes[at] ^= 1 << self.rng.below(8);
        }
        let late = self.rng.chance(faults.reorder);
        let mut at = now;
        for end in [datagram.to.ip(), IpAddr::from([0, 0, 0, 0])] {
            if let Some(bottleneck) = self.bottlenecks.get_mut(&end) {
                let Some(through) = bottleneck.pass(at, datagram.bytes.len() + OVERHEAD) else { return };
                at = through;
            }
        }
        at += faults.delay;
        if let Some((until, extra)) = self.spike
            && now < until
        {
            at += extra;
        }
        if late {
            at += Duration::from_micros(self.rng.below(2000));
        }
        if self.rng.chance(faults.duplicate) {
            let copy = Datagram { bytes: datagram.bytes.clone(), ..datagram };
            self.push(at + faults.delay, copy);
        }
        self.push(at, datagram);
    }

    fn push(&mut self, at: Instant, datagram: Datagram) {
        self.sequence += 1;
        self.queue.insert((at, self.sequence), datagram);
    }

    pub(crate) fn next_arrival(&self) -> Option<Instant> {
        self.queue.keys().next().map(|(at, _)| *at)
    }

    pub(crate) fn arrive(&mut self, now: Instant) -> Option<Datagram> {
        let entry = self.queue.first_entry().filter(|entry| entry.key().0 <= now)?;
        Some(entry.remove())
    }
}

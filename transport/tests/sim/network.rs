//! The network: a queue of datagrams by arrival time, and what goes wrong on the way.

use std::collections::BTreeMap;
use std::net::SocketAddr;
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
}

impl Faults {
    pub(crate) const NONE: Self = Self { loss: 0.0, reorder: 0.0, duplicate: 0.0, corrupt: 0.0, mtu: 9000 };
}

pub(crate) struct Datagram {
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    pub(crate) bytes: Vec<u8>,
}

pub(crate) struct Network {
    pub(crate) faults: Faults,
    /// Whether nodes also get each datagram from a stranger's address.
    pub(crate) mirror: bool,
    pub(crate) mirrored_in: i64,
    /// The most bytes that one request of the stranger drew beyond its own.
    pub(crate) mirrored_worst: i64,
    queue: BTreeMap<(Instant, u64), Datagram>,
    sequence: u64,
    rng: Rng,
}

impl Network {
    const DELAY: Duration = Duration::from_micros(100);

    pub(crate) fn new(seed: u64, faults: Faults) -> Self {
        Self {
            faults,
            mirror: false,
            mirrored_in: 0,
            mirrored_worst: i64::MIN,
            queue: BTreeMap::new(),
            sequence: 0,
            rng: Rng::new(seed),
        }
    }

    pub(crate) fn send(&mut self, now: Instant, mut datagram: Datagram) {
        let faults = self.faults;
        if datagram.bytes.len() + OVERHEAD > faults.mtu.into() || self.rng.chance(faults.loss) {
            return;
        }
        if self.rng.chance(faults.corrupt) {
            let at = self.rng.below(datagram.bytes.len() as u64) as usize;
            datagram.bytes[at] ^= 1 << self.rng.below(8);
        }
        let late = self.rng.chance(faults.reorder);
        let mut delay = Self::DELAY;
        if late {
            delay += Duration::from_micros(self.rng.below(2000));
        }
        if self.rng.chance(faults.duplicate) {
            let copy = Datagram { bytes: datagram.bytes.clone(), ..datagram };
            self.push(now + delay * 2, copy);
        }
        self.push(now + delay, datagram);
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

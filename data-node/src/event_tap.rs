//! Samples of refused datagrams, on their way from a kernel program to whoever traces.
//!
//! Invariant: while nobody traces, the program is told to keep no events. A slow reader loses events and is told how
//! many; it holds up nobody.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use tokio::sync::{
    Notify,
    broadcast::{self, error::RecvError},
};
use xdpfs_wire::HeaderBytes;

/// Events that a reader may be behind.
const BEHIND_MAX: usize = 1024;
/// Readers at once.
const READERS_MAX: usize = 16;
/// All ones: the kernel program keeps no events.
pub(crate) const KEEP_NONE: u64 = u64::MAX;

/// One refused datagram.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct PacketEvent {
    /// When it was taken from the kernel, by the host's clock.
    pub(crate) at: SystemTime,
    /// The counter that it raised.
    pub(crate) counter: &'static str,
    /// The interface that it came in by, by its number.
    pub(crate) interface: u32,
    /// Where it says it comes from.
    pub(crate) source: IpAddr,
    /// Its header, or zeros if it is shorter than one.
    pub(crate) header: HeaderBytes,
}

/// One event of so many: a power of two.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Sample(u32);

impl Sample {
    /// One of `count`, rounded up to a power of two; all of them for none and one.
    pub(crate) fn one_of(count: u32) -> Self {
        Self(count.max(1).checked_next_power_of_two().unwrap_or(1 << 31))
    }

    /// The program keeps an event if its counter has none of these bits.
    fn mask(self) -> u64 {
        u64::from(self.0 - 1)
    }
}

/// Where events pass through.
#[derive(Debug)]
pub(crate) struct EventTap {
    events: broadcast::Sender<PacketEvent>,
    readers: Mutex<Readers>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Readers {
    samples: BTreeMap<u64, Sample>,
    next: u64,
}

/// A reader of events, until it is dropped.
#[derive(Debug)]
pub(crate) struct EventReader {
    tap: Arc<EventTap>,
    events: broadcast::Receiver<PacketEvent>,
    number: u64,
    sample: Sample,
    /// Events that others wanted and this reader did not.
    passed_over: u32,
}

impl EventTap {
    pub(crate) fn new() -> Self {
        Self { events: broadcast::channel(BEHIND_MAX).0, readers: Mutex::default(), changed: Notify::new() }
    }

    /// One more reader; `None` if there are enough.
    pub(crate) fn read(self: &Arc<Self>, sample: Sample) -> Option<EventReader> {
        let number = self.with_readers(|readers| {
            let number = readers.next;
            readers.next += 1;
            let has_room = readers.samples.len() < READERS_MAX;
            has_room.then(|| readers.samples.insert(number, sample)).map(|_| number)
        })?;
        let events = self.events.subscribe();
        self.changed.notify_one();
        Some(EventReader { tap: Arc::clone(self), events, number, sample, passed_over: 0 })
    }

    /// What the program is to be told: an event is kept if its counter has none of these bits.
    pub(crate) fn mask(&self) -> u64 {
        self.finest().map_or(KEEP_NONE, Sample::mask)
    }

    /// Resolves once the mask may have changed. For one waiter.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Hands an event to all readers.
    #[cfg_attr(
        not(all(feature = "xdp", target_os = "linux")),
        expect(dead_code, reason = "only a kernel program has events")
    )]
    pub(crate) fn publish(&self, event: PacketEvent) {
        // Nobody may be left to read it.
        let _unread = self.events.send(event);
    }

    fn finest(&self) -> Option<Sample> {
        self.with_readers(|readers| readers.samples.values().min().copied())
    }

    fn with_readers<T>(&self, act: impl FnOnce(&mut Readers) -> T) -> T {
        act(&mut self.readers.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl EventReader {
    /// The next event of this reader's sample, and how many before it were lost. `None` if no more will come.
    pub(crate) async fn next(&mut self) -> Option<(PacketEvent, u64)> {
        let mut lost = 0;
        loop {
            match self.events.recv().await {
                Ok(event) if self.wants_one_more() => return Some((event, lost)),
                Ok(_) => {}
                Err(RecvError::Lagged(missed)) => lost += missed,
                Err(RecvError::Closed) => return None,
            }
        }
    }

    /// Others may have asked for more.
    fn wants_one_more(&mut self) -> bool {
        let finest = self.tap.finest().unwrap_or(self.sample);
        let wanted = self.passed_over == 0;
        self.passed_over = (self.passed_over + 1) % (self.sample.0 / finest.0).max(1);
        wanted
    }
}

impl Drop for EventReader {
    fn drop(&mut self) {
        self.tap.with_readers(|readers| readers.samples.remove(&self.number));
        self.tap.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn event(interface: u32) -> PacketEvent {
        let source = Ipv4Addr::LOCALHOST.into();
        PacketEvent { at: SystemTime::UNIX_EPOCH, counter: "bad_tag", interface, source, header: [0; 64] }
    }

    #[test]
    fn samples_are_powers_of_two() {
        let check = |count, mask| assert_eq!(Sample::one_of(count).mask(), mask, "{count}");
        check(0, 0);
        check(1, 0);
        check(2, 1);
        check(3, 3);
        check(1000, 1023);
        check(u32::MAX, (1 << 31) - 1);
    }

    #[test]
    fn the_program_keeps_what_the_finest_reader_wants_and_nothing_without_one() {
        let tap = Arc::new(EventTap::new());
        assert_eq!(tap.mask(), KEEP_NONE);
        let coarse = tap.read(Sample::one_of(64)).unwrap();
        assert_eq!(tap.mask(), 63);
        let fine = tap.read(Sample::one_of(4)).unwrap();
        assert_eq!(tap.mask(), 3);
        drop(fine);
        assert_eq!(tap.mask(), 63);
        drop(coarse);
        assert_eq!(tap.mask(), KEEP_NONE);
    }

    #[tokio::test]
    async fn every_reader_gets_its_own_sample() {
        let tap = Arc::new(EventTap::new());
        let (mut all, mut some) =
            (tap.read(Sample::one_of(1)).unwrap(), tap.read(Sample::one_of(4)).unwrap());
        (0..8).for_each(|number| tap.publish(event(number)));
        for number in 0..8 {
            assert_eq!(all.next().await, Some((event(number), 0)));
        }
        assert_eq!(some.next().await, Some((event(0), 0)));
        assert_eq!(some.next().await, Some((event(4), 0)));
    }

    #[tokio::test]
    async fn a_slow_reader_learns_what_it_has_lost() {
        let tap = Arc::new(EventTap::new());
        let mut slow = tap.read(Sample::one_of(1)).unwrap();
        let last = BEHIND_MAX as u32 + 9;
        (0..=last).for_each(|number| tap.publish(event(number)));
        assert_eq!(slow.next().await, Some((event(10), 10)));
    }

    #[test]
    fn there_are_only_so_many_readers() {
        let tap = Arc::new(EventTap::new());
        let readers: Vec<_> = (0..READERS_MAX).map(|_| tap.read(Sample::one_of(1)).unwrap()).collect();
        assert!(tap.read(Sample::one_of(1)).is_none());
        drop(readers);
        assert!(tap.read(Sample::one_of(1)).is_some());
    }
}

//! Who is inside of a listener, and who has to go when it is full. Pure: it knows times, not sockets.
//!
//! Invariant: a request under way is never ended for the sake of a newcomer, and nobody who could be a client is kept
//! out by those who ask for nothing. That requests which say no more end is for the service behind to see to.

use std::{collections::BTreeMap, time::Instant};

/// How many may be inside.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Limits {
    /// Connections, those with a handshake under way among them.
    pub connections_max: usize,
    /// Handshakes under way.
    pub handshakes_max: usize,
}

/// A connection's number in its listener.
pub(crate) type GuestId = u64;

#[derive(Debug)]
pub(crate) struct Doors {
    limits: Limits,
    guests: BTreeMap<GuestId, Guest>,
    next_id: GuestId,
}

#[derive(Clone, Copy, Debug)]
struct Guest {
    stage: Stage,
    /// When it came to its stage.
    since: Instant,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Stage {
    /// Its handshake is under way.
    ExpectGreeting,
    /// It may speak.
    Inside {
        /// By a certificate.
        is_known: bool,
        requests: u32,
    },
}

/// What becomes of a newcomer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Entry {
    /// It is let in under this number, for which another has to go.
    InsteadOf(GuestId, GuestId),
    /// It is let in under this number.
    In(GuestId),
    /// Everybody inside is busy.
    Refused,
}

impl Doors {
    pub(crate) const fn new(limits: Limits) -> Self {
        Self { limits, guests: BTreeMap::new(), next_id: 0 }
    }

    /// From now on others are the limits. Gives those who have to go: as many as are idle, longest first, down to the new
    /// limit.
    pub(crate) fn limit(&mut self, limits: Limits) -> Vec<GuestId> {
        self.limits = limits;
        let mut leaving = Vec::new();
        while self.guests.len() > limits.connections_max {
            let idle = |known| self.longest(|stage| stage == Stage::Inside { is_known: known, requests: 0 });
            let Some(guest) = idle(false).or_else(|| idle(true)) else { break };
            self.guests.remove(&guest);
            leaving.push(guest);
        }
        leaving
    }

    /// Somebody has connected.
    pub(crate) fn enter(&mut self, now: Instant) -> Entry {
        let greeting = self.longest(|stage| stage == Stage::ExpectGreeting);
        let handshakes = self.guests.values().filter(|guest| guest.stage == Stage::ExpectGreeting).count();
        let leaves = if handshakes >= self.limits.handshakes_max {
            greeting
        } else if self.guests.len() >= self.limits.connections_max {
            let idle = |known| self.longest(|stage| stage == Stage::Inside { is_known: known, requests: 0 });
            match idle(false).or(greeting).or_else(|| idle(true)) {
                Some(guest) => Some(guest),
                None => return Entry::Refused,
            }
        } else {
            None
        };
        let id = self.next_id;
        self.next_id += 1;
        self.guests.insert(id, Guest { stage: Stage::ExpectGreeting, since: now });
        match leaves {
            Some(other) => {
                self.guests.remove(&other);
                Entry::InsteadOf(id, other)
            }
            None => Entry::In(id),
        }
    }

    /// The handshake was good.
    pub(crate) fn greeted(&mut self, id: GuestId, is_known: bool, now: Instant) {
        if let Some(guest) = self.guests.get_mut(&id) {
            *guest = Guest { stage: Stage::Inside { is_known, requests: 0 }, since: now };
        }
    }

    /// A request begins.
    pub(crate) fn begin(&mut self, id: GuestId) {
        if let Some(Guest { stage: Stage::Inside { requests, .. }, .. }) = self.guests.get_mut(&id) {
            *requests = requests.saturating_add(1);
        }
    }

    /// A request has ended.
    pub(crate) fn end(&mut self, id: GuestId, now: Instant) {
        if let Some(guest) = self.guests.get_mut(&id)
            && let Stage::Inside { requests, .. } = &mut guest.stage
        {
            *requests = requests.saturating_sub(1);
            guest.since = now;
        }
    }

    /// The connection has ended.
    pub(crate) fn leave(&mut self, id: GuestId) {
        self.guests.remove(&id);
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.guests.len()
    }

    /// Who has been at such a stage for the longest time.
    fn longest(&self, is_wanted: impl Fn(Stage) -> bool) -> Option<GuestId> {
        let wanted = self.guests.iter().filter(|(_, guest)| is_wanted(guest.stage));
        wanted.min_by_key(|(id, guest)| (guest.since, **id)).map(|(id, _)| *id)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    struct Scene {
        doors: Doors,
        now: Instant,
    }

    impl Scene {
        fn new(connections_max: usize, handshakes_max: usize) -> Self {
            let doors = Doors::new(Limits { connections_max, handshakes_max });
            Self { doors, now: Instant::now() }
        }

        fn enter(&mut self) -> Entry {
            self.now += Duration::from_millis(1);
            self.doors.enter(self.now)
        }

        fn come_in(&mut self, is_known: bool) -> GuestId {
            let (Entry::In(id) | Entry::InsteadOf(id, _)) = self.enter() else { panic!("refused") };
            self.doors.greeted(id, is_known, self.now);
            id
        }
    }

    #[test]
    fn longest_idle_stranger_goes_first() {
        let mut scene = Scene::new(4, 4);
        let known = scene.come_in(true);
        let [first, second, busy] = [(); 3].map(|()| scene.come_in(false));
        scene.doors.begin(busy);
        // A request makes the first one the younger of the two.
        scene.doors.begin(first);
        scene.now += Duration::from_millis(1);
        scene.doors.end(first, scene.now);
        let expect = [second, first];
        for leaves in expect {
            let Entry::InsteadOf(id, other) = scene.enter() else { panic!("nobody goes") };
            assert_eq!(other, leaves);
            scene.doors.greeted(id, false, scene.now);
            scene.doors.begin(id);
        }
        assert!(matches!(scene.enter(), Entry::InsteadOf(id, other) if other == known && id != known));
        // The newcomer has not said anything yet: it is the one that goes now.
        assert!(matches!(scene.enter(), Entry::InsteadOf(..)));
        assert_eq!(scene.doors.len(), 4);
    }

    #[test]
    fn nobody_busy_has_to_go() {
        let mut scene = Scene::new(2, 2);
        for known in [false, true] {
            let id = scene.come_in(known);
            scene.doors.begin(id);
        }
        assert_eq!(scene.enter(), Entry::Refused);
        scene.doors.end(0, scene.now);
        assert_eq!(scene.enter(), Entry::InsteadOf(2, 0));
        scene.doors.leave(2);
        assert_eq!(scene.enter(), Entry::In(3));
    }

    #[test]
    fn silent_newcomers_push_out_each_other_only() {
        let mut scene = Scene::new(10, 2);
        let client = scene.come_in(false);
        for id in 1..=2 {
            assert_eq!(scene.enter(), Entry::In(id));
        }
        for id in 3..1000 {
            assert_eq!(scene.enter(), Entry::InsteadOf(id, id - 2));
        }
        assert_eq!(scene.doors.len(), 3);
        assert!(scene.doors.guests.contains_key(&client));
    }

    #[test]
    fn when_there_may_be_fewer_idle_ones_go_and_nobody_busy() {
        let mut scene = Scene::new(5, 5);
        let known = scene.come_in(true);
        let [first, second, busy] = [(); 3].map(|()| scene.come_in(false));
        scene.doors.begin(busy);
        let limits = |connections_max| Limits { connections_max, handshakes_max: 1 };
        assert_eq!(scene.doors.limit(limits(4)), [], "they are as many as there may be");
        assert_eq!(scene.doors.limit(limits(2)), [first, second], "strangers first");
        assert_eq!(scene.doors.limit(limits(1)), [known]);
        assert_eq!(scene.doors.limit(limits(0)), [], "the other one is busy");
        assert_eq!(scene.enter(), Entry::Refused);
        assert_eq!(scene.doors.limit(limits(9)), []);
        assert!(matches!(scene.enter(), Entry::In(_)));
    }

    #[test]
    fn requests_that_end_twice_do_no_harm() {
        let mut scene = Scene::new(1, 1);
        let id = scene.come_in(false);
        scene.doors.end(id, scene.now);
        scene.doors.begin(id);
        assert_eq!(scene.enter(), Entry::Refused);
        scene.doors.end(77, scene.now);
        scene.doors.begin(77);
    }
}

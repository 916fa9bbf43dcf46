//! One direction of a relay: decides each datagram's fate. Pure but for what it is handed.

use crate::rng::Rng;

/// What happens to datagrams, in percent. The rates are independent of each other.
#[derive(Clone, Copy, Debug)]
pub struct Rates {
    /// Never sent on.
    pub loss: f64,
    /// Sent on behind one to eight later ones.
    pub reorder: f64,
    /// Sent on twice.
    pub duplicate: f64,
    /// Sent on with one bit flipped.
    pub corrupt: f64,
}

/// What was done to a datagram; one that was corrupted and doubled has both fates.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Fate {
    Corrupted,
    Duplicated,
    Lost,
    Passed,
    Reordered,
}

#[derive(Debug)]
pub(super) struct Lane {
    rates: Rates,
    rng: Rng,
    held: Vec<Held>,
}

#[derive(Debug)]
struct Held {
    bytes: Vec<u8>,
    /// How many datagrams have yet to overtake it.
    behind: u64,
}

/// Datagrams held back at once; more are passed in order.
const HELD_MAX: usize = 64;
const OVERTAKEN_BY_MAX: u64 = 8;

impl Lane {
    pub(super) const fn new(rates: Rates, seed: u64) -> Self {
        Self { rates, rng: Rng::new(seed), held: Vec::new() }
    }

    /// Decides about one datagram, reports every fate, and sends on what is due.
    pub(super) fn pass(
        &mut self,
        bytes: &mut [u8],
        mut report: impl FnMut(Fate),
        mut send: impl FnMut(&[u8]),
    ) {
        if self.rng.chance(self.rates.loss) {
            report(Fate::Lost);
        } else {
            if !bytes.is_empty() && self.rng.chance(self.rates.corrupt) {
                let bit = self.rng.below(bytes.len() as u64 * 8);
                bytes[(bit / 8) as usize] ^= 1 << (bit % 8);
                report(Fate::Corrupted);
            }
            if self.rng.chance(self.rates.duplicate) {
                report(Fate::Duplicated);
                send(bytes);
            }
            if self.held.len() < HELD_MAX && self.rng.chance(self.rates.reorder) {
                report(Fate::Reordered);
                let behind = 1 + self.rng.below(OVERTAKEN_BY_MAX);
                // One more, since it is counted down below for itself.
                self.held.push(Held { bytes: bytes.to_vec(), behind: behind + 1 });
            } else {
                report(Fate::Passed);
                send(bytes);
            }
        }
        for held in &mut self.held {
            held.behind -= 1;
        }
        self.send_due(send);
    }

    /// Sends everything that is held back: nothing comes that could overtake it.
    pub(super) fn release(&mut self, mut send: impl FnMut(&[u8])) {
        for held in self.held.drain(..) {
            send(&held.bytes);
        }
    }

    fn send_due(&mut self, mut send: impl FnMut(&[u8])) {
        for held in self.held.extract_if(.., |held| held.behind == 0) {
            send(&held.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(rates: Rates, datagrams: u32) -> (Vec<Vec<u8>>, Vec<Fate>) {
        let mut lane = Lane::new(rates, 42);
        let (mut sent, mut fates) = (Vec::new(), Vec::new());
        for number in 0..datagrams {
            let mut bytes = number.to_le_bytes();
            lane.pass(&mut bytes, |fate| fates.push(fate), |bytes| sent.push(bytes.to_vec()));
        }
        lane.release(|bytes| sent.push(bytes.to_vec()));
        (sent, fates)
    }

    fn count(fates: &[Fate], fate: Fate) -> usize {
        fates.iter().filter(|other| **other == fate).count()
    }

    #[test]
    fn each_rate_is_kept_and_counted() {
        let rates = Rates { loss: 5.0, reorder: 5.0, duplicate: 2.0, corrupt: 1.0 };
        let (sent, fates) = run(rates, 10_000);
        let (lost, doubled) = (count(&fates, Fate::Lost), count(&fates, Fate::Duplicated));
        assert_eq!(sent.len(), 10_000 - lost + doubled);
        for (fate, range) in [
            (Fate::Lost, 400..600),
            (Fate::Reordered, 400..600),
            (Fate::Duplicated, 140..260),
            (Fate::Corrupted, 60..140),
        ] {
            assert!(range.contains(&count(&fates, fate)), "{fate:?}: {}", count(&fates, fate));
        }
    }

    #[test]
    fn a_reordered_datagram_comes_late_but_comes() {
        let rates = Rates { loss: 0.0, reorder: 10.0, duplicate: 0.0, corrupt: 0.0 };
        let (mut sent, _) = run(rates, 1000);
        let in_order: Vec<Vec<u8>> = (0..1000_u32).map(|number| number.to_le_bytes().to_vec()).collect();
        assert_ne!(sent, in_order);
        sent.sort_by_key(|bytes| u32::from_le_bytes(bytes.as_slice().try_into().expect("four bytes")));
        assert_eq!(sent, in_order);
    }
}

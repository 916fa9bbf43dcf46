//! What all reads of a client together may have outstanding, whatever the windows of single paths allow.
//!
//! It is at most what the receive buffer holds. Below that it follows the bottleneck that all paths share, the last link before the
//! client: losses on one path are that path's, losses on several at a time are the sign that nodes answer at once faster than
//! that link takes (incast).

use std::time::{Duration, Instant};

use super::LinkKey;
use super::window::GAIN_BYTES;
use crate::datagram::BURST_BYTES_MAX;

const BURST: u64 = BURST_BYTES_MAX as u64;
/// Losses of two paths belong together within so many round trips.
const TOGETHER_RTTS: u32 = 4;

#[derive(Debug)]
pub(crate) struct Budget {
    bytes: u64,
    bytes_max: u64,
    outstanding: u64,
    outstanding_most: u64,
    /// Where something was lost last, and when.
    lost: Option<(LinkKey, Instant)>,
    cut_at: Option<Instant>,
}

impl Budget {
    pub(crate) fn new(bytes_max: u64) -> Self {
        // One burst must fit.
        let bytes = bytes_max.max(1);
        Self { bytes, bytes_max: bytes, outstanding: 0, outstanding_most: 0, lost: None, cut_at: None }
    }

    pub(crate) fn outstanding(&self) -> u64 {
        self.outstanding
    }

    /// The most that has been outstanding.
    pub(crate) fn outstanding_most(&self) -> u64 {
        self.outstanding_most
    }

    /// Whether more may be asked for. The last burst may go beyond, so that one always fits.
    pub(crate) fn has_room(&self) -> bool {
        self.outstanding < self.bytes
    }

    pub(crate) fn charge(&mut self, bytes: u64) {
        self.outstanding += bytes;
        self.outstanding_most = self.outstanding_most.max(self.outstanding);
    }

    pub(crate) fn discharge(&mut self, bytes: u64) {
        self.outstanding = self.outstanding.saturating_sub(bytes);
    }

    /// `bytes` arrived, which are no longer among the outstanding ones.
    pub(crate) fn grow(&mut self, bytes: u64) {
        if (self.outstanding + bytes) * 2 >= self.bytes {
            self.bytes = (self.bytes + GAIN_BYTES * bytes / self.bytes).min(self.bytes_max);
        }
    }

    /// Something was lost on a path.
    pub(crate) fn note_loss(&mut self, now: Instant, rtt: Duration, link: LinkKey) {
        let before = self.lost.replace((link, now));
        let is_shared = before.is_some_and(|(other, at)| other != link && now < at + rtt * TOGETHER_RTTS);
        if !is_shared || self.cut_at.is_some_and(|at| now < at + rtt) {
            return;
        }
        self.cut_at = Some(now);
        self.bytes = (self.bytes * 7 / 10).clamp(BURST.min(self.bytes_max), self.bytes_max);
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use xdpfs_wire::NodeId;

    use super::*;

    const RTT: Duration = Duration::from_millis(1);

    fn link(node: u16) -> LinkKey {
        (SocketAddr::from(([10, 0, 0, node as u8], 7100)), NodeId(node))
    }

    #[test]
    fn losses_on_one_path_are_that_paths() {
        let start = Instant::now();
        let mut budget = Budget::new(1 << 20);
        for i in 0..100 {
            budget.note_loss(start + RTT * i, RTT, link(1));
        }
        assert_eq!(budget.bytes, 1 << 20);
        budget.note_loss(start + RTT * 500, RTT, link(2));
        assert_eq!(budget.bytes, 1 << 20, "they were not at the same time");
    }

    #[test]
    fn losses_on_several_paths_cut_it_once_per_round_trip_to_a_burst_at_least() {
        let start = Instant::now();
        let mut budget = Budget::new(1 << 20);
        for node in 1..=8 {
            budget.note_loss(start, RTT, link(node));
        }
        assert_eq!(budget.bytes, (1 << 20) * 7 / 10);
        for i in 1..100 {
            budget.note_loss(start + RTT * i, RTT, link(i as u16 % 2));
        }
        assert_eq!(budget.bytes, BURST);
        for _ in 0..10_000 {
            budget.charge(budget.bytes);
            let arrived = budget.bytes;
            budget.discharge(arrived);
            budget.grow(arrived);
        }
        assert_eq!(budget.bytes, 1 << 20);
    }
}

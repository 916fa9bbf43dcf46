//! What the metadata service has told this node, as the data path reads it: for each datagram, while the control
//! connection changes it.
//!
//! Invariant: what belongs to one registration is swapped together, so no receipt is signed with one registration's
//! key for another's epoch.

use std::{
    array,
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::Notify;
use xdpfs_transport::node::NodeCounters;
use xdpfs_wire::{EpochSecret, KeyEpoch, KeyEpochs, ReceiptKey, Reject, TargetNode};

use crate::{
    cluster_clock::{ClusterClock, UnixMs},
    lease::{Lease, Moment},
    xdp::PlaneReport,
};

/// One registration of this node.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Registration {
    /// Whom requests must be meant for.
    pub(crate) target: TargetNode,
    /// What receipts are signed with.
    pub(crate) receipt_key: ReceiptKey,
    /// The registration's number, of which the epoch in `target` is the low part.
    pub(crate) number: u32,
}

/// The key epochs that are live.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct LiveKeyEpochs(Vec<(KeyEpoch, EpochSecret)>);

impl LiveKeyEpochs {
    /// Those of `secrets`, of which there are few.
    #[must_use]
    pub(crate) fn new(secrets: Vec<(KeyEpoch, EpochSecret)>) -> Self {
        Self(secrets)
    }

    /// All of them. If one has been told twice, the first counts, as in a look-up.
    #[must_use]
    pub(crate) fn by_epoch(&self) -> BTreeMap<KeyEpoch, EpochSecret> {
        self.0.iter().rev().copied().collect()
    }
}

impl KeyEpochs for LiveKeyEpochs {
    fn secret(&self, epoch: KeyEpoch) -> Option<EpochSecret> {
        self.0.iter().find(|(live, _)| *live == epoch).map(|(_, secret)| *secret)
    }
}

/// What the data path has seen since the start, for whoever tells it. The endpoint counts; this is its latest word.
#[derive(Debug)]
pub(crate) struct DataPathCounters {
    rejects: [AtomicU64; Reject::ALL.len()],
    /// Payloads that failed their checksum.
    corrupt: AtomicU64,
    /// Requests put off for want of memory, and reads for want of a place in the queue.
    busy: AtomicU64,
    reads_put_off: AtomicU64,
    accepted: AtomicU64,
    duplicates: AtomicU64,
    uploads_expired: AtomicU64,
    bursts_one_by_one: AtomicU64,
}

impl DataPathCounters {
    /// Takes over what the endpoint has counted.
    pub(crate) fn publish(&self, counted: &NodeCounters) {
        for (counter, count) in self.rejects.iter().zip(counted.rejects) {
            counter.store(count, Ordering::Relaxed);
        }
        self.corrupt.store(counted.corrupt, Ordering::Relaxed);
        self.busy.store(counted.busy, Ordering::Relaxed);
        self.accepted.store(counted.accepted, Ordering::Relaxed);
        self.duplicates.store(counted.duplicates, Ordering::Relaxed);
        self.uploads_expired.store(counted.uploads_expired, Ordering::Relaxed);
        self.bursts_one_by_one.store(counted.bursts_one_by_one, Ordering::Relaxed);
    }

    /// Notes a read that found the queue full; the endpoint doesn't see these.
    pub(crate) fn note_read_put_off(&self) {
        self.reads_put_off.fetch_add(1, Ordering::Relaxed);
    }

    /// Requests that passed the validator.
    pub(crate) fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Pieces that arrived more than once.
    pub(crate) fn duplicates(&self) -> u64 {
        self.duplicates.load(Ordering::Relaxed)
    }

    /// Uploads that were forgotten because nothing came any more.
    pub(crate) fn uploads_expired(&self) -> u64 {
        self.uploads_expired.load(Ordering::Relaxed)
    }

    /// Bursts that readers wanted one datagram at a time.
    pub(crate) fn bursts_one_by_one(&self) -> u64 {
        self.bursts_one_by_one.load(Ordering::Relaxed)
    }

    /// All counters of refusals that aren't zero, by label, with what the kernel program has `refused` before.
    #[must_use]
    pub(crate) fn by_label(&self, refused: &[u64; Reject::ALL.len()]) -> BTreeMap<String, u64> {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let rejects = Reject::ALL.iter().zip(&self.rejects).zip(refused);
        let rejects = rejects.map(|((reject, count), refused)| (reject.label(), load(count) + refused));
        let others =
            [("corrupt", load(&self.corrupt)), ("busy", load(&self.busy) + load(&self.reads_put_off))];
        let counts = rejects.chain(others).filter(|(_, count)| *count > 0);
        counts.map(|(label, count)| (label.to_owned(), count)).collect()
    }
}

impl Default for DataPathCounters {
    fn default() -> Self {
        Self {
            rejects: array::from_fn(|_| AtomicU64::new(0)),
            corrupt: AtomicU64::new(0),
            busy: AtomicU64::new(0),
            reads_put_off: AtomicU64::new(0),
            accepted: AtomicU64::new(0),
            duplicates: AtomicU64::new(0),
            uploads_expired: AtomicU64::new(0),
            bursts_one_by_one: AtomicU64::new(0),
        }
    }
}

/// Shared by the control connection, which writes it, and the data path, which reads it.
#[derive(Debug)]
pub(crate) struct NodeState {
    registration: RwLock<Arc<Registration>>,
    key_epochs: RwLock<Arc<LiveKeyEpochs>>,
    clock: ClusterClock,
    lease: Lease,
    /// When the leader last said anything.
    heard_at: Mutex<Instant>,
    counters: DataPathCounters,
    plane: Mutex<PlaneReport>,
    changed: Notify,
}

impl NodeState {
    /// The state after a first registration.
    #[must_use]
    pub(crate) fn new(registration: Registration, key_epochs: LiveKeyEpochs, clock: ClusterClock) -> Self {
        Self {
            registration: RwLock::new(Arc::new(registration)),
            key_epochs: RwLock::new(Arc::new(key_epochs)),
            clock,
            lease: Lease::default(),
            heard_at: Mutex::new(Instant::now()),
            counters: DataPathCounters::default(),
            plane: Mutex::default(),
            changed: Notify::new(),
        }
    }

    /// The present registration, whole. To sign a receipt, take epoch and key from one such snapshot.
    #[must_use]
    pub(crate) fn registration(&self) -> Arc<Registration> {
        Arc::clone(&self.registration.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The live key epochs. The lock is held for the copy of a pointer only; take one snapshot per burst.
    #[must_use]
    pub(crate) fn key_epochs(&self) -> Arc<LiveKeyEpochs> {
        Arc::clone(&self.key_epochs.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The clock that expiries are measured on.
    #[must_use]
    pub(crate) fn clock(&self) -> &ClusterClock {
        &self.clock
    }

    /// For how long this node may vouch for what is written to it.
    #[must_use]
    pub(crate) fn lease(&self) -> &Lease {
        &self.lease
    }

    /// The leader has answered what was sent at that moment.
    pub(crate) fn renew_lease(&self, sent_at: Moment, length: Duration) {
        self.lease.renew(sent_at, length);
        self.changed.notify_one();
    }

    /// For how long the leader has said nothing.
    #[must_use]
    pub(crate) fn silence(&self) -> Duration {
        self.heard_at.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }

    /// The counters of datagrams.
    #[must_use]
    pub(crate) fn counters(&self) -> &DataPathCounters {
        &self.counters
    }

    /// What has been refused since the start, by the kernel program and by the data path, by label.
    #[must_use]
    pub(crate) fn refusals(&self) -> BTreeMap<String, u64> {
        let plane = self.plane.lock().unwrap_or_else(PoisonError::into_inner);
        self.counters.by_label(&plane.counts.rejects)
    }

    /// The kernel program as it last was.
    #[must_use]
    pub(crate) fn plane(&self) -> PlaneReport {
        self.plane.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn note_plane(&self, report: PlaneReport) {
        *self.plane.lock().unwrap_or_else(PoisonError::into_inner) = report;
    }

    /// Resolves once the leader has told something since it last did. For one waiter.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Takes over the time from an answer of the leader.
    pub(crate) fn set_clock(&self, leader_time: UnixMs, round_trip: Duration) {
        self.clock.set(leader_time, round_trip);
        *self.heard_at.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.changed.notify_one();
    }

    pub(crate) fn replace_registration(&self, registration: Registration) {
        *self.registration.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(registration);
        self.changed.notify_one();
    }

    pub(crate) fn replace_key_epochs(&self, key_epochs: LiveKeyEpochs) {
        let mut live = self.key_epochs.write().unwrap_or_else(PoisonError::into_inner);
        if **live != key_epochs {
            *live = Arc::new(key_epochs);
            self.changed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use xdpfs_wire::SipKey;

    use super::*;

    fn secret(byte: u64) -> EpochSecret {
        EpochSecret(SipKey { k0: byte, k1: byte })
    }

    #[test]
    fn only_live_epochs_have_a_secret() {
        let live = LiveKeyEpochs::new(vec![(KeyEpoch(3), secret(3)), (KeyEpoch(4), secret(4))]);
        assert_eq!(live.secret(KeyEpoch(4)), Some(secret(4)));
        assert_eq!(live.secret(KeyEpoch(5)), None);
    }

    #[test]
    fn first_secret_of_an_epoch_counts_however_it_is_asked_for() {
        let live = LiveKeyEpochs::new(vec![(KeyEpoch(3), secret(3)), (KeyEpoch(3), secret(4))]);
        assert_eq!(live.by_epoch()[&KeyEpoch(3)], live.secret(KeyEpoch(3)).unwrap());
    }

    #[test]
    fn counters_are_told_by_label_and_zeros_are_not() {
        let counters = DataPathCounters::default();
        let mut counted = NodeCounters { corrupt: 7, busy: 2, ..NodeCounters::default() };
        for (times, count) in counted.rejects.iter_mut().enumerate() {
            *count = times as u64;
        }
        counters.publish(&counted);
        counters.publish(&counted);
        counters.note_read_put_off();
        let mut refused = [0; Reject::ALL.len()];
        refused[1] = 10;
        let told = counters.by_label(&refused);
        for (times, reject) in Reject::ALL.iter().enumerate() {
            let expect = (times > 0).then_some(times as u64 + refused[times]);
            assert_eq!(told.get(reject.label()).copied(), expect, "{}", reject.label());
        }
        assert_eq!((told["corrupt"], told["busy"]), (7, 3));
    }
}

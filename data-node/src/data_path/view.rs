//! The node as the protocol's endpoint sees it during one burst of datagrams.

use std::sync::Arc;

use xdpfs_transport::node::{ChunkInfo, Node};
use xdpfs_wire::{ChunkId, EpochSecret, Expiry, KeyEpoch, KeyEpochs as _, ReceiptKey, TargetNode};

use crate::{
    disks::Disks,
    lease::Moment,
    node_state::{LiveKeyEpochs, NodeState, Registration},
};

/// One registration, whole: whatever is signed through a view has the epoch and the key of the same one, even if the
/// node registers again in between.
pub(super) struct View {
    registration: Arc<Registration>,
    key_epochs: Arc<LiveKeyEpochs>,
    state: Arc<NodeState>,
    disks: Disks,
}

impl View {
    pub(super) fn of(state: &Arc<NodeState>, disks: &Disks) -> Self {
        Self {
            registration: state.registration(),
            key_epochs: state.key_epochs(),
            state: Arc::clone(state),
            disks: disks.clone(),
        }
    }
}

impl Node for View {
    fn target(&self) -> TargetNode {
        self.registration.target
    }

    fn secret(&self, epoch: KeyEpoch) -> Option<EpochSecret> {
        self.key_epochs.secret(epoch)
    }

    fn now(&self) -> Expiry {
        self.state.clock().now()
    }

    fn receipt_key(&self) -> ReceiptKey {
        self.registration.receipt_key
    }

    fn chunk(&self, chunk: ChunkId) -> Option<ChunkInfo> {
        let found = self.disks.stat(chunk)?;
        Some(ChunkInfo { length: found.length, crc: found.crc })
    }

    fn takes_writes(&self) -> bool {
        self.state.lease().holds(Moment::now())
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;
    use uuid::Uuid;
    use xdpfs_wire::{NodeEpoch, NodeId, SipKey};

    use super::*;
    use crate::{
        cluster_clock::{ClusterClock, UnixMs},
        store::{Store, StoreConfig},
    };

    fn registration(number: u32) -> Registration {
        let target = TargetNode { node: NodeId(1), epoch: NodeEpoch(number as u16) };
        Registration { target, receipt_key: ReceiptKey(SipKey { k0: number.into(), k1: 0 }), number }
    }

    #[test]
    fn view_keeps_one_registration_whatever_happens_meanwhile() {
        let home = TempDir::new().unwrap();
        let (store, _) =
            Store::open(&StoreConfig::new(home.path().join("segments"), Uuid::new_v4())).unwrap();
        let disks = Disks::from(store);
        let clock = ClusterClock::starting_at(UnixMs(0));
        let state = Arc::new(NodeState::new(registration(1), LiveKeyEpochs::default(), clock));
        let view = View::of(&state, &disks);
        let before = view.target();
        state.replace_registration(registration(2));
        assert_eq!((before, view.receipt_key()), (registration(1).target, registration(1).receipt_key));
        let next = View::of(&state, &disks);
        assert_eq!(
            (next.target(), next.receipt_key()),
            (registration(2).target, registration(2).receipt_key)
        );
    }
}

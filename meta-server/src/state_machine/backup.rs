//! The state as a backup holds it, and as a new cluster goes on from one.
//!
//! Invariant: a backup has no secret that is good for anything by itself, and nothing that is given out after a restore
//! was ever given out before it: no number, no version, no key epoch.

use std::sync::Arc;

use bytes::Bytes;
use xdpfs_proto::state::v1::{self as pb, snapshot_record::Kind};
use xdpfs_wire::{ReceiptKey, SipKey};

#[cfg(test)]
use super::snapshot;
use super::{FeatureLevel, State, fingerprint::Fingerprint, history::History};

/// What a node's receipts are checked with that has not registered since a restore: nothing passes.
pub(super) const NO_RECEIPTS: ReceiptKey = ReceiptKey(SipKey { k0: 0, k1: 0 });

/// How far numbers jump: further than a cluster gets between a backup and the day that it is needed.
const LOG_JUMP: u64 = 1 << 40;
const CHUNK_JUMP: u64 = 1 << 40;
const UPLOAD_JUMP: u64 = 1 << 40;
const BUCKET_JUMP: u32 = 1 << 16;
const CLIENT_JUMP: u32 = 1 << 16;
/// Nodes have few numbers, and few nodes join.
const NODE_JUMP: u32 = 64;
/// Registrations of one node.
const NODE_EPOCH_JUMP: u32 = 1 << 12;
const KEY_EPOCH_JUMP: u32 = 1 << 6;

/// Where the log of a cluster begins that is made from a backup at `index`: versions come from there.
#[must_use]
pub const fn restored_index(index: u64) -> u64 {
    index.saturating_add(LOG_JUMP)
}

impl State {
    /// What [`State::begin_backup`] comes to, at once.
    #[cfg(test)]
    pub(crate) fn encode_backup(&self, piece_len: usize) -> Vec<Bytes> {
        snapshot::encode(self.records().filter_map(in_backup), piece_len)
    }

    /// The state of a new cluster of these metadata servers that goes on from a backup. What the old cluster gave out
    /// after the backup is not given out again. `None`: the servers make no sense.
    #[must_use]
    pub fn restored(mut self, members: impl IntoIterator<Item = pb::MetaMember>) -> Option<Self> {
        self.members = Arc::new(self.members.replaced_by(members)?);
        // Listings that the old cluster has begun are over: what it did after the backup is not known here.
        self.history = History::after_snapshot(0);
        // Only this release, or a later one, can start from what it has restored.
        self.feature_level = FeatureLevel::SUPPORTED;
        self.fingerprint = Fingerprint::default();
        let counters = &mut self.counters;
        counters.bucket = counters.bucket.saturating_add(BUCKET_JUMP);
        counters.chunk = counters.chunk.saturating_add(CHUNK_JUMP);
        counters.client = counters.client.saturating_add(CLIENT_JUMP);
        counters.node = counters.node.saturating_add(NODE_JUMP);
        counters.upload = counters.upload.saturating_add(UPLOAD_JUMP);
        let key_epoch = self.key_epochs.last_number().saturating_add(KEY_EPOCH_JUMP);
        self.key_epochs.set_last_number(key_epoch);
        for node in self.nodes.values_mut() {
            node.epoch = node.epoch.saturating_add(NODE_EPOCH_JUMP);
        }
        Some(self)
    }
}

/// The record as a backup has it.
pub(super) fn in_backup(kind: Kind) -> Option<Kind> {
    match kind {
        Kind::Answered(_) | Kind::KeyEpoch(_) => None,
        Kind::Node(mut node) => {
            node.receipt_key = Bytes::copy_from_slice(&NO_RECEIPTS.0.to_bytes());
            node.request_id = Bytes::new();
            Some(Kind::Node(node))
        }
        other => Some(other),
    }
}

#[cfg(test)]
mod tests {
    use xdpfs_proto::state::v1::{command, outcome};
    use xdpfs_wire::{ChunkId, NodeEpoch, NodeId, Receipt};

    use super::{super::members::Configuration, *};

    const SECRET: [u8; 16] = *b"an epoch's key..";
    const RECEIPT_KEY: [u8; 16] = *b"signs a receipt.";

    fn member() -> pb::MetaMember {
        pb::MetaMember {
            id: 5,
            peer_address: "p:1".into(),
            client_address: "c:1".into(),
            ..Default::default()
        }
    }

    fn apply(state: &mut State, index: u64, kind: command::Kind) -> outcome::Kind {
        let request_id = Bytes::copy_from_slice(&u128::from(index).to_be_bytes());
        let command = pb::Command { time_ms: index, request_id, kind: Some(kind), ..Default::default() };
        state.apply(index, &command).kind.unwrap()
    }

    /// A bucket, a node, a key epoch and an open upload of one chunk.
    fn state() -> State {
        let mut state = State::default();
        let kinds = [
            command::Kind::InitCluster(pb::InitCluster {
                cluster_id: "a cluster".into(),
                ..Default::default()
            }),
            command::Kind::AddKeyEpoch(pb::AddKeyEpoch { secret: Bytes::from_static(&SECRET), after: 0 }),
            command::Kind::RegisterNode(pb::RegisterNode {
                node_uuid: "a node".into(),
                receipt_key: Bytes::from_static(&RECEIPT_KEY),
                ..Default::default()
            }),
            command::Kind::CreateBucket(pb::CreateBucket {
                name: "data".into(),
                chunk_size: 65_536,
                replicas: 1,
                min_replicas: 1,
                ..Default::default()
            }),
        ];
        for (kind, index) in kinds.into_iter().zip(1..) {
            apply(&mut state, index, kind);
        }
        begin(&mut state, 9);
        state
    }

    fn begin(state: &mut State, index: u64) -> pb::Begun {
        let placement = pb::Placement { node_ids: vec![1] };
        let begin = pb::BeginPut {
            bucket: "data".into(),
            key: "key".into(),
            placements: vec![placement],
            lease_ms: 1_000_000,
            ..Default::default()
        };
        match apply(state, index, command::Kind::BeginPut(begin)) {
            outcome::Kind::Begun(begun) => begun,
            other => panic!("{other:?}"),
        }
    }

    fn contains(pieces: &[Bytes], secret: &[u8]) -> bool {
        pieces.concat().windows(secret.len()).any(|window| window == secret)
    }

    #[test]
    fn backup_has_no_secrets() {
        let state = state();
        for secret in [&SECRET, &RECEIPT_KEY] {
            assert!(contains(&state.encode(100), secret), "a snapshot has it, or this test shows nothing");
            assert!(!contains(&state.encode_backup(100), secret));
        }
    }

    #[test]
    fn restored_state_gives_out_nothing_twice() {
        let before = state();
        let bytes = before.encode_backup(usize::MAX).concat();
        let mut after = State::decode(&bytes[..]).unwrap().restored([member()]).unwrap();
        assert_eq!(after.cluster_id(), "a cluster");
        assert!(after.key_epochs().live().is_empty());
        assert_eq!((before.history.index(), after.history.index()), (9, 0));
        assert_eq!(after.members().configuration(), &Configuration::of_voters([5]));
        assert!(after.members().is_former(6), "it may have been given out since");
        // The old cluster went on for a while.
        let mut old = before;
        let old_last = (10..50).map(|index| begin(&mut old, index)).last().unwrap();
        let new = begin(&mut after, 50);
        assert!(new.upload_id > old_last.upload_id && new.client_id > old_last.client_id);
        assert!(new.chunks[0].chunk_id > old_last.chunks[0].chunk_id);
        let epoch = after.node(NodeId(1)).unwrap().epoch;
        assert!(epoch > old.node(NodeId(1)).unwrap().epoch);
        let add =
            pb::AddKeyEpoch { secret: Bytes::from_static(&SECRET), after: after.key_epochs().last_number() };
        apply(&mut after, 51, command::Kind::AddKeyEpoch(add));
        assert!(after.key_epochs().last_number() > old.key_epochs().last_number());
    }

    #[test]
    fn nobody_vouches_for_chunks_before_it_has_registered_again() {
        let bytes = state().encode_backup(usize::MAX).concat();
        let restored = State::decode(&bytes[..]).unwrap().restored([member()]).unwrap();
        let node = restored.node(NodeId(1)).unwrap();
        let mut receipt = Receipt {
            node: node.id,
            node_epoch: NodeEpoch(node.epoch as u16),
            chunk: ChunkId(1),
            length: 1,
            crc: 1,
            mac: 0,
        };
        receipt.mac = NO_RECEIPTS.sign(&receipt);
        assert!(NO_RECEIPTS.verifies(&receipt), "the receipt is what the key would sign");
        assert!(!node.vouches_for(&receipt));
    }
}

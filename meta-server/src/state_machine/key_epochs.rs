//! The secrets that capabilities are derived from. Two are live at any time, but one after a rotation that ended the
//! others.

use bytes::Bytes;
use xdpfs_proto::state::v1::{self as pb, outcome};
use xdpfs_wire::{EpochSecret, KeyEpoch as Number, SipKey};

use super::{
    State,
    reject::{Reason, Reject},
};

const LIVE_MAX: usize = 2;

/// One secret.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct KeyEpoch {
    /// Counts all secrets that the cluster ever had; datagrams carry it modulo 2^8.
    pub number: u32,
    /// The secret itself.
    pub secret: EpochSecret,
    /// When it was added, on the cluster's clock.
    pub create_time_ms: u64,
}

impl KeyEpoch {
    /// Its number as datagrams carry it.
    #[must_use]
    pub const fn wire_number(&self) -> Number {
        Number(self.number as u8)
    }
}

/// The live secrets, oldest first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct KeyEpochs {
    live: Vec<KeyEpoch>,
    last_number: u32,
}

impl KeyEpochs {
    /// Oldest first; at most two.
    #[must_use]
    pub fn live(&self) -> &[KeyEpoch] {
        &self.live
    }

    /// The number of the newest secret; zero if there is none.
    #[must_use]
    pub const fn last_number(&self) -> u32 {
        self.last_number
    }

    /// The secret to make capabilities with at `now_ms`: the newest one that data nodes have had `settle_ms` to learn.
    #[must_use]
    pub fn for_signing(&self, now_ms: u64, settle_ms: u64) -> Option<&KeyEpoch> {
        let settled = |epoch: &&KeyEpoch| epoch.create_time_ms.saturating_add(settle_ms) <= now_ms;
        self.live.iter().rev().find(settled).or_else(|| self.live.first())
    }

    pub(super) fn push(&mut self, epoch: KeyEpoch) {
        self.last_number = epoch.number;
        self.live.push(epoch);
        let surplus = self.live.len().saturating_sub(LIVE_MAX);
        self.live.drain(..surplus);
    }

    /// The secret becomes the only live one.
    fn replace_all(&mut self, epoch: KeyEpoch) {
        self.live.clear();
        self.push(epoch);
    }

    pub(super) fn set_last_number(&mut self, number: u32) {
        self.last_number = number;
    }

    pub(super) fn records(&self) -> impl Iterator<Item = pb::KeyEpoch> + '_ {
        self.live.iter().map(|epoch| pb::KeyEpoch {
            number: epoch.number,
            secret: Bytes::copy_from_slice(&epoch.secret.0.to_bytes()),
            create_time_ms: epoch.create_time_ms,
        })
    }
}

impl State {
    pub(super) fn add_key_epoch(&mut self, add: &pb::AddKeyEpoch) -> outcome::Kind {
        if let (Ok(secret), true) =
            (<[u8; 16]>::try_from(&add.secret[..]), add.after == self.key_epochs.last_number)
        {
            self.key_epochs.push(KeyEpoch {
                number: add.after + 1,
                secret: EpochSecret(SipKey::from_bytes(secret)),
                create_time_ms: self.time_ms,
            });
        }
        outcome::Kind::Done(pb::Done {})
    }

    pub(super) fn rotate_key_epoch(&mut self, rotate: &pb::RotateKeyEpoch) -> Result<outcome::Kind, Reject> {
        let key_epoch = self.end_epochs(&rotate.secret)?;
        Ok(outcome::Kind::Rotated(pb::Rotated { key_epoch }))
    }

    /// Begins an epoch and ends all others, those too that nodes have yet to hear of. Gives its number.
    pub(super) fn end_epochs(&mut self, secret: &[u8]) -> Result<u32, Reject> {
        let secret = <[u8; 16]>::try_from(secret)
            .map_err(|_| Reject::new(Reason::InvalidArgument, "an epoch's secret has sixteen bytes"))?;
        let number = self.key_epochs.last_number + 1;
        self.key_epochs.replace_all(KeyEpoch {
            number,
            secret: EpochSecret(SipKey::from_bytes(secret)),
            create_time_ms: self.time_ms,
        });
        Ok(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(state: &mut State, time_ms: u64, after: u32) {
        let add = pb::AddKeyEpoch { secret: Bytes::from(vec![after as u8; 16]), after };
        let kind = Some(pb::command::Kind::AddKeyEpoch(add));
        state.apply(1, &pb::Command { time_ms, kind, ..Default::default() });
    }

    #[test]
    fn two_leaders_in_a_row_add_one_epoch() {
        let mut state = State::default();
        add(&mut state, 10, 0);
        add(&mut state, 11, 0);
        assert_eq!(state.key_epochs().live().len(), 1);
        add(&mut state, 20, 1);
        add(&mut state, 30, 2);
        let numbers: Vec<_> = state.key_epochs().live().iter().map(|epoch| epoch.number).collect();
        assert_eq!(numbers, [2, 3]);
    }

    #[test]
    fn new_epoch_signs_only_once_nodes_know_it() {
        let mut state = State::default();
        let signing = |state: &State, now| state.key_epochs().for_signing(now, 100).map(|epoch| epoch.number);
        assert_eq!(signing(&state, 0), None);
        add(&mut state, 10, 0);
        assert_eq!(signing(&state, 10), Some(1), "there is no other");
        add(&mut state, 1000, 1);
        assert_eq!(signing(&state, 1099), Some(1));
        assert_eq!(signing(&state, 1100), Some(2));
    }

    #[test]
    fn rotation_ends_all_earlier_epochs_and_signs_at_once() {
        let mut state = State::default();
        add(&mut state, 10, 0);
        add(&mut state, 2000, 1);
        let rotate = |len: usize| {
            let rotate = pb::RotateKeyEpoch { secret: Bytes::from(vec![9; len]) };
            let kind = Some(pb::command::Kind::RotateKeyEpoch(rotate));
            pb::Command { time_ms: 3000, kind, ..Default::default() }
        };
        let rotated = outcome::Kind::Rotated(pb::Rotated { key_epoch: 3 });
        assert_eq!(state.apply(1, &rotate(16)).kind, Some(rotated));
        let numbers: Vec<_> = state.key_epochs().live().iter().map(|epoch| epoch.number).collect();
        assert_eq!(numbers, [3]);
        assert_eq!(state.key_epochs().for_signing(3000, 100).map(|epoch| epoch.number), Some(3));
        add(&mut state, 4000, 2);
        assert_eq!(state.key_epochs().live().len(), 1, "a leader that had not heard of it does no harm");
        assert!(matches!(state.apply(1, &rotate(15)).kind, Some(outcome::Kind::Rejected(_))));
        assert_eq!(state.key_epochs().last_number(), 3);
    }
}

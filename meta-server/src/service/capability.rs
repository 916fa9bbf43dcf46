//! Capabilities: what a client may do with the chunks of one bucket, and until when (`docs/protocol.md §6`).

use std::time::Duration;

use xdpfs_proto::meta::v1 as proto;
use xdpfs_wire::{BucketId, Capability, ClientId, Expiry, Rights};

use super::Refusal;
use crate::{
    clock::millis,
    config::Times,
    state_machine::{KeyEpochs, Reason},
};

/// Ids that leaders make up for readers have this bit set; those of writers come from the state and never have it.
const READER: u32 = 0x8000_0000;

/// Whom a capability is given to, and for what.
#[derive(Clone, Copy, Debug)]
pub(super) struct Grantee {
    client: ClientId,
    bucket: BucketId,
    rights: Rights,
    /// What its time is counted from; none is now.
    since_ms: Option<u64>,
}

impl Grantee {
    /// A client that writes in the upload whose number it was given, in chunks that were granted at `since_ms`.
    pub(super) const fn writer(client: ClientId, bucket: BucketId, since_ms: u64) -> Self {
        Self { client, bucket, rights: Rights::WRITE, since_ms: Some(since_ms) }
    }

    /// A client that reads. Two of them may get the same id by chance: it does not matter, they have the same rights.
    pub(super) const fn reader(random: u32, bucket: BucketId) -> Self {
        Self { client: ClientId(random | READER), bucket, rights: Rights::READ, since_ms: None }
    }
}

/// Makes a capability on the leader's clock.
pub(super) fn grant(
    key_epochs: &KeyEpochs,
    times: &Times,
    now_ms: u64,
    grantee: Grantee,
) -> Result<proto::Capability, Refusal> {
    let epoch = key_epochs
        .for_signing(now_ms, millis(times.key_epoch_settle))
        .ok_or(Refusal::new(Reason::Overloaded, "the leader has only just begun its work"))?;
    let Grantee { client, bucket, rights, since_ms } = grantee;
    let lasts = if rights.contains(Rights::WRITE) { times.write_capability } else { times.read_capability };
    let expiry = expiry(since_ms.unwrap_or(now_ms), lasts);
    let key = Capability { client, bucket, rights, expiry, key_epoch: epoch.wire_number() }.key(epoch.secret);
    Ok(proto::Capability {
        client_id: client.0,
        bucket_id: bucket.0,
        rights: rights.0.into(),
        expiry_s: expiry.0,
        key_epoch: epoch.wire_number().0.into(),
        key: key.0.to_bytes().to_vec(),
        valid_for_ms: (u64::from(expiry.0) * 1000).saturating_sub(now_ms),
    })
}

/// Whole seconds, rounded down: never longer than configured.
fn expiry(since_ms: u64, lasts: Duration) -> Expiry {
    Expiry(u32::try_from(since_ms.saturating_add(millis(lasts)) / 1000).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use xdpfs_proto::state::v1::{self as pb, command::Kind};
    use xdpfs_wire::{CapabilityKey, EpochSecret, KeyEpoch, SipKey};

    use super::*;
    use crate::state_machine::State;

    const NOW_MS: u64 = 1_700_000_000_900;

    fn state(epochs: u8) -> State {
        let mut state = State::default();
        for number in 0..epochs {
            let add = pb::AddKeyEpoch { secret: Bytes::from(vec![number; 16]), after: number.into() };
            let time_ms = NOW_MS - 1000 + u64::from(number) * 500;
            state
                .apply(1, &pb::Command { time_ms, kind: Some(Kind::AddKeyEpoch(add)), ..Default::default() });
        }
        state
    }

    #[test]
    fn key_proves_what_the_capability_says() {
        let times = Times { key_epoch_settle: Duration::ZERO, ..Times::default() };
        let state = state(1);
        let writer = Grantee::writer(ClientId(7), BucketId(3), NOW_MS);
        let given = grant(state.key_epochs(), &times, NOW_MS, writer).unwrap();
        let claimed = Capability {
            client: ClientId(7),
            bucket: BucketId(3),
            rights: Rights::WRITE,
            expiry: Expiry(1_700_000_120),
            key_epoch: KeyEpoch(1),
        };
        let secret = EpochSecret(SipKey::from_bytes([0; 16]));
        let key = CapabilityKey(SipKey::from_bytes(given.key.try_into().unwrap()));
        assert_eq!(key, claimed.key(secret));
        assert_eq!((given.expiry_s, given.valid_for_ms), (1_700_000_120, 119_100));
    }

    #[test]
    fn writers_time_runs_from_the_grant_however_late_it_is_answered() {
        let (times, state) = (Times::default(), state(1));
        let grant = |now_ms| {
            let writer = Grantee::writer(ClientId(7), BucketId(3), NOW_MS);
            let given = grant(state.key_epochs(), &times, now_ms, writer).unwrap();
            (given.expiry_s, given.valid_for_ms)
        };
        assert_eq!(grant(NOW_MS), (1_700_000_120, 119_100));
        assert_eq!(grant(NOW_MS + 60_000), (1_700_000_120, 59_100));
        assert_eq!(
            grant(NOW_MS + millis(times.deletion_grace)),
            (1_700_000_120, 0),
            "the chunks may be gone"
        );
    }

    #[test]
    fn young_secret_is_not_used_while_there_is_an_older_one() {
        let times = Times { key_epoch_settle: Duration::from_millis(700), ..Times::default() };
        let grant = |state: &State, now_ms| {
            grant(state.key_epochs(), &times, now_ms, Grantee::reader(5, BucketId(3)))
                .map(|given| given.key_epoch)
        };
        assert_eq!(grant(&state(2), NOW_MS), Ok(1));
        assert_eq!(grant(&state(2), NOW_MS + 200), Ok(2));
        assert_eq!(grant(&state(0), NOW_MS).unwrap_err().reason(), Reason::Overloaded);
    }

    #[test]
    fn readers_and_writers_never_share_an_id() {
        assert_eq!(Grantee::reader(5, BucketId(1)).client, ClientId(0x8000_0005));
    }
}

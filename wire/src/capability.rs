//! The stateless capability: who may do what to which bucket until when, and the key that proves it
//! (`docs/protocol.md §6`).
//!
//! The metadata leader derives the key and hands it to the client over gRPC; a data node or the kernel derives it
//! again from the epoch secret and the header. No entry per client exists anywhere.

use crate::header::{Header, HeaderBytes, tagged_words};
use crate::ids::{BucketId, ClientId, Expiry, KeyEpoch, Rights};
use crate::siphash::{SipKey, siphash_2_4};

/// Keeps capability keys apart from everything else that is derived from an epoch secret ("xdpfscap").
const DOMAIN: u64 = u64::from_le_bytes(*b"xdpfscap");

/// The secret of one key epoch, known to metadata servers and data nodes only.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct EpochSecret(pub SipKey);

/// What a capability says. The secret turns it into a [`CapabilityKey`].
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Capability {
    /// Whom it was given to.
    pub client: ClientId,
    /// The one bucket that it reaches.
    pub bucket: BucketId,
    /// What it allows there.
    pub rights: Rights,
    /// When it ends.
    pub expiry: Expiry,
    /// Which secret proves it.
    pub key_epoch: KeyEpoch,
}

/// The key that a client tags its datagrams with.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct CapabilityKey(pub SipKey);

impl Capability {
    /// The capability that a header claims to have.
    #[inline(always)]
    #[must_use]
    pub const fn claimed_by(header: &Header) -> Self {
        Self {
            client: header.client,
            bucket: header.bucket,
            rights: header.rights,
            expiry: header.expiry,
            key_epoch: header.key_epoch,
        }
    }

    /// All that it says, in two words.
    #[inline(always)]
    #[must_use]
    pub fn words(&self) -> [u64; 2] {
        let who = u64::from(self.client.0) | u64::from(self.bucket.0) << 32;
        let what =
            u64::from(self.expiry.0) | u64::from(self.rights.0) << 32 | u64::from(self.key_epoch.0) << 40;
        [who, what]
    }

    /// The key that belongs to this capability under `secret`.
    #[inline(always)]
    #[must_use]
    pub fn key(&self, secret: EpochSecret) -> CapabilityKey {
        let [who, what] = self.words();
        CapabilityKey(SipKey {
            k0: siphash_2_4(secret.0, &[DOMAIN, who, what]),
            k1: siphash_2_4(secret.0, &[DOMAIN, who, what | 1 << 63]),
        })
    }
}

impl CapabilityKey {
    /// The tag that belongs to an encoded header; the eight tag bytes themselves are ignored.
    #[inline(always)]
    #[must_use]
    pub fn tag(&self, bytes: &HeaderBytes) -> u64 {
        siphash_2_4(self.0, &tagged_words(bytes))
    }

    /// Encodes `header` with its tag, whatever `header.tag` says.
    #[inline(always)]
    #[must_use]
    pub fn seal(&self, header: &Header) -> HeaderBytes {
        let mut bytes = header.encode();
        let tag = self.tag(&bytes);
        bytes[56..64].copy_from_slice(&tag.to_le_bytes());
        bytes
    }

    /// Whether the tag in `bytes` is right.
    ///
    /// A 64-bit comparison is one instruction on every target, so its time says nothing about how many bytes agree.
    #[inline(always)]
    #[must_use]
    pub fn verifies(&self, bytes: &HeaderBytes) -> bool {
        let [.., a, b, c, d, e, f, g, h] = *bytes;
        u64::from_le_bytes([a, b, c, d, e, f, g, h]) == self.tag(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: EpochSecret = EpochSecret(SipKey { k0: 1, k1: 2 });

    fn capability() -> Capability {
        Capability {
            client: ClientId(9),
            bucket: BucketId(4),
            rights: Rights::READ,
            expiry: Expiry(1000),
            key_epoch: KeyEpoch(7),
        }
    }

    #[test]
    fn every_field_changes_the_key() {
        let base = capability();
        let variants = [
            Capability { client: ClientId(10), ..base },
            Capability { bucket: BucketId(5), ..base },
            Capability { rights: Rights::ALL, ..base },
            Capability { expiry: Expiry(1001), ..base },
            Capability { key_epoch: KeyEpoch(8), ..base },
        ];
        for variant in variants {
            assert_ne!(variant.key(SECRET), base.key(SECRET), "{variant:?}");
        }
        assert_ne!(base.key(EpochSecret(SipKey { k0: 1, k1: 3 })), base.key(SECRET));
        assert_ne!(base.key(SECRET).0.k0, base.key(SECRET).0.k1);
    }
}

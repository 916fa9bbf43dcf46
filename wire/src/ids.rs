//! Newtypes for every number that names something or measures something on the wire.

use core::fmt;

/// The largest chunk that an offset and a length may describe, in bytes (64 MiB; `docs/protocol.md §2`).
pub const CHUNK_LEN_MAX: u32 = 64 << 20;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($raw:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
        pub struct $name(pub $raw);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id! {
    /// A bucket, numbered by the metadata service; never reused.
    BucketId(u32)
}
id! {
    /// One client session, numbered by the metadata service when it hands out a capability.
    ClientId(u32)
}
id! {
    /// A data node; stays with its data directory for life. Zero names no node.
    NodeId(u16)
}
id! {
    /// How often a data node has registered, modulo 2^16. A receipt counts only in the epoch it was given in.
    NodeEpoch(u16)
}
id! {
    /// Which epoch secret a capability was derived from, modulo 2^8. Two epochs are live at any time.
    KeyEpoch(u8)
}
id! {
    /// Chosen by the client and echoed in every reply, so that a reply finds its request.
    RequestId(u32)
}
id! {
    /// When a capability ends: seconds since the Unix epoch on the metadata leader's clock.
    Expiry(u32)
}

impl NodeEpoch {
    /// Whether this epoch came earlier, by serial number arithmetic (RFC 1982). Of two epochs that are 2^15 apart
    /// neither did.
    #[inline(always)]
    #[must_use]
    pub const fn is_before(self, other: Self) -> bool {
        other.0.wrapping_sub(self.0).cast_signed() > 0
    }
}

/// An immutable chunk. The high 32 bits are its bucket, so that one datagram can be checked against a capability
/// without any look-up; the low 96 bits come from ranges reserved through Raft and are never reused.
#[derive(Clone, Copy, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ChunkId(pub u128);

impl ChunkId {
    /// The `sequence`-th chunk of `bucket`.
    #[must_use]
    pub const fn new(bucket: BucketId, sequence: u64) -> Self {
        Self(((bucket.0 as u128) << 96) | sequence as u128)
    }

    /// The bucket that the chunk belongs to.
    #[must_use]
    pub const fn bucket(self) -> BucketId {
        BucketId((self.0 >> 96) as u32)
    }

    /// The chunk `n` places after this one in its bucket.
    #[must_use]
    pub const fn offset_by(self, n: u64) -> Self {
        Self(self.0 + n as u128)
    }
}

impl fmt::Display for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}-{:024x}", self.bucket().0, self.0 & ((1 << 96) - 1))
    }
}

impl fmt::Debug for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What a capability allows, as a set of bits. Bits that have no meaning yet must be zero.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Rights(pub u8);

impl Rights {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// Read chunks and ask whether they are there.
    pub const READ: Self = Self(1);
    /// Write new chunks.
    pub const WRITE: Self = Self(2);
    /// All bits that have a meaning.
    pub const ALL: Self = Self(3);

    /// Whether every right in `needed` is also in `self`.
    #[must_use]
    pub const fn contains(self, needed: Self) -> bool {
        self.0 & needed.0 == needed.0
    }

    /// Both sets together.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bucket_is_the_high_word_of_a_chunk_id() {
        let id = ChunkId::new(BucketId(7), u64::MAX);
        assert_eq!(id.bucket(), BucketId(7));
        assert_eq!(id.offset_by(1).bucket(), BucketId(7), "a sequence never carries into the bucket");
    }

    #[test]
    fn epochs_are_ordered_round_the_end_of_their_numbers() {
        let check = |a, b, expect| assert_eq!(NodeEpoch(a).is_before(NodeEpoch(b)), expect, "{a} before {b}");
        check(1, 2, true);
        check(2, 1, false);
        check(2, 2, false);
        check(0xffff, 0, true);
        check(0, 0xffff, false);
        check(1, 0x8000, true);
        check(0, 0x8000, false);
        check(0x8000, 0, false);
    }

    #[test]
    fn rights_contain_only_what_was_granted() {
        assert!(Rights::ALL.contains(Rights::WRITE));
        assert!(!Rights::READ.contains(Rights::WRITE));
        assert!(Rights::NONE.contains(Rights::NONE));
        assert_eq!(Rights::READ.union(Rights::WRITE), Rights::ALL);
    }
}

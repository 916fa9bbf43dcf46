//! SipHash-2-4 over whole 64-bit words.
//!
//! Every message of the protocol that is hashed has a fixed number of words, so the loop is bounded at compile time
//! and the code can run in BPF. Output for a message of `N` words equals the reference function on its `8 * N`
//! little-endian bytes (Aumasson and Bernstein, "SipHash: a fast short-input PRF", 2012).

/// A 128-bit SipHash key as two little-endian words.
#[derive(Clone, Copy, Eq, PartialEq)]
pub struct SipKey {
    /// The first eight bytes.
    pub k0: u64,
    /// The last eight bytes.
    pub k1: u64,
}

impl SipKey {
    /// The key in sixteen bytes, as configuration and gRPC carry it.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        let [a, b, c, d, e, f, g, h, rest @ ..] = bytes;
        Self { k0: u64::from_le_bytes([a, b, c, d, e, f, g, h]), k1: u64::from_le_bytes(rest) }
    }

    /// The inverse of [`SipKey::from_bytes`].
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 16] {
        let [a, b, c, d, e, f, g, h] = self.k0.to_le_bytes();
        let [i, j, k, l, m, n, o, p] = self.k1.to_le_bytes();
        [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
    }
}

impl core::fmt::Debug for SipKey {
    /// Keys stay out of logs.
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("SipKey(..)")
    }
}

struct State {
    v0: u64,
    v1: u64,
    v2: u64,
    v3: u64,
}

impl State {
    #[inline(always)]
    fn round(&mut self) {
        self.v0 = self.v0.wrapping_add(self.v1);
        self.v1 = self.v1.rotate_left(13) ^ self.v0;
        self.v0 = self.v0.rotate_left(32);
        self.v2 = self.v2.wrapping_add(self.v3);
        self.v3 = self.v3.rotate_left(16) ^ self.v2;
        self.v0 = self.v0.wrapping_add(self.v3);
        self.v3 = self.v3.rotate_left(21) ^ self.v0;
        self.v2 = self.v2.wrapping_add(self.v1);
        self.v1 = self.v1.rotate_left(17) ^ self.v2;
        self.v2 = self.v2.rotate_left(32);
    }

    #[inline(always)]
    fn absorb(&mut self, word: u64) {
        self.v3 ^= word;
        self.round();
        self.round();
        self.v0 ^= word;
    }
}

/// The 64-bit SipHash-2-4 of `words` under `key`.
#[inline(always)]
#[must_use]
pub fn siphash_2_4<const N: usize>(key: SipKey, words: &[u64; N]) -> u64 {
    let mut s = State {
        v0: key.k0 ^ 0x736f_6d65_7073_6575,
        v1: key.k1 ^ 0x646f_7261_6e64_6f6d,
        v2: key.k0 ^ 0x6c79_6765_6e65_7261,
        v3: key.k1 ^ 0x7465_6462_7974_6573,
    };
    for word in words {
        s.absorb(*word);
    }
    // The last word of the reference function holds the message length modulo 256 in its top byte.
    s.absorb(((N * 8) as u64) << 56);
    s.v2 ^= 0xff;
    s.round();
    s.round();
    s.round();
    s.round();
    s.v0 ^ s.v1 ^ s.v2 ^ s.v3
}

#[cfg(test)]
mod tests {
    use core::hash::Hasher as _;

    use proptest::prelude::*;
    use siphasher::sip::SipHasher24;

    use super::*;

    fn reference(key: SipKey, bytes: &[u8]) -> u64 {
        let mut hasher = SipHasher24::new_with_keys(key.k0, key.k1);
        hasher.write(bytes);
        hasher.finish()
    }

    #[test]
    fn the_papers_key_and_message_of_eight_bytes() {
        // Appendix A of the paper uses key 00..0f; the vector for the 8-byte message 00..07 is from the authors'
        // vectors.h.
        let key = SipKey::from_bytes(core::array::from_fn(|i| i as u8));
        assert_eq!(siphash_2_4(key, &[0x0706_0504_0302_0100]), 0x93f5_f579_9a93_2462);
    }

    proptest! {
        #[test]
        fn agrees_with_an_independent_implementation(k0: u64, k1: u64, words: [u64; 7]) {
            let mut bytes = [0; 56];
            for (slot, word) in bytes.chunks_exact_mut(8).zip(words) {
                slot.copy_from_slice(&word.to_le_bytes());
            }
            let key = SipKey { k0, k1 };
            prop_assert_eq!(siphash_2_4(key, &words), reference(key, &bytes));
        }
    }

    #[test]
    fn key_bytes_round_trip() {
        let bytes = core::array::from_fn(|i| (i * 17) as u8);
        assert_eq!(SipKey::from_bytes(bytes).to_bytes(), bytes);
    }
}

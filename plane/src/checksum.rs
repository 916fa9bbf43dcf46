//! The Internet checksum, kept right when words change (RFC 1071, RFC 1624).
//!
//! Words are summed in memory order, which the ones' complement sum allows (RFC 1071 §2 B), so nothing is swapped.

/// A ones' complement sum that has not been folded yet.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Checksum(u64);

impl Checksum {
    /// The sum that the checksum field of a header stands for.
    #[inline(always)]
    #[must_use]
    pub const fn of_field(field: [u8; 2]) -> Self {
        Self((!u16::from_ne_bytes(field)) as u64)
    }

    /// A sum that the kernel made over bytes that start at an even place.
    #[inline(always)]
    #[must_use]
    pub const fn of_kernel(sum: u32) -> Self {
        Self(sum as u64)
    }

    /// With four bytes more.
    #[inline(always)]
    #[must_use]
    pub const fn plus4(self, bytes: [u8; 4]) -> Self {
        Self(self.0 + u32::from_ne_bytes(bytes) as u64)
    }

    /// With two bytes more.
    #[inline(always)]
    #[must_use]
    pub const fn plus2(self, bytes: [u8; 2]) -> Self {
        Self(self.0 + u16::from_ne_bytes(bytes) as u64)
    }

    /// Without four bytes that were summed.
    #[inline(always)]
    #[must_use]
    pub const fn minus4(self, bytes: [u8; 4]) -> Self {
        Self(self.0 + (!u32::from_ne_bytes(bytes)) as u64)
    }

    /// Without two bytes that were summed.
    #[inline(always)]
    #[must_use]
    pub const fn minus2(self, bytes: [u8; 2]) -> Self {
        Self(self.0 + (!u16::from_ne_bytes(bytes)) as u64)
    }

    /// Both sums together.
    #[inline(always)]
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }

    /// The sum of many bytes.
    #[inline(always)]
    #[must_use]
    pub fn plus_all<const N: usize>(mut self, bytes: &[u8; N]) -> Self {
        const { assert!(N.is_multiple_of(4)) };
        let (words, _) = bytes.as_chunks::<4>();
        for word in words {
            self = self.plus4(*word);
        }
        self
    }

    /// The sum as two bytes, not complemented: what an unfinished UDP checksum holds.
    #[inline(always)]
    #[must_use]
    pub const fn folded(self) -> [u8; 2] {
        let sum = (self.0 & 0xffff_ffff) + (self.0 >> 32);
        let sum = (sum & 0xffff) + ((sum >> 16) & 0xffff) + (sum >> 32);
        let sum = (sum & 0xffff) + (sum >> 16);
        let sum = (sum & 0xffff) + (sum >> 16);
        (sum as u16).to_ne_bytes()
    }

    /// The sum as a checksum field of IPv4.
    #[inline(always)]
    #[must_use]
    pub const fn field(self) -> [u8; 2] {
        let [a, b] = self.folded();
        [!a, !b]
    }

    /// The sum as a checksum field of UDP, where zero would mean that there is none.
    #[inline(always)]
    #[must_use]
    pub const fn udp_field(self) -> [u8; 2] {
        match self.field() {
            [0, 0] => [0xff, 0xff],
            field => field,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_word_gives_the_sum_of_the_new_bytes() {
        let old = [0x45, 0, 0, 20, 1, 2, 3, 4, 0xff, 0xff, 0, 0];
        let new = [0x45, 0, 0, 20, 9, 8, 7, 6, 0xff, 0xff, 0, 0];
        let sum = |bytes: &[u8; 12]| Checksum::default().plus_all(bytes).field();
        let updated = Checksum::of_field(sum(&old)).minus4([1, 2, 3, 4]).plus4([9, 8, 7, 6]);
        assert_eq!(updated.field(), sum(&new));
    }

    #[test]
    fn udp_never_says_that_there_is_no_checksum() {
        let sum = Checksum::default().plus2([0xff, 0xff]);
        assert_eq!((sum.field(), sum.udp_field()), ([0, 0], [0xff, 0xff]));
    }
}

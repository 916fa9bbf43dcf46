//! CRC32C (RFC 3720 §12.1), the checksum of pieces, pages, chunks and objects.

use crc_fast::CrcAlgorithm::Crc32Iscsi;

/// The CRC32C of `bytes`.
#[must_use]
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::checksum(Crc32Iscsi, bytes) as u32
}

/// The CRC32C of two byte strings in a row, from theirs and from the second one's length in bytes.
#[must_use]
pub fn crc32c_combine(first: u32, second: u32, second_len: u64) -> u32 {
    crc_fast::checksum_combine(Crc32Iscsi, first.into(), second.into(), second_len) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_the_vectors_of_rfc_3720() {
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(crc32c(b""), 0);
    }

    #[test]
    fn combining_equals_one_pass() {
        let (a, b) = (b"placed by few, ".as_slice(), b"held by many".as_slice());
        let whole = [a, b].concat();
        assert_eq!(crc32c_combine(crc32c(a), crc32c(b), b.len() as u64), crc32c(&whole));
        assert_eq!(crc32c_combine(crc32c(a), crc32c(b""), 0), crc32c(a));
        assert_eq!(crc32c_combine(0, crc32c(b), b.len() as u64), crc32c(b));
    }
}

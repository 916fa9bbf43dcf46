//! CRC32C (CRC-32/ISCSI) of chunks and of their pages.

use std::fmt;

use crc_fast::{CrcAlgorithm, Digest, checksum};

use super::format::PAGE_LEN;

/// CRC32C of `bytes`.
pub(super) fn crc32c(bytes: &[u8]) -> u32 {
    checksum(CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

/// CRC32C of bytes that come piece by piece.
pub(super) struct RunningSum(Digest);

impl Default for RunningSum {
    fn default() -> Self {
        Self(Digest::new(CrcAlgorithm::Crc32Iscsi))
    }
}

impl fmt::Debug for RunningSum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RunningSum(..)")
    }
}

impl RunningSum {
    pub(super) fn update(&mut self, piece: &[u8]) {
        self.0.update(piece);
    }

    /// Of all pieces so far.
    pub(super) fn finish(&self) -> u32 {
        self.0.finalize() as u32
    }
}

/// The checksums of one chunk.
#[derive(Debug)]
pub(super) struct ChunkSums {
    /// Of all its bytes.
    pub(super) whole: u32,
    /// Of each page.
    pub(super) pages: Vec<u32>,
}

impl ChunkSums {
    /// Both kinds page by page, so that the second reading of a page finds it in the processor's cache.
    pub(super) fn of(data: &[u8]) -> Self {
        let mut whole = Digest::new(CrcAlgorithm::Crc32Iscsi);
        let pages = data
            .chunks(PAGE_LEN)
            .map(|page| {
                whole.update(page);
                crc32c(page)
            })
            .collect();
        Self { whole: whole.finalize() as u32, pages }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn check_value_of_the_catalogue() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn whole_and_pages_agree_with_direct_computation() {
        for length in [1, 4095, 4096, 4097, 3 * 4096 + 5] {
            let data: Vec<u8> = (0..length).map(|i| (i * 31 % 251) as u8).collect();
            let sums = ChunkSums::of(&data);
            assert_eq!(sums.whole, crc32c(&data), "{length}");
            assert_eq!(sums.pages, data.chunks(4096).map(crc32c).collect::<Vec<_>>(), "{length}");
        }
    }
}

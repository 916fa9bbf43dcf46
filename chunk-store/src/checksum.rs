//! CRC32C (CRC-32/ISCSI) of chunks and of their pages, each byte read once.
//!
//! Invariant: the checksum of a chunk is that of its writer. What is computed here are those of its pages, over the bytes that
//! came with it; joined, they must give the writer's.

use crc_fast::{CrcAlgorithm, checksum, checksum_combine};

use crate::page_buffer::PAGE_LEN;

/// CRC32C of `bytes`.
pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    checksum(CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

/// The checksum of the bytes of which `pages` are the checksums of its pages, the last of which has `last_len` bytes.
pub(crate) fn joined(pages: &[u32], last_len: usize) -> u32 {
    let Some((last, full)) = pages.split_last() else { return 0 };
    let front = full.iter().fold(0, |sum, page| PAGE_SHIFT.apply(sum) ^ page);
    match full {
        [] => *last,
        _ if last_len == PAGE_LEN => PAGE_SHIFT.apply(front) ^ last,
        _ => {
            let (front, last) = (u64::from(front), u64::from(*last));
            checksum_combine(CrcAlgorithm::Crc32Iscsi, front, last, last_len as u64) as u32
        }
    }
}

/// What a page of zeros behind some bytes makes of their checksum, in which bits don't influence each other: one look-up for
/// each byte of it. (How checksums are joined: M. Adler, `crc32_combine` of zlib.)
struct Shift([[u32; 256]; 4]);

static PAGE_SHIFT: Shift = Shift::by_page();

/// What becomes of each bit of a checksum.
type Matrix = [u32; 32];

impl Shift {
    const fn by_page() -> Self {
        // 2^15 bits.
        let mut by = one_bit();
        let mut doublings = 0;
        while doublings < PAGE_LEN.ilog2() + 3 {
            by = squared(&by);
            doublings += 1;
        }
        let mut tables = [[0; 256]; 4];
        let mut byte = 0;
        while byte < 4 {
            let mut value = 0;
            while value < 256 {
                tables[byte][value] = times(&by, (value as u32) << (8 * byte));
                value += 1;
            }
            byte += 1;
        }
        Self(tables)
    }

    fn apply(&self, sum: u32) -> u32 {
        let [a, b, c, d] = sum.to_le_bytes();
        let [first, second, third, fourth] = &self.0;
        first[a as usize] ^ second[b as usize] ^ third[c as usize] ^ fourth[d as usize]
    }
}

/// One bit of zero, in the reflected polynomial of CRC32C.
const fn one_bit() -> Matrix {
    let mut matrix = [0; 32];
    matrix[0] = 0x82f6_3b78;
    let mut bit = 1;
    while bit < 32 {
        matrix[bit] = 1 << (bit - 1);
        bit += 1;
    }
    matrix
}

const fn times(matrix: &Matrix, vector: u32) -> u32 {
    let (mut sum, mut bit) = (0, 0);
    while bit < 32 {
        if vector >> bit & 1 == 1 {
            sum ^= matrix[bit];
        }
        bit += 1;
    }
    sum
}

const fn squared(matrix: &Matrix) -> Matrix {
    let mut square = [0; 32];
    let mut bit = 0;
    while bit < 32 {
        square[bit] = times(matrix, matrix[bit]);
        bit += 1;
    }
    square
}

const _: () = assert!(PAGE_LEN.is_power_of_two());

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn check_value_of_the_catalogue() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    proptest! {
        #[test]
        fn pages_join_to_the_whole(length in 1..5 * PAGE_LEN, seed in any::<u8>()) {
            let data: Vec<u8> = (0..length).map(|i| (i * 31 % 251) as u8 ^ seed).collect();
            let pages: Vec<u32> = data.chunks(PAGE_LEN).map(crc32c).collect();
            let last_len = (length - 1) % PAGE_LEN + 1;
            prop_assert_eq!(joined(&pages, last_len), crc32c(&data));
        }
    }
}

//! Putting bytes together that come in pieces, mostly in order.
//!
//! Invariant: what comes in order is written once; only gaps are filled with zeros first.

use bytes::{Bytes, BytesMut};

/// A buffer of a fixed length, whose bytes come in pieces.
#[derive(Debug)]
pub(crate) struct Assembly {
    bytes: BytesMut,
    length: usize,
}

impl Assembly {
    pub(crate) fn new(length: u32) -> Self {
        let length = length as usize;
        Self { bytes: BytesMut::with_capacity(length), length }
    }

    /// Puts `piece` at its place; whether it fits there.
    pub(crate) fn place(&mut self, at: usize, piece: &[u8]) -> bool {
        let Some(end) = at.checked_add(piece.len()).filter(|end| *end <= self.length) else { return false };
        if at == self.bytes.len() {
            self.bytes.extend_from_slice(piece);
            return true;
        }
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        match self.bytes.get_mut(at..end) {
            Some(slot) => slot.copy_from_slice(piece),
            None => return false,
        }
        true
    }

    /// All bytes, which must have come.
    pub(crate) fn freeze(self) -> Bytes {
        assert!(self.bytes.len() == self.length, "the last byte has come");
        self.bytes.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_in_any_order_make_the_same_bytes() {
        let whole: Vec<u8> = (0..100).collect();
        let pieces: Vec<(usize, &[u8])> =
            whole.chunks(7).enumerate().map(|(i, piece)| (i * 7, piece)).collect();
        for shift in 0..pieces.len() {
            let mut assembly = Assembly::new(100);
            for i in 0..pieces.len() {
                // Seven and fifteen have no common divisor, so that every piece gets its turn.
                let (at, piece) = pieces[(i * 7 + shift) % pieces.len()];
                assert!(assembly.place(at, piece));
            }
            assert_eq!(assembly.freeze(), whole);
        }
    }

    #[test]
    fn what_lies_outside_is_refused() {
        let mut assembly = Assembly::new(10);
        assert!(!assembly.place(5, &[0; 6]));
        assert!(!assembly.place(usize::MAX, &[0; 6]));
        assert!(assembly.place(5, &[0; 5]));
    }
}

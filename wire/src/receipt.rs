//! A node's signed word that a chunk is durable (`docs/protocol.md §8`).

use crate::ids::{ChunkId, NodeEpoch, NodeId};
use crate::siphash::{SipKey, siphash_2_4};

/// Shared by one data node and the metadata service; a new one at every registration, so a receipt dies with the
/// registration that it was given in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ReceiptKey(pub SipKey);

/// "`node`, in its registration `node_epoch`, holds `chunk` durably: `length` bytes with this CRC32C."
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Receipt {
    /// The chunk.
    pub chunk: ChunkId,
    /// Its length in bytes.
    pub length: u32,
    /// CRC32C of the whole chunk.
    pub crc: u32,
    /// The node that holds it.
    pub node: NodeId,
    /// The registration of that node.
    pub node_epoch: NodeEpoch,
    /// Proof, by [`ReceiptKey::sign`].
    pub mac: u64,
}

impl ReceiptKey {
    /// The proof for everything that `receipt` says; its own `mac` is ignored.
    #[must_use]
    pub fn sign(&self, receipt: &Receipt) -> u64 {
        let chunk = receipt.chunk.0;
        let words = [
            chunk as u64,
            (chunk >> 64) as u64,
            u64::from(receipt.length) | u64::from(receipt.crc) << 32,
            u64::from(receipt.node.0) | u64::from(receipt.node_epoch.0) << 16,
        ];
        siphash_2_4(self.0, &words)
    }

    /// Whether the receipt was signed with this key.
    #[must_use]
    pub fn verifies(&self, receipt: &Receipt) -> bool {
        self.sign(receipt) == receipt.mac
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::BucketId;

    #[test]
    fn a_receipt_vouches_for_exactly_what_it_says() {
        let key = ReceiptKey(SipKey { k0: 1, k1: 2 });
        let mut receipt = Receipt {
            chunk: ChunkId::new(BucketId(1), 2),
            length: 3,
            crc: 4,
            node: NodeId(5),
            node_epoch: NodeEpoch(6),
            mac: 0,
        };
        receipt.mac = key.sign(&receipt);
        assert!(key.verifies(&receipt));
        let forged = [
            Receipt { chunk: ChunkId::new(BucketId(1), 3), ..receipt },
            Receipt { length: 4, ..receipt },
            Receipt { crc: 5, ..receipt },
            Receipt { node: NodeId(6), ..receipt },
            Receipt { node_epoch: NodeEpoch(7), ..receipt },
        ];
        for receipt in forged {
            assert!(!key.verifies(&receipt), "{receipt:?}");
        }
    }
}

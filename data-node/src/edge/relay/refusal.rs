//! What a refused sender is told: byte by byte what the kernel program tells.

use xdpfs_wire::{Accepted, Flags, Header, HeaderBytes, Opcode, Status};

/// The datagram that answers a refused request.
pub(super) fn answer(request: &Accepted, status: Status) -> HeaderBytes {
    // The edge is no node, so the answer keeps the epoch that the request named.
    let header = Header {
        opcode: Opcode::Error,
        flags: Flags::NONE,
        status,
        length: 0,
        payload_crc: 0,
        ..request.header
    };
    request.key.seal(&header)
}

#[cfg(test)]
mod tests {
    use xdpfs_plane::{V4Request, answer_v4};
    use xdpfs_wire::{
        BucketId, Capability, ChunkId, ClientId, EpochSecret, Expiry, HEADER_LEN, KeyEpoch, KeyEpochs,
        NodeEpoch, NodeId, PieceClass, RequestId, Rights, SipKey,
    };

    use super::*;

    struct Secrets;

    impl KeyEpochs for Secrets {
        fn secret(&self, _: KeyEpoch) -> Option<EpochSecret> {
            Some(EpochSecret(SipKey { k0: 5, k1: 6 }))
        }
    }

    #[test]
    fn answer_is_the_one_of_the_kernel_program() {
        let header = Header {
            opcode: Opcode::PutData,
            class: PieceClass::Large,
            flags: Flags::ACK_WANTED,
            status: Status::Ok,
            rights: Rights::ALL,
            key_epoch: KeyEpoch(7),
            node: NodeId(8),
            node_epoch: NodeEpoch(9),
            client: ClientId(10),
            bucket: BucketId(11),
            expiry: Expiry(12),
            request: RequestId(13),
            offset: 14,
            chunk: ChunkId::new(BucketId(11), 15),
            length: 16,
            payload_crc: 17,
            tag: 0,
        };
        let key = Capability::claimed_by(&header).key(EpochSecret(SipKey { k0: 5, k1: 6 }));
        for status in [Status::StaleNode, Status::WrongNode, Status::Denied, Status::Expired] {
            let mut frame: V4Request = [0; 28 + HEADER_LEN];
            frame[28..].copy_from_slice(&key.seal(&header));
            answer_v4(&mut frame, status, &Secrets).unwrap();
            assert_eq!(answer(&Accepted { header, key }, status), frame[28..], "{status:?}");
        }
    }
}

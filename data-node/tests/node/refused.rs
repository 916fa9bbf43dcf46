//! Datagrams that every node must refuse.

use xdpfs_wire::{BucketId, Capability, HEADER_LEN, KeyEpoch, NodeEpoch, NodeId, Reject, Rights, Status};

use crate::{
    fake_meta::expiry_in,
    writer::{BUCKET, Datagram, capability, chunk},
};

/// A datagram that must be refused.
pub(crate) struct Case {
    pub(crate) reject: Reject,
    pub(crate) bytes: Vec<u8>,
    /// `None`: the sender is told nothing.
    pub(crate) told: Option<Status>,
}

/// One for each way to be refused, and some for ways that look alike.
pub(crate) fn cases(epoch: u16) -> Vec<Case> {
    let sound = || Datagram::put_whole(epoch, chunk(1), vec![7; 100]);
    let case = |reject, datagram: Datagram, told| Case { reject, bytes: datagram.encode(), told };
    let with = |change: fn(&mut Datagram)| {
        let mut datagram = sound();
        change(&mut datagram);
        datagram
    };
    let claim = |change: fn(&mut Capability)| {
        let mut capability = capability(Rights::ALL);
        change(&mut capability);
        sound().with_capability(capability)
    };
    let mut raw = sound().encode();
    raw[0] ^= 1;
    let mut version = sound().encode();
    version[2] ^= 0x10;
    vec![
        Case { reject: Reject::TooShort, bytes: sound().encode()[..HEADER_LEN - 1].to_vec(), told: None },
        Case { reject: Reject::BadMagic, bytes: raw, told: None },
        Case { reject: Reject::BadVersion, bytes: version, told: None },
        case(Reject::BadLength, with(|datagram| datagram.payload.truncate(99)), None),
        case(Reject::BadTag, with(|datagram| datagram.tag_flip = 1), None),
        case(Reject::BadTag, with(|datagram| datagram.header.client.0 += 1), None),
        case(Reject::UnknownKeyEpoch, claim(|capability| capability.key_epoch = KeyEpoch(9)), None),
        case(Reject::Expired, claim(|capability| capability.expiry = expiry_in(-5)), Some(Status::Expired)),
        case(
            Reject::RightsMissing,
            claim(|capability| capability.rights = Rights::READ),
            Some(Status::Denied),
        ),
        case(
            Reject::ForeignBucket,
            claim(|capability| capability.bucket = BucketId(BUCKET.0 + 1)),
            Some(Status::Denied),
        ),
        case(Reject::WrongNode, with(|datagram| datagram.header.node = NodeId(8)), Some(Status::WrongNode)),
        case(
            Reject::StaleNode,
            with(|datagram| datagram.header.node_epoch = NodeEpoch(datagram.header.node_epoch.0 - 1)),
            Some(Status::StaleNode),
        ),
    ]
}

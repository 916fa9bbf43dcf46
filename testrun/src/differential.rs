//! What `plane` decides and writes, on the host, held against the model: for packets by chance and for those that a
//! fuzzer thinks of.

use xdpfs_plane::{Detour, Envelope, Fate, Frame, Ip, PORTS_MAX, Unroutable, answer_v4, answer_v6};
use xdpfs_wire::{
    Capability, EpochSecret, HEADER_LEN, Header, HeaderBytes, KeyEpochs as _, Reject, SipKey, Status,
};

use crate::{
    fixture::{PORT, Secrets, THERE},
    oracle::{Expected, Model},
    table,
};

/// The ports that the program is told; those that are zero are none.
pub const PORTS: [u16; PORTS_MAX] = [0, PORT, 0, 0];

/// Why something is there.
const EXPECT: &str = "the envelope says so";

/// A frame in memory.
#[derive(Debug)]
pub struct Slice<'a>(pub &'a [u8]);

impl Frame for Slice<'_> {
    fn at<const N: usize>(&self, at: usize) -> Option<&[u8; N]> {
        self.0.get(at..)?.first_chunk()
    }

    fn frame_len(&self) -> usize {
        self.0.len()
    }
}

/// A model that knows all nodes that chance asks for, so that most datagrams go somewhere.
pub fn populated() -> Model {
    Model {
        routes: (3..8).map(|node| (node, THERE)).collect(),
        devices: [(THERE.device, true)].into(),
        ..Model::default()
    }
}

/// Inputs to begin with: the frames of the table, as they are and with a right tag.
pub fn corpus() -> anyhow::Result<Vec<Vec<u8>>> {
    let frames = table::cases()?.into_iter().flat_map(|case| [case.frame, case.out]);
    Ok(frames.flat_map(|frame| [0, 1].map(|how| [&[how], &frame[..]].concat())).collect())
}

/// One input of a fuzzer: a frame, and before it a byte whose lowest bit says that the tag is to be made right, which
/// nobody finds by chance.
///
/// # Panics
/// If `wire` or `plane` and the model disagree.
pub fn check_input(input: &[u8]) {
    let Some((how, frame)) = input.split_first() else { return };
    let mut frame = frame.to_vec();
    if let Ok(envelope) = Envelope::find(&Slice(&frame), PORTS) {
        let datagram = &mut frame[envelope.datagram_at()..][..envelope.datagram_len];
        if let Some(header) = datagram.first_chunk_mut() {
            header_survives(header);
            if how & 1 != 0 {
                seal(header);
            }
        }
    }
    agree(&populated().expect(&frame), &frame, "fuzzed");
}

/// What is understood is written as it was read.
fn header_survives(bytes: &HeaderBytes) {
    if let Ok(header) = Header::parse(bytes) {
        assert!(header.encode() == *bytes, "{header:?} of {bytes:02x?}");
    }
}

fn seal(bytes: &mut HeaderBytes) {
    if let Ok(header) = Header::parse(bytes) {
        let secret = Secrets.secret(header.key_epoch).unwrap_or(EpochSecret(SipKey { k0: 1, k1: 2 }));
        *bytes = Capability::claimed_by(&header).key(secret).seal(&header);
    }
}

/// `plane` does with a packet what the model expects, as far as that is its business.
///
/// # Panics
/// If it does something else; `case` says in which one.
pub fn agree(expect: &Expected, packet: &[u8], case: &str) {
    let envelope = match Envelope::find(&Slice(packet), PORTS) {
        Ok(envelope) => envelope,
        Err(fate) => {
            assert_eq!(expect.counted, [fate.label()], "{case}");
            assert_eq!(expect.action, fate.action() as u32, "{case}");
            return;
        }
    };
    let (fate, out) = match expect.counted[..] {
        ["answered", reject] => {
            let reject = Reject::ALL.iter().find(|other| other.label() == reject).expect(EXPECT);
            (Fate::Answered, answered(packet, &envelope, reject.reply().expect(EXPECT)))
        }
        ["routed" | "hop_limit" | "no_address"] => forwarded(packet, &envelope),
        // The verdict on the datagram is `wire`'s, in the model too.
        _ => return,
    };
    assert_eq!(expect.counted[0], fate.label(), "{case}");
    assert!(out == expect.packet, "{case}, {packet:02x?}: {out:02x?} instead of {expect:02x?}");
}

fn answered(packet: &[u8], envelope: &Envelope, status: Status) -> Vec<u8> {
    let mut out = packet[..envelope.datagram_at() + HEADER_LEN].to_vec();
    let (macs, _) = out.split_at_mut(12);
    let (to, from) = macs.split_at_mut(6);
    to.swap_with_slice(from);
    let behind = &mut out[envelope.ip_at()..];
    match envelope.ip {
        Ip::V4 => answer_v4(behind.first_chunk_mut().expect(EXPECT), status, &Secrets).expect(EXPECT),
        Ip::V6 => answer_v6(behind.first_chunk_mut().expect(EXPECT), status, &Secrets).expect(EXPECT),
    }
    out
}

fn forwarded(packet: &[u8], envelope: &Envelope) -> (Fate, Vec<u8>) {
    let mut out = packet.to_vec();
    let behind = &mut out[envelope.ip_at()..];
    let detour = match envelope.ip {
        Ip::V4 => Detour::v4(behind.first_chunk_mut().expect(EXPECT), &THERE),
        Ip::V6 => Detour::v6(behind.first_chunk_mut().expect(EXPECT), &THERE),
    };
    match detour {
        Ok(Detour::Ready) => {}
        Ok(Detour::Unsummed(pseudo)) => {
            let (at, len) = (envelope.udp_at(), envelope.udp_len());
            let sum = out[at..at + len]
                .chunks(2)
                .fold(pseudo, |sum, pair| sum.plus2([pair[0], pair.get(1).copied().unwrap_or(0)]));
            out[at + 6..at + 8].copy_from_slice(&sum.udp_field());
        }
        Err(Unroutable::HopLimit) => return (Fate::HopLimit, packet.to_vec()),
        Err(Unroutable::NoAddress) => return (Fate::NoAddress, packet.to_vec()),
    }
    let frame = [&THERE.destination_mac[..], &THERE.source_mac, &out[envelope.ip_at() - 2..]].concat();
    (Fate::Routed, frame)
}

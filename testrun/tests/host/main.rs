//! What `plane` decides and writes, on the host: the same packets by chance as in the kernel, the same model.
//!
//! `XDPFS_TEST_CASES` says how many, `XDPFS_TEST_SEED` which ones.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod listing;
mod table;

use xdpfs_plane::{Detour, Envelope, Fate, Frame, Ip, PORTS_MAX, Unroutable, answer_v4, answer_v6};
use xdpfs_testrun::{
    chance::{Chance, setting},
    fixture::{self, PORT, Secrets, THERE},
    frames::WRAPPINGS,
    oracle::{Expected, Model},
};
use xdpfs_wire::{HEADER_LEN, Reject, Status};

const CASES: u64 = 200_000;
const SEED: u64 = 1;
const PORTS: [u16; PORTS_MAX] = [0, PORT, 0, 0];

struct Slice<'a>(&'a [u8]);

impl Frame for Slice<'_> {
    fn at<const N: usize>(&self, at: usize) -> Option<&[u8; N]> {
        self.0.get(at..)?.first_chunk()
    }

    fn frame_len(&self) -> usize {
        self.0.len()
    }
}

#[test]
fn plane_and_model_agree_on_whatever_comes() {
    let (cases, seed) = (setting("XDPFS_TEST_CASES", CASES), setting("XDPFS_TEST_SEED", SEED));
    println!("{cases} cases, seed {seed}");
    let mut model = Model::default();
    model.devices.insert(THERE.device, true);
    // All nodes that chance asks for, so that most datagrams go somewhere.
    model.routes.extend((3..8).map(|node| (node, THERE)));
    let mut chance = Chance::new(seed);
    for case in 0..cases {
        let packet = chance.packet();
        agree(&model.expect(&packet), &packet, &format!("seed {seed} case {case}"));
    }
}

#[test]
fn every_fixture_is_found_in_every_frame() {
    for case in fixture::cases().unwrap() {
        for (name, wrapping) in WRAPPINGS {
            let frame = wrapping.frame(PORT, &case.datagram);
            let found = Envelope::find(&Slice(&frame), PORTS).unwrap();
            assert_eq!(frame[found.datagram_at()..], case.datagram, "{} in {name}", case.name);
            assert_eq!(found.datagram_len, case.datagram.len(), "{} in {name}", case.name);
            assert_eq!(Envelope::from_word(found.to_word()), found, "{} in {name}", case.name);
        }
    }
}

fn agree(expect: &Expected, packet: &[u8], case: &str) {
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
            let reject = Reject::ALL.iter().find(|other| other.label() == reject).unwrap();
            (Fate::Answered, answered(packet, &envelope, reject.reply().unwrap()))
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
        Ip::V4 => answer_v4(behind.first_chunk_mut().unwrap(), status, &Secrets).unwrap(),
        Ip::V6 => answer_v6(behind.first_chunk_mut().unwrap(), status, &Secrets).unwrap(),
    }
    out
}

fn forwarded(packet: &[u8], envelope: &Envelope) -> (Fate, Vec<u8>) {
    let mut out = packet.to_vec();
    let behind = &mut out[envelope.ip_at()..];
    let detour = match envelope.ip {
        Ip::V4 => Detour::v4(behind.first_chunk_mut().unwrap(), &THERE),
        Ip::V6 => Detour::v6(behind.first_chunk_mut().unwrap(), &THERE),
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

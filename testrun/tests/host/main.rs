//! What `plane` decides and writes, on the host: the same packets by chance as in the kernel, the same model.
//!
//! `XDPFS_TEST_CASES` says how many, `XDPFS_TEST_SEED` which ones.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod fuzzed;
mod listing;
mod table;

use xdpfs_plane::Envelope;
use xdpfs_testrun::{
    chance::{Chance, setting},
    differential::{PORTS, Slice, agree, populated},
    fixture::{self, PORT},
    frames::WRAPPINGS,
};

const CASES: u64 = 200_000;
const SEED: u64 = 1;

#[test]
fn plane_and_model_agree_on_whatever_comes() {
    let (cases, seed) = (setting("XDPFS_TEST_CASES", CASES), setting("XDPFS_TEST_SEED", SEED));
    println!("{cases} cases, seed {seed}");
    let model = populated();
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

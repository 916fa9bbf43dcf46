//! The table of frames: that the file holds it, that the model agrees with it, and that the validator does.

use std::env;

use xdpfs_plane::Envelope;
use xdpfs_testrun::{
    differential::{PORTS, Slice},
    fixture::{NOW, Secrets},
    table,
};
use xdpfs_wire::{HEADER_LEN, validate_request};

use crate::listing;

#[test]
fn file_holds_the_cases_that_are_listed_here() {
    let text = table::print(&listing::cases());
    if env::var_os("XDPFS_BLESS").is_some() {
        table::bless(&text).unwrap();
    }
    assert!(
        text == table::text(),
        "testrun/fixtures/frames.txt differs; if that is meant, XDPFS_BLESS=1 writes it anew"
    );
    assert_eq!(table::cases().unwrap(), listing::cases());
}

#[test]
fn there_are_many_cases_and_no_two_are_alike() {
    let cases = table::cases().unwrap();
    println!("{} cases", cases.len());
    assert!(cases.len() >= 120);
    for (at, case) in cases.iter().enumerate() {
        let alike = |other: &&table::Case| {
            (&other.frame, &other.world, &other.modes) == (&case.frame, &case.world, &case.modes)
        };
        let twin = cases[..at].iter().find(alike);
        assert!(twin.is_none(), "{} is {}", case.name, twin.unwrap().name);
    }
}

#[test]
fn model_and_plane_agree_with_every_case() {
    for case in table::cases().unwrap() {
        for mode in &case.modes {
            let mut expect = case.world.model(*mode).expect(&case.frame);
            expect.counted.sort_unstable();
            assert_eq!(expect.counted, case.counted, "{}", case.name);
            assert_eq!(expect.action, case.action as u32, "{}", case.name);
            assert!(expect.packet == case.out, "{}", case.name);
        }
    }
}

/// The data path of a node judges by the same function.
#[test]
fn validator_in_user_space_agrees_with_every_case() {
    let mut judged = 0;
    for case in table::cases().unwrap() {
        let Ok(envelope) = Envelope::find(&Slice(&case.frame), PORTS) else {
            assert_eq!(case.counted, ["foreign"], "{}", case.name);
            continue;
        };
        let is_counted = |label: &str| case.counted.iter().any(|counted| counted == label);
        if is_counted("foreign") || is_counted("source_denied") {
            // Not a matter of the datagram.
            continue;
        }
        let datagram = &case.frame[envelope.datagram_at()..][..envelope.datagram_len];
        let Some((header, payload)) = datagram.split_first_chunk::<HEADER_LEN>() else {
            assert_eq!(case.counted, ["refused", "too_short"], "{}", case.name);
            continue;
        };
        match validate_request(header, payload.len(), &Secrets, NOW) {
            Ok(_) => assert!(!is_counted("refused"), "{}", case.name),
            Err((reject, asker)) => {
                let is_batch = is_counted("super_packet") && reject.label() == "bad_length";
                assert!(is_batch || is_counted(reject.label()), "{}", case.name);
                assert_eq!(asker.is_none(), is_batch || is_counted("refused"), "{}", case.name);
            }
        }
        judged += 1;
    }
    assert!(judged >= 100, "{judged}");
}

//! What nodes send: replies of known ones go on to their clients, by either program, and all else passes untouched.

use xdpfs_plane::maps::{ReplyKey, Settings, UPLINK};
use xdpfs_testrun::{
    chance::{Chance, setting},
    fixture::{HOPS, KNOWN_AS},
    frames::{CLIENT_PORT, REPLY_V4, REPLY_V6, Wrapping},
    kernel::{Fixed, Kernel, LOOPBACK, Outcome, QUIET, mapped},
    oracle::{Expected, Model, ReplyBy},
};

const CASES: u64 = 200_000;
const SEED: u64 = 1;
const BOTH: [ReplyBy; 2] = [ReplyBy::Driver, ReplyBy::Classifier];

fn set_up() -> (Kernel, Model) {
    let mut kernel = Kernel::load(Fixed::default()).unwrap();
    let mut model = Model::default();
    kernel.settings(Settings { uplink: LOOPBACK, ..QUIET }).unwrap();
    kernel.device(UPLINK).unwrap();
    for source in [REPLY_V4.source, REPLY_V6.source] {
        let port = CLIENT_PORT.to_be_bytes();
        let key = ReplyKey { device: LOOPBACK, address: mapped(source), port, reserved: [0; 2] };
        kernel.reply_source(key, KNOWN_AS).unwrap();
        model.reply_sources.insert((source, CLIENT_PORT), KNOWN_AS);
    }
    for (prefix, len, hop) in HOPS {
        kernel.next_hop(prefix, len, hop).unwrap();
        model.next_hops.push((prefix, len, hop));
    }
    (kernel, model)
}

fn run(kernel: &mut Kernel, by: ReplyBy, packet: &[u8]) -> Outcome {
    match by {
        ReplyBy::Classifier => kernel.run_reply_in_stack(packet).unwrap(),
        ReplyBy::Driver => kernel.run_reply(packet).unwrap(),
    }
}

#[test]
fn replies_become_ones_of_the_address_that_clients_know() {
    let (mut kernel, _) = set_up();
    for by in BOTH {
        for (wrapping, known_as) in [(REPLY_V4, KNOWN_AS.v4.to_vec()), (REPLY_V6, KNOWN_AS.v6.to_vec())] {
            let packet = wrapping.frame(40_000, b"a reply");
            let outcome = run(&mut kernel, by, &packet);
            let at = wrapping.udp_at();
            let address_at = wrapping.ip_at() + if wrapping.source.is_ipv4() { 12 } else { 8 };
            assert_eq!(outcome.packet[address_at..][..known_as.len()], known_as, "{by:?}");
            assert_eq!(outcome.packet[at..at + 2], KNOWN_AS.port, "{by:?}");
            assert_eq!(outcome.packet[at + 2..at + 4], 40_000_u16.to_be_bytes(), "{by:?}");
            assert_eq!(&outcome.packet[at + 8..], b"a reply");
            let check = u16::from_be_bytes([outcome.packet[at + 6], outcome.packet[at + 7]]);
            assert_eq!(check, wrapping.udp_check(&outcome.packet), "{by:?}");
        }
    }
}

#[test]
fn whatever_is_no_reply_to_a_client_passes_untouched() {
    let (mut kernel, model) = set_up();
    let v4 = REPLY_V4.frame(40_000, b"a reply");
    let with = |at: usize, bytes: &[u8]| {
        let mut frame = v4.clone();
        frame[at..at + bytes.len()].copy_from_slice(bytes);
        frame
    };
    let to = |destination: &str| {
        Wrapping { destination: destination.parse().unwrap(), ..REPLY_V4 }.frame(40_000, b"a reply")
    };
    let mut cases = vec![
        ("of another host", with(26, &[10, 1, 2, 4])),
        ("of another port", with(34, &[1, 2])),
        ("to the address that clients know", to("192.0.2.2")),
        ("to another address of this host", to("10.1.2.1")),
        ("whose last hop this is", with(22, &[1])),
        ("fragment", with(20, &[0x20, 0])),
        ("tcp", with(23, &[6])),
        ("with options", with(14, &[0x46])),
        ("tagged", [&v4[..12], &[0x81, 0, 0, 7], &v4[12..]].concat()),
    ];
    // The kernel tests no classifier by a packet without an IP header.
    cases.extend((34..42).map(|len| ("cut", v4[..len].to_vec())));
    for by in BOTH {
        for (name, packet) in &cases {
            let outcome = run(&mut kernel, by, packet);
            let expect = model.expect_reply(packet, by);
            assert_eq!((outcome.action, &outcome.packet), (expect.action, packet), "{name}, {by:?}");
            assert!(outcome.counted.is_empty(), "{name}, {by:?}");
        }
    }
    let nowhere = to("192.1.2.3");
    assert_eq!(run(&mut kernel, ReplyBy::Driver, &nowhere).packet, nowhere, "left to the classifier");
    assert_eq!(run(&mut kernel, ReplyBy::Classifier, &nowhere).counted, ["reply_kernel"]);
}

#[test]
fn without_an_uplink_nothing_is_sent_on() {
    let (mut kernel, _) = set_up();
    kernel.settings(QUIET).unwrap();
    let packet = REPLY_V4.frame(40_000, b"a reply");
    assert_eq!(run(&mut kernel, ReplyBy::Classifier, &packet).packet, packet);
}

#[test]
fn kernel_and_model_agree_on_whatever_nodes_send() {
    let (cases, seed) = (setting("XDPFS_TEST_CASES", CASES), setting("XDPFS_TEST_SEED", SEED));
    let (mut kernel, model) = set_up();
    let mut chance = Chance::new(seed);
    let mut sent_on = [0_u64; 2];
    for case in 0..cases {
        let packet = chance.reply();
        for (by, sent_on) in BOTH.into_iter().zip(&mut sent_on) {
            let Expected { action, counted, packet: expect } = model.expect_reply(&packet, by);
            let outcome = run(&mut kernel, by, &packet);
            assert!(
                outcome.action == action && outcome.packet == expect && outcome.counted == counted,
                "seed {seed} case {case} {by:?}, {packet:02x?}: {outcome:02x?} instead of {action} {expect:02x?}"
            );
            *sent_on += u64::from(!counted.is_empty());
        }
    }
    println!("{cases} cases, seed {seed}: {sent_on:?} sent on");
    assert!(sent_on.iter().all(|sent_on| *sent_on > cases / 10));
}

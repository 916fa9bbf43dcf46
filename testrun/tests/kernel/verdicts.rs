//! Every datagram of the fixtures in every frame, and what must pass untouched.

use xdpfs_plane::{Fate, maps::Route};
use xdpfs_testrun::{
    fixture::{self, HERE, NODE, PORT, THERE},
    frames::{FRAME_LEN_MAX, V4, V6, WRAPPINGS, Wrapping},
    kernel::Fixed,
};

use crate::{check, datagram, set_up};

#[test]
fn every_fixture_gets_its_verdict_in_every_frame() {
    let (mut kernel, model) = set_up(Fixed::default(), &[(NODE.node.0, HERE)]);
    let mut ran = 0;
    for case in fixture::cases().unwrap() {
        for (name, wrapping) in WRAPPINGS {
            let packet = wrapping.frame(PORT, &case.datagram);
            if packet.len() > FRAME_LEN_MAX {
                continue;
            }
            let name = format!("{} in {name}", case.name);
            let outcome = check(&mut kernel, &model, &name, &packet);
            match case.verdict {
                Ok(()) => assert_eq!(outcome.counted, [Fate::Local.label()], "{name}"),
                Err(reject) => assert!(outcome.counted.contains(&reject.label()), "{name}"),
            }
            ran += 1;
        }
    }
    println!("{ran} fixtures");
    assert!(ran > 300);
}

#[test]
fn every_fixture_for_another_node_is_forwarded() {
    let (mut kernel, model) = set_up(Fixed::default(), &[(NODE.node.0, THERE)]);
    for case in fixture::cases().unwrap() {
        for (name, wrapping) in WRAPPINGS {
            let packet = wrapping.frame(PORT, &case.datagram);
            if packet.len() > FRAME_LEN_MAX {
                continue;
            }
            let name = format!("{} in {name}", case.name);
            let outcome = check(&mut kernel, &model, &name, &packet);
            if case.verdict.is_ok() {
                assert_eq!(outcome.counted, [Fate::Routed.label()], "{name}");
                let out = Wrapping { tags: &[], ..wrapping };
                let at = out.udp_at() + 6;
                let check = u16::from_be_bytes([outcome.packet[at], outcome.packet[at + 1]]);
                assert_eq!(check, out.udp_check(&outcome.packet), "{name}: checksum");
            }
        }
    }
}

#[test]
fn checksums_left_to_the_card_are_finished() {
    let (mut kernel, model) = set_up(Fixed::default(), &[(NODE.node.0, THERE)]);
    for case in fixture::cases().unwrap().iter().filter(|case| case.verdict.is_ok()) {
        for (name, wrapping) in WRAPPINGS {
            let mut packet = wrapping.frame(PORT, &case.datagram);
            if packet.len() > FRAME_LEN_MAX {
                continue;
            }
            let at = wrapping.udp_at() + 6;
            let partial = wrapping.partial_check(&packet);
            packet[at..at + 2].copy_from_slice(&partial.to_be_bytes());
            let outcome = check(&mut kernel, &model, name, &packet);
            let out = Wrapping { tags: &[], ..wrapping };
            let at = out.udp_at() + 6;
            let check = u16::from_be_bytes([outcome.packet[at], outcome.packet[at + 1]]);
            assert_eq!(check, out.udp_check(&outcome.packet), "{} in {name}", case.name);
        }
    }
}

/// Chance meets the one whose update is zero, which would mean that there is none, once in 65536 packets.
#[test]
fn every_checksum_is_updated_as_its_words_change() {
    let (mut kernel, model) = set_up(Fixed::default(), &[(NODE.node.0, THERE)]);
    let get = datagram("get_piece_of_one_byte");
    let mut out = Vec::new();
    for wrapping in [V4, V6] {
        let mut packet = wrapping.frame(PORT, &get);
        let at = wrapping.udp_at() + 6;
        for check in 0..=u16::MAX {
            packet[at..at + 2].copy_from_slice(&check.to_be_bytes());
            let action = kernel.act(&packet, &mut out).unwrap();
            let expect = model.expect(&packet);
            assert!(action == expect.action && out == expect.packet, "{wrapping:?}: {check:#06x}");
        }
    }
}

#[test]
fn what_is_not_plainly_ours_passes_untouched() {
    let (mut kernel, model) = set_up(Fixed::default(), &[(NODE.node.0, HERE)]);
    let get = datagram("get_piece");
    let v4 = V4.frame(PORT, &get);
    let v6 = V6.frame(PORT, &get);
    let with = |frame: &[u8], at: usize, bytes: &[u8]| {
        let mut frame = frame.to_vec();
        frame[at..at + bytes.len()].copy_from_slice(bytes);
        frame
    };
    let triple = [&v4[..12], &[0x88, 0xa8, 0, 1, 0x81, 0, 0, 2, 0x81, 0, 0, 3], &v4[12..]].concat();
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("arp", with(&v4, 12, &[8, 6])),
        ("three vlan tags", triple),
        ("ipv4 with options", with(&v4, 14, &[0x46])),
        ("ipv4 of another version", with(&v4, 14, &[0x65])),
        ("first fragment", with(&v4, 20, &[0x20, 0])),
        ("later fragment", with(&v4, 20, &[0, 9])),
        ("don't fragment is fine, reserved bit too", with(&v4, 20, &[0xc0, 0])),
        ("tcp", with(&v4, 23, &[6])),
        ("icmp", with(&v4, 23, &[1])),
        ("ipv4 total length below its header", with(&v4, 16, &[0, 19])),
        ("ipv4 total length below the datagram", with(&v4, 16, &[0, 40])),
        ("another port", V4.frame(PORT + 1, &get)),
        ("port zero, which fills the list", V4.frame(0, &get)),
        ("dns", V4.frame(53, &get)),
        ("udp length below its header", with(&v4, 38, &[0, 7])),
        ("udp length beyond the packet", with(&v4, 38, &[0xff, 0xff])),
        ("ipv6 with hop-by-hop options", with(&v6, 20, &[0])),
        ("ipv6 fragment", with(&v6, 20, &[44])),
        ("ipv6 of another version", with(&v6, 14, &[0x40])),
        ("ipv6 payload length zero (jumbogram)", with(&v6, 18, &[0, 0])),
        ("icmpv6", with(&v6, 20, &[58])),
    ];
    for (name, packet) in &cases {
        let outcome = check(&mut kernel, &model, name, packet);
        if !name.contains("fine") {
            assert_eq!((outcome.action, &outcome.packet), (2, packet), "{name}");
            assert_eq!(outcome.counted, [Fate::Foreign.label()], "{name}");
        }
    }
    for frame in [&v4, &v6] {
        for len in 14..frame.len() {
            let outcome = check(&mut kernel, &model, "truncated", &frame[..len]);
            assert_eq!(outcome.counted, [Fate::Foreign.label()], "cut to {len}");
        }
        let padded = [&frame[..], &[0xee; 40]].concat();
        assert_eq!(check(&mut kernel, &model, "padded", &padded).counted, [Fate::Local.label()]);
    }
}

#[test]
fn super_packets_pass_in_generic_mode_only() {
    let get = datagram("get_burst");
    let three = V4.frame(PORT, &[&get[..], &get, &get].concat());
    let (mut kernel, model) = set_up(Fixed { generic: true, ..Fixed::default() }, &[(3, HERE)]);
    assert_eq!(check(&mut kernel, &model, "generic", &three).counted, [Fate::SuperPacket.label()]);
    let (mut kernel, model) = set_up(Fixed::default(), &[(3, HERE)]);
    assert_eq!(check(&mut kernel, &model, "native", &three).counted, ["refused", "bad_length"]);
}

#[test]
fn routes_without_address_device_or_hops_are_told_apart() {
    let homeless = Route { v4: [0; 4], v6: [0; 16], ..THERE };
    let severed = Route { device: 6, ..THERE };
    let get = datagram("get_piece");
    for wrapping in [V4, V6] {
        let packet = wrapping.frame(PORT, &get);
        let (mut kernel, model) = set_up(Fixed::default(), &[(3, homeless)]);
        assert_eq!(check(&mut kernel, &model, "homeless", &packet).counted, ["no_address"]);
        let (mut kernel, model) = set_up(Fixed::default(), &[(3, severed)]);
        assert_eq!(check(&mut kernel, &model, "severed", &packet).counted, ["no_device"]);
        let (mut kernel, model) = set_up(Fixed::default(), &[(3, THERE)]);
        let mut last_hop = packet.clone();
        last_hop[if wrapping.source.is_ipv4() { 22 } else { 21 }] = 1;
        assert_eq!(check(&mut kernel, &model, "last hop", &last_hop).counted, ["hop_limit"]);
        let mut no_sum = packet;
        let at = wrapping.udp_at() + 6;
        no_sum[at..at + 2].fill(0);
        check(&mut kernel, &model, "no checksum", &no_sum);
    }
}

//! Interfaces that are made up, and what is said of them.

use super::*;
use crate::commands::doctor::finding::State;

const ONE: Channels = Channels { rx: 1, tx: 1, rx_max: 1, tx_max: 1, is_combined: false };
const GOOD: &[&str] = &["rx-checksum", "tx-checksum-ip-generic", "tx-udp-segmentation", "rx-gro"];

fn features(on: &[&str]) -> Features {
    let all = GOOD.iter().chain(&["rx-udp-gro-forwarding"]);
    all.map(|name| ((*name).to_owned(), on.contains(name))).collect()
}

fn interface() -> Interface {
    Interface {
        index: 9,
        name: "eth0".into(),
        kind: String::new(),
        is_ethernet: true,
        mac: [2, 0, 0, 0, 0, 7],
        is_up: true,
        is_loopback: false,
        mtu: 1500,
        rx_queues: 1,
        tx_queues: 1,
        master: None,
        peer: None,
        program: None,
    }
}

fn good() -> Seen {
    Seen {
        interface: interface(),
        driver: "virtio_net".into(),
        features: features(GOOD),
        channels: ONE,
        program: None,
        is_bridge_port: false,
        native: Some(Ok(())),
        peer: None,
    }
}

fn peer() -> PeerSeen {
    PeerSeen {
        name: "veth1".into(),
        prefix: "ip netns exec blue ".into(),
        features: features(GOOD),
        channels: ONE,
        is_bridge_port: false,
        has_program: false,
    }
}

fn of(seen: &Seen, check: Check) -> Finding {
    let found = judge(seen).into_iter().find(|finding| finding.check == check);
    found.unwrap_or_else(|| panic!("no {check:?}"))
}

fn check_fix(seen: &Seen, check: Check, state: State, fix: &str) {
    let found = of(seen, check);
    assert_eq!(found.state, state, "{found:?}");
    assert!(found.fix.as_ref().is_some_and(|said| said.contains(fix)), "{found:?}");
}

#[test]
fn nothing_is_wrong_with_a_good_interface() {
    let findings = judge(&good());
    assert!(findings.iter().all(|finding| finding.state == State::Ok), "{findings:?}");
    assert!(findings.iter().all(|finding| finding.fix.is_none()), "{findings:?}");
}

#[test]
fn a_foreign_program_is_named_and_ours_is_welcome() {
    let with = |program: &str| Seen { program: Some(program.into()), native: None, ..good() };
    check_fix(
        &with("their_filter, id 7"),
        Check::ForeignProgram,
        State::Fail,
        "ip link set dev eth0 xdp off",
    );
    let ours = with("xdpfs_ingress, id 7");
    assert_eq!(of(&ours, Check::ForeignProgram).state, State::Ok);
    assert_eq!(of(&ours, Check::NativeXdp).state, State::Skipped);
}

#[test]
fn every_refusal_of_the_driver_has_its_remedy() {
    let check = |error, state, fix| {
        let seen = Seen { native: Some(Err(error)), peer: Some(Ok(peer())), ..good() };
        check_fix(&seen, Check::NativeXdp, state, fix);
    };
    check(NativeError::Unsupported, State::Warn, "--xdp generic");
    check(NativeError::TooLargeMtu, State::Warn, "mtu 3498");
    check(NativeError::Queues, State::Warn, "ip netns exec blue ethtool -L veth1 tx 1");
    check(NativeError::Occupied, State::Warn, "ip -details");
    check(NativeError::Permission, State::Skipped, "sudo");
    check(NativeError::Other("?".into()), State::Warn, "dmesg");
    check_fix(&Seen { native: None, ..good() }, Check::NativeXdp, State::Skipped, "--interface eth0");
}

#[test]
fn mtu_is_held_against_pieces_and_native_xdp() {
    let check = |mtu, state, words: &str| {
        let seen = Seen { interface: Interface { mtu, ..interface() }, ..good() };
        let found = of(&seen, Check::Mtu);
        assert_eq!(found.state, state, "{found:?}");
        assert!(found.seen.contains(words), "{found:?}");
    };
    check(1100, State::Fail, "1100 bytes");
    check(1280, State::Warn, "up to 1024");
    check(1456, State::Ok, "up to 1344");
    check(1500, State::Ok, "up to 1344");
    check(3498, State::Ok, "up to 3328");
    check(3506, State::Ok, "up to 3328");
    check(3507, State::Warn, "3506 of native XDP");
    check(9000, State::Warn, "up to 8192");
}

#[test]
fn queues_are_held_against_the_peer() {
    let many = Channels { rx: 4, tx: 4, rx_max: 4, tx_max: 4, is_combined: false };
    let seen = Seen { peer: Some(Ok(PeerSeen { channels: many, ..peer() })), ..good() };
    check_fix(&seen, Check::Queues, State::Warn, "ip netns exec blue ethtool -L veth1 tx 1");
    let seen = Seen { channels: many, peer: Some(Ok(peer())), ..good() };
    assert_eq!(of(&seen, Check::Queues).state, State::Ok);
    check_fix(&Seen { peer: Some(Err("gone".into())), ..good() }, Check::Queues, State::Skipped, "sudo");
}

#[test]
fn offloads_that_are_off_have_their_switch() {
    let without = |feature: &str| {
        let on: Vec<_> = GOOD.iter().copied().filter(|name| *name != feature).collect();
        Seen { features: features(&on), ..good() }
    };
    check_fix(&without("rx-checksum"), Check::Checksums, State::Warn, "ethtool -K eth0 rx on tx on");
    check_fix(
        &without("tx-checksum-ip-generic"),
        Check::Checksums,
        State::Warn,
        "ethtool -K eth0 rx on tx on",
    );
    let slow = without("tx-udp-segmentation");
    check_fix(&slow, Check::Segmentation, State::Warn, "ethtool -K eth0 tx-udp-segmentation on");
    let slow = Seen { peer: Some(Ok(PeerSeen { has_program: true, ..peer() })), ..slow };
    check_fix(&slow, Check::Segmentation, State::Warn, "ip netns exec blue ip link set dev veth1 xdp off");
    check_fix(&Seen { features: Features::default(), ..good() }, Check::Segmentation, State::Warn, "4.18");
}

#[test]
fn gro_of_the_peer_is_looked_at_where_it_is() {
    let with = |peer| Seen { peer: Some(peer), ..good() };
    assert_eq!(of(&with(Ok(peer())), Check::PeerGro).state, State::Ok);
    let off = PeerSeen { features: features(&[]), ..peer() };
    check_fix(&with(Ok(off)), Check::PeerGro, State::Warn, "ip netns exec blue ethtool -K veth1 gro on");
    let program = PeerSeen { features: features(&[]), has_program: true, ..peer() };
    assert_eq!(of(&with(Ok(program)), Check::PeerGro).state, State::Ok);
    check_fix(&with(Err("gone".into())), Check::PeerGro, State::Skipped, "sudo");
}

#[test]
fn ports_of_a_bridge_are_to_keep_what_was_merged() {
    assert_eq!(bridge_gro(&good()), None);
    let here = Seen { is_bridge_port: true, ..good() };
    check_fix(&here, Check::BridgeGro, State::Warn, "ethtool -K eth0 rx-udp-gro-forwarding on");
    let there = Seen { peer: Some(Ok(PeerSeen { is_bridge_port: true, ..peer() })), ..good() };
    let fix = "ip netns exec blue ethtool -K veth1 rx-udp-gro-forwarding on";
    check_fix(&there, Check::BridgeGro, State::Warn, fix);
    let on = Seen { is_bridge_port: true, features: features(&["rx-udp-gro-forwarding"]), ..good() };
    assert_eq!(of(&on, Check::BridgeGro).state, State::Ok);
}

#[test]
fn an_interface_that_is_down_or_not_there_fails() {
    let down = Seen { interface: Interface { is_up: false, ..interface() }, native: None, ..good() };
    check_fix(&down, Check::Interface, State::Fail, "ip link set dev eth0 up");
    let findings = look("xdpfs-nowhere", Look::AndTry);
    assert_eq!((findings.len(), findings[0].state), (1, State::Fail), "{findings:?}");
}

#[test]
fn loopback_can_be_looked_at() {
    let findings = look("lo", Look::Only);
    assert!(findings.len() > 5, "{findings:?}");
    assert!(findings.iter().all(|finding| finding.subject.as_deref() == Some("lo")));
}

//! Who may send, how often is answered, how long a capability lives.

use xdpfs_plane::{
    Fate,
    maps::{Lease, Settings, SourceRule},
};
use xdpfs_testrun::{
    fixture::{HERE, PORT},
    frames::{NODE_SIDE_V4, V4, V6, Wrapping},
    kernel::{Fixed, ONE_AT_ONCE, QUIET},
};

use crate::{check, datagram, set_up};

#[test]
fn sources_are_filtered_by_their_longest_prefix() {
    let get = datagram("get_piece");
    let (mut kernel, mut model) = set_up(Fixed::default(), &[(3, HERE)]);
    let rules = [
        ("192.0.0.0", 8, SourceRule::ALLOW),
        ("192.0.2.0", 24, SourceRule::DENY),
        ("192.0.2.128", 25, SourceRule::ALLOW),
        ("2001:db8::", 32, SourceRule::ALLOW),
        ("2001:db8:1::", 48, SourceRule::DENY),
    ];
    for (prefix, len, rule) in rules {
        let prefix = prefix.parse().unwrap();
        kernel.source_rule(prefix, len, rule).unwrap();
        model.source_rules.push((prefix, len, rule));
    }
    for unlisted_source in [SourceRule::ALLOW, SourceRule::DENY] {
        kernel.settings(Settings { sources_listed: 1, unlisted_source, ..QUIET }).unwrap();
        model.unlisted_source = unlisted_source;
        for source in ["192.0.2.1", "192.0.2.129", "192.1.0.1", "10.0.0.1"] {
            let packet = Wrapping { source: source.parse().unwrap(), ..V4 }.frame(PORT, &get);
            check(&mut kernel, &model, source, &packet);
        }
        for source in ["2001:db8::1", "2001:db8:1::1", "fd00::1"] {
            let packet = Wrapping { source: source.parse().unwrap(), ..V6 }.frame(PORT, &get);
            check(&mut kernel, &model, source, &packet);
        }
    }
}

#[test]
fn a_source_that_sends_too_fast_slows_nobody_else() {
    let get = datagram("get_piece");
    let (mut kernel, _) = set_up(Fixed::default(), &[(3, HERE)]);
    kernel.settings(Settings { source_rate: ONE_AT_ONCE, ..QUIET }).unwrap();
    let packet = V4.frame(PORT, &get);
    assert_eq!(kernel.run(&packet).unwrap().counted, [Fate::Local.label()]);
    assert_eq!(kernel.run(&packet).unwrap().counted, [Fate::SourceTooFast.label()]);
    let other = Wrapping { source: NODE_SIDE_V4.into(), ..V4 }.frame(PORT, &get);
    assert_eq!(kernel.run(&other).unwrap().counted, [Fate::Local.label()]);
}

#[test]
fn answers_are_limited_and_events_are_sampled() {
    let expired = datagram("expired");
    let (mut kernel, _) = set_up(Fixed::default(), &[(3, HERE)]);
    kernel.settings(Settings { answer_rate: ONE_AT_ONCE, event_mask: 1, ..QUIET }).unwrap();
    let packet = V4.frame(PORT, &expired);
    let first = kernel.run(&packet).unwrap();
    assert_eq!((first.action, first.counted), (3, vec!["answered", "expired"]));
    assert!(first.packet.len() <= packet.len(), "an answer is never longer than its request");
    // Buckets of answers belong to a CPU, so a run on another one may answer once more.
    let later: Vec<_> = (0..8).map(|_| kernel.run(&packet).unwrap()).collect();
    assert!(later.iter().filter(|run| run.action == 3).count() < 8);
    assert!(later.iter().any(|run| run.counted == ["answer_withheld", "expired"]));
    let events = kernel.events().unwrap();
    assert!((3..=5).contains(&events.len()), "{} of nine are sampled", events.len());
    assert_eq!(events[0].header[..], expired[..64]);
    assert_eq!(events[0].source[12..], [192, 0, 2, 1]);
}

#[test]
fn capabilities_expire_by_the_kernels_own_clock() {
    let last = datagram("last_second");
    let packet = V4.frame(PORT, &last);
    let (mut kernel, _) = set_up(Fixed { clock_runs: true, ..Fixed::default() }, &[(3, HERE)]);
    kernel.settings(QUIET).unwrap();
    assert_eq!(kernel.run(&packet).unwrap().counted, [Fate::Local.label()]);
    kernel.settings_made(QUIET, 1_100_000_000).unwrap();
    assert_eq!(kernel.run(&packet).unwrap().counted, [Fate::Answered.label(), "expired"]);
}

#[test]
fn writes_pass_until_the_very_moment_when_the_lease_ends() {
    const LEFT_NS: u64 = 30_000_000;
    let [write, read] = ["put_data", "get_piece"].map(|name| V4.frame(PORT, &datagram(name)));
    let (mut kernel, _) = set_up(Fixed { clock_runs: true, ..Fixed::default() }, &[(3, HERE)]);
    assert_eq!(kernel.run(&write).unwrap().counted, [Fate::Local.label()], "there is no lease");
    let end_ns = kernel.now_ns().unwrap() + LEFT_NS;
    kernel.lease(Lease::until(end_ns)).unwrap();
    let (mut passed, mut is_over) = (0, false);
    while !is_over {
        let before_ns = kernel.now_ns().unwrap();
        let outcome = kernel.run(&write).unwrap();
        is_over = outcome.counted != [Fate::Local.label()];
        if is_over {
            assert_eq!(outcome.counted, [Fate::Answered.label(), "lease_over"]);
            let after_ns = kernel.now_ns().unwrap();
            assert!(after_ns >= end_ns, "{} ns too early", end_ns - after_ns);
        } else {
            assert!(before_ns < end_ns, "{} ns too late", before_ns - end_ns);
            passed += 1;
        }
        assert_eq!(kernel.run(&read).unwrap().counted, [Fate::Local.label()], "reads need no lease");
    }
    println!("{passed} writes passed before");
    assert_eq!(kernel.run(&write).unwrap().counted, [Fate::Answered.label(), "lease_over"]);
    let renewed = Lease::until(kernel.now_ns().unwrap() + 3600 * 1_000_000_000);
    kernel.lease(renewed).unwrap();
    assert_eq!(kernel.run(&write).unwrap().counted, [Fate::Local.label()], "it was renewed");
    kernel.lease(Lease::NONE).unwrap();
    assert_eq!(kernel.run(&write).unwrap().counted, [Fate::Local.label()], "it never ends");
}

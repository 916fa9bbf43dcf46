//! The edge's kernel programs between real namespaces: a client, the edge, and nodes that send back what they get.
//!
//! That takes root; without, the tests say that they skip.

mod lab;

use self::lab::{Lab, NODE_DEVICES, Options, Stream, has_segmentation_offload, set_gro};
use super::super::{
    PlaneCounts, XdpError, XdpMode,
    edge_plane::{OnExit, Prepare, Replies},
};

const MODES: [XdpMode; 2] = [XdpMode::Native, XdpMode::Generic];

#[test]
fn requests_and_replies_cross_in_every_mode_and_version() {
    let Some(lab) = Lab::open() else { return };
    for mode in MODES {
        for replies in [Replies::Kernel, Replies::Xdp] {
            for is_v4 in [true, false] {
                let plane = lab.start(Options { mode, replies, is_v4, ..Options::default() });
                let way = if replies == Replies::Xdp { "xdp" } else { "kernel" };
                plane.until_forwarded(way);
                let what = format!("{mode} {replies:?} {is_v4}");
                for node in lab.nodes() {
                    assert_eq!(lab.exchange(node, is_v4, 100), 100, "{what}");
                }
                plane.follow();
                let report = plane.report();
                assert_eq!(report.mode, mode, "{what}");
                let count = |fate| report.counts.fates.get(fate).copied().unwrap_or(0);
                assert!(count("routed") >= 200, "{what}: {report:?}");
                assert!(count(&format!("reply_{way}")) >= 200, "{what}: {report:?}");
                plane.stop();
            }
        }
    }
}

#[test]
fn peers_are_prepared_and_left_as_they_were() {
    let Some(lab) = Lab::open() else { return };
    let gro = || lab.nodes().map(|number| lab.gro(number.into())).collect::<Vec<_>>();
    set_gro(&lab.node_spaces[1], "eth0", true);
    let plane = lab.start(Options::default());
    plane.until_forwarded("kernel");
    assert_eq!(gro(), [true, true]);
    plane.stop();
    assert_eq!(gro(), [false, true], "what was on before stays on");
    let plane = lab.start(Options { prepare: Prepare::Off, ..Options::default() });
    plane.until(|report| report.nodes.len() == 2 && report.nodes[1].device.is_some());
    let report = plane.report();
    assert_eq!((report.nodes[0].device.as_deref(), report.nodes[0].replies), (None, "relay"));
    assert!(report.nodes[0].why.contains("no GRO"), "{}", report.nodes[0].why);
    assert_eq!((lab.exchange(1, true, 3), lab.exchange(2, true, 100)), (0, 100));
    plane.follow();
    let counts = plane.report().counts;
    assert_eq!(counts.fates.get("relayed"), Some(&3), "what user space would relay comes up: {counts:?}");
    plane.stop();
    let plane = lab.start(Options { mode: XdpMode::Generic, prepare: Prepare::Off, ..Options::default() });
    plane.until_forwarded("kernel");
    assert_eq!(lab.exchange(1, true, 100), 100, "in generic mode nothing needs to be prepared");
    plane.stop();
}

#[test]
fn nodes_whose_interface_is_made_anew_are_found_again() {
    let Some(lab) = Lab::open() else { return };
    for mode in MODES {
        let plane = lab.start(Options { mode, ..Options::default() });
        plane.until_forwarded("kernel");
        for _ in 0..3 {
            lab.disconnect(1);
            plane.until(|report| report.nodes[0].device.is_none());
            assert_eq!(lab.exchange(2, true, 20), 20, "{mode}: the other node is not touched");
            lab.connect(1);
            plane.until_forwarded("kernel");
            assert_eq!(lab.exchange(1, true, 100), 100, "{mode}");
        }
        plane.stop();
    }
}

#[test]
fn ports_of_bridges_are_found_and_prepared() {
    let Some(lab) = Lab::open() else { return };
    lab.bridge(1);
    for mode in MODES {
        let plane = lab.start(Options { mode, ..Options::default() });
        plane.until_forwarded("kernel");
        assert_eq!(
            plane.report().nodes[0].device.as_deref(),
            Some(NODE_DEVICES[0]),
            "the port, not the bridge"
        );
        assert_eq!((lab.exchange(1, true, 100), lab.exchange(2, true, 100)), (100, 100), "{mode}");
        plane.stop();
        assert!(!lab.gro(1));
    }
}

#[test]
fn peers_that_are_ports_of_bridges_merge_what_they_send_on() {
    let Some(lab) = Lab::open() else { return };
    lab.bridge_peer(1);
    // Without a program on it, it takes redirected packets already.
    set_gro(&lab.node_spaces[0], "eth0", true);
    let plane = lab.start(Options::default());
    plane.until_forwarded("kernel");
    assert_eq!((lab.gro_forwarding(1), lab.gro_forwarding(2)), (true, false), "the second is no port");
    assert_eq!(lab.exchange(1, true, 100), 100);
    plane.die();
    assert!(lab.gro_forwarding(1));
    let plane = lab.start(Options::default());
    plane.until_forwarded("kernel");
    plane.stop();
    assert_eq!((lab.gro_forwarding(1), lab.gro(1)), (false, true), "what was on before stays on");
}

#[test]
fn replies_by_the_kernel_leave_nodes_their_segmentation_offload() {
    let Some(lab) = Lab::open() else { return };
    let offload = || has_segmentation_offload(&lab.node_spaces[0], "eth0");
    assert!(offload());
    for (replies, way, stays) in [(Replies::Kernel, "kernel", true), (Replies::Xdp, "xdp", false)] {
        let plane = lab.start(Options { replies, ..Options::default() });
        plane.until_forwarded(way);
        assert_eq!(offload(), stays, "{replies:?}");
        plane.stop();
    }
    let plane = lab.start(Options::default());
    plane.until_forwarded("kernel");
    assert!(plane.report().nodes[0].why.contains("segmentation offload"), "{:?}", plane.report());
    plane.stop();
}

#[test]
fn edge_after_another_one_may_be_told_otherwise() {
    let Some(lab) = Lab::open() else { return };
    let steps = [
        (XdpMode::Native, Replies::Xdp, "xdp"),
        (XdpMode::Native, Replies::Kernel, "kernel"),
        (XdpMode::Generic, Replies::Kernel, "kernel"),
        (XdpMode::Native, Replies::Xdp, "xdp"),
    ];
    for (mode, replies, way) in steps {
        let plane = lab.start(Options { mode, replies, on_exit: OnExit::Keep, ..Options::default() });
        plane.until_forwarded(way);
        assert_eq!(plane.report().mode, mode);
        assert_eq!(lab.exchange(1, true, 100), 100, "{mode} {replies:?}");
        plane.stop();
    }
    lab.start(Options::default()).stop();
}

#[test]
fn edge_that_died_goes_on_and_is_taken_over_without_a_loss() {
    let Some(lab) = Lab::open() else { return };
    for (mode, replies) in [
        (XdpMode::Native, Replies::Kernel),
        (XdpMode::Native, Replies::Xdp),
        (XdpMode::Generic, Replies::Kernel),
        (XdpMode::Auto, Replies::Auto),
    ] {
        let options = Options { mode, replies, ..Options::default() };
        let plane = lab.start(options);
        plane.until_forwarded(if replies == Replies::Xdp { "xdp" } else { "kernel" });
        let before = lab.ingress_program();
        plane.follow();
        let counted = plane.report().counts;
        let stream = Stream::start(&lab, 1);
        stream.until_received(200);
        plane.die();
        stream.until_received(stream.received() + 200);
        assert_eq!(lab.ingress_program(), before, "{mode}: the dead edge's program is at work");
        let plane = lab.start(options);
        assert_ne!(lab.ingress_program(), before, "{mode}");
        stream.until_received(stream.received() + 200);
        let (sent, received) = stream.end();
        assert_eq!(received, sent, "{mode} {replies:?}");
        plane.follow();
        let routed = |counts: &PlaneCounts| counts.fates.get("routed").copied().unwrap_or(0);
        let counts = plane.report().counts;
        assert!(routed(&counts) >= routed(&counted) + sent, "{mode}: counters go on");
        plane.stop();
        assert_eq!((lab.ingress_program(), lab.gro(1)), (None, false), "{mode}: the last one undoes it all");
        assert!(!lab.pin_dir().exists());
    }
}

#[test]
fn edge_that_is_told_to_keeps_the_kernel_at_work() {
    let Some(lab) = Lab::open() else { return };
    let plane = lab.start(Options { on_exit: OnExit::Keep, ..Options::default() });
    plane.until_forwarded("kernel");
    plane.stop();
    assert_eq!((lab.exchange(1, true, 100), lab.gro(1)), (100, true));
    let plane = lab.start(Options::default());
    plane.stop();
    assert_eq!((lab.exchange(1, true, 3), lab.gro(1), lab.ingress_program()), (0, false, None));
}

#[test]
fn second_edge_is_refused_and_the_first_one_goes_on() {
    let Some(lab) = Lab::open() else { return };
    let plane = lab.start(Options::default());
    plane.until_forwarded("kernel");
    for mode in [XdpMode::Native, XdpMode::Auto] {
        let refused = lab.try_start(Options { mode, ..Options::default() }).err().unwrap();
        assert!(
            matches!(&refused, XdpError::Taken { directory } if *directory == lab.pin_dir()),
            "{refused}"
        );
    }
    let elsewhere = lab.try_start_in("elsewhere", Options::default()).err().unwrap();
    assert!(elsewhere.to_string().contains("xdpfs_ingress"), "named as the program in the way: {elsewhere}");
    assert_eq!(lab.exchange(1, true, 100), 100);
    plane.stop();
}

#[test]
fn one_thread_keeps_capabilities_and_only_those_it_needs() {
    const BPF_NET_ADMIN_PERFMON: u64 = 1 << 39 | 1 << 12 | 1 << 38;
    const SYS_ADMIN_PTRACE: u64 = 1 << 21 | 1 << 19;
    let Some(lab) = Lab::open() else { return };
    for (prepare, kept, user) in
        [(Prepare::Off, 0, None), (Prepare::Auto, SYS_ADMIN_PTRACE, Some("65532:65533"))]
    {
        let mut plane = lab.start(Options { prepare, user, ..Options::default() });
        assert_eq!(plane.caller, if user.is_some() { 65532 } else { 0 });
        assert_eq!(plane.caller_capabilities, 0, "effective, permitted and bounding, all together");
        assert_eq!(plane.capabilities_of_thread(), BPF_NET_ADMIN_PERFMON | kept);
        plane.stop();
    }
}

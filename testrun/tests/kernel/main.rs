//! The kernel program against the user-space validator and an independent model. It needs root, BPF and the built
//! object: `cargo xtask test-xdp`.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod agreement;
mod limits;
mod replies;
mod table;
mod verdicts;
mod veth;

use xdpfs_plane::maps::Route;
use xdpfs_testrun::{
    fixture::{self, THERE},
    kernel::{Fixed, Kernel, Outcome},
    oracle::{Expected, Model},
};
use xdpfs_wire::NodeId;

fn set_up(fixed: Fixed, routes: &[(u16, Route)]) -> (Kernel, Model) {
    let mut kernel = Kernel::load(fixed).unwrap();
    kernel.device(THERE.device).unwrap();
    let mut model = Model { generic: fixed.generic, ..Model::default() };
    model.devices.insert(THERE.device, true);
    for (node, route) in routes {
        kernel.route(NodeId(*node), *route).unwrap();
        model.routes.insert(*node, *route);
    }
    (kernel, model)
}

fn check(kernel: &mut Kernel, model: &Model, name: &str, packet: &[u8]) -> Outcome {
    let outcome = kernel.run(packet).unwrap();
    let Expected { action, mut counted, packet: expect } = model.expect(packet);
    let mut seen = outcome.counted.clone();
    seen.sort_unstable();
    counted.sort_unstable();
    assert_eq!((outcome.action, &seen), (action, &counted), "{name}");
    assert_eq!(outcome.packet, expect, "{name}: bytes");
    outcome
}

/// The datagram of one fixture.
fn datagram(name: &str) -> Vec<u8> {
    let cases = fixture::cases().unwrap();
    cases.into_iter().find(|case| case.name == name).unwrap().datagram
}

//! The table of frames over real veth pairs: client - edge - node, each in a namespace of its own. The program sits on
//! the edge's side of the first pair; what it does is seen at the ends, and nothing else is.

use std::{collections::BTreeMap, time::Duration};

use aya::programs::XdpMode;
use xdpfs_plane::{Action, counter_label};
use xdpfs_testbed::{
    namespace::{End, Namespace, connect},
    packet_socket::PacketSocket,
};
use xdpfs_testrun::{
    fixture::THERE,
    frames::{CLIENT_MAC, EDGE_MAC},
    kernel::{Fixed, Kernel},
    reference::Reference,
    table::{self, Case, Mode},
};

/// The longest frames of the table fit, and a program in the driver does too.
const MTU: u32 = 3498;
/// Longer than a frame takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(5);
/// Long enough for a frame that should not be there.
const SILENCE: Duration = Duration::from_millis(100);
/// An EtherType for experiments (IEEE 802): the program lets it pass, and the kernel has no use for it.
const MARK: u16 = 0x88b5;

#[test]
fn every_frame_of_the_table_has_its_outcome_over_veths_in_native_mode() {
    println!("{} frames", run(Mode::Native));
}

#[test]
fn every_frame_of_the_table_has_its_outcome_over_veths_in_generic_mode() {
    println!("{} frames", run(Mode::Generic));
}

/// How many frames there are.
fn run(mode: Mode) -> u32 {
    let mut lab = Lab::new(mode);
    let mut ran = 0_u32;
    for case in table::cases().unwrap().iter().filter(|case| case.modes.contains(&mode)) {
        lab.check(case, ran);
        ran += 1;
    }
    lab.is_silent();
    assert!(ran >= 120);
    ran
}

/// Removed in the order of the fields: the program before the interfaces.
struct Lab {
    kernel: Kernel,
    counts: Vec<u64>,
    sender: PacketSocket,
    /// What comes back to the client.
    client_ear: PacketSocket,
    /// What passes into the edge's network stack.
    edge_ear: PacketSocket,
    /// What is sent on to the node.
    node_ear: PacketSocket,
    _passers: Vec<Reference>,
    _namespaces: [Namespace; 3],
}

impl Lab {
    fn new(mode: Mode) -> Self {
        let namespaces = ["client", "edge", "node"].map(|role| Namespace::new(role).unwrap());
        for namespace in &namespaces {
            // The kernel has nothing to say of its own.
            namespace.set_sysctl("ipv6/conf/all/disable_ipv6", 1).unwrap();
            namespace.set_sysctl("ipv6/conf/default/disable_ipv6", 1).unwrap();
        }
        let [client, edge, node] = &namespaces;
        let client_end = End { namespace: client, device: "client0" };
        let uplink = End { namespace: edge, device: "uplink0" };
        let downlink = End { namespace: edge, device: "node0" };
        let node_end = End { namespace: node, device: "edge0" };
        connect(client_end, uplink, MTU).unwrap();
        connect(downlink, node_end, MTU).unwrap();
        let is_native = mode == Mode::Native;
        let fixed = Fixed { generic: !is_native, answer_by_redirect: is_native, clock_runs: false };
        let mut kernel = Kernel::load(fixed).unwrap();
        let xdp_mode = if is_native { XdpMode::Driver } else { XdpMode::Skb };
        edge.run(|| {
            kernel.device_to(THERE.device, edge.index_of(downlink.device).unwrap()).unwrap();
            kernel.attach(edge.index_of(uplink.device).unwrap(), xdp_mode).unwrap();
        });
        // A veth takes redirected frames only if its peer polls, which a program makes it do.
        let passer = |end: End<'_>| {
            let mut passer = Reference::load("xdpfs_empty").unwrap();
            let index = end.namespace.index_of(end.device).unwrap();
            end.namespace.run(|| passer.attach(index).unwrap());
            passer
        };
        let passers = if is_native { vec![passer(client_end), passer(node_end)] } else { Vec::new() };
        Self {
            counts: kernel.counts().unwrap(),
            kernel,
            sender: PacketSocket::sender(client_end).unwrap(),
            client_ear: PacketSocket::listener(client_end).unwrap(),
            edge_ear: PacketSocket::listener(uplink).unwrap(),
            node_ear: PacketSocket::listener(node_end).unwrap(),
            _passers: passers,
            _namespaces: namespaces,
        }
    }

    /// What should not be there shows as a wrong frame in a later case, or at the end.
    fn check(&mut self, case: &Case, number: u32) {
        self.kernel.enter(&case.world).unwrap();
        self.sender.send(&case.frame).unwrap_or_else(|error| panic!("{}: {error}", case.name));
        // Frames of one interface keep their order, so when this one has come, the program is done with the other.
        let mark = [&EDGE_MAC[..], &CLIENT_MAC, &MARK.to_be_bytes(), &number.to_be_bytes()].concat();
        self.sender.send(&mark).unwrap();
        let name = &case.name;
        let ear = match case.action {
            Action::Answer => Some(&mut self.client_ear),
            Action::Drop => None,
            Action::Pass => Some(&mut self.edge_ear),
            Action::Redirect => Some(&mut self.node_ear),
        };
        if let Some(ear) = ear {
            // The kernel takes the outer tag out of a frame before anyone sees it.
            assert!(next(ear, name) == untagged(&case.out), "{name}: {:?}", case.action);
        }
        assert_eq!(next(&mut self.edge_ear, name), mark, "{name}: something passes that must not");
        let mut expect: BTreeMap<&str, u64> = case.counted.iter().map(|label| (&label[..], 1)).collect();
        *expect.entry("foreign").or_default() += 1;
        assert_eq!(self.risen(), expect, "{name}: counters");
    }

    fn risen(&mut self) -> BTreeMap<&'static str, u64> {
        let counts = self.kernel.counts().unwrap();
        let labels = (0..).map(|at| counter_label(at).unwrap_or("nameless"));
        let risen = labels.zip(counts.iter().zip(&self.counts).map(|(new, old)| new - old));
        let risen = risen.filter(|(_, by)| *by > 0).collect();
        self.counts = counts;
        risen
    }

    fn is_silent(&mut self) {
        for (place, ear) in
            [("client", &mut self.client_ear), ("edge", &mut self.edge_ear), ("node", &mut self.node_ear)]
        {
            assert_eq!(ear.receive(SILENCE).unwrap(), None, "at the {place}");
        }
    }
}

fn next(ear: &mut PacketSocket, name: &str) -> Vec<u8> {
    ear.receive(PATIENCE).unwrap().unwrap_or_else(|| panic!("{name}: nothing comes"))
}

fn untagged(frame: &[u8]) -> Vec<u8> {
    match frame[12..14] {
        [0x81, 0] | [0x88, 0xa8] => [&frame[..12], &frame[16..]].concat(),
        _ => frame.to_vec(),
    }
}

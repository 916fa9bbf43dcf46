//! The table of `fixtures/frames.txt` as it is thought out: which frame in which world, and what is to be expected of
//! it in words. The bytes that come out are the model's; the file keeps them.

use std::net::IpAddr;

use xdpfs_plane::{Action, maps::SourceRule};
use xdpfs_testrun::{
    fixture::{self, NODE, PORT},
    frames::{CLIENT_V4, CLIENT_V6, FRAME_LEN_MAX, NODE_SIDE_V4, V4, V6, WRAPPINGS, Wrapping},
    table::{Case, LeaseState, Mode, Whereabouts, World},
};
use xdpfs_wire::{NodeEpoch, NodeId, Reject};

const BOTH: &[Mode] = &[Mode::Native, Mode::Generic];
const NATIVE: &[Mode] = &[Mode::Native];
const GENERIC: &[Mode] = &[Mode::Generic];

/// A frame in a world, without what comes of it.
struct Given {
    name: String,
    modes: &'static [Mode],
    world: World,
    frame: Vec<u8>,
}

/// The cases so far.
#[derive(Default)]
struct Listing(Vec<Case>);

pub(crate) fn cases() -> Vec<Case> {
    let mut listing = Listing::default();
    listing.every_request();
    listing.forwarded();
    listing.unusual_checksums();
    listing.foreign();
    listing.odd_lengths();
    listing.batches();
    listing.dead_ends();
    listing.nodes();
    listing.leases();
    listing.sources();
    listing.spent();
    listing.0
}

impl Listing {
    /// `expect` is the action and the counters. What comes out is the model's word; that the model agrees with what
    /// is expected is tested besides.
    fn add(&mut self, given: Given, action: Action, counted: &[&str]) {
        let Given { name, modes, world, frame } = given;
        let outs: Vec<Vec<u8>> = modes.iter().map(|mode| world.model(*mode).expect(&frame).packet).collect();
        assert!(outs.windows(2).all(|pair| pair[0] == pair[1]), "{name}: modes differ");
        assert!(self.0.iter().all(|case| case.name != name), "{name} twice");
        let out = outs.into_iter().next().unwrap();
        let mut counted: Vec<String> = counted.iter().map(ToString::to_string).collect();
        counted.sort_unstable();
        self.0.push(Case { name, modes: modes.to_vec(), world, frame, action, counted, out });
    }

    /// Each datagram of the wire's fixtures, for the node on this host.
    fn every_request(&mut self) {
        for (case, (kind, wrapping)) in fixture::cases().unwrap().iter().zip(WRAPPINGS.iter().cycle()) {
            let given = |modes, suffix: &str| Given {
                name: format!("{}{suffix}.{}", case.name, dashed(kind)),
                modes,
                world: one_node(Whereabouts::Here),
                frame: wrapping.frame(PORT, &case.datagram),
            };
            if given(BOTH, "").frame.len() > FRAME_LEN_MAX {
                continue;
            }
            match case.verdict {
                Ok(()) => self.add(given(BOTH, ""), Action::Pass, &["local"]),
                // A batch may look like this.
                Err(reject @ Reject::BadLength) => {
                    self.add(given(NATIVE, ""), Action::Drop, &["refused", reject.label()]);
                    let suffix = ".or_a_batch";
                    self.add(given(GENERIC, suffix), Action::Pass, &["super_packet"]);
                }
                Err(reject) if reject.reply().is_some() => {
                    self.add(given(BOTH, ""), Action::Answer, &["answered", reject.label()]);
                }
                Err(reject) => self.add(given(BOTH, ""), Action::Drop, &["refused", reject.label()]),
            }
        }
    }

    /// Each good request for a node behind a device, over both IP versions.
    fn forwarded(&mut self) {
        let good = fixture::cases().unwrap().into_iter().filter(|case| case.verdict.is_ok());
        for (case, at) in good.zip([0, 3, 4, 1, 2, 5].into_iter().cycle()) {
            for (kind, wrapping) in [WRAPPINGS[at], WRAPPINGS[(at + 1) % WRAPPINGS.len()]] {
                let frame = wrapping.frame(PORT, &case.datagram);
                if frame.len() > FRAME_LEN_MAX {
                    continue;
                }
                let name = format!("forwarded.{}.{}", case.name, dashed(kind));
                let given = Given { name, modes: BOTH, world: one_node(Whereabouts::There), frame };
                self.add(given, Action::Redirect, &["routed"]);
            }
        }
    }

    /// Checksums that the sender left to its card, and none at all.
    fn unusual_checksums(&mut self) {
        let get = datagram("get_piece_of_one_byte");
        for (kind, wrapping) in WRAPPINGS {
            let mut frame = wrapping.frame(PORT, &get);
            let partial = wrapping.partial_check(&frame);
            put(&mut frame, wrapping.udp_at() + 6, &partial.to_be_bytes());
            for (modes, mode) in [(NATIVE, "finished"), (GENERIC, "left")] {
                let name = format!("checksum_{mode}.{}", dashed(kind));
                let world = one_node(Whereabouts::There);
                let given = Given { name, modes, world, frame: frame.clone() };
                self.add(given, Action::Redirect, &["routed"]);
            }
            put(&mut frame, wrapping.udp_at() + 6, &[0, 0]);
            let name = format!("no_checksum.{}", dashed(kind));
            let given = Given { name, modes: BOTH, world: one_node(Whereabouts::There), frame };
            self.add(given, Action::Redirect, &["routed"]);
        }
    }

    /// What is none of our business.
    fn foreign(&mut self) {
        let get = datagram("get_piece_of_one_byte");
        let (v4, v6) = (V4.frame(PORT, &get), V6.frame(PORT, &get));
        let with = |frame: &[u8], at: usize, bytes: &[u8]| {
            let mut frame = frame.to_vec();
            put(&mut frame, at, bytes);
            frame
        };
        let triple = [&v4[..12], &[0x88, 0xa8, 0, 1, 0x81, 0, 0, 2, 0x81, 0, 0, 3], &v4[12..]].concat();
        let frames: &[(&str, Vec<u8>)] = &[
            ("arp", with(&v4, 12, &[8, 6])),
            ("three_vlan_tags", triple),
            ("v4_with_options", with(&v4, 14, &[0x46])),
            ("v4_of_another_version", with(&v4, 14, &[0x65])),
            ("v4_first_fragment", with(&v4, 20, &[0x20, 0])),
            ("v4_later_fragment", with(&v4, 20, &[0, 9])),
            ("v4_tcp", with(&v4, 23, &[6])),
            ("v4_icmp", with(&v4, 23, &[1])),
            ("v4_shorter_than_its_header", with(&v4, 16, &[0, 19])),
            ("v4_shorter_than_its_datagram", with(&v4, 16, &[0, 40])),
            ("another_port", V4.frame(PORT + 1, &get)),
            ("port_zero", V4.frame(0, &get)),
            ("dns", V6.frame(53, &get)),
            ("udp_shorter_than_its_header", with(&v4, 38, &[0, 7])),
            ("udp_longer_than_its_packet", with(&v4, 38, &[0xff, 0xff])),
            ("v6_with_hop_by_hop_options", with(&v6, 20, &[0])),
            ("v6_with_a_routing_header", with(&v6, 20, &[43])),
            ("v6_fragment", with(&v6, 20, &[44])),
            ("v6_of_another_version", with(&v6, 14, &[0x40])),
            ("v6_jumbogram", with(&v6, 18, &[0, 0])),
            ("v6_icmp", with(&v6, 20, &[58])),
            ("v6_tcp", with(&v6, 20, &[6])),
            (
                "for_a_host_behind",
                Wrapping { destination: IpAddr::V4([10, 1, 2, 3].into()), ..V4 }.frame(PORT, &get),
            ),
            (
                "for_another_address_of_ours",
                Wrapping { destination: NODE_SIDE_V4.into(), ..V4 }.frame(PORT, &get),
            ),
            ("v6_for_a_host_behind", Wrapping { destination: CLIENT_V6.into(), ..V6 }.frame(PORT, &get)),
            ("broadcast", with(&v4, 0, &[0xff; 6])),
            ("v6_multicast", with(&v6, 0, &[0x33, 0x33, 0, 0, 0, 1])),
            (
                "expired_for_a_host_behind",
                Wrapping { destination: CLIENT_V4.into(), ..V4 }.frame(PORT, &datagram("expired")),
            ),
            ("cut_in_the_ip_header", v4[..33].to_vec()),
            ("cut_in_the_udp_header", v4[..41].to_vec()),
            ("cut_in_the_datagram", v6[..v6.len() - 1].to_vec()),
        ];
        for (name, frame) in frames {
            let (name, frame) = (format!("foreign.{name}"), frame.clone());
            let given = Given { name, modes: BOTH, world: one_node(Whereabouts::Here), frame };
            self.add(given, Action::Pass, &["foreign"]);
        }
    }

    /// Frames that are ours although something about their length or their flags is unusual.
    fn odd_lengths(&mut self) {
        let get = datagram("get_piece_of_one_byte");
        for (kind, wrapping) in WRAPPINGS {
            let frame = [&wrapping.frame(PORT, &get)[..], &[0xee; 40]].concat();
            let name = format!("padded.{}", dashed(kind));
            let given = Given { name, modes: BOTH, world: one_node(Whereabouts::Here), frame };
            self.add(given, Action::Pass, &["local"]);
        }
        let mut frame = V4.frame(PORT, &get);
        put(&mut frame, 20, &[0xc0, 0]);
        let name = "must_not_be_fragmented.v4".to_owned();
        let given = Given { name, modes: BOTH, world: one_node(Whereabouts::There), frame };
        self.add(given, Action::Redirect, &["routed"]);
        // An answer is cut from the frame, padding and all.
        let frame = [&V6.frame(PORT, &datagram("expired"))[..], &[0xee; 9]].concat();
        let name = "padded_and_expired.v6".to_owned();
        let given = Given { name, modes: BOTH, world: one_node(Whereabouts::Here), frame };
        self.add(given, Action::Answer, &["answered", "expired"]);
    }

    /// Three datagrams that the kernel has merged.
    fn batches(&mut self) {
        let get = datagram("get_burst");
        for (kind, wrapping) in [WRAPPINGS[0], WRAPPINGS[1]] {
            let frame = wrapping.frame(PORT, &[&get[..], &get, &get].concat());
            let given = |modes, mode| Given {
                name: format!("batch_in_{mode}_mode.{kind}"),
                modes,
                world: one_node(Whereabouts::There),
                frame: frame.clone(),
            };
            self.add(given(NATIVE, "native"), Action::Drop, &["refused", "bad_length"]);
            self.add(given(GENERIC, "generic"), Action::Pass, &["super_packet"]);
        }
    }

    /// Requests for nodes that cannot be reached.
    fn dead_ends(&mut self) {
        let get = datagram("get_piece_of_one_byte");
        for (kind, wrapping) in [WRAPPINGS[0], WRAPPINGS[1], WRAPPINGS[4]] {
            let frame = wrapping.frame(PORT, &get);
            let other = if wrapping.source.is_ipv4() { Whereabouts::ThereV6 } else { Whereabouts::ThereV4 };
            let given = |what: &str, place, frame| Given {
                name: format!("{what}.{}", dashed(kind)),
                modes: BOTH,
                world: one_node(place),
                frame,
            };
            self.add(given("no_address", other, frame.clone()), Action::Pass, &["no_address"]);
            self.add(given("relayed", Whereabouts::Relayed, frame.clone()), Action::Pass, &["relayed"]);
            self.add(given("no_device", Whereabouts::Severed, frame.clone()), Action::Drop, &["no_device"]);
            let hops_at = wrapping.ip_at() + if wrapping.source.is_ipv4() { 8 } else { 7 };
            for hops in [0, 1] {
                let mut frame = frame.clone();
                put(&mut frame, hops_at, &[hops]);
                let given = given(&format!("hop_limit_{hops}"), Whereabouts::There, frame);
                self.add(given, Action::Pass, &["hop_limit"]);
            }
            let mut frame = frame.clone();
            put(&mut frame, hops_at, &[2]);
            self.add(given("one_hop_left", Whereabouts::There, frame), Action::Redirect, &["routed"]);
        }
    }

    /// Which node, in which registration.
    fn nodes(&mut self) {
        let write =
            |name: &str, nodes: &[(u16, u16, Whereabouts)], (kind, wrapping): (&str, Wrapping)| Given {
                name: format!("{name}.{kind}"),
                modes: BOTH,
                world: world(nodes),
                frame: wrapping.frame(PORT, &datagram("put_data")),
            };
        let [v4, v6, ..] = WRAPPINGS;
        let there = Whereabouts::There;
        for kind in [v4, v6] {
            let given =
                write("among_others", &[(2, 9, Whereabouts::Here), (3, 9, there), (4, 9, there)], kind);
            self.add(given, Action::Redirect, &["routed"]);
            let given = write("node_of_others_only", &[(2, 9, Whereabouts::Here), (4, 9, there)], kind);
            self.add(given, Action::Answer, &["answered", "wrong_node"]);
            let given = write("no_nodes", &[], kind);
            self.add(given, Action::Answer, &["answered", "wrong_node"]);
            let given = write("write_to_a_later_registration", &[(3, 10, there)], kind);
            self.add(given, Action::Answer, &["answered", "stale_node"]);
            let given = write("write_to_a_node_here_that_came_back", &[(3, 10, Whereabouts::Here)], kind);
            self.add(given, Action::Answer, &["answered", "stale_node"]);
            // The edge may be behind; the node knows.
            let given = write("write_to_an_earlier_registration", &[(3, 8, there)], kind);
            self.add(given, Action::Redirect, &["routed"]);
            let given =
                write("write_to_an_earlier_registration_by_relay", &[(3, 8, Whereabouts::Relayed)], kind);
            self.add(given, Action::Pass, &["relayed"]);
            let given =
                write("write_to_a_later_registration_by_relay", &[(3, 10, Whereabouts::Relayed)], kind);
            self.add(given, Action::Answer, &["answered", "stale_node"]);
            let given = write("write_to_a_node_here_before_it_knows", &[(3, 8, Whereabouts::Here)], kind);
            self.add(given, Action::Answer, &["answered", "stale_node"]);
            let mut given = write("read_from_a_later_registration", &[(3, 700, there)], kind);
            given.frame = kind.1.frame(PORT, &datagram("get_piece"));
            self.add(given, Action::Redirect, &["routed"]);
        }
    }

    /// Every good request, for a node on this host with a lease.
    fn leases(&mut self) {
        let good = fixture::cases().unwrap().into_iter().filter(|case| case.verdict.is_ok());
        for (case, (kind, wrapping)) in good.zip(WRAPPINGS.iter().cycle()) {
            let frame = wrapping.frame(PORT, &case.datagram);
            if frame.len() > FRAME_LEN_MAX {
                continue;
            }
            let given = |what: &str, place, lease| Given {
                name: format!("{what}.{}.{}", case.name, dashed(kind)),
                modes: BOTH,
                world: World { lease: Some(lease), ..one_node(place) },
                frame: frame.clone(),
            };
            let here = Whereabouts::Here;
            self.add(given("lease_holds", here, LeaseState::Holds), Action::Pass, &["local"]);
            let over = given("lease_over", here, LeaseState::Over);
            if case.name.starts_with("put_") {
                self.add(over, Action::Answer, &["answered", "lease_over"]);
                // It is the edge's, if anybody's, and says nothing of the node.
                let elsewhere = given("lease_over_elsewhere", Whereabouts::There, LeaseState::Over);
                self.add(elsewhere, Action::Redirect, &["routed"]);
            } else {
                self.add(over, Action::Pass, &["local"]);
            }
        }
    }

    /// Who may send.
    fn sources(&mut self) {
        let rules = [
            ("192.0.0.0", 8, SourceRule::ALLOW),
            ("192.0.2.0", 24, SourceRule::DENY),
            ("192.0.2.128", 25, SourceRule::ALLOW),
            ("2001:db8::", 32, SourceRule::ALLOW),
            ("2001:db8:1::", 48, SourceRule::DENY),
        ];
        let rules: Vec<_> =
            rules.iter().map(|(prefix, len, rule)| (prefix.parse().unwrap(), *len, *rule)).collect();
        let sources = [
            ("192.0.2.1", SourceRule::DENY),
            ("192.0.2.129", SourceRule::ALLOW),
            ("192.1.0.1", SourceRule::ALLOW),
            ("2001:db8::1", SourceRule::ALLOW),
            ("2001:db8:1::1", SourceRule::DENY),
        ];
        for (source, rule) in sources {
            self.source("listed", &rules, SourceRule::ALLOW, source, rule);
        }
        for others in [SourceRule::ALLOW, SourceRule::DENY] {
            for source in ["10.0.0.1", "fd00::1"] {
                let name = if others == SourceRule::DENY { "unlisted_denied" } else { "unlisted_allowed" };
                self.source(name, &rules, others, source, others);
            }
        }
    }

    fn source(
        &mut self,
        name: &str,
        rules: &[(IpAddr, u32, SourceRule)],
        unlisted_source: SourceRule,
        source: &str,
        expect: SourceRule,
    ) {
        let address: IpAddr = source.parse().unwrap();
        let wrapping = Wrapping { source: address, ..if address.is_ipv4() { V4 } else { V6 } };
        let world = World { source_rules: rules.to_vec(), unlisted_source, ..one_node(Whereabouts::There) };
        let frame = wrapping.frame(PORT, &datagram("put_open"));
        let given = Given { name: format!("source_{name}.{source}"), modes: BOTH, world, frame };
        if expect == SourceRule::DENY {
            // Whatever else is wrong with it.
            let forged = Given {
                name: format!("{}.forged", given.name),
                modes: BOTH,
                world: given.world.clone(),
                frame: wrapping.frame(PORT, &datagram("another_tag")),
            };
            self.add(forged, Action::Drop, &["source_denied"]);
            self.add(given, Action::Drop, &["source_denied"]);
        } else {
            self.add(given, Action::Redirect, &["routed"]);
        }
    }

    /// Limits that have been reached.
    fn spent(&mut self) {
        for (kind, wrapping) in [WRAPPINGS[0], WRAPPINGS[1]] {
            let given = |name: &str, request: &str, world| Given {
                name: format!("{name}.{kind}"),
                modes: BOTH,
                world,
                frame: wrapping.frame(PORT, &datagram(request)),
            };
            let sources = World { sources_spent: true, ..one_node(Whereabouts::There) };
            let answers = World { answers_spent: true, ..one_node(Whereabouts::There) };
            let fast = given("source_too_fast", "get_piece", sources.clone());
            self.add(fast, Action::Drop, &["source_too_fast"]);
            let forged = given("forged_by_a_source_too_fast", "another_tag", sources);
            self.add(forged, Action::Drop, &["refused", "bad_tag"]);
            let late = given("expired_after_many", "expired", answers.clone());
            self.add(late, Action::Drop, &["answer_withheld", "expired"]);
            let stale = given("stale_after_many", "write_in_an_older_node_epoch", answers.clone());
            self.add(stale, Action::Drop, &["answer_withheld", "stale_node"]);
            let good = given("good_after_many_answers", "get_piece", answers);
            self.add(good, Action::Redirect, &["routed"]);
        }
    }
}

fn one_node(place: Whereabouts) -> World {
    world(&[(NODE.node.0, NODE.epoch.0, place)])
}

fn world(nodes: &[(u16, u16, Whereabouts)]) -> World {
    let nodes =
        nodes.iter().map(|(node, epoch, place)| (NodeId(*node), (NodeEpoch(*epoch), *place))).collect();
    World { nodes, ..World::default() }
}

/// The datagram of one of the wire's fixtures.
fn datagram(name: &str) -> Vec<u8> {
    let cases = fixture::cases().unwrap();
    cases.into_iter().find(|case| case.name == name).unwrap().datagram
}

fn put(frame: &mut [u8], at: usize, bytes: &[u8]) {
    frame[at..at + bytes.len()].copy_from_slice(bytes);
}

fn dashed(kind: &str) -> String {
    kind.replace(' ', "-")
}

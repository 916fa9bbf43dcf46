//! What one end of a packet costs: `xdpfs-cost CASE REPEAT` prints the nanoseconds of one run; `cargo xtask bench xdp.cost`
//! calls it.
#![expect(clippy::print_stdout, reason = "a tool")]

use std::{env, net::Ipv4Addr};

use anyhow::{Context as _, bail, ensure};
use xdpfs_plane::{
    Fate, Rate,
    maps::{Lease, Route, Settings, SourceRule},
};
use xdpfs_testrun::{
    fixture::{self, NODE, PORT, THERE},
    frames::{EDGE_V4, V4, Wrapping, fold, sum},
    kernel::{Fixed, Kernel, QUIET},
    reference::Reference,
};

/// Not an address of the host.
const NEIGHBOUR: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 77);

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = env::args().skip(1).collect();
    let [case, repeat] = &args[..] else { bail!("usage: xdpfs-cost CASE REPEAT") };
    println!("{:.1}", cost(case, repeat.parse()?)?);
    Ok(())
}

fn cost(case: &str, repeat: u32) -> anyhow::Result<f64> {
    let get = V4.frame(PORT, &datagram("get_piece")?);
    if let Some(how) = case.strip_prefix("empty_program") {
        let mut reference = Reference::load("xdpfs_empty")?;
        return match how {
            "" => reference.mean_ns(&get, repeat),
            _ => reference.median_of_hops_ns(&get, repeat),
        };
    }
    let mut kernel = Kernel::load(Fixed { clock_runs: true, ..Fixed::default() })?;
    let mut packet = get;
    let refused = |name: &str| Ok::<_, anyhow::Error>(V4.frame(PORT, &datagram(name)?));
    let expect = match case {
        "foreign" => {
            packet = V4.frame(443, &[0; 40]);
            packet[23] = 6;
            Fate::Foreign
        }
        "foreign_udp" => {
            packet = V4.frame(53, &[0; 40]);
            Fate::Foreign
        }
        "foreign_address" => {
            packet = Wrapping { destination: NEIGHBOUR.into(), ..V4 }.frame(PORT, &datagram("get_piece")?);
            Fate::Foreign
        }
        "validate" => Fate::Local,
        "validate_write" | "validate_write_without_lease" => {
            packet = V4.frame(PORT, &datagram("put_data")?);
            kernel.lease(if case == "validate_write" { Lease::until(1 << 62) } else { Lease::NONE })?;
            Fate::Local
        }
        "validate_route" => {
            kernel.device(THERE.device)?;
            // To where it was sent anyway: the packet that comes out is one that may come in, until its hops are over.
            let port = PORT.to_be_bytes();
            kernel.route(NODE.node, Route { v4: EDGE_V4.octets(), port, ..THERE })?;
            set_hops(&mut packet);
            Fate::Routed
        }
        "drop_bad_magic" => {
            packet = refused("wrong_magic")?;
            Fate::Refused
        }
        "drop_bad_length" => {
            packet = refused("get_piece_shorter_than_its_answer")?;
            Fate::Refused
        }
        "drop_unknown_key_epoch" => {
            packet = refused("unknown_key_epoch")?;
            Fate::Refused
        }
        "drop_bad_tag" => {
            packet = refused("another_tag")?;
            Fate::Refused
        }
        "drop_source_denied" => {
            let unlisted_source = SourceRule::DENY;
            kernel.settings(Settings { sources_listed: 1, unlisted_source, ..QUIET })?;
            Fate::SourceDenied
        }
        "drop_source_too_fast" => {
            let source_rate = Rate { interval_ns: 1 << 50, burst_ns: 0 };
            kernel.settings(Settings { source_rate, ..QUIET })?;
            kernel.run(&packet)?;
            Fate::SourceTooFast
        }
        _ => bail!("there is no case {case}"),
    };
    let first = kernel.run(&packet)?;
    ensure!(first.counted.first() == Some(&expect.label()), "{case} ended as {:?}", first.counted);
    match expect {
        Fate::Routed => kernel.median_of_hops_ns(&packet, repeat),
        _ => kernel.mean_ns(&packet, repeat),
    }
}

/// Gives an IPv4 packet as many hops as there are.
fn set_hops(packet: &mut [u8]) {
    packet[22] = u8::MAX;
    packet[24..26].fill(0);
    let check = !fold(sum(&packet[14..34]));
    packet[24..26].copy_from_slice(&check.to_be_bytes());
}

fn datagram(name: &str) -> anyhow::Result<Vec<u8>> {
    let case = fixture::cases()?.into_iter().find(|case| case.name == name);
    Ok(case.with_context(|| format!("there is no fixture {name}"))?.datagram)
}

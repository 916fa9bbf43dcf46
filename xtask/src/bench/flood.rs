//! What one core forwards or refuses, when the sender is not the limit.

use super::row::{Condition, Row, Scale, rows};
use crate::{ebpf, setup};

/// Frames of one run.
const FRAMES: u32 = 300_000;

/// Requests of one size.
pub(super) struct Requests {
    bench: &'static str,
    /// The fixture.
    case: &'static str,
}

pub(super) const SMALL: Requests = Requests { bench: "xdp.forward.64", case: "put_abort" };
pub(super) const FULL: Requests = Requests { bench: "xdp.forward.1400", case: "put_data" };
const FORGED: Requests = Requests { bench: "xdp.reject", case: "another_tag" };

/// What becomes of the frames, and the programs that it takes.
#[derive(Clone, Copy)]
struct Way {
    /// As the tool and the rows name it.
    name: &'static str,
    takes: &'static [&'static str],
}

const FORWARDERS: &[Way] = &[
    Way { name: "xdpfs", takes: &["ip"] },
    Way { name: "bare_redirect", takes: &["ip"] },
    Way { name: "ip_forward", takes: &["ip", "ethtool"] },
    Way { name: "iptables_dnat", takes: &["ip", "ethtool", "iptables"] },
    Way { name: "bridge", takes: &["ip", "bridge", "ethtool"] },
    Way { name: "no_middle", takes: &["ip"] },
];
const REFUSERS: &[Way] = &[
    Way { name: "xdpfs_reject", takes: &["ip"] },
    Way { name: "xdp_drop", takes: &["ip"] },
    Way { name: "nft_drop", takes: &["ip", "ethtool", "nft"] },
];

/// How fast requests go through a namespace, and how much longer a packet takes than with nothing there.
pub(super) fn forward(requests: &Requests, runs: u32) -> anyhow::Result<Vec<Row>> {
    let all = in_turn(requests, FORWARDERS, runs)?;
    let (Some(subject), Some(direct)) = (all.first(), all.last()) else { return Ok(Vec::new()) };
    let others = all.get(1..).unwrap_or_default();
    let added =
        |rates: &[f64]| rates.iter().zip(&direct.1).map(|(way, direct)| 1e9 / way - 1e9 / direct).collect();
    let added_by_others = others.iter().filter(|(name, _)| *name != direct.0);
    let time = rows(
        Scale { bench: requests.bench, unit: "ns_per_packet" },
        "added_ns_per_packet",
        added(&subject.1),
        added_by_others.map(|(name, rates)| (*name, added(rates))).collect(),
    );
    Ok(finished([rates(requests, subject, others), time].concat()))
}

/// How fast forged requests are refused.
pub(super) fn reject(runs: u32) -> anyhow::Result<Vec<Row>> {
    let all = in_turn(&FORGED, REFUSERS, runs)?;
    let Some((subject, others)) = all.split_first() else { return Ok(Vec::new()) };
    Ok(finished(rates(&FORGED, subject, others)))
}

type Rates = (&'static str, Vec<f64>);

/// Measures all ways in turn, once without counting. A way that lacks its programs has no values.
fn in_turn(requests: &Requests, ways: &[Way], runs: u32) -> anyhow::Result<Vec<Rates>> {
    setup::for_references();
    let flood = ebpf::flood()?;
    let mut all: Vec<Rates> = ways.iter().map(|way| (way.name, Vec::new())).collect();
    for run in 0..=runs {
        for (way, (_, rates)) in ways.iter().zip(&mut all) {
            if let Some(lacking) = way.takes.iter().find(|program| !setup::has_program(program)) {
                eprintln!("  {}: {} IS LEFT OUT, there is no {lacking} here", requests.bench, way.name);
                continue;
            }
            let rate = flood(way.name, requests.case, FRAMES)?;
            if run > 0 {
                eprintln!("  {} {}, run {run} of {runs}: {rate:.0} packets/s", requests.bench, way.name);
                rates.push(rate);
            }
        }
    }
    Ok(all)
}

fn rates(requests: &Requests, subject: &Rates, others: &[Rates]) -> Vec<Row> {
    let scale = Scale { bench: requests.bench, unit: "packets_per_s" };
    rows(scale, "packets_per_s", subject.1.clone(), others.to_vec())
}

fn finished(rows: Vec<Row>) -> Vec<Row> {
    let conditions: [Condition; 4] = [
        ("mode", "native".to_owned()),
        ("mtu", "1500".to_owned()),
        ("interfaces", "veth".to_owned()),
        ("sender", "live frames, on the core that does everything".to_owned()),
    ];
    rows.into_iter().map(|row| row.under(&conditions)).collect()
}

//! The chunk protocol from memory to memory, between two network namespaces that a veth joins, beside what the kernel does at best
//! and what others do.

mod hosts;

use self::hosts::{Hosts, Service};
use super::row::{Condition, Row, Scale, rows};
use crate::setup;

/// How long each thing is measured in each run.
const SECONDS: &str = "1";
/// What a stream is measured with, by the path's size.
struct Stream {
    bench: &'static str,
    mtu: u32,
    /// Bytes of a datagram of the class that fits.
    datagram: &'static str,
}

const STREAMS: [Stream; 3] = [
    Stream { bench: "transport.stream.mtu1500", mtu: 1500, datagram: "1408" },
    Stream { bench: "transport.stream.mtu3498", mtu: 3498, datagram: "3392" },
    Stream { bench: "transport.stream.mtu9000", mtu: 9000, datagram: "8256" },
];

const GETS: [(&str, &str, &str); 6] = [
    ("transport.get.1k.c1", "1024", "1"),
    ("transport.get.1k.c16", "1024", "16"),
    ("transport.get.1k.c64", "1024", "64"),
    ("transport.get.4k.c1", "4096", "1"),
    ("transport.get.4k.c16", "4096", "16"),
    ("transport.get.4k.c64", "4096", "64"),
];

/// Losses of 1 in so many of a thousand.
const LOSSES: [(&str, u32); 3] =
    [("transport.loss.0.1", 1), ("transport.loss.1", 10), ("transport.loss.5", 50)];

const UDP_PUMP: &str = "udp_pump";
const IPERF3_TCP: &str = "iperf3_tcp";
const MEMCACHED_TCP: &str = "memcached_tcp";
const MEMCACHED_UDP: &str = "memcached_udp";

pub(super) fn stream(runs: u32) -> anyhow::Result<Vec<Row>> {
    setup::for_transport_references();
    let mut all = Vec::new();
    for Stream { bench, mtu, datagram } in STREAMS {
        let hosts = Hosts::join(mtu)?;
        let node = hosts.serve(Service::Node)?;
        let pump = hosts.serve(Service::Pump)?;
        let iperf3 = hosts.serve_if_there(Service::Iperf3)?;
        let [ours, bare, tcp] = in_turn(
            bench,
            runs,
            [
                &|| Ok(Some([hosts.ask(&node, "stream", &[SECONDS])?.one("bytes_per_s")?])),
                &|| Ok(Some([hosts.ask(&pump, "pump", &[datagram, SECONDS])?.one("bytes_per_s")?])),
                &|| iperf3.as_ref().map(|iperf3| Ok([hosts.ask_iperf3(iperf3, SECONDS)?])).transpose(),
            ],
        )?;
        let scale = Scale { bench, unit: "bytes/s" };
        let references = vec![(UDP_PUMP, column(&bare, 0)), (IPERF3_TCP, column(&tcp, 0))];
        let measured = rows(scale, "bytes_per_s", column(&ours, 0), references);
        all.extend(under(measured, mtu, "one stream of reads, from memory, with checksums and tags"));
    }
    Ok(all)
}

pub(super) fn get(runs: u32) -> anyhow::Result<Vec<Row>> {
    setup::for_transport_references();
    const MTU: u32 = 1500;
    let hosts = Hosts::join(MTU)?;
    let node = hosts.serve(Service::Node)?;
    let memcached = hosts.serve_if_there(Service::Memcached)?;
    let names = ["ops_per_s", "p50_us", "p99_us"];
    let mut all = Vec::new();
    for (bench, length, outstanding) in GETS {
        let args = [length, outstanding, SECONDS];
        let of_memcached = |command: &str| {
            let ask = |memcached| hosts.ask(memcached, command, &args)?.several(names);
            memcached.as_ref().map(ask).transpose()
        };
        let [ours, tcp, udp] = in_turn(
            bench,
            runs,
            [
                &|| Ok(Some(hosts.ask(&node, "get", &args)?.several(names)?)),
                &|| of_memcached("memcached"),
                &|| of_memcached("memcached-udp"),
            ],
        )?;
        for (at, (metric, unit)) in
            [("ops_per_s", "gets/s"), ("p50_us", "us"), ("p99_us", "us")].into_iter().enumerate()
        {
            let references = vec![(MEMCACHED_TCP, column(&tcp, at)), (MEMCACHED_UDP, column(&udp, at))];
            let measured = rows(Scale { bench, unit }, metric, column(&ours, at), references);
            all.extend(under(
                measured,
                MTU,
                "parts of a chunk in memory; one value of memcached, by one client",
            ));
        }
    }
    Ok(all)
}

pub(super) fn loss(runs: u32) -> anyhow::Result<Vec<Row>> {
    setup::for_transport_references();
    const MTU: u32 = 1500;
    let mut all = Vec::new();
    for (bench, of_thousand) in LOSSES {
        let hosts = Hosts::join(MTU)?;
        // Whole super-packets would be lost otherwise, forty datagrams at once.
        hosts.end_offloads()?;
        hosts.lose(of_thousand)?;
        let node = hosts.serve(Service::Node)?;
        let iperf3 = hosts.serve_if_there(Service::Iperf3)?;
        let [ours, tcp] = in_turn(
            bench,
            runs,
            [&|| Ok(Some([hosts.ask(&node, "stream", &[SECONDS])?.one("bytes_per_s")?])), &|| {
                iperf3.as_ref().map(|iperf3| Ok([hosts.ask_iperf3(iperf3, SECONDS)?])).transpose()
            }],
        )?;
        let scale = Scale { bench, unit: "bytes/s" };
        let measured = rows(scale, "bytes_per_s", column(&ours, 0), vec![("tcp", column(&tcp, 0))]);
        all.extend(under(measured, MTU, "the receiving kernels drop at random, both ways; no offloads"));
    }
    Ok(all)
}

type Ask<'a, const METRICS: usize> = &'a dyn Fn() -> anyhow::Result<Option<[f64; METRICS]>>;

/// Measures all in turn, once without counting. What is missing has no values.
fn in_turn<const METRICS: usize, const SIDES: usize>(
    bench: &str,
    runs: u32,
    sides: [Ask<'_, METRICS>; SIDES],
) -> anyhow::Result<[Vec<[f64; METRICS]>; SIDES]> {
    let mut measured = [const { Vec::new() }; SIDES];
    for run in 0..=runs {
        let mut said = Vec::new();
        for (side, all) in sides.iter().zip(&mut measured) {
            let values = side()?;
            said.push(values);
            all.extend(values.filter(|_| run > 0));
        }
        if run > 0 {
            eprintln!("  {bench}, run {run} of {runs}: {said:.1?}");
        }
    }
    Ok(measured)
}

fn column<const METRICS: usize>(values: &[[f64; METRICS]], at: usize) -> Vec<f64> {
    values.iter().map(|values| values[at]).collect()
}

fn under(rows: Vec<Row>, mtu: u32, what: &str) -> Vec<Row> {
    let conditions: [Condition; 3] =
        [("mtu", mtu.to_string()), ("interfaces", "veth".to_owned()), ("compared", what.to_owned())];
    rows.into_iter().map(|row| row.under(&conditions)).collect()
}

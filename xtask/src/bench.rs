//! Measurements, each beside references that are measured in turn with it on the same machine.
//!
//! Invariant: a row compares two medians of the same number of runs, taken alternately, so that whatever slows the
//! machine down slows both.

mod bed;
mod conditions;
mod e2e;
mod edge;
mod etcd;
mod flood;
mod meta;
mod object;
mod reference;
mod repair;
mod row;
mod sdk;
mod store;
mod transport;
mod xdp;

use std::{fs, path::Path};

use anyhow::{Context as _, ensure};
use xdpfs_testbed::namespace;

use self::{bed::Bed, row::Row, xdp::Case};
use crate::ebpf;

/// What is measured together.
struct Group {
    /// Dotted lower case; asked for whole or by its first parts.
    name: &'static str,
    about: &'static str,
    measure: Measure,
}

/// How a group is measured, each thing so many times.
#[derive(Clone, Copy)]
enum Measure {
    /// On a cluster.
    OnBed(fn(&Bed, u32) -> anyhow::Result<Vec<Row>>),
    /// On metadata servers of its own.
    OfMetadata(fn(u32) -> anyhow::Result<Vec<Row>>),
    /// The same, and only if it is asked for by its whole name: it takes long.
    OfMuchMetadata(fn(u32) -> anyhow::Result<Vec<Row>>),
    /// On a disk.
    OfStore(fn(u32) -> anyhow::Result<Vec<Row>>),
    /// On a cluster of its own, from end to end.
    EndToEnd(fn(u32) -> anyhow::Result<Vec<Row>>),
    /// Between two network namespaces.
    OfTransport(fn(u32) -> anyhow::Result<Vec<Row>>),
    /// In the kernel.
    InKernel(fn(u32) -> anyhow::Result<Vec<Row>>),
    /// The kernel program on one packet.
    OnePacket(Case),
}

const fn one_packet(about: &'static str, case: Case) -> Group {
    Group { name: case.bench, about, measure: Measure::OnePacket(case) }
}

const GROUPS: &[Group] = &[
    Group {
        name: "object.put",
        about: "one large object from a file, three durable replicas",
        measure: Measure::OnBed(object::put),
    },
    Group { name: "object.get", about: "the same object into a pipe", measure: Measure::OnBed(object::get) },
    Group {
        name: "object.small",
        about: "a tree of small files, put and got",
        measure: Measure::OnBed(object::small),
    },
    Group {
        name: "sdk.python.64m",
        about: "large objects by the Python package, and by the Rust client",
        measure: Measure::OnBed(sdk::large),
    },
    Group {
        name: "sdk.python.4k",
        about: "small objects by the Python package, and by the Rust client",
        measure: Measure::OnBed(sdk::small),
    },
    Group {
        name: "meta.put",
        about: "durable small puts, and whole puts of empty objects",
        measure: Measure::OfMetadata(meta::put),
    },
    Group { name: "meta.read", about: "linearizable reads", measure: Measure::OfMetadata(meta::read) },
    Group {
        name: "meta.list",
        about: "a million objects under one prefix",
        measure: Measure::OfMetadata(meta::list),
    },
    Group {
        name: "meta.counts",
        about: "what changes and reads take, in things that do not depend on the machine",
        measure: Measure::OfMetadata(meta::counts),
    },
    Group {
        name: "meta.objects",
        about: "memory, disk, start and latency with 10^4 to 10^6 objects",
        measure: Measure::OfMetadata(meta::objects),
    },
    Group {
        name: "meta.shape",
        about: "a million objects in the state in memory, and in sled",
        measure: Measure::OfMetadata(meta::shape),
    },
    Group {
        name: "meta.objects.1e7",
        about: "what ten million objects take",
        measure: Measure::OfMuchMetadata(meta::many_objects),
    },
    Group {
        name: "meta.shape.1e7",
        about: "ten million objects in the state in memory, and in sled",
        measure: Measure::OfMuchMetadata(meta::large_shape),
    },
    Group {
        name: "store.write",
        about: "durable chunks of 1 KiB to 4 MiB by 1 to 64 writers",
        measure: Measure::OfStore(store::write),
    },
    Group {
        name: "store.read",
        about: "pages and bursts, from the disk and from memory",
        measure: Measure::OfStore(store::read),
    },
    Group {
        name: "store.open",
        about: "start and memory with 10^5 and 10^6 chunks",
        measure: Measure::OfStore(store::open),
    },
    Group {
        name: "store.churn",
        about: "what compaction writes, and what it and a scrub do to reads",
        measure: Measure::OfStore(store::churn),
    },
    Group {
        name: "transport.stream",
        about: "one stream of reads, from memory to memory",
        measure: Measure::OfTransport(transport::stream),
    },
    Group {
        name: "transport.get",
        about: "small parts of a chunk, by 1 to 64 readers",
        measure: Measure::OfTransport(transport::get),
    },
    Group {
        name: "transport.loss",
        about: "a stream of reads where packets are lost",
        measure: Measure::OfTransport(transport::loss),
    },
    Group {
        name: "e2e.put",
        about: "durable puts of 4 KiB to 64 MiB through a whole cluster",
        measure: Measure::EndToEnd(e2e::put),
    },
    Group {
        name: "repair.rebuild",
        about: "a lost data node is made anew as fast as it goes",
        measure: Measure::EndToEnd(repair::rebuild),
    },
    Group {
        name: "repair.foreground_p99",
        about: "gets while a lost data node is made anew at the usual limit",
        measure: Measure::EndToEnd(repair::foreground_p99),
    },
    Group {
        name: "repair.rebalance_bytes",
        about: "what is moved when a data node joins",
        measure: Measure::EndToEnd(repair::rebalance_bytes),
    },
    Group { name: "e2e.get", about: "gets of the same", measure: Measure::EndToEnd(e2e::get) },
    one_packet("TCP to somebody", Case::still("xdp.cost.foreign", "foreign")),
    one_packet("UDP to another port", Case::still("xdp.cost.foreign_udp", "foreign_udp")),
    one_packet(
        "a request that a router has for another host",
        Case::still("xdp.cost.foreign_address", "foreign_address"),
    ),
    one_packet("a request for a node on this host", Case::still("xdp.cost.validate", "validate")),
    one_packet(
        "a write for a node on this host, which has a lease",
        Case::still("xdp.cost.validate_write", "validate_write"),
    ),
    one_packet(
        "a request for a node behind a device",
        Case::moving("xdp.cost.validate_route", "validate_route"),
    ),
    one_packet(
        "a request that is dropped: bad magic",
        Case::still("xdp.cost.drop_bad_magic", "drop_bad_magic"),
    ),
    one_packet(
        "a request that is dropped: bad length",
        Case::still("xdp.cost.drop_bad_length", "drop_bad_length"),
    ),
    one_packet(
        "a request that is dropped: unknown key epoch",
        Case::still("xdp.cost.drop_unknown_key_epoch", "drop_unknown_key_epoch"),
    ),
    one_packet("a request that is dropped: bad tag", Case::still("xdp.cost.drop_bad_tag", "drop_bad_tag")),
    one_packet(
        "a request that is dropped: source denied",
        Case::still("xdp.cost.drop_source_denied", "drop_source_denied"),
    ),
    one_packet(
        "a request that is dropped: source too fast",
        Case::still("xdp.cost.drop_source_too_fast", "drop_source_too_fast"),
    ),
    Group {
        name: "xdp.forward.64",
        about: "requests without payload through a namespace, on one core",
        measure: Measure::InKernel(|runs| flood::forward(&flood::SMALL, runs)),
    },
    Group {
        name: "xdp.forward.1400",
        about: "requests of a full piece through a namespace, on one core",
        measure: Measure::InKernel(|runs| flood::forward(&flood::FULL, runs)),
    },
    Group {
        name: "xdp.reject",
        about: "forged requests at full rate, on one core",
        measure: Measure::InKernel(flood::reject),
    },
    Group {
        name: "xdp.get_rtt",
        about: "one small get across an edge",
        measure: Measure::InKernel(edge::get_rtt),
    },
    Group {
        name: "xdp.bulk.1500",
        about: "a large object across an edge, in Ethernet's packets",
        measure: Measure::InKernel(edge::bulk_1500),
    },
    Group {
        name: "xdp.bulk.3498",
        about: "the same in the longest packets that native XDP takes",
        measure: Measure::InKernel(edge::bulk_3498),
    },
];

/// Measures all groups, or those that `wanted` names; prints a table, and writes the rows to `json`.
pub(crate) fn run(wanted: Option<&str>, json: Option<&Path>, runs: u32) -> anyhow::Result<()> {
    let is_wanted = |group: &&Group| match group.measure {
        Measure::OfMuchMetadata(_) => wanted == Some(group.name),
        _ => wanted.is_none_or(|wanted| belongs(group.name, wanted)),
    };
    let groups: Vec<&Group> = GROUPS.iter().filter(is_wanted).collect();
    let known: Vec<&str> = GROUPS.iter().map(|group| group.name).collect();
    ensure!(!groups.is_empty(), "there is no such group; there are {}", known.join(", "));
    let needs_bed = groups.iter().any(|group| matches!(group.measure, Measure::OnBed(_)));
    let bed = needs_bed.then(Bed::prepare).transpose()?;
    let mut rows = Vec::new();
    for group in groups {
        eprintln!("{}: {}", group.name, group.about);
        let machine = conditions::machine();
        let measured = match (group.measure, &bed) {
            (Measure::OnBed(measure), Some(bed)) => measure(bed, runs)?,
            (Measure::OnBed(_), None) => unreachable!("the bed is prepared for whoever needs it"),
            (
                Measure::EndToEnd(measure)
                | Measure::OfMetadata(measure)
                | Measure::OfMuchMetadata(measure)
                | Measure::OfStore(measure),
                _,
            ) => measure(runs)?,
            (Measure::OfTransport(measure), _) => match (namespace::obstacle(), wanted) {
                (Some(why), None) => {
                    eprintln!("  LEFT OUT: {why}");
                    Vec::new()
                }
                _ => measure(runs)?,
            },
            (Measure::InKernel(_) | Measure::OnePacket(_), _) => match (ebpf::can_load(), wanted) {
                (Err(why), None) => {
                    eprintln!("  LEFT OUT: {why}");
                    Vec::new()
                }
                (can, _) => can.and_then(|()| in_kernel(group.measure, runs))?,
            },
        };
        rows.extend(measured.into_iter().map(|row| row.under(&machine)));
    }
    row::print(&rows);
    if let Some(path) = json {
        let array = serde_json::to_string_pretty(&rows.iter().map(Row::to_json).collect::<Vec<_>>())?;
        fs::write(path, array + "\n").with_context(|| format!("cannot write {}", path.display()))?;
        eprintln!("wrote {}", path.display());
    }
    Ok(())
}

fn in_kernel(measure: Measure, runs: u32) -> anyhow::Result<Vec<Row>> {
    match measure {
        Measure::InKernel(measure) => measure(runs),
        Measure::OnePacket(case) => xdp::cost(case, runs),
        Measure::EndToEnd(_)
        | Measure::OnBed(_)
        | Measure::OfMetadata(_)
        | Measure::OfMuchMetadata(_)
        | Measure::OfStore(_)
        | Measure::OfTransport(_) => unreachable!("it is measured without the kernel program"),
    }
}

fn belongs(group: &str, wanted: &str) -> bool {
    group.strip_prefix(wanted).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_named_whole_or_by_their_first_parts() {
        assert!(belongs("object.put", "object.put"));
        assert!(belongs("object.put", "object"));
        assert!(!belongs("object.put", "obj"));
        assert!(!belongs("object.put", "object.put.large"));
    }
}

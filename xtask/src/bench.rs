//! Measurements, each beside references that are measured in turn with it on the same machine.
//!
//! Invariant: a row compares two medians of the same number of runs, taken alternately, so that whatever slows the
//! machine down slows both.

mod bed;
mod conditions;
mod flood;
mod object;
mod reference;
mod row;
mod xdp;

use std::{fs, path::Path};

use anyhow::{Context as _, ensure};

use self::{bed::Bed, row::Row};
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
    /// In the kernel.
    InKernel(fn(u32) -> anyhow::Result<Vec<Row>>),
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
        name: "xdp.cost",
        about: "the kernel program on one packet, by its own clock",
        measure: Measure::InKernel(xdp::cost),
    },
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
];

/// Measures all groups, or those that `wanted` names; prints a table, and writes the rows to `json`.
pub(crate) fn run(wanted: Option<&str>, json: Option<&Path>, runs: u32) -> anyhow::Result<()> {
    let is_wanted = |group: &&Group| wanted.is_none_or(|wanted| belongs(group.name, wanted));
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
            (Measure::InKernel(measure), _) => match (ebpf::can_load(), wanted) {
                (Err(why), None) => {
                    eprintln!("  LEFT OUT: {why}");
                    Vec::new()
                }
                (can, _) => can.and_then(|()| measure(runs))?,
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

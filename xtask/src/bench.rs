//! Measurements, each beside references that are measured in turn with it on the same machine.
//!
//! Invariant: a row compares two medians of the same number of runs, taken alternately, so that whatever slows the
//! machine down slows both.

mod bed;
mod object;
mod reference;
mod row;

use std::{fs, path::Path};

use anyhow::{Context as _, ensure};

use self::{bed::Bed, row::Row};

/// What is measured together.
struct Group {
    /// Dotted lower case; asked for whole or by its first parts.
    name: &'static str,
    about: &'static str,
    measure: fn(&Bed, u32) -> anyhow::Result<Vec<Row>>,
}

const GROUPS: &[Group] = &[
    Group {
        name: "object.put",
        about: "one large object from a file, three durable replicas",
        measure: object::put,
    },
    Group { name: "object.get", about: "the same object into a pipe", measure: object::get },
    Group { name: "object.small", about: "a tree of small files, put and got", measure: object::small },
];

/// Measures all groups, or those that `wanted` names; prints a table, and writes the rows to `json`.
pub(crate) fn run(wanted: Option<&str>, json: Option<&Path>, runs: u32) -> anyhow::Result<()> {
    let is_wanted = |group: &&Group| wanted.is_none_or(|wanted| belongs(group.name, wanted));
    let groups: Vec<&Group> = GROUPS.iter().filter(is_wanted).collect();
    let known: Vec<&str> = GROUPS.iter().map(|group| group.name).collect();
    ensure!(!groups.is_empty(), "there is no such group; there are {}", known.join(", "));
    let bed = Bed::prepare()?;
    let mut rows = Vec::new();
    for group in groups {
        eprintln!("{}: {}", group.name, group.about);
        rows.extend((group.measure)(&bed, runs)?);
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

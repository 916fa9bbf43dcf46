//! The kernel program, beside one that does nothing.

use super::row::{Measurement, Row, Scale, compare};
use crate::ebpf;

/// Runs on the same packet.
const REPEATS: u32 = 1_000_000;
/// Runs on a packet that is another one afterwards: 250 in one call, and the kernel needs 20 ms to begin one.
const HOPS: u32 = 25_000;

const CASES: &[&str] = &[
    "foreign",
    "foreign_udp",
    "validate",
    "drop_bad_magic",
    "drop_bad_length",
    "drop_unknown_key_epoch",
    "drop_bad_tag",
    "drop_source_denied",
    "drop_source_too_fast",
];

/// What each end of a packet costs.
pub(super) fn cost(runs: u32) -> anyhow::Result<Vec<Row>> {
    let stopwatch = ebpf::stopwatch()?;
    let scale = Scale { bench: "xdp.cost", unit: "ns_per_packet" };
    let mut rows = Vec::new();
    for case in CASES {
        let reference = Measurement::new("empty_program", || stopwatch("empty_program", REPEATS));
        let subject = Measurement::new(case, || stopwatch(case, REPEATS));
        rows.extend(compare(scale, runs, subject, vec![reference])?);
    }
    let reference = Measurement::new("empty_program", || stopwatch("empty_program_hops", HOPS));
    let subject = Measurement::new("validate_route", || stopwatch("validate_route", HOPS));
    rows.extend(compare(scale, runs, subject, vec![reference])?);
    Ok(rows)
}

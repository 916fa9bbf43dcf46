//! The kernel program on one packet, beside a program that does nothing.

use super::row::{Measurement, Row, Scale, compare};
use crate::ebpf;

/// Runs on the same packet.
const REPEATS: u32 = 1_000_000;
/// Runs on a packet that is another one afterwards: 250 in one call, and the kernel needs 20 ms to begin one.
const HOPS: u32 = 25_000;

/// How one packet ends.
#[derive(Clone, Copy)]
pub(super) struct Case {
    /// Of its rows.
    pub(super) bench: &'static str,
    /// As the tool knows it.
    name: &'static str,
    /// What does nothing as often.
    reference: &'static str,
    repeats: u32,
}

impl Case {
    /// A packet that is the same afterwards.
    pub(super) const fn still(bench: &'static str, name: &'static str) -> Self {
        Self { bench, name, reference: "empty_program", repeats: REPEATS }
    }

    /// A packet that is one hop further afterwards.
    pub(super) const fn moving(bench: &'static str, name: &'static str) -> Self {
        Self { bench, name, reference: "empty_program_hops", repeats: HOPS }
    }
}

/// What one packet costs.
pub(super) fn cost(case: Case, runs: u32) -> anyhow::Result<Vec<Row>> {
    let stopwatch = ebpf::stopwatch()?;
    let scale = Scale { bench: case.bench, unit: "ns_per_packet" };
    let subject = Measurement::new("ns_per_packet", || stopwatch(case.name, case.repeats));
    let reference = Measurement::new("empty_program", || stopwatch(case.reference, case.repeats));
    compare(scale, runs, subject, vec![reference])
}

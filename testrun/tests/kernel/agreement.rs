//! Packets by chance through the kernel and through the model: verdict, bytes and counters are equal.
//!
//! `XDPFS_TEST_CASES` says how many, `XDPFS_TEST_SEED` which ones instead of those of [`SEEDS`].
#![expect(clippy::print_stdout, reason = "figures are shown with --nocapture, and when a test fails")]

use std::{collections::BTreeMap, time::Instant};

use xdpfs_plane::{counter_label, maps::Route};
use xdpfs_testrun::{
    chance::{Chance, setting},
    fixture::{HERE, THERE},
    kernel::Fixed,
    table::LeaseState,
};

use crate::set_up;

/// In each of the two modes.
const CASES: u64 = 1_000_000;
/// The cases are dealt out to these. A seed that has once shown a fault joins them.
const SEEDS: [u64; 4] = [1, 2, 3, 4];

#[test]
fn kernel_and_model_agree_on_whatever_comes_in_native_mode() {
    agree(Fixed::default());
}

#[test]
fn kernel_and_model_agree_on_whatever_comes_in_generic_mode() {
    agree(Fixed { generic: true, ..Fixed::default() });
}

fn agree(fixed: Fixed) {
    let cases = setting("XDPFS_TEST_CASES", CASES);
    match setting("XDPFS_TEST_SEED", 0) {
        0 => SEEDS.iter().for_each(|seed| agree_on(fixed, cases / SEEDS.len() as u64, *seed)),
        seed => agree_on(fixed, cases, seed),
    }
}

fn agree_on(fixed: Fixed, cases: u64, seed: u64) {
    println!("{fixed:?}: {cases} cases, seed {seed}");
    let routes =
        [(3, HERE), (4, THERE), (5, Route { node_epoch: 7, ..THERE }), (6, Route { device: 6, ..THERE })];
    let (mut kernel, mut model) = set_up(fixed, &routes);
    let lease = if seed.is_multiple_of(2) { LeaseState::Over } else { LeaseState::Holds };
    kernel.lease(lease.entry()).unwrap();
    model.lease_is_over = lease == LeaseState::Over;
    let mut chance = Chance::new(seed);
    let mut out = Vec::new();
    let mut tally = BTreeMap::new();
    let before = kernel.counts().unwrap();
    let began = Instant::now();
    for case in 0..cases {
        let packet = chance.packet();
        let expect = model.expect(&packet);
        let action = kernel.act(&packet, &mut out).unwrap();
        assert!(
            action == expect.action && out == expect.packet,
            "seed {seed} case {case}, {packet:02x?}: action {action} and {out:02x?} instead of {expect:02x?}"
        );
        for label in expect.counted {
            *tally.entry(label).or_insert(0_u64) += 1;
        }
    }
    let per_second = cases as f64 / began.elapsed().as_secs_f64();
    let after = kernel.counts().unwrap();
    for (at, (before, after)) in (0..).zip(before.iter().zip(&after)) {
        let label = counter_label(at).unwrap();
        assert_eq!(after - before, tally.get(label).copied().unwrap_or(0), "seed {seed}, counter {label}");
    }
    println!("{per_second:.0} per second: {tally:?}");
}

//! The table of frames by `BPF_PROG_TEST_RUN`.

use xdpfs_testrun::{
    fixture::THERE,
    kernel::{Fixed, Kernel},
    table::{self, Mode},
};

#[test]
fn every_frame_of_the_table_has_its_outcome_in_native_mode() {
    println!("{} frames", run(Mode::Native));
}

#[test]
fn every_frame_of_the_table_has_its_outcome_in_generic_mode() {
    println!("{} frames", run(Mode::Generic));
}

/// How many frames there are.
fn run(mode: Mode) -> u32 {
    let mut kernel = Kernel::load(Fixed { generic: mode == Mode::Generic, ..Fixed::default() }).unwrap();
    kernel.device(THERE.device).unwrap();
    let mut ran = 0;
    for case in table::cases().unwrap().iter().filter(|case| case.modes.contains(&mode)) {
        kernel.enter(&case.world).unwrap();
        let mut outcome = kernel.run(&case.frame).unwrap();
        outcome.counted.sort_unstable();
        assert_eq!(outcome.counted, case.counted, "{}", case.name);
        assert_eq!(outcome.action, case.action as u32, "{}", case.name);
        assert!(outcome.packet == case.out, "{}: {:02x?}", case.name, outcome.packet);
        ran += 1;
    }
    assert!(ran >= 120);
    ran
}

//! Any bytes as a frame: `wire` and `plane` decide as the model does, and nothing panics.
#![no_main]

use libfuzzer_sys::fuzz_target;
use xdpfs_testrun::differential::check_input;

fuzz_target!(|input: &[u8]| check_input(input));

//! The checks before a commit, in the order in which they are cheapest to fail.

use std::{
    path::PathBuf,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use crate::{setup, sh, tidy};

/// One check.
type Step = (&'static str, fn() -> anyhow::Result<()>);

const STEPS: &[Step] = &[
    ("set-up", setup::required),
    ("format", || sh::run(&["cargo", "fmt", "--all", "--check"])),
    ("pure cores alone", cores),
    ("lints", || {
        // The feature stands before tests that only run where there is BPF; lints see them everywhere.
        let words = ["cargo", "clippy", "--locked", "--workspace", "--all-targets"];
        let behind = ["--features", "xdpfs-testrun/kernel,xdpfs-data-node/kernel", "--", "-D", "warnings"];
        sh::run(&[&words[..], &behind].concat())
    }),
    ("binaries", || sh::run(&["cargo", "build", "--locked", "--workspace", "--bins"])),
    ("tests", tests),
    ("examples in documentation", || sh::run(&["cargo", "test", "--locked", "--workspace", "--doc"])),
    ("documentation", || {
        let words = ["cargo", "doc", "--locked", "--workspace", "--no-deps"];
        sh::run_with(&words, &[("RUSTDOCFLAGS", "-D warnings")])
    }),
    ("tidy", tidy::run),
];

/// All of them; the first failure ends it.
pub(crate) fn run() -> anyhow::Result<()> {
    let mut times = Vec::new();
    for (name, step) in STEPS {
        let began = Instant::now();
        step()?;
        times.push((name, began.elapsed()));
    }
    for (name, took) in times {
        eprintln!("{name:<28}{:>7.1} s", took.as_secs_f64());
    }
    eprintln!("all is well");
    Ok(())
}

/// The test of kills, for longer than `test` has time for.
pub(crate) fn soak(kills: u32, seed: Option<u64>) -> anyhow::Result<()> {
    let clock = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let seed = seed.unwrap_or_else(clock).to_string();
    eprintln!("seed {seed}");
    sh::run(&["cargo", "build", "--locked", "--workspace", "--bins"])?;
    let words =
        ["cargo", "test", "--locked", "-p", "xdpfs-testbed", "--test", "kill_loop", "--", "--nocapture"];
    sh::run_with(&words, &[("XDPFS_TEST_KILLS", &kills.to_string()), ("XDPFS_TEST_SEED", &seed)])
}

/// The cores by themselves, so that nobody else's features hide what they lack; two also where there is no std.
fn cores() -> anyhow::Result<()> {
    sh::run(&[
        "cargo",
        "check",
        "--locked",
        "-p",
        "xdpfs-wire",
        "-p",
        "xdpfs-plane",
        "-p",
        "xdpfs-transport",
    ])?;
    let sysroot = PathBuf::from(sh::output(&["rustc", "--print", "sysroot"])?.trim());
    let is_installed = |target: &&&str| sysroot.join("lib/rustlib").join(target).join("lib").is_dir();
    match WITHOUT_STD.iter().find(is_installed) {
        Some(target) => {
            // `plane` brings `wire` with it.
            sh::run(&["cargo", "check", "--locked", "-p", "xdpfs-plane", "--lib", "--target", target])
        }
        None => {
            eprintln!("no target without std is installed ({}):", WITHOUT_STD.join(", "));
            eprintln!(
                "that wire and plane need none is shown by #![no_std] and their lack of dependencies, which tidy checks"
            );
            Ok(())
        }
    }
}

/// Targets of the pinned toolchain that have no std.
const WITHOUT_STD: &[&str] =
    &["x86_64-unknown-none", "aarch64-unknown-none", "thumbv7em-none-eabi", "riscv64gc-unknown-none-elf"];

fn tests() -> anyhow::Result<()> {
    if setup::has_nextest() {
        return sh::run(&["cargo", "nextest", "run", "--locked", "--workspace"]);
    }
    eprintln!("cargo-nextest is not there (`cargo xtask setup` brings it); `cargo test` runs the same tests");
    let all_but_clusters =
        ["cargo", "test", "--locked", "--workspace", "--all-targets", "--exclude", "xdpfs-testbed"];
    sh::run(&all_but_clusters)?;
    // One cluster at a time: several at once would measure each other.
    sh::run(&["cargo", "test", "--locked", "-p", "xdpfs-testbed", "--all-targets", "--", "--test-threads=1"])
}

//! The fuzzer. What it runs is run by tests on stable Rust too, only without its guidance.

use anyhow::ensure;

use crate::sh;

const DIRECTORY: &str = "fuzz";
const TARGET: &str = "frame";

/// Fuzzes for some seconds; what was found before is kept in fuzz/corpus.
pub(crate) fn run(seconds: u32) -> anyhow::Result<()> {
    // Not by the cargo that runs us, which is another one's.
    let fuzz = ["rustup", "run", "nightly", "cargo-fuzz"];
    ensure!(
        sh::succeeds(&[&fuzz[..], &["--version"]].concat()),
        "cargo-fuzz is missing: rustup toolchain install nightly && cargo install cargo-fuzz"
    );
    let corpus = format!("{DIRECTORY}/corpus/{TARGET}");
    let words = ["cargo", "run", "--locked", "-p", "xdpfs-testrun", "--bin", "xdpfs-corpus", "--", &corpus];
    sh::run(&words)?;
    // A frame fits one page.
    let limits = ["-max_len=4096", &format!("-max_total_time={seconds}")];
    let words = ["run", "--fuzz-dir", DIRECTORY, TARGET, "--"];
    sh::run_with(&[&fuzz[..], &words, &limits].concat(), &[("RUSTUP_TOOLCHAIN", "nightly")])
}

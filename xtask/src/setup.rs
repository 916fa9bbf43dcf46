//! The tools that building and testing need. Running it again changes nothing.

use anyhow::ensure;

use crate::sh;

struct Tool {
    name: &'static str,
    /// Succeeds if it is there.
    probe: &'static [&'static str],
    /// Brings it, if anything can.
    install: Option<&'static [&'static str]>,
    /// What to do by hand.
    hint: &'static str,
    is_required: bool,
}

const TOOLS: &[Tool] = &[
    Tool {
        name: "rustc",
        probe: &["rustc", "--version"],
        install: None,
        hint: "install Rust by https://rustup.rs; the version is pinned in rust-toolchain.toml",
        is_required: true,
    },
    Tool {
        name: "rustfmt",
        probe: &["cargo", "fmt", "--version"],
        install: Some(&["rustup", "component", "add", "rustfmt"]),
        hint: "rustup component add rustfmt",
        is_required: true,
    },
    Tool {
        name: "clippy",
        probe: &["cargo", "clippy", "--version"],
        install: Some(&["rustup", "component", "add", "clippy"]),
        hint: "rustup component add clippy",
        is_required: true,
    },
    Tool {
        name: "cargo-nextest",
        probe: &["cargo", "nextest", "--version"],
        install: Some(&["cargo", "install", "cargo-nextest", "--locked"]),
        hint: "cargo install cargo-nextest --locked; without it the tests run by `cargo test`",
        is_required: false,
    },
];

/// Brings everything, what is only convenient too.
pub(crate) fn complete() -> anyhow::Result<()> {
    set_up(TOOLS.iter())
}

/// Brings what the checks cannot do without. Installing cargo-nextest compiles for minutes, so that is left to
/// `setup`: `cargo test` runs the same tests.
pub(crate) fn required() -> anyhow::Result<()> {
    set_up(TOOLS.iter().filter(|tool| tool.is_required))
}

/// Whether the tests can run by nextest.
pub(crate) fn has_nextest() -> bool {
    sh::succeeds(&["cargo", "nextest", "--version"])
}

fn set_up<'a>(tools: impl Iterator<Item = &'a Tool>) -> anyhow::Result<()> {
    let mut missing = Vec::new();
    for tool in tools {
        let is_there = sh::succeeds(tool.probe) || tool.install.is_some_and(|install| bring(tool, install));
        eprintln!("{} {}", if is_there { "found  " } else { "MISSING" }, tool.name);
        if !is_there {
            eprintln!("        {}", tool.hint);
            missing.extend(tool.is_required.then_some(tool.name));
        }
    }
    ensure!(missing.is_empty(), "missing: {}", missing.join(", "));
    Ok(())
}

fn bring(tool: &Tool, install: &[&str]) -> bool {
    sh::run(install).is_ok() && sh::succeeds(tool.probe)
}

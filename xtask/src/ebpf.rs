//! The kernel program's object, and the tools that it takes.
//!
//! The program is built by Debian's pair of rustc and cargo, for which Debian has the source of `core` too, and linked
//! by bpf-linker with the LLVM of that rustc. The pinned toolchain builds everything else and never needs these.

use std::{
    env::consts::ARCH,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, ensure};

use crate::{apt, setup, sh};

const RUSTC: &str = "/usr/bin/rustc";
const CARGO: &str = "/usr/bin/cargo";
/// Where Debian puts the source of `core`.
const CORE: &str = "/usr/lib/rustlib/src/rust/library/core/Cargo.toml";
const PACKAGES: &[&str] = &["rustc-web", "cargo-web", "rust-web-src"];
/// Below this, LLVM knows no unaligned access for BPF, and every field of a header would be put together bytewise.
const LLVM_MIN: u32 = 22;
/// What a data node loads.
const OBJECT: &str = "xdpfs-ebpf";
/// What it is measured against.
const REFERENCES: &str = "xdpfs-ebpf-references";
const TARGET: &str = "bpfel-unknown-none";
const FLAGS: &[&str] =
    &["-Clink-arg=--btf", "-Ctarget-cpu=v3", "-Ctarget-feature=+allows-misaligned-mem-access"];

/// The tests that need it, by package.
const TESTS: &[(&str, &[&str])] = &[
    ("xdpfs-testrun", &["--test", "kernel"]),
    ("xdpfs-data-node", &["--lib", "--test", "xdp"]),
    ("xdpfs-testbed", &["--test", "edge"]),
];

/// There where the kernel has BPF.
const BPF_SETTING: &str = "/proc/sys/kernel/unprivileged_bpf_disabled";
const HINT: &str = "on Debian, as root: cargo xtask setup";

/// Builds the object, with BTF and without debug information.
pub(crate) fn build() -> anyhow::Result<()> {
    ensure!(has_compiler(), "the compiler for the kernel program is missing; {HINT}");
    ensure!(has_linker(), "bpf-linker is missing; {HINT}");
    let dir = directory();
    let dir = dir.to_str().context("the path of the target directory is not text")?;
    let words = [
        &[CARGO, "build", "--locked", "--package", "xdpfs-ebpf", "--profile", "kernel", "-Zbuild-std=core"],
        &["--target", TARGET, "--target-dir", dir][..],
    ];
    let flags = FLAGS.join("\x1f");
    let env = [("RUSTC", RUSTC), ("RUSTC_BOOTSTRAP", "1"), ("CARGO_ENCODED_RUSTFLAGS", &flags)];
    sh::run_with(&words.concat(), &env)?;
    for object in [OBJECT, REFERENCES] {
        let path = directory().join(format!("{object}.o"));
        strip(&format!("{dir}/{TARGET}/kernel/{object}"), &path)?;
        eprintln!("built {}", path.display());
    }
    Ok(())
}

/// Builds the program and runs it packet by packet, then before real nodes, then before whole clusters. Whatever that needs and is missing is a
/// failure.
pub(crate) fn test() -> anyhow::Result<()> {
    can_load()?;
    setup::for_kernel_tests()?;
    build()?;
    sh::run(&["cargo", "build", "--locked", "--workspace", "--bins"])?;
    for (package, which) in TESTS {
        let words = ["cargo", "test", "--locked", "-p", package, "--features", "kernel"];
        let how = ["--", "--nocapture", "--test-threads=1"];
        // Tests that can't run here must not pass for tests that did.
        sh::run_with(&[&words[..], which, &how].concat(), &[("CI", "true")])?;
    }
    Ok(())
}

/// Builds the programs and the tool that times them; returns how it is called.
pub(crate) fn stopwatch() -> anyhow::Result<impl Fn(&str, u32) -> anyhow::Result<f64>> {
    let measure = instrument("xdpfs-cost")?;
    Ok(move |case: &str, repeat: u32| measure(&[case, &repeat.to_string()]))
}

/// Builds the programs and the tool that floods them; returns how it is called.
pub(crate) fn flood() -> anyhow::Result<impl Fn(&str, &str, u32) -> anyhow::Result<f64>> {
    let measure = instrument("xdpfs-flood")?;
    Ok(move |way: &str, case: &str, frames: u32| measure(&[way, case, &frames.to_string()]))
}

/// A tool that prints one number for its arguments. What it measures happens in the kernel, so it is not built for
/// speed.
fn instrument(name: &'static str) -> anyhow::Result<impl Fn(&[&str]) -> anyhow::Result<f64>> {
    can_load()?;
    setup::for_kernel_program()?;
    build()?;
    sh::run(&["cargo", "build", "--locked", "-p", "xdpfs-testrun", "--bin", name])?;
    let tool = sh::target_dir("debug").join(name);
    let env = [("XDPFS_EBPF_OBJECT", object(OBJECT)?), ("XDPFS_EBPF_REFERENCES", object(REFERENCES)?)];
    Ok(move |args: &[&str]| {
        let output = Command::new(&tool).args(args).envs(env.clone()).output()?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "`{name} {}` failed: {errors}", args.join(" "));
        Ok(String::from_utf8(output.stdout)?.trim().parse()?)
    })
}

/// Whether a program can be loaded into the kernel at all.
pub(crate) fn can_load() -> anyhow::Result<()> {
    ensure!(sh::is_root(), "only root can load the kernel program");
    ensure!(Path::new(BPF_SETTING).exists(), "this kernel has no BPF");
    Ok(())
}

/// The object, if it has been built.
pub(crate) fn built_object() -> Option<PathBuf> {
    Some(directory().join(format!("{OBJECT}.o"))).filter(|path| path.is_file())
}

fn object(name: &str) -> anyhow::Result<String> {
    let path = directory().join(format!("{name}.o")).into_os_string();
    path.into_string().ok().context("the path of the target directory is not text")
}

fn directory() -> PathBuf {
    sh::target_dir("bpf")
}

/// The debug information has become BTF and would only make the data node larger.
fn strip(from: &str, to: &Path) -> anyhow::Result<()> {
    let sysroot = sh::output(&["rustc", "--print", "sysroot"])?;
    let objcopy = format!("{}/lib/rustlib/{ARCH}-unknown-linux-gnu/bin/rust-objcopy", sysroot.trim());
    // Not in place: whoever loads the object meanwhile finds the old one or the new one.
    let half = to.with_extension("half");
    let half_path = half.to_str().context("the path of the target directory is not text")?;
    sh::run(&[&objcopy, "--strip-debug", from, half_path])?;
    fs::rename(&half, to).with_context(|| format!("cannot write {}", to.display()))
}

/// Whether Debian's pair is there, new enough, and with the source of `core`.
pub(crate) fn has_compiler() -> bool {
    sh::succeeds(&[CARGO, "--version"])
        && Path::new(CORE).exists()
        && llvm_major().is_ok_and(|major| major >= LLVM_MIN)
}

pub(crate) fn has_linker() -> bool {
    sh::succeeds(&["bpf-linker", "--version"])
}

pub(crate) fn bring_compiler() -> anyhow::Result<()> {
    apt::install(PACKAGES)
}

/// Compiles bpf-linker against the LLVM library that rustc itself uses, so that no development package is needed.
pub(crate) fn bring_linker() -> anyhow::Result<()> {
    let major = llvm_major().context("bpf-linker needs the LLVM of the compiler for BPF")?;
    let link = format!("-Clink-arg={}", llvm_library(major)?.display());
    let features = format!("llvm-{major},no-llvm-linking");
    // Forced, because one that no longer starts for want of its LLVM counts as installed.
    let words = [
        &["cargo", "install", "bpf-linker", "--version", "0.13.0", "--locked", "--force"],
        &["--no-default-features", "--features", &features][..],
    ];
    let env = [
        ("CARGO_ENCODED_RUSTFLAGS", link.as_str()),
        // It works for a second at a time, and LLVM for most of that.
        ("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0"),
        ("CARGO_PROFILE_RELEASE_DEBUG", "false"),
        ("CARGO_PROFILE_RELEASE_STRIP", "true"),
    ];
    sh::run_with(&words.concat(), &env)
}

fn llvm_major() -> anyhow::Result<u32> {
    let about = sh::output(&[RUSTC, "-vV"])?;
    let version = about.lines().find_map(|line| line.strip_prefix("LLVM version: "));
    let major = version.and_then(|version| version.split('.').next());
    major.and_then(|major| major.parse().ok()).with_context(|| format!("{RUSTC} tells no LLVM version"))
}

fn llvm_library(major: u32) -> anyhow::Result<PathBuf> {
    let dir = format!("/usr/lib/{ARCH}-linux-gnu");
    let prefix = format!("libLLVM.so.{major}.");
    let entries = fs::read_dir(&dir).with_context(|| format!("cannot read {dir}"))?;
    let mut found = entries.filter_map(Result::ok).map(|entry| entry.path());
    let fits = |path: &PathBuf| {
        path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(&prefix))
    };
    found.find(fits).with_context(|| format!("there is no {prefix}* in {dir}"))
}

//! The tools that building and testing need. Running it again changes nothing.

use std::{env, fs::File, path::Path};

use anyhow::ensure;

use crate::{apt, ebpf, python, sh};

struct Tool {
    name: &'static str,
    is_there: fn() -> bool,
    /// Brings it, if anything can.
    bring: Option<fn() -> anyhow::Result<()>>,
    /// What to do by hand.
    hint: &'static str,
    need: Need,
}

/// What cannot be done without a tool.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Need {
    /// Anything.
    Everything,
    /// The kernel program; everything else can.
    KernelProgram,
    /// Tests in network namespaces.
    Networks,
    /// The test of the status page.
    Browser,
    /// Tests on file systems with faults.
    Disks,
    /// The Python package.
    Python,
    /// Running the programs of `examples/`.
    Examples,
    /// Comparing the kernel program with others' work.
    References,
    /// Comparing the metadata service with others' work.
    MetadataReference,
    /// Comparing the chunk store with what the disk can do.
    DiskReference,
    /// Comparing the chunk protocol with others' work.
    TransportReference,
    /// Comparing whole puts and gets with others' work.
    WebReference,
    /// Nothing; it is only convenient.
    Nothing,
}

const TOOLS: &[Tool] = &[
    Tool {
        name: "rustc",
        is_there: || sh::succeeds(&["rustc", "--version"]),
        bring: None,
        hint: "install Rust by https://rustup.rs; the version is pinned in rust-toolchain.toml",
        need: Need::Everything,
    },
    Tool {
        name: "rustfmt",
        is_there: || sh::succeeds(&["cargo", "fmt", "--version"]),
        bring: Some(|| sh::run(&["rustup", "component", "add", "rustfmt"])),
        hint: "rustup component add rustfmt",
        need: Need::Everything,
    },
    Tool {
        name: "clippy",
        is_there: || sh::succeeds(&["cargo", "clippy", "--version"]),
        bring: Some(|| sh::run(&["rustup", "component", "add", "clippy"])),
        hint: "rustup component add clippy",
        need: Need::Everything,
    },
    Tool {
        name: "cargo-nextest",
        is_there: || sh::succeeds(&["cargo", "nextest", "--version"]),
        bring: Some(|| sh::run(&["cargo", "install", "cargo-nextest", "--locked"])),
        hint: "cargo install cargo-nextest --locked; without it the tests run by `cargo test`",
        need: Need::Nothing,
    },
    Tool {
        name: "cargo-deny",
        is_there: || sh::succeeds(&["cargo", "deny", "--version"]),
        bring: Some(|| {
            // Unoptimised it builds in a minute, and is fast enough.
            let words = ["cargo", "install", "cargo-deny", "--version", "0.20.2", "--locked"];
            sh::run(&[&words[..], &["--debug", "--no-default-features"]].concat())
        }),
        hint: "cargo install cargo-deny --locked",
        need: Need::Everything,
    },
    Tool {
        name: "rustc for BPF",
        is_there: ebpf::has_compiler,
        bring: Some(ebpf::bring_compiler),
        hint: "on Debian, as root: apt-get update && apt-get install rustc-web cargo-web rust-web-src",
        need: Need::KernelProgram,
    },
    Tool {
        name: "bpf-linker",
        is_there: ebpf::has_linker,
        bring: Some(ebpf::bring_linker),
        hint: "cargo install bpf-linker, for the LLVM that `/usr/bin/rustc -vV` tells",
        need: Need::KernelProgram,
    },
    Tool {
        name: "iproute2",
        is_there: || sh::succeeds(&["ip", "-V"]),
        bring: Some(|| apt::install(&["iproute2"])),
        hint: "on Debian, as root: apt-get update && apt-get install iproute2",
        need: Need::Networks,
    },
    Tool {
        name: "Chromium",
        is_there: || env::var_os("XDPFS_CHROMIUM").is_some() || BROWSERS.iter().any(|name| has_program(name)),
        // Without a font there would be nothing to see on its pictures.
        bring: Some(|| apt::install(&["chromium-headless-shell", "fonts-dejavu-core"])),
        hint: "on Debian, as root: apt-get install --no-install-recommends chromium-headless-shell; or set XDPFS_CHROMIUM",
        need: Need::Browser,
    },
    Tool {
        name: "FUSE",
        is_there: || sh::is_root() && File::options().read(true).write(true).open("/dev/fuse").is_ok(),
        bring: Some(|| sh::run(&["modprobe", "fuse"])),
        hint: "as root, on a kernel that has FUSE: modprobe fuse; in a container: --device /dev/fuse --cap-add SYS_ADMIN",
        need: Need::Disks,
    },
    Tool {
        name: "Python",
        is_there: python::has_interpreter,
        bring: Some(|| apt::install(&["python3", "python3-venv"])),
        hint: "install Python 3.11 or later with venv; on Debian, as root: apt-get install python3 python3-venv",
        need: Need::Python,
    },
    Tool {
        name: "Python with venv",
        is_there: || sh::succeeds(&["python3", "-c", "import ensurepip, venv"]),
        bring: Some(|| apt::install(&["python3", "python3-venv"])),
        hint: "on Debian, as root: apt-get install python3 python3-venv",
        need: Need::Examples,
    },
    Tool {
        name: "Go with gRPC",
        is_there: || {
            GO_PROGRAMS.iter().all(|name| has_program(name))
                && GO_LIBRARIES.iter().all(|path| Path::new(path).exists())
        },
        bring: Some(|| apt::install(GO_PACKAGES)),
        hint: "on Debian, as root: apt-get install what examples/go/README.md names",
        need: Need::Examples,
    },
    Tool {
        name: "Node with npm",
        is_there: || has_program("node") && has_program("npm"),
        bring: Some(|| apt::install(&["nodejs", "npm"])),
        hint: "on Debian, as root: apt-get install nodejs npm",
        need: Need::Examples,
    },
    Tool {
        name: "iptables, nft and ethtool",
        is_there: || REFERENCES.iter().all(|(program, _)| has_program(program)),
        bring: Some(|| bring_packages(REFERENCES)),
        hint: "on Debian, as root: apt-get install iptables nftables ethtool iproute2",
        need: Need::References,
    },
    Tool {
        name: "etcd",
        is_there: || has_program("etcd"),
        bring: Some(|| apt::install(&["etcd-server"])),
        hint: "on Debian, as root: apt-get install etcd-server",
        need: Need::MetadataReference,
    },
    Tool {
        name: "fio",
        is_there: || has_program("fio"),
        bring: Some(|| apt::install(&["fio"])),
        hint: "on Debian, as root: apt-get install fio",
        need: Need::DiskReference,
    },
    Tool {
        name: "iperf3, memcached, nft and ethtool",
        is_there: || TRANSPORT_REFERENCES.iter().all(|(program, _)| has_program(program)),
        bring: Some(|| bring_packages(TRANSPORT_REFERENCES)),
        hint: "on Debian, as root: apt-get install iperf3 memcached nftables ethtool",
        need: Need::TransportReference,
    },
    Tool {
        name: "nginx",
        is_there: || has_program("nginx"),
        bring: Some(|| apt::install(&["nginx-light"])),
        hint: "on Debian, as root: apt-get install nginx-light",
        need: Need::WebReference,
    },
];

/// Programs that the kernel program is measured against or set up with, each with Debian's package.
const REFERENCES: &[(&str, &str)] =
    &[("iptables", "iptables"), ("nft", "nftables"), ("ethtool", "ethtool"), ("ip", "iproute2")];

/// What the example in Go takes, as Debian calls it.
const GO_PACKAGES: &[&str] = &[
    "golang-go",
    "golang-google-grpc-dev",
    "golang-google-genproto-dev",
    "golang-google-protobuf-dev",
    // With the other one that there is, gRPC can't read what protoc-gen-go generates.
    "golang-github-golang-protobuf-1-5-dev",
    "protobuf-compiler",
    "protoc-gen-go",
    "protoc-gen-go-grpc",
];
const GO_PROGRAMS: &[&str] = &["go", "protoc", "protoc-gen-go", "protoc-gen-go-grpc"];
const GO_LIBRARIES: &[&str] = &[
    "/usr/share/gocode/src/google.golang.org/grpc",
    "/usr/share/gocode/src/google.golang.org/genproto",
    "/usr/share/gocode/src/google.golang.org/protobuf",
    // Only the later one has it.
    "/usr/share/gocode/src/github.com/golang/protobuf/proto/registry.go",
];

/// Programs that the chunk protocol is measured against, or that lose packets for it, each with Debian's package.
const TRANSPORT_REFERENCES: &[(&str, &str)] =
    &[("iperf3", "iperf3"), ("memcached", "memcached"), ("nft", "nftables"), ("ethtool", "ethtool")];

/// What Chromium may be called; the same as in testbed/tests/console.
const BROWSERS: &[&str] = &["chromium-headless-shell", "chromium", "chromium-browser", "google-chrome"];

/// Brings everything, what is only convenient too.
pub(crate) fn complete() -> anyhow::Result<()> {
    set_up(TOOLS.iter(), &[Need::Everything])
}

/// Brings what the checks cannot do without. Installing cargo-nextest compiles for minutes, so that is left to
/// `setup`: `cargo test` runs the same tests.
pub(crate) fn required() -> anyhow::Result<()> {
    bring_for(&[Need::Everything])
}

/// Brings what the kernel program cannot do without either.
pub(crate) fn for_kernel_program() -> anyhow::Result<()> {
    bring_for(&[Need::Everything, Need::KernelProgram])
}

/// Brings what the tests of the kernel program cannot do without either.
pub(crate) fn for_kernel_tests() -> anyhow::Result<()> {
    bring_for(&[Need::Everything, Need::KernelProgram, Need::Networks])
}

/// Brings what the test of the status page cannot do without.
pub(crate) fn for_browser_test() -> anyhow::Result<()> {
    bring_for(&[Need::Browser])
}

/// Brings what the tests of power cuts and failing disks cannot do without.
pub(crate) fn for_fuse_tests() -> anyhow::Result<()> {
    bring_for(&[Need::Disks])
}

/// Brings what the Python package cannot do without.
pub(crate) fn for_python() -> anyhow::Result<()> {
    bring_for(&[Need::Python])
}

/// Brings what the programs of `examples/` can't do without.
pub(crate) fn for_examples() -> anyhow::Result<()> {
    bring_for(&[Need::Examples])
}

/// Brings what the kernel program is compared with, where that can be; what is missing is left out there.
pub(crate) fn for_references() {
    try_bring(Need::References);
}

/// Brings what the metadata service is compared with, where that can be.
pub(crate) fn for_metadata_reference() {
    try_bring(Need::MetadataReference);
}

/// Brings what the chunk store is compared with, where that can be.
pub(crate) fn for_disk_reference() {
    try_bring(Need::DiskReference);
}

/// Brings what the chunk protocol is compared with, where that can be.
pub(crate) fn for_transport_references() {
    try_bring(Need::TransportReference);
}

/// Brings what whole puts and gets are compared with, where that can be.
pub(crate) fn for_web_reference() {
    try_bring(Need::WebReference);
}

/// Whether there is a program of this name. Not all can be asked for their version, so they are looked for.
pub(crate) fn has_program(name: &str) -> bool {
    let directories = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&directories).any(|directory| directory.join(name).is_file())
}

/// Whether the tests can run by nextest.
pub(crate) fn has_nextest() -> bool {
    sh::succeeds(&["cargo", "nextest", "--version"])
}

fn bring_packages(programs: &[(&str, &str)]) -> anyhow::Result<()> {
    let packages: Vec<_> = programs.iter().map(|(_, package)| *package).collect();
    apt::install(&packages)
}

fn bring_for(needs: &[Need]) -> anyhow::Result<()> {
    set_up(TOOLS.iter().filter(|tool| needs.contains(&tool.need)), needs)
}

fn try_bring(need: Need) {
    if let Err(error) = set_up(TOOLS.iter().filter(|tool| tool.need == need), &[]) {
        eprintln!("{error:#}");
    }
}

/// Fails if a tool is missing that one of `needs` cannot do without.
fn set_up<'a>(tools: impl Iterator<Item = &'a Tool>, needs: &[Need]) -> anyhow::Result<()> {
    let mut missing = Vec::new();
    for tool in tools {
        let is_there = (tool.is_there)() || tool.bring.is_some_and(|bring| is_brought(tool, bring));
        eprintln!("{} {}", if is_there { "found  " } else { "MISSING" }, tool.name);
        if !is_there {
            eprintln!("        {}", tool.hint);
            missing.extend(needs.contains(&tool.need).then_some(tool.name));
        }
    }
    ensure!(missing.is_empty(), "missing: {}", missing.join(", "));
    Ok(())
}

fn is_brought(tool: &Tool, bring: fn() -> anyhow::Result<()>) -> bool {
    match bring() {
        Ok(()) => (tool.is_there)(),
        Err(error) => {
            eprintln!("{}: {error:#}", tool.name);
            false
        }
    }
}

//! Everything that is done to this repository besides compiling it: `cargo xtask --help`.
//!
//! Invariant: this is the only scripting. What CI does is a task here, so that anyone can do it.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a tool talks to the one who runs it")]

mod apt;
mod bench;
mod demo;
mod deploy;
mod docs;
mod ebpf;
mod examples;
mod formats;
mod fuzz;
mod image;
mod interfaces;
mod python;
mod setup;
mod sh;
mod sim;
mod test;
mod tidy;
mod upgrade;

use std::path::PathBuf;

use clap::Parser;

/// Set-up, checks, demonstration and benchmarks of xdpfs.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 100)]
enum Task {
    /// Check the tools that are needed, and install what is missing where that is possible.
    Setup,
    /// Everything that must hold before a commit: set-up, format, lints, build, tests, documentation, tidy.
    Test,
    /// The same as `test`; what CI calls.
    Ci,
    /// Run the kernel program packet by packet beside a model of it; needs root and BPF, and fails without them.
    TestXdp,
    /// Check the rules that no compiler knows: pure cores, links, generated pages, forms.
    Tidy,
    /// Write docs/CONFIGURATION.md anew from the binaries' own help.
    Docs,
    /// Build the kernel program to target/bpf/xdpfs-ebpf.o; says how to get the tools if they are missing.
    BuildEbpf,
    /// Build the Python package as a wheel in target/wheels; brings what that takes into an environment under target/.
    Python {
        /// Install it there, and run its tests on clusters of processes.
        #[arg(long)]
        test: bool,
    },
    /// Put a tree of files into a cluster of separate processes and get it back, with a leader and a node killed.
    Demo {
        /// The tree; by default the Rust toolchain's own documentation.
        dir: Option<PathBuf>,
    },
    /// Measure against references that are measured in the same minute.
    Bench {
        /// Only this group.
        group: Option<String>,
        /// Where to write the rows as JSON.
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
        /// How often each thing is measured; the median counts.
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
        runs: u32,
    },
    /// Keep what the present programs write to disk, as testbed/tests/formats/NAME.tar.gz, and what they say to each other,
    /// as proto/tests/releases/NAME. Do it before a commit that changes a format, and with each release: the tests go on
    /// with every archive, and hold the interfaces against all that are kept.
    KeepFormats {
        /// Such as the date.
        name: String,
    },
    /// Upgrade a cluster of the previous release's programs, built from history, to the present ones, one process at a
    /// time, while clients of both work on it: no operation may fail.
    UpgradeTest {
        /// The commit whose programs come first; by default the one in testbed/tests/previous-release.
        #[arg(long, value_name = "COMMIT")]
        from: Option<String>,
        /// Decides what clients do; by default a new one, which is printed.
        #[arg(long)]
        seed: Option<u64>,
    },
    /// Build the container image of deploy/Dockerfile from static binaries, with the kernel program if that was built.
    Image {
        /// What the image is called.
        #[arg(long, default_value = image::TAG)]
        tag: String,
    },
    /// Run the cluster of deploy/compose.yaml on a container engine of its own, without and with XDP, and do to it what
    /// operators and accidents do; needs root, and fails without it.
    TestDeploy,
    /// Kill, freeze and cut off members of a running compose cluster, one of a kind at a time, while objects are put and
    /// got without a break, all of which must succeed.
    Chaos {
        /// For how long.
        #[arg(long, default_value_t = 60)]
        seconds: u64,
        /// Decides what is done to whom and when; by default a new one, which is printed.
        #[arg(long)]
        seed: Option<u64>,
        /// The compose project.
        #[arg(long, default_value = deploy::PROJECT)]
        project: String,
        /// Where clients reach the cluster: the XDPFS_ADDRESS that it was started with.
        #[arg(long, env = "XDPFS_ADDRESS", default_value = deploy::ADDRESS)]
        address: String,
        /// The bucket that objects are put into.
        #[arg(long, env = "XDPFS_BUCKET", default_value = deploy::BUCKET)]
        bucket: String,
    },
    /// Hold the gRPC interfaces against buf's lint and against what was released; brings buf by npm.
    LintInterfaces,
    /// Make the programs of `examples/` ready to be run by their tests, in the target directory.
    Examples,
    /// Let cargo-fuzz look for frames that the parser or the kernel program's decisions stumble over; needs a nightly
    /// toolchain and cargo-fuzz.
    Fuzz {
        /// For how long.
        #[arg(long, default_value_t = 60)]
        seconds: u32,
    },
    /// Run the metadata servers in a simulation, by seed: crashes, disks that lose what was not synced, a bad network, pauses
    /// and wrong clocks, with what must hold looked at after every step; and whole clusters, whose data nodes are lost, wiped,
    /// frozen and cut off. Prints what happened, and the seed of what failed.
    Sim {
        /// How many seeds.
        #[arg(long, default_value_t = 1000)]
        seeds: u64,
        /// The first one.
        #[arg(long, default_value_t = 0)]
        from: u64,
        /// How many servers vote at first; by default the seed says so.
        #[arg(long, value_parser = ["3", "5"])]
        replicas: Option<String>,
        /// Then see whether mistakes that are planted in the code are found, each from nine seeds on.
        #[arg(long)]
        mutants: bool,
        /// How many seeds of whole clusters, from the same one on.
        #[arg(long, default_value_t = 100)]
        clusters: u64,
    },
    /// The kill loop of the tests, what becomes of data nodes, and, as root, power cuts and the flood of hostile traffic, for
    /// longer; and storms on the chunk protocol.
    Soak {
        /// How many kills; a third as many members are frozen besides.
        #[arg(long, default_value_t = 500)]
        kills: u32,
        /// How often a data node is lost, wiped, frozen, freed, or rots.
        #[arg(long, default_value_t = 200)]
        events: u32,
        /// How many power cuts of metadata servers; of a store alone, ten times as many.
        #[arg(long, default_value_t = 200)]
        cuts: u32,
        /// For how many seconds there is hostile traffic.
        #[arg(long, value_name = "SECONDS", default_value_t = 120)]
        flood: u32,
        /// How many storms the chunk protocol goes through on virtual time, beyond those of the tests.
        #[arg(long, default_value_t = 98_000)]
        storms: u64,
        /// Decides who is killed and when; by default a new one, which is printed.
        #[arg(long)]
        seed: Option<u64>,
    },
}

fn main() -> anyhow::Result<()> {
    match Task::parse() {
        Task::Setup => setup::complete(),
        Task::Test | Task::Ci => test::run(),
        Task::TestXdp => ebpf::test(),
        Task::Tidy => tidy::run(),
        Task::Docs => docs::write(),
        Task::BuildEbpf => ebpf::build(),
        Task::Python { test } => python::run(test),
        Task::Demo { dir } => demo::run(dir),
        Task::Bench { group, json, runs } => bench::run(group.as_deref(), json.as_deref(), runs),
        Task::KeepFormats { name } => formats::keep(&name),
        Task::UpgradeTest { from, seed } => upgrade::test(from.as_deref(), seed),
        Task::Image { tag } => image::build(&tag),
        Task::TestDeploy => deploy::test(),
        Task::Chaos { seconds, seed, project, address, bucket } => {
            deploy::chaos(&deploy::ChaosOptions { seconds, seed, project, address, bucket })
        }
        Task::LintInterfaces => interfaces::check(),
        Task::Examples => examples::prepare(),
        Task::Fuzz { seconds } => fuzz::run(seconds),
        Task::Sim { seeds, from, replicas, mutants, clusters } => {
            let replicas = replicas.and_then(|text| text.parse().ok());
            sim::run(&sim::Options { seeds, from, replicas, mutants, clusters })
        }
        Task::Soak { kills, events, cuts, flood, storms, seed } => {
            test::soak(&test::SoakOptions { kills, events, cuts, flood_s: flood, storms, seed })
        }
    }
}

//! The checks before a commit, in the order in which they are cheapest to fail.

use std::{
    env, fs,
    path::PathBuf,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::ensure;

use crate::{deploy, ebpf, examples, interfaces, python, setup, sh, sim, tidy, upgrade};

/// One check.
type Step = (&'static str, fn(&Scope) -> anyhow::Result<()>);

/// What can be checked here.
struct Scope {
    /// Why the tests of the kernel program can't run, if that is so.
    obstacle: Option<String>,
    /// Why there is no browser to see the status page in, if that is so.
    no_browser: Option<String>,
    /// Why there can be no file systems with faults, if that is so.
    no_fuse: Option<String>,
    /// What the Python package is built and tested in, or why that can't be had.
    python: Result<python::Environment, String>,
    /// Why the programs of `examples/` can't run, if that is so.
    no_examples: Option<String>,
    /// Why there is no container engine to deploy on, if that is so.
    no_engine: Option<String>,
    /// Why there are no programs of the previous release, if that is so.
    no_previous: Option<String>,
}

/// What builds the tests that only run where there is BPF.
const KERNEL_FEATURES: &str = "xdpfs-testrun/kernel,xdpfs-data-node/kernel,xdpfs-testbed/kernel";
/// What builds the test that only runs where there is a browser, and where that is.
const BROWSER_FEATURE: &str = "xdpfs-testbed/browser";
const BROWSER_TESTS: &[&str] = &["testbed/tests/console"];
/// What builds the tests on file systems with faults, and where those are.
const FUSE_FEATURES: &str = "xdpfs-meta-server/fuse,xdpfs-testbed/fuse";
const FUSE_TESTS: &[&str] = &["meta-server/tests/power", "testbed/tests/power"];
/// What builds the tests that run the programs of `examples/`, and where those are.
const EXAMPLES_FEATURE: &str = "xdpfs-gateway/examples";
const EXAMPLES_TESTS: &[&str] = &["gateway/tests/examples"];
/// What builds the tests that decide which thread runs next, and those tests.
const INTERLEAVING_FEATURE: &str = "shuttle";
const INTERLEAVING_TESTS: &str = "tests::interleavings";
/// Where the tests of the kernel program are.
const KERNEL_TESTS: &[&str] =
    &["testrun/tests/kernel", "data-node/src/xdp/edge_thread", "data-node/tests/xdp", "testbed/tests/edge"];

const STEPS: &[Step] = &[
    ("set-up", |_| setup::required()),
    ("format", |_| sh::run(&["cargo", "fmt", "--all", "--check"])),
    ("licences and bans", |_| {
        sh::run(&["cargo", "deny", "--locked", "check", "licenses", "bans", "sources"])
    }),
    ("pure cores alone", |_| cores()),
    ("interfaces", |scope| if scope.no_examples.is_none() { interfaces::check() } else { Ok(()) }),
    ("kernel program", |scope| if scope.has_kernel() { ebpf::build() } else { Ok(()) }),
    ("lints", |_| {
        // Lints see the tests that only run where there is BPF, FUSE, a browser or another language, everywhere.
        let words = ["cargo", "clippy", "--locked", "--workspace", "--all-targets"];
        let features = [KERNEL_FEATURES, BROWSER_FEATURE, FUSE_FEATURES, EXAMPLES_FEATURE]
            .map(|features| ["--features", features]);
        let features = features.concat();
        sh::run(&[&words[..], &features, &["--", "-D", "warnings"]].concat())
    }),
    ("data node without XDP", |_| {
        let words =
            ["cargo", "clippy", "--locked", "-p", "xdpfs-data-node", "--bins", "--no-default-features"];
        sh::run(&[&words[..], &["--", "-D", "warnings"]].concat())
    }),
    ("binaries", |scope| scope.run(&["cargo", "build", "--locked", "--workspace", "--bins"])),
    ("tests", tests),
    ("Python package", |scope| scope.python.as_ref().map_or(Ok(()), python::test)),
    ("interleavings", |_| interleavings()),
    ("model", |_| model()),
    ("simulation", |scope| sim::for_ci(&scope.features())),
    ("rolling upgrade", |scope| if scope.no_previous.is_none() { upgrade::test(None, None) } else { Ok(()) }),
    ("examples in documentation", |scope| scope.run(&["cargo", "test", "--locked", "--workspace", "--doc"])),
    ("documentation", |_| {
        let words = ["cargo", "doc", "--locked", "--workspace", "--no-deps"];
        sh::run_with(&words, &[("RUSTDOCFLAGS", "-D warnings")])
    }),
    ("tidy", |_| tidy::run()),
    ("deployment", |scope| if scope.no_engine.is_none() { deploy::test() } else { Ok(()) }),
];

/// All of them; the first failure ends it. Where `CI` is set, nothing may be missing but history; elsewhere the tests of
/// the kernel program are skipped where they can't run, which is said.
pub(crate) fn run() -> anyhow::Result<()> {
    let scope = Scope::look()?;
    let mut times = Vec::new();
    for (name, step) in STEPS {
        let began = Instant::now();
        step(&scope)?;
        times.push((name, began.elapsed()));
    }
    for (name, took) in times {
        eprintln!("{name:<28}{:>7.1} s", took.as_secs_f64());
    }
    let Scope { obstacle, no_browser, no_fuse, python, no_examples, no_engine, no_previous } = &scope;
    let missing = [obstacle, no_browser, no_fuse, no_examples, no_engine, no_previous];
    let is_all = missing.into_iter().all(Option::is_none) && python.is_ok();
    eprintln!("{}", if is_all { "all is well" } else { "all that ran is well" });
    if let Some(obstacle) = obstacle {
        let count = tests_in(KERNEL_TESTS)?;
        eprintln!("SKIPPED {count} tests of the kernel program and of networks with it: {obstacle}");
    }
    if let Some(obstacle) = no_browser {
        eprintln!("SKIPPED {} test of the status page in a browser: {obstacle}", tests_in(BROWSER_TESTS)?);
    }
    if let Some(obstacle) = no_fuse {
        eprintln!("SKIPPED {} tests of power cuts and failing disks: {obstacle}", tests_in(FUSE_TESTS)?);
    }
    if let Err(obstacle) = python {
        let count = python::count_tests()?;
        eprintln!("SKIPPED {count} tests of the Python package, and fsspec's own: {obstacle}");
    }
    if let Some(obstacle) = no_examples {
        let count = tests_in(EXAMPLES_TESTS)?;
        eprintln!(
            "SKIPPED {count} tests of the programs of examples/, and buf's of the interfaces: {obstacle}"
        );
    }
    if let Some(obstacle) = no_engine {
        eprintln!("SKIPPED 1 test of the deployment (`cargo xtask test-deploy`): {obstacle}");
    }
    if let Some(obstacle) = no_previous {
        eprintln!("SKIPPED 1 test of a rolling upgrade (`cargo xtask upgrade-test`): {obstacle}");
    }
    Ok(())
}

impl Scope {
    fn look() -> anyhow::Result<Self> {
        let prepared = ebpf::can_load().and_then(|()| setup::for_kernel_tests());
        let obstacle = prepared.err().map(|error| format!("{error:#}"));
        if let Some(obstacle) = &obstacle {
            ensure!(
                env::var_os("CI").is_none(),
                "the tests of the kernel program can't run, and CI skips nothing: {obstacle}"
            );
            eprintln!("SKIPPED: the tests of the kernel program: {obstacle}");
        }
        let no_browser = setup::for_browser_test().err().map(|error| format!("{error:#}"));
        if let Some(obstacle) = &no_browser {
            ensure!(
                env::var_os("CI").is_none(),
                "the status page can't be tested, and CI skips nothing: {obstacle}"
            );
            eprintln!("SKIPPED: the test of the status page: {obstacle}");
        }
        let no_fuse = setup::for_fuse_tests().err().map(|error| format!("{error:#}"));
        if let Some(obstacle) = &no_fuse {
            ensure!(
                env::var_os("CI").is_none(),
                "power cuts and failing disks can't be tested, and CI skips nothing: {obstacle}"
            );
            eprintln!("SKIPPED: the tests of power cuts and failing disks: {obstacle}");
        }
        let python = python::Environment::bring().map_err(|error| format!("{error:#}"));
        if let Err(obstacle) = &python {
            ensure!(
                env::var_os("CI").is_none(),
                "the Python package can't be tested, and CI skips nothing: {obstacle}"
            );
            eprintln!("SKIPPED: the tests of the Python package: {obstacle}");
        }
        let no_examples = examples::prepare().err().map(|error| format!("{error:#}"));
        if let Some(obstacle) = &no_examples {
            ensure!(
                env::var_os("CI").is_none(),
                "the programs of examples/ can't be run, and CI skips nothing: {obstacle}"
            );
            eprintln!("SKIPPED: the tests of the programs of examples/: {obstacle}");
        }
        let no_engine = deploy::bring_engine().err().map(|error| format!("{error:#}"));
        if let Some(obstacle) = &no_engine {
            ensure!(
                env::var_os("CI").is_none(),
                "the deployment can't be tested, and CI skips nothing: {obstacle}"
            );
            eprintln!("SKIPPED: the test of the deployment: {obstacle}");
        }
        let no_previous = upgrade::known().err().map(|error| format!("{error:#}"));
        if let Some(obstacle) = &no_previous {
            // Nothing that this machine lacks: a copy without history has no earlier programs, wherever it is.
            eprintln!("SKIPPED: the test of a rolling upgrade: {obstacle}");
        }
        Ok(Self { obstacle, no_browser, no_fuse, python, no_examples, no_engine, no_previous })
    }

    const fn has_kernel(&self) -> bool {
        self.obstacle.is_none()
    }

    /// The features that this host has use for.
    fn features(&self) -> Vec<&'static str> {
        let kernel = self.has_kernel().then_some(KERNEL_FEATURES);
        let browser = self.no_browser.is_none().then_some(BROWSER_FEATURE);
        let fuse = self.no_fuse.is_none().then_some(FUSE_FEATURES);
        let examples = self.no_examples.is_none().then_some(EXAMPLES_FEATURE);
        let all = kernel.into_iter().chain(browser).chain(fuse).chain(examples);
        all.flat_map(|features| ["--features", features]).collect()
    }

    /// Runs cargo with these features, always the same so that nothing is built twice.
    fn run(&self, words: &[&str]) -> anyhow::Result<()> {
        sh::run(&[words, &self.features()].concat())
    }
}

/// Builds all binaries as the tests have them, so that nothing is built twice.
pub(crate) fn build_binaries() -> anyhow::Result<()> {
    let words = ["cargo", "build", "--locked", "--workspace", "--bins"];
    // No binary has anything of these, but cargo would build them anew without.
    let of_tests =
        ["--features", BROWSER_FEATURE, "--features", FUSE_FEATURES, "--features", EXAMPLES_FEATURE];
    sh::run(&[&words[..], host_features(), &of_tests].concat())
}

/// The features that this host has use for.
pub(crate) fn host_features() -> &'static [&'static str] {
    let with_kernel = ebpf::can_load().is_ok() && ebpf::built_object().is_some();
    if with_kernel { &["--features", KERNEL_FEATURES] } else { &[] }
}

/// How many tests there are in these directories.
fn tests_in(directories: &[&str]) -> anyhow::Result<usize> {
    let mut count = 0;
    for directory in directories {
        for entry in fs::read_dir(sh::root().join(directory))? {
            let path = entry?.path();
            let text = if path.is_file() { fs::read_to_string(path)? } else { continue };
            count += text.lines().filter(|line| matches!(line.trim(), "#[test]" | "#[tokio::test]")).count();
        }
    }
    Ok(count)
}

/// Tests of the chunk store under orders in which its threads can run. It is another build of that crate alone: its locks then
/// work nowhere else.
fn interleavings() -> anyhow::Result<()> {
    let of_store = ["--locked", "-p", "xdpfs-chunk-store", "--features", INTERLEAVING_FEATURE];
    sh::run(&[&["cargo", "test"], &of_store[..], &["--lib", INTERLEAVING_TESTS]].concat())
}

/// The model of the protocol, all of whose worlds are looked at: a workspace of its own, in which nothing else is built.
fn model() -> anyhow::Result<()> {
    let manifest = ["--manifest-path", "model/Cargo.toml"];
    let of_model = ["--locked", "--manifest-path", "model/Cargo.toml", "--target-dir", "target/model"];
    sh::run(&[&["cargo", "fmt"], &manifest[..], &["--check"]].concat())?;
    let licences = ["check", "licenses", "sources"];
    sh::run(&[&["cargo", "deny", "--locked"], &manifest[..], &licences].concat())?;
    sh::run(&[&["cargo", "clippy"], &of_model[..], &["--all-targets", "--", "-D", "warnings"]].concat())?;
    sh::run(&[&["cargo", "test"], &of_model[..], &["--", "--nocapture"]].concat())
}

/// Seeds of storms that the tests go through.
const STORMS_OF_TESTS: u64 = 2000;

/// What `soak` is asked for.
pub(crate) struct SoakOptions {
    pub(crate) kills: u32,
    /// What becomes of data nodes while everything is to stay readable.
    pub(crate) events: u32,
    /// Of a cluster's power; of a store's, ten times as many.
    pub(crate) cuts: u32,
    /// For how many seconds there is hostile traffic.
    pub(crate) flood_s: u32,
    /// Of the chunk protocol.
    pub(crate) storms: u64,
    /// By default a new one.
    pub(crate) seed: Option<u64>,
}

/// The tests of kills, of lost nodes, of power cuts and of hostile traffic, for longer than `test` has time for.
pub(crate) fn soak(options: &SoakOptions) -> anyhow::Result<()> {
    let clock = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let seed = options.seed.unwrap_or_else(clock).to_string();
    eprintln!("seed {seed}");
    let scope = Scope::look()?;
    if scope.has_kernel() {
        ebpf::build()?;
    }
    scope.run(&["cargo", "build", "--locked", "--workspace", "--bins"])?;
    let test = |words: &[&str], settings: &[(&str, &str)]| {
        let words = [&["cargo", "test", "--locked", "-p"], words, &["--", "--nocapture"]].concat();
        sh::run_with(&words, settings)
    };
    if options.storms > 0 {
        let range = format!("{STORMS_OF_TESTS}..{}", STORMS_OF_TESTS.saturating_add(options.storms));
        test(&["xdpfs-transport", "--test", "sim", "no_storm"], &[("XDPFS_TRANSPORT_SEEDS", &range)])?;
    }
    let kills = options.kills.to_string();
    let settings = [("XDPFS_TEST_KILLS", kills.as_str()), ("XDPFS_TEST_SEED", &seed)];
    test(&["xdpfs-testbed", "--test", "kill_loop"], &settings)?;
    let events = options.events.to_string();
    let settings = [("XDPFS_TEST_EVENTS", events.as_str()), ("XDPFS_TEST_SEED", &seed)];
    test(&["xdpfs-testbed", "--test", "heal"], &settings)?;
    if scope.no_fuse.is_none() && options.cuts > 0 {
        let (cuts, of_store) = (options.cuts.to_string(), (options.cuts * 10).to_string());
        let settings = [("XDPFS_TEST_CUTS", cuts.as_str()), ("XDPFS_TEST_SEED", &seed)];
        test(&["xdpfs-testbed", "--features", "fuse", "--test", "power", "power"], &settings)?;
        let settings = [("XDPFS_TEST_CUTS", of_store.as_str()), ("XDPFS_TEST_SEED", &seed)];
        test(&["xdpfs-meta-server", "--features", "fuse", "--test", "power"], &settings)?;
        test(&["xdpfs-testbed", "--features", "fuse", "--test", "power", "chunk_store"], &settings)?;
    }
    if !scope.has_kernel() || options.flood_s == 0 {
        return Ok(());
    }
    let flood_s = options.flood_s.to_string();
    let words = ["xdpfs-testbed", "--features", "kernel", "--test", "edge", "hostile"];
    test(&words, &[("XDPFS_TEST_FLOOD_S", &flood_s)])
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

fn tests(scope: &Scope) -> anyhow::Result<()> {
    if setup::has_nextest() {
        return scope.run(&["cargo", "nextest", "run", "--locked", "--workspace"]);
    }
    eprintln!("cargo-nextest is not there (`cargo xtask setup` brings it); `cargo test` runs the same tests");
    // One at a time, clusters or kernel programs: several at once would measure each other.
    let words = ["cargo", "test", "--locked", "--workspace", "--all-targets"];
    sh::run(&[&words[..], &scope.features(), &["--", "--test-threads=1"]].concat())
}

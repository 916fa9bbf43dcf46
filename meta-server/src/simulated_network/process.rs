//! A process for each run: the test program once more, told by its environment which scenario to run with which seed.

use std::{
    env, fs,
    panic::set_hook,
    path::PathBuf,
    process::{Command, exit},
    thread,
};

use super::{cluster::Cluster, machine, trace};
use crate::mistake::{Mistake, plant};

const SEED: &str = "XDPFS_SIMULATED_NETWORK_SEED";
const TRACE: &str = "XDPFS_SIMULATED_NETWORK_TRACE";
const MISTAKE: &str = "XDPFS_SIMULATED_NETWORK_MISTAKE";
/// What the trace of a run ends with in which nothing was wrong.
const END: &str = "the run has ended well";
/// Lines of a trace that are told when a run fails.
const LAST_LINES: usize = 60;

/// How a run has ended.
pub(super) struct Ended {
    pub(super) is_well: bool,
    pub(super) trace: String,
    /// What it has said of what was wrong.
    pub(super) words: String,
}

/// The body of the test of this name: runs its scenario with each of the seeds.
pub(super) fn simulate(test: &str, seeds: impl IntoIterator<Item = u64>, scenario: fn(&mut Cluster)) {
    if let Some(seed) = asked_seed() {
        return run_here(seed, scenario);
    }
    for seed in seeds {
        let Ended { is_well, trace, words } = run(test, seed, None);
        let lines: Vec<&str> = trace.lines().collect();
        let last = lines[lines.len().saturating_sub(LAST_LINES)..].join("\n");
        assert!(is_well, "seed {seed}, for which {SEED}={seed} asks alone:\n{last}\n{words}");
    }
}

/// The seed that this process is to run, if it was started for that.
pub(super) fn asked_seed() -> Option<u64> {
    env::var(SEED).ok().map(|seed| seed.parse().expect("a seed is a number"))
}

/// Runs a test's scenario in another process.
pub(super) fn run(test: &str, seed: u64, mistake: Option<Mistake>) -> Ended {
    let directory = tempfile::tempdir().expect("there is room for a trace");
    let file = directory.path().join("trace");
    let mut command = Command::new(env::current_exe().expect("this program is a file"));
    command.arg(format!("simulated_network::scenarios::{test}"));
    command.args(["--exact", "--nocapture", "--test-threads=1"]);
    command.env(SEED, seed.to_string()).env(TRACE, &file);
    command.envs(mistake.map(|mistake| (MISTAKE, format!("{mistake:?}"))));
    let output = command.output().expect("a test program can run itself");
    let trace = fs::read_to_string(&file).unwrap_or_default();
    let has_ended = trace.lines().last().is_some_and(|line| line.ends_with(END));
    let words = [output.stdout, output.stderr].concat();
    Ended {
        is_well: output.status.success() && has_ended,
        trace,
        words: String::from_utf8_lossy(&words).into_owned(),
    }
}

/// A panic anywhere, also in a task that nobody waits for, ends the process.
pub(super) fn run_here(seed: u64, scenario: fn(&mut Cluster)) {
    set_hook(Box::new(|info| {
        eprintln!("{info}");
        trace::flush();
        exit(101);
    }));
    let mistake = env::var(MISTAKE).ok();
    let is_it = |mistake: &&Mistake, name: &str| format!("{mistake:?}") == name;
    let mistake = mistake.map(|name| {
        *Mistake::ALL.iter().find(|mistake| is_it(mistake, &name)).expect("there is such a mistake")
    });
    let file = env::var_os(TRACE).map(PathBuf::from);
    // Whatever draws its keys once per thread has not done so yet on this one.
    let run = thread::spawn(move || {
        machine::begin(seed);
        trace::begin(file.as_deref());
        plant(mistake);
        let mut cluster = Cluster::new(seed);
        scenario(&mut cluster);
        cluster.end();
        trace::note("-", END);
        trace::flush();
    });
    run.join().expect("a panic ends the process");
}

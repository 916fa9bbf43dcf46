//! A process of its own that writes steps to a store, and says of each that it is synced.

use std::{
    env,
    io::{self, BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
};

use xdpfs_meta_server::storage::{LogStore as _, SledStore};

use crate::script::Script;

const DIRECTORY_VARIABLE: &str = "XDPFS_TEST_CUT_STORE";
const SEED_VARIABLE: &str = "XDPFS_TEST_CUT_SEED";
const STEP_VARIABLE: &str = "XDPFS_TEST_CUT_STEP";

/// Whether this process is one.
pub(crate) fn is_wanted() -> bool {
    env::var_os(DIRECTORY_VARIABLE).is_some()
}

/// Writes until the store fails.
pub(crate) fn write() {
    let number = |name| env::var(name).unwrap().parse::<u64>().unwrap();
    let mut script = Script::new(number(SEED_VARIABLE));
    script.skip(number(STEP_VARIABLE));
    let directory = PathBuf::from(env::var_os(DIRECTORY_VARIABLE).unwrap());
    let Ok((mut store, _)) = SledStore::open(&directory) else { return };
    let mut out = io::stdout();
    for step in number(STEP_VARIABLE) + 1.. {
        script.next_step().into_iter().for_each(|change| store.stage(change));
        if store.sync().is_err() {
            // Its threads would try in vain to write the rest.
            std::process::exit(1);
        }
        writeln!(out, "synced {step}").unwrap();
    }
}

/// Such a process, seen from outside.
pub(crate) struct Writer {
    child: Child,
    lines: io::Lines<BufReader<ChildStdout>>,
    synced: u64,
}

impl Writer {
    pub(crate) fn start(directory: &Path, seed: u64, step: u64) -> Self {
        let mut child = Command::new(env::current_exe().unwrap())
            .args([
                "--exact",
                "power_cuts_take_nothing_that_was_synced_and_leave_no_step_half_done",
                "--nocapture",
            ])
            .env(DIRECTORY_VARIABLE, directory)
            .env(SEED_VARIABLE, seed.to_string())
            .env(STEP_VARIABLE, step.to_string())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines, synced: 0 }
    }

    /// Waits until this step is synced.
    pub(crate) fn await_step(&mut self, step: u64) {
        while self.synced < step && self.take_line() {}
    }

    /// Kills it; gives the last step that it has said to be synced.
    pub(crate) fn end(mut self) -> u64 {
        // It may have seen that its store fails, and ended.
        let _gone = self.child.kill();
        while self.take_line() {}
        self.child.wait().unwrap();
        self.synced
    }

    /// Whether there was one more. The test harness says things of its own.
    fn take_line(&mut self) -> bool {
        let Some(line) = self.lines.next() else { return false };
        let line = line.unwrap();
        if let Some((_, step)) = line.split_once("synced ") {
            self.synced = step.parse().unwrap();
        }
        true
    }
}

//! One process with a `ready` line on stdout and its stderr in a file; killed by id when dropped.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, BufRead as _, BufReader},
    path::PathBuf,
    process::{Child, ChildStdout, Command, ExitStatus, Stdio},
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use thiserror::Error;

use crate::namespace::Namespace;

/// What to run.
#[derive(Clone, Debug)]
pub struct ProcessSpec {
    /// How messages name it.
    pub name: String,
    /// The executable.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Added to the environment.
    pub env: Vec<(String, String)>,
    /// Where its stderr is appended to.
    pub log: PathBuf,
    /// The network that it runs in; `None`: the caller's.
    pub namespace: Option<Arc<Namespace>>,
}

/// Why a process is not there.
#[derive(Debug, Error)]
pub enum StartError {
    /// The executable is missing.
    #[error("no {name} at {path}: build it with `cargo build --bins` (or set XDPFS_BIN_DIR)")]
    NotBuilt {
        /// The executable's name.
        name: String,
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The machine refused.
    #[error("could not start {name}")]
    Spawn {
        /// The process.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// It ended before it was ready.
    #[error("{name} ended with {status} before it was ready\n{log_tail}")]
    Exited {
        /// The process.
        name: String,
        /// How it ended.
        status: ExitStatus,
        /// The last lines of its log.
        log_tail: String,
    },
    /// It took too long.
    #[error("{name} was not ready within {within:?}\n{log_tail}")]
    NotReady {
        /// The process.
        name: String,
        /// How long was waited.
        within: Duration,
        /// The last lines of its log.
        log_tail: String,
    },
}

/// Why a process did not stop as asked.
#[derive(Debug, Error)]
pub enum StopError {
    /// It is not running.
    #[error("{0} is not running")]
    NotRunning(String),
    /// It ignored SIGTERM and was killed.
    #[error("{name} did not stop within {within:?} of SIGTERM and was killed\n{log_tail}")]
    Hung {
        /// The process.
        name: String,
        /// How long was waited.
        within: Duration,
        /// The last lines of its log.
        log_tail: String,
    },
    /// The machine refused.
    #[error("could not signal {name}")]
    Signal {
        /// The process.
        name: String,
        /// Why.
        source: io::Error,
    },
}

enum Stdout {
    Ready(String),
    Closed,
}

/// A running process. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    name: String,
    log: PathBuf,
    child: Child,
    stdout: Receiver<Stdout>,
}

impl Process {
    /// Starts it, without waiting for it.
    ///
    /// # Errors
    /// [`StartError::NotBuilt`] or [`StartError::Spawn`].
    pub fn spawn(spec: &ProcessSpec) -> Result<Self, StartError> {
        if !spec.program.is_file() {
            return Err(StartError::NotBuilt { name: spec.name.clone(), path: spec.program.clone() });
        }
        let failed = |source| StartError::Spawn { name: spec.name.clone(), source };
        let log = OpenOptions::new().create(true).append(true).open(&spec.log).map_err(failed)?;
        let mut child = spawn(command(spec, log), spec.namespace.as_deref()).map_err(failed)?;
        let (sender, stdout) = sync_channel(2);
        if let Some(pipe) = child.stdout.take() {
            thread::spawn(move || watch_stdout(pipe, &sender));
        }
        Ok(Self { name: spec.name.clone(), log: spec.log.clone(), child, stdout })
    }

    /// Waits for the line that begins with `ready `, and returns what follows.
    ///
    /// # Errors
    /// [`StartError::Exited`] or [`StartError::NotReady`].
    pub fn await_ready(&mut self, within: Duration) -> Result<String, StartError> {
        match self.stdout.recv_timeout(within) {
            Ok(Stdout::Ready(line)) => Ok(line),
            Ok(Stdout::Closed) | Err(RecvTimeoutError::Disconnected) => {
                let name = self.name.clone();
                let status =
                    self.child.wait().map_err(|source| StartError::Spawn { name: name.clone(), source })?;
                Err(StartError::Exited { name, status, log_tail: self.log_tail() })
            }
            Err(RecvTimeoutError::Timeout) => {
                Err(StartError::NotReady { name: self.name.clone(), within, log_tail: self.log_tail() })
            }
        }
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has not ended by itself.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// SIGKILL, and waits until it is gone.
    pub fn kill(&mut self) {
        // Fails only for a process that is gone already, which is what is wanted.
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }

    /// SIGTERM, and waits for the exit.
    ///
    /// # Errors
    /// [`StopError::Hung`] after `within`; it is killed then.
    pub fn stop(&mut self, within: Duration) -> Result<ExitStatus, StopError> {
        self.signal(Signal::TERM)?;
        let deadline = Instant::now() + within;
        loop {
            match self.stdout.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(Stdout::Ready(_)) => {}
                Ok(Stdout::Closed) | Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    let log_tail = self.log_tail();
                    self.kill();
                    return Err(StopError::Hung { name: self.name.clone(), within, log_tail });
                }
            }
        }
        self.child.wait().map_err(|source| StopError::Signal { name: self.name.clone(), source })
    }

    /// SIGSTOP: it keeps its sockets and does nothing.
    ///
    /// # Errors
    /// If it is gone.
    pub fn pause(&self) -> Result<(), StopError> {
        self.signal(Signal::STOP)
    }

    /// SIGCONT.
    ///
    /// # Errors
    /// If it is gone.
    pub fn resume(&self) -> Result<(), StopError> {
        self.signal(Signal::CONT)
    }

    /// SIGHUP.
    ///
    /// # Errors
    /// If it is gone.
    pub fn hang_up(&self) -> Result<(), StopError> {
        self.signal(Signal::HUP)
    }

    /// The last lines of its stderr.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let log = fs::read(&self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        let tail = lines.len().saturating_sub(LOG_TAIL_LINES);
        format!("--- {} ({})\n{}\n", self.name, self.log.display(), lines[tail..].join("\n"))
    }

    fn signal(&self, signal: Signal) -> Result<(), StopError> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| StopError::NotRunning(self.name.clone()))?;
        kill_process(pid, signal)
            .map_err(|errno| StopError::Signal { name: self.name.clone(), source: errno.into() })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

const LOG_TAIL_LINES: usize = 40;

/// The most memory that a process has had resident so far; `None` if it is gone.
#[must_use]
pub fn peak_memory_bytes(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib * 1024)
}

/// Starts it in a network.
pub(crate) fn spawn(mut command: Command, namespace: Option<&Namespace>) -> io::Result<Child> {
    // A child inherits the network of the thread that makes it.
    match namespace {
        Some(namespace) => namespace.run(|| command.spawn()),
        None => command.spawn(),
    }
}

fn command(spec: &ProcessSpec, log: File) -> Command {
    let mut command = Command::new(&spec.program);
    command
        .args(&spec.args)
        .envs(spec.env.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log);
    command
}

fn watch_stdout(pipe: ChildStdout, sender: &SyncSender<Stdout>) {
    let mut ready = false;
    for line in BufReader::new(pipe).lines().map_while(Result::ok) {
        if let (false, Some(rest)) = (ready, line.strip_prefix("ready ")) {
            ready = true;
            // The receiver is gone only if nobody wants to know.
            let _unwanted = sender.send(Stdout::Ready(rest.to_owned()));
        }
    }
    let _unwanted = sender.send(Stdout::Closed);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(dir: &tempfile::TempDir, script: &str) -> Process {
        let spec = ProcessSpec {
            name: "shell".to_owned(),
            program: "/bin/sh".into(),
            args: vec!["-c".into(), script.into()],
            env: Vec::new(),
            log: dir.path().join("shell.log"),
            namespace: None,
        };
        Process::spawn(&spec).expect("there is a shell")
    }

    #[test]
    fn the_ready_line_is_waited_for() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut process = shell(&dir, "echo noise; echo ready id=1; exec sleep 60");
        assert_eq!(process.await_ready(Duration::from_secs(10)).expect("it says so"), "id=1");
        assert!(process.is_running());
        assert!(peak_memory_bytes(process.pid()).is_some_and(|bytes| bytes > 0));
        process.kill();
        assert!(!process.is_running());
    }

    #[test]
    fn an_early_end_shows_the_log() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut process = shell(&dir, "echo 'no such disk' >&2; exit 3");
        let error = process.await_ready(Duration::from_secs(10)).expect_err("it never was");
        assert!(matches!(error, StartError::Exited { status, .. } if status.code() == Some(3)));
        assert!(error.to_string().contains("no such disk"), "{error}");
    }

    #[test]
    fn a_stop_is_asked_for_then_enforced() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut polite = shell(&dir, "trap 'exit 0' TERM; echo 'ready x'; while :; do sleep 0.01; done");
        polite.await_ready(Duration::from_secs(10)).expect("it is ready");
        assert!(polite.stop(Duration::from_secs(10)).expect("it stops").success());

        let mut deaf = shell(&dir, "trap '' TERM; echo 'ready x'; while :; do sleep 0.01; done");
        deaf.await_ready(Duration::from_secs(10)).expect("it is ready");
        assert!(matches!(deaf.stop(Duration::from_millis(100)), Err(StopError::Hung { .. })));
    }

    #[test]
    fn a_missing_binary_says_how_to_build_it() {
        let spec = ProcessSpec {
            name: "xdpfs-nothing".to_owned(),
            program: "/nonexistent/xdpfs-nothing".into(),
            args: Vec::new(),
            env: Vec::new(),
            log: "/nonexistent/log".into(),
            namespace: None,
        };
        let error = Process::spawn(&spec).expect_err("there is none");
        assert!(error.to_string().contains("cargo build --bins"), "{error}");
    }
}

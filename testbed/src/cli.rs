//! Runs of `xdpfs-cli`, each with a deadline, its streams and its peak memory.

use std::{
    ffi::{OsStr, OsString},
    fmt,
    io::{self, Read, Write},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, channel},
    },
    thread,
    time::{Duration, Instant},
};

use crate::{
    namespace::Namespace,
    process::{StartError, peak_memory_bytes, spawn},
};

/// The command line tool, pointed at a cluster.
#[derive(Clone, Debug)]
pub struct Cli {
    /// The executable.
    pub program: PathBuf,
    /// Goes into `XDPFS_ENDPOINT`.
    pub endpoint: String,
    /// Goes into `XDPFS_CA`; `None`: plaintext.
    pub ca: Option<PathBuf>,
    /// Goes into `XDPFS_ACCESS_KEY`; `None`: that is not set.
    pub access_key: Option<String>,
    /// The network that it runs in; `None`: the caller's.
    pub namespace: Option<Arc<Namespace>>,
}

/// How a run ended.
#[derive(Debug)]
pub struct CliOutput {
    /// The exit code; `None` if it was ended by a signal, ours for lateness included.
    pub code: Option<i32>,
    /// What it printed, unless that went elsewhere.
    pub stdout: Vec<u8>,
    /// What it said.
    pub stderr: String,
    /// The most memory that it had resident, as seen from outside every few milliseconds.
    pub peak_memory_bytes: u64,
    /// How long it ran.
    pub took: Duration,
    /// The first error of a stream that was given to it or taken from it.
    pub stream_error: Option<io::Error>,
}

impl CliOutput {
    /// Standard output as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

/// A run in preparation.
pub struct Invocation {
    cli: Cli,
    args: Vec<OsString>,
    stdin: Option<Box<dyn Read + Send>>,
    stdout: Option<Box<dyn Write + Send>>,
    within: Duration,
}

impl fmt::Debug for Invocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Invocation").field("args", &self.args).field("within", &self.within).finish()
    }
}

impl Cli {
    /// A run with these arguments, nothing on stdin, and a minute of time.
    pub fn invoke<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Invocation {
        Invocation {
            cli: self.clone(),
            args: args.into_iter().map(|arg| arg.as_ref().to_owned()).collect(),
            stdin: None,
            stdout: None,
            within: Duration::from_secs(60),
        }
    }

    /// Runs with these arguments to the end.
    ///
    /// # Panics
    /// If the executable cannot be started.
    pub fn run<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> CliOutput {
        self.invoke(args).run()
    }

    /// The command itself, for those who want to handle the process.
    pub fn command<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Command {
        let mut command = Command::new(&self.program);
        command.env("XDPFS_ENDPOINT", &self.endpoint).args(args);
        match &self.ca {
            Some(ca) => command.env("XDPFS_CA", ca),
            None => command.env_remove("XDPFS_CA"),
        };
        command.env_remove("XDPFS_ACCESS_KEY_FILE").env_remove("XDPFS_ACCESS_KEY");
        command.envs(self.access_key.iter().map(|key| ("XDPFS_ACCESS_KEY", key)));
        command
    }
}

impl Invocation {
    /// Feeds `stdin` to it.
    #[must_use]
    pub fn stdin(mut self, stdin: impl Read + Send + 'static) -> Self {
        self.stdin = Some(Box::new(stdin));
        self
    }

    /// Sends what it prints to `stdout`.
    #[must_use]
    pub fn stdout(mut self, stdout: impl Write + Send + 'static) -> Self {
        self.stdout = Some(Box::new(stdout));
        self
    }

    /// Kills it after this time.
    #[must_use]
    pub const fn within(mut self, within: Duration) -> Self {
        self.within = within;
        self
    }

    /// Runs to the end.
    ///
    /// # Panics
    /// If the executable cannot be started: nothing can be tested then.
    pub fn run(self) -> CliOutput {
        self.try_run().unwrap_or_else(|error| panic!("{error}"))
    }

    /// Runs to the end.
    ///
    /// # Errors
    /// [`StartError`] if the executable cannot be started.
    pub fn try_run(self) -> Result<CliOutput, StartError> {
        if !self.cli.program.is_file() {
            return Err(StartError::NotBuilt { name: "xdpfs-cli".to_owned(), path: self.cli.program });
        }
        let began = Instant::now();
        let mut command = self.cli.command(&self.args);
        command
            .stdin(if self.stdin.is_some() { Stdio::piped() } else { Stdio::null() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = spawn(command, self.cli.namespace.as_deref())
            .map_err(|source| StartError::Spawn { name: "xdpfs-cli".to_owned(), source })?;
        let streams = Streams::start(&mut child, self.stdin, self.stdout);
        let (peak_memory_bytes, collected) = streams.collect(&mut child, began + self.within);
        let status =
            child.wait().map_err(|source| StartError::Spawn { name: "xdpfs-cli".to_owned(), source })?;
        Ok(CliOutput {
            code: status.code(),
            stdout: collected.stdout,
            stderr: String::from_utf8_lossy(&collected.stderr).into_owned(),
            peak_memory_bytes,
            took: began.elapsed(),
            stream_error: collected.error,
        })
    }
}

#[derive(Default)]
struct Collected {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    error: Option<io::Error>,
}

enum Ended {
    Stderr(Vec<u8>),
    Stdin(io::Result<()>),
    Stdout(io::Result<Vec<u8>>),
}

/// The threads around a child; each reports once, when its stream ends.
struct Streams {
    ended: Receiver<Ended>,
}

/// How often the peak of the memory is looked at.
const SAMPLE_EVERY: Duration = Duration::from_millis(20);

impl Streams {
    fn start(
        child: &mut Child,
        stdin: Option<Box<dyn Read + Send>>,
        sink: Option<Box<dyn Write + Send>>,
    ) -> Self {
        // Three messages at most ever pass through.
        let (sender, ended) = channel();
        if let (Some(mut source), Some(mut pipe)) = (stdin, child.stdin.take()) {
            let sender = sender.clone();
            thread::spawn(move || {
                let copied = io::copy(&mut source, &mut pipe).map(drop);
                drop(pipe);
                let _late = sender.send(Ended::Stdin(copied));
            });
        }
        if let Some(mut pipe) = child.stderr.take() {
            let sender = sender.clone();
            thread::spawn(move || {
                let mut bytes = Vec::new();
                // A broken pipe ends the text; what came before it is still wanted.
                let _partial = pipe.read_to_end(&mut bytes);
                let _late = sender.send(Ended::Stderr(bytes));
            });
        }
        if let Some(mut pipe) = child.stdout.take() {
            thread::spawn(move || {
                let mut bytes = Vec::new();
                let copied = match sink {
                    Some(mut sink) => io::copy(&mut pipe, &mut sink),
                    None => pipe.read_to_end(&mut bytes).map(|n| n as u64),
                };
                let _late = sender.send(Ended::Stdout(copied.map(|_| bytes)));
            });
        }
        Self { ended }
    }

    /// Waits for the streams to end; kills the child at the deadline.
    fn collect(self, child: &mut Child, deadline: Instant) -> (u64, Collected) {
        let mut peak = 0;
        let mut collected = Collected::default();
        loop {
            match self.ended.recv_timeout(SAMPLE_EVERY) {
                Ok(Ended::Stdout(Ok(bytes))) => collected.stdout = bytes,
                Ok(Ended::Stderr(bytes)) => collected.stderr = bytes,
                Ok(Ended::Stdin(Ok(()))) => {}
                Ok(Ended::Stdin(Err(error)) | Ended::Stdout(Err(error))) => {
                    collected.error.get_or_insert(error);
                }
                Err(RecvTimeoutError::Disconnected) => return (peak, collected),
                Err(RecvTimeoutError::Timeout) if Instant::now() >= deadline => {
                    // It may have ended at this moment, which is just as well.
                    let _gone = child.kill();
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
            peak = peak.max(peak_memory_bytes(child.id()).unwrap_or(0));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Content;

    fn tool(program: &str) -> Cli {
        Cli { program: program.into(), endpoint: String::new(), ca: None, access_key: None, namespace: None }
    }

    #[test]
    fn streams_pass_through_and_are_compared() {
        let content = Content::new(5, 3 << 20);
        let output = tool("/bin/cat").invoke(["-"]).stdin(content.clone()).stdout(content.check()).run();
        assert_eq!(output.code, Some(0));
        assert!(output.stream_error.is_none(), "{:?}", output.stream_error);

        let other = Content::new(6, 3 << 20);
        let output = tool("/bin/cat").invoke(["-"]).stdin(content).stdout(other.check()).run();
        assert!(output.stream_error.is_some());
    }

    #[test]
    fn a_late_run_is_killed() {
        let output = tool("/bin/sh")
            .invoke(["-c", "echo begun; exec sleep 60"])
            .within(Duration::from_millis(200))
            .run();
        assert_eq!((output.code, output.text().as_str()), (None, "begun\n"));
        assert!(output.took < Duration::from_secs(30));
    }
}

//! A run of the tool that says when it is half way. It does not outlive its owner.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, sync_channel},
    thread,
};

use anyhow::{Context as _, bail, ensure};

/// What there is to react to.
#[derive(Debug)]
pub(super) enum Moment {
    /// This many objects are done.
    HalfWay { done: usize },
    /// All output has come.
    Ended,
}

#[derive(Debug)]
pub(super) struct Transfer {
    child: Child,
    moments: Receiver<Moment>,
    stderr: Option<thread::JoinHandle<String>>,
}

impl Transfer {
    /// Starts it. It prints one line for each object that is done; the `half`-th of them is the half way.
    pub(super) fn start(mut command: Command, half: usize) -> anyhow::Result<Self> {
        let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().context("cannot start xdpfs-cli")?;
        let stdout = child.stdout.take().context("it has no output")?;
        let mut stderr = child.stderr.take().context("it has no errors")?;
        // Two moments in all: the reader never waits, so the tool does not either.
        let (sender, moments) = sync_channel(2);
        thread::spawn(move || {
            for (index, _) in BufReader::new(stdout).lines().map_while(Result::ok).enumerate() {
                if index + 1 == half.max(1) {
                    // Nobody listens any more only if the demonstration has failed.
                    let _unheard = sender.send(Moment::HalfWay { done: index + 1 });
                }
            }
            let _unheard = sender.send(Moment::Ended);
        });
        let stderr = thread::spawn(move || {
            let mut words = String::new();
            // What came before a broken pipe is still wanted.
            let _partial = stderr.read_to_string(&mut words);
            words
        });
        Ok(Self { child, moments, stderr: Some(stderr) })
    }

    pub(super) fn next_moment(&self) -> anyhow::Result<Moment> {
        self.moments.recv().context("the reader of the output is gone")
    }

    /// Waits for the exit, which must be a success.
    pub(super) fn finish(mut self) -> anyhow::Result<()> {
        let status = self.child.wait()?;
        let words = self.stderr.take().map(thread::JoinHandle::join);
        let Some(Ok(words)) = words else { bail!("the reader of the errors is gone") };
        ensure!(status.success(), "xdpfs-cli failed ({status}):\n{words}");
        Ok(())
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        // It has ended already unless the demonstration fails.
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

//! SIGINT, SIGTERM and SIGHUP: the first asks the run to end, the second ends it at once.

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
};

use crate::failure::{Exit, Failure};

/// The first signal is kept until it is asked for; the second needs no listener.
const SIGNALS_KEPT_MAX: usize = 1;

/// Hears the signals that end a run.
#[derive(Debug)]
pub(crate) struct Signals(mpsc::Receiver<Exit>);

/// What is listened to.
struct Listener {
    interrupt: Signal,
    terminate: Signal,
    /// `None` if whoever started the run wants it to outlive the terminal.
    hangup: Option<Signal>,
}

impl Signals {
    /// Listens from here on, also while the caller is stuck in a system call.
    pub(crate) fn listen() -> Result<Self, Failure> {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        Self::start(!ignores_hangup(&status))
    }

    fn start(hears_hangup: bool) -> Result<Self, Failure> {
        let hear = |kind| signal(kind).map_err(|error| Failure::local("listen to signals", &error));
        let listener = Listener {
            interrupt: hear(SignalKind::interrupt())?,
            terminate: hear(SignalKind::terminate())?,
            hangup: hears_hangup.then(|| hear(SignalKind::hangup())).transpose()?,
        };
        let (heard, signals) = mpsc::channel(SIGNALS_KEPT_MAX);
        tokio::spawn(listener.pass_on(heard));
        Ok(Self(signals))
    }

    /// Waits for a signal, and gives the exit code that it stands for.
    pub(crate) async fn next(&mut self) -> Exit {
        match self.0.recv().await {
            Some(exit) => exit,
            // The listener never ends before the process does.
            None => std::future::pending().await,
        }
    }
}

impl Listener {
    async fn pass_on(mut self, heard: mpsc::Sender<Exit>) {
        let first = self.next().await;
        // The channel has room for the first one; if nobody listens any more, the run is about to end anyway.
        let _ending = heard.try_send(first);
        let second = self.next().await;
        std::process::exit(second as i32);
    }

    async fn next(&mut self) -> Exit {
        tokio::select! {
            _ = self.interrupt.recv() => Exit::Interrupted,
            _ = self.terminate.recv() => Exit::Terminated,
            Some(()) = async { self.hangup.as_mut()?.recv().await } => Exit::HungUp,
        }
    }
}

/// Whether the process was started with SIGHUP ignored, as by nohup. A listener would end that.
fn ignores_hangup(status: &str) -> bool {
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    // Signal 1 is the lowest bit.
    ignored.is_some_and(|mask| mask & 1 == 1)
}

#[cfg(test)]
mod tests {
    use rustix::process::{Signal, getpid, kill_process};

    use super::*;

    #[tokio::test]
    async fn a_terminal_that_goes_away_ends_the_run() {
        let mut signals = Signals::start(true).unwrap();
        kill_process(getpid(), Signal::HUP).unwrap();
        assert_eq!(signals.next().await, Exit::HungUp);
    }

    #[test]
    fn a_run_that_is_to_outlive_its_terminal_does() {
        let check = |mask: &str, expect| {
            let status = format!("SigBlk:\t0000000000000001\nSigIgn:\t{mask}\nSigCgt:\t0000000000000001\n");
            assert_eq!(ignores_hangup(&status), expect, "{mask}");
        };
        check("0000000000001001", true);
        check("0000000000001000", false);
        check("", false);
    }
}

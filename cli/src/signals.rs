//! SIGINT and SIGTERM: the first asks the run to end, the second ends it at once.

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

impl Signals {
    /// Listens from here on, also while the caller is stuck in a system call.
    pub(crate) fn listen() -> Result<Self, Failure> {
        let hear = |kind| signal(kind).map_err(|error| Failure::local("listen to signals", &error));
        let (interrupt, terminate) = (hear(SignalKind::interrupt())?, hear(SignalKind::terminate())?);
        let (heard, signals) = mpsc::channel(SIGNALS_KEPT_MAX);
        tokio::spawn(pass_on(interrupt, terminate, heard));
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

async fn pass_on(mut interrupt: Signal, mut terminate: Signal, heard: mpsc::Sender<Exit>) {
    let first = either(&mut interrupt, &mut terminate).await;
    // The channel has room for the first one; if nobody listens any more, the run is about to end anyway.
    let _ending = heard.try_send(first);
    let second = either(&mut interrupt, &mut terminate).await;
    std::process::exit(second as i32);
}

async fn either(interrupt: &mut Signal, terminate: &mut Signal) -> Exit {
    tokio::select! {
        _ = interrupt.recv() => Exit::Interrupted,
        _ = terminate.recv() => Exit::Terminated,
    }
}

//! What this process has: a runtime, and a thread that brings what was awaited to event loops.
//!
//! Invariant: a process that was forked has its own. Threads do not survive a fork, so what the parent has is left alone
//! there and made anew when it is first needed.

use std::{
    process,
    sync::{Mutex, PoisonError, mpsc},
    thread,
};

use pyo3::{exceptions::PyRuntimeError, prelude::*};
use tokio::runtime::{Builder, Runtime};

/// Something that is to be done with the interpreter's lock.
pub(crate) type Delivery = Box<dyn FnOnce(Python<'_>) + Send>;

/// How many deliveries are made under one lock.
const DELIVERIES_AT_ONCE_MAX: usize = 64;

/// It lives until the process ends.
#[derive(Debug)]
pub(crate) struct Process {
    id: u32,
    pub(crate) runtime: Runtime,
    pub(crate) deliveries: mpsc::Sender<Delivery>,
}

/// It is only locked by who holds the interpreter's lock, and never across a wait: so nobody else holds it when a process
/// is forked, and the child can lock it.
static PROCESS: Mutex<Option<&'static Process>> = Mutex::new(None);

impl Process {
    /// That of this process.
    pub(crate) fn this(_py: Python<'_>) -> PyResult<&'static Self> {
        let mut known = PROCESS.lock().unwrap_or_else(PoisonError::into_inner);
        match *known {
            Some(process) if process.id == process::id() => Ok(process),
            _ => {
                let failed = |error| PyRuntimeError::new_err(format!("cannot start threads: {error}"));
                let process: &'static Self = Box::leak(Box::new(Self::start().map_err(failed)?));
                *known = Some(process);
                Ok(process)
            }
        }
    }

    /// Whether it is the one that runs.
    pub(crate) fn is_this(&self) -> bool {
        self.id == process::id()
    }

    fn start() -> std::io::Result<Self> {
        let runtime = Builder::new_multi_thread().enable_all().thread_name("xdpfs").build()?;
        let (deliveries, receiver) = mpsc::channel();
        thread::Builder::new().name("xdpfs-asyncio".to_owned()).spawn(move || deliver(&receiver))?;
        Ok(Self { id: process::id(), runtime, deliveries })
    }
}

fn deliver(deliveries: &mpsc::Receiver<Delivery>) {
    while let Ok(first) = deliveries.recv() {
        let delivered = Python::try_attach(|py| {
            first(py);
            for delivery in deliveries.try_iter().take(DELIVERIES_AT_ONCE_MAX - 1) {
                delivery(py);
            }
        });
        if delivered.is_none() {
            // The interpreter is on its way out, and nobody awaits any more.
            return;
        }
    }
}

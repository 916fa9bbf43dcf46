//! The thread that does for a node what takes privileges. If it is told so, it alone keeps any.

use std::{
    fmt, io,
    sync::mpsc::{Sender, channel},
    thread,
};

use tokio::{runtime::Handle, sync::oneshot};

use super::{XdpConfig, XdpError, XdpMode};
use crate::run_as::RunAs;

type Job = Box<dyn FnOnce() + Send>;

/// The thread; it ends when nobody can give it anything to do any more.
#[derive(Clone)]
pub struct PlaneThread {
    jobs: Sender<Job>,
}

impl PlaneThread {
    /// A thread with the capabilities that the calling one has and keeps.
    ///
    /// # Errors
    /// The system has no thread left.
    pub fn start() -> io::Result<Self> {
        Self::with(|| Ok(()))
    }

    /// If XDP is wanted: a thread that keeps the capabilities which that takes, while the calling thread gives up all of
    /// its own and becomes `user`; otherwise both become `user`. So this must come before the process has another thread.
    ///
    /// # Errors
    /// The system has no thread left, or doesn't let one give up anything or become that user.
    pub fn start_alone(config: &XdpConfig, user: Option<RunAs>) -> io::Result<Self> {
        if config.mode == XdpMode::Off {
            user.map_or(Ok(()), RunAs::assume)?;
            return Self::start();
        }
        #[cfg(all(feature = "xdp", target_os = "linux"))]
        {
            use super::privileges::{NAMING, PLANE, give_up_all, keep_only};
            let this = Self::with(|| keep_only(PLANE | NAMING))?;
            give_up_all(user)?;
            Ok(this)
        }
        #[cfg(not(all(feature = "xdp", target_os = "linux")))]
        {
            user.map_or(Ok(()), RunAs::assume)?;
            Self::start()
        }
    }

    fn with(prepare: impl FnOnce() -> io::Result<()> + Send + 'static) -> io::Result<Self> {
        let (jobs, inbox) = channel::<Job>();
        let (started, outcome) = channel();
        let work = move || {
            let prepared = prepare();
            let is_ready = prepared.is_ok();
            let _ = started.send(prepared);
            if is_ready {
                inbox.into_iter().for_each(|job| job());
            }
        };
        thread::Builder::new().name("plane".into()).spawn(work)?;
        outcome.recv().unwrap_or_else(|_| Err(io::Error::other("the thread has died")))?;
        Ok(Self { jobs })
    }

    /// Has something done there, in the runtime of the caller.
    ///
    /// # Errors
    /// The thread has died.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, XdpError> {
        let runtime = Handle::current();
        let (done, result) = oneshot::channel();
        let job = move || {
            let _entered = runtime.enter();
            // Whoever asked may have given up.
            let _ = done.send(work());
        };
        // If it has died, the result doesn't come either.
        let _ = self.jobs.send(Box::new(job));
        result.await.map_err(|_| XdpError::Dead)
    }
}

impl fmt::Debug for PlaneThread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PlaneThread")
    }
}

//! From a future of Rust to what Python gets: the answer itself, or something that can be awaited.

use std::{pin::pin, time::Duration};

use pyo3::prelude::*;

use crate::{asyncio, failure::Failure, process::Process};

/// How long a wait goes on before signals such as Ctrl-C are looked for.
const SIGNALS_EVERY: Duration = Duration::from_millis(50);

/// How a client's callers get answers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Waiting {
    /// They await them in an event loop.
    Await,
    /// They are blocked until they are there.
    Block,
}

/// What an operation gives.
pub(crate) trait Answer: Send + 'static {
    /// As Python sees it.
    fn into_python(self, py: Python<'_>) -> PyResult<Py<PyAny>>;
}

impl Waiting {
    /// The answer, or what can be awaited for it.
    pub(crate) fn wait<T: Answer>(
        self,
        py: Python<'_>,
        process: &'static Process,
        future: impl Future<Output = Result<T, Failure>> + Send + 'static,
    ) -> PyResult<Py<PyAny>> {
        match self {
            Self::Await => asyncio::awaitable(py, process, future),
            Self::Block => block(py, process, future),
        }
    }
}

fn block<T: Answer>(
    py: Python<'_>,
    process: &'static Process,
    future: impl Future<Output = Result<T, Failure>> + Send,
) -> PyResult<Py<PyAny>> {
    // Also for whatever is dropped when a signal ends the wait: it cleans up on this runtime.
    let _runtime = process.runtime.enter();
    let mut future = pin!(future);
    loop {
        let waited = py.detach(|| {
            process.runtime.block_on(async { tokio::time::timeout(SIGNALS_EVERY, future.as_mut()).await })
        });
        match waited {
            Ok(Ok(answer)) => return answer.into_python(py),
            Ok(Err(failure)) => return Err(failure.into_python(py)),
            Err(_elapsed) => py.check_signals()?,
        }
    }
}

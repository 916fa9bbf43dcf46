//! Futures of Rust that an event loop of Python's asyncio awaits.
//!
//! Invariant: an event loop is only touched by `call_soon_threadsafe`; who cancels what is awaited ends the work behind it.

use pyo3::{intern, prelude::*, sync::PyOnceLock};
use tokio::task::AbortHandle;

use crate::{
    failure::Failure,
    process::{Delivery, Process},
    wait::Answer,
};

/// Starts the work, and gives a future of the running event loop.
pub(crate) fn awaitable<T: Answer>(
    py: Python<'_>,
    process: &'static Process,
    future: impl Future<Output = Result<T, Failure>> + Send + 'static,
) -> PyResult<Py<PyAny>> {
    let event_loop = running_loop(py)?;
    let waiter = event_loop.call_method0(intern!(py, "create_future"))?;
    let (event_loop, awaited) = (event_loop.unbind(), waiter.clone().unbind());
    let work = process.runtime.spawn(async move {
        let outcome = future.await;
        let delivery: Delivery = Box::new(move |py| bring(py, &event_loop, &awaited, outcome));
        // The thread ends with the interpreter.
        let _gone = process.deliveries.send(delivery);
    });
    let canceller = Bound::new(py, Canceller { work: work.abort_handle() })?;
    waiter.call_method1(intern!(py, "add_done_callback"), (canceller,))?;
    Ok(waiter.unbind())
}

fn bring<T: Answer>(
    py: Python<'_>,
    event_loop: &Py<PyAny>,
    awaited: &Py<PyAny>,
    outcome: Result<T, Failure>,
) {
    let outcome = match outcome {
        Ok(answer) => answer.into_python(py),
        Err(failure) => Err(failure.into_python(py)),
    };
    let (value, error) = match outcome {
        Ok(value) => (value, py.None()),
        Err(error) => (py.None(), error.into_value(py).into_any()),
    };
    let settled = wrap_pyfunction!(settle, py).and_then(|settle| {
        let arguments = (settle, awaited, value, error);
        event_loop.bind(py).call_method1(intern!(py, "call_soon_threadsafe"), arguments)
    });
    // A loop that is closed has nobody waiting in it.
    drop(settled);
}

/// Ends the wait, in the event loop's own thread.
#[pyfunction]
pub(crate) fn settle(
    waiter: &Bound<'_, PyAny>,
    value: &Bound<'_, PyAny>,
    error: &Bound<'_, PyAny>,
) -> PyResult<()> {
    let py = waiter.py();
    if waiter.call_method0(intern!(py, "done"))?.is_truthy()? {
        return Ok(());
    }
    if error.is_none() {
        waiter.call_method1(intern!(py, "set_result"), (value,))?;
    } else {
        waiter.call_method1(intern!(py, "set_exception"), (error,))?;
    }
    Ok(())
}

/// Called when the wait is over, however it ended.
#[pyclass(frozen, module = "xdpfs._native")]
struct Canceller {
    work: AbortHandle,
}

#[pymethods]
impl Canceller {
    fn __call__(&self, _waiter: &Bound<'_, PyAny>) {
        // Of work that is done this changes nothing.
        self.work.abort();
    }
}

fn running_loop(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    static RUNNING_LOOP: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let function = RUNNING_LOOP.get_or_try_init(py, || {
        Ok::<_, PyErr>(py.import("asyncio")?.getattr("get_running_loop")?.unbind())
    })?;
    function.bind(py).call0()
}

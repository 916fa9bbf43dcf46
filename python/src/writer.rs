//! A put that is fed by writing to it.

use std::sync::Arc;

use pyo3::prelude::*;
use tokio::{io::AsyncWriteExt as _, sync::Mutex};
use xdpfs_client::ObjectWriter;

use crate::{data::Data, failure::Failure, process::Process, wait::Waiting};

/// Writes one object. `finish` makes it visible; without that it is given up.
#[pyclass(frozen, module = "xdpfs._native")]
pub(crate) struct NativeWriter {
    writer: Arc<Mutex<Option<ObjectWriter>>>,
    process: &'static Process,
    waiting: Waiting,
}

impl NativeWriter {
    pub(crate) fn new(writer: ObjectWriter, process: &'static Process, waiting: Waiting) -> Self {
        Self { writer: Arc::new(Mutex::new(Some(writer))), process, waiting }
    }

    fn check(&self, py: Python<'_>) -> PyResult<()> {
        // The threads that would write are the parent's.
        if self.process.is_this() { Ok(()) } else { Err(closed().into_python(py)) }
    }
}

#[pymethods]
impl NativeWriter {
    /// More bytes. If they are not written as a whole, nothing can be written any more.
    fn write(&self, py: Python<'_>, data: Data) -> PyResult<Py<PyAny>> {
        self.check(py)?;
        let writer = Arc::clone(&self.writer);
        self.waiting.wait(py, self.process, async move {
            let mut slot = writer.lock().await;
            // A write that is dropped on the way gives the put up: nobody knows how much of it was taken.
            let mut open = slot.take().ok_or_else(closed)?;
            if open.write_all(data.as_ref()).await.is_ok() {
                *slot = Some(open);
                return Ok(data.as_ref().len());
            }
            // The put has failed, and knows why.
            Err(open.finish().await.err().map_or_else(closed, Failure::Client))
        })
    }

    /// Commits what was written.
    fn finish(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.check(py)?;
        let writer = Arc::clone(&self.writer);
        self.waiting.wait(py, self.process, async move {
            let open = writer.lock().await.take().ok_or_else(closed)?;
            Ok(open.finish().await?.object)
        })
    }

    /// Gives it up. Done twice it changes nothing.
    fn abort(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.check(py)?;
        let writer = Arc::clone(&self.writer);
        self.waiting.wait(py, self.process, async move {
            drop(writer.lock().await.take());
            Ok(())
        })
    }
}

const fn closed() -> Failure {
    Failure::Closed("writer")
}

//! A get on its way.

use std::sync::{
    Arc, Mutex as SyncMutex, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use pyo3::prelude::*;
use tokio::sync::Mutex;
use xdpfs_client::{GetStream, Object};

use crate::{
    data::{Blank, Target},
    failure::Failure,
    object::ObjectInfo,
    process::Process,
    wait::{Answer, Waiting},
};

/// Reads an object, or a range of it, in order.
#[pyclass(frozen, module = "xdpfs._native")]
pub(crate) struct NativeReader {
    stream: Arc<Mutex<GetStream>>,
    object: Object,
    start: u64,
    len: u64,
    /// Bytes that nobody has asked for yet. Locked under the interpreter's lock only.
    left: SyncMutex<u64>,
    closed: AtomicBool,
    process: &'static Process,
    waiting: Waiting,
}

impl NativeReader {
    pub(crate) fn new(stream: GetStream, process: &'static Process, waiting: Waiting) -> Self {
        let (object, range) = (stream.object().clone(), stream.range());
        let len = range.end - range.start;
        Self {
            stream: Arc::new(Mutex::new(stream)),
            object,
            start: range.start,
            len,
            left: SyncMutex::new(len),
            closed: AtomicBool::new(false),
            process,
            waiting,
        }
    }

    /// How many of `wanted` bytes there are; they are the caller's then.
    fn take(&self, wanted: u64) -> Result<usize, Failure> {
        // The threads that would read are the parent's.
        if self.closed.load(Ordering::Relaxed) || !self.process.is_this() {
            return Err(Failure::Closed("reader"));
        }
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = usize::try_from(wanted.min(*left)).unwrap_or(usize::MAX);
        *left -= taken as u64;
        Ok(taken)
    }
}

#[pymethods]
impl NativeReader {
    /// The object that is read.
    #[getter]
    fn info(&self) -> ObjectInfo {
        self.object.clone().into()
    }

    /// First byte of the object that is given.
    #[getter]
    const fn start(&self) -> u64 {
        self.start
    }

    /// How many bytes are given in all.
    fn __len__(&self) -> usize {
        usize::try_from(self.len).unwrap_or(usize::MAX)
    }

    /// The next bytes: as many as asked for, or as there are; all of them if fewer than none are asked for.
    #[pyo3(signature = (size = -1))]
    fn read(&self, py: Python<'_>, size: i64) -> PyResult<Py<PyAny>> {
        let len =
            self.take(u64::try_from(size).unwrap_or(u64::MAX)).map_err(|failure| failure.into_python(py))?;
        let (blank, stream) = (Blank::new(py, len)?, Arc::clone(&self.stream));
        self.waiting.wait(py, self.process, async move { blank.fill(&mut *stream.lock().await).await })
    }

    /// The next bytes into a buffer; how many there were.
    fn readinto(&self, py: Python<'_>, buffer: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        let target = Target::new(buffer, self.process)?;
        let len = self.take(target.len() as u64).map_err(|failure| failure.into_python(py))?;
        let stream = Arc::clone(&self.stream);
        self.waiting.wait(py, self.process, async move { target.fill(len, &mut *stream.lock().await).await })
    }

    /// What is left is not read.
    fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }
}

impl Answer for NativeReader {
    fn into_python(self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        Ok(Bound::new(py, self)?.into_any().unbind())
    }
}

//! Bytes from Python and bytes for Python.

use std::mem::MaybeUninit;

use bytes::BufMut as _;
use pyo3::{
    Borrowed, IntoPyObjectExt as _, buffer::PyBuffer, exceptions::PyBufferError, ffi, prelude::*,
    pybacked::PyBackedBytes, types::PyBytes,
};
use tokio::io::{AsyncRead, AsyncReadExt as _};

use crate::{
    failure::Failure,
    process::{Delivery, Process},
    wait::Answer,
};

/// What is put.
pub(crate) enum Data {
    /// Something that may change under us, so a copy.
    Copied(Vec<u8>),
    /// A `bytes` object, which never changes.
    Shared(PyBackedBytes),
}

impl AsRef<[u8]> for Data {
    fn as_ref(&self) -> &[u8] {
        match self {
            Self::Copied(bytes) => bytes,
            Self::Shared(bytes) => bytes,
        }
    }
}

impl<'py> FromPyObject<'_, 'py> for Data {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        if let Ok(bytes) = object.cast::<PyBytes>() {
            return Ok(Self::Shared(bytes.to_owned().into()));
        }
        PyBuffer::<u8>::get(&object)?.to_vec(object.py()).map(Self::Copied)
    }
}

/// A `bytes` object that nobody has seen yet, to be filled without the interpreter's lock.
pub(crate) struct Blank {
    bytes: Py<PyBytes>,
    start: *mut MaybeUninit<u8>,
    len: usize,
}

// SAFETY: the pointer is into the object beside it, which stays where it is, and which nobody else has seen.
unsafe impl Send for Blank {}

impl Blank {
    pub(crate) fn new(py: Python<'_>, len: usize) -> PyResult<Self> {
        let size = ffi::Py_ssize_t::try_from(len)?;
        // SAFETY: a null pointer asks for an object of this size with undefined bytes; an error is looked for.
        let bytes = unsafe {
            Bound::from_owned_ptr_or_err(py, ffi::PyBytes_FromStringAndSize(std::ptr::null(), size))?
        };
        let bytes = bytes.cast_into::<PyBytes>()?;
        // SAFETY: it is a `bytes` object, and the pointer is good for as long as that lives.
        let start = unsafe { ffi::PyBytes_AsString(bytes.as_ptr()) }.cast::<MaybeUninit<u8>>();
        Ok(Self { bytes: bytes.unbind(), start, len })
    }

    /// Reads exactly as many bytes as it has room for.
    pub(crate) async fn fill<R: AsyncRead + Unpin>(self, input: &mut R) -> Result<Filled, Failure> {
        let mut this = self;
        // An empty `bytes` object is the same one for everybody.
        if this.len > 0 {
            fill(this.room(), input).await?;
        }
        Ok(Filled(this.bytes))
    }

    fn room(&mut self) -> &mut [MaybeUninit<u8>] {
        // SAFETY: so many bytes were allocated there, and nobody else knows of them.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.len) }
    }
}

/// A `bytes` object with every byte in it.
pub(crate) struct Filled(Py<PyBytes>);

impl Answer for Filled {
    fn into_python(self, _py: Python<'_>) -> PyResult<Py<PyAny>> {
        Ok(self.0.into_any())
    }
}

/// A buffer of the caller's that is read into.
pub(crate) struct Target {
    /// None only while it is dropped.
    buffer: Option<PyBuffer<u8>>,
    len: usize,
    process: &'static Process,
}

impl Target {
    pub(crate) fn new(object: &Bound<'_, PyAny>, process: &'static Process) -> PyResult<Self> {
        let buffer = PyBuffer::<u8>::get(object)?;
        if buffer.readonly() || !buffer.is_c_contiguous() {
            let what = "the buffer has to be writable and in one piece";
            return Err(PyBufferError::new_err(what));
        }
        Ok(Self { len: buffer.len_bytes(), buffer: Some(buffer), process })
    }

    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    /// Fills its first `len` bytes.
    pub(crate) async fn fill<R: AsyncRead + Unpin>(self, len: usize, input: &mut R) -> Result<Read, Failure> {
        let mut this = self;
        let len = len.min(this.len);
        if len > 0 {
            fill(this.room(len), input).await?;
        }
        Ok(Read { len, target: this })
    }

    fn room(&mut self, len: usize) -> &mut [MaybeUninit<u8>] {
        let Some(buffer) = self.buffer.as_ref().filter(|_| len > 0) else { return &mut [] };
        let start = buffer.buf_ptr().cast::<MaybeUninit<u8>>();
        // SAFETY: the buffer is writable, contiguous, not shorter than `len`, and kept where it is for as long as it is
        // exported to us; who looks at it meanwhile sees some bytes or others, as with any `readinto`.
        unsafe { std::slice::from_raw_parts_mut(start, len) }
    }
}

impl Drop for Target {
    /// To give a buffer back takes the interpreter's lock, for which no worker thread may wait.
    fn drop(&mut self) {
        if let Some(buffer) = self.buffer.take() {
            let delivery: Delivery = Box::new(|_py| drop(buffer));
            let _gone = self.process.deliveries.send(delivery);
        }
    }
}

/// How many bytes were read into a buffer.
pub(crate) struct Read {
    len: usize,
    target: Target,
}

impl Answer for Read {
    fn into_python(mut self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        // Before the caller goes on: nobody can resize a buffer that is not given back.
        drop(self.target.buffer.take());
        self.len.into_py_any(py)
    }
}

async fn fill<R: AsyncRead + Unpin>(mut room: &mut [MaybeUninit<u8>], input: &mut R) -> Result<(), Failure> {
    while room.has_remaining_mut() {
        if input.read_buf(&mut room).await? == 0 {
            return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
        }
    }
    Ok(())
}

//! Why an operation failed, as an exception of Python.

use std::{error::Error as StdError, io, path::PathBuf};

use pyo3::{
    exceptions::{PyOSError, PyRuntimeError},
    prelude::*,
};
use xdpfs_client::{Error, ErrorKind, OptionsError};

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The client says so.
    Client(Error),
    /// What it belongs to was closed, or has ended.
    Closed(&'static str),
    /// A local file.
    File(io::Error, PathBuf),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Client(error)
    }
}

/// What a reader or a writer of the client fails with.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        let kind = error.kind();
        match error.into_inner().map(|inner| inner.downcast::<Error>()) {
            Some(Ok(error)) => Self::Client(*error),
            Some(Err(other)) => Self::Client(Error::Input(io::Error::new(kind, other))),
            None => Self::Client(Error::Input(kind.into())),
        }
    }
}

impl Failure {
    pub(crate) fn into_python(self, py: Python<'_>) -> PyErr {
        match self {
            Self::Client(error) => make(py, error.kind().label(), reason(&error), &message(&error)),
            Self::Closed(what) => make(py, "io", "Closed", &format!("the {what} is closed")),
            Self::File(error, path) => match error.raw_os_error() {
                Some(code) => os_error(py, code, path),
                None => error.into(),
            },
        }
    }
}

/// As `open` raises it: the number decides which class it is.
fn os_error(py: Python<'_>, code: i32, path: PathBuf) -> PyErr {
    let text = py.import("os").and_then(|os| os.call_method1("strerror", (code,)));
    let text = text.and_then(|text| text.extract::<String>()).unwrap_or_default();
    PyOSError::new_err((code, text, path.into_os_string()))
}

/// Options that make no sense.
pub(crate) fn bad_options(py: Python<'_>, error: &OptionsError) -> PyErr {
    make(py, ErrorKind::InvalidArgument.label(), "Options", &message(error))
}

/// The classes are Python's, where they are documented.
fn make(py: Python<'_>, kind: &str, reason: &str, message: &str) -> PyErr {
    let made = py
        .import("xdpfs._errors")
        .and_then(|errors| errors.getattr("make")?.call1((kind, reason, message)))
        .map(PyErr::from_value);
    made.unwrap_or_else(|broken| {
        let error = PyRuntimeError::new_err(message.to_owned());
        error.set_cause(py, Some(broken));
        error
    })
}

/// Finer than the kind, where that matters to a program.
fn reason(error: &Error) -> &'static str {
    match error {
        Error::BatchRefused { source, .. } => reason(source),
        Error::BucketExists { .. } => "BucketExists",
        Error::BucketNotFound { .. } => "BucketNotFound",
        Error::ChangedWhileReading => "ChangedWhileReading",
        Error::ListingExpired { .. } => "ListingExpired",
        Error::ObjectNotFound { .. } => "ObjectNotFound",
        Error::OutcomeUnknown { .. } => "OutcomeUnknown",
        Error::RangeNotSatisfiable { .. } => "RangeNotSatisfiable",
        Error::Unsupported { .. } => "Unsupported",
        _ => "",
    }
}

/// The error with what caused it.
fn message(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

//! Which of the trait's errors says what the client's says.
//!
//! Invariant: the client's error stays as the source, so that a caller who knows it can look at it.

use object_store::Error as StoreError;
use xdpfs_client::Error;

/// The store's name in errors.
pub(crate) const STORE: &str = "xdpfs";

/// What a failed precondition means to the one who asked.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Condition {
    /// The key was to hold nothing.
    New,
    /// The key was to hold something else than the caller knows.
    Other,
    /// The key was to hold what the caller knows.
    Same,
}

/// The trait's error for a request about `path`.
pub(crate) fn translate(error: Error, path: impl Into<String>, condition: Condition) -> StoreError {
    let (path, error) = (path.into(), innermost(error));
    match error {
        Error::ObjectNotFound { .. } | Error::BucketNotFound { .. } => {
            StoreError::NotFound { path, source: Box::new(error) }
        }
        Error::PreconditionFailed { .. } => {
            let source = Box::new(error);
            match condition {
                Condition::New => StoreError::AlreadyExists { path, source },
                Condition::Other => StoreError::NotModified { path, source },
                Condition::Same => StoreError::Precondition { path, source },
            }
        }
        Error::PermissionDenied { .. } => StoreError::PermissionDenied { path, source: Box::new(error) },
        Error::Unauthenticated { .. } => StoreError::Unauthenticated { path, source: Box::new(error) },
        Error::Unsupported { .. } => StoreError::NotSupported { source: Box::new(error) },
        error => generic(error),
    }
}

/// An error that the trait has no words for.
pub(crate) fn generic(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> StoreError {
    StoreError::Generic { store: STORE, source: error.into() }
}

/// A batch here is one request to its caller, so what counts is what was wrong with it.
fn innermost(error: Error) -> Error {
    match error {
        Error::BatchRefused { source, .. } => innermost(*source),
        error => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failed_precondition_means_what_was_asked_for() {
        let failed = || Error::PreconditionFailed { message: "no".to_owned() };
        let refused =
            || Error::BatchRefused { operation: 1, key: "k".to_owned(), source: Box::new(failed()) };
        let new = translate(refused(), "k", Condition::New);
        assert!(matches!(new, StoreError::AlreadyExists { .. }), "{new}");
        let other = translate(failed(), "k", Condition::Other);
        assert!(matches!(other, StoreError::NotModified { .. }), "{other}");
        let same = translate(failed(), "k", Condition::Same);
        assert!(matches!(same, StoreError::Precondition { .. }), "{same}");
    }

    #[test]
    fn what_the_client_said_can_be_looked_at() {
        let error = translate(Error::NoSpace, "k", Condition::Same);
        let StoreError::Generic { source, .. } = error else { panic!("{error}") };
        assert!(matches!(source.downcast_ref::<Error>(), Some(Error::NoSpace)));
    }
}

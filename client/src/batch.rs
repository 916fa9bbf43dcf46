//! Several changes of one bucket that take effect together, or not at all.

use std::{fmt, io::Cursor};

use bytes::Bytes;
use tokio::io::AsyncRead;

use crate::{
    CopyOptions, DeleteOptions, Object, Precondition, PutOptions,
    error::{Error, Result},
    name::{bucket_name, check_key},
    versions::version_number,
};

/// The most operations of a batch.
pub const BATCH_OPERATIONS_MAX: usize = 64;

/// Puts, copies, deletes and checks on keys of one bucket, to be handed to
/// [`commit`](crate::ObjectClient::commit).
///
/// Each operation is judged by what the bucket held before the batch, so their order means nothing. No two of them may
/// change the same key.
///
/// ```
/// use xdpfs_client::{Batch, CopyOptions, Precondition, PutOptions};
///
/// // Move an object, and write down that it was moved, if nobody else has.
/// let batch = Batch::new("photos")
///     .copy("new/cat", "seen/cat", CopyOptions::default())
///     .delete("new/cat", None)
///     .check("seen/.locked", Precondition::IfNoneMatchAny)
///     .put_bytes("seen/.last", "cat".into(), PutOptions::default());
/// ```
#[derive(Debug)]
pub struct Batch {
    pub(crate) bucket: String,
    pub(crate) operations: Vec<BatchOperation>,
}

/// What one operation came to.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct BatchResult {
    /// What was made or removed; none for a check.
    pub object: Option<Object>,
    /// Of a put: chunks with fewer replicas than the bucket asks for.
    pub chunks_in_debt: u32,
    /// Of a delete: the version of the delete marker that hides what the key held.
    pub delete_marker: Option<u64>,
}

/// One operation.
pub(crate) enum BatchOperation {
    Put { key: String, input: Box<dyn AsyncRead + Send + Unpin>, options: PutOptions },
    Copy { source: String, key: String, options: CopyOptions },
    Delete { key: String, options: DeleteOptions },
    Check { key: String, precondition: Precondition },
}

impl Batch {
    /// One without operations.
    #[must_use]
    pub fn new(bucket: impl Into<String>) -> Self {
        Self { bucket: bucket.into(), operations: Vec::new() }
    }

    /// The key gets what `input` gives until its end. It is read when the batch is committed, before anything takes effect.
    #[must_use]
    pub fn put<R>(self, key: impl Into<String>, input: R, options: PutOptions) -> Self
    where
        R: AsyncRead + Send + Unpin + 'static,
    {
        self.with(BatchOperation::Put { key: key.into(), input: Box::new(input), options })
    }

    /// The key gets `data`.
    #[must_use]
    pub fn put_bytes(self, key: impl Into<String>, data: Bytes, options: PutOptions) -> Self {
        let options = PutOptions { size_hint: Some(data.len() as u64), ..options };
        self.put(key, Cursor::new(data), options)
    }

    /// The key gets what the key `source` held before the batch.
    #[must_use]
    pub fn copy(self, source: impl Into<String>, key: impl Into<String>, options: CopyOptions) -> Self {
        self.with(BatchOperation::Copy { source: source.into(), key: key.into(), options })
    }

    /// The key, which must hold something, holds nothing.
    #[must_use]
    pub fn delete(self, key: impl Into<String>, precondition: Option<Precondition>) -> Self {
        self.delete_with(key, DeleteOptions { precondition, version: None })
    }

    /// The key, which must hold something, holds nothing; or this version of it goes for good.
    #[must_use]
    pub fn delete_with(self, key: impl Into<String>, options: DeleteOptions) -> Self {
        self.with(BatchOperation::Delete { key: key.into(), options })
    }

    /// Nothing happens unless this is so.
    #[must_use]
    pub fn check(self, key: impl Into<String>, precondition: Precondition) -> Self {
        self.with(BatchOperation::Check { key: key.into(), precondition })
    }

    fn with(mut self, operation: BatchOperation) -> Self {
        self.operations.push(operation);
        self
    }

    /// Bytes of puts are not sent for a batch that can never be.
    pub(crate) fn validate(&self) -> Result<()> {
        bucket_name(&self.bucket)?;
        if !(1..=BATCH_OPERATIONS_MAX).contains(&self.operations.len()) {
            return Err(Error::invalid(format!("a batch has 1 to {BATCH_OPERATIONS_MAX} operations")));
        }
        for (place, operation) in self.operations.iter().enumerate() {
            let at = |source: Error| Error::BatchRefused {
                operation: place + 1,
                key: operation.key().to_owned(),
                source: Box::new(source),
            };
            check_key(operation.key()).map_err(at)?;
            match operation {
                BatchOperation::Put { options, .. } => options.check().map_err(at)?,
                BatchOperation::Copy { source, options, .. } => {
                    check_key(source).and_then(|()| options.check()).map_err(at)?;
                }
                BatchOperation::Delete { options, .. } => {
                    version_number(options.version).map_err(at)?;
                }
                BatchOperation::Check { .. } => {}
            }
            let changed = self.operations[..place].iter().filter(|earlier| earlier.changes());
            if operation.changes() && changed.map(BatchOperation::key).any(|key| key == operation.key()) {
                return Err(at(Error::invalid("another operation changes the same key")));
            }
        }
        Ok(())
    }
}

impl BatchOperation {
    /// The key that it changes or checks.
    pub(crate) fn key(&self) -> &str {
        match self {
            Self::Put { key, .. }
            | Self::Copy { key, .. }
            | Self::Delete { key, .. }
            | Self::Check { key, .. } => key,
        }
    }

    const fn changes(&self) -> bool {
        !matches!(self, Self::Check { .. })
    }
}

impl fmt::Debug for BatchOperation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Names of objects stay out of logs.
        f.write_str(match self {
            Self::Put { .. } => "Put(..)",
            Self::Copy { .. } => "Copy(..)",
            Self::Delete { .. } => "Delete(..)",
            Self::Check { .. } => "Check(..)",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batch_that_can_never_be_says_which_operation() {
        let check = |batch: Batch, expect: Option<usize>| match batch.validate().unwrap_err() {
            Error::BatchRefused { operation, .. } => assert_eq!(Some(operation), expect),
            error => assert_eq!(expect, None, "{error:?}"),
        };
        let batch = || Batch::new("bucket").delete("a", None);
        batch().check("a", Precondition::IfNoneMatchAny).validate().unwrap();
        check(Batch::new("bucket"), None);
        check(Batch::new("B").delete("a", None), None);
        check(batch().delete("", None), Some(2));
        check(batch().delete("b", None).copy("b", "a", CopyOptions::default()), Some(3));
        check(batch().copy("\n", "b", CopyOptions::default()), Some(2));
        let options = PutOptions { content_type: "\n".into(), ..PutOptions::default() };
        check(batch().put_bytes("b", Bytes::new(), options), Some(2));
        let many = (0..=BATCH_OPERATIONS_MAX)
            .fold(Batch::new("bucket"), |batch, at| batch.delete(at.to_string(), None));
        check(many, None);
    }
}

//! Moves the bytes of an object to where they are wanted.

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use xdpfs_client::Error;

use crate::{failure::Failure, progress::Progress};

/// Bytes that are moved at once.
const BUFFER_BYTES: usize = 256 << 10;

/// Moves all that `from` gives to `to`, and gives the number of bytes. `failed` says what a failed write means.
pub(crate) async fn pour(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    progress: &Progress,
    failed: impl Fn(&std::io::Error) -> Failure,
) -> Result<u64, Failure> {
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut poured = 0;
    loop {
        let length = from.read(&mut buffer).await.map_err(reading_failed)?;
        if length == 0 {
            to.flush().await.map_err(|error| failed(&error))?;
            return Ok(poured);
        }
        to.write_all(&buffer[..length]).await.map_err(|error| failed(&error))?;
        poured += length as u64;
        progress.advance(length as u64);
    }
}

/// The client wraps its own errors for readers.
fn reading_failed(error: std::io::Error) -> Failure {
    let kind = error.kind();
    match error.into_inner().map(|inner| inner.downcast::<Error>()) {
        Some(Ok(error)) => Failure::from(*error),
        Some(Err(error)) => Failure::machine(format!("cannot read the object: {error}")),
        None => Failure::local("read the object", &kind.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Exit;

    #[tokio::test]
    async fn all_bytes_arrive() {
        let bytes = vec![7; 3 * BUFFER_BYTES + 1];
        let mut poured = vec![];
        let length = pour(&bytes[..], &mut poured, &Progress::hidden(), Failure::stdout).await.unwrap();
        assert_eq!(length, bytes.len() as u64);
        assert_eq!(poured, bytes);
    }

    #[test]
    fn an_error_of_the_client_keeps_its_meaning() {
        let failure = reading_failed(Error::Integrity { what: "chunk 1".into() }.into());
        assert_eq!((failure.exit, failure.kind), (Exit::Integrity, "integrity"));
        let failure = reading_failed(std::io::Error::other("why"));
        assert_eq!((failure.exit, failure.kind), (Exit::Partial, "io"));
    }
}

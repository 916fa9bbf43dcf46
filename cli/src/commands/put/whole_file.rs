//! A file that is being put, and may be changed meanwhile.
//!
//! Invariant: what is read to its end without an error is not a part of what was there at the beginning. More than that
//! is no object: a log may grow while it is put.

use std::{
    io,
    path::Path,
    pin::Pin,
    task::{Context, Poll, ready},
};

use rustix::fs::fstat;
use tokio::{
    fs::File,
    io::{AsyncRead, ReadBuf},
};

/// Reads a file, and fails at its end if it has become shorter.
#[derive(Debug)]
pub(super) struct WholeFile {
    file: File,
    /// What the file system said at the beginning; zero for a device or a pipe.
    bytes: i64,
}

impl WholeFile {
    /// Opens the file to be read from its beginning.
    pub(super) async fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path).await?;
        let bytes = fstat(&file)?.st_size;
        Ok(Self { file, bytes })
    }
}

impl AsyncRead for WholeFile {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.file).poll_read(cx, buf))?;
        let has_ended = buf.filled().len() == before && buf.remaining() > 0;
        // Not the bytes that were read are asked about: files of sysfs have fewer than they say.
        if has_ended && fstat(&self.file)?.st_size < self.bytes {
            return Poll::Ready(Err(io::Error::other("it became shorter while it was read")));
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tokio::io::AsyncReadExt as _;

    use super::*;

    /// Reads a byte of a file of three, changes the file, and reads the rest.
    async fn read_while(change: impl FnOnce(&Path)) -> io::Result<usize> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        fs::write(&path, "123").unwrap();
        let mut file = WholeFile::open(&path).await.unwrap();
        assert_eq!(file.read_u8().await.unwrap(), b'1');
        change(&path);
        file.read_to_end(&mut vec![]).await
    }

    #[tokio::test]
    async fn a_file_that_becomes_shorter_is_not_read_to_an_end() {
        let error = read_while(|path| fs::write(path, "1").unwrap()).await.unwrap_err();
        assert!(error.to_string().contains("shorter"), "{error}");
    }

    #[tokio::test]
    async fn a_file_may_grow_or_lose_its_name() {
        assert_eq!(read_while(|_| ()).await.unwrap(), 2);
        assert_eq!(read_while(|path| fs::write(path, "12345").unwrap()).await.unwrap(), 4);
        assert_eq!(read_while(|path| fs::remove_file(path).unwrap()).await.unwrap(), 2);
    }

    #[tokio::test]
    async fn what_has_no_size_is_read() {
        let mut file = WholeFile::open(Path::new("/proc/self/status")).await.unwrap();
        assert!(file.read_to_end(&mut vec![]).await.unwrap() > 0);
    }
}

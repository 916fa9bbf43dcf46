//! A put that is fed by writing to it.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    ObjectClient, PutOptions, PutResult,
    error::{Error, Result},
};

/// Bytes between the writer and the put.
const PIPE_BYTES: usize = 256 << 10;

/// Writes one object. [`finish`](Self::finish) makes it visible; dropping the writer before gives the put up.
#[derive(Debug)]
pub struct ObjectWriter {
    pipe: DuplexStream,
    finished: Arc<AtomicBool>,
    put: AbortOnDropHandle<Result<PutResult>>,
}

/// The put's end of the pipe: the end of the input counts only if the writer was finished.
struct Input {
    pipe: DuplexStream,
    finished: Arc<AtomicBool>,
}

impl ObjectWriter {
    pub(crate) fn start<C: ObjectClient>(
        client: C,
        bucket: String,
        key: String,
        options: PutOptions,
    ) -> Self {
        let (pipe, far_end) = tokio::io::duplex(PIPE_BYTES);
        let finished = Arc::new(AtomicBool::new(false));
        let input = Input { pipe: far_end, finished: Arc::clone(&finished) };
        let put = async move { client.put(&bucket, &key, input, options).await };
        Self { pipe, finished, put: AbortOnDropHandle::new(tokio::spawn(put)) }
    }

    /// Commits what was written.
    ///
    /// # Errors
    /// Why the put failed, also if that was the cause of a failed write.
    pub async fn finish(self) -> Result<PutResult> {
        let Self { pipe, finished, put } = self;
        finished.store(true, Ordering::Release);
        drop(pipe);
        put.await.unwrap_or_else(|lost| Err(Error::Input(io::Error::other(lost))))
    }
}

impl AsyncWrite for ObjectWriter {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.pipe).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_flush(cx)
    }

    /// Does not commit: only [`finish`](Self::finish) does.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(cx)
    }
}

impl AsyncRead for Input {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.pipe).poll_read(cx, buf))?;
        let ended = buf.filled().len() == before && buf.remaining() > 0;
        if ended && !self.finished.load(Ordering::Acquire) {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::BrokenPipe, "the writer was dropped")));
        }
        Poll::Ready(Ok(()))
    }
}

//! A multipart upload as one put that is fed part by part.
//!
//! Invariant: parts count in the order in which they were handed in, whatever order they are waited for in; nothing is
//! visible before `complete`, and an upload that is aborted or dropped leaves nothing.

use std::{
    fmt, io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
};

use async_trait::async_trait;
use futures::FutureExt as _;
use object_store::{MultipartUpload, PutPayload, PutResult, Result, UploadPart};
use tokio::{
    io::{AsyncRead, ReadBuf},
    sync::{mpsc, oneshot},
};
use tokio_util::task::AbortOnDropHandle;

use crate::{error::generic, payload::PayloadReader};

/// A part on its way to the put.
#[derive(Debug)]
struct Part {
    payload: PutPayload,
    /// Told when the put has taken all of it.
    taken: oneshot::Sender<()>,
}

/// The put's end: it waits for parts.
#[derive(Debug)]
pub(crate) struct PartsReader {
    parts: mpsc::UnboundedReceiver<Part>,
    current: Option<(PayloadReader, oneshot::Sender<()>)>,
    /// Whether the end of the parts is the end of the object.
    is_complete: Arc<AtomicBool>,
}

/// The caller's end.
pub(crate) struct Upload {
    /// Not bounded by number: each part belongs to its caller, who holds it in memory anyhow and waits for it to be taken.
    parts: Option<mpsc::UnboundedSender<Part>>,
    is_complete: Arc<AtomicBool>,
    put: Option<AbortOnDropHandle<Result<PutResult>>>,
}

impl Upload {
    /// `start` makes the put of its input, on a task of its own.
    pub(crate) fn start<F>(start: impl FnOnce(PartsReader) -> F) -> Self
    where
        F: Future<Output = Result<PutResult>> + Send + 'static,
    {
        let (sender, receiver) = mpsc::unbounded_channel();
        let is_complete = Arc::new(AtomicBool::new(false));
        let input = PartsReader { parts: receiver, current: None, is_complete: Arc::clone(&is_complete) };
        let put = AbortOnDropHandle::new(tokio::spawn(start(input)));
        Self { parts: Some(sender), is_complete, put: Some(put) }
    }
}

#[async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, payload: PutPayload) -> UploadPart {
        let (taken, is_taken) = oneshot::channel();
        let is_sent = self.parts.as_ref().is_some_and(|parts| parts.send(Part { payload, taken }).is_ok());
        async move {
            if !is_sent {
                return Err(generic("the upload has ended; `complete` says why"));
            }
            is_taken.await.map_err(|_gone| generic("the upload has failed; `complete` says why"))
        }
        .boxed()
    }

    async fn complete(&mut self) -> Result<PutResult> {
        self.is_complete.store(true, Ordering::Release);
        self.parts = None;
        let put = self.put.take().ok_or_else(|| generic("the upload has ended"))?;
        put.await.map_err(generic)?
    }

    async fn abort(&mut self) -> Result<()> {
        self.parts = None;
        let put = self.put.take().ok_or_else(|| generic("the upload has ended"))?;
        put.abort();
        // Once the task is gone nobody commits any more; if it has failed before, so much the better.
        match put.await {
            Ok(Ok(_)) => Err(generic("the upload was complete")),
            Ok(Err(_)) | Err(_) => Ok(()),
        }
    }
}

impl fmt::Debug for Upload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upload").field("is_open", &self.put.is_some()).finish_non_exhaustive()
    }
}

impl AsyncRead for PartsReader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        loop {
            if let Some((reader, _)) = &mut self.current
                && reader.fill(buf)
            {
                return Poll::Ready(Ok(()));
            }
            if let Some((_, taken)) = self.current.take() {
                // Who no longer waits need not be told.
                let _gone = taken.send(());
            }
            match ready!(self.parts.poll_recv(cx)) {
                Some(part) => self.current = Some((PayloadReader::new(part.payload), part.taken)),
                None if self.is_complete.load(Ordering::Acquire) => return Poll::Ready(Ok(())),
                None => return Poll::Ready(Err(io::Error::new(io::ErrorKind::BrokenPipe, "given up"))),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;

    use super::*;

    fn upload() -> (Upload, oneshot::Receiver<io::Result<Vec<u8>>>) {
        let (seen, sees) = oneshot::channel();
        let upload = Upload::start(|mut input| async move {
            let mut bytes = vec![];
            let read = input.read_to_end(&mut bytes).await.map(|_| bytes);
            let is_whole = read.is_ok();
            seen.send(read).unwrap();
            let result = PutResult { e_tag: None, version: None, extensions: Default::default() };
            if is_whole { Ok(result) } else { Err(generic("given up")) }
        });
        (upload, sees)
    }

    #[tokio::test]
    async fn parts_count_in_the_order_in_which_they_were_handed_in() {
        let (mut upload, sees) = upload();
        let (first, second) = (upload.put_part("ab".into()), upload.put_part("cd".into()));
        second.await.unwrap();
        first.await.unwrap();
        upload.complete().await.unwrap();
        assert_eq!(sees.await.unwrap().unwrap(), b"abcd");
        assert!(upload.complete().await.is_err());
        assert!(upload.put_part("ef".into()).await.is_err());
    }

    #[tokio::test]
    async fn upload_that_is_dropped_or_aborted_is_no_object() {
        let (mut upload_1, sees) = upload();
        upload_1.put_part("ab".into()).await.unwrap();
        drop(upload_1);
        // Its task is gone, or has seen that the input broke off.
        assert!(!matches!(sees.await, Ok(Ok(_))));
        let (mut upload_2, sees) = upload();
        upload_2.put_part("ab".into()).await.unwrap();
        upload_2.abort().await.unwrap();
        assert!(!matches!(sees.await, Ok(Ok(_))));
    }
}

//! What a get gives: an object's bytes as an `AsyncRead`, an `AsyncBufRead` or a `Stream`.
//!
//! Invariant: the end is reported only after every byte of the range was given. An error stays: whoever reads on after
//! it gets an error again, never an end.

use std::{
    fmt, io,
    ops::Range,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes, BytesMut};
use futures::{
    Stream, StreamExt as _, TryStreamExt as _,
    stream::{self, BoxStream},
};
use tokio::io::{AsyncBufRead, AsyncRead, ReadBuf};

use super::{
    reader::{Block, Reader},
    version::Lost,
};
use crate::{
    Object,
    error::{Error, Result},
};

/// Room that is made for an object at once, before its bytes have shown that it is as large as its manifest says.
const RESERVED_BYTES_MAX: u64 = 256 << 20;

/// Reads one version of an object, or a range of it, in order. Dropping it cancels what is in flight.
///
/// As a reader it fails with an [`io::Error`] whose source is the [`Error`]; as a stream it gives the error itself.
pub struct GetStream {
    object: Object,
    range: Range<u64>,
    /// Bytes that were not given yet.
    left: u64,
    current: Option<Block>,
    blocks: BoxStream<'static, Result<Block>>,
    has_failed: bool,
}

impl GetStream {
    /// Gives what `blocks` gives; more or fewer bytes than the range has are an error.
    pub(crate) fn new<S>(object: Object, range: Range<u64>, blocks: S) -> Self
    where
        S: Stream<Item = Result<Bytes>> + Send + 'static,
    {
        let blocks = blocks.map_ok(|bytes| Block { bytes, _memory: None });
        Self::start(object, range, None, blocks)
    }

    pub(super) fn read_ahead(range: Range<u64>, first: Option<Block>, reader: Reader) -> Self {
        let object = reader.version().object.clone();
        let blocks = stream::try_unfold(reader, |mut reader| async move {
            let block = reader.next().await.map_err(Lost::into_error)?;
            Ok(block.map(|block| (block, reader)))
        });
        Self::start(object, range, first, blocks)
    }

    fn start<S>(object: Object, range: Range<u64>, current: Option<Block>, blocks: S) -> Self
    where
        S: Stream<Item = Result<Block>> + Send + 'static,
    {
        let left = range.end - range.start;
        Self { object, range, left, current, blocks: blocks.boxed(), has_failed: false }
    }

    /// The object that is read.
    #[must_use]
    pub const fn object(&self) -> &Object {
        &self.object
    }

    /// The bytes of the object that are given in all.
    #[must_use]
    pub fn range(&self) -> Range<u64> {
        self.range.clone()
    }

    /// How many bytes are given in all.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.range.end - self.range.start
    }

    /// Whether no bytes are given at all.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The rest in one piece. Holds all of it in memory.
    ///
    /// # Errors
    /// Why it cannot be read to its end.
    pub async fn into_bytes(mut self) -> Result<Bytes> {
        let left = self.left;
        let first = self.next().await.transpose()?.unwrap_or_default();
        if first.len() as u64 == left {
            // A small object is one block, which nobody else needs.
            return Ok(first);
        }
        let mut all = BytesMut::with_capacity(left.min(RESERVED_BYTES_MAX) as usize);
        all.extend_from_slice(&first);
        while let Some(bytes) = self.next().await {
            all.extend_from_slice(&bytes?);
        }
        Ok(all.freeze())
    }

    /// Makes `current` a block with bytes, unless all were given.
    fn poll_current(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        while self.current.as_ref().is_none_or(|block| block.bytes.is_empty()) {
            // Frees its share of memory before more is read.
            self.current = None;
            if self.left == 0 {
                return Poll::Ready(Ok(()));
            }
            let block = match ready!(self.blocks.poll_next_unpin(cx)) {
                Some(Ok(block)) if block.bytes.len() as u64 <= self.left => block,
                Some(Ok(_)) => return Poll::Ready(Err(self.fail(wrong_length()))),
                Some(Err(error)) => return Poll::Ready(Err(self.fail(error))),
                None => return Poll::Ready(Err(self.fail(wrong_length()))),
            };
            self.current = Some(block);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_current_io(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.has_failed {
            return Poll::Ready(Err(io::Error::other("the get has failed before")));
        }
        self.poll_current(cx).map_err(io::Error::from)
    }

    fn fail(&mut self, error: Error) -> Error {
        self.has_failed = true;
        self.blocks = stream::empty().boxed();
        error
    }

    /// The bytes at hand.
    fn at_hand(&self) -> &[u8] {
        self.current.as_ref().map_or(&[], |block| &block.bytes)
    }
}

fn wrong_length() -> Error {
    Error::BadReply { operation: "GetObject", what: "there are more or fewer bytes than the manifest says" }
}

impl fmt::Debug for GetStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GetStream")
            .field("object", &self.object)
            .field("range", &self.range)
            .field("left", &self.left)
            .finish_non_exhaustive()
    }
}

impl AsyncBufRead for GetStream {
    fn poll_fill_buf(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        let this = self.get_mut();
        ready!(this.poll_current_io(cx))?;
        Poll::Ready(Ok(this.at_hand()))
    }

    fn consume(mut self: Pin<&mut Self>, amount: usize) {
        let this = &mut *self;
        if let Some(block) = &mut this.current {
            let amount = amount.min(block.bytes.len());
            block.bytes.advance(amount);
            this.left -= amount as u64;
        }
    }
}

impl AsyncRead for GetStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_current_io(cx))?;
        let taken = self.at_hand().len().min(buf.remaining());
        buf.put_slice(&self.at_hand()[..taken]);
        self.consume(taken);
        Poll::Ready(Ok(()))
    }
}

impl Stream for GetStream {
    type Item = Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes>>> {
        if self.has_failed {
            return Poll::Ready(None);
        }
        if let Err(error) = ready!(self.poll_current(cx)) {
            return Poll::Ready(Some(Err(error)));
        }
        let block = self.current.take();
        self.left -= block.as_ref().map_or(0, |block| block.bytes.len() as u64);
        Poll::Ready(block.map(|block| Ok(block.bytes)))
    }
}

//! What is put, as the client reads it.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Buf as _, Bytes};
use object_store::{PutPayload, PutPayloadIntoIter};
use tokio::io::{AsyncRead, ReadBuf};

/// The pieces of a payload, one after the other.
#[derive(Debug)]
pub(crate) struct PayloadReader {
    rest: PutPayloadIntoIter,
    current: Bytes,
}

impl PayloadReader {
    pub(crate) fn new(payload: PutPayload) -> Self {
        Self { rest: payload.into_iter(), current: Bytes::new() }
    }

    /// Fills `buf` as far as there are bytes; whether there were any.
    pub(crate) fn fill(&mut self, buf: &mut ReadBuf<'_>) -> bool {
        let before = buf.remaining();
        while buf.remaining() > 0 {
            if self.current.is_empty() {
                let Some(next) = self.rest.next() else { break };
                self.current = next;
                continue;
            }
            let taken = self.current.len().min(buf.remaining());
            buf.put_slice(&self.current[..taken]);
            self.current.advance(taken);
        }
        buf.remaining() < before
    }
}

impl AsyncRead for PayloadReader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.fill(buf);
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;

    use super::*;

    #[tokio::test]
    async fn pieces_are_read_in_order_and_empty_ones_are_no_end() {
        let pieces = ["ab", "", "", "cde", ""].map(|piece| Bytes::from_static(piece.as_bytes()));
        let mut reader = PayloadReader::new(pieces.into_iter().collect());
        let mut text = String::new();
        assert_eq!(reader.read_to_string(&mut text).await.unwrap(), 5);
        assert_eq!(text, "abcde");
    }
}

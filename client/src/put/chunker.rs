//! Cuts an input of any kind into chunks. Knows nothing of the cluster.

use std::io;

use bytes::{BufMut as _, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// An input and what was read of it ahead.
#[derive(Debug)]
pub(super) struct Chunker<R> {
    input: R,
    buffer: BytesMut,
    ended: bool,
}

impl<R: AsyncRead + Unpin> Chunker<R> {
    pub(super) fn new(input: R) -> Self {
        Self { input, buffer: BytesMut::new(), ended: false }
    }

    /// Whether the input has no more bytes than those that are buffered.
    pub(super) const fn has_ended(&self) -> bool {
        self.ended
    }

    /// Reads ahead until `target` bytes are buffered or the input ends; gives the number of buffered bytes.
    ///
    /// Cancel safe: what was read stays in the buffer.
    pub(super) async fn fill(&mut self, target: usize) -> io::Result<usize> {
        while !self.ended && self.buffer.len() < target {
            let missing = target - self.buffer.len();
            self.buffer.reserve(missing);
            let read = self.input.read_buf(&mut (&mut self.buffer).limit(missing)).await?;
            self.ended = read == 0;
        }
        Ok(self.buffer.len())
    }

    /// The next chunk: `chunk_size` bytes, or fewer at the end of the input, or none behind it. Cancel safe.
    pub(super) async fn next(&mut self, chunk_size: usize) -> io::Result<Option<Bytes>> {
        let length = self.fill(chunk_size).await?.min(chunk_size);
        if length == 0 {
            return Ok(None);
        }
        Ok(Some(self.buffer.split_to(length).freeze()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn lengths(input: &[u8], peek: usize, chunk_size: usize) -> Vec<usize> {
        // Seven bytes at a time, as a pipe might.
        let (mut near, far) = tokio::io::duplex(7);
        let owned = input.to_vec();
        let feed = tokio::spawn(async move { tokio::io::AsyncWriteExt::write_all(&mut near, &owned).await });
        let mut chunker = Chunker::new(far);
        chunker.fill(peek).await.unwrap();
        let mut chunks = vec![];
        while let Some(chunk) = chunker.next(chunk_size).await.unwrap() {
            chunks.push(chunk);
        }
        feed.await.unwrap().unwrap();
        assert_eq!(chunks.concat(), input);
        chunks.iter().map(Bytes::len).collect()
    }

    #[tokio::test]
    async fn every_chunk_but_the_last_is_full() {
        let bytes: Vec<u8> = (0..100).collect();
        assert_eq!(lengths(&bytes, 0, 40).await, [40, 40, 20]);
        assert_eq!(lengths(&bytes, 64, 40).await, [40, 40, 20]);
        assert_eq!(lengths(&bytes, 64, 50).await, [50, 50]);
        assert_eq!(lengths(&bytes, 200, 100).await, [100]);
        assert_eq!(lengths(&bytes[..1], 64, 50).await, [1]);
        assert_eq!(lengths(&[], 64, 50).await, [0_usize; 0]);
    }
}

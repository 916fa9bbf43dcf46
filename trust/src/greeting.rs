//! The first words of a connection: by them either end knows whether the other speaks what it should, before anything
//! that matters is said.
//!
//! Invariant: a request is never part of a greeting. A connection that fails here has done nothing.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};

/// What a client says first (RFC 9113 §3.4).
pub(crate) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The length of what is before every frame.
const FRAME_HEADER_LEN: usize = 9;
const SETTINGS: u8 = 4;
/// What a client that speaks TLS says first: a handshake record.
pub(crate) const TLS_HANDSHAKE: u8 = 0x16;
/// What a server that speaks TLS says to one that does not: an alert record.
const TLS_ALERT: u8 = 0x15;
/// A fatal alert, "unexpected message".
pub(crate) const ALERT: &[u8] = &[TLS_ALERT, 3, 3, 0, 2, 2, 10];
/// For one that speaks TLS to a server that does not.
pub(crate) const NO_TLS: &[u8] = b"this server does not speak TLS\n";

/// For one that does not speak TLS to a server of browsers that does: `http://` was written in place of `https://`.
pub(crate) const TLS_ONLY: &[u8] =
    b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\nconnection: close\r\n\r\n\
    this server speaks TLS: write https:// in place of http://\n";

/// How a server answers to the first words of a client.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Answer {
    /// In HTTP/2.
    Http2,
    /// With an alert of TLS.
    TlsAlert,
    /// With something else.
    Unknown,
}

/// A stream whose first bytes have been read already, and, at a client's end, whose preface has been sent.
#[derive(Debug)]
pub(crate) struct Greeted<S> {
    stream: S,
    /// To be read again.
    heard: Vec<u8>,
    heard_at: usize,
    /// Bytes of the preface that have been sent and will be written once more.
    unsaid: usize,
}

impl Answer {
    /// What the first bytes of a server mean.
    pub(crate) fn of(bytes: &[u8; FRAME_HEADER_LEN]) -> Self {
        let [a, b, c, kind, flags, stream @ ..] = bytes;
        let length = u32::from_be_bytes([0, *a, *b, *c]);
        match *kind {
            // Settings of six bytes each, for the connection as a whole, and not the word that ours have arrived.
            SETTINGS if length.is_multiple_of(6) && flags & 1 == 0 && *stream == [0; 4] => Self::Http2,
            _ if *a == TLS_ALERT && *b == 3 => Self::TlsAlert,
            _ => Self::Unknown,
        }
    }
}

impl<S> Greeted<S> {
    /// A stream on which nobody has to greet.
    pub(crate) const fn without_words(stream: S) -> Self {
        Self { stream, heard: Vec::new(), heard_at: 0, unsaid: 0 }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Greeted<S> {
    /// The client's greeting: says the preface and waits for the answer. Nothing of a request is sent before that is
    /// known to be HTTP/2. `None`: the server has ended the connection without a word.
    pub(crate) async fn by_client(mut stream: S) -> io::Result<Option<(Answer, Self)>> {
        stream.write_all(PREFACE).await?;
        stream.flush().await?;
        let mut heard = [0; FRAME_HEADER_LEN];
        let mut len = 0;
        while len < heard.len() {
            match stream.read(&mut heard[len..]).await? {
                0 if len == 0 => return Ok(None),
                0 => break,
                more => len += more,
            }
        }
        let answer = Answer::of(&heard);
        let heard = heard[..len].to_vec();
        Ok(Some((answer, Self { stream, heard, heard_at: 0, unsaid: PREFACE.len() })))
    }

    /// The server's end: waits for the client's preface. `None`: it says something else.
    pub(crate) async fn by_server(mut stream: S) -> io::Result<Option<Self>> {
        let mut heard = [0; PREFACE.len()];
        let mut len = 0;
        while len < heard.len() {
            let more = stream.read(&mut heard[len..]).await?;
            len += more;
            if more == 0 || heard[..len] != PREFACE[..len] {
                return Ok(None);
            }
        }
        Ok(Some(Self { stream, heard: heard.to_vec(), heard_at: 0, unsaid: 0 }))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Greeted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let left = &self.heard[self.heard_at..];
        if left.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let len = left.len().min(buf.remaining());
        buf.put_slice(&left[..len]);
        self.heard_at += len;
        if self.heard_at == self.heard.len() {
            (self.heard, self.heard_at) = (Vec::new(), 0);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Greeted<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.unsaid == 0 {
            return Pin::new(&mut self.stream).poll_write(cx, buf);
        }
        let len = self.unsaid.min(buf.len());
        let expected = &PREFACE[PREFACE.len() - self.unsaid..][..len];
        if buf[..len] != *expected {
            return Poll::Ready(Err(io::Error::other("an HTTP/2 connection begins with its preface")));
        }
        self.unsaid -= len;
        Poll::Ready(Ok(len))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.unsaid == 0 {
            return Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        }
        let first = bufs.iter().find(|buf| !buf.is_empty()).map_or(&[][..], |buf| buf);
        let written = ready!(self.poll_write(cx, first))?;
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_told_apart() {
        let check = |bytes: [u8; 9], expect| assert_eq!(Answer::of(&bytes), expect, "{bytes:?}");
        check([0, 0, 0, 4, 0, 0, 0, 0, 0], Answer::Http2);
        check([0, 0, 18, 4, 0, 0, 0, 0, 0], Answer::Http2);
        check([0, 0, 0, 4, 1, 0, 0, 0, 0], Answer::Unknown);
        check([0, 0, 5, 4, 0, 0, 0, 0, 0], Answer::Unknown);
        check([0, 0, 6, 4, 0, 0, 0, 0, 1], Answer::Unknown);
        check(*b"HTTP/1.1 ", Answer::Unknown);
        check([0x15, 3, 3, 0, 2, 2, 10, 0, 0], Answer::TlsAlert);
        check([0x15, 3, 1, 0, 2, 2, 70, 0, 0], Answer::TlsAlert);
        check([0; 9], Answer::Unknown);
    }

    #[tokio::test]
    async fn both_ends_hear_and_say_everything_once() {
        let (near, far) = tokio::io::duplex(64);
        let server = tokio::spawn(async move {
            let mut greeted = Greeted::by_server(far).await.unwrap().unwrap();
            greeted.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
            let mut heard = [0; 27];
            greeted.read_exact(&mut heard).await.unwrap();
            heard
        });
        let (answer, mut greeted) = Greeted::by_client(near).await.unwrap().unwrap();
        assert_eq!(answer, Answer::Http2);
        // In parts, as hyper may.
        greeted.write_all(&PREFACE[..10]).await.unwrap();
        greeted.write_all(&[&PREFACE[10..], b"new"].concat()).await.unwrap();
        let mut heard = [0; 9];
        greeted.read_exact(&mut heard).await.unwrap();
        assert_eq!(heard, [0, 0, 0, 4, 0, 0, 0, 0, 0]);
        assert_eq!(server.await.unwrap()[..], [&PREFACE[..], b"new"].concat());
    }

    #[tokio::test]
    async fn another_preface_ends_the_greeting_at_its_first_wrong_byte() {
        let (mut near, far) = tokio::io::duplex(64);
        near.write_all(b"PRI * HTTP/1").await.unwrap();
        assert!(Greeted::by_server(far).await.unwrap().is_none());
    }
}

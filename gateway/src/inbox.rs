//! Bytes of objects as a caller sends them: parts and a trailer, of one object or of several in a row.
//!
//! Invariant: an object's bytes have an end only if its trailer has come and has their checksum. So much as one part waits
//! between the caller and whoever reads, and more is not taken from the network.

use std::{
    convert::Infallible,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf as _, Bytes};
use crc_fast::{CrcAlgorithm::Crc32Iscsi, Digest};
use futures::FutureExt as _;
use tokio::{
    io::{AsyncRead, ReadBuf},
    sync::mpsc,
};
use tonic::{Code, Streaming};
use xdpfs_proto::object::v1 as proto;

use crate::{metrics::CallMetrics, reason::Reason, refusal::Refusal};

/// Bytes of one part.
pub(crate) const PART_BYTES_MAX: usize = 1 << 20;
/// Who has begun a stream says within so long what it is to be: until then it has a place and nothing to show for it.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// Parts that wait to be read.
const PARTS_WAITING_MAX: usize = 1;

/// A message of a stream that carries bytes.
#[derive(Debug)]
pub(crate) enum Step<H> {
    Header(H),
    /// None of those that there are.
    Nothing,
    Part(Bytes),
    Trailer(proto::Trailer),
}

/// A kind of stream that carries bytes.
pub(crate) trait Upload {
    /// What it begins with.
    type Header;

    /// The message as a step of it.
    fn into_step(self) -> Step<Self::Header>;
}

/// What a caller sends.
#[derive(Debug)]
pub(crate) struct Inbox<M> {
    stream: Streaming<M>,
    /// A caller that says nothing for so long has gone.
    idle_max: Duration,
    metrics: Arc<CallMetrics>,
}

/// The bytes of one object, to be read.
#[derive(Debug)]
pub(crate) struct Body {
    parts: mpsc::Receiver<Result<Bytes, Refusal>>,
    current: Bytes,
    has_ended: bool,
}

/// Where the bytes of one object go.
#[derive(Debug)]
pub(crate) struct BodySender(mpsc::Sender<Result<Bytes, Refusal>>);

/// An object's bytes that are to come.
pub(crate) fn body() -> (BodySender, Body) {
    let (sender, parts) = mpsc::channel(PARTS_WAITING_MAX);
    (BodySender(sender), Body { parts, current: Bytes::new(), has_ended: false })
}

impl<M: Upload> Inbox<M> {
    pub(crate) const fn new(stream: Streaming<M>, idle_max: Duration, metrics: Arc<CallMetrics>) -> Self {
        Self { stream, idle_max, metrics }
    }

    /// The header, which comes first.
    pub(crate) async fn header(&mut self) -> Result<M::Header, Refusal> {
        match self.next(self.idle_max.min(HEADER_TIMEOUT)).await? {
            Some(Step::Header(header)) => Ok(header),
            _ => Err(Refusal::invalid("header", "the first message of the stream must be its header")),
        }
    }

    /// Hands the bytes of all objects on, one after the other. Whoever reads them hears what is wrong with them; the caller
    /// is heard no more then. Never ends by itself.
    pub(crate) async fn hand_on(mut self, bodies: Vec<BodySender>) -> Infallible {
        let last = bodies.len();
        for (body, number) in bodies.into_iter().zip(1..) {
            let mut handed_on = self.hand_on_one(&body).await;
            if number == last {
                handed_on = handed_on.and_then(|()| self.expect_end());
            }
            let is_refused = handed_on.is_err();
            // An empty part is the end: no caller can send one. Nobody reads it if the put has failed already.
            let _unread = body.0.send(handed_on.map(|()| Bytes::new())).await;
            if is_refused {
                break;
            }
        }
        std::future::pending().await
    }

    async fn hand_on_one(&mut self, body: &BodySender) -> Result<(), Refusal> {
        let mut digest = Digest::new(Crc32Iscsi);
        loop {
            match self.next(self.idle_max).await? {
                Some(Step::Part(part)) => {
                    check_part(&part)?;
                    self.metrics.note_received(part.len());
                    digest.update(&part);
                    let unread = |_| Refusal::new(Reason::Internal, "the bytes are not wanted any more");
                    body.0.send(Ok(part)).await.map_err(unread)?;
                }
                Some(Step::Trailer(trailer)) => {
                    return check_sum(&trailer, digest.finalize() as u32);
                }
                Some(Step::Header(_)) => {
                    return Err(Refusal::invalid("header", "there can be only one header, at the beginning"));
                }
                Some(Step::Nothing) => {
                    return Err(Refusal::invalid("step", "a message is a header, a part or a trailer"));
                }
                None => {
                    let words = "the stream ended without a trailer: nothing is stored";
                    return Err(Refusal::new(Reason::UploadIncomplete, words));
                }
            }
        }
    }

    /// Whether nothing is there behind the last trailer. Nobody waits for it: a caller may end its stream when it likes.
    fn expect_end(&mut self) -> Result<(), Refusal> {
        match self.stream.message().now_or_never() {
            Some(Ok(Some(_))) => Err(Refusal::invalid("step", "nothing comes behind the last trailer")),
            Some(Ok(None) | Err(_)) | None => Ok(()),
        }
    }

    async fn next(&mut self, patience: Duration) -> Result<Option<Step<M::Header>>, Refusal> {
        let message = tokio::time::timeout(patience, self.stream.message()).await.map_err(|_| silent())?;
        let message = message.map_err(|status| match status.code() {
            // What tonic says of a message that is too large.
            Code::OutOfRange => too_large(),
            // What its body says of it.
            Code::DeadlineExceeded => silent(),
            // It makes no sense, or was cut off.
            _ => Refusal::new(
                Reason::UploadIncomplete,
                format!("the stream can't be read: {}", status.message()),
            ),
        })?;
        Ok(message.map(M::into_step))
    }
}

pub(crate) fn silent() -> Refusal {
    Refusal::new(Reason::DeadlineExceeded, "the caller has sent nothing for too long")
}

fn check_part(part: &Bytes) -> Result<(), Refusal> {
    match part.len() {
        0 => Err(Refusal::invalid("part", "a part has at least one byte: an empty object has no parts")),
        1..=PART_BYTES_MAX => Ok(()),
        _ => Err(too_large()),
    }
}

fn too_large() -> Refusal {
    Refusal::invalid("part", format!("a part has more than {PART_BYTES_MAX} bytes"))
}

fn check_sum(trailer: &proto::Trailer, of_bytes: u32) -> Result<(), Refusal> {
    if trailer.crc32c == of_bytes {
        return Ok(());
    }
    let words = format!(
        "the trailer says CRC32C {:08x}, the bytes have {of_bytes:08x}: nothing is stored",
        trailer.crc32c
    );
    Err(Refusal::new(Reason::ChecksumMismatch, words))
}

impl AsyncRead for Body {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.current.is_empty() && !self.has_ended {
            let gone = || Err(Refusal::new(Reason::UploadIncomplete, "the stream ended too early"));
            match ready!(self.parts.poll_recv(cx)).unwrap_or_else(gone) {
                Ok(end) if end.is_empty() => self.has_ended = true,
                Ok(part) => self.current = part,
                Err(refusal) => return Poll::Ready(Err(refusal.into_io())),
            }
        }
        let taken = self.current.len().min(buf.remaining());
        buf.put_slice(&self.current[..taken]);
        self.current.advance(taken);
        Poll::Ready(Ok(()))
    }
}

impl Upload for proto::PutObjectRequest {
    type Header = proto::PutObjectHeader;

    fn into_step(self) -> Step<Self::Header> {
        use proto::put_object_request::Step as Wire;
        match self.step {
            Some(Wire::Header(header)) => Step::Header(header),
            Some(Wire::Part(part)) => Step::Part(part),
            Some(Wire::Trailer(trailer)) => Step::Trailer(trailer),
            None => Step::Nothing,
        }
    }
}

impl Upload for proto::CommitBatchRequest {
    type Header = proto::CommitBatchHeader;

    fn into_step(self) -> Step<Self::Header> {
        use proto::commit_batch_request::Step as Wire;
        match self.step {
            Some(Wire::Header(header)) => Step::Header(header),
            Some(Wire::Part(part)) => Step::Part(part),
            Some(Wire::Trailer(trailer)) => Step::Trailer(trailer),
            None => Step::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;

    use super::*;

    #[tokio::test]
    async fn body_ends_by_its_trailer_alone() {
        let (sender, mut whole) = body();
        let feed = async {
            sender.0.send(Ok(Bytes::from_static(b"all "))).await.unwrap();
            sender.0.send(Ok(Bytes::from_static(b"of it"))).await.unwrap();
            sender.0.send(Ok(Bytes::new())).await.unwrap();
        };
        let mut text = String::new();
        let (read, ()) = tokio::join!(whole.read_to_string(&mut text), feed);
        assert_eq!((read.unwrap(), text.as_str()), (9, "all of it"));

        let (sender, mut cut_off) = body();
        sender.0.send(Ok(Bytes::from_static(b"half"))).await.unwrap();
        drop(sender);
        let error = cut_off.read_to_end(&mut Vec::new()).await.unwrap_err();
        let refusal = error.get_ref().unwrap().downcast_ref::<Refusal>().unwrap();
        assert_eq!(refusal.reason(), Reason::UploadIncomplete);
    }

    #[test]
    fn parts_have_bytes_and_no_more_than_they_may() {
        assert!(check_part(&Bytes::new()).is_err());
        assert!(check_part(&Bytes::from(vec![0; 1])).is_ok());
        assert!(check_part(&Bytes::from(vec![0; PART_BYTES_MAX])).is_ok());
        assert!(check_part(&Bytes::from(vec![0; PART_BYTES_MAX + 1])).is_err());
    }

    #[test]
    fn checksum_is_castagnolis() {
        // RFC 3720 §B.4: the CRC32C of 32 bytes of zeros.
        let mut digest = Digest::new(Crc32Iscsi);
        digest.update(&[0; 32]);
        let sum = digest.finalize() as u32;
        assert!(check_sum(&proto::Trailer { crc32c: 0x8a91_36aa }, sum).is_ok());
        let wrong = check_sum(&proto::Trailer { crc32c: 0 }, sum).unwrap_err();
        assert_eq!(wrong.reason(), Reason::ChecksumMismatch);
    }
}

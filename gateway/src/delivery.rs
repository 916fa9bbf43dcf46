//! Bytes of an object on their way to a caller: a header, parts and a trailer.
//!
//! Invariant: a stream without its trailer ends with an error, never well. Who takes nothing for too long is given up, and
//! who goes away has what was being read for it given up at once.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError, Weak},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use crc_fast::{CrcAlgorithm::Crc32Iscsi, Digest};
use futures::{Stream, StreamExt as _};
use tokio::sync::mpsc::{self, error::SendTimeoutError};
use tonic::{Code, Status};
use xdpfs_client::GetStream;
use xdpfs_proto::object::v1::{self as proto, get_object_response::Step};

use crate::{call::Call, inbox::PART_BYTES_MAX, message, reason::Reason, refusal::Refusal};

/// Messages that wait for the network.
const MESSAGES_WAITING_MAX: usize = 1;

type Message = Result<proto::GetObjectResponse, Status>;
/// What waits for the network. The caller's end alone keeps it.
type Waiting = Mutex<mpsc::Receiver<Message>>;

/// What a caller gets.
#[derive(Debug)]
pub(crate) struct Delivery {
    messages: Arc<Waiting>,
    /// Its last message was given.
    is_over: bool,
}

/// Why no more is delivered.
enum Stopped {
    /// Nobody takes it.
    Gone,
    /// It was not taken in time.
    Idle,
    Refused(Refusal),
}

impl Delivery {
    /// Begins to deliver.
    pub(crate) fn begin(object: GetStream, call: Call, idle_max: Duration) -> Self {
        let (sender, messages) = mpsc::channel(MESSAGES_WAITING_MAX);
        let messages = Arc::new(Mutex::new(messages));
        let waiting = Arc::downgrade(&messages);
        tokio::spawn(deliver(object, call, Outbox { sender, waiting, idle_max }));
        Self { messages, is_over: false }
    }
}

async fn deliver(object: GetStream, mut call: Call, outbox: Outbox) {
    let metrics = call.meter.metrics().clone();
    let all = async { send_all(object, &outbox, |bytes| metrics.note_sent(bytes)).await };
    let limits = call.limits.clone();
    let delivered = tokio::select! {
        delivered = limits.within(async { Ok(all.await) }) => delivered.unwrap_or_else(|refusal| Err(Stopped::Refused(refusal))),
        () = outbox.sender.closed() => Err(Stopped::Gone),
    };
    match delivered {
        Ok(()) => call.meter.ends(Code::Ok),
        Err(Stopped::Gone) => {}
        // The end of the channel says it.
        Err(Stopped::Idle) => {
            outbox.clear();
            call.meter.ends(Reason::DeadlineExceeded.code());
        }
        Err(Stopped::Refused(refusal)) => {
            let status = call.refuse(refusal);
            // Whoever does not take this either hears of an end all the same.
            let _untaken = outbox.sender.send_timeout(Err(status), outbox.idle_max).await;
        }
    }
}

async fn send_all(mut object: GetStream, outbox: &Outbox, sent: impl Fn(usize)) -> Result<(), Stopped> {
    let range = object.range();
    outbox
        .send(Step::Header(proto::GetObjectHeader {
            object: Some(message::object(object.object().clone())),
            offset: range.start,
            length: range.end - range.start,
        }))
        .await?;
    let mut digest = Digest::new(Crc32Iscsi);
    while let Some(block) = object.next().await {
        let mut block: Bytes = block.map_err(|error| Stopped::Refused(error.into()))?;
        while !block.is_empty() {
            let part = block.split_to(block.len().min(PART_BYTES_MAX));
            digest.update(&part);
            let bytes = part.len();
            outbox.send(Step::Part(part)).await?;
            sent(bytes);
        }
    }
    outbox.send(Step::Trailer(proto::Trailer { crc32c: digest.finalize() as u32 })).await
}

#[derive(Debug)]
struct Outbox {
    sender: mpsc::Sender<Message>,
    waiting: Weak<Waiting>,
    /// How long a caller may take nothing.
    idle_max: Duration,
}

impl Outbox {
    async fn send(&self, step: Step) -> Result<(), Stopped> {
        let message = proto::GetObjectResponse { step: Some(step) };
        self.sender.send_timeout(Ok(message), self.idle_max).await.map_err(|error| match error {
            SendTimeoutError::Closed(_) => Stopped::Gone,
            SendTimeoutError::Timeout(_) => Stopped::Idle,
        })
    }
}

impl Outbox {
    /// Forgets what nobody takes: the stream may stay as it is for as long as its connection.
    fn clear(&self) {
        if let Some(waiting) = self.waiting.upgrade() {
            let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
            while waiting.try_recv().is_ok() {}
        }
    }
}

impl Stream for Delivery {
    type Item = Message;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Message>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        let received = self.messages.lock().unwrap_or_else(PoisonError::into_inner).poll_recv(cx);
        let message = ready!(received).unwrap_or_else(|| {
            let words = "the caller has taken nothing for too long";
            Err(Refusal::new(Reason::DeadlineExceeded, words).into())
        });
        let is_last = |message: &proto::GetObjectResponse| matches!(message.step, Some(Step::Trailer(_)));
        self.is_over = message.as_ref().map_or(true, is_last);
        Poll::Ready(Some(message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begun() -> (mpsc::Sender<Message>, Delivery) {
        let (sender, messages) = mpsc::channel(4);
        (sender, Delivery { messages: Arc::new(Mutex::new(messages)), is_over: false })
    }

    fn message(step: Step) -> Message {
        Ok(proto::GetObjectResponse { step: Some(step) })
    }

    #[tokio::test]
    async fn stream_ends_well_behind_its_trailer_only() {
        let (sender, delivery) = begun();
        sender.send(message(Step::Part(Bytes::from_static(b"x")))).await.unwrap();
        drop(sender);
        let got: Vec<_> = delivery.collect().await;
        assert_eq!(got.len(), 2);
        assert_eq!(got[1].as_ref().unwrap_err().code(), Code::DeadlineExceeded);

        let (sender, delivery) = begun();
        sender.send(message(Step::Trailer(proto::Trailer::default()))).await.unwrap();
        drop(sender);
        let got: Vec<_> = delivery.collect().await;
        assert!(got.len() == 1 && got[0].is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_nothing_is_given_up() {
        let (sender, messages) = mpsc::channel(1);
        let messages = Arc::new(Mutex::new(messages));
        let waiting = Arc::downgrade(&messages);
        let outbox = Outbox { sender, waiting, idle_max: Duration::from_secs(60) };
        assert!(outbox.send(Step::Part(Bytes::new())).await.is_ok());
        assert!(matches!(outbox.send(Step::Part(Bytes::new())).await, Err(Stopped::Idle)));
        outbox.clear();
        assert!(messages.lock().unwrap().is_empty(), "what nobody takes is not kept");
    }
}

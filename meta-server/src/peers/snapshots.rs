//! Sends a snapshot to one peer, in parts over a connection of its own.
//!
//! Invariant: at most one at a time per peer, and consensus is always told how it ended: it sends nothing else to the
//! peer before it knows.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use raft::{SnapshotStatus, eraftpb::Message};
use tokio::sync::{Notify, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use xdpfs_proto::raft::v1::{self as pb, raft_service_client::RaftServiceClient};

use super::{Lane, RETRY_FIRST};
use crate::{
    blocking,
    consensus::{Input, message_to_wire},
    storage::{PART_LEN_MAX, SnapshotMeta, SnapshotSource, StoreError, crc32c, crc32c_combine},
};

/// Bytes of the state in one request.
pub(super) const REQUEST_PART_BYTES_MAX: usize = 1 << 20;
const STORED_PARTS_PER_REQUEST: u32 = (REQUEST_PART_BYTES_MAX / PART_LEN_MAX) as u32;
/// Requests between the store and the connection.
const REQUESTS_MAX: usize = 2;
/// From the first byte until it is installed.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(600);

/// The snapshot that waits for its turn. A newer one replaces it: one report at the end serves both.
#[derive(Debug, Default)]
pub(super) struct SnapshotSlot {
    message: Mutex<Option<Message>>,
    filled: Notify,
}

pub(super) struct SnapshotLane<S> {
    pub(super) lane: Lane,
    pub(super) slot: Arc<SnapshotSlot>,
    pub(super) source: S,
}

/// Why a snapshot did not arrive.
#[derive(Debug, thiserror::Error)]
enum SendError {
    #[error("the peer cannot be reached")]
    Connect(#[from] tonic::transport::Error),
    #[error("the snapshot has been replaced by a newer one")]
    Gone,
    #[error("the peer did not take it: {}", .0.message())]
    Refused(#[from] Status),
    #[error("the snapshot cannot be read")]
    Store(#[from] StoreError),
    #[error("it took too long")]
    TimedOut,
}

impl SnapshotSlot {
    pub(super) fn put(&self, message: Message) {
        *self.message.lock().unwrap_or_else(PoisonError::into_inner) = Some(message);
        self.filled.notify_one();
    }

    async fn take(&self) -> Message {
        loop {
            let message = self.message.lock().unwrap_or_else(PoisonError::into_inner).take();
            match message {
                Some(message) => return message,
                None => self.filled.notified().await,
            }
        }
    }
}

impl<S: SnapshotSource> SnapshotLane<S> {
    /// Works until the server stops.
    pub(super) async fn run(self) {
        let stop = self.lane.stop.clone();
        stop.run_until_cancelled(self.send_for_ever()).await;
    }

    async fn send_for_ever(&self) {
        loop {
            let message = self.slot.take().await;
            let (peer, index) = (self.lane.peer, message.get_snapshot().get_metadata().index);
            let sent = tokio::time::timeout(SNAPSHOT_TIMEOUT, self.send(&message)).await;
            let status = match sent.unwrap_or(Err(SendError::TimedOut)) {
                Ok(()) => {
                    tracing::info!(peer, index, "a snapshot was installed by a peer");
                    SnapshotStatus::Finish
                }
                Err(error) => {
                    tracing::warn!(peer, index, error = %Causes(&error), "a snapshot was not sent");
                    if matches!(error, SendError::Connect(_)) {
                        self.lane.look_elsewhere();
                    }
                    SnapshotStatus::Failure
                }
            };
            self.report(status).await;
        }
    }

    /// The raft loop may have no room just now, but it must hear this.
    async fn report(&self, status: SnapshotStatus) {
        while !self.lane.inputs.offer(Input::SnapshotSent(self.lane.peer, status)) {
            tokio::time::sleep(RETRY_FIRST).await;
        }
    }

    async fn send(&self, message: &Message) -> Result<(), SendError> {
        let meta = SnapshotMeta::decode(&message.get_snapshot().data)?;
        let channel = self.lane.connect().await?;
        self.lane.greet(channel.clone()).await?;
        let mut client = RaftServiceClient::new(channel);
        let (requests, stream) = mpsc::channel(REQUESTS_MAX);
        let call = client.send_snapshot(ReceiverStream::new(stream));
        let feed = self.feed(message, &meta, requests);
        // A receiver that refuses ends the stream, which is no error of the feed.
        let (answer, fed) = tokio::join!(call, feed);
        fed?;
        answer?;
        Ok(())
    }

    async fn feed(
        &self,
        message: &Message,
        meta: &SnapshotMeta,
        requests: mpsc::Sender<pb::SendSnapshotRequest>,
    ) -> Result<(), SendError> {
        let mut message = Some(message_to_wire(message));
        let (mut next, mut total_crc32c) = (0, 0);
        loop {
            let Ok(room) = requests.reserve().await else { return Ok(()) };
            let end = (next + STORED_PARTS_PER_REQUEST).min(meta.parts);
            let part = self.read(meta.generation, next..end).await?;
            let part_crc32c = crc32c(&part);
            total_crc32c = crc32c_combine(total_crc32c, part_crc32c, part.len() as u64);
            let last = end == meta.parts;
            room.send(pb::SendSnapshotRequest {
                cluster_id: self.lane.cluster_id(),
                message: message.take(),
                part,
                part_crc32c,
                last,
                total_bytes: if last { meta.total_bytes } else { 0 },
                total_crc32c: if last { total_crc32c } else { 0 },
            });
            if last {
                return Ok(());
            }
            next = end;
        }
    }

    async fn read(&self, generation: u64, parts: std::ops::Range<u32>) -> Result<Bytes, SendError> {
        let source = self.source.clone();
        let read = blocking::run(move || {
            let mut bytes = BytesMut::new();
            for part in parts {
                let stored = source.part(generation, part)?.ok_or(SendError::Gone)?;
                bytes.extend_from_slice(&stored);
            }
            Ok(bytes.freeze())
        });
        // The task is lost only if the runtime ends.
        read.await.unwrap_or(Err(SendError::Gone))
    }
}

/// An error with its causes, in one line.
struct Causes<'a>(&'a dyn std::error::Error);

impl std::fmt::Display for Causes<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

//! Sends messages to one peer, over one stream for as long as the connection lasts.

use std::{sync::Arc, time::Duration};

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, transport::Channel};
use tonic_types::StatusExt as _;
use xdpfs_proto::raft::v1::{self as pb, SendMessagesRequest, raft_service_client::RaftServiceClient};
use xdpfs_trust::{DialError, Mismatch};

use super::{Addresses, Lane, PEER_REQUEST_BYTES_MAX, RETRY_FIRST, RETRY_LONGEST, queue::MessageQueue};
use crate::{
    consensus::{Checkpoint, Input, message_to_wire},
    service::DOMAIN,
    state_machine::{FeatureLevel, Reason},
};

/// Batches between the queue and the connection: a second one is made ready while the first is written.
const BATCHES_MAX: usize = 2;

pub(super) struct MessageLane {
    pub(super) lane: Lane,
    pub(super) queue: Arc<MessageQueue>,
}

impl MessageLane {
    /// Works until the server stops, or the peer is no member any more.
    pub(super) async fn run(self) {
        let stop = self.lane.stop.clone();
        stop.run_until_cancelled(self.send_for_ever()).await;
    }

    async fn send_for_ever(&self) {
        let peer = self.lane.peer;
        let mut pause = RETRY_FIRST;
        // Said once, and again if it becomes another.
        let mut told: Option<Mismatch> = None;
        loop {
            self.queue.wait().await;
            match self.lane.connect().await {
                Ok(channel) => {
                    tracing::debug!(peer, "connected");
                    told = None;
                    pause = RETRY_FIRST;
                    let ended = match self.lane.greet(channel.clone()).await {
                        Ok(theirs) => self.send_over(channel, theirs).await,
                        Err(refused) => refused,
                    };
                    tracing::debug!(peer, error = ended.message(), "the connection has ended");
                    if is_removed(&ended) {
                        self.lane.inputs.offer(Input::Removed);
                    }
                    if ended.code() == tonic::Code::FailedPrecondition {
                        self.tell(ended.message());
                        pause = RETRY_LONGEST;
                    }
                }
                Err(error) => match DialError::mismatch_in(&error) {
                    Some(mismatch) if told.as_ref() != Some(mismatch) => {
                        tracing::warn!(peer, %mismatch, "a peer cannot be spoken to");
                        told = Some(mismatch.clone());
                    }
                    _ => tracing::debug!(peer, %error, "a peer cannot be reached"),
                },
            }
            self.lane.look_elsewhere();
            self.queue.clear();
            self.lane.inputs.offer(Input::Unreachable(peer));
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY_LONGEST);
        }
    }

    fn tell(&self, error: &str) {
        tracing::warn!(peer = self.lane.peer, error, "a peer and this server do not go together");
    }

    /// Gives the reason for which the stream ended.
    async fn send_over(&self, channel: Channel, theirs: FeatureLevel) -> Status {
        let mut client = RaftServiceClient::new(channel).max_encoding_message_size(PEER_REQUEST_BYTES_MAX);
        let (batches, stream) = mpsc::channel(BATCHES_MAX);
        tokio::select! {
            answer = client.send_messages(ReceiverStream::new(stream)) => {
                answer.err().unwrap_or_else(|| Status::unavailable("the peer has ended the stream"))
            }
            () = self.feed(batches, theirs) => self.lane.check_level(theirs).err().unwrap_or_else(|| {
                Status::unavailable("the stream is closed")
            }),
        }
    }

    /// Room comes before messages, so that none waits outside of the queue.
    async fn feed(&self, batches: mpsc::Sender<SendMessagesRequest>, theirs: FeatureLevel) {
        let mut told = Told::default();
        while let Ok(room) = batches.reserve().await {
            let messages = self.queue.next_batch().await;
            // The cluster may have gone on without a peer that was silent.
            if self.lane.check_level(theirs).is_err() {
                return;
            }
            let messages = messages.iter().map(message_to_wire).collect();
            let Addresses { peer: peer_address, client: client_address } = self.lane.own_addresses.clone();
            let cluster_id = self.lane.cluster_id();
            let feature_level = self.lane.programs.own().feature_level.0;
            room.send(SendMessagesRequest {
                cluster_id,
                messages,
                peer_address,
                client_address,
                feature_level,
                checkpoints: news(&mut told.own, self.lane.fingerprints.own()),
                agreed_checkpoints: news(&mut told.agreed, self.lane.fingerprints.agreed()),
            });
        }
        // The stream is gone; its call says why.
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// What a peer was told on this connection.
#[derive(Debug, Default)]
struct Told {
    own: Vec<Checkpoint>,
    agreed: Vec<Checkpoint>,
}

/// All of it, if it is not what was told last.
fn news(told: &mut Vec<Checkpoint>, now: Vec<Checkpoint>) -> Vec<pb::Checkpoint> {
    if *told == now {
        return Vec::new();
    }
    told.clone_from(&now);
    now.into_iter().map(|Checkpoint { index, fingerprint }| pb::Checkpoint { index, fingerprint }).collect()
}

/// Whether the peer says that this server is no member any more. Ids are never used again, so that is for good.
fn is_removed(status: &Status) -> bool {
    let info = status.get_details_error_info();
    info.is_some_and(|info| info.domain == DOMAIN && info.reason == Reason::MemberRemoved.as_str())
}

//! Traffic with the other servers: one lane per peer and direction, and a second one for snapshots, so that a snapshot
//! never delays a heartbeat.
//!
//! Invariant: handing a message over never blocks and never waits for the network. What is lost is reported to
//! consensus; what became of a snapshot is always reported.

mod messages;
mod queue;
mod receive;
mod snapshots;

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
    time::Duration,
};

use raft::eraftpb::{Message, MessageType};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint, Server};
use xdpfs_trust::Dialer;

pub(crate) use self::receive::RaftReceiver;
use self::{
    messages::MessageLane,
    queue::MessageQueue,
    snapshots::{SnapshotLane, SnapshotSlot},
};
use crate::{
    config::Member,
    consensus::{Input, InputSender, Outbox},
    storage::SnapshotSource,
};

/// The largest request between servers: a batch ends with the message that fills it, and one message is at most one
/// entry larger than consensus makes it.
const PEER_REQUEST_BYTES_MAX: usize = 96 << 20;
/// From the first packet until the peer has answered in HTTP/2.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a silent connection is trusted, and then how long its peer has to answer a ping. Without them a lost
/// connection is noticed only after minutes.
const KEEPALIVE_INTERVAL: Duration = Duration::from_millis(300);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(1);
/// Each peer has one stream for messages and at times one for a snapshot.
const STREAMS_PER_CONNECTION_MAX: u32 = 8;
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;
/// Waits between attempts to reach a peer: short, because a server that comes back should be heard of within an
/// election.
const RETRY_FIRST: Duration = Duration::from_millis(20);
const RETRY_LONGEST: Duration = Duration::from_millis(300);

/// Where consensus puts its messages.
#[derive(Clone, Debug)]
pub(crate) struct PeerOutbox {
    peers: Arc<BTreeMap<u64, Peer>>,
    inputs: InputSender,
}

#[derive(Debug)]
struct Peer {
    queue: Arc<MessageQueue>,
    snapshot: Arc<SnapshotSlot>,
}

/// What all lanes have in common.
#[derive(Clone, Debug)]
struct Lane {
    peer: Member,
    dialer: Dialer,
    inputs: InputSender,
    cluster_id: Arc<OnceLock<String>>,
    stop: CancellationToken,
}

impl PeerOutbox {
    /// Starts the lanes to `peers` on the current runtime; they end with `stop`.
    pub(crate) fn start(
        peers: impl Iterator<Item = Member>,
        dialer: Dialer,
        inputs: InputSender,
        cluster_id: &Arc<OnceLock<String>>,
        snapshots: &impl SnapshotSource,
        stop: &CancellationToken,
    ) -> Self {
        let start_lanes = |peer: Member| {
            let id = peer.id;
            let lane = Lane {
                peer,
                dialer: dialer.clone(),
                inputs: inputs.clone(),
                cluster_id: Arc::clone(cluster_id),
                stop: stop.clone(),
            };
            let queue = Arc::new(MessageQueue::default());
            let slot = Arc::new(SnapshotSlot::default());
            tokio::spawn(MessageLane { lane: lane.clone(), queue: Arc::clone(&queue) }.run());
            tokio::spawn(SnapshotLane { lane, slot: Arc::clone(&slot), source: snapshots.clone() }.run());
            (id, Peer { queue, snapshot: slot })
        };
        Self { peers: Arc::new(peers.map(start_lanes).collect()), inputs }
    }
}

/// How other servers are listened to.
pub(crate) fn server() -> Server {
    Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .max_concurrent_streams(STREAMS_PER_CONNECTION_MAX)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
}

impl Outbox for PeerOutbox {
    fn send(&self, message: Message) {
        let Some(peer) = self.peers.get(&message.to) else { return };
        if message.get_msg_type() == MessageType::MsgSnapshot {
            peer.snapshot.put(message);
            return;
        }
        let to = message.to;
        if !peer.queue.push(message) {
            self.inputs.offer(Input::Unreachable(to));
        }
    }
}

impl Lane {
    fn cluster_id(&self) -> String {
        self.cluster_id.get().cloned().unwrap_or_default()
    }

    async fn connect(&self) -> Result<Channel, tonic::transport::Error> {
        let endpoint = Endpoint::from_shared(self.dialer.uri(&self.peer.peer_address))?;
        endpoint
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .connect_with_connector(self.dialer.clone())
            .await
    }
}

//! Traffic with the other servers: one lane per peer and direction, and a second one for snapshots, so that a snapshot
//! never delays a heartbeat.
//!
//! Invariant: handing a message over never blocks and never waits for the network. What is lost is reported to
//! consensus; what became of a snapshot is always reported.

mod greeting;
mod messages;
mod queue;
mod receive;
mod snapshots;
mod traffic;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, OnceLock, PoisonError, RwLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use raft::{
    SnapshotStatus,
    eraftpb::{Message, MessageType},
};
use tokio::runtime::Handle;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::transport::{Channel, Endpoint, Server};
use xdpfs_trust::Dialer;

use self::{
    messages::MessageLane,
    queue::MessageQueue,
    snapshots::{SnapshotLane, SnapshotSlot},
};
pub(crate) use self::{receive::RaftReceiver, traffic::Traffic};
use crate::{
    config::is_host_and_port,
    consensus::{Fingerprints, Input, InputSender, Outbox, Programs},
    state_machine::Members,
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
/// Servers that speak to this one before it has heard of them.
const STRANGERS_MAX: usize = 8;
const ADDRESS_BYTES_MAX: usize = 256;
/// Waits between attempts to reach a peer: short, because a server that comes back should be heard of within an
/// election.
const RETRY_FIRST: Duration = Duration::from_millis(20);
const RETRY_LONGEST: Duration = Duration::from_millis(300);

/// Where consensus puts its messages. Clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct PeerOutbox<S> {
    lanes: Arc<RwLock<BTreeMap<u64, Peer>>>,
    wiring: Wiring<S>,
    traffic: Traffic,
}

/// The lanes to one peer; they end when this is dropped.
#[derive(Debug)]
struct Peer {
    /// Where it is by the list of members, when this was made.
    listed: String,
    /// Where it is by its own word, if it has said.
    said: Option<String>,
    /// It has spoken, and is not yet among the members that this server has heard of.
    is_stranger: bool,
    queue: Arc<MessageQueue>,
    snapshot: Arc<SnapshotSlot>,
    _ends: DropGuard,
}

/// What new lanes are made with.
#[derive(Clone, Debug)]
pub(crate) struct Wiring<S> {
    /// This server.
    pub(crate) own: u64,
    /// Where it listens, by its own word.
    pub(crate) own_addresses: Addresses,
    /// Where others are by the configuration: tried as well, since a whole cluster may have moved.
    pub(crate) configured: BTreeMap<u64, String>,
    /// How to reach them.
    pub(crate) dialer: Dialer,
    /// Where losses are reported.
    pub(crate) inputs: InputSender,
    /// Known once the cluster has one.
    pub(crate) cluster_id: Arc<OnceLock<String>>,
    /// What the servers run.
    pub(crate) programs: Programs,
    /// What the servers' states are.
    pub(crate) fingerprints: Fingerprints,
    /// Where snapshots are read from.
    pub(crate) snapshots: S,
    /// Ends all lanes.
    pub(crate) stop: CancellationToken,
    /// Where lanes run.
    pub(crate) runtime: Handle,
}

/// Where a server is reached.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Addresses {
    /// By other servers.
    pub(crate) peer: String,
    /// By clients and data nodes.
    pub(crate) client: String,
}

/// What all lanes have in common.
#[derive(Clone, Debug)]
struct Lane {
    own: u64,
    peer: u64,
    /// Where it may be: after a failure the next one is tried.
    addresses: Vec<String>,
    turn: Arc<AtomicUsize>,
    own_addresses: Addresses,
    dialer: Dialer,
    inputs: InputSender,
    cluster_id: Arc<OnceLock<String>>,
    programs: Programs,
    fingerprints: Fingerprints,
    stop: CancellationToken,
}

impl<S: SnapshotSource> PeerOutbox<S> {
    /// Starts the lanes to `peers`, by their ids and addresses.
    pub(crate) fn start(peers: impl IntoIterator<Item = (u64, String)>, wiring: Wiring<S>) -> Self {
        let lanes = peers.into_iter().filter(|(id, _)| *id != wiring.own);
        let lanes = lanes.map(|(id, address)| (id, wiring.open(id, address, None, false))).collect();
        Self { lanes: Arc::new(RwLock::new(lanes)), wiring, traffic: Traffic::default() }
    }

    /// What it has sent.
    pub(crate) const fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    /// Starts and ends lanes until there is one to each member, at its present address. A stranger may be a member that
    /// this server has yet to hear of.
    pub(crate) fn follow(&self, members: &Members) {
        if !members.is_known() {
            return;
        }
        let others = || members.iter().filter(|member| member.id != self.wiring.own);
        let mut lanes = self.lanes.write().unwrap_or_else(PoisonError::into_inner);
        lanes.retain(|id, peer| match members.find(*id) {
            Some(member) => {
                member.peer_address == peer.listed || peer.said.as_ref() == Some(&member.peer_address)
            }
            None => peer.is_stranger && !members.is_former(*id),
        });
        for member in others() {
            let open = || self.wiring.open(member.id, member.peer_address.clone(), None, false);
            let peer = lanes.entry(member.id).or_insert_with(open);
            (peer.listed, peer.is_stranger) = (member.peer_address.clone(), false);
        }
    }

    /// Takes a sender's word for where it listens: it may have become a member without this server's knowledge, or have
    /// moved, and needs answers all the same.
    pub(crate) fn meet(&self, id: u64, address: &str) {
        let is_met = |lanes: &BTreeMap<u64, Peer>| {
            lanes.get(&id).is_some_and(|peer| peer.said.as_deref().unwrap_or(&peer.listed) == address)
        };
        let is_own = id == self.wiring.own || !is_host_and_port(address) || address.len() > ADDRESS_BYTES_MAX;
        if is_own || is_met(&self.lanes.read().unwrap_or_else(PoisonError::into_inner)) {
            return;
        }
        let mut lanes = self.lanes.write().unwrap_or_else(PoisonError::into_inner);
        if is_met(&lanes) {
            return;
        }
        let strangers = lanes.iter().filter(|(other, peer)| peer.is_stranger && **other != id).count();
        let (listed, is_stranger) = match lanes.get(&id) {
            Some(peer) => (peer.listed.clone(), peer.is_stranger),
            None if strangers < STRANGERS_MAX => (address.to_owned(), true),
            None => return,
        };
        tracing::info!(peer = id, address, "another server says where it is");
        lanes.insert(id, self.wiring.open(id, listed, Some(address.to_owned()), is_stranger));
    }
}

impl<S: SnapshotSource> Wiring<S> {
    fn open(&self, peer: u64, listed: String, said: Option<String>, is_stranger: bool) -> Peer {
        let stop = self.stop.child_token();
        let mut addresses: Vec<String> = said.iter().chain([&listed]).cloned().collect();
        addresses.extend(self.configured.get(&peer).cloned());
        addresses.dedup();
        let lane = Lane {
            own: self.own,
            peer,
            addresses,
            turn: Arc::default(),
            own_addresses: self.own_addresses.clone(),
            dialer: self.dialer.clone(),
            inputs: self.inputs.clone(),
            cluster_id: Arc::clone(&self.cluster_id),
            programs: self.programs.clone(),
            fingerprints: self.fingerprints.clone(),
            stop: stop.clone(),
        };
        let queue = Arc::new(MessageQueue::default());
        let slot = Arc::new(SnapshotSlot::default());
        self.runtime.spawn(MessageLane { lane: lane.clone(), queue: Arc::clone(&queue) }.run());
        let source = self.snapshots.clone();
        self.runtime.spawn(SnapshotLane { lane, slot: Arc::clone(&slot), source }.run());
        Peer { listed, said, is_stranger, queue, snapshot: slot, _ends: stop.drop_guard() }
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

impl<S: SnapshotSource> Outbox for PeerOutbox<S> {
    fn send(&self, message: Message) {
        let lanes = self.lanes.read().unwrap_or_else(PoisonError::into_inner);
        let Some(peer) = lanes.get(&message.to) else {
            // Nobody else would say that it got no snapshot, and it would get nothing more for ever.
            if message.get_msg_type() == MessageType::MsgSnapshot {
                self.wiring.inputs.offer(Input::SnapshotSent(message.to, SnapshotStatus::Failure));
            }
            return;
        };
        self.traffic.note(message.get_msg_type());
        if message.get_msg_type() == MessageType::MsgSnapshot {
            peer.snapshot.put(message);
            return;
        }
        let to = message.to;
        if !peer.queue.push(message) {
            self.wiring.inputs.offer(Input::Unreachable(to));
        }
    }
}

impl Lane {
    /// What it said was of no use where it is thought to be: it may be elsewhere.
    fn look_elsewhere(&self) {
        self.turn.fetch_add(1, Ordering::Relaxed);
    }

    fn cluster_id(&self) -> String {
        self.cluster_id.get().cloned().unwrap_or_default()
    }

    async fn connect(&self) -> Result<Channel, tonic::transport::Error> {
        let turn = self.turn.load(Ordering::Relaxed) % self.addresses.len();
        let endpoint = Endpoint::from_shared(self.dialer.uri(&self.addresses[turn]))?;
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

#[cfg(test)]
mod tests {
    use xdpfs_proto::state::v1::{self as pb, command::Kind};

    use super::*;
    use crate::{
        consensus::Program,
        state_machine::{FeatureLevel, State},
        storage::memory_store::Medium,
    };

    fn state(commands: impl IntoIterator<Item = Kind>) -> State {
        let member = |id: u64| pb::MetaMember {
            id,
            peer_address: format!("p{id}:1"),
            client_address: format!("c{id}:1"),
            ..Default::default()
        };
        let mut state = State::default();
        let seed = Kind::SeedMembers(pb::SeedMembers { members: (1..=3).map(member).collect() });
        for kind in std::iter::once(seed).chain(commands) {
            state.apply(1, &pb::Command { kind: Some(kind), ..Default::default() });
        }
        state
    }

    /// Of server 1, whose configuration names 1, 2 and 3.
    fn outbox() -> (PeerOutbox<Medium>, std::sync::mpsc::Receiver<Input>) {
        let (inputs, received) = InputSender::channel();
        let configured: BTreeMap<u64, String> = (1..=3).map(|id| (id, format!("p{id}:1"))).collect();
        let wiring = Wiring {
            own: 1,
            own_addresses: Addresses { peer: "p1:1".into(), client: "c1:1".into() },
            configured: configured.clone(),
            dialer: Dialer::new(None, CONNECT_TIMEOUT),
            inputs,
            cluster_id: Arc::default(),
            programs: Programs::new(Program::own(FeatureLevel::SUPPORTED)),
            fingerprints: Fingerprints::default(),
            snapshots: Medium::default(),
            stop: CancellationToken::new(),
            runtime: Handle::current(),
        };
        (PeerOutbox::start(configured, wiring), received)
    }

    fn lanes(outbox: &PeerOutbox<Medium>) -> Vec<(u64, String)> {
        let lanes = outbox.lanes.read().unwrap();
        let at = |peer: &Peer| peer.said.clone().unwrap_or_else(|| peer.listed.clone());
        lanes.iter().map(|(id, peer)| (*id, at(peer))).collect()
    }

    fn expect(list: &[(u64, &str)]) -> Vec<(u64, String)> {
        list.iter().map(|(id, address)| (*id, (*address).to_owned())).collect()
    }

    #[tokio::test]
    async fn lanes_come_and_go_with_the_members() {
        let (outbox, _received) = outbox();
        assert_eq!(lanes(&outbox), expect(&[(2, "p2:1"), (3, "p3:1")]));
        outbox.follow(State::default().members());
        assert_eq!(lanes(&outbox).len(), 2, "nobody has written down who the members are");
        let moved = pb::UpdateMember { id: 3, peer_address: "q3:1".into(), ..Default::default() };
        outbox.follow(state([Kind::UpdateMember(moved)]).members());
        assert_eq!(lanes(&outbox), expect(&[(2, "p2:1"), (3, "q3:1")]));
        let mut without = state([Kind::RemoveMember(pb::RemoveMember { id: 2 })]);
        without.configure(crate::state_machine::Configuration::of_voters([1, 3]));
        outbox.follow(without.members());
        assert_eq!(lanes(&outbox), expect(&[(3, "p3:1")]));
    }

    #[tokio::test]
    async fn server_that_is_not_yet_known_is_answered_where_it_says_that_it_is() {
        let (outbox, _received) = outbox();
        let members = state([]);
        outbox.follow(members.members());
        outbox.meet(7, "p7:1");
        outbox.meet(7, "q7:1");
        outbox.meet(8, "rubbish");
        outbox.meet(1, "p9:1");
        outbox.meet(2, "q2:1");
        let known = expect(&[(2, "q2:1"), (3, "p3:1"), (7, "q7:1")]);
        assert_eq!(lanes(&outbox), known);
        outbox.follow(members.members());
        assert_eq!(lanes(&outbox), known, "their own word counts");
        (10..40).for_each(|id| outbox.meet(id, "r:1"));
        assert_eq!(lanes(&outbox).len(), 2 + STRANGERS_MAX);
    }

    #[tokio::test]
    async fn snapshot_for_nobody_is_reported_as_lost() {
        let (outbox, received) = outbox();
        let mut message = Message { to: 9, ..Message::default() };
        message.set_msg_type(MessageType::MsgSnapshot);
        outbox.send(message);
        assert!(matches!(received.try_recv(), Ok(Input::SnapshotSent(9, SnapshotStatus::Failure))));
    }
}

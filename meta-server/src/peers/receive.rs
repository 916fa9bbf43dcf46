//! Takes in what other servers send.
//!
//! Invariant: nothing of a snapshot reaches consensus before all of it has arrived, its checksums are right and it
//! decodes; and no more than one is in memory at a time.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use raft::eraftpb::{Message, MessageType};
use tokio::sync::{Semaphore, SemaphorePermit};
use tonic::{Request, Response, Status, Streaming};
use xdpfs_proto::raft::v1::{
    self as pb, GreetRequest, GreetResponse, SendMessagesRequest, SendMessagesResponse, SendSnapshotRequest,
    SendSnapshotResponse,
    raft_service_server::{RaftService, RaftServiceServer},
};
use xdpfs_trust::Caller;

use super::{
    PEER_REQUEST_BYTES_MAX, PeerOutbox,
    greeting::{check_level, too_old},
    snapshots::REQUEST_PART_BYTES_MAX,
};
use crate::{
    blocking,
    config::is_host_and_port,
    consensus::{
        Checkpoint, Consensus, ConsensusError, ConversionError, Halt, Program, configuration_of,
        message_from_wire,
    },
    service::Refusal,
    state_machine::{FeatureLevel, Members, Reason, State},
    storage::{PART_LEN_MAX, SnapshotSource, crc32c, crc32c_combine},
};

/// The largest snapshot that a server takes. The state is held in memory, so a larger one could not be used.
const SNAPSHOT_BYTES_MAX: u64 = 4 << 30;
/// A peer that sends nothing for so long has given up.
const PART_TIMEOUT: Duration = Duration::from_secs(30);
/// From the last part until it is installed.
const INSTALL_TIMEOUT: Duration = Duration::from_secs(300);

/// The service that other servers call.
#[derive(Debug)]
pub(crate) struct RaftReceiver<S> {
    consensus: Consensus,
    outbox: PeerOutbox<S>,
    /// This server.
    own: u64,
    /// This server has joined, so that all that it knows of the others comes from them.
    has_joined: bool,
    snapshots: Arc<Semaphore>,
}

/// A snapshot on its way in.
#[derive(Debug, Default)]
struct Incoming {
    message: Option<Message>,
    bytes: BytesMut,
    crc32c: u32,
    complete: bool,
}

/// Why a peer's snapshot is refused.
#[derive(Debug, thiserror::Error)]
enum SnapshotRefusal {
    #[error("a part is damaged")]
    Checksum,
    #[error("the first part does not say what it belongs to")]
    NoMessage,
    #[error(transparent)]
    Message(#[from] ConversionError),
    #[error("the message is of another type")]
    MessageType,
    #[error("a part behind the last one, or a second message")]
    Order,
    #[error("a part is too large")]
    PartLength,
    #[error("the parts do not add up to what the last one says")]
    Total,
    #[error("it is larger than {SNAPSHOT_BYTES_MAX} bytes")]
    TooLarge,
}

impl<S: SnapshotSource> RaftReceiver<S> {
    pub(crate) fn service(
        consensus: Consensus,
        outbox: PeerOutbox<S>,
        own: u64,
        has_joined: bool,
    ) -> RaftServiceServer<Self> {
        let receiver = Self { consensus, outbox, own, has_joined, snapshots: Arc::new(Semaphore::new(1)) };
        RaftServiceServer::new(receiver).max_decoding_message_size(PEER_REQUEST_BYTES_MAX)
    }

    /// A server that does not yet know the cluster's id takes messages from everyone that it was told of.
    fn check_cluster(&self, theirs: &str) -> Result<(), Status> {
        match self.consensus.cluster_id() {
            Some(ours) if !theirs.is_empty() && ours != theirs => {
                Err(Refusal::new(Reason::WrongCluster, "the sender belongs to another cluster").into())
            }
            _ => Ok(()),
        }
    }

    fn check_sender(&self, sender: Option<&str>, message: &Message) -> Result<(), Status> {
        let members = self.consensus.members();
        if self.has_joined && !members.is_known() {
            return Ok(());
        }
        check_sender(&members, sender, message).map_err(Status::from)
    }

    /// The sender may look for another server where this one is now.
    fn check_receiver(&self, message: &Message) -> Result<(), Status> {
        if message.to == self.own {
            return Ok(());
        }
        let words = format!("the message is for server {}, and this is server {}", message.to, self.own);
        Err(Refusal::new(Reason::InvalidArgument, words).into())
    }

    /// Takes in what another server says of states, its own and that of most.
    fn compare(&self, from: u64, own: &[pb::Checkpoint], agreed: &[pb::Checkpoint]) {
        let checkpoint =
            |said: &pb::Checkpoint| Checkpoint { index: said.index, fingerprint: said.fingerprint };
        let fingerprints = self.consensus.fingerprints();
        fingerprints.hear(from, own.iter().map(checkpoint));
        if let Some(halt) = fingerprints.hear_agreed(agreed.iter().map(checkpoint)) {
            self.consensus.halt(halt);
        }
    }

    /// A server knows best where it is itself.
    fn hear(&self, from: u64, peer_address: &str, client_address: &str) {
        if peer_address.is_empty() {
            return;
        }
        self.outbox.meet(from, peer_address);
        let members = self.consensus.members();
        let Some(member) = members.find(from) else { return };
        let is_as_listed = member.peer_address == peer_address && member.client_address == client_address;
        let are_addresses = [peer_address, client_address].into_iter().all(is_host_and_port);
        if !is_as_listed && are_addresses {
            self.consensus.hear_of_move(from, peer_address, client_address);
        }
    }

    fn begin_snapshot(&self) -> Result<SemaphorePermit<'_>, Status> {
        let busy = |_| Refusal::new(Reason::Overloaded, "another snapshot is being received").into();
        self.snapshots.try_acquire().map_err(busy)
    }

    async fn install(&self, incoming: Incoming) -> Result<(), Status> {
        let Some(message) = incoming.message.filter(|_| incoming.complete) else {
            return Err(Status::cancelled("the stream ended before the last part"));
        };
        let bytes = incoming.bytes.freeze();
        let pieces = cut(&bytes);
        let decoded = blocking::run(move || State::decode(bytes)).await;
        let state = decoded
            .map_err(|_| Status::cancelled("the server is shutting down"))?
            .map_err(|error| Refusal::new(Reason::InvalidArgument, error.to_string()))?;
        let said = configuration_of(&message);
        if state.members().is_known() && *state.members().configuration() != said {
            let words = "the snapshot and its message disagree about who takes part";
            return Err(Refusal::new(Reason::InvalidArgument, words).into());
        }
        let (cluster, own) = (state.feature_level(), self.consensus.programs().own().feature_level);
        if cluster > own {
            let halt = Halt::TooOld { cluster, own };
            self.consensus.halt(halt);
            return Err(Refusal::new(Reason::FeatureLevelTooLow, halt.to_string()).into());
        }
        let deadline = Instant::now() + INSTALL_TIMEOUT;
        self.consensus.handle_snapshot(message, pieces, state, deadline).await.map_err(not_installed)
    }
}

/// A server that was removed is told so. Whoever is left votes and acknowledges for itself only, if its certificate has a
/// name: the one that it joined with, or else its id. Requests may have been sent on by one that has just ceased to lead,
/// and nothing is known yet of a server that has joined since.
fn check_sender(members: &Members, sender: Option<&str>, message: &Message) -> Result<(), Refusal> {
    use MessageType::{MsgPropose, MsgReadIndex, MsgTransferLeader};
    if members.is_former(message.from) {
        let words = format!("server {} was removed from the cluster", message.from);
        return Err(Refusal::new(Reason::MemberRemoved, words));
    }
    let is_request = matches!(message.get_msg_type(), MsgPropose | MsgReadIndex | MsgTransferLeader);
    let Some(sender) = sender.filter(|_| !is_request) else { return Ok(()) };
    let name = match members.find(message.from) {
        Some(member) if !member.certificate.is_empty() => member.certificate.clone(),
        None if members.is_known() => return Ok(()),
        Some(_) | None => message.from.to_string(),
    };
    if sender == name {
        return Ok(());
    }
    Err(Refusal::new(Reason::CertificateRequired, "the certificate is another server's"))
}

/// The name that the sender's certificate gives it.
fn sender<T>(request: &Request<T>) -> Option<String> {
    request.extensions().get::<Caller>()?.principal.as_ref()?.name.clone()
}

fn not_installed(error: ConsensusError) -> Status {
    Status::unavailable(error.to_string())
}

/// The pieces share the memory of the whole.
fn cut(bytes: &Bytes) -> Vec<Bytes> {
    let starts = (0..bytes.len()).step_by(PART_LEN_MAX);
    starts.map(|start| bytes.slice(start..bytes.len().min(start + PART_LEN_MAX))).collect()
}

impl Incoming {
    fn push(&mut self, request: SendSnapshotRequest) -> Result<(), SnapshotRefusal> {
        if self.complete || self.message.is_some() == request.message.is_some() {
            return Err(if self.message.is_some() {
                SnapshotRefusal::Order
            } else {
                SnapshotRefusal::NoMessage
            });
        }
        if let Some(message) = request.message {
            let message = message_from_wire(message)?;
            if message.get_msg_type() != MessageType::MsgSnapshot {
                return Err(SnapshotRefusal::MessageType);
            }
            self.message = Some(message);
        }
        self.push_part(&request.part, request.part_crc32c)?;
        if request.last {
            let total = self.bytes.len() as u64;
            if (total, self.crc32c) != (request.total_bytes, request.total_crc32c) {
                return Err(SnapshotRefusal::Total);
            }
            self.complete = true;
        }
        Ok(())
    }

    fn push_part(&mut self, part: &[u8], part_crc32c: u32) -> Result<(), SnapshotRefusal> {
        if part.len() > REQUEST_PART_BYTES_MAX {
            return Err(SnapshotRefusal::PartLength);
        }
        if crc32c(part) != part_crc32c {
            return Err(SnapshotRefusal::Checksum);
        }
        if self.bytes.len() as u64 + part.len() as u64 > SNAPSHOT_BYTES_MAX {
            return Err(SnapshotRefusal::TooLarge);
        }
        self.crc32c = crc32c_combine(self.crc32c, part_crc32c, part.len() as u64);
        self.bytes.extend_from_slice(part);
        Ok(())
    }
}

impl From<SnapshotRefusal> for Status {
    fn from(refusal: SnapshotRefusal) -> Self {
        tracing::warn!(error = %refusal, "a peer's snapshot is refused");
        Refusal::new(Reason::InvalidArgument, refusal.to_string()).into()
    }
}

#[tonic::async_trait]
impl<S: SnapshotSource> RaftService for RaftReceiver<S> {
    async fn greet(&self, request: Request<GreetRequest>) -> Result<Response<GreetResponse>, Status> {
        let sender = sender(&request);
        let request = request.into_inner();
        self.check_cluster(&request.cluster_id)?;
        // Nobody speaks for another server.
        let mut message = Message { from: request.id, ..Message::default() };
        message.set_msg_type(MessageType::MsgHeartbeat);
        self.check_sender(sender.as_deref(), &message)?;
        let programs = self.consensus.programs();
        let ours = self.consensus.cluster_id().unwrap_or_default();
        if let Some(halt) = too_old(programs, ours, &request.cluster_id, request.cluster_feature_level) {
            self.consensus.halt(halt);
        }
        programs.hear(request.id, Program::from_record(request.program));
        Ok(Response::new(GreetResponse {
            cluster_id: ours.to_owned(),
            program: Some(programs.own().record()),
            cluster_feature_level: programs.cluster_level().0,
            id: self.own,
        }))
    }

    async fn send_messages(
        &self,
        request: Request<Streaming<SendMessagesRequest>>,
    ) -> Result<Response<SendMessagesResponse>, Status> {
        let sender = sender(&request);
        let mut stream = request.into_inner();
        while let Some(batch) = stream.message().await? {
            self.check_cluster(&batch.cluster_id)?;
            check_level(self.consensus.programs(), FeatureLevel(batch.feature_level))?;
            let sender_id = batch.messages.first().map(|message| message.from);
            for message in batch.messages {
                let message = message_from_wire(message)
                    .map_err(|error| Refusal::new(Reason::InvalidArgument, error.to_string()))?;
                self.check_sender(sender.as_deref(), &message)?;
                self.check_receiver(&message)?;
                self.hear(message.from, &batch.peer_address, &batch.client_address);
                self.consensus.handle_message(message);
            }
            // Its messages were looked at: it is who it says.
            if let Some(id) = sender_id {
                self.compare(id, &batch.checkpoints, &batch.agreed_checkpoints);
            }
        }
        Ok(Response::new(SendMessagesResponse {}))
    }

    async fn send_snapshot(
        &self,
        request: Request<Streaming<SendSnapshotRequest>>,
    ) -> Result<Response<SendSnapshotResponse>, Status> {
        let sender = sender(&request);
        let _only_one = self.begin_snapshot()?;
        let mut stream = request.into_inner();
        let mut incoming = Incoming::default();
        let silent = |_| Status::deadline_exceeded("the next part did not come in time");
        while let Some(request) =
            tokio::time::timeout(PART_TIMEOUT, stream.message()).await.map_err(silent)??
        {
            self.check_cluster(&request.cluster_id)?;
            incoming.push(request)?;
            if let Some(message) = &incoming.message {
                self.check_sender(sender.as_deref(), message)?;
            }
        }
        self.install(incoming).await?;
        Ok(Response::new(SendSnapshotResponse {}))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message() -> pb::Message {
        let conf_state = pb::ConfState { voters: vec![1, 2], ..Default::default() };
        let snapshot = pb::SnapshotMetadata { index: 7, term: 2, conf_state: Some(conf_state) };
        let msg_type = MessageType::MsgSnapshot as u32;
        pb::Message { msg_type, to: 2, from: 1, term: 2, snapshot: Some(snapshot), ..Default::default() }
    }

    /// A snapshot of two parts.
    fn requests() -> [SendSnapshotRequest; 2] {
        let part = |bytes: &'static [u8]| SendSnapshotRequest {
            part: Bytes::from_static(bytes),
            part_crc32c: crc32c(bytes),
            ..Default::default()
        };
        let last =
            SendSnapshotRequest { last: true, total_bytes: 5, total_crc32c: crc32c(b"hello"), ..part(b"lo") };
        [SendSnapshotRequest { message: Some(message()), ..part(b"hel") }, last]
    }

    fn receive(requests: impl IntoIterator<Item = SendSnapshotRequest>) -> Result<Incoming, String> {
        let mut incoming = Incoming::default();
        for request in requests {
            incoming.push(request).map_err(|refusal| refusal.to_string())?;
        }
        Ok(incoming)
    }

    #[test]
    fn whole_snapshot_is_taken_in() {
        let incoming = receive(requests()).unwrap();
        assert!(incoming.complete);
        assert_eq!(&incoming.bytes[..], b"hello");
        assert_eq!(incoming.message.unwrap().get_snapshot().get_metadata().index, 7);
        assert!(!receive(requests().into_iter().take(1)).unwrap().complete);
    }

    #[test]
    fn what_does_not_add_up_is_refused() {
        let check = |change: fn(&mut [SendSnapshotRequest; 2]), expect: &str| {
            let mut requests = requests();
            change(&mut requests);
            let error = receive(requests).unwrap_err();
            assert!(error.contains(expect), "{error}");
        };
        check(|requests| requests[0].message = None, "does not say");
        check(|requests| requests[1].message = Some(message()), "second message");
        check(|requests| requests[0].part_crc32c ^= 1, "damaged");
        check(|requests| requests[1].total_bytes = 6, "add up");
        check(|requests| requests[1].total_crc32c ^= 1, "add up");
        check(|requests| requests[0].last = true, "add up");
        check(|requests| requests[0].part = Bytes::from(vec![0; REQUEST_PART_BYTES_MAX + 1]), "too large");
        check(
            |requests| requests[0].message.as_mut().unwrap().msg_type = MessageType::MsgHeartbeat as u32,
            "snapshot",
        );
        let [first, last] = requests();
        assert!(receive([first, last.clone(), last]).unwrap_err().contains("behind the last"));
    }

    #[test]
    fn server_votes_for_itself_only() {
        let check = |sender: Option<&str>, kind, expect: bool| {
            let mut message = Message { from: 2, ..Default::default() };
            message.set_msg_type(kind);
            let checked = check_sender(&Members::default(), sender, &message);
            assert_eq!(checked.is_ok(), expect, "{sender:?} {kind:?}");
        };
        check(None, MessageType::MsgRequestVoteResponse, true);
        check(Some("2"), MessageType::MsgRequestVoteResponse, true);
        check(Some("3"), MessageType::MsgRequestVoteResponse, false);
        check(Some("3"), MessageType::MsgAppendResponse, false);
        check(Some("3"), MessageType::MsgReadIndex, true);
    }

    #[test]
    fn member_shows_the_certificate_that_it_joined_with_and_a_former_one_is_told_so() {
        use state::command::Kind;
        use xdpfs_proto::state::v1 as state;
        let member = |id, certificate: &str| state::MetaMember {
            id,
            peer_address: "a:1".into(),
            client_address: "a:2".into(),
            certificate: certificate.into(),
            ..Default::default()
        };
        let mut cluster = State::default();
        let seed = state::SeedMembers { members: vec![member(1, ""), member(2, "")] };
        let add = state::AddMember { member: Some(member(3, "host-c")) };
        for kind in
            [Kind::SeedMembers(seed), Kind::ReserveMember(state::ReserveMember {}), Kind::AddMember(add)]
        {
            cluster.apply(1, &state::Command { kind: Some(kind), ..Default::default() });
        }
        let check = |from, sender: Option<&str>, expect: Result<(), Reason>| {
            let mut message = Message { from, ..Default::default() };
            message.set_msg_type(MessageType::MsgHeartbeat);
            let checked = check_sender(cluster.members(), sender, &message);
            assert_eq!(checked.map_err(|refusal| refusal.reason()), expect, "{from} {sender:?}");
        };
        check(2, Some("2"), Ok(()));
        check(2, Some("host-c"), Err(Reason::CertificateRequired));
        check(3, Some("host-c"), Ok(()));
        check(3, None, Ok(()));
        check(3, Some("3"), Err(Reason::CertificateRequired));
        check(9, Some("host-d"), Ok(()));
        let remove = Kind::RemoveMember(state::RemoveMember { id: 3 });
        cluster.apply(2, &state::Command { kind: Some(remove), ..Default::default() });
        let mut message = Message { from: 3, ..Default::default() };
        message.set_msg_type(MessageType::MsgRequestPreVote);
        let refusal = check_sender(cluster.members(), Some("host-c"), &message).unwrap_err();
        assert_eq!(refusal.reason(), Reason::MemberRemoved);
    }

    #[test]
    fn pieces_are_cut_as_they_are_stored() {
        let lens = |len| cut(&Bytes::from(vec![0; len])).iter().map(Bytes::len).collect::<Vec<_>>();
        assert!(lens(0).is_empty());
        assert_eq!(lens(PART_LEN_MAX), [PART_LEN_MAX]);
        assert_eq!(lens(2 * PART_LEN_MAX + 1), [PART_LEN_MAX, PART_LEN_MAX, 1]);
    }
}

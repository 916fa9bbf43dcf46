//! Agreement on the order of commands: raft-rs driven by three threads.
//!
//! The *raft loop* decides and does no I/O. The *log thread* makes things durable, many at a time. The *apply thread*
//! changes the state. Invariant: what a server promises to others (votes, acknowledgements) leaves it only after the
//! log thread has made it durable; a leader's own messages may leave earlier (Raft thesis §10.2.1).
//!
//! A proposal's fate is unknown once leadership has changed: its caller repeats it under the same request id.

mod apply;
mod core;
mod fingerprints;
mod log_thread;
mod log_view;
mod membership;
mod messages;
mod programs;
mod raft_loop;
mod reads;
mod replay;
mod state_guard;
#[cfg(test)]
mod stepped;

#[cfg(test)]
pub(crate) mod simulation;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, OnceLock, PoisonError, RwLock,
        mpsc::{SyncSender, TrySendError},
    },
    thread::JoinHandle,
    time::Instant,
};

use bytes::Bytes;
use raft::{SnapshotStatus, eraftpb::Message};
use tokio::sync::{oneshot, watch};
use xdpfs_observe::Latency;
use xdpfs_proto::state::v1 as pb;

#[cfg(test)]
pub(crate) use self::stepped::{Busy, Stepped};
pub use self::{
    core::{Bootstrap, ReceivedSnapshot},
    fingerprints::{CHECKPOINT_ENTRIES, Fingerprints},
    messages::{ConversionError, message_from_wire, message_to_wire},
    programs::{Program, Programs},
    raft_loop::{StartError, start},
    state_guard::StateGuard,
};
pub(crate) use self::{fingerprints::Checkpoint, replay::replay};
pub(crate) use self::{
    membership::configuration_of,
    raft_loop::{Workers, assemble, load_snapshot},
};
use crate::{
    state_machine::{Configuration, FeatureLevel, Members, State, Unsupported},
    storage::LogPosition,
};

/// Inputs that wait for the raft loop. Those of clients and peers are refused beyond this.
const INPUTS_MAX: usize = 8192;
/// Bytes of one command: more than a commit of the largest object needs.
pub const COMMAND_BYTES_MAX: usize = 16 << 20;

/// What the raft loop is told.
#[derive(Debug)]
pub enum Input {
    /// The state includes this entry.
    Applied {
        /// Which one.
        position: LogPosition,
        /// The cluster's id, when it has just become known.
        cluster_id: Option<String>,
        /// Who the members are, when that has just changed.
        members: Option<Arc<Members>>,
    },
    /// Somebody wants a backup of what is applied by then.
    Backup(oneshot::Sender<BackupImage>),
    /// Another server's message.
    Message(Box<Message>),
    /// Another server's snapshot, complete and checked.
    PeerSnapshot(Box<ReceivedSnapshot>),
    /// The log thread has made this and all earlier jobs durable.
    Persisted(u64),
    /// A client's command.
    Propose(Proposal),
    /// A client wants to read what is committed now.
    Read(Read),
    /// This server must not go on.
    Halt(Halt),
    /// Others say that this server was removed from the cluster.
    Removed,
    /// How sending a snapshot to a server ended.
    SnapshotSent(u64, SnapshotStatus),
    /// A local snapshot is durable, or was given up.
    SnapshotStored(Option<crate::storage::SnapshotMeta>),
    /// The apply thread has encoded the state.
    SnapshotTaken(LogPosition, Vec<Bytes>),
    /// End the loop.
    Stop,
    /// Give leadership away: to this server, or else to the one that lags the least.
    TransferLeadership(Option<u64>),
    /// A message to this server was lost.
    Unreachable(u64),
}

/// The state of one moment, without what no backup has.
#[derive(Debug)]
pub struct BackupImage {
    /// The last entry that it includes.
    pub index: u64,
    /// Of the cluster.
    pub cluster_id: String,
    /// How many there are.
    pub buckets: u64,
    /// How many there are, without older versions.
    pub objects: u64,
    /// Of these.
    pub object_bytes: u64,
    /// The state, encoded.
    pub pieces: Vec<Bytes>,
}

/// A command on its way into the log.
#[derive(Debug)]
pub struct Proposal {
    /// The encoded command.
    pub data: Bytes,
    /// Nobody waits for the answer after this.
    pub deadline: Instant,
    /// Whom to answer.
    pub reply: oneshot::Sender<Result<Applied, ConsensusError>>,
}

/// A read that waits for its turn.
#[derive(Debug)]
pub struct Read {
    /// Nobody waits for the answer after this.
    pub deadline: Instant,
    /// Whom to answer: the term in which the read is good.
    pub reply: oneshot::Sender<Result<u64, ConsensusError>>,
}

/// What became of a command.
#[derive(Clone, Debug, PartialEq)]
pub struct Applied {
    /// Its place in the log.
    pub index: u64,
    /// What the state machine said.
    pub outcome: pb::Outcome,
}

/// Why a command or a read was not served here.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ConsensusError {
    /// The deadline has passed; a command may or may not have happened.
    #[error("the deadline has passed")]
    DeadlineExceeded,
    /// Another server leads, or none; nothing has happened.
    #[error("this server does not lead")]
    NotLeader,
    /// Leadership changed meanwhile: it may or may not have happened.
    #[error("leadership has changed; repeat the request under its id")]
    OutcomeUnknown,
    /// Too much waits already; nothing has happened.
    #[error("too many requests wait")]
    Overloaded,
    /// The server ends; a command may or may not have happened.
    #[error("the server is shutting down")]
    Stopped,
    /// The command is larger than any entry of the log may be; nothing has happened.
    #[error("the command is too large")]
    TooLarge,
}

/// Why a server must not go on, though its store is whole.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Halt {
    /// The log holds what only a later release can apply.
    #[error(
        "entry {index} of the log cannot be applied: {why}: start the later release that the other servers run"
    )]
    Unsupported {
        /// Which entry.
        index: u64,
        /// What is wrong with it.
        why: Unsupported,
    },
    /// Its state is not what the others have.
    #[error(
        "after entry {index} of the log the state of this server is not what the other servers have: its data directory is \
         left as it is, for whoever looks into that; let the server join anew, with --join and an empty data directory"
    )]
    Diverged {
        /// After which entry it was seen.
        index: u64,
    },
    /// The cluster uses what only a later release can do.
    #[error(
        "the cluster is at {cluster}, and this program supports {own}: start the later release that the other servers run"
    )]
    TooOld {
        /// What the cluster uses.
        cluster: FeatureLevel,
        /// What this program supports.
        own: FeatureLevel,
    },
}

/// What a server is to the others.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Role {
    /// It follows, or stands for election.
    #[default]
    Follower,
    /// It leads.
    Leader,
}

/// What one server knows about the cluster.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct RaftStatus {
    /// What this server is.
    pub role: Role,
    /// The present term.
    pub term: u64,
    /// Zero: none is known.
    pub leader_id: u64,
    /// Entries up to this one are agreed on.
    pub commit_index: u64,
    /// Entries up to this one are in this server's state.
    pub applied_index: u64,
    /// On the leader: every server that takes part.
    pub voters: Vec<VoterStatus>,
    /// Who takes part, as far as this server knows.
    pub configuration: Configuration,
    /// This server was removed from the cluster, and does nothing any more.
    pub removed: bool,
    /// This server does nothing any more, and must not come back as it is.
    pub halt: Option<Halt>,
}

/// What of a server's status changes only with leadership, and with the server's end: whoever waits for that need not be
/// woken by every entry of the log.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Standing {
    /// What this server is.
    pub(crate) role: Role,
    /// The present term.
    pub(crate) term: u64,
    /// Zero: none is known.
    pub(crate) leader_id: u64,
    /// This server was removed from the cluster.
    pub(crate) removed: bool,
    /// This server must not go on.
    pub(crate) halt: Option<Halt>,
}

impl Standing {
    const fn of(status: &RaftStatus) -> Self {
        let RaftStatus { role, term, leader_id, removed, halt, .. } = *status;
        Self { role, term, leader_id, removed, halt }
    }
}

/// What a leader knows about a server that takes part.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct VoterStatus {
    /// Which one.
    pub id: u64,
    /// It holds entries up to this one.
    pub matched_index: u64,
    /// It was heard of of late.
    pub active: bool,
    /// It gets the log and does not vote.
    pub learner: bool,
}

/// How long the stages of a change take on this server. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct StageLatencies {
    /// From a proposal until it is agreed on. Of a leader.
    pub replicate: Latency,
    /// From there until the state has it. Of a leader.
    pub apply: Latency,
    /// Making the log durable.
    pub log_sync: Latency,
}

/// Where the raft loop's messages to other servers go. Never blocks; reports what it loses.
pub trait Outbox: Clone + Send + 'static {
    /// Takes a message. One that carries a snapshot holds an encoded [`crate::storage::SnapshotMeta`] as its data.
    fn send(&self, message: Message);
}

/// A handle to the consensus of this server.
#[derive(Clone, Debug)]
pub struct Consensus {
    inputs: InputSender,
    state: Arc<RwLock<State>>,
    status: watch::Receiver<RaftStatus>,
    standing: watch::Receiver<Standing>,
    members: watch::Receiver<Arc<Members>>,
    cluster_id: Arc<OnceLock<String>>,
    first_voters: Arc<[u64]>,
    moves: Arc<Mutex<BTreeMap<u64, Moved>>>,
    programs: Programs,
    fingerprints: Fingerprints,
}

/// Where a member says that it is, other than where it is listed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Moved {
    /// Which one.
    pub(crate) id: u64,
    /// For other servers.
    pub(crate) peer_address: String,
    /// For clients and data nodes.
    pub(crate) client_address: String,
}

/// Feeds the raft loop.
#[derive(Clone, Debug)]
pub struct InputSender(SyncSender<Input>);

impl InputSender {
    /// One of a test's own, and what comes out of it.
    #[cfg(test)]
    pub(crate) fn channel() -> (Self, std::sync::mpsc::Receiver<Input>) {
        let (sender, receiver) = std::sync::mpsc::sync_channel(INPUTS_MAX);
        (Self(sender), receiver)
    }

    /// Hands over an input that may be lost. False: it was.
    pub fn offer(&self, input: Input) -> bool {
        self.0.try_send(input).is_ok()
    }

    /// Hands over an input that must not be lost. Waits while the loop is behind; it never waits for the caller.
    fn deliver(&self, input: Input) {
        // The loop has ended: then nobody needs to know.
        let _ = self.0.send(input);
    }
}

/// The threads of a running consensus.
#[derive(Debug)]
pub struct Threads {
    inputs: InputSender,
    handles: Vec<JoinHandle<()>>,
}

impl Threads {
    /// Ends all threads and waits for them. The store is closed then.
    pub fn stop(self) {
        self.inputs.deliver(Input::Stop);
        for handle in self.handles {
            // A thread that panics has ended the process already.
            let _ = handle.join();
        }
    }
}

impl Consensus {
    /// Puts a command into the log and waits until it is applied here.
    ///
    /// # Errors
    ///
    /// See [`ConsensusError`]: some errors leave it open whether the command was applied.
    pub async fn propose(&self, command: &pb::Command, deadline: Instant) -> Result<Applied, ConsensusError> {
        let data = Bytes::from(prost::Message::encode_to_vec(command));
        if data.len() > COMMAND_BYTES_MAX {
            return Err(ConsensusError::TooLarge);
        }
        let (reply, answer) = oneshot::channel();
        self.input(Input::Propose(Proposal { data, deadline, reply }))?;
        wait(answer, deadline).await
    }

    /// Waits until this server's state includes everything that was committed when the call was made. Gives the term
    /// in which this server led then.
    ///
    /// # Errors
    ///
    /// This server does not lead, or cannot tell in time.
    pub async fn read_barrier(&self, deadline: Instant) -> Result<u64, ConsensusError> {
        let (reply, answer) = oneshot::channel();
        self.input(Input::Read(Read { deadline, reply }))?;
        wait(answer, deadline).await
    }

    /// A backup of what is applied when its turn comes. Changes go on meanwhile; a snapshot of the log waits for it, and it for one.
    /// `None`: too much waits already, or this server has loaded another server's snapshot meanwhile, or stops.
    pub async fn backup(&self) -> Option<BackupImage> {
        let (reply, image) = oneshot::channel();
        self.input(Input::Backup(reply)).ok()?;
        image.await.ok()
    }

    /// Another server's message, to be dropped if too much waits already.
    pub fn handle_message(&self, message: Message) {
        self.inputs.offer(Input::Message(Box::new(message)));
    }

    /// Another server's snapshot. Answered once it is installed, or found to be of no use.
    ///
    /// # Errors
    ///
    /// It was not taken.
    pub async fn handle_snapshot(
        &self,
        message: Message,
        pieces: Vec<Bytes>,
        state: State,
        deadline: Instant,
    ) -> Result<(), ConsensusError> {
        let (installed, answer) = oneshot::channel();
        let received = ReceivedSnapshot { message, pieces, state: Box::new(state), installed };
        self.input(Input::PeerSnapshot(Box::new(received)))?;
        tokio::time::timeout_at(deadline.into(), answer)
            .await
            .map_err(|_| ConsensusError::DeadlineExceeded)?
            .map_err(|_| ConsensusError::Stopped)
    }

    /// The state as it is now. Not to be held across an await.
    ///
    /// # Panics
    ///
    /// This thread holds it already.
    pub fn state(&self) -> StateGuard<'_> {
        StateGuard::take(&self.state)
    }

    /// What this server knows about the cluster.
    #[must_use]
    pub fn status(&self) -> RaftStatus {
        self.status.borrow().clone()
    }

    /// The term in which this server leads, as far as it knows.
    pub(crate) fn led_term(&self) -> Option<u64> {
        let Standing { role, term, .. } = *self.standing.borrow();
        (role == Role::Leader).then_some(term)
    }

    /// Tells of every change of the status: of each entry, several times.
    #[must_use]
    pub fn watch_status(&self) -> watch::Receiver<RaftStatus> {
        self.status.clone()
    }

    /// Tells of what changes now and then.
    pub(crate) fn watch_standing(&self) -> watch::Receiver<Standing> {
        self.standing.clone()
    }

    /// The voters that the cluster began with, which the log's changes of them build on.
    #[must_use]
    pub fn first_voters(&self) -> &[u64] {
        &self.first_voters
    }

    /// What the servers run, and what the cluster uses of it.
    pub(crate) const fn programs(&self) -> &Programs {
        &self.programs
    }

    /// What the servers' states are, to compare them.
    pub(crate) const fn fingerprints(&self) -> &Fingerprints {
        &self.fingerprints
    }

    /// Compares what the servers say of their states, if this one leads.
    pub(crate) fn compare_states(&self, own: u64) {
        if let Some(halt) = self.fingerprints.judge(own, &self.status().configuration) {
            self.halt(halt);
        }
    }

    /// The level that the cluster may rise to, if this server leads.
    pub(crate) fn common_level(&self, own: u64, now: Instant) -> FeatureLevel {
        self.programs.common_level(own, &self.status(), &self.members(), now)
    }

    /// A member says where it is.
    pub(crate) fn hear_of_move(&self, id: u64, peer_address: &str, client_address: &str) {
        let mut moves = self.moves.lock().unwrap_or_else(PoisonError::into_inner);
        let (peer_address, client_address) = (peer_address.to_owned(), client_address.to_owned());
        moves.insert(id, Moved { id, peer_address, client_address });
    }

    /// A member that says that it is elsewhere than it is listed.
    pub(crate) fn moved(&self) -> Option<Moved> {
        let members = self.members();
        let mut moves = self.moves.lock().unwrap_or_else(PoisonError::into_inner);
        moves.retain(|id, moved| {
            members.find(*id).is_some_and(|member| {
                (&member.peer_address, &member.client_address) != (&moved.peer_address, &moved.client_address)
            })
        });
        moves.values().next().cloned()
    }

    /// Others have said that this server was removed from the cluster.
    pub fn remove(&self) {
        self.inputs.offer(Input::Removed);
    }

    /// This server must not go on.
    pub(crate) fn halt(&self, halt: Halt) {
        self.inputs.offer(Input::Halt(halt));
    }

    /// Who the members are, by the entries that this server has applied. Cheaper than a look at the state.
    #[must_use]
    pub fn members(&self) -> Arc<Members> {
        Arc::clone(&self.members.borrow())
    }

    /// Tells of every change of the members.
    #[must_use]
    pub fn watch_members(&self) -> watch::Receiver<Arc<Members>> {
        self.members.clone()
    }

    /// None until the cluster has agreed on one.
    #[must_use]
    pub fn cluster_id(&self) -> Option<&str> {
        self.cluster_id.get().map(String::as_str)
    }

    /// Asks the server that lags the least to lead, if this one does.
    pub fn transfer_leadership(&self) {
        self.inputs.offer(Input::TransferLeadership(None));
    }

    /// Asks this server to lead, if the one that is asked does.
    pub fn transfer_leadership_to(&self, id: u64) {
        self.inputs.offer(Input::TransferLeadership(Some(id)));
    }

    fn input(&self, input: Input) -> Result<(), ConsensusError> {
        self.inputs.0.try_send(input).map_err(|error| match error {
            TrySendError::Full(_) => ConsensusError::Overloaded,
            TrySendError::Disconnected(_) => ConsensusError::Stopped,
        })
    }
}

async fn wait<T>(
    answer: oneshot::Receiver<Result<T, ConsensusError>>,
    deadline: Instant,
) -> Result<T, ConsensusError> {
    match tokio::time::timeout_at(deadline.into(), answer).await {
        Ok(Ok(result)) => result,
        Ok(Err(_)) => Err(ConsensusError::Stopped),
        Err(_) => Err(ConsensusError::DeadlineExceeded),
    }
}

//! raft-rs with everything that must happen around it, without threads, clocks or I/O.
//!
//! Inputs go in by `handle_*`; what must be done comes out by [`RaftCore::poll`]. Invariant: between two calls nothing
//! is pending inside that an output does not say.

use std::{
    collections::{BTreeMap, VecDeque},
    mem,
    sync::Arc,
    time::Instant,
};

use bytes::Bytes;
use raft::{
    Config as RaftConfig, RawNode, ReadOnlyOption, StateRole,
    eraftpb::{ConfChangeV2, ConfState, Entry, EntryType, HardState, Message, MessageType},
};
use tokio::sync::oneshot;

use super::{
    Applied, BackupImage, ConsensusError, Halt, Input, Proposal, RaftStatus, Read, Role, VoterStatus,
    log_view::LogView,
    membership::{self, Step},
    reads::{self, Reads},
};
use crate::{
    config::ConsensusConfig,
    mistake::{Mistake, is_planted},
    state_machine::{Configuration, Members, State},
    storage::{Change, Identity, LogPosition, PART_LEN_MAX, Recovered, SnapshotMeta, crc32c_of},
};

/// Proposals that wait to be applied at once; more are refused.
const PROPOSALS_MAX: usize = 16_384;
/// Bytes of the entries in one message; a single entry may be larger.
pub(super) const MESSAGE_BYTES_MAX: u64 = 1 << 20;
const MESSAGES_IN_FLIGHT_MAX: usize = 64;
const UNCOMMITTED_BYTES_MAX: u64 = 64 << 20;
const COMMITTED_BYTES_MAX: u64 = 8 << 20;

/// What a core starts from.
#[derive(Debug)]
pub struct Bootstrap {
    /// What the store held, with an identity.
    pub recovered: Recovered,
    /// Who the store belongs to.
    pub identity: Identity,
    /// How consensus runs.
    pub config: ConsensusConfig,
}

/// Another server's snapshot on its way into this one.
#[derive(Debug)]
pub struct ReceivedSnapshot {
    /// The message that carries it, without the data.
    pub message: Message,
    /// The data, as it is stored.
    pub pieces: Vec<Bytes>,
    /// What the data stands for.
    pub state: Box<State>,
    /// Told once it is installed or of no use.
    pub installed: oneshot::Sender<()>,
}

/// Whom to tell about an applied command.
#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) reply: oneshot::Sender<Result<Applied, ConsensusError>>,
    /// When it was proposed; the shell moves it on as it passes through.
    pub(super) since: Instant,
}

/// What the log thread does next.
#[derive(Debug)]
pub(super) enum LogJob {
    /// Store a snapshot that the apply thread has made, beside other work.
    Snapshot(SnapshotMeta, Vec<Bytes>),
    /// Make changes durable, then send messages, then say so.
    Write(WriteJob),
}

#[derive(Debug, Default)]
pub(super) struct WriteJob {
    /// What to report as persisted. None: nobody waits.
    pub(super) number: Option<u64>,
    /// Another server's snapshot, to be stored before the changes.
    pub(super) install: Option<(SnapshotMeta, Vec<Bytes>)>,
    pub(super) changes: Vec<Change>,
    /// False: the changes may become durable with later ones.
    pub(super) must_sync: bool,
    /// Promises that hold only once everything above is durable.
    pub(super) messages: Vec<Message>,
}

/// What the apply thread does next.
#[derive(Debug)]
pub(super) enum ApplyJob {
    /// An entry has changed who takes part.
    Configure(LogPosition, Configuration),
    Entries(Vec<(Entry, Option<Waiter>)>),
    Install(LogPosition, Box<State>),
    /// Encode the state as it is then, without what no backup has.
    Backup(oneshot::Sender<BackupImage>),
    /// Encode the state as it is then.
    Snapshot,
}

/// What the shell has to do.
#[derive(Debug)]
pub(super) enum Output {
    Apply(ApplyJob),
    Log(LogJob),
    Send(Message),
}

struct Installing {
    number: u64,
    position: LogPosition,
    state: Box<State>,
    installed: oneshot::Sender<()>,
}

/// What raft-rs waits for to become durable, by the numbers that it gives.
#[derive(Debug, Default)]
struct Writes {
    /// The newest that the log thread was told.
    told: u64,
    /// The newest that the log thread has reported.
    reported: u64,
    /// The newest that holds nothing that must become durable.
    empty: u64,
    /// A new commit index. Nothing rests on it, so it becomes durable with what comes next.
    commit: Option<HardState>,
}

impl Writes {
    /// Whether everything before is durable.
    const fn are_done(&self) -> bool {
        self.told == self.reported
    }
}

pub(super) struct RaftCore {
    node: RawNode<LogView>,
    config: ConsensusConfig,
    identity: Identity,
    outputs: VecDeque<Output>,
    /// Commands that go into the log together.
    queued: Vec<(Bytes, Waiter)>,
    waiters: BTreeMap<u64, (u64, Waiter)>,
    reads: Reads,
    /// The term that this server led at the last look.
    led_term: Option<u64>,
    applied: u64,
    /// The newest term that the log thread was told of, and the job that makes it durable, until it has.
    term: u64,
    term_waits_for: Option<u64>,
    received: Option<ReceivedSnapshot>,
    installing: VecDeque<Installing>,
    snapshot_running: bool,
    writes: Writes,
    next_generation: u64,
    /// Who takes part from this entry on, from before the newest snapshot on.
    conf_states: VecDeque<(u64, ConfState)>,
    /// Who the members are, by what is applied.
    members: Arc<Members>,
    /// This server was removed from the cluster.
    removed: bool,
    /// This server must not go on.
    halt: Option<Halt>,
}

impl RaftCore {
    pub(super) fn new(bootstrap: Bootstrap, logger: &slog::Logger) -> raft::Result<Self> {
        let Bootstrap { mut recovered, identity, config } = bootstrap;
        let snapshot = recovered.snapshot.as_ref();
        let applied = snapshot.map_or(0, |meta| meta.position.index);
        let next_generation = snapshot.map_or(1, |meta| meta.generation + 1);
        // A snapshot holds only what was committed, even if the commit itself was not yet stored.
        recovered.hard_state.commit = recovered.hard_state.commit.max(applied);
        if is_planted(Mistake::VoteForgottenAtRestart) {
            (recovered.hard_state.term, recovered.hard_state.vote) = (0, 0);
        }
        if is_planted(Mistake::StoredCommitAhead) {
            let last = recovered.entries.last().map_or(applied, |entry| entry.index);
            recovered.hard_state.commit = last;
        }
        // What the cluster began with, if nothing is known of what it has become: the log's changes build on it.
        let first = || ConfState::from((identity.voters.clone(), Vec::new()));
        let known = snapshot.filter(|_| !is_planted(Mistake::ConfigurationForgottenAtRestart));
        let conf_state = known.map_or_else(first, |meta| meta.conf_state.clone());
        let term = recovered.hard_state.term;
        let raft_config = raft_config(&config, identity.raft_id, applied);
        let node = RawNode::new(&raft_config, LogView::new(recovered, conf_state.clone()), logger)?;
        Ok(Self {
            node,
            config,
            identity,
            outputs: VecDeque::new(),
            queued: Vec::new(),
            waiters: BTreeMap::new(),
            reads: Reads::default(),
            led_term: None,
            applied,
            term,
            term_waits_for: None,
            received: None,
            installing: VecDeque::new(),
            snapshot_running: false,
            writes: Writes::default(),
            next_generation,
            conf_states: [(applied, conf_state)].into(),
            members: Arc::default(),
            removed: false,
            halt: None,
        })
    }

    /// One unit of time has passed.
    pub(super) fn tick(&mut self, now: Instant) {
        // raft-rs would stand for election without a log: it ends the process when it looks for what to apply.
        if self.installing.is_empty() && self.takes_part() {
            self.node.tick();
        }
        self.change_members();
        self.reads.end_expired(now);
        self.watch_leadership();
    }

    pub(super) fn handle(&mut self, input: Input, now: Instant) {
        match input {
            Input::Applied { position, cluster_id, members } => {
                self.handle_applied(position, cluster_id, members);
            }
            Input::Backup(reply) => self.outputs.push_back(Output::Apply(ApplyJob::Backup(reply))),
            Input::Halt(halt) => self.halt(halt),
            Input::Message(message) => self.handle_message(*message),
            Input::PeerSnapshot(received) => self.handle_snapshot(*received),
            Input::Persisted(number) => self.handle_persisted(number),
            Input::Propose(proposal) => self.handle_proposal(proposal, now),
            Input::Read(read) => self.handle_read(read, now),
            Input::Removed => self.remove(),
            Input::SnapshotSent(to, status) => self.node.report_snapshot(to, status),
            Input::SnapshotStored(meta) => self.handle_snapshot_stored(meta),
            Input::SnapshotTaken(position, pieces) => self.handle_snapshot_taken(position, pieces),
            Input::Stop => {}
            Input::TransferLeadership(to) => self.transfer_leadership(to),
            Input::Unreachable(peer) => self.node.report_unreachable(peer),
        }
        self.watch_leadership();
    }

    /// The next thing to do. Call it until there is none, unless there is no room for more.
    pub(super) fn poll(&mut self) -> Option<Output> {
        if self.outputs.is_empty() {
            self.propose();
            self.begin_reads();
            self.begin_snapshot();
            if self.node.has_ready() {
                self.process_ready();
            }
        }
        self.outputs.pop_front()
    }

    pub(super) fn status(&self) -> RaftStatus {
        let raft = &self.node.raft;
        let role = if self.is_leader() { Role::Leader } else { Role::Follower };
        RaftStatus {
            role,
            term: raft.term,
            leader_id: raft.leader_id,
            commit_index: raft.raft_log.committed,
            applied_index: self.applied,
            voters: if role == Role::Leader { self.voter_statuses() } else { Vec::new() },
            configuration: membership::configuration(self.conf_state()),
            removed: self.removed,
            halt: self.halt,
        }
    }

    #[cfg(test)]
    pub(super) fn raft(&mut self) -> &mut raft::Raft<LogView> {
        &mut self.node.raft
    }

    #[cfg(test)]
    pub(super) fn propose_change(&mut self, change: ConfChangeV2) {
        self.node.propose_conf_change(Vec::new(), change).expect("it leads");
    }

    fn voter_statuses(&self) -> Vec<VoterStatus> {
        let raft = &self.node.raft;
        let status = |(id, progress): (&u64, &raft::Progress)| VoterStatus {
            id: *id,
            matched_index: progress.matched,
            active: *id == raft.id || progress.recent_active,
            learner: !votes(self.conf_state(), *id),
        };
        let mut voters: Vec<_> = raft.prs().iter().map(status).collect();
        voters.sort_by_key(|voter| voter.id);
        voters
    }

    fn is_leader(&self) -> bool {
        self.node.raft.state == StateRole::Leader && self.takes_part()
    }

    /// Who takes part now.
    fn conf_state(&self) -> &ConfState {
        &self.conf_states.back().expect("some servers always take part").1
    }

    /// Who took part at this entry.
    fn conf_state_at(&self, index: u64) -> ConfState {
        let before = self.conf_states.iter().rev().find(|(from, _)| *from <= index);
        before.or(self.conf_states.front()).expect("some servers always take part").1.clone()
    }

    /// A server that leads brings about what the state wants of the members.
    fn change_members(&mut self) {
        let raft = &self.node.raft;
        // raft-rs would turn a change into an empty entry without a word while another one may be pending.
        let is_free = self.is_leader()
            && raft.commit_to_current_term()
            && !raft.has_pending_conf()
            && raft.lead_transferee.is_none();
        if !is_free {
            return;
        }
        let (own, last) = (raft.id, raft.raft_log.last_index());
        let configuration = membership::configuration(self.conf_state());
        let step = membership::next_step(own, last, &self.members, &configuration, &self.voter_statuses());
        match step {
            None => {}
            Some(Step::Transfer(to)) => self.node.transfer_leader(to),
            Some(Step::Change(change)) => {
                // Dropped when too much is uncommitted: the next look tries again.
                let _ = self.node.propose_conf_change(Vec::new(), change);
            }
        }
    }

    /// Who the members are now.
    pub(super) fn know(&mut self, members: Arc<Members>) {
        self.removed |= members.is_former(self.node.raft.id);
        self.members = members;
    }

    /// Others would not listen to it any more, and it must not vote.
    fn remove(&mut self) {
        self.removed = true;
    }

    /// It does nothing any more, and its store stays as it is: what is in there may be wanted.
    fn halt(&mut self, halt: Halt) {
        if self.halt.is_none() {
            tracing::error!(error = &halt as &dyn std::error::Error, "this server must not go on");
        }
        self.halt.get_or_insert(halt);
    }

    const fn takes_part(&self) -> bool {
        !self.removed && self.halt.is_none()
    }

    /// Whether messages of this server are of use. One that this server has not yet heard of may be a newer member.
    fn is_heard(&self, from: u64) -> bool {
        self.takes_part() && !self.members.is_former(from)
    }

    /// Stands for election at once, if it votes. With pre-vote this disturbs nobody.
    pub(super) fn campaign(&mut self) {
        // raft-rs looks at that only when it stands by itself: a learner might lead.
        if self.node.raft.promotable() && self.takes_part() {
            // An error means that it cannot stand now.
            let _ = self.node.campaign();
        }
    }

    /// What was proposed in a term that has ended may still be committed by the next leader.
    fn watch_leadership(&mut self) {
        let leads = self.is_leader().then_some(self.node.raft.term);
        if self.led_term == leads {
            return;
        }
        if self.led_term.is_some() {
            self.reads.refuse_unconfirmed();
            let error = match is_planted(Mistake::UnknownCalledRefused) {
                true => ConsensusError::NotLeader,
                false => ConsensusError::OutcomeUnknown,
            };
            for (_, waiter) in mem::take(&mut self.waiters).into_values() {
                tell(waiter.reply, Err(error));
            }
        }
        self.led_term = leads;
    }

    fn handle_message(&mut self, mut message: Message) {
        let refused = match message.get_msg_type() {
            // Clients are sent to the leader instead; forwarding would lose who waits for the answer.
            MessageType::MsgPropose | MessageType::MsgReadIndex | MessageType::MsgReadIndexResp => true,
            // Comes by its own way.
            MessageType::MsgSnapshot => true,
            // As in `tick`.
            MessageType::MsgTimeoutNow if !self.installing.is_empty() => true,
            _ => message.to != self.node.raft.id || !self.is_heard(message.from),
        };
        if refused {
            return;
        }
        if is_planted(Mistake::TakesStaleTerms) && message.get_msg_type() == MessageType::MsgAppend {
            message.term = message.term.max(self.node.raft.term);
        }
        // An error says that the message is of no use.
        let _ = self.node.step(message);
    }

    fn handle_proposal(&mut self, proposal: Proposal, now: Instant) {
        let Proposal { data, deadline, reply } = proposal;
        if !self.is_leader() && !is_planted(Mistake::FollowersForward) {
            return tell(reply, Err(ConsensusError::NotLeader));
        }
        if deadline <= now || reply.is_closed() {
            return tell(reply, Err(ConsensusError::DeadlineExceeded));
        }
        if self.waiters.len() + self.queued.len() >= PROPOSALS_MAX {
            return tell(reply, Err(ConsensusError::Overloaded));
        }
        self.queued.push((data, Waiter { reply, since: now }));
    }

    /// Puts what is queued into the log, as much at once as one message to a follower holds: raft-rs makes a message for
    /// each proposal, and each has an answer.
    fn propose(&mut self) {
        let mut queued = mem::take(&mut self.queued).into_iter().peekable();
        while queued.peek().is_some() {
            let (mut entries, mut waiters, mut bytes) = (Vec::new(), Vec::new(), 0);
            while let Some((data, waiter)) = queued.next_if(|_| bytes < MESSAGE_BYTES_MAX) {
                bytes += data.len() as u64;
                entries.push(Entry { data, ..Entry::default() });
                waiters.push(waiter);
            }
            self.propose_together(entries, waiters);
        }
    }

    fn propose_together(&mut self, entries: Vec<Entry>, waiters: Vec<Waiter>) {
        let refuse = |waiters: Vec<Waiter>, error| {
            waiters.into_iter().for_each(|waiter| tell(waiter.reply, Err(error)));
        };
        if !self.is_leader() && !is_planted(Mistake::FollowersForward) {
            return refuse(waiters, ConsensusError::NotLeader);
        }
        let mut message = Message { from: self.node.raft.id, entries: entries.into(), ..Message::default() };
        message.set_msg_type(MessageType::MsgPropose);
        // Dropped when too much is uncommitted, or while leadership is given away.
        if self.node.raft.step(message).is_err() {
            return refuse(waiters, ConsensusError::Overloaded);
        }
        let (last, term) = (self.node.raft.raft_log.last_index(), self.node.raft.term);
        let first = last + 1 - waiters.len() as u64;
        self.waiters.extend((first..).zip(waiters).map(|(index, waiter)| (index, (term, waiter))));
    }

    fn handle_read(&mut self, read: Read, now: Instant) {
        if !self.is_leader() {
            reads::answer(read, Err(ConsensusError::NotLeader));
        } else if read.deadline <= now {
            reads::answer(read, Err(ConsensusError::DeadlineExceeded));
        } else {
            self.reads.push(read);
        }
    }

    /// A leader that has not yet committed in its term would drop the request without a word.
    fn begin_reads(&mut self) {
        let has_committed = self.node.raft.commit_to_current_term();
        let is_early = !has_committed && is_planted(Mistake::ReadsBeforeFirstCommit);
        if !self.is_leader() || !has_committed && !is_early {
            return;
        }
        let Some(context) = self.reads.begin_round() else { return };
        if is_early || is_planted(Mistake::ReadsWithoutQuorum) {
            let raft = &self.node.raft;
            return self.reads.confirm(&context, raft.raft_log.committed, raft.term);
        }
        self.node.read_index(context);
    }

    fn handle_applied(
        &mut self,
        position: LogPosition,
        cluster_id: Option<String>,
        members: Option<Arc<Members>>,
    ) {
        self.applied = position.index;
        if let Some(members) = members {
            self.know(members);
        }
        self.advance_apply_to(position.index);
        self.reads.serve(self.applied);
        if let Some(cluster_id) = cluster_id {
            self.identity.cluster_id = cluster_id;
            self.write(vec![Change::Identity(self.identity.clone())]);
        }
    }

    /// raft-rs is told of a snapshot's entries as soon as they are gone from the log, and never of earlier ones again.
    fn advance_apply_to(&mut self, index: u64) {
        if index > self.node.raft.raft_log.applied() {
            self.node.advance_apply_to(index);
        }
    }

    fn write(&mut self, changes: Vec<Change>) {
        let job = WriteJob { changes, must_sync: true, ..WriteJob::default() };
        self.outputs.push_back(Output::Log(LogJob::Write(job)));
    }

    fn process_ready(&mut self) {
        let mut ready = self.node.ready();
        if let Some(hard_state) = ready.hs().filter(|hard_state| hard_state.term != self.term) {
            (self.term, self.term_waits_for) = (hard_state.term, Some(ready.number()));
        }
        // A leader's own messages need not wait, unless nobody but itself has elected it: if it forgot that, it would lead in
        // the same term once more, with other entries in the same places.
        let (mut own, mut late) = (ready.take_messages(), Vec::new());
        if self.term_waits_for.is_some() {
            mem::swap(&mut own, &mut late);
        }
        self.outputs.extend(own.into_iter().map(Output::Send));
        for state in ready.take_read_states() {
            self.reads.confirm(&state.request_ctx, state.index, self.node.raft.term);
        }
        let (number, must_sync) = (ready.number(), ready.must_sync());
        let mut job = WriteJob {
            number: Some(number),
            must_sync,
            messages: ready.take_persisted_messages(),
            ..WriteJob::default()
        };
        let knows_term = self.term_waits_for.is_none();
        let early = job.messages.extract_if(.., |message| leaves_early(message, knows_term));
        self.outputs.extend(early.map(Output::Send));
        job.messages.extend(late);
        if ready.snapshot().get_metadata().index > 0 {
            job.install = Some(self.begin_install(number, ready.snapshot().get_metadata().index));
        }
        let entries = ready.take_entries();
        let mut committed = ready.take_committed_entries();
        if is_planted(Mistake::AppliesBeforeCommit) {
            committed.extend(entries.iter().cloned());
        }
        if is_planted(Mistake::HardStateWaitsForEntries) {
            job.must_sync &= !entries.is_empty();
        }
        self.node.mut_store().extend(&entries);
        if !entries.is_empty() {
            job.changes.push(Change::Append(entries));
        }
        if let Some(hard_state) = ready.hs() {
            self.writes.commit = Some(hard_state.clone());
        }
        self.node.advance_append_async(ready);
        self.hand_over(number, job);
        if is_planted(Mistake::OwnCopyCountsEarly) {
            self.node.on_persist_ready(number);
        }
        self.apply(committed);
        self.reads.serve(self.applied);
    }

    /// To the log thread, if there is anything to wait for: what holds no promise need not pass through it.
    fn hand_over(&mut self, number: u64, mut job: WriteJob) {
        let waits = job.must_sync || !job.messages.is_empty() && !self.writes.are_done();
        if waits {
            job.changes.extend(self.writes.commit.take().map(Change::HardState));
            self.writes.told = number;
            self.outputs.push_back(Output::Log(LogJob::Write(job)));
            return;
        }
        // All that these rest on is durable.
        self.outputs.extend(job.messages.into_iter().map(Output::Send));
        self.writes.empty = number;
        self.tell_persisted();
    }

    /// Tells raft-rs what is durable. What holds nothing is as durable as what comes before it.
    fn tell_persisted(&mut self) {
        let number = if self.writes.are_done() {
            self.writes.empty.max(self.writes.told)
        } else {
            self.writes.reported
        };
        self.node.on_persist_ready(number);
    }

    /// Every change of the servers takes effect here, in the order of the log, on every server alike.
    fn apply(&mut self, committed: Vec<Entry>) {
        let mut commands = Vec::new();
        for entry in committed {
            if entry.get_entry_type() == EntryType::EntryNormal {
                commands.push(entry);
                continue;
            }
            self.apply_commands(mem::take(&mut commands));
            self.configure(&entry);
        }
        self.apply_commands(commands);
    }

    fn configure(&mut self, entry: &Entry) {
        let change = membership::decode_change(&entry.data).expect("what is in the log was looked at");
        let mut applied = self.node.apply_conf_change(&change);
        if is_planted(Mistake::JointStateLeftEarly) && change.changes.len() > 1 {
            applied = self.node.apply_conf_change(&ConfChangeV2::default());
        }
        match applied {
            Ok(conf_state) => self.conf_states.push_back((entry.index, conf_state)),
            // It is refused on every server, since it is the same everywhere.
            Err(error) => tracing::warn!(index = entry.index, %error, "a change of the servers is refused"),
        }
        let position = LogPosition { index: entry.index, term: entry.term };
        let configuration = membership::configuration(self.conf_state());
        tracing::info!(index = entry.index, ?configuration, "the servers that take part have changed");
        self.outputs.push_back(Output::Apply(ApplyJob::Configure(position, configuration)));
        self.step_down_if_removed();
    }

    /// No leader proposes its own end, but one may come to lead whose log has it. raft-rs would go on to lead, and end the
    /// process when it looks for the leader's own progress.
    fn step_down_if_removed(&mut self) {
        let raft = &self.node.raft;
        let (own, term) = (raft.id, raft.term);
        if raft.state == StateRole::Leader && !votes(self.conf_state(), own) {
            self.node.raft.become_follower(term, raft::INVALID_ID);
            self.watch_leadership();
        }
    }

    fn apply_commands(&mut self, committed: Vec<Entry>) {
        if committed.is_empty() {
            return;
        }
        let entries = committed.into_iter().map(|entry| {
            let waiter = match self.waiters.remove(&entry.index) {
                Some((term, waiter)) if term == entry.term => Some(waiter),
                Some((_, waiter)) => {
                    tell(waiter.reply, Err(ConsensusError::OutcomeUnknown));
                    None
                }
                None => None,
            };
            (entry, waiter)
        });
        let job = ApplyJob::Entries(entries.collect());
        self.outputs.push_back(Output::Apply(job));
    }

    fn handle_snapshot(&mut self, received: ReceivedSnapshot) {
        let message = received.message.clone();
        if message.to != self.node.raft.id || !self.is_heard(message.from) {
            return;
        }
        let before = self.wanted_snapshot();
        // An error says that the message is of no use.
        let _ = self.node.step(message);
        let wanted = self.wanted_snapshot();
        // Another one may still be wanted: it arrived since the last look at what is ready.
        let unwanted = if wanted != before && wanted == Some(received_index(&received)) {
            self.received.replace(received)
        } else {
            Some(received)
        };
        if let Some(unwanted) = unwanted {
            let _ = unwanted.installed.send(());
        }
    }

    /// The snapshot that raft-rs has yet to hand over.
    fn wanted_snapshot(&self) -> Option<u64> {
        self.node.snap().map(|snapshot| snapshot.get_metadata().index)
    }

    fn begin_install(&mut self, number: u64, index: u64) -> (SnapshotMeta, Vec<Bytes>) {
        let received = self.received.take().expect("raft-rs wants no snapshot but the one that was received");
        assert_eq!(received_index(&received), index, "raft-rs wants the snapshot that was received");
        let metadata = received.message.get_snapshot().get_metadata();
        let position = LogPosition { index, term: metadata.term };
        let conf_state = metadata.get_conf_state().clone();
        self.conf_states = [(index, conf_state.clone())].into();
        let meta = self.snapshot_meta(position, conf_state, &received.pieces);
        self.node.mut_store().install(meta.clone());
        let ReceivedSnapshot { state, installed, pieces, .. } = received;
        self.installing.push_back(Installing { number, position, state, installed });
        (meta, pieces)
    }

    fn snapshot_meta(
        &mut self,
        position: LogPosition,
        conf_state: ConfState,
        pieces: &[Bytes],
    ) -> SnapshotMeta {
        let generation = self.next_generation;
        self.next_generation += 1;
        debug_assert!(pieces.iter().all(|piece| piece.len() <= PART_LEN_MAX));
        SnapshotMeta {
            generation,
            position,
            conf_state,
            parts: pieces.len() as u32,
            total_bytes: pieces.iter().map(|piece| piece.len() as u64).sum(),
            crc32c: crc32c_of(pieces.iter().map(AsRef::as_ref)),
        }
    }

    fn handle_persisted(&mut self, number: u64) {
        self.writes.reported = number;
        self.tell_persisted();
        if self.term_waits_for.is_some_and(|waits_for| waits_for <= number) {
            self.term_waits_for = None;
        }
        while self.installing.front().is_some_and(|installing| installing.number <= number) {
            let Some(done) = self.installing.pop_front() else { break };
            self.advance_apply_to(done.position.index);
            self.outputs.push_back(Output::Apply(ApplyJob::Install(done.position, done.state)));
            let _ = done.installed.send(());
        }
    }

    fn begin_snapshot(&mut self) {
        let log = self.node.store();
        let (last, bytes) =
            log.snapshot_meta().map_or((0, 0), |meta| (meta.position.index, meta.total_bytes));
        // It writes all of the state: with a large one it waits for as many bytes of entries, so that it never costs more
        // than they did.
        let is_worth_it = self.applied >= last + self.config.snapshot_entries && log.bytes() >= bytes;
        let due = is_worth_it
            || (log.bytes() > self.config.log_bytes_max || log.wants_snapshot()) && self.applied > last;
        if due && !self.snapshot_running && self.installing.is_empty() {
            self.snapshot_running = true;
            self.outputs.push_back(Output::Apply(ApplyJob::Snapshot));
        }
    }

    fn handle_snapshot_taken(&mut self, position: LogPosition, pieces: Vec<Bytes>) {
        let conf_state = match is_planted(Mistake::ConfigurationOfAnotherEntry) {
            true => self.conf_state().clone(),
            false => self.conf_state_at(position.index),
        };
        let meta = self.snapshot_meta(position, conf_state, &pieces);
        self.outputs.push_back(Output::Log(LogJob::Snapshot(meta, pieces)));
    }

    /// The log keeps some entries before the snapshot, so that a server that lags a little needs no snapshot.
    fn handle_snapshot_stored(&mut self, meta: Option<SnapshotMeta>) {
        self.snapshot_running = false;
        let newest = self.node.store().snapshot_meta().map_or(0, |meta| meta.position.index);
        let Some(meta) = meta.filter(|meta| meta.position.index > newest) else { return };
        let index = meta.position.index;
        // What the newest snapshot says of it is not needed any more, but for one place from which to look back.
        while self.conf_states.get(1).is_some_and(|(from, _)| *from <= index) {
            self.conf_states.pop_front();
        }
        let log = self.node.mut_store();
        log.set_snapshot(meta);
        let mut compacted = log.compact(index.saturating_sub(self.config.log_entries_kept));
        if log.bytes() > self.config.log_bytes_max {
            compacted = log.compact(index).or(compacted);
        }
        if let Some(position) = compacted {
            self.write(vec![Change::Compact(position)]);
        }
    }

    fn transfer_leadership(&mut self, to: Option<u64>) {
        let own = self.node.raft.id;
        let others = self.voter_statuses().into_iter().filter(|voter| {
            let is_wanted = to.map_or(voter.active, |to| to == voter.id);
            voter.id != own && !voter.learner && is_wanted
        });
        if let Some(next) = others.max_by_key(|voter| voter.matched_index).filter(|_| self.is_leader()) {
            self.node.transfer_leader(next.id);
        }
    }
}

fn votes(conf_state: &ConfState, id: u64) -> bool {
    conf_state.voters.contains(&id) || conf_state.voters_outgoing.contains(&id)
}

/// Whether a message goes before what raft-rs has it wait for is durable. An answer to a heartbeat promises nothing but that the
/// server was in this term: if it waited, a leader whose followers' disks are slow would step down, and reads would wait for writes.
fn leaves_early(message: &Message, knows_term: bool) -> bool {
    match message.get_msg_type() {
        MessageType::MsgHeartbeatResponse => knows_term,
        MessageType::MsgAppendResponse => is_planted(Mistake::AcknowledgementsLeaveEarly),
        MessageType::MsgRequestVote | MessageType::MsgRequestVoteResponse => {
            is_planted(Mistake::VotesLeaveEarly)
        }
        _ => false,
    }
}

fn received_index(received: &ReceivedSnapshot) -> u64 {
    received.message.get_snapshot().get_metadata().index
}

fn tell(reply: oneshot::Sender<Result<Applied, ConsensusError>>, result: Result<Applied, ConsensusError>) {
    // The caller may have given up.
    let _ = reply.send(result);
}

fn raft_config(config: &ConsensusConfig, id: u64, applied: u64) -> RaftConfig {
    RaftConfig {
        id,
        applied,
        election_tick: config.election_ticks,
        heartbeat_tick: config.heartbeat_ticks,
        max_size_per_msg: MESSAGE_BYTES_MAX,
        max_inflight_msgs: MESSAGES_IN_FLIGHT_MAX,
        max_uncommitted_size: UNCOMMITTED_BYTES_MAX,
        max_committed_size_per_ready: COMMITTED_BYTES_MAX,
        check_quorum: true,
        pre_vote: true,
        // Followers hear of it with the next entries, or with a heartbeat: a message of its own for every change of it, and
        // its answer, cost more than the change.
        skip_bcast_commit: true,
        // raft-rs would join entries to an empty message for another place in the log, and to one that is full.
        batch_append: false,
        // Never LeaseBased: raft-rs answers those without any lease clock.
        read_only_option: ReadOnlyOption::Safe,
        ..RaftConfig::default()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn core(id: u64) -> RaftCore {
        let identity = Identity { raft_id: id, cluster_id: String::new(), voters: vec![1, 2, 3] };
        let (recovered, config) = (Recovered::default(), ConsensusConfig::default());
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        RaftCore::new(Bootstrap { recovered, identity, config }, &logger).unwrap()
    }

    /// One of three servers, which leads, and whose followers hold what it holds.
    fn leader() -> RaftCore {
        let mut core = core(1);
        core.campaign();
        while !core.is_leader() || core.node.raft.raft_log.committed < core.node.raft.raft_log.last_index() {
            let sent = drain(&mut core);
            assert!(!sent.is_empty(), "there is something to answer");
            for answer in sent.iter().filter_map(answer) {
                tell_message(&mut core, answer);
            }
        }
        drain(&mut core);
        core
    }

    /// Has all that it wants done at once. Gives its messages.
    fn drain(core: &mut RaftCore) -> Vec<Message> {
        let mut sent = Vec::new();
        while let Some(output) = core.poll() {
            match output {
                Output::Send(message) => sent.push(message),
                Output::Log(LogJob::Write(job)) => {
                    sent.extend(job.messages);
                    if let Some(number) = job.number {
                        core.handle(Input::Persisted(number), Instant::now());
                    }
                }
                Output::Log(LogJob::Snapshot(..)) | Output::Apply(_) => {}
            }
        }
        sent
    }

    fn answer(message: &Message) -> Option<Message> {
        let kind = match message.get_msg_type() {
            MessageType::MsgRequestPreVote => MessageType::MsgRequestPreVoteResponse,
            MessageType::MsgRequestVote => MessageType::MsgRequestVoteResponse,
            MessageType::MsgAppend => MessageType::MsgAppendResponse,
            _ => return None,
        };
        let index = message.index + message.entries.len() as u64;
        Some(Message { index, ..plain(kind, message.to, message.from, message.term) })
    }

    fn plain(kind: MessageType, from: u64, to: u64, term: u64) -> Message {
        let mut message = Message { from, to, term, ..Message::default() };
        message.set_msg_type(kind);
        message
    }

    fn tell_message(core: &mut RaftCore, message: Message) {
        core.handle(Input::Message(Box::new(message)), Instant::now());
    }

    #[test]
    fn commands_that_wait_together_reach_each_follower_in_one_message() {
        let mut core = leader();
        let mut answers = Vec::new();
        for number in 0..50u8 {
            let (reply, answer) = oneshot::channel();
            let deadline = Instant::now() + Duration::from_secs(60);
            let proposal = Proposal { data: Bytes::from(vec![number]), deadline, reply };
            core.handle(Input::Propose(proposal), Instant::now());
            answers.push(answer);
        }
        let sent = drain(&mut core);
        let entries = |to| {
            let appends = sent.iter().filter(|message| message.to == to);
            appends.map(|message| message.entries.len()).collect::<Vec<_>>()
        };
        assert_eq!((entries(2), entries(3)), (vec![50], vec![50]));
        assert_eq!(core.waiters.len(), 50);
        let last = core.node.raft.raft_log.last_index();
        assert!(core.waiters.keys().copied().eq(last - 49..=last));
    }

    #[test]
    fn commands_that_wait_when_leadership_ends_have_not_happened() {
        let mut core = leader();
        let (reply, mut answer) = oneshot::channel();
        let deadline = Instant::now() + Duration::from_secs(60);
        let proposal = Proposal { data: Bytes::from_static(b"x"), deadline, reply };
        core.handle(Input::Propose(proposal), Instant::now());
        let newer = core.node.raft.term + 1;
        tell_message(&mut core, plain(MessageType::MsgHeartbeat, 2, 1, newer));
        drain(&mut core);
        assert_eq!(answer.try_recv().unwrap(), Err(ConsensusError::NotLeader));
    }

    #[test]
    fn answer_waits_for_the_disk_only_if_something_before_it_does() {
        let mut core = core(2);
        let nothing = || plain(MessageType::MsgAppend, 1, 2, 1);
        tell_message(&mut core, nothing());
        drain(&mut core);
        tell_message(&mut core, nothing());
        let sent = core.poll();
        assert!(matches!(sent, Some(Output::Send(_))), "the term is durable: {sent:?}");
        assert!(core.poll().is_none());

        let mut append = plain(MessageType::MsgAppend, 1, 2, 1);
        append.mut_entries().push(Entry { index: 1, term: 1, ..Entry::default() });
        tell_message(&mut core, append);
        let Some(Output::Log(LogJob::Write(first))) = core.poll() else { panic!("the entry is to be kept") };
        tell_message(&mut core, nothing());
        let Some(Output::Log(LogJob::Write(second))) = core.poll() else { panic!("the answer waits") };
        assert_eq!((second.messages.len(), second.must_sync), (1, false));
        for number in [first.number, second.number].into_iter().flatten() {
            core.handle(Input::Persisted(number), Instant::now());
        }
        tell_message(&mut core, nothing());
        assert!(matches!(core.poll(), Some(Output::Send(_))));
    }

    #[test]
    fn answer_to_a_heartbeat_waits_for_a_term_and_for_nothing_else() {
        let mut core = core(2);
        let heartbeat = || plain(MessageType::MsgHeartbeat, 1, 2, 1);
        tell_message(&mut core, heartbeat());
        let Some(Output::Log(LogJob::Write(term))) = core.poll() else { panic!("the term is to be kept") };
        let waiting: Vec<_> = term.messages.iter().map(Message::get_msg_type).collect();
        assert_eq!(waiting, [MessageType::MsgHeartbeatResponse]);
        core.handle(Input::Persisted(term.number.unwrap()), Instant::now());

        // From here on the disk does not come back.
        let mut append = plain(MessageType::MsgAppend, 1, 2, 1);
        append.mut_entries().push(Entry { index: 1, term: 1, ..Entry::default() });
        tell_message(&mut core, append);
        assert!(matches!(core.poll(), Some(Output::Log(LogJob::Write(_)))));
        for _ in 0..3 {
            tell_message(&mut core, heartbeat());
            let sent = core.poll();
            let Some(Output::Send(answer)) = sent else { panic!("the leader waits for it: {sent:?}") };
            assert_eq!(answer.get_msg_type(), MessageType::MsgHeartbeatResponse);
        }
    }
}

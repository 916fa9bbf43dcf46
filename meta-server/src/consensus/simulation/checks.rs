//! What must hold in every run, checked while it goes on. A violation is a panic.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message as _;
use raft::eraftpb::{Entry, HardState, Message, MessageType};
use xdpfs_proto::state::v1::{self as pb, outcome};

use super::{
    super::{Applied, apply},
    server::Media,
};
use crate::{
    state_machine::{Configuration, FeatureLevel, Reason, State},
    storage::{LogPosition, crc32c, memory_store::Content},
};

/// A promise must be durable when it leaves: a crash may take everything else.
pub(super) fn assert_promise_is_durable(content: &Content, message: &Message) {
    let kept = &content.kept.hard_state;
    match message.get_msg_type() {
        MessageType::MsgRequestVoteResponse if !message.reject => {
            let holds = kept.term > message.term || kept.term == message.term && kept.vote == message.to;
            assert!(holds, "a vote leaves before it is durable: {kept:?}, {message:?}");
        }
        MessageType::MsgRequestVote => {
            let holds = kept.term > message.term || kept.term == message.term && kept.vote == message.from;
            assert!(holds, "a candidate's own vote is not durable: {kept:?}, {message:?}");
        }
        MessageType::MsgAppendResponse if !message.reject => {
            let reaches = content.last().index >= message.index;
            let holds = kept.term > message.term || kept.term == message.term && reaches;
            let last = content.last();
            assert!(
                holds,
                "entries are acknowledged before they are durable: {kept:?}, {last:?}, {message:?}"
            );
        }
        MessageType::MsgAppend | MessageType::MsgHeartbeat => {
            assert!(kept.term >= message.term, "a leader forgets its term in a crash: {kept:?}, {message:?}");
        }
        MessageType::MsgHeartbeatResponse => {
            assert!(
                kept.term >= message.term,
                "a follower forgets its term in a crash: {kept:?}, {message:?}"
            );
        }
        _ => {}
    }
}

/// What is known about the whole cluster, from outside.
pub(super) struct Checks {
    leaders: BTreeMap<u64, u64>,
    /// What every server ever voted, also before a crash.
    votes: BTreeMap<(u64, u64), u64>,
    hard_states: BTreeMap<u64, HardState>,
    /// By index and term: the term before it, and a checksum of its data.
    entries: BTreeMap<(u64, u64), (u64, u32)>,
    /// From index 1 on.
    committed: Vec<Committed>,
    pub(super) reference: State,
    /// Who takes part, and who did before the last change of that.
    configurations: [Configuration; 2],
    /// Who takes part from an entry on.
    configured_at: Vec<(u64, Configuration)>,
    /// Changes of who takes part.
    pub(super) configured: u64,
    /// What the state machine said to every request.
    outcomes: BTreeMap<Vec<u8>, pb::Outcome>,
    /// The highest index that a client was told of.
    pub(super) acknowledged_index: u64,
    /// Requests that were refused every time, for certain.
    refused: BTreeSet<Vec<u8>>,
    /// The newest version that each key ever had.
    versions: BTreeMap<(u32, String), u64>,
    /// Chunks that were ever granted.
    granted: BTreeSet<Vec<u8>>,
}

/// The whole state is looked at, and compared between servers, after every entry whose index this divides.
pub(super) const LOOK_EVERY: u64 = 16;

struct Committed {
    term: u64,
    request_id: Vec<u8>,
    crc32c: u32,
    outcome: Option<pb::Outcome>,
    /// Of the state, where it is looked at.
    digest: Option<u32>,
}

impl Checks {
    /// Of a cluster that begins with these voters.
    pub(super) fn new(voters: &[u64]) -> Self {
        let first = Configuration::of_voters(voters.iter().copied());
        Self {
            leaders: BTreeMap::new(),
            votes: BTreeMap::new(),
            hard_states: BTreeMap::new(),
            entries: BTreeMap::new(),
            committed: Vec::new(),
            reference: State::of_present_level(),
            configured_at: vec![(0, first.clone())],
            configurations: [first.clone(), first],
            configured: 0,
            outcomes: BTreeMap::new(),
            acknowledged_index: 0,
            refused: BTreeSet::new(),
            versions: BTreeMap::new(),
            granted: BTreeSet::new(),
        }
    }

    /// Who takes part, by everything that is committed.
    pub(super) const fn configuration(&self) -> &Configuration {
        &self.configurations[1]
    }

    /// A leader may have committed an entry before it applied a change right before it.
    fn assert_is_durable(&self, position: LogPosition, media: &Media) {
        let holds = |id: u64| media.get(&id).is_some_and(|medium| medium.content().holds(position));
        let is_durable = self.configurations.iter().any(|servers| servers.is_quorum(holds));
        let servers = &self.configurations;
        assert!(is_durable, "{position:?} is committed without a majority of durable copies: {servers:?}");
    }

    /// A server takes an entry for committed by which these take part from here on.
    pub(super) fn configures(&mut self, position: LogPosition, next: &Configuration, media: &Media) {
        let said = crc32c(format!("{next:?}").as_bytes());
        if let Some(known) = self.committed.get(position.index as usize - 1) {
            let same = (known.term, known.crc32c) == (position.term, said);
            assert!(same, "servers do not agree on who takes part from {position:?} on: {next:?}");
            return;
        }
        assert_eq!(position.index, self.committed_index() + 1, "committed entries have no gaps");
        self.assert_is_durable(position, media);
        let [_, last] = &self.configurations;
        let is_one_step = match (last.is_joint(), next.is_joint()) {
            (false, true) => next.voters_outgoing == last.voters,
            (true, false) => next.voters == last.voters,
            (false, false) => next.voters.symmetric_difference(&last.voters).count() <= 1,
            (true, true) => next == last,
        };
        assert!(is_one_step, "two majorities may have nothing in common: {last:?}, then {next:?}");
        assert!(!next.voters.is_empty(), "nobody is left to vote");
        let known = |id: &u64| last.contains(*id);
        assert!(
            next.voters.iter().all(known),
            "a server votes that has never learned: {last:?}, then {next:?}"
        );
        self.configured += u64::from(next != last);
        self.configurations = [last.clone(), next.clone()];
        self.configured_at.push((position.index, next.clone()));
        self.reference.configure(next.clone());
        let digest = self.look(position.index);
        let (term, request_id) = (position.term, Vec::new());
        self.committed.push(Committed { term, request_id, crc32c: said, outcome: None, digest });
    }

    /// A server is about to store a snapshot of its own.
    pub(super) fn stores(&self, position: LogPosition, servers: &Configuration) {
        let then = self.configured_at.iter().rev().find(|(from, _)| *from <= position.index);
        let then = then.map(|(_, servers)| servers);
        assert_eq!(then, Some(servers), "a snapshot has the servers of another entry than {position:?}");
    }

    pub(super) fn leads(&mut self, term: u64, id: u64) {
        let leader = *self.leaders.entry(term).or_insert(id);
        assert_eq!(leader, id, "two servers lead in term {term}");
    }

    pub(super) fn elections(&self) -> usize {
        self.leaders.len()
    }

    pub(super) fn leaves(&mut self, message: &Message) {
        let candidate = match message.get_msg_type() {
            MessageType::MsgRequestVoteResponse if !message.reject => message.to,
            MessageType::MsgRequestVote => message.from,
            _ => return,
        };
        let vote = *self.votes.entry((message.from, message.term)).or_insert(candidate);
        assert_eq!(vote, candidate, "server {} votes twice in term {}", message.from, message.term);
    }

    /// A server starts with what its medium kept.
    pub(super) fn starts(&mut self, id: u64, kept: &HardState, term: u64) {
        assert_eq!(term, kept.term, "server {id} starts in another term than it stored");
        self.hard_states.insert(id, kept.clone());
    }

    pub(super) fn hard_state(&mut self, id: u64, next: &HardState) {
        let last = self.hard_states.entry(id).or_default();
        assert!(last.term <= next.term && last.commit <= next.commit, "{id}: {last:?} then {next:?}");
        let changes_vote = last.term == next.term && last.vote != 0 && last.vote != next.vote;
        assert!(!changes_vote, "server {id} changes its vote: {last:?} then {next:?}");
        last.clone_from(next);
    }

    pub(super) fn appends(&mut self, entries: &[Entry], mut term_before: u64) {
        for entry in entries {
            let found = (term_before, crc32c(&entry.data));
            let known = *self.entries.entry((entry.index, entry.term)).or_insert(found);
            assert_eq!(known, found, "two logs differ at or before index {}", entry.index);
            term_before = entry.term;
        }
    }

    pub(super) fn committed_index(&self) -> u64 {
        self.committed.len() as u64
    }

    /// A server takes this entry for committed.
    pub(super) fn commits(&mut self, entry: &Entry, media: &Media) {
        if let Some(known) = self.committed.get(entry.index as usize - 1) {
            let same = (known.term, known.crc32c) == (entry.term, crc32c(&entry.data));
            assert!(same, "the committed entry {} has changed", entry.index);
            return;
        }
        assert_eq!(entry.index, self.committed_index() + 1, "committed entries have no gaps");
        let position = LogPosition { index: entry.index, term: entry.term };
        self.assert_is_durable(position, media);
        let request_id = pb::Command::decode(entry.data.clone()).expect("it was encoded").request_id.to_vec();
        assert!(!self.refused.contains(&request_id), "a refused command is committed at {}", entry.index);
        let outcome = apply::apply(&mut self.reference, entry, FeatureLevel::SUPPORTED);
        let outcome = outcome.expect("this release knows every command");
        if let Some(outcome) = outcome.as_ref().filter(|_| !request_id.is_empty()) {
            self.says(&request_id, outcome);
        }
        let digest = self.look(entry.index);
        let crc32c = crc32c(&entry.data);
        self.committed.push(Committed { term: entry.term, request_id, crc32c, outcome, digest });
    }

    /// Looks at the whole state after an entry, if it is time for that.
    fn look(&self, index: u64) -> Option<u32> {
        index.is_multiple_of(LOOK_EVERY).then(|| {
            self.reference.assert_is_sound();
            self.reference.digest()
        })
    }

    /// The state machine answers a request.
    fn says(&mut self, request_id: &[u8], outcome: &pb::Outcome) {
        if let Some(first) = self.outcomes.get(request_id) {
            assert_eq!(first, outcome, "a repeated request has another answer");
            return;
        }
        match &outcome.kind {
            Some(outcome::Kind::Rejected(rejected))
                if Reason::parse(&rejected.reason).is_some_and(Reason::may_differ_when_repeated) =>
            {
                return;
            }
            Some(outcome::Kind::Begun(begun)) => {
                for chunk in &begun.chunks {
                    assert!(self.granted.insert(chunk.chunk_id.to_vec()), "a chunk id is granted twice");
                }
            }
            Some(outcome::Kind::Committed(committed)) => {
                self.gets(committed.object.as_ref().expect("it says what was committed"));
            }
            Some(outcome::Kind::Batched(batched)) => {
                batched.results.iter().filter_map(|result| result.object.as_ref()).for_each(|object| {
                    // Of what a batch removes, the answer has the version that it had.
                    let newest = self.versions.get(&(object.bucket_id, object.key.clone()));
                    if newest != Some(&object.version) {
                        self.gets(object);
                    }
                });
            }
            _ => {}
        }
        self.outcomes.insert(request_id.to_vec(), outcome.clone());
    }

    /// A key gets a new version.
    fn gets(&mut self, object: &pb::Object) {
        let newest = self.versions.entry((object.bucket_id, object.key.clone())).or_default();
        assert!(
            *newest < object.version,
            "the version of {} falls from {newest} to {}",
            object.key,
            object.version
        );
        *newest = object.version;
    }

    /// A server's state includes the entries up to this one.
    pub(super) fn applies(&self, id: u64, index: u64, state: &State) {
        let Some(at) = index.checked_sub(1) else { return };
        let known = self.committed.get(at as usize).expect("only what is committed is applied");
        if let Some(digest) = known.digest {
            assert_eq!(digest, state.digest(), "server {id} has another state at index {index}");
        }
    }

    /// All servers have applied everything.
    pub(super) fn ends(&self, id: u64, state: &State) {
        self.reference.assert_is_sound();
        assert_eq!(self.reference.digest(), state.digest(), "server {id} ends with another state");
    }

    /// A client has an answer to its command.
    pub(super) fn acknowledges(&mut self, request_id: &[u8], applied: &Applied) {
        let entry =
            self.committed.get(applied.index as usize - 1).expect("an acknowledged command is committed");
        assert_eq!(entry.request_id, request_id, "the answer belongs to another command");
        assert_eq!(
            entry.outcome.as_ref(),
            Some(&applied.outcome),
            "the answer is not what the state machine said"
        );
        self.acknowledged_index = self.acknowledged_index.max(applied.index);
    }

    /// A client gives up on a command that no server ever took.
    pub(super) fn refuses(&mut self, request_id: &[u8]) {
        let committed = self.committed.iter().any(|entry| entry.request_id == request_id);
        assert!(!committed, "a refused command is committed");
        self.refused.insert(request_id.to_vec());
    }

    /// A client may read the state of server `id`, which includes entries up to `applied`.
    pub(super) fn reads(&self, id: u64, term: u64, applied: u64, acknowledged_before: u64) {
        assert!(
            applied >= acknowledged_before,
            "a read at {applied} misses what was acknowledged at {acknowledged_before}"
        );
        assert_eq!(self.leaders.get(&term), Some(&id), "server {id} did not lead in term {term}");
    }
}

//! Clients that change and read the state, and that repeat what may or may not have happened under its request id.

use std::{
    collections::{BTreeMap, VecDeque},
    mem,
    time::{Duration, Instant},
};

use bytes::Bytes;
use prost::Message as _;
use tokio::sync::oneshot::{self, error::TryRecvError};
use xdpfs_proto::state::v1::{self as pb, command::Kind, outcome, precondition};
use xdpfs_testbed::history::{Operation, Outcome};

use super::{
    super::{Applied, ConsensusError, Input, Proposal, Read},
    checks::Checks,
    histories::Histories,
    objects::{self, BUCKET},
    random::Random,
};
use crate::state_machine::{Etag, Reason};

/// How long a client waits for an answer: some turn elsewhere while the server that they asked may still lead.
const PATIENCES_MS: [u64; 2] = [30, 400];
const PATIENCE_MS_MAX: u64 = PATIENCES_MS[1];
/// This one only reads, and asks whomever it may, so that no change that nobody answers keeps it from a leader of old.
const READER: u64 = 2;
const LEASES_MS: [u64; 3] = [200, 2000, 60_000];

type Answer<T> = oneshot::Receiver<Result<T, ConsensusError>>;

#[derive(Default)]
pub(super) struct Client {
    id: u64,
    requests: u64,
    /// What it has to do before anything else.
    first: VecDeque<Kind>,
    doing: Option<Doing>,
    /// What it knows keys to have held.
    found: BTreeMap<String, Etag>,
    /// The server that has last served it a read: it takes that for the leader until it is refused.
    trusted: Option<u64>,
}

enum Doing {
    Change(Box<Change>),
    Read {
        server: u64,
        key: String,
        called_ms: u64,
        until_ms: u64,
        acknowledged_before: u64,
        answer: Answer<u64>,
    },
}

/// A command, and what its last attempt waits for.
struct Change {
    kind: Kind,
    request_id: Bytes,
    /// What the history of a key will say of it.
    told: Option<Told>,
    unknown: bool,
    attempt: Option<(u64, Answer<Applied>)>,
}

/// An operation on a key, of which a command is a part.
#[derive(Clone, Debug)]
struct Told {
    key: String,
    operation: Operation,
    precondition: Option<pb::Precondition>,
    called_ms: u64,
}

/// What clients saw.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    pub(super) changes: u64,
    pub(super) reads: u64,
    pub(super) refused_reads: u64,
    pub(super) unknown_outcomes: u64,
    pub(super) given_up: u64,
    pub(super) left_open: u64,
}

/// Where a client finds itself.
pub(super) struct Surroundings<'a> {
    pub(super) leader: Option<u64>,
    /// All servers, with the time that their wall clocks show.
    pub(super) clocks: &'a BTreeMap<u64, u64>,
    pub(super) start: Instant,
    pub(super) now_ms: u64,
}

/// What is written down about clients.
pub(super) struct Books<'a> {
    pub(super) checks: &'a mut Checks,
    pub(super) seen: &'a mut Seen,
    pub(super) histories: &'a mut Histories,
}

/// What a server's state says: the last entry that it includes, and what a key holds.
pub(super) type Look<'a> = dyn Fn(u64, &str) -> Option<(u64, Option<Etag>)> + 'a;

impl Change {
    fn new(kind: Kind, request_id: Bytes, told: Option<Told>) -> Box<Self> {
        Box::new(Self { kind, request_id, told, unknown: false, attempt: None })
    }

    /// Whether the operation takes effect with this command, if it does.
    const fn is_decisive(&self) -> bool {
        matches!(self.kind, Kind::CommitPut(_) | Kind::DeleteObject(_))
    }
}

impl Client {
    pub(super) fn new(id: u64, first: impl IntoIterator<Item = Kind>) -> Self {
        Self { id, first: first.into_iter().collect(), ..Self::default() }
    }

    pub(super) const fn is_idle(&self) -> bool {
        self.doing.is_none()
    }

    /// Decides what to do next, if there is nothing to do. Gives an input for a server.
    pub(super) fn act(
        &mut self,
        around: &Surroundings<'_>,
        books: &mut Books<'_>,
        random: &mut Random,
    ) -> Option<(u64, Input)> {
        let now_ms = around.now_ms;
        match &mut self.doing {
            Some(Doing::Read { .. }) => None,
            Some(Doing::Change(change)) if change.attempt.is_some() => None,
            Some(Doing::Change(change)) if self.first.is_empty() && gives_up(change, random) => {
                give_up(change, books, now_ms);
                self.doing = None;
                None
            }
            Some(Doing::Change(change)) => Some(attempt(change, around, random)),
            None if self.first.is_empty() && (self.id == READER || random.one_in(3)) => {
                let key = objects::key(now_ms, random);
                let trusted = self.trusted.filter(|_| random.one_in(2));
                let server = match trusted {
                    _ if self.id == READER => around.any(random),
                    Some(trusted) => trusted,
                    None => around.pick(random),
                };
                let (reply, answer) = oneshot::channel();
                let acknowledged_before = books.checks.acknowledged_index;
                let until_ms = now_ms + PATIENCE_MS_MAX;
                let called_ms = now_ms;
                self.doing =
                    Some(Doing::Read { server, key, called_ms, until_ms, acknowledged_before, answer });
                let deadline = around.start + Duration::from_millis(until_ms);
                Some((server, Input::Read(Read { deadline, reply })))
            }
            None => {
                self.begin(now_ms, random);
                None
            }
        }
    }

    fn next_request_id(&mut self) -> Bytes {
        self.requests += 1;
        Bytes::from((u128::from(self.id) << 64 | u128::from(self.requests)).to_be_bytes().to_vec())
    }

    fn begin(&mut self, now_ms: u64, random: &mut Random) {
        let request_id = self.next_request_id();
        let (kind, told) = match self.first.front() {
            Some(kind) => (kind.clone(), None),
            None => self.wish(now_ms, random),
        };
        self.doing = Some(Doing::Change(Change::new(kind, request_id, told)));
    }

    fn wish(&self, now_ms: u64, random: &mut Random) -> (Kind, Option<Told>) {
        let key = objects::key(now_ms, random);
        // No two values of a run are the same.
        let value = self.id << 20 | self.requests;
        let told = |operation, precondition| {
            Some(Told { key: key.clone(), operation, precondition, called_ms: now_ms })
        };
        match random.below(20) {
            0..3 => (objects::churn(random), None),
            3 => (objects::copy(&key, random), None),
            4 => (Kind::ExpireUploads(pb::ExpireUploads {}), None),
            5..9 => {
                let delete =
                    pb::DeleteObject { bucket: BUCKET.into(), key: key.clone(), ..Default::default() };
                (Kind::DeleteObject(delete), told(Operation::Delete, None))
            }
            number => {
                let (operation, precondition) = match (number, self.found.get(&key)) {
                    (9..12, _) => (Operation::Create(value), Some(precondition::Kind::IfNoneMatchAny(true))),
                    (12..15, Some(etag)) => {
                        let held = u64::from(etag.crc32c);
                        let matches = precondition::Kind::IfMatch(etag.to_string());
                        (Operation::Replace { held, value }, Some(matches))
                    }
                    _ => (Operation::Put(value), None),
                };
                let precondition = precondition.map(|kind| pb::Precondition { kind: Some(kind) });
                let lease_ms = random.pick(&LEASES_MS);
                let begin = objects::begin(&key, precondition.clone(), lease_ms, random);
                (begin, told(operation, precondition))
            }
        }
    }

    /// Takes an answer that has come.
    pub(super) fn listen(&mut self, look: &Look<'_>, books: &mut Books<'_>, now_ms: u64) {
        match self.doing.take() {
            Some(Doing::Change(change)) => self.listen_to_change(change, books, now_ms),
            Some(Doing::Read { server, key, called_ms, until_ms, acknowledged_before, mut answer }) => {
                match answer.try_recv() {
                    Ok(Ok(term)) => {
                        // A server that has crashed since has lost its state and can answer nothing.
                        if let Some((applied, held)) = look(server, &key) {
                            books.checks.reads(server, term, applied, acknowledged_before);
                            let found = Outcome::Found(held.map(|etag| u64::from(etag.crc32c)));
                            books.histories.record(&key, Operation::Get, found, (called_ms, now_ms));
                            books.seen.reads += 1;
                            self.trusted = Some(server);
                            if let Some(etag) = held {
                                self.found.insert(key, etag);
                            }
                        }
                    }
                    // The server may have been paused meanwhile, more than once.
                    Err(TryRecvError::Empty) if now_ms < until_ms + 5 * PATIENCE_MS_MAX => {
                        self.doing = Some(Doing::Read {
                            server,
                            key,
                            called_ms,
                            until_ms,
                            acknowledged_before,
                            answer,
                        });
                    }
                    Err(TryRecvError::Empty) => panic!("a read is left waiting beyond its deadline"),
                    Ok(Err(_)) | Err(TryRecvError::Closed) => {
                        books.seen.refused_reads += 1;
                        self.trusted = None;
                    }
                }
            }
            None => {}
        }
    }

    fn listen_to_change(&mut self, mut change: Box<Change>, books: &mut Books<'_>, now_ms: u64) {
        if let Some((until_ms, answer)) = &mut change.attempt {
            match answer.try_recv() {
                Ok(Ok(applied)) => {
                    books.checks.acknowledges(&change.request_id, &applied);
                    books.seen.changes += 1;
                    return self.hear(&change, applied.outcome.kind, books, now_ms);
                }
                Ok(Err(ConsensusError::NotLeader | ConsensusError::Overloaded)) => change.attempt = None,
                Err(TryRecvError::Empty) if now_ms < *until_ms => {}
                Ok(Err(_)) | Err(_) => {
                    (change.unknown, change.attempt) = (true, None);
                    books.seen.unknown_outcomes += 1;
                }
            }
        }
        self.doing = Some(Doing::Change(change));
    }

    /// What the state machine said to a command.
    fn hear(&mut self, change: &Change, said: Option<outcome::Kind>, books: &mut Books<'_>, now_ms: u64) {
        self.first.pop_front();
        let Some(told) = change.told.clone() else { return };
        let outcome = match said {
            Some(outcome::Kind::Begun(begun)) => {
                let commit = objects::commit(&begun, told.precondition.clone(), value(told.operation));
                let request_id = self.next_request_id();
                self.doing = Some(Doing::Change(Change::new(commit, request_id, Some(told))));
                return;
            }
            Some(outcome::Kind::Committed(committed)) => {
                let object = committed.object.expect("it says what was committed");
                self.found.insert(told.key.clone(), Etag { version: object.version, crc32c: object.crc32c });
                Outcome::Done
            }
            Some(outcome::Kind::Deleted(_)) => Outcome::Done,
            Some(outcome::Kind::Rejected(rejected)) => match Reason::parse(&rejected.reason) {
                Some(Reason::PreconditionFailed) => Outcome::Refused,
                Some(Reason::ObjectNotFound | Reason::BucketNotFound)
                    if told.operation == Operation::Delete =>
                {
                    Outcome::Refused
                }
                // It has had no effect, so that the history need not know of it: what it would have put is never found.
                _ => return,
            },
            other => panic!("an answer to something else: {other:?}"),
        };
        books.histories.record(&told.key, told.operation, outcome, (told.called_ms, now_ms));
    }
}

impl Surroundings<'_> {
    fn any(&self, random: &mut Random) -> u64 {
        let any = random.below(self.clocks.len() as u64) as usize;
        self.clocks.keys().nth(any).copied().expect("there are servers")
    }

    /// Mostly the server that leads.
    fn pick(&self, random: &mut Random) -> u64 {
        let any = self.any(random);
        self.leader.filter(|_| random.below(10) < 8).unwrap_or(any)
    }
}

/// As a leader writes it down, with the time of its own clock.
pub(super) fn command(kind: Kind, request_id: Bytes, time_ms: u64) -> Bytes {
    pb::Command { time_ms, request_id, kind: Some(kind), deletion_grace_ms: 1, caller: None }
        .encode_to_vec()
        .into()
}

fn attempt(change: &mut Change, around: &Surroundings<'_>, random: &mut Random) -> (u64, Input) {
    let server = around.pick(random);
    let data = command(change.kind.clone(), change.request_id.clone(), around.clocks[&server]);
    let (reply, answer) = oneshot::channel();
    let until_ms = around.now_ms + random.pick(&PATIENCES_MS);
    change.attempt = Some((until_ms, answer));
    let deadline = around.start + Duration::from_millis(until_ms);
    (server, Input::Propose(Proposal { data, deadline, reply }))
}

/// What was refused for certain is sometimes given up, and what nobody knows the outcome of sometimes left open.
fn gives_up(change: &Change, random: &mut Random) -> bool {
    random.one_in(if change.unknown { 8 } else { 4 })
}

fn give_up(change: &mut Change, books: &mut Books<'_>, now_ms: u64) {
    if !change.unknown {
        books.checks.refuses(&change.request_id);
        books.seen.given_up += 1;
        return;
    }
    books.seen.left_open += 1;
    if let Some(told) = mem::take(&mut change.told).filter(|_| change.is_decisive()) {
        books.histories.record(&told.key, told.operation, Outcome::Unknown, (told.called_ms, now_ms));
    }
}

fn value(operation: Operation) -> u32 {
    match operation {
        Operation::Create(value) | Operation::Put(value) | Operation::Replace { value, .. } => value as u32,
        Operation::Delete | Operation::Get => panic!("nothing is put"),
    }
}

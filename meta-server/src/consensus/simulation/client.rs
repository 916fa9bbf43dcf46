//! Clients that change and read the state, and that repeat what may or may not have happened under its request id.

use std::time::{Duration, Instant};

use bytes::Bytes;
use prost::Message as _;
use tokio::sync::oneshot::{self, error::TryRecvError};
use xdpfs_proto::state::v1::{self as pb, command::Kind};

use super::{
    super::{Applied, ConsensusError, Input, Proposal, Read},
    checks::Checks,
    random::Random,
};

const PATIENCE_MS: u64 = 400;

type Answer<T> = oneshot::Receiver<Result<T, ConsensusError>>;

#[derive(Default)]
pub(super) struct Client {
    id: u64,
    requests: u64,
    doing: Option<Doing>,
}

enum Doing {
    /// A command, and what its last attempt waits for.
    Change {
        request_id: Bytes,
        data: Bytes,
        unknown: bool,
        attempt: Option<(u64, Answer<Applied>)>,
    },
    Read {
        server: u64,
        until_ms: u64,
        acknowledged_before: u64,
        answer: Answer<u64>,
    },
}

/// What clients saw.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    pub(super) changes: u64,
    pub(super) reads: u64,
    pub(super) refused_reads: u64,
    pub(super) unknown_outcomes: u64,
    pub(super) given_up: u64,
}

impl Client {
    pub(super) const fn new(id: u64) -> Self {
        Self { id, requests: 0, doing: None }
    }

    pub(super) const fn is_idle(&self) -> bool {
        self.doing.is_none()
    }

    /// Decides what to do next, if there is nothing to do. Gives an input for a server.
    pub(super) fn act(
        &mut self,
        (leader, servers): (Option<u64>, &[u64]),
        checks: &mut Checks,
        seen: &mut Seen,
        random: &mut Random,
        (start, now_ms): (Instant, u64),
    ) -> Option<(u64, Input)> {
        let server = leader.filter(|_| random.below(10) < 8).unwrap_or_else(|| random.pick(servers));
        let deadline = start + Duration::from_millis(now_ms + PATIENCE_MS);
        match &mut self.doing {
            Some(Doing::Read { .. } | Doing::Change { attempt: Some(_), .. }) => None,
            Some(Doing::Change { request_id, unknown: false, .. }) if random.one_in(4) => {
                checks.refuses(request_id);
                seen.given_up += 1;
                self.doing = None;
                None
            }
            Some(Doing::Change { data, attempt, .. }) => {
                let (reply, answer) = oneshot::channel();
                *attempt = Some((now_ms + PATIENCE_MS, answer));
                Some((server, Input::Propose(Proposal { data: data.clone(), deadline, reply })))
            }
            None if random.one_in(3) => {
                let (reply, answer) = oneshot::channel();
                let (until_ms, acknowledged_before) = (now_ms + PATIENCE_MS, checks.acknowledged_index);
                self.doing = Some(Doing::Read { server, until_ms, acknowledged_before, answer });
                Some((server, Input::Read(Read { deadline, reply })))
            }
            None => {
                self.requests += 1;
                let request_id = Bytes::from(
                    (u128::from(self.id) << 64 | u128::from(self.requests)).to_be_bytes().to_vec(),
                );
                let data = command(request_id.clone(), now_ms, random);
                self.doing = Some(Doing::Change { request_id, data, unknown: false, attempt: None });
                None
            }
        }
    }

    /// Takes an answer that has come. `applied` tells how far a server's state is, if it runs.
    pub(super) fn listen(
        &mut self,
        applied: impl Fn(u64) -> Option<u64>,
        checks: &mut Checks,
        seen: &mut Seen,
        now_ms: u64,
    ) {
        match &mut self.doing {
            Some(Doing::Change { request_id, unknown, attempt, .. }) => {
                let Some((until_ms, answer)) = attempt else { return };
                match answer.try_recv() {
                    Ok(Ok(applied)) => {
                        checks.acknowledges(request_id, &applied);
                        seen.changes += 1;
                        self.doing = None;
                    }
                    Ok(Err(ConsensusError::NotLeader | ConsensusError::Overloaded)) => *attempt = None,
                    Err(TryRecvError::Empty) if now_ms < *until_ms => {}
                    Ok(Err(_)) | Err(_) => {
                        (*unknown, *attempt) = (true, None);
                        seen.unknown_outcomes += 1;
                    }
                }
            }
            Some(Doing::Read { server, until_ms, acknowledged_before, answer }) => match answer.try_recv() {
                Ok(Ok(term)) => {
                    // A server that has crashed since has lost its state and can answer nothing.
                    if let Some(applied) = applied(*server) {
                        checks.reads(*server, term, applied, *acknowledged_before);
                        seen.reads += 1;
                    }
                    self.doing = None;
                }
                // The server may have been paused meanwhile, more than once.
                Err(TryRecvError::Empty) if now_ms < *until_ms + 5 * PATIENCE_MS => {}
                Err(TryRecvError::Empty) => panic!("a read is left waiting beyond its deadline"),
                Ok(Err(_)) | Err(TryRecvError::Closed) => {
                    seen.refused_reads += 1;
                    self.doing = None;
                }
            },
            None => {}
        }
    }
}

/// Buckets come and go; some have names long enough for a state of several parts.
pub(super) fn command(request_id: Bytes, time_ms: u64, random: &mut Random) -> Bytes {
    let number = random.below(60);
    let name = format!("{number}-{}", "x".repeat(if number < 20 { 3000 } else { 1 }));
    let kind = match random.below(3) {
        0 => Kind::DeleteBucket(pb::DeleteBucket { name }),
        _ => Kind::CreateBucket(pb::CreateBucket {
            name,
            chunk_size: 65_536,
            replicas: 3,
            min_replicas: 2,
            ..Default::default()
        }),
    };
    pb::Command { time_ms, request_id, kind: Some(kind), deletion_grace_ms: 1, caller: None }
        .encode_to_vec()
        .into()
}

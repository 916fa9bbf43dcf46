//! Answers to requests, kept so that repeating a request gives its first answer.
//!
//! Invariant: bounded in time, number and bytes, and by constants: a configured bound could differ between servers.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use prost::Message as _;
use xdpfs_proto::state::v1 as pb;

/// How long an answer is kept on the cluster's clock. Clients give up repeating a request long before.
const KEPT_MS: u64 = 15 * 60 * 1000;
const ANSWERS_MAX: usize = 200_000;
const ANSWERS_BYTES_MAX: usize = 64 << 20;

/// A client's request id.
type RequestId = [u8; 16];

/// The answers, by request and by age.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answered {
    by_request: BTreeMap<RequestId, Answer>,
    by_time: BTreeSet<(u64, RequestId)>,
    bytes: usize,
}

#[derive(Clone, Debug, PartialEq)]
struct Answer {
    time_ms: u64,
    /// Encoded: answers wait in great numbers and are hardly ever looked at.
    outcome: Bytes,
}

impl Answered {
    /// The answer that was given to this request before.
    pub(super) fn outcome(&self, request_id: &[u8]) -> Option<pb::Outcome> {
        let answer = self.by_request.get(request_id)?;
        Some(
            pb::Outcome::decode(answer.outcome.clone())
                .expect("this server encoded it, or checked it on loading"),
        )
    }

    /// Keeps an answer. Requests without an id cannot be repeated.
    pub(super) fn remember(&mut self, request_id: &[u8], time_ms: u64, outcome: &pb::Outcome) {
        let Ok(request_id) = RequestId::try_from(request_id) else { return };
        let outcome = Bytes::from(outcome.encode_to_vec());
        self.bytes += outcome.len();
        self.by_request.insert(request_id, Answer { time_ms, outcome });
        self.by_time.insert((time_ms, request_id));
        while self.by_request.len() > ANSWERS_MAX || self.bytes > ANSWERS_BYTES_MAX {
            self.forget_oldest();
        }
    }

    pub(super) fn forget_old(&mut self, now_ms: u64) {
        while self.by_time.first().is_some_and(|(time_ms, _)| time_ms + KEPT_MS < now_ms) {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        let Some((_, request_id)) = self.by_time.pop_first() else { return };
        if let Some(answer) = self.by_request.remove(&request_id) {
            self.bytes -= answer.outcome.len();
        }
    }

    /// All answers, by request.
    pub(super) fn records(&self) -> impl Iterator<Item = pb::Answered> + '_ {
        self.by_request.iter().map(|(request_id, answer)| pb::Answered {
            request_id: Bytes::copy_from_slice(request_id),
            time_ms: answer.time_ms,
            outcome: pb::Outcome::decode(answer.outcome.clone()).ok(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done() -> pb::Outcome {
        pb::Outcome { kind: Some(pb::outcome::Kind::Done(pb::Done {})) }
    }

    #[test]
    fn answers_are_forgotten_when_they_are_old() {
        let mut answered = Answered::default();
        answered.remember(&[1; 16], 1000, &done());
        answered.remember(&[2; 16], 2000, &done());
        answered.remember(&[], 2000, &done());
        answered.forget_old(1000 + KEPT_MS);
        assert_eq!(answered.outcome(&[1; 16]), Some(done()));
        answered.forget_old(1001 + KEPT_MS);
        assert_eq!(answered.outcome(&[1; 16]), None);
        assert_eq!(answered.outcome(&[2; 16]), Some(done()));
        answered.forget_old(u64::MAX);
        assert_eq!(answered, Answered::default());
    }

    #[test]
    fn answers_are_bounded_in_number() {
        let mut answered = Answered::default();
        for n in 0..ANSWERS_MAX as u128 + 10 {
            answered.remember(&n.to_be_bytes(), 1, &done());
        }
        assert_eq!(answered.by_request.len(), ANSWERS_MAX);
        assert_eq!(answered.by_time.len(), ANSWERS_MAX);
        assert_eq!(answered.outcome(&0u128.to_be_bytes()), None, "the oldest goes first");
    }
}

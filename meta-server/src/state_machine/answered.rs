//! Answers to requests, kept so that repeating a request gives its first answer.
//!
//! Invariant: bounded in time, number and bytes, and by constants: a configured bound could differ between servers. An
//! answer that may still be asked for is never forgotten to make room: then no more requests are taken.

use std::collections::BTreeSet;

use bytes::Bytes;
use prost::Message as _;
use xdpfs_proto::state::v1 as pb;

use super::{FeatureLevel, pictured::PicturedMap};

/// How long an answer is kept on the cluster's clock, if there is room.
const KEPT_MS: u64 = 15 * 60 * 1000;
/// So many are kept however old they are: a leader whose clock is an hour ahead makes all of them old at once, and clients
/// may still ask for the newest ones.
pub(super) const ANSWERS_KEPT: usize = 1 << 16;
/// How long it is kept in any case. Clients give up repeating a request before.
const NEEDED_MS: u64 = 45 * 1000;
/// So many are kept that are not needed any more.
const ANSWERS_MAX: usize = 300_000;
const ANSWERS_BYTES_MAX: usize = 64 << 20;
/// So many are kept in any case; then no more requests are taken.
const NEEDED_MAX: usize = 1_000_000;
/// One answer may go beyond it.
const NEEDED_BYTES_MAX: usize = 192 << 20;

/// Answers that are forgotten for one that is new: more than one, so that they become fewer.
const FORGOTTEN_AT_ONCE_MAX: usize = 4;

/// A client's request id.
pub(super) type RequestId = [u8; 16];

/// The answers, by request and by age.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answered {
    by_request: PicturedMap<RequestId, Answer>,
    by_time: BTreeSet<(u64, RequestId)>,
    bytes: usize,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Answer {
    pub(super) time_ms: u64,
    /// Encoded: answers wait in great numbers and are hardly ever looked at.
    pub(super) outcome: Bytes,
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

    /// Whether one more answer can be kept without forgetting one that may still be asked for.
    pub(super) fn has_room(&self, now_ms: u64, level: FeatureLevel) -> bool {
        // Releases before that one refuse more, and all servers have to take the same.
        let (count_max, bytes_max) = match level < FeatureLevel::REPAIR {
            true => (ANSWERS_MAX, ANSWERS_BYTES_MAX),
            false => (NEEDED_MAX, NEEDED_BYTES_MAX),
        };
        let is_full = self.by_request.len() >= count_max || self.bytes >= bytes_max;
        !is_full || self.oldest_is_spent(now_ms)
    }

    /// Keeps an answer. Requests without an id cannot be repeated.
    pub(super) fn remember(
        &mut self,
        request_id: &[u8],
        time_ms: u64,
        outcome: &pb::Outcome,
        level: FeatureLevel,
    ) {
        if !self.load(request_id, time_ms, outcome) {
            return;
        }
        for _ in 0..forgotten_max(level) {
            if !self.is_over() || !self.oldest_is_spent(time_ms) {
                break;
            }
            self.forget_oldest();
        }
    }

    /// Keeps an answer of a snapshot, however many there are. Gives whether its request can be repeated.
    pub(super) fn load(&mut self, request_id: &[u8], time_ms: u64, outcome: &pb::Outcome) -> bool {
        let Ok(request_id) = RequestId::try_from(request_id) else { return false };
        let outcome = Bytes::from(outcome.encode_to_vec());
        self.bytes += outcome.len();
        self.by_request.insert(request_id, Answer { time_ms, outcome });
        self.by_time.insert((time_ms, request_id));
        true
    }

    fn is_over(&self) -> bool {
        self.by_request.len() > ANSWERS_MAX || self.bytes > ANSWERS_BYTES_MAX
    }

    fn oldest_is_spent(&self, now_ms: u64) -> bool {
        self.by_time.first().is_some_and(|(time_ms, _)| time_ms.saturating_add(NEEDED_MS) < now_ms)
    }

    /// `kept` are kept however old they are.
    pub(super) fn forget_old(&mut self, now_ms: u64, kept: usize, level: FeatureLevel) {
        let is_old = |(time_ms, _): &(u64, RequestId)| time_ms.saturating_add(KEPT_MS) < now_ms;
        for _ in 0..forgotten_max(level) {
            if self.by_time.len() <= kept || !self.by_time.first().is_some_and(is_old) {
                break;
            }
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
        self.by_request.iter().map(|(request_id, answer)| answer.record(request_id))
    }

    pub(super) const fn by_request(&mut self) -> &mut PicturedMap<RequestId, Answer> {
        &mut self.by_request
    }

    /// Visits answers of a picture, by request.
    pub(super) fn slice(
        &self,
        after: Option<&RequestId>,
        cost_max: usize,
        visit: impl FnMut(&RequestId, &Answer) -> usize,
    ) -> Option<RequestId> {
        self.by_request.slice(after, cost_max, visit)
    }
}

impl Answer {
    fn record(&self, request_id: &RequestId) -> pb::Answered {
        pb::Answered {
            request_id: Bytes::copy_from_slice(request_id),
            time_ms: self.time_ms,
            outcome: pb::Outcome::decode(self.outcome.clone()).ok(),
        }
    }
}

/// Answers that one command forgets for one reason. Before that level there were never so many that it took long.
const fn forgotten_max(level: FeatureLevel) -> usize {
    if level.0 < FeatureLevel::REPAIR.0 { usize::MAX } else { FORGOTTEN_AT_ONCE_MAX }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEVEL: FeatureLevel = FeatureLevel::SUPPORTED;

    fn done() -> pb::Outcome {
        pb::Outcome { kind: Some(pb::outcome::Kind::Done(pb::Done {})) }
    }

    #[test]
    fn answers_are_forgotten_when_they_are_old_but_for_the_newest() {
        let mut answered = Answered::default();
        answered.remember(&[255; 16], 1000, &done(), LEVEL);
        answered.remember(&[254; 16], 2000, &done(), LEVEL);
        answered.remember(&[], 2000, &done(), LEVEL);
        for number in 0..ANSWERS_KEPT as u128 - 1 {
            answered.remember(&number.to_be_bytes(), 3000, &done(), LEVEL);
        }
        answered.forget_old(1000 + KEPT_MS, ANSWERS_KEPT, FeatureLevel::FIRST);
        assert_eq!(answered.outcome(&[255; 16]), Some(done()));
        answered.forget_old(1001 + KEPT_MS, ANSWERS_KEPT, LEVEL);
        assert_eq!(answered.outcome(&[255; 16]), None);
        answered.forget_old(u64::MAX, ANSWERS_KEPT, LEVEL);
        assert_eq!(answered.outcome(&[254; 16]), Some(done()));
        assert_eq!(answered.by_request.len(), ANSWERS_KEPT);
        answered.forget_old(u64::MAX, 0, FeatureLevel::MEMBERS_AND_BATCHES);
        assert_eq!(answered, Answered::default());
    }

    #[test]
    fn clock_that_jumps_takes_no_answer_with_it() {
        let mut answered = Answered::default();
        answered.remember(&[1; 16], 1000, &done(), LEVEL);
        answered.forget_old(1000 + 4 * KEPT_MS, ANSWERS_KEPT, LEVEL);
        answered.remember(&[2; 16], 1000 + 4 * KEPT_MS, &done(), LEVEL);
        assert_eq!(answered.outcome(&[1; 16]), Some(done()));
    }

    #[test]
    fn answers_that_may_still_be_asked_for_are_not_forgotten_for_room() {
        let mut answered = Answered::default();
        let fill = |answered: &mut Answered, from: u128, time_ms| {
            let mut number = from;
            while answered.has_room(time_ms, LEVEL) && number - from < 20 {
                answered.remember(&number.to_be_bytes(), time_ms, &done(), LEVEL);
                number += 1;
            }
            number - from
        };
        for number in 0..ANSWERS_MAX as u128 {
            answered.remember(&number.to_be_bytes(), 1, &done(), LEVEL);
        }
        assert!(!answered.has_room(1, FeatureLevel::MEMBERS_AND_BATCHES));
        for number in ANSWERS_MAX as u128..NEEDED_MAX as u128 - 10 {
            answered.remember(&number.to_be_bytes(), 1, &done(), LEVEL);
        }
        assert_eq!(fill(&mut answered, 1 << 64, 1), 10);
        assert_eq!(fill(&mut answered, 2 << 64, 1 + NEEDED_MS), 0);
        assert_eq!(answered.outcome(&0u128.to_be_bytes()), Some(done()));
        assert_eq!(fill(&mut answered, 3 << 64, 2 + NEEDED_MS), 20);
        assert_eq!(answered.outcome(&0u128.to_be_bytes()), None, "the oldest goes first");
        let count = NEEDED_MAX - 20 * (FORGOTTEN_AT_ONCE_MAX - 1);
        assert_eq!((answered.by_request.len(), answered.by_time.len()), (count, count));
        for number in 0..ANSWERS_MAX as u128 - 100 {
            answered.remember(&(number + (4 << 64)).to_be_bytes(), 2 + NEEDED_MS, &done(), LEVEL);
        }
        assert_eq!(answered.by_request.len(), ANSWERS_MAX, "what is not needed becomes fewer");
    }

    #[test]
    fn answers_are_bounded_in_bytes() {
        let mut answered = Answered::default();
        let bucket = pb::Bucket { name: "b".repeat(1 << 20), ..Default::default() };
        let large = pb::Outcome { kind: Some(pb::outcome::Kind::Bucket(bucket)) };
        let mut count = 0;
        while answered.has_room(1, LEVEL) {
            count += 1;
            answered.remember(&u128::to_be_bytes(count), 1, &large, LEVEL);
        }
        assert!((180..=192).contains(&count), "{count}");
        assert!(answered.has_room(2 + NEEDED_MS, LEVEL));
        answered.remember(&[255; 16], 2 + NEEDED_MS, &large, LEVEL);
        assert!(answered.bytes <= NEEDED_BYTES_MAX);
    }
}

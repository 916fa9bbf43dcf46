//! Requests of clients in few numbers, which go into the cluster's status.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tonic::Code;
use xdpfs_proto::meta::v1 as proto;

/// What took no longer belongs to the first place; the last one has what took more than 4.2 s.
const SHORTEST: Duration = Duration::from_micros(64);
const PLACES: usize = 18;

/// Since the start.
#[derive(Debug, Default)]
pub(super) struct RequestCounts {
    failed: AtomicU64,
    took: [AtomicU64; PLACES],
}

impl RequestCounts {
    pub(super) fn note(&self, code: Code, took: Duration) {
        if is_our_fault(code) {
            self.failed.fetch_add(1, Ordering::Relaxed);
        }
        self.took[place(took)].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn record(&self) -> proto::RequestCounts {
        proto::RequestCounts {
            failed: self.failed.load(Ordering::Relaxed),
            took: self.took.iter().map(|count| count.load(Ordering::Relaxed)).collect(),
        }
    }
}

/// Whether nothing about the request was wrong.
const fn is_our_fault(code: Code) -> bool {
    matches!(
        code,
        Code::Unknown
            | Code::DeadlineExceeded
            | Code::ResourceExhausted
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss
    )
}

fn place(took: Duration) -> usize {
    (0..PLACES - 1).find(|place| took <= SHORTEST * (1 << place)).unwrap_or(PLACES - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_place_has_what_took_up_to_twice_as_long() {
        let check = |micros, expect| assert_eq!(place(Duration::from_micros(micros)), expect, "{micros}");
        check(0, 0);
        check(64, 0);
        check(65, 1);
        check(128, 1);
        check(129, 2);
        check(64 << 16, 16);
        check((64 << 16) + 1, 17);
        check(u64::MAX, 17);
    }

    #[test]
    fn faults_of_callers_are_no_failures() {
        let counts = RequestCounts::default();
        for code in [Code::Ok, Code::NotFound, Code::PermissionDenied, Code::Unavailable] {
            counts.note(code, Duration::ZERO);
        }
        let record = counts.record();
        assert_eq!((record.failed, record.took[0]), (1, 4));
    }
}

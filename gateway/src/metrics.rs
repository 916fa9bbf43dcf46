//! What is counted of calls. Names of objects and of buckets stay out of it.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Instant,
};

use tonic::Code;
use xdpfs_observe::{Latency, Scrape, catalogue as names};

use crate::reason::code_label;

/// What was counted since the start.
#[derive(Debug, Default)]
pub(crate) struct CallMetrics {
    /// Bounded: there are so many methods, and so many codes.
    methods: Mutex<BTreeMap<&'static str, Counts>>,
    under_way: AtomicUsize,
    received_bytes: AtomicU64,
    sent_bytes: AtomicU64,
}

#[derive(Debug, Default)]
struct Counts {
    codes: BTreeMap<i32, u64>,
    latency: Latency,
}

/// A call under way. Dropped before it was told how it ended, its caller has gone away.
#[derive(Debug)]
pub(crate) struct Meter {
    metrics: Arc<CallMetrics>,
    method: &'static str,
    started: Instant,
    code: Code,
}

impl CallMetrics {
    /// A call of this method begins.
    pub(crate) fn begin(self: &Arc<Self>, method: &'static str) -> Meter {
        self.under_way.fetch_add(1, Ordering::Relaxed);
        Meter { metrics: Arc::clone(self), method, started: Instant::now(), code: Code::Cancelled }
    }

    pub(crate) fn note_received(&self, bytes: usize) {
        self.received_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn note_sent(&self, bytes: usize) {
        self.sent_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn collect(&self, calls_max: usize, scrape: &mut Scrape<'_>) {
        let methods = self.methods.lock().unwrap_or_else(PoisonError::into_inner);
        let ended = methods.iter().flat_map(|(method, counts)| {
            let of_code =
                |(code, count): (&i32, &u64)| ([(*method).to_owned(), code_label((*code).into())], *count);
            counts.codes.iter().map(of_code)
        });
        scrape.counters(&names::GATEWAY_CALLS, ended);
        scrape.latencies(
            &names::GATEWAY_CALL,
            methods.iter().map(|(method, counts)| ([*method], &counts.latency)),
        );
        scrape.gauge(&names::GATEWAY_UNDER_WAY, self.under_way.load(Ordering::Relaxed) as f64);
        scrape.gauge(&names::GATEWAY_CALLS_MAX, calls_max as f64);
        scrape.counter(&names::GATEWAY_RECEIVED, self.received_bytes.load(Ordering::Relaxed));
        scrape.counter(&names::GATEWAY_SENT, self.sent_bytes.load(Ordering::Relaxed));
    }
}

impl Meter {
    /// How the call ends.
    pub(crate) const fn ends(&mut self, code: Code) {
        self.code = code;
    }

    pub(crate) const fn method(&self) -> &'static str {
        self.method
    }

    pub(crate) const fn metrics(&self) -> &Arc<CallMetrics> {
        &self.metrics
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.metrics.under_way.fetch_sub(1, Ordering::Relaxed);
        let took = self.started.elapsed();
        let mut methods = self.metrics.methods.lock().unwrap_or_else(PoisonError::into_inner);
        let counts = methods.entry(self.method).or_default();
        *counts.codes.entry(self.code.into()).or_default() += 1;
        counts.latency.observe(took);
        drop(methods);
        tracing::trace!(method = self.method, code = ?self.code, micros = took.as_micros() as u64, "a call has ended");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn call_that_nobody_ended_was_given_up_by_its_caller() {
        let metrics = Arc::new(CallMetrics::default());
        let mut ended = metrics.begin("PutObject");
        ended.ends(Code::Ok);
        let given_up = metrics.begin("PutObject");
        assert_eq!(metrics.under_way.load(Ordering::Relaxed), 2);
        drop((ended, given_up));
        assert_eq!(metrics.under_way.load(Ordering::Relaxed), 0);
        let methods = metrics.methods.lock().unwrap();
        assert_eq!(
            methods["PutObject"].codes,
            BTreeMap::from([(Code::Ok as i32, 1), (Code::Cancelled as i32, 1)])
        );
    }
}

//! Which traces are taken: a share of those that begin here, and those that a caller takes already.
//!
//! Invariant: at zero nothing is taken, whatever callers ask for.

use std::{
    fmt,
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use opentelemetry::{
    Context, KeyValue,
    trace::{Link, SpanKind, TraceContextExt as _, TraceId},
};
use opentelemetry_sdk::trace::{SamplingDecision, SamplingResult, ShouldSample};
use thiserror::Error;

/// A share, from 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ratio(f64);

/// What is no share.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[error("a share of all traces is a number from 0 to 1, such as 0.01")]
pub struct RatioError;

impl FromStr for Ratio {
    type Err = RatioError;

    fn from_str(text: &str) -> Result<Self, RatioError> {
        let ratio: f64 = text.parse().map_err(|_| RatioError)?;
        if (0.0..=1.0).contains(&ratio) { Ok(Self(ratio)) } else { Err(RatioError) }
    }
}

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Takes a share that may change.
#[derive(Clone, Debug)]
pub(crate) struct Sampler {
    /// Its bits.
    ratio: Arc<AtomicU64>,
}

impl Sampler {
    pub(crate) fn new(ratio: Ratio) -> Self {
        Self { ratio: Arc::new(AtomicU64::new(ratio.0.to_bits())) }
    }

    pub(crate) fn set(&self, ratio: Ratio) {
        self.ratio.store(ratio.0.to_bits(), Ordering::Relaxed);
    }

    fn takes(&self, parent: Option<&Context>, trace: TraceId) -> bool {
        let ratio = f64::from_bits(self.ratio.load(Ordering::Relaxed));
        if ratio <= 0.0 {
            return false;
        }
        match parent.filter(|parent| parent.has_active_span()) {
            Some(parent) => parent.span().span_context().is_sampled(),
            None => share_of(trace) < ratio,
        }
    }
}

/// Where a trace lies between 0 and 1, by the half of its id that is random (W3C Trace Context, §3.2.2.3).
fn share_of(trace: TraceId) -> f64 {
    let low = u128::from_be_bytes(trace.to_bytes()) as u64;
    // 53 bits, which a float holds exactly; less than 1.
    (low >> 11) as f64 / (1_u64 << 53) as f64
}

impl ShouldSample for Sampler {
    fn should_sample(
        &self,
        parent_context: Option<&Context>,
        trace_id: TraceId,
        _: &str,
        _: &SpanKind,
        _: &[KeyValue],
        _: &[Link],
    ) -> SamplingResult {
        let is_taken = self.takes(parent_context, trace_id);
        SamplingResult {
            decision: if is_taken { SamplingDecision::RecordAndSample } else { SamplingDecision::Drop },
            attributes: Vec::new(),
            trace_state: Default::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceState};

    use super::*;

    #[test]
    fn shares_are_numbers_from_zero_to_one() {
        let check =
            |text: &str, expect: Option<f64>| assert_eq!(text.parse().ok(), expect.map(Ratio), "{text}");
        check("0", Some(0.0));
        check("0.25", Some(0.25));
        check("1", Some(1.0));
        for bad in ["-0.1", "1.1", "NaN", "inf", "", "half"] {
            check(bad, None);
        }
    }

    #[test]
    fn the_share_of_traces_is_taken_that_is_asked_for_at_the_time() {
        let sampler = Sampler::new(Ratio(1.0));
        let taken = || {
            let trace = |number: u64| TraceId::from(u128::from(number.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
            (1..=10_000).filter(|number| sampler.takes(None, trace(*number))).count()
        };
        assert_eq!(taken(), 10_000);
        sampler.set(Ratio(0.25));
        assert!((2300..2700).contains(&taken()), "{}", taken());
        sampler.set(Ratio(0.0));
        assert_eq!(taken(), 0);
    }

    #[test]
    fn a_caller_decides_unless_nothing_is_to_be_taken() {
        let parent = |flags| {
            let id = (TraceId::from(1), SpanId::from(1));
            Context::new().with_remote_span_context(SpanContext::new(
                id.0,
                id.1,
                flags,
                true,
                TraceState::default(),
            ))
        };
        let check = |ratio: f64, flags, expect: bool| {
            let sampler = Sampler::new(Ratio(ratio));
            assert_eq!(sampler.takes(Some(&parent(flags)), TraceId::from(u128::MAX)), expect, "{ratio}");
        };
        check(0.01, TraceFlags::SAMPLED, true);
        check(1.0, TraceFlags::default(), false);
        check(0.0, TraceFlags::SAMPLED, false);
    }
}

//! The trace that a request belongs to, as one header of it: `traceparent` of W3C Trace Context.
//!
//! Invariant: what a stranger sends there can name a trace and nothing else.

use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::{
    Context,
    trace::{SpanContext, SpanId, TraceContextExt as _, TraceFlags, TraceId, TraceState},
};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

const HEADER: HeaderName = HeaderName::from_static("traceparent");

/// Tells the receiver of a request which trace the current span belongs to, if it does to one.
pub fn inject(headers: &mut HeaderMap) {
    let span = Span::current();
    if span.is_disabled() {
        return;
    }
    let context = span.context();
    let value = told(context.span().span_context()).and_then(|text| HeaderValue::from_str(&text).ok());
    if let Some(value) = value {
        headers.insert(HEADER, value);
    }
}

/// Makes `span` a part of the trace that the sender of a request told of.
pub fn adopt(span: &Span, headers: &HeaderMap) {
    if span.is_disabled() {
        return;
    }
    let heard = headers.get(HEADER).and_then(|value| value.to_str().ok()).and_then(heard);
    if let Some(parent) = heard {
        // It fails only if nobody makes traces.
        let _ = span.set_parent(Context::new().with_remote_span_context(parent));
    }
}

fn told(span: &SpanContext) -> Option<String> {
    let flags = span.trace_flags().to_u8() & TraceFlags::SAMPLED.to_u8();
    span.is_valid().then(|| format!("00-{}-{}-{flags:02x}", span.trace_id(), span.span_id()))
}

/// Version 0 of the header, or the part of a later one that reads like it.
fn heard(text: &str) -> Option<SpanContext> {
    let is_hex = |text: &str, len: usize| {
        text.len() == len && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let mut parts = text.split('-');
    let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let is_well_formed = is_hex(version, 2) && is_hex(trace, 32) && is_hex(span, 16) && is_hex(flags, 2);
    if !is_well_formed || version == "ff" || version == "00" && parts.next().is_some() {
        return None;
    }
    let trace = TraceId::from_hex(trace).ok()?;
    let span = SpanId::from_hex(span).ok()?;
    let flags = TraceFlags::new(u8::from_str_radix(flags, 16).ok()? & TraceFlags::SAMPLED.to_u8());
    let context = SpanContext::new(trace, span, flags, true, TraceState::default());
    context.is_valid().then_some(context)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_heard_is_what_was_told() {
        for text in [
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00",
        ] {
            assert_eq!(heard(text).as_ref().and_then(told).as_deref(), Some(text));
        }
        let later = "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more";
        assert!(heard(later).is_some_and(|span| span.is_sampled() && span.is_remote()));
    }

    #[test]
    fn what_is_no_trace_is_not_heard() {
        for bad in [
            "",
            "00",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-+af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-\u{0661}",
        ] {
            assert!(heard(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn without_a_trace_nothing_is_told() {
        let mut headers = HeaderMap::new();
        inject(&mut headers);
        assert!(headers.is_empty());
    }
}

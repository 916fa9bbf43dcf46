//! Traces of requests across processes. Spans are made with `tracing` under [`TARGET`]; [`inject`] and [`adopt`] carry
//! them over gRPC as W3C trace context, and [`Tracing`] brings them to an OpenTelemetry collector by OTLP.
//!
//! Invariant: without a collector nothing is made and nothing costs; a collector that is slow, deaf or down costs spans,
//! which are counted, and never time. No span names an object, a key or a secret.

mod context;
mod endpoint;
mod export;
mod sampling;

use std::time::Duration;

use opentelemetry::{KeyValue, trace::TracerProvider as _};
use opentelemetry_sdk::{
    Resource,
    trace::{SdkTracerProvider, SpanLimits},
};
use tracing_subscriber::{Layer, filter::Targets, registry::LookupSpan};

pub use self::{
    context::{adopt, inject},
    endpoint::{Endpoint, EndpointError},
    export::{Counts, counts},
    sampling::{Ratio, RatioError},
};
use self::{export::Exporter, sampling::Sampler};

/// The target of all spans that belong to traces; they have the level TRACE, so that logs are not full of them.
pub const TARGET: &str = "xdpfs_trace";

/// How long the end of a process waits for its last spans to be taken.
const FLUSH_WITHIN: Duration = Duration::from_secs(2);
/// More than any span has.
const ATTRIBUTES_MAX: u32 = 32;

/// Where traces go, and how many of them.
#[derive(Clone, Debug)]
pub struct TraceConfig {
    /// The collector.
    pub endpoint: Endpoint,
    /// Of the traces that begin in this process.
    pub ratio: Ratio,
    /// What this process is called, such as `xdpfs-meta-server`.
    pub service: &'static str,
    /// Its version.
    pub version: &'static str,
}

/// The traces of this process.
#[derive(Debug)]
pub struct Tracing {
    sampler: Sampler,
    exporter: Exporter,
    provider: SdkTracerProvider,
}

impl Tracing {
    /// Spans wait from here on; [`Tracing::start`] has them sent.
    #[must_use]
    pub fn new(config: &TraceConfig) -> Self {
        let resource = Resource::builder_empty()
            .with_attributes([
                KeyValue::new("service.name", config.service),
                KeyValue::new("service.version", config.version),
                KeyValue::new("process.pid", i64::from(std::process::id())),
            ])
            .build();
        let sampler = Sampler::new(config.ratio);
        let (exporter, processor) = Exporter::new(config.endpoint.clone(), resource.clone());
        let limits = SpanLimits { max_attributes_per_span: ATTRIBUTES_MAX, ..SpanLimits::default() };
        let provider = SdkTracerProvider::builder()
            .with_resource(resource)
            .with_sampler(sampler.clone())
            .with_span_limits(limits)
            .with_span_processor(processor)
            .build();
        Self { sampler, exporter, provider }
    }

    /// What makes traces of spans.
    #[must_use]
    pub fn layer<S>(&self) -> Box<dyn Layer<S> + Send + Sync>
    where
        S: tracing::Subscriber + for<'s> LookupSpan<'s> + Send + Sync,
    {
        let layer = tracing_opentelemetry::layer()
            .with_tracer(self.provider.tracer(TARGET))
            .with_location(false)
            .with_threads(false)
            .with_tracked_inactivity(false)
            .with_target(false)
            .with_level(false);
        layer.with_filter(Targets::new().with_target(TARGET, tracing::Level::TRACE)).boxed()
    }

    /// Begins to send what has come together. Makes a thread.
    ///
    /// # Errors
    /// The system gives none.
    pub fn start(&mut self) -> std::io::Result<()> {
        self.exporter.start()
    }

    /// From here on so many traces that begin here are taken.
    pub fn set_ratio(&self, ratio: Ratio) {
        self.sampler.set(ratio);
    }

    /// Sends what is left, for two seconds at most. Blocks.
    pub fn shutdown(self) {
        self.exporter.finish(FLUSH_WITHIN);
    }
}

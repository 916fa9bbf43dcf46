//! Brings finished spans to the collector, on a thread of its own.
//!
//! Invariant: whoever ends a span waits for nothing. There is room for so many spans, and what finds none, or is not taken
//! by the collector in time, is gone and counted.

use std::{
    io,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use opentelemetry_otlp::{SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{Span, SpanData, SpanExporter as _, SpanProcessor},
};
use tokio::{
    sync::mpsc::{Receiver, Sender, channel},
    time::{Instant, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;

use crate::Endpoint;

/// Spans that wait to be sent: a few MiB.
const WAITING_MAX: usize = 4096;
/// Spans of one message.
const BATCH_MAX: usize = 512;
/// How long a message waits for more spans.
const LINGER: Duration = Duration::from_millis(500);
/// How long the collector has to take a message.
const EXPORT_WITHIN: Duration = Duration::from_secs(5);
/// How often it is said that spans are lost.
const LOSS_TOLD_EVERY: Duration = Duration::from_secs(60);

static SENT: AtomicU64 = AtomicU64::new(0);
static LOST: AtomicU64 = AtomicU64::new(0);

/// What became of this process's spans since its start.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Counts {
    /// The collector has taken them.
    pub sent: u64,
    /// They are gone.
    pub lost: u64,
}

/// What became of this process's spans since its start.
#[must_use]
pub fn counts() -> Counts {
    Counts { sent: SENT.load(Ordering::Relaxed), lost: LOST.load(Ordering::Relaxed) }
}

fn lose(count: usize) {
    LOST.fetch_add(count as u64, Ordering::Relaxed);
}

/// Takes spans as they end.
#[derive(Debug)]
pub(crate) struct Processor {
    waiting: Sender<SpanData>,
}

impl SpanProcessor for Processor {
    fn on_start(&self, _: &mut Span, _: &opentelemetry::Context) {}

    fn on_end(&self, span: SpanData) {
        if self.waiting.try_send(span).is_err() {
            lose(1);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

#[derive(Debug)]
pub(crate) struct Exporter {
    /// What the thread will need; gone once it has it.
    work: Mutex<Option<Work>>,
    stop: CancellationToken,
    thread: Option<(thread::JoinHandle<()>, std::sync::mpsc::Receiver<()>)>,
}

#[derive(Debug)]
struct Work {
    endpoint: Endpoint,
    resource: Resource,
    waiting: Receiver<SpanData>,
    stop: CancellationToken,
}

impl Exporter {
    pub(crate) fn new(endpoint: Endpoint, resource: Resource) -> (Self, Processor) {
        let (sender, waiting) = channel(WAITING_MAX);
        let stop = CancellationToken::new();
        let work = Work { endpoint, resource, waiting, stop: stop.clone() };
        (Self { work: Mutex::new(Some(work)), stop, thread: None }, Processor { waiting: sender })
    }

    /// Starts the thread, unless it runs.
    pub(crate) fn start(&mut self) -> io::Result<()> {
        let work = self.work.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(work) = work else { return Ok(()) };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (ended, end) = std::sync::mpsc::sync_channel(1);
        let thread = thread::Builder::new().name("traces".to_owned()).spawn(move || {
            runtime.block_on(work.run());
            runtime.shutdown_background();
            // Nobody waits if the process ends otherwise.
            let _ = ended.send(());
        })?;
        self.thread = Some((thread, end));
        Ok(())
    }

    /// Has what waits sent, and waits so long for it.
    pub(crate) fn finish(self, within: Duration) {
        self.stop.cancel();
        let Some((_, end)) = self.thread else { return };
        if end.recv_timeout(within).is_err() {
            tracing::debug!("the last spans were not taken in time");
        }
    }
}

impl Work {
    async fn run(mut self) {
        let exporter = SpanExporter::builder()
            .with_tonic()
            .with_endpoint(self.endpoint.to_string())
            .with_timeout(EXPORT_WITHIN)
            .build();
        let mut exporter = match exporter {
            Ok(exporter) => exporter,
            Err(error) => {
                tracing::warn!(%error, "traces cannot be sent");
                return;
            }
        };
        exporter.set_resource(&self.resource);
        let mut told: Option<Instant> = None;
        while let Some(batch) = self.next_batch().await {
            let count = batch.len();
            match timeout(EXPORT_WITHIN, exporter.export(batch)).await {
                Ok(Ok(())) => drop(SENT.fetch_add(count as u64, Ordering::Relaxed)),
                Ok(Err(_)) | Err(_) => {
                    lose(count);
                    if told.is_none_or(|told| told.elapsed() >= LOSS_TOLD_EVERY) {
                        told = Some(Instant::now());
                        tracing::warn!(endpoint = %self.endpoint, lost = counts().lost, "the collector takes no traces");
                    }
                }
            }
        }
    }

    /// Spans that are to be sent together; `None` at the end.
    async fn next_batch(&mut self) -> Option<Vec<SpanData>> {
        let mut batch = Vec::new();
        let first = self.stop.run_until_cancelled(self.waiting.recv_many(&mut batch, BATCH_MAX)).await;
        if first == Some(0) {
            return None;
        }
        let until = Instant::now() + LINGER;
        while batch.len() < BATCH_MAX && !self.stop.is_cancelled() {
            let left = BATCH_MAX - batch.len();
            let more = self.stop.run_until_cancelled(self.waiting.recv_many(&mut batch, left));
            if matches!(timeout_at(until, more).await, Err(_) | Ok(Some(0))) {
                break;
            }
        }
        // At the end nothing is waited for.
        while batch.len() < BATCH_MAX
            && let Ok(span) = self.waiting.try_recv()
        {
            batch.push(span);
        }
        if batch.is_empty() { None } else { Some(batch) }
    }
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, time::Instant};

    use opentelemetry::trace::{Tracer as _, TracerProvider as _};
    use opentelemetry_sdk::trace::SdkTracerProvider;

    use super::*;

    fn make_spans(endpoint: &str, count: usize) -> (Exporter, SdkTracerProvider) {
        let (exporter, processor) =
            Exporter::new(endpoint.parse().expect("it is one"), Resource::builder_empty().build());
        let provider = SdkTracerProvider::builder().with_span_processor(processor).build();
        let tracer = provider.tracer("test");
        (0..count).for_each(|_| drop(tracer.start("span")));
        (exporter, provider)
    }

    #[test]
    fn whatever_the_collector_does_nobody_waits_and_the_end_is_bounded() {
        // It accepts and never answers; and there is none.
        let deaf = TcpListener::bind("127.0.0.1:0").expect("a port");
        let deaf_at = format!("http://{}", deaf.local_addr().expect("it is bound"));
        for endpoint in [deaf_at.as_str(), "http://127.0.0.1:9"] {
            let before = counts();
            let began = Instant::now();
            let (mut exporter, _provider) = make_spans(endpoint, WAITING_MAX + 100);
            assert!(began.elapsed() < Duration::from_secs(2), "{endpoint}: {:?}", began.elapsed());
            assert!(counts().lost - before.lost >= 100, "what found no room is counted");
            exporter.start().expect("there are threads");
            let ending = Instant::now();
            exporter.finish(Duration::from_millis(500));
            assert!(ending.elapsed() < Duration::from_secs(2), "{endpoint}: {:?}", ending.elapsed());
            assert_eq!(counts().sent, before.sent);
        }
    }
}

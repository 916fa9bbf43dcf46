//! Tells and counts what requests came and how they ended. Names and keys of requests stay out of it.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use http::{Request, Response};
use tonic::{Code, Status};
use tower::{Layer, Service};
use tracing::{Instrument as _, Span};

use super::{Kind, RequestMetrics};

/// Opens a span for every request, and for each of a client one in the trace that it belongs to.
#[derive(Clone, Debug)]
pub(in crate::service) struct TraceLayer(pub(in crate::service) Arc<RequestMetrics>);

/// A service whose requests have a span.
#[derive(Clone, Debug)]
pub(in crate::service) struct Traced<S> {
    inner: S,
    metrics: Arc<RequestMetrics>,
}

impl<S> Layer<S> for TraceLayer {
    type Service = Traced<S>;

    fn layer(&self, inner: S) -> Traced<S> {
        Traced { inner, metrics: Arc::clone(&self.0) }
    }
}

impl<S> Traced<S> {
    /// Nodes and edges speak all the time: they are in no trace.
    fn span_of<B>(&self, request: &Request<B>) -> Span {
        let method = self.metrics.method(request.uri().path());
        let Some(method) = method.filter(|_| Kind::of(request) == Kind::Client) else { return Span::none() };
        let span = tracing::trace_span!(target: xdpfs_trace::TARGET, "serve", otel.name = method, otel.kind = "server");
        xdpfs_trace::adopt(&span, request.headers());
        span
    }
}

impl<S, B, R> Service<Request<B>> for Traced<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Future: Send + 'static,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<R>, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let path = request.uri().path().to_owned();
        let span = tracing::debug_span!("request", method = path);
        let (started, metrics) = (Instant::now(), Arc::clone(&self.metrics));
        let served = self.span_of(&request);
        let answer = span.in_scope(|| served.in_scope(|| self.inner.call(request)));
        let traced = async move {
            let answer = answer.await;
            let took = started.elapsed();
            let micros = took.as_micros() as u64;
            // A refusal is told in the headers; what comes in trailers was served.
            let status =
                answer.as_ref().ok().and_then(|response| Status::from_header_map(response.headers()));
            metrics.note(&path, status.as_ref().map_or(Code::Ok, Status::code), took);
            match status {
                Some(status) if matches!(status.code(), Code::Internal | Code::Unknown | Code::DataLoss) => {
                    tracing::warn!(code = ?status.code(), message = status.message(), micros, "a request failed");
                }
                Some(status) => {
                    tracing::debug!(code = ?status.code(), message = status.message(), micros, "refused");
                }
                None => tracing::trace!(micros, "served"),
            }
            answer
        };
        Box::pin(traced.instrument(served).instrument(span))
    }
}

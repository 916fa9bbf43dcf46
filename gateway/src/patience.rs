//! How long requests are waited for: a body whose next bytes do not come in time ends with an error.
//!
//! Invariant: no caller keeps a stream, or what is kept for it, by saying nothing. Only the time counts in which somebody
//! wants the bytes.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::Request;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::{Instant, Sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::{Status, body::Body};
use tower::{Layer, Service};

use crate::inbox::silent;

/// Where the calls are that go on for as long as their callers like.
const REFLECTION: &str = "/grpc.reflection.";

/// Limits how long the bodies of requests are waited for.
#[derive(Clone, Debug)]
pub(crate) struct PatienceLayer {
    /// A caller that says nothing for so long has gone.
    pub(crate) idle_max: Duration,
    /// Questions about the interfaces end then.
    pub(crate) stop: CancellationToken,
}

/// A service whose requests come in time.
#[derive(Clone, Debug)]
pub(crate) struct Patient<S> {
    inner: S,
    layer: PatienceLayer,
}

#[derive(Debug)]
struct Awaited {
    body: Body,
    idle_max: Duration,
    silence: Pin<Box<Sleep>>,
    is_waiting: bool,
    stop: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
}

impl<S> Layer<S> for PatienceLayer {
    type Service = Patient<S>;

    fn layer(&self, inner: S) -> Patient<S> {
        Patient { inner, layer: self.clone() }
    }
}

impl<S: Service<Request<Body>>> Service<Request<Body>> for Patient<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> S::Future {
        let ends = request.uri().path().starts_with(REFLECTION);
        let stop = ends.then(|| Box::pin(self.layer.stop.clone().cancelled_owned()));
        self.inner.call(request.map(|body| Body::new(Awaited::new(body, self.layer.idle_max, stop))))
    }
}

impl Awaited {
    fn new(body: Body, idle_max: Duration, stop: Option<Pin<Box<WaitForCancellationFutureOwned>>>) -> Self {
        Self { body, idle_max, silence: Box::pin(tokio::time::sleep(idle_max)), is_waiting: false, stop }
    }
}

impl HttpBody for Awaited {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        if let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(cx) {
            this.is_waiting = false;
            return Poll::Ready(frame);
        }
        if this.stop.as_mut().is_some_and(|stop| stop.as_mut().poll(cx).is_ready()) {
            return Poll::Ready(None);
        }
        if !this.is_waiting {
            this.is_waiting = true;
            this.silence.as_mut().reset(Instant::now() + this.idle_max);
        }
        ready!(this.silence.as_mut().poll(cx));
        Poll::Ready(Some(Err(silent().into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, future::poll_fn};

    use tonic::Code;

    use super::*;

    /// Its bytes never come.
    struct Silent;

    impl HttpBody for Silent {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            self: Pin<&mut Self>,
            _cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Pending
        }
    }

    #[tokio::test(start_paused = true)]
    async fn body_that_never_comes_is_waited_for_only_so_long() {
        let started = Instant::now();
        let mut body = Awaited::new(Body::new(Silent), Duration::from_secs(60), None);
        tokio::time::sleep(Duration::from_secs(100)).await;
        let end = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await;
        assert_eq!(end.unwrap().unwrap_err().code(), Code::DeadlineExceeded);
        assert_eq!(started.elapsed().as_secs(), 160);
    }

    #[tokio::test]
    async fn body_of_a_call_that_would_go_on_ends_with_the_process() {
        let stop = CancellationToken::new();
        let stopped = Some(Box::pin(stop.clone().cancelled_owned()));
        let mut body = Awaited::new(Body::new(Silent), Duration::from_secs(60), stopped);
        stop.cancel();
        assert!(poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await.is_none());
    }
}

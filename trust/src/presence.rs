//! Keeps count of the requests of every connection, so that those that do nothing are known.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use tonic::transport::server::TcpConnectInfo;
use tower::{Layer, Service};

use crate::listener::{Caller, UnderWay};

/// Counts the requests of a [`Caller`]. Goes around all other layers.
#[derive(Clone, Copy, Debug)]
pub struct PresenceLayer;

/// A service whose requests are counted.
#[derive(Clone, Debug)]
pub struct Present<S>(S);

/// The body of an answer; the request is under way until it has ended.
#[derive(Debug)]
pub struct Attended<B> {
    body: B,
    under_way: Option<UnderWay>,
}

impl<S> Layer<S> for PresenceLayer {
    type Service = Present<S>;

    fn layer(&self, inner: S) -> Present<S> {
        Present(inner)
    }
}

impl<S, B, R> Service<Request<B>> for Present<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Future: Send + 'static,
{
    type Response = Response<Attended<R>>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let caller = request.extensions().get::<Caller>();
        let address = caller.map(|caller| caller.address);
        let under_way = caller.map(Caller::begin);
        if let Some(address) = address {
            // Where tonic looks for it.
            request.extensions_mut().insert(TcpConnectInfo { local_addr: None, remote_addr: Some(address) });
        }
        let answer = self.0.call(request);
        Box::pin(async move { Ok(answer.await?.map(|body| Attended { body, under_way })) })
    }
}

impl<B: Body + Unpin> Body for Attended<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(None) = frame {
            self.under_way = None;
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

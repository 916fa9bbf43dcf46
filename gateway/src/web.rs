//! gRPC-Web over HTTP/1.1, for browsers and for whoever has no HTTP/2: the same calls, by the same rules.
//!
//! Invariant: a page is served only if its origin was named. In plaintext nothing else keeps a page of somebody else's, whose
//! name is made to stand for this process's address, from being taken for ours.

use std::{
    collections::BTreeSet,
    convert::Infallible,
    io,
    net::{SocketAddr, TcpListener},
    sync::Arc,
    time::Duration,
};

use futures::StreamExt as _;
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode,
    header::{
        ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
        ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ORIGIN, VARY,
    },
};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{body::Body, service::Routes};
use tonic_web::{GrpcWebLayer, GrpcWebService};
use tower::{Layer as _, ServiceExt as _};
use xdpfs_trust::{Connection, Limits, PresenceLayer, Present, Trust, listen_to_browsers};

use crate::patience::{PatienceLayer, Patient};

/// How long the head of a request may take. Also how long an idle connection is kept.
const HEAD_TIMEOUT: Duration = Duration::from_secs(20);
/// Bytes of a request's head.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// What pages may send, and may see.
const ALLOWED: &str = "authorization, content-type, grpc-timeout, x-grpc-web, x-user-agent";
const EXPOSED: &str = "grpc-message, grpc-status, grpc-status-details-bin";
/// Seconds for which a browser remembers what it may do.
const REMEMBERED_S: &str = "600";

/// A listener that is not yet served.
#[derive(Debug)]
pub(crate) struct Web {
    listener: tokio::net::TcpListener,
    address: SocketAddr,
    origins: BTreeSet<String>,
}

/// Answers requests.
#[derive(Clone)]
struct Desk {
    service: Present<GrpcWebService<Patient<Routes>>>,
    origins: Arc<BTreeSet<String>>,
}

/// Whose request it is.
#[derive(Debug, Eq, PartialEq)]
enum Page {
    /// No page's.
    None,
    /// That of a page which nobody has named.
    Strange,
    /// That of a page of this origin.
    Known(HeaderValue),
}

impl Web {
    pub(crate) fn bind(address: SocketAddr, origins: BTreeSet<String>) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        Ok(Self { listener: tokio::net::TcpListener::from_std(listener)?, address, origins })
    }

    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until it is told to stop; calls that are under way may end then.
    pub(crate) async fn serve(
        self,
        routes: Routes,
        patience: PatienceLayer,
        trust: Option<Arc<Trust>>,
        limits: Limits,
    ) {
        let stop = patience.stop.clone();
        let mut accepted = listen_to_browsers(self.listener, trust, limits);
        let service = PresenceLayer.layer(GrpcWebLayer::new().layer(patience.layer(routes.prepare())));
        let desk = Desk { service, origins: Arc::new(self.origins) };
        let connections = TaskTracker::new();
        let serving = async {
            while let Some(connection) = accepted.next().await {
                let Ok(connection) = connection else { continue };
                connections.spawn(serve_connection(connection, desk.clone(), stop.clone()));
            }
        };
        tokio::select! {
            () = serving => {}
            () = stop.cancelled() => {}
        }
        connections.close();
        connections.wait().await;
    }
}

async fn serve_connection(connection: Connection, desk: Desk, stop: CancellationToken) {
    let caller = connection.caller().clone();
    let answer = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(caller.clone());
        desk.clone().answer(request)
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(connection), answer);
    let mut served = std::pin::pin!(served);
    let ended = tokio::select! {
        ended = served.as_mut() => ended,
        () = stop.cancelled() => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection of gRPC-Web has ended early");
    }
}

impl Desk {
    async fn answer(self, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
        match Page::of(request.headers(), &self.origins) {
            Page::Strange => Ok(empty(StatusCode::FORBIDDEN)),
            Page::Known(origin) if request.method() == Method::OPTIONS => Ok(preflight(origin)),
            Page::Known(origin) => {
                let mut answer = self.service.oneshot(request).await?.map(Body::new);
                let headers = answer.headers_mut();
                headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
                headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED));
                headers.append(VARY, HeaderValue::from_static("origin"));
                Ok(answer)
            }
            Page::None => Ok(self.service.oneshot(request).await?.map(Body::new)),
        }
    }
}

impl Page {
    fn of(headers: &HeaderMap, origins: &BTreeSet<String>) -> Self {
        let Some(origin) = headers.get(ORIGIN) else { return Self::None };
        match origin.to_str() {
            Ok(text) if origins.contains(text) => Self::Known(origin.clone()),
            Ok(_) | Err(_) => Self::Strange,
        }
    }
}

/// What a browser asks before it lets a page ask.
fn preflight(origin: HeaderValue) -> Response<Body> {
    let mut answer = empty(StatusCode::NO_CONTENT);
    let headers = answer.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    for (name, value) in [
        (ACCESS_CONTROL_ALLOW_METHODS, "POST"),
        (ACCESS_CONTROL_ALLOW_HEADERS, ALLOWED),
        (ACCESS_CONTROL_MAX_AGE, REMEMBERED_S),
        (VARY, "origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    answer
}

fn empty(status: StatusCode) -> Response<Body> {
    let mut answer = Response::new(Body::empty());
    *answer.status_mut() = status;
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_known_by_their_whole_origin() {
        let origins = BTreeSet::from(["https://app.example".to_owned()]);
        let check = |origin: &'static str, is_known: bool| {
            let origin = HeaderValue::from_static(origin);
            let headers = HeaderMap::from_iter([(ORIGIN, origin.clone())]);
            let expect = if is_known { Page::Known(origin) } else { Page::Strange };
            assert_eq!(Page::of(&headers, &origins), expect);
        };
        check("https://app.example", true);
        check("http://app.example", false);
        check("https://app.example.evil", false);
        check("null", false);
        assert_eq!(Page::of(&HeaderMap::new(), &origins), Page::None);
    }
}

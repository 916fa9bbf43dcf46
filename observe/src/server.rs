//! Where a process is looked at: `/metrics`, `/healthz` and `/readyz` over HTTP/1.1.
//!
//! Invariant: read-only, and bounded in every direction: connections, bytes and time of a request's head, looks at once.
//! Whoever overloads it learns nothing and delays nobody but others who look.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    process::ProcessMetrics,
    scrape::{Exposition, Source},
};

/// Connections at once; more wait to be accepted.
const CONNECTIONS_MAX: usize = 64;
/// How long the head of a request may take. Also how long an idle connection is kept.
const HEAD_TIMEOUT: Duration = Duration::from_secs(20);
/// How long one connection lasts, whatever it does.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(600);
/// Bytes of a request's head.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// After a connection that could not be accepted, as for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// What Prometheus 2.5 and later read (OpenMetrics 1.0).
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Why nobody can look.
#[derive(Debug)]
pub struct ObserverError {
    address: SocketAddr,
    source: io::Error,
}

impl std::fmt::Display for ObserverError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "cannot listen for HTTP on {}", self.address)
    }
}

impl std::error::Error for ObserverError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// A listener that is not yet served. Bound early, so that a process that can't have it does not start.
#[derive(Debug)]
pub struct Observer {
    listener: TcpListener,
    address: SocketAddr,
}

impl Observer {
    /// Binds `address`. Call inside a tokio runtime.
    ///
    /// # Errors
    /// The address can't be had.
    pub fn bind(address: SocketAddr) -> Result<Self, ObserverError> {
        let bound = || {
            let listener = std::net::TcpListener::bind(address)?;
            listener.set_nonblocking(true)?;
            let address = listener.local_addr()?;
            Ok(Self { listener: TcpListener::from_std(listener)?, address })
        };
        bound().map_err(|source| ObserverError { address, source })
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until `stop`. `version` and `role` are what the process is.
    pub async fn serve(
        self,
        version: &'static str,
        role: &'static str,
        source: Arc<dyn Source>,
        stop: CancellationToken,
    ) {
        let exposition = Arc::new(Exposition::new(ProcessMetrics::new(version, role), source));
        let router = Router::new()
            .route("/metrics", get(metrics))
            .route("/healthz", get(|| async { "ok\n" }))
            .route("/readyz", get(ready))
            .with_state(exposition);
        let (room, connections) = (Arc::new(Semaphore::new(CONNECTIONS_MAX)), TaskTracker::new());
        tracing::info!(address = %self.address, "metrics are served");
        loop {
            // The semaphore is never closed.
            let Ok(place) = Arc::clone(&room).acquire_owned().await else { break };
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = stop.cancelled() => break,
            };
            match accepted {
                Ok((stream, _)) => {
                    let serving = serve_connection(stream, router.clone());
                    let stop = stop.clone();
                    connections.spawn(async move {
                        stop.run_until_cancelled(tokio::time::timeout(CONNECTION_TIMEOUT, serving)).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        connections.close();
        connections.wait().await;
    }
}

async fn serve_connection(stream: TcpStream, router: Router) {
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    if let Err(error) = served.await {
        tracing::debug!(%error, "a connection has ended early");
    }
}

async fn metrics(State(exposition): State<Arc<Exposition>>) -> Response {
    // It takes locks and reads files of the kernel.
    let text = tokio::task::spawn_blocking(move || exposition.text()).await;
    match text {
        Ok(Ok(text)) => ([(CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Ok(Err(_)) | Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn ready(State(exposition): State<Arc<Exposition>>) -> Response {
    if exposition.is_ready() {
        "ready\n".into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready\n").into_response()
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        task::JoinHandle,
    };

    use super::*;
    use crate::scrape::tests::Sample;

    fn observer() -> (SocketAddr, CancellationToken, JoinHandle<()>) {
        let observer = Observer::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let (address, stop) = (observer.address(), CancellationToken::new());
        let serving = tokio::spawn(observer.serve("1", "test", Arc::new(Sample), stop.clone()));
        (address, stop, serving)
    }

    async fn ask(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn only_what_is_offered_is_answered() {
        let (address, stop, serving) = observer();
        let check = async |request: &str, expect: &[&str]| {
            let answer =
                ask(address, &format!("{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")).await;
            for part in expect {
                assert!(answer.contains(part), "{request}: {part} is missing in {answer}");
            }
        };
        check("GET /metrics", &["200 OK", OPEN_METRICS, "xdpfs_store_used_bytes 4096.0", "# EOF"]).await;
        check("GET /healthz", &["200 OK", "ok"]).await;
        check("GET /readyz", &["200 OK", "ready"]).await;
        check("GET /", &["404 Not Found"]).await;
        check("POST /metrics", &["405 Method Not Allowed"]).await;
        stop.cancel();
        serving.await.unwrap();
    }

    #[tokio::test]
    async fn garbage_and_long_heads_end_the_connection_and_nothing_else() {
        let (address, _stop, _serving) = observer();
        let long = format!("GET /metrics HTTP/1.1\r\nx: {}\r\n\r\n", "a".repeat(2 * HEAD_BYTES_MAX));
        for hostile in ["\0\0\0\0\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &long] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            // It may be cut off in the middle.
            let _ = stream.write_all(hostile.as_bytes()).await;
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer).await;
            assert!(!answer.starts_with(b"HTTP/1.1 200"), "{hostile:.20}");
        }
        assert!(ask(address, "GET /healthz HTTP/1.0\r\n\r\n").await.contains("ok"));
    }

    #[tokio::test]
    async fn idle_connections_do_not_hold_up_the_end() {
        let (address, stop, serving) = observer();
        let _idle: Vec<TcpStream> = {
            let mut idle = Vec::new();
            for _ in 0..CONNECTIONS_MAX {
                idle.push(TcpStream::connect(address).await.unwrap());
            }
            idle
        };
        stop.cancel();
        serving.await.unwrap();
    }

    #[test]
    fn an_address_that_is_taken_is_named() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let _inside = runtime.enter();
        let first = Observer::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let error = Observer::bind(first.address()).unwrap_err();
        assert!(error.to_string().contains(&first.address().to_string()));
    }
}

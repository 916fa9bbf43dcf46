//! The listener for browsers, and their connections.
//!
//! Invariant: bounded in every direction: connections, bytes and time of a request's head, and how long somebody may
//! take nothing of what he has asked for.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::Router;
use futures::StreamExt as _;
use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::{Layer as _, ServiceExt as _};
use xdpfs_trust::{Connection, Limits, PresenceLayer, Present, Trust, listen_to_browsers};

use crate::{
    CONNECTIONS_MAX, Entrance, Names,
    patience::Patient,
    router::{Desk, router},
};

/// Handshakes at once.
const HANDSHAKES_MAX: usize = 32;
/// How long the head of a request may take. Also how long an idle connection is kept.
const HEAD_TIMEOUT: Duration = Duration::from_secs(20);
/// Bytes of a request's head: a key has 1 KiB, of which each byte may be three.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// How long a browser may take nothing, as one whose user is asked where to save a file.
const WRITE_PATIENCE: Duration = Duration::from_secs(120);

/// Why nobody can look.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen for browsers on {address}")]
pub struct ConsoleError {
    address: SocketAddr,
    source: io::Error,
}

/// A listener that is not yet served. Bound early, so that a server that can't have it does not start.
#[derive(Debug)]
pub struct Console {
    listener: TcpListener,
    address: SocketAddr,
}

impl Console {
    /// Binds `address`. Call inside a tokio runtime.
    ///
    /// # Errors
    /// The address can't be had.
    pub fn bind(address: SocketAddr) -> Result<Self, ConsoleError> {
        let bound = || {
            let listener = std::net::TcpListener::bind(address)?;
            listener.set_nonblocking(true)?;
            let address = listener.local_addr()?;
            Ok(Self { listener: TcpListener::from_std(listener)?, address })
        };
        bound().map_err(|source| ConsoleError { address, source })
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until `stop`, with the certificate of `trust`; without one in plaintext, to those who use one of `names`.
    pub async fn serve<E: Entrance>(
        self,
        entrance: E,
        trust: Option<Arc<Trust>>,
        names: Names,
        stop: CancellationToken,
    ) {
        let desk = Desk::new(entrance, names);
        let limits = Limits { connections_max: CONNECTIONS_MAX, handshakes_max: HANDSHAKES_MAX };
        let is_secured = trust.is_some();
        tracing::info!(address = %self.address, is_secured, "the status page is served");
        let sampling = desk.sampling();
        let mut accepted = listen_to_browsers(self.listener, trust, limits);
        // Those who go when the listener is full do so by this, and requests under way keep their place.
        let service = PresenceLayer.layer(router(desk));
        let connections = TaskTracker::new();
        let serving = async {
            while let Some(connection) = accepted.next().await {
                let Ok(connection) = connection else { continue };
                let (service, stop) = (service.clone(), stop.clone());
                connections.spawn(async move {
                    stop.run_until_cancelled(serve_connection(connection, service)).await;
                });
            }
        };
        tokio::select! {
            () = serving => {}
            () = sampling => {}
            () = stop.cancelled() => {}
        }
        connections.close();
        connections.wait().await;
    }
}

async fn serve_connection(connection: Connection, service: Present<Router>) {
    let caller = connection.caller().clone();
    let answer = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(caller.clone());
        service.clone().oneshot(request)
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(Patient::new(connection, WRITE_PATIENCE)), answer);
    if let Err(error) = served.await {
        tracing::debug!(%error, "a browser's connection has ended early");
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpStream,
        task::JoinHandle,
    };
    use xdpfs_client::{AccessKey, Result, mock::MockClient};

    use super::*;

    struct Open;

    impl Entrance for Open {
        type Client = MockClient;

        fn connect(&self, _: Option<AccessKey>) -> Result<MockClient> {
            Ok(MockClient::new())
        }
    }

    fn served() -> (SocketAddr, CancellationToken, JoinHandle<()>) {
        let console = Console::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let (address, stop) = (console.address(), CancellationToken::new());
        let serving = console.serve(Open, None, Names::These([].into()), stop.clone());
        (address, stop, tokio::spawn(serving))
    }

    async fn ask(address: SocketAddr, words: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        // It may be cut off in the middle.
        let _ = stream.write_all(words.as_bytes()).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    }

    fn request(path: &str) -> String {
        format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
    }

    #[tokio::test]
    async fn page_is_served_until_it_is_stopped() {
        let (address, stop, serving) = served();
        let page = ask(address, &request("/")).await;
        assert!(page.starts_with("HTTP/1.1 200 OK") && page.contains("</html>"), "{page}");
        let status = ask(address, &request("/api/v1/status")).await;
        assert!(status.contains(r#""cluster_id":"mock""#), "{status}");
        let _idle = TcpStream::connect(address).await.unwrap();
        stop.cancel();
        serving.await.unwrap();
        let is_free = async {
            while TcpStream::connect(address).await.is_ok() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), is_free).await.unwrap();
    }

    #[tokio::test]
    async fn garbage_and_long_heads_end_the_connection_and_nothing_else() {
        let (address, _stop, _serving) = served();
        let long =
            format!("GET / HTTP/1.1\r\nhost: localhost\r\nx: {}\r\n\r\n", "a".repeat(2 * HEAD_BYTES_MAX));
        for hostile in [
            "\0\0\0\0\r\n\r\n",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            &long,
            "GET / HTTP/1.1\r\nconnection: close\r\n\r\n",
        ] {
            let answer = ask(address, hostile).await;
            assert!(!answer.starts_with("HTTP/1.1 200"), "{hostile:.20}: {answer}");
        }
        assert!(ask(address, &request("/")).await.starts_with("HTTP/1.1 200"));
    }

    #[tokio::test]
    async fn who_says_half_a_request_makes_room_for_others() {
        let (address, _stop, _serving) = served();
        let mut slow = Vec::new();
        for _ in 0..CONNECTIONS_MAX + 8 {
            let mut stream = TcpStream::connect(address).await.unwrap();
            // Those of the first may have been ended already.
            let _ = stream.write_all(b"GET / HTTP/1.1\r\nhost: loc").await;
            slow.push(stream);
        }
        assert!(ask(address, &request("/")).await.starts_with("HTTP/1.1 200"));
    }

    #[tokio::test]
    async fn address_that_is_taken_is_named() {
        let first = Console::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let error = Console::bind(first.address()).unwrap_err();
        assert!(error.to_string().contains(&first.address().to_string()), "{error}");
    }
}

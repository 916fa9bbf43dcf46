//! Lets callers in: TCP, TLS if that is spoken, and the greeting, each within a time; and ends connections that have to
//! go.
//!
//! Invariant: what is handed on has said the preface of HTTP/2, unless it is a browser's, and is counted until it is
//! gone.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use rustls::pki_types::CertificateDer;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf},
    sync::{mpsc, watch},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;

use crate::{
    certificate::Certificate,
    doors::{Doors, Entry, GuestId, Limits},
    greeting::{ALERT, Greeted, NO_TLS, TLS_HANDSHAKE, TLS_ONLY},
    net::{Listener, Tcp},
    principal::Principal,
    trust::Trust,
    verify::Audience,
};

/// How long somebody may take from connecting to the end of the greeting.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections that wait to be served.
const BACKLOG_MAX: usize = 64;
/// How long nothing is accepted after the system had no descriptor for another connection.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(200);
/// How much of what the wrong kind of client says is read before it is told so, and how long that may take.
const DRAINED_BYTES_MAX: usize = 4096;
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

/// What is spoken at a listener.
#[derive(Clone, Debug)]
pub enum Security {
    /// Nothing but plaintext: for loopback, and networks that are trusted.
    Plaintext,
    /// TLS, for those who are let in.
    Tls(Arc<Trust>, Audience),
}

/// What is spoken at a listener, and by whom.
#[derive(Clone, Debug)]
enum Terms {
    /// HTTP/1.1, by browsers, which show no certificates; within TLS if there is somebody to be.
    Browsers(Option<Arc<Trust>>),
    /// HTTP/2, by members and clients.
    Grpc(Security),
}

/// Who is at the other end of a connection; found among the extensions of its requests.
#[derive(Clone, Debug)]
pub struct Caller {
    /// From where.
    pub address: SocketAddr,
    /// Whether the connection is secured by TLS.
    pub is_secured: bool,
    /// By its certificate. None: it has shown none.
    pub principal: Option<Principal>,
    visit: Arc<Visit>,
}

/// An accepted connection.
pub struct Connection {
    stream: Stream,
    caller: Caller,
    ended: Pin<Box<WaitForCancellationFutureOwned>>,
}

enum Stream {
    Plain(Greeted<Tcp>),
    Tls(Box<Greeted<TlsStream<Tcp>>>),
}

/// A connection's place in its listener, which is free again once this is dropped.
#[derive(Debug)]
struct Visit {
    id: GuestId,
    house: Arc<House>,
}

/// A request under way.
#[derive(Debug)]
pub(crate) struct UnderWay(Arc<Visit>);

/// What the connections of one listener share.
#[derive(Debug)]
struct House(Mutex<Inside>);

#[derive(Debug)]
struct Inside {
    doors: Doors,
    guests: BTreeMap<GuestId, Guest>,
}

#[derive(Debug)]
struct Guest {
    end: CancellationToken,
    /// The certificates that it has shown.
    chain: Vec<CertificateDer<'static>>,
}

/// Accepts on the current runtime for as long as the stream is wanted.
pub fn listen(
    listener: impl Into<Listener>,
    security: Security,
    limits: Limits,
) -> ReceiverStream<io::Result<Connection>> {
    listen_within(listener, security, watch::Sender::new(limits).subscribe())
}

/// The same with limits that may change.
pub fn listen_within(
    listener: impl Into<Listener>,
    security: Security,
    limits: watch::Receiver<Limits>,
) -> ReceiverStream<io::Result<Connection>> {
    listen_on(listener.into(), Terms::Grpc(security), limits)
}

/// The same for browsers: HTTP/1.1 is to be spoken, nobody is asked for a certificate, and TLS has that of `trust`.
/// Without one it is plaintext.
pub fn listen_to_browsers(
    listener: impl Into<Listener>,
    trust: Option<Arc<Trust>>,
    limits: Limits,
) -> ReceiverStream<io::Result<Connection>> {
    listen_on(listener.into(), Terms::Browsers(trust), watch::Sender::new(limits).subscribe())
}

fn listen_on(
    listener: Listener,
    terms: Terms,
    limits: watch::Receiver<Limits>,
) -> ReceiverStream<io::Result<Connection>> {
    let (accepted, connections) = mpsc::channel(BACKLOG_MAX);
    tokio::spawn(async move {
        let inside = Inside { doors: Doors::new(*limits.borrow()), guests: BTreeMap::new() };
        let house = Arc::new(House(Mutex::new(inside)));
        tokio::select! {
            () = accepted.closed() => {}
            () = accept(&listener, &terms, &house, &accepted) => {}
            () = review(&terms, &house) => {}
            () = follow(limits, &house) => {}
        }
    });
    ReceiverStream::new(connections)
}

async fn accept(
    listener: &Listener,
    terms: &Terms,
    house: &Arc<House>,
    accepted: &mpsc::Sender<io::Result<Connection>>,
) {
    loop {
        match listener.accept().await {
            Ok((tcp, address)) => {
                let Some((visit, end)) = House::enter(house) else {
                    tracing::debug!(%address, "every connection is busy: one more is refused");
                    continue;
                };
                tokio::spawn(receive(tcp, address, terms.clone(), visit, end, accepted.clone()));
            }
            Err(error) if is_about_one_connection(&error) => {}
            Err(error) => {
                tracing::warn!(%error, "no connection can be accepted");
                tokio::time::sleep(EXHAUSTED_PAUSE).await;
            }
        }
    }
}

fn is_about_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

/// Ends idle connections when there may be fewer.
async fn follow(mut limits: watch::Receiver<Limits>, house: &House) {
    while limits.changed().await.is_ok() {
        house.limit(*limits.borrow_and_update());
    }
    std::future::pending().await
}

/// Ends the connections of those who are no longer trusted.
async fn review(terms: &Terms, house: &House) {
    let Terms::Grpc(Security::Tls(trust, _)) = terms else { return std::future::pending().await };
    let mut changes = trust.changes();
    while changes.changed().await.is_ok() {
        let identity = trust.identity();
        house.end_all(|chain| !identity.still_trusts(chain));
    }
}

async fn receive(
    tcp: Tcp,
    address: SocketAddr,
    terms: Terms,
    visit: Visit,
    end: CancellationToken,
    accepted: mpsc::Sender<io::Result<Connection>>,
) {
    let greeted = tokio::time::timeout(HANDSHAKE_TIMEOUT, greet(tcp, &terms));
    let greeted = tokio::select! {
        greeted = greeted => greeted,
        () = end.cancelled() => return,
        () = accepted.closed() => return,
    };
    let (stream, chain) = match greeted {
        Ok(Ok(Some(greeted))) => greeted,
        Ok(Ok(None)) => return tracing::debug!(%address, "a connection is refused: it speaks something else"),
        Ok(Err(error)) => return tracing::debug!(%address, %error, "a connection is refused"),
        Err(_) => return tracing::debug!(%address, "a connection took too long to begin"),
    };
    let own = chain.first().and_then(|own| Certificate::read(own));
    let principal = own.as_ref().and_then(Principal::of);
    visit.house.greeted(visit.id, chain);
    let caller =
        Caller { address, is_secured: matches!(stream, Stream::Tls(_)), principal, visit: Arc::new(visit) };
    let connection = Connection { stream, caller, ended: Box::pin(end.cancelled_owned()) };
    // If nobody serves any more, it ends here.
    let _stopped = accepted.send(Ok(connection)).await;
}

type Greeting = (Stream, Vec<CertificateDer<'static>>);

/// `None`: it speaks something else, and has been told so as far as it can understand.
async fn greet(mut tcp: Tcp, terms: &Terms) -> io::Result<Option<Greeting>> {
    tcp.set_nodelay()?;
    let mut first = [0];
    if tcp.peek(&mut first).await? == 0 {
        return Ok(None);
    }
    let speaks_tls = first[0] == TLS_HANDSHAKE;
    match terms {
        Terms::Browsers(None) | Terms::Grpc(Security::Plaintext) if speaks_tls => {
            tell(&mut tcp, NO_TLS).await.map(|()| None)
        }
        Terms::Browsers(None) => Ok(Some((Stream::Plain(Greeted::without_words(tcp)), Vec::new()))),
        Terms::Browsers(Some(_)) if !speaks_tls => tell(&mut tcp, TLS_ONLY).await.map(|()| None),
        Terms::Browsers(Some(trust)) => {
            let config = Arc::clone(trust.identity().for_browsers());
            let stream = Greeted::without_words(TlsAcceptor::from(config).accept(tcp).await?);
            Ok(Some((Stream::Tls(Box::new(stream)), Vec::new())))
        }
        Terms::Grpc(Security::Plaintext) => {
            Ok(Greeted::by_server(tcp).await?.map(|stream| (Stream::Plain(stream), Vec::new())))
        }
        Terms::Grpc(Security::Tls(..)) if !speaks_tls => tell(&mut tcp, ALERT).await.map(|()| None),
        Terms::Grpc(Security::Tls(trust, audience)) => {
            let config = Arc::clone(trust.identity().server(*audience));
            let tls = TlsAcceptor::from(config).accept(tcp).await?;
            let chain = tls.get_ref().1.peer_certificates().unwrap_or_default();
            let chain = chain.iter().map(|certificate| certificate.clone().into_owned()).collect();
            let stream = Greeted::by_server(tls).await?;
            Ok(stream.map(|stream| (Stream::Tls(Box::new(stream)), chain)))
        }
    }
}

/// A last word. What has come is read before: closing over it would reset the connection, and lose the word.
async fn tell(tcp: &mut Tcp, word: &[u8]) -> io::Result<()> {
    let mut unwanted = [0; DRAINED_BYTES_MAX];
    // However much it is, it was only to be taken off the socket.
    let _ = tcp.read(&mut unwanted).await?;
    tcp.write_all(word).await?;
    tcp.shutdown().await?;
    // Until the other end has closed, too, or has had the time to.
    let _late = tokio::time::timeout(DRAIN_TIMEOUT, tcp.read(&mut unwanted)).await;
    Ok(())
}

impl House {
    fn enter(house: &Arc<Self>) -> Option<(Visit, CancellationToken)> {
        let mut inside = house.lock();
        let id = match inside.doors.enter(Instant::now()) {
            Entry::In(id) => id,
            Entry::InsteadOf(id, other) => {
                if let Some(guest) = inside.guests.remove(&other) {
                    guest.end.cancel();
                }
                id
            }
            Entry::Refused => return None,
        };
        let end = CancellationToken::new();
        inside.guests.insert(id, Guest { end: end.clone(), chain: Vec::new() });
        drop(inside);
        Some((Visit { id, house: Arc::clone(house) }, end))
    }

    fn limit(&self, limits: Limits) {
        let mut inside = self.lock();
        let leaving = inside.doors.limit(limits);
        for guest in leaving.iter().filter_map(|id| inside.guests.remove(id)).collect::<Vec<_>>() {
            guest.end.cancel();
        }
    }

    fn greeted(&self, id: GuestId, chain: Vec<CertificateDer<'static>>) {
        let mut inside = self.lock();
        inside.doors.greeted(id, !chain.is_empty(), Instant::now());
        if let Some(guest) = inside.guests.get_mut(&id) {
            guest.chain = chain;
        }
    }

    /// Ends the connections whose certificates are to be refused.
    fn end_all(&self, is_refused: impl Fn(&[CertificateDer<'static>]) -> bool) {
        let inside = self.lock();
        let refused =
            inside.guests.values().filter(|guest| !guest.chain.is_empty() && is_refused(&guest.chain));
        let count = refused.map(|guest| guest.end.cancel()).count();
        if count > 0 {
            tracing::info!(count, "connections end: their certificates are no longer trusted");
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inside> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        let mut inside = self.house.lock();
        inside.doors.leave(self.id);
        inside.guests.remove(&self.id);
    }
}

impl Caller {
    /// A request of it begins; it ends with what is returned.
    pub(crate) fn begin(&self) -> UnderWay {
        self.visit.house.lock().doors.begin(self.visit.id);
        UnderWay(Arc::clone(&self.visit))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.house.lock().doors.end(self.0.id, Instant::now());
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("caller", &self.caller).finish_non_exhaustive()
    }
}

impl Connected for Connection {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        self.caller.clone()
    }
}

impl Connection {
    /// Who is at its other end.
    #[must_use]
    pub const fn caller(&self) -> &Caller {
        &self.caller
    }

    /// Fails once the connection has to go.
    fn poll_ended(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.ended.as_mut().poll(cx) {
            Poll::Ready(()) => Err(io::ErrorKind::ConnectionAborted.into()),
            Poll::Pending => Ok(()),
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.poll_ended(cx)?;
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Stream::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Stream::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Stream::Plain(stream) => stream.is_write_vectored(),
            Stream::Tls(stream) => stream.is_write_vectored(),
        }
    }
}

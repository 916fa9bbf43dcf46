//! Connects to metadata servers: TCP, TLS if that is asked for, and the greeting.
//!
//! Invariant: what fails here has sent no request. Why it failed is known well enough to say what to do about it, and
//! plaintext is never tried where TLS was asked for.

use std::{
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::{AlertDescription, CertificateError, Error as TlsError, pki_types::ServerName};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tower::Service;

use crate::{
    greeting::{Answer, Greeted},
    identity::ALPN_HTTP2,
    net::{Network, Tcp},
    tls::TlsTrust,
};

/// Connects for tonic.
#[derive(Clone, Debug)]
pub struct Dialer {
    tls: Option<TlsTrust>,
    timeout: Duration,
    network: Network,
}

/// What the two ends do not agree on. Trying again gives the same, until somebody changes something.
#[derive(Clone, Debug, Eq, Hash, PartialEq, thiserror::Error)]
pub enum Mismatch {
    /// The server's certificate is over.
    #[error("its certificate has expired")]
    Expired,
    /// The server's certificate does not hold yet.
    #[error("its certificate does not hold yet: one of the two clocks is wrong")]
    NotYetValid,
    /// The server speaks neither TLS nor HTTP/2.
    #[error("it does not speak gRPC")]
    NotGrpc,
    /// The certificate belongs to the cluster, but not to a metadata server of it.
    #[error("its certificate is not one of a metadata server of this cluster")]
    NotMetaServer,
    /// TLS was asked for, and the server does not speak it.
    #[error("it does not speak TLS")]
    NoTls,
    /// The server does not take this end's certificate, or wants one.
    #[error("it does not accept the certificate of this end, or wants one ({0})")]
    RefusesUs(String),
    /// The server speaks TLS, and it was not asked for.
    #[error("it speaks TLS")]
    SpeaksTls,
    /// There is no common version of TLS, or something else about the handshake.
    #[error("the TLS handshake fails: {0}")]
    Tls(String),
    /// The server's certificate was made by another authority.
    #[error("its certificate was not made by the trusted CA")]
    UnknownIssuer,
    /// The server's certificate names other hosts.
    #[error("its certificate does not name {0}")]
    WrongName(String),
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DialError {
    /// The server ended the connection before it said a word.
    #[error("the server ended the connection at once")]
    Closed,
    /// The network has no connection.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The two ends do not agree.
    #[error("{0}")]
    Mismatch(#[from] Mismatch),
    /// Nobody answered in time.
    #[error("the server did not answer in time")]
    TimedOut,
    /// The endpoint makes no sense.
    #[error("the endpoint has no host or no port")]
    Uri,
}

/// A connection to a metadata server.
#[derive(Debug)]
pub struct Dialed(Stream);

#[derive(Debug)]
enum Stream {
    Plain(Greeted<Tcp>),
    Tls(Box<Greeted<TlsStream<Tcp>>>),
}

impl Dialer {
    /// Speaks TLS if there is somebody to trust, and plaintext if not. Gives up after `timeout`.
    #[must_use]
    pub const fn new(tls: Option<TlsTrust>, timeout: Duration) -> Self {
        Self { tls, timeout, network: Network::Kernel }
    }

    /// The same over the network that is simulated around the caller.
    #[cfg(feature = "simulated")]
    #[must_use]
    pub fn simulated(self) -> Self {
        Self { network: Network::Simulated, ..self }
    }

    /// Whether what it sends is secret to everybody but the server.
    #[must_use]
    pub const fn speaks_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// `endpoint`, which is `HOST:PORT`, as tonic wants it.
    #[must_use]
    pub fn uri(&self, endpoint: &str) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{endpoint}")
    }

    async fn dial(self, uri: Uri) -> Result<Dialed, DialError> {
        let connected = self.connect(&uri);
        tokio::time::timeout(self.timeout, connected).await.unwrap_or(Err(DialError::TimedOut))
    }

    async fn connect(&self, uri: &Uri) -> Result<Dialed, DialError> {
        let host = uri.host().ok_or(DialError::Uri)?;
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let tcp = self.network.connect((host, uri.port_u16().ok_or(DialError::Uri)?)).await?;
        match &self.tls {
            None => Ok(Dialed(Stream::Plain(greet(tcp, &Mismatch::SpeaksTls).await?))),
            Some(tls) => {
                let tls = shake_hands(tls, host, tcp).await?;
                // Only now does a server say what it thinks of this end's certificate.
                let stream = greet(tls, &Mismatch::NotGrpc).await;
                let stream = stream.map_err(|error| about(error, host))?;
                Ok(Dialed(Stream::Tls(Box::new(stream))))
            }
        }
    }
}

async fn shake_hands(trust: &TlsTrust, host: &str, tcp: Tcp) -> Result<TlsStream<Tcp>, DialError> {
    let name = ServerName::try_from(host.to_owned()).map_err(|_| DialError::Uri)?;
    let connector = TlsConnector::from(trust.config());
    let tls = connector.connect(name, tcp).await.map_err(|error| about(error.into(), host))?;
    if tls.get_ref().1.alpn_protocol() != Some(ALPN_HTTP2) {
        return Err(Mismatch::NotGrpc.into());
    }
    Ok(tls)
}

async fn greet<S>(stream: S, alert: &Mismatch) -> Result<Greeted<S>, DialError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    match Greeted::by_client(stream).await? {
        Some((Answer::Http2, stream)) => Ok(stream),
        Some((Answer::TlsAlert, _)) => Err(alert.clone().into()),
        Some((Answer::Unknown, _)) => Err(Mismatch::NotGrpc.into()),
        None => Err(DialError::Closed),
    }
}

/// What rustls has to say, found behind an error of the stream.
fn about(error: DialError, host: &str) -> DialError {
    let DialError::Io(io) = error else { return error };
    let Some(tls) = io.get_ref().and_then(|inner| inner.downcast_ref::<TlsError>()) else {
        return if io.kind() == io::ErrorKind::UnexpectedEof { DialError::Closed } else { io.into() };
    };
    mismatch(tls, host).into()
}

fn mismatch(error: &TlsError, host: &str) -> Mismatch {
    match error {
        TlsError::InvalidCertificate(error) => match error {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => Mismatch::Expired,
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                Mismatch::NotYetValid
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                Mismatch::WrongName(host.to_owned())
            }
            // Another authority may be called the same.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => Mismatch::UnknownIssuer,
            CertificateError::Other(_) => Mismatch::NotMetaServer,
            other => Mismatch::Tls(other.to_string()),
        },
        TlsError::InvalidMessage(_) => Mismatch::NoTls,
        TlsError::AlertReceived(alert) => match alert {
            AlertDescription::AccessDenied
            | AlertDescription::BadCertificate
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateRequired
            | AlertDescription::CertificateUnknown
            | AlertDescription::DecryptError
            | AlertDescription::UnknownCA
            | AlertDescription::UnsupportedCertificate => Mismatch::RefusesUs(format!("{alert:?}")),
            other => Mismatch::Tls(format!("the server says {other:?}")),
        },
        TlsError::PeerIncompatible(_) => Mismatch::Tls("it does not speak TLS 1.3".to_owned()),
        other => Mismatch::Tls(other.to_string()),
    }
}

impl DialError {
    /// The mismatch that ended an attempt, found among an error and its causes.
    #[must_use]
    pub fn mismatch_in<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a Mismatch> {
        let mut causes = std::iter::successors(Some(error), |cause| cause.source());
        causes.find_map(|cause| match cause.downcast_ref::<Self>() {
            Some(Self::Mismatch(mismatch)) => Some(mismatch),
            _ => None,
        })
    }
}

impl Service<Uri> for Dialer {
    type Response = TokioIo<Dialed>;
    type Error = DialError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, DialError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), DialError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let dialed = self.clone().dial(uri);
        Box::pin(async move { dialed.await.map(TokioIo::new) })
    }
}

impl AsyncRead for Dialed {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().0 {
            Stream::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Dialed {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().0 {
            Stream::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Stream::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().0 {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().0 {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().0 {
            Stream::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Stream::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.0 {
            Stream::Plain(stream) => stream.is_write_vectored(),
            Stream::Tls(stream) => stream.is_write_vectored(),
        }
    }
}

use std::sync::Arc;

use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
    version::{TLS12, TLS13},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsConnector;
use tokio_stream::StreamExt as _;
use xdpfs_trust::{Audience, Limits, Mismatch, Trust, listen_to_browsers};

use crate::scene::{Ca, call, open, serve};

const WORDS: &[u8] = b"GET / HTTP/1.1\r\n\r\n";

/// Answers every connection with what it has heard.
async fn echo(trust: Option<Arc<Trust>>) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut visits = listen_to_browsers(listener, trust, Limits { connections_max: 8, handshakes_max: 8 });
    tokio::spawn(async move {
        while let Some(Ok(mut connection)) = visits.next().await {
            let mut heard = [0; WORDS.len()];
            connection.read_exact(&mut heard).await.unwrap();
            connection.write_all(&heard).await.unwrap();
            connection.shutdown().await.unwrap();
        }
    });
    address
}

async fn ask(address: std::net::SocketAddr, words: &[u8]) -> Vec<u8> {
    let mut tcp = TcpStream::connect(address).await.unwrap();
    tcp.write_all(words).await.unwrap();
    let mut answer = Vec::new();
    // One that speaks something else may be cut off.
    let _ = tcp.read_to_end(&mut answer).await;
    answer
}

fn browser(ca: &Ca, versions: &[&'static rustls::SupportedProtocolVersion], alpn: &[&[u8]]) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    let certificates = CertificateDer::pem_slice_iter(ca.authority.certificates_pem().as_bytes());
    certificates.for_each(|certificate| roots.add(certificate.unwrap()).unwrap());
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let config = config.with_protocol_versions(versions).unwrap().with_root_certificates(roots);
    let mut config = config.with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    TlsConnector::from(Arc::new(config))
}

#[tokio::test]
async fn browser_speaks_http_1_1_within_tls_and_is_asked_for_no_certificate() {
    let ca = Ca::new("red");
    let address = echo(Some(open(&ca.member("xdpfs://red/meta/1")))).await;
    let name = || ServerName::try_from("localhost").unwrap();
    let connector = browser(&ca, &[&TLS13], &[b"h2", b"http/1.1"]);
    let mut tls = connector.connect(name(), TcpStream::connect(address).await.unwrap()).await.unwrap();
    assert_eq!(tls.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    tls.write_all(WORDS).await.unwrap();
    let mut answer = vec![0; WORDS.len()];
    tls.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, WORDS);
    let old = browser(&ca, &[&TLS12], &[]);
    assert!(old.connect(name(), TcpStream::connect(address).await.unwrap()).await.is_err(), "TLS 1.2");
}

#[tokio::test]
async fn who_speaks_plaintext_where_tls_is_spoken_is_told_what_to_write() {
    let ca = Ca::new("red");
    let address = echo(Some(open(&ca.member("xdpfs://red/meta/1")))).await;
    let answer = String::from_utf8(ask(address, WORDS).await).unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("https://"), "{answer}");
}

#[tokio::test]
async fn plaintext_is_handed_on_and_tls_is_refused_without_certificates() {
    let address = echo(None).await;
    assert_eq!(ask(address, WORDS).await, WORDS);
    assert_eq!(ask(address, &[0x16, 3, 1, 0, 5]).await, b"this server does not speak TLS\n");
}

#[tokio::test]
async fn member_that_dials_as_a_client_shows_no_certificate() {
    let ca = Ca::new("red");
    let member = open(&ca.member("xdpfs://red/meta/2"));
    let for_anyone = serve(&ca.member("xdpfs://red/meta/1"), Audience::Anyone).await;
    assert_eq!(call(for_anyone.address, Some(member.dialing_as_client())).await, Ok(()));
    let for_members = serve(&ca.member("xdpfs://red/meta/3"), Audience::MetaServers).await;
    assert_eq!(call(for_members.address, Some(member.dialing())).await, Ok(()));
    let refused = call(for_members.address, Some(member.dialing_as_client())).await;
    assert!(matches!(refused, Err(Mismatch::RefusesUs(_))), "{refused:?}");
}

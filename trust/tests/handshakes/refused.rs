use std::sync::Arc;

use rustls::{
    AlertDescription, ClientConfig, Error as TlsError, RootCertStore,
    crypto::ring,
    pki_types::{PrivateKeyDer, ServerName, pem::PemObject as _},
    version::{TLS12, TLS13},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsConnector;
use xdpfs_trust::{Audience, Dialer, Limits, Mismatch, Request, Role, Security, Trust, TrustError};

use crate::scene::{Ca, call, eventually, open, serve, serve_with};

#[tokio::test]
async fn client_needs_no_certificate_and_members_show_theirs() {
    let ca = Ca::new("red");
    let service = serve(&ca.member("xdpfs://red/meta/1"), Audience::Anyone).await;
    assert_eq!(call(service.address, Some(ca.client())).await, Ok(()));
    for member in ["xdpfs://red/node", "xdpfs://red/edge/a", "xdpfs://red/meta/2"] {
        assert_eq!(call(service.address, Some(open(&ca.member(member)).dialing())).await, Ok(()), "{member}");
    }
}

#[tokio::test]
async fn metadata_servers_among_themselves_let_nobody_else_in() {
    let ca = Ca::new("red");
    let service = serve(&ca.member("xdpfs://red/meta/1"), Audience::MetaServers).await;
    let second = open(&ca.member("xdpfs://red/meta/2"));
    assert_eq!(call(service.address, Some(second.dialing())).await, Ok(()));
    let refused = |outcome| matches!(outcome, Err(Mismatch::RefusesUs(_)));
    assert!(refused(call(service.address, Some(ca.client())).await), "no certificate");
    for member in ["xdpfs://red/node", "xdpfs://red/edge"] {
        assert!(refused(call(service.address, Some(open(&ca.member(member)).dialing())).await), "{member}");
    }
}

#[tokio::test]
async fn certificate_of_another_cluster_is_refused_though_the_ca_is_the_same() {
    let ca = Ca::new("red");
    for audience in [Audience::Anyone, Audience::MetaServers] {
        let service = serve(&ca.member("xdpfs://red/meta/1"), audience).await;
        let stranger = open(&ca.member("xdpfs://blue/meta/1"));
        // Either end would refuse the other; the caller is the first to see a certificate.
        let outcome = call(service.address, Some(stranger.dialing())).await;
        assert_eq!(outcome, Err(Mismatch::NotMetaServer));
    }
}

#[tokio::test]
async fn server_asks_callers_for_their_cluster() {
    let ca = Ca::new("red");
    for (principal, expect) in [
        ("xdpfs://blue/meta/1", Some(AlertDescription::AccessDenied)),
        ("xdpfs://blue/node", Some(AlertDescription::AccessDenied)),
        ("xdpfs://red/node", None),
    ] {
        let service = serve(&ca.member("xdpfs://red/meta/1"), Audience::Anyone).await;
        let issued = ca.authority.issue(&Request::new(principal.parse().unwrap(), [""; 0])).unwrap();
        let key = PrivateKeyDer::from_pem_slice(issued.key_pem.as_bytes()).unwrap();
        // One that does not care whom it speaks to.
        let mut careless = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .with_root_certificates(roots(&ca))
            .with_client_auth_cert(vec![issued.certificate], key)
            .unwrap();
        careless.alpn_protocols = vec![b"h2".to_vec()];
        let tcp = TcpStream::connect(service.address).await.unwrap();
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let mut tls = TlsConnector::from(Arc::new(careless)).connect(name, tcp).await.unwrap();
        tls.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        let heard = tls.read(&mut [0; 64]).await;
        let alert = heard.err().and_then(|error| match error.get_ref()?.downcast_ref::<TlsError>()? {
            TlsError::AlertReceived(alert) => Some(*alert),
            other => panic!("{other}"),
        });
        assert_eq!(alert, expect, "{principal}");
    }
}

fn roots(ca: &Ca) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add(ca.authority.certificate().clone()).unwrap();
    roots
}

#[tokio::test]
async fn server_of_another_ca_or_name_or_role_is_refused() {
    let (ca, other) = (Ca::new("red"), Ca::new("red"));
    let service = serve(&ca.member("xdpfs://red/meta/1"), Audience::Anyone).await;
    assert_eq!(call(service.address, Some(other.client())).await, Err(Mismatch::UnknownIssuer));

    let elsewhere = ca.member_with("xdpfs://red/meta/2", |request| request.hosts = vec!["10.9.9.9".into()]);
    let service = serve(&elsewhere, Audience::Anyone).await;
    let wrong_name = Mismatch::WrongName("127.0.0.1".into());
    assert_eq!(call(service.address, Some(ca.client())).await, Err(wrong_name));

    let service = serve(&ca.member("xdpfs://red/node"), Audience::Anyone).await;
    assert_eq!(call(service.address, Some(ca.client())).await, Err(Mismatch::NotMetaServer));
}

#[tokio::test]
async fn certificate_of_another_ca_is_refused_by_the_server() {
    let (ca, other) = (Ca::new("red"), Ca::new("red"));
    let service = serve(&ca.member("xdpfs://red/meta/1"), Audience::Anyone).await;
    let stranger = other.member("xdpfs://red/node");
    let both = format!("{}{}", ca.authority.certificates_pem(), other.authority.certificates_pem());
    std::fs::write(stranger.join("ca.pem"), both).unwrap();
    let outcome = call(service.address, Some(open(&stranger).dialing())).await;
    assert!(matches!(outcome, Err(Mismatch::RefusesUs(_))), "{outcome:?}");
}

#[tokio::test]
async fn certificates_that_expire_are_refused_at_both_ends() {
    let ca = Ca::new("red");
    let soon = |request: &mut Request| request.not_after = request.not_before + 3600 + 3;
    let server = ca.member_with("xdpfs://red/meta/1", soon);
    let expiring = open(&ca.member_with("xdpfs://red/node", soon));
    let lasting = serve(&ca.member("xdpfs://red/meta/2"), Audience::Anyone).await;
    let service = serve(&server, Audience::Anyone).await;
    assert_eq!(call(service.address, Some(ca.client())).await, Ok(()));
    assert_eq!(call(lasting.address, Some(expiring.dialing())).await, Ok(()));
    let over = async || call(service.address, Some(ca.client())).await.err();
    assert_eq!(eventually("the end of the server's certificate", over).await, Mismatch::Expired);
    let over = async || call(lasting.address, Some(expiring.dialing())).await.err();
    let refusal = eventually("the end of the client's certificate", over).await;
    assert!(matches!(refusal, Mismatch::RefusesUs(_)), "{refusal:?}");
    let error = Trust::open(&server, &[]).unwrap_err();
    assert!(matches!(error, TrustError::Expired { .. }) && error.to_string().contains("certify"), "{error}");
}

#[tokio::test]
async fn plaintext_and_tls_are_told_apart_at_both_ends() {
    let ca = Ca::new("red");
    let limits = Limits { connections_max: 8, handshakes_max: 8 };
    let secured = serve(&ca.member("xdpfs://red/meta/1"), Audience::Anyone).await;
    let plain = serve_with(Security::Plaintext, limits).await;
    // More than once: a word can be lost if a connection is reset over it.
    for _ in 0..20 {
        assert_eq!(call(secured.address, None).await, Err(Mismatch::SpeaksTls));
        assert_eq!(call(plain.address, Some(ca.client())).await, Err(Mismatch::NoTls));
    }
    assert_eq!(call(plain.address, None).await, Ok(()));
}

#[tokio::test]
async fn server_that_speaks_something_else_gets_no_request() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        let mut heard = Vec::new();
        // A client that reads no further may reset the connection.
        let _reset = stream.read_to_end(&mut heard).await;
        heard
    });
    assert_eq!(call(address, None).await, Err(Mismatch::NotGrpc));
    assert_eq!(server.await.unwrap(), b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
}

#[tokio::test]
async fn older_versions_of_tls_are_refused() {
    let ca = Ca::new("red");
    let service = serve(&ca.member("xdpfs://red/meta/1"), Audience::Anyone).await;
    let old = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&TLS12])
        .unwrap()
        .with_root_certificates(roots(&ca))
        .with_no_client_auth();
    let tcp = TcpStream::connect(service.address).await.unwrap();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let error = TlsConnector::from(Arc::new(old)).connect(name, tcp).await.unwrap_err();
    let error = error.get_ref().and_then(|error| error.downcast_ref::<TlsError>());
    assert_eq!(error, Some(&TlsError::AlertReceived(AlertDescription::ProtocolVersion)));
}

#[test]
fn directories_that_cannot_be_used_say_why() {
    let ca = Ca::new("red");
    let check = |change: &dyn Fn(&std::path::Path), expect: &str| {
        let member = ca.member("xdpfs://red/meta/1");
        change(&member);
        let error = Trust::open(&member, &[Role::Meta]).unwrap_err().to_string();
        assert!(error.contains(expect), "{error} does not say {expect}");
    };
    let other_ca = Ca::new("red");
    let other = other_ca.member("xdpfs://red/meta/1");
    let copy = |from: std::path::PathBuf, file: &'static str| {
        move |to: &std::path::Path| std::fs::copy(from.join(file), to.join(file)).map(drop).unwrap()
    };
    check(&|member| std::fs::remove_file(member.join("server.key")).unwrap(), "server.key");
    check(&|member| std::fs::write(member.join("server.pem"), "nonsense").unwrap(), "server.pem");
    check(&|member| std::fs::write(member.join("ca.pem"), "").unwrap(), "ca.pem");
    check(&|member| std::fs::write(member.join("ca.pem"), vec![b'a'; 2 << 20]).unwrap(), "ca.pem");
    check(&copy(other.clone(), "server.key"), "does not belong to the certificate");
    check(&copy(other, "ca.pem"), "made by no authority");
    let open_to_all = |member: &std::path::Path| {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = std::fs::Permissions::from_mode(0o644);
        std::fs::set_permissions(member.join("server.key"), mode).unwrap();
    };
    check(&open_to_all, "chmod 600");
    let node = ca.member("xdpfs://red/node");
    let error = Trust::open(&node, &[Role::Meta]).unwrap_err();
    assert!(matches!(error, TrustError::WrongRole { .. }), "{error}");
    let words = format!("{:?}", open(&node));
    assert!(!words.contains("PRIVATE") && !words.contains("key:"), "{words}");
    let dialer = format!("{:?}", Dialer::new(Some(ca.client()), std::time::Duration::ZERO));
    assert!(dialer.contains("TlsTrust(..)"), "{dialer}");
}

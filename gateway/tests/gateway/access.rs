//! Callers and their access keys, over TLS.

use std::{fs, path::Path, sync::Arc};

use futures::stream;
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::{
    Code,
    transport::{Channel, Endpoint, Uri},
};
use tower::service_fn;
use xdpfs_proto::object::v1::{self as proto, object_service_client::ObjectServiceClient};
use xdpfs_testbed::{Cluster, ClusterOptions};

use crate::support::{
    BUCKET, Caller, LONG, address, content, get_request, get_with, header, refused, showing, start_gateway,
    steps,
};

/// Trusts the cluster's CA and nobody else.
async fn connect_by_tls(address: std::net::SocketAddr, ca: &Path) -> Channel {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&fs::read(ca).unwrap()) {
        roots.add(certificate.unwrap()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config =
        ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&rustls::version::TLS13]);
    let mut config = config.unwrap().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let connector = TlsConnector::from(Arc::new(config));
    let connect = service_fn(move |_: Uri| {
        let connector = connector.clone();
        async move {
            let tcp = TcpStream::connect(address).await?;
            let name = ServerName::try_from("localhost").unwrap();
            connector.connect(name, tcp).await.map(TokioIo::new)
        }
    });
    // The certificate is looked at by the connector; this names the host alone.
    Endpoint::from_static("http://localhost").connect_with_connector(connect).await.unwrap()
}

async fn put(caller: &mut Caller, key: Option<&str>, name: &str) -> Result<(), tonic::Status> {
    let messages = stream::iter(steps(header(name), &content(100_000)));
    let asked = match key {
        Some(key) => caller.put_object(showing(key, messages)).await,
        None => caller.put_object(messages).await,
    };
    asked.map(|_| ())
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_have_the_rights_of_their_own_keys_over_tls() {
    let options = ClusterOptions { meta_servers: 1, tls: true, ..ClusterOptions::default() };
    let mut cluster = Cluster::start(options).unwrap();
    let run = |cluster: &Cluster, args: &[&str]| {
        let output = cluster.cli().run(args);
        assert_eq!(output.code, Some(0), "{args:?}: {}", output.stderr);
        output.text().trim().to_owned()
    };
    run(&cluster, &["mb", BUCKET]);
    let certificates = cluster.certificates();
    let directory = certificates.to_str().unwrap();
    run(&cluster, &["certify", directory, "gateway", "--host", "localhost"]);
    let admin = run(&cluster, &["key", "create", "--admin", "*", "--read", "*"]);
    cluster.show_access_key(admin.clone());
    let writer = run(&cluster, &["key", "create", "--write", BUCKET, "--read", BUCKET]);
    let reader = run(&cluster, &["key", "create", "--read", BUCKET]);

    let tls = certificates.join("gateway");
    let (mut gateway, ready) = start_gateway(&cluster, &["--tls", tls.to_str().unwrap()]);
    let channel = connect_by_tls(address(&ready), &certificates.join("ca.pem")).await;
    let mut caller = ObjectServiceClient::new(channel);

    put(&mut caller, Some(&writer), "k").await.unwrap();
    let got = get_with(&mut caller, showing(&reader, get_request("k"))).await.unwrap();
    assert_eq!(got.1, content(100_000));
    let status = put(&mut caller, Some(&reader), "other").await.unwrap_err();
    refused(&status, Code::PermissionDenied, "ACCESS_DENIED");
    let status = get_with(&mut caller, get_request("k")).await.unwrap_err();
    refused(&status, Code::Unauthenticated, "ACCESS_KEY_MISSING");
    let mixed = format!("{}.{}", reader.split('.').next().unwrap(), writer.split('.').nth(1).unwrap());
    for wrong in [mixed.as_str(), "nonsense"] {
        let status = get_with(&mut caller, showing(wrong, get_request("k"))).await.unwrap_err();
        refused(&status, Code::Unauthenticated, "ACCESS_KEY_INVALID");
    }
    let bucket = proto::CreateBucketRequest { bucket: "made".into(), ..Default::default() };
    let status = caller.create_bucket(showing(&writer, bucket.clone())).await.unwrap_err();
    refused(&status, Code::PermissionDenied, "ACCESS_DENIED");
    caller.create_bucket(showing(&admin, bucket)).await.unwrap();

    run(&cluster, &["key", "revoke", reader.split('.').next().unwrap()]);
    let status = get_with(&mut caller, showing(&reader, get_request("k"))).await.unwrap_err();
    refused(&status, Code::Unauthenticated, "ACCESS_KEY_INVALID");

    let log = fs::read_to_string(cluster.dir().join("gateway.log")).unwrap();
    for key in [&admin, &writer, &reader] {
        assert!(!log.contains(key.split('.').nth(1).unwrap()), "a secret is in no log");
    }
    assert!(gateway.stop(LONG).unwrap().success());
}

#[test]
fn certificate_of_a_data_node_is_none_for_a_gateway() {
    let options = ClusterOptions { meta_servers: 1, data_nodes: 1, tls: true, ..ClusterOptions::default() };
    let cluster = Cluster::start(options).unwrap();
    let tls = cluster.certificates().join("node");
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_xdpfs-gateway"))
        .args(["--meta", cluster.endpoint(), "--listen", "127.0.0.1:0", "--tls", tls.to_str().unwrap()])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(words.contains("gateway"), "{words}");
}

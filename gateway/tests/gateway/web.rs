//! gRPC-Web, spoken by hand over HTTP/1.1, as a browser would.

use std::{collections::BTreeMap, net::SocketAddr};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use prost::Message;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use xdpfs_proto::object::v1::{self as proto, get_object_response::Step};

use crate::support::{BUCKET, MIB, Scene, content, get, get_request, header, put, steps, word};

const SERVICE: &str = "/xdpfs.object.v1.ObjectService";
const ORIGIN: &str = "https://app.example";
/// What makes a frame one of trailers.
const TRAILERS: u8 = 0x80;

/// An answer of HTTP/1.1.
struct Answer {
    status: u16,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

impl Answer {
    /// The messages in it, and what its trailers say.
    fn frames<M: Message + Default>(&self) -> (Vec<M>, BTreeMap<String, String>) {
        let (mut messages, mut trailers, mut rest) = (Vec::new(), BTreeMap::new(), &self.body[..]);
        while !rest.is_empty() {
            let len = u32::from_be_bytes(rest[1..5].try_into().unwrap()) as usize;
            let frame = &rest[5..5 + len];
            if rest[0] == TRAILERS {
                trailers = fields(std::str::from_utf8(frame).unwrap());
            } else {
                messages.push(M::decode(frame).unwrap());
            }
            rest = &rest[5 + len..];
        }
        (messages, trailers)
    }
}

fn fields(text: &str) -> BTreeMap<String, String> {
    let fields = text.lines().filter_map(|line| line.split_once(':'));
    fields.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned())).collect()
}

async fn ask(to: SocketAddr, method: &str, path: &str, more: &str, body: &[u8]) -> Answer {
    let mut stream = TcpStream::connect(to).await.unwrap();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: {to}\r\nconnection: close\r\ncontent-length: {}\r\n{more}\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(body).await.unwrap();
    let mut all = Vec::new();
    stream.read_to_end(&mut all).await.unwrap();
    let end = all.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
    let (head, mut body) = (String::from_utf8(all[..end].to_vec()).unwrap(), all[end + 4..].to_vec());
    let headers = fields(&head);
    if headers.get("transfer-encoding").is_some_and(|coding| coding == "chunked") {
        body = joined(&body);
    }
    Answer { status: head.split(' ').nth(1).unwrap().parse().unwrap(), headers, body }
}

/// A body without its chunks' sizes.
fn joined(mut rest: &[u8]) -> Vec<u8> {
    let mut all = Vec::new();
    loop {
        let line = rest.windows(2).position(|window| window == b"\r\n").unwrap();
        let len = usize::from_str_radix(std::str::from_utf8(&rest[..line]).unwrap(), 16).unwrap();
        if len == 0 {
            return all;
        }
        all.extend_from_slice(&rest[line + 2..line + 2 + len]);
        rest = &rest[line + 2 + len + 2..];
    }
}

fn framed<M: Message>(messages: &[M]) -> Vec<u8> {
    let frame = |message: &M| {
        let bytes = message.encode_to_vec();
        [&[0][..], &(bytes.len() as u32).to_be_bytes(), &bytes].concat()
    };
    messages.iter().flat_map(frame).collect()
}

async fn call<M: Message>(to: SocketAddr, method: &str, more: &str, messages: &[M]) -> Answer {
    let more = format!("content-type: application/grpc-web+proto\r\nx-grpc-web: 1\r\n{more}");
    ask(to, "POST", &format!("{SERVICE}/{method}"), &more, &framed(messages)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_are_put_and_got_over_http_1() {
    let mut scene = Scene::with(&["--web-listen", "127.0.0.1:0", "--web-origin", ORIGIN]).await;
    let (web, bytes) = (word(&scene.ready, "web"), content(5 * MIB + 3));
    let answer = call(web, "PutObject", "", &steps(header("k"), &bytes)).await;
    assert_eq!((answer.status, answer.headers["content-type"].as_str()), (200, "application/grpc-web+proto"));
    let (made, trailers) = answer.frames::<proto::PutObjectResponse>();
    assert_eq!(trailers["grpc-status"], "0");
    assert_eq!(made[0].object.as_ref().unwrap().size, bytes.len() as u64);
    assert!(get(&mut scene.caller, "k").await == bytes, "it is the same to everybody");

    put(&mut scene.caller, "other", &bytes).await;
    let answer = call(web, "GetObject", "", &[get_request("other")]).await;
    let (messages, trailers) = answer.frames::<proto::GetObjectResponse>();
    assert_eq!(trailers["grpc-status"], "0");
    let parts = messages.iter().filter_map(|message| match &message.step {
        Some(Step::Part(part)) => Some(&part[..]),
        _ => None,
    });
    assert!(parts.collect::<Vec<_>>().concat() == bytes);
    assert!(matches!(messages.last().unwrap().step, Some(Step::Trailer(_))));

    // The other spelling: all of it in base64.
    let head = proto::HeadObjectRequest { bucket: BUCKET.into(), key: "k".into(), ..Default::default() };
    let text = STANDARD.encode(framed(&[head]));
    let more = "content-type: application/grpc-web-text+proto\r\naccept: application/grpc-web-text+proto\r\n";
    let mut answer = ask(web, "POST", &format!("{SERVICE}/HeadObject"), more, text.as_bytes()).await;
    // Each frame may be encoded by itself, and so end in padding.
    let quads: Vec<u8> = answer.body.chunks(4).flat_map(|quad| STANDARD.decode(quad).unwrap()).collect();
    answer.body = quads;
    assert_eq!(answer.frames::<proto::HeadObjectResponse>().0[0].object.as_ref().unwrap().key, "k");
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_have_their_reasons_and_strange_pages_are_not_served() {
    let scene = Scene::with(&["--web-listen", "127.0.0.1:0", "--web-origin", ORIGIN]).await;
    let web = word(&scene.ready, "web");
    let answer = call(web, "GetObject", "", &[get_request("nowhere")]).await;
    let (_, trailers) = answer.frames::<proto::GetObjectResponse>();
    let said = |name: &str| trailers.get(name).or_else(|| answer.headers.get(name)).unwrap().clone();
    assert_eq!(said("grpc-status"), "5");
    // Without padding, as gRPC writes what is binary.
    let details = base64::engine::general_purpose::STANDARD_NO_PAD
        .decode(said("grpc-status-details-bin").trim_end_matches('='));
    assert!(String::from_utf8_lossy(&details.unwrap()).contains("OBJECT_NOT_FOUND"));

    let from = |origin: &str| format!("origin: {origin}\r\n");
    let answer = call(web, "GetObject", &from(ORIGIN), &[get_request("nowhere")]).await;
    assert_eq!((answer.status, answer.headers["access-control-allow-origin"].as_str()), (200, ORIGIN));
    assert!(answer.headers["access-control-expose-headers"].contains("grpc-status"));
    for strange in ["https://evil.example", "null", &format!("http://{web}")] {
        let answer = call(web, "GetObject", &from(strange), &[get_request("nowhere")]).await;
        assert_eq!(answer.status, 403, "{strange}");
        assert!(!answer.headers.contains_key("access-control-allow-origin"));
    }
    let asks = format!("{}access-control-request-method: POST\r\n", from(ORIGIN));
    let answer = ask(web, "OPTIONS", &format!("{SERVICE}/GetObject"), &asks, b"").await;
    assert_eq!(answer.status, 204);
    assert!(answer.headers["access-control-allow-headers"].contains("authorization"));
}

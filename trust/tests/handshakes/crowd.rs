use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use xdpfs_trust::{Audience, HANDSHAKE_TIMEOUT, Limits, Security};

use crate::scene::{Ca, ask, call, channel, serve, serve_with};

const LIMITS: Limits = Limits { connections_max: 32, handshakes_max: 8 };
/// The preface of HTTP/2, and settings without any.
const GREETING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

async fn greeted(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(GREETING).await.unwrap();
    stream
}

/// Waits until the other end has closed it.
async fn is_closed(mut stream: TcpStream, within: Duration) -> bool {
    let mut heard = [0; 1024];
    let read = async { while !matches!(stream.read(&mut heard).await, Ok(0) | Err(_)) {} };
    tokio::time::timeout(within, read).await.is_ok()
}

#[tokio::test]
async fn those_who_do_nothing_keep_no_client_out() {
    let service = serve_with(Security::Plaintext, LIMITS).await;
    let mut idle = Vec::new();
    for number in 0..20 * LIMITS.connections_max {
        idle.push(greeted(service.address).await);
        if number % 40 == 0 {
            assert_eq!(call(service.address, None).await, Ok(()), "{number}");
        }
    }
    assert_eq!(call(service.address, None).await, Ok(()));
    // The first of them have had to go.
    assert!(is_closed(idle.swap_remove(0), Duration::from_secs(5)).await);
}

#[tokio::test]
async fn those_who_say_nothing_keep_no_client_out() {
    let ca = Ca::new("red");
    let security = Security::Tls(crate::scene::open(&ca.member("xdpfs://red/meta/1")), Audience::Anyone);
    let service = serve_with(security, LIMITS).await;
    let mut silent = Vec::new();
    for number in 0..10 * LIMITS.connections_max {
        silent.push(TcpStream::connect(service.address).await.unwrap());
        if number % 40 == 0 {
            assert_eq!(call(service.address, Some(ca.client())).await, Ok(()), "{number}");
        }
    }
    assert!(is_closed(silent.swap_remove(0), Duration::from_secs(5)).await);
}

#[tokio::test]
async fn client_that_asks_again_and_again_keeps_its_connection() {
    let service = serve_with(Security::Plaintext, LIMITS).await;
    let client = channel(service.address, None);
    let mut idle = Vec::new();
    for _ in 0..4 * LIMITS.connections_max {
        ask(client.clone()).await.unwrap();
        idle.push(greeted(service.address).await);
    }
    ask(client).await.unwrap();
}

#[tokio::test]
async fn those_who_answer_no_ping_are_closed_though_there_is_room() {
    let service = serve_with(Security::Plaintext, LIMITS).await;
    let silent = greeted(service.address).await;
    // A frame that is never finished is no answer either.
    let mut dripping = greeted(service.address).await;
    dripping.write_all(&[0, 1, 0, 1]).await.unwrap();
    for stream in [silent, dripping] {
        assert!(is_closed(stream, Duration::from_secs(10)).await);
    }
}

#[tokio::test]
async fn one_byte_at_a_time_is_not_enough() {
    let ca = Ca::new("red");
    let service = serve(&ca.member("xdpfs://red/meta/1"), Audience::Anyone).await;
    let plain = serve_with(Security::Plaintext, LIMITS).await;
    // The head of a handshake record that is never finished, and of a preface.
    let hello: Vec<u8> = [&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3][..], &[7; 400]].concat();
    let drip = async |address: SocketAddr, bytes: &[u8]| {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let began = Instant::now();
        for byte in bytes {
            if stream.write_all(&[*byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        assert!(is_closed(stream, Duration::from_secs(5)).await);
        began.elapsed()
    };
    let preface = &GREETING[..23];
    let (in_tls, in_plaintext) = tokio::join!(drip(service.address, &hello), drip(plain.address, preface));
    for took in [in_tls, in_plaintext] {
        assert!(took < HANDSHAKE_TIMEOUT + Duration::from_secs(6), "{took:?}");
    }
    assert_eq!(call(service.address, Some(ca.client())).await, Ok(()));
}

#[tokio::test]
async fn frames_that_make_no_sense_end_their_own_connection_only() {
    let service = serve_with(Security::Plaintext, LIMITS).await;
    let client = channel(service.address, None);
    let frame = |length: [u8; 3], kind: u8, flags: u8, stream: [u8; 4], payload: &[u8]| {
        [&length[..], &[kind, flags], &stream, payload].concat()
    };
    let cases = [
        ("a frame longer than any", frame([0xff; 3], 0, 0, [0, 0, 0, 1], &[0; 64])),
        ("settings of half a setting", frame([0, 0, 3], 4, 0, [0; 4], &[0; 3])),
        ("data without a request", frame([0, 0, 4], 0, 0, [0, 0, 0, 1], b"data")),
        ("headers that are no headers", frame([0, 0, 8], 1, 4, [0, 0, 0, 1], &[0xff; 8])),
        ("headers on an even stream", frame([0, 0, 1], 1, 4, [0, 0, 0, 2], &[0x82])),
        (
            "an endless line of headers",
            [0u8, 0, 1].iter().chain(&[1, 0, 0, 0, 0, 1, 0x82]).copied().collect(),
        ),
    ];
    for (what, bytes) in cases {
        let mut stream = greeted(service.address).await;
        stream.write_all(&bytes).await.unwrap();
        if what.starts_with("an endless") {
            for _ in 0..20_000 {
                let more = frame([0, 0x10, 0], 9, 0, [0, 0, 0, 1], &[0; 0x1000]);
                if stream.write_all(&more).await.is_err() {
                    break;
                }
            }
        }
        assert!(is_closed(stream, Duration::from_secs(10)).await, "{what}");
        ask(client.clone()).await.unwrap_or_else(|status| panic!("{what}: {status:?}"));
    }
}

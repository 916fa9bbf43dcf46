//! What one caller can't take from the others, and what is told of all of them.

use std::time::Duration;

use futures::stream;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tonic::Code;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};
use tonic_types::StatusExt as _;
use xdpfs_proto::object::v1::{PutObjectRequest, get_object_response::Step, put_object_request};
use xdpfs_testbed::peak_memory_bytes;

use crate::support::{
    MIB, Scene, address, becomes, connect, content, get_request, get_with, head, header, is_there, next, put,
    refused, step, steps, unfinished, word,
};

#[tokio::test(flavor = "multi_thread")]
async fn calls_beyond_the_limit_are_turned_away_at_once() {
    let mut scene = Scene::with(&["--calls-max", "2"]).await;
    put(&mut scene.caller, "k", &content(3)).await;
    let mut waiting = Vec::new();
    for _ in 0..2 {
        let mut caller = scene.caller.clone();
        let messages = vec![step(put_object_request::Step::Header(header("slow")))];
        waiting.push(tokio::spawn(async move {
            // Whoever looks below has a place, too, for a moment.
            while let Err(status) = caller.put_object(unfinished(messages.clone())).await
                && status.code() == Code::ResourceExhausted
            {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }));
    }
    let caller = &scene.caller;
    let is_full = || async {
        match head(&mut caller.clone(), "k").await {
            Ok(_) => false,
            Err(status) => {
                refused(&status, Code::ResourceExhausted, "OVERLOADED");
                assert!(status.get_details_retry_info().is_some());
                true
            }
        }
    };
    becomes("all places are taken", is_full).await;
    waiting.pop().unwrap().abort();
    becomes("there is a place again", || async { !is_full().await }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_that_are_silent_are_given_up() {
    let mut scene = Scene::with(&["--idle-s", "1"]).await;
    put(&mut scene.caller, "k", &content(64 * MIB)).await;
    let begun = steps(header("half"), &content(MIB))[..2].to_vec();
    let status = scene.caller.put_object(unfinished(begun)).await.unwrap_err();
    refused(&status, Code::DeadlineExceeded, "DEADLINE_EXCEEDED");
    assert!(!is_there(&mut scene.caller, "half").await);
    let nothing = unfinished(Vec::<PutObjectRequest>::new());
    let nothing = scene.caller.put_object(nothing).await.unwrap_err();
    refused(&nothing, Code::DeadlineExceeded, "DEADLINE_EXCEEDED");

    // It takes nothing, for longer than it may, and then all that is left.
    let mut stream = scene.caller.get_object(get_request("k")).await.unwrap().into_inner();
    tokio::time::sleep(Duration::from_secs(4)).await;
    let status = loop {
        match next(&mut stream).await {
            Ok(Some(Step::Trailer(_)) | None) => panic!("it was given up"),
            Ok(Some(_)) => {}
            Err(status) => break status,
        }
    };
    refused(&status, Code::DeadlineExceeded, "DEADLINE_EXCEEDED");
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_does_not_grow_with_objects() {
    let mut scene = Scene::with(&["--memory", "16MiB"]).await;
    let pid = scene.gateway.as_ref().unwrap().pid();
    put(&mut scene.caller, "small", &content(3)).await;
    let before = peak_memory_bytes(pid).unwrap();
    let part = content(MIB);
    let bytes = 384 * MIB;
    let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
    (0..384).for_each(|_| digest.update(&part));
    let trailer = xdpfs_proto::object::v1::Trailer { crc32c: digest.finalize() as u32 };
    let begin = step(put_object_request::Step::Header(header("large")));
    let parts = std::iter::repeat_with({
        let part = part.clone();
        move || step(put_object_request::Step::Part(part.clone()))
    });
    let messages =
        [begin].into_iter().chain(parts.take(384)).chain([step(put_object_request::Step::Trailer(trailer))]);
    let made = scene.caller.put_object(stream::iter(messages)).await.unwrap().into_inner();
    assert_eq!(made.object.unwrap().size, bytes as u64);
    let mut stream = scene.caller.get_object(get_request("large")).await.unwrap().into_inner();
    let mut got = 0;
    while let Some(step) = next(&mut stream).await.unwrap() {
        if let Step::Part(part) = step {
            got += part.len();
        }
    }
    assert_eq!(got, bytes);
    let grown = peak_memory_bytes(pid).unwrap() - before;
    assert!(grown < 96 * MIB as u64, "{grown} bytes for one of {bytes}");
}

#[tokio::test(flavor = "multi_thread")]
async fn process_tells_of_itself_and_names_no_object() {
    let mut scene = Scene::with(&["--http-listen", "127.0.0.1:0"]).await;
    put(&mut scene.caller, "a-secret-name", &content(5)).await;
    get_with(&mut scene.caller, get_request("a-secret-name")).await.unwrap();
    assert!(!is_there(&mut scene.caller, "another-secret").await);
    let http = word(&scene.ready, "http");
    let ask = async |path: &str| {
        let mut stream = TcpStream::connect(http).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    };
    let text = ask("/metrics").await;
    for line in [
        r#"xdpfs_gateway_calls_total{method="PutObject",code="OK"} 1"#,
        r#"xdpfs_gateway_calls_total{method="GetObject",code="OK"} 1"#,
        r#"xdpfs_gateway_calls_total{method="HeadObject",code="NOT_FOUND"} 1"#,
        "xdpfs_gateway_received_bytes_total 5",
        "xdpfs_gateway_sent_bytes_total 5",
        "xdpfs_gateway_calls_under_way 0.0",
        "xdpfs_gateway_calls_max 256.0",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
    }
    becomes("it is ready", || async { ask("/readyz").await.starts_with("HTTP/1.1 200") }).await;
    assert!(!text.contains("secret") && !scene.log().contains("secret"));
}

#[tokio::test(flavor = "multi_thread")]
async fn health_follows_the_cluster_and_reflection_names_what_is_served() {
    let mut scene = Scene::start().await;
    let channel = connect(address(&scene.ready)).await;
    let says = |service: &'static str, expect: i32| {
        let mut health = HealthClient::new(channel.clone());
        async move {
            let request = HealthCheckRequest { service: service.to_owned() };
            health.check(request).await.unwrap().into_inner().status == expect
        }
    };
    becomes("it serves", || says("xdpfs.object.v1.ObjectService", 1)).await;
    becomes("all of it serves", || says("", 1)).await;

    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let asked =
        ServerReflectionClient::new(channel.clone()).server_reflection_info(stream::iter([request])).await;
    let answer = asked.unwrap().into_inner().message().await.unwrap().unwrap();
    let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else {
        panic!("{answer:?}")
    };
    let mut names: Vec<_> = list.service.into_iter().map(|service| service.name).collect();
    names.sort();
    assert_eq!(names, ["grpc.health.v1.Health", "xdpfs.object.v1.ObjectService"]);

    scene.cluster.kill(xdpfs_testbed::Member::MetaServer(0));
    becomes("it does not serve", || says("xdpfs.object.v1.ObjectService", 2)).await;
    becomes("none of it serves", || says("", 2)).await;
}

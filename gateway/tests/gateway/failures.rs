//! What callers notice when processes die.

use std::time::Duration;

use futures::stream;
use tonic::Code;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_reflection::pb::v1::{ServerReflectionRequest, server_reflection_client::ServerReflectionClient};
use tonic_types::StatusExt as _;
use xdpfs_proto::object::v1::{get_object_response::Step, object_service_client::ObjectServiceClient};
use xdpfs_testbed::Member;

use crate::support::{
    LONG, MIB, Scene, address, connect, content, get, get_request, get_with, header, is_there, next, put,
    refused, start_gateway, steps, unfinished,
};

#[tokio::test(flavor = "multi_thread")]
async fn data_node_that_dies_in_the_middle_of_a_get_is_made_up_for() {
    let mut scene = Scene::start().await;
    let bytes = content(64 * MIB);
    put(&mut scene.caller, "k", &bytes).await;
    let mut stream = scene.caller.get_object(get_request("k")).await.unwrap().into_inner();
    assert!(matches!(next(&mut stream).await.unwrap(), Some(Step::Header(_))));
    let mut got = Vec::new();
    while let Some(step) = next(&mut stream).await.unwrap() {
        match step {
            Step::Part(part) => got.extend_from_slice(&part),
            Step::Trailer(_) => break,
            Step::Header(_) => panic!("there is one header"),
        }
        if got.len() == 2 * MIB {
            // Most of it has not been asked for yet.
            scene.cluster.kill(Member::DataNode(0));
        }
    }
    assert!(got == bytes);
    // Two nodes are as many as a put needs at least.
    let made = put(&mut scene.caller, "later", &content(MIB)).await;
    assert_eq!(made.durable_replicas, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn put_with_too_few_data_nodes_fails_with_a_word_to_try_again() {
    let mut scene = Scene::start().await;
    scene.cluster.kill(Member::DataNode(0));
    scene.cluster.kill(Member::DataNode(1));
    let mut request = tonic::Request::new(stream::iter(steps(header("k"), &content(MIB))));
    request.set_timeout(LONG);
    let status = scene.caller.put_object(request).await.unwrap_err();
    let info = status.get_details_error_info().unwrap();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert!(["NOT_ENOUGH_NODES", "NOT_DURABLE"].contains(&info.reason.as_str()), "{status:?}");
    assert!(status.get_details_retry_info().unwrap().retry_delay.is_some());
    assert!(!is_there(&mut scene.caller, "k").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn cluster_that_is_down_is_said_to_be_and_is_used_again() {
    let mut scene = Scene::start().await;
    put(&mut scene.caller, "k", &content(3)).await;
    scene.cluster.kill(Member::MetaServer(0));
    let status = get_with(&mut scene.caller, get_request("k")).await.unwrap_err();
    refused(&status, Code::Unavailable, "CLUSTER_UNAVAILABLE");
    scene.cluster.restart(Member::MetaServer(0)).unwrap();
    assert_eq!(get(&mut scene.caller, "k").await, content(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn gateway_that_is_killed_is_a_broken_stream_and_another_one_serves_the_same() {
    let mut scene = Scene::start().await;
    let bytes = content(64 * MIB);
    put(&mut scene.caller, "k", &bytes).await;
    let mut stream = scene.caller.get_object(get_request("k")).await.unwrap().into_inner();
    assert!(matches!(next(&mut stream).await.unwrap(), Some(Step::Header(_))));
    let mut putting = scene.caller.clone();
    let messages = steps(header("half"), &content(8 * MIB))[..6].to_vec();
    let put = tokio::spawn(async move { putting.put_object(unfinished(messages)).await });
    scene.gateway.take().unwrap().kill();
    let broken = loop {
        match next(&mut stream).await {
            Ok(Some(Step::Trailer(_)) | None) => panic!("most of it can't have been on its way"),
            Ok(Some(_)) => {}
            Err(status) => break status,
        }
    };
    // No word of the gateway's, and not of a kind that says that the request was wrong.
    for status in [broken, put.await.unwrap().unwrap_err()] {
        let retryable = [Code::Unavailable, Code::Unknown, Code::Cancelled, Code::Internal];
        assert!(retryable.contains(&status.code()), "{status:?}");
        assert!(status.get_details_error_info().is_none(), "{status:?}");
    }
    let (_gateway, ready) = start_gateway(&scene.cluster, &[]);
    let mut caller = ObjectServiceClient::new(connect(address(&ready)).await);
    assert!(get(&mut caller, "k").await == bytes);
    assert!(!is_there(&mut caller, "half").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn gateway_that_is_told_to_stop_lets_calls_end_and_sends_the_others_away() {
    let mut scene = Scene::with(&["--shutdown-s", "2"]).await;
    put(&mut scene.caller, "k", &content(8 * MIB)).await;
    let mut stream = scene.caller.get_object(get_request("k")).await.unwrap().into_inner();
    assert!(matches!(next(&mut stream).await.unwrap(), Some(Step::Header(_))));
    let mut putting = scene.caller.clone();
    let messages = steps(header("half"), &content(8 * MIB))[..3].to_vec();
    let put = tokio::spawn(async move { putting.put_object(unfinished(messages)).await });
    let mut gateway = scene.gateway.take().unwrap();
    let stopped = tokio::task::spawn_blocking(move || gateway.stop(LONG).unwrap());
    let mut got = 0;
    while let Some(step) = next(&mut stream).await.unwrap() {
        if let Step::Part(part) = step {
            got += part.len();
        }
    }
    assert_eq!(got, 8 * MIB, "a get that is under way ends");
    let status = put.await.unwrap().unwrap_err();
    refused(&status, Code::Unavailable, "SHUTTING_DOWN");
    assert!(stopped.await.unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_that_only_watch_do_not_keep_a_gateway_that_is_told_to_stop() {
    let mut scene = Scene::with(&["--shutdown-s", "60"]).await;
    let channel = connect(address(&scene.ready)).await;
    let request = HealthCheckRequest { service: String::new() };
    let mut watched = HealthClient::new(channel.clone()).watch(request).await.unwrap().into_inner();
    assert!(watched.message().await.unwrap().is_some());
    let nothing = unfinished(Vec::<ServerReflectionRequest>::new());
    let asking = ServerReflectionClient::new(channel).server_reflection_info(nothing).await;
    let mut asked = asking.unwrap().into_inner();
    let mut gateway = scene.gateway.take().unwrap();
    let stopped = tokio::task::spawn_blocking(move || gateway.stop(Duration::from_secs(30)).unwrap());
    while let Ok(Some(_)) = watched.message().await {}
    while let Ok(Some(_)) = asked.message().await {}
    assert!(stopped.await.unwrap().success());
}

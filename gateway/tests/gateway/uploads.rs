//! Puts that must not take effect, and puts that must take effect once.

use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use tonic::{Code, Request};
use xdpfs_proto::object::v1::{self as proto, put_object_request::Step};

use crate::support::{
    BUCKET, MIB, Scene, becomes, content, get, head, header, if_none_match_any, is_there, put, put_with,
    refused, step, steps, unfinished,
};

/// Nobody has made it.
const ID: &str = "67e55044-10b1-426f-9247-bb680e5fe0c8";

#[tokio::test(flavor = "multi_thread")]
async fn bytes_without_their_checksum_are_not_stored() {
    let mut scene = Scene::start().await;
    let (caller, bytes) = (&mut scene.caller, content(5 * MIB));
    let before = put(caller, "old", &content(3)).await;
    let mut other = steps(header("k"), &bytes);
    *other.last_mut().unwrap() = step(Step::Trailer(proto::Trailer { crc32c: 7 }));
    let mut without = steps(header("k"), &bytes);
    without.pop();
    let mut changed = steps(header("old"), &bytes);
    changed[2] = step(Step::Part(content(MIB).slice(1..)));
    for (messages, reason) in
        [(other, "CHECKSUM_MISMATCH"), (without, "UPLOAD_INCOMPLETE"), (changed, "CHECKSUM_MISMATCH")]
    {
        let status = caller.put_object(stream::iter(messages)).await.unwrap_err();
        refused(&status, Code::InvalidArgument, reason);
    }
    assert!(!is_there(caller, "k").await);
    assert_eq!(head(caller, "old").await.unwrap(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_make_no_sense_are_refused() {
    let mut scene = Scene::start().await;
    let caller = &mut scene.caller;
    let part = |len: usize| step(Step::Part(content(len)));
    let begin = || step(Step::Header(header("k")));
    let end = || step(Step::Trailer(proto::Trailer::default()));
    let large = 2 * MIB;
    for messages in [
        vec![],
        vec![part(1)],
        vec![end()],
        vec![begin(), begin(), end()],
        vec![begin(), part(0), end()],
        vec![begin(), part(MIB + 1), end()],
        vec![begin(), part(large), end()],
        vec![begin(), proto::PutObjectRequest::default(), end()],
        vec![begin(), end(), part(1)],
        vec![begin(), end(), end()],
        vec![step(Step::Header(proto::PutObjectHeader { request_id: "x".into(), ..header("k") })), end()],
        vec![step(Step::Header(header("")))],
    ] {
        let status = caller.put_object(stream::iter(messages.clone())).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    }
    let nowhere = proto::PutObjectHeader { bucket: "nowhere".into(), ..header("k") };
    refused(&put_with(caller, nowhere, &content(MIB)).await.unwrap_err(), Code::NotFound, "BUCKET_NOT_FOUND");
    assert!(!is_there(caller, "k").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn caller_that_goes_away_in_the_middle_has_put_nothing() {
    let mut scene = Scene::start().await;
    let mut messages = steps(header("k"), &content(20 * MIB));
    messages.truncate(15);
    let mut putting = scene.caller.clone();
    let put = tokio::spawn(async move { putting.put_object(unfinished(messages)).await });
    let opens = |count: u64| {
        let cluster = &scene.cluster;
        async move {
            let status = cluster.cli().run(["--json", "status"]).text();
            status.contains(&format!("\"open_uploads\":{count}"))
        }
    };
    becomes("a put is under way", || opens(1)).await;
    put.abort();
    // It is given up long before its lease of a minute ends.
    let gone = becomes("the put is given up", || opens(0));
    tokio::time::timeout(Duration::from_secs(20), gone).await.unwrap();
    assert!(!is_there(&mut scene.caller, "k").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn deadline_of_the_caller_ends_a_put() {
    let mut scene = Scene::start().await;
    let mut request = Request::new(unfinished(vec![step(Step::Header(header("k")))]));
    request.metadata_mut().insert("grpc-timeout", "500m".parse().unwrap());
    let status = scene.caller.put_object(request).await.unwrap_err();
    refused(&status, Code::DeadlineExceeded, "DEADLINE_EXCEEDED");
    assert!(!is_there(&mut scene.caller, "k").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn request_repeated_under_its_id_is_done_once() {
    let mut scene = Scene::start().await;
    let (caller, bytes) = (&mut scene.caller, content(2 * MIB));
    let once =
        || proto::PutObjectHeader { request_id: ID.into(), precondition: if_none_match_any(), ..header("k") };
    let made = put_with(caller, once(), &bytes).await.unwrap();
    let again = put_with(caller, once(), &bytes).await.unwrap();
    assert_eq!(again, made, "the first answer, though the key holds something by now");

    let delete = |id: &str| proto::DeleteObjectRequest {
        bucket: BUCKET.into(),
        key: "k".into(),
        request_id: id.into(),
        ..Default::default()
    };
    let id = "67e55044-10b1-426f-9247-bb680e5fe0c9";
    let first = caller.delete_object(delete(id)).await.unwrap().into_inner();
    assert_eq!(first.object.as_ref().unwrap().version, made.version);
    put(caller, "k", &Bytes::from_static(b"new")).await;
    assert_eq!(caller.delete_object(delete(id)).await.unwrap().into_inner(), first);
    assert_eq!(get(caller, "k").await, Bytes::from_static(b"new"), "it was not deleted twice");
    caller.delete_object(delete("")).await.unwrap();
    assert!(!is_there(caller, "k").await);
}

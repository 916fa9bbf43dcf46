use std::{num::NonZeroUsize, time::Duration};

use bytes::Bytes;
use futures::StreamExt as _;
use tokio::{io::AsyncReadExt as _, time::Instant};
use xdpfs_wire::{NodeId, Status};

use super::*;
use crate::{
    ByteRange, Client, ErrorKind, GetOptions, ObjectClient as _,
    control::Operation,
    fake::{Answer, BUCKET, Behaviour, FakeCluster, FakeNode, content},
};

const CHUNK: usize = 64 << 10;

/// Three nodes that hold the object "key" of `length` bytes.
fn cluster(length: usize) -> (FakeCluster, Vec<u8>) {
    let cluster = FakeCluster::start(3);
    let bytes = content(length);
    cluster.with(|state| state.overwrite("key", &bytes));
    (cluster, bytes)
}

async fn get_all(client: &Client) -> Result<Bytes> {
    client.get(BUCKET, "key", GetOptions::default()).await?.into_bytes().await
}

fn ranged(range: ByteRange) -> GetOptions {
    GetOptions { range: Some(range), ..GetOptions::default() }
}

/// One chunk at a time.
fn one_by_one(cluster: &FakeCluster) -> Client {
    cluster.client_with(|config| config.chunks_in_flight_max = NonZeroUsize::MIN)
}

#[tokio::test(start_paused = true)]
async fn every_boundary_size_comes_back_whole() {
    for length in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK - 1, 2 * CHUNK, 9 * CHUNK, 9 * CHUNK + 1] {
        let (cluster, bytes) = cluster(length);
        let mut reader = cluster.client().get(BUCKET, "key", GetOptions::default()).await.unwrap();
        assert_eq!(
            (reader.len(), reader.range(), reader.is_empty()),
            (length as u64, 0..length as u64, length == 0)
        );
        let mut read = vec![];
        reader.read_to_end(&mut read).await.unwrap();
        assert!(read == bytes, "{length}");
        assert_eq!(reader.read(&mut [0; 8]).await.unwrap(), 0, "the end stays the end");
    }
}

#[tokio::test(start_paused = true)]
async fn ranges_give_exactly_their_bytes() {
    let length = 3 * CHUNK + 100;
    let (cluster, bytes) = cluster(length);
    let client = cluster.client();
    let inclusive =
        |first: usize, last: usize| ByteRange::Inclusive { first: first as u64, last: last as u64 };
    let cases = [
        (ByteRange::From(0), 0..length),
        (ByteRange::From(CHUNK as u64), CHUNK..length),
        (ByteRange::From(length as u64 - 1), length - 1..length),
        (inclusive(0, 0), 0..1),
        (inclusive(CHUNK - 1, CHUNK), CHUNK - 1..CHUNK + 1),
        (inclusive(CHUNK, 2 * CHUNK - 1), CHUNK..2 * CHUNK),
        (inclusive(10, length + 10), 10..length),
        (ByteRange::Suffix(1), length - 1..length),
        (ByteRange::Suffix(CHUNK as u64), length - CHUNK..length),
        (ByteRange::Suffix(u64::MAX), 0..length),
    ];
    for (range, expect) in cases {
        let stream = client.get(BUCKET, "key", ranged(range)).await.unwrap();
        assert_eq!(stream.range(), expect.start as u64..expect.end as u64, "{range}");
        assert_eq!(stream.object().size, length as u64);
        assert!(stream.into_bytes().await.unwrap() == bytes[expect], "{range}");
    }
}

#[tokio::test(start_paused = true)]
async fn only_the_chunks_of_a_range_are_asked_for() {
    let (cluster, _) = cluster(8 * CHUNK);
    let stream = cluster.client().get(BUCKET, "key", ranged(ByteRange::Suffix(10))).await.unwrap();
    stream.into_bytes().await.unwrap();
    assert_eq!(cluster.with(|state| state.asked), 10);
}

#[tokio::test(start_paused = true)]
async fn a_range_behind_the_end_is_refused() {
    let (cluster, _) = cluster(10);
    let client = cluster.client();
    let refused = client.get(BUCKET, "key", ranged(ByteRange::From(10))).await;
    assert!(matches!(refused, Err(Error::RangeNotSatisfiable { start: 10, size: 10 })), "{refused:?}");
    let refused = client.get(BUCKET, "key", ranged(ByteRange::Inclusive { first: 2, last: 1 })).await;
    assert!(matches!(refused, Err(Error::InvalidArgument { .. })), "{refused:?}");
}

#[tokio::test(start_paused = true)]
async fn a_precondition_decides_whether_the_get_begins() {
    let (cluster, _) = cluster(10);
    let client = cluster.client();
    let etag = cluster.with(|state| state.stored("key").object.etag.clone());
    let options = |precondition| GetOptions { precondition: Some(precondition), ..GetOptions::default() };
    assert!(client.get(BUCKET, "key", options(Precondition::IfMatch(etag.clone()))).await.is_ok());
    let refused = client.get(BUCKET, "key", options(Precondition::IfNoneMatch(etag))).await;
    assert!(matches!(refused, Err(Error::PreconditionFailed { .. })), "{refused:?}");
    let missing = client.get(BUCKET, "other", GetOptions::default()).await;
    assert!(matches!(missing, Err(Error::ObjectNotFound { .. })), "{missing:?}");
}

#[tokio::test(start_paused = true)]
async fn all_nodes_serve_one_object() {
    let (cluster, _) = cluster(30 * CHUNK);
    get_all(&cluster.client()).await.unwrap();
    assert_eq!([1, 2, 3].map(|node| cluster.with(|state| state.node(node).reads)), [10, 10, 10]);
}

#[tokio::test(start_paused = true)]
async fn a_dead_node_costs_one_wait_and_is_then_passed_over() {
    let (cluster, bytes) = cluster(30 * CHUNK);
    cluster.behave(2, Behaviour::Dead);
    let client = cluster.client();
    let started = Instant::now();
    assert!(get_all(&client).await.unwrap() == bytes);
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    let again = Instant::now();
    get_all(&client).await.unwrap();
    assert!(again.elapsed() < Duration::from_millis(200), "{:?}", again.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_slow_replica_is_overtaken() {
    let (cluster, bytes) = cluster(10 * CHUNK);
    cluster.behave(1, Behaviour::Slow(Duration::from_secs(3600)));
    let started = Instant::now();
    assert!(get_all(&cluster.client()).await.unwrap() == bytes);
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    assert_eq!(cluster.with(|state| state.outstanding), 0, "what was overtaken is cancelled");
}

/// A client that knows how long a read takes.
async fn experienced(cluster: &FakeCluster) -> Client {
    let client = cluster.client_with(|config| config.chunks_in_flight_max = NonZeroUsize::MIN);
    get_all(&client).await.unwrap();
    client
}

#[tokio::test(start_paused = true)]
async fn a_read_that_is_late_is_begun_elsewhere_and_its_node_is_not_suspected() {
    let (cluster, bytes) = cluster(30 * CHUNK);
    let client = experienced(&cluster).await;
    cluster.behave(1, Behaviour::Slow(Duration::from_millis(400)));
    let stream = client.get(BUCKET, "key", ranged(ByteRange::From(0))).await.unwrap();
    let started = Instant::now();
    let mut first = [0; 3 * CHUNK];
    let mut stream = stream;
    stream.read_exact(&mut first).await.unwrap();
    assert!(first == bytes[..3 * CHUNK]);
    assert!(started.elapsed() < Duration::from_millis(100), "{:?}", started.elapsed());
    assert_eq!(client.shared().suspects.ids(), [0_u32; 0]);
}

#[tokio::test(start_paused = true)]
async fn an_early_second_read_that_finds_no_memory_is_put_off_and_not_given_up() {
    let (cluster, bytes) = cluster(30 * CHUNK);
    let client = experienced(&cluster).await;
    cluster.behave(1, Behaviour::Slow(Duration::from_secs(3600)));
    let hold_memory = async {
        tokio::time::sleep(Duration::from_millis(1)).await;
        let all: Vec<_> = std::iter::from_fn(|| client.shared().try_memory(1)).collect();
        tokio::time::sleep(Duration::from_millis(50)).await;
        drop(all);
    };
    let started = Instant::now();
    let (read, ()) = tokio::join!(get_all(&client), hold_memory);
    assert!(read.unwrap() == bytes);
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_cluster_that_is_slow_as_a_whole_is_not_asked_twice_for_everything() {
    let (cluster, bytes) = cluster(90 * CHUNK);
    let client = experienced(&cluster).await;
    let before = cluster.with(|state| state.asked);
    (1..=3).for_each(|node| cluster.behave(node, Behaviour::Slow(Duration::from_millis(300))));
    assert!(get_all(&client).await.unwrap() == bytes);
    let asked = cluster.with(|state| state.asked) - before;
    let needed = bytes.len() as u64;
    assert!(asked > needed && asked * 10 <= needed * 12, "{asked} bytes asked for {needed}");
}

#[tokio::test(start_paused = true)]
async fn bytes_that_fail_the_manifests_checksum_are_never_given() {
    let (cluster, bytes) = cluster(10 * CHUNK);
    cluster.behave(1, Behaviour::Lies);
    cluster.behave(2, Behaviour::Refuses(Status::Corrupt));
    assert!(get_all(&cluster.client()).await.unwrap() == bytes);
    cluster.behave(3, Behaviour::Lies);
    let refused = get_all(&cluster.client()).await;
    assert!(matches!(refused, Err(Error::Integrity { .. })), "{refused:?}");
}

#[tokio::test(start_paused = true)]
async fn a_missing_replica_is_no_reason_to_suspect_its_node() {
    let (cluster, bytes) = cluster(3 * CHUNK);
    cluster.with(|state| state.node(1).chunks.clear());
    cluster.with(|state| state.node(2).chunks.clear());
    let client = cluster.client();
    assert!(get_all(&client).await.unwrap() == bytes);
    assert_eq!(client.shared().suspects.ids(), [0_u32; 0]);
}

/// However the replicas of one node are bad, its reader gets the object from the others, as if nothing were amiss, and says so where
/// it is the replicas that are bad.
#[tokio::test(start_paused = true)]
async fn bad_replicas_are_passed_over_unnoticed_and_reported() {
    type Spoil = fn(&mut FakeNode);
    const CHUNKS: usize = 9;
    let ways: [(&str, Spoil, bool); 10] = [
        ("missing", |node| node.chunks.clear(), true),
        ("wrong bytes", |node| node.behaviour = Behaviour::Lies, true),
        ("quarantined", |node| node.behaviour = Behaviour::Refuses(Status::Corrupt), true),
        ("short", |node| node.chunks.values_mut().for_each(|held| held.truncate(CHUNK - 1)), true),
        ("failed disk", |node| node.behaviour = Behaviour::Refuses(Status::Internal), true),
        ("overload", |node| node.behaviour = Behaviour::Refuses(Status::Busy), false),
        ("another node's address", |node| node.behaviour = Behaviour::Refuses(Status::WrongNode), false),
        ("no address", |node| node.is_hidden = true, false),
        ("dead", |node| node.behaviour = Behaviour::Dead, false),
        ("fenced or registered anew", |node| node.epoch += 1, false),
    ];
    for (what, spoil, is_reported) in ways {
        let (cluster, bytes) = cluster(CHUNKS * CHUNK);
        let client = cluster.client();
        let chunks: Vec<_> = cluster.with(|state| state.node(2).chunks.keys().copied().collect());
        cluster.with(|state| spoil(state.node(2)));
        let began = Instant::now();
        assert!(get_all(&client).await.unwrap() == bytes, "{what}");
        let took = began.elapsed();
        let took_max = if what == "dead" { Duration::from_secs(2) } else { Duration::from_millis(100) };
        assert!(took < took_max, "{what}: {took:?}");
        // Nobody waits for a report but who closes the client.
        client.close().await;
        assert!(began.elapsed() - took < Duration::from_millis(100), "{what}: closing takes its time");
        let reported = cluster.with(|state| std::mem::take(&mut state.reported));
        assert_eq!(!reported.is_empty(), is_reported, "{what}: {reported:?}");
        assert!(reported.iter().all(|(chunk, node)| *node == 2 && chunks.contains(chunk)), "{what}");
    }
}

/// A client that reads on gathers what it finds.
#[tokio::test(start_paused = true)]
async fn reports_of_a_client_that_stays_are_sent_within_a_second() {
    let (cluster, bytes) = cluster(9 * CHUNK);
    cluster.with(|state| state.node(2).chunks.clear());
    let client = cluster.client();
    for _ in 0..3 {
        assert!(get_all(&client).await.unwrap() == bytes);
        assert!(cluster.with(|state| state.reported.is_empty()));
        tokio::time::sleep(Duration::from_millis(1100)).await;
        assert_eq!(cluster.with(|state| std::mem::take(&mut state.reported)).len(), 3);
    }
}

#[tokio::test(start_paused = true)]
async fn an_object_whose_replicas_are_all_gone_is_unavailable_at_once() {
    let (cluster, _) = cluster(3 * CHUNK);
    cluster.with(|state| state.collect_chunks());
    let started = Instant::now();
    let refused = cluster.client().get(BUCKET, "key", GetOptions::default()).await;
    assert!(matches!(refused, Err(Error::DataUnavailable { .. })), "{refused:?}");
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn dead_nodes_are_waited_for_until_the_deadline() {
    let (cluster, bytes) = cluster(3 * CHUNK);
    (1..=3).for_each(|node| cluster.behave(node, Behaviour::Dead));
    let started = Instant::now();
    let refused = cluster.client().get(BUCKET, "key", GetOptions::default()).await;
    assert!(matches!(refused, Err(Error::DataUnavailable { .. })), "{refused:?}");
    let waited = started.elapsed();
    assert!((30..40).contains(&waited.as_secs()), "{waited:?}");

    let client = cluster.client();
    let get = tokio::spawn(async move { get_all(&client).await });
    tokio::time::sleep(Duration::from_secs(10)).await;
    (1..=3).for_each(|node| cluster.behave(node, Behaviour::Works));
    assert!(get.await.unwrap().unwrap() == bytes);
}

#[tokio::test(start_paused = true)]
async fn a_node_without_an_address_is_passed_over() {
    let (cluster, bytes) = cluster(9 * CHUNK);
    cluster.with(|state| state.node(1).is_hidden = true);
    assert!(get_all(&cluster.client()).await.unwrap() == bytes);
}

#[tokio::test(start_paused = true)]
async fn replicas_that_moved_are_found_again() {
    let (cluster, bytes) = cluster(CHUNK);
    cluster.with(|state| {
        let moved = state.node(3).chunks.clone();
        state.collect_chunks();
        state.nodes.insert(4, Default::default());
        state.node(4).chunks = moved;
    });
    // The manifest names the new place only when it is asked for again.
    let mut asked = 0;
    cluster.with(|state| {
        state.on_request(move |operation, state| {
            asked += u32::from(operation == Operation::GetObject);
            if asked == 2 {
                state.stored_mut("key").chunks[0].node_ids = vec![4];
            }
        });
    });
    assert!(get_all(&cluster.client()).await.unwrap() == bytes);
}

#[tokio::test(start_paused = true)]
async fn a_reader_with_an_old_table_is_corrected_by_one_reply_of_each_node() {
    let (cluster, bytes) = cluster(CHUNK);
    (1..=3).for_each(|node| cluster.behave(node, Behaviour::Refuses(Status::WrongNode)));
    let mut asked = 0;
    cluster.with(|state| {
        // From then on the leader's word about the nodes is right.
        state.on_request(move |operation, state| {
            asked += u32::from(operation == Operation::GetObject);
            if asked == 2 {
                (1..=3).for_each(|node| state.node(node).behaviour = Behaviour::Works);
            }
        });
    });
    let client = cluster.client();
    let started = Instant::now();
    assert!(get_all(&client).await.unwrap() == bytes);
    assert!(started.elapsed() < Duration::from_millis(500), "{:?}", started.elapsed());
    assert_eq!(cluster.meta.count(Operation::GetObject), 2);
    assert_eq!(client.shared().suspects.ids(), [0_u32; 0]);
}

#[tokio::test(start_paused = true)]
async fn an_object_that_changes_before_its_first_byte_is_read_anew() {
    let (cluster, _) = cluster(5 * CHUNK);
    let new = content(7 * CHUNK + 3);
    cluster.with(|state| {
        state.collect_chunks();
        let (mut asked, bytes) = (0, new.clone());
        state.on_request(move |operation, state| {
            asked += u32::from(operation == Operation::GetObject);
            if asked == 2 {
                asked += 1;
                state.overwrite("key", &bytes);
            }
        });
    });
    assert!(get_all(&cluster.client()).await.unwrap() == new);
}

#[tokio::test(start_paused = true)]
async fn an_object_that_changes_while_it_is_read_is_never_mixed() {
    let (cluster, old) = cluster(9 * CHUNK);
    let mut stream = one_by_one(&cluster).get(BUCKET, "key", GetOptions::default()).await.unwrap();
    let mut read = vec![0; 2 * CHUNK];
    stream.read_exact(&mut read).await.unwrap();
    cluster.with(|state| {
        state.collect_chunks();
        state.overwrite("key", &content(20 * CHUNK)[CHUNK..]);
    });
    let mut rest = vec![];
    let error = stream.read_to_end(&mut rest).await.unwrap_err();
    read.extend(rest);
    assert!(read.len() <= 4 * CHUNK && old.starts_with(&read));
    let source = error.get_ref().and_then(|source| source.downcast_ref::<Error>());
    assert!(matches!(source, Some(Error::ChangedWhileReading)), "{error:?}");
    assert!(stream.read(&mut [0; 8]).await.is_err(), "an error is never followed by an end");
}

#[tokio::test(start_paused = true)]
async fn a_deleted_object_is_read_to_its_end_while_its_chunks_last() {
    let (cluster, old) = cluster(9 * CHUNK);
    let stream = one_by_one(&cluster).get(BUCKET, "key", GetOptions::default()).await.unwrap();
    cluster.with(|state| state.remove("key"));
    assert!(stream.into_bytes().await.unwrap() == old);
}

#[tokio::test(start_paused = true)]
async fn a_chosen_version_is_waited_for_although_the_key_has_changed() {
    let (cluster, old) = cluster(9 * CHUNK);
    let stream = one_by_one(&cluster).get(BUCKET, "key", GetOptions::default()).await.unwrap();
    cluster.with(|state| state.overwrite("key", b"new"));
    (1..=3).for_each(|node| cluster.behave(node, Behaviour::Dead));
    let rest = tokio::spawn(stream.into_bytes());
    tokio::time::sleep(Duration::from_secs(10)).await;
    (1..=3).for_each(|node| cluster.behave(node, Behaviour::Works));
    assert!(rest.await.unwrap().unwrap() == old);
}

#[tokio::test(start_paused = true)]
async fn a_long_read_renews_its_capability_before_it_ends() {
    let (cluster, bytes) = cluster(40 * CHUNK);
    cluster.with(|state| state.capability_for = Duration::from_secs(10));
    (1..=3).for_each(|node| cluster.behave(node, Behaviour::Slow(Duration::from_millis(900))));
    assert!(get_all(&one_by_one(&cluster)).await.unwrap() == bytes);
    assert_eq!(cluster.with(|state| state.expired), 0);
    let asked = cluster.meta.count(Operation::GetObject);
    assert!((5..15).contains(&asked), "{asked}");
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_paused_for_long_goes_on() {
    let (cluster, bytes) = cluster(9 * CHUNK);
    let mut stream = one_by_one(&cluster).get(BUCKET, "key", GetOptions::default()).await.unwrap();
    let first = stream.next().await.unwrap().unwrap();
    tokio::time::sleep(Duration::from_secs(3600)).await;
    let rest = stream.into_bytes().await.unwrap();
    assert!([first, rest].concat() == bytes);
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_was_overtaken_ends_with_its_capability() {
    let (cluster, old) = cluster(9 * CHUNK);
    let mut stream = one_by_one(&cluster).get(BUCKET, "key", GetOptions::default()).await.unwrap();
    let mut read = vec![0; CHUNK];
    stream.read_exact(&mut read).await.unwrap();
    cluster.with(|state| state.overwrite("key", b"new"));
    tokio::time::sleep(Duration::from_secs(3600)).await;
    let error = stream.read_to_end(&mut read).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ResourceBusy, "{error}");
    assert!(old.starts_with(&read));
}

#[tokio::test(start_paused = true)]
async fn a_reader_needs_no_leader_while_its_capability_lasts() {
    let (cluster, bytes) = cluster(20 * CHUNK);
    (1..=3).for_each(|node| cluster.behave(node, Behaviour::Slow(Duration::from_secs(1))));
    cluster.with(|state| state.capability_for = Duration::from_secs(30));
    let stream = one_by_one(&cluster).get(BUCKET, "key", GetOptions::default()).await.unwrap();
    cluster.meta.answer_always(Some(Answer::Hang));
    assert!(stream.into_bytes().await.unwrap() == bytes);
    assert!(cluster.meta.count(Operation::GetObject) > 1, "it has tried");
}

#[tokio::test(start_paused = true)]
async fn a_manifest_in_many_parts_is_one_object() {
    let (cluster, bytes) = cluster(10 * CHUNK + 1);
    cluster.with(|state| state.chunks_max = 3);
    let client = cluster.client();
    assert!(get_all(&client).await.unwrap() == bytes);
    let range = ByteRange::Inclusive { first: 5, last: 7 * CHUNK as u64 };
    let stream = client.get(BUCKET, "key", ranged(range)).await.unwrap();
    assert!(stream.into_bytes().await.unwrap() == bytes[5..=7 * CHUNK]);
}

#[tokio::test(start_paused = true)]
async fn parts_of_two_versions_are_never_joined() {
    let (cluster, old) = cluster(10 * CHUNK);
    cluster.with(|state| state.chunks_max = 3);
    let mut stream = one_by_one(&cluster).get(BUCKET, "key", GetOptions::default()).await.unwrap();
    cluster.with(|state| state.overwrite("key", &content(11 * CHUNK)[CHUNK..]));
    let mut read = vec![];
    let error = stream.read_to_end(&mut read).await.unwrap_err();
    assert_eq!(error.to_string(), Error::ChangedWhileReading.to_string());
    assert!(read.len() <= 3 * CHUNK && old.starts_with(&read));
}

#[tokio::test(start_paused = true)]
async fn a_manifest_that_does_not_make_up_the_object_is_refused() {
    let (cluster, _) = cluster(3 * CHUNK);
    cluster.with(|state| state.stored_mut("key").chunks.swap(0, 1));
    let refused = get_all(&cluster.client()).await;
    assert!(matches!(refused, Err(Error::Integrity { .. })), "{refused:?}");

    cluster.with(|state| state.stored_mut("key").chunks.truncate(2));
    let refused = get_all(&cluster.client()).await;
    assert!(matches!(refused, Err(Error::BadReply { .. })), "{refused:?}");

    cluster.with(|state| state.stored_mut("key").chunks.clear());
    let refused = get_all(&cluster.client()).await;
    assert!(matches!(refused, Err(Error::BadReply { .. })), "{refused:?}");
}

#[tokio::test(start_paused = true)]
async fn reading_ahead_is_bounded_by_the_chunks_in_flight() {
    let (cluster, bytes) = cluster(40 * CHUNK);
    let mut stream = cluster.client().get(BUCKET, "key", GetOptions::default()).await.unwrap();
    let mut given = 0;
    while let Some(block) = stream.next().await {
        given += block.unwrap().len();
        // Time for whatever may still be on its way.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let ahead = cluster.with(|state| state.asked) as usize - given;
        assert!(ahead <= 4 * CHUNK, "{ahead}");
    }
    assert_eq!(given, bytes.len());
}

#[tokio::test(start_paused = true)]
async fn reading_ahead_is_bounded_by_the_memory_of_the_client() {
    let (cluster, bytes) = cluster(20 * CHUNK);
    let client = cluster.client_with(|config| config.buffered_bytes_max = 3 * CHUNK as u32);
    let mut streams = vec![];
    for _ in 0..5 {
        streams.push(client.get(BUCKET, "key", GetOptions::default()).await.unwrap());
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let held = cluster.with(|state| state.asked) as usize;
    assert!(held <= (3 + streams.len()) * CHUNK, "{held}");
    // Gets that nobody reads do not stop the others.
    let last = streams.pop().unwrap();
    assert!(last.into_bytes().await.unwrap() == bytes);
}

#[tokio::test(start_paused = true)]
async fn what_a_dropped_stream_held_is_free_at_once() {
    let (cluster, _) = cluster(20 * CHUNK);
    let client = cluster.client();
    let stream = client.get(BUCKET, "key", GetOptions::default()).await.unwrap();
    (1..=3).for_each(|node| cluster.behave(node, Behaviour::Slow(Duration::from_secs(3600))));
    drop(stream);
    tokio::task::yield_now().await;
    cluster.until(|state| state.outstanding == 0).await;
    let all = client.shared().try_memory(client.shared().config.buffered_bytes_max as usize);
    assert!(all.is_some());
}

#[tokio::test(start_paused = true)]
async fn the_placement_names_every_chunk() {
    let (cluster, bytes) = cluster(10 * CHUNK + 5);
    cluster.with(|state| state.chunks_max = 4);
    let client = cluster.client();
    let object = client.stat(BUCKET, "key", None).await.unwrap();
    let chunks = client.placement(&object).await.unwrap();
    assert_eq!(chunks.len(), 11);
    for chunk in &chunks {
        let range = chunk.offset as usize..chunk.offset as usize + chunk.length as usize;
        assert_eq!(chunk.crc32c, xdpfs_transport::crc32c(&bytes[range]));
        assert_eq!(chunk.nodes, [1, 2, 3].map(NodeId));
    }
    cluster.with(|state| state.overwrite("key", &bytes));
    let changed = client.placement(&object).await.unwrap_err();
    assert_eq!(changed.kind(), ErrorKind::Unavailable);
}

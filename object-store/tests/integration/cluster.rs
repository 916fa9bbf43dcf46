use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _};
use object_store::{Error, ObjectStore as _, ObjectStoreExt as _, PutMode, path::Path};
use xdpfs_client::{BucketOptions, ObjectClient, Versioning};
use xdpfs_object_store::{XdpfsStore, XdpfsStoreBuilder};
use xdpfs_testbed::{Cluster, ClusterOptions};

use crate::suite;

/// What each of two writers commits.
const COMMITS: u64 = 30;
/// A server is killed when so many are there.
const KILL_AFTER: u64 = 20;

async fn store(cluster: &Cluster, bucket: &str, options: BucketOptions) -> XdpfsStore {
    let builder = XdpfsStoreBuilder::new().with_bucket(bucket);
    let store = builder.with_option("endpoint", cluster.endpoint()).unwrap().build().unwrap();
    store.client().create_bucket(bucket, options).await.unwrap();
    store
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cluster_of_processes_passes_the_tests_of_object_store() {
    let cluster = Cluster::start(ClusterOptions::default()).unwrap();
    suite::all(&store(&cluster, "plain", BucketOptions::default()).await).await;
    let kept = BucketOptions { versioning: Versioning::On, ..BucketOptions::default() };
    suite::all(&store(&cluster, "kept", kept).await.with_versions()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_writers_of_a_log_lose_no_commit_while_the_leader_is_killed() {
    let mut cluster = Cluster::start(ClusterOptions::default()).unwrap();
    let store = store(&cluster, "lake", BucketOptions::default()).await;
    let writers = ["first", "second"].map(|name| tokio::spawn(write_log(store.clone(), name)));
    let leader = cluster.leader(Duration::from_secs(10)).unwrap();
    let wait = async {
        while (store.head(&entry(KILL_AFTER)).await).is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), wait).await.unwrap();
    cluster.kill(leader);
    for writer in writers {
        writer.await.unwrap();
    }

    // One entry for each commit, without a gap, each writer's in its order.
    let all: Vec<_> = store.list(None).map_ok(|meta| meta.location).try_collect().await.unwrap();
    assert_eq!(all, (0..2 * COMMITS).map(entry).collect::<Vec<_>>());
    let mut commits = vec![];
    for path in all {
        let text = store.get(&path).await.unwrap().bytes().await.unwrap();
        commits.push(String::from_utf8(text.into()).unwrap());
    }
    for name in ["first", "second"] {
        let of_writer = commits.iter().filter(|commit| commit.starts_with(name));
        let expect: Vec<_> = (0..COMMITS).map(|number| format!("{name} {number}")).collect();
        assert_eq!(of_writer.collect::<Vec<_>>(), expect.iter().collect::<Vec<_>>());
    }
}

/// Commits as table formats do: the next number that nobody has.
async fn write_log<C: ObjectClient>(store: XdpfsStore<C>, name: &str) {
    let mut version = 0;
    for number in 0..COMMITS {
        loop {
            let commit = format!("{name} {number}");
            match store.put_opts(&entry(version), commit.into(), PutMode::Create.into()).await {
                Ok(_) => break,
                Err(Error::AlreadyExists { .. }) => version += 1,
                Err(error) => panic!("{name} could not commit {number}: {error}"),
            }
        }
    }
}

fn entry(version: u64) -> Path {
    Path::from(format!("_delta_log/{version:020}.json"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reader_of_a_stream_goes_on_when_the_node_it_reads_from_is_killed() {
    let mut cluster = Cluster::start(ClusterOptions::default()).unwrap();
    let everywhere = BucketOptions { replicas: Some(3), min_replicas: Some(3), ..BucketOptions::default() };
    let store = store(&cluster, "lake", everywhere).await;
    let (path, data) = (Path::from("large"), vec![7_u8; 64 << 20]);
    store.put(&path, data.clone().into()).await.unwrap();
    let mut stream = store.get(&path).await.unwrap().into_stream();
    let mut read = stream.next().await.unwrap().unwrap().to_vec();
    // Whichever two it reads from: the third has all of it.
    for node in &cluster.all_data_nodes()[..2] {
        cluster.kill(*node);
    }
    while let Some(bytes) = stream.next().await {
        read.extend_from_slice(&bytes.unwrap());
    }
    assert!(read == data);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reader_without_a_replica_left_is_told_that_it_may_try_again() {
    let mut cluster = Cluster::start(ClusterOptions::default()).unwrap();
    let (builder, bucket) = (XdpfsStoreBuilder::new().with_bucket("single"), "single");
    let builder = builder.with_option("endpoint", cluster.endpoint()).unwrap();
    let store = builder.with_option("timeout", "3s").unwrap().build().unwrap();
    let options = BucketOptions { replicas: Some(1), min_replicas: Some(1), ..BucketOptions::default() };
    store.client().create_bucket(bucket, options).await.unwrap();
    let path = Path::from("large");
    store.put(&path, vec![7_u8; 64 << 20].into()).await.unwrap();
    let mut stream = store.get(&path).await.unwrap().into_stream();
    stream.next().await.unwrap().unwrap();
    for node in cluster.all_data_nodes() {
        cluster.kill(node);
    }
    let failed = loop {
        match stream.next().await {
            Some(Ok(_)) => {}
            Some(Err(error)) => break error,
            None => panic!("bytes came from nowhere"),
        }
    };
    let Error::Generic { source, .. } = failed else { panic!("{failed}") };
    let kind = source.downcast_ref::<xdpfs_client::Error>().map(xdpfs_client::Error::kind);
    assert_eq!(kind, Some(xdpfs_client::ErrorKind::Unavailable), "{source}");
}

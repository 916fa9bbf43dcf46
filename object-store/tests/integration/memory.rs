use std::ops::Range;

use futures::TryStreamExt as _;
use object_store::{
    Error, GetOptions, ObjectStore as _, ObjectStoreExt as _, PutMode, UpdateVersion, path::Path,
};
use xdpfs_client::{BucketOptions, ObjectClient as _, PutOptions, Versioning, mock::MockClient};
use xdpfs_object_store::XdpfsStore;

use crate::suite;

const BUCKET: &str = "lake";

async fn store() -> XdpfsStore<MockClient> {
    let client = MockClient::new();
    client.create_bucket(BUCKET, BucketOptions::default()).await.unwrap();
    XdpfsStore::new(client, BUCKET)
}

#[tokio::test]
async fn cluster_in_memory_passes_the_tests_of_object_store() {
    suite::all(&store().await).await;
}

#[tokio::test]
async fn cluster_in_memory_passes_them_with_versions() {
    let client = MockClient::new();
    let options = BucketOptions { versioning: Versioning::On, ..BucketOptions::default() };
    client.create_bucket(BUCKET, options).await.unwrap();
    suite::all(&XdpfsStore::new(client, BUCKET).with_versions()).await;
}

#[tokio::test]
async fn version_alone_says_what_to_update() {
    let store = store().await.with_versions();
    let path = Path::from("counter");
    let first = store.put(&path, "1".into()).await.unwrap();
    let known = UpdateVersion { e_tag: None, version: first.version };
    store.put_opts(&path, "2".into(), PutMode::Update(known.clone()).into()).await.unwrap();
    let second = store.put_opts(&path, "3".into(), PutMode::Update(known).into()).await.unwrap_err();
    assert!(matches!(second, Error::Precondition { .. }), "{second}");
    let nothing = UpdateVersion { e_tag: None, version: None };
    let unsaid = store.put_opts(&path, "4".into(), PutMode::Update(nothing).into()).await.unwrap_err();
    assert!(matches!(unsaid, Error::Generic { .. }), "{unsaid}");
}

#[tokio::test]
async fn rename_onto_itself_changes_nothing() {
    let store = store().await;
    let path = Path::from("a");
    store.put(&path, "x".into()).await.unwrap();
    store.rename(&path, &path).await.unwrap();
    let refused = store.rename_if_not_exists(&path, &path).await.unwrap_err();
    assert!(matches!(refused, Error::AlreadyExists { .. }), "{refused}");
    assert_eq!(store.get(&path).await.unwrap().bytes().await.unwrap(), "x");
}

#[tokio::test]
async fn ranges_that_make_no_sense_are_refused_and_none_are_none() {
    let store = store().await;
    let path = Path::from("a");
    store.put(&path, "0123456789".into()).await.unwrap();
    assert!(store.get_ranges(&path, &[]).await.unwrap().is_empty());
    assert_eq!(store.get_ranges(&path, &[8..20, 0..2]).await.unwrap(), ["89", "01"]);
    let range = |start: u64, end: u64| Range { start, end };
    let behind = vec![range(0, 1), range(10, 12)];
    for ranges in [vec![range(3, 3)], vec![range(10, 12)], behind, vec![range(0, 1), range(5, 2)]] {
        store.get_ranges(&path, &ranges).await.unwrap_err();
    }
}

#[tokio::test]
async fn keys_that_no_path_can_be_are_named_and_markers_of_directories_left_out() {
    let store = store().await;
    let put = async |key: &str, data: &'static str| {
        store.client().put_bytes(BUCKET, key, data.into(), PutOptions::default()).await.unwrap();
    };
    put("dir/", "").await;
    put("dir/file", "x").await;
    let listed: Vec<_> = store.list(None).map_ok(|meta| meta.location).try_collect().await.unwrap();
    assert_eq!(listed, [Path::from("dir/file")]);
    put("dir//file", "x").await;
    let refused = store.list(None).try_collect::<Vec<_>>().await.unwrap_err();
    assert!(refused.to_string().contains("dir//file"), "{refused}");
    store.client().delete(BUCKET, "dir//file", None).await.unwrap();
    put("file/", "bytes").await;
    let refused = store.list(None).try_collect::<Vec<_>>().await.unwrap_err();
    assert!(refused.to_string().contains("file/"), "{refused}");
    store.client().delete(BUCKET, "file/", None).await.unwrap();
    put("/file", "x").await;
    let refused = store.list_with_delimiter(None).await.unwrap_err();
    assert!(refused.to_string().contains("\"/\""), "{refused}");
}

#[tokio::test]
async fn conditions_that_the_servers_do_not_know_hold_all_the_same() {
    let store = store().await;
    let path = Path::from("a");
    let etag = store.put(&path, "x".into()).await.unwrap().e_tag.unwrap();
    let ask = async |options: GetOptions| store.get_opts(&path, options).await.map(drop);
    let quoted = format!("\"other\", \"{etag}\"");
    ask(GetOptions::new().with_if_match(Some(quoted.clone()))).await.unwrap();
    ask(GetOptions::new().with_if_match(Some("*".to_owned()))).await.unwrap();
    let unchanged = ask(GetOptions::new().with_if_none_match(Some(quoted))).await.unwrap_err();
    assert!(matches!(unchanged, Error::NotModified { .. }), "{unchanged}");
    let both = GetOptions::new().with_if_match(Some(etag.clone())).with_if_none_match(Some(etag));
    assert!(matches!(ask(both.clone()).await.unwrap_err(), Error::NotModified { .. }));
    assert!(matches!(ask(both.with_head(true)).await.unwrap_err(), Error::NotModified { .. }));
    let no_version = ask(GetOptions::new().with_version(Some("first".to_owned()))).await.unwrap_err();
    assert!(matches!(no_version, Error::NotFound { .. }), "{no_version}");
}

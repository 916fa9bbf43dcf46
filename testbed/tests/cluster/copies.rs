//! Copies, renames and quotas, by real processes.

use std::time::Duration;

use xdpfs_testbed::{Cluster, ClusterStatus, Content};

use crate::support::{cluster, cluster_with, done, holds, holds_nothing, impatient, json, put};

const MIB: u64 = 1 << 20;
const WITHIN: Duration = Duration::from_secs(60);

/// Chunks that all nodes hold together.
fn chunks(status: &ClusterStatus) -> Option<u64> {
    status.raw["data_nodes"].as_array()?.iter().map(|node| node["chunks"].as_u64()).sum()
}

fn await_chunks(cluster: &Cluster, expect: u64) {
    let is_so = |status: &ClusterStatus| chunks(status) == Some(expect) && status.pending_deletes == 0;
    let found = cluster.await_status(WITHIN, is_so);
    assert!(found.is_some(), "not {expect} chunks: {:?}", cluster.status());
}

#[test]
fn bytes_stay_until_the_last_of_their_names_is_gone() {
    let cluster = cluster_with(impatient());
    let content = Content::new(15, 9 * MIB);
    put(&cluster, "data/a", &content);
    // Three chunks, on three nodes each.
    await_chunks(&cluster, 9);
    let copied = json(&cluster, &["cp", "data/a", "data/b", "--metadata", "who=me"]);
    assert_eq!((copied["bytes_moved"].as_u64(), copied["metadata"]["who"].as_str()), (Some(0), Some("me")));
    let moved = json(&cluster, &["mv", "data/a", "data/deep/c"]);
    assert_eq!(moved["bytes_moved"], 0);
    holds_nothing(&cluster, "data/a");
    done(&cluster, &["rm", "data/b"]);
    // Another object comes and goes: when its chunks are gone, theirs would be, too.
    put(&cluster, "data/other", &Content::new(16, 5 * MIB));
    done(&cluster, &["rm", "data/other"]);
    await_chunks(&cluster, 9);
    holds(&cluster, "data/deep/c", &content);
    done(&cluster, &["rm", "data/deep/c"]);
    await_chunks(&cluster, 0);
}

#[test]
fn copies_outlive_their_servers_and_nodes_restarted_at_once() {
    let mut cluster = cluster();
    let content = Content::new(17, 3 * MIB + 5);
    put(&cluster, "data/a", &content);
    done(&cluster, &["cp", "data/a", "data/b"]);
    done(&cluster, &["mv", "data/b", "data/c"]);
    let members = [cluster.all_meta_servers(), cluster.all_data_nodes()].concat();
    for member in &members {
        cluster.kill(*member);
    }
    cluster.restart_all(&members).expect("they come back");
    holds(&cluster, "data/a", &content);
    holds(&cluster, "data/c", &content);
    holds_nothing(&cluster, "data/b");
}

#[test]
fn from_bucket_to_bucket_the_bytes_go_through_the_client() {
    let cluster = cluster();
    done(&cluster, &["mb", "small-chunks", "--chunk-size", "64KiB"]);
    let content = Content::new(18, 5 * MIB + 1);
    put(&cluster, "data/dir/a", &content);
    let copied = json(&cluster, &["cp", "data/dir/a", "small-chunks/"]);
    assert_eq!((copied["key"].as_str(), copied["bytes_moved"].as_u64()), (Some("a"), Some(5 * MIB + 1)));
    holds(&cluster, "small-chunks/a", &content);
    let moved = json(&cluster, &["mv", "-r", "data/dir/", "small-chunks/moved/"]);
    assert_eq!(moved["bytes_moved"], 5 * MIB + 1);
    holds(&cluster, "small-chunks/moved/a", &content);
    holds_nothing(&cluster, "data/dir/a");
}

#[test]
fn full_bucket_refuses_more_and_says_what_to_do() {
    let cluster = cluster();
    done(&cluster, &["mb", "inbox", "--quota", "1MiB", "--max-objects", "2"]);
    let put_to = |address: &str, len: u64| {
        cluster.cli().invoke(["put", "-", address]).stdin(Content::new(len, len)).run()
    };
    assert_eq!(put_to("inbox/a", MIB).code, Some(0));
    let refused = put_to("inbox/b", 1);
    assert_eq!(refused.code, Some(5), "{}", refused.stderr);
    assert!(refused.stderr.contains("xdpfs-cli bucket update inbox --quota"), "{}", refused.stderr);
    assert_eq!(put_to("inbox/a", MIB + 1).code, Some(5), "not over it by replacing what is there, either");
    holds(&cluster, "inbox/a", &Content::new(MIB, MIB));
    assert_eq!(json(&cluster, &["bucket", "update", "inbox", "--quota", "2MiB"])["quota_bytes"], 2 * MIB);
    assert_eq!(put_to("inbox/b", MIB).code, Some(0));
    assert_eq!(put_to("inbox/c", 0).code, Some(5), "there are as many objects as there may be");
    let shown = json(&cluster, &["bucket", "show", "inbox"]);
    assert_eq!((shown["objects"].as_u64(), shown["quota_objects"].as_u64()), (Some(2), Some(2)));
    assert_eq!(cluster.status().map(|status| status.open_uploads), Some(0), "what was refused is given up");
}

//! Copies, renames and quotas, by real processes.

use std::{
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use xdpfs_testbed::{Cluster, ClusterOptions, ClusterStatus, Content, ShimOptions, udp_shim::Rates};

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

/// Waits until the nodes, which tell how many chunks they hold once a second, have told of all of them. How many these
/// are isn't known: a put ends without the last replica of a chunk when a disk is slow.
fn await_rest(cluster: &Cluster) {
    let deadline = Instant::now() + WITHIN;
    let mut before = None;
    loop {
        let now = cluster.status().and_then(|status| chunks(&status));
        if now.is_some_and(|now| now > 0) && now == before {
            return;
        }
        assert!(Instant::now() < deadline, "chunks still come: {:?}", cluster.status());
        before = now;
        thread::sleep(Duration::from_secs(3));
    }
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
fn from_bucket_to_bucket_nodes_move_the_bytes() {
    let cluster = cluster();
    done(&cluster, &["mb", "small-chunks", "--chunk-size", "64KiB"]);
    done(&cluster, &["mb", "alike", "--replicas", "1", "--min-replicas", "1"]);
    let content = Content::new(18, 25 * MIB + 1);
    put(&cluster, "data/dir/a", &content);
    for (bucket, replicas) in [("small-chunks", 3), ("alike", 1)] {
        let target = format!("{bucket}/");
        let copied = json(&cluster, &["cp", "data/dir/a", &target, "--metadata", "who=me"]);
        let say = |field: &str| copied[field].as_str().map(str::to_owned);
        assert_eq!((say("key").as_deref(), say("by").as_deref()), (Some("a"), Some("nodes")), "{copied}");
        assert_eq!(
            (copied["bytes_moved"].as_u64(), copied["durable_replicas"].as_u64()),
            (Some(0), Some(replicas))
        );
        assert_eq!(copied["metadata"]["who"], "me");
        holds(&cluster, &format!("{bucket}/a"), &content);
    }
    let moved = json(&cluster, &["mv", "-r", "data/dir/", "small-chunks/moved/"]);
    assert_eq!((moved["bytes_moved"].as_u64(), moved["by"].as_str()), (Some(0), Some("nodes")));
    holds(&cluster, "small-chunks/moved/a", &content);
    holds_nothing(&cluster, "data/dir/a");
    for size in [0, 1, 65_536, 65_537] {
        put(&cluster, "data/size", &Content::new(size, size));
        done(&cluster, &["cp", "data/size", "small-chunks/size"]);
        holds(&cluster, "small-chunks/size", &Content::new(size, size));
    }
}

#[test]
fn copy_over_a_bad_path_is_its_source() {
    let rates = Rates { loss: 5.0, reorder: 5.0, duplicate: 2.0, corrupt: 1.0 };
    let shim = ShimOptions { rates, seed: 21 };
    let options = ClusterOptions { data_nodes: 5, shim: Some(shim), ..ClusterOptions::default() };
    let cluster = cluster_with(options);
    done(&cluster, &["mb", "other"]);
    done(&cluster, &["mb", "odd", "--chunk-size", "1MiB"]);
    let content = Content::new(19, 30 * MIB + 7);
    put(&cluster, "data/a", &content);
    for bucket in ["other", "odd"] {
        let copied = json(&cluster, &["cp", "data/a", &format!("{bucket}/")]);
        assert_eq!(copied["by"], "nodes", "{copied}");
        holds(&cluster, &format!("{bucket}/a"), &content);
    }
}

/// A copy on its way.
struct Running(Child);

impl Running {
    /// Begins a copy, and waits until nodes have made some of its chunks.
    fn start(cluster: &Cluster, source: &str, target: &str) -> Self {
        let before = cluster.status().and_then(|status| chunks(&status)).expect("the cluster answers");
        let mut command = cluster.cli().command(["--json", "cp", source, target]);
        let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let running = Self(command.spawn().expect("it starts"));
        let is_begun = |status: &ClusterStatus| chunks(status) > Some(before);
        assert!(
            cluster.await_status(WITHIN, is_begun).is_some(),
            "nothing is copied: {:?}",
            cluster.status()
        );
        running
    }

    /// The JSON that it ends with.
    fn finish(mut self) -> serde_json::Value {
        let child = std::mem::replace(&mut self.0, Command::new("true").spawn().expect("it starts"));
        let output = child.wait_with_output().expect("it ends");
        let words = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{words}");
        serde_json::from_slice(&output.stdout).expect("it is JSON")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It has ended already unless the test fails.
        let _gone = self.0.kill();
        let _gone = self.0.wait();
    }
}

/// Five nodes, and an object that takes a while to copy.
fn at_work(options: ClusterOptions) -> (Cluster, Content) {
    let cluster = cluster_with(ClusterOptions { data_nodes: 5, ..options });
    done(&cluster, &["mb", "other", "--chunk-size", "1MiB"]);
    let content = Content::new(20, 300 * MIB + 7);
    put(&cluster, "data/a", &content);
    await_rest(&cluster);
    (cluster, content)
}

#[test]
fn copy_survives_the_death_of_a_node_and_of_the_leader() {
    let (mut cluster, content) = at_work(ClusterOptions::default());
    let running = Running::start(&cluster, "data/a", "other/a");
    cluster.kill(cluster.all_data_nodes()[1]);
    let leader = cluster.leader(WITHIN).expect("there is a leader");
    cluster.kill(leader);
    let copied = running.finish();
    assert_eq!((copied["by"].as_str(), copied["size"].as_u64()), (Some("nodes"), Some(300 * MIB + 7)));
    holds(&cluster, "other/a", &content);
}

#[test]
fn copy_whose_client_dies_leaves_nothing() {
    let (cluster, content) = at_work(impatient());
    let before = cluster.status().and_then(|status| chunks(&status)).expect("the cluster answers");
    let mut running = Running::start(&cluster, "data/a", "other/a");
    running.0.kill().expect("it runs");
    await_chunks(&cluster, before);
    assert_eq!(cluster.status().map(|status| status.open_uploads), Some(0));
    holds_nothing(&cluster, "other/a");
    holds(&cluster, "data/a", &content);
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

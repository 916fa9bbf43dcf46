//! Puts that do not come to their end: nothing of them is ever visible, and the space comes back.

use std::{
    io::Read,
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use xdpfs_testbed::{Cluster, ClusterOptions, ClusterStatus, Content};

use crate::support::{cluster_with, done, holds, holds_nothing, impatient, json, put, put_within};

const MIB: u64 = 1 << 20;
/// How much of the interrupted object is written before the interruption.
const HALF: u64 = 40 * MIB;
/// A node cuts what it may use into at least this many segments, so a small one gives space back in small steps.
const CAPACITY: &str = "160MiB";
const SEGMENT_MAX: u64 = 160 * MIB / 16;

/// Small nodes that remove soon what is given up.
fn small_cluster() -> Cluster {
    cluster_with(ClusterOptions { data_node_capacity: Some(CAPACITY.to_owned()), ..impatient() })
}

/// A put that has been given the first half of its input and waits for the rest.
struct HalfPut {
    child: Child,
    // Kept open, so that the input does not end.
    _stdin: std::process::ChildStdin,
}

impl HalfPut {
    fn start(cluster: &Cluster, address: &str) -> Self {
        let mut command = cluster.cli().command(["put", "-", address]);
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("it starts");
        let mut stdin = child.stdin.take().expect("it is piped");
        std::io::copy(&mut Content::new(66, HALF), &mut stdin).expect("the put reads its input");
        Self { child, _stdin: stdin }
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("it is a process id");
        kill_process(pid, signal).expect("it runs");
    }

    fn end(mut self) -> (Option<i32>, String) {
        let mut words = String::new();
        self.child.stderr.take().expect("it is piped").read_to_string(&mut words).expect("it is text");
        (self.child.wait().expect("it ends").code(), words)
    }
}

impl Drop for HalfPut {
    fn drop(&mut self) {
        // It has ended already unless the test fails.
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

#[test]
fn an_interrupted_put_is_aborted_at_once() {
    // The client gives its upload up before it ends: no lease has to end.
    check_interruption(Signal::INT, Some(130), Duration::from_secs(1));
}

#[test]
fn a_put_whose_client_dies_is_aborted_when_its_lease_ends() {
    check_interruption(Signal::KILL, None, Duration::from_secs(10));
}

/// Interrupts a first put of a key and an overwrite of another.
fn check_interruption(signal: Signal, expected_code: Option<i32>, given_up_within: Duration) {
    let cluster = small_cluster();
    let old = Content::new(1, 3 * MIB);
    put(&cluster, "data/old", &old);
    let before = rested(&cluster);
    let halves = ["data/new", "data/old"].map(|address| HalfPut::start(&cluster, address));
    let is_written = |status: &ClusterStatus| status.used_bytes > before.used_bytes + 2 * HALF;
    let written = cluster.await_status(Duration::from_secs(20), is_written);
    assert!(written.is_some(), "nothing was written: {:?}", cluster.status());
    assert_eq!(written.map(|status| status.open_uploads), Some(2));
    let nothing_changed = || {
        holds_nothing(&cluster, "data/new");
        holds(&cluster, "data/old", &old);
        assert!(!done(&cluster, &["ls", "-r", "data"]).text().contains("new"));
    };
    nothing_changed();
    halves.iter().for_each(|half| half.signal(signal));
    for half in halves {
        let (code, words) = half.end();
        assert_eq!(code, expected_code, "{words}");
    }
    let given_up = cluster.await_status(given_up_within, |status| status.open_uploads == 0);
    assert!(given_up.is_some(), "uploads are still open: {:?}", cluster.status());
    nothing_changed();
    space_returns_to(&cluster, &before);
    nothing_changed();
}

#[test]
fn full_disks_fail_the_put_and_harm_nothing() {
    let cluster = small_cluster();
    let kept = Content::new(1, 32 * MIB);
    put(&cluster, "data/kept", &kept);
    let before = rested(&cluster);

    let output = put_within(&cluster, "data/too-much", &Content::new(2, 400 * MIB), Duration::from_secs(60));
    assert_eq!(output.code, Some(5), "{}", output.stderr);
    assert!(output.stderr.contains("space"), "{}", output.stderr);
    assert!(output.stderr.contains("hint: "), "{}", output.stderr);
    println!("{}", output.stderr);
    holds_nothing(&cluster, "data/too-much");
    holds(&cluster, "data/kept", &kept);

    space_returns_to(&cluster, &before);
    let next = Content::new(3, 48 * MIB);
    put(&cluster, "data/next", &next);
    holds(&cluster, "data/next", &next);
    holds(&cluster, "data/kept", &kept);
}

#[test]
fn what_was_deleted_or_replaced_gives_its_space_back() {
    let cluster = small_cluster();
    put(&cluster, "data/replaced", &Content::new(1, 2 * MIB));
    let before = rested(&cluster);
    put(&cluster, "data/deleted", &Content::new(2, 30 * MIB));
    put(&cluster, "data/replaced", &Content::new(3, 30 * MIB));
    put(&cluster, "data/replaced", &Content::new(1, 2 * MIB));
    done(&cluster, &["rm", "data/deleted"]);
    space_returns_to(&cluster, &before);
    holds(&cluster, "data/replaced", &Content::new(1, 2 * MIB));
    let du = json(&cluster, &["du", "data"]);
    assert_eq!(du["bytes"], 2 * MIB, "{du}");
}

/// The status when nothing is under way and all nodes have told what they hold.
fn rested(cluster: &Cluster) -> ClusterStatus {
    let is_rested = |status: &ClusterStatus| status.open_uploads == 0 && status.pending_deletes == 0;
    let first = cluster.await_status(Duration::from_secs(30), is_rested).expect("nothing is under way");
    // What a node holds comes with its heartbeats, once a second.
    std::thread::sleep(Duration::from_millis(2500));
    cluster.await_status(Duration::from_secs(5), is_rested).unwrap_or(first)
}

/// Everything that was written and given up since `before` is gone again, but for the segment that each node is still
/// writing to.
fn space_returns_to(cluster: &Cluster, before: &ClusterStatus) {
    let began = Instant::now();
    let nodes = cluster.all_data_nodes().len() as u64;
    let is_back = |status: &ClusterStatus| {
        let used = status.used_bytes <= before.used_bytes + nodes * SEGMENT_MAX;
        used && chunks(status) == chunks(before) && status.open_uploads == 0 && status.pending_deletes == 0
    };
    let back = cluster.await_status(Duration::from_secs(40), is_back);
    assert!(back.is_some(), "the space is not given back; before:\n{before:?}\nnow:\n{:?}", cluster.status());
    println!("the space was back after {:?}", began.elapsed());
}

/// Chunks that all nodes hold together.
fn chunks(status: &ClusterStatus) -> Option<u64> {
    status.raw["data_nodes"].as_array()?.iter().map(|node| node["chunks"].as_u64()).sum()
}

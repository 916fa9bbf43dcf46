//! Data nodes behind one address.

use std::{
    io::{self, Read, Write as _},
    process::{Child, Stdio},
    time::Duration,
};

use xdpfs_testbed::{Cluster, ClusterOptions, ClusterStatus, Content, EdgeOptions, Member};

use crate::support::{cluster_with, holds, put};

const MIB: u64 = 1 << 20;

fn cluster_behind_an_edge() -> Cluster {
    cluster_with(ClusterOptions { edges: Some(EdgeOptions::default()), ..ClusterOptions::default() })
}

/// A transfer that is stopped half way by whoever stands at the other end of its pipe.
struct Transfer(Child);

impl Transfer {
    fn start(cluster: &Cluster, args: &[&str]) -> Self {
        let mut command = cluster.cli().command(args);
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Self(command.spawn().expect("it starts"))
    }

    fn end(mut self) -> (Option<i32>, String) {
        let mut words = String::new();
        self.0.stderr.take().expect("it is piped").read_to_string(&mut words).expect("it is text");
        (self.0.wait().expect("it ends").code(), words)
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        // It has ended already unless the test fails.
        let _gone = self.0.kill();
        let _gone = self.0.wait();
    }
}

#[test]
fn clients_reach_all_nodes_at_the_edges_address() {
    let cluster = cluster_behind_an_edge();
    let sizes = [0, 1, 1344, 70_000, 5 * MIB, 20 * MIB];
    for size in sizes {
        put(&cluster, &format!("data/{size}"), &Content::new(size, size));
    }
    for size in sizes {
        holds(&cluster, &format!("data/{size}"), &Content::new(size, size));
    }
    // What a node holds comes with its heartbeats.
    let holds_chunks = |node: &serde_json::Value| node["chunks"].as_u64() > Some(0);
    let is_spread = |status: &ClusterStatus| {
        status.raw["data_nodes"].as_array().is_some_and(|nodes| nodes.iter().all(holds_chunks))
    };
    let status =
        cluster.await_status(Duration::from_secs(20), is_spread).expect("each node gets something").raw;
    let address = cluster.ready_line(Member::Edge(0)).split(' ').next().unwrap_or_default();
    let address = address.strip_prefix("address=").expect("it says where it is");
    assert_eq!(status["edges"][0]["address"], address, "{status}");
    assert_eq!(status["edges"][0]["node_ids"], serde_json::json!([1, 2, 3]), "{status}");
    assert_eq!(status["edges"][0]["xdp_mode"], "off", "{status}");
    for node in status["data_nodes"].as_array().expect("there are nodes") {
        assert_eq!(node["address"], address, "{status}");
        assert_ne!(node["direct_address"], address, "{status}");
    }
}

#[test]
fn an_edge_that_is_killed_and_started_again_harms_no_put_and_no_get() {
    let mut cluster = cluster_behind_an_edge();
    let half = 40 * MIB;
    let content = || Content::new(5, 2 * half);

    let mut writing = Transfer::start(&cluster, &["put", "-", "data/big"]);
    let mut stdin = writing.0.stdin.take().expect("it is piped");
    let mut source = content();
    io::copy(&mut source.by_ref().take(half), &mut stdin).expect("the put reads its input");
    cluster.kill(Member::Edge(0));
    let rest = std::thread::spawn(move || io::copy(&mut source, &mut stdin).and_then(|_| stdin.flush()));
    cluster.restart(Member::Edge(0)).expect("the edge comes back");
    rest.join().expect("it ends").expect("the put reads all of its input");
    let (code, words) = writing.end();
    assert_eq!(code, Some(0), "{words}");
    holds(&cluster, "data/big", &content());

    let mut reading = Transfer::start(&cluster, &["get", "data/big", "-"]);
    let mut stdout = reading.0.stdout.take().expect("it is piped");
    let mut expected = content();
    same_bytes(&mut stdout, &mut expected, half);
    cluster.kill(Member::Edge(0));
    cluster.restart(Member::Edge(0)).expect("the edge comes back");
    same_bytes(&mut stdout, &mut expected, half);
    drop(stdout);
    let (code, words) = reading.end();
    assert_eq!(code, Some(0), "{words}");
}

#[test]
fn an_edge_goes_on_while_the_leader_changes() {
    let mut cluster = cluster_behind_an_edge();
    put(&cluster, "data/before", &Content::new(1, 9 * MIB));
    let leader = cluster.leader(Duration::from_secs(10)).expect("there is a leader");
    cluster.kill(leader);
    holds(&cluster, "data/before", &Content::new(1, 9 * MIB));
    put(&cluster, "data/after", &Content::new(2, 9 * MIB));
    cluster.restart(Member::DataNode(0)).expect("it comes back in another registration");
    put(&cluster, "data/again", &Content::new(3, 9 * MIB));
    holds(&cluster, "data/again", &Content::new(3, 9 * MIB));
    let heard = cluster.await_status(Duration::from_secs(20), |status| status.raw["edges"][0].is_object());
    assert!(heard.is_some(), "the next leader hears of the edge: {:?}", cluster.status());
    cluster.restart(leader).expect("it comes back");
    assert!(cluster.stop(Member::Edge(0)).expect("it stops"), "the edge exits with 0");
}

/// The next `len` bytes of both are the same.
fn same_bytes(one: &mut impl Read, other: &mut impl Read, len: u64) {
    const STEP: usize = 1 << 16;
    let (mut a, mut b) = (vec![0; STEP], vec![0; STEP]);
    let mut left = len;
    while left > 0 {
        let step = left.min(STEP as u64) as usize;
        one.read_exact(&mut a[..step]).expect("there is more");
        other.read_exact(&mut b[..step]).expect("there is more");
        assert!(a[..step] == b[..step], "{left} bytes before the end");
        left -= step as u64;
    }
}

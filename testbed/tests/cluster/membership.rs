//! The metadata servers are replaced, one after another, while everything else goes on.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::Duration,
};

use xdpfs_testbed::{Cli, Cluster, ClusterOptions, Content, EdgeOptions, Member};

use crate::support::{cluster_with, done, holds, put};

/// How long a server that was removed may take to hear of it.
const HEARS_WITHIN: Duration = Duration::from_secs(30);

/// Tells it to stop, whatever happens.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Puts and gets until it is told to stop. Gives how many puts there were.
fn keep_busy(cli: &Cli, ends: &AtomicBool, number: &AtomicU64) {
    while !ends.load(Ordering::Relaxed) {
        let at = number.fetch_add(1, Ordering::Relaxed);
        let (address, content) = (format!("data/load-{at}"), Content::new(at, 200_000));
        let check = content.shared_check();
        let put = cli.invoke(["put", "-", &address]).stdin(content).run();
        assert_eq!(put.code, Some(0), "put {address}: {}", put.stderr);
        let got = cli.invoke(["get", &address, "-"]).stdout(check.clone()).run();
        assert_eq!(got.code, Some(0), "get {address}: {}", got.stderr);
        check.finish().unwrap_or_else(|error| panic!("get {address}: {error}"));
    }
}

fn meta(cluster: &Cluster, args: &[&str]) {
    let output = done(cluster, &[&["meta"], args].concat());
    println!("meta {args:?}: {}", output.text().trim());
}

fn id(member: Member) -> String {
    match member {
        Member::MetaServer(index) => (index + 1).to_string(),
        other => panic!("{other} is no metadata server"),
    }
}

#[test]
fn all_metadata_servers_are_replaced_under_load_and_the_same_nodes_and_edge_serve_on() {
    let options = ClusterOptions { edges: Some(EdgeOptions::default()), ..ClusterOptions::default() };
    let mut cluster = cluster_with(options);
    let kept = Content::new(1, 5 << 20);
    put(&cluster, "data/kept", &kept);
    let number = AtomicU64::new(0);
    for old in cluster.all_meta_servers() {
        let new = cluster.join_meta_server(true).expect("a server joins");
        let ends = AtomicBool::new(false);
        thread::scope(|scope| {
            let cli = cluster.cli().clone();
            let (ends, number) = (&ends, &number);
            let _stop = Stop(ends);
            scope.spawn(move || keep_busy(&cli, ends, number));
            meta(&cluster, &["replace", &id(old), &id(new)]);
        });
        let log = cluster.await_end(old, HEARS_WITHIN).expect("it ends when it hears that it was removed");
        assert!(log.contains("was removed from the cluster"), "{log}");
    }
    let left: Vec<Member> = cluster.all_meta_servers().split_off(3);
    cluster.ask_only(&left);
    meta(&cluster, &["list"]);
    assert_eq!(done(&cluster, &["--json", "meta", "list"]).text().lines().count(), 3);
    let leader = cluster.leader(Duration::from_secs(10)).expect("there is a leader");
    assert!(left.contains(&leader), "{leader}");
    // Data nodes and the edge were told of none of these servers when they started.
    cluster.kill(leader);
    let next = cluster.next_leader(leader, Duration::from_secs(20)).expect("there is another leader");
    assert!(left.contains(&next), "{next}");
    holds(&cluster, "data/kept", &kept);
    put(&cluster, "data/after", &Content::new(2, 1 << 20));
    for at in 0..number.load(Ordering::Relaxed) {
        holds(&cluster, &format!("data/load-{at}"), &Content::new(at, 200_000));
    }
    cluster.restart(leader).expect("it comes back");
}

#[test]
fn cluster_grows_by_one_server_and_refuses_what_would_stop_it() {
    let mut cluster = cluster_with(ClusterOptions::default());
    let new = cluster.join_meta_server(true).expect("a server joins");
    meta(&cluster, &["add", &id(new)]);
    meta(&cluster, &["transfer", &id(new)]);
    assert_eq!(cluster.leader(Duration::from_secs(10)), Some(new));
    let missing = cluster.cli().run(["meta", "remove", "77"]);
    assert_eq!(missing.code, Some(3), "{}", missing.stderr);
    assert!(missing.stderr.contains("meta list"), "{}", missing.stderr);
    meta(&cluster, &["remove", &id(new)]);
    assert!(cluster.await_end(new, HEARS_WITHIN).is_some(), "it ends when it hears that it was removed");
    // Its directory is of no use any more, and says so.
    let again = cluster.restart(new);
    assert!(again.is_err(), "a server that was removed comes back");
    put(&cluster, "data/after", &Content::new(3, 1000));
}

//! What most tests say to a cluster behind an edge.

use std::{net::IpAddr, time::Duration};

use xdpfs_testbed::{Cluster, ClusterOptions, Content, EdgeOptions, IpVersion, LanOptions, Member};

use crate::frames::Way;

/// Longer than any put or get of a test takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// What there is of each: the IP versions and the MTUs.
pub(crate) const NETWORKS: [LanOptions; 4] = [
    LanOptions { ip: IpVersion::V4, mtu: 1500, edges: 1 },
    LanOptions { ip: IpVersion::V6, mtu: 1500, edges: 1 },
    LanOptions { ip: IpVersion::V4, mtu: 3498, edges: 1 },
    LanOptions { ip: IpVersion::V6, mtu: 3498, edges: 1 },
];

/// A cluster whose nodes clients reach by routing.
pub(crate) fn routed(lan: LanOptions) -> Cluster {
    started(ClusterOptions { lan: Some(lan), ..ClusterOptions::default() })
}

/// A cluster whose nodes clients reach by edges with these arguments.
pub(crate) fn behind_edges(lan: LanOptions, args: &[&str]) -> Cluster {
    started(ClusterOptions { lan: Some(lan), edges: Some(options(args)), ..ClusterOptions::default() })
}

/// What an edge is told.
pub(crate) fn options(args: &[&str]) -> EdgeOptions {
    EdgeOptions { args: args.iter().map(ToString::to_string).collect() }
}

/// What an edge's `ready` line says of `name`.
pub(crate) fn edge_word(cluster: &Cluster, edge: usize, name: &str) -> String {
    let mut words = cluster.ready_line(Member::Edge(edge)).split(' ').filter_map(|word| word.split_once('='));
    words.find(|(other, _)| *other == name).map(|(_, word)| word.to_owned()).expect("the edge says so")
}

/// A cluster with a bucket `data`.
pub(crate) fn started(options: ClusterOptions) -> Cluster {
    let cluster = Cluster::start(options).unwrap_or_else(|error| panic!("{error}"));
    let output = cluster.cli().run(["mb", "data"]);
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    cluster
}

/// Puts `content` at `address`.
pub(crate) fn put(cluster: &Cluster, address: &str, content: &Content) -> Duration {
    let put = cluster.cli().invoke(["put", "-", address]).stdin(content.clone()).within(PATIENCE).run();
    assert_eq!(put.code, Some(0), "put {address}: {}", put.stderr);
    put.took
}

/// The object at `address` is exactly `content`.
pub(crate) fn holds(cluster: &Cluster, address: &str, content: &Content) -> Duration {
    let check = content.shared_check();
    let get = cluster.cli().invoke(["get", address, "-"]).stdout(check.clone()).within(PATIENCE).run();
    assert!(get.stream_error.is_none(), "get {address}: {:?}", get.stream_error);
    assert_eq!(get.code, Some(0), "get {address}: {}", get.stderr);
    check.finish().unwrap_or_else(|error| panic!("get {address}: {error}"));
    get.took
}

/// Megabytes a second.
pub(crate) fn rate(content: &Content, took: Duration) -> f64 {
    content.len() as f64 / 1e6 / took.as_secs_f64()
}

/// From the client to the first edge, in a network of IPv4.
pub(crate) fn way(cluster: &Cluster) -> Way {
    let lan = cluster.lan();
    let (client, uplink) = (lan.client_end(0), lan.uplink(0));
    let IpAddr::V4(edge) = lan.edge_address(0) else { panic!("the network is one of IPv4") };
    Way {
        from_mac: client.namespace.mac_of(client.device).unwrap(),
        to_mac: uplink.namespace.mac_of(uplink.device).unwrap(),
        to: (edge, 7400),
    }
}

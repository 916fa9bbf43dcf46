//! Objects come and go through an edge, however it moves them: in the driver, in the network stack, in user space.

use xdpfs_testbed::{Cluster, Content, EdgeOptions, IpVersion, LanOptions, Member};

use crate::{
    crossing::other_traffic_crosses,
    support::{behind_edges, edge_word, holds, options, put},
};

const LENGTHS: [u64; 5] = [1, 1400, 70_000, 1 << 20, 16 << 20];

#[test]
fn objects_come_and_go_over_ipv4() {
    in_every_mode(LanOptions { ip: IpVersion::V4, ..LanOptions::default() });
}

#[test]
fn objects_come_and_go_over_ipv6() {
    in_every_mode(LanOptions { ip: IpVersion::V6, ..LanOptions::default() });
}

#[test]
fn objects_come_and_go_in_long_packets_over_ipv4() {
    in_every_mode(LanOptions { ip: IpVersion::V4, mtu: 3498, ..LanOptions::default() });
}

#[test]
fn objects_come_and_go_in_long_packets_over_ipv6() {
    in_every_mode(LanOptions { ip: IpVersion::V6, mtu: 3498, ..LanOptions::default() });
}

fn in_every_mode(lan: LanOptions) {
    let mut cluster = behind_edges(lan, &["--xdp", "off"]);
    for (number, mode) in (1..).zip(["off", "generic", "native", "off"]) {
        if number > 1 {
            let options: EdgeOptions = options(&["--xdp", mode]);
            cluster.restart_edge(0, &options).unwrap_or_else(|error| panic!("{error}"));
        }
        assert_eq!(edge_word(&cluster, 0, "xdp"), mode);
        let before = arrived(&cluster);
        for length in LENGTHS {
            let (address, content) = (format!("data/{mode}-{number}-{length}"), Content::new(length, length));
            let (put, got) = (put(&cluster, &address, &content), holds(&cluster, &address, &content));
            println!("{lan:?} {mode} {length}: put {put:?}, got {got:?}");
        }
        let arrived = arrived(&cluster) - before;
        println!("{mode}: {arrived} datagrams in the edge's user space");
        match mode {
            "native" => assert!(arrived < 100, "{arrived} datagrams were not forwarded in the kernel"),
            "off" => assert!(arrived > 1000, "only {arrived} datagrams were relayed"),
            _ => {}
        }
        // What was written by another way is read by this one.
        for earlier in 1..number {
            let mode = ["off", "generic", "native"][earlier - 1];
            let content = Content::new(1 << 20, 1 << 20);
            holds(&cluster, &format!("data/{mode}-{earlier}-{}", 1 << 20), &content);
        }
        other_traffic_crosses(&cluster);
    }
    assert!(cluster.stop(Member::Edge(0)).unwrap_or_else(|error| panic!("{error}")), "the edge ends well");
    assert_eq!(programs(&cluster), "", "the edge leaves nothing on its interfaces");
}

/// Datagrams that sockets on the edge's host got, or should have.
fn arrived(cluster: &Cluster) -> u64 {
    cluster.lan().edge(0).udp_counts().expect("the kernel tells").arrived()
}

/// Programs on the edge's interfaces, in the driver, in the stack, and behind it.
fn programs(cluster: &Cluster) -> String {
    let links = cluster.lan().edge(0).ip(&["-d", "link", "show"]).expect("ip tells");
    links.lines().filter(|line| line.contains("prog/xdp") || line.contains("clsact")).collect()
}

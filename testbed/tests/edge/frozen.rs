//! A data node behind an edge that is frozen for longer than its lease. The edge, which knows nothing of leases, goes on sending
//! it what clients write; the program on the node's own interface answers them.

use std::{
    net::UdpSocket,
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use xdpfs_testbed::{Cluster, ClusterOptions, Content, LanOptions, Member, packet_socket::PacketSocket};

use crate::support::{PATIENCE, holds, options, put, started, way};

/// The node stops at the half of it, and the leader, and so the edge, knows of it at its end only.
const LEASE_S: u64 = 12;
const ANSWER_PATIENCE: Duration = Duration::from_millis(100);

// Places in the header and what stands there (docs/protocol.md §3 to §5).
const OPCODE: usize = 3;
const STATUS: usize = 5;
const NODE: usize = 8;
const HEADER_LEN: usize = 64;
const PUT_WHOLE: u8 = 0x05;
const RECEIPT: u8 = 0x85;
const ERROR: u8 = 0x87;
const STALE_NODE: u8 = 10;

#[test]
fn frozen_nodes_interface_answers_writers_through_the_edge() {
    let meta = [("NODE_LEASE", LEASE_S), ("NODE_SILENT_AFTER", LEASE_S), ("REPAIR_AFTER", 3600)];
    let meta = meta.map(|(name, seconds)| (format!("XDPFS_META_{name}_S"), seconds.to_string()));
    let node = [("XDP", "native"), ("XDP_INTERFACE", "lan")];
    let node = node.map(|(name, value)| (format!("XDPFS_NODE_{name}"), value.to_owned()));
    let cluster = started(ClusterOptions {
        lan: Some(LanOptions::default()),
        // A veth takes the answers of the node's program only if there is one on its other end.
        edges: Some(options(&["--xdp", "native", "--replies", "xdp"])),
        env: meta.into_iter().chain(node).collect(),
        ..ClusterOptions::default()
    });
    let victim = Member::DataNode(0);
    let content = Content::new(1, 1000);
    let mut tap = PacketSocket::tap(cluster.lan().client_end(0)).unwrap();
    put(&cluster, "data/before", &content);
    let write = write_to(&mut tap, &cluster, number_of(&cluster, victim));
    let sender = cluster.lan().client().run(|| UdpSocket::bind("0.0.0.0:0").unwrap());
    sender.connect((cluster.lan().edge_address(0), 7400)).unwrap();
    sender.set_read_timeout(Some(ANSWER_PATIENCE)).unwrap();
    assert_eq!(answer(&sender, &write).map(|(opcode, _)| opcode), Some(RECEIPT), "it has the chunk already");

    let registration = registration_of(&cluster, victim);
    cluster.pause(victim).unwrap();
    let began = Instant::now();
    let first = loop {
        assert!(began.elapsed() < PATIENCE, "nobody answers for the frozen node");
        if let Some(answer) = answer(&sender, &write) {
            break answer;
        }
    };
    println!("answered {:.1?} after it was frozen", began.elapsed());
    assert_eq!(first, (ERROR, STALE_NODE));
    assert_eq!(
        registration_of(&cluster, victim),
        registration,
        "it was not the edge, by the word of the leader"
    );
    let writing = put(&cluster, "data/meanwhile", &content);
    println!("put in {writing:?} beside it");
    holds(&cluster, "data/before", &content);

    cluster.resume(victim).unwrap();
    let counted = || cluster.status().is_some_and(|status| status.rejects("lease_over") > 0);
    until("the refusals are told", counted);
    // It may be given up, and register anew, or not: either way it takes writes again.
    until("all three take writes", || {
        put(&cluster, "data/after", &content);
        let shown = cluster.cli().run(["--json", "placement", "explain", "data/after"]);
        let record: Value = serde_json::from_str(shown.text().trim()).unwrap();
        record["chunks"][0]["nodes"].as_array().is_some_and(|nodes| nodes.len() == 3)
    });
}

/// A small chunk on its way to a node, as the client sends it.
fn write_to(tap: &mut PacketSocket, cluster: &Cluster, node: u16) -> Vec<u8> {
    let way = way(cluster);
    loop {
        let frame = tap.receive(PATIENCE).unwrap().expect("the client writes to all nodes");
        let datagram = way.datagram(&frame).filter(|datagram| datagram.len() >= HEADER_LEN);
        if let Some(datagram) = datagram
            && datagram[OPCODE] == PUT_WHOLE
            && datagram[NODE..NODE + 2] == node.to_le_bytes()
        {
            return datagram.to_vec();
        }
    }
}

/// Opcode and status of what is answered in time.
fn answer(socket: &UdpSocket, datagram: &[u8]) -> Option<(u8, u8)> {
    socket.send(datagram).unwrap();
    let mut bytes = [0; 2048];
    let length = socket.recv(&mut bytes).ok()?;
    (length >= HEADER_LEN).then(|| (bytes[OPCODE], bytes[STATUS]))
}

/// As the ready line says: `ready id=N address=..`.
fn number_of(cluster: &Cluster, node: Member) -> u16 {
    let words = cluster.ready_line(node).split_whitespace();
    let number = words.filter_map(|word| word.strip_prefix("id=")).next().expect("a ready line has the id");
    number.parse().expect("it is a number")
}

/// Its epoch, as the leader has it.
fn registration_of(cluster: &Cluster, node: Member) -> u64 {
    let (status, number) = (cluster.status().expect("the leader says"), u64::from(number_of(cluster, node)));
    let mut nodes = status.raw["data_nodes"].as_array().into_iter().flatten();
    let of_node = nodes.find(|other| other["id"].as_u64() == Some(number)).expect("it is listed");
    of_node["epoch"].as_u64().expect("it is a number")
}

fn until(what: &str, is_so: impl Fn() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < PATIENCE, "{what}");
        // There is nothing to wait on but the servers' own word.
        thread::sleep(Duration::from_millis(200));
    }
}

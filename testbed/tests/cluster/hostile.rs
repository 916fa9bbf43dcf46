//! Datagrams that nobody with a capability made, sent to the nodes' own sockets: each is refused in silence and
//! counted by its reason, and whoever has a capability notices nothing.

use std::{
    collections::BTreeMap,
    net::{SocketAddr, UdpSocket},
    time::Duration,
};

use xdpfs_testbed::{Cluster, ClusterStatus, Content, Member, Rng};

use crate::support::{cluster, holds, put};

/// The longest payload that comes without fragments over a path of 1500 bytes.
const PADDED: usize = 1344;

// Places in the header (docs/protocol.md §3), which is 64 bytes long.
const VERSION: usize = 2;
const OPCODE: usize = 3;
const CLASS_AND_FLAGS: usize = 4;
const STATUS: usize = 5;
const RIGHTS: usize = 6;
const KEY_EPOCH: usize = 7;
const NODE: usize = 8;
const BUCKET: usize = 16;
const EXPIRY: usize = 20;
const OFFSET: usize = 28;
const CHUNK_BUCKET: usize = 44;
const LENGTH: usize = 48;
const HEADER_LEN: usize = 64;

const GET_PIECE: u8 = 0x02;
const GET_BURST: u8 = 0x03;
const PUT_DATA: u8 = 0x07;
const DATA_REPLY: u8 = 0x82;

/// A read of one byte that is right in everything but its tag.
fn forged_read() -> Vec<u8> {
    let mut datagram = vec![0; HEADER_LEN + PADDED];
    datagram[..2].copy_from_slice(b"FX");
    datagram[VERSION] = 0x18;
    datagram[OPCODE] = GET_PIECE;
    datagram[CLASS_AND_FLAGS] = 1;
    datagram[RIGHTS] = 1;
    datagram[NODE] = 1;
    datagram[BUCKET] = 1;
    datagram[CHUNK_BUCKET] = 1;
    datagram[EXPIRY..EXPIRY + 4].fill(0xff);
    datagram[LENGTH] = 1;
    datagram
}

fn with(changes: &[(usize, u8)]) -> Vec<u8> {
    let mut datagram = forged_read();
    for (place, value) in changes {
        datagram[*place] = *value;
    }
    datagram
}

/// What is refused before any key is looked at, and why.
fn refused_without_a_key() -> Vec<(&'static str, Vec<u8>)> {
    let mut garbage = vec![0; 1400];
    let mut rng = Rng::new(77);
    garbage.fill_with(|| rng.next_u64() as u8 | 1);
    vec![
        ("too_short", b"?".to_vec()),
        ("too_short", forged_read()[..HEADER_LEN - 1].to_vec()),
        ("bad_magic", garbage),
        ("bad_magic", with(&[(0, b'G')])),
        ("bad_version", with(&[(VERSION, 0x28)])),
        ("bad_version", with(&[(VERSION, 0x17)])),
        ("bad_opcode", with(&[(OPCODE, 0)])),
        ("bad_opcode", with(&[(OPCODE, 0x7f)])),
        ("bad_opcode", with(&[(OPCODE, DATA_REPLY)])),
        ("reserved_bits", with(&[(CLASS_AND_FLAGS, 0x85)])),
        ("reserved_bits", with(&[(STATUS, 1)])),
        ("reserved_bits", with(&[(RIGHTS, 0x80)])),
        ("bad_length", with(&[(LENGTH, 0)])),
        ("bad_length", with(&[(LENGTH + 3, 0xff)])),
        ("bad_length", with(&[(OFFSET + 3, 0xff)])),
        ("bad_length", with(&[(OPCODE, GET_BURST)])),
        ("bad_length", forged_read()[..HEADER_LEN].to_vec()),
        ("bad_length", [forged_read(), vec![0]].concat()),
        ("bad_length", with(&[(OPCODE, PUT_DATA), (LENGTH + 1, 0x10)])),
    ]
}

/// What claims things that a tag would have to prove: no live epoch makes it true.
fn refused_for_its_tag(key_epoch: u8) -> Vec<Vec<u8>> {
    vec![
        with(&[(KEY_EPOCH, key_epoch)]),
        with(&[(KEY_EPOCH, key_epoch), (EXPIRY, 0), (EXPIRY + 1, 0), (EXPIRY + 2, 0), (EXPIRY + 3, 0)]),
        with(&[(KEY_EPOCH, key_epoch), (CHUNK_BUCKET, 2)]),
        with(&[(KEY_EPOCH, key_epoch), (RIGHTS, 3)]),
        with(&[(KEY_EPOCH, key_epoch), (OPCODE, PUT_DATA)]),
        with(&[(KEY_EPOCH, key_epoch), (NODE, 99)]),
    ]
}

#[test]
fn forged_datagrams_are_refused_in_silence_and_counted_by_reason() {
    let cluster = cluster();
    let content = Content::new(5, 6 << 20);
    put(&cluster, "data/key", &content);
    let status = settled(&cluster);
    let before = |reason: &str| status.rejects(reason);
    let target = address(&cluster, Member::DataNode(0));
    let attacker = UdpSocket::bind((target.ip(), 0)).expect("a free port");

    let mut expected: BTreeMap<&str, u64> = BTreeMap::new();
    for (reason, datagram) in refused_without_a_key() {
        send(&attacker, target, &datagram);
        *expected.entry(reason).or_default() += 1;
    }
    // Which epochs are live is not known here: every one is tried, and each attempt fails for one of two reasons.
    let forged: Vec<Vec<u8>> = (0..=u8::MAX).flat_map(refused_for_its_tag).collect();
    for datagram in &forged {
        send(&attacker, target, datagram);
    }
    let is_counted = |status: &ClusterStatus| {
        let by_tag = status.rejects("bad_tag") + status.rejects("unknown_key_epoch");
        expected.iter().all(|(reason, count)| status.rejects(reason) == before(reason) + count)
            && by_tag == before("bad_tag") + before("unknown_key_epoch") + forged.len() as u64
    };
    let counted = cluster.await_status(Duration::from_secs(15), is_counted);
    let status = counted.unwrap_or_else(|| panic!("expected {expected:?}: {:?}", cluster.status()));
    let bad_tags = status.rejects("bad_tag") - before("bad_tag");
    // All six that were made for an epoch fail alike, whatever else they claim.
    assert!(bad_tags >= 6 && bad_tags.is_multiple_of(6), "{bad_tags} bad tags: {:?}", status.raw);

    attacker.set_nonblocking(true).expect("a socket can");
    let answer = attacker.recv_from(&mut [0; 2048]);
    assert!(answer.is_err(), "somebody answered a forged datagram: {answer:?}");
    holds(&cluster, "data/key", &content);
}

#[test]
fn a_flood_of_garbage_stops_neither_puts_nor_gets() {
    let cluster = cluster();
    let targets: Vec<SocketAddr> =
        cluster.all_data_nodes().into_iter().map(|node| address(&cluster, node)).collect();
    let attacker = UdpSocket::bind((targets[0].ip(), 0)).expect("a free port");
    let kinds: Vec<Vec<u8>> = refused_without_a_key().into_iter().map(|(_, datagram)| datagram).collect();
    std::thread::scope(|scope| {
        let (ended, is_over) = std::sync::mpsc::channel::<()>();
        let flood = scope.spawn(move || {
            let mut rng = Rng::new(78);
            let mut sent = 0_u64;
            // About ten thousand a second: much more than a stray sender, less than what fills a whole core.
            while is_over.recv_timeout(Duration::from_millis(1))
                == Err(std::sync::mpsc::RecvTimeoutError::Timeout)
            {
                for _ in 0..10 {
                    let _full = attacker.send_to(rng.choose(&kinds).as_slice(), *rng.choose(&targets));
                    sent += 1;
                }
            }
            sent
        });
        for round in 0..20 {
            let content = Content::new(round, 4 << 20);
            put(&cluster, "data/key", &content);
            holds(&cluster, "data/key", &content);
        }
        drop(ended);
        let sent = flood.join().expect("it ends");
        println!("{sent} datagrams of garbage");
        assert!(sent > 1000, "only {sent} were sent");
    });
    let status = settled(&cluster);
    assert!(status.rejects("bad_magic") > 100, "{:?}", status.raw);
    assert_eq!(status.data_nodes_alive, 3);
}

/// Where a node receives, from its `ready` line.
fn address(cluster: &Cluster, node: Member) -> SocketAddr {
    let words = cluster.ready_line(node).split(' ');
    let address = words.filter_map(|word| word.strip_prefix("address=")).next();
    address.expect("the line has an address").parse().expect("it is one")
}

fn send(attacker: &UdpSocket, target: SocketAddr, datagram: &[u8]) {
    attacker.send_to(datagram, target).expect("loopback takes it");
    // Not faster than the node reads, since what overflows its socket is counted by the kernel only.
    std::thread::sleep(Duration::from_micros(20));
}

/// The status once the counters have come with a heartbeat: two in a row are the same.
fn settled(cluster: &Cluster) -> ClusterStatus {
    let mut last = None;
    let is_same = |status: &ClusterStatus| {
        status.raw["data_nodes"]
            .as_array()
            .map(|nodes| nodes.iter().map(|node| node["rejects"].clone()).collect::<Vec<_>>())
    };
    for _ in 0..20 {
        let status = cluster.status().expect("somebody answers");
        if last == is_same(&status) {
            return status;
        }
        last = is_same(&status);
        // Heartbeats come once a second.
        std::thread::sleep(Duration::from_millis(2200));
    }
    panic!("the counters never come to rest");
}

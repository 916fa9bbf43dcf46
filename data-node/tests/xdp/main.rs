//! The kernel program in front of real data nodes: each test has two network namespaces of its own and a veth pair
//! between them, and removes them again.
//!
//! That takes root and the built kernel program. Without, the tests say that they skip; where `CI` is set, they fail.

#![expect(clippy::unwrap_used, reason = "a test that meets the unexpected has failed")]

mod admin;
#[path = "../node/fake_meta.rs"]
#[expect(dead_code, reason = "shared with the other tests, which need more of it")]
mod fake_meta;
mod foreign;
mod lab;
mod lease;
mod program;
#[path = "../node/refused.rs"]
mod refused;
#[path = "../node/writer.rs"]
#[expect(dead_code, reason = "shared with the other tests, which need more of it")]
mod writer;

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream, UdpSocket},
    os::unix::fs::MetadataExt as _,
    time::Duration,
};

use xdpfs_wire::{Header, KeyEpoch, Reject, Rights, Status};

use crate::{
    fake_meta::{KEY_EPOCH, secret},
    foreign::{Foreign, echo},
    lab::Lab,
    refused::cases,
    writer::{Datagram, bytes_of, capability, chunk},
};

const MODES: [&str; 3] = ["native", "generic", "off"];
const KERNEL_MODES: [&str; 2] = ["native", "generic"];
/// Longer than any answer takes.
const PATIENCE: Duration = Duration::from_secs(10);

#[test]
fn chunks_come_and_go_in_every_mode() {
    let Some(lab) = Lab::open() else { return };
    for (number, mode) in (0..).zip(MODES) {
        let node = lab.start(&["--xdp", mode]);
        assert_eq!(node.mode(), mode);
        let (chunks, lengths) = (number * 10.., [1, 1000, 100_000, 4 << 20]);
        let chunks: Vec<_> = chunks.map(chunk).zip(lengths).collect();
        lab.client(node.address, async |writer| {
            for (chunk, length) in &chunks {
                let bytes = bytes_of(*chunk, *length);
                writer.write_checked(&lab.meta, *chunk, &bytes).await;
                let read = writer.read(*chunk, 0..*length as u32).await.unwrap();
                assert!(read == bytes, "{mode} {length}");
            }
        });
        let packets = lab.beat().xdp_packets;
        let seen = |fate| packets.get(fate).is_some_and(|packets| *packets > 0);
        // Behind the driver, datagrams that the sender sent as a batch still are one.
        let expect = (mode != "off", mode == "generic");
        assert_eq!((seen("local"), seen("super_packet")), expect, "{mode}: {packets:?}");
        node.terminate();
    }
}

#[test]
fn what_is_refused_never_reaches_user_space_and_is_counted() {
    const TIMES: u64 = 20;
    let Some(lab) = Lab::open() else { return };
    for mode in MODES {
        let node = lab.start(&["--xdp", mode]);
        // The kernel program's answers need a receiver on the other side of the pair.
        let _receiver =
            (mode == "native").then(|| Foreign::on(&lab.client, lab::CLIENT_DEVICE, foreign::PASSER));
        let epoch = lab.meta.heard().epoch();
        let (cases, before) = (cases(epoch), lab.datagrams_received());
        lab.client.run(|| {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.connect(node.address).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            for case in &cases {
                for _ in 0..TIMES {
                    socket.send(&case.bytes).unwrap();
                    if let Some(told) = case.told {
                        assert_eq!(status(&socket), told, "{mode} {}", case.reject.label());
                    }
                }
            }
        });
        for reject in Reject::ALL {
            let expect = TIMES * cases.iter().filter(|case| case.reject == *reject).count() as u64;
            lab.until(&format!("{mode}: {expect} {}", reject.label()), |beat| {
                beat.rejects.get(reject.label()).copied().unwrap_or(0) == expect
            });
        }
        // In generic mode a datagram whose length does not fit may be a batch, which user space takes apart.
        let passes = |reject| mode == "off" || mode == "generic" && reject == Reject::BadLength;
        let expect = TIMES * cases.iter().filter(|case| passes(case.reject)).count() as u64;
        assert_eq!(lab.datagrams_received() - before, expect, "{mode}");
        node.terminate();
    }
}

#[test]
fn what_is_not_ours_passes() {
    let Some(lab) = Lab::open() else { return };
    for mode in KERNEL_MODES {
        let node = lab.start(&["--xdp", mode]);
        lab.client.run(|| echo(lab::NODE_ADDRESS));
        let listener = lab.node.run(|| TcpListener::bind((lab::NODE_ADDRESS, 0)).unwrap());
        let address = listener.local_addr().unwrap();
        let sent = bytes_of(chunk(1), 1 << 20);
        let mut stream = lab.client.run(|| TcpStream::connect_timeout(&address, PATIENCE).unwrap());
        let (mut peer, _) = listener.accept().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                stream.write_all(&sent).unwrap();
                stream.shutdown(std::net::Shutdown::Write).unwrap();
            });
            let mut received = Vec::new();
            peer.read_to_end(&mut received).unwrap();
            assert!(received == sent, "{mode}");
        });
        let other = lab.node.run(|| UdpSocket::bind((lab::NODE_ADDRESS, 0)).unwrap());
        other.set_read_timeout(Some(PATIENCE)).unwrap();
        let client = lab.client.run(|| UdpSocket::bind("0.0.0.0:0").unwrap());
        client.send_to(b"not ours", other.local_addr().unwrap()).unwrap();
        let mut bytes = [0; 64];
        let length = other.recv(&mut bytes).unwrap();
        assert_eq!(&bytes[..length], b"not ours", "{mode}");
        node.terminate();
    }
}

#[test]
fn key_epochs_and_registrations_are_followed() {
    let Some(lab) = Lab::open() else { return };
    let node = lab.start(&["--xdp", "native"]);
    lab.client(node.address, async |writer| {
        writer.write_checked(&lab.meta, chunk(1), &bytes_of(chunk(1), 1000)).await;
    });
    let mut old = Datagram::put_whole(1, chunk(2), vec![7; 100]);
    {
        let mut heard = lab.meta.heard();
        heard.key_epochs.remove(&KEY_EPOCH.0);
        heard.key_epochs.insert(3, secret(3));
        heard.register_again = true;
    }
    lab.until_heard("another registration", |heard| heard.epoch() == 2);
    // The program hears of it right after user space does.
    lab.beat();
    lab.beat();
    let before = lab.datagrams_received();
    lab.client.run(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.send_to(&old.encode(), node.address).unwrap();
        old = old.with_capability(writer_capability(KeyEpoch(3)));
        socket.send_to(&old.encode(), node.address).unwrap();
    });
    for label in [Reject::UnknownKeyEpoch.label(), Reject::StaleNode.label()] {
        lab.until(label, |beat| beat.rejects.get(label) == Some(&1));
    }
    assert_eq!(lab.datagrams_received(), before);
    lab.client.run(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.connect(node.address).unwrap();
        let new = Datagram::put_whole(2, chunk(3), vec![7; 100]);
        socket.send(&new.with_capability(writer_capability(KeyEpoch(3))).encode()).unwrap();
        // Whatever the answer is, it was user space that gave it.
        status(&socket);
    });
    assert!(lab.datagrams_received() > before);
    node.terminate();
}

#[test]
fn program_of_somebody_else_stays_and_is_named() {
    let Some(lab) = Lab::open() else { return };
    let foreign = Foreign::on(&lab.node, lab::NODE_DEVICE, foreign::STRANGER);
    for mode in KERNEL_MODES {
        let (code, said) = lab.fail(&["--xdp", mode]);
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains(foreign::STRANGER) && said.contains(&format!("id {}", foreign.id)), "{said}");
    }
    let node = lab.start(&["--xdp", "auto"]);
    assert_eq!(node.mode(), "off");
    assert!(node.reason().contains(foreign::STRANGER), "{}", node.reason());
    node.terminate();
    assert_eq!(lab.program(), Some(foreign.id));
}

#[test]
fn killed_node_leaves_no_program_and_comes_back() {
    let Some(lab) = Lab::open() else { return };
    for mode in KERNEL_MODES {
        let node = lab.start(&["--xdp", mode]);
        let program = lab.program();
        assert!(program.is_some(), "{mode}");
        lab.client(node.address, async |writer| {
            writer.write_checked(&lab.meta, chunk(1), &bytes_of(chunk(1), 100_000)).await;
        });
        node.kill();
        assert_eq!(lab.program(), None, "{mode}");
        let node = lab.start(&["--xdp", mode]);
        assert!(lab.program().is_some_and(|again| Some(again) != program), "{mode}");
        lab.client(node.address, async |writer| {
            let read = writer.read(chunk(1), 0..100_000).await.unwrap();
            assert!(read == bytes_of(chunk(1), 100_000), "{mode}");
        });
        node.terminate();
        assert_eq!(lab.program(), None, "{mode}");
    }
}

#[test]
fn interface_that_vanishes_and_comes_back_gets_the_program_again() {
    let Some(lab) = Lab::open() else { return };
    for mode in KERNEL_MODES {
        let node = lab.start(&["--xdp", mode]);
        lab.disconnect();
        lab.until("the loss to be told", |beat| beat.xdp_reason.contains("node0 can't be used"));
        lab.connect();
        lab.until("the end of the loss", |beat| beat.xdp_reason.starts_with("asked for"));
        assert!(lab.program().is_some(), "{mode}");
        lab.client(node.address, async |writer| {
            writer.write_checked(&lab.meta, chunk(1), &bytes_of(chunk(1), 100_000)).await;
        });
        node.terminate();
    }
}

#[test]
fn node_says_when_answers_of_the_program_get_lost() {
    let Some(lab) = Lab::open() else { return };
    let node = lab.start(&["--xdp", "native"]);
    lab.until("the other end is not ready", |beat| beat.xdp_reason.contains("node0 has no GRO"));
    let receiver = Foreign::on(&lab.client, lab::CLIENT_DEVICE, foreign::PASSER);
    lab.until("it is", |beat| beat.xdp_reason == "asked for");
    drop(receiver);
    lab.until("it is not any more", |beat| beat.xdp_reason.contains("node0 has no GRO"));
    node.terminate();
    let node = lab.start(&["--xdp", "generic"]);
    assert_eq!(node.reason(), "asked for", "there the network stack sends them");
    node.terminate();
}

#[test]
fn auto_takes_the_best_that_the_interface_can() {
    let Some(lab) = Lab::open() else { return };
    let node = lab.start(&[]);
    assert_eq!(node.mode(), "native", "an interface alone asks for auto");
    node.terminate();
    lab.set_mtu(9000);
    let node = lab.start(&["--xdp", "auto"]);
    assert_eq!(node.mode(), "generic");
    assert!(node.reason().contains("MTU"), "{}", node.reason());
    node.terminate();
    let (code, said) = lab.fail(&["--xdp", "native"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("its MTU is too large"), "{said}");
    let (code, said) = lab.fail(&["--xdp", "generic", "--xdp-interface", "nowhere0"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("nowhere0 can't be used"), "{said}");
}

#[test]
fn only_one_thread_of_a_node_keeps_capabilities() {
    const NET_ADMIN: u64 = 1 << 12;
    const PERFMON: u64 = 1 << 38;
    const BPF: u64 = 1 << 39;
    let Some(lab) = Lab::open() else { return };
    let node = lab.start(&["--xdp", "native"]);
    let (planes, others): (Vec<_>, Vec<_>) =
        node.capabilities().into_iter().partition(|(name, _)| name == "plane");
    assert_eq!(planes, [("plane".to_owned(), NET_ADMIN | PERFMON | BPF)]);
    assert!(others.len() > 1 && others.iter().all(|(_, capabilities)| *capabilities == 0), "{others:?}");
    node.terminate();
    let node = lab.start(&["--xdp", "off"]);
    assert!(node.capabilities().iter().all(|(_, capabilities)| *capabilities != 0), "nothing to give up for");
    node.terminate();
}

#[test]
fn node_that_is_told_to_serves_as_another_user() {
    const USER: &str = "65532";
    let Some(lab) = Lab::open() else { return };
    let owned = lab.own_directory(65532, 65533);
    let data = owned.path().join("data");
    let data_dir = data.to_str().unwrap();
    for mode in MODES {
        let node = lab.start(&["--data-dir", data_dir, "--user", "65532:65533", "--xdp", mode]);
        assert_eq!(node.mode(), mode);
        let expect = [[USER; 4], ["65533"; 4]].concat().into_iter().chain(["65533"]).collect::<Vec<_>>();
        for (thread, ids) in node.users() {
            assert_eq!(ids == expect, thread != "plane" || mode == "off", "{mode} {thread}: {ids:?}");
        }
        lab.client(node.address, async |writer| {
            let chunk = chunk(u64::from(mode == "native") + 2 * u64::from(mode == "off"));
            writer.write_checked(&lab.meta, chunk, &bytes_of(chunk, 100_000)).await;
        });
        node.terminate();
    }
    assert_eq!(std::fs::metadata(&data).unwrap().uid(), 65532);
    let (code, said) = lab.fail(&["--user", "no-such-user"]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("/etc/passwd"), "{said}");
}

fn writer_capability(key_epoch: KeyEpoch) -> xdpfs_wire::Capability {
    xdpfs_wire::Capability { key_epoch, ..capability(Rights::ALL) }
}

/// The status of the next reply.
fn status(socket: &UdpSocket) -> Status {
    let mut bytes = [0; 2048];
    let length = socket.recv(&mut bytes).unwrap();
    Header::parse(bytes[..length].first_chunk().unwrap()).unwrap().status
}

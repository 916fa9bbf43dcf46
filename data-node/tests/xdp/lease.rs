//! A node that is frozen for longer than its lease: its interface refuses what is written to it.

use std::{fs, net::UdpSocket, time::Duration};

use xdpfs_wire::{Header, HeaderBytes, Opcode, Rights, Status};

use crate::{
    KERNEL_MODES, PATIENCE,
    foreign::{Foreign, PASSER},
    lab::{CLIENT_DEVICE, Lab},
    writer::{Datagram, bytes_of, capability, chunk},
};

/// Long enough that the node is seen to serve before half of it is over.
const LEASE_MS: u64 = 2000;
/// How long an answer may take before the datagram counts as one that waits in the frozen node's socket.
const ANSWER_PATIENCE: Duration = Duration::from_millis(50);

#[test]
fn frozen_nodes_interface_refuses_writes_when_the_lease_is_over_and_takes_them_again() {
    const TIMES: u64 = 20;
    let Some(lab) = Lab::open() else { return };
    // The kernel program's answers need a receiver on the other side of the pair.
    let _receiver = Foreign::on(&lab.client, CLIENT_DEVICE, PASSER);
    lab.meta.heard().lease_ms = LEASE_MS;
    for (number, mode) in (1..).zip(KERNEL_MODES) {
        let node = lab.start(&["--xdp", mode]);
        let (kept, data) = (chunk(number * 100), bytes_of(chunk(number * 100), 1000));
        lab.client(node.address, async |writer| writer.write_checked(&lab.meta, kept, &data).await);
        let epoch = lab.meta.heard().epoch();
        let sender = lab.client.run(|| UdpSocket::bind("0.0.0.0:0").unwrap());
        sender.connect(node.address).unwrap();
        let write = |number| Datagram::put_whole(epoch, chunk(number), vec![7; 100]).encode();

        node.pause();
        sender.set_read_timeout(Some(ANSWER_PATIENCE)).unwrap();
        let mut waiting = 0;
        let first = loop {
            assert!(waiting < PATIENCE.as_millis() / ANSWER_PATIENCE.as_millis(), "{mode}: nobody refuses");
            sender.send(&write(number * 100 + 1)).unwrap();
            match answer(&sender) {
                Some(header) => break header,
                None => waiting += 1,
            }
        };
        assert_eq!((first.opcode, first.status), (Opcode::Error, Status::StaleNode), "{mode}");
        assert!(waiting > 0, "{mode}: it was refused while the lease held");

        sender.set_read_timeout(Some(PATIENCE)).unwrap();
        let before = bytes_waiting(&lab);
        for _ in 0..TIMES {
            sender.send(&write(number * 100 + 2)).unwrap();
            assert_eq!(answer(&sender).map(|header| header.status), Some(Status::StaleNode), "{mode}");
        }
        assert_eq!(bytes_waiting(&lab), before, "{mode}: a write has reached the frozen node");
        sender.send(&read(number * 100)).unwrap();
        assert!(bytes_waiting(&lab) > before, "{mode}: reads pass");

        // As the leader says to a node that it has given up.
        lab.meta.heard().register_again = true;
        node.resume();
        for _ in 0..waiting {
            let header = answer(&sender).expect("what has waited is answered");
            assert_eq!((header.opcode, header.status), (Opcode::Error, Status::StaleNode), "{mode}");
        }
        assert_eq!(answer(&sender).map(|header| header.opcode), Some(Opcode::Data), "{mode}");
        lab.until_heard("another registration", |heard| heard.epoch() == epoch + 1);
        lab.until(&format!("{mode}: refusals to be counted"), |beat| {
            let answered = beat.xdp_packets.get("answered").copied();
            let counted = beat.rejects.get("lease_over").copied().unwrap_or_default();
            answered == Some(TIMES + 1) && counted > TIMES
        });
        // The program hears of the registration right after user space does.
        lab.beat();
        lab.beat();
        lab.client(node.address, async |writer| {
            let new = chunk(number * 100 + 3);
            writer.write_checked(&lab.meta, new, &bytes_of(new, 100_000)).await;
            assert!(writer.read(kept, 0..1000).await.unwrap() == data, "{mode}");
        });
        node.terminate();
    }
}

/// What the next datagram says, if one comes in time.
fn answer(socket: &UdpSocket) -> Option<Header> {
    let mut bytes = [0; 2048];
    socket.recv(&mut bytes).ok()?;
    let header: &HeaderBytes = bytes.first_chunk().unwrap();
    Some(Header::parse(header).unwrap())
}

/// Asks for the first bytes of a chunk.
fn read(number: u64) -> Vec<u8> {
    let mut read =
        Datagram::put_whole(0, chunk(number), vec![0; 1000]).with_capability(capability(Rights::READ));
    read.header.opcode = Opcode::GetPiece;
    read.encode()
}

/// In the sockets on the node's side, with what the kernel needs besides.
fn bytes_waiting(lab: &Lab) -> u64 {
    let sockets = lab.node.run(|| fs::read_to_string("/proc/thread-self/net/udp").unwrap());
    let waiting = |line: &str| {
        let (_, waiting) = line.split_whitespace().nth(4)?.split_once(':')?;
        u64::from_str_radix(waiting, 16).ok()
    };
    sockets.lines().skip(1).filter_map(waiting).sum()
}

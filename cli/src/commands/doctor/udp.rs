//! The sockets that xdpfs would have, and whether segmented sends arrive as they left.
//!
//! Some kernels and drivers damage datagrams of a segmented send. Each datagram's own checksum would catch that in a
//! transfer; here it is found before.

use std::{
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    time::Duration,
};

use rustix::net::sockopt;
use xdpfs_transport::{
    Transmit,
    shell::{KERNEL_BUFFER_LEN, ReceiveBuffers, Socket},
};
use xdpfs_wire::PieceClass;

use super::finding::{Check, Finding};

/// How long a datagram on this host may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// Full datagrams in one batch, besides the last.
const FULL: usize = 10;

/// One segmented send: datagrams of one length, and a last one that may be shorter.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Batch {
    segment_len: usize,
    last_len: usize,
}

/// What became of a burst.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct Arrived {
    sent: usize,
    intact: usize,
    /// Not what was sent, by length or by content.
    damaged: usize,
}

/// What the kernel gave for what was asked, as it counts: twice, for its own overhead.
#[derive(Clone, Copy, Debug)]
struct Buffers {
    receive: usize,
    send: usize,
}

/// The sizes of the buffers that a socket of xdpfs gets in this process.
pub(super) fn buffers() -> Finding {
    let sizes = || -> io::Result<Buffers> {
        let socket = UdpSocket::bind((IpAddr::from([127, 0, 0, 1]), 0))?;
        let second = socket.try_clone()?;
        let receive = Socket::new(socket)?.receive_buffer_bytes();
        Ok(Buffers { receive, send: sockopt::socket_send_buffer_size(&second)? })
    };
    match sizes() {
        Ok(buffers) => judge_buffers(buffers),
        Err(error) => Finding::fail(
            Check::SocketBuffers,
            format!("no socket can be had: {error}"),
            "neither a client nor a data node can run here",
        )
        .with_fix("see whether this sandbox allows UDP sockets"),
    }
}

fn judge_buffers(buffers: Buffers) -> Finding {
    let mib = |bytes: usize| format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20));
    let seen = format!(
        "asked for {}, got {} to receive and {} to send",
        mib(KERNEL_BUFFER_LEN),
        mib(buffers.receive / 2),
        mib(buffers.send / 2)
    );
    let small = |bytes: usize| bytes / 2 < KERNEL_BUFFER_LEN;
    let settings = [("rmem_max", small(buffers.receive)), ("wmem_max", small(buffers.send))];
    let settings: Vec<_> = settings.iter().filter(|(_, is_small)| *is_small).map(|(name, _)| name).collect();
    if settings.is_empty() {
        return Finding::ok(Check::SocketBuffers, seen);
    }
    let fix: Vec<_> = settings.iter().map(|name| format!("net.core.{name}={KERNEL_BUFFER_LEN}")).collect();
    if !small(buffers.receive) {
        return Finding::ok(Check::SocketBuffers, format!("{seen}, which only costs some waiting"));
    }
    Finding::warn(
        Check::SocketBuffers,
        seen,
        "clients ask for less at once, and a burst from several nodes is dropped in part and asked for again; servers \
         with NET_ADMIN get what they ask for",
    )
    .with_fix(format!("sysctl -w {}", fix.join(" ")))
}

/// Sends batches of every shape from and to `address`, and looks at each datagram.
pub(super) async fn segments(address: IpAddr) -> Finding {
    let subject = address.to_string();
    let mut arrived = Arrived::default();
    for batch in batches() {
        match burst(address, batch).await {
            Ok(this) => arrived.add(&this),
            Err(error) => {
                return Finding::warn(
                    Check::UdpSegments,
                    format!("a segmented send fails: {error}"),
                    "datagrams are sent one by one, which costs about ten times as much per byte",
                )
                .with_fix("see the interface's MTU, and whether this sandbox allows UDP_SEGMENT")
                .about(subject);
            }
        }
    }
    judge_segments(&arrived).about(subject)
}

/// Every class with the ends that have been trouble: as long as the others, short, and a bare header.
fn batches() -> impl Iterator<Item = Batch> {
    let classes = PieceClass::ALL.into_iter().filter(|class| *class != PieceClass::Jumbo);
    classes.flat_map(|class| {
        let segment_len = class.datagram_len();
        [segment_len, segment_len - 1, xdpfs_wire::HEADER_LEN, 1]
            .map(|last_len| Batch { segment_len, last_len })
    })
}

async fn burst(address: IpAddr, batch: Batch) -> io::Result<Arrived> {
    let bind = || UdpSocket::bind((address, 0)).and_then(Socket::new);
    let (sender, receiver) = (bind()?, bind()?);
    let (from, destination) = (sender.local_addr()?, receiver.local_addr()?);
    let sent = batch.datagrams();
    let transmit = Transmit::to(destination.into(), Some(batch.segment_len));
    sender.send(transmit, &sent.concat()).await?;
    let mut arrived = Arrived { sent: sent.len(), ..Arrived::default() };
    let mut wanted = sent;
    let take_all = async {
        let mut buffers = ReceiveBuffers::default();
        while !wanted.is_empty() {
            receiver.receive(&mut buffers).await?;
            let datagrams = buffers.datagrams().map(|(peer, datagram)| (peer.address, datagram));
            take(&mut arrived, &mut wanted, from, datagrams);
        }
        Ok(())
    };
    // Whatever has not come by then is missing, which the counts show.
    tokio::time::timeout(PATIENCE, take_all).await.unwrap_or(Ok(())).map(|()| arrived)
}

/// Crosses what came off what is wanted.
fn take<'a>(
    arrived: &mut Arrived,
    wanted: &mut Vec<Vec<u8>>,
    from: SocketAddr,
    datagrams: impl Iterator<Item = (SocketAddr, &'a [u8])>,
) {
    for (_, datagram) in datagrams.filter(|(sender, _)| *sender == from) {
        match wanted.iter().position(|wanted| wanted == datagram) {
            Some(at) => {
                wanted.remove(at);
                arrived.intact += 1;
            }
            None => arrived.damaged += 1,
        }
    }
}

fn judge_segments(arrived: &Arrived) -> Finding {
    let Arrived { sent, intact, damaged } = *arrived;
    if damaged > 0 || intact < sent {
        let seen =
            format!("of {sent} datagrams in segmented sends {intact} came intact and {damaged} damaged");
        return Finding::fail(
            Check::UdpSegments,
            seen,
            "segmentation offload is broken on this path: transfers ask again and again and crawl",
        )
        .with_fix("ethtool -K IFACE tx-udp-segmentation off, and update the kernel");
    }
    Finding::ok(Check::UdpSegments, format!("{sent} datagrams in segmented sends came intact"))
}

impl Batch {
    /// No two of them are alike, and no part of one is like another.
    fn datagrams(self) -> Vec<Vec<u8>> {
        let datagram = |number: usize, len: usize| {
            let byte = |at: usize| {
                let mixed = (number as u32 ^ 0x9e37_79b9).wrapping_mul(2_654_435_761) ^ at as u32;
                (mixed.wrapping_mul(2_246_822_519) >> 24) as u8
            };
            (0..len).map(byte).collect()
        };
        let lens = std::iter::repeat_n(self.segment_len, FULL).chain([self.last_len]);
        lens.enumerate().map(|(number, len)| datagram(number, len)).collect()
    }
}

impl Arrived {
    fn add(&mut self, other: &Self) {
        self.sent += other.sent;
        self.intact += other.intact;
        self.damaged += other.damaged;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::doctor::finding::State;

    const FROM: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9);

    fn taken(came: &[&[u8]]) -> (Arrived, usize) {
        let (mut arrived, mut wanted) =
            (Arrived { sent: 2, ..Arrived::default() }, vec![vec![1, 2], vec![3]]);
        take(&mut arrived, &mut wanted, FROM, came.iter().map(|datagram| (FROM, *datagram)));
        (arrived, wanted.len())
    }

    #[test]
    fn damage_of_any_kind_is_seen() {
        let check = |came: &[&[u8]], intact, damaged, state| {
            let (arrived, missing) = taken(came);
            assert_eq!((arrived.intact, arrived.damaged, missing), (intact, damaged, 2 - intact), "{came:?}");
            assert_eq!(judge_segments(&arrived).state, state, "{came:?}");
        };
        check(&[&[1, 2], &[3]], 2, 0, State::Ok);
        check(&[&[3], &[1, 2]], 2, 0, State::Ok);
        check(&[&[1, 2]], 1, 0, State::Fail);
        check(&[&[1, 2, 3]], 0, 1, State::Fail);
        check(&[&[1, 9], &[3]], 1, 1, State::Fail);
        check(&[&[1, 2], &[1, 2], &[3]], 2, 1, State::Fail);
    }

    #[test]
    fn datagrams_of_a_batch_differ_in_every_part() {
        for batch in batches() {
            let datagrams = batch.datagrams();
            assert_eq!(datagrams.len(), FULL + 1);
            assert!(datagrams.iter().rev().skip(1).all(|datagram| datagram.len() == batch.segment_len));
            assert_eq!(datagrams[FULL].len(), batch.last_len);
            for (at, datagram) in datagrams.iter().enumerate().take(FULL) {
                let halves = |datagram: &[u8]| datagram[datagram.len() / 2..].to_vec();
                assert!(datagrams[..at].iter().all(|other| halves(other) != halves(datagram)), "{at}");
            }
        }
    }

    #[test]
    fn small_receive_buffers_are_warned_of_with_the_setting() {
        let check = |receive, send, state, fix: Option<&str>| {
            let found = judge_buffers(Buffers { receive, send });
            assert_eq!((found.state, found.fix.as_deref()), (state, fix), "{found:?}");
        };
        check(16 << 20, 16 << 20, State::Ok, None);
        check(16 << 20, 425_984, State::Ok, None);
        check(425_984, 16 << 20, State::Warn, Some("sysctl -w net.core.rmem_max=8388608"));
        let both = "sysctl -w net.core.rmem_max=8388608 net.core.wmem_max=8388608";
        check(425_984, 425_984, State::Warn, Some(both));
    }

    #[tokio::test]
    async fn loopback_keeps_segmented_sends_whole() {
        let found = segments(IpAddr::from([127, 0, 0, 1])).await;
        assert_eq!(found.state, State::Ok, "{found:?}");
    }
}

//! A relay before a data node that loses, reorders, doubles and corrupts datagrams in both directions, at given
//! rates and by a seed, and counts what it did.

mod lane;

use std::{
    collections::BTreeMap,
    io,
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

pub use self::lane::Rates;
use self::lane::{Fate, Lane};

/// What a relay did, both directions together.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct ShimCounters {
    /// Datagrams that came.
    pub received: u64,
    /// Of these, never sent on.
    pub lost: u64,
    /// Sent on behind later ones.
    pub reordered: u64,
    /// Sent on twice.
    pub duplicated: u64,
    /// Sent on with a bit flipped.
    pub corrupted: u64,
    /// Refused because too many clients use the relay at once.
    pub crowded: u64,
}

#[derive(Debug, Default)]
struct Tally {
    received: AtomicU64,
    lost: AtomicU64,
    reordered: AtomicU64,
    duplicated: AtomicU64,
    corrupted: AtomicU64,
    crowded: AtomicU64,
}

/// A running relay. Dropping it ends its threads.
#[derive(Debug)]
pub struct UdpShim {
    address: SocketAddr,
    shared: Arc<Shared>,
    front: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    /// Towards clients.
    front: UdpSocket,
    node: SocketAddr,
    rates: Rates,
    tally: Tally,
    stop: AtomicBool,
}

impl UdpShim {
    /// Relays between whoever sends to `listen` and `node`.
    ///
    /// # Errors
    /// If the address cannot be bound.
    pub fn start(listen: SocketAddr, node: SocketAddr, rates: Rates, seed: u64) -> io::Result<Self> {
        let front = socket(listen)?;
        let address = front.local_addr()?;
        let shared =
            Arc::new(Shared { front, node, rates, tally: Tally::default(), stop: AtomicBool::new(false) });
        let worker = Arc::clone(&shared);
        let front =
            thread::Builder::new().name("udp-shim".to_owned()).spawn(move || relay_to_node(&worker, seed))?;
        Ok(Self { address, shared, front: Some(front) })
    }

    /// Where clients send to.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it has done so far.
    #[must_use]
    pub fn counters(&self) -> ShimCounters {
        let tally = &self.shared.tally;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ShimCounters {
            received: read(&tally.received),
            lost: read(&tally.lost),
            reordered: read(&tally.reordered),
            duplicated: read(&tally.duplicated),
            corrupted: read(&tally.corrupted),
            crowded: read(&tally.crowded),
        }
    }
}

impl Drop for UdpShim {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(front) = self.front.take() {
            // A panic in it has been printed by itself.
            let _printed = front.join();
        }
    }
}

impl Tally {
    fn count(&self, fate: Fate) {
        let counter = match fate {
            Fate::Corrupted => &self.corrupted,
            Fate::Duplicated => &self.duplicated,
            Fate::Lost => &self.lost,
            Fate::Passed => return,
            Fate::Reordered => &self.reordered,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// Clients that one relay serves at once, each with a socket and a thread.
const FLOWS_MAX: usize = 128;
/// The longest that a held datagram waits for others to overtake it, and that a stop takes.
const TICK: Duration = Duration::from_millis(5);
/// Room for a burst that a whole chunk's worth of pieces arrives in.
const SOCKET_BUFFER_BYTES: usize = 4 << 20;
const DATAGRAM_MAX: usize = 65_536;

fn socket(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(address)?;
    // The kernel may grant less; the loss that follows is the kind of loss that the relay is for.
    let _best_effort = rustix::net::sockopt::set_socket_recv_buffer_size(&socket, SOCKET_BUFFER_BYTES);
    let _best_effort = rustix::net::sockopt::set_socket_send_buffer_size(&socket, SOCKET_BUFFER_BYTES);
    socket.set_read_timeout(Some(TICK))?;
    Ok(socket)
}

/// A client's way back.
struct Flow {
    socket: Arc<UdpSocket>,
    lane: Lane,
    back: JoinHandle<()>,
}

fn relay_to_node(shared: &Arc<Shared>, seed: u64) {
    let mut flows: BTreeMap<SocketAddr, Flow> = BTreeMap::new();
    let mut buffer = vec![0; DATAGRAM_MAX];
    while !shared.stop.load(Ordering::Relaxed) {
        match shared.front.recv_from(&mut buffer) {
            Ok((len, client)) => {
                shared.tally.received.fetch_add(1, Ordering::Relaxed);
                let Some(flow) = flow_of(&mut flows, client, shared, seed) else {
                    shared.tally.crowded.fetch_add(1, Ordering::Relaxed);
                    continue;
                };
                // A datagram that cannot be sent is lost like any other.
                let send = |bytes: &[u8]| drop(flow.socket.send(bytes));
                flow.lane.pass(&mut buffer[..len], |fate| shared.tally.count(fate), send);
            }
            Err(_nothing_came) => {
                for flow in flows.values_mut() {
                    flow.lane.release(|bytes| drop(flow.socket.send(bytes)));
                }
            }
        }
    }
    for flow in flows.into_values() {
        let _printed = flow.back.join();
    }
}

fn flow_of<'a>(
    flows: &'a mut BTreeMap<SocketAddr, Flow>,
    client: SocketAddr,
    shared: &Arc<Shared>,
    seed: u64,
) -> Option<&'a mut Flow> {
    if !flows.contains_key(&client) {
        if flows.len() >= FLOWS_MAX {
            return None;
        }
        let number = 2 * flows.len() as u64;
        let socket = socket(SocketAddr::new(shared.front.local_addr().ok()?.ip(), 0)).ok()?;
        socket.connect(shared.node).ok()?;
        let socket = Arc::new(socket);
        let (behind, worker) = (Arc::clone(&socket), Arc::clone(shared));
        let lane = Lane::new(shared.rates, seed ^ (number + 1) << 32);
        let back = thread::Builder::new()
            .name("udp-shim-back".to_owned())
            .spawn(move || relay_to_client(&worker, &behind, client, lane))
            .ok()?;
        let lane = Lane::new(shared.rates, seed ^ (number + 2) << 32);
        flows.insert(client, Flow { socket, lane, back });
    }
    flows.get_mut(&client)
}

fn relay_to_client(shared: &Shared, behind: &UdpSocket, client: SocketAddr, mut lane: Lane) {
    let mut buffer = vec![0; DATAGRAM_MAX];
    // A datagram that cannot be sent is lost like any other.
    let send = |bytes: &[u8]| drop(shared.front.send_to(bytes, client));
    while !shared.stop.load(Ordering::Relaxed) {
        match behind.recv(&mut buffer) {
            Ok(len) => {
                shared.tally.received.fetch_add(1, Ordering::Relaxed);
                lane.pass(&mut buffer[..len], |fate| shared.tally.count(fate), send);
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            Err(_nothing_came) => lane.release(send),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn echo() -> (SocketAddr, JoinHandle<()>) {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        let address = socket.local_addr().expect("it is bound");
        let worker = thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok((len, from)) = socket.recv_from(&mut buffer) {
                if &buffer[..len] == b"end" {
                    return;
                }
                socket.send_to(&buffer[..len], from).expect("loopback takes it");
            }
        });
        (address, worker)
    }

    #[test]
    fn a_faithful_relay_passes_everything_both_ways() {
        let (node, worker) = echo();
        let rates = Rates { loss: 0.0, reorder: 0.0, duplicate: 0.0, corrupt: 0.0 };
        let shim =
            UdpShim::start("127.0.0.1:0".parse().expect("an address"), node, rates, 1).expect("it starts");
        let client = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        client.set_read_timeout(Some(Duration::from_secs(10))).expect("a socket has one");
        for number in 0..100_u32 {
            client.send_to(&number.to_le_bytes(), shim.address()).expect("loopback takes it");
            let mut buffer = [0; 64];
            let (len, from) = client.recv_from(&mut buffer).expect("the echo comes back");
            assert_eq!((&buffer[..len], from), (&number.to_le_bytes()[..], shim.address()));
        }
        let expected = ShimCounters { received: 200, ..ShimCounters::default() };
        assert_eq!(shim.counters(), expected);
        client.send_to(b"end", shim.address()).expect("loopback takes it");
        worker.join().expect("it ended");
    }
}

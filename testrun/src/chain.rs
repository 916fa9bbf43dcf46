//! A generator's namespace, one in the middle and a sink, in a row; or generator and sink alone.
//!
//! A frame goes the whole way within the generator's own call: each device hands on to the next one in the same soft
//! interrupt, so the rate is what one core does. The sink drops by XDP, the cheapest end that there is, for all alike;
//! a frame that the stack has made a buffer of is not copied there, since its headroom is still the generator's.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context as _, ensure};
use aya::programs::XdpMode;
use xdpfs_plane::{Fate, maps::Route};

use crate::{
    fixture::{NODE, PORT, THERE},
    frames::{CLIENT_MAC, EDGE_MAC, Wrapping},
    kernel::{Fixed, Kernel, QUIET},
    netns::Namespace,
    reference::Reference,
};

const GENERATOR: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// What clients know.
const MIDDLE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const SINK: Ipv4Addr = Ipv4Addr::new(10, 1, 2, 3);
const SINK_PORT: u16 = u16::from_be_bytes(THERE.port);
/// Frames before the clock starts, for neighbours, flows and caches.
const WARM_UP: u32 = 50_000;

/// What happens to a frame between the generator and the end.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Way {
    /// Nothing: the generator's neighbour is the sink.
    NoMiddle,
    /// xdpfs in the middle.
    Xdpfs,
    /// The least that redirects, in the middle.
    BareRedirect,
    /// The kernel routes.
    IpForward,
    /// The kernel routes to another destination, as iptables tells it.
    IptablesDnat,
    /// A bridge in the middle.
    Bridge,
    /// The generator's neighbour drops them by XDP.
    XdpDrop,
    /// The generator's neighbour runs xdpfs, which refuses them.
    XdpfsReject,
    /// The generator's neighbour drops them by nftables, as early as that can.
    NftDrop,
}

impl Way {
    pub const ALL: [(&str, Self); 9] = [
        ("no_middle", Self::NoMiddle),
        ("xdpfs", Self::Xdpfs),
        ("bare_redirect", Self::BareRedirect),
        ("ip_forward", Self::IpForward),
        ("iptables_dnat", Self::IptablesDnat),
        ("bridge", Self::Bridge),
        ("xdp_drop", Self::XdpDrop),
        ("xdpfs_reject", Self::XdpfsReject),
        ("nft_drop", Self::NftDrop),
    ];

    fn has_middle(self) -> bool {
        matches!(self, Self::Xdpfs | Self::BareRedirect | Self::IpForward | Self::IptablesDnat | Self::Bridge)
    }
}

/// Programs stay on their interfaces as long as this lives.
#[derive(Debug)]
pub struct Chain {
    way: Way,
    generator: Reference,
    source: Namespace,
    sink: Namespace,
    references: Vec<Reference>,
    kernel: Option<Kernel>,
    _middle: Option<Namespace>,
}

impl Chain {
    pub fn build(way: Way) -> anyhow::Result<Self> {
        let (source, sink) = (Namespace::new()?, Namespace::new()?);
        let middle = way.has_middle().then(Namespace::new).transpose()?;
        match &middle {
            Some(middle) => {
                wire(("g0", &source, CLIENT_MAC), ("m0", middle, EDGE_MAC))?;
                wire(("m1", middle, THERE.source_mac), ("k0", &sink, THERE.destination_mac))?;
            }
            None => wire(("g0", &source, CLIENT_MAC), ("k0", &sink, THERE.destination_mac))?,
        }
        let mut generator = Reference::load("xdpfs_generate")?;
        let g0 = source.if_index("g0")?;
        source.enter(|| generator.aim(g0))?;
        let mut chain =
            Self { way, generator, source, sink, references: Vec::new(), kernel: None, _middle: None };
        if let Some(middle) = middle {
            chain.fill(&middle)?;
            chain._middle = Some(middle);
        }
        chain.end()?;
        Ok(chain)
    }

    /// Packets a second that arrive at the end, of `count` with this datagram.
    pub fn rate(&mut self, datagram: &[u8], count: u32) -> anyhow::Result<f64> {
        let frame = self.frame(datagram);
        self.send(&frame, WARM_UP)?;
        let before = self.arrived()?;
        let began = std::time::Instant::now();
        self.send(&frame, count)?;
        let took = began.elapsed();
        let arrived = self.arrived()? - before;
        ensure!(arrived * 100 >= u64::from(count) * 99, "{arrived} of {count} frames arrived");
        Ok(arrived as f64 / took.as_secs_f64())
    }

    fn send(&mut self, frame: &[u8], count: u32) -> anyhow::Result<()> {
        let Self { generator, source, .. } = self;
        source.enter(|| generator.generate(frame, count))
    }

    /// Counted where it counts: xdpfs by what it did, everything else by the last interface.
    fn arrived(&mut self) -> anyhow::Result<u64> {
        let fate = match self.way {
            Way::XdpfsReject => Fate::Refused,
            _ => return self.sink.received("k0"),
        };
        let kernel = self.kernel.as_ref().context("no program")?;
        Ok(kernel.counts()?[fate.counter() as usize])
    }

    fn frame(&self, datagram: &[u8]) -> Vec<u8> {
        let destination = match self.way {
            Way::Xdpfs | Way::XdpfsReject | Way::IptablesDnat => MIDDLE,
            _ => SINK,
        };
        let wrapping =
            Wrapping { tags: &[], source: IpAddr::V4(GENERATOR), destination: IpAddr::V4(destination) };
        let mut frame = wrapping.frame(PORT, datagram);
        if !matches!(self.way, Way::Xdpfs | Way::BareRedirect | Way::IpForward | Way::IptablesDnat) {
            frame[..6].copy_from_slice(&THERE.destination_mac);
        }
        frame
    }

    /// Sets up the middle.
    fn fill(&mut self, middle: &Namespace) -> anyhow::Result<()> {
        let (m0, m1) = (middle.if_index("m0")?, middle.if_index("m1")?);
        match self.way {
            Way::Xdpfs => {
                let mut kernel = Kernel::load(Fixed { clock_runs: true, ..Fixed::default() })?;
                kernel.settings(QUIET)?;
                kernel.route(NODE.node, Route { v4: SINK.octets(), ..THERE })?;
                middle.enter(|| {
                    kernel.device_to(THERE.device, m1)?;
                    kernel.attach(m0, XdpMode::Driver)
                })?;
                self.kernel = Some(kernel);
            }
            Way::BareRedirect => {
                let mut bare = Reference::load("xdpfs_bare_redirect")?;
                middle.enter(|| {
                    bare.aim(m1)?;
                    bare.attach(m0)
                })?;
                self.references.push(bare);
            }
            Way::Bridge => {
                let sink = mac(THERE.destination_mac);
                middle.run(&format!(
                    "ip link add br0 type bridge
                     ip link set m0 master br0
                     ip link set m1 master br0
                     ip link set br0 up
                     bridge fdb replace {sink} dev m1 master static
                     ethtool -K m0 gro on"
                ))?;
            }
            _ => {
                middle.sysctl("net/ipv4/ip_forward", "1")?;
                let (generator, sink) = (mac(CLIENT_MAC), mac(THERE.destination_mac));
                middle.run(&format!(
                    "ip address add {MIDDLE}/24 dev m0
                     ip address add 10.1.2.1/24 dev m1
                     ip neighbour replace {GENERATOR} lladdr {generator} dev m0 nud permanent
                     ip neighbour replace {SINK} lladdr {sink} dev m1 nud permanent
                     ethtool -K m0 gro on"
                ))?;
                if self.way == Way::IptablesDnat {
                    middle.run(&format!(
                        "iptables -t nat -A PREROUTING -p udp -d {MIDDLE} --dport {PORT} -j DNAT --to-destination {SINK}:{SINK_PORT}"
                    ))?;
                }
            }
        }
        Ok(())
    }

    /// Sets up the end.
    fn end(&mut self) -> anyhow::Result<()> {
        let k0 = self.sink.if_index("k0")?;
        match self.way {
            Way::XdpfsReject => {
                let mut kernel = Kernel::load(Fixed { clock_runs: true, ..Fixed::default() })?;
                kernel.settings(QUIET)?;
                self.sink.enter(|| kernel.attach(k0, XdpMode::Driver))?;
                self.kernel = Some(kernel);
            }
            Way::NftDrop => self.sink.run(
                "ethtool -K k0 gro on
                 nft add table netdev bench
                 nft add chain netdev bench first { type filter hook ingress device k0 priority -500; }
                 nft add rule netdev bench first udp dport 7400 drop",
            )?,
            _ => {
                let mut drop = Reference::load("xdpfs_drop")?;
                self.sink.enter(|| drop.attach(k0))?;
                self.references.push(drop);
            }
        }
        Ok(())
    }
}

/// Joins two namespaces.
fn wire(one: (&str, &Namespace, [u8; 6]), other: (&str, &Namespace, [u8; 6])) -> anyhow::Result<()> {
    let (name, namespace, address) = (one.0, one.1, mac(one.2));
    let (peer, peer_path, peer_address) = (other.0, other.1.path(), mac(other.2));
    namespace.run(&format!(
        "ip link add {name} address {address} numtxqueues 1 numrxqueues 1 type veth peer name {peer} address {peer_address} numtxqueues 1 numrxqueues 1 netns {peer_path}
         ip link set {name} up"
    ))?;
    other.1.run(&format!("ip link set {peer} up"))
}

fn mac(bytes: [u8; 6]) -> String {
    let [a, b, c, d, e, f] = bytes;
    format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
}

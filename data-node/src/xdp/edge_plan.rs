//! Where nodes are, and what the kernel programs are told of that: decided from what the network looks like.
//!
//! Invariant: nothing is asked and nothing is done here.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, SocketAddr},
};

use xdpfs_host::Interface;
use xdpfs_plane::maps::{
    NEXT_HOPS_MAX, NextHop, OWN_ADDRESSES_MAX, OwnAddress, Place, REPLY_SOURCES_MAX, ReplyKey, ReplySource,
    Route,
};
use xdpfs_wire::NodeId;

use super::{
    NodeRoute,
    network::{Mac, Network, Prefix, Way, mapped, v4_of},
    tables::{Contents, prefix_key},
};

/// How a node is reached without the network stack.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Spot {
    /// The interface that frames leave by.
    pub(super) device: u32,
    pub(super) destination_mac: Mac,
    pub(super) source_mac: Mac,
    /// Who has that MAC, and behind which interface: a bridge has ports.
    pub(super) neighbour: (u32, IpAddr),
    /// Whether the kernel is sure of the MAC.
    pub(super) is_fresh: bool,
}

/// Why a node is reached by the network stack only.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Unplaced {
    /// It is on this host itself.
    Here,
    /// Its interface has gone or is down.
    Interface(u32),
    /// Nobody knows its MAC yet.
    Neighbour(u32, IpAddr),
    /// Its interface has no MAC addresses.
    NotEthernet(String),
    /// There is no route.
    Nowhere,
    /// Its bridge doesn't know the port yet.
    Port(String, (u32, IpAddr)),
    /// It is on the clients' side, and its replies would not come by here.
    Uplink,
    /// Clients know no address of its IP version.
    Version,
}

/// What is ready for packets to and from nodes behind one interface.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Outlet {
    /// The entry of `DEVICES`.
    pub(super) entry: u32,
    /// Replies cross in the driver.
    pub(super) by_xdp: bool,
}

/// The addresses that clients know.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Identity {
    pub(super) v4: Option<IpAddr>,
    pub(super) v6: Option<IpAddr>,
    pub(super) port: u16,
}

impl Identity {
    /// What a socket that listens on `listen` is known as: by that address, or by the one that clients were told if it is
    /// this host's, or by the main ones of the uplink.
    pub(super) fn of(listen: SocketAddr, advertised: Option<IpAddr>, uplink: u32, network: &Network) -> Self {
        let port = listen.port();
        let ip = listen.ip().to_canonical();
        if !ip.is_unspecified() {
            let (v4, v6) = if ip.is_ipv4() { (Some(ip), None) } else { (None, Some(ip)) };
            return Self { v4, v6, port };
        }
        let main = |is_v4| {
            let here = |ip: &IpAddr| network.addresses.iter().any(|own| own.address == *ip);
            if let Some(told) = advertised.filter(|told| told.is_ipv4() == is_v4).filter(here) {
                return Some(told);
            }
            let mut mains = network.addresses.iter().filter(|own| own.interface == uplink && own.is_main);
            mains.find(|own| own.address.is_ipv4() == is_v4).map(|own| own.address)
        };
        // A socket of IPv4 hears nothing else; one of IPv6 hears both, unless it was told not to.
        Self { v4: main(true), v6: if listen.is_ipv6() { main(false) } else { None }, port }
    }

    fn speaks(&self, ip: IpAddr) -> bool {
        if ip.is_ipv4() { self.v4.is_some() } else { self.v6.is_some() }
    }
}

/// Where a node is whose address is reached by `way`.
pub(super) fn locate(
    network: &Network,
    identity: &Identity,
    uplink: u32,
    direct: SocketAddr,
    way: Way,
) -> Result<Spot, Unplaced> {
    if !identity.speaks(direct.ip()) {
        return Err(Unplaced::Version);
    }
    let (number, ip) = match way {
        Way::Here => return Err(Unplaced::Here),
        Way::Nowhere => return Err(Unplaced::Nowhere),
        Way::By { interface, neighbour } => (interface, neighbour),
    };
    if number == uplink {
        return Err(Unplaced::Uplink);
    }
    let up = |number: u32| network.interfaces.get(&number).filter(|interface| interface.is_up);
    let interface = up(number).ok_or(Unplaced::Interface(number))?;
    if !interface.is_ethernet {
        return Err(Unplaced::NotEthernet(interface.name.clone()));
    }
    let neighbour = network.neighbour(number, ip);
    let (mac, is_fresh) = neighbour
        .and_then(|neighbour| Some((neighbour.mac?, neighbour.is_fresh)))
        .ok_or(Unplaced::Neighbour(number, ip))?;
    let device = if interface.kind == "bridge" {
        let port = network.port(number, mac);
        port.ok_or_else(|| Unplaced::Port(interface.name.clone(), (number, ip)))?
    } else {
        number
    };
    up(device).ok_or(Unplaced::Interface(device))?;
    let (destination_mac, source_mac) = (mac, interface.mac);
    Ok(Spot { device, destination_mac, source_mac, neighbour: (number, ip), is_fresh })
}

/// What the maps should hold. Nodes without a spot, or whose device isn't ready, are left to user space.
pub(super) fn contents(
    nodes: &[NodeRoute],
    spots: &BTreeMap<NodeId, Spot>,
    outlets: &BTreeMap<u32, Outlet>,
    identity: &Identity,
    network: &Network,
) -> Contents {
    let mut contents = Contents { own: own_addresses(identity, network), ..Contents::default() };
    for NodeRoute { target, direct } in nodes {
        let node_epoch = target.epoch.0;
        let spot = spots.get(&target.node);
        let ready = spot.and_then(|spot| Some((spot, outlets.get(&spot.device)?)));
        let room = contents.reply_sources.len() < REPLY_SOURCES_MAX as usize;
        let Some((spot, outlet)) = ready.filter(|_| room) else {
            let route = Route { place: Place::RELAY, node_epoch, ..Route::default() };
            contents.routes.insert(target.node, route);
            continue;
        };
        let ip = direct.ip().to_canonical();
        let port = direct.port().to_be_bytes();
        let v6 = if ip.is_ipv6() { mapped(ip) } else { [0; 16] };
        let (Spot { destination_mac, source_mac, .. }, device) = (*spot, outlet.entry);
        let route = Route {
            place: Place::DEVICE,
            device,
            v4: v4_of(ip),
            v6,
            destination_mac,
            source_mac,
            port,
            node_epoch,
        };
        contents.routes.insert(target.node, route);
        let key = ReplyKey { device: spot.device, address: mapped(ip), port, reserved: [0; 2] };
        let source = ReplySource {
            v4: identity.v4.map_or([0; 4], v4_of),
            v6: identity.v6.map_or([0; 16], mapped),
            port: identity.port.to_be_bytes(),
            reserved: [0; 2],
        };
        contents.reply_sources.insert(key, source);
    }
    contents
}

/// This host's addresses. Those that clients know come first, if there are too many.
fn own_addresses(identity: &Identity, network: &Network) -> BTreeMap<[u8; 16], OwnAddress> {
    let served = identity.v4.into_iter().chain(identity.v6).map(|ip| (mapped(ip), OwnAddress::SERVED));
    let mut own: BTreeMap<_, _> = served.collect();
    for address in &network.addresses {
        if own.len() < OWN_ADDRESSES_MAX as usize {
            own.entry(mapped(address.address)).or_insert(OwnAddress::OTHER);
        }
    }
    own
}

/// Where frames for clients go from the uplink, as far as the kernel's tables of routes and neighbours say. Clients
/// that are reached by another interface, or whose MAC is not known, have no hop.
pub(super) fn next_hops(
    uplink: &Interface,
    network: &Network,
    prefixes: &[Prefix],
) -> BTreeMap<(u32, [u8; 16]), NextHop> {
    let hop = |mac: Option<Mac>| {
        mac.map(|destination_mac| NextHop { destination_mac, source_mac: uplink.mac }).unwrap_or_default()
    };
    let mut hops = BTreeMap::new();
    for prefix in prefixes {
        let router = prefix.router.filter(|_| prefix.interface == uplink.index);
        let neighbour = router.and_then(|router| network.neighbour(uplink.index, router));
        let hop = hop(neighbour.and_then(|neighbour| neighbour.mac));
        // Of several routes to one prefix the kernel lists the best one first.
        hops.entry(prefix_key(prefix.address, prefix.len)).or_insert(hop);
    }
    for neighbour in network.neighbours.iter().filter(|neighbour| neighbour.interface == uplink.index) {
        if hops.len() >= NEXT_HOPS_MAX as usize {
            break;
        }
        let len = if neighbour.ip.is_ipv4() { 32 } else { 128 };
        hops.insert(prefix_key(neighbour.ip, len), hop(neighbour.mac));
    }
    hops
}

impl Unplaced {
    /// Whom the kernel should ask about, so that this ends.
    pub(super) fn unknown(&self) -> Option<(u32, IpAddr)> {
        match self {
            Self::Neighbour(interface, ip) | Self::Port(_, (interface, ip)) => Some((*interface, *ip)),
            Self::Here
            | Self::Interface(_)
            | Self::NotEthernet(_)
            | Self::Nowhere
            | Self::Uplink
            | Self::Version => None,
        }
    }
}

impl fmt::Display for Unplaced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Here => write!(f, "it is on this host itself"),
            Self::Interface(number) => write!(f, "interface {number} is down or gone"),
            Self::Neighbour(_, ip) => write!(f, "{ip} has not said its MAC address yet"),
            Self::NotEthernet(name) => write!(f, "{name} is not Ethernet"),
            Self::Nowhere => write!(f, "there is no route to it"),
            Self::Port(bridge, _) => write!(f, "{bridge} does not know its port yet"),
            Self::Uplink => write!(f, "it is behind the uplink, so its replies would not come by here"),
            Self::Version => write!(f, "clients know no address of its IP version"),
        }
    }
}

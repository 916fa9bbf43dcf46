//! The host's network as the kernel tells it: interfaces, addresses, neighbours, and the way to an address.
//!
//! Invariant: it is only read here; what is done about it is decided elsewhere.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr},
};

use xdpfs_host::{
    Interface, InterfaceAddress, addresses_by, interfaces_by,
    netlink::{Message, Netlink, Question, attribute, malformed, u16_at, u32_at},
};

const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;
const RTM_NEWNEIGH: u16 = 28;
const RTM_GETNEIGH: u16 = 30;

const AF_BRIDGE: u8 = 7;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_VIA: u16 = 18;
const ROUTE_HEADER_LEN: usize = 12;
const RTN_UNICAST: u8 = 1;
const RTN_LOCAL: u8 = 2;

const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NDA_MASTER: u16 = 9;
const NEIGHBOUR_HEADER_LEN: usize = 12;
const NTF_USE: u8 = 1;
const NUD_REACHABLE: u16 = 2;
const NUD_PERMANENT: u16 = 0x80;
/// States in which a MAC address counts: reachable, stale, delayed, probed, without need, permanent.
const NUD_VALID: u16 = 0xde;

/// Bits of the groups that tell of interfaces, neighbours, and both IP versions' addresses and routes.
pub(super) const CHANGES: u32 = 0x1 | 0x4 | 0x10 | 0x40 | 0x100 | 0x400;

/// A MAC address.
pub(super) type Mac = [u8; 6];

/// Who answers for an address.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Neighbour {
    pub(super) interface: u32,
    pub(super) ip: IpAddr,
    /// None while it is asked for, or if nobody answers.
    pub(super) mac: Option<Mac>,
    /// The kernel is sure.
    pub(super) is_fresh: bool,
}

/// Behind which port of a bridge a MAC address is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct BridgePlace {
    pub(super) bridge: u32,
    pub(super) port: u32,
    pub(super) mac: Mac,
}

/// The way to an address.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Way {
    /// It is this host's own.
    Here,
    /// By an interface, to a neighbour.
    By { interface: u32, neighbour: IpAddr },
    /// There is none.
    Nowhere,
}

/// A route of the main table that leaves by one interface.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Prefix {
    pub(super) address: IpAddr,
    pub(super) len: u8,
    pub(super) interface: u32,
    /// The router; none if its hosts are neighbours.
    pub(super) router: Option<IpAddr>,
}

/// All of it, at one time.
#[derive(Clone, Debug, Default)]
pub(super) struct Network {
    pub(super) interfaces: BTreeMap<u32, Interface>,
    pub(super) addresses: Vec<InterfaceAddress>,
    pub(super) neighbours: Vec<Neighbour>,
    pub(super) bridged: Vec<BridgePlace>,
}

impl Network {
    /// As it is now.
    ///
    /// # Errors
    /// The kernel can't be asked.
    pub(super) fn look(netlink: &Netlink) -> io::Result<Self> {
        let (interfaces, addresses) = (interfaces_by(netlink)?, addresses_by(netlink)?);
        let neighbours = netlink.list(Question::new(RTM_GETNEIGH, &[0; NEIGHBOUR_HEADER_LEN]))?;
        let mut of_bridges = [0; NEIGHBOUR_HEADER_LEN];
        of_bridges[0] = AF_BRIDGE;
        // A kernel without bridges has nothing to say.
        let bridged = netlink.list(Question::new(RTM_GETNEIGH, &of_bridges)).unwrap_or_default();
        Ok(Self {
            interfaces: interfaces.into_iter().map(|interface| (interface.index, interface)).collect(),
            addresses,
            neighbours: neighbours.iter().filter_map(neighbour).collect(),
            bridged: bridged.iter().filter_map(bridge_place).collect(),
        })
    }

    /// The interface of this name.
    pub(super) fn named(&self, name: &str) -> Option<&Interface> {
        self.interfaces.values().find(|interface| interface.name == name)
    }

    /// What is known of an address behind an interface.
    pub(super) fn neighbour(&self, interface: u32, ip: IpAddr) -> Option<&Neighbour> {
        self.neighbours.iter().find(|known| known.interface == interface && known.ip == ip)
    }

    /// The port of a bridge that a MAC address is behind.
    pub(super) fn port(&self, bridge: u32, mac: Mac) -> Option<u32> {
        let place = self.bridged.iter().find(|place| place.bridge == bridge && place.mac == mac);
        place.map(|place| place.port)
    }
}

/// The way to an address, as the kernel would send.
///
/// # Errors
/// The kernel can't be asked.
pub(super) fn way(netlink: &Netlink, to: IpAddr) -> io::Result<Way> {
    let mut header = [0; ROUTE_HEADER_LEN];
    (header[0], header[1]) = if to.is_ipv4() { (AF_INET, 32) } else { (AF_INET6, 128) };
    let question = Question::new(RTM_GETROUTE, &header).with(RTA_DST, &octets(to));
    match netlink.ask(question) {
        Ok(answer) => parse_way(&answer, to).ok_or_else(malformed),
        Err(error) if is_no_way(&error) => Ok(Way::Nowhere),
        Err(error) => Err(error),
    }
}

/// The routes of the main table that leave by an interface.
///
/// # Errors
/// The kernel can't be asked.
pub(super) fn prefixes(netlink: &Netlink) -> io::Result<Vec<Prefix>> {
    let mut all = Vec::new();
    for family in [AF_INET, AF_INET6] {
        let mut header = [0; ROUTE_HEADER_LEN];
        header[0] = family;
        all.extend(netlink.list(Question::new(RTM_GETROUTE, &header))?.iter().filter_map(prefix));
    }
    Ok(all)
}

/// Has the kernel find out who answers for an address, or whether that still holds.
///
/// # Errors
/// The kernel doesn't.
pub(super) fn solicit(netlink: &Netlink, interface: u32, ip: IpAddr) -> io::Result<()> {
    let mut header = [0; NEIGHBOUR_HEADER_LEN];
    header[0] = if ip.is_ipv4() { AF_INET } else { AF_INET6 };
    header[4..8].copy_from_slice(&interface.to_ne_bytes());
    header[10] = NTF_USE;
    const NLM_F_CREATE: u16 = 0x400;
    netlink.order(Question::new(RTM_NEWNEIGH, &header).with(NDA_DST, &octets(ip)), NLM_F_CREATE)
}

fn parse_way(message: &Message, to: IpAddr) -> Option<Way> {
    if message.kind != RTM_NEWROUTE {
        return None;
    }
    let attributes = message.body.get(ROUTE_HEADER_LEN..)?;
    Some(match *message.body.get(7)? {
        RTN_LOCAL => Way::Here,
        RTN_UNICAST => {
            let interface = u32_at(attribute(attributes, RTA_OIF)?, 0)?;
            Way::By { interface, neighbour: router(attributes).unwrap_or(to) }
        }
        _ => Way::Nowhere,
    })
}

fn prefix(message: &Message) -> Option<Prefix> {
    const RT_TABLE_MAIN: u8 = 254;
    let body = &message.body;
    let (family, len, table, kind) = (*body.first()?, *body.get(1)?, *body.get(4)?, *body.get(7)?);
    if message.kind != RTM_NEWROUTE || table != RT_TABLE_MAIN || kind != RTN_UNICAST {
        return None;
    }
    let attributes = body.get(ROUTE_HEADER_LEN..)?;
    let nothing = if family == AF_INET { IpAddr::from([0; 4]) } else { IpAddr::from([0; 16]) };
    let address = attribute(attributes, RTA_DST).map_or(Some(nothing), ip)?;
    let interface = u32_at(attribute(attributes, RTA_OIF)?, 0)?;
    Some(Prefix { address, len, interface, router: router(attributes) })
}

/// The next router; one of another IP version stands elsewhere.
fn router(attributes: &[u8]) -> Option<IpAddr> {
    let via = || attribute(attributes, RTA_VIA).and_then(|via| ip(via.get(2..)?));
    attribute(attributes, RTA_GATEWAY).and_then(ip).or_else(via)
}

fn neighbour(message: &Message) -> Option<Neighbour> {
    let body = &message.body;
    let attributes = body.get(NEIGHBOUR_HEADER_LEN..).filter(|_| message.kind == RTM_NEWNEIGH)?;
    let state = u16_at(body, 8)?;
    let mac = attribute(attributes, NDA_LLADDR).and_then(|mac| mac.try_into().ok());
    Some(Neighbour {
        interface: u32_at(body, 4)?,
        ip: ip(attribute(attributes, NDA_DST)?)?,
        mac: mac.filter(|_| state & NUD_VALID != 0),
        is_fresh: state & (NUD_REACHABLE | NUD_PERMANENT) != 0,
    })
}

fn bridge_place(message: &Message) -> Option<BridgePlace> {
    let body = &message.body;
    let attributes = body.get(NEIGHBOUR_HEADER_LEN..).filter(|_| message.kind == RTM_NEWNEIGH)?;
    Some(BridgePlace {
        bridge: u32_at(attribute(attributes, NDA_MASTER)?, 0)?,
        port: u32_at(body, 4)?,
        mac: attribute(attributes, NDA_LLADDR)?.try_into().ok()?,
    })
}

fn is_no_way(error: &io::Error) -> bool {
    use rustix::io::Errno;
    [Errno::NETUNREACH, Errno::HOSTUNREACH, Errno::INVAL, Errno::ACCESS]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        16 => Some(IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?)),
        _ => None,
    }
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// As the kernel program's maps have it.
pub(super) fn mapped(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// The IPv4 address; zeros if it is one of IPv6.
pub(super) fn v4_of(ip: IpAddr) -> [u8; 4] {
    match ip {
        IpAddr::V4(v4) => v4.octets(),
        IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED.octets(),
    }
}

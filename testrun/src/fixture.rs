//! The cases of `wire/fixtures/requests.txt`, and the cluster that they belong to.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use anyhow::{Context as _, ensure};
use xdpfs_plane::maps::{NextHop, OwnAddress, Place, ReplySource, Route};
use xdpfs_wire::{EpochSecret, Expiry, KeyEpoch, KeyEpochs, NodeEpoch, NodeId, Reject, SipKey, TargetNode};

use crate::frames::{CLIENT_MAC, CLIENT_V4, EDGE_V4, EDGE_V6, NODE_SIDE_V4};

pub const NOW: Expiry = Expiry(1_000_000);
pub const NODE: TargetNode = TargetNode { node: NodeId(3), epoch: NodeEpoch(9) };
pub const PORT: u16 = 7400;
/// The route of a node on this host.
pub const HERE: Route = Route {
    place: Place::HERE,
    device: 0,
    v4: [0; 4],
    v6: [0; 16],
    destination_mac: [0; 6],
    source_mac: [0; 6],
    port: [0; 2],
    node_epoch: NODE.epoch.0,
};
/// The route of a node behind a device.
pub const THERE: Route = Route {
    place: Place::DEVICE,
    device: 5,
    v4: [10, 1, 2, 3],
    v6: [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x12, 0x34],
    destination_mac: [2, 0, 0, 0, 9, 1],
    source_mac: [2, 0, 0, 0, 9, 2],
    port: 7401_u16.to_be_bytes(),
    node_epoch: NODE.epoch.0,
};
/// What clients take for the node of [`THERE`].
pub const KNOWN_AS: ReplySource =
    ReplySource { v4: EDGE_V4.octets(), v6: EDGE_V6.octets(), port: PORT.to_be_bytes(), reserved: [0; 2] };
/// Where frames for some clients go.
pub const ROUTER: NextHop = NextHop { destination_mac: [2, 0, 0, 0, 7, 1], source_mac: [2, 0, 0, 0, 7, 2] };
/// Prefixes of clients' addresses and where frames for them go; nowhere known for some.
pub const HOPS: [(IpAddr, u32, NextHop); 4] = [
    (IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0, ROUTER),
    (IpAddr::V4(Ipv4Addr::new(192, 0, 0, 0)), 9, NO_HOP),
    (IpAddr::V4(CLIENT_V4), 32, NextHop { destination_mac: CLIENT_MAC, ..ROUTER }),
    (IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0, ROUTER),
];
const NO_HOP: NextHop = NextHop { destination_mac: [0; 6], source_mac: [0; 6] };
/// The addresses of this host: what clients know, and what they don't.
pub const OWN: [(IpAddr, OwnAddress); 3] = [
    (IpAddr::V4(EDGE_V4), OwnAddress::SERVED),
    (IpAddr::V6(EDGE_V6), OwnAddress::SERVED),
    (IpAddr::V4(NODE_SIDE_V4), OwnAddress::OTHER),
];
/// Both live epochs with their secrets.
pub const SECRETS: [(KeyEpoch, [u8; 16]); 2] = [(KeyEpoch(7), [0x11; 16]), (KeyEpoch(8), [0x22; 16])];

#[derive(Debug)]
pub struct Secrets;

impl KeyEpochs for Secrets {
    fn secret(&self, epoch: KeyEpoch) -> Option<EpochSecret> {
        let (_, bytes) = SECRETS.iter().find(|(live, _)| *live == epoch)?;
        Some(EpochSecret(SipKey::from_bytes(*bytes)))
    }
}

/// One line of the file.
#[derive(Clone, Debug)]
pub struct Case {
    pub name: String,
    pub datagram: Vec<u8>,
    pub verdict: Result<(), Reject>,
}

pub fn cases() -> anyhow::Result<Vec<Case>> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../wire/fixtures/requests.txt");
    let text = fs::read_to_string(path).context(path)?;
    text.lines().filter(|line| !line.starts_with('#')).map(parse).collect()
}

fn parse(line: &str) -> anyhow::Result<Case> {
    let fields: Vec<&str> = line.split(' ').collect();
    let [name, verdict, hex, padding] = fields[..] else { anyhow::bail!("{line}: not four fields") };
    let mut datagram = if hex == "-" { Vec::new() } else { bytes(hex)? };
    datagram.resize(datagram.len() + padding.parse::<usize>()?, 0);
    let reject = Reject::ALL.iter().find(|reject| reject.label() == verdict);
    ensure!(verdict == "accept" || reject.is_some(), "{name}: no such verdict as {verdict}");
    Ok(Case { name: name.to_owned(), datagram, verdict: reject.map_or(Ok(()), |reject| Err(*reject)) })
}

fn bytes(hex: &str) -> anyhow::Result<Vec<u8>> {
    (0..hex.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).context("not hexadecimal"))
        .collect()
}

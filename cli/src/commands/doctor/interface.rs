//! One network interface, and the other end of it: what they can, and what is in the way of a kernel program.
//!
//! Invariant: a program is tried only on an interface that the user has named and that has none.

use std::io;

use xdpfs_data_node::xdp_probe::{self, NativeError};
use xdpfs_host::{Channels, Features, Interface, NetworkNamespace};
use xdpfs_wire::PieceClass;

use super::finding::{Check, Finding};

/// The most that a program without fragments can see of a frame on veth and most drivers.
const NATIVE_MTU_MAX: u32 = 3506;
/// Large pieces with IPv6: 40 bytes of it and 8 of UDP.
const IP_AND_UDP_LEN: usize = 48;
/// Programs of xdpfs have names that begin so.
const OURS: &str = "xdpfs_";
const AS_ROOT: &str = "run it as root: sudo xdpfs-cli doctor";

/// How far an interface is looked at.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Look {
    /// It is only asked about.
    Only,
    /// A program is tried on it, too.
    AndTry,
}

/// What was seen of one interface.
#[derive(Debug)]
struct Seen {
    interface: Interface,
    driver: String,
    features: Features,
    channels: Channels,
    /// The name of the program on it.
    program: Option<String>,
    /// Of a bridge's port.
    is_bridge_port: bool,
    /// What came of trying a program on it; `None`: not tried.
    native: Option<Result<(), NativeError>>,
    /// The other end of a veth pair; `None`: it is no veth.
    peer: Option<Result<PeerSeen, String>>,
}

/// What was seen of the other end of a veth pair.
#[derive(Debug)]
struct PeerSeen {
    name: String,
    /// What, before a command, makes it run where the peer is.
    prefix: String,
    features: Features,
    channels: Channels,
    is_bridge_port: bool,
    has_program: bool,
}

/// Looks at the interface of this name. Blocks.
pub(super) fn look(name: &str, how: Look) -> Vec<Finding> {
    let findings = match xdpfs_host::interface(name) {
        Ok(interface) => judge(&see(interface, how)),
        Err(error) => vec![not_found(&error)],
    };
    findings.into_iter().map(|finding| finding.about(name)).collect()
}

fn not_found(error: &io::Error) -> Finding {
    Finding::fail(Check::Interface, error.to_string(), "a server told to use it does not start")
        .with_fix("name one of these: ip -brief link")
}

fn see(interface: Interface, how: Look) -> Seen {
    let name = interface.name.clone();
    let is_free = interface.program.is_none();
    let may_try = xdpfs_host::capabilities().is_ok_and(|held| held.bpf && held.net_admin && held.perfmon);
    let native = (how == Look::AndTry && is_free && interface.is_up && may_try)
        .then(|| xdp_probe::try_native(interface.index));
    Seen {
        driver: xdpfs_host::driver(&name).unwrap_or_default(),
        features: xdpfs_host::features(&name).unwrap_or_default(),
        channels: channels(&interface),
        program: interface.program.map(program_name),
        is_bridge_port: is_bridge_port(&interface),
        native,
        peer: interface.is_veth().then(|| see_peer(&interface)),
        interface,
    }
}

fn program_name(id: u32) -> String {
    let name = xdp_probe::program_name(id);
    format!("{}, id {id}", name.as_deref().unwrap_or("a program whose name is hidden"))
}

fn see_peer(interface: &Interface) -> Result<PeerSeen, String> {
    let peer = interface.peer.ok_or("the kernel doesn't say which it is")?;
    let look = |prefix: String| {
        let peer = xdpfs_host::interface_at(peer.index)?;
        Ok(PeerSeen {
            features: xdpfs_host::features(&peer.name)?,
            channels: channels(&peer),
            is_bridge_port: is_bridge_port(&peer),
            has_program: peer.program.is_some(),
            name: peer.name,
            prefix,
        })
    };
    let seen: io::Result<PeerSeen> = match peer.namespace_id {
        None => look(String::new()),
        Some(id) => NetworkNamespace::find(id)
            .and_then(|namespace| namespace.run(|| look(namespace.command_prefix())).flatten()),
    };
    seen.map_err(|error| error.to_string())
}

/// The queues in use; those it was made with, where the driver doesn't say.
fn channels(interface: &Interface) -> Channels {
    let made = Channels {
        rx: interface.rx_queues,
        tx: interface.tx_queues,
        rx_max: interface.rx_queues,
        tx_max: interface.tx_queues,
        is_combined: false,
    };
    xdpfs_host::channels(&interface.name).ok().filter(|channels| channels.rx > 0).unwrap_or(made)
}

fn is_bridge_port(interface: &Interface) -> bool {
    let master = interface.master.and_then(|master| xdpfs_host::interface_at(master).ok());
    master.is_some_and(|master| master.kind == "bridge")
}

fn judge(seen: &Seen) -> Vec<Finding> {
    let mut findings = vec![state(seen), foreign_program(seen), native(seen), mtu(seen), queues(seen)];
    findings.extend([checksums(seen), segmentation(seen)]);
    findings.extend(seen.peer.as_ref().map(peer_gro));
    findings.extend(bridge_gro(seen));
    findings
}

fn state(seen: &Seen) -> Finding {
    let Interface { kind, name, .. } = &seen.interface;
    let what = if kind.is_empty() { &seen.driver } else { kind };
    let what = if what.is_empty() { "no driver said" } else { what };
    if seen.interface.is_up {
        return Finding::ok(Check::Interface, format!("{what}, up"));
    }
    Finding::fail(Check::Interface, format!("{what}, down"), "nothing comes in by it")
        .with_fix(format!("ip link set dev {name} up"))
}

fn foreign_program(seen: &Seen) -> Finding {
    let name = &seen.interface.name;
    match &seen.program {
        None => Finding::ok(Check::ForeignProgram, "no XDP program is on it"),
        Some(program) if program.starts_with(OURS) => {
            Finding::ok(Check::ForeignProgram, format!("xdpfs is on it: {program}"))
        }
        Some(program) => Finding::fail(
            Check::ForeignProgram,
            program,
            "xdpfs replaces nobody's program: with --xdp auto it runs without XDP here, else it does not start",
        )
        .with_fix(format!("if nobody needs it: ip link set dev {name} xdp off")),
    }
}

fn native(seen: &Seen) -> Finding {
    let name = &seen.interface.name;
    let check = Check::NativeXdp;
    let Some(tried) = &seen.native else {
        return match &seen.program {
            Some(program) => Finding::skipped(
                check,
                format!("not tried beside {program}"),
                format!("see where it runs: ip -details link show dev {name}"),
            ),
            None if !seen.interface.is_up => {
                Finding::skipped(check, "not tried while it is down", format!("ip link set dev {name} up"))
            }
            None => Finding::skipped(
                check,
                "not tried: some drivers drop packets for a moment when a program comes, and it takes capabilities",
                format!("sudo xdpfs-cli doctor --interface {name}"),
            ),
        };
    };
    let error = match tried {
        Ok(()) => return Finding::ok(check, "its driver takes a program"),
        Err(error) => error,
    };
    let consequence = "with --xdp auto the program runs in the network stack, which costs several times as much per \
        packet; with native a server does not start";
    let finding = Finding::warn(check, error.to_string(), consequence);
    match error {
        NativeError::Queues => {
            let peer = seen.peer.as_ref().and_then(|peer| peer.as_ref().ok());
            let (prefix, peer) = peer.map_or(("", "PEER"), |peer| (peer.prefix.as_str(), peer.name.as_str()));
            finding.with_fix(format!("{prefix}ethtool -L {peer} tx {}", seen.channels.rx))
        }
        NativeError::TooLargeMtu => finding.with_fix(format!("ip link set dev {name} mtu 3498")),
        NativeError::Permission => Finding::skipped(check, error.to_string(), AS_ROOT),
        NativeError::Occupied => finding.with_fix(format!("see what came meanwhile: ip -details link show dev {name}")),
        NativeError::Unsupported => finding.with_fix(format!(
            "turn off what is in its way (large receive offload: ethtool -K {name} lro off), or use --xdp generic"
        )),
        NativeError::Other(_) => finding.with_fix("see what the kernel says: dmesg | tail"),
    }
}

fn mtu(seen: &Seen) -> Finding {
    let Interface { mtu, name, .. } = &seen.interface;
    let fits = |class: &PieceClass| class.datagram_len() + IP_AND_UDP_LEN <= *mtu as usize;
    let Some(class) = PieceClass::ALL.iter().rev().find(|class| fits(class)) else {
        return Finding::fail(
            Check::Mtu,
            format!("{mtu} bytes"),
            "not even the smallest piece of 1024 bytes passes unfragmented: nothing can be got or put through it",
        )
        .with_fix(format!("ip link set dev {name} mtu 1500"));
    };
    let seen_text = format!("{mtu} bytes: pieces of up to {} bytes", class.piece_len());
    if *mtu > NATIVE_MTU_MAX && !seen.interface.is_loopback {
        return Finding::warn(
            Check::Mtu,
            format!("{seen_text}, more than the {NATIVE_MTU_MAX} of native XDP"),
            "the program runs in the network stack, or not at all if native was demanded",
        )
        .with_fix(format!("ip link set dev {name} mtu 3498, and the same on the other end"));
    }
    if *class == PieceClass::Small {
        return Finding::warn(
            Check::Mtu,
            seen_text,
            "more datagrams carry the same bytes: a quarter less throughput than with 1500",
        )
        .with_fix(format!("ip link set dev {name} mtu 1500, if the whole path allows"));
    }
    Finding::ok(Check::Mtu, seen_text)
}

fn queues(seen: &Seen) -> Finding {
    let Channels { rx, tx, .. } = seen.channels;
    if let Some(Ok(peer)) = &seen.peer {
        let said = format!("{rx} to receive; its peer has {} to transmit", peer.channels.tx);
        if rx < peer.channels.tx {
            return Finding::warn(
                Check::Queues,
                said,
                "the driver refuses native XDP: the program runs in the network stack, or not at all",
            )
            .with_fix(format!("{}ethtool -L {} tx {rx}", peer.prefix, peer.name));
        }
        return Finding::ok(Check::Queues, said);
    }
    if seen.peer.is_some() {
        let why = format!("{rx} to receive; its peer is out of sight");
        return Finding::skipped(Check::Queues, why, AS_ROOT);
    }
    let cpus = std::thread::available_parallelism().map_or(1, |cpus| cpus.get()) as u32;
    let said = format!("{rx} to receive, {tx} to transmit");
    let could = seen.channels.rx_max.min(cpus);
    let kind = if seen.channels.is_combined { "combined" } else { "rx" };
    if rx < could {
        return Finding::warn(Check::Queues, said, format!("packets are judged by {rx} of {cpus} CPUs"))
            .with_fix(format!("ethtool -L {} {kind} {could}", seen.interface.name));
    }
    Finding::ok(Check::Queues, said)
}

fn checksums(seen: &Seen) -> Finding {
    let is_on = |name| seen.features.is_on(name);
    let receives = is_on("rx-checksum");
    let sends = ["tx-checksum-ip-generic", "tx-checksum-ipv4"].into_iter().any(is_on);
    if receives && sends {
        return Finding::ok(Check::Checksums, "left to the interface in both directions");
    }
    let word = |is_on| if is_on { "the interface" } else { "the CPU" };
    Finding::warn(
        Check::Checksums,
        format!("of what comes by {}, of what goes by {}", word(receives), word(sends)),
        "the CPU sums every byte once more, about 100 ns for a datagram of 1400 bytes",
    )
    .with_fix(format!("ethtool -K {} rx on tx on", seen.interface.name))
}

fn segmentation(seen: &Seen) -> Finding {
    let Some(feature) = seen.features.named("tx-udp-segmentation") else {
        return Finding::warn(
            Check::Segmentation,
            "this kernel has no UDP segmentation offload",
            "datagrams are sent one by one, which costs about ten times as much per byte",
        )
        .with_fix("run Linux 4.18 or newer");
    };
    if feature.is_on {
        return Finding::ok(Check::Segmentation, "tx-udp-segmentation is on");
    }
    let name = &seen.interface.name;
    let consequence = "the kernel cuts bursts into datagrams before the interface: bulk transfers from here cost \
        several times as much per byte";
    let finding = |said: &str| Finding::warn(Check::Segmentation, said, consequence);
    match &seen.peer {
        Some(Ok(peer)) if peer.has_program => {
            finding("off, since a program runs on the other end of the pair").with_fix(format!(
                "it is the price of native XDP there; without: {}ip link set dev {} xdp off",
                peer.prefix, peer.name
            ))
        }
        _ if feature.is_fixed => {
            Finding::ok(Check::Segmentation, "its driver has none: the kernel cuts bursts right before it")
        }
        _ => finding("tx-udp-segmentation is off")
            .with_fix(format!("ethtool -K {name} tx-udp-segmentation on")),
    }
}

fn peer_gro(peer: &Result<PeerSeen, String>) -> Finding {
    match peer {
        Err(why) => Finding::skipped(
            Check::PeerGro,
            format!("its peer is out of sight: {why}"),
            "run it as root and in the host's own process namespace: sudo xdpfs-cli doctor",
        ),
        Ok(peer) if peer.features.is_on("rx-gro") => {
            Finding::ok(Check::PeerGro, format!("on, on {}", peer.name))
        }
        Ok(peer) if peer.has_program => {
            Finding::ok(Check::PeerGro, format!("{} has an XDP program, which serves as well", peer.name))
        }
        Ok(peer) => Finding::warn(
            Check::PeerGro,
            format!("off, on {}", peer.name),
            "what a program sends out of this interface vanishes at the other end: answers to refused requests, and \
             requests that an edge forwards. An edge turns it on by itself where it may",
        )
        .with_fix(format!("{}ethtool -K {} gro on", peer.prefix, peer.name)),
    }
}

/// A bridge's port takes what was merged apart again, unless it is told to keep it.
fn bridge_gro(seen: &Seen) -> Option<Finding> {
    const FEATURE: &str = "rx-udp-gro-forwarding";
    let here = seen.is_bridge_port.then_some(("", seen.interface.name.as_str(), &seen.features));
    let peer = seen.peer.as_ref().and_then(|peer| peer.as_ref().ok()).filter(|peer| peer.is_bridge_port);
    let there = peer.map(|peer| (peer.prefix.as_str(), peer.name.as_str(), &peer.features));
    let (prefix, name, features) = there.or(here)?;
    Some(if features.is_on(FEATURE) {
        Finding::ok(Check::BridgeGro, format!("{FEATURE} is on, on {name}"))
    } else {
        Finding::warn(
            Check::BridgeGro,
            format!("{FEATURE} is off, on {name}"),
            "datagrams cross the bridge one by one, which costs about twice as much per byte",
        )
        .with_fix(format!("{prefix}ethtool -K {name} {FEATURE} on"))
    })
}

#[cfg(test)]
mod tests;

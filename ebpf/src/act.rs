//! What is done to a packet that goes anywhere but up the stack.

use xdpfs_plane::{
    ANSWER_LEN, Detour, Envelope, Fate, Frame as _, Ip, Unroutable, answer_v4, answer_v6,
    maps::{NextHop, ReplySource, Route, UPLINK},
};
use xdpfs_wire::Status;

use crate::{GENERIC, maps, packet::Packet};

/// Sends a request on to its node. `None` if the packet is not what it was.
#[inline(always)]
pub(crate) fn forward(mut packet: Packet, envelope: &Envelope, route: &Route) -> Option<Fate> {
    let detour = match envelope.ip {
        Ip::V4 => Detour::v4(packet.at_mut(envelope.ip_at())?, route),
        Ip::V6 => Detour::v6(packet.at_mut(envelope.ip_at())?, route),
    };
    match detour {
        Ok(detour) => finish(&mut packet, envelope, detour)?,
        Err(Unroutable::HopLimit) => return Some(Fate::HopLimit),
        Err(Unroutable::NoAddress) => return Some(Fate::NoAddress),
    }
    let hop = NextHop { destination_mac: route.destination_mac, source_mac: route.source_mac };
    send(packet, envelope, &hop, route.device)
}

/// Sends a node's reply on to its client. `None` if the packet is not what it was, or can't be sent on; it is as it was
/// then.
#[inline(always)]
pub(crate) fn reply(mut packet: Packet, envelope: &Envelope, source: &ReplySource) -> Option<Fate> {
    let hop = maps::next_hop(envelope.destination(&packet)?)?;
    let detour = match envelope.ip {
        Ip::V4 => Detour::reply_v4(packet.at_mut(envelope.ip_at())?, source),
        Ip::V6 => Detour::reply_v6(packet.at_mut(envelope.ip_at())?, source),
    };
    let sent = finish(&mut packet, envelope, detour.ok()?).and_then(|()| send(packet, envelope, hop, UPLINK));
    Some(match sent {
        Some(Fate::Routed) => Fate::ReplyByXdp,
        Some(fate) => fate,
        None => Fate::Fault,
    })
}

/// Brings the checksum in order.
#[inline(always)]
fn finish(packet: &mut Packet, envelope: &Envelope, detour: Detour) -> Option<()> {
    match detour {
        Detour::Ready => {}
        Detour::Unsummed(pseudo) if GENERIC.load() != 0 => {
            *packet.at_mut(envelope.udp_at() + 6)? = pseudo.folded();
        }
        Detour::Unsummed(pseudo) => {
            let sum = packet.sum(envelope.udp_at(), envelope.udp_len())?;
            *packet.at_mut(envelope.udp_at() + 6)? = pseudo.plus(sum).udp_field();
        }
    }
    Some(())
}

#[inline(always)]
fn send(mut packet: Packet, envelope: &Envelope, hop: &NextHop, device: u32) -> Option<Fate> {
    // VLAN tags belong to the link that the frame came in by.
    let [macs @ .., _, _] = packet.at_mut::<14>(envelope.tags_len)?;
    let [d0, d1, d2, d3, d4, d5] = hop.destination_mac;
    let [s0, s1, s2, s3, s4, s5] = hop.source_mac;
    *macs = [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5];
    if envelope.tags_len > 0 {
        packet.cut_head(envelope.tags_len)?;
    }
    Some(maps::redirect(device))
}

/// Turns a refused request into its answer. `None` if the packet is not what it was.
#[inline(always)]
pub(crate) fn answer(mut packet: Packet, envelope: &Envelope, status: Status) -> Option<Fate> {
    packet.truncate(envelope.datagram_at() + ANSWER_LEN)?;
    let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5] = *packet.at::<12>(0)?;
    *packet.at_mut(0)? = [s0, s1, s2, s3, s4, s5, d0, d1, d2, d3, d4, d5];
    match envelope.ip {
        Ip::V4 => answer_v4(packet.at_mut(envelope.ip_at())?, status, &maps::Keys)?,
        Ip::V6 => answer_v6(packet.at_mut(envelope.ip_at())?, status, &maps::Keys)?,
    }
    Some(Fate::Answered)
}

//! The way back: a node's reply becomes one of the address that its client knows. By the network stack's classifier, which
//! leaves batches and unfinished checksums as they are, or in the driver.
//!
//! Invariant: whatever is not a reply of a known node to somebody else than this host passes untouched.

use aya_ebpf::bindings::{TC_ACT_UNSPEC, xdp_md};
use xdpfs_plane::{
    Action, Envelope, Fate, Frame as _,
    maps::{ReplyKey, ReplySource},
};
use xdpfs_wire::PieceClass;

use crate::{
    act, maps,
    packet::{Packet, forgotten},
    skb::Skb,
};

/// What the classifier does with what is not its own: ask the next one.
const NEXT: i32 = TC_ACT_UNSPEC;

/// What the classifier does with a packet.
#[inline(always)]
pub(crate) fn by_kernel(skb: Skb) -> i32 {
    sent_on(skb).unwrap_or(NEXT)
}

#[inline(always)]
fn sent_on(mut skb: Skb) -> Option<i32> {
    skb.pull_headers()?;
    let (envelope, key) = Envelope::find_reply(&skb, skb.device())?;
    let source = source(&envelope, &key, envelope.destination(&skb)?)?;
    let uplink = maps::settings().map(|settings| settings.uplink).filter(|uplink| *uplink != 0)?;
    // Of a hop limit that ends here the network stack tells the node.
    if skb.is_tagged() || envelope.hops(&skb)? <= 1 {
        return None;
    }
    let packets = skb.packets();
    skb.turn(&envelope, source)?;
    maps::count_all(Fate::ReplyByKernel.counter(), packets);
    Some(skb.redirect(uplink))
}

/// What the driver does with a packet.
#[inline(always)]
pub(crate) fn by_xdp(ctx: *mut xdp_md) -> u32 {
    match found(&Packet::new(ctx)) {
        Some(envelope) => xdpfs_send_reply(ctx, forgotten(envelope.to_word())),
        None => Action::Pass as u32,
    }
}

#[inline(always)]
fn found(packet: &Packet) -> Option<Envelope> {
    let (envelope, key) = Envelope::find_reply(packet, packet.device())?;
    let is_whole = envelope.udp_at() + envelope.udp_len() <= packet.frame_len();
    if !is_whole || envelope.datagram_len > PieceClass::Jumbo.datagram_len() {
        return None;
    }
    source(&envelope, &key, envelope.destination(packet)?)?;
    Some(envelope)
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xdpfs_send_reply(ctx: *mut xdp_md, envelope: u32) -> u32 {
    let (packet, envelope) = (Packet::new(ctx), Envelope::from_word(envelope));
    let key = Envelope::find_reply(&packet, packet.device());
    let source = key.and_then(|(_, key)| maps::reply_source(&key));
    let Some(fate) = source.and_then(|source| act::reply(packet, &envelope, source)) else {
        return Action::Pass as u32;
    };
    maps::count(fate.counter());
    fate.action() as u32
}

/// What clients take for the sender, if it is a node, and if its reply is for somebody else than this host, whose own
/// flows to nodes are user space's.
#[inline(always)]
fn source(envelope: &Envelope, key: &ReplyKey, destination: [u8; 16]) -> Option<&'static ReplySource> {
    let source = maps::reply_source(key)?;
    if maps::own(destination).is_some() || !source.speaks(envelope.ip) { None } else { Some(source) }
}

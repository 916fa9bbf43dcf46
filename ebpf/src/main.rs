//! The kernel programs. The one before clients: find the datagram, judge it, act, count; every packet has one fate. The
//! two before nodes: send replies on.
//!
//! The verifier follows every way through the program. So that there are few, it is made to forget which frame it was
//! when the datagram is found, and the acts are global functions: those it verifies once, for any arguments.
//!
//! Built for the host it is an empty program, so that the workspace's checks see it.
#![cfg_attr(target_arch = "bpf", no_std, no_main, feature(asm_experimental_arch))]

mod act;
mod judge;
mod maps;
mod packet;
mod reply;
#[cfg(target_arch = "bpf")]
mod runtime;
mod skb;

use aya_ebpf::{
    Global,
    bindings::xdp_md,
    helpers::bpf_redirect,
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};
use xdpfs_plane::{Action, Decision, Envelope, Fate, PORTS_MAX, Ports};
use xdpfs_wire::{NodeId, Reject};

use crate::{
    packet::{Packet, forgotten},
    skb::Skb,
};

/// The UDP ports of the data nodes that clients know.
#[unsafe(no_mangle)]
static PORTS: Global<Ports> = Global::new([0; PORTS_MAX]);
/// Not zero: the program runs in generic mode, where one frame may hold several datagrams, and where a checksum that
/// the sender left to its network card is still remembered as such.
#[unsafe(no_mangle)]
static GENERIC: Global<u8> = Global::new(0);
/// Not zero: answers leave by a redirect to the interface they came in by. On veth that, unlike `XDP_TX`, doesn't
/// need a program on the peer.
#[unsafe(no_mangle)]
static ANSWER_BY_REDIRECT: Global<u8> = Global::new(0);
/// Nanoseconds in a tick of the kernel.
#[unsafe(no_mangle)]
static TICK_NS: Global<u64> = Global::new(0);

#[xdp]
fn xdpfs_ingress(ctx: XdpContext) -> u32 {
    let fate = match Envelope::find(&Packet::new(ctx.ctx), PORTS.load()) {
        Ok(envelope) => settle(ctx.ctx, forgotten(envelope.to_word())),
        Err(fate) => fate,
    };
    maps::count(fate.counter());
    match fate.action() {
        // SAFETY: the helper only notes where the packet goes.
        Action::Answer if ANSWER_BY_REDIRECT.load() != 0 => unsafe {
            bpf_redirect(ctx.ingress_ifindex() as u32, 0) as u32
        },
        action => action as u32,
    }
}

#[inline(always)]
fn settle(ctx: *mut xdp_md, envelope: u32) -> Fate {
    let done = match judge::judge(&Packet::new(ctx), &Envelope::from_word(envelope)) {
        Decision::Answer(reject) => xdpfs_answer(ctx, envelope, reject as u32),
        Decision::Forward(node) => xdpfs_forward(ctx, envelope, u32::from(node.0)),
        Decision::Refuse(_) => return Fate::Refused,
        Decision::End(fate) => return fate,
    };
    // The compiler sees which fates come back and would drop the bounds check; the verifier doesn't.
    Fate::from_counter(forgotten(done))
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xdpfs_answer(ctx: *mut xdp_md, envelope: u32, reject: u32) -> u32 {
    let packet = Packet::new(ctx);
    let status = Reject::ALL.get(reject as usize).and_then(|reject| reject.reply());
    let fate = status.and_then(|status| act::answer(packet, &Envelope::from_word(envelope), status));
    fate.unwrap_or(Fate::Fault).counter()
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xdpfs_forward(ctx: *mut xdp_md, envelope: u32, node: u32) -> u32 {
    let packet = Packet::new(ctx);
    let route = maps::route(NodeId(node as u16));
    let fate = route.and_then(|route| act::forward(packet, &Envelope::from_word(envelope), route));
    fate.unwrap_or(Fate::Fault).counter()
}

/// On the interfaces that nodes are behind.
#[xdp]
fn xdpfs_reply(ctx: XdpContext) -> u32 {
    reply::by_xdp(ctx.ctx)
}

/// Behind it, for what it leaves, or in its place.
#[classifier]
fn xdpfs_reply_tc(ctx: TcContext) -> i32 {
    reply::by_kernel(Skb::new(ctx.skb.skb))
}

/// Writes the ticks into a packet of eight bytes: how the loader learns what time it is in here.
#[xdp]
fn xdpfs_ticks(ctx: XdpContext) -> u32 {
    if let Some(bytes) = Packet::new(ctx.ctx).at_mut(0) {
        *bytes = maps::ticks().to_ne_bytes();
    }
    Action::Pass as u32
}

#[cfg(not(target_arch = "bpf"))]
fn main() {}

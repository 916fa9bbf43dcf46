//! Programs that xdpfs is measured with and against. They are an object of their own, so that nobody installs them.
//!
//! Built for the host it is an empty program, like the one that it is held against.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(target_arch = "bpf")]
mod runtime;

use aya_ebpf::{
    bindings::xdp_action,
    helpers::bpf_xdp_store_bytes,
    macros::{map, xdp},
    maps::{Array, DevMap},
    programs::XdpContext,
};

/// Ethernet, IPv4 and UDP header, and the header of a datagram.
const HEAD_LEN: usize = 14 + 20 + 8 + 64;

/// How each frame begins that leaves the generator.
#[map]
static HEAD: Array<[u8; HEAD_LEN]> = Array::with_max_entries(1, 0);
/// Where frames go.
#[map]
static NEXT: DevMap = DevMap::with_max_entries(1, 0);

/// What every cost is measured against.
#[xdp]
fn xdpfs_empty(_: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

/// The least that drops a packet.
#[xdp]
fn xdpfs_drop(_: XdpContext) -> u32 {
    xdp_action::XDP_DROP
}

/// The least that sends a packet on.
#[xdp]
fn xdpfs_bare_redirect(_: XdpContext) -> u32 {
    NEXT.redirect(0, 0).unwrap_or(xdp_action::XDP_ABORTED)
}

/// Sends frames, if it is run on live ones. Their pages come back as the last reader left them, so each begins anew.
#[xdp]
fn xdpfs_generate(ctx: XdpContext) -> u32 {
    let Some(head) = HEAD.get_ptr_mut(0) else { return xdp_action::XDP_ABORTED };
    // SAFETY: the context is the one of this run, and the entry has as many bytes.
    if unsafe { bpf_xdp_store_bytes(ctx.ctx, 0, head.cast(), HEAD_LEN as u32) } != 0 {
        return xdp_action::XDP_ABORTED;
    }
    NEXT.redirect(0, 0).unwrap_or(xdp_action::XDP_ABORTED)
}

#[cfg(not(target_arch = "bpf"))]
fn main() {}

//! Programs that xdpfs is measured against. They are an object of their own, so that nobody installs them.
//!
//! Built for the host it is an empty program, like the one that it is held against.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(target_arch = "bpf")]
mod runtime;

use aya_ebpf::{bindings::xdp_action, macros::xdp, programs::XdpContext};

/// What every cost is measured against.
#[xdp]
fn xdpfs_empty(_: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

#[cfg(not(target_arch = "bpf"))]
fn main() {}

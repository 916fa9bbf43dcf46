//! A packet of the network stack, behind its helpers: they know whether a checksum is unfinished, and whether the packet
//! is a batch.

use core::ptr;

use aya_ebpf::{
    bindings::{__sk_buff, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR},
    helpers::{
        bpf_l3_csum_replace, bpf_l4_csum_replace, bpf_redirect_neigh, bpf_skb_pull_data, bpf_skb_store_bytes,
    },
};
use xdpfs_plane::{Envelope, Frame, HEADERS_LEN_MAX, Ip, maps::ReplySource};

/// The packet of one run.
pub(crate) struct Skb {
    ctx: *mut __sk_buff,
}

impl Skb {
    #[inline(always)]
    pub(crate) fn new(ctx: *mut __sk_buff) -> Self {
        Self { ctx }
    }

    /// The interface that the packet came in by.
    #[inline(always)]
    pub(crate) fn device(&self) -> u32 {
        // SAFETY: the context is the one of this run.
        unsafe { (*self.ctx).ifindex }
    }

    /// Whether it has a VLAN tag, which the network stack keeps beside the frame.
    #[inline(always)]
    pub(crate) fn is_tagged(&self) -> bool {
        // SAFETY: the context is the one of this run.
        unsafe { (*self.ctx).vlan_present != 0 }
    }

    /// How many packets it will be on the wire.
    #[inline(always)]
    pub(crate) fn packets(&self) -> u64 {
        // SAFETY: the context is the one of this run.
        u64::from(unsafe { (*self.ctx).gso_segs }.max(1))
    }

    /// Makes the headers readable. `None` if there can't be any.
    #[inline(always)]
    pub(crate) fn pull_headers(&mut self) -> Option<()> {
        // SAFETY: the context is the one of this run.
        let len = unsafe { (*self.ctx).len };
        let wanted = len.min(HEADERS_LEN_MAX as u32);
        if self.frame_len() >= wanted as usize {
            return Some(());
        }
        // SAFETY: as above.
        let result = unsafe { bpf_skb_pull_data(self.ctx, wanted) };
        (result == 0).then_some(())
    }

    /// Takes a hop, and replaces source address and port. `None` if that failed, and the packet is no longer what it
    /// was.
    #[inline(always)]
    pub(crate) fn turn(&mut self, envelope: &Envelope, source: &ReplySource) -> Option<()> {
        let port_at = envelope.udp_at();
        let old_port = *self.at::<2>(port_at)?;
        match envelope.ip {
            Ip::V4 => self.turn_v4(envelope, source.v4)?,
            Ip::V6 => self.turn_v6(envelope, source.v6)?,
        }
        self.resum(envelope, word2(old_port), word2(source.port), 2)?;
        self.store(port_at, &source.port)
    }

    #[inline(always)]
    fn turn_v4(&mut self, envelope: &Envelope, new: [u8; 4]) -> Option<()> {
        let at = envelope.ip_at();
        let old = *self.at::<4>(at + 12)?;
        let [hops, protocol] = *self.at::<2>(at + 8)?;
        let fewer = [hops.wrapping_sub(1), protocol];
        self.resum_ip(at + 10, word4(old), word4(new), 4)?;
        self.resum_ip(at + 10, word2([hops, protocol]), word2(fewer), 2)?;
        self.resum(envelope, word4(old), word4(new), u64::from(BPF_F_PSEUDO_HDR) | 4)?;
        self.store(at + 8, &fewer)?;
        self.store(at + 12, &new)
    }

    #[inline(always)]
    fn turn_v6(&mut self, envelope: &Envelope, new: [u8; 16]) -> Option<()> {
        let at = envelope.ip_at();
        let [hops, _] = *self.at::<2>(at + 7)?;
        let old = *self.at::<16>(at + 8)?;
        for part in [0, 4, 8, 12] {
            let from = word4([old[part], old[part + 1], old[part + 2], old[part + 3]]);
            let to = word4([new[part], new[part + 1], new[part + 2], new[part + 3]]);
            self.resum(envelope, from, to, u64::from(BPF_F_PSEUDO_HDR) | 4)?;
        }
        self.store(at + 7, &[hops.wrapping_sub(1)])?;
        self.store(at + 8, &new)
    }

    /// Sends the packet out of an interface; the network stack finds the neighbour.
    #[inline(always)]
    pub(crate) fn redirect(&self, interface: u32) -> i32 {
        // SAFETY: the helper only notes where the packet goes.
        unsafe { bpf_redirect_neigh(interface, ptr::null_mut(), 0, 0) as i32 }
    }

    #[inline(always)]
    fn resum_ip(&mut self, at: usize, from: u64, to: u64, len: u64) -> Option<()> {
        // SAFETY: the context is the one of this run.
        let result = unsafe { bpf_l3_csum_replace(self.ctx, at as u32, from, to, len) };
        (result == 0).then_some(())
    }

    /// Keeps the UDP checksum right, unless there is none.
    #[inline(always)]
    fn resum(&mut self, envelope: &Envelope, from: u64, to: u64, flags: u64) -> Option<()> {
        let (at, flags) = (envelope.udp_at() + 6, flags | u64::from(BPF_F_MARK_MANGLED_0));
        // SAFETY: the context is the one of this run.
        let result = unsafe { bpf_l4_csum_replace(self.ctx, at as u32, from, to, flags) };
        (result == 0).then_some(())
    }

    #[inline(always)]
    fn store<const N: usize>(&mut self, at: usize, bytes: &[u8; N]) -> Option<()> {
        // SAFETY: the context is the one of this run; the bytes are as many as is said.
        let result = unsafe { bpf_skb_store_bytes(self.ctx, at as u32, bytes.as_ptr().cast(), N as u32, 0) };
        (result == 0).then_some(())
    }

    #[inline(always)]
    fn start(&self) -> usize {
        // SAFETY: the context is the one of this run.
        unsafe { (&raw const (*self.ctx).data).read_volatile() as usize }
    }

    #[inline(always)]
    fn end(&self) -> usize {
        // SAFETY: the context is the one of this run.
        unsafe { (&raw const (*self.ctx).data_end).read_volatile() as usize }
    }
}

/// As far as it is in one piece.
impl Frame for Skb {
    #[inline(always)]
    fn at<const N: usize>(&self, at: usize) -> Option<&[u8; N]> {
        let bytes = self.start() + at;
        if bytes + N > self.end() {
            return None;
        }
        // SAFETY: the bytes lie in the packet, and nothing writes to it while `self` is borrowed.
        Some(unsafe { &*(bytes as *const [u8; N]) })
    }

    #[inline(always)]
    fn frame_len(&self) -> usize {
        self.end() - self.start()
    }
}

#[inline(always)]
fn word2(bytes: [u8; 2]) -> u64 {
    u64::from(u16::from_ne_bytes(bytes))
}

#[inline(always)]
fn word4(bytes: [u8; 4]) -> u64 {
    u64::from(u32::from_ne_bytes(bytes))
}

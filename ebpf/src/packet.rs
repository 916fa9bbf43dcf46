//! Packet pointers behind bounds checks: the only place that reads and writes a frame.

use core::{hint::black_box, ptr};

use aya_ebpf::{
    bindings::xdp_md,
    helpers::{bpf_csum_diff, bpf_xdp_adjust_head, bpf_xdp_adjust_tail, bpf_xdp_load_bytes},
};
use xdpfs_plane::{Checksum, Frame};

use crate::maps;

/// What every kernel sums in one call.
const SUM_STEP: usize = 512;
/// Steps of a jumbo datagram.
const SUM_STEPS_MAX: usize = 17;
/// Bytes that the buffer holds, less one.
const COPY_LEN_MASK: usize = 0x3fff;
/// Bytes of the buffer, with room for a last step.
pub(crate) const COPY_LEN: usize = COPY_LEN_MASK + 1 + SUM_STEP;

/// The packet of one run.
///
/// Start and end are read anew for each access. If the compiler knew that they stay the same, it would drop a bounds
/// check that an earlier one implies, and the verifier doesn't follow that reasoning.
pub(crate) struct Packet {
    ctx: *mut xdp_md,
}

impl Packet {
    #[inline(always)]
    pub(crate) fn new(ctx: *mut xdp_md) -> Self {
        Self { ctx }
    }

    /// The interface that the packet came in by.
    #[inline(always)]
    pub(crate) fn device(&self) -> u32 {
        // SAFETY: the context is the one of this run.
        unsafe { (*self.ctx).ingress_ifindex }
    }

    /// The `N` bytes at `at`, to be written.
    #[inline(always)]
    pub(crate) fn at_mut<const N: usize>(&mut self, at: usize) -> Option<&mut [u8; N]> {
        let bytes = self.checked::<N>(at)?;
        // SAFETY: the bytes lie in the packet, and nothing else refers to it while `self` is borrowed.
        Some(unsafe { &mut *(bytes as *mut [u8; N]) })
    }

    /// The sum of `len` bytes, which start at an even place; `None` if the frame ends before.
    ///
    /// They are copied first: the verifier lets a helper read a stretch of the packet only if its length is a
    /// constant.
    #[inline(always)]
    pub(crate) fn sum(&self, at: usize, len: usize) -> Option<Checksum> {
        let copy = maps::copy()?;
        // No other form of these bounds survives the compiler so that the verifier sees both.
        let len = (len.wrapping_sub(1) & COPY_LEN_MASK) + 1;
        // SAFETY: the buffer is longer than any masked length; the context is the one of this run.
        let result = unsafe { bpf_xdp_load_bytes(self.ctx, at as u32, copy.cast(), len as u32) };
        if result != 0 {
            return None;
        }
        // SAFETY: four bytes more fit behind any masked length.
        unsafe { copy.add(len).cast::<u32>().write_unaligned(0) };
        let (mut at, mut sum) = (0, 0);
        for _ in 0..SUM_STEPS_MAX {
            if at >= len {
                break;
            }
            let step = ((len - at + 3) & !3).min(SUM_STEP);
            // SAFETY: the step ends within the buffer; nothing is taken from the sum.
            let result = unsafe { bpf_csum_diff(ptr::null_mut(), 0, copy.add(at).cast(), step as u32, sum) };
            sum = u32::try_from(result).ok()?;
            at += SUM_STEP;
        }
        Some(Checksum::of_kernel(sum))
    }

    /// Takes `len` bytes off the front.
    #[inline(always)]
    pub(crate) fn cut_head(&mut self, len: usize) -> Option<()> {
        // SAFETY: the context is the one of this run.
        let result = unsafe { bpf_xdp_adjust_head(self.ctx, len as i32) };
        (result == 0).then_some(())
    }

    /// Cuts the packet to `len` bytes.
    #[inline(always)]
    pub(crate) fn truncate(&mut self, len: usize) -> Option<()> {
        // The box keeps the compiler from mixing the difference of two pointers into other arithmetic, which the
        // verifier forbids.
        let surplus = black_box(self.frame_len()) as i32 - len as i32;
        // SAFETY: the context is the one of this run.
        let result = unsafe { bpf_xdp_adjust_tail(self.ctx, -surplus) };
        (result == 0).then_some(())
    }

    /// The address of `N` bytes of the packet.
    #[inline(always)]
    fn checked<const N: usize>(&self, at: usize) -> Option<usize> {
        let bytes = self.start() + at;
        // The verifier learns the bound from this comparison of pointers; one of lengths would not do.
        if bytes + N > self.end() { None } else { Some(bytes) }
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

/// The same word, of which neither the compiler nor the verifier knows anything any more.
#[cfg(target_arch = "bpf")]
#[inline(always)]
pub(crate) fn forgotten(word: u32) -> u32 {
    let mut word = u64::from(word);
    // SAFETY: adding and subtracting the same number changes nothing.
    unsafe {
        core::arch::asm!(
            "{word} += {unknown}",
            "{word} -= {unknown}",
            word = inout(reg) word,
            unknown = in(reg) maps::ticks(),
            options(pure, nomem, nostack)
        );
    }
    word as u32
}

#[cfg(not(target_arch = "bpf"))]
pub(crate) fn forgotten(word: u32) -> u32 {
    word
}

impl Frame for Packet {
    #[inline(always)]
    fn at<const N: usize>(&self, at: usize) -> Option<&[u8; N]> {
        let bytes = self.checked::<N>(at)?;
        // SAFETY: the bytes lie in the packet, and nothing writes to it while `self` is borrowed.
        Some(unsafe { &*(bytes as *const [u8; N]) })
    }

    #[inline(always)]
    fn frame_len(&self) -> usize {
        self.end() - self.start()
    }
}

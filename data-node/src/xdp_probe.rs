//! Whether the kernel and an interface would take a kernel program: tried, and undone at once.
//!
//! Invariant: an interface that has a program is left alone, and what was tried is gone when the answer is given.

use thiserror::Error;

#[cfg(all(feature = "xdp", target_os = "linux"))]
mod linux;
#[cfg(all(feature = "xdp", target_os = "linux"))]
mod object;
#[cfg(not(all(feature = "xdp", target_os = "linux")))]
mod stub;

#[cfg(all(feature = "xdp", target_os = "linux"))]
pub use self::linux::{program_name, try_native};
#[cfg(not(all(feature = "xdp", target_os = "linux")))]
pub use self::stub::{program_name, try_native};
use crate::xdp::{self, XdpError};

/// Why an interface does not take a program in its driver.
#[derive(Debug, Error)]
pub enum NativeError {
    /// It has a program.
    #[error("it has an XDP program already")]
    Occupied,
    /// The process may not.
    #[error("that takes CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON")]
    Permission,
    /// Fewer receive queues than its peer has transmit queues.
    #[error("it has fewer receive queues than its peer has transmit queues")]
    Queues,
    /// Its MTU is too large.
    #[error("its MTU is too large for native XDP")]
    TooLargeMtu,
    /// Its driver has no native XDP, or none with these settings.
    #[error("its driver has no native XDP, or none with these settings")]
    Unsupported,
    /// Another reason.
    #[error("{0}")]
    Other(String),
}

/// Loads the kernel programs of this binary, and lets them go again. Blocks.
///
/// # Errors
/// It isn't in the binary, or the kernel refuses it.
pub fn try_load() -> Result<(), XdpError> {
    xdp::try_load()
}

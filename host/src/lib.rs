//! What this host can do, as its kernel says: interfaces, offloads, capabilities, releases, clocks, disks.
//!
//! Invariant: by itself it looks and changes nothing; callers may have netlink and `set_feature` do more. What the kernel answers is read by
//! functions of bytes or text alone; only `linux` asks. It knows nothing of xdpfs: what a finding means is for the caller to say.

mod address;
mod clock;
mod disk;
mod ethtool;
mod interface;
mod kernel;
#[cfg(target_os = "linux")]
mod linux;
pub mod netlink;
#[cfg(not(target_os = "linux"))]
mod stub;

pub use address::InterfaceAddress;
pub use clock::ClockDiscipline;
pub use disk::{FileSystem, Room};
pub use ethtool::{Channels, Feature, Features};
pub use interface::{Interface, Peer};
pub use kernel::{Capabilities, Release, is_bpffs_mounted};
#[cfg(target_os = "linux")]
pub use linux::{
    NetworkNamespace, addresses, addresses_by, capabilities, channels, clock_discipline, driver, features,
    file_system, interface, interface_at, interfaces, interfaces_by, release, room, set_feature,
};
#[cfg(not(target_os = "linux"))]
pub use stub::{
    NetworkNamespace, addresses, capabilities, channels, clock_discipline, driver, features, file_system,
    interface, interface_at, interfaces, release, room,
};

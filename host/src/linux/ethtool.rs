//! The ethtool calls: one `ioctl`, each time with another buffer.

use std::{io, os::fd::AsRawFd as _};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use crate::{
    Channels, Features,
    ethtool::{FEATURES_HEAD_LEN, NAMES_HEAD_LEN},
    netlink::{text, u32_at},
};

const SIOCETHTOOL: libc::Ioctl = 0x8946;
const ETHTOOL_GDRVINFO: u32 = 0x03;
const ETHTOOL_GSTRINGS: u32 = 0x1b;
const ETHTOOL_GSSET_INFO: u32 = 0x37;
const ETHTOOL_GFEATURES: u32 = 0x3a;
const ETHTOOL_SFEATURES: u32 = 0x3b;
const ETHTOOL_GCHANNELS: u32 = 0x3c;
const ETH_SS_FEATURES: u32 = 4;
/// Bytes of `struct ethtool_drvinfo`.
const DRIVER_LEN: usize = 196;
const DRIVER_NAME: std::ops::Range<usize> = 4..36;
/// Bytes of `struct ethtool_channels`.
const CHANNELS_LEN: usize = 36;
/// Bytes of `struct ethtool_sset_info` with one count.
const COUNT_LEN: usize = 20;
const COUNT_AT: usize = 16;
/// Far more features than any kernel has.
const FEATURES_MAX: usize = 1024;
const NAME_LEN: usize = 32;
const FEATURES_IN_BLOCK: usize = 32;
const BLOCK_LEN: usize = 16;
/// Which features are meant, and what they shall be.
const WISH_LEN: usize = 8;

/// `struct ifreq`, as this call uses it.
#[repr(C)]
struct Request {
    name: [u8; libc::IFNAMSIZ],
    data: *mut u32,
    /// The union's other members are longer.
    rest: [u64; 2],
}

/// What the interface can and does, by the names of features.
///
/// # Errors
/// There is no such interface, or it can't be asked.
pub fn features(interface: &str) -> io::Result<Features> {
    let names = feature_names(interface)?;
    let blocks = names.len().saturating_sub(NAMES_HEAD_LEN).div_ceil(NAME_LEN * FEATURES_IN_BLOCK);
    let mut features = Buffer::new(FEATURES_HEAD_LEN + blocks * BLOCK_LEN, ETHTOOL_GFEATURES);
    features.set(1, blocks as u32);
    ask(interface, &mut features)?;
    Ok(Features::parse(&names, &features.bytes()))
}

/// Turns a feature on or off; whether it was otherwise before.
///
/// # Errors
/// There is no such interface or no such feature, it can't be changed, or that takes `CAP_NET_ADMIN`.
pub fn set_feature(interface: &str, feature: &str, on: bool) -> io::Result<bool> {
    let present = features(interface)?.named(feature).ok_or(io::ErrorKind::NotFound)?;
    if present.is_on == on {
        return Ok(false);
    }
    let names = feature_names(interface)?;
    let (index, count) = Features::place(&names, feature).ok_or(io::ErrorKind::NotFound)?;
    let blocks = count.div_ceil(FEATURES_IN_BLOCK);
    let mut wish = Buffer::new(FEATURES_HEAD_LEN + blocks * WISH_LEN, ETHTOOL_SFEATURES);
    wish.set(1, blocks as u32);
    let at = (FEATURES_HEAD_LEN + index / FEATURES_IN_BLOCK * WISH_LEN) / 4;
    let bit = 1 << (index % FEATURES_IN_BLOCK);
    wish.set(at, bit);
    wish.set(at + 1, if on { bit } else { 0 });
    ask(interface, &mut wish)?;
    // The call succeeds, too, where another feature stands against it.
    if features(interface)?.is_on(feature) == on { Ok(true) } else { Err(io::ErrorKind::Unsupported.into()) }
}

fn feature_names(interface: &str) -> io::Result<Vec<u8>> {
    let mut answer = Buffer::new(COUNT_LEN, ETHTOOL_GSSET_INFO);
    // The mask is of 64 bits.
    answer.set(2, if cfg!(target_endian = "little") { 1 << ETH_SS_FEATURES } else { 0 });
    answer.set(3, if cfg!(target_endian = "little") { 0 } else { 1 << ETH_SS_FEATURES });
    ask(interface, &mut answer)?;
    let count = u32_at(&answer.bytes(), COUNT_AT).map_or(0, |count| count as usize).min(FEATURES_MAX);
    let mut names = Buffer::new(NAMES_HEAD_LEN + count * NAME_LEN, ETHTOOL_GSTRINGS);
    names.set(1, ETH_SS_FEATURES);
    names.set(2, count as u32);
    ask(interface, &mut names)?;
    Ok(names.bytes())
}

/// How many queues the interface uses.
///
/// # Errors
/// There is no such interface, or its driver doesn't say.
pub fn channels(interface: &str) -> io::Result<Channels> {
    let mut answer = Buffer::new(CHANNELS_LEN, ETHTOOL_GCHANNELS);
    ask(interface, &mut answer)?;
    Channels::parse(&answer.bytes()).ok_or_else(crate::netlink::malformed)
}

/// The name of the interface's driver.
///
/// # Errors
/// There is no such interface, or it has no driver.
pub fn driver(interface: &str) -> io::Result<String> {
    let mut answer = Buffer::new(DRIVER_LEN, ETHTOOL_GDRVINFO);
    ask(interface, &mut answer)?;
    Ok(text(answer.bytes().get(DRIVER_NAME).unwrap_or_default()))
}

/// A command, and room for the answer, aligned as the kernel's structures are.
struct Buffer(Vec<u32>);

impl Buffer {
    fn new(len: usize, command: u32) -> Self {
        let mut words = vec![0; len.div_ceil(4)];
        words[0] = command;
        Self(words)
    }

    fn set(&mut self, word: usize, value: u32) {
        self.0[word] = value;
    }

    fn bytes(&self) -> Vec<u8> {
        self.0.iter().flat_map(|word| word.to_ne_bytes()).collect()
    }
}

fn ask(interface: &str, buffer: &mut Buffer) -> io::Result<()> {
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    let mut name = [0; libc::IFNAMSIZ];
    let bytes = interface.as_bytes();
    if bytes.len() >= name.len() {
        return Err(io::ErrorKind::NotFound.into());
    }
    name[..bytes.len()].copy_from_slice(bytes);
    let mut request = Request { name, data: buffer.0.as_mut_ptr(), rest: [0; 2] };
    // SAFETY: the request names a buffer that is as long as its command and its counts say, and both outlive the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_has_features_by_name() {
        let features = features("lo").unwrap();
        assert!(features.named("rx-gro").is_some(), "{features:?}");
        assert!(features.is_on("tx-udp-segmentation"), "{features:?}");
    }

    #[test]
    fn no_such_interface_is_an_error() {
        for name in ["xdpfs-nowhere", "a-name-that-no-interface-can-have"] {
            assert!(features(name).is_err() && channels(name).is_err() && driver(name).is_err(), "{name}");
            assert!(set_feature(name, "rx-gro", true).is_err(), "{name}");
        }
    }

    #[test]
    fn feature_that_is_as_wished_is_left_alone() {
        let is_on = features("lo").unwrap().is_on("rx-gro");
        assert!(!set_feature("lo", "rx-gro", is_on).unwrap());
        assert!(set_feature("lo", "rx-none", true).is_err());
    }
}

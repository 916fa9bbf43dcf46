//! A range of addresses, as operators write it: `10.0.0.0/8`, `fd00::/8`, or one address.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
    str::FromStr,
};

use thiserror::Error;

/// Bits before an IPv4 address that is mapped into IPv6 (RFC 4291 §2.5.5.2).
const MAPPED_BITS: u8 = 96;

/// All addresses that begin with the same bits. IPv4 addresses are the ones that are mapped into IPv6.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct SourcePrefix {
    /// The bits, and zeros behind them.
    bits: u128,
    len: u8,
}

/// A text that names no addresses.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[error("{0:?} is no range of addresses such as 10.0.0.0/8")]
pub struct SourcePrefixError(String);

impl SourcePrefix {
    /// The first address, mapped into IPv6 if it is an IPv4 address.
    #[must_use]
    pub const fn address(&self) -> Ipv6Addr {
        Ipv6Addr::from_bits(self.bits)
    }

    /// How many bits of the IPv6 address are the same.
    #[must_use]
    pub const fn prefix_len(&self) -> u8 {
        self.len
    }

    /// Whether the address is in it.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        masked(mapped(address).to_bits(), self.len) == self.bits
    }
}

impl FromStr for SourcePrefix {
    type Err = SourcePrefixError;

    fn from_str(text: &str) -> Result<Self, SourcePrefixError> {
        parse(text.trim()).ok_or_else(|| SourcePrefixError(text.to_owned()))
    }
}

impl fmt::Display for SourcePrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address().to_ipv4_mapped() {
            Some(v4) if self.len >= MAPPED_BITS => write!(f, "{v4}/{}", self.len - MAPPED_BITS),
            _ => write!(f, "{}/{}", self.address(), self.len),
        }
    }
}

fn parse(text: &str) -> Option<SourcePrefix> {
    let (address, len) = text.split_once('/').map_or((text, None), |(address, len)| (address, Some(len)));
    let address: IpAddr = address.parse().ok()?;
    let (before, own) = if address.is_ipv4() { (MAPPED_BITS, 32) } else { (0, 128) };
    let len = before + len.map_or(Some(own), |len| len.parse().ok()).filter(|len| *len <= own)?;
    Some(SourcePrefix { bits: masked(mapped(address).to_bits(), len), len })
}

fn mapped(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    }
}

fn masked(bits: u128, len: u8) -> u128 {
    bits & u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_read_and_written_as_operators_do() {
        let check = |text: &str, expect: Option<&str>| {
            let parsed = text.parse::<SourcePrefix>().ok().map(|prefix| prefix.to_string());
            assert_eq!(parsed.as_deref(), expect, "{text:?}");
        };
        check("10.1.2.3/8", Some("10.0.0.0/8"));
        check("10.1.2.3", Some("10.1.2.3/32"));
        check("0.0.0.0/0", Some("0.0.0.0/0"));
        check("fd00:1::5/16", Some("fd00::/16"));
        check("fd00::1", Some("fd00::1/128"));
        check("::/0", Some("::/0"));
        check("10.0.0.0/33", None);
        check("fd00::/129", None);
        check("10.0.0.0/", None);
        check("10.0.0.0/-1", None);
        check("10.0/8", None);
        check("", None);
    }

    #[test]
    fn an_address_is_in_the_prefixes_that_it_begins_with() {
        let check = |prefix: &str, address: &str, expect| {
            let contains = prefix.parse::<SourcePrefix>().unwrap().contains(address.parse().unwrap());
            assert_eq!(contains, expect, "{address} in {prefix}");
        };
        check("10.0.0.0/8", "10.255.0.1", true);
        check("10.0.0.0/8", "11.0.0.1", false);
        check("10.0.0.0/8", "::ffff:10.0.0.1", true);
        check("0.0.0.0/0", "10.0.0.1", true);
        check("0.0.0.0/0", "fd00::1", false);
        check("::/0", "10.0.0.1", true);
        check("fd00::/8", "fd12::1", true);
    }
}

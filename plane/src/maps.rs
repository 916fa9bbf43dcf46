//! Keys and values of the kernel program's maps, as both sides lay them out.

use crate::rate::Rate;

/// Entries of `KEY_EPOCHS`: every value of the header's byte.
pub const KEY_EPOCHS: u32 = 256;
/// Entries of `ROUTES`, unless the loader asks for more; a node id beyond is unknown.
pub const ROUTES_MAX: u32 = 4096;
/// Entries of `DEVICES`.
pub const DEVICES_MAX: u32 = 256;
/// Entries of `SOURCE_RULES`.
pub const SOURCE_RULES_MAX: u32 = 1024;
/// Entries of `SOURCE_BUCKETS`; the least recently seen sources are forgotten.
pub const SOURCE_BUCKETS_MAX: u32 = 65_536;
/// Bytes of `EVENTS`.
pub const EVENTS_LEN: u32 = 256 * 1024;

/// One entry of `KEY_EPOCHS`, indexed by the key epoch.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct KeyEpochSlot {
    /// First half of the epoch secret.
    pub k0: u64,
    /// Second half.
    pub k1: u64,
    /// Not zero: the epoch is live. User space clears it before it changes the secret, and sets it last.
    pub live: u64,
}

/// The one entry of `SETTINGS`: what user space may change at any time.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct Settings {
    /// Ticks times `TICK_NS` when these settings were made.
    pub made_ns: u64,
    /// How fast one source may send.
    pub source_rate: Rate,
    /// How fast one CPU may answer refused requests.
    pub answer_rate: Rate,
    /// An event is kept of each packet whose counter has none of these bits set; all ones keep none.
    pub event_mask: u64,
    /// What becomes of sources without a rule in `SOURCE_RULES`.
    pub unlisted_source: SourceRule,
    /// Not zero: `SOURCE_RULES` has entries.
    pub sources_listed: u32,
    /// Seconds since the Unix epoch on the leader's clock when these settings were made.
    pub made_unix_s: u32,
    /// Zero.
    pub reserved: u32,
}

impl Settings {
    /// Seconds since the Unix epoch on the leader's clock.
    ///
    /// It is 10 parts per million slow, by using shifts where a division would cost as much as a third of a packet's
    /// budget. User space makes the settings anew every minute, so that this stays below a millisecond; if user space
    /// is gone, it takes a day to become a second.
    #[inline(always)]
    #[must_use]
    pub const fn unix_s(&self, now_ns: u64) -> u32 {
        const SECOND: u64 = (1 << 44) / 1_000_000_000;
        let since = now_ns.wrapping_sub(self.made_ns) >> 20;
        self.made_unix_s.wrapping_add(((since * SECOND) >> 24) as u32)
    }
}

/// A value of `SOURCE_RULES`, whose key is an IPv6 prefix; IPv4 is mapped into IPv6 (RFC 4291 §2.5.5.2).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(transparent)]
pub struct SourceRule(pub u32);

impl SourceRule {
    /// The source may send.
    pub const ALLOW: Self = Self(0);
    /// What the source sends is dropped.
    pub const DENY: Self = Self(1);
}

/// One entry of `ROUTES`, indexed by the node id. All zeros: the node is unknown here.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct Route {
    /// Where the node is.
    pub place: Place,
    /// The entry of `DEVICES` that leads to it.
    pub device: u32,
    /// Its IPv4 address; zeros if it has none.
    pub v4: [u8; 4],
    /// Its IPv6 address; zeros if it has none.
    pub v6: [u8; 16],
    /// The node's own MAC, or the next hop's.
    pub destination_mac: [u8; 6],
    /// Of the device that leads to it.
    pub source_mac: [u8; 6],
    /// Its UDP port, in network order.
    pub port: [u8; 2],
    /// Its present registration.
    pub node_epoch: u16,
}

/// Where a node is.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(transparent)]
pub struct Place(pub u32);

impl Place {
    /// Unknown here.
    pub const NOWHERE: Self = Self(0);
    /// On this host.
    pub const HERE: Self = Self(1);
    /// Behind a device.
    pub const DEVICE: Self = Self(2);
}

/// A sampled packet, as it stands in `EVENTS`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(C)]
pub struct Event {
    /// Ticks times `TICK_NS`.
    pub at_ns: u64,
    /// Which counter it raised.
    pub counter: u32,
    /// The interface that it came in by.
    pub device: u32,
    /// Its source address; IPv4 is mapped into IPv6.
    pub source: [u8; 16],
    /// The header as it came, or zeros if the datagram is shorter than that.
    pub header: [u8; 64],
}

const _: () = assert!(size_of::<Settings>() == 64 && size_of::<Route>() == 44 && size_of::<Event>() == 96);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_runs_from_when_the_settings_were_made() {
        let settings = Settings { made_ns: 5_000_000_000, made_unix_s: 1000, ..Settings::default() };
        let check = |after_ns: u64, expect: u32| {
            assert_eq!(settings.unix_s(settings.made_ns + after_ns), 1000 + expect, "{after_ns} ns later");
        };
        check(0, 0);
        check(999_000_000, 0);
        check(1_001_000_000, 1);
        check(60_002_000_000, 60);
        // A day without user space costs less than a second.
        check(86_400_000_000_000, 86_399);
    }
}

//! Keys and values of the kernel program's maps, as both sides lay them out.

use xdpfs_wire::{Capability, CapabilityKey, EpochSecret, SipKey};

use crate::{frame::Ip, rate::Rate};

/// Counts up whenever a map changes its shape or its meaning, so that no program meets maps of another one.
pub const LAYOUT: u32 = 2;
/// Entries of `KEY_EPOCHS`: every value of the header's byte.
pub const KEY_EPOCHS: u32 = 256;
/// Entries of `ROUTES`, unless the loader asks for more; a node id beyond is unknown.
pub const ROUTES_MAX: u32 = 4096;
/// Entries of `DEVICES`.
pub const DEVICES_MAX: u32 = 256;
/// The entry of `DEVICES` that leads to clients.
pub const UPLINK: u32 = 0;
/// Entries of `OWN_ADDRESSES`.
pub const OWN_ADDRESSES_MAX: u32 = 256;
/// Addresses in `SETTINGS`.
pub const SERVED_MAX: usize = 4;
/// Entries of `REPLY_SOURCES`.
pub const REPLY_SOURCES_MAX: u32 = 4096;
/// Entries of `NEXT_HOPS`.
pub const NEXT_HOPS_MAX: u32 = 4096;
/// Entries of `SOURCE_RULES`.
pub const SOURCE_RULES_MAX: u32 = 1024;
/// Entries of `SOURCE_BUCKETS`; the least recently seen sources are forgotten.
pub const SOURCE_BUCKETS_MAX: u32 = 65_536;
/// Bytes of `EVENTS`.
pub const EVENTS_LEN: u32 = 256 * 1024;

/// An IP address; IPv4 is mapped into IPv6 (RFC 4291 §2.5.5.2).
pub type Address = [u8; 16];

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

/// Entries of `KEYS`, a power of two.
pub const KEYS_MAX: u32 = 1024;

/// One entry of `KEYS`: the key of a capability, so that it need not be derived for each datagram. Only the program uses
/// it.
///
/// What decides over an entry's use is compared in full: a key is never taken for another capability or secret.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct RememberedKey {
    secret: [u64; 2],
    capability: [u64; 2],
    key: [u64; 2],
}

impl RememberedKey {
    /// Set in the capability of each entry that holds one.
    const IS_THERE: u64 = 1 << 62;

    /// The key, if it is the one of `capability` under `secret`.
    #[inline(always)]
    #[must_use]
    pub fn of(&self, capability: &Capability, secret: EpochSecret) -> Option<CapabilityKey> {
        let [who, what] = capability.words();
        let is_it = self.capability[0] == who
            && self.capability[1] == what | Self::IS_THERE
            && self.secret[0] == secret.0.k0
            && self.secret[1] == secret.0.k1;
        is_it.then_some(CapabilityKey(SipKey { k0: self.key[0], k1: self.key[1] }))
    }

    /// Derives the key of `capability` under `secret` and remembers it.
    #[inline(always)]
    pub fn learn(&mut self, capability: &Capability, secret: EpochSecret) -> CapabilityKey {
        let [who, what] = capability.words();
        let key = capability.key(secret);
        self.secret = [secret.0.k0, secret.0.k1];
        self.capability = [who, what | Self::IS_THERE];
        self.key = [key.0.k0, key.0.k1];
        key
    }

    /// The entry of `KEYS` that a capability shares with few others.
    #[inline(always)]
    #[must_use]
    pub fn place(capability: &Capability) -> u32 {
        /// An odd number near the golden section of a word spreads neighbours.
        const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
        let [who, what] = capability.words();
        ((who ^ what).wrapping_mul(SPREAD) >> (u64::BITS - KEYS_MAX.ilog2())) as u32
    }
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
    /// The number of the interface that replies leave by; zero if there is none.
    pub uplink: u32,
    /// The first addresses of this host that clients know, so that most packets need no look-up in `OWN_ADDRESSES`, which
    /// costs as much as a quarter of the tag; zeros fill the list.
    pub served: [AddressWords; SERVED_MAX],
}

/// An [`Address`] as words in memory order.
pub type AddressWords = [u64; 2];

/// The words of an address.
#[inline(always)]
#[must_use]
pub const fn words(address: Address) -> AddressWords {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = address;
    [u64::from_ne_bytes([a, b, c, d, e, f, g, h]), u64::from_ne_bytes([i, j, k, l, m, n, o, p])]
}

impl Settings {
    /// Whether `address` is one of the first that clients know.
    #[inline(always)]
    #[must_use]
    pub fn serves(&self, address: Address) -> bool {
        let [high, low] = words(address);
        self.served.iter().any(|[other_high, other_low]| high == *other_high && low == *other_low)
    }

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

/// The one entry of `LEASE`: until when the node on this host takes writes, as ticks times `TICK_NS`. The program of an edge has
/// none. It is inverted: the zeros that the kernel fills a new map with are a lease that never ends.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(transparent)]
pub struct Lease(u64);

impl Lease {
    /// It never ends.
    pub const NONE: Self = Self::until(u64::MAX);

    /// It ends then.
    #[must_use]
    pub const fn until(end_ns: u64) -> Self {
        Self(!end_ns)
    }

    /// Whether it holds.
    #[inline(always)]
    #[must_use]
    pub const fn holds(self, now_ns: u64) -> bool {
        now_ns < !self.0
    }
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
    /// Where only user space reaches it.
    pub const RELAY: Self = Self(3);
}

/// A value of `OWN_ADDRESSES`, whose key is an [`Address`] of this host.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(transparent)]
pub struct OwnAddress(pub u32);

impl OwnAddress {
    /// This host's, but clients don't know it.
    pub const OTHER: Self = Self(0);
    /// Datagrams to one of our ports here are ours.
    pub const SERVED: Self = Self(1);
}

/// A key of `REPLY_SOURCES`: where a node sends from.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[repr(C)]
pub struct ReplyKey {
    /// The interface that its replies come in by.
    pub device: u32,
    /// Its address.
    pub address: Address,
    /// Its UDP port, in network order.
    pub port: [u8; 2],
    /// Zeros.
    pub reserved: [u8; 2],
}

/// A value of `REPLY_SOURCES`: what clients take for the node.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct ReplySource {
    /// The IPv4 address that clients know; zeros if there is none.
    pub v4: [u8; 4],
    /// The IPv6 address that clients know; zeros if there is none.
    pub v6: [u8; 16],
    /// The UDP port that clients know, in network order.
    pub port: [u8; 2],
    /// Zeros.
    pub reserved: [u8; 2],
}

impl ReplySource {
    /// Whether clients know an address of this IP version.
    #[inline(always)]
    #[must_use]
    pub fn speaks(&self, ip: Ip) -> bool {
        match ip {
            Ip::V4 => self.v4 != [0; 4],
            Ip::V6 => self.v6 != [0; 16],
        }
    }
}

/// A value of `NEXT_HOPS`, whose key is a prefix of clients' addresses: where frames for them go from the uplink.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct NextHop {
    /// The client's own MAC, or the router's; zeros if it is not known.
    pub destination_mac: [u8; 6],
    /// The uplink's.
    pub source_mac: [u8; 6],
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
    /// Its source.
    pub source: Address,
    /// The header as it came, or zeros if the datagram is shorter than that.
    pub header: [u8; 64],
}

const _: () = assert!(size_of::<Settings>() == 128 && size_of::<Route>() == 44 && size_of::<Event>() == 96);
const _: () =
    assert!(size_of::<ReplyKey>() == 24 && size_of::<ReplySource>() == 24 && size_of::<NextHop>() == 12);

#[cfg(test)]
mod tests {
    use xdpfs_wire::{BucketId, ClientId, Expiry, KeyEpoch, Rights};

    use super::*;

    #[test]
    fn a_key_is_remembered_for_its_own_capability_and_secret_only() {
        let secret = |k0| EpochSecret(SipKey { k0, k1: 2 });
        let capability = Capability {
            client: ClientId(9),
            bucket: BucketId(4),
            rights: Rights::READ,
            expiry: Expiry(1000),
            key_epoch: KeyEpoch(7),
        };
        let mut entry = RememberedKey::default();
        assert_eq!(entry.of(&capability, secret(1)), None);
        assert_eq!(entry.learn(&capability, secret(1)), capability.key(secret(1)));
        assert_eq!(entry.of(&capability, secret(1)), Some(capability.key(secret(1))));
        assert_eq!(entry.of(&capability, secret(3)), None);
        let others = [
            Capability { client: ClientId(10), ..capability },
            Capability { bucket: BucketId(5), ..capability },
            Capability { rights: Rights::ALL, ..capability },
            Capability { expiry: Expiry(1001), ..capability },
            Capability { key_epoch: KeyEpoch(8), ..capability },
        ];
        for other in others {
            assert_eq!(entry.of(&other, secret(1)), None, "{other:?}");
        }
    }

    #[test]
    fn nothing_is_remembered_of_a_capability_of_zeros_before_it_was_seen() {
        let nothing = Capability {
            client: ClientId(0),
            bucket: BucketId(0),
            rights: Rights::NONE,
            expiry: Expiry(0),
            key_epoch: KeyEpoch(0),
        };
        let secret = EpochSecret(SipKey { k0: 0, k1: 0 });
        assert_eq!(RememberedKey::default().of(&nothing, secret), None);
    }

    #[test]
    fn neighbours_are_remembered_in_different_places() {
        let place = |client| {
            RememberedKey::place(&Capability {
                client: ClientId(client),
                bucket: BucketId(4),
                rights: Rights::READ,
                expiry: Expiry(1000),
                key_epoch: KeyEpoch(7),
            })
        };
        let mut taken = [false; KEYS_MAX as usize];
        (0..100).for_each(|client| taken[place(client) as usize] = true);
        assert!(taken.iter().filter(|taken| **taken).count() > 90);
    }

    #[test]
    fn lease_ends_at_its_moment_or_never() {
        let check = |lease: Lease, now_ns, expect| {
            assert_eq!(lease.holds(now_ns), expect, "{lease:?} at {now_ns}");
        };
        let until_five = Lease::until(5_000_000_000);
        check(until_five, 0, true);
        check(until_five, 4_999_999_999, true);
        check(until_five, 5_000_000_000, false);
        check(until_five, 5_000_000_001, false);
        check(Lease::until(0), 0, false);
        check(Lease::NONE, u64::MAX - 1, true);
        assert_eq!(Lease::NONE, Lease(0), "what the kernel fills a new map with");
    }

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

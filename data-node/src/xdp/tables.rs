//! What the kernel programs are told, map by map, and what they have counted.
//!
//! Invariant: only differences are written, and what is added is there before what it replaces goes.

use std::{collections::BTreeMap, fmt, net::IpAddr, time::Instant};

use aya::{
    Ebpf, Pod,
    maps::{
        Array, DevMap, HashMap, LpmTrie, Map, MapData, MapError, PerCpuArray, RingBuf, lpm_trie::Key,
        xdp::XdpMapError,
    },
};
use xdpfs_plane::{
    Fate, Rate,
    maps::{
        Address, DEVICES_MAX, KEY_EPOCHS, KeyEpochSlot, Lease, NextHop, OwnAddress, ReplyKey, ReplySource,
        Route, SERVED_MAX, Settings, SourceRule, words,
    },
};
use xdpfs_wire::{EpochSecret, KeyEpoch, NodeId, Reject, SipKey};

use crate::{lease::Moment, source_prefix::SourcePrefix};

use super::{
    PlaneCounts, SourceConfig, XdpError,
    network::mapped,
    programs::{Programs, ROUTES, missing},
};

/// Refused requests that one CPU answers: enough for any honest crowd with an old placement, and no load. The burst is
/// longer than the longest tick of a kernel.
const ANSWER_RATE: Rate = Rate { interval_ns: 100_000, burst_ns: 20_000_000 };
/// How far a source may run ahead of its rate: as many datagrams as its rate allows in this time, longer than the
/// longest tick of a kernel.
const SOURCE_BURST_NS: u64 = 50_000_000;
const SECOND_NS: u64 = 1_000_000_000;

/// A prefix of addresses, as a key of a map.
pub(super) type PrefixKey = (u32, Address);

/// What the maps hold.
#[derive(Default)]
pub(super) struct Tables {
    key_epochs: BTreeMap<KeyEpoch, EpochSecret>,
    routes: BTreeMap<NodeId, Route>,
    own: BTreeMap<Address, OwnAddress>,
    reply_sources: BTreeMap<ReplyKey, ReplySource>,
    next_hops: BTreeMap<PrefixKey, NextHop>,
    source_rules: BTreeMap<PrefixKey, SourceRule>,
}

/// What the maps should hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Contents {
    pub(super) routes: BTreeMap<NodeId, Route>,
    pub(super) own: BTreeMap<Address, OwnAddress>,
    pub(super) reply_sources: BTreeMap<ReplyKey, ReplySource>,
    pub(super) next_hops: BTreeMap<PrefixKey, NextHop>,
}

/// The time of the cluster, as somebody read it.
#[derive(Clone, Copy, Debug)]
pub(super) struct ClusterTime {
    pub(super) unix_ms: u64,
    pub(super) read: Instant,
}

impl ClusterTime {
    /// Read just now.
    pub(super) fn now(unix_ms: u64) -> Self {
        Self { unix_ms, read: Instant::now() }
    }
}

/// What `SETTINGS` and `LEASE` hold, but for the program's own clocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wishes {
    pub(super) time: ClusterTime,
    /// From when on the node on this host takes no writes.
    pub(super) lease_end: Option<Moment>,
    pub(super) source_rate: Option<u32>,
    pub(super) source_rules: Option<SourceRule>,
    pub(super) event_mask: u64,
    pub(super) uplink: u32,
}

/// A key or a value as the maps hold it.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Raw<T>(T);

// SAFETY: the type is `repr(C)`, of plain words and without padding.
unsafe impl Pod for Raw<KeyEpochSlot> {}
// SAFETY: as above.
unsafe impl Pod for Raw<Lease> {}
// SAFETY: as above.
unsafe impl Pod for Raw<NextHop> {}
// SAFETY: as above.
unsafe impl Pod for Raw<OwnAddress> {}
// SAFETY: as above.
unsafe impl Pod for Raw<ReplyKey> {}
// SAFETY: as above.
unsafe impl Pod for Raw<ReplySource> {}
// SAFETY: as above.
unsafe impl Pod for Raw<Route> {}
// SAFETY: as above.
unsafe impl Pod for Raw<Settings> {}
// SAFETY: as above.
unsafe impl Pod for Raw<SourceRule> {}

impl Tables {
    /// What the maps of another process hold, which this one takes over.
    pub(super) fn read(programs: &Programs) -> Result<Self, XdpError> {
        let ebpf = &programs.ebpf;
        let mut this = Self::default();
        let slots: Array<_, Raw<KeyEpochSlot>> = part(ebpf, "KEY_EPOCHS")?;
        for (epoch, slot) in (0..KEY_EPOCHS).zip(slots.iter()) {
            let Raw(KeyEpochSlot { k0, k1, live }) = slot.map_err(reading("KEY_EPOCHS"))?;
            if live != 0 {
                this.key_epochs.insert(KeyEpoch(epoch as u8), EpochSecret(SipKey { k0, k1 }));
            }
        }
        let routes: Array<_, Raw<Route>> = part(ebpf, "ROUTES")?;
        for (node, route) in (0..ROUTES).zip(routes.iter()) {
            let Raw(route) = route.map_err(reading("ROUTES"))?;
            if route != Route::default() {
                this.routes.insert(NodeId(node as u16), route);
            }
        }
        let own: HashMap<_, Address, Raw<OwnAddress>> = part(ebpf, "OWN_ADDRESSES")?;
        for entry in own.iter() {
            let (address, Raw(value)) = entry.map_err(reading("OWN_ADDRESSES"))?;
            this.own.insert(address, value);
        }
        let sources: HashMap<_, Raw<ReplyKey>, Raw<ReplySource>> = part(ebpf, "REPLY_SOURCES")?;
        for entry in sources.iter() {
            let (Raw(key), Raw(value)) = entry.map_err(reading("REPLY_SOURCES"))?;
            this.reply_sources.insert(key, value);
        }
        let hops: LpmTrie<_, Address, Raw<NextHop>> = part(ebpf, "NEXT_HOPS")?;
        for entry in hops.iter() {
            let (key, Raw(value)) = entry.map_err(reading("NEXT_HOPS"))?;
            this.next_hops.insert((key.prefix_len(), key.data()), value);
        }
        let rules: LpmTrie<_, Address, Raw<SourceRule>> = part(ebpf, "SOURCE_RULES")?;
        for entry in rules.iter() {
            let (key, Raw(value)) = entry.map_err(reading("SOURCE_RULES"))?;
            this.source_rules.insert((key.prefix_len(), key.data()), value);
        }
        Ok(this)
    }

    /// Brings the maps in step. Whoever asks by a route finds its keys, its device and its way back.
    pub(super) fn update(&mut self, programs: &mut Programs, wanted: &Contents) -> Result<(), XdpError> {
        let ebpf = &mut programs.ebpf;
        let own = added(&self.own, &wanted.own);
        self.put_hash(ebpf, "OWN_ADDRESSES", own, |this| &mut this.own)?;
        let sources = added(&self.reply_sources, &wanted.reply_sources);
        let mut map: HashMap<_, Raw<ReplyKey>, Raw<ReplySource>> = part_mut(ebpf, "REPLY_SOURCES")?;
        for (key, value) in sources {
            map.insert(Raw(key), Raw(value), 0).map_err(reading("REPLY_SOURCES"))?;
            self.reply_sources.insert(key, value);
        }
        let mut map: LpmTrie<_, Address, Raw<NextHop>> = part_mut(ebpf, "NEXT_HOPS")?;
        for (key, value) in added(&self.next_hops, &wanted.next_hops) {
            map.insert(&Key::new(key.0, key.1), Raw(value), 0).map_err(reading("NEXT_HOPS"))?;
            self.next_hops.insert(key, value);
        }
        for key in gone(&self.next_hops, &wanted.next_hops) {
            map.remove(&Key::new(key.0, key.1)).map_err(reading("NEXT_HOPS"))?;
            self.next_hops.remove(&key);
        }
        let mut map: Array<_, Raw<Route>> = part_mut(ebpf, "ROUTES")?;
        for (node, route) in added(&self.routes, &wanted.routes) {
            map.set(u32::from(node.0), Raw(route), 0).map_err(reading("ROUTES"))?;
            self.routes.insert(node, route);
        }
        for node in gone(&self.routes, &wanted.routes) {
            map.set(u32::from(node.0), Raw(Route::default()), 0).map_err(reading("ROUTES"))?;
            self.routes.remove(&node);
        }
        let mut map: HashMap<_, Raw<ReplyKey>, Raw<ReplySource>> = part_mut(ebpf, "REPLY_SOURCES")?;
        for key in gone(&self.reply_sources, &wanted.reply_sources) {
            map.remove(&Raw(key)).map_err(reading("REPLY_SOURCES"))?;
            self.reply_sources.remove(&key);
        }
        let mut map: HashMap<_, Address, Raw<OwnAddress>> = part_mut(ebpf, "OWN_ADDRESSES")?;
        for address in gone(&self.own, &wanted.own) {
            map.remove(&address).map_err(reading("OWN_ADDRESSES"))?;
            self.own.remove(&address);
        }
        Ok(())
    }

    /// A slot is not live while its secret changes: the program must never see half of one.
    pub(super) fn update_key_epochs(
        &mut self,
        programs: &mut Programs,
        live: &BTreeMap<KeyEpoch, EpochSecret>,
    ) -> Result<(), XdpError> {
        let mut map: Array<_, Raw<KeyEpochSlot>> = part_mut(&mut programs.ebpf, "KEY_EPOCHS")?;
        let mut set =
            |epoch: KeyEpoch, slot| map.set(u32::from(epoch.0), Raw(slot), 0).map_err(reading("KEY_EPOCHS"));
        let known = self.key_epochs.clone();
        let ended = known.into_iter().filter(|(epoch, secret)| live.get(epoch) != Some(secret));
        for (epoch, EpochSecret(SipKey { k0, k1 })) in ended {
            set(epoch, KeyEpochSlot { k0, k1, live: 0 })?;
            set(epoch, KeyEpochSlot::default())?;
            self.key_epochs.remove(&epoch);
        }
        for (epoch, secret) in live {
            if !self.key_epochs.contains_key(epoch) {
                let EpochSecret(SipKey { k0, k1 }) = *secret;
                set(*epoch, KeyEpochSlot { k0, k1, live: 0 })?;
                set(*epoch, KeyEpochSlot { k0, k1, live: 1 })?;
                self.key_epochs.insert(*epoch, *secret);
            }
        }
        Ok(())
    }

    /// Says who may send; what remains to be said in the settings.
    pub(super) fn update_sources(
        &mut self,
        programs: &mut Programs,
        sources: &SourceConfig,
    ) -> Result<Option<SourceRule>, XdpError> {
        let key = |prefix: &SourcePrefix| (u32::from(prefix.prefix_len()), prefix.address().octets());
        let with = |rule| move |prefix: &SourcePrefix| (key(prefix), rule);
        let allowed = sources.allow.iter().map(with(SourceRule::ALLOW));
        // Of two rules on the same prefix the one that denies counts.
        let wanted: BTreeMap<_, _> = allowed.chain(sources.deny.iter().map(with(SourceRule::DENY))).collect();
        let mut map: LpmTrie<_, Address, Raw<SourceRule>> = part_mut(&mut programs.ebpf, "SOURCE_RULES")?;
        for (key, value) in added(&self.source_rules, &wanted) {
            map.insert(&Key::new(key.0, key.1), Raw(value), 0).map_err(reading("SOURCE_RULES"))?;
            self.source_rules.insert(key, value);
        }
        for key in gone(&self.source_rules, &wanted) {
            map.remove(&Key::new(key.0, key.1)).map_err(reading("SOURCE_RULES"))?;
            self.source_rules.remove(&key);
        }
        let unlisted = if sources.allow.is_empty() { SourceRule::ALLOW } else { SourceRule::DENY };
        Ok((!wanted.is_empty()).then_some(unlisted))
    }

    fn put_hash(
        &mut self,
        ebpf: &mut Ebpf,
        name: &'static str,
        entries: Vec<(Address, OwnAddress)>,
        told: impl Fn(&mut Self) -> &mut BTreeMap<Address, OwnAddress>,
    ) -> Result<(), XdpError> {
        let mut map: HashMap<_, Address, Raw<OwnAddress>> = part_mut(ebpf, name)?;
        for (key, value) in entries {
            map.insert(key, Raw(value), 0).map_err(reading(name))?;
            told(self).insert(key, value);
        }
        Ok(())
    }
}

/// Secrets are not shown.
impl fmt::Debug for Tables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tables").field("routes", &self.routes).field("own", &self.own).finish_non_exhaustive()
    }
}

/// Puts the settings and the lease in force; the program's clock runs from here.
pub(super) fn set(programs: &mut Programs, tables: &Tables, wishes: &Wishes) -> Result<(), XdpError> {
    let Wishes { time, lease_end, source_rate, source_rules, event_mask, uplink } = *wishes;
    let made_ns = programs.now_ns()?;
    // Looked at behind the program's clock, so that time that passes in between makes no lease longer.
    let lease = lease_entry(lease_end, made_ns, Moment::now());
    let mut map: Array<_, Raw<Lease>> = part_mut(&mut programs.ebpf, "LEASE")?;
    map.set(0, Raw(lease), 0).map_err(reading("LEASE"))?;
    let now_ms = time.unix_ms + u64::try_from(time.read.elapsed().as_millis()).unwrap_or_default();
    let mut served = [[0; 2]; SERVED_MAX];
    let known = tables.own.iter().filter(|(_, own)| **own == OwnAddress::SERVED);
    for (place, (address, _)) in served.iter_mut().zip(known) {
        *place = words(*address);
    }
    let since_second_ns = now_ms % 1000 * 1_000_000;
    let interval_ns = source_rate.map_or(0, |rate| SECOND_NS / u64::from(rate.max(1)));
    let settings = Settings {
        made_ns: made_ns.wrapping_sub(since_second_ns),
        source_rate: Rate { interval_ns, burst_ns: SOURCE_BURST_NS },
        answer_rate: ANSWER_RATE,
        event_mask,
        unlisted_source: source_rules.unwrap_or_default(),
        sources_listed: u32::from(source_rules.is_some()),
        made_unix_s: u32::try_from(now_ms / 1000).unwrap_or(u32::MAX),
        uplink,
        served,
    };
    let mut map: Array<_, Raw<Settings>> = part_mut(&mut programs.ebpf, "SETTINGS")?;
    map.set(0, Raw(settings), 0).map_err(reading("SETTINGS"))
}

/// The moment `end` on the program's clock, which says `program_ns` when the node's says `now`.
fn lease_entry(end: Option<Moment>, program_ns: u64, now: Moment) -> Lease {
    let on_its_clock = |end: Moment| program_ns.saturating_add(end.nanos()).saturating_sub(now.nanos());
    end.map_or(Lease::NONE, |end| Lease::until(on_its_clock(end)))
}

/// The interfaces that `DEVICES` leads to, by entry. Those that have vanished are missing.
pub(super) fn devices(programs: &Programs) -> Result<BTreeMap<u32, u32>, XdpError> {
    let map: DevMap<_> = part(&programs.ebpf, "DEVICES")?;
    let mut devices = BTreeMap::new();
    for entry in 0..DEVICES_MAX {
        match map.get(entry, 0) {
            Ok(device) => _ = devices.insert(entry, device.if_index),
            Err(MapError::KeyNotFound) => {}
            Err(error) => return Err(reading("DEVICES")(error)),
        }
    }
    Ok(devices)
}

/// Makes an entry of `DEVICES` lead to an interface.
pub(super) fn set_device(programs: &mut Programs, entry: u32, interface: u32) -> Result<(), XdpError> {
    let mut map: DevMap<_> = part_mut(&mut programs.ebpf, "DEVICES")?;
    map.set(entry, interface, None, 0)
        .map_err(|error: XdpMapError| XdpError::Map { part: "DEVICES", source: Box::new(error) })
}

/// What the programs have counted.
pub(super) fn counts(programs: &Programs) -> Result<PlaneCounts, XdpError> {
    let map: PerCpuArray<_, u64> = part(&programs.ebpf, "COUNTS")?;
    let count =
        |counter| map.get(&counter, 0).map(|counts| counts.iter().sum::<u64>()).map_err(reading("COUNTS"));
    let mut counts = PlaneCounts::default();
    for fate in Fate::ALL {
        let packets = count(fate.counter())?;
        if packets > 0 {
            counts.fates.insert(fate.label(), packets);
        }
    }
    for (reject, refused) in Reject::ALL.iter().zip(&mut counts.rejects) {
        *refused = count(Fate::reject_counter(*reject))?;
    }
    Ok(counts)
}

/// The ring of sampled packets. It can be had once.
pub(super) fn take_events(programs: &mut Programs) -> Result<RingBuf<MapData>, XdpError> {
    let map = programs.ebpf.take_map("EVENTS").ok_or_else(|| missing("EVENTS"))?;
    map.try_into().map_err(reading("EVENTS"))
}

/// A prefix as the maps have it.
pub(super) fn prefix_key(address: IpAddr, len: u8) -> PrefixKey {
    let of_v4 = if address.is_ipv4() { 96 } else { 0 };
    (of_v4 + u32::from(len), mapped(address))
}

fn added<K: Ord + Copy, V: Copy + PartialEq>(told: &BTreeMap<K, V>, wanted: &BTreeMap<K, V>) -> Vec<(K, V)> {
    let differs = |(key, value): &(&K, &V)| told.get(key) != Some(value);
    wanted.iter().filter(differs).map(|(key, value)| (*key, *value)).collect()
}

fn gone<K: Ord + Copy, V>(told: &BTreeMap<K, V>, wanted: &BTreeMap<K, V>) -> Vec<K> {
    told.keys().filter(|key| !wanted.contains_key(key)).copied().collect()
}

fn part<'a, T: TryFrom<&'a Map, Error = MapError>>(
    ebpf: &'a Ebpf,
    name: &'static str,
) -> Result<T, XdpError> {
    ebpf.map(name).ok_or_else(|| missing(name))?.try_into().map_err(reading(name))
}

fn part_mut<'a, T: TryFrom<&'a mut Map, Error = MapError>>(
    ebpf: &'a mut Ebpf,
    name: &'static str,
) -> Result<T, XdpError> {
    ebpf.map_mut(name).ok_or_else(|| missing(name))?.try_into().map_err(reading(name))
}

fn reading(part: &'static str) -> impl Fn(MapError) -> XdpError {
    move |source| XdpError::Map { part, source: Box::new(source) }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn lease_ends_as_soon_by_the_programs_clock_as_by_the_nodes() {
        let at = |seconds| Moment::at(Duration::from_secs(seconds));
        let check = |end, program_s: u64, now, expect_s: u64| {
            let entry = lease_entry(Some(end), program_s * SECOND_NS, now);
            let expect = Lease::until(expect_s * SECOND_NS);
            assert_eq!(entry, expect, "{end:?} at {now:?}, {program_s} s for the program");
        };
        check(at(105), 100, at(100), 105);
        // The host was suspended.
        check(at(1105), 100, at(1100), 105);
        // It is over.
        check(at(95), 100, at(100), 95);
        check(at(0), 100, at(1000), 0);
        assert_eq!(lease_entry(None, 100 * SECOND_NS, at(100)), Lease::NONE);
    }
}

//! The maps, and the only code that touches them.

use aya_ebpf::{
    bindings::{BPF_F_NO_PREALLOC, BPF_NOEXIST},
    helpers::bpf_jiffies64,
    macros::map,
    maps::{Array, DevMap, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf, lpm_trie::Key},
};
use xdpfs_plane::{
    COUNTERS, Envelope, Fate, Frame as _,
    maps::{
        Address, DEVICES_MAX, EVENTS_LEN, Event, KEY_EPOCHS as EPOCHS, KEYS_MAX, KeyEpochSlot, Lease,
        NEXT_HOPS_MAX, NextHop, OWN_ADDRESSES_MAX, OwnAddress, Place, REPLY_SOURCES_MAX, ROUTES_MAX,
        RememberedKey, ReplyKey, ReplySource, Route, SOURCE_BUCKETS_MAX, SOURCE_RULES_MAX, Settings,
        SourceRule,
    },
};
use xdpfs_wire::{Capability, CapabilityKey, EpochSecret, HEADER_LEN, KeyEpoch, KeyEpochs, NodeId, SipKey};

use crate::packet::{COPY_LEN, Packet};

#[map]
static ANSWER_BUCKET: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);
#[map]
static COPY: PerCpuArray<[u8; COPY_LEN]> = PerCpuArray::with_max_entries(1, 0);
#[map]
static COUNTS: PerCpuArray<u64> = PerCpuArray::with_max_entries(COUNTERS, 0);
#[map]
static DEVICES: DevMap = DevMap::with_max_entries(DEVICES_MAX, 0);
#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(EVENTS_LEN, 0);
#[map]
static KEY_EPOCHS: Array<KeyEpochSlot> = Array::with_max_entries(EPOCHS, 0);
#[map]
static KEYS: PerCpuArray<RememberedKey> = PerCpuArray::with_max_entries(KEYS_MAX, 0);
#[map]
static LEASE: Array<Lease> = Array::with_max_entries(1, 0);
#[map]
static NEXT_HOPS: LpmTrie<Address, NextHop> = LpmTrie::with_max_entries(NEXT_HOPS_MAX, BPF_F_NO_PREALLOC);
#[map]
static OWN_ADDRESSES: HashMap<Address, OwnAddress> = HashMap::with_max_entries(OWN_ADDRESSES_MAX, 0);
#[map]
static REPLY_SOURCES: HashMap<ReplyKey, ReplySource> = HashMap::with_max_entries(REPLY_SOURCES_MAX, 0);
#[map]
static ROUTES: Array<Route> = Array::with_max_entries(ROUTES_MAX, 0);
#[map]
static SETTINGS: Array<Settings> = Array::with_max_entries(1, 0);
#[map]
static SOURCE_BUCKETS: LruHashMap<Address, u64> = LruHashMap::with_max_entries(SOURCE_BUCKETS_MAX, 0);
#[map]
static SOURCE_RULES: LpmTrie<Address, SourceRule> = LpmTrie::with_max_entries(SOURCE_RULES_MAX, 0);

/// The secrets of the live key epochs.
pub(crate) struct Keys;

impl KeyEpochs for Keys {
    #[inline(always)]
    fn secret(&self, epoch: KeyEpoch) -> Option<EpochSecret> {
        let slot = KEY_EPOCHS.get(u32::from(epoch.0))?;
        (slot.live != 0).then_some(EpochSecret(SipKey { k0: slot.k0, k1: slot.k1 }))
    }

    /// A client's datagrams share a capability, so its key is remembered: deriving it costs as much as the tag.
    ///
    /// It is remembered before the tag is known to be right, so that a flood with a forged tag costs one derivation. One
    /// with ever other capabilities makes the program forget, and then each datagram costs a derivation again.
    #[inline(always)]
    fn key(&self, capability: &Capability) -> Option<CapabilityKey> {
        let secret = self.secret(capability.key_epoch)?;
        let Some(entry) = KEYS.get_ptr_mut(RememberedKey::place(capability)) else {
            return Some(capability.key(secret));
        };
        // SAFETY: the entry belongs to this CPU, and a program is not interrupted by itself.
        let entry = unsafe { &mut *entry };
        Some(entry.of(capability, secret).unwrap_or_else(|| entry.learn(capability, secret)))
    }
}

/// The kernel's ticks: one load, where even its coarse clock costs 14 ns.
#[inline(always)]
pub(crate) fn ticks() -> u64 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_jiffies64() }
}

/// Whether the node on this host may vouch for what is written to it.
#[inline(always)]
pub(crate) fn lease_holds(now_ns: u64) -> bool {
    let Some(lease) = LEASE.get_ptr(0) else { return false };
    // SAFETY: an entry is one aligned word, which user space may change at any time.
    unsafe { lease.read_volatile() }.holds(now_ns)
}

#[inline(always)]
pub(crate) fn settings() -> Option<&'static Settings> {
    SETTINGS.get(0)
}

/// This CPU's buffer for bytes to be summed.
#[inline(always)]
pub(crate) fn copy() -> Option<*mut u8> {
    COPY.get_ptr_mut(0).map(<*mut [u8; COPY_LEN]>::cast)
}

/// What `address` is to this host, if it is one of its own.
#[inline(always)]
pub(crate) fn own(address: Address) -> Option<OwnAddress> {
    // SAFETY: entries are one word, and a stale one does no harm.
    unsafe { OWN_ADDRESSES.get(address) }.copied()
}

/// What clients take for the node that sends from `key`.
#[inline(always)]
pub(crate) fn reply_source(key: &ReplyKey) -> Option<&'static ReplySource> {
    // SAFETY: an entry that is replaced while it is read spoils one reply, which the client asks for again.
    unsafe { REPLY_SOURCES.get(key) }
}

/// Where frames for a client go from the uplink.
#[inline(always)]
pub(crate) fn next_hop(client: Address) -> Option<&'static NextHop> {
    NEXT_HOPS.get(Key::new(128, client)).filter(|hop| hop.destination_mac != [0; 6])
}

/// The route to a node that is known here.
#[inline(always)]
pub(crate) fn route(node: NodeId) -> Option<&'static Route> {
    ROUTES.get(u32::from(node.0)).filter(|route| route.place != Place::NOWHERE)
}

#[inline(always)]
pub(crate) fn redirect(device: u32) -> Fate {
    if DEVICES.redirect(device, 0).is_ok() { Fate::Routed } else { Fate::NoDevice }
}

/// Raises a counter; its new value.
#[inline(always)]
pub(crate) fn count(counter: u32) -> u64 {
    count_all(counter, 1)
}

/// Raises a counter by several packets; its new value.
#[inline(always)]
pub(crate) fn count_all(counter: u32, packets: u64) -> u64 {
    let Some(count) = COUNTS.get_ptr_mut(counter) else { return 0 };
    // SAFETY: the entry belongs to this CPU, and a program is not interrupted by itself.
    let count = unsafe { &mut *count };
    *count += packets;
    *count
}

/// Whether this CPU may send one more answer.
#[inline(always)]
pub(crate) fn may_answer(settings: &Settings, now_ns: u64) -> bool {
    let rate = settings.answer_rate;
    if rate.is_unlimited() {
        return true;
    }
    let Some(bucket) = ANSWER_BUCKET.get_ptr_mut(0) else { return false };
    // SAFETY: the entry belongs to this CPU, and a program is not interrupted by itself.
    let full_at_ns = unsafe { &mut *bucket };
    let taken = rate.take(*full_at_ns, now_ns);
    *full_at_ns = taken.unwrap_or(*full_at_ns);
    taken.is_some()
}

/// Whether a source may send at all.
#[inline(always)]
pub(crate) fn is_denied(settings: &Settings, source: Address) -> bool {
    if settings.sources_listed == 0 {
        return false;
    }
    let rule = SOURCE_RULES.get(Key::new(128, source)).copied();
    rule.unwrap_or(settings.unlisted_source) == SourceRule::DENY
}

/// Whether a source sends faster than it may, with this packet.
///
/// CPUs share a bucket without a lock. Where two take from it at once, one of the two packets is not charged, so a
/// source whose packets come in by `n` queues may at the very worst send `n` times too fast.
#[inline(always)]
pub(crate) fn is_too_fast(settings: &Settings, source: Address, now_ns: u64) -> bool {
    let rate = settings.source_rate;
    if rate.is_unlimited() {
        return false;
    }
    let Some(bucket) = SOURCE_BUCKETS.get_ptr_mut(source) else {
        // It doesn't matter if another CPU was first, or if there is no room.
        let _ = SOURCE_BUCKETS.insert(source, now_ns + rate.interval_ns, u64::from(BPF_NOEXIST));
        return false;
    };
    // LLVM 22 selects no atomic loads for BPF; a volatile access of an aligned word is one instruction.
    // SAFETY: an entry is one aligned word. It may have been given to another source since the look-up; then that
    // source pays for this packet.
    let seen = unsafe { bucket.read_volatile() };
    let Some(full_at_ns) = rate.take(seen, now_ns) else { return true };
    // SAFETY: as above.
    unsafe { bucket.write_volatile(full_at_ns) };
    false
}

/// Hands a packet to whoever traces; without a reader the ring fills up and events are lost.
#[inline(always)]
pub(crate) fn keep_event(counter: u32, packet: &Packet, envelope: &Envelope, at_ns: u64) {
    let source = envelope.source(packet).unwrap_or_default();
    let header = packet.at::<HEADER_LEN>(envelope.datagram_at()).copied().unwrap_or([0; HEADER_LEN]);
    if let Some(mut event) = EVENTS.reserve::<Event>(0) {
        event.write(Event { at_ns, counter, device: packet.device(), source, header });
        event.submit(0);
    }
}

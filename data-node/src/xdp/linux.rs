//! The kernel program and its maps, by aya.
//!
//! Invariant: the program is held on its interfaces by links that die with this process, never by netlink.

use std::collections::BTreeMap;

use aya::{
    Ebpf, EbpfLoader, Pod,
    maps::{Array, MapError, PerCpuArray},
    programs::{ProgramError, TestRun as _, TestRunOptions, Xdp, XdpMode, links::FdLink, loaded_programs},
};
use rustix::{
    io::Errno,
    system::uname,
    thread::{CapabilitySet, capabilities},
    time::{ClockId, clock_getres},
};
use xdpfs_plane::{
    Fate, PORTS_MAX, Rate,
    maps::{KeyEpochSlot, Place as RoutePlace, Route, Settings, SourceRule},
};
use xdpfs_wire::{EpochSecret, KeyEpoch, NodeId, Reject, SipKey};

use super::{Place, PlaneCounts, XdpError, error::Source, network_interface::NetworkInterface};
use crate::node_state::NodeState;

#[cfg(xdp_object)]
const OBJECT: Option<&[u8]> = Some(aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/xdpfs-ebpf.o")));
#[cfg(not(xdp_object))]
const OBJECT: Option<&[u8]> = None;

const PROGRAM: &str = "xdpfs_ingress";
const TICKS_PROGRAM: &str = "xdpfs_ticks";
/// Every node id has a place, so that it need not be known when the program is loaded.
const ROUTES: u32 = 1 << 16;
/// Bytes of the packet that asks for the ticks; the kernel takes no less than an Ethernet header.
const TICKS_PACKET_LEN: usize = 64;
/// Refused requests that one CPU answers: enough for any honest crowd with an old placement, and no load. The burst is
/// longer than the longest tick of a kernel.
const ANSWER_RATE: Rate = Rate { interval_ns: 100_000, burst_ns: 20_000_000 };
/// The verifier says thousands of lines; the last ones count.
const VERIFIER_LINES: usize = 12;

/// A loaded program.
pub(super) struct Plane {
    ebpf: Ebpf,
    place: Place,
    tick_ns: u64,
    /// What the program has been told, so that what ended is taken back.
    told: Told,
    /// What holds the program on its interfaces; `None` where the interface has vanished. Closing a link takes the
    /// program off.
    links: BTreeMap<String, Option<FdLink>>,
}

#[derive(Debug, Default)]
struct Told {
    key_epochs: BTreeMap<KeyEpoch, EpochSecret>,
    node: Option<NodeId>,
}

/// A value as the maps hold it.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Value<T>(T);

// SAFETY: the type is `repr(C)`, of plain words and without padding.
unsafe impl Pod for Value<KeyEpochSlot> {}
// SAFETY: as above.
unsafe impl Pod for Value<Route> {}
// SAFETY: as above.
unsafe impl Pod for Value<Settings> {}

impl Plane {
    /// Loads the program. It knows no key and no node yet.
    pub(super) fn load(place: Place, port: u16, interfaces: &[String]) -> Result<Self, XdpError> {
        let object = OBJECT.ok_or(XdpError::NoObject)?;
        check_capabilities()?;
        let found = interfaces.iter().map(|interface| free(interface)).collect::<Result<Vec<_>, _>>()?;
        let answer_by_redirect =
            u8::from(place == Place::Driver && found.iter().any(|interface| interface.is_veth));
        let mut ports = [0; PORTS_MAX];
        ports[0] = port;
        let generic = u8::from(place == Place::Stack);
        let tick_ns = tick_ns();
        let mut loader = EbpfLoader::new();
        loader
            .map_max_entries("ROUTES", ROUTES)
            .override_global("PORTS", &ports, true)
            .override_global("GENERIC", &generic, true)
            .override_global("ANSWER_BY_REDIRECT", &answer_by_redirect, true)
            .override_global("TICK_NS", &tick_ns, true);
        let mut ebpf = loader.load(object).map_err(|error| refused(Box::new(error)))?;
        for name in [PROGRAM, TICKS_PROGRAM] {
            program(&mut ebpf, name)?.load().map_err(|error| refused(shortened(error)))?;
        }
        Ok(Self { ebpf, place, tick_ns, told: Told::default(), links: BTreeMap::new() })
    }

    /// Tells the program what it must know, and then puts it on the interfaces: on all of them or on none.
    pub(super) fn attached(mut self, interfaces: &[String], state: &NodeState) -> Result<Self, XdpError> {
        self.update(state)?;
        for interface in interfaces {
            let link = self.attach(interface)?;
            self.links.insert(interface.clone(), Some(link));
        }
        Ok(self)
    }

    /// Looks whether the program is still on its interfaces, and puts it on those that have vanished and come back.
    pub(super) fn tend(&mut self) -> Result<(), XdpError> {
        let info = program(&mut self.ebpf, PROGRAM)?.info();
        let id = info.map_err(|error| XdpError::Map { part: PROGRAM, source: Box::new(error) })?.id();
        let interfaces: Vec<_> = self.links.keys().cloned().collect();
        for interface in interfaces {
            if NetworkInterface::find(&interface).is_ok_and(|found| found.program == Some(id)) {
                continue;
            }
            self.links.insert(interface.clone(), None);
            let link = self.attach(&interface)?;
            tracing::info!(interface, "the kernel program is on the interface again");
            self.links.insert(interface, Some(link));
        }
        Ok(())
    }

    /// Tells the program what has changed, and what time it is.
    pub(super) fn update(&mut self, state: &NodeState) -> Result<(), XdpError> {
        // Keys before the route, as in user space: whoever knows the node's new epoch may use any of them.
        self.update_key_epochs(&state.key_epochs().by_epoch())?;
        let target = state.registration().target;
        let route = Route { place: RoutePlace::HERE, node_epoch: target.epoch.0, ..Route::default() };
        self.set("ROUTES", u32::from(target.node.0), Value(route))?;
        if let Some(before) = self.told.node.replace(target.node).filter(|before| *before != target.node) {
            self.set("ROUTES", u32::from(before.0), Value(Route::default()))?;
        }
        let settings = self.settings(state.clock().now_ms().0)?;
        self.set("SETTINGS", 0, Value(settings))
    }

    /// What the program has counted.
    pub(super) fn counts(&self) -> Result<PlaneCounts, XdpError> {
        let error = |source| map_error("counters", source);
        let map = self.ebpf.map("COUNTS").ok_or_else(|| missing("counters"))?;
        let map: PerCpuArray<_, u64> = map.try_into().map_err(error)?;
        let count = |counter| map.get(&counter, 0).map(|counts| counts.iter().sum::<u64>()).map_err(error);
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

    fn attach(&mut self, interface: &str) -> Result<FdLink, XdpError> {
        let found = free(interface)?;
        if found.is_veth && self.place == Place::Driver {
            tracing::info!(
                interface,
                "a veth: answers of the kernel program reach its peer only with GRO there (ethtool -K PEER gro on)"
            );
        }
        let mode = match self.place {
            Place::Driver => XdpMode::Driver,
            Place::Stack => XdpMode::Skb,
        };
        let program = program(&mut self.ebpf, PROGRAM)?;
        let attached = program.attach_to_if_index(found.index, mode);
        let link = attached.and_then(|id| program.take_link(id)).map_err(|error| XdpError::Attach {
            interface: interface.to_owned(),
            hint: hint(&error, self.place),
            source: Box::new(error),
        })?;
        // aya falls back to netlink where there are no links, which no kernel that takes this program lacks.
        link.try_into().map_err(|_| XdpError::NoLink { interface: interface.to_owned() })
    }

    /// A slot is not live while its secret changes: the program must never see half of one.
    fn update_key_epochs(&mut self, live: &BTreeMap<KeyEpoch, EpochSecret>) -> Result<(), XdpError> {
        let known = self.told.key_epochs.clone();
        let ended = known.into_iter().filter(|(epoch, secret)| live.get(epoch) != Some(secret));
        for (epoch, EpochSecret(SipKey { k0, k1 })) in ended {
            let index = u32::from(epoch.0);
            self.set("KEY_EPOCHS", index, Value(KeyEpochSlot { k0, k1, live: 0 }))?;
            self.set("KEY_EPOCHS", index, Value(KeyEpochSlot::default()))?;
            self.told.key_epochs.remove(&epoch);
        }
        for (epoch, secret) in live {
            if !self.told.key_epochs.contains_key(epoch) {
                let (index, EpochSecret(SipKey { k0, k1 })) = (u32::from(epoch.0), *secret);
                self.set("KEY_EPOCHS", index, Value(KeyEpochSlot { k0, k1, live: 0 }))?;
                self.set("KEY_EPOCHS", index, Value(KeyEpochSlot { k0, k1, live: 1 }))?;
                self.told.key_epochs.insert(*epoch, *secret);
            }
        }
        Ok(())
    }

    fn settings(&mut self, now_ms: u64) -> Result<Settings, XdpError> {
        let since_second_ns = now_ms % 1000 * 1_000_000;
        Ok(Settings {
            made_ns: (self.ticks()? * self.tick_ns).wrapping_sub(since_second_ns),
            made_unix_s: u32::try_from(now_ms / 1000).unwrap_or(u32::MAX),
            source_rate: Rate::default(),
            answer_rate: ANSWER_RATE,
            event_mask: u64::MAX,
            unlisted_source: SourceRule::ALLOW,
            sources_listed: 0,
            reserved: 0,
        })
    }

    /// The kernel's ticks, which only a program can read.
    fn ticks(&mut self) -> Result<u64, XdpError> {
        let mut out = [0; TICKS_PACKET_LEN];
        let options = TestRunOptions {
            data_in: Some(&[0; TICKS_PACKET_LEN]),
            data_out: Some(&mut out),
            ..TestRunOptions::new()
        };
        let run = program(&mut self.ebpf, TICKS_PROGRAM)?.test_run(options);
        run.map_err(|source| XdpError::Map { part: "clock", source: Box::new(source) })?;
        Ok(out.first_chunk().copied().map_or(0, u64::from_ne_bytes))
    }

    fn set<T: Copy>(&mut self, map: &'static str, index: u32, value: Value<T>) -> Result<(), XdpError>
    where
        Value<T>: Pod,
    {
        let error = |source| map_error(map, source);
        let map = self.ebpf.map_mut(map).ok_or_else(|| missing(map))?;
        let mut map: Array<_, Value<T>> = map.try_into().map_err(error)?;
        map.set(index, value, 0).map_err(error)
    }
}

/// The interface, if no program is on it yet.
fn free(interface: &str) -> Result<NetworkInterface, XdpError> {
    let interface = interface.to_owned();
    match NetworkInterface::find(&interface) {
        Ok(NetworkInterface { program: Some(id), .. }) => {
            Err(XdpError::Foreign { interface, id, name: name_of(id) })
        }
        Ok(found) => Ok(found),
        Err(source) => Err(XdpError::Interface { interface, source }),
    }
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut Xdp, XdpError> {
    let program = ebpf.program_mut(name).ok_or_else(|| missing(name))?;
    program.try_into().map_err(|error| refused(Box::new(error)))
}

/// # Errors
/// The process lacks some of the capabilities that all this takes.
fn check_capabilities() -> Result<(), XdpError> {
    const NEEDED: [(&str, CapabilitySet); 3] = [
        ("CAP_BPF", CapabilitySet::BPF),
        ("CAP_NET_ADMIN", CapabilitySet::NET_ADMIN),
        ("CAP_PERFMON", CapabilitySet::PERFMON),
    ];
    let Ok(sets) = capabilities(None) else { return Ok(()) };
    let mut held = sets.effective;
    if held.contains(CapabilitySet::SYS_ADMIN) {
        held |= CapabilitySet::BPF | CapabilitySet::PERFMON;
    }
    let lacking: Vec<_> =
        NEEDED.iter().filter(|(_, one)| !held.contains(*one)).map(|(name, _)| *name).collect();
    if lacking.is_empty() { Ok(()) } else { Err(XdpError::Capabilities { missing: lacking.join(", ") }) }
}

fn refused(source: Source) -> XdpError {
    XdpError::Load { release: uname().release().to_string_lossy().into_owned(), source }
}

fn missing(part: &'static str) -> XdpError {
    XdpError::Map { part, source: "the object has no such part".into() }
}

fn map_error(part: &'static str, source: MapError) -> XdpError {
    XdpError::Map { part, source: Box::new(source) }
}

/// The error, of whose text the verifier wrote most, cut to what counts.
fn shortened(error: ProgramError) -> Source {
    let ProgramError::LoadError { io_error, verifier_log } = error else { return Box::new(error) };
    let log = verifier_log.to_string();
    let lines: Vec<_> = log.lines().collect();
    format!("{io_error}; {}", lines[lines.len().saturating_sub(VERIFIER_LINES)..].join(" | ")).into()
}

/// What a driver's refusal means.
fn hint(error: &ProgramError, place: Place) -> &'static str {
    let ProgramError::SyscallError(error) = error else { return "no known remedy" };
    match error.io_error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::OPNOTSUPP) if place == Place::Driver => {
            "its driver has no native XDP, or none with these settings: use --xdp generic or auto"
        }
        Some(Errno::RANGE | Errno::INVAL) if place == Place::Driver => {
            "its MTU is too large for native XDP: set 3498 or less, or use --xdp generic"
        }
        Some(Errno::NOSPC) => "it has fewer receive queues than its peer has transmit queues",
        Some(Errno::BUSY | Errno::EXIST) => "another XDP program came first",
        Some(Errno::PERM) => "CAP_NET_ADMIN of its network namespace is missing",
        _ => "no known remedy",
    }
}

/// The name of a program; it may have ended meanwhile, or hide.
fn name_of(id: u32) -> String {
    let found = loaded_programs().filter_map(Result::ok).find(|program| program.id() == id);
    let name = found.and_then(|program| program.name_as_str().map(str::to_owned));
    name.filter(|name| !name.is_empty()).unwrap_or_else(|| "nameless".to_owned())
}

/// Nanoseconds in a tick of the kernel: the resolution of the coarse clocks is just that.
fn tick_ns() -> u64 {
    u64::try_from(clock_getres(ClockId::MonotonicCoarse).tv_nsec).unwrap_or_default()
}

//! The loaded program with its maps.

use std::{
    env, fs,
    net::IpAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, ensure};
use aya::{
    Ebpf, EbpfLoader, Pod,
    maps::{
        Array, DevMap, HashMap, LpmTrie, MapData, MapError, PerCpuArray, PerCpuValues, RingBuf, lpm_trie::Key,
    },
    programs::{
        Program, ProgramError, SchedClassifier, TestRun as _, TestRunOptions, TestRunResult, Xdp, XdpMode,
    },
    util::nr_cpus,
};
use rustix::time::{ClockId, clock_getres};
use xdpfs_plane::{
    COUNTERS, PORTS_MAX, Rate, counter_label,
    maps::{
        Address, Event, KeyEpochSlot, Lease, NextHop, OwnAddress, ReplyKey, ReplySource, Route, SERVED_MAX,
        Settings, SourceRule, words,
    },
};
use xdpfs_wire::{NodeId, SipKey};

use crate::{
    fixture::{HERE, NODE, NOW, OWN, PORT, SECRETS},
    frames::{CLIENT_V4, CLIENT_V6, EDGE_V4},
    table::{LeaseState, World},
};

/// The object, and what may name it.
const OBJECT: Object = Object { variable: "XDPFS_EBPF_OBJECT", file: "xdpfs-ebpf.o" };
/// The object of the programs that it is measured against.
pub(crate) const REFERENCES: Object =
    Object { variable: "XDPFS_EBPF_REFERENCES", file: "xdpfs-ebpf-references.o" };
/// How often a packet is forwarded before its hops are over.
const HOPS: u32 = 250;
/// The loopback device: it exists in every network namespace.
pub const LOOPBACK: u32 = 1;

/// What the program made of one packet.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Outcome {
    pub action: u32,
    /// Names of the counters that rose, in their order.
    pub counted: Vec<&'static str>,
    pub packet: Vec<u8>,
}

/// What the loader fixes for the life of the program.
#[derive(Clone, Copy, Debug, Default)]
pub struct Fixed {
    pub generic: bool,
    pub answer_by_redirect: bool,
    /// The kernel's clock runs; without it, it is always the fixture's second.
    pub clock_runs: bool,
}

/// The program in the kernel, with its maps.
#[derive(Debug)]
pub struct Kernel {
    ebpf: Ebpf,
    tick_ns: u64,
    counts: Vec<u64>,
    /// What the maps hold, if that is a world of the table.
    world: World,
}

/// A value as the maps hold it.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Raw<T>(T);
// SAFETY: used for the types of `xdpfs_plane::maps` only, which are plain words without padding.
unsafe impl<T: Copy + 'static> Pod for Raw<T> {}

impl Kernel {
    /// Loads the program with the fixture's secrets and its node as the local one.
    pub fn load(fixed: Fixed) -> anyhow::Result<Self> {
        let object = OBJECT.read()?;
        let mut loader = EbpfLoader::new();
        let mut ports = [0; PORTS_MAX];
        ports[0] = PORT;
        let generic = u8::from(fixed.generic);
        let answer_by_redirect = u8::from(fixed.answer_by_redirect);
        loader.override_global("PORTS", &ports, true);
        loader.override_global("GENERIC", &generic, true);
        loader.override_global("ANSWER_BY_REDIRECT", &answer_by_redirect, true);
        let tick_ns = if fixed.clock_runs { tick_ns() } else { 0 };
        loader.override_global("TICK_NS", &tick_ns, true);
        let mut ebpf = loader.load(&object)?;
        for (_, program) in ebpf.programs_mut() {
            match program {
                Program::Xdp(program) => program.load().map_err(shortened)?,
                Program::SchedClassifier(program) => program.load().map_err(shortened)?,
                _ => anyhow::bail!("an unknown kind of program"),
            }
        }
        let mut kernel = Self { ebpf, tick_ns, counts: vec![0; COUNTERS as usize], world: World::default() };
        for (epoch, bytes) in SECRETS {
            let SipKey { k0, k1 } = SipKey::from_bytes(bytes);
            kernel.set("KEY_EPOCHS", u32::from(epoch.0), KeyEpochSlot { k0, k1, live: 1 })?;
        }
        kernel.settings(QUIET)?;
        kernel.route(NODE.node, HERE)?;
        for (address, own) in OWN {
            kernel.own_address(address, own)?;
        }
        Ok(kernel)
    }

    /// Puts settings in force; it is the fixture's time then.
    pub fn settings(&mut self, settings: Settings) -> anyhow::Result<()> {
        self.settings_made(settings, 0)
    }

    /// Puts settings in force that were made some time ago.
    pub fn settings_made(&mut self, settings: Settings, ago_ns: u64) -> anyhow::Result<()> {
        let made_ns = self.now_ns()?.saturating_sub(ago_ns);
        // The other address is found in its map.
        let mut served = [[0; 2]; SERVED_MAX];
        served[SERVED_MAX - 1] = words(mapped(EDGE_V4.into()));
        self.set("SETTINGS", 0, Settings { made_ns, made_unix_s: NOW.0, served, ..settings })
    }

    /// What time it is for the program.
    pub fn now_ns(&mut self) -> anyhow::Result<u64> {
        Ok(self.ticks()? * self.tick_ns)
    }

    fn ticks(&mut self) -> anyhow::Result<u64> {
        let mut out = [0; 64];
        let options =
            TestRunOptions { data_in: Some(&[0; 64]), data_out: Some(&mut out), ..TestRunOptions::new() };
        self.program("xdpfs_ticks")?.test_run(options)?;
        Ok(u64::from_ne_bytes(*out.first_chunk().context("no ticks")?))
    }

    /// Gives the node on this host a lease.
    pub fn lease(&mut self, lease: Lease) -> anyhow::Result<()> {
        self.set("LEASE", 0, lease)
    }

    pub fn route(&mut self, node: NodeId, route: Route) -> anyhow::Result<()> {
        self.set("ROUTES", u32::from(node.0), route)
    }

    /// Makes an entry of the device map lead to the loopback device.
    pub fn device(&mut self, index: u32) -> anyhow::Result<()> {
        self.device_to(index, LOOPBACK)
    }

    /// Makes an entry of the device map lead to a device of the calling thread's network namespace.
    pub fn device_to(&mut self, index: u32, if_index: u32) -> anyhow::Result<()> {
        let mut devices: DevMap<_> = self.ebpf.map_mut("DEVICES").context("DEVICES")?.try_into()?;
        Ok(devices.set(index, if_index, None, 0)?)
    }

    /// Puts a world of the table into the maps, in place of the one before.
    pub fn enter(&mut self, world: &World) -> anyhow::Result<()> {
        for node in self.world.nodes.clone().into_keys().chain([NODE.node]) {
            self.route(node, Route::default())?;
        }
        for (prefix, len, _) in self.world.source_rules.clone() {
            self.source_rules()?.remove(&prefix_key(prefix, len))?;
        }
        for (node, (epoch, place)) in &world.nodes {
            self.route(*node, place.route(*epoch))?;
        }
        for (prefix, len, rule) in &world.source_rules {
            self.source_rule(*prefix, *len, *rule)?;
        }
        self.spend(world)?;
        self.lease(world.lease.map_or(Lease::NONE, LeaseState::entry))?;
        let rate = |is_spent| if is_spent { ONE_AT_ONCE } else { Rate::default() };
        self.settings(Settings {
            source_rate: rate(world.sources_spent),
            answer_rate: rate(world.answers_spent),
            unlisted_source: world.unlisted_source,
            sources_listed: u32::from(!world.source_rules.is_empty()),
            ..QUIET
        })?;
        self.world = world.clone();
        Ok(())
    }

    fn spend(&mut self, world: &World) -> anyhow::Result<()> {
        let full_at_ns = if world.answers_spent { NEVER_NS } else { 0 };
        let mut answers: PerCpuArray<_, u64> =
            self.ebpf.map_mut("ANSWER_BUCKET").context("ANSWER_BUCKET")?.try_into()?;
        let cpus = nr_cpus().map_err(|(what, error)| anyhow::anyhow!("{what}: {error}"))?;
        answers.set(0, PerCpuValues::try_from(vec![full_at_ns; cpus])?, 0)?;
        let mut sources: HashMap<_, Address, u64> =
            self.ebpf.map_mut("SOURCE_BUCKETS").context("SOURCE_BUCKETS")?.try_into()?;
        for source in [CLIENT_V4.into(), CLIENT_V6.into()].map(mapped) {
            if world.sources_spent {
                sources.insert(source, NEVER_NS, 0)?;
            } else if let Err(error) = sources.remove(&source) {
                // It was not there, which is what is wanted.
                ensure!(matches!(error, MapError::SyscallError(_)), "{error}");
            }
        }
        Ok(())
    }

    /// Puts the program on an interface of the calling thread's network namespace, until this is dropped.
    pub fn attach(&mut self, if_index: u32, mode: XdpMode) -> anyhow::Result<()> {
        let program = self.program("xdpfs_ingress")?;
        program.attach_to_if_index(if_index, mode).map(drop).context("cannot attach")
    }

    pub fn source_rule(&mut self, prefix: IpAddr, prefix_len: u32, rule: SourceRule) -> anyhow::Result<()> {
        Ok(self.source_rules()?.insert(&prefix_key(prefix, prefix_len), Raw(rule), 0)?)
    }

    fn source_rules(&mut self) -> anyhow::Result<LpmTrie<&mut MapData, Address, Raw<SourceRule>>> {
        Ok(self.ebpf.map_mut("SOURCE_RULES").context("SOURCE_RULES")?.try_into()?)
    }

    pub fn own_address(&mut self, address: IpAddr, own: OwnAddress) -> anyhow::Result<()> {
        let map = self.ebpf.map_mut("OWN_ADDRESSES").context("OWN_ADDRESSES")?;
        Ok(HashMap::<_, Address, Raw<OwnAddress>>::try_from(map)?.insert(mapped(address), Raw(own), 0)?)
    }

    pub fn reply_source(&mut self, key: ReplyKey, source: ReplySource) -> anyhow::Result<()> {
        let map = self.ebpf.map_mut("REPLY_SOURCES").context("REPLY_SOURCES")?;
        Ok(HashMap::<_, Raw<ReplyKey>, Raw<ReplySource>>::try_from(map)?.insert(Raw(key), Raw(source), 0)?)
    }

    /// Makes frames for clients of a prefix go to `hop`.
    pub fn next_hop(&mut self, prefix: IpAddr, prefix_len: u32, hop: NextHop) -> anyhow::Result<()> {
        let map = self.ebpf.map_mut("NEXT_HOPS").context("NEXT_HOPS")?;
        let mut hops: LpmTrie<_, Address, Raw<NextHop>> = map.try_into()?;
        Ok(hops.insert(&prefix_key(prefix, prefix_len), Raw(hop), 0)?)
    }

    pub fn events(&mut self) -> anyhow::Result<Vec<Event>> {
        let mut ring: RingBuf<_> = self.ebpf.map_mut("EVENTS").context("EVENTS")?.try_into()?;
        let mut events = Vec::new();
        while let Some(item) = ring.next() {
            assert_eq!(item.len(), size_of::<Event>());
            // SAFETY: the program writes one whole `Event` per item, and any bytes are one.
            events.push(unsafe { item.as_ptr().cast::<Event>().read_unaligned() });
        }
        Ok(events)
    }

    /// Runs one packet from a client.
    pub fn run(&mut self, packet: &[u8]) -> anyhow::Result<Outcome> {
        self.run_program(packet, |kernel, options| Ok(kernel.program("xdpfs_ingress")?.test_run(options)?))
    }

    /// Runs one packet from a node, in the driver.
    pub fn run_reply(&mut self, packet: &[u8]) -> anyhow::Result<Outcome> {
        self.run_program(packet, |kernel, options| Ok(kernel.program("xdpfs_reply")?.test_run(options)?))
    }

    /// Runs one packet from a node, in the network stack.
    pub fn run_reply_in_stack(&mut self, packet: &[u8]) -> anyhow::Result<Outcome> {
        self.run_program(packet, |kernel, options| {
            let program = kernel.ebpf.program_mut("xdpfs_reply_tc").context("no such program")?;
            Ok(<&mut SchedClassifier>::try_from(program)?.test_run(options)?)
        })
    }

    fn run_program(
        &mut self,
        packet: &[u8],
        run: impl FnOnce(&mut Self, TestRunOptions<'_>) -> anyhow::Result<TestRunResult>,
    ) -> anyhow::Result<Outcome> {
        let mut out = vec![0; packet.len() + 256];
        let options =
            TestRunOptions { data_in: Some(packet), data_out: Some(&mut out), ..TestRunOptions::new() };
        let result = run(self, options)?;
        out.truncate(result.data_size_out as usize);
        Ok(Outcome { action: result.return_value, counted: self.risen()?, packet: out })
    }

    /// Names of the counters that rose since this or [`Self::run`] was last called, in their order.
    pub fn risen(&mut self) -> anyhow::Result<Vec<&'static str>> {
        let counts = self.counts()?;
        let risen = (0..COUNTERS)
            .filter(|at| counts[*at as usize] != self.counts[*at as usize])
            .map(|at| counter_label(at).unwrap_or("nameless"))
            .collect();
        self.counts = counts;
        Ok(risen)
    }

    /// Runs one packet without looking at the counters.
    pub fn act(&mut self, packet: &[u8], out: &mut Vec<u8>) -> anyhow::Result<u32> {
        out.resize(packet.len() + 256, 0);
        let options =
            TestRunOptions { data_in: Some(packet), data_out: Some(&mut out[..]), ..TestRunOptions::new() };
        let result = self.program("xdpfs_ingress")?.test_run(options)?;
        out.truncate(result.data_size_out as usize);
        Ok(result.return_value)
    }

    /// Mean time of one run, of many on the same packet.
    pub fn mean_ns(&mut self, packet: &[u8], repeat: u32) -> anyhow::Result<f64> {
        mean_ns(self.program("xdpfs_ingress")?, packet, repeat)
    }

    /// Mean time of one run, on a packet that is one hop further after each; the median over many such journeys.
    pub fn median_of_hops_ns(&mut self, packet: &[u8], repeat: u32) -> anyhow::Result<f64> {
        median_of_hops_ns(self.program("xdpfs_ingress")?, packet, repeat)
    }

    pub fn counts(&self) -> anyhow::Result<Vec<u64>> {
        let counts: PerCpuArray<_, u64> = self.ebpf.map("COUNTS").context("COUNTS")?.try_into()?;
        (0..COUNTERS).map(|at| Ok(counts.get(&at, 0)?.iter().sum())).collect()
    }

    fn program(&mut self, name: &str) -> anyhow::Result<&mut Xdp> {
        Ok(self.ebpf.program_mut(name).context("no such program")?.try_into()?)
    }

    fn set<T: Copy + 'static>(&mut self, map: &'static str, index: u32, value: T) -> anyhow::Result<()> {
        let mut array: Array<_, Raw<T>> = self.ebpf.map_mut(map).context(map)?.try_into()?;
        Ok(array.set(index, Raw(value), 0)?)
    }
}

pub(crate) struct Object {
    /// Names it, if it isn't where `cargo xtask build-ebpf` leaves it.
    variable: &'static str,
    file: &'static str,
}

impl Object {
    pub(crate) fn read(&self) -> anyhow::Result<Vec<u8>> {
        let path = env::var_os(self.variable).map_or_else(|| self.usual(), PathBuf::from);
        let read = fs::read(&path).with_context(|| format!("cannot read {}", path.display()));
        read.context("`cargo xtask build-ebpf` builds the kernel program")
    }

    fn usual(&self) -> PathBuf {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let target = env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
        root.join(target).join("bpf").join(self.file)
    }
}

pub(crate) fn mean_ns(program: &Xdp, packet: &[u8], repeat: u32) -> anyhow::Result<f64> {
    let options = TestRunOptions { data_in: Some(packet), repeat, ..TestRunOptions::new() };
    Ok(program.test_run(options)?.duration.as_nanos() as f64)
}

pub(crate) fn median_of_hops_ns(program: &Xdp, packet: &[u8], repeat: u32) -> anyhow::Result<f64> {
    let journeys = (repeat / HOPS).max(1);
    let mut all: Vec<f64> =
        (0..journeys).map(|_| mean_ns(program, packet, HOPS)).collect::<Result<_, _>>()?;
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied().context("no runs")
}

/// No limits and no events.
pub const QUIET: Settings = Settings {
    made_ns: 0,
    source_rate: Rate { interval_ns: 0, burst_ns: 0 },
    answer_rate: Rate { interval_ns: 0, burst_ns: 0 },
    event_mask: u64::MAX,
    unlisted_source: SourceRule::ALLOW,
    sources_listed: 0,
    made_unix_s: 0,
    uplink: 0,
    served: [[0; 2]; SERVED_MAX],
};

/// No limit but a tiny one, for tests.
pub const ONE_AT_ONCE: Rate = Rate { interval_ns: 3_600_000_000_000, burst_ns: 0 };

/// When a spent bucket would be full again: so late that no clock comes there.
const NEVER_NS: u64 = 1 << 62;

fn prefix_key(prefix: IpAddr, len: u32) -> Key<Address> {
    Key::new(if prefix.is_ipv4() { len + 96 } else { len }, mapped(prefix))
}

pub fn mapped(address: IpAddr) -> Address {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// Nanoseconds in a tick: the resolution of the coarse clocks is just that.
fn tick_ns() -> u64 {
    let resolution = clock_getres(ClockId::MonotonicCoarse);
    u64::try_from(resolution.tv_nsec).expect("a resolution is not negative")
}

/// The verifier says thousands of lines; the first and last ones count.
fn shortened(error: ProgramError) -> anyhow::Error {
    let text = error.to_string();
    let tail = text.char_indices().rev().nth(3000).map_or(0, |(at, _)| at);
    anyhow::anyhow!("{} ... {}", text.lines().next().unwrap_or_default(), &text[tail..])
}

//! The thread that has an edge's kernel programs in its care: it alone keeps capabilities, and follows the network.
//!
//! Invariant: a node's packets are redirected only when its device takes them and its replies find their way back;
//! until then, and from when that ends, user space relays.

mod holding;
mod preparation;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
    os::fd::OwnedFd,
    sync::{
        Arc,
        mpsc::{Receiver, Sender, TryRecvError, channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll},
    io::{read, write},
    thread::CapabilitySet,
};
use xdpfs_host::{Interface, netlink::Netlink};
use xdpfs_plane::maps::{DEVICES_MAX, SourceRule, UPLINK};
use xdpfs_wire::NodeId;

use self::{
    holding::{Held, ReplyLinks, ingress_name},
    preparation::Preparation,
};
use super::{
    Place, Prepare, TEND_AFTER, XdpError, XdpMode, describe,
    edge_plan::{Identity, Outlet, Spot, contents, locate, next_hops},
    edge_plane::{EdgeReport, EdgeXdpConfig, NodePlace, OnExit, Order, RouteTable, SharedReport, lock},
    network::{CHANGES, Network, Way, prefixes, solicit, way},
    pins::Pins,
    privileges,
    programs::{INGRESS, Programs, foreign},
    tables::{self, ClusterTime, Tables, Wishes},
};

/// Changes of the network that come faster than this are followed together.
const SYNC_GAP: Duration = Duration::from_millis(20);

/// How to reach the thread.
pub(super) struct EdgeThread {
    orders: Option<Sender<Order>>,
    bell: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl EdgeThread {
    /// Starts the thread and loads the programs there; then the calling thread gives up its capabilities.
    pub(super) fn start(config: EdgeXdpConfig, report: SharedReport) -> Result<Self, XdpError> {
        let (orders, inbox) = channel();
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let bell = Arc::new(bell.map_err(|error| XdpError::Thread(error.into()))?);
        let (started, outcome) = channel();
        let user = config.user;
        let rung = Arc::clone(&bell);
        let work = move || {
            let kept = privileges::NAMING | needed(config.prepare);
            let loaded = privileges::keep_only(kept)
                .map_err(XdpError::Thread)
                .and_then(|()| Edge::load(config, report));
            match loaded {
                Ok(edge) => {
                    let _ = started.send(Ok(()));
                    edge.run(&inbox, &rung);
                }
                Err(error) => _ = started.send(Err(error)),
            }
        };
        let thread = thread::Builder::new().name("plane".into()).spawn(work).map_err(XdpError::Thread)?;
        outcome.recv().unwrap_or(Err(XdpError::Dead))?;
        privileges::give_up_all(user).map_err(XdpError::Thread)?;
        Ok(Self { orders: Some(orders), bell, thread: Some(thread) })
    }

    /// Hands it something to do. If it has died, whoever waits for the outcome hears of that.
    pub(super) fn order(&self, order: Order) {
        if self.orders.as_ref().is_some_and(|orders| orders.send(order).is_ok()) {
            self.ring();
        }
    }

    fn ring(&self) {
        // A bell that has rung too often still rings.
        let _ = write(&*self.bell, &1_u64.to_ne_bytes());
    }
}

/// Gone without an order, as after a crash: what is pinned goes on. Once this has been dropped, nothing holds it.
impl Drop for EdgeThread {
    fn drop(&mut self) {
        self.orders = None;
        self.ring();
        if let Some(thread) = self.thread.take() {
            // Whoever waits for an order has heard already, if it has died.
            let _ = thread.join();
        }
    }
}

fn needed(prepare: Prepare) -> CapabilitySet {
    match prepare {
        Prepare::Auto => privileges::PLANE | privileges::PREPARATION,
        Prepare::Off => privileges::PLANE,
    }
}

type Spots = BTreeMap<NodeId, Spot>;
type Places = BTreeMap<NodeId, NodePlace>;

/// What the thread knows.
struct Edge {
    config: EdgeXdpConfig,
    report: SharedReport,
    /// Where what outlives the process is; none if there is no BPF file system, and why.
    pins: Result<Pins, String>,
    programs: Programs,
    tables: Tables,
    netlink: Netlink,
    changes: Netlink,
    table: Option<Arc<RouteTable>>,
    source_rules: Option<SourceRule>,
    /// The uplink's number; zero while it is gone.
    uplink: u32,
    ingress: Option<(u32, Held)>,
    replies: BTreeMap<u32, ReplyLinks>,
    preparation: Preparation,
    places: Places,
    /// Why it is in this mode.
    why: String,
    /// What is wrong at present.
    trouble: Option<String>,
    /// Why answers of the kernel program do not get out, if that is so.
    muteness: Option<String>,
    event_mask: u64,
    /// Nothing is in force, and nothing will be.
    is_off: bool,
}

impl Edge {
    fn load(config: EdgeXdpConfig, report: SharedReport) -> Result<Self, XdpError> {
        let pins = match Pins::open(&config.pin_dir) {
            Ok(pins) => Ok(pins),
            Err(error @ XdpError::Taken { .. }) => return Err(error),
            Err(error) if config.on_exit == OnExit::Keep => return Err(error),
            Err(error) => {
                let why = describe(&error);
                tracing::warn!(why, "the kernel program will not outlive this process");
                Err(why)
            }
        };
        let uplink = find(&config.uplink)?;
        let before = pins.as_ref().map(Pins::links).unwrap_or_default();
        let place = match config.mode {
            XdpMode::Generic => Place::Stack,
            // An edge before has tried in vain what would be tried again.
            XdpMode::Auto if before.contains(&ingress_name(Place::Stack, uplink.index)) => Place::Stack,
            XdpMode::Auto | XdpMode::Native | XdpMode::Off => Place::Driver,
        };
        if let Some(id) = uplink.program.filter(|_| !before.iter().any(|name| name.starts_with("ingress-"))) {
            return Err(foreign(&uplink.name, id));
        }
        let programs = load(&config, pins.as_ref().ok(), place, &uplink)?;
        let tables = Tables::read(&programs)?;
        let netlink = Netlink::route().map_err(XdpError::Network)?;
        let changes = Netlink::listen(CHANGES).map_err(XdpError::Network)?;
        let preparation = Preparation::new(config.prepare, pins.as_ref().ok());
        Ok(Self {
            config,
            report,
            pins,
            programs,
            tables,
            netlink,
            changes,
            table: None,
            source_rules: None,
            uplink: uplink.index,
            ingress: None,
            replies: BTreeMap::new(),
            preparation,
            places: BTreeMap::new(),
            why: String::new(),
            trouble: None,
            muteness: None,
            event_mask: u64::MAX,
            is_off: false,
        })
    }

    fn run(mut self, inbox: &Receiver<Order>, bell: &OwnedFd) {
        let (mut tended, mut synced) = (Instant::now(), Instant::now());
        let mut changed = false;
        loop {
            let wait = TEND_AFTER.saturating_sub(tended.elapsed());
            let soon = SYNC_GAP.saturating_sub(synced.elapsed());
            changed |= self.wait(bell, if changed { wait.min(soon) } else { wait });
            let is_due = tended.elapsed() >= TEND_AFTER;
            if is_due || changed && synced.elapsed() >= SYNC_GAP {
                self.tend(is_due);
                (changed, synced) = (false, Instant::now());
            }
            if is_due {
                tended = synced;
            }
            loop {
                match inbox.try_recv() {
                    Ok(Order::Events(done)) => _ = done.send(tables::take_events(&mut self.programs)),
                    Ok(Order::Follow(table, done)) => _ = done.send(self.follow(table)),
                    Ok(Order::Sample(mask)) => self.sample(mask),
                    Ok(Order::Work(work)) => work(),
                    Ok(Order::Stop(done)) => {
                        self.stop();
                        let _ = done.send(());
                        return;
                    }
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => return,
                }
            }
        }
    }

    /// Waits for an order or for a change of the network; whether there was one.
    fn wait(&self, bell: &OwnedFd, at_most: Duration) -> bool {
        let timeout =
            Timespec { tv_sec: at_most.as_secs().cast_signed(), tv_nsec: at_most.subsec_nanos().into() };
        let mut fds = [PollFd::new(bell, PollFlags::IN), PollFd::new(&self.changes, PollFlags::IN)];
        // Whatever woke it, both are looked at.
        let _ = poll(&mut fds, Some(&timeout));
        let _ = read(bell, &mut [0; 8]);
        self.changes.drain()
    }

    /// Takes over what the edge has heard.
    fn follow(&mut self, table: Arc<RouteTable>) -> Result<(), XdpError> {
        if self.is_off {
            return Ok(());
        }
        let before = self.table.replace(Arc::clone(&table));
        self.tables.update_key_epochs(&mut self.programs, &table.key_epochs)?;
        let Some(before) = before else { return self.begin() };
        if before.nodes == table.nodes {
            self.refresh()?;
        } else {
            self.sync(false)?;
        }
        self.tell();
        Ok(())
    }

    /// Puts the programs on the interfaces, once everything is in the maps.
    fn begin(&mut self) -> Result<(), XdpError> {
        let is_auto = self.config.mode == XdpMode::Auto;
        let native = match self.attach() {
            Ok(()) => {
                self.why = match (is_auto, self.programs.place) {
                    (false, _) => "asked for".to_owned(),
                    (true, Place::Driver) => "the driver can".to_owned(),
                    (true, Place::Stack) => "as the edge before".to_owned(),
                };
                self.tell();
                return Ok(());
            }
            Err(error) if is_auto => describe(&error),
            Err(error) => {
                self.take_off();
                return Err(error);
            }
        };
        match self.fall_back() {
            Ok(()) => self.why = format!("native: {native}"),
            Err(error) => {
                self.take_off();
                self.is_off = true;
                self.why = format!("native: {native}; generic: {}", describe(&error));
            }
        }
        self.tell();
        Ok(())
    }

    fn attach(&mut self) -> Result<(), XdpError> {
        self.source_rules = self.tables.update_sources(&mut self.programs, &self.config.sources)?;
        self.sync(true)?;
        let uplink = find(&self.config.uplink)?;
        self.hold_ingress(&uplink)?;
        if let Ok(pins) = &self.pins {
            pins.forget_other_layouts();
        }
        privileges::keep_only(needed(self.config.prepare)).map_err(XdpError::Thread)
    }

    fn fall_back(&mut self) -> Result<(), XdpError> {
        let uplink = find(&self.config.uplink)?;
        self.replies.clear();
        self.programs = load(&self.config, self.pins.as_ref().ok(), Place::Stack, &uplink)?;
        self.tables = Tables::read(&self.programs)?;
        if let Some(table) = self.table.clone() {
            self.tables.update_key_epochs(&mut self.programs, &table.key_epochs)?;
        }
        self.attach()
    }

    /// Follows the network, and looks whether everything is still where it was put.
    fn tend(&mut self, is_due: bool) {
        if self.table.is_none() || self.is_off {
            return;
        }
        let tended = self.sync(is_due).and_then(|()| {
            let uplink = find(&self.config.uplink)?;
            self.hold_ingress(&uplink)
        });
        let trouble = tended.err().map(|error| describe(&error));
        if self.trouble != trouble {
            match &trouble {
                Some(why) => tracing::warn!(why, "the kernel program is out of step"),
                None => tracing::info!("the kernel program is in step again"),
            }
            self.trouble = trouble;
        }
        self.tell();
    }

    /// Has events kept of packets whose counter has none of these bits.
    fn sample(&mut self, mask: u64) {
        self.event_mask = mask;
        if let Err(error) = self.refresh() {
            tracing::warn!(error = describe(&error), "the kernel program can't be told what to keep");
        }
    }

    /// The clock, and what the programs have been told before.
    fn refresh(&mut self) -> Result<(), XdpError> {
        let Some(table) = &self.table else { return Ok(()) };
        let wishes = Wishes {
            time: ClusterTime { unix_ms: table.unix_ms, read: table.made },
            // That would be the edge's, and nodes are well without it.
            lease_end: None,
            source_rate: self.config.sources.rate,
            source_rules: self.source_rules,
            event_mask: self.event_mask,
            uplink: self.uplink,
        };
        tables::set(&mut self.programs, &self.tables, &wishes)
    }

    /// Brings maps and reply programs in step with table and network.
    fn sync(&mut self, is_due: bool) -> Result<(), XdpError> {
        let Some(table) = self.table.clone() else { return Ok(()) };
        let network = Network::look(&self.netlink).map_err(XdpError::Network)?;
        let uplink = network.named(&self.config.uplink).cloned().unwrap_or_default();
        self.uplink = uplink.index;
        self.preparation.forget_vanished(&network, self.pins.as_ref().ok());
        self.let_answers_out(&uplink);
        let identity = Identity::of(self.config.listen, self.config.advertised, uplink.index, &network);
        let (spots, mut places) = self.locate(&table, &network, &identity, is_due)?;
        let devices: BTreeSet<u32> = spots.values().map(|spot| spot.device).collect();
        let mut entries = self.entries(&devices, &uplink)?;
        let mut outlets = BTreeMap::new();
        let mut obstacles = BTreeMap::new();
        for device in devices {
            let interface = network.interfaces.get(&device).cloned().unwrap_or_default();
            match self.open(&interface, &uplink, &mut entries) {
                Ok((outlet, why)) => {
                    outlets.insert(device, outlet);
                    obstacles.insert(device, why);
                }
                Err(why) => _ = obstacles.insert(device, why),
            }
        }
        let mut wanted = contents(&table.nodes, &spots, &outlets, &identity, &network);
        if outlets.values().any(|outlet| outlet.by_xdp) {
            let prefixes = prefixes(&self.netlink).map_err(XdpError::Network)?;
            wanted.next_hops = next_hops(&uplink, &network, &prefixes);
        }
        self.tables.update(&mut self.programs, &wanted)?;
        self.close_others(&outlets);
        self.refresh()?;
        for (node, spot) in spots {
            let Some(place) = places.get_mut(&node) else { continue };
            place.why = obstacles.get(&spot.device).cloned().unwrap_or_default();
            if let Some(outlet) = outlets.get(&spot.device) {
                place.device = network.interfaces.get(&spot.device).map(|interface| interface.name.clone());
                place.replies = if outlet.by_xdp { "xdp" } else { "kernel" };
            }
        }
        self.note_places(places);
        Ok(())
    }

    /// Where each node is. Whoever hasn't answered lately is asked.
    fn locate(
        &self,
        table: &RouteTable,
        network: &Network,
        identity: &Identity,
        is_due: bool,
    ) -> Result<(Spots, Places), XdpError> {
        let (mut spots, mut places) = (BTreeMap::new(), BTreeMap::new());
        let mut ways: BTreeMap<IpAddr, Way> = BTreeMap::new();
        for route in &table.nodes {
            let ip = route.direct.ip().to_canonical();
            let way = match ways.get(&ip) {
                Some(way) => *way,
                None => *ways.entry(ip).or_insert(way(&self.netlink, ip).map_err(XdpError::Network)?),
            };
            let node = route.target.node;
            let mut place =
                NodePlace { node, direct: route.direct, device: None, replies: "relay", why: String::new() };
            let unknown = match locate(network, identity, self.uplink, route.direct, way) {
                Ok(spot) => {
                    spots.insert(node, spot);
                    (is_due && !spot.is_fresh).then_some(spot.neighbour)
                }
                Err(unplaced) => {
                    place.why = unplaced.to_string();
                    unplaced.unknown()
                }
            };
            if let Some((interface, ip)) = unknown
                && let Err(error) = solicit(&self.netlink, interface, ip)
            {
                tracing::debug!(%ip, %error, "a neighbour can't be asked for");
            }
            places.insert(node, place);
        }
        Ok((spots, places))
    }

    /// The entries of `DEVICES` that lead to interfaces which are still wanted, by interface.
    fn entries(
        &mut self,
        devices: &BTreeSet<u32>,
        uplink: &Interface,
    ) -> Result<BTreeMap<u32, u32>, XdpError> {
        let present = tables::devices(&self.programs)?;
        if uplink.index != 0 && present.get(&UPLINK) != Some(&uplink.index) {
            tables::set_device(&mut self.programs, UPLINK, uplink.index)?;
        }
        let wanted =
            present.into_iter().filter(|(entry, device)| *entry != UPLINK && devices.contains(device));
        Ok(wanted.map(|(entry, device)| (device, entry)).collect())
    }

    /// Makes an interface ready for packets to and from nodes; how, and why so. In vain: why.
    fn open(
        &mut self,
        interface: &Interface,
        uplink: &Interface,
        entries: &mut BTreeMap<u32, u32>,
    ) -> Result<(Outlet, String), String> {
        self.prepare(interface)?;
        let entry = match entries.get(&interface.index) {
            Some(entry) => *entry,
            None => {
                let is_free = |entry: &u32| !entries.values().any(|taken| taken == entry);
                let entry = (UPLINK + 1..DEVICES_MAX).find(is_free);
                let entry =
                    entry.ok_or("there are more interfaces with nodes than the kernel program holds")?;
                tables::set_device(&mut self.programs, entry, interface.index)
                    .map_err(|error| describe(&error))?;
                entries.insert(interface.index, entry);
                entry
            }
        };
        let (by_xdp, why) = self.hold_replies(interface, uplink).map_err(|error| describe(&error))?;
        Ok((Outlet { entry, by_xdp }, why))
    }

    /// Answers to refused requests leave by the uplink itself.
    fn let_answers_out(&mut self, uplink: &Interface) {
        let muteness = if uplink.index == 0 { None } else { self.prepare(uplink).err() };
        if self.muteness != muteness {
            match &muteness {
                Some(why) => tracing::warn!(why, "clients are not told why the kernel program refuses them"),
                None => tracing::info!("clients are told again why the kernel program refuses them"),
            }
            self.muteness = muteness;
        }
    }

    /// Sees to it that an interface takes redirected packets.
    fn prepare(&mut self, interface: &Interface) -> Result<(), String> {
        self.preparation.prepare(interface, self.programs.place, self.pins.as_ref().ok())
    }

    fn note_places(&mut self, places: Places) {
        for (node, place) in &places {
            if self.places.get(node) == Some(place) {
                continue;
            }
            let NodePlace { direct, device, replies, why, .. } = place;
            match device {
                Some(device) => tracing::info!(%node, %direct, device, replies, why, "the kernel forwards"),
                None => tracing::warn!(%node, %direct, why, "user space relays"),
            }
        }
        self.places = places;
    }

    fn tell(&self) {
        let mode = match self.programs.place {
            _ if self.is_off => XdpMode::Off,
            Place::Driver => XdpMode::Native,
            Place::Stack => XdpMode::Generic,
        };
        let nodes: Vec<_> = self.places.values().cloned().collect();
        let by = |how| !self.is_off && nodes.iter().any(|place| place.replies == how);
        let replies = match (by("kernel"), by("xdp")) {
            (true, true) => "kernel,xdp",
            (true, false) => "kernel",
            (false, true) => "xdp",
            (false, false) => "relay",
        };
        match tables::counts(&self.programs) {
            Ok(counts) => {
                let why = self.trouble.as_ref().unwrap_or(&self.why).clone();
                *lock(&self.report) = EdgeReport { mode, why, replies, nodes, counts };
            }
            Err(error) => {
                tracing::warn!(error = describe(&error), "the kernel program does not tell its counts")
            }
        }
    }

    fn stop(mut self) {
        match self.config.on_exit {
            OnExit::Keep => {
                tracing::info!(directory = %self.config.pin_dir.display(), "the kernel program goes on")
            }
            OnExit::Detach => self.take_off(),
        }
    }

    /// Takes everything off and undoes what was prepared.
    fn take_off(&mut self) {
        self.ingress = None;
        self.replies.clear();
        if let Ok(pins) = &self.pins {
            for name in pins.links() {
                pins.forget(&name);
            }
        }
        let program = self.programs.id(INGRESS).ok();
        self.await_release(program);
        if let Ok(network) = Network::look(&self.netlink) {
            self.preparation.undo(&network, self.pins.as_ref().ok());
        }
        let gone = "nothing outlives this any more".to_owned();
        if let Ok(pins) = std::mem::replace(&mut self.pins, Err(gone)) {
            pins.clear();
        }
    }
}

fn load(
    config: &EdgeXdpConfig,
    pins: Option<&Pins>,
    place: Place,
    uplink: &Interface,
) -> Result<Programs, XdpError> {
    let lasting = pins.map(Pins::maps);
    let port = config.listen.port();
    let mut programs = Programs::load(place, port, uplink.is_veth(), lasting.as_deref())?;
    programs.load_replies()?;
    Ok(programs)
}

fn find(name: &str) -> Result<Interface, XdpError> {
    let error = |source: io::Error| XdpError::Interface { interface: name.to_owned(), source };
    xdpfs_host::interface(name).map_err(error)
}

#[cfg(all(test, xdp_object, feature = "kernel"))]
#[expect(clippy::unwrap_used, reason = "a test that meets the unexpected has failed")]
mod tests;

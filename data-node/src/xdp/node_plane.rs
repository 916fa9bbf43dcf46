//! The kernel program of a node: it filters what comes in by the node's interfaces.
//!
//! Invariant: the program is held on its interfaces by links that die with this process.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use aya::programs::links::FdLink;
use xdpfs_host::{Interface, addresses_by, interface, netlink::Netlink};
use xdpfs_plane::maps::{OWN_ADDRESSES_MAX, OwnAddress, Place as RoutePlace, Route};

use super::{
    Place, PlaneCounts, XdpError,
    edge_plane::Events,
    network::mapped,
    privileges,
    programs::{INGRESS, Programs, free},
    redirects::takes_redirects,
    tables::{self, ClusterTime, Contents, Tables, Wishes},
};
use crate::{event_tap::KEEP_NONE, node_state::NodeState};

/// Any port will do for a program that is put on no interface.
const TRIAL_PORT: u16 = 7400;

/// A loaded program.
#[derive(Debug)]
pub(super) struct Plane {
    programs: Programs,
    tables: Tables,
    netlink: Netlink,
    listen: SocketAddr,
    /// What holds the program on its interfaces; `None` where the interface has vanished. Closing a link takes the
    /// program off.
    links: BTreeMap<String, Option<FdLink>>,
    own: BTreeMap<[u8; 16], OwnAddress>,
}

impl Plane {
    /// Loads the program for datagrams to `listen`. It knows no key and no node yet.
    pub(super) fn load(place: Place, listen: SocketAddr, interfaces: &[String]) -> Result<Self, XdpError> {
        let found = interfaces.iter().map(|interface| free(interface)).collect::<Result<Vec<_>, _>>()?;
        let answers_by_redirect = found.iter().any(Interface::is_veth);
        let programs = Programs::load(place, listen.port(), answers_by_redirect, None)?;
        let netlink = Netlink::route().map_err(XdpError::Network)?;
        let (tables, links, own) = (Tables::default(), BTreeMap::new(), BTreeMap::new());
        let mut this = Self { programs, tables, netlink, listen, links, own };
        this.look()?;
        Ok(this)
    }

    /// Tells the program what it must know, and then puts it on the interfaces: on all of them or on none.
    pub(super) fn attached(mut self, interfaces: &[String], state: &NodeState) -> Result<Self, XdpError> {
        self.update(state, KEEP_NONE)?;
        for interface in interfaces {
            let link = self.attach(interface)?;
            self.links.insert(interface.clone(), Some(link));
        }
        Ok(self)
    }

    /// With only those privileges left to this thread that are needed from now on.
    pub(super) fn settled(self) -> Result<Self, XdpError> {
        privileges::keep_only(privileges::PLANE).map_err(XdpError::Thread)?;
        Ok(self)
    }

    /// Looks which addresses this host has, and whether the program is still on its interfaces; puts it on those that
    /// have vanished and come back.
    pub(super) fn tend(&mut self) -> Result<(), XdpError> {
        self.look()?;
        let id = self.programs.id(INGRESS)?;
        let interfaces: Vec<_> = self.links.keys().cloned().collect();
        for name in interfaces {
            if interface(&name).is_ok_and(|found| found.program == Some(id)) {
                continue;
            }
            self.links.insert(name.clone(), None);
            let link = self.attach(&name)?;
            tracing::info!(interface = name, "the kernel program is on the interface again");
            self.links.insert(name, Some(link));
        }
        Ok(())
    }

    /// Tells the program what has changed, what time it is, and which events are to be kept: those of packets whose
    /// counter has none of the bits of the mask.
    pub(super) fn update(&mut self, state: &NodeState, event_mask: u64) -> Result<(), XdpError> {
        // Read before the registration: what the program lets pass by a renewed lease is never for an earlier one.
        let lease_end = state.lease().end();
        // Keys before the route, as in user space: whoever knows the node's new epoch may use any of them.
        self.tables.update_key_epochs(&mut self.programs, &state.key_epochs().by_epoch())?;
        let target = state.registration().target;
        let route = Route { place: RoutePlace::HERE, node_epoch: target.epoch.0, ..Route::default() };
        let routes = BTreeMap::from([(target.node, route)]);
        let wanted = Contents { routes, own: self.own.clone(), ..Contents::default() };
        self.tables.update(&mut self.programs, &wanted)?;
        let wishes = Wishes {
            time: ClusterTime::now(state.clock().now_ms().0),
            lease_end,
            source_rate: None,
            source_rules: None,
            event_mask,
            uplink: 0,
        };
        tables::set(&mut self.programs, &self.tables, &wishes)
    }

    /// The ring of sampled packets, which can be had once.
    pub(super) fn take_events(&mut self) -> Result<Events, XdpError> {
        tables::take_events(&mut self.programs)
    }

    /// What the program has counted.
    pub(super) fn counts(&self) -> Result<PlaneCounts, XdpError> {
        tables::counts(&self.programs)
    }

    /// Why answers of the program get lost, if that is so: a veth takes what is redirected to it only once its other end
    /// has GRO or a program of its own. That end is mostly in a namespace that this process may not enter.
    pub(super) fn muteness(&self) -> Option<String> {
        let is_mute = |name: &&String| {
            interface(name).is_ok_and(|found| found.is_veth() && takes_redirects(found.index) == Some(false))
        };
        let name = self.links.keys().filter(|_| self.programs.place == Place::Driver).find(is_mute)?;
        Some(format!(
            "clients are not told why they are refused, because the other end of {name} has no GRO; turn it on there: \
             ethtool -K INTERFACE gro on"
        ))
    }

    fn attach(&mut self, interface: &str) -> Result<FdLink, XdpError> {
        self.programs.attach(INGRESS, &free(interface)?)
    }

    fn look(&mut self) -> Result<(), XdpError> {
        let listens_on = |ip: &IpAddr| match self.listen.ip() {
            IpAddr::V4(v4) if v4.is_unspecified() => ip.is_ipv4(),
            IpAddr::V6(v6) if v6.is_unspecified() => true,
            named => named.to_canonical() == *ip,
        };
        let here = addresses_by(&self.netlink).map_err(XdpError::Network)?;
        let here = here.iter().map(|own| own.address).filter(listens_on).take(OWN_ADDRESSES_MAX as usize);
        self.own = here.map(|ip| (mapped(ip), OwnAddress::SERVED)).collect();
        Ok(())
    }
}

/// Loads the programs, and lets them go again. Blocks.
pub(crate) fn try_load() -> Result<(), XdpError> {
    let mut programs = Programs::load(Place::Driver, TRIAL_PORT, false, None)?;
    programs.load_replies()
}

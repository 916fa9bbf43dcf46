//! A small network of namespaces: one client, a few edges, data nodes behind them, and a place for metadata servers
//! that all of them reach. The edges route, as any host does that has several interfaces.
//!
//! Invariant: names and addresses follow from a member's number alone, so an interface that is made again is the same
//! one to everybody but the kernel.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use crate::namespace::{End, Namespace, connect};

/// How a network is laid.
#[derive(Clone, Copy, Debug)]
pub struct LanOptions {
    /// The IP version of all addresses.
    pub ip: IpVersion,
    /// Of all interfaces.
    pub mtu: u32,
    /// How many edges; data nodes are dealt out to them in turn.
    pub edges: usize,
}

/// A version of IP.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum IpVersion {
    /// Version 4.
    V4,
    /// Version 6.
    V6,
}

impl Default for LanOptions {
    fn default() -> Self {
        Self { ip: IpVersion::V4, mtu: 1500, edges: 1 }
    }
}

/// The network; removed when it and all processes in it are gone.
#[derive(Debug)]
pub struct Lan {
    options: LanOptions,
    client: Arc<Namespace>,
    meta: Arc<Namespace>,
    edges: Vec<Arc<Namespace>>,
    nodes: Vec<Arc<Namespace>>,
}

/// Where somebody lives.
#[derive(Clone, Debug)]
pub(crate) struct Site {
    /// `None`: with everybody else.
    pub(crate) namespace: Option<Arc<Namespace>>,
    pub(crate) address: IpAddr,
}

/// The edge's interface to clients.
pub const UPLINK: &str = "uplink";
/// The metadata servers' network and a data node's interface are called by it.
const META: &str = "meta";
/// A data node's interface.
const NODE_DEVICE: &str = "lan";

impl Lan {
    /// Lays it for so many data nodes.
    ///
    /// # Errors
    /// Without root or iproute2.
    pub fn lay(options: LanOptions, data_nodes: usize) -> io::Result<Self> {
        let namespace = |role: String| -> io::Result<Arc<Namespace>> {
            let namespace = Namespace::new(&role)?;
            // Nobody else is here who could have the same address.
            namespace.set_sysctl("ipv6/conf/default/accept_dad", 0)?;
            Ok(Arc::new(namespace))
        };
        let lan = Self {
            options,
            client: namespace("client".to_owned())?,
            meta: namespace(META.to_owned())?,
            edges: (0..options.edges)
                .map(|edge| namespace(format!("edge{edge}")))
                .collect::<Result<_, _>>()?,
            nodes: (0..data_nodes).map(|node| namespace(format!("node{node}"))).collect::<Result<_, _>>()?,
        };
        lan.meta.add_address("lo", lan.meta_address(), lan.host_len())?;
        for edge in 0..options.edges {
            lan.edges[edge].set_sysctl("ipv4/ip_forward", 1)?;
            lan.edges[edge].set_sysctl("ipv6/conf/all/forwarding", 1)?;
            lan.plug_clients(edge)?;
            lan.plug_meta(edge)?;
        }
        for node in 0..data_nodes {
            lan.plug(node)?;
        }
        Ok(lan)
    }

    /// The client's namespace.
    #[must_use]
    pub fn client(&self) -> &Namespace {
        &self.client
    }

    /// An edge's namespace.
    #[must_use]
    pub fn edge(&self, edge: usize) -> &Namespace {
        &self.edges[edge]
    }

    /// A data node's namespace.
    #[must_use]
    pub fn node(&self, node: usize) -> &Namespace {
        &self.nodes[node]
    }

    /// How many edges there are.
    #[must_use]
    pub const fn edges(&self) -> usize {
        self.options.edges
    }

    /// The edge that a data node is behind.
    #[must_use]
    pub const fn edge_of(&self, node: usize) -> usize {
        node % self.options.edges
    }

    /// Where clients reach an edge.
    #[must_use]
    pub fn edge_address(&self, edge: usize) -> IpAddr {
        self.address(edge, 1)
    }

    /// The client's address towards an edge.
    #[must_use]
    pub fn client_address(&self, edge: usize) -> IpAddr {
        self.address(edge, 2)
    }

    /// A data node's own address.
    #[must_use]
    pub fn node_address(&self, node: usize) -> IpAddr {
        self.address(NODE_NET + node, 2)
    }

    /// An edge's interface to the client.
    #[must_use]
    pub fn uplink(&self, edge: usize) -> End<'_> {
        End { namespace: &self.edges[edge], device: UPLINK }
    }

    /// The client's interface to an edge.
    #[must_use]
    pub fn client_end(&self, edge: usize) -> End<'_> {
        End { namespace: &self.client, device: EDGE_DEVICES[edge] }
    }

    /// The edge's interface to a data node.
    #[must_use]
    pub fn downlink(&self, node: usize) -> End<'_> {
        End { namespace: &self.edges[self.edge_of(node)], device: NODE_DEVICES[node] }
    }

    /// A data node's interface.
    #[must_use]
    pub fn node_end(&self, node: usize) -> End<'_> {
        End { namespace: &self.nodes[node], device: NODE_DEVICE }
    }

    /// Takes a data node off its edge: the interfaces on both sides vanish.
    ///
    /// # Errors
    /// If it is off.
    pub fn unplug(&self, node: usize) -> io::Result<()> {
        let End { namespace, device } = self.downlink(node);
        namespace.ip(&["link", "delete", device]).map(drop)
    }

    /// Puts a data node behind its edge, by new interfaces with the old names and addresses.
    ///
    /// # Errors
    /// If it is there.
    pub fn plug(&self, node: usize) -> io::Result<()> {
        let (down, up) = (self.downlink(node), self.node_end(node));
        connect(down, up, self.options.mtu)?;
        down.namespace.add_address(down.device, self.address(NODE_NET + node, 1), self.net_len())?;
        up.namespace.add_address(up.device, self.node_address(node), self.net_len())?;
        self.route(up.namespace, "default", self.address(NODE_NET + node, 1))
    }

    pub(crate) fn client_site(&self) -> Site {
        Site { namespace: Some(Arc::clone(&self.client)), address: self.client_address(0) }
    }

    pub(crate) fn meta_site(&self) -> Site {
        Site { namespace: Some(Arc::clone(&self.meta)), address: self.meta_address() }
    }

    pub(crate) fn edge_site(&self, edge: usize) -> Site {
        Site { namespace: Some(Arc::clone(&self.edges[edge])), address: self.edge_address(edge) }
    }

    pub(crate) fn node_site(&self, node: usize) -> Site {
        Site { namespace: Some(Arc::clone(&self.nodes[node])), address: self.node_address(node) }
    }

    fn plug_clients(&self, edge: usize) -> io::Result<()> {
        let (client, uplink) = (self.client_end(edge), self.uplink(edge));
        connect(client, uplink, self.options.mtu)?;
        client.namespace.add_address(client.device, self.client_address(edge), self.net_len())?;
        uplink.namespace.add_address(uplink.device, self.edge_address(edge), self.net_len())?;
        // Whatever claims to come from elsewhere came from the client's side, and so is answered to there.
        self.route(uplink.namespace, "default", self.client_address(edge))?;
        if edge == 0 {
            self.route(client.namespace, &self.meta_address().to_string(), self.edge_address(0))?;
        }
        for node in (0..self.nodes.len()).filter(|node| self.edge_of(*node) == edge) {
            self.route(client.namespace, &self.net(NODE_NET + node), self.edge_address(edge))?;
        }
        Ok(())
    }

    fn plug_meta(&self, edge: usize) -> io::Result<()> {
        let down = End { namespace: &self.edges[edge], device: META };
        let up = End { namespace: &self.meta, device: EDGE_DEVICES[edge] };
        connect(down, up, self.options.mtu)?;
        let (edge_address, meta_address) =
            (self.address(META_NET + edge, 1), self.address(META_NET + edge, 2));
        down.namespace.add_address(down.device, edge_address, self.net_len())?;
        up.namespace.add_address(up.device, meta_address, self.net_len())?;
        self.route(down.namespace, &self.meta_address().to_string(), meta_address)?;
        self.route(up.namespace, &self.net(edge), edge_address)?;
        for node in (0..self.nodes.len()).filter(|node| self.edge_of(*node) == edge) {
            self.route(up.namespace, &self.net(NODE_NET + node), edge_address)?;
        }
        Ok(())
    }

    fn route(&self, namespace: &Namespace, to: &str, via: IpAddr) -> io::Result<()> {
        let version = if self.options.ip == IpVersion::V4 { "-4" } else { "-6" };
        namespace.ip(&[version, "route", "add", to, "via", &via.to_string()]).map(drop)
    }

    fn meta_address(&self) -> IpAddr {
        self.address(META_HOST_NET, 1)
    }

    fn address(&self, net: usize, host: u8) -> IpAddr {
        match self.options.ip {
            IpVersion::V4 => Ipv4Addr::new(10, 88, net as u8, host).into(),
            IpVersion::V6 => Ipv6Addr::new(0xfd88, 0, 0, net as u16, 0, 0, 0, host.into()).into(),
        }
    }

    fn net(&self, net: usize) -> String {
        format!("{}/{}", self.address(net, 0), self.net_len())
    }

    const fn net_len(&self) -> u8 {
        match self.options.ip {
            IpVersion::V4 => 24,
            IpVersion::V6 => 64,
        }
    }

    const fn host_len(&self) -> u8 {
        match self.options.ip {
            IpVersion::V4 => 32,
            IpVersion::V6 => 128,
        }
    }
}

/// Numbers of networks: the ones between client and edge are numbered like the edges.
const NODE_NET: usize = 10;
const META_NET: usize = 100;
const META_HOST_NET: usize = 200;
const EDGE_DEVICES: [&str; 4] = ["edge0", "edge1", "edge2", "edge3"];
const NODE_DEVICES: [&str; 8] = ["node0", "node1", "node2", "node3", "node4", "node5", "node6", "node7"];

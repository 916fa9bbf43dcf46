//! Addresses of a cluster: those of the last time if they are free, others if they are not.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
};

use xdpfs_meta_server::Listeners;

use super::{
    SERVERS,
    directory::{Memory, MetaAddresses},
};
use crate::failure::Failure;

/// Sockets of the metadata servers, and where the data nodes are to have theirs.
#[derive(Debug)]
pub(super) struct Bound {
    /// The sockets and where they are.
    pub(super) meta_servers: Vec<(MetaAddresses, Listeners)>,
    /// Port zero stands for any.
    pub(super) data_nodes: Vec<SocketAddr>,
    /// What could not be as it was, in words.
    pub(super) moved: Vec<String>,
}

impl Bound {
    /// Takes what is remembered as far as it is free. `listen` is a must, all else a wish.
    pub(super) fn bind(listen: Option<SocketAddr>, memory: Option<&Memory>) -> Result<Self, Failure> {
        let mut binder = Binder { any: any_port(listen), moved: vec![] };
        let mut meta_servers = Vec::with_capacity(SERVERS);
        let mut data_nodes = Vec::with_capacity(SERVERS);
        for index in 0..SERVERS {
            let was = memory.and_then(|memory| memory.meta_servers.get(index));
            let client = match listen {
                Some(listen) if index == 0 => bind_exactly(listen)?,
                Some(_) | None => binder.bind(was.map(|was| was.client), TcpListener::bind)?,
            };
            let peer = binder.bind(was.map(|was| was.peer), TcpListener::bind)?;
            let addresses = MetaAddresses { client: address_of(&client)?, peer: address_of(&peer)? };
            meta_servers.push((addresses, Listeners { client, peer }));
            let was = memory.and_then(|memory| memory.data_nodes.get(index));
            data_nodes.push(binder.find(was.copied())?);
        }
        Ok(Self { meta_servers, data_nodes, moved: binder.moved })
    }

    /// What to remember of it before the data nodes have their addresses.
    pub(super) fn remembered(&self) -> Memory {
        Memory {
            has_been_ready: false,
            meta_servers: self.meta_servers.iter().map(|(addresses, _)| *addresses).collect(),
            data_nodes: self.data_nodes.iter().copied().filter(|address| address.port() != 0).collect(),
        }
    }
}

struct Binder {
    any: SocketAddr,
    moved: Vec<String>,
}

impl Binder {
    /// Binds at the wished address if it can be had, or else anywhere.
    fn bind<S>(
        &mut self,
        wish: Option<SocketAddr>,
        bind: fn(SocketAddr) -> io::Result<S>,
    ) -> Result<S, Failure> {
        if let Some(wish) = wish {
            match bind(wish) {
                Ok(socket) => return Ok(socket),
                Err(error) => {
                    self.moved.push(format!("{wish} can't be had again ({error}): another port is used"))
                }
            }
        }
        bind(self.any).map_err(|error| Failure::local(format_args!("listen on {}", self.any), &error))
    }

    /// Where a data node can have its socket.
    fn find(&mut self, wish: Option<SocketAddr>) -> Result<SocketAddr, Failure> {
        let Some(wish) = wish else { return Ok(self.any) };
        let socket = self.bind(Some(wish), UdpSocket::bind)?;
        socket.local_addr().map_err(|error| Failure::local("listen", &error))
    }
}

fn bind_exactly(listen: SocketAddr) -> Result<TcpListener, Failure> {
    TcpListener::bind(listen).map_err(|error| {
        let failure = Failure::local(format_args!("listen on {listen}"), &error);
        failure.with_hint("something else may use it: name another with --listen, or none for any free one")
    })
}

fn address_of(listener: &TcpListener) -> Result<SocketAddr, Failure> {
    listener.local_addr().map_err(|error| Failure::local("listen", &error))
}

fn any_port(listen: Option<SocketAddr>) -> SocketAddr {
    let interface = listen.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |listen| listen.ip());
    SocketAddr::new(interface, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_the_same_again_if_they_are_free() {
        let first = Bound::bind(None, None).unwrap();
        assert_eq!(first.meta_servers.len(), SERVERS);
        let free = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let memory = Memory { data_nodes: vec![free], ..first.remembered() };
        drop(first);
        let again = Bound::bind(None, Some(&memory)).unwrap();
        assert_eq!((again.remembered(), again.moved.len()), (memory, 0));
    }

    #[test]
    fn addresses_in_use_are_replaced_and_named() {
        let first = Bound::bind(None, None).unwrap();
        let memory = first.remembered();
        let second = Bound::bind(None, Some(&memory)).unwrap();
        assert_eq!(second.moved.len(), 2 * SERVERS, "{:?}", second.moved);
        for was in &memory.meta_servers {
            assert!(!second.remembered().meta_servers.contains(was));
        }
    }

    #[test]
    fn the_address_asked_for_is_had_or_refused() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let failure = Bound::bind(Some(address), None).unwrap_err();
        assert!(failure.message.contains(&address.to_string()), "{failure:?}");
        drop(taken);
        let bound = Bound::bind(Some(address), None).unwrap();
        assert_eq!(bound.meta_servers[0].0.client, address);
    }
}

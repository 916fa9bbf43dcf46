//! Which of this host's addresses others are told: the one that it would speak to the metadata servers from.

use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    str::FromStr,
    time::Duration,
};

use tokio::time::Instant;

use crate::config::{ConfigError, MetaEndpoint, is_host_and_port};

/// In place of an address.
const AUTO: &str = "auto";
/// Between two looks. Names of servers that start at the same time may not be known yet.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(200);
/// How often it is said that there is no address yet.
const WARN_EVERY: Duration = Duration::from_secs(10);

/// What others are told of where this node is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum OwnAddress {
    /// This, as `HOST:PORT`.
    At(String),
    /// The address that the metadata servers are reached from, with the port that is listened on.
    Auto,
}

impl OwnAddress {
    /// What it comes to, where `own` is the address that was found.
    pub(crate) fn told(&self, own: SocketAddr) -> String {
        match self {
            Self::At(address) => address.clone(),
            Self::Auto => own.to_string(),
        }
    }
}

impl fmt::Display for OwnAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(address) => f.write_str(address),
            Self::Auto => f.write_str(AUTO),
        }
    }
}

impl FromStr for OwnAddress {
    type Err = ConfigError;

    /// Takes `HOST:PORT` and `auto`.
    fn from_str(text: &str) -> Result<Self, ConfigError> {
        match text {
            AUTO => Ok(Self::Auto),
            address if is_host_and_port(address) => Ok(Self::At(address.to_owned())),
            other => Err(ConfigError::OwnAddress(other.to_owned())),
        }
    }
}

/// The address under which `listen` can be reached from where the metadata servers are. If it is one in particular, that
/// one; otherwise waits until one of the servers has an address and a route leads there.
pub(crate) async fn find(meta: &[MetaEndpoint], listen: SocketAddr) -> SocketAddr {
    if !listen.ip().is_unspecified() {
        return listen;
    }
    let mut warn_at = Instant::now() + WARN_EVERY;
    loop {
        for endpoint in meta {
            if let Some(ip) = towards(endpoint, listen.ip()).await {
                tracing::info!(address = %ip, %endpoint, "this is where others reach this node");
                return SocketAddr::new(ip, listen.port());
            }
        }
        if Instant::now() >= warn_at {
            tracing::warn!(
                "no route leads to any metadata server, so this node has no address to tell others"
            );
            warn_at = Instant::now() + WARN_EVERY;
        }
        tokio::time::sleep(LOOK_AGAIN_AFTER).await;
    }
}

async fn towards(endpoint: &MetaEndpoint, listen: IpAddr) -> Option<IpAddr> {
    let servers = tokio::net::lookup_host(endpoint.to_string()).await.ok()?;
    // A socket of IPv6 takes both, as long as the system doesn't say otherwise.
    let mut fitting = servers.filter(|server| listen.is_ipv6() || server.is_ipv4());
    fitting.find_map(|server| source_towards(server).ok()).filter(is_for_others)
}

/// Where the kernel would send from. Nothing is sent.
fn source_towards(server: SocketAddr) -> io::Result<IpAddr> {
    let any: IpAddr =
        if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(server)?;
    Ok(socket.local_addr()?.ip())
}

/// An address of one link only is of no use without that link's name.
fn is_for_others(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => !ip.is_unspecified() && !ip.is_link_local(),
        IpAddr::V6(ip) => !ip.is_unspecified() && !ip.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(text: &str) -> MetaEndpoint {
        text.parse().unwrap()
    }

    #[tokio::test]
    async fn an_address_of_its_own_is_told_as_it_is() {
        let listen = "192.0.2.7:9".parse().unwrap();
        assert_eq!(find(&[endpoint("no-such-host.invalid:1")], listen).await, listen);
    }

    #[tokio::test]
    async fn all_addresses_become_the_one_towards_the_metadata_servers() {
        let meta = [endpoint("no-such-host.invalid:1"), endpoint("127.0.0.1:1")];
        let found = find(&meta, "0.0.0.0:7500".parse().unwrap()).await;
        assert_eq!(found, "127.0.0.1:7500".parse().unwrap());
    }

    #[test]
    fn a_place_is_an_address_or_auto() {
        let check = |text: &str, expect: Option<OwnAddress>| {
            assert_eq!(text.parse().ok(), expect, "{text:?}");
        };
        check("auto", Some(OwnAddress::Auto));
        check("node-1:7500", Some(OwnAddress::At("node-1:7500".into())));
        check("[fd00::1]:7500", Some(OwnAddress::At("[fd00::1]:7500".into())));
        check("node-1", None);
        check("", None);
    }

    #[test]
    fn addresses_of_one_link_are_nothing_for_others() {
        let check = |ip: &str, expect| assert_eq!(is_for_others(&ip.parse().unwrap()), expect, "{ip}");
        check("10.0.0.1", true);
        check("fd00::1", true);
        check("169.254.0.1", false);
        check("fe80::1", false);
        check("0.0.0.0", false);
        check("::", false);
    }
}

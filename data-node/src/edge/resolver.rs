//! Where nodes are, by the names that they gave.
//!
//! Invariant: a name that can't be resolved any more keeps its last address: the node is likely still there.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use futures::future::join_all;

/// How long an answer of the resolver is good.
const FRESH: Duration = Duration::from_secs(30);
/// How long all names together may take; the leader waits to be asked again.
const PATIENCE: Duration = Duration::from_secs(1);

/// Remembers what names stand for, of those that were asked for last.
#[derive(Debug, Default)]
pub(super) struct Resolver {
    known: BTreeMap<String, Known>,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    address: Option<SocketAddr>,
    asked_at: Instant,
}

impl Resolver {
    /// The addresses of `names`, in their order; `None` for those that stand for nothing.
    pub(super) async fn resolve(&mut self, names: &[String]) -> Vec<Option<SocketAddr>> {
        let now = Instant::now();
        let is_fresh = |known: &Known| now.duration_since(known.asked_at) < FRESH;
        let stale = names.iter().filter(|name| {
            name.parse::<SocketAddr>().is_err() && !self.known.get(*name).is_some_and(is_fresh)
        });
        let found = join_all(stale.map(async |name| (name.clone(), look_up(name).await))).await;
        for (name, found) in found {
            let before = self.known.get(&name).and_then(|known| known.address);
            self.known.insert(name, Known { address: found.or(before), asked_at: now });
        }
        self.known.retain(|name, _| names.contains(name));
        let known = |name: &String| self.known.get(name).and_then(|known| known.address);
        names.iter().map(|name| name.parse().ok().or_else(|| known(name))).collect()
    }
}

async fn look_up(name: &str) -> Option<SocketAddr> {
    let found = tokio::time::timeout(PATIENCE, tokio::net::lookup_host(name)).await;
    found.ok()?.ok()?.next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn names_and_addresses_are_resolved_in_their_order() {
        let names = ["10.0.0.1:7".to_owned(), "localhost:9".to_owned(), "[fd00::1]:8".to_owned()];
        let mut resolver = Resolver::default();
        let found = resolver.resolve(&names).await;
        assert_eq!(found[0], Some("10.0.0.1:7".parse().unwrap()));
        assert!(
            found[1].is_some_and(|address| address.ip().is_loopback() && address.port() == 9),
            "{found:?}"
        );
        assert_eq!(found[2], Some("[fd00::1]:8".parse().unwrap()));
    }

    #[tokio::test]
    async fn names_that_nobody_asks_for_any_more_are_forgotten() {
        let mut resolver = Resolver::default();
        resolver.resolve(&["localhost:9".to_owned()]).await;
        assert_eq!(resolver.known.len(), 1);
        resolver.resolve(&["10.0.0.1:7".to_owned()]).await;
        assert!(resolver.known.is_empty());
    }

    #[tokio::test]
    async fn a_name_that_stops_to_resolve_keeps_its_address() {
        let name = "no-such-host.invalid:9".to_owned();
        let address = Some("10.0.0.9:9".parse().unwrap());
        let mut resolver = Resolver::default();
        let asked_at = Instant::now().checked_sub(FRESH).unwrap();
        resolver.known.insert(name.clone(), Known { address, asked_at });
        assert_eq!(resolver.resolve(&[name]).await, [address]);
    }
}

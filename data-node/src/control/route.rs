//! Which metadata server to ask. Pure: knows names, not connections.

use crate::config::MetaEndpoint;

/// Servers that are taken from what one of them says, and the bytes of that.
const ROSTER_MAX: usize = 16;
const ROSTER_BYTES_MAX: usize = 4096;

/// The server to ask next, and the ones to fall back on.
#[derive(Debug)]
pub(super) struct Route {
    /// As configured.
    configured: Vec<MetaEndpoint>,
    /// What a server has said of itself and the others last, as it said it.
    roster: String,
    /// Those, and then the configured ones.
    endpoints: Vec<MetaEndpoint>,
    current: MetaEndpoint,
    /// Which of `endpoints` to fall back on next.
    turn: usize,
}

impl Route {
    /// # Panics
    /// If there are no endpoints: a checked configuration has one.
    pub(super) fn new(endpoints: &[MetaEndpoint]) -> Self {
        assert!(!endpoints.is_empty(), "a checked configuration has an endpoint");
        let configured = endpoints.to_vec();
        Self {
            endpoints: configured.clone(),
            configured,
            roster: String::new(),
            current: endpoints[0].clone(),
            turn: 0,
        }
    }

    /// Takes in where the servers are, as one of them says. Those that are configured stay the last resort: what a server
    /// says may be as wrong as it is.
    pub(super) fn learn(&mut self, roster: &str) {
        if roster == self.roster || roster.len() > ROSTER_BYTES_MAX {
            return;
        }
        roster.clone_into(&mut self.roster);
        let told = roster.split(',').take(ROSTER_MAX).filter_map(|endpoint| endpoint.trim().parse().ok());
        let mut endpoints: Vec<MetaEndpoint> = told.collect();
        for endpoint in &self.configured {
            if !endpoints.contains(endpoint) {
                endpoints.push(endpoint.clone());
            }
        }
        self.endpoints = endpoints;
        self.turn = 0;
    }

    pub(super) fn current(&self) -> &MetaEndpoint {
        &self.current
    }

    /// Turns from `endpoint` to the leader that it named; whether that is another server.
    pub(super) fn follow(&mut self, endpoint: &MetaEndpoint, leader: MetaEndpoint) -> bool {
        let moved = *endpoint != leader;
        self.current = leader;
        moved
    }

    /// Turns away from `endpoint`, unless another request has done so already.
    pub(super) fn pass(&mut self, endpoint: &MetaEndpoint) {
        if self.current != *endpoint {
            return;
        }
        for _ in 0..self.endpoints.len() {
            self.turn = (self.turn + 1) % self.endpoints.len();
            if self.endpoints[self.turn] != *endpoint {
                break;
            }
        }
        self.current = self.endpoints[self.turn].clone();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(name: &str) -> MetaEndpoint {
        name.parse().unwrap()
    }

    fn route() -> Route {
        Route::new(&["a:1", "b:1", "c:1"].map(endpoint))
    }

    #[test]
    fn failing_servers_are_passed_in_turn() {
        let mut route = route();
        let mut seen = vec![];
        for _ in 0..4 {
            let current = route.current().clone();
            route.pass(&current);
            seen.push(current.to_string());
        }
        assert_eq!(seen, ["a:1", "b:1", "c:1", "a:1"]);
    }

    #[test]
    fn servers_that_were_told_of_are_asked_before_the_configured_ones() {
        let mut route = route();
        route.learn("d:1,rubbish,b:1");
        let mut seen = vec![];
        for _ in 0..4 {
            let current = route.current().clone();
            route.pass(&current);
            seen.push(current.to_string());
        }
        assert_eq!(seen, ["a:1", "b:1", "a:1", "c:1"]);
        route.learn(&"f:1,".repeat(ROSTER_BYTES_MAX));
        assert_eq!(route.endpoints.len(), 4, "what no server would say changes nothing");
    }

    #[test]
    fn only_the_current_server_is_passed() {
        let mut route = route();
        route.pass(&endpoint("c:1"));
        assert_eq!(*route.current(), endpoint("a:1"));
    }

    #[test]
    fn a_hint_may_lead_outside_the_list_and_back() {
        let mut route = route();
        assert!(route.follow(&endpoint("a:1"), endpoint("d:1")));
        assert!(!route.follow(&endpoint("d:1"), endpoint("d:1")), "a server that names itself leads nowhere");
        route.pass(&endpoint("d:1"));
        assert_eq!(*route.current(), endpoint("b:1"));
    }

    #[test]
    fn a_single_server_is_asked_again() {
        let mut route = Route::new(&[endpoint("a:1")]);
        route.pass(&endpoint("a:1"));
        assert_eq!(*route.current(), endpoint("a:1"));
    }
}

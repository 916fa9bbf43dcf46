//! Which metadata server to ask. Pure: knows names, not connections.

use crate::config::MetaEndpoint;

/// The server to ask next, and the ones to fall back on.
#[derive(Debug)]
pub(super) struct Route {
    /// As configured.
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
        Self { endpoints: endpoints.to_vec(), current: endpoints[0].clone(), turn: 0 }
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

//! Which metadata server to ask. Pure: knows names, not connections.

use crate::config::parse_endpoint;

/// Servers that are taken from what one of them says, and the bytes of that.
const ROSTER_MAX: usize = 16;
const ROSTER_BYTES_MAX: usize = 4096;

/// The server to ask next, and the ones to fall back on.
#[derive(Debug)]
pub(super) struct Route {
    /// As configured.
    configured: Vec<String>,
    /// What a server has said of itself and the others last, as it said it.
    roster: String,
    /// Those, and then the configured ones.
    endpoints: Vec<String>,
    current: String,
    /// Which of `endpoints` to fall back on next.
    turn: usize,
    /// Whether any server has ever answered.
    pub(super) contacted: bool,
}

impl Route {
    /// # Panics
    /// If there are no endpoints: `Endpoints` is never empty.
    pub(super) fn new(endpoints: &[String]) -> Self {
        assert!(!endpoints.is_empty(), "a client has endpoints");
        let configured = endpoints.to_vec();
        Self {
            endpoints: configured.clone(),
            configured,
            roster: String::new(),
            current: endpoints[0].clone(),
            turn: 0,
            contacted: false,
        }
    }

    /// All that are known.
    pub(super) fn endpoints(&self) -> &[String] {
        &self.endpoints
    }

    /// Takes in where the servers are, as one of them says. Those that are configured stay the last resort: what a server
    /// says may be as wrong as it is.
    pub(super) fn learn(&mut self, roster: &str) {
        if roster == self.roster || roster.len() > ROSTER_BYTES_MAX {
            return;
        }
        roster.clone_into(&mut self.roster);
        let told = roster.split(',').take(ROSTER_MAX).filter_map(|endpoint| parse_endpoint(endpoint).ok());
        let mut endpoints: Vec<String> = told.collect();
        for endpoint in &self.configured {
            if !endpoints.contains(endpoint) {
                endpoints.push(endpoint.clone());
            }
        }
        self.endpoints = endpoints;
        self.turn = 0;
    }

    pub(super) fn current(&self) -> &str {
        &self.current
    }

    /// `endpoint` served a request: it leads.
    pub(super) fn answered(&mut self, endpoint: &str) {
        self.contacted = true;
        self.current = endpoint.to_owned();
    }

    /// Turns to the leader that a server named; whether that is another one than the current.
    pub(super) fn follow(&mut self, leader: &str) -> bool {
        let moved = self.current != leader;
        self.current = leader.to_owned();
        moved
    }

    /// Turns away from `endpoint`, unless another request has done so already.
    pub(super) fn pass(&mut self, endpoint: &str) {
        if self.current != endpoint {
            return;
        }
        for _ in 0..self.endpoints.len() {
            self.turn = (self.turn + 1) % self.endpoints.len();
            if self.endpoints[self.turn] != endpoint {
                break;
            }
        }
        self.current = self.endpoints[self.turn].clone();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route() -> Route {
        Route::new(&["a:1".into(), "b:1".into(), "c:1".into()])
    }

    #[test]
    fn failing_servers_are_passed_in_turn() {
        let mut route = route();
        let mut seen = vec![];
        for _ in 0..4 {
            let current = route.current().to_owned();
            route.pass(&current);
            seen.push(current);
        }
        assert_eq!(seen, ["a:1", "b:1", "c:1", "a:1"]);
    }

    #[test]
    fn only_the_current_server_is_passed() {
        let mut route = route();
        route.pass("c:1");
        assert_eq!(route.current(), "a:1");
    }

    #[test]
    fn a_hint_may_lead_outside_the_list_and_back() {
        let mut route = route();
        assert!(route.follow("d:1"));
        assert!(!route.follow("d:1"));
        route.pass("d:1");
        assert_eq!(route.current(), "b:1");
    }

    #[test]
    fn servers_that_were_told_of_are_asked_before_the_configured_ones() {
        let mut route = route();
        route.learn("d:1,rubbish,b:1");
        assert_eq!(route.endpoints(), ["d:1", "b:1", "a:1", "c:1"]);
        assert_eq!(route.current(), "a:1", "it may well lead");
        route.pass("a:1");
        assert_eq!(route.current(), "b:1");
        route.learn("e:1");
        assert_eq!(route.endpoints(), ["e:1", "a:1", "b:1", "c:1"]);
        route.learn(&"f:1,".repeat(ROSTER_BYTES_MAX));
        assert_eq!(route.endpoints().len(), 4, "what no server would say changes nothing");
    }

    #[test]
    fn a_single_server_is_asked_again() {
        let mut route = Route::new(&["a:1".into()]);
        route.pass("a:1");
        assert_eq!(route.current(), "a:1");
    }
}

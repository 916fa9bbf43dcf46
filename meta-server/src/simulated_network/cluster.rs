//! The servers, their media, the clients, and what befalls them.

use std::{
    cell::Cell,
    collections::BTreeMap,
    rc::Rc,
    time::{Duration, UNIX_EPOCH},
};

use turmoil::{Builder, Sim};

use super::{
    client::Client,
    histories::Histories,
    machine,
    server::{self, Gateways, IDS, host},
    trace,
};
use crate::{
    consensus::Role,
    storage::{PART_LEN_MAX, memory_store::Medium},
};

/// The unit of simulated time.
const STEP: Duration = Duration::from_millis(1);
const LATENCY_MIN: Duration = Duration::from_millis(1);
const LATENCY_MAX: Duration = Duration::from_millis(8);
/// Segments that a connection may have under way.
const SEGMENTS_MAX: usize = 1024;
/// How long anything may take that has to come.
const PATIENCE: Duration = Duration::from_secs(30);

fn client_host(number: u64) -> String {
    format!("client-{number}")
}

pub(super) struct Cluster {
    pub(super) seed: u64,
    pub(super) histories: Histories,
    sim: Sim<'static>,
    gateways: Gateways,
    goes_on: Rc<Cell<bool>>,
    clients: u64,
    /// All clients have gone home.
    is_quiet: bool,
}

impl Cluster {
    /// Three servers that have never run.
    pub(super) fn new(seed: u64) -> Self {
        let mut sim = Builder::new()
            .rng_seed(seed)
            .epoch(UNIX_EPOCH + machine::EPOCH)
            .tick_duration(STEP)
            .simulation_duration(Duration::from_secs(3600))
            .min_message_latency(LATENCY_MIN)
            .max_message_latency(LATENCY_MAX)
            .tcp_capacity(SEGMENTS_MAX)
            .enable_random_order()
            .build();
        let gateways = Gateways::default();
        let media: BTreeMap<u64, Medium> = IDS.into_iter().map(|id| (id, Medium::default())).collect();
        for (id, medium) in media {
            let gateways = gateways.clone();
            sim.host(host(id), move || server::run(id, seed, medium.clone(), gateways.clone()));
        }
        let goes_on = Rc::new(Cell::new(true));
        Self { seed, histories: Histories::default(), sim, gateways, goes_on, clients: 0, is_quiet: false }
    }

    /// One more client. What it does begins with the next step.
    pub(super) fn client<F>(&mut self, work: impl FnOnce(Client) -> F)
    where
        F: Future<Output = turmoil::Result> + 'static,
    {
        self.clients += 1;
        let number = self.clients;
        let client = Client::new(number, self.seed, self.histories.clone(), Rc::clone(&self.goes_on));
        self.sim.client(client_host(number), work(client));
        self.is_quiet = false;
    }

    /// Clients that go on until the end.
    pub(super) fn clients(&mut self, count: u64) {
        (0..count).for_each(|_| self.client(Client::run));
    }

    fn step(&mut self) {
        machine::advance_to(self.sim.elapsed());
        self.is_quiet = self.sim.step().expect("no host fails");
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.sim.elapsed()
    }

    pub(super) fn run_for(&mut self, time: Duration) {
        let end = self.sim.elapsed() + time;
        while self.sim.elapsed() < end {
            self.step();
        }
    }

    /// # Panics
    ///
    /// It takes too long.
    pub(super) fn run_until(&mut self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let end = self.sim.elapsed() + PATIENCE;
        while !is_so(self) {
            assert!(self.sim.elapsed() < end, "it takes too long until {what}");
            self.step();
        }
    }

    /// The server that leads in the newest term of which any server knows a leader.
    pub(super) fn leader(&self) -> Option<u64> {
        let gateways = self.gateways.borrow();
        let statuses = gateways.iter().map(|(id, gateway)| (*id, gateway.consensus().status()));
        let leading = statuses.filter(|(_, status)| status.role == Role::Leader);
        leading.max_by_key(|(_, status)| status.term).map(|(id, _)| id)
    }

    pub(super) fn term(&self) -> u64 {
        let gateways = self.gateways.borrow();
        gateways.values().map(|gateway| gateway.consensus().status().term).max().unwrap_or_default()
    }

    /// The last entry that this server has applied.
    pub(super) fn applied(&self, id: u64) -> u64 {
        self.gateways.borrow()[&id].consensus().status().applied_index
    }

    /// Waits until somebody leads, and clients go on.
    pub(super) fn elect(&mut self) -> u64 {
        self.run_until("somebody leads", |cluster| cluster.leader().is_some());
        self.go_on();
        self.leader().expect("somebody leads")
    }

    /// Waits until clients have changed some more.
    pub(super) fn go_on(&mut self) {
        let before = self.histories.changes();
        self.run_until("clients go on", |cluster| cluster.histories.changes() >= before + 10);
    }

    pub(super) fn others(id: u64) -> impl Iterator<Item = u64> + Clone {
        IDS.into_iter().filter(move |other| *other != id)
    }

    /// How many large segments were sent to this server.
    pub(super) fn bulk(&self, id: u64) -> u64 {
        trace::bulk(self.sim.lookup(host(id)))
    }

    fn tell(&self, what: &str) {
        trace::note("-", what);
    }

    /// Between these two servers nothing arrives any more, and what is under way between them is lost.
    pub(super) fn cut(&mut self, id: u64, other: u64) {
        self.tell(&format!("{id} and {other} are cut off from each other"));
        self.sim.partition(host(id), host(other));
    }

    /// No other server hears of this one, or is heard by it. Clients are not affected.
    pub(super) fn isolate(&mut self, id: u64) {
        Self::others(id).for_each(|other| self.cut(id, other));
    }

    /// No other server hears of this one.
    pub(super) fn mute(&mut self, id: u64) {
        self.tell(&format!("{id} is heard by nobody"));
        Self::others(id).for_each(|other| self.sim.partition_oneway(host(id), host(other)));
    }

    pub(super) fn unmute(&mut self, id: u64) {
        self.tell(&format!("{id} is heard again"));
        Self::others(id).for_each(|other| self.sim.repair_oneway(host(id), host(other)));
    }

    /// Between this server and its clients nothing arrives any more, and what is under way between them is lost.
    pub(super) fn shut_out(&mut self, id: u64) {
        self.tell(&format!("{id} is cut off from clients"));
        (1..=self.clients).for_each(|number| self.sim.partition(host(id), client_host(number)));
    }

    pub(super) fn let_in(&mut self, id: u64) {
        self.tell(&format!("{id} is reached by clients again"));
        (1..=self.clients).for_each(|number| self.sim.repair(host(id), client_host(number)));
    }

    /// What was cut off from this server is so no more.
    pub(super) fn repair(&mut self, id: u64) {
        self.tell(&format!("{id} is reached again"));
        Self::others(id).for_each(|other| self.sim.repair(host(id), host(other)));
    }

    /// What this server and others send to each other waits on its way.
    pub(super) fn hold(&mut self, id: u64) {
        self.tell(&format!("what {id} sends and gets from servers is held"));
        Self::others(id).for_each(|other| self.sim.hold(host(id), host(other)));
    }

    /// All that waits arrives now.
    pub(super) fn release(&mut self, id: u64) {
        self.tell(&format!("what {id} sends and gets is held no more"));
        Self::others(id).for_each(|other| self.sim.release(host(id), host(other)));
    }

    pub(super) fn runs(&self, id: u64) -> bool {
        self.gateways.borrow().contains_key(&id)
    }

    /// Everything that this server has not made durable is lost.
    pub(super) fn crash(&mut self, id: u64) {
        self.tell(&format!("{id} crashes"));
        self.sim.crash(host(id));
        self.gateways.borrow_mut().remove(&id);
    }

    pub(super) fn restart(&mut self, id: u64) {
        self.tell(&format!("{id} starts again"));
        self.sim.bounce(host(id));
        self.run_until("it has started", |cluster| cluster.runs(id));
    }

    /// Clients end what they have begun. All servers come to the same state, and the histories are judged.
    ///
    /// # Panics
    ///
    /// Something was lost, or invented, or told out of order, or the servers are not equal.
    pub(super) fn end(mut self) {
        self.goes_on.set(false);
        self.run_until("clients have their answers", |cluster| cluster.is_quiet);
        self.run_until("all servers are at rest", Self::is_at_rest);
        let states = self.gateways.borrow();
        let states: Vec<_> = states.values().map(|gateway| gateway.state().encode(PART_LEN_MAX)).collect();
        assert!(states.len() == IDS.len(), "a server does not run");
        assert!(states.windows(2).all(|pair| pair[0] == pair[1]), "the servers' states are not the same");
        self.histories.judge();
    }

    /// All servers have applied the same entries, and all that there are.
    fn is_at_rest(&self) -> bool {
        let gateways = self.gateways.borrow();
        let statuses: Vec<_> = gateways.values().map(|gateway| gateway.consensus().status()).collect();
        let halted = statuses.iter().find_map(|status| status.halt);
        assert!(halted.is_none(), "a server has halted: {halted:?}");
        let commit_index = statuses.iter().map(|status| status.commit_index).max();
        let is_done = statuses.iter().all(|status| Some(status.applied_index) == commit_index);
        is_done && statuses.iter().any(|status| status.role == Role::Leader)
    }
}

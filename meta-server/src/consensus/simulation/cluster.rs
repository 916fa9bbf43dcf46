//! Three servers, and those that join later, a network and some clients on one virtual clock, one millisecond at a time.

use std::{
    collections::BTreeMap,
    mem,
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::sync::oneshot;
use xdpfs_proto::state::v1 as pb;

use super::{
    super::{Applied, ConsensusError, Input, Proposal, Read},
    checks::Checks,
    client::{Client, Seen, command},
    network::{Network, Weather},
    operator::Operator,
    random::Random,
    server::{Media, Running, VOTERS},
};
use crate::{config::ConsensusConfig, storage::memory_store::Medium};

pub(super) const TICK_MS: u64 = 10;
const CLIENTS: u64 = 4;

/// Which faults a run has. Drawn anew for each: a run without some kind of fault goes further in others.
#[derive(Clone, Debug, Default)]
pub(super) struct Faults {
    pub(super) weather: Weather,
    /// Milliseconds between two crashes; zero is never. Likewise below.
    pub(super) crash_every_ms: u64,
    pub(super) partition_every_ms: u64,
    pub(super) pause_every_ms: u64,
    pub(super) transfer_every_ms: u64,
    /// Milliseconds between two wishes of an operator about the members.
    pub(super) wish_every_ms: u64,
    /// A step of the log thread in so many milliseconds.
    pub(super) disk_slowness: u64,
    pub(super) apply_slowness: u64,
    /// Outputs that the raft loop takes at a time; zero is all.
    pub(super) outputs_max: u64,
}

impl Faults {
    fn draw(random: &mut Random) -> Self {
        Self {
            weather: Weather {
                delay_max_ms: random.pick(&[1, 5, 30]),
                lost_one_in: random.pick(&[0, 50, 10, 5]),
                doubled_one_in: random.pick(&[0, 30, 5]),
            },
            crash_every_ms: random.pick(&[0, 1500, 400]),
            partition_every_ms: random.pick(&[0, 1500, 500]),
            pause_every_ms: random.pick(&[0, 1000]),
            transfer_every_ms: random.pick(&[0, 1000]),
            wish_every_ms: random.pick(&[0, 300, 100]),
            disk_slowness: random.pick(&[1, 4, 20]),
            apply_slowness: random.pick(&[1, 4, 20]),
            outputs_max: random.pick(&[0, 0, 3]),
        }
    }
}

pub(super) struct Server {
    pub(super) running: Option<Running>,
    pub(super) paused_until_ms: u64,
    /// The log thread does nothing.
    pub(super) disk_hangs: bool,
    next_tick_ms: u64,
    restarts_at_ms: u64,
}

pub(super) struct Cluster {
    pub(super) random: Random,
    pub(super) now_ms: u64,
    start: Instant,
    config: ConsensusConfig,
    pub(super) faults: Faults,
    pub(super) servers: BTreeMap<u64, Server>,
    pub(super) media: Media,
    pub(super) network: Network,
    clients: Vec<Client>,
    pub(super) checks: Checks,
    pub(super) seen: Seen,
    pub(super) crashes: u64,
    commands: u64,
    clients_begin: bool,
    pub(super) operator: Operator,
    /// What election timeouts are made from.
    timeouts: u64,
}

impl Cluster {
    /// A cluster with everything that chance may bring.
    pub(super) fn stormy(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let faults = Faults::draw(&mut random);
        let config = ConsensusConfig {
            snapshot_entries: random.pick(&[3, 20, 1000]),
            log_bytes_max: random.pick(&[5_000, 1 << 20]),
            log_entries_kept: random.pick(&[0, 5, 50]),
            ..Self::calm_config()
        };
        Self::new(random, faults, config)
    }

    pub(super) fn calm_config() -> ConsensusConfig {
        ConsensusConfig {
            tick: Duration::from_millis(TICK_MS),
            election_ticks: 10,
            heartbeat_ticks: 2,
            ..ConsensusConfig::default()
        }
    }

    /// A cluster without faults, clients or snapshots.
    pub(super) fn calm(seed: u64) -> Self {
        Self::calm_with(seed, Self::calm_config())
    }

    pub(super) fn calm_with(seed: u64, config: ConsensusConfig) -> Self {
        let faults = Faults { disk_slowness: 1, apply_slowness: 1, ..Faults::default() };
        let mut cluster = Self::new(Random::new(seed), faults, config);
        cluster.clients.clear();
        cluster
    }

    fn new(mut random: Random, faults: Faults, config: ConsensusConfig) -> Self {
        let timeouts = random.next();
        let mut cluster = Self {
            random,
            timeouts,
            now_ms: 0,
            start: Instant::now(),
            config,
            faults,
            servers: BTreeMap::new(),
            media: VOTERS.iter().map(|id| (*id, Medium::default())).collect(),
            network: Network::default(),
            clients: (1..=CLIENTS).map(Client::new).collect(),
            checks: Checks::default(),
            seen: Seen::default(),
            crashes: 0,
            commands: 0,
            clients_begin: true,
            operator: Operator::default(),
        };
        VOTERS.into_iter().for_each(|id| cluster.join(id));
        cluster
    }

    /// A server that was not there before starts.
    pub(super) fn join(&mut self, id: u64) {
        let server = Server {
            running: None,
            paused_until_ms: 0,
            disk_hangs: false,
            next_tick_ms: 0,
            restarts_at_ms: u64::MAX,
        };
        self.servers.insert(id, server);
        self.media.entry(id).or_default();
        self.restart(id);
    }

    /// All servers that ever were.
    pub(super) fn ids(&self) -> Vec<u64> {
        self.servers.keys().copied().collect()
    }

    /// Those that take part.
    pub(super) fn members(&self) -> Vec<u64> {
        self.checks.configuration().ids().into_iter().collect()
    }

    pub(super) fn now(&self) -> Instant {
        self.start + Duration::from_millis(self.now_ms)
    }

    pub(super) fn running(&mut self, id: u64) -> &mut Running {
        self.servers.get_mut(&id).and_then(|server| server.running.as_mut()).expect("the server runs")
    }

    pub(super) fn medium(&self, id: u64) -> &Medium {
        &self.media[&id]
    }

    fn server(&mut self, id: u64) -> &mut Server {
        self.servers.get_mut(&id).expect("it is a voter")
    }

    pub(super) fn restart(&mut self, id: u64) {
        let medium = self.medium(id).clone();
        let running = Running::start(id, &medium, self.config.clone(), &mut self.checks);
        let next_tick_ms = self.now_ms + self.random.below(TICK_MS);
        let server = self.server(id);
        server.running = Some(running);
        server.next_tick_ms = next_tick_ms;
        server.restarts_at_ms = u64::MAX;
    }

    /// Everything that is not on the medium is gone.
    pub(super) fn crash(&mut self, id: u64) {
        let restarts_at_ms = self.now_ms + 1 + self.random.below(600);
        let server = self.server(id);
        server.running = None;
        server.restarts_at_ms = restarts_at_ms;
        self.crashes += 1;
    }

    pub(super) fn isolate(&mut self, id: u64) {
        for other in self.ids() {
            self.network.blocked.extend([(id, other), (other, id)]);
        }
    }

    pub(super) fn heal(&mut self) {
        self.network.blocked.clear();
    }

    /// A server that leads in the highest term, of those that run.
    pub(super) fn leader(&self) -> Option<u64> {
        let running = self.servers.values().filter_map(|server| server.running.as_ref());
        let leader = running.filter(|running| running.leads()).max_by_key(|running| running.status().term);
        leader.map(|running| running.id)
    }

    pub(super) fn run(&mut self, duration_ms: u64) {
        (0..duration_ms).for_each(|_| self.step());
    }

    /// Goes on until something is so.
    pub(super) fn run_until(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        for _ in 0..20_000 {
            if done(self) {
                return;
            }
            self.step();
        }
        panic!("20 seconds were not enough until {what}: {:?}, {:?}", self.faults, self.seen);
    }

    pub(super) fn step(&mut self) {
        self.now_ms += 1;
        self.make_trouble();
        let weather = self.faults.weather.clone();
        for (to, input) in self.network.deliver(&self.media, &weather, &mut self.random, self.now_ms) {
            self.tell(to, input);
        }
        self.let_clients_act();
        self.let_operator_act();
        for id in self.ids() {
            self.step_server(id);
        }
        let applied: BTreeMap<u64, u64> = self
            .servers
            .iter()
            .filter_map(|(id, server)| Some((*id, server.running.as_ref()?.applied())))
            .collect();
        for client in &mut self.clients {
            client.listen(|id| applied.get(&id).copied(), &mut self.checks, &mut self.seen, self.now_ms);
        }
    }

    pub(super) fn tell(&mut self, id: u64, input: Input) {
        if let Some(running) = self.server(id).running.as_mut() {
            running.inputs.push_back(input);
        }
    }

    fn let_clients_act(&mut self) {
        let (leader, servers) = (self.leader(), self.ids());
        for at in 0..self.clients.len() {
            let begins = self.clients_begin || !self.clients[at].is_idle();
            if !self.random.one_in(5) || !begins {
                continue;
            }
            let time = (self.start, self.now_ms);
            let client = &mut self.clients[at];
            if let Some((id, input)) =
                client.act((leader, &servers), &mut self.checks, &mut self.seen, &mut self.random, time)
            {
                self.tell(id, input);
            }
        }
    }

    fn let_operator_act(&mut self) {
        let mut operator = mem::take(&mut self.operator);
        operator.act(self);
        self.operator = operator;
    }

    /// A command of nobody in particular, to whichever server leads. None: nobody does.
    pub(super) fn command(
        &mut self,
        kind: pb::command::Kind,
    ) -> Option<oneshot::Receiver<Result<Applied, ConsensusError>>> {
        let leader = self.leader()?;
        let (reply, answer) = oneshot::channel();
        let deadline = self.start + Duration::from_millis(self.now_ms + 1000);
        self.commands += 1;
        // Of no client: those have other numbers.
        let request_id = Bytes::from((1 << 100 | u128::from(self.commands)).to_be_bytes().to_vec());
        let command =
            pb::Command { time_ms: self.now_ms, request_id, kind: Some(kind), ..pb::Command::default() };
        let data = prost::Message::encode_to_vec(&command).into();
        self.tell(leader, Input::Propose(Proposal { data, deadline, reply }));
        Some(answer)
    }

    fn step_server(&mut self, id: u64) {
        let (now, now_ms) = (self.now(), self.now_ms);
        // Another number for each server and each second, but the same one for the same seed.
        let ticks = Random::new(self.timeouts ^ (id << 32) ^ (now_ms / 1000)).next();
        let count = self.random.below(40) as usize;
        let outputs_max =
            if self.faults.outputs_max == 0 { usize::MAX } else { self.faults.outputs_max as usize };
        let disk_works = self.random.one_in(self.faults.disk_slowness);
        let apply_works = self.random.one_in(self.faults.apply_slowness);
        let Some(server) = self.servers.get_mut(&id) else { return };
        let Some(running) = server.running.as_mut().filter(|_| server.paused_until_ms <= now_ms) else {
            return;
        };
        running.take_inputs(count, now, ticks, &mut self.checks);
        if server.next_tick_ms <= now_ms {
            server.next_tick_ms = now_ms + TICK_MS;
            running.tick(now, ticks, &mut self.checks);
        }
        let mut messages = running.poll(outputs_max, &mut self.checks, &self.media);
        let mut power = true;
        if disk_works && !server.disk_hangs {
            match running.work_on_log() {
                Some(more) => messages.extend(more),
                None => power = false,
            }
        }
        if apply_works {
            running.work_on_state(&self.checks);
        }
        for message in messages {
            self.checks.leaves(&message);
            self.network.send(&message, &self.faults.weather, &mut self.random, now_ms);
        }
        if !power {
            self.crash(id);
        }
    }

    fn make_trouble(&mut self) {
        let faults = self.faults.clone();
        for id in self.ids() {
            if self.server(id).restarts_at_ms <= self.now_ms {
                self.restart(id);
            }
            let runs = self.server(id).running.is_some();
            if runs && self.random.one_in(faults.crash_every_ms) {
                let syncs = self.random.below(4) as u32;
                match self.random.one_in(2) {
                    true => self.crash(id),
                    false => self.running(id).lose_power_after(syncs),
                }
            }
            if self.random.one_in(faults.pause_every_ms) {
                self.server(id).paused_until_ms = self.now_ms + self.random.below(400);
            }
            if self.random.one_in(faults.transfer_every_ms) {
                self.tell(id, Input::TransferLeadership(None));
            }
        }
        if self.random.one_in(faults.partition_every_ms) {
            self.change_partition();
        }
    }

    fn change_partition(&mut self) {
        self.heal();
        let ids = self.ids();
        let (id, other) = (self.random.pick(&ids), self.random.pick(&ids));
        match self.random.below(4) {
            0 => {}
            1 => self.isolate(id),
            2 => self.network.blocked.extend(ids.into_iter().map(|other| (id, other))),
            _ => self.network.blocked.extend([(id, other), (other, id)]),
        }
    }

    /// Clients end what they have begun, and begin no more.
    pub(super) const fn send_clients_home(&mut self) {
        self.clients_begin = false;
    }

    /// No more faults.
    pub(super) fn calm_down(&mut self) {
        self.faults = Faults { disk_slowness: 1, apply_slowness: 1, ..Faults::default() };
        self.heal();
        for id in self.ids() {
            self.server(id).paused_until_ms = 0;
            if self.server(id).running.is_none() {
                self.restart(id);
            }
            if let Some(running) = self.server(id).running.as_mut() {
                running.forget_power_loss();
            }
        }
    }

    pub(super) fn clients_are_idle(&self) -> bool {
        self.clients.iter().all(Client::is_idle)
    }

    pub(super) fn all_are_equal(&mut self) -> bool {
        let committed = self.checks.committed_index();
        self.members()
            .into_iter()
            .all(|id| self.running(id).applied() == committed && self.running(id).is_at_rest())
    }

    /// Waits for a leader that has committed in its term.
    pub(super) fn elect(&mut self) -> u64 {
        self.run_until("a leader commits", |cluster| {
            let Some(id) = cluster.leader() else { return false };
            cluster.running(id).core.raft().commit_to_current_term()
        });
        self.leader().expect("there is one")
    }

    pub(super) fn propose(&mut self, id: u64) -> oneshot::Receiver<Result<Applied, ConsensusError>> {
        self.propose_until(id, self.now_ms + 1000)
    }

    pub(super) fn propose_until(
        &mut self,
        id: u64,
        until_ms: u64,
    ) -> oneshot::Receiver<Result<Applied, ConsensusError>> {
        let (reply, answer) = oneshot::channel();
        let deadline = self.start + Duration::from_millis(until_ms);
        self.commands += 1;
        let request_id = Bytes::from(u128::from(self.commands).to_be_bytes().to_vec());
        let data = command(request_id, self.now_ms, &mut self.random);
        self.tell(id, Input::Propose(Proposal { data, deadline, reply }));
        answer
    }

    pub(super) fn read(&mut self, id: u64) -> oneshot::Receiver<Result<u64, ConsensusError>> {
        let (reply, answer) = oneshot::channel();
        let deadline = self.now() + Duration::from_millis(300);
        self.tell(id, Input::Read(Read { deadline, reply }));
        answer
    }
}

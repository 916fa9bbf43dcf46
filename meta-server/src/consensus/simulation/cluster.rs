//! Some servers, and those that join later, a network and some clients on one virtual clock, one millisecond at a time.

use std::{
    collections::BTreeMap,
    iter, mem,
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::sync::oneshot;
use xdpfs_proto::state::v1 as pb;

use super::{
    super::{Applied, ConsensusError, Input, Proposal, Read},
    checks::Checks,
    client::{Books, Client, Seen, Surroundings, command},
    histories::Histories,
    network::Network,
    objects::{self, BUCKET},
    operator::Operator,
    options::{Faults, Options, TICK_MS, calm_config},
    random::Random,
    server::{Media, Running},
};
use crate::{
    config::ConsensusConfig,
    storage::memory_store::{Medium, PowerLoss},
};

/// Who votes at first, unless a run says otherwise.
pub(super) const VOTERS: [u64; 3] = [1, 2, 3];
const CLIENTS: u64 = 4;
/// What wall clocks show at first.
const WALL_MS: u64 = 1_700_000_000_000;
/// How far a wall clock may jump at once, and back.
const JUMPS_MS: [i64; 6] = [-3_600_000, -5_000, -50, 50, 5_000, 3_600_000];

pub(super) struct Server {
    pub(super) running: Option<Running>,
    pub(super) paused_until_ms: u64,
    /// The log thread does nothing.
    pub(super) disk_hangs: bool,
    next_tick_ms: u64,
    restarts_at_ms: u64,
    /// How far its wall clock is ahead, or behind.
    clock_offset_ms: i64,
}

/// How often what happened.
#[derive(Clone, Debug, Default)]
pub(super) struct Troubles {
    pub(super) crashes: u64,
    /// Crashes in the middle of a sync, by what was left of the batch.
    pub(super) lost: u64,
    pub(super) torn: u64,
    pub(super) corrupt: u64,
    pub(super) kept: u64,
    pub(super) partitions: u64,
    pub(super) one_way_partitions: u64,
    pub(super) pauses: u64,
    pub(super) clock_jumps: u64,
}

pub(super) struct Cluster {
    pub(super) random: Random,
    pub(super) now_ms: u64,
    start: Instant,
    pub(super) options: Options,
    pub(super) faults: Faults,
    pub(super) voters: Vec<u64>,
    pub(super) servers: BTreeMap<u64, Server>,
    pub(super) media: Media,
    pub(super) network: Network,
    clients: Vec<Client>,
    pub(super) checks: Checks,
    pub(super) seen: Seen,
    pub(super) histories: Histories,
    pub(super) troubles: Troubles,
    commands: u64,
    clients_begin: bool,
    pub(super) operator: Operator,
    /// What election timeouts are made from.
    timeouts: u64,
}

impl Cluster {
    /// A cluster with everything that chance may bring.
    pub(super) fn stormy(seed: u64, replicas: Option<u64>) -> Self {
        let mut random = Random::new(seed);
        let options = Options::draw(seed, replicas, &mut random);
        Self::new(random, options)
    }

    /// A cluster without faults, clients or snapshots.
    pub(super) fn calm(seed: u64) -> Self {
        Self::calm_with(seed, calm_config())
    }

    pub(super) fn calm_with(seed: u64, config: ConsensusConfig) -> Self {
        let replicas = VOTERS.len() as u64;
        let options = Options { replicas, quota_bytes: 0, config, faults: Faults::none() };
        let mut cluster = Self::new(Random::new(seed), options);
        cluster.clients.clear();
        cluster
    }

    fn new(mut random: Random, options: Options) -> Self {
        let timeouts = random.next();
        let voters: Vec<u64> = (1..=options.replicas).collect();
        let first = objects::first(options.quota_bytes);
        let others = (2..=CLIENTS).map(|id| Client::new(id, None));
        let mut cluster = Self {
            random,
            timeouts,
            now_ms: 0,
            start: Instant::now(),
            faults: options.faults.clone(),
            options,
            servers: BTreeMap::new(),
            media: Media::default(),
            network: Network::default(),
            clients: iter::once(Client::new(1, first)).chain(others).collect(),
            checks: Checks::new(&voters),
            seen: Seen::default(),
            histories: Histories::default(),
            troubles: Troubles::default(),
            commands: 0,
            clients_begin: true,
            operator: Operator::default(),
            voters: voters.clone(),
        };
        voters.into_iter().for_each(|id| cluster.join(id));
        cluster
    }

    /// A server that was not there before starts.
    pub(super) fn join(&mut self, id: u64) {
        let skew_ms = self.random.below(2 * self.faults.clock_skew_max_ms + 1) as i64;
        let server = Server {
            clock_offset_ms: skew_ms - self.faults.clock_skew_max_ms as i64,
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

    /// What the wall clock of each server shows.
    fn clocks(&self) -> BTreeMap<u64, u64> {
        let shows = |server: &Server| (WALL_MS + self.now_ms).saturating_add_signed(server.clock_offset_ms);
        self.servers.iter().map(|(id, server)| (*id, shows(server))).collect()
    }

    fn server(&mut self, id: u64) -> &mut Server {
        self.servers.get_mut(&id).expect("it is a voter")
    }

    pub(super) fn restart(&mut self, id: u64) {
        let medium = self.medium(id).clone();
        let running =
            Running::start(id, &medium, &self.voters, self.options.config.clone(), &mut self.checks);
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
        self.troubles.crashes += 1;
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
        panic!("20 seconds were not enough until {what}: {:?}", self.seen);
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
        let servers = &self.servers;
        let look = |id: u64, key: &str| {
            let running = servers.get(&id)?.running.as_ref()?;
            Some((running.applied(), running.held(BUCKET, key)))
        };
        let Self { checks, seen, histories, clients, .. } = self;
        let mut books = Books { checks, seen, histories };
        for client in clients {
            client.listen(&look, &mut books, self.now_ms);
        }
    }

    pub(super) fn tell(&mut self, id: u64, input: Input) {
        if let Some(running) = self.server(id).running.as_mut() {
            running.inputs.push_back(input);
        }
    }

    fn let_clients_act(&mut self) {
        let (leader, clocks) = (self.leader(), self.clocks());
        let around = Surroundings { leader, clocks: &clocks, start: self.start, now_ms: self.now_ms };
        let mut said = Vec::new();
        for client in &mut self.clients {
            let begins = self.clients_begin || !client.is_idle();
            if self.random.one_in(5) && begins {
                let Self { checks, seen, histories, random, .. } = self;
                said.extend(client.act(&around, &mut Books { checks, seen, histories }, random));
            }
        }
        said.into_iter().for_each(|(id, input)| self.tell(id, input));
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
        let data = command(kind, request_id, self.clocks()[&leader]);
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
        let mut power_loss = None;
        if disk_works && !server.disk_hangs {
            match running.work_on_log() {
                Some(more) => messages.extend(more),
                None => power_loss = Some(running.power_loss()),
            }
        }
        if apply_works {
            running.work_on_state(&self.checks);
        }
        for message in messages {
            self.checks.leaves(&message);
            self.network.send(&message, &self.faults.weather, &mut self.random, now_ms);
        }
        if let Some(loss) = power_loss {
            *match loss {
                PowerLoss::Corrupt => &mut self.troubles.corrupt,
                PowerLoss::Kept => &mut self.troubles.kept,
                PowerLoss::Lost => &mut self.troubles.lost,
                PowerLoss::Torn => &mut self.troubles.torn,
            } += 1;
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
                let losses = [PowerLoss::Corrupt, PowerLoss::Kept, PowerLoss::Lost, PowerLoss::Torn];
                let loss = self.random.pick(&losses);
                match self.random.one_in(2) {
                    true => self.crash(id),
                    false => self.running(id).lose_power_after(syncs, loss),
                }
            }
            if self.random.one_in(faults.pause_every_ms) {
                self.troubles.pauses += 1;
                self.server(id).paused_until_ms = self.now_ms + self.random.below(400);
            }
            if self.random.one_in(faults.clock_jump_every_ms) {
                self.troubles.clock_jumps += 1;
                let jump_ms = self.random.pick(&JUMPS_MS);
                self.server(id).clock_offset_ms += jump_ms;
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
        let kind = self.random.below(4);
        self.troubles.partitions += u64::from(kind > 0);
        self.troubles.one_way_partitions += u64::from(kind == 2);
        match kind {
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
        self.faults = Faults::none();
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
        let members = self.members();
        let mut is_done =
            |id: &u64| self.running(*id).applied() == committed && self.running(*id).is_at_rest();
        if !members.iter().all(&mut is_done) {
            return false;
        }
        for id in members {
            self.servers[&id]
                .running
                .as_ref()
                .expect("it runs")
                .with_state(|state| self.checks.ends(id, state));
        }
        true
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
        let data = command(objects::churn(&mut self.random), request_id, self.clocks()[&id]);
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

//! Takes to nodes what the kernel program has not: all of it where there is none, else what it passes up.
//!
//! Invariant: a datagram that is not known to come from a holder of a capability makes no flow and gets no answer, and
//! an answer is never longer than what it answers. There is no queue: what can't be sent is lost, as on any path.

mod counters;
mod flow;
mod outbox;
mod refusal;
mod sources;

use std::{
    io,
    net::UdpSocket,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use xdpfs_plane::Rate;
use xdpfs_transport::{
    Peer, Transmit,
    shell::{ReceiveBuffers, Socket},
};
use xdpfs_wire::{Accepted, Status};

pub(super) use self::counters::RelayCounters;
use self::{
    counters::Event,
    flow::{Flow, FlowKey, Returns},
    outbox::Outbox,
    sources::Sources,
};
use super::{
    config::EdgeConfig,
    failure::EdgeFailure,
    lru::Lru,
    table::{Refused, Table},
};
use crate::xdp::NodeRoute;

/// Refused requests that are answered: as many as one CPU answers in the kernel.
const ANSWER_RATE: Rate = Rate { interval_ns: 100_000, burst_ns: 20_000_000 };
/// A socket that fails so often in a row is broken.
const RECEIVE_FAILURES_MAX: u32 = 100;
/// Between two failures of the socket.
const RECEIVE_PAUSE: Duration = Duration::from_millis(10);

/// The way from clients to nodes. The way back is a task of each flow.
pub(super) struct Relay {
    listener: Arc<Socket>,
    tables: watch::Receiver<Arc<Table>>,
    sources: Sources,
    flows: Lru<FlowKey, Flow>,
    flow_idle_max: Duration,
    returns: Arc<Returns>,
    outbox: Outbox,
    counters: Arc<RelayCounters>,
    started: Instant,
    answers_full_at_ns: u64,
    receive_failures: u32,
}

impl Relay {
    /// A relay on a bound socket. Call inside a tokio runtime.
    pub(super) fn new(
        listener: Socket,
        tables: watch::Receiver<Arc<Table>>,
        config: &EdgeConfig,
        counters: Arc<RelayCounters>,
    ) -> Self {
        let listener = Arc::new(listener);
        let returns = Returns::new(Arc::clone(&listener), tables.clone(), Arc::clone(&counters));
        Self {
            listener,
            tables,
            sources: Sources::new(config.sources.clone()),
            flows: Lru::new(config.flows_max),
            flow_idle_max: config.flow_idle_max,
            returns: Arc::new(returns),
            outbox: Outbox::default(),
            counters,
            started: Instant::now(),
            answers_full_at_ns: 0,
            receive_failures: 0,
        }
    }

    /// Relays until `stop`. The edge's address is free after that.
    pub(super) async fn run(mut self, stop: CancellationToken) -> Result<(), EdgeFailure> {
        let ended = self.relay_until(stop).await;
        // Tasks of flows hold the socket, too, until they have noticed that they are aborted.
        drop(self.flows);
        self.returns.ended().await;
        ended
    }

    async fn relay_until(&mut self, stop: CancellationToken) -> Result<(), EdgeFailure> {
        let mut buffers = ReceiveBuffers::default();
        let listener = Arc::clone(&self.listener);
        loop {
            let idle_at = self.flows.idle_at(self.flow_idle_max);
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                received = listener.receive(&mut buffers) => match received {
                    Ok(()) => self.relay(&buffers).await,
                    Err(error) => self.note_failure(error).await?,
                },
                () = sleep_until(idle_at) => self.forget_idle_flows(),
            }
        }
    }

    /// What was received at once for one node goes out at once.
    async fn relay(&mut self, buffers: &ReceiveBuffers) {
        self.receive_failures = 0;
        let table = Arc::clone(&self.tables.borrow());
        for (from, datagram) in buffers.datagrams() {
            if self.returns.is_flow(from) {
                // A node's direct address leads back here. It would go round for ever.
                self.counters.count(Event::Circular);
                continue;
            }
            match self.judge(&table, from, datagram) {
                Ok(Some(route)) => self.outbox.push(FlowKey::new(from, route.direct), route.direct, datagram),
                Ok(None) => {}
                Err(refused) => self.refuse(from, refused).await,
            }
        }
        self.send_all().await;
    }

    /// The steps of the kernel program, in its order. `None` if nobody is told what becomes of the datagram.
    fn judge(&mut self, table: &Table, from: Peer, datagram: &[u8]) -> Result<Option<NodeRoute>, Refused> {
        let request = table.validate(datagram)?;
        if let Err(event) = self.sources.admit(from.address.ip(), Instant::now()) {
            self.counters.count(event);
            return Ok(None);
        }
        table.route(&request).map(Some)
    }

    async fn refuse(&mut self, from: Peer, refused: Refused) {
        let Refused { reject, asker } = refused;
        self.counters.count_reject(reject);
        if let (Some(status), Some(request)) = (reject.reply(), asker) {
            self.answer(from, &request, status).await;
        }
    }

    async fn answer(&mut self, to: Peer, request: &Accepted, status: Status) {
        let now_ns = u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let Some(full_at_ns) = ANSWER_RATE.take(self.answers_full_at_ns, now_ns) else {
            self.counters.count(Event::AnswerWithheld);
            return;
        };
        self.answers_full_at_ns = full_at_ns;
        self.counters.count(Event::Answered);
        let answer = refusal::answer(request, status);
        flow::send(&self.listener, Transmit::to(to, None), &answer).await;
    }

    async fn send_all(&mut self) {
        let now = Instant::now();
        let mut outbox = std::mem::take(&mut self.outbox);
        for batch in outbox.batches() {
            let Some(socket) = self.flow(batch.flow, now) else {
                self.counters.count(Event::NoFlow);
                continue;
            };
            let transmit = Transmit::to(batch.destination.into(), batch.segment_size());
            flow::send(&socket, transmit, batch.bytes()).await;
            self.counters.count_many(Event::Relayed, batch.datagrams());
        }
        outbox.clear();
        self.outbox = outbox;
    }

    /// The socket of a client, as nodes see it.
    fn flow(&mut self, key: FlowKey, now: Instant) -> Option<Arc<Socket>> {
        if let Some(flow) = self.flows.touch(key, now) {
            return Some(flow.socket());
        }
        let bound = UdpSocket::bind(key.own_address()).or_else(|error| {
            // Another process may hold what this one would need; rather few clients than none.
            if self.flows.pop_oldest().is_none() { Err(error) } else { UdpSocket::bind(key.own_address()) }
        });
        match bound.and_then(|socket| Flow::start(socket, key, &self.returns)) {
            Ok(flow) => {
                let socket = flow.socket();
                self.flows.insert(key, flow, now);
                self.counters.note_flows(self.flows.len());
                Some(socket)
            }
            Err(error) => {
                tracing::debug!(%error, "a client's datagrams can't be relayed");
                None
            }
        }
    }

    fn forget_idle_flows(&mut self) {
        let now = Instant::now();
        while self.flows.pop_idle(self.flow_idle_max, now).is_some() {}
        self.counters.note_flows(self.flows.len());
    }

    async fn note_failure(&mut self, error: io::Error) -> Result<(), EdgeFailure> {
        self.receive_failures += 1;
        tracing::warn!(%error, failures = self.receive_failures, "receiving failed");
        if self.receive_failures >= RECEIVE_FAILURES_MAX {
            return Err(EdgeFailure::Socket(Arc::new(error)));
        }
        tokio::time::sleep(RECEIVE_PAUSE).await;
        Ok(())
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

//! A server as one of the simulated hosts: what `server.rs` puts together, on a medium of memory and on one thread.

use std::{cell::RefCell, collections::BTreeMap, path::PathBuf, rc::Rc, sync::Arc, time::Duration};

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use turmoil::net::TcpListener;
use xdpfs_trust::{Dialer, Security};

use super::machine;
use crate::{
    audit::Audit,
    config::{Config, ConsensusConfig, Member},
    consensus::{Bootstrap, Busy, Outbox, StageLatencies, Stepped},
    duties, identity,
    peers::CONNECT_TIMEOUT,
    server::{Peering, meet_peers},
    service::{self, Gateway, Health},
    storage::{LogStore, memory_store::Medium},
};

pub(super) const IDS: [u64; 3] = [1, 2, 3];
const PEER_PORT: u16 = 7002;
const CLIENT_PORT: u16 = 7001;
/// How often consensus gets a turn.
const TURN: Duration = Duration::from_millis(1);
/// The disk, and whoever changes the state, are busy for less than this many turns after each in which they were not.
const BUSY_TURNS: u64 = 4;
/// Entries after which a snapshot is taken, and those that are kept behind it: few, so that a server that was away for some
/// seconds needs one.
const SNAPSHOT_ENTRIES: u64 = 100;
const LOG_ENTRIES_KEPT: u64 = 50;

/// The servers that run, or have run last.
pub(super) type Gateways = Rc<RefCell<BTreeMap<u64, Arc<Gateway>>>>;

pub(super) fn host(id: u64) -> String {
    format!("meta-{id}")
}

/// Where clients find it.
pub(super) fn endpoint(id: u64) -> String {
    format!("{}:{CLIENT_PORT}", host(id))
}

fn config(id: u64) -> Config {
    let member =
        |id| Member { id, peer_address: format!("{}:{PEER_PORT}", host(id)), client_address: endpoint(id) };
    let consensus = ConsensusConfig {
        snapshot_entries: SNAPSHOT_ENTRIES,
        log_entries_kept: LOG_ENTRIES_KEPT,
        ..ConsensusConfig::default()
    };
    let config = Config::new(id, IDS.map(member).to_vec(), PathBuf::from("nowhere"));
    Config { bootstrap: true, open: true, consensus, ..config }
}

/// Serves until the host crashes.
pub(super) async fn run(id: u64, seed: u64, medium: Medium, gateways: Gateways) -> turmoil::Result {
    let config = config(id);
    config.check()?;
    let (mut store, recovered) = medium.open();
    let identity = identity::establish(&config, &mut store, recovered.identity.clone(), None)?;
    let bootstrap = Bootstrap { recovered, identity, config: config.consensus.clone() };
    let peering = Peering {
        listener: listen(PEER_PORT).await?.into(),
        security: Security::Plaintext,
        dialer: Dialer::new(None, CONNECT_TIMEOUT).simulated(),
    };
    let clients = listen(CLIENT_PORT).await?;
    let stop = CancellationToken::new();
    let latencies = StageLatencies::default();
    let (consensus, workers) = meet_peers(&config, bootstrap, store, peering, latencies, &stop)?;
    let turn = seed ^ id << 8 ^ (machine::elapsed().as_millis() as u64) << 16;
    tokio::task::spawn_local(give_turns(Stepped::new(workers, turn), fastrand::Rng::with_seed(turn)));

    let gateway = Arc::new(Gateway::new(config, consensus, Audit::open(None)?, None));
    gateways.borrow_mut().insert(id, Arc::clone(&gateway));
    let health = Health::new();
    tokio::spawn(health.clone().follow(gateway.consensus().watch_standing()));
    tokio::spawn(duties::run(Arc::clone(&gateway)));
    let requests = Arc::clone(gateway.requests());
    Ok(service::serve(gateway, &health, requests, clients, Security::Plaintext, stop).await?)
}

async fn listen(port: u16) -> std::io::Result<TcpListener> {
    TcpListener::bind(("0.0.0.0", port)).await
}

async fn give_turns<S: LogStore, O: Outbox>(mut consensus: Stepped<S, O>, mut random: fastrand::Rng) {
    let mut turns = interval(TURN);
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut disk_for, mut state_for) = (0, 0);
    loop {
        turns.tick().await;
        let busy = Busy { disk: disk_for > 0, state: state_for > 0 };
        if !consensus.step(busy) {
            return;
        }
        disk_for = if busy.disk { disk_for - 1 } else { random.u64(..BUSY_TURNS) };
        state_for = if busy.state { state_for - 1 } else { random.u64(..BUSY_TURNS) };
    }
}

//! The cluster of deploy/: what it must withstand, tried on a container engine.
//!
//! Invariant: the test's engine, networks and data are its own, in a network namespace that ends with it; it does not
//! touch an engine that runs already. `chaos` touches the containers of the named project only.

mod chaos;
mod compose;
mod credentials;
mod engine;
mod test;
mod units;
mod workload;

use std::{
    thread,
    time::{Duration, Instant},
};

pub(crate) use self::{
    chaos::{ChaosOptions, run as chaos},
    engine::bring as bring_engine,
    test::run as test,
};

/// What compose calls a project in deploy/, unless told otherwise.
pub(crate) const PROJECT: &str = "deploy";
/// The defaults of deploy/compose.yaml.
pub(crate) const ADDRESS: &str = "10.177.0.1";
pub(crate) const BUCKET: &str = "first";

const META_SERVERS: usize = 3;
/// What has no event to wait for is looked at again after this.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(250);

/// The metadata servers of deploy/compose.yaml, as clients know them.
fn endpoints(address: &str) -> String {
    let endpoints: Vec<_> = (1..=META_SERVERS).map(|server| format!("{address}:{}", 7000 + server)).collect();
    endpoints.join(",")
}

/// Looks again and again until there is something.
fn await_some<T>(
    what: &str,
    within: Duration,
    mut look: impl FnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let began = Instant::now();
    loop {
        if let Some(found) = look()? {
            eprintln!("  {what}: after {:.1} s", began.elapsed().as_secs_f64());
            return Ok(found);
        }
        anyhow::ensure!(began.elapsed() < within, "{what}: not within {} s", within.as_secs());
        thread::sleep(LOOK_AGAIN_AFTER);
    }
}

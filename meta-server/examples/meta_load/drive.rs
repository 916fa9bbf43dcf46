//! Clients that never rest, and what they have seen.

use std::time::{Duration, Instant};

use anyhow::ensure;
use tokio::task::LocalSet;

use crate::{Operation, system::System};

/// Before the clock counts: connections, first round trips, caches.
const WARM_UP: Duration = Duration::from_millis(700);

/// How many clients do how much.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) clients: usize,
    pub(crate) keys: u64,
    pub(crate) seconds: Duration,
}

/// What came of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Measured {
    pub(crate) per_second: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    /// Those of the warm-up as well.
    pub(crate) operations: usize,
}

/// Every client has one operation under way at any time. One that fails ends the run: it would be no measurement.
pub(crate) async fn run<S: System>(system: &S, operation: Operation, load: Load) -> anyhow::Result<Measured> {
    let began = Instant::now() + WARM_UP;
    let ends = began + load.seconds;
    let tasks = LocalSet::new();
    let clients: Vec<_> = (0..load.clients)
        .map(|number| {
            let mut client = system.client(number);
            tasks.spawn_local(async move {
                let mut chance = fastrand::Rng::with_seed(number as u64);
                let (mut took, mut operations) = (Vec::new(), 0);
                loop {
                    let asked = Instant::now();
                    if asked >= ends {
                        return anyhow::Ok((took, operations));
                    }
                    client.once(operation, chance.u64(0..load.keys)).await?;
                    operations += 1;
                    if asked >= began {
                        took.push(asked.elapsed().as_secs_f64() * 1e6);
                    }
                }
            })
        })
        .collect();
    let (mut took, mut operations) = (Vec::new(), 0);
    tasks
        .run_until(async {
            for client in clients {
                let (its, count) = client.await??;
                took.extend(its);
                operations += count;
            }
            anyhow::Ok(())
        })
        .await?;
    ensure!(!took.is_empty(), "no operation began in time");
    took.sort_by(f64::total_cmp);
    let lasted = began.elapsed().as_secs_f64();
    Ok(Measured {
        per_second: took.len() as f64 / lasted,
        p50_us: took[took.len() / 2],
        p99_us: took[took.len() * 99 / 100],
        operations,
    })
}

/// How many objects are listed in a second.
pub(crate) async fn list<S: System>(system: &S) -> anyhow::Result<f64> {
    let mut client = system.client(0);
    // The connection, and the first page.
    client.page(None).await?;
    let (began, mut listed, mut after) = (Instant::now(), 0, None);
    loop {
        let (count, next) = client.page(after).await?;
        listed += count;
        after = next;
        if after.is_none() {
            return Ok(listed as f64 / began.elapsed().as_secs_f64());
        }
    }
}

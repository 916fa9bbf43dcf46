//! Accidents, one metadata server and one data node at a time, while a workload must not notice.

use std::{
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::Context as _;
use xdpfs_testbed::Rng;

use super::{
    META_SERVERS,
    compose::{self, Container, Project},
    credentials::Credentials,
    endpoints,
    workload::Workload,
};
use crate::image;

/// How long somebody is away.
const AWAY_MAX: Duration = Duration::from_secs(8);
/// Within this a member is back, a node's health included.
const BACK_WITHIN: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_secs(1);

/// What the task is told.
#[derive(Debug)]
pub(crate) struct ChaosOptions {
    pub(crate) seconds: u64,
    pub(crate) seed: Option<u64>,
    pub(crate) project: String,
    pub(crate) address: String,
    pub(crate) bucket: String,
}

#[derive(Clone, Copy, Debug)]
enum Accident {
    CutNode,
    FreezeNode,
    FreezeServer,
    KillNode,
    KillServer,
}

const ACCIDENTS: &[Accident] = &[
    Accident::CutNode,
    Accident::FreezeNode,
    Accident::FreezeServer,
    Accident::KillNode,
    Accident::KillServer,
];

/// On a running project. Whatever was done is undone, also if it fails.
pub(crate) fn run(options: &ChaosOptions) -> anyhow::Result<()> {
    let clock = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let seed = options.seed.unwrap_or_else(clock);
    eprintln!("seed {seed}");
    let project = Project {
        program: compose::program(),
        name: options.project.clone(),
        env: Vec::new(),
        files: vec!["deploy/compose.yaml".to_owned()],
    };
    let program = image::cli(&image::binaries()?);
    let credentials = Credentials::of(&project).context("the cluster has no credentials")?;
    let cli = credentials.client(program, endpoints(&options.address), None);
    let nodes = project.containers("data-node")?.len();
    project.await_cluster(nodes, BACK_WITHIN).context("the cluster must be whole to begin with")?;
    let mut workload = Workload::start(&cli, &format!("{}/chaos-{seed}/", options.bucket), seed);
    strike(&project, &mut workload, Duration::from_secs(options.seconds), &mut Rng::new(seed))?;
    let tally = workload.finish()?;
    eprintln!("no put and no get has failed: {tally:?}");
    Ok(())
}

/// Has accidents happen for so long, and waits after each until all are well.
pub(super) fn strike(
    project: &Project,
    workload: &mut Workload,
    length: Duration,
    rng: &mut Rng,
) -> anyhow::Result<()> {
    let began = Instant::now();
    while began.elapsed() < length {
        let accident = *rng.choose(ACCIDENTS);
        let victim = match accident {
            Accident::FreezeServer | Accident::KillServer => {
                project.meta_server(1 + rng.below(META_SERVERS as u64))?
            }
            Accident::CutNode | Accident::FreezeNode | Accident::KillNode => {
                rng.choose(&project.containers("data-node")?).clone()
            }
        };
        let away = Duration::from_millis(rng.below(AWAY_MAX.as_millis() as u64));
        eprintln!("{accident:?}: {} {} for {away:?}", victim.service, &victim.id[..12]);
        happen(project, accident, &victim, away)?;
        project.await_health(&victim, "healthy", BACK_WITHIN)?;
        workload.check()?;
        // One that is back gets some work before the next accident.
        thread::sleep(PAUSE);
    }
    Ok(())
}

fn happen(project: &Project, accident: Accident, victim: &Container, away: Duration) -> anyhow::Result<()> {
    match accident {
        Accident::FreezeNode | Accident::FreezeServer => project.freeze(victim, away),
        Accident::KillNode | Accident::KillServer => {
            project.kill(victim)?;
            thread::sleep(away);
            project.start(victim)
        }
        Accident::CutNode => {
            let cut = project.cut(victim)?;
            thread::sleep(away);
            project.mend(&cut)
        }
    }
}

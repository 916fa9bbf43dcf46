//! A cluster of an earlier release becomes one of the present release, one process at a time and in the order that
//! docs/deploy.md asks for, while clients of both releases work on it without a break.
//!
//! Invariant: no operation fails, none is left in doubt, and none is answered as no single store could have.
#![expect(clippy::print_stdout, reason = "who runs it wants to see how far it is")]

use std::{
    error::Error,
    io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use crate::{
    Cli, Cluster, ClusterOptions, EdgeOptions, Member,
    load::{BUCKET, CHUNK_SIZE, Load},
};

/// What becomes what.
#[derive(Clone, Debug)]
pub struct Upgrade {
    /// The earlier release's binaries.
    pub from: PathBuf,
    /// The present release's.
    pub to: PathBuf,
    /// Decides what clients do.
    pub seed: u64,
}

/// How many operations must be answered in each mixture of the two releases.
const OPERATIONS_PER_STEP: u64 = 60;
/// How long they may take.
const STEP_WITHIN: Duration = Duration::from_secs(90);
/// How long a member may take to be back, as the others see it.
const BACK_WITHIN: Duration = Duration::from_secs(30);

/// Runs it.
///
/// # Errors
/// What was not as it should be.
///
/// # Panics
/// If a client saw something that can't be.
pub fn run(upgrade: &Upgrade) -> Result<(), Box<dyn Error>> {
    let options = ClusterOptions {
        bin_dir: Some(upgrade.from.clone()),
        edges: Some(EdgeOptions::default()),
        tls: true,
        ..ClusterOptions::default()
    };
    let mut cluster = Cluster::start(options)?;
    let everything = ["--admin", "*", "--read", "*", "--write", "*", "--list", "*"];
    let key = done(cluster.cli(), &[&["key", "create"][..], &everything].concat())?;
    cluster.show_access_key(key.trim());
    done(cluster.cli(), &["mb", BUCKET, "--chunk-size", CHUNK_SIZE])?;
    let earlier = cluster.cli().clone();
    let present = Cli { program: upgrade.to.join("xdpfs-cli"), ..earlier.clone() };

    let began = Instant::now();
    let mut load = Load::start_without_moves(vec![earlier, present.clone()], upgrade.seed);
    goes_on(&load, "all processes of the earlier release")?;
    for (step, member) in order(&cluster)?.into_iter().enumerate() {
        load.use_generation(step as u64 + 1);
        replace(&mut cluster, member, &upgrade.to)?;
        goes_on(&load, &format!("{member} replaced"))?;
    }
    load.stop();
    load.judge();
    let summary = load.check()?;
    println!("{summary} in {:?}; the longest took {:?}", began.elapsed(), load.longest());
    if summary.unknown > 0 {
        return Err(format!("{} operations were left in doubt", summary.unknown).into());
    }
    // What the present release has written is its own from here on.
    for member in [cluster.all_data_nodes(), cluster.all_meta_servers(), cluster.all_edges()].concat() {
        cluster.kill(member);
    }
    cluster.restart_all(&cluster.all_meta_servers())?;
    cluster.restart_all(&[cluster.all_data_nodes(), cluster.all_edges()].concat())?;
    load.judge();
    done(&present, &["status"])?;
    Ok(())
}

/// Metadata servers, the leader last; then data nodes; then edges.
fn order(cluster: &Cluster) -> Result<Vec<Member>, String> {
    let leader = cluster.leader(BACK_WITHIN).ok_or("nobody leads")?;
    let mut servers = cluster.all_meta_servers();
    servers.sort_by_key(|server| *server == leader);
    Ok([servers, cluster.all_data_nodes(), cluster.all_edges()].concat())
}

fn replace(cluster: &mut Cluster, member: Member, binaries: &Path) -> Result<(), Box<dyn Error>> {
    if !cluster.stop(member)? {
        return Err(format!("{member} ended with an error").into());
    }
    cluster.use_binaries(member, binaries);
    cluster.restart(member)?;
    let nodes = cluster.all_data_nodes().len();
    let is_whole =
        |status: &crate::ClusterStatus| status.leader().is_some() && status.data_nodes_alive == nodes;
    cluster.await_status(BACK_WITHIN, is_whole).ok_or_else(|| format!("{member} is not back in time"))?;
    Ok(())
}

fn goes_on(load: &Load, what: &str) -> Result<(), String> {
    let began = Instant::now();
    if !load.goes_on_for(OPERATIONS_PER_STEP, STEP_WITHIN) {
        return Err(format!("{what}: the clients did not go on within {STEP_WITHIN:?}"));
    }
    println!("{what}: {OPERATIONS_PER_STEP} operations in {:?}", began.elapsed());
    Ok(())
}

fn done(cli: &Cli, args: &[&str]) -> io::Result<String> {
    let output = cli.run(args);
    if output.code == Some(0) {
        return Ok(output.text());
    }
    Err(io::Error::other(format!("{args:?}: exit code {:?}: {}", output.code, output.stderr)))
}

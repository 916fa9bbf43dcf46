//! A cluster of an earlier release becomes one of the present release, one process at a time and in the order that
//! docs/deploy.md asks for, while clients of both releases work on it without a break.
//!
//! Invariant: no operation fails, none is left in doubt, and none is answered as no single store could have. What only the
//! present release can do is refused as long as one metadata server is of the earlier one, and then works by itself.
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
/// What a copy is made of, and where: only the present release can make one.
const GATED: &str = "gated/source";
const GATED_COPY: &str = "gated/copy";
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
    done(cluster.cli(), &["mb", "gated"])?;
    let earlier = cluster.cli().clone();
    let present = Cli { program: upgrade.to.join("xdpfs-cli"), ..earlier.clone() };

    let began = Instant::now();
    let mut load = Load::start_without_moves(vec![earlier, present.clone()], upgrade.seed);
    goes_on(&load, "all processes of the earlier release")?;
    let order = order(&cluster)?;
    let old_leader = order.iter().rfind(|member| is_meta_server(**member)).copied();
    for (step, member) in order.into_iter().enumerate() {
        load.use_generation(step as u64 + 1);
        if old_leader == Some(member) {
            // All others are new. It comes back as it was first, so that one of them leads it.
            is_refused(&mut cluster, member, &present)?;
        }
        replace(&mut cluster, member, &upgrade.to)?;
        goes_on(&load, &format!("{member} replaced"))?;
        if old_leader == Some(member) {
            works_by_itself(&present)?;
        }
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

const fn is_meta_server(member: Member) -> bool {
    matches!(member, Member::MetaServer(_))
}

/// What needs all servers to be new is refused, in words that name the one that is not.
fn is_refused(cluster: &mut Cluster, old: Member, present: &Cli) -> Result<(), Box<dyn Error>> {
    if !cluster.stop(old)? {
        return Err(format!("{old} ended with an error").into());
    }
    cluster.restart(old)?;
    cluster.next_leader(old, BACK_WITHIN).ok_or("no server of the present release leads")?;
    let put = present.invoke(["put", "-", GATED]).stdin(&b"what is to be copied"[..]).run();
    if put.code != Some(0) {
        return Err(format!("nothing can be put: {}", put.stderr).into());
    }
    let deadline = Instant::now() + BACK_WITHIN;
    loop {
        let output = present.run(["cp", GATED, GATED_COPY]);
        if output.code == Some(0) {
            return Err("a copy was made while a metadata server was of the earlier release".into());
        }
        if output.stderr.contains("feature level") && output.stderr.contains("of an earlier release") {
            println!("refused: {}", output.stderr.trim());
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(format!("a copy is refused in other words: {}", output.stderr).into());
        }
    }
}

/// Nobody does anything for it.
fn works_by_itself(present: &Cli) -> Result<(), Box<dyn Error>> {
    let deadline = Instant::now() + BACK_WITHIN;
    loop {
        match done(present, &["cp", GATED, GATED_COPY]) {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() >= deadline => return Err(error.into()),
            Err(_) => {}
        }
    }
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

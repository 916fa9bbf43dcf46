//! A real tree of files through a real cluster, with a leader and a data node killed in the middle of either way.
//!
//! Invariant: the table is printed only if every byte was compared; any difference is a failure.

mod transfer;
mod tree;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use xdpfs_testbed::{Cluster, ClusterOptions, Member};

use self::{
    transfer::{Moment, Transfer},
    tree::Tree,
};
use crate::{setup, sh};

/// Where the tree goes.
const BUCKET: &str = "demo";
const PREFIX: &str = "demo/tree/";
/// How long a leader may be looked for.
const LEADER_WITHIN: Duration = Duration::from_secs(30);
/// Long enough for clients to notice, short enough for one to watch.
const DOWN_FOR: Duration = Duration::from_secs(1);

pub(crate) fn run(dir: Option<PathBuf>) -> anyhow::Result<()> {
    setup::required()?;
    // The development profile is optimised enough to be fast, and the tests have built it already.
    sh::run(&["cargo", "build", "--locked", "--workspace", "--bins"])?;
    let bin_dir = sh::target_dir("debug");
    // On the disk that is built on: the temporary directory may be in memory.
    let work = tempfile::Builder::new()
        .prefix("demo-")
        .tempdir_in(sh::target_dir(""))
        .context("no place to work in")?;
    let tree = Tree::choose(dir, &work.path().join("tree"))?;
    eprintln!("the tree: {tree}");

    let options = ClusterOptions {
        bin_dir: Some(bin_dir),
        dir: Some(work.path().join("cluster")),
        ..ClusterOptions::default()
    };
    let began = Instant::now();
    let mut cluster = Cluster::start(options)?;
    eprintln!(
        "three metadata servers and three data nodes, {} ms after their start",
        began.elapsed().as_millis()
    );
    call(&cluster, &["mb", BUCKET])?;

    let source = tree.root.to_str().context("the tree's path is not text")?;
    let copy = work.path().join("copy");
    let target = copy.to_str().context("the path of the target directory is not text")?;
    let put =
        with_kills(&mut cluster, &["put", "-r", "-j", "16", source, PREFIX], &tree, Member::DataNode(0))?;
    let listed = listing(&cluster)?;
    let get =
        with_kills(&mut cluster, &["get", "-r", "-j", "16", PREFIX, target], &tree, Member::DataNode(1))?;

    let mismatches = mismatches(&tree, &copy, &listed)?;
    print_table(&tree, &[&put, &get], &mismatches);
    ensure!(mismatches.is_empty(), "{} mismatches", mismatches.len());
    ensure!(put.has_failed_over && get.has_failed_over, "a leader was killed and nobody took over");
    Ok(())
}

/// One way of the tree, and what happened on it.
struct Way {
    took: Duration,
    killed: Vec<Member>,
    has_failed_over: bool,
}

/// Runs the tool; when half of the tree is through, kills the leader and a data node, and brings them back.
fn with_kills(cluster: &mut Cluster, args: &[&str], tree: &Tree, node: Member) -> anyhow::Result<Way> {
    let command = cluster.cli().command([&["--json"], args].concat());
    let began = Instant::now();
    let transfer = Transfer::start(command, tree.files.len() / 2)?;
    let mut way = Way { took: Duration::ZERO, killed: Vec::new(), has_failed_over: false };
    while let Moment::HalfWay { done } = transfer.next_moment()? {
        let leader = cluster.leader(LEADER_WITHIN).context("there is no leader")?;
        way.killed = vec![leader, node];
        for member in &way.killed {
            cluster.kill(*member);
        }
        eprintln!(
            "{}: {done} of {} done, killed -9 {leader} (the leader) and {node}",
            args[0],
            tree.files.len()
        );
        let killed = Instant::now();
        if let Some(next) = cluster.next_leader(leader, LEADER_WITHIN) {
            way.has_failed_over = true;
            eprintln!("{}: {next} leads after {} ms", args[0], killed.elapsed().as_millis());
        }
        // The clients meet a cluster with two members missing for a while.
        thread::sleep(DOWN_FOR.saturating_sub(killed.elapsed()));
        cluster.restart_all(&way.killed)?;
        eprintln!("{}: both are back", args[0]);
    }
    transfer.finish()?;
    way.took = began.elapsed();
    ensure!(!way.killed.is_empty(), "`{}` said nothing on its way, so nobody was killed", args[0]);
    Ok(way)
}

/// Sizes by key.
fn listing(cluster: &Cluster) -> anyhow::Result<BTreeMap<String, u64>> {
    let text = call(cluster, &["--json", "ls", "-r", PREFIX])?;
    let entry = |line: &str| {
        let object: serde_json::Value = serde_json::from_str(line).context("`ls --json` printed no JSON")?;
        let key = object["key"].as_str().context("a listed object has no key")?;
        let size = object["size"].as_u64().context("a listed object has no size")?;
        Ok((key.to_owned(), size))
    };
    text.lines().map(entry).collect()
}

/// Whatever is not what it was: files that are missing, surplus or different, and objects listed wrongly.
fn mismatches(tree: &Tree, copy: &Path, listed: &BTreeMap<String, u64>) -> anyhow::Result<Vec<String>> {
    let came_back = Tree::read(copy)?;
    let mut found = Vec::new();
    for name in tree.files.keys().filter(|name| !came_back.files.contains_key(*name)) {
        found.push(format!("{name} did not come back"));
    }
    for name in came_back.files.keys() {
        if !tree.files.contains_key(name) {
            found.push(format!("{name} came back and was never put"));
        } else if fs::read(tree.root.join(name))? != fs::read(copy.join(name))? {
            found.push(format!("{name} is not what it was"));
        }
    }
    let keys: BTreeMap<String, u64> =
        tree.files.iter().map(|(name, len)| (format!("tree/{name}"), *len)).collect();
    if keys != *listed {
        found.push(format!(
            "{} objects are listed, {} were put, or their sizes differ",
            listed.len(),
            keys.len()
        ));
    }
    Ok(found)
}

fn print_table(tree: &Tree, ways: &[&Way; 2], mismatches: &[String]) {
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let rate = |way: &Way| {
        let seconds = way.took.as_secs_f64();
        format!(
            "{:.1} MiB/s, {:.0} objects/s ({seconds:.1} s)",
            mib(tree.bytes()) / seconds,
            tree.files.len() as f64 / seconds
        )
    };
    let killed: Vec<String> = ways.iter().flat_map(|way| &way.killed).map(ToString::to_string).collect();
    let failovers = ways.iter().filter(|way| way.has_failed_over).count();
    println!();
    for (name, value) in [
        ("objects", tree.files.len().to_string()),
        ("bytes", format!("{} ({:.1} MiB)", tree.bytes(), mib(tree.bytes()))),
        ("in", rate(ways[0])),
        ("out", rate(ways[1])),
        ("killed -9", killed.join(", ")),
        ("failovers seen", failovers.to_string()),
        ("mismatches", mismatches.len().to_string()),
    ] {
        println!("{name:<16}{value}");
    }
    mismatches.iter().take(20).for_each(|mismatch| println!("  {mismatch}"));
}

fn call(cluster: &Cluster, args: &[&str]) -> anyhow::Result<String> {
    let output = cluster.cli().invoke(args).try_run()?;
    ensure!(output.code == Some(0), "`xdpfs-cli {}` failed: {}", args.join(" "), output.stderr);
    Ok(output.text())
}

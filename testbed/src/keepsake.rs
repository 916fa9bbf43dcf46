//! A small cluster as an earlier program left it on disk, kept in an archive: the present program must be able to go on
//! with it.
//!
//! Invariant: an archive is never made again. It stands for the programs that wrote its formats.

use std::{
    io,
    path::Path,
    process::{Command, Stdio},
};

use crate::{CliOutput, Cluster, ClusterOptions, Content, Member};

/// Few, so that there is a snapshot, and a log behind it.
const SNAPSHOT_COUNT: u32 = 12;
/// Objects with the length of their content, whose seed is that too.
const OBJECTS: &[(&str, u64)] = &[
    ("photos/empty", 0),
    ("photos/one", 1),
    ("photos/2026/page", 4096),
    ("photos/2026/\u{fc}ber.bin", 20_001),
    ("photos/written-twice", 9_999),
    ("small-chunks/many", 70_000),
];
/// Objects that are not there any more.
const DELETED: &str = "photos/deleted";

/// What such a cluster is made of.
#[must_use]
pub fn options() -> ClusterOptions {
    let env = vec![("XDPFS_META_SNAPSHOT_COUNT".to_owned(), SNAPSHOT_COUNT.to_string())];
    ClusterOptions { env, ..ClusterOptions::default() }
}

/// Puts into a new cluster what [`check`] finds.
///
/// # Errors
/// The command that failed.
pub fn fill(cluster: &Cluster) -> io::Result<()> {
    run(cluster, &["mb", "photos"])?;
    run(cluster, &["mb", "small-chunks", "--chunk-size", "64KiB"])?;
    put(cluster, "photos/written-twice", 5)?;
    put(cluster, DELETED, 7)?;
    for (address, len) in OBJECTS {
        put(cluster, address, *len)?;
    }
    run(cluster, &["rm", DELETED]).map(drop)
}

/// Whether all of it is there, and nothing else.
///
/// # Errors
/// What is not so.
pub fn check(cluster: &Cluster) -> io::Result<()> {
    for (address, len) in OBJECTS {
        let check = Content::new(*len, *len).shared_check();
        let got = cluster.cli().invoke(["get", address, "-"]).stdout(check.clone()).run();
        succeeded(&got, address)?;
        check.finish()?;
    }
    let mut listed = 0;
    for bucket in ["photos", "small-chunks"] {
        let output = run(cluster, &["--json", "ls", "-r", bucket])?.text();
        listed += output.matches("\"key\"").count();
    }
    if listed == OBJECTS.len() {
        Ok(())
    } else {
        Err(io::Error::other(format!("{listed} objects are listed, not {}", OBJECTS.len())))
    }
}

/// Stops the cluster and writes what it has on disk into an archive.
///
/// # Errors
/// A member doesn't stop, or `tar` fails.
pub fn pack(mut cluster: Cluster, archive: &Path) -> io::Result<()> {
    let members = [cluster.all_data_nodes(), cluster.all_meta_servers()].concat();
    for member in &members {
        cluster.stop(*member).map_err(io::Error::other)?;
    }
    let directory = cluster.dir().to_owned();
    let mut tar = Command::new("tar");
    tar.args(["--sparse", "--sort=name", "--owner=0", "--group=0", "--numeric-owner", "-czf"]);
    tar.arg(archive).arg("-C").arg(&directory);
    done(tar.args(members.iter().map(Member::to_string)))
}

/// Starts a cluster with what is in an archive, in an empty directory.
///
/// # Errors
/// `tar` fails, or a member doesn't start.
pub fn start(archive: &Path, directory: &Path) -> io::Result<Cluster> {
    done(Command::new("tar").arg("-xzf").arg(archive).arg("-C").arg(directory))?;
    let options = ClusterOptions { dir: Some(directory.to_owned()), is_found: true, ..options() };
    Cluster::start(options).map_err(io::Error::other)
}

fn put(cluster: &Cluster, address: &str, len: u64) -> io::Result<()> {
    let output = cluster.cli().invoke(["put", "-", address]).stdin(Content::new(len, len)).run();
    succeeded(&output, address)
}

fn run(cluster: &Cluster, args: &[&str]) -> io::Result<CliOutput> {
    let output = cluster.cli().run(args);
    succeeded(&output, &args.join(" ")).map(|()| output)
}

fn succeeded(output: &CliOutput, what: &str) -> io::Result<()> {
    match output.code {
        Some(0) => Ok(()),
        code => Err(io::Error::other(format!("{what}: exit code {code:?}: {}", output.stderr))),
    }
}

fn done(command: &mut Command) -> io::Result<()> {
    let status = command.stdin(Stdio::null()).status()?;
    if status.success() { Ok(()) } else { Err(io::Error::other(format!("{command:?}: {status}"))) }
}

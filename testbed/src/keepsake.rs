//! A small cluster as an earlier program left it on disk, kept in an archive: the present program must be able to go on
//! with it.
//!
//! Invariant: an archive is never made again. It stands for the programs that wrote its formats.

use std::{
    fs, io,
    path::Path,
    process::{Command, Stdio},
};

use crate::{Cli, CliOutput, Cluster, ClusterOptions, Content, Member};

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
/// In an archive with access keys no object is longer, so that it stays small.
const KEYED_LEN_MAX: u64 = 10_000;
/// Objects that are not there any more.
const DELETED: &str = "photos/deleted";
/// In an archive, the directory with access keys; they are good for nothing but this. The first archives have none.
const KEYS: &str = "access-keys";
/// May do everything.
const ROOT: &str = "root";
/// May read one bucket.
const READER: &str = "reader";
/// May do nothing any more.
const REVOKED: &str = "revoked";
/// How the tool ends when it is told that it may not.
const REFUSED: Option<i32> = Some(6);

/// What such a cluster is made of.
#[must_use]
pub fn options() -> ClusterOptions {
    let env = vec![("XDPFS_META_SNAPSHOT_COUNT".to_owned(), SNAPSHOT_COUNT.to_string())];
    ClusterOptions { env, ..ClusterOptions::default() }
}

/// Puts into a new cluster what [`check`] finds, with access keys, of which one is revoked, and a key epoch that was
/// ended before its time.
///
/// # Errors
/// The command that failed.
pub fn fill(cluster: &mut Cluster) -> io::Result<()> {
    fs::create_dir(cluster.dir().join(KEYS))?;
    make_key(cluster, ROOT, &["--admin", "*", "--read", "*", "--write", "*", "--list", "*"])?;
    cluster.show_access_key(kept_key(cluster, ROOT)?);
    make_key(cluster, READER, &["--read", "photos", "--label", "kept"])?;
    make_key(cluster, REVOKED, &["--read", "photos"])?;
    let revoked = kept_key(cluster, REVOKED)?;
    run(cluster, &["key", "revoke", revoked.split('.').next().unwrap_or_default()])?;
    run(cluster, &["mb", "photos"])?;
    run(cluster, &["mb", "small-chunks", "--chunk-size", "64KiB"])?;
    put(cluster, "photos/written-twice", 5)?;
    put(cluster, DELETED, 7)?;
    for (address, len) in objects(cluster) {
        put(cluster, address, *len)?;
    }
    run(cluster, &["rm", DELETED])?;
    run(cluster, &["capabilities", "revoke"]).map(drop)
}

/// Whether all of it is there, and nothing else.
///
/// # Errors
/// What is not so.
pub fn check(cluster: &Cluster) -> io::Result<()> {
    for (address, len) in objects(cluster) {
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
    let count = objects(cluster).count();
    if listed != count {
        return Err(io::Error::other(format!("{listed} objects are listed, not {count}")));
    }
    if has_keys(cluster) { check_keys(cluster) } else { Ok(()) }
}

/// Whether each key may do what it could, and no more.
fn check_keys(cluster: &Cluster) -> io::Result<()> {
    let reader = with_key(cluster, Some(kept_key(cluster, READER)?));
    let revoked = with_key(cluster, Some(kept_key(cluster, REVOKED)?));
    let nobody = with_key(cluster, None);
    let read = &["cat", "photos/one"][..];
    for (who, cli, args, code) in [
        (READER, &reader, read, Some(0)),
        (READER, &reader, &["rm", "photos/one"], REFUSED),
        (READER, &reader, &["key", "list"], REFUSED),
        (REVOKED, &revoked, read, REFUSED),
        ("nobody", &nobody, read, REFUSED),
        ("nobody", &nobody, &["key", "create", "--admin", "*"], REFUSED),
    ] {
        let output = cli.run(args);
        if output.code != code {
            let words = format!("{who}: {args:?}: exit code {:?}, not {code:?}: ", output.code);
            return Err(io::Error::other(words + &output.stderr));
        }
    }
    let listed = run(cluster, &["key", "list"])?.text();
    let is_kept = listed.lines().count() == 3 && listed.contains("kept") && listed.contains("revoked");
    if is_kept { Ok(()) } else { Err(io::Error::other(format!("other keys are listed: {listed}"))) }
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
    done(tar.args(members.iter().map(Member::to_string)).arg(KEYS))
}

/// Starts a cluster with what is in an archive, in an empty directory.
///
/// # Errors
/// `tar` fails, or a member doesn't start.
pub fn start(archive: &Path, directory: &Path) -> io::Result<Cluster> {
    done(Command::new("tar").arg("-xzf").arg(archive).arg("-C").arg(directory))?;
    let options = ClusterOptions { dir: Some(directory.to_owned()), is_found: true, ..options() };
    let mut cluster = Cluster::start(options).map_err(io::Error::other)?;
    if has_keys(&cluster) {
        cluster.show_access_key(kept_key(&cluster, ROOT)?);
    }
    Ok(cluster)
}

fn has_keys(cluster: &Cluster) -> bool {
    cluster.dir().join(KEYS).is_dir()
}

/// What must be there, with its length.
fn objects(cluster: &Cluster) -> impl Iterator<Item = &'static (&'static str, u64)> {
    let is_keyed = has_keys(cluster);
    OBJECTS.iter().filter(move |(_, len)| !is_keyed || *len <= KEYED_LEN_MAX)
}

fn make_key(cluster: &Cluster, name: &str, rights: &[&str]) -> io::Result<()> {
    let file = cluster.dir().join(KEYS).join(name).display().to_string();
    run(cluster, &[&["key", "create", "--save", &file], rights].concat()).map(drop)
}

fn kept_key(cluster: &Cluster, name: &str) -> io::Result<String> {
    fs::read_to_string(cluster.dir().join(KEYS).join(name)).map(|key| key.trim().to_owned())
}

fn with_key(cluster: &Cluster, access_key: Option<String>) -> Cli {
    Cli { access_key, ..cluster.cli().clone() }
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

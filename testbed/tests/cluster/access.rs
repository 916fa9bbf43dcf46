//! Access keys as those see them who hold one, and those who don't; and transfers that outlive a key epoch.

use std::{
    io::{Read, Write},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use xdpfs_testbed::{Cli, Cluster, ClusterOptions, Content};

use crate::support::{cluster, cluster_with, done, holds, json, put};

const MIB: u64 = 1 << 20;

/// The tool with another key.
fn with_key(cluster: &Cluster, key: Option<&str>) -> Cli {
    Cli { access_key: key.map(str::to_owned), ..cluster.cli().clone() }
}

/// Makes a key by this command line.
fn make(cluster: &Cluster, args: &[&str]) -> String {
    let output = done(cluster, &[&["key", "create"], args].concat());
    let key = output.text().trim().to_owned();
    assert!(key.starts_with("XK") && key.len() == 71, "one line with one key: {key}");
    assert!(!output.stderr.contains(&key[19..]), "the secret is on standard output alone");
    key
}

fn id(key: &str) -> &str {
    key.split('.').next().unwrap_or_default()
}

#[track_caller]
fn refused(cli: &Cli, args: &[&str], kind: &str) {
    let output = cli.run([&["--json"], args].concat());
    assert_eq!(output.code, Some(6), "{args:?}: {}", output.stderr);
    let error: Value = serde_json::from_str(output.stderr.trim()).expect("one JSON object");
    assert_eq!(error["error"]["kind"], kind, "{args:?}: {error}");
    assert!(error["error"]["hint"].is_string(), "{args:?}: {error}");
    let secret = cli.access_key.as_deref().and_then(|key| key.split('.').nth(1));
    assert!(secret.is_none_or(|secret| !output.stderr.contains(secret)), "{args:?}");
}

#[track_caller]
fn allowed(cli: &Cli, args: &[&str]) -> String {
    let output = cli.run(args);
    assert_eq!(output.code, Some(0), "{args:?}: {}", output.stderr);
    output.text()
}

#[test]
fn keys_are_made_listed_used_and_revoked() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let audit = directory.path().join("audit.log");
    let env = vec![("XDPFS_META_AUDIT_LOG".to_owned(), audit.display().to_string())];
    let mut cluster = cluster_with(ClusterOptions { env, ..ClusterOptions::default() });
    let content = Content::new(1, 100_000);
    put(&cluster, "data/key", &content);

    // Open until the first key is made, which must be able to make others.
    let output = cluster.cli().run(["key", "create", "--read", "data"]);
    assert_eq!(output.code, Some(2), "{}", output.stderr);
    let admin = make(&cluster, &["--admin", "*", "--label", "the first"]);
    let nobody = with_key(&cluster, None);
    for args in [&["ls"][..], &["cat", "data/key"], &["mb", "more"], &["key", "list"]] {
        refused(&nobody, args, "unauthenticated");
    }
    // Every server answers this one by itself, and a follower hears of the key a heartbeat after the leader.
    let heard_by = Instant::now() + Duration::from_secs(5);
    while nobody.run(["status"]).code == Some(0) && Instant::now() < heard_by {
        thread::sleep(Duration::from_millis(20));
    }
    refused(&nobody, &["status"], "unauthenticated");
    let wrong = format!("{}.{}", id(&admin), "A".repeat(52));
    refused(&with_key(&cluster, Some(&wrong)), &["ls"], "unauthenticated");

    // Admin is the right to make, not to read.
    cluster.show_access_key(&admin);
    refused(cluster.cli(), &["cat", "data/key"], "permission_denied");
    done(&cluster, &["mb", "logs-1"]);
    let reader = make(&cluster, &["--read", "data", "--list", "data", "--label", "reader"]);
    let writer = make(&cluster, &["--write", "logs-*"]);
    let (reading, writing) = (with_key(&cluster, Some(&reader)), with_key(&cluster, Some(&writer)));
    assert_eq!(allowed(&reading, &["ls"]).lines().count(), 1, "it sees the bucket that it may list");
    assert!(!allowed(&reading, &["cat", "data/key"]).is_empty());
    refused(&reading, &["rm", "data/key"], "permission_denied");
    refused(&reading, &["ls", "logs-1"], "permission_denied");
    refused(&reading, &["key", "list"], "permission_denied");
    refused(&reading, &["mb", "other"], "permission_denied");
    let file = directory.path().join("file");
    std::fs::write(&file, "line").expect("the disk has room");
    let file = file.to_str().expect("a path of text");
    allowed(&writing, &["put", file, "logs-1/a"]);
    refused(&writing, &["put", file, "data/a"], "permission_denied");
    refused(&writing, &["cat", "logs-1/a"], "permission_denied");
    allowed(&writing, &["rm", "logs-1/a"]);

    let listed = done(&cluster, &["key", "list"]).text();
    assert_eq!(listed.lines().count(), 3, "{listed}");
    assert!(listed.contains("read,list:data reader") && listed.contains("write:logs-*"), "{listed}");
    for key in [&admin, &reader, &writer] {
        assert!(listed.contains(id(key)) && !listed.contains(&key[19..]), "{listed}");
    }

    done(&cluster, &["key", "revoke", id(&reader)]);
    refused(&reading, &["cat", "data/key"], "unauthenticated");
    let last = cluster.cli().run(["key", "revoke", id(&admin)]);
    assert_eq!(last.code, Some(4), "{}", last.stderr);
    assert_eq!(cluster.cli().run(["key", "revoke", "XKAAAAAAAAAAAAAAAA"]).code, Some(3));

    // Another leader knows all of it, and so does the cluster after a restart.
    let leader = cluster.leader(Duration::from_secs(20)).expect("somebody leads");
    cluster.kill(leader);
    cluster.next_leader(leader, Duration::from_secs(20)).expect("another one leads");
    refused(&reading, &["ls"], "unauthenticated");
    allowed(&writing, &["put", file, "logs-1/b"]);
    let servers = cluster.all_meta_servers();
    servers.iter().for_each(|server| cluster.kill(*server));
    cluster.restart_all(&servers).expect("they start");
    refused(&nobody, &["ls"], "unauthenticated");
    allowed(&writing, &["put", file, "logs-1/c"]);

    check_audit(&audit, &cluster, &[&admin, &reader, &writer]);
}

/// What was done, by whom; and no secret, in the file or in any log.
fn check_audit(audit: &std::path::Path, cluster: &Cluster, keys: &[&String]) {
    let text = std::fs::read_to_string(audit).expect("it is written");
    let lines: Vec<Value> =
        text.lines().map(|line| serde_json::from_str(line).expect("each line is JSON")).collect();
    let has = |act: &str, actor: &str, outcome: &str| {
        let is_it =
            |line: &&Value| line["act"] == act && line["actor"] == actor && line["outcome"] == outcome;
        let line = lines.iter().find(is_it);
        let line = line.unwrap_or_else(|| panic!("no {act} by {actor:?} that was {outcome}: {text}"));
        assert!(line["request_id"].as_str().is_some_and(|id| id.len() == 36), "{line}");
        assert!(line["peer"].as_str().is_some_and(|peer| peer.starts_with("127.")), "{line}");
    };
    let [admin, reader, _] = [0, 1, 2].map(|at| id(keys[at]));
    has("CreateBucket", "anonymous", "done");
    has("CreateAccessKey", "anonymous", "INVALID_ARGUMENT");
    has("CreateAccessKey", "anonymous", "done");
    has("CreateBucket", "", "ACCESS_KEY_MISSING");
    has("CreateBucket", admin, "done");
    has("CreateBucket", reader, "ACCESS_DENIED");
    has("CreateAccessKey", admin, "done");
    has("RevokeAccessKey", admin, "done");
    has("RevokeAccessKey", admin, "LAST_ADMIN_KEY");
    assert!(
        lines.iter().any(|line| line["subject"].as_str().is_some_and(|what| what.contains(reader))),
        "{text}"
    );
    assert!(!text.contains("data/key") && !text.contains("objects/"), "no object is named: {text}");
    let logs: String = cluster
        .all_meta_servers()
        .iter()
        .map(|server| {
            std::fs::read_to_string(cluster.dir().join(format!("{server}.log"))).unwrap_or_default()
        })
        .collect();
    assert!(logs.contains("an administrative act"), "it is in the log as well");
    for key in keys {
        assert!(!text.contains(&key[19..]) && !logs.contains(&key[19..]), "a secret was written down");
    }
}

#[test]
fn root_key_closes_a_cluster_from_the_start() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("root.key");
    let path = file.to_str().expect("a path of text");
    // It needs no cluster.
    let tool = Cluster::tool().expect("it is built");
    allowed(&tool, &["key", "generate", "--save", path]);
    let root = std::fs::read_to_string(&file).expect("it is saved");
    assert_eq!(tool.run(["key", "generate", "--save", path]).code, Some(4), "it is not overwritten");
    allowed(&tool, &["key", "generate", "--save", path, "--if-missing"]);
    assert_eq!(std::fs::read_to_string(&file).ok().as_deref(), Some(root.as_str()));

    let env = vec![("XDPFS_META_ROOT_KEY_FILE".to_owned(), path.to_owned())];
    let mut cluster = Cluster::start(ClusterOptions { env, ..ClusterOptions::default() }).expect("it starts");
    refused(cluster.cli(), &["mb", "data"], "unauthenticated");
    cluster.show_access_key(root.trim());
    done(&cluster, &["mb", "data"]);
    let content = Content::new(3, 3 * MIB);
    put(&cluster, "data/key", &content);
    holds(&cluster, "data/key", &content);
    // The first key of a closed cluster may be any, and the last admin key can go.
    let reader = make(&cluster, &["--read", "data"]);
    allowed(&with_key(&cluster, Some(&reader)), &["cat", "data/key"]);
    let admin = make(&cluster, &["--admin", "*"]);
    done(&cluster, &["key", "revoke", "--force", id(&admin)]);
    done(&cluster, &["key", "list"]);
}

#[test]
fn first_steps_need_no_human() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let cluster = Cluster::start(ClusterOptions::default()).expect("it starts");
    let save = directory.path().join("admin.key");
    let save = save.to_str().expect("a path of text");
    for _ in 0..2 {
        allowed(cluster.cli(), &["key", "create", "--admin", "*", "--save", save, "--if-missing"]);
    }
    let mut command = with_key(&cluster, None).command(["mb", "data", "--if-missing"]);
    let status =
        command.env("XDPFS_ACCESS_KEY_FILE", save).stdout(Stdio::null()).status().expect("it starts");
    assert!(status.success());
}

/// The tool, telling of replicas that fail.
fn telling(cli: &Cli, args: [&str; 3]) -> Command {
    let mut command = cli.command(args);
    command.env("XDPFS_LOG", "xdpfs_client=debug");
    command
}

/// Nodes refuse earlier capabilities from here on, all of them: a put that is durable everywhere needed the new epoch.
fn rotate(cluster: &Cluster) {
    let before = json(cluster, &["capabilities", "revoke"]);
    assert!(before["key_epoch"].as_u64() > Some(1), "{before}");
    for round in 0..20 {
        put(cluster, "data/probe", &Content::new(round, 1000));
        if json(cluster, &["stat", "data/probe"])["durable_replicas"] == 3 {
            return;
        }
    }
    panic!("the nodes never hear of the new key epoch");
}

#[test]
fn a_running_get_goes_on_through_a_new_key_epoch() {
    let cluster = cluster();
    let content = Content::new(4, 160 * MIB);
    put(&cluster, "data/large", &content);
    let mut command = telling(cluster.cli(), ["get", "data/large", "-"]);
    let mut get = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    let mut stdout = get.stdout.take().expect("it is piped");
    let mut check = content.check();
    // Nobody reads on meanwhile, so most of the object is still to be got, with the capability of before.
    std::io::copy(&mut (&mut stdout).take(8 * MIB), &mut check).expect("the first bytes are right");
    rotate(&cluster);
    std::io::copy(&mut stdout, &mut check).expect("the bytes are right");
    let output = get.wait_with_output().expect("it ends");
    let words = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{words}");
    check.finish().expect("all of it has come");
    assert!(words.contains("no replica could be read"), "its capability was never refused: {words}");
}

#[test]
fn a_running_put_goes_on_through_a_new_key_epoch() {
    let cluster = cluster();
    let content = Content::new(5, 96 * MIB);
    let mut command = telling(cluster.cli(), ["put", "-", "data/large"]);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut stdin = child.stdin.take().expect("it is piped");
    let mut source = content.clone();
    std::io::copy(&mut (&mut source).take(48 * MIB), &mut stdin).expect("the put reads its input");
    rotate(&cluster);
    std::io::copy(&mut source, &mut stdin).expect("the put reads its input");
    stdin.flush().expect("it is a pipe");
    drop(stdin);
    let output = child.wait_with_output().expect("it ends");
    let words = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{words}");
    holds(&cluster, "data/large", &content);
    assert!(words.contains("too few replicas"), "its capability was never refused: {words}");
}

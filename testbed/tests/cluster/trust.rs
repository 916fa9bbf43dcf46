//! A cluster that speaks TLS: it serves as any other, tells strangers what is wrong, and changes its certificates under
//! load.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use xdpfs_testbed::{Cli, CliOutput, Cluster, ClusterOptions, Content, Member};

use crate::support::{cluster, cluster_with, done, holds, json, put, put_within};

const FAILURE: i32 = 1;
const USAGE: i32 = 2;
/// How long members may take to look at their files, twice over, and then some.
const SEEN_WITHIN: Duration = Duration::from_secs(20);

fn secured() -> ClusterOptions {
    ClusterOptions { tls: true, ..ClusterOptions::default() }
}

#[test]
fn a_cluster_with_tls_goes_on_without_its_leader() {
    let mut cluster = cluster_with(secured());
    let content = Content::new(1, 9 << 20);
    put(&cluster, "data/before", &content);
    holds(&cluster, "data/before", &content);
    let leader = cluster.leader(SEEN_WITHIN).expect("somebody leads");
    cluster.kill(leader);
    put(&cluster, "data/meanwhile", &content);
    holds(&cluster, "data/before", &content);
    cluster.next_leader(leader, SEEN_WITHIN).expect("another leads");
    cluster.restart(leader).expect("it comes back");
    cluster.kill(Member::DataNode(0));
    holds(&cluster, "data/meanwhile", &content);
    cluster.restart(Member::DataNode(0)).expect("it comes back");
    let alive = cluster.await_status(SEEN_WITHIN, |status| status.data_nodes_alive == 3);
    assert!(alive.is_some(), "{}", cluster.log_tails());
    assert_eq!(json(&cluster, &["ls", "-r", "data/before"])["size"], 9 << 20);
    let health = done(&cluster, &["health", &cluster.endpoint_of(0).to_string()]);
    assert_eq!(health.text(), "serving\n");
}

#[test]
fn an_edge_speaks_tls_too() {
    let cluster = cluster_with(ClusterOptions { edges: Some(Default::default()), ..secured() });
    let content = Content::new(2, 5 << 20);
    put(&cluster, "data/key", &content);
    holds(&cluster, "data/key", &content);
}

#[test]
fn the_end_of_every_certificate_is_told_and_a_near_one_is_a_warning() {
    let options = ClusterOptions { edges: Some(Default::default()), data_nodes: 2, ..secured() };
    let cluster = cluster_with(options);
    let told = |status: &Value| {
        let nodes = ["data_nodes", "edges"].iter().flat_map(|kind| status[kind].as_array().expect("a list"));
        let asked = &status["answered_by"];
        let servers = status["meta_servers"].as_array().expect("a list").iter();
        // A server knows only its own.
        servers
            .filter(|server| server["id"] == *asked)
            .chain(nodes)
            .all(|member| member["certificate_expires"].is_string())
    };
    let status = status_with(&cluster, told);
    assert_eq!(status["warnings"], serde_json::json!([]), "all of them hold for a year: {status}");
    done(&cluster, &["certify", path(&cluster.certificates()), "node", "--days", "5"]);
    let ends = |status: &Value| {
        status["warnings"]
            .as_array()
            .expect("a list")
            .iter()
            .filter(|warning| warning["code"] == "certificate_ends")
            .count()
    };
    // Both nodes and the edge have this one.
    let status = status_with(&cluster, |status| ends(status) == 3);
    assert!(status["warnings"][0]["what"].as_str().is_some_and(|what| what.contains("4 days")), "{status}");
}

/// What `status` says once it is as it should be.
fn status_with(cluster: &Cluster, is_so: impl Fn(&Value) -> bool) -> Value {
    let until = Instant::now() + SEEN_WITHIN;
    loop {
        let status = json(cluster, &["status"]);
        if is_so(&status) {
            return status;
        }
        assert!(Instant::now() < until, "{status}");
        thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn what_does_not_fit_is_said_at_once() {
    let (secured, plain) = (cluster_with(secured()), cluster());
    let other = tempfile::tempdir().expect("a temporary directory");
    init(&secured, &other.path().join("tls"), &["--meta", "1=localhost"]);
    let trusted = secured.cli().ca.clone();
    let https = |cluster: &Cluster| {
        let endpoints: Vec<_> = cluster.endpoint().split(',').map(|one| format!("https://{one}")).collect();
        endpoints.join(",")
    };
    let cases = [
        ("plaintext to TLS", Cli { ca: None, ..secured.cli().clone() }, "speaks TLS", "--ca"),
        (
            "TLS to plaintext",
            Cli { ca: trusted.clone(), ..plain.cli().clone() },
            "does not speak TLS",
            "--ca",
        ),
        (
            "another CA",
            Cli { ca: Some(other.path().join("tls/ca.pem")), ..secured.cli().clone() },
            "not made by the trusted CA",
            "--ca",
        ),
        (
            "https without a CA",
            Cli { ca: None, endpoint: https(&secured), ..secured.cli().clone() },
            "no CA",
            "--ca",
        ),
        (
            "a CA that is not there",
            Cli { ca: Some("/nonexistent/ca.pem".into()), ..secured.cli().clone() },
            "/nonexistent/ca.pem",
            "ca.pem",
        ),
    ];
    for (what, cli, message, hint) in cases {
        for command in [&["ls"][..], &["mb", "new-bucket"], &["put", "/dev/null", "data/key"], &["status"]] {
            let output = cli.run(command);
            assert_eq!(output.code, Some(USAGE), "{what}, {command:?}: {}", output.stderr);
            assert!(output.stderr.contains(message), "{what}, {command:?}: {}", output.stderr);
            let said = output.stderr.lines().find(|line| line.trim().starts_with("hint: "));
            assert!(said.is_some_and(|line| line.contains(hint)), "{what}, {command:?}: {}", output.stderr);
            assert!(!output.stderr.contains("may or may not"), "{what}, {command:?}: {}", output.stderr);
            assert!(output.took < Duration::from_secs(4), "{what}, {command:?}: {:?}", output.took);
        }
    }
    let health = Cli { ca: None, ..secured.cli().clone() };
    let output = health.run(["health", &secured.endpoint_of(0).to_string()]);
    assert_eq!(output.code, Some(USAGE), "{}", output.stderr);
    assert!(output.stderr.contains("speaks TLS"), "{}", output.stderr);
    // Of several, one that does not fit does not matter.
    let mixed = format!("{},{}", plain.endpoint_of(0), secured.endpoint());
    done_by(&Cli { endpoint: mixed, ..secured.cli().clone() }, &["ls"]);
    done_by(&Cli { endpoint: https(&secured), ..secured.cli().clone() }, &["ls"]);
}

#[test]
fn a_server_that_could_not_be_trusted_does_not_start() {
    let cluster = cluster_with(secured());
    let tls = cluster.certificates();
    let meta = |args: &[&str]| {
        let data = cluster.dir().join("refused");
        let mut all = vec!["--id", "1", "--member", "1,127.0.0.1:1,127.0.0.1:2", "--data-dir"];
        all.push(data.to_str().expect("it is text"));
        all.extend(args);
        start(&cluster, "xdpfs-meta-server", &all)
    };
    let check = |output: std::process::Output, code: i32, words: &[&str]| {
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{stderr}");
        for word in words {
            assert!(stderr.contains(word), "no {word:?}: {stderr}");
        }
    };
    let everywhere = ["--listen-client", "0.0.0.0:0", "--listen-peer", "127.0.0.1:0"];
    check(meta(&everywhere), USAGE, &["0.0.0.0", "--tls", "--insecure"]);
    let open_here = ["--listen-client", "127.0.0.1:0", "--listen-peer", "127.0.0.1:0", "--tls"];
    let with =
        |directory: &Path| meta(&[&open_here[..], &[directory.to_str().expect("it is text")]].concat());
    check(with(&tls.join("node")), FAILURE, &["meta"]);
    check(with(&tls.join("nowhere")), FAILURE, &["nowhere"]);
    let readable = tls.join("readable");
    copy_all(&tls.join("meta-1"), &readable);
    set_mode(&readable.join("server.key"), 0o644);
    check(with(&readable), FAILURE, &["chmod 600"]);

    let data = cluster.dir().join("refused-node");
    let node = ["--data-dir", data.to_str().expect("it is text"), "--meta", "10.255.255.1:1"];
    check(start(&cluster, "xdpfs-data-node", &node), USAGE, &["10.255.255.1:1", "--tls", "--insecure"]);
    check(start(&cluster, "xdpfs-data-node", &["edge", "--meta", "m:1"]), USAGE, &["--tls", "--insecure"]);
}

#[test]
fn a_thousand_idle_connections_keep_no_client_out() {
    let cluster = cluster_with(secured());
    let endpoints: Vec<SocketAddr> = (0..3).map(|server| cluster.endpoint_of(server)).collect();
    let mut idle = Vec::new();
    let mut slowest = Duration::ZERO;
    for number in 0..1500 {
        // This process may have fewer descriptors; what is closed by then was closed by a server.
        match TcpStream::connect(endpoints[number % 3]) {
            Ok(stream) => idle.push(stream),
            Err(error) => assert!(number > 900, "{number}: {error}"),
        }
        if number % 250 == 249 {
            let output = put_within(&cluster, "data/key", &Content::new(3, 100_000), Duration::from_secs(30));
            assert_eq!(output.code, Some(0), "beside {number}: {}", output.stderr);
            slowest = slowest.max(output.took);
        }
    }
    println!("{} idle connections; the slowest put took {slowest:?}", idle.len());
    holds(&cluster, "data/key", &Content::new(3, 100_000));
    // Those that never say a word are closed, whether there is room or not.
    let mut first = idle.swap_remove(0);
    first.set_read_timeout(Some(Duration::from_secs(20))).expect("a stream can");
    let closed = first.read(&mut [0; 16]);
    assert!(
        matches!(closed, Ok(0)) || closed.is_err_and(|error| error.kind() != std::io::ErrorKind::WouldBlock)
    );
}

#[test]
fn garbage_on_every_port_harms_nobody() {
    let cluster = cluster_with(secured());
    let content = Content::new(4, 1 << 20);
    put(&cluster, "data/key", &content);
    let kinds: [&[u8]; 5] = [
        b"GET / HTTP/1.1\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        &[0x16; 4096],
        &[0; 4096],
        &[0x16, 3, 1, 0xff, 0xff],
    ];
    for _ in 0..40 {
        for kind in kinds {
            for server in 0..3 {
                let mut stream = TcpStream::connect(cluster.endpoint_of(server)).expect("it listens");
                // It may have hung up already.
                let _told = stream.write_all(kind);
            }
        }
    }
    holds(&cluster, "data/key", &content);
}

#[test]
fn certificates_are_renewed_under_load_without_one_failure() {
    let cluster = cluster_with(secured());
    let tls = cluster.certificates();
    under_load(&cluster, || {
        for _ in 0..2 {
            for member in ["meta-1", "meta-2", "meta-3", "node"] {
                let before = fs::read(tls.join(member).join("server.pem")).expect("it is there");
                done(&cluster, &["certify", path(&tls), member]);
                assert_ne!(fs::read(tls.join(member).join("server.pem")).expect("it is there"), before);
            }
            seen(&cluster, "new certificates are in force", &["meta-1", "meta-2", "meta-3", "node"]);
        }
    });
}

#[test]
fn one_ca_takes_anothers_place_under_load_without_one_failure() {
    let mut cluster = cluster_with(secured());
    let (tls, new) = (cluster.certificates(), cluster.dir().join("new-tls"));
    let host = |server: usize| format!("{}={}", server + 1, cluster.endpoint_of(server).ip());
    let metas: Vec<String> = (0..3).map(host).collect();
    let args: Vec<&str> = metas.iter().flat_map(|meta| ["--meta", meta]).collect();
    init(&cluster, &new, &args);
    let members = ["meta-1", "meta-2", "meta-3", "node"];
    let (old_ca, new_ca) = (read(&tls.join("ca.pem")), read(&new.join("ca.pem")));
    under_load(&cluster, || {
        // 1. Everybody trusts both, clients too.
        let both = format!("{old_ca}{new_ca}");
        for member in members.iter().map(|member| tls.join(member)).chain([tls.clone()]) {
            replace(&member.join("ca.pem"), &both);
        }
        seen(&cluster, "new certificates are in force", &members);
        // 2. Everybody shows a certificate of the new one.
        for member in members {
            for file in ["server.key", "server.pem"] {
                replace(&tls.join(member).join(file), &read(&new.join(member).join(file)));
            }
        }
        seen(&cluster, "new certificates are in force", &members);
        // 3. Nobody trusts the old one.
        for member in members.iter().map(|member| tls.join(member)).chain([tls.clone()]) {
            replace(&member.join("ca.pem"), &new_ca);
        }
        seen(&cluster, "new certificates are in force", &members);
    });
    let old = cluster.dir().join("old-ca.pem");
    fs::write(&old, old_ca).expect("the disk has room");
    let output = Cli { ca: Some(old), ..cluster.cli().clone() }.run(["ls"]);
    assert_eq!(output.code, Some(USAGE), "{}", output.stderr);
    // A whole start from what is on disk now.
    cluster
        .restart_all(&[cluster.all_meta_servers(), cluster.all_data_nodes()].concat())
        .expect("they come back");
    put(&cluster, "data/after", &Content::new(9, 10_000));
}

/// Puts and gets without a pause while `act` runs; none may fail.
fn under_load(cluster: &Cluster, act: impl FnOnce()) {
    let (is_over, rounds) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        for client in 0..3 {
            let (is_over, rounds, cli) = (&is_over, &rounds, cluster.cli().clone());
            scope.spawn(move || {
                let address = format!("data/load-{client}");
                while !is_over.load(Ordering::Relaxed) {
                    let content = Content::new(rounds.fetch_add(1, Ordering::Relaxed), 300_000);
                    let put = cli.invoke(["put", "-", &address]).stdin(content.clone()).run();
                    assert_eq!(put.code, Some(0), "put: {}", put.stderr);
                    let check = content.shared_check();
                    let get = cli.invoke(["get", &address, "-"]).stdout(check.clone()).run();
                    assert_eq!(get.code, Some(0), "get: {}", get.stderr);
                    check.finish().unwrap_or_else(|error| panic!("get {address}: {error}"));
                }
            });
        }
        let over = EndOf(&is_over);
        act();
        drop(over);
    });
    let rounds = rounds.into_inner();
    println!("{rounds} rounds of put and get");
    assert!(rounds > 10, "only {rounds} rounds");
}

/// Ends the load also when the test fails.
struct EndOf<'a>(&'a AtomicBool);

impl Drop for EndOf<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Waits until every member that has one of these directories has said so once more than before.
fn seen(cluster: &Cluster, words: &str, members: &[&str]) {
    let mut logs: Vec<PathBuf> = Vec::new();
    for member in members {
        match member.strip_prefix("meta-") {
            Some(id) => logs.push(cluster.dir().join(format!("meta-server-{id}.log"))),
            None => logs.extend((0..3).map(|node| cluster.dir().join(format!("data-node-{node}.log")))),
        }
    }
    // What is in force is what was written last.
    let deadline = Instant::now() + SEEN_WITHIN;
    let written = |log: &PathBuf| read(log).matches(words).count();
    let marker = |log: &PathBuf| log.with_extension("seen");
    for log in &logs {
        let before = fs::read_to_string(marker(log)).map_or(0, |text| text.parse().unwrap_or(0));
        loop {
            let now = written(log);
            if now > before {
                break;
            }
            assert!(Instant::now() < deadline, "{} does not say {words:?}", log.display());
            thread::sleep(Duration::from_millis(100));
        }
    }
    // Two files may be seen in two looks: wait out one more.
    thread::sleep(Duration::from_millis(2500));
    for log in &logs {
        fs::write(marker(log), written(log).to_string()).expect("the disk has room");
    }
}

fn init(cluster: &Cluster, directory: &Path, args: &[&str]) {
    done_by(cluster.cli(), &[&["init", path(directory), "--cluster", "testbed"], args].concat());
}

fn done_by(cli: &Cli, args: &[&str]) -> CliOutput {
    let output = cli.run(args);
    assert_eq!(output.code, Some(0), "{args:?}: {}", output.stderr);
    output
}

fn start(cluster: &Cluster, program: &str, args: &[&str]) -> std::process::Output {
    let program = cluster.cli().program.with_file_name(program);
    Command::new(program).args(args).output().expect("it can be started")
}

fn path(path: &Path) -> &str {
    path.to_str().expect("it is text")
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// As certify does: whole or not at all, and with the permissions that it had.
fn replace(path: &Path, content: &str) {
    let draft = path.with_extension("draft");
    fs::write(&draft, content).expect("the disk has room");
    let permissions = fs::metadata(path).expect("it is there").permissions();
    fs::set_permissions(&draft, permissions).expect("it is ours");
    fs::rename(draft, path).expect("it is ours");
}

fn copy_all(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("the disk has room");
    for file in ["ca.pem", "server.pem", "server.key"] {
        fs::copy(from.join(file), to.join(file)).expect("it is there");
    }
}

fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("it is ours");
}

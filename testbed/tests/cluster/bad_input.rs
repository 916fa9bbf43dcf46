//! Requests that cannot be served: each ends with its exit code, says in words what is wrong, and changes nothing.

use std::{fs, net::TcpListener, thread, time::Duration};

use serde_json::Value;
use xdpfs_testbed::{Cli, Cluster, Content};

use crate::support::{cluster, done, holds, json, put};

const FAILURE: i32 = 1;
const USAGE: i32 = 2;
const NOT_FOUND: i32 = 3;
const PRECONDITION: i32 = 4;
const UNAVAILABLE: i32 = 5;

/// A request, its exit code, the kind of its error, and what the words must name.
type Case<'a> = (&'a [&'a str], i32, &'a str, &'a str);

#[test]
fn each_bad_request_has_its_code_its_kind_and_clear_words() {
    let cluster = cluster();
    put(&cluster, "data/key", &Content::new(1, 10));
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("file");
    fs::write(&file, "content").expect("the disk has room");
    let file = file.to_str().expect("it is text");
    let too_long = format!("data/{}", "k".repeat(1025));
    let at_most = format!("data/{}", "k".repeat(1024));
    let cases: &[Case<'_>] = &[
        (&["put", file, "nowhere/key"], NOT_FOUND, "not_found", "nowhere"),
        (&["get", "nowhere/key", "-"], NOT_FOUND, "not_found", "nowhere"),
        (&["ls", "nowhere"], NOT_FOUND, "not_found", "nowhere"),
        (&["rb", "nowhere"], NOT_FOUND, "not_found", "nowhere"),
        (&["get", "data/missing", "-"], NOT_FOUND, "not_found", "missing"),
        (&["cat", "data/missing"], NOT_FOUND, "not_found", "missing"),
        (&["stat", "data/missing"], NOT_FOUND, "not_found", "missing"),
        (&["rm", "data/missing"], NOT_FOUND, "not_found", "missing"),
        (&["get", "-r", "data/missing/", file], NOT_FOUND, "not_found", "missing"),
        (&["mb", "data"], PRECONDITION, "already_exists", "data"),
        (&["rb", "data"], PRECONDITION, "not_empty", "data"),
        (
            &["put", "--if-none-match", "*", file, "data/key"],
            PRECONDITION,
            "precondition_failed",
            "precondition",
        ),
        (&["mb", "Capital"], USAGE, "invalid_argument", "Capital"),
        (&["mb", "x"], USAGE, "invalid_argument", "3"),
        (&["mb", "chunky", "--chunk-size", "1KiB"], USAGE, "invalid_argument", "chunk"),
        (&["get", "data/", "-"], USAGE, "invalid_argument", "object"),
        (&["rm", "data/"], USAGE, "invalid_argument", "object"),
        (&["stat", ""], USAGE, "invalid_argument", ""),
        (&["put", file, &too_long], USAGE, "invalid_argument", "1024"),
        (&["get", &too_long, "-"], USAGE, "invalid_argument", "1024"),
        (&["put", file, "data/bell\u{7}"], USAGE, "invalid_argument", "control"),
        (&["stat", "data/line\nbreak"], USAGE, "invalid_argument", "control"),
        (&["get", "--range", "5-1", "data/key", "-"], USAGE, "invalid_argument", "range"),
        (&["get", "--range", "9999-", "data/key", "-"], USAGE, "invalid_argument", "10"),
    ];
    for (args, code, kind, names) in cases {
        let spoken = cluster.cli().run(*args);
        assert_eq!(spoken.code, Some(*code), "{args:?}: {}", spoken.stderr);
        assert!(spoken.stderr.contains(names), "{args:?} does not name {names:?}: {}", spoken.stderr);
        assert!(!spoken.stderr.contains("panicked"), "{args:?}: {}", spoken.stderr);
        assert!(spoken.stdout.is_empty(), "{args:?} printed {:?}", spoken.text());

        let json = cluster.cli().run(["--json"].iter().chain(*args));
        assert_eq!(json.code, Some(*code), "--json {args:?}: {}", json.stderr);
        let error = error_of(&json.stderr).unwrap_or_else(|| panic!("--json {args:?}: {}", json.stderr));
        assert_eq!(error["kind"], *kind, "{args:?}: {error}");
        assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()), "{args:?}: {error}");
    }
    done(&cluster, &["put", file, &at_most]);
    assert_eq!(done(&cluster, &["cat", &at_most]).text(), "content");
    holds(&cluster, "data/key", &Content::new(1, 10));
    let usage = cluster.cli().run(["put"]);
    assert_eq!(usage.code, Some(USAGE), "{}", usage.stderr);
}

#[test]
fn a_file_that_cannot_be_read_leaves_nothing_behind() {
    let cluster = cluster();
    let dir = tempfile::tempdir().expect("a temporary directory");
    fs::write(dir.path().join("good"), "content").expect("the disk has room");
    let path = |name: &str| dir.path().join(name).to_str().expect("it is text").to_owned();
    // The last can be opened, but its first byte cannot be read, not even by root.
    let cases = [
        (path("missing"), NOT_FOUND, "missing"),
        (path(""), USAGE, "-r"),
        ("/proc/self/mem".to_owned(), FAILURE, "mem"),
    ];
    for (source, code, names) in cases {
        let output = cluster.cli().run(["put", &source, "data/unread"]);
        assert_eq!(output.code, Some(code), "{source}: {}", output.stderr);
        assert!(output.stderr.contains(names), "{source}: {}", output.stderr);
    }
    let output = cluster.cli().run(["put", &path("good"), &path("missing"), "data/several/"]);
    assert_eq!(output.code, Some(1), "{}", output.stderr);
    assert!(output.stderr.contains("missing"), "{}", output.stderr);
    assert_eq!(done(&cluster, &["cat", "data/several/good"]).text(), "content");

    let keys = done(&cluster, &["--json", "ls", "-r", "data"]).text();
    assert_eq!(keys.lines().count(), 1, "{keys}");
    let open = cluster.await_status(Duration::from_secs(5), |status| status.open_uploads == 0);
    assert!(open.is_some(), "an upload is still open");
}

#[test]
fn an_endpoint_that_is_down_is_named_soon() {
    let cluster = cluster();
    let closed =
        TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port");
    let down = Cli { endpoint: closed.to_string(), ..cluster.cli().clone() };
    let output = down.run(["stat", "data/key"]);
    assert_eq!(output.code, Some(UNAVAILABLE), "{}", output.stderr);
    assert!(output.took < Duration::from_secs(15), "{:?}", output.took);
    assert!(output.stderr.contains("hint: "), "{}", output.stderr);
    let error = error_of(&down.run(["--json", "ls"]).stderr).expect("an error");
    assert_eq!(error["kind"], "unavailable", "{error}");

    // One of three that is down does not matter.
    let mixed = Cli { endpoint: format!("{closed},{}", cluster.endpoint()), ..cluster.cli().clone() };
    assert_eq!(mixed.run(["ls"]).code, Some(0));

    for endpoint in ["", "localhost", "ftp://127.0.0.1:1", "https://127.0.0.1:1"] {
        let nonsense = Cli { endpoint: endpoint.to_owned(), ..cluster.cli().clone() };
        let output = nonsense.run(["ls"]);
        assert_eq!(output.code, Some(USAGE), "{endpoint:?}: {}", output.stderr);
        assert!(output.stderr.contains("endpoint"), "{endpoint:?}: {}", output.stderr);
    }
}

#[test]
fn a_cluster_without_enough_data_nodes_says_so() {
    let mut cluster = cluster();
    let content = Content::new(1, 100_000);
    put(&cluster, "data/key", &content);
    for node in &cluster.all_data_nodes()[1..] {
        cluster.kill(*node);
    }
    // Every byte is on the node that is left.
    holds(&cluster, "data/key", &content);
    let hasty = ["--timeout", "6s", "put", "-", "data/key"];
    let output = cluster.cli().invoke(hasty).stdin(Content::new(2, 100_000)).run();
    assert_eq!(output.code, Some(UNAVAILABLE), "{}", output.stderr);
    println!("after {:?}: {}", output.took, output.stderr);
    holds(&cluster, "data/key", &content);
    cluster.restart_all(&cluster.all_data_nodes()[1..]).expect("they come back");
    put(&cluster, "data/key", &Content::new(2, 100_000));
}

#[test]
fn of_two_writers_of_one_key_one_is_last_and_whole() {
    let cluster = cluster();
    done(&cluster, &["mb", "small-chunks", "--chunk-size", "64KiB"]);
    for round in 0..4 {
        let address = format!("small-chunks/{round}");
        let contents: Vec<Content> =
            (0..4).map(|writer| Content::new(round * 10 + writer, 1_000_000)).collect();
        let codes = at_once(&cluster, &contents, &["put", "-", &address]);
        assert_eq!(codes, [Some(0); 4]);
        one_of(&cluster, &address, &contents);

        let address = format!("small-chunks/first-{round}");
        let codes = at_once(&cluster, &contents, &["put", "--if-none-match", "*", "-", &address]);
        assert_eq!(codes.iter().filter(|code| **code == Some(0)).count(), 1, "{codes:?}");
        assert_eq!(codes.iter().filter(|code| **code == Some(PRECONDITION)).count(), 3, "{codes:?}");
        let first = codes.iter().position(|code| *code == Some(0)).expect("it was counted");
        holds(&cluster, &address, &contents[first]);
        assert_eq!(json(&cluster, &["stat", &address])["size"], 1_000_000);
    }
}

fn at_once(cluster: &Cluster, contents: &[Content], args: &[&str]) -> Vec<Option<i32>> {
    thread::scope(|scope| {
        let run = |content: &Content| cluster.cli().invoke(args).stdin(content.clone());
        let runs: Vec<_> = contents.iter().map(run).map(|run| scope.spawn(|| run.run().code)).collect();
        runs.into_iter().map(|run| run.join().expect("it ends")).collect()
    })
}

fn one_of(cluster: &Cluster, address: &str, contents: &[Content]) {
    let found = done(cluster, &["cat", address]).stdout;
    assert!(contents.iter().any(|content| content.to_vec() == found), "{address} is none of what was put");
}

/// The error in what a command said with `--json`.
fn error_of(stderr: &str) -> Option<Value> {
    let line = stderr.lines().last()?;
    serde_json::from_str::<Value>(line).ok()?.get("error").cloned()
}

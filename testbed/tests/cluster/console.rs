//! The status page's data, as scripts get it: the same as by the command line, with the same rights.

use std::{
    collections::BTreeSet,
    io::{Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::Value;
use xdpfs_testbed::{Cluster, ClusterOptions, Content, EdgeOptions, Member};

use crate::support::{cluster_with, done, json, put};

fn shown() -> ClusterOptions {
    let env = vec![("XDPFS_META_CONSOLE_LISTEN".to_owned(), "127.0.0.1:0".to_owned())];
    ClusterOptions { env, ..ClusterOptions::default() }
}

/// Status and body of an answer of one server, by this key.
fn ask(cluster: &Cluster, server: Member, key: Option<&str>, path: &str) -> (u16, Vec<u8>) {
    let ready = cluster.ready_line(server);
    let address = ready.split(' ').find_map(|word| word.strip_prefix("console="));
    let address = address.unwrap_or_else(|| panic!("{server} tells where it shows the cluster: {ready}"));
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a socket has time limits");
    let basic =
        |key: &str| format!("authorization: Basic {}\r\n", STANDARD.encode(key.replacen('.', ":", 1)));
    let authorization = key.map(basic).unwrap_or_default();
    let request =
        format!("GET {path} HTTP/1.1\r\nhost: {address}\r\n{authorization}connection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("it reads");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("it answers");
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").expect("a head and a body");
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    (status, answer.split_off(end + 4))
}

fn record(cluster: &Cluster, server: Member, path: &str) -> Value {
    let (status, body) = ask(cluster, server, None, path);
    assert_eq!(status, 200, "{path}: {}", String::from_utf8_lossy(&body));
    serde_json::from_slice(&body).expect("it is JSON")
}

fn names(value: &Value) -> BTreeSet<&str> {
    value.as_object().expect("an object").keys().map(String::as_str).collect()
}

/// What is shown has the names that the command line has for it.
fn agree(what: &str, shown: &Value, printed: &Value) {
    assert_eq!(names(shown), names(printed), "{what}");
}

#[test]
fn names_of_the_status_page_are_those_of_the_command_line() {
    let cluster = cluster_with(ClusterOptions { edges: Some(EdgeOptions::default()), ..shown() });
    let content = Content::new(1, 100_000);
    put(&cluster, "data/a/key", &content);
    let within = Duration::from_secs(20);
    let has_edge = |status: &xdpfs_testbed::ClusterStatus| status.raw["edges"][0].is_object();
    let printed = cluster.await_status(within, has_edge).expect("the edge is heard of").raw;
    for server in cluster.all_meta_servers() {
        let shown = record(&cluster, server, "/api/v1/status");
        assert_eq!(shown["leader_id"], printed["leader_id"], "{server} asks the leader");
        agree("status", &shown, &printed);
        for list in ["meta_servers", "data_nodes", "edges"] {
            agree(list, &shown[list][0], &printed[list][0]);
        }
        assert!(shown["requests"]["ended"].as_u64().is_some_and(|ended| ended > 0), "{shown}");
    }
    let server = Member::MetaServer(0);
    let bucket = record(&cluster, server, "/api/v1/buckets");
    agree("buckets", &bucket["buckets"][0], &json(&cluster, &["ls"]));
    let objects = record(&cluster, server, "/api/v1/objects?bucket=data&prefix=a/");
    assert_eq!(objects["objects"][0], json(&cluster, &["ls", "data/a/"]));
    let (status, body) = ask(&cluster, server, None, "/api/v1/download?bucket=data&key=a/key");
    assert_eq!((status, body), (200, content.to_vec()));
}

#[test]
fn status_page_shows_what_the_visitors_key_may_see_and_nothing_once_it_is_revoked() {
    let mut cluster = cluster_with(shown());
    put(&cluster, "data/key", &Content::new(1, 1000));
    let make = |cluster: &Cluster, args: &[&str]| {
        done(cluster, &[&["key", "create"], args].concat()).text().trim().to_owned()
    };
    let admin = make(&cluster, &["--admin", "*"]);
    cluster.show_access_key(&admin);
    let reader = make(&cluster, &["--read", "data"]);
    let server = Member::MetaServer(1);
    let status = |key: Option<&str>, path: &str| ask(&cluster, server, key, path).0;
    let download = "/api/v1/download?bucket=data&key=key";
    let list = "/api/v1/objects?bucket=data";
    for path in ["/", "/api/v1/status", list, download] {
        assert_eq!(status(None, path), 401, "{path}");
    }
    for (key, path, expect) in [
        (&admin, "/", 200),
        (&admin, "/api/v1/status", 200),
        (&admin, download, 403),
        (&reader, "/api/v1/status", 200),
        (&reader, download, 200),
        (&reader, list, 403),
    ] {
        assert_eq!(status(Some(key), path), expect, "{path}");
    }
    let id = reader.split('.').next().expect("a key has an id");
    done(&cluster, &["key", "revoke", id]);
    for path in ["/", "/api/v1/status", "/api/v1/history", download] {
        assert_eq!(status(Some(&reader), path), 401, "{path}");
    }
    let logs = cluster.log_tails();
    for key in [&admin, &reader] {
        assert!(!logs.contains(&key[19..]), "no secret is logged");
    }
}

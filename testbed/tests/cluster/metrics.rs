//! What members tell when they are scraped.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use xdpfs_testbed::{Cluster, ClusterOptions, Content, EdgeOptions, Member};

use crate::support::{cluster_with, holds, put};

const SIZE: u64 = 5_000_000;
const REPLICAS: u64 = 3;
/// A name that nobody should read in a scrape.
const KEY: &str = "data/secret-plans";

/// Members that tell, each on a port of its own.
fn observed() -> Cluster {
    let listen = |kind: &str| (format!("XDPFS_{kind}_HTTP_LISTEN"), "127.0.0.1:0".to_owned());
    let env = vec![listen("META"), listen("NODE"), listen("EDGE")];
    cluster_with(ClusterOptions { env, edges: Some(EdgeOptions::default()), ..ClusterOptions::default() })
}

pub(crate) fn get(cluster: &Cluster, member: Member, path: &str) -> String {
    let (status, body) = ask(cluster, member, path);
    assert_eq!(status, 200, "{member} {path}: {body}");
    body
}

fn ask(cluster: &Cluster, member: Member, path: &str) -> (u16, String) {
    let ready = cluster.ready_line(member);
    let address = ready.split_whitespace().find_map(|word| word.strip_prefix("http="));
    let address = address.unwrap_or_else(|| panic!("{member} tells where it is scraped: {ready}"));
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a socket has time limits");
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n").expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers with text");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    (status.expect("a status"), body.to_owned())
}

/// The sum of a metric's values whose labels hold all of `words`.
pub(crate) fn sum(text: &str, name: &str, words: &[&str]) -> f64 {
    let lines = text.lines().filter(|line| {
        let rest = line.strip_prefix(name);
        rest.is_some_and(|rest| rest.starts_with([' ', '{'])) && words.iter().all(|word| line.contains(word))
    });
    lines.map(|line| line.rsplit(' ').next().expect("a value").parse::<f64>().expect("a number")).sum()
}

/// The names that the page has for a kind of member.
fn documented(of: &str) -> Vec<String> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
    let page = fs::read_to_string(page).expect("the page is there");
    let section =
        page.split("\n## Of a").find(|section| section.trim_start_matches(['n', ' ']).starts_with(of));
    let rows = section.unwrap_or_else(|| panic!("{of} has a section")).lines();
    rows.filter_map(|row| Some(row.strip_prefix("| `")?.split_once('`')?.0.to_owned())).collect()
}

#[test]
fn every_member_tells_all_its_metrics_and_they_follow_what_happens() {
    let cluster = observed();
    let content = Content::new(7, SIZE);
    put(&cluster, KEY, &content);
    holds(&cluster, KEY, &content);
    let (mut leaders, mut commits, mut written, mut read) = (0.0, 0.0, 0.0, 0.0);
    for index in 0..3 {
        let text = get(&cluster, Member::MetaServer(index), "/metrics");
        has_all(&text, "meta server");
        leaders += sum(&text, "xdpfs_meta_leads", &[]);
        let method = r#"method="xdpfs.meta.v1.MetaService/CommitPut""#;
        commits += sum(&text, "xdpfs_meta_requests_total", &[method, r#"code="OK""#]);
        assert!(sum(&text, "xdpfs_meta_log_sync_seconds_count", &[]) > 0.0);
        if sum(&text, "xdpfs_meta_leads", &[]) > 0.0 {
            for stage in ["replicate", "apply"] {
                assert!(sum(&text, "xdpfs_meta_commit_stage_seconds_count", &[stage]) > 0.0, "{stage}");
            }
            assert!((sum(&text, "xdpfs_meta_data_nodes", &["alive"]) - 3.0).abs() < 0.5);
        }
        let text = get(&cluster, Member::DataNode(index), "/metrics");
        has_all(&text, "data node");
        written += sum(&text, "xdpfs_store_written_bytes_total", &[]);
        read += sum(&text, "xdpfs_store_read_bytes_total", &[]);
        assert!(sum(&text, "xdpfs_store_sync_seconds_count", &[]) > 0.0);
    }
    assert!((leaders - 1.0).abs() < 0.5, "{leaders} servers say that they lead");
    assert!((commits - 1.0).abs() < 0.5, "{commits} commits were counted");
    assert!((written - (SIZE * REPLICAS) as f64).abs() < 0.5, "{written} bytes were counted as written");
    assert!(read >= SIZE as f64, "{read} bytes were counted as read");
    let text = get(&cluster, Member::Edge(0), "/metrics");
    has_all(&text, "edge");
    assert!(sum(&text, "xdpfs_edge_relay_datagrams_total", &["relayed"]) > 0.0);
}

/// Nothing is missing, nothing is told that the page doesn't know, and no name of the user's is in it.
fn has_all(text: &str, of: &str) {
    let mut expected: Vec<String> =
        documented(of).iter().map(|name| name.trim_end_matches("_total").to_owned()).collect();
    let told = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    let mut told: Vec<String> = told.map(str::to_owned).collect();
    expected.sort();
    told.sort();
    assert_eq!(told, expected, "of a {of}");
    assert!(!text.contains("secret-plans") && !text.contains("\"data\""));
}

#[test]
fn without_a_majority_members_are_alive_and_not_ready() {
    let mut cluster = observed();
    for index in [0, 1] {
        cluster.kill(Member::MetaServer(index));
    }
    let member = Member::MetaServer(2);
    let deadline = Instant::now() + Duration::from_secs(20);
    while ask(&cluster, member, "/readyz").0 != 503 {
        assert!(Instant::now() < deadline, "it still says that it is ready");
        thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(get(&cluster, member, "/healthz"), "ok\n");
    let text = get(&cluster, member, "/metrics");
    assert!(sum(&text, "xdpfs_meta_term", &[]) > 0.0);
    // Nodes and edges miss a leader a little later.
    for member in [Member::DataNode(0), Member::Edge(0)] {
        let deadline = Instant::now() + Duration::from_secs(30);
        while ask(&cluster, member, "/readyz").0 != 503 {
            assert!(Instant::now() < deadline, "{member} still says that it is ready");
            thread::sleep(Duration::from_millis(50));
        }
        assert!(sum(&get(&cluster, member, "/metrics"), "xdpfs_ready", &[]) < 0.5);
    }
}

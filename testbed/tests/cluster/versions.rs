//! Versions of objects, by real processes.

use std::time::Duration;

use xdpfs_testbed::{ClusterStatus, Content};

use crate::support::{cluster_with, done, holds, holds_nothing, impatient, json, put};

const MIB: u64 = 1 << 20;
const WITHIN: Duration = Duration::from_secs(60);

#[test]
fn versions_are_whole_until_the_last_of_them_is_removed() {
    let cluster = cluster_with(impatient());
    done(&cluster, &["mb", "papers", "--versioning"]);
    let contents = [21, 22, 23].map(|seed| Content::new(seed, 5 * MIB));
    let versions: Vec<String> = contents
        .iter()
        .map(|content| {
            put(&cluster, "papers/a", content);
            json(&cluster, &["stat", "papers/a"])["version"].to_string()
        })
        .collect();
    let read = |version: &str, content: &Content| {
        let check = content.shared_check();
        let command = ["cat", "papers/a", "--version-id", version];
        let output = cluster.cli().invoke(command).stdout(check.clone()).within(WITHIN).run();
        assert_eq!(output.code, Some(0), "{}", output.stderr);
        check.finish().unwrap_or_else(|error| panic!("version {version}: {error}"));
    };
    for (version, content) in versions.iter().zip(&contents) {
        read(version, content);
    }
    let listed = done(&cluster, &["--json", "ls", "--versions", "papers/a"]);
    assert_eq!(listed.text().lines().count(), 3, "{}", listed.text());

    let removed = json(&cluster, &["rm", "papers/a"]);
    let marker = removed["delete_marker"].to_string();
    holds_nothing(&cluster, "papers/a");
    read(&versions[0], &contents[0]);
    assert_eq!(cluster.cli().run(["rb", "papers"]).code, Some(4), "older versions keep the bucket");
    done(&cluster, &["rm", "papers/a", "--version-id", &marker]);
    holds(&cluster, "papers/a", &contents[2]);

    done(&cluster, &["rm", "papers/a", "--version-id", &versions[2]]);
    holds(&cluster, "papers/a", &contents[1]);
    done(&cluster, &["cp", "papers/a", "papers/a", "--version-id", &versions[0]]);
    holds(&cluster, "papers/a", &contents[0]);
    let used = json(&cluster, &["du", "papers"]);
    assert_eq!((used["objects"].as_u64(), used["older_versions"].as_u64()), (Some(1), Some(2)));
    assert_eq!((used["bytes"].as_u64(), used["older_bytes"].as_u64()), (Some(5 * MIB), Some(10 * MIB)));

    done(&cluster, &["rm", "papers/a", "--versions"]);
    let is_empty = |status: &ClusterStatus| {
        let nodes = status.raw["data_nodes"].as_array();
        let chunks = nodes.map(|nodes| nodes.iter().filter_map(|node| node["chunks"].as_u64()).sum());
        chunks == Some(0) && status.pending_deletes == 0
    };
    assert!(cluster.await_status(WITHIN, is_empty).is_some(), "chunks stay: {:?}", cluster.status());
    done(&cluster, &["rb", "papers"]);
}

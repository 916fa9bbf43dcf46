//! Metadata that are lost, and come back from a backup.

use std::{fs, os::unix::fs::PermissionsExt as _, time::Duration};

use xdpfs_testbed::{Cluster, Content};

use crate::support::{cluster, done, holds, holds_nothing, json, put};

fn text(path: &std::path::Path) -> &str {
    path.to_str().expect("a temporary path is text")
}

#[test]
fn metadata_that_were_lost_come_back_from_a_backup() {
    let mut cluster = cluster();
    let contents = [0, 1, 70_000, 9 << 20].map(|size| (format!("data/{size}"), Content::new(size, size)));
    for (address, content) in &contents {
        put(&cluster, address, content);
    }
    let directory = tempfile::tempdir().expect("a temporary directory");
    let backup = directory.path().join("backup.xdpfs");
    fs::write(&backup, "an older one").expect("it can be written");
    let made = json(&cluster, &["meta", "backup", text(&backup)]);
    assert_eq!(made["objects"], 4);
    let mode = fs::metadata(&backup).expect("it is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    put(&cluster, "data/later", &Content::new(1, 1000));

    let servers = cluster.all_meta_servers();
    for server in &servers {
        assert!(cluster.stop(*server).expect("it stops"));
        let checked = json(&cluster, &["meta", "check", text(&cluster.data_dir(*server))]);
        // One that has yet to hear that the last entry is agreed on does not count it.
        let (objects, buckets) = (checked["objects"].as_u64(), checked["buckets"].as_u64());
        assert!(matches!((objects, buckets), (Some(4 | 5), Some(1))), "{checked}");
        fs::remove_dir_all(cluster.data_dir(*server)).expect("it is lost");
    }
    let members = cluster.member_options();
    for (index, server) in servers.iter().enumerate() {
        let (id, data_dir) = ((index + 1).to_string(), cluster.data_dir(*server));
        let words = ["meta", "restore", text(&backup), "--data-dir", text(&data_dir), "--id", &id];
        let members = members.iter().map(String::as_str);
        done(&cluster, &words.into_iter().chain(members).collect::<Vec<_>>());
    }
    cluster.restart_all(&servers).expect("they start with what was restored");
    let is_whole = cluster.await_status(Duration::from_secs(30), |status| status.data_nodes_alive == 3);
    assert!(is_whole.is_some(), "the data nodes belong to it as before");
    for (address, content) in &contents {
        holds(&cluster, address, content);
    }
    holds_nothing(&cluster, "data/later");
    let content = Content::new(11, 5 << 20);
    put(&cluster, "data/later", &content);
    holds(&cluster, "data/later", &content);
}

#[test]
fn what_is_no_backup_and_what_is_in_use_is_refused() {
    let cluster = cluster();
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("file");
    let check = |cluster: &Cluster, args: &[&str], code: i32, expect: &str| {
        let output = cluster.cli().run(args);
        assert_eq!(output.code, Some(code), "{args:?}: {}", output.stderr);
        assert!(output.stderr.contains(expect), "{args:?}: {}", output.stderr);
    };
    fs::write(&file, "something else").expect("it can be written");
    check(&cluster, &["meta", "check", text(&file)], 7, "no backup");
    done(&cluster, &["meta", "backup", text(&file)]);
    let whole = fs::read(&file).expect("it is there");
    fs::write(&file, &whole[..whole.len() - 1]).expect("it can be written");
    check(&cluster, &["meta", "check", text(&file)], 7, "not complete");
    check(&cluster, &["meta", "check", text(&directory.path().join("none"))], 3, "cannot read");
    check(&cluster, &["meta", "check", text(directory.path())], 3, "holds no store");
    check(&cluster, &["meta", "backup", text(directory.path())], 1, "is a directory");
    let server = cluster.all_meta_servers()[0];
    check(&cluster, &["meta", "check", text(&cluster.data_dir(server))], 5, "stop the server first");
    fs::write(&file, &whole).expect("it can be written");
    let data_dir = cluster.data_dir(server);
    let words = ["meta", "restore", text(&file), "--data-dir", text(&data_dir), "--id", "1"];
    let members = cluster.member_options();
    let words: Vec<_> = words.into_iter().chain(members.iter().map(String::as_str)).collect();
    check(&cluster, &words, 4, "not empty");
    let stranger: Vec<_> = words.iter().map(|word| if *word == "1" { "9" } else { word }).collect();
    check(&cluster, &stranger, 2, "not among the members");
}

//! What a bundle for somebody who helps from afar holds, and what it does not.

use std::{fs, path::Path, process::Command};

use xdpfs_testbed::{ClusterOptions, Content, Member};

use crate::support::{cluster_with, done, put};

#[test]
fn bundle_shows_the_cluster_and_names_no_object() {
    let env = vec![("XDPFS_META_HTTP_LISTEN".to_owned(), "127.0.0.1:0".to_owned())];
    let cluster = cluster_with(ClusterOptions { env, ..ClusterOptions::default() });
    put(&cluster, "data/secret-plans", &Content::new(1, 100_000));
    let home = tempfile::tempdir().expect("a directory");
    let file = home.path().join("case.tar.gz");
    let file = file.to_str().expect("its path is text");
    let ready = cluster.ready_line(Member::MetaServer(0));
    let http =
        ready.split_whitespace().find_map(|word| word.strip_prefix("http=")).expect("it tells metrics");
    let nowhere = home.path().join("no.log");
    let nowhere = nowhere.to_str().expect("its path is text");
    let output = done(&cluster, &["debug", "bundle", "--output", file, "--metrics", http, "--log", nowhere]);
    assert!(output.text().contains("without log-1-no.log.txt"), "{}", output.text());
    unpack(file, home.path());
    let texts = texts(home.path());
    let text = |name: &str| {
        let found = texts.iter().find(|(found, _)| found.starts_with(name));
        &found.unwrap_or_else(|| panic!("{name} is in the bundle")).1
    };
    assert!(text("status.json").contains("\"leader_id\":"));
    assert!(text("doctor.json").contains("\"state\":"));
    assert!(text("metrics-").contains("xdpfs_meta_leads"));
    assert!(text("about.json").contains("\"version\""));
    for (name, text) in &texts {
        assert!(!text.contains("secret-plans"), "{name} names an object");
    }
    let again = cluster.cli().run(["debug", "bundle", "--output", file]);
    assert_ne!(again.code, Some(0), "a bundle that is there is not replaced");
}

fn unpack(file: &str, into: &Path) {
    let status = Command::new("tar").args(["-xzf", file, "--strip-components=1", "-C"]).arg(into).status();
    assert!(status.expect("tar runs").success());
}

/// All files that were unpacked, by name.
fn texts(directory: &Path) -> Vec<(String, String)> {
    let entries =
        fs::read_dir(directory).expect("it can be read").map(|entry| entry.expect("an entry").path());
    let files = entries.filter(|path| !path.to_string_lossy().ends_with(".gz"));
    let named = |path: std::path::PathBuf| {
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        (name, fs::read_to_string(&path).expect("it is text"))
    };
    files.map(named).collect()
}

//! Options out of a file, as whoever starts a server has them.

use std::{fs, path::Path, process::Command};

use xdpfs_testbed::Cluster;

/// The server beside the command line tool.
fn server(name: &str, args: &[&str]) -> (Option<i32>, String, String) {
    let tool = Cluster::tool().expect("the binaries are there");
    let mut command = Command::new(tool.program.with_file_name(name));
    for (variable, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("XDPFS_"))
    {
        command.env_remove(variable);
    }
    let output = command.args(args).env("XDPFS_META_REQUESTS_MAX", "77").output().expect("it runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("it is text");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn written(directory: &Path, text: &str) -> String {
    let path = directory.join("server.toml");
    fs::write(&path, text).expect("the directory can be written");
    path.to_str().expect("its path is text").to_owned()
}

#[test]
fn what_a_server_was_told_is_shown_with_where_it_came_from() {
    let home = tempfile::tempdir().expect("a directory");
    let text = "id = 1\nmember = ['1,a:1,a:2']\ndata-dir = '/d'\nrequests-max = 5\nsnapshot-count = 9\n";
    let file = written(home.path(), text);
    let args = ["--config", &file, "--snapshot-count", "100", "--show-config"];
    let (code, shown, complaints) = server("xdpfs-meta-server", &args);
    assert_eq!(code, Some(0), "{complaints}");
    let has = |start: &str, origin: &str| {
        let line = shown.lines().find(|line| line.starts_with(start));
        assert!(line.is_some_and(|line| line.ends_with(origin)), "{start} {origin} is missing in\n{shown}");
    };
    has("id = 1 ", &format!("# file {file}"));
    has("snapshot-count = 100 ", "# command line");
    has("requests-max = 77 ", "# environment XDPFS_META_REQUESTS_MAX");
    has("capability-s = 120 ", "# default");
}

#[test]
fn unknown_key_ends_the_start_with_its_name() {
    let home = tempfile::tempdir().expect("a directory");
    let file = written(home.path(), "data_dir = '/d'\n");
    for (name, args) in [
        ("xdpfs-meta-server", vec!["--config", &file]),
        ("xdpfs-data-node", vec!["--config", &file]),
        ("xdpfs-data-node", vec!["edge", "--config", &file]),
    ] {
        let (code, _, complaints) = server(name, &args);
        assert_eq!(code, Some(2), "{name}: {complaints}");
        assert!(
            complaints.contains("data_dir") && complaints.contains("server.toml"),
            "{name}: {complaints}"
        );
    }
}

//! The programs of `examples/`, run against a cluster and a gateway. The feature `examples` says that they were made ready, as
//! `cargo xtask examples` does.

#![expect(clippy::unwrap_used, reason = "a test that meets the unexpected has failed")]

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use xdpfs_testbed::{Cluster, ClusterOptions, Process, ProcessSpec};

const LONG: Duration = Duration::from_secs(60);

/// Where `cargo xtask examples` has put what an example needs.
fn made(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("examples-of-sdks").join(name)
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Runs it with the gateway's address behind its other words, once without and once with an access key.
fn runs(program: &dyn Fn() -> Command, behind: &[&str], bytes: usize) {
    let options = ClusterOptions { meta_servers: 1, ..ClusterOptions::default() };
    let cluster = Cluster::start(options).unwrap();
    let spec = ProcessSpec {
        name: "gateway".to_owned(),
        program: PathBuf::from(env!("CARGO_BIN_EXE_xdpfs-gateway")),
        args: ["--meta", cluster.endpoint(), "--listen", "127.0.0.1:0"].map(Into::into).to_vec(),
        env: Vec::new(),
        log: cluster.dir().join("gateway.log"),
        namespace: None,
    };
    let mut gateway = Process::spawn(&spec).unwrap();
    let ready = gateway.await_ready(LONG).unwrap();
    let address = ready.strip_prefix("address=").unwrap().to_owned();
    let run = |key: Option<&str>| {
        let mut command = program();
        command.arg(&address).args(behind).env_remove("XDPFS_CA").env_remove("XDPFS_ACCESS_KEY");
        command.envs(key.map(|key| ("XDPFS_ACCESS_KEY", key)));
        let output = command.output().unwrap();
        (
            output.status.success(),
            String::from_utf8(output.stdout).unwrap(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    let works = |key| {
        let (success, said, errors) = run(key);
        assert!(success, "{said}\n{errors}");
        let lines: Vec<_> = said.lines().map(str::to_lowercase).collect();
        let has = |begin: &str, end: &str| {
            let found = lines.iter().any(|line| line.starts_with(begin) && line.ends_with(end));
            assert!(found, "{begin} … {end} is missing in\n{said}");
        };
        has(&format!("put {bytes} bytes as version "), "on 3 nodes");
        has(&format!("got {bytes} bytes, the same"), "");
        has("listed: greetings/first", "");
        // Each language has its own way to write a code.
        has("put again, only if there is none: failed", "precondition_failed");
        has("get after the delete: not", "object_not_found");
    };
    works(None);
    let made =
        cluster.cli().run(["key", "create", "--admin", "*", "--read", "*", "--write", "*", "--list", "*"]);
    assert_eq!(made.code, Some(0), "{}", made.stderr);
    let key = made.text().trim().to_owned();
    let (success, said, errors) = run(None);
    assert!(!success, "the cluster is closed by now: {said}{errors}");
    works(Some(&key));
}

#[test]
fn python_program_puts_and_gets() {
    let program = || {
        let mut python = Command::new(made("python").join("bin/python"));
        python.arg(root().join("examples/python-grpc/objects.py"));
        python.env("PYTHONPATH", made("python-stubs"));
        python
    };
    runs(&program, &[], 3_072_000);
}

#[test]
fn go_program_puts_and_gets() {
    runs(&|| Command::new(made("go").join("objects")), &[], 3_600_000);
}

#[test]
fn typescript_program_puts_and_gets() {
    let program = || {
        let mut node = Command::new("node");
        node.arg(made("typescript").join("objects.js"));
        node
    };
    let protos = root().join("proto");
    runs(&program, &[protos.to_str().unwrap()], 3_000_000);
}

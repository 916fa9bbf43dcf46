//! `xdpfs-cli dev` as a real process, and the other commands against it.

#![expect(clippy::unwrap_used, reason = "the helpers belong to the tests, which panic when they fail")]

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Output, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_xdpfs-cli");
/// Far more than anything here takes; a test that waits longer has found something.
const PATIENCE: Duration = Duration::from_secs(60);

/// A cluster in a process of its own.
struct Cluster {
    child: Child,
    endpoint: String,
    /// Standard output behind the line that says where it is.
    rest: mpsc::Receiver<String>,
}

impl Cluster {
    fn start(data_dir: &Path) -> Self {
        Self::start_with(data_dir, &[])
    }

    fn start_with(data_dir: &Path, args: &[&str]) -> Self {
        let mut child = Command::new(PROGRAM)
            .args(["dev", "--data-dir"])
            .arg(data_dir)
            .args(args)
            .env_remove("XDPFS_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let rest = read_lines(child.stdout.take().unwrap());
        let ready = rest.recv_timeout(PATIENCE).expect("the cluster is not ready");
        let endpoint = ready.strip_prefix("ready XDPFS_ENDPOINT=").expect(&ready).to_owned();
        Self { child, endpoint, rest }
    }

    /// Stops it as `signal` does, and checks that it ends well and has printed nothing but one line.
    fn stop(mut self, signal: Signal) {
        send(&self.child, signal);
        assert!(self.child.wait().unwrap().success());
        assert_eq!(self.rest.recv_timeout(PATIENCE), Err(mpsc::RecvTimeoutError::Disconnected));
    }

    fn command(&self) -> Command {
        let mut command = Command::new(PROGRAM);
        command.env("XDPFS_ENDPOINT", &self.endpoint).env_remove("XDPFS_LOG").stdin(Stdio::null());
        command
    }

    /// Runs a command line and checks its exit code.
    fn run(&self, line: &str, code: i32) -> Output {
        let output = self.command().args(line.split(' ')).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{line}: {output:?}");
        output
    }

    fn text(&self, line: &str) -> String {
        String::from_utf8(self.run(line, 0).stdout).unwrap()
    }

    fn status(&self) -> serde_json::Value {
        serde_json::from_str(&self.text("status --json")).unwrap()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // It has ended already unless a test has failed.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

fn read_lines(stdout: ChildStdout) -> mpsc::Receiver<String> {
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    lines
}

fn send(child: &Child, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    kill_process(pid, signal).unwrap();
}

/// Files to put, and a place for the rest.
struct Files(TempDir);

impl Files {
    fn new() -> Self {
        let files = Self(tempfile::tempdir().unwrap());
        fs::create_dir_all(files.path("tree/sub")).unwrap();
        fs::write(files.path("tree/empty"), "").unwrap();
        fs::write(files.path("tree/small"), "hello, cluster").unwrap();
        // More than one chunk, with an odd end.
        let bytes: Vec<u8> =
            (0..9_000_001_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        fs::write(files.path("tree/sub/large"), bytes).unwrap();
        files
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn at(&self, path: &str) -> String {
        self.path(path).to_str().unwrap().to_owned()
    }

    /// Whether `copy` holds what `tree` holds.
    fn check_copy(&self, copy: &str) {
        for file in ["empty", "small", "sub/large"] {
            let read = |root: &str| fs::read(self.path(root).join(file)).unwrap();
            assert!(read("tree") == read(copy), "{file}");
        }
    }
}

#[test]
fn objects_outlive_the_cluster() {
    let files = Files::new();
    let data_dir = files.path("data/new");
    let cluster = Cluster::start(&data_dir);
    let tree = files.at("tree");

    // Made, put, seen.
    cluster.run("mb demo --chunk-size 1MiB", 0);
    cluster.run("mb demo", 4);
    cluster.run(&format!("put -r {tree} demo/t/"), 0);
    cluster.run(&format!("put {tree}/small xdp://demo/once --if-none-match *"), 0);
    cluster.run(&format!("put {tree}/small demo/once --if-none-match *"), 4);
    assert_eq!(cluster.text("ls demo").lines().count(), 2);
    assert_eq!(cluster.text("ls -r demo/t").lines().count(), 3);
    let stat: serde_json::Value =
        serde_json::from_str(&cluster.text("--json stat s3://demo/t/sub/large")).unwrap();
    assert_eq!((&stat["size"], &stat["durable_replicas"]), (&9_000_001.into(), &3.into()));

    // Got, whole and in part.
    cluster.run(&format!("get -r demo/t {}", files.at("copy")), 0);
    files.check_copy("copy");
    assert_eq!(cluster.text("cat demo/once demo/t/small"), "hello, clusterhello, cluster");
    assert_eq!(cluster.text("get demo/once --range 7- -"), "cluster");
    assert_eq!(cluster.text("cat demo/once --range -3"), "ter");

    // What cannot be done has its own exit code.
    cluster.run("cat demo/none", 3);
    cluster.run("ls none-such", 3);
    cluster.run(&format!("put {tree}/small none-such"), 3);
    cluster.run("get demo/once - --range 14-", 2);
    cluster.run("mb Bad_Name", 2);
    cluster.run("rb demo", 4);
    cluster.run("--endpoint 127.0.0.1:1 --timeout 300ms ls", 5);
    let error = cluster.run("--json stat demo/none", 3).stderr;
    let error: serde_json::Value = serde_json::from_slice(&error).unwrap();
    assert_eq!(error["error"]["kind"], "not_found");

    // Removed, and nothing but that.
    cluster.run("rm demo/once", 0);
    cluster.run("rm demo/once", 3);

    // A second user is kept out.
    let second = cluster.command().args(["dev", "--data-dir"]).arg(&data_dir).output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&second.stderr).contains("in use by another"));

    // Stopped, started again, all there, at the same place.
    let endpoint = cluster.endpoint.clone();
    cluster.stop(Signal::TERM);
    let cluster = Cluster::start(&data_dir);
    assert_eq!(cluster.endpoint, endpoint);
    assert_eq!(cluster.text("ls -r demo").lines().count(), 3);
    cluster.run(&format!("get -r demo/t {}", files.at("again")), 0);
    files.check_copy("again");
    cluster.run("rb --force demo", 0);
    assert_eq!(cluster.text("ls"), "");
    cluster.stop(Signal::INT);
}

#[test]
fn an_interrupted_transfer_leaves_nothing() {
    let files = Files::new();
    let cluster = Cluster::start(&files.path("data"));
    cluster.run("mb demo", 0);

    let mut put = cluster.command();
    let mut put = put.args(["put", "-", "demo/key"]).stdin(Stdio::piped()).spawn().unwrap();
    let mut input = put.stdin.take().unwrap();
    // The pipe holds less than this, so the put has begun when it is written.
    input.write_all(&vec![1; 6 << 20]).unwrap();
    wait_until(|| cluster.status()["open_uploads"] == 1);
    send(&put, Signal::INT);
    assert_eq!(put.wait().unwrap().code(), Some(130));
    assert_eq!(cluster.status()["open_uploads"], 0);
    cluster.run("stat demo/key", 3);
    drop(input);

    // The reader of standard output goes away in the middle.
    cluster.run(&format!("put {} demo/large", files.at("tree/sub/large")), 0);
    let mut cat = cluster.command().args(["cat", "demo/large"]).stdout(Stdio::piped()).spawn().unwrap();
    drop(cat.stdout.take());
    assert_eq!(cat.wait().unwrap().code(), Some(141));
    cluster.stop(Signal::TERM);
}

#[test]
fn gateway_is_served_where_it_is_asked_for() {
    let files = Files::new();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let cluster = Cluster::start_with(&files.path("data"), &["--gateway-listen", &free]);
    let ask = format!("health {free} xdpfs.object.v1.ObjectService");
    wait_until(|| cluster.command().args(ask.split(' ')).output().unwrap().status.success());
    cluster.stop(Signal::TERM);
}

/// Asks again and again, a process each time, which is slow enough.
fn wait_until(mut holds: impl FnMut() -> bool) {
    let asked = (0..200).any(|_| holds());
    assert!(asked, "it did not come to pass");
}

//! The program: its line on stdout, its exit codes, and what it keeps when it is killed.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
};

use tempfile::TempDir;

use crate::{
    fake_meta::{FakeMeta, Role},
    writer::{Writer, bytes_of, chunk},
};

/// A started program, killed at the end if it still runs.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Program {
    fn start(data_dir: &Path, meta: &str) -> Self {
        let child = Command::new(env!("CARGO_BIN_EXE_xdpfs-data-node"))
            .arg("--data-dir")
            .arg(data_dir)
            .args(["--meta", meta])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self(child)
    }

    /// Waits for the line that says where the node is.
    fn ready(&mut self) -> SocketAddr {
        let mut line = String::new();
        BufReader::new(self.0.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim_end().strip_prefix("ready id=7 address=").expect(&line);
        address.parse().unwrap()
    }

    fn terminate(&self) {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    }

    /// How it ended, and what it said.
    fn end(mut self) -> (ExitStatus, String) {
        let mut said = String::new();
        self.0.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        (self.0.wait().unwrap(), said)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn program_serves_until_it_is_told_to_stop() {
    let (home, meta) = (TempDir::new().unwrap(), FakeMeta::start().await);
    let mut program = Program::start(&home.path().join("data"), &meta.address.to_string());
    let writer = Writer::at(program.ready());
    writer.write_checked(&meta, chunk(1), &bytes_of(chunk(1), 100_000)).await;
    program.terminate();
    let (status, said) = program.end();
    assert_eq!(status.code(), Some(0), "{said}");
    assert!(said.contains("serving chunks"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_program_comes_back_with_what_it_acknowledged() {
    let (home, meta) = (TempDir::new().unwrap(), FakeMeta::start().await);
    let data_dir = home.path().join("data");
    let mut program = Program::start(&data_dir, &meta.address.to_string());
    let writer = Writer::at(program.ready());
    for number in 0..10 {
        writer.write_checked(&meta, chunk(number), &bytes_of(chunk(number), 200_000)).await;
    }
    program.0.kill().unwrap();
    program.0.wait().unwrap();
    let mut program = Program::start(&data_dir, &meta.address.to_string());
    let reader = Writer::at(program.ready());
    for number in 0..10 {
        let read = reader.read(chunk(number), 0..200_000).await.unwrap();
        assert!(read == bytes_of(chunk(number), 200_000), "{number}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn program_stops_while_it_waits_for_a_leader() {
    let (home, meta) = (TempDir::new().unwrap(), FakeMeta::start().await);
    meta.heard().role = Role::Follower(None);
    let program = Program::start(&home.path().join("data"), &meta.address.to_string());
    let lock = home.path().join("data").join("segments").join("LOCK");
    while !lock.exists() {
        tokio::task::yield_now().await;
    }
    program.terminate();
    let (status, said) = program.end();
    assert_eq!(status.code(), Some(0), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_codes_tell_bad_usage_from_failure() {
    let (home, meta) = (TempDir::new().unwrap(), FakeMeta::start().await);
    let (status, said) = Program::start(home.path(), "not-an-endpoint").end();
    assert_eq!(status.code(), Some(2), "{said}");
    assert!(said.contains("not HOST:PORT"), "{said}");

    let file = home.path().join("file");
    std::fs::write(&file, "").unwrap();
    let (status, said) = Program::start(&file, &meta.address.to_string()).end();
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("can't be used"), "{said}");

    meta.heard().role = Role::Refusing("WRONG_CLUSTER");
    let (status, said) = Program::start(&home.path().join("data"), &meta.address.to_string()).end();
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("another cluster"), "{said}");
}

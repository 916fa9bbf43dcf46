//! A data node as a process of its own.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _},
    net::SocketAddr,
    process::{Child, Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};
use xdpfs_proto::node::v1::HeartbeatRequest;

/// A started node, killed at the end if it still runs.
pub(crate) struct Program {
    child: Child,
    /// Once it serves.
    pub(crate) address: SocketAddr,
    pub(crate) first_beat: Option<HeartbeatRequest>,
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Program {
    pub(crate) fn start(command: &mut Command) -> Self {
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        Self { child, address: SocketAddr::from(([0; 4], 0)), first_beat: None }
    }

    pub(crate) fn await_ready(&mut self) {
        let mut line = String::new();
        BufReader::new(self.child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        match line.trim_end().split_once("address=") {
            Some((_, address)) => self.address = address.parse().unwrap(),
            None => panic!("it did not start: {}", self.said()),
        }
    }

    /// Where the kernel program runs, as the node tells the metadata service.
    pub(crate) fn mode(&self) -> &str {
        &self.first_beat.as_ref().unwrap().xdp_mode
    }

    /// Why there.
    pub(crate) fn reason(&self) -> &str {
        &self.first_beat.as_ref().unwrap().xdp_reason
    }

    /// Each thread's name, and all that it may or could get: effective, permitted, inheritable, bounding and ambient
    /// capabilities together.
    pub(crate) fn capabilities(&self) -> Vec<(String, u64)> {
        self.threads().iter().map(|status| of_thread(status)).collect()
    }

    /// Each thread's name, and its user, groups and further groups, as many as there are.
    pub(crate) fn users(&self) -> Vec<(String, Vec<String>)> {
        self.threads().iter().map(|status| user_of_thread(status)).collect()
    }

    fn threads(&self) -> Vec<String> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        // Threads come and go.
        tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("status")).ok()).collect()
    }

    /// It is frozen.
    pub(crate) fn pause(&self) {
        kill_process(Pid::from_child(&self.child), Signal::STOP).unwrap();
    }

    /// It goes on.
    pub(crate) fn resume(&self) {
        kill_process(Pid::from_child(&self.child), Signal::CONT).unwrap();
    }

    pub(crate) fn terminate(mut self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        let said = self.said();
        assert!(self.child.wait().unwrap().success(), "{said}");
    }

    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// How it ended, and what it said.
    pub(crate) fn end(mut self) -> (Option<i32>, String) {
        let said = self.said();
        (self.child.wait().unwrap().code(), said)
    }

    /// All that it says until it ends.
    fn said(&mut self) -> String {
        let mut said = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        said
    }
}

fn fields(status: &str) -> impl Iterator<Item = (&str, &str)> {
    status.lines().filter_map(|line| line.split_once(":\t"))
}

fn name_of_thread(status: &str) -> String {
    fields(status).find(|(field, _)| *field == "Name").unwrap().1.to_owned()
}

fn user_of_thread(status: &str) -> (String, Vec<String>) {
    let ids = fields(status).filter(|(field, _)| matches!(*field, "Uid" | "Gid" | "Groups"));
    let ids = ids.flat_map(|(_, ids)| ids.split_whitespace().map(str::to_owned));
    (name_of_thread(status), ids.collect())
}

fn of_thread(status: &str) -> (String, u64) {
    let sets = fields(status).filter(|(field, _)| field.starts_with("Cap"));
    (name_of_thread(status), sets.fold(0, |all, (_, bits)| all | u64::from_str_radix(bits, 16).unwrap()))
}

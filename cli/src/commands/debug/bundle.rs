//! `debug bundle`: one file with all that there is to see from this host.
//!
//! Invariant: no secret, and no name of an object, gets into it. Values of environment variables stay out; what servers tell holds none.

use std::{
    env,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use clap::Args;
use serde::Serialize;

use super::{
    archive::Archive,
    part::{self, Part},
};
use crate::{
    arguments::Common,
    commands::xdp,
    console::Console,
    failure::{Exit, Failure},
    units::count,
};

/// Write what this host can see of the cluster and of itself into one file.
#[derive(Debug, Args)]
#[command(after_help = "\
In the file are, as far as they can be had: the cluster's state (with --endpoint), what doctor finds,
what the kernel programs of this host do, metrics (--metrics) and the ends of logs (--log). What can't
be had is named in it, and the others are there all the same.

There are no access keys, no secrets and no names of objects in it, but addresses of servers and
names of interfaces. Look at it before you give it away.

Examples:
  sudo xdpfs-cli debug bundle --data-dir /var/lib/xdpfs --log /var/log/xdpfs-node.log
  xdpfs-cli debug bundle --metrics 10.0.0.1:9600 --metrics 10.0.0.2:9600 --output case-7.tar.gz")]
pub(super) struct BundleArguments {
    /// The file to write. By default xdpfs-debug-TIME.tar.gz here. One that is there is not replaced.
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// A data directory that doctor shall look at; may be given again.
    #[arg(long = "data-dir", value_name = "DIR")]
    data_dirs: Vec<PathBuf>,
    /// A server's --http-listen address; may be given again.
    #[arg(long = "metrics", value_name = "HOST:PORT")]
    metrics: Vec<String>,
    /// A server's log, of which the end is taken; may be given again.
    #[arg(long = "log", value_name = "FILE")]
    logs: Vec<PathBuf>,
}

/// How long one command may take.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(60);

/// What is on the first page.
#[derive(Debug, Serialize)]
struct About {
    version: &'static str,
    time: String,
    kernel: Option<String>,
    /// Their names alone.
    environment: Vec<String>,
    missing: Vec<Missing>,
}

#[derive(Debug, Serialize)]
struct Missing {
    part: String,
    why: String,
}

/// What was written.
#[derive(Debug, Serialize)]
struct BundleRecord<'a> {
    file: &'a Path,
    parts: Vec<&'a str>,
    missing: &'a [Missing],
}

/// Collects and writes.
pub(super) async fn run(
    arguments: &BundleArguments,
    common: &Common,
    console: &mut Console,
) -> Result<Exit, Failure> {
    let time = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    let name = format!("xdpfs-debug-{}", time.replace([':', '-'], ""));
    let output = arguments.output.clone().unwrap_or_else(|| format!("{name}.tar.gz").into());
    // Before anybody waits for what can't be written then.
    let archive = Archive::create(&output, &name)?;
    let (parts, missing) = collect(arguments, common).await;
    let about = About {
        version: env!("CARGO_PKG_VERSION"),
        time,
        kernel: kernel(),
        environment: variables(),
        missing,
    };
    let text = serde_json::to_vec_pretty(&about)
        .map_err(|error| Failure::machine(format!("cannot write the first page: {error}")))?;
    archive.write([&Part { name: "about.json".to_owned(), content: text }].into_iter().chain(&parts))?;
    let record = BundleRecord {
        file: &output,
        parts: parts.iter().map(|part| part.name.as_str()).collect(),
        missing: &about.missing,
    };
    console.answer(&record, || told(&record))?;
    Ok(Exit::Done)
}

fn told(record: &BundleRecord<'_>) -> String {
    let mut text = format!("{}: {}\n", record.file.display(), count(record.parts.len() as u64, "part"));
    for Missing { part, why } in record.missing {
        text += &format!("  without {part}: {why}\n");
    }
    text
}

async fn collect(arguments: &BundleArguments, common: &Common) -> (Vec<Part>, Vec<Missing>) {
    let (mut parts, mut missing) = (Vec::new(), Vec::new());
    let mut take = |name: String, result: Result<Vec<u8>, String>| match result {
        Ok(content) => parts.push(Part { name, content }),
        Err(why) => missing.push(Missing { part: name, why }),
    };
    for (name, words) in commands(arguments, &xdp::usual_sockets()) {
        take(name, part::command(&words, &common.environment(), COMMAND_TIMEOUT).await);
    }
    for address in &arguments.metrics {
        let name = format!("metrics-{}.txt", file_name(address));
        take(name, part::metrics(address, common.timeout).await);
    }
    for (number, log) in arguments.logs.iter().enumerate() {
        let name = log.file_name().map(|name| file_name(&name.to_string_lossy())).unwrap_or_default();
        take(format!("log-{}-{name}.txt", number + 1), part::end_of(log));
    }
    (parts, missing)
}

/// What of this program is run, and where its answer goes.
fn commands(arguments: &BundleArguments, sockets: &[PathBuf]) -> Vec<(String, Vec<String>)> {
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let mut doctor = words(&["--json", "doctor"]);
    for directory in &arguments.data_dirs {
        doctor.extend(["--data-dir".to_owned(), directory.to_string_lossy().into_owned()]);
    }
    let mut commands =
        vec![("status.json".to_owned(), words(&["--json", "status"])), ("doctor.json".to_owned(), doctor)];
    for socket in sockets {
        let name = socket.file_stem().map(|name| file_name(&name.to_string_lossy())).unwrap_or_default();
        for question in ["status", "stats"] {
            let asked = words(&["--json", "xdp", question, "--socket", &socket.to_string_lossy()]);
            commands.push((format!("xdp-{question}-{name}.json"), asked));
        }
    }
    commands
}

/// A part of a file's name, of whatever somebody has typed.
fn file_name(text: &str) -> String {
    let safe = |c: char| if c.is_ascii_alphanumeric() || ".-_".contains(c) { c } else { '-' };
    text.chars().take(100).map(safe).collect()
}

fn kernel() -> Option<String> {
    std::fs::read_to_string("/proc/sys/kernel/osrelease").ok().map(|text| text.trim().to_owned())
}

/// What is set for xdpfs: a value may be a secret, a name is none.
fn variables() -> Vec<String> {
    let names = env::vars_os().map(|(name, _)| name.to_string_lossy().into_owned());
    let mut names: Vec<_> = names.filter(|name| name.starts_with("XDPFS_")).collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_socket_is_asked_and_each_directory_is_named() {
        let arguments = BundleArguments {
            output: None,
            data_dirs: vec!["/d".into()],
            metrics: Vec::new(),
            logs: Vec::new(),
        };
        let found: Vec<_> = commands(&arguments, &["/run/xdpfs/node-7400.sock".into()])
            .into_iter()
            .map(|(name, words)| format!("{name}: {}", words.join(" ")))
            .collect();
        assert_eq!(
            found,
            [
                "status.json: --json status",
                "doctor.json: --json doctor --data-dir /d",
                "xdp-status-node-7400.json: --json xdp status --socket /run/xdpfs/node-7400.sock",
                "xdp-stats-node-7400.json: --json xdp stats --socket /run/xdpfs/node-7400.sock",
            ]
        );
    }

    #[test]
    fn names_of_parts_stay_in_their_directory() {
        assert_eq!(file_name("[::1]:9600"), "---1--9600");
        assert_eq!(file_name("../../etc/passwd"), "..-..-etc-passwd");
        assert_eq!(file_name(&"x".repeat(1000)).len(), 100);
    }
}

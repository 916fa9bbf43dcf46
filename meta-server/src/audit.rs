//! Who did what to the cluster: administrative acts, done and refused, in the log and in a file of their own.
//!
//! Invariant: no secret and no object's key is ever noted. What callers without a key can make it write is bounded in
//! time; what was left out for that is counted.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write as _},
    net::SocketAddr,
    path::Path,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use serde_json::json;

/// Notes of callers that proved nothing, in one [`PERIOD`].
const STRANGERS_MAX: u32 = 20;
const PERIOD: Duration = Duration::from_secs(1);
/// Bytes that are kept of a text that a caller has chosen.
const TEXT_BYTES_MAX: usize = 256;

/// An act, and how it ended.
#[derive(Debug)]
pub(crate) struct Act<'a> {
    /// What was asked for, such as `CreateBucket`.
    pub(crate) name: &'static str,
    /// The id of an access key, `root`, or `anonymous` while the cluster is open; none for a caller that proved nothing.
    pub(crate) actor: Option<&'a str>,
    /// The bucket or the access key.
    pub(crate) subject: &'a str,
    /// The caller's name for the request.
    pub(crate) request_id: &'a str,
    /// Where it came from.
    pub(crate) peer: Option<SocketAddr>,
    /// `done`, or the reason of the refusal.
    pub(crate) outcome: &'static str,
}

/// Where acts are noted.
#[derive(Debug)]
pub(crate) struct Audit {
    file: Option<Mutex<File>>,
    strangers: Mutex<Strangers>,
}

/// How much callers that proved nothing have made it write of late.
#[derive(Debug)]
struct Strangers {
    since: Instant,
    noted: u32,
    left_out: u64,
}

impl Audit {
    /// # Errors
    ///
    /// The file cannot be opened.
    pub(crate) fn open(file: Option<&Path>) -> io::Result<Self> {
        let append = |file| {
            use std::os::unix::fs::OpenOptionsExt as _;
            OpenOptions::new().create(true).append(true).mode(0o600).open(file)
        };
        let file = file.map(append).transpose()?.map(Mutex::new);
        let strangers = Mutex::new(Strangers { since: Instant::now(), noted: 0, left_out: 0 });
        Ok(Self { file, strangers })
    }

    /// Notes an act. Acts are rare, so whoever asked for one waits until it is written.
    pub(crate) fn note(&self, act: &Act<'_>) {
        let mut left_out = 0;
        if act.actor.is_none() {
            let mut strangers = self.strangers.lock().unwrap_or_else(PoisonError::into_inner);
            match strangers.admit(Instant::now()) {
                Some(count) => left_out = count,
                None => return,
            }
        }
        let (subject, request_id) = (bounded(act.subject), bounded(act.request_id));
        let actor = act.actor.unwrap_or_default();
        let peer = act.peer.map(|peer| peer.to_string()).unwrap_or_default();
        tracing::info!(
            target: "audit",
            act = act.name,
            actor,
            subject,
            request_id,
            peer,
            outcome = act.outcome,
            left_out,
            "an administrative act"
        );
        let Some(file) = &self.file else { return };
        let time_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
        let line = json!({
            "time_ms": time_ms,
            "act": act.name,
            "actor": actor,
            "subject": subject,
            "request_id": request_id,
            "peer": peer,
            "outcome": act.outcome,
            "left_out": left_out,
        });
        let line = format!("{line}\n");
        let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
        // In one write, so that lines of several processes do not mix.
        if let Err(error) = file.write_all(line.as_bytes()) {
            tracing::warn!(%error, "an administrative act is missing in the audit log");
        }
    }
}

impl Strangers {
    /// Whether there is room for one more note; then how many were left out before it.
    fn admit(&mut self, now: Instant) -> Option<u64> {
        if now.saturating_duration_since(self.since) >= PERIOD {
            (self.since, self.noted) = (now, 0);
        }
        if self.noted >= STRANGERS_MAX {
            self.left_out += 1;
            return None;
        }
        self.noted += 1;
        Some(std::mem::take(&mut self.left_out))
    }
}

fn bounded(text: &str) -> String {
    let text = &text[..text.floor_char_boundary(TEXT_BYTES_MAX)];
    text.chars().filter(|c| !c.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACT: Act<'_> = Act {
        name: "CreateBucket",
        actor: Some("root"),
        subject: "photos",
        request_id: "id",
        peer: None,
        outcome: "done",
    };

    fn lines(path: &Path) -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(path).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn acts_are_lines_that_are_appended() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit.log");
        let peer = Some("127.0.0.1:5".parse().unwrap());
        Audit::open(Some(&path)).unwrap().note(&ACT);
        let refused = Act { actor: None, peer, outcome: "ACCESS_KEY_INVALID", subject: "a\n\"b", ..ACT };
        Audit::open(Some(&path)).unwrap().note(&refused);
        let lines = lines(&path);
        assert_eq!(lines.len(), 2);
        assert_eq!((&lines[0]["actor"], &lines[0]["outcome"]), (&"root".into(), &"done".into()));
        assert_eq!((&lines[1]["actor"], &lines[1]["subject"]), (&"".into(), &"a\"b".into()));
        assert_eq!(lines[1]["peer"], "127.0.0.1:5");
        assert!(lines[0]["time_ms"].as_u64() > Some(1_600_000_000_000));
        assert!(Audit::open(Some(directory.path())).is_err(), "a directory is no file");
    }

    #[test]
    fn strangers_cannot_fill_the_disk_and_others_are_always_noted() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit.log");
        let audit = Audit::open(Some(&path)).unwrap();
        let long = "x".repeat(1 << 20);
        for _ in 0..1000 {
            audit.note(&Act { actor: None, subject: &long, ..ACT });
        }
        audit.note(&ACT);
        let lines = lines(&path);
        // A thousand notes may take longer than one period.
        assert!((20..200).contains(&lines.len()), "{}", lines.len());
        assert_eq!(lines.last().unwrap()["actor"], "root");
        assert!(lines[0]["subject"].as_str().unwrap().len() <= TEXT_BYTES_MAX);
    }

    #[test]
    fn what_was_left_out_is_counted_in_the_next_note() {
        let now = Instant::now();
        let mut strangers = Strangers { since: now, noted: 0, left_out: 0 };
        for _ in 0..STRANGERS_MAX {
            assert_eq!(strangers.admit(now), Some(0));
        }
        assert_eq!(strangers.admit(now), None);
        assert_eq!(strangers.admit(now), None);
        assert_eq!(strangers.admit(now + PERIOD), Some(2));
        assert_eq!(strangers.admit(now + PERIOD), Some(0));
    }
}

//! The user that a process started by root becomes.
//!
//! Invariant: it is per thread, and threads inherit it. So it comes before there are others, and whatever thread is to stay
//! root must have been started before.

use std::{fs, io, str::FromStr};

use thiserror::Error;

const USERS: &str = "/etc/passwd";
const GROUPS: &str = "/etc/group";

/// A user and a group.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RunAs {
    uid: u32,
    gid: u32,
}

/// Why there is no such user.
#[derive(Debug, Error)]
pub enum RunAsError {
    /// A number comes without a group, which only a name has.
    #[error("{0} needs a group: write UID:GID")]
    NoGroup(u32),
    /// The name isn't in the file.
    #[error("there is no {name:?} in {file}; numbers need none: UID:GID")]
    Unknown {
        /// Of the user or the group.
        name: String,
        /// Where it was looked for.
        file: &'static str,
    },
    /// The file can't be read.
    #[error("{file} can't be read; numbers need none: UID:GID")]
    File {
        /// Which one.
        file: &'static str,
        /// Why.
        source: io::Error,
    },
}

impl FromStr for RunAs {
    type Err = RunAsError;

    /// Takes `NAME`, `NAME:GROUP` and `UID:GID`.
    fn from_str(text: &str) -> Result<Self, RunAsError> {
        let (user, group) = text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group)));
        let (uid, group_of_user) = match user.parse() {
            Ok(uid) => (uid, None),
            Err(_) => {
                let entry = entry(USERS, user)?;
                (entry.id, entry.group)
            }
        };
        let gid = match group.map(|group| group.parse().map_err(|_| group)) {
            Some(Ok(gid)) => gid,
            Some(Err(name)) => entry(GROUPS, name)?.id,
            None => group_of_user.ok_or(RunAsError::NoGroup(uid))?,
        };
        Ok(Self { uid, gid })
    }
}

impl RunAs {
    /// Has the calling thread become this user for good, and drop its other groups. Nothing if it is this user already.
    ///
    /// # Errors
    /// That takes `CAP_SETUID` and `CAP_SETGID`, and Linux.
    #[cfg(target_os = "linux")]
    pub fn assume(self) -> io::Result<()> {
        use rustix::{
            process::{Gid, Uid, getegid, geteuid, getgid, getuid},
            thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid},
        };

        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        if [getuid(), geteuid()] == [uid; 2] && [getgid(), getegid()] == [gid; 2] {
            return Ok(());
        }
        // The user last: what changes groups goes with it.
        set_thread_groups(&[gid])?;
        set_thread_res_gid(gid, gid, gid)?;
        set_thread_res_uid(uid, uid, uid)?;
        Ok(())
    }

    /// As on Linux, but that there is no such thing here.
    ///
    /// # Errors
    /// Always.
    #[cfg(not(target_os = "linux"))]
    pub fn assume(self) -> io::Result<()> {
        let _ = (self.uid, self.gid);
        Err(io::ErrorKind::Unsupported.into())
    }
}

struct Entry {
    id: u32,
    group: Option<u32>,
}

fn entry(file: &'static str, name: &str) -> Result<Entry, RunAsError> {
    let text = fs::read_to_string(file).map_err(|source| RunAsError::File { file, source })?;
    find(&text, name).ok_or_else(|| RunAsError::Unknown { name: name.to_owned(), file })
}

/// In lines of `NAME:PASSWORD:ID` and, for users, `:GID`, as passwd(5) and group(5) say.
fn find(text: &str, name: &str) -> Option<Entry> {
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let is_it = fields.next() == Some(name) && !name.is_empty();
        let id = fields.nth(1).filter(|_| is_it)?.parse().ok()?;
        Some(Entry { id, group: fields.next().and_then(|group| group.parse().ok()) })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_named_or_numbered() {
        let check = |text: &str, expect| assert_eq!(text.parse().ok(), expect, "{text:?}");
        check("65532:65533", Some(RunAs { uid: 65532, gid: 65533 }));
        check("root", Some(RunAs { uid: 0, gid: 0 }));
        check("root:7", Some(RunAs { uid: 0, gid: 7 }));
        check("7:root", Some(RunAs { uid: 7, gid: 0 }));
        check("65532", None);
        check("no-such-user", None);
        check("root:no-such-group", None);
        check("", None);
        check(":", None);
        check("-1:-1", None);
    }

    #[test]
    fn only_a_whole_line_of_that_name_counts() {
        let text = "rooty:x:1:1::/:/bin/sh\n\nroot:x:five:0::/:\ndaemon:x:2:\nroot:x:3:4::/:/bin/sh\n";
        let check = |name, expect: Option<(u32, Option<u32>)>| {
            assert_eq!(find(text, name).map(|entry| (entry.id, entry.group)), expect, "{name}");
        };
        check("root", Some((3, Some(4))));
        check("daemon", Some((2, None)));
        check("x", None);
        check("", None);
    }

    #[test]
    fn who_is_the_user_already_needs_nothing() {
        let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        RunAs { uid, gid }.assume().unwrap();
    }
}

//! From keys to paths below a directory.
//!
//! Invariant: a path that comes out of here lies below the directory that went in, whatever the key says.

use std::path::{Path, PathBuf};

/// Why a key is no path.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum NoPath {
    /// It starts with a slash.
    Absolute,
    /// It has two slashes in a row.
    EmptyPart,
    /// It holds a byte that no path may hold.
    Nul,
    /// It goes through `.` or `..`.
    Relative,
    /// It ends with a slash, or is empty.
    Unnamed,
}

impl NoPath {
    /// The reason in words.
    pub(crate) const fn reason(self) -> &'static str {
        match self {
            Self::Absolute => "it starts with a slash",
            Self::EmptyPart => "it has two slashes in a row",
            Self::Nul => "it holds a zero byte",
            Self::Relative => "it goes through . or ..",
            Self::Unnamed => "it ends with a slash",
        }
    }
}

/// The path of `key` below `directory`.
pub(crate) fn join(directory: &Path, key: &str) -> Result<PathBuf, NoPath> {
    if key.is_empty() || key.ends_with('/') {
        return Err(NoPath::Unnamed);
    }
    if key.starts_with('/') {
        return Err(NoPath::Absolute);
    }
    if key.contains('\0') {
        return Err(NoPath::Nul);
    }
    let mut path = directory.to_owned();
    for part in key.split('/') {
        match part {
            "" => return Err(NoPath::EmptyPart),
            "." | ".." => return Err(NoPath::Relative),
            part => path.push(part),
        }
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_keys_become_paths() {
        let check =
            |key: &str, expect: &str| assert_eq!(join(Path::new("d"), key), Ok(expect.into()), "{key}");
        check("a", "d/a");
        check("a/b/c", "d/a/b/c");
        check("..a/b..", "d/..a/b..");
        check("a b/ü\\", "d/a b/ü\\");
        check("...", "d/...");
    }

    #[test]
    fn keys_that_would_leave_the_directory_are_refused() {
        let check = |key: &str, expect| assert_eq!(join(Path::new("d"), key), Err(expect), "{key}");
        check("", NoPath::Unnamed);
        check("a/", NoPath::Unnamed);
        check("/", NoPath::Unnamed);
        check("/etc/passwd", NoPath::Absolute);
        check("//x", NoPath::Absolute);
        check("a//b", NoPath::EmptyPart);
        check("../x", NoPath::Relative);
        check("a/../../x", NoPath::Relative);
        check("..", NoPath::Relative);
        check("./a", NoPath::Relative);
        check("a/.", NoPath::Relative);
        check("a\0b", NoPath::Nul);
    }
}

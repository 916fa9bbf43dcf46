//! The disks that a node has seen, as its data directory remembers them.
//!
//! Invariant: a disk is written here before a chunk is on it, so one that is missing is missed.

use std::path::{Path, PathBuf};

use uuid::Uuid;

use crate::data_directory::{DirectoryError, read_text, write_text};

const FILE: &str = "disks";
const HEAD: &str = "# The disks of this data node: UUID, chunks when it was last looked at, directory.";

/// A disk that was seen.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct KnownDisk {
    pub(crate) uuid: Uuid,
    /// As many as there were when the node last started or stopped.
    pub(crate) chunks: u64,
    /// Where it was.
    pub(crate) directory: PathBuf,
}

/// All of them.
pub(crate) fn read(data_directory: &Path) -> Result<Vec<KnownDisk>, DirectoryError> {
    let Some(text) = read_text(data_directory, FILE)? else { return Ok(Vec::new()) };
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let known = lines.map(parse).collect::<Option<_>>();
    known.ok_or_else(|| DirectoryError::Damaged { path: data_directory.join(FILE) })
}

/// Durable when this returns.
pub(super) fn write(data_directory: &Path, known: &[KnownDisk]) -> Result<(), DirectoryError> {
    let mut text = HEAD.to_owned();
    for KnownDisk { uuid, chunks, directory } in known {
        text += &format!("\n{uuid} {chunks} {}", directory.display());
    }
    write_text(data_directory, FILE, &text)
}

fn parse(line: &str) -> Option<KnownDisk> {
    let mut words = line.splitn(3, ' ');
    let uuid = Uuid::parse_str(words.next()?).ok()?;
    let chunks = words.next()?.parse().ok()?;
    let directory = PathBuf::from(words.next()?);
    directory.is_absolute().then_some(KnownDisk { uuid, chunks, directory })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;

    #[test]
    fn disks_are_what_was_written() {
        let home = TempDir::new().unwrap();
        assert_eq!(read(home.path()).unwrap(), []);
        let disk = |number: u128, directory: &str| KnownDisk {
            uuid: Uuid::from_u128(number),
            chunks: number as u64,
            directory: directory.into(),
        };
        for known in [vec![], vec![disk(1, "/mnt/a disk"), disk(2, "/b")]] {
            write(home.path(), &known).unwrap();
            assert_eq!(read(home.path()).unwrap(), known);
        }
        let file = home.path().join(FILE);
        for damage in ["nonsense", "00000000-0000-0000-0000-000000000001 x /a", "# head\n\n12 /a"] {
            fs::write(&file, damage).unwrap();
            assert!(matches!(read(home.path()), Err(DirectoryError::Damaged { .. })), "{damage}");
        }
    }
}

//! What a scrub remembers over a restart of its node: where to go on, whether an operator holds it, and the last pass.
//!
//! Invariant: nothing that is lost or damaged here does harm: the pass then begins anew.

use std::{fs, io, path::Path};

use super::pass::Pass;

/// The first line, so that another format is told from damage.
const HEAD: &str = "xdpfs scrub 1";

/// All of it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Record {
    /// An operator holds the scrub.
    pub(super) is_held: bool,
    /// A pass under way, and the segment to go on with.
    pub(super) pass: Option<(Pass, u32)>,
    pub(super) last: Option<Pass>,
}

impl Record {
    /// What was written last, or nothing.
    pub(super) fn read(file: &Path) -> Self {
        match fs::read_to_string(file) {
            Ok(text) => Self::parse(&text).unwrap_or_else(|| {
                tracing::warn!("it is unknown how far the scrub was: it begins anew");
                Self::default()
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::default(),
            Err(error) => {
                tracing::warn!(%error, "it is unknown how far the scrub was: it begins anew");
                Self::default()
            }
        }
    }

    /// Not synced: that would have the disk work for something that may be lost.
    pub(super) fn write(&self, file: &Path) -> io::Result<()> {
        let draft = file.with_extension("draft");
        fs::write(&draft, self.text())?;
        fs::rename(&draft, file)
    }

    fn text(&self) -> String {
        let mut text = format!("{HEAD}\nheld {}\n", u8::from(self.is_held));
        if let Some((pass, segment)) = &self.pass {
            text += &format!("pass {segment} {}\n", words(pass));
        }
        if let Some(last) = &self.last {
            text += &format!("last 0 {}\n", words(last));
        }
        text + "end\n"
    }

    fn parse(text: &str) -> Option<Self> {
        let mut record = Self::default();
        let lines = text.strip_suffix("\nend\n")?.strip_prefix(HEAD)?.lines().skip(1);
        for line in lines {
            let (name, rest) = line.split_once(' ')?;
            match name {
                "held" => record.is_held = rest == "1",
                "pass" => record.pass = Some(pass_of(rest)?),
                "last" => record.last = Some(pass_of(rest)?.0),
                _ => return None,
            }
        }
        Some(record)
    }
}

fn words(pass: &Pass) -> String {
    let Pass {
        begin_ms,
        end_ms,
        bytes,
        chunks,
        passed_bytes,
        ahead_bytes,
        damaged_chunks,
        damaged_places,
        read_errors,
    } = pass;
    format!(
        "{begin_ms} {end_ms} {bytes} {chunks} {passed_bytes} {ahead_bytes} {damaged_chunks} {damaged_places} {read_errors}"
    )
}

fn pass_of(words: &str) -> Option<(Pass, u32)> {
    let numbers: Vec<u64> = words.split(' ').map(|word| word.parse().ok()).collect::<Option<_>>()?;
    let [
        segment,
        begin_ms,
        end_ms,
        bytes,
        chunks,
        passed_bytes,
        ahead_bytes,
        damaged_chunks,
        damaged_places,
        read_errors,
    ] = numbers.try_into().ok()?;
    let pass = Pass {
        begin_ms,
        end_ms,
        bytes,
        chunks,
        passed_bytes,
        ahead_bytes,
        damaged_chunks,
        damaged_places,
        read_errors,
    };
    Some((pass, u32::try_from(segment).ok()?))
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    #[test]
    fn record_is_what_was_written_or_nothing() {
        let home = TempDir::new().unwrap();
        let file = home.path().join("scrub");
        assert_eq!(Record::read(&file), Record::default());
        let pass = Pass {
            begin_ms: 1,
            end_ms: 2,
            bytes: 3,
            chunks: 4,
            passed_bytes: 5,
            ahead_bytes: 10,
            damaged_chunks: 6,
            damaged_places: 7,
            read_errors: 8,
        };
        let other = Pass { begin_ms: 9, ..pass };
        let record = Record { is_held: true, pass: Some((pass, 7)), last: Some(other) };
        for record in [record, Record::default()] {
            record.write(&file).unwrap();
            assert_eq!(Record::read(&file), record);
        }
        record.write(&file).unwrap();
        let whole = fs::read_to_string(&file).unwrap();
        for length in 0..whole.len() {
            fs::write(&file, &whole[..length]).unwrap();
            assert_eq!(Record::read(&file), Record::default(), "{length} bytes of it");
        }
    }
}

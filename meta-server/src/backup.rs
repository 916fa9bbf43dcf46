//! A file with all metadata: the records that `CreateBackup` streams, each with its length before it, behind a mark.
//!
//! Invariant: a backup is whole, or it is refused. Every part has a checksum, all of them together another one, and the
//! last record says how much there is.

use std::io::{self, BufRead, Read as _, Write};

use bytes::Bytes;
use prost::Message as _;
use xdpfs_proto::backup::v1::{
    BackupEnd, BackupHeader, BackupPart, BackupRecord, backup_record::Kind as RecordKind,
};

use crate::{
    state_machine::{SnapshotError, State},
    storage::{crc32c, crc32c_combine},
};

/// What such a file begins with.
pub const MARK: &[u8] = b"xdpfs metadata backup\n";
/// The layout of the parts.
pub const FORMAT: u32 = 1;
/// Bytes in one part.
pub const PART_BYTES_MAX: usize = 1 << 20;
/// No record is longer.
const RECORD_BYTES_MAX: usize = PART_BYTES_MAX + (64 << 10);
/// Bytes of a record's length.
const LENGTH_BYTES: usize = 4;

/// Why a backup is no good.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackupError {
    /// A part is not what was written.
    #[error("it is damaged at byte {at}")]
    Damaged {
        /// Where in the state the part begins.
        at: u64,
    },
    /// It was made by a later release.
    #[error("it has the format {0}, and this program reads format {FORMAT}")]
    Format(u32),
    /// It ends before it is complete.
    #[error("it is not complete: making it was interrupted")]
    Incomplete,
    /// The file can't be read, or not written.
    #[error("the file failed")]
    Io(#[from] io::Error),
    /// It is something else.
    #[error("it is no backup of xdpfs metadata: {0}")]
    Malformed(&'static str),
    /// The parts are whole and mean nothing.
    #[error("its content makes no sense")]
    State(#[from] SnapshotError),
}

/// Looks at records as they come.
#[derive(Debug, Default)]
pub struct Inspector {
    header: Option<BackupHeader>,
    bytes: u64,
    crc32c: u32,
    is_complete: bool,
}

impl Inspector {
    /// Takes the next record.
    ///
    /// # Errors
    ///
    /// It can't be the next record of a backup that is good.
    pub fn inspect(&mut self, record: &BackupRecord) -> Result<(), BackupError> {
        if self.is_complete {
            return Err(BackupError::Malformed("a record behind the last one"));
        }
        match (&self.header, &record.kind) {
            (None, Some(RecordKind::Header(header))) if header.format == FORMAT => {
                self.header = Some(header.clone());
                Ok(())
            }
            (None, Some(RecordKind::Header(header))) => Err(BackupError::Format(header.format)),
            (Some(_), Some(RecordKind::Part(part))) => self.inspect_part(part),
            (Some(_), Some(RecordKind::End(end))) => self.inspect_end(end),
            (None, _) => Err(BackupError::Malformed("the first record is no header")),
            (Some(_), _) => Err(BackupError::Malformed("a record of an unknown kind, or a second header")),
        }
    }

    /// The header, once all records are there.
    ///
    /// # Errors
    ///
    /// The last one has not come.
    pub fn finish(self) -> Result<BackupHeader, BackupError> {
        self.header.filter(|_| self.is_complete).ok_or(BackupError::Incomplete)
    }

    fn inspect_part(&mut self, part: &BackupPart) -> Result<(), BackupError> {
        if part.data.is_empty() || part.data.len() > PART_BYTES_MAX {
            return Err(BackupError::Malformed("a part of a wrong length"));
        }
        if crc32c(&part.data) != part.crc32c {
            return Err(BackupError::Damaged { at: self.bytes });
        }
        self.crc32c = crc32c_combine(self.crc32c, part.crc32c, part.data.len() as u64);
        self.bytes += part.data.len() as u64;
        Ok(())
    }

    fn inspect_end(&mut self, end: &BackupEnd) -> Result<(), BackupError> {
        if (end.bytes, end.crc32c) != (self.bytes, self.crc32c) {
            return Err(BackupError::Malformed("the parts are not those that it was made of"));
        }
        self.is_complete = true;
        Ok(())
    }
}

/// The records of a state that was encoded in pieces of at most [`PART_BYTES_MAX`] bytes.
pub fn records(header: BackupHeader, pieces: Vec<Bytes>) -> impl Iterator<Item = BackupRecord> {
    let (mut bytes, mut total) = (0, 0);
    let parts: Vec<_> = pieces
        .into_iter()
        .map(|data| {
            let part = BackupPart { crc32c: crc32c(&data), data };
            total = crc32c_combine(total, part.crc32c, part.data.len() as u64);
            bytes += part.data.len() as u64;
            RecordKind::Part(part)
        })
        .collect();
    let end = RecordKind::End(BackupEnd { bytes, crc32c: total });
    let kinds = std::iter::once(RecordKind::Header(header)).chain(parts).chain([end]);
    kinds.map(|kind| BackupRecord { kind: Some(kind) })
}

/// Writes records into a file, and nothing that can't be read again.
#[derive(Debug)]
pub struct Writer<W> {
    file: W,
    inspector: Inspector,
}

impl<W: Write> Writer<W> {
    /// Begins a file.
    ///
    /// # Errors
    ///
    /// It can't be written.
    pub fn new(mut file: W) -> Result<Self, BackupError> {
        file.write_all(MARK)?;
        Ok(Self { file, inspector: Inspector::default() })
    }

    /// Writes the next record.
    ///
    /// # Errors
    ///
    /// See [`Inspector::inspect`], or the file can't be written.
    pub fn write(&mut self, record: &BackupRecord) -> Result<(), BackupError> {
        self.inspector.inspect(record)?;
        let bytes = record.encode_to_vec();
        self.file.write_all(&(bytes.len() as u32).to_le_bytes())?;
        Ok(self.file.write_all(&bytes)?)
    }

    /// The header and the file, which is whole but not yet synced.
    ///
    /// # Errors
    ///
    /// The last record has not come.
    pub fn finish(self) -> Result<(BackupHeader, W), BackupError> {
        Ok((self.inspector.finish()?, self.file))
    }
}

/// The state in a backup, and what the backup says of itself.
///
/// # Errors
///
/// It is not whole, or no backup.
pub fn read(mut file: impl BufRead) -> Result<(BackupHeader, State), BackupError> {
    let mut mark = Vec::new();
    file.by_ref().take(MARK.len() as u64).read_to_end(&mut mark)?;
    if mark != MARK {
        return Err(BackupError::Malformed("it begins otherwise"));
    }
    let (mut inspector, mut parts) = (Inspector::default(), Vec::new());
    while let Some(record) = read_record(&mut file)? {
        inspector.inspect(&record)?;
        if let Some(RecordKind::Part(part)) = record.kind {
            parts.push(part.data);
        }
    }
    let header = inspector.finish()?;
    // One piece, since a record of the state may lie in two parts.
    let state = State::decode(Bytes::from(parts.concat()))?;
    Ok((header, state))
}

/// `None` behind the last one.
fn read_record(file: &mut impl BufRead) -> Result<Option<BackupRecord>, BackupError> {
    if file.fill_buf()?.is_empty() {
        return Ok(None);
    }
    let mut length = [0; LENGTH_BYTES];
    file.read_exact(&mut length).map_err(torn)?;
    let length = u32::from_le_bytes(length) as usize;
    if length > RECORD_BYTES_MAX {
        return Err(BackupError::Malformed("a record is too long"));
    }
    let mut bytes = vec![0; length];
    file.read_exact(&mut bytes).map_err(torn)?;
    let record = BackupRecord::decode(Bytes::from(bytes));
    record.map(Some).map_err(|_| BackupError::Malformed("a record can't be read"))
}

fn torn(error: io::Error) -> BackupError {
    if error.kind() == io::ErrorKind::UnexpectedEof { BackupError::Incomplete } else { error.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> BackupHeader {
        BackupHeader {
            format: FORMAT,
            cluster_id: "a cluster".into(),
            applied_index: 7,
            ..Default::default()
        }
    }

    fn file() -> Vec<u8> {
        let pieces = State::default().encode_backup(4);
        assert!(pieces.len() > 2);
        let mut writer = Writer::new(Vec::new()).unwrap();
        records(header(), pieces).for_each(|record| writer.write(&record).unwrap());
        writer.finish().unwrap().1
    }

    #[test]
    fn what_was_written_is_read() {
        let (found, state) = read(&file()[..]).unwrap();
        assert_eq!(found, header());
        assert_eq!(state, State::default());
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_found() {
        let file = file();
        for at in 0..file.len() {
            assert!(read(&file[..at]).is_err(), "cut at {at}");
            for bit in 0..8 {
                let mut damaged = file.clone();
                damaged[at] ^= 1 << bit;
                // The header's own words have no checksum, and decide nothing.
                if let Ok((_, state)) = read(&damaged[..]) {
                    assert_eq!(state, State::default(), "bit {bit} of byte {at}");
                }
            }
        }
        let longer = [&file[..], &[0]].concat();
        assert!(read(&longer[..]).is_err());
    }

    #[test]
    fn refusals_say_what_is_wrong() {
        let check = |change: fn(&mut Vec<BackupRecord>), expect: &str| {
            let mut records: Vec<_> = records(header(), State::default().encode_backup(4)).collect();
            change(&mut records);
            let mut inspector = Inspector::default();
            let refused = records.iter().try_for_each(|record| inspector.inspect(record));
            let error = refused.and_then(|()| inspector.finish()).unwrap_err();
            assert!(error.to_string().contains(expect), "{error}");
        };
        let later = |records: &mut Vec<BackupRecord>| {
            records[0].kind = Some(RecordKind::Header(BackupHeader { format: 2, ..header() }));
        };
        check(later, "the format 2");
        check(|records| drop(records.pop()), "not complete");
        check(|records| drop(records.remove(0)), "no header");
        check(|records| drop(records.remove(1)), "not those");
        check(|records| records.swap(1, 2), "not those");
        check(|records| records[1].kind = None, "unknown kind");
        check(|records| records.push(BackupRecord::default()), "behind the last");
    }
}

//! What was synced, in the order in which it was: files of frames, each of which is written and synced at once.
//!
//! Invariant: a frame counts as a whole or not at all, and only with all that are before it. The one that is not whole is the
//! last that was written before a crash, and nothing is behind it; anything else is damage. Files go from the oldest on.

mod frame;

use std::{
    collections::VecDeque,
    fs::{self, File},
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use bytes::Bytes;

use self::frame::{Frame, HEAD_LEN, Head};
use super::{Change, Recovered, StoreError, record::damaged, sled_store::sync_directory};

/// A file that has reached this is followed by another one.
const FILE_LEN: u64 = 16 << 20;
/// A file grows by so many zeros at a time: a sync that has nothing to say of the file itself writes the frame alone.
const GROWTH: u64 = 1 << 20;
const ZEROS: &[u8] = &[0; 64 << 10];
/// Memory for frames that is kept from one to the next.
const FRAME_KEPT_MAX: usize = 1 << 20;
/// The log of an earlier program is taken over in frames of at least so many bytes.
const TAKEN_OVER_LEN: usize = 1 << 20;
/// What is written before it has its name.
const UNFINISHED: &str = "new";

/// Where the files are.
pub(super) fn directory(store: &Path) -> PathBuf {
    store.join("log")
}

/// Whether there is a journal.
pub(super) fn is_in(store: &Path) -> Result<bool, StoreError> {
    Ok(!numbers(&directory(store))?.is_empty())
}

/// Begins a journal with a log. It is there as a whole or not at all.
pub(super) fn create(store: &Path, begins: &Recovered) -> Result<(), StoreError> {
    let directory = directory(store);
    fs::create_dir_all(&directory)?;
    sync_directory(store)?;
    let head = Head { first: 1, salt: salt()? };
    let (mut bytes, mut frame, mut number) = (head.encode(), Frame::default(), head.first);
    for (at, entry) in begins.entries.iter().enumerate() {
        frame.push_entry(entry);
        if frame.len() >= TAKEN_OVER_LEN || at + 1 == begins.entries.len() {
            bytes.extend_from_slice(frame.seal(number, head.salt));
            frame.clear(FRAME_KEPT_MAX);
            number += 1;
        }
    }
    write_file(&directory, 1, &bytes)?;
    Ok(())
}

/// A file of the journal.
#[derive(Clone, Copy, Debug)]
struct Segment {
    number: u64,
    /// The highest index of an entry in it; zero without any.
    last_index: u64,
}

/// The journal of an open store.
#[derive(Debug)]
pub(super) struct Journal {
    directory: PathBuf,
    /// Files that nothing is written to any more, the oldest first.
    older: VecDeque<Segment>,
    current: Segment,
    file: File,
    salt: u64,
    /// Where the next frame begins.
    end: u64,
    /// How long the file is.
    len: u64,
    /// The next frame's number.
    next: u64,
    frame: Frame,
    /// The highest index of an entry in the frame.
    last_index: u64,
}

impl Journal {
    /// Reads all files on top of what is `kept` elsewhere, and begins a new one.
    pub(super) fn open(store: &Path, kept: &mut Recovered) -> Result<Self, StoreError> {
        let directory = directory(store);
        let numbers = numbers(&directory)?;
        let (mut older, mut next) = (VecDeque::new(), None);
        for (at, number) in numbers.iter().enumerate() {
            let expected = numbers[0] + at as u64;
            if *number != expected {
                return Err(damaged(format!("file {expected} of the journal is missing")));
            }
            let read = read_file(&path(&directory, *number), next, kept)?;
            if at + 1 == numbers.len() && read.goes_on() {
                return Err(damaged("a frame of the journal with a wrong checksum"));
            }
            next = Some(read.next);
            if read.next > read.head.first {
                older.push_back(Segment { number: *number, last_index: read.last_index });
            }
        }
        let next = next.ok_or_else(|| damaged("the journal is gone"))?;
        // One that holds nothing is replaced.
        let number = older.back().map_or(numbers[0], |segment: &Segment| segment.number + 1);
        let (file, salt) = begin(&directory, number, next)?;
        Ok(Self {
            directory,
            older,
            current: Segment { number, last_index: 0 },
            file,
            salt,
            end: HEAD_LEN as u64,
            len: HEAD_LEN as u64,
            next,
            frame: Frame::default(),
            last_index: 0,
        })
    }

    /// Adds to the next frame.
    pub(super) fn stage(&mut self, change: &Change) {
        if let Change::Append(entries) = change {
            self.last_index = entries.last().map_or(0, |entry| entry.index).max(self.last_index);
        }
        self.frame.push(change);
    }

    /// Makes the frame durable, if anything is in it.
    pub(super) fn sync(&mut self) -> Result<(), StoreError> {
        if self.frame.is_empty() {
            return Ok(());
        }
        if self.end >= FILE_LEN {
            self.roll()?;
        }
        let end = self.end + self.frame.len() as u64;
        while self.len < end {
            self.grow()?;
        }
        self.file.write_all_at(self.frame.seal(self.next, self.salt), self.end)?;
        self.file.sync_data()?;
        (self.end, self.next) = (end, self.next + 1);
        self.current.last_index = self.current.last_index.max(std::mem::take(&mut self.last_index));
        self.frame.clear(FRAME_KEPT_MAX);
        Ok(())
    }

    fn roll(&mut self) -> Result<(), StoreError> {
        let number = self.current.number + 1;
        (self.file, self.salt) = begin(&self.directory, number, self.next)?;
        self.older.push_back(std::mem::replace(&mut self.current, Segment { number, last_index: 0 }));
        (self.end, self.len) = (HEAD_LEN as u64, HEAD_LEN as u64);
        Ok(())
    }

    /// The file system has to note that a file is longer: once for many frames.
    fn grow(&mut self) -> Result<(), StoreError> {
        let until = (self.len / GROWTH + 1) * GROWTH;
        while self.len < until {
            let len = ZEROS.len().min((until - self.len) as usize);
            self.file.write_all_at(&ZEROS[..len], self.len)?;
            self.len += len as u64;
        }
        Ok(())
    }

    /// Removes the oldest files as long as they have no entries but up to this one. What else they say must be durable
    /// elsewhere.
    pub(super) fn forget(&mut self, index: u64) -> Result<(), StoreError> {
        while self.older.front().is_some_and(|oldest| oldest.last_index <= index) {
            let Some(oldest) = self.older.pop_front() else { break };
            fs::remove_file(path(&self.directory, oldest.number))?;
            // Or else a later one might be gone and this one be there.
            sync_directory(&self.directory)?;
        }
        Ok(())
    }
}

/// What was found in a file.
struct Read {
    head: Head,
    bytes: Bytes,
    /// Where the last whole frame ends.
    end: usize,
    /// The number of the frame that would follow.
    next: u64,
    last_index: u64,
}

impl Read {
    /// Whether there is a whole frame behind one that is not.
    fn goes_on(&self) -> bool {
        let behind = self.next + 1..self.next + 1 + FILE_LEN;
        frame::holds_any(&self.bytes[self.end..], behind, self.head.salt)
    }
}

fn read_file(path: &Path, first: Option<u64>, kept: &mut Recovered) -> Result<Read, StoreError> {
    let bytes = Bytes::from(fs::read(path)?);
    let head = Head::parse(&bytes)?;
    if let Some(expected) = first.filter(|first| *first != head.first) {
        return Err(damaged(format!("frame {expected} of the journal is missing or has a wrong checksum")));
    }
    let (mut end, mut next, mut last_index) = (HEAD_LEN, head.first, 0);
    while let Some(found) = frame::parse(&bytes[end..], next, head.salt) {
        for change in frame::changes(&bytes.slice_ref(found))? {
            if let Change::Append(entries) = &change {
                last_index = entries.last().map_or(0, |entry| entry.index).max(last_index);
            }
            frame::replay(kept, change)?;
        }
        end += frame::frame_len(found);
        next += 1;
    }
    Ok(Read { head, bytes, end, next, last_index })
}

/// A new file, which is there under its name with all of its head.
fn begin(directory: &Path, number: u64, first: u64) -> Result<(File, u64), StoreError> {
    let head = Head { first, salt: salt()? };
    Ok((write_file(directory, number, &head.encode())?, head.salt))
}

fn write_file(directory: &Path, number: u64, bytes: &[u8]) -> Result<File, StoreError> {
    let (unfinished, path) = (directory.join(UNFINISHED), path(directory, number));
    let file = File::options().read(true).write(true).create(true).truncate(true).open(&unfinished)?;
    file.write_all_at(bytes, 0)?;
    file.sync_all()?;
    fs::rename(&unfinished, path)?;
    sync_directory(directory)?;
    Ok(file)
}

fn salt() -> Result<u64, StoreError> {
    Ok(getrandom::u64().map_err(io::Error::other)?)
}

fn path(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("{number:016x}"))
}

/// The numbers of all files, from the lowest on.
fn numbers(directory: &Path) -> Result<Vec<u64>, StoreError> {
    if !directory.exists() {
        return Ok(Vec::new());
    }
    let mut numbers = Vec::new();
    for item in fs::read_dir(directory)? {
        numbers.extend(u64::from_str_radix(&item?.file_name().to_string_lossy(), 16).ok());
    }
    numbers.sort_unstable();
    Ok(numbers)
}

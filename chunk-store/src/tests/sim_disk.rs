//! A disk in memory that fails on request, can be held up, counts, and shows what a power loss at any moment would leave.

use std::{
    any::Any,
    collections::{BTreeMap, VecDeque},
    io,
    sync::Arc,
};

use crate::{
    medium::{
        Access, DurableWriter, Facility, IoMode, Medium, PageReader, Room, SegmentFile, Slot, WriteBuffer,
    },
    page_buffer::{PAGE_LEN, PageBuffer},
    sync::{
        Condvar, Mutex,
        atomic::{AtomicU64, Ordering},
        pause,
    },
};

/// What a disk writes whole or not at all.
const SECTOR_LEN: usize = 512;

/// The files of a directory.
pub(super) type Image = BTreeMap<Slot, Vec<u8>>;

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Fault {
    Allocate(io::ErrorKind),
    Read(io::ErrorKind),
    /// Only so many bytes get through of a longer write that begins from here on; with `usize::MAX`, all of them, and the disk
    /// fails to make them durable, also those that are being held up.
    Write(io::ErrorKind, usize),
}

/// What is told of every change before it is made: the files as they are, and the change.
pub(super) type Witness = Box<dyn FnMut(&Image, &Change) + Send>;

/// Something that happens to the files.
#[derive(Debug)]
pub(super) enum Change {
    Create(Slot),
    Cut(Slot, usize),
    Remove(Slot),
    Write(Slot, usize, Vec<u8>),
}

#[derive(Debug, Default)]
struct Gate {
    closed: bool,
    waiting: bool,
}

#[derive(Debug, Default)]
pub(super) struct SimDisk {
    me: std::sync::Weak<Self>,
    files: Mutex<Image>,
    fault: Mutex<Option<Fault>>,
    gate: Mutex<Gate>,
    moved: Condvar,
    writes: AtomicU64,
    failed_writes: AtomicU64,
    witness: Mutex<Option<Watching>>,
    /// First pages of files as the kernel shows them, though the disk has others.
    cached_heads: Mutex<BTreeMap<Slot, Vec<u8>>>,
}

struct Watching(Witness);

impl std::fmt::Debug for Watching {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Watching(..)")
    }
}

impl Change {
    /// The change as the power loss of this moment leaves it, sector by sector as `chance` says.
    pub(super) fn leave(&self, files: &mut Image, mut chance: impl FnMut() -> bool) {
        match self {
            Self::Create(slot) if chance() => {
                files.insert(*slot, Vec::new());
            }
            Self::Cut(slot, length) if chance() => {
                files.get_mut(slot).unwrap().resize(*length, 0);
            }
            Self::Remove(slot) if chance() => {
                files.remove(slot);
            }
            Self::Write(slot, position, bytes) => {
                let file = files.get_mut(slot).unwrap();
                for (number, sector) in bytes.chunks(SECTOR_LEN).enumerate() {
                    if chance() {
                        put(file, position + number * SECTOR_LEN, sector);
                    }
                }
                // A file ends with a page, whatever of it was written.
                file.resize(file.len().next_multiple_of(PAGE_LEN), 0);
            }
            _ => {}
        }
    }
}

fn put(file: &mut Vec<u8>, position: usize, bytes: &[u8]) {
    if file.len() < position + bytes.len() {
        file.resize(position + bytes.len(), 0);
    }
    file[position..position + bytes.len()].copy_from_slice(bytes);
}

impl SimDisk {
    pub(super) fn new() -> Arc<Self> {
        Self::holding(Image::new())
    }

    pub(super) fn holding(files: Image) -> Arc<Self> {
        Arc::new_cyclic(|me| Self { me: me.clone(), files: Mutex::new(files), ..Self::default() })
    }

    pub(super) fn image(&self) -> Image {
        self.files.lock().unwrap().clone()
    }

    /// Changes a file behind the store's back.
    pub(super) fn tamper(&self, slot: Slot, change: impl FnOnce(&mut Vec<u8>)) {
        change(self.files.lock().unwrap().get_mut(&slot).unwrap());
    }

    /// Has the kernel show another first page than the disk has, until it is told to forget it.
    pub(super) fn cache_head(&self, slot: Slot, page: Vec<u8>) {
        self.cached_heads.lock().unwrap().insert(slot, page);
    }

    pub(super) fn watch(&self, witness: Witness) {
        *self.witness.lock().unwrap() = Some(Watching(witness));
    }

    /// From here on that call fails.
    pub(super) fn break_by(&self, fault: Fault) {
        *self.fault.lock().unwrap() = Some(fault);
    }

    pub(super) fn heal(&self) {
        *self.fault.lock().unwrap() = None;
    }

    /// Durable writes so far.
    pub(super) fn writes(&self) -> u64 {
        self.writes.load(Ordering::SeqCst)
    }

    /// Those of them that failed.
    pub(super) fn failed_writes(&self) -> u64 {
        self.failed_writes.load(Ordering::SeqCst)
    }

    /// Holds up the next durable write.
    pub(super) fn close_gate(&self) {
        self.gate.lock().unwrap().closed = true;
    }

    /// Waits until a write is held up.
    pub(super) fn wait_at_gate(&self) {
        let gate = self.gate.lock().unwrap();
        drop(self.moved.wait_while(gate, |gate| !gate.waiting).unwrap());
    }

    pub(super) fn open_gate(&self) {
        *self.gate.lock().unwrap() = Gate::default();
        self.moved.notify_all();
    }

    fn pass_gate(&self) {
        let mut gate = self.gate.lock().unwrap();
        gate.waiting = gate.closed;
        self.moved.notify_all();
        drop(self.moved.wait_while(gate, |gate| gate.closed).unwrap());
    }

    fn fault(&self) -> Option<Fault> {
        *self.fault.lock().unwrap()
    }

    fn change(&self, change: Change) {
        let mut files = self.files.lock().unwrap();
        if let Some(Watching(witness)) = &mut *self.witness.lock().unwrap() {
            witness(&files, &change);
        }
        change.leave(&mut files, || true);
    }

    fn write(&self, slot: Slot, bytes: &[u8], position: u64) -> io::Result<()> {
        assert!(bytes.len().is_multiple_of(PAGE_LEN) && position.is_multiple_of(PAGE_LEN as u64));
        self.writes.fetch_add(1, Ordering::SeqCst);
        let early = self.fault().filter(|fault| !matches!(fault, Fault::Write(_, usize::MAX)));
        self.pass_gate();
        let late = self.fault().filter(|fault| matches!(fault, Fault::Write(_, usize::MAX)));
        let (fitting, result) = match late.or(early) {
            Some(Fault::Write(kind, usize::MAX)) => (bytes.len(), Err(kind.into())),
            Some(Fault::Write(kind, fitting)) if fitting < bytes.len() => (fitting, Err(kind.into())),
            _ => (bytes.len(), Ok(())),
        };
        self.change(Change::Write(slot, position as usize, bytes[..fitting].to_vec()));
        self.failed_writes.fetch_add(result.is_err().into(), Ordering::SeqCst);
        result
    }

    fn file(&self, slot: Slot) -> Arc<dyn SegmentFile> {
        Arc::new(SimFile { disk: self.me.upgrade().unwrap(), slot })
    }
}

impl Medium for SimDisk {
    fn slots(&self) -> io::Result<Vec<Slot>> {
        Ok(self.files.lock().unwrap().keys().copied().collect())
    }

    fn create(&self, slot: Slot) -> io::Result<Arc<dyn SegmentFile>> {
        self.change(Change::Create(slot));
        Ok(self.file(slot))
    }

    fn open(&self, slot: Slot, _: Access) -> io::Result<Arc<dyn SegmentFile>> {
        Ok(self.file(slot))
    }

    fn remove(&self, slot: Slot) -> io::Result<()> {
        self.change(Change::Remove(slot));
        Ok(())
    }

    fn room(&self) -> io::Result<Room> {
        Ok(Room { total: 1 << 40, available: 1 << 40 })
    }

    fn writer(&self, _: usize) -> Box<dyn DurableWriter> {
        Box::new(SimWriter { disk: self.me.upgrade().unwrap(), write: None })
    }

    fn reader(&self, slots: usize, _: usize) -> Box<dyn PageReader> {
        Box::new(SimReader { slots, done: VecDeque::new() })
    }

    fn about(&self) -> IoMode {
        let all = Facility::InUse;
        IoMode { direct: all.clone(), dsync: all.clone(), registered: all.clone(), ring: all }
    }
}

#[derive(Debug)]
struct SimFile {
    disk: Arc<SimDisk>,
    slot: Slot,
}

impl SegmentFile for SimFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.files.lock().unwrap()[&self.slot].len() as u64)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        if self.len()? != length {
            self.disk.change(Change::Cut(self.slot, length as usize));
        }
        Ok(())
    }

    fn allocate(&self, _: u64, _: u64) -> io::Result<()> {
        match self.disk.fault() {
            Some(Fault::Allocate(kind)) => Err(kind.into()),
            _ => Ok(()),
        }
    }

    fn read(&self, out: &mut [u8], position: u64) -> io::Result<()> {
        assert!(out.len().is_multiple_of(PAGE_LEN) && position.is_multiple_of(PAGE_LEN as u64));
        pause();
        if let Some(Fault::Read(kind)) = self.disk.fault() {
            return Err(kind.into());
        }
        let files = self.disk.files.lock().unwrap();
        let there = files[&self.slot].get(position as usize..).unwrap_or_default();
        let length = there.len().min(out.len());
        out[..length].copy_from_slice(&there[..length]);
        out[length..].fill(0);
        if position == 0
            && let Some(page) = self.disk.cached_heads.lock().unwrap().get(&self.slot)
        {
            out[..PAGE_LEN].copy_from_slice(page);
        }
        Ok(())
    }

    fn write_durably(&self, bytes: &[u8], position: u64) -> io::Result<()> {
        self.disk.write(self.slot, bytes, position)
    }

    fn forget_cached(&self) -> io::Result<()> {
        self.disk.cached_heads.lock().unwrap().remove(&self.slot);
        Ok(())
    }
}

#[derive(Debug)]
struct SimWriter {
    disk: Arc<SimDisk>,
    write: Option<(Slot, WriteBuffer, usize, u64)>,
}

impl DurableWriter for SimWriter {
    fn buffer(&mut self, length: usize) -> WriteBuffer {
        let mut pages = PageBuffer::with_len(length);
        // Nobody may count on what is in it.
        pages.fill(0xdb);
        WriteBuffer::homeless(pages)
    }

    fn begin(&mut self, file: &Arc<dyn SegmentFile>, buffer: WriteBuffer, length: usize, position: u64) {
        let file: &dyn Any = &**file;
        let slot = file.downcast_ref::<SimFile>().unwrap().slot;
        assert!(self.write.replace((slot, buffer, length, position)).is_none());
    }

    fn is_busy(&self) -> bool {
        self.write.is_some()
    }

    fn finish(&mut self) -> (io::Result<()>, WriteBuffer) {
        let (slot, buffer, length, position) = self.write.take().unwrap();
        (self.disk.write(slot, &buffer[..length], position), buffer)
    }
}

#[derive(Debug)]
struct SimReader {
    slots: usize,
    done: VecDeque<(u64, io::Result<PageBuffer>)>,
}

impl PageReader for SimReader {
    fn free(&self) -> usize {
        self.slots - self.done.len()
    }

    fn submit(&mut self, file: Arc<dyn SegmentFile>, position: u64, pages: usize, token: u64) {
        let mut buffer = PageBuffer::new(pages);
        let read = file.read(&mut buffer, position);
        self.done.push_back((token, read.map(|()| buffer)));
    }

    fn complete(&mut self, _: bool, done: &mut dyn FnMut(u64, io::Result<&[u8]>)) {
        // One at a time, which is what a slow disk does.
        let Some((token, read)) = self.done.pop_front() else { return };
        match read {
            Ok(buffer) => done(token, Ok(&buffer)),
            Err(error) => done(token, Err(error)),
        }
    }
}

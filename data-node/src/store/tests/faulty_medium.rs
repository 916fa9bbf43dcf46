//! A disk that fails on request, can be held up, and counts.

use std::{
    fs::File,
    io,
    sync::{
        Condvar, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use rustix::io::Errno;

use super::super::medium::{Disk, Medium, Room};

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Fault {
    Allocate(Errno),
    Sync(Errno),
    /// Of a call with more bytes than this, only so many are written.
    Write(Errno, usize),
}

#[derive(Debug, Default)]
struct Gate {
    closed: bool,
    waiting: bool,
}

#[derive(Debug, Default)]
pub(super) struct FaultyMedium {
    fault: Mutex<Option<Fault>>,
    gate: Mutex<Gate>,
    moved: Condvar,
    syncs: AtomicU64,
}

impl FaultyMedium {
    /// From here on that call fails.
    pub(super) fn break_by(&self, fault: Fault) {
        *self.fault.lock().unwrap() = Some(fault);
    }

    pub(super) fn heal(&self) {
        *self.fault.lock().unwrap() = None;
    }

    pub(super) fn syncs(&self) -> u64 {
        self.syncs.load(Ordering::SeqCst)
    }

    /// Holds up the next sync.
    pub(super) fn close_gate(&self) {
        self.gate.lock().unwrap().closed = true;
    }

    /// Waits until a sync is held up.
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
}

impl Medium for FaultyMedium {
    fn allocate(&self, file: &File, position: u64, length: u64) -> io::Result<()> {
        match self.fault() {
            Some(Fault::Allocate(errno)) => Err(errno.into()),
            _ => Disk.allocate(file, position, length),
        }
    }

    fn write(&self, file: &File, bytes: &[u8], position: u64) -> io::Result<()> {
        if let Some(Fault::Write(errno, fitting)) = self.fault()
            && fitting < bytes.len()
        {
            Disk.write(file, &bytes[..fitting], position)?;
            return Err(errno.into());
        }
        Disk.write(file, bytes, position)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        self.syncs.fetch_add(1, Ordering::SeqCst);
        self.pass_gate();
        match self.fault() {
            Some(Fault::Sync(errno)) => Err(errno.into()),
            _ => Disk.sync(file),
        }
    }

    fn room(&self, directory: &File) -> io::Result<Room> {
        Disk.room(directory)
    }
}

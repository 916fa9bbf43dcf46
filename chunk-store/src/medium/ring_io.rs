//! Transfers by io_uring. Whatever the kernel does not do in one go, plain calls finish: that is rare.

use std::{io, sync::Arc};

use super::{
    DurableWriter, PageReader, SegmentFile, WriteBuffer, assert_aligned,
    file::{DiskFile, is_refusal, is_to_be_repeated, whole_pages},
    latch::Latches,
    plain::PlainReader,
    ring::{Completion, Kind, Operation, Ring},
    write_buffer::Buffers,
};
use crate::page_buffer::{PAGE_LEN, PageBuffer};

/// A writer with a ring of one operation; `Err` with the reason that there can be none.
pub(super) fn writer(buffer_pages: usize, latches: &Arc<Latches>) -> io::Result<RingWriter> {
    let mut ring = Ring::new(1)?;
    let mut buffers = Buffers::allocate(buffer_pages);
    register(&mut ring, buffers.iter_mut(), latches);
    Ok(RingWriter { buffers: Buffers::of(buffers), ring, under_way: None, latches: Arc::clone(latches) })
}

/// A reader with a ring of as many operations as slots; `Err` with the reason that there can be none.
pub(super) fn reader(slots: usize, slot_pages: usize, latches: &Arc<Latches>) -> io::Result<RingReader> {
    let mut ring = Ring::new(slots)?;
    let mut free: Vec<_> = (0..slots).map(|_| PageBuffer::new(slot_pages)).collect();
    register(&mut ring, free.iter_mut(), latches);
    Ok(RingReader { ring, free, slot_pages, latches: Arc::clone(latches), fallback: None })
}

fn register<'a>(ring: &mut Ring, buffers: impl Iterator<Item = &'a mut PageBuffer>, latches: &Latches) {
    if !latches.registered.is_on() {
        return;
    }
    if let Err(error) = ring.register(buffers)
        && latches.registered.turn_off(error.to_string())
    {
        tracing::info!(%error, "buffers can't be registered; the kernel maps them for every transfer");
    }
}

/// Writes by a ring, as long as there is one and writing durably takes one call.
#[derive(Debug)]
pub(super) struct RingWriter {
    ring: Ring,
    buffers: Buffers,
    under_way: Option<Write>,
    latches: Arc<Latches>,
}

#[derive(Debug)]
enum Write {
    /// It is over: plain calls have done it, or the ring failed.
    Done(io::Result<()>, WriteBuffer),
    /// The ring has the memory of the buffer.
    InRing(WriteBuffer),
}

impl RingWriter {
    fn start(&mut self, file: Arc<DiskFile>, mut buffer: WriteBuffer, length: usize, position: u64) -> Write {
        if !(self.latches.ring.is_on() && file.writes_durably()) {
            return Write::Done(file.write_durably(&buffer[..length], position), buffer);
        }
        let kind = Kind::WriteDurably;
        self.ring.push(Operation { kind, file, buffer: buffer.take(), length, position, token: 0 });
        match self.ring.enter(false) {
            Ok(()) => Write::InRing(buffer),
            Err(error) => Write::Done(Err(give_up(&self.latches, error)), buffer),
        }
    }
}

impl DurableWriter for RingWriter {
    fn buffer(&mut self, length: usize) -> WriteBuffer {
        self.buffers.take(length)
    }

    fn begin(&mut self, file: &Arc<dyn SegmentFile>, buffer: WriteBuffer, length: usize, position: u64) {
        assert!(!self.is_busy(), "one write at a time");
        assert_aligned(&buffer[..length], position);
        let file = DiskFile::of(Arc::clone(file));
        self.under_way = Some(self.start(file, buffer, length, position));
    }

    fn is_busy(&self) -> bool {
        self.under_way.is_some()
    }

    fn finish(&mut self) -> (io::Result<()>, WriteBuffer) {
        match self.under_way.take().expect("a write is under way") {
            Write::Done(result, buffer) => (result, buffer),
            Write::InRing(mut buffer) => {
                if let Err(error) = self.ring.enter(true) {
                    return (Err(give_up(&self.latches, error)), buffer);
                }
                let Completion { operation, result } = self.ring.reap().expect("the operation has completed");
                let result = finish_write(&operation, result);
                buffer.put_back(operation.buffer);
                (result, buffer)
            }
        }
    }
}

/// Makes of the kernel's answer what the whole write has come to.
fn finish_write(operation: &Operation, result: io::Result<usize>) -> io::Result<()> {
    let done = match result {
        Ok(done) => whole_pages(done),
        // Plain calls know what to do about both.
        Err(error) if is_refusal(&error) || is_to_be_repeated(&error) => 0,
        Err(error) => return Err(error),
    };
    let rest = &operation.buffer[done..operation.length];
    if rest.is_empty() {
        return Ok(());
    }
    operation.file.write_durably(rest, operation.position + done as u64)
}

/// Reads by a ring, as long as there is one.
#[derive(Debug)]
pub(super) struct RingReader {
    ring: Ring,
    /// Memory of the slots that are free.
    free: Vec<PageBuffer>,
    slot_pages: usize,
    latches: Arc<Latches>,
    /// Takes over if the ring fails.
    fallback: Option<PlainReader>,
}

impl RingReader {
    /// Tells of all that is under way that it failed, and goes on without the ring. The ring keeps the memory.
    pub(super) fn abandon(&mut self, error: io::Error, done: &mut dyn FnMut(u64, io::Result<&[u8]>)) {
        let error = give_up(&self.latches, error);
        let tokens: Vec<_> = self.ring.tokens().collect();
        self.fallback = Some(PlainReader::new(self.free.len() + tokens.len(), self.slot_pages));
        for token in tokens {
            done(token, Err(error.kind().into()));
        }
    }
}

impl PageReader for RingReader {
    fn free(&self) -> usize {
        self.fallback.as_ref().map_or(self.free.len(), PageReader::free)
    }

    fn submit(&mut self, file: Arc<dyn SegmentFile>, position: u64, pages: usize, token: u64) {
        if let Some(fallback) = &mut self.fallback {
            return fallback.submit(file, position, pages, token);
        }
        assert!((1..=self.slot_pages).contains(&pages), "a read fits its slot");
        let buffer = self.free.pop().expect("no more reads than there are slots");
        let length = pages * PAGE_LEN;
        assert_aligned(&buffer[..length], position);
        let file = DiskFile::of(file);
        self.ring.push(Operation { kind: Kind::Read, file, buffer, length, position, token });
    }

    fn complete(&mut self, wait: bool, done: &mut dyn FnMut(u64, io::Result<&[u8]>)) {
        if let Some(fallback) = &mut self.fallback {
            return fallback.complete(wait, done);
        }
        let entered = self.ring.enter(wait);
        while let Some(Completion { mut operation, result }) = self.ring.reap() {
            let result = finish_read(&mut operation, result);
            done(operation.token, result.map(|()| &operation.buffer[..operation.length]));
            self.free.push(operation.buffer);
        }
        if let Err(error) = entered {
            self.abandon(error, done);
        }
    }
}

/// Makes of the kernel's answer what the whole read has come to.
fn finish_read(operation: &mut Operation, result: io::Result<usize>) -> io::Result<()> {
    let done = match result {
        Ok(done) => whole_pages(done),
        Err(error) if is_to_be_repeated(&error) => 0,
        Err(error) => return Err(error),
    };
    let rest = &mut operation.buffer[done..operation.length];
    if rest.is_empty() {
        return Ok(());
    }
    operation.file.read(rest, operation.position + done as u64)
}

/// A ring that fails is no ring for anybody on this medium.
pub(super) fn give_up(latches: &Latches, error: io::Error) -> io::Error {
    if latches.ring.turn_off(error.to_string()) {
        tracing::warn!(%error, "io_uring has failed; going on by plain calls");
    }
    error
}

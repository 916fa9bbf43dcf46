//! Streams that stop at given places until somebody has done something.

use std::{
    io::{self, Read, Write},
    sync::mpsc::{Receiver, Sender, channel},
};

use crate::support::PATIENCE;

/// A stream that stops.
pub(crate) struct Pausing<S> {
    stream: S,
    at: u64,
    /// Where it stops next; the last comes first.
    stops: Vec<u64>,
    stopped: Sender<u64>,
    released: Receiver<()>,
}

/// Who waits for the stops.
pub(crate) struct Watch {
    stopped: Receiver<u64>,
    release: Sender<()>,
}

/// A stream that stops right before each of these bytes.
pub(crate) fn pausing<S>(stream: S, stops: &[u64]) -> (Pausing<S>, Watch) {
    let (stopped, is_stopped) = channel();
    let (release, released) = channel();
    let stops = stops.iter().rev().copied().collect();
    (Pausing { stream, at: 0, stops, stopped, released }, Watch { stopped: is_stopped, release })
}

impl Watch {
    /// Does something while the stream stands still at its next stop; where that is.
    pub(crate) fn at_next_stop<T>(&self, what: impl FnOnce() -> T) -> T {
        self.stopped.recv_timeout(PATIENCE).expect("the stream comes there");
        let done = what();
        // The stream has ended if nobody waits there.
        let _ended = self.release.send(());
        done
    }
}

impl<S> Pausing<S> {
    /// How many of `len` bytes may pass now.
    fn pass(&mut self, len: usize) -> io::Result<usize> {
        if self.stops.last() == Some(&self.at) {
            self.stops.pop();
            let gone = |_| io::Error::other("nobody waits at the stop");
            self.stopped.send(self.at).map_err(|error| io::Error::other(error.to_string()))?;
            self.released.recv().map_err(gone)?;
        }
        let until = self.stops.last().map_or(u64::MAX, |stop| stop - self.at);
        Ok(len.min(usize::try_from(until).unwrap_or(usize::MAX)))
    }
}

impl<S: Read> Read for Pausing<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.pass(buffer.len())?;
        let read = self.stream.read(&mut buffer[..len])?;
        self.at += read as u64;
        Ok(read)
    }
}

impl<S: Write> Write for Pausing<S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let len = self.pass(bytes.len())?;
        let written = self.stream.write(&bytes[..len])?;
        self.at += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

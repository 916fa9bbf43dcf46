//! Bytes that are a function of a seed and their place, so that objects of any size can be written and compared
//! without being kept.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
};

use crate::rng::word_at;

/// `len` bytes that belong to `seed`. Reading gives them in order.
#[derive(Clone, Debug)]
pub struct Content {
    seed: u64,
    len: u64,
    at: u64,
}

impl Content {
    /// The bytes of `seed`, `len` of them.
    #[must_use]
    pub const fn new(seed: u64, len: u64) -> Self {
        Self { seed, len, at: 0 }
    }

    /// All bytes at once.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        let mut bytes = vec![0; (self.len - self.at) as usize];
        fill(self.seed, self.at, &mut bytes);
        bytes
    }

    /// How many bytes there are.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The same as [`Self::check`], for two owners: the one that writes and the one that asks for the end.
    #[must_use]
    pub fn shared_check(&self) -> SharedContentCheck {
        SharedContentCheck(Arc::new(Mutex::new(self.check())))
    }

    /// A sink that accepts exactly these bytes.
    #[must_use]
    pub const fn check(&self) -> ContentCheck {
        ContentCheck { expected: Self { seed: self.seed, len: self.len, at: 0 }, scratch: Vec::new() }
    }
}

impl io::Read for Content {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = usize::try_from(self.len - self.at).map_or(buffer.len(), |left| left.min(buffer.len()));
        fill(self.seed, self.at, &mut buffer[..n]);
        self.at += n as u64;
        Ok(n)
    }
}

/// Compares what is written to it with a [`Content`]; the first difference is an error that names its place.
#[derive(Debug)]
pub struct ContentCheck {
    expected: Content,
    scratch: Vec<u8>,
}

impl ContentCheck {
    /// Whether every byte has come.
    ///
    /// # Errors
    /// How many are missing.
    pub fn finish(&self) -> io::Result<()> {
        if self.expected.at == self.expected.len {
            return Ok(());
        }
        let message = format!("ended after {} of {} bytes", self.expected.at, self.expected.len);
        Err(io::Error::new(io::ErrorKind::UnexpectedEof, message))
    }
}

impl io::Write for ContentCheck {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Content { seed, len, at } = self.expected;
        if at + bytes.len() as u64 > len {
            return Err(io::Error::other(format!("more than the expected {len} bytes")));
        }
        self.scratch.resize(bytes.len(), 0);
        fill(seed, at, &mut self.scratch);
        if let Some(place) = self.scratch.iter().zip(bytes).position(|(a, b)| a != b) {
            return Err(io::Error::other(format!("wrong byte at {}", at + place as u64)));
        }
        self.expected.at += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A [`ContentCheck`] with two owners.
#[derive(Clone, Debug)]
pub struct SharedContentCheck(Arc<Mutex<ContentCheck>>);

impl SharedContentCheck {
    /// Whether every byte has come.
    ///
    /// # Errors
    /// How many are missing.
    pub fn finish(&self) -> io::Result<()> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).finish()
    }
}

impl io::Write for SharedContentCheck {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn fill(seed: u64, from: u64, bytes: &mut [u8]) {
    let skip = (from % 8) as usize;
    let mut index = from / 8;
    let (head, body) = bytes.split_at_mut(bytes.len().min((8 - skip) % 8));
    if !head.is_empty() {
        let word = word_at(seed, index).to_le_bytes();
        head.copy_from_slice(&word[skip..skip + head.len()]);
        index += 1;
    }
    let mut words = body.chunks_exact_mut(8);
    for slot in &mut words {
        slot.copy_from_slice(&word_at(seed, index).to_le_bytes());
        index += 1;
    }
    let tail = words.into_remainder();
    let word = word_at(seed, index).to_le_bytes();
    tail.copy_from_slice(&word[..tail.len()]);
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;

    #[test]
    fn pieces_of_any_size_make_the_same_bytes() {
        let whole = Content::new(3, 1000).to_vec();
        for step in [1, 3, 7, 8, 9, 64, 999, 1000, 4096] {
            let mut reader = Content::new(3, 1000);
            let mut got = Vec::new();
            let mut buffer = vec![0; step];
            loop {
                let n = reader.read(&mut buffer).expect("reading cannot fail");
                if n == 0 {
                    break;
                }
                got.extend_from_slice(&buffer[..n]);
            }
            assert_eq!(got, whole, "in steps of {step}");
        }
    }

    #[test]
    fn a_check_finds_wrong_missing_and_surplus_bytes() {
        let content = Content::new(9, 100);
        let bytes = content.to_vec();
        let mut check = content.check();
        check.write_all(&bytes[..33]).expect("right so far");
        assert!(check.finish().is_err());
        check.write_all(&bytes[33..]).expect("right to the end");
        check.finish().expect("complete");
        assert!(check.write_all(&[0]).is_err());

        let mut flipped = bytes;
        flipped[40] ^= 1;
        let error = content.check().write_all(&flipped).expect_err("a bit is wrong");
        assert_eq!(error.to_string(), "wrong byte at 40");
    }
}

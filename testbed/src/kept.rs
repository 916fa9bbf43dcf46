//! Objects that are put once and read all the time, whatever happens to the cluster meanwhile.
//!
//! Invariant: one that can't be read, or has other bytes, ends whoever reads it with a panic, and so the test.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
};

use crate::{Cli, Content};

/// Where these objects are; the bucket must be there.
pub const BUCKET: &str = "kept";
/// Of one of them: several chunks, if those are small.
const BYTES: u64 = 400_000;
/// Contents differ from those that clients put meanwhile.
const FIRST_SEED: u64 = 1000;

/// Objects that never change, each with its content.
#[derive(Clone, Debug)]
pub struct Kept {
    cli: Cli,
    objects: Arc<Vec<(String, Content)>>,
}

impl Kept {
    /// Puts so many.
    ///
    /// # Panics
    ///
    /// One can't be put.
    #[must_use]
    pub fn put(cli: &Cli, count: u64) -> Self {
        let object = |number| (format!("{BUCKET}/{number}"), Content::new(FIRST_SEED + number, BYTES));
        let objects: Vec<_> = (0..count).map(object).collect();
        for (address, content) in &objects {
            let put = cli.invoke(["put", "-", address]).stdin(content.clone()).run();
            assert_eq!(put.code, Some(0), "{}", put.stderr);
        }
        Self { cli: cli.clone(), objects: Arc::new(objects) }
    }

    /// What they are called: `bucket/key`.
    pub fn addresses(&self) -> impl Iterator<Item = &str> {
        self.objects.iter().map(|(address, _)| address.as_str())
    }

    /// Reads all of them.
    ///
    /// # Panics
    ///
    /// One can't be read, or has other bytes.
    pub fn check(&self) {
        self.objects.iter().for_each(|(address, content)| self.check_one(address, content));
    }

    fn check_one(&self, address: &str, content: &Content) {
        let got = self.cli.run(["cat", address]);
        assert_eq!(got.code, Some(0), "{address}: {}", got.stderr);
        assert!(got.stdout == content.to_vec(), "{address} has other bytes");
    }

    /// Has somebody read them, over and over.
    #[must_use]
    pub fn read_all_the_time(&self) -> Readers {
        let (is_over, reads) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (kept, over, count) = (self.clone(), Arc::clone(&is_over), Arc::clone(&reads));
        let thread = thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                for (address, content) in kept.objects.iter() {
                    kept.check_one(address, content);
                    count.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        Readers { is_over, reads, thread: Some(thread) }
    }
}

/// Somebody who reads what is kept, over and over, until this is dropped.
#[derive(Debug)]
pub struct Readers {
    is_over: Arc<AtomicBool>,
    reads: Arc<AtomicU64>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Readers {
    /// Ends it. Gives how many objects were read.
    ///
    /// # Panics
    ///
    /// One could not be read, or had other bytes.
    #[must_use]
    pub fn stop(mut self) -> u64 {
        self.is_over.store(true, Ordering::Relaxed);
        let ended = self.thread.take().is_none_or(|thread| thread.join().is_ok());
        assert!(ended, "what was kept could be read all the time");
        self.reads.load(Ordering::Relaxed)
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

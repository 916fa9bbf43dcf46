//! What the three threads do, done in steps on the caller's thread: for simulations.
//!
//! Invariant: it is the threads' own code, and it waits for nothing. Between two steps the clock moves, and messages do.

use std::{sync::mpsc::TryRecvError, time::Instant};

use super::{Outbox, raft_loop::Workers};
use crate::storage::LogStore;

/// Far from every small number, so that terms that follow each other have nothing in common.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// What has no time just now.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Busy {
    /// Nothing becomes durable.
    pub(crate) disk: bool,
    /// Nothing is applied.
    pub(crate) state: bool,
}

/// A server's consensus without threads.
pub(crate) struct Stepped<S, O> {
    workers: Workers<S, O>,
    next_tick: Instant,
    seed: u64,
}

impl<S: LogStore, O: Outbox> Stepped<S, O> {
    /// `seed` says, together with the term, how long it waits for a leader.
    pub(crate) fn new(mut workers: Workers<S, O>, seed: u64) -> Self {
        let next_tick = workers.raft_loop.begin();
        Self { workers, next_tick, seed }
    }

    /// Does all that there is to do now, but by whom is busy. False: consensus has ended.
    ///
    /// # Panics
    ///
    /// The store fails.
    pub(crate) fn step(&mut self, busy: Busy) -> bool {
        loop {
            let first = match self.workers.raft_loop.inputs.try_recv() {
                Ok(input) => Some(input),
                Err(TryRecvError::Empty) => None,
                Err(TryRecvError::Disconnected) => return false,
            };
            let mut has_worked = first.is_some();
            if !self.workers.raft_loop.turn(first, &mut self.next_tick) {
                return false;
            }
            self.set_timeout();
            has_worked |= !busy.disk && self.work_on_log();
            has_worked |= !busy.state && self.work_on_state();
            if !has_worked {
                return true;
            }
        }
    }

    /// raft-rs draws timeouts from a source that has no seed, so they are set anew after everything that may draw one.
    fn set_timeout(&mut self) {
        let raft = self.workers.raft_loop.core.raft();
        let (from, term) = (raft.election_timeout() as u64, raft.term);
        let drawn = fastrand::Rng::with_seed(self.seed.wrapping_add(term).wrapping_mul(SPREAD)).u64(0..from);
        raft.set_randomized_election_timeout((from + drawn) as usize);
    }

    fn work_on_log(&mut self) -> bool {
        let log = &mut self.workers.log_thread;
        let first = log.jobs.try_recv().ok();
        if first.is_none() && !log.is_storing_snapshot() {
            return false;
        }
        log.process(log.jobs_after(first)).expect("the store does not fail");
        true
    }

    fn work_on_state(&mut self) -> bool {
        let apply = &mut self.workers.apply_thread;
        let job = apply.jobs.try_recv().ok();
        let has_work = job.is_some() || apply.is_encoding();
        job.into_iter().for_each(|job| apply.process(job));
        apply.go_on_encoding();
        has_work
    }
}

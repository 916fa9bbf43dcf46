//! Locks, atomics, channels and threads of the engine: the standard library's, or those of a model in which one thread runs at a
//! time and tests decide which.
//!
//! What is shared without any of these is not looked at by the model; its atomics know no order but the sequential one.

#[cfg(not(feature = "shuttle"))]
mod real {
    #[cfg(test)]
    pub(crate) use std::sync::Condvar;
    pub(crate) use std::{
        sync::{Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard, atomic, mpsc},
        thread,
    };

    pub(crate) const fn pause() {}
}

#[cfg(feature = "shuttle")]
mod model {
    use shuttle::rand::{Rng as _, thread_rng};
    #[cfg(test)]
    pub(crate) use shuttle::sync::Condvar;
    pub(crate) use shuttle::{
        sync::{Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard, atomic},
        thread,
    };

    /// Something takes its time that the model doesn't know of. If everybody made way each time, nobody would be held up for long.
    pub(crate) fn pause() {
        if thread_rng().gen_bool(0.5) {
            thread::yield_now();
        }
    }

    pub(crate) mod mpsc {
        use std::time::Duration;

        use shuttle::sync::mpsc as model;
        pub(crate) use shuttle::sync::mpsc::{
            RecvError, RecvTimeoutError, SyncSender, TryRecvError, TrySendError,
        };

        /// As in the standard library, what was not received is dropped with it.
        #[derive(Debug)]
        pub(crate) struct Receiver<T>(model::Receiver<T>);

        pub(crate) fn sync_channel<T>(bound: usize) -> (SyncSender<T>, Receiver<T>) {
            let (sender, receiver) = model::sync_channel(bound);
            (sender, Receiver(receiver))
        }

        impl<T> Receiver<T> {
            pub(crate) fn recv(&self) -> Result<T, RecvError> {
                self.0.recv()
            }

            pub(crate) fn try_recv(&self) -> Result<T, TryRecvError> {
                self.0.try_recv()
            }

            pub(crate) fn recv_timeout(&self, timeout: Duration) -> Result<T, RecvTimeoutError> {
                self.0.recv_timeout(timeout)
            }
        }

        impl<T> Drop for Receiver<T> {
            fn drop(&mut self) {
                while !std::thread::panicking() && self.0.try_recv().is_ok() {}
            }
        }
    }
}

#[cfg(feature = "shuttle")]
pub(crate) use model::*;
#[cfg(not(feature = "shuttle"))]
pub(crate) use real::*;

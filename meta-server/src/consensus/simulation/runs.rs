//! Many runs on all processors. Each run is on one thread, and a panic ends only that run.

use std::{
    any::Any,
    cell::Cell,
    panic::{self, AssertUnwindSafe, catch_unwind},
    sync::{Mutex, Once, PoisonError},
    thread,
};

thread_local! {
    /// Panics of this thread are not printed.
    static IS_QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Runs every seed. Gives what came of each, or why it failed, in the order of the seeds.
pub(crate) fn each<T: Send>(
    seeds: impl Iterator<Item = u64> + Send,
    run: impl Fn(u64) -> T + Sync,
) -> Vec<(u64, Result<T, String>)> {
    let (seeds, ended) = (Mutex::new(seeds.enumerate()), Mutex::new(Vec::new()));
    let next = || seeds.lock().unwrap_or_else(PoisonError::into_inner).next();
    let work = || {
        while let Some((at, seed)) = next() {
            let result = catch_unwind(AssertUnwindSafe(|| run(seed))).map_err(|panic| words(&*panic));
            ended.lock().unwrap_or_else(PoisonError::into_inner).push((at, seed, result));
        }
    };
    thread::scope(|scope| {
        let threads = thread::available_parallelism().map_or(1, usize::from);
        (0..threads).for_each(|_| drop(scope.spawn(work)));
    });
    let mut ended = ended.into_inner().unwrap_or_else(PoisonError::into_inner);
    ended.sort_by_key(|(at, _, _)| *at);
    ended.into_iter().map(|(_, seed, result)| (seed, result)).collect()
}

/// Does it, and gives what it panicked with. Nothing is printed of that.
pub(crate) fn panic_of(act: impl FnOnce()) -> Option<String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !IS_QUIET.get() {
                before(info);
            }
        }));
    });
    IS_QUIET.set(true);
    let panic = catch_unwind(AssertUnwindSafe(act)).err();
    IS_QUIET.set(false);
    panic.map(|panic| words(&*panic))
}

fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without words").to_owned()
}

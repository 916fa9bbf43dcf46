//! The state, held for reading.
//!
//! Invariant: a thread holds it once. Whoever took it again while the apply thread waits to change it would wait for that
//! thread, which waits for him: nothing would ever be applied again. So taking it twice panics, also where nobody waits.

use std::{
    cell::Cell,
    ops::Deref,
    sync::{PoisonError, RwLock, RwLockReadGuard},
};

use crate::state_machine::State;

thread_local! {
    static IS_HELD: Cell<bool> = const { Cell::new(false) };
}

/// Held until it is dropped; not to be held across an await.
#[derive(Debug)]
pub struct StateGuard<'a>(RwLockReadGuard<'a, State>);

impl<'a> StateGuard<'a> {
    /// # Panics
    ///
    /// This thread holds it already.
    pub(super) fn take(state: &'a RwLock<State>) -> Self {
        assert!(!IS_HELD.get(), "a thread that holds the state takes it again");
        let guard = state.read().unwrap_or_else(PoisonError::into_inner);
        IS_HELD.set(true);
        Self(guard)
    }
}

impl Deref for StateGuard<'_> {
    type Target = State;

    fn deref(&self) -> &State {
        &self.0
    }
}

impl Drop for StateGuard<'_> {
    fn drop(&mut self) {
        IS_HELD.set(false);
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    #[test]
    fn state_is_held_by_a_thread_once_and_again_after_that() {
        let state = RwLock::new(State::default());
        let held = StateGuard::take(&state);
        assert!(catch_unwind(AssertUnwindSafe(|| StateGuard::take(&state).object_count())).is_err());
        std::thread::scope(|scope| scope.spawn(|| drop(StateGuard::take(&state))).join().unwrap());
        drop(held);
        assert_eq!(StateGuard::take(&state).object_count(), 0);
    }
}
